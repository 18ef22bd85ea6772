"""Security descriptors of folders, as text."""

import pytest

from bootgraft_host.hyperv.permissions import (
    ADMINISTRATORS,
    SYSTEM,
    Entry,
    find_difference,
    find_writers,
    folder_sddl,
    machine_sid,
    parse_sddl,
)
from bootgraft_host.hyperv.runner import HostError

# From an event of Microsoft-Windows-Hyper-V-Worker-Admin (number 18590) that was made public: the
# machine's Id and the user that the event came from.
VM_ID = "D9E0EB0A-5B37-508E-9173-67E9ADE83ACF"
VM_SID = "S-1-5-83-1-3655396106-1351506743-3915871121-3476744365"

OURS = f"O:BAG:SYD:PAI(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICI;0x1200a9;;;{VM_SID})"
PROGRAM_DATA = (
    "O:SYG:SYD:AI(A;OICIID;FA;;;SY)(A;OICIID;FA;;;BA)(A;OICIIOID;GA;;;CO)"
    "(A;OICIID;0x1200a9;;;BU)(A;CIID;DCLCRPCR;;;BU)"
)


def test_a_machines_account_follows_from_its_id() -> None:
    assert machine_sid(VM_ID) == VM_SID
    assert machine_sid(VM_ID.lower()) == VM_SID


def test_a_folder_of_ours_is_recognised_as_windows_writes_it() -> None:
    assert find_difference(parse_sddl(OURS), [VM_SID]) is None
    assert find_difference(parse_sddl(folder_sddl([VM_SID])), [VM_SID]) is None
    assert find_writers(parse_sddl(OURS)) == ()


def test_rights_are_the_same_in_letters_and_in_numbers() -> None:
    letters = parse_sddl("O:BAD:P(A;OICI;FRFX;;;BA)")
    numbers = parse_sddl("O:BAD:P(A;OICI;0x1200a9;;;S-1-5-32-544)")
    assert letters == numbers
    assert letters.entries == {Entry("A", frozenset({"OI", "CI"}), 0x1200A9, ADMINISTRATORS)}


def test_auditing_entries_and_a_missing_owner_are_read() -> None:
    descriptor = parse_sddl("D:PAI(A;;FA;;;SY)S:AI(AU;SAFA;FA;;;WD)")
    assert descriptor.owner == ""
    assert [entry.sid for entry in descriptor.entries] == [SYSTEM]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (OURS.replace("O:BA", "O:S-1-5-21-1-2-3-1001"), "belongs to S-1-5-21-1-2-3-1001"),
        (OURS.replace("O:BA", ""), "belongs to nobody"),
        (OURS.replace("PAI", "AI"), "inherits"),
        (OURS.replace("(A;OICI;FA;;;SY)", ""), "lacks what it was given: S-1-5-18"),
        (OURS.replace(VM_SID, "S-1-5-83-1-1-2-3-4"), f"lacks what it was given: {VM_SID}"),
        (OURS + "(A;OICI;0x1200a9;;;BU)", "also has BU 0x1200a9"),
        (OURS + "(A;;FA;;;WD)", "also has WD 0x1f01ff (this folder alone)"),
        (OURS + "(D;OICI;FA;;;BA)", "also has S-1-5-32-544 D 0x1f01ff"),
        (OURS.replace("(A;OICI;FA;;;SY)", "(A;CI;FA;;;SY)"), "lacks what it was given: S-1-5-18"),
    ],
)
def test_a_folder_that_is_not_ours_is_told_apart_in_words(found: str, words: str) -> None:
    assert words in str(find_difference(parse_sddl(found), [VM_SID]))


def test_whoever_can_replace_a_folder_is_a_writer() -> None:
    assert find_writers(parse_sddl(PROGRAM_DATA)) == ("BU",)
    assert find_writers(parse_sddl("O:BAD:P(A;OICI;0x1200a9;;;BU)(A;;FA;;;BA)")) == ()
    assert find_writers(parse_sddl("O:BAD:P(A;;GW;;;WD)")) == ("WD",)
    assert find_writers(parse_sddl("O:BAD:P(A;;SD;;;AU)")) == ("AU",)
    assert find_writers(parse_sddl("O:BAD:P(D;;FA;;;AU)")) == ()


def test_who_writes_attributes_can_make_an_empty_folder_a_junction() -> None:
    assert find_writers(parse_sddl("O:BAD:P(A;;0x100;;;BU)")) == ("BU",)


def test_an_owner_can_always_give_himself_rights() -> None:
    assert find_writers(parse_sddl("O:S-1-5-21-1-2-3-1001D:P(A;;FA;;;BA)")) == (
        "S-1-5-21-1-2-3-1001",
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "O:BAG:SY",
        "O:BAD:NO_ACCESS_CONTROL",
        'O:BAD:P(XA;;FA;;;BA;(@User.Title=="x"))',
        "O:BAD:P(A;;FA;;BA)",
        "O:BAD:P(A;;QQ;;;BA)",
        "O:BAD:P(A;;0xzz;;;BA)",
        "O:BAD:P(A;;FA;;;BA",
    ],
)
def test_what_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(HostError):
        parse_sddl(text)
