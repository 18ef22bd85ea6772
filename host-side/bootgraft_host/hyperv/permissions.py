"""Who may do what with a folder on a Windows host: security descriptors as SDDL text; pure.

    O:BAG:SYD:PAI(A;OICI;FA;;;BA)(A;OICI;0x1200a9;;;S-1-5-83-1-...)
    |     |   |   +-- type; flags; rights; two fields for objects; whom it is about
    |     |   +-- P: nothing is inherited from above
    +-- owner, group

Source: [MS-DTYP] 2.5.1, Security Descriptor Description Language.
"""

import re
import struct
import uuid
from collections.abc import Iterable
from dataclasses import dataclass

from bootgraft_host.hyperv.runner import HostError

ADMINISTRATORS = "S-1-5-32-544"
SYSTEM = "S-1-5-18"
TRUSTED_INSTALLER = "S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464"
TRUSTED = frozenset({ADMINISTRATORS, SYSTEM, TRUSTED_INSTALLER})

FULL_CONTROL = 0x1F01FF
READ_AND_EXECUTE = 0x1200A9
# Delete a child, change the permissions, take ownership; and the generic right that holds these.
REPLACING_CHILDREN = 0x40 | 0x40000 | 0x80000 | 0x10000000
DELETE = 0x10000  # also to rename
# Besides, add a file, add a folder, and write attributes, which is enough to make an empty folder a
# junction; and the generic right that holds these.
WRITING = REPLACING_CHILDREN | DELETE | 0x2 | 0x4 | 0x100 | 0x40000000

# The names of those that matter here; any other stays the two letters that it is.
_SIDS = {"BA": ADMINISTRATORS, "SY": SYSTEM}
_BITS = {"CC": 0, "DC": 1, "LC": 2, "SW": 3, "RP": 4, "WP": 5, "DT": 6, "LO": 7, "CR": 8}
_STANDARD_BITS = {"SD": 16, "RC": 17, "WD": 18, "WO": 19, "GA": 28, "GX": 29, "GW": 30, "GR": 31}
_FILE_RIGHTS = {"FA": FULL_CONTROL, "FR": 0x120089, "FW": 0x120116, "FX": 0x1200A0}
_RIGHTS = {name: 1 << bit for name, bit in (_BITS | _STANDARD_BITS).items()} | _FILE_RIGHTS
_SID = r"S-1-[0-9-]+|[A-Z]{2}"
_DESCRIPTOR = re.compile(
    rf"(?:O:(?P<owner>{_SID}))?(?:G:(?:{_SID}))?D:(?P<flags>[A-Z]*)(?P<entries>(?:\([^()]*\))*)"
    r"(?:S:.*)?"
)


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """One line of an access control list."""

    kind: str  # "A" allows
    flags: frozenset[str]  # "OI" and "CI": also files and folders in it; "ID": inherited
    rights: int
    sid: str


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Whose a folder is, and who may do what with it."""

    owner: str
    protected: bool  # nothing is inherited
    entries: frozenset[Entry]


def machine_sid(vm_id: str) -> str:
    """Give the SID of the account that a virtual machine runs as, from its Id.

    The Id's bytes, as Windows lays out a GUID, are four numbers. Example: an event of
    Microsoft-Windows-Hyper-V-Worker-Admin of the machine D9E0EB0A-5B37-508E-9173-67E9ADE83ACF
    came from S-1-5-83-1-3655396106-1351506743-3915871121-3476744365.
    """
    numbers = struct.unpack("<4I", uuid.UUID(vm_id).bytes_le)
    return "-".join(["S-1-5-83-1", *map(str, numbers)])


def folder_sddl(readers: Iterable[str]) -> str:
    """Give the descriptor of a folder of ours: administrators, the system, and who may read."""
    entries = [f"(A;OICI;FA;;;{name})" for name in ("BA", "SY")]
    entries += [f"(A;OICI;{READ_AND_EXECUTE:#x};;;{sid})" for sid in readers]
    return f"O:BAD:P{''.join(entries)}"


def parse_sddl(text: str) -> Descriptor:
    """Parse a descriptor. Raises HostError for what is not understood, as conditional entries."""
    match = _DESCRIPTOR.fullmatch(text)
    if match is None:
        raise HostError(f"these permissions are not understood: {text[:300]!r}")
    return Descriptor(
        owner=_parse_sid(match["owner"] or ""),
        protected="P" in match["flags"],
        entries=frozenset(_parse_entry(entry) for entry in re.findall(r"[^()]+", match["entries"])),
    )


def find_difference(found: Descriptor, readers: Iterable[str]) -> str | None:
    """Say how a folder's descriptor differs from the one of `folder_sddl`; None: it does not."""
    wanted = parse_sddl(folder_sddl(readers))
    if found.owner not in (ADMINISTRATORS, SYSTEM):
        return f"it belongs to {found.owner or 'nobody'}, not to administrators"
    if not found.protected:
        return "it inherits permissions from the folder above"
    if missing := wanted.entries - found.entries:
        return f"it lacks what it was given: {_describe(missing)}"
    if extra := found.entries - wanted.entries:
        return f"it also has {_describe(extra)}"
    return None


def find_writers(found: Descriptor, rights: int = WRITING) -> tuple[str, ...]:
    """Say who besides administrators and the system owns a folder or has one of these rights."""
    writers = {
        entry.sid
        for entry in found.entries
        if entry.kind != "D" and "IO" not in entry.flags and entry.rights & rights
    }
    return tuple(sorted((writers | {found.owner}) - TRUSTED))


def _parse_entry(text: str) -> Entry:
    fields = text.split(";")
    if len(fields) != 6:
        raise HostError(f"this entry of a folder's permissions is not understood: {text[:300]!r}")
    kind, flags, rights, _, _, sid = fields
    return Entry(kind, frozenset(_pairs(flags)), _parse_rights(rights), _parse_sid(sid))


def _parse_rights(text: str) -> int:
    try:
        if text.startswith("0x"):
            return int(text, 16)
        number = 0
        for name in _pairs(text):
            number |= _RIGHTS[name]
    except (KeyError, ValueError) as error:
        raise HostError(f"these rights to a folder are not understood: {text[:80]!r}") from error
    return number


def _parse_sid(text: str) -> str:
    return _SIDS.get(text, text)


def _pairs(text: str) -> list[str]:
    return [text[at : at + 2] for at in range(0, len(text), 2)]


def _describe(entries: Iterable[Entry]) -> str:
    ordered = sorted(entries, key=lambda entry: (entry.sid, entry.rights))
    return ", ".join(
        f"{entry.sid} {'' if entry.kind == 'A' else entry.kind + ' '}{entry.rights:#x}"
        f" ({' '.join(sorted(entry.flags)) or 'this folder alone'})"
        for entry in ordered
    )
