"""What a run wants of a machine's hardware, and how it comes back, from any state on the way."""

import json
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from bootgraft_host.hyperv.changes import (
    Changes,
    Hardware,
    Ours,
    hardware_of,
    plan_changes,
    wanted_after,
    wanted_for_live,
    wanted_for_watch,
)
from bootgraft_host.hyperv.description import (
    NO_ADDRESS,
    ComPort,
    DvdDrive,
    HardDrive,
    NetworkAdapter,
    Slot,
    VmDescription,
)
from bootgraft_host.machine import MachineError
from hyperv.change_effects import apply_changes, list_states, names_and_settings
from hyperv.descriptions import (
    LIVE,
    OWN_ISO,
    PAYLOAD,
    PIPE,
    adapter,
    adapter_id,
    bios,
    describe_vm,
    disk,
    dvd,
    machines,
)

BOTH = (LIVE, PAYLOAD)
OURS = Ours(PIPE, frozenset(BOTH))
WATCHING = Ours(PIPE, frozenset())
MARK_REMOVED = Ours(PIPE, None)
MAX_ROUNDS = 3  # in which changes are made

any_machine = settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])


def drives(description: VmDescription) -> dict[str, str]:
    return {str(drive.slot): drive.path for drive in description.dvd_drives}


def attach(captured: VmDescription, isos: tuple[str, ...] = BOTH) -> VmDescription:
    return apply_changes(captured, plan_changes(captured, wanted_for_live(captured, isos, PIPE)))


def detach(
    captured: VmDescription,
    current: VmDescription,
    ours: Ours | None = OURS,
    *,
    keep_adapter: bool = False,
) -> VmDescription:
    """Look, plan and change until nothing is left to do."""
    for _ in range(MAX_ROUNDS):
        changes = plan(captured, current, ours, keep_adapter=keep_adapter)
        current = apply_changes(current, changes)
    assert not plan(captured, current, ours, keep_adapter=keep_adapter)
    return current


def plan(
    captured: VmDescription,
    current: VmDescription,
    ours: Ours | None = OURS,
    *,
    keep_adapter: bool = False,
) -> Changes:
    return plan_changes(current, wanted_after(captured, current, ours, keep_adapter=keep_adapter))


def can_attach(captured: VmDescription, isos: tuple[str, ...]) -> bool:
    try:
        wanted_for_live(captured, isos, PIPE)
    except MachineError:
        return False
    return True


isos = st.sampled_from((BOTH, (LIVE,)))


# Attach.


@pytest.mark.parametrize(
    ("dvds", "disks", "expected"),
    [
        ([dvd(1, 0)], [disk(0, 0)], {"1:0": LIVE, "1:1": PAYLOAD}),
        ([dvd(1, 0, OWN_ISO)], [disk(0, 0), disk(1, 1)], {"0:1": LIVE, "1:0": PAYLOAD}),
        ([dvd(1, 1)], [disk(0, 0)], {"1:0": LIVE, "1:1": PAYLOAD}),
        ([dvd(0, 1)], [disk(0, 0)], {"0:1": LIVE, "1:1": PAYLOAD}),
        ([], [disk(0, 0)], {"1:0": LIVE, "1:1": PAYLOAD}),
        ([], [disk(0, 0), disk(0, 1)], {"1:0": LIVE, "1:1": PAYLOAD}),
        ([dvd(0, 1), dvd(1, 0)], [disk(0, 0)], {"0:1": LIVE, "1:0": PAYLOAD}),
        (
            [dvd(0, 1), dvd(1, 0), dvd(1, 1, OWN_ISO)],
            [disk(0, 0)],
            {"0:1": LIVE, "1:0": PAYLOAD, "1:1": OWN_ISO},
        ),
        ([dvd(1, 0)], [disk(0, 0, "SCSI"), disk(0, 1, "SCSI")], {"1:0": LIVE, "1:1": PAYLOAD}),
    ],
)
def test_the_live_iso_is_in_the_lowest_drive_and_the_payload_in_the_next(
    dvds: list[DvdDrive], disks: list[HardDrive], expected: dict[str, str]
) -> None:
    captured = describe_vm(dvd_drives=tuple(dvds), hard_drives=tuple(disks))
    assert drives(attach(captured)) == expected


def test_one_iso_needs_one_drive() -> None:
    assert drives(attach(describe_vm(), (LIVE,))) == {"1:0": LIVE}
    assert drives(attach(describe_vm(dvd_drives=()), (LIVE,))) == {"1:1": LIVE}


def test_a_machine_without_a_free_slot_has_no_place_for_a_second_drive() -> None:
    full = describe_vm(hard_drives=(disk(0, 0), disk(0, 1), disk(1, 1)))
    with pytest.raises(MachineError, match="1 more must be added for 2 ISOs, but 0 of the four"):
        wanted_for_live(full, BOTH, PIPE)
    assert drives(attach(full, (LIVE,))) == {"1:0": LIVE}


def test_attach_boots_from_cd_and_keeps_the_host_from_interfering() -> None:
    attached = attach(describe_vm(automatic_checkpoints_enabled=True))
    assert attached.startup_order == ("CD", "IDE", "LegacyNetworkAdapter", "Floppy")
    assert attached.com1.path == PIPE
    assert attached.automatic_start_action == "Nothing"
    assert attached.automatic_stop_action == "TurnOff"
    assert attached.automatic_checkpoints_enabled is False


def test_a_host_without_automatic_checkpoints_is_not_asked_to_switch_them_off() -> None:
    captured = describe_vm(automatic_checkpoints_enabled=None)
    changes = plan_changes(captured, wanted_for_live(captured, BOTH, PIPE))
    assert changes.to_request(captured.id)["AutomaticCheckpoints"] == []


@any_machine
@given(machines(), isos)
def test_attach_done_twice_is_done_once_and_finishes_what_was_cut_short(
    captured: VmDescription, isos: tuple[str, ...]
) -> None:
    assume(can_attach(captured, isos))
    attached = attach(captured, isos)
    for state in list_states(
        captured, plan_changes(captured, wanted_for_live(captured, isos, PIPE))
    ):
        assert attach(state, isos) == attached
    assert not plan_changes(attached, wanted_for_live(attached, isos, PIPE))
    assert attached.network_adapters == captured.network_adapters


@any_machine
@given(machines(), isos)
def test_nothing_is_left_to_do_exactly_when_what_is_wanted_holds(
    captured: VmDescription, isos: tuple[str, ...]
) -> None:
    assume(can_attach(captured, isos))
    wanted = wanted_for_live(captured, isos, PIPE)
    for state in list_states(captured, plan_changes(captured, wanted)):
        assert bool(plan_changes(state, wanted)) == (hardware_of(state) != with_case(wanted, state))


def with_case(wanted: Hardware, state: VmDescription) -> Hardware:
    """What is wanted, with the machine's spelling of the same paths."""
    found = hardware_of(state).dvd_drives
    same = {
        slot: found[slot] if found.get(slot, "").lower() == path.lower() and slot in found else path
        for slot, path in wanted.dvd_drives.items()
    }
    return replace(wanted, dvd_drives=same)


def test_a_request_is_plain_json_in_which_every_list_is_there() -> None:
    captured = describe_vm()
    changes = plan_changes(captured, wanted_for_live(captured, BOTH, PIPE))
    request = json.loads(json.dumps(changes.to_request(captured.id)))
    second = {"ControllerNumber": 1, "ControllerLocation": 1}
    assert request == {
        "Id": captured.id,
        "EjectFrom": [],
        "RemoveDvdDrives": [],
        "AddDvdDrives": [second],
        "Insert": [
            {"ControllerNumber": 1, "ControllerLocation": 0, "Path": LIVE},
            {**second, "Path": PAYLOAD},
        ],
        "Bios": [{"StartupOrder": ["CD", "IDE", "LegacyNetworkAdapter", "Floppy"]}],
        "ComPorts": [{"Number": 1, "Path": PIPE}],
        "AddAdapters": [],
        "RemoveAdapters": [],
        "SetAdapters": [],
        "AutomaticActions": [{"Start": "Nothing", "Stop": "TurnOff"}],
        "AutomaticCheckpoints": [],
    }
    assert changes.describe() == (
        "add a DVD drive at 1:1",
        rf"insert {LIVE} into the DVD drive 1:0",
        rf"insert {PAYLOAD} into the DVD drive 1:1",
        "set the startup order to CD, IDE, LegacyNetworkAdapter, Floppy",
        f"lead COM1 to {PIPE}",
        "set the automatic start action to Nothing, the stop action to TurnOff",
    )


# Detach.


@any_machine
@given(machines(), isos)
def test_a_machine_comes_back_as_captured_from_every_state_on_the_way(
    captured: VmDescription, isos: tuple[str, ...]
) -> None:
    assume(can_attach(captured, isos))
    ours = Ours(PIPE, frozenset(isos))
    there = list_states(captured, plan_changes(captured, wanted_for_live(captured, isos, PIPE)))
    back = list_states(there[-1], plan(captured, there[-1], ours))
    for state in (*there, *back):
        assert detach(captured, state, ours) == captured


@any_machine
@given(machines(), isos)
def test_a_machine_whose_mark_somebody_removed_comes_back_too(
    captured: VmDescription, isos: tuple[str, ...]
) -> None:
    assume(can_attach(captured, isos))
    assert detach(captured, attach(captured, isos), MARK_REMOVED) == captured


@any_machine
@given(machines(), st.booleans())
def test_a_watched_machine_comes_back_as_captured(captured: VmDescription, lend: bool) -> None:
    wanted = wanted_for_watch(captured, PIPE if lend else None)
    for state in list_states(captured, plan_changes(captured, wanted)):
        assert detach(captured, state, WATCHING, keep_adapter=True) == captured


def test_a_drive_that_the_live_system_ejected_gets_its_iso_back() -> None:
    captured = describe_vm(dvd_drives=(dvd(1, 0, OWN_ISO),))
    ejected = replace(attach(captured), dvd_drives=(dvd(1, 0), dvd(1, 1)))
    assert detach(captured, ejected) == captured


def test_the_payload_in_the_place_of_the_live_iso_is_ours() -> None:
    captured = describe_vm(dvd_drives=(dvd(1, 0, OWN_ISO),))
    exchanged = replace(attach(captured, (LIVE,)), dvd_drives=(dvd(1, 0, PAYLOAD),))
    assert detach(captured, exchanged) == captured


# What somebody else has changed meanwhile.

THEIRS = r"E:\theirs.iso"


@pytest.mark.parametrize(
    ("before", "meanwhile", "after"),
    [
        # An ISO instead of ours stays, and so does an added drive that it is in.
        ([dvd(1, 0, OWN_ISO)], [dvd(1, 0, THEIRS), dvd(1, 1, PAYLOAD)], {"1:0": THEIRS}),
        (
            [dvd(1, 0, OWN_ISO)],
            [dvd(1, 0, LIVE), dvd(1, 1, THEIRS)],
            {"1:0": OWN_ISO, "1:1": THEIRS},
        ),
        # A drive that somebody added stays; our ISO does not stay in it.
        (
            [dvd(1, 0)],
            [dvd(0, 1, THEIRS), dvd(1, 0, LIVE), dvd(1, 1, PAYLOAD)],
            {"0:1": THEIRS, "1:0": ""},
        ),
        (
            [dvd(1, 0)],
            [dvd(0, 1), dvd(1, 0, LIVE), dvd(1, 1, PAYLOAD)],
            {"0:1": "", "1:0": ""},
        ),
        (
            [dvd(1, 0)],
            [dvd(0, 1, PAYLOAD), dvd(1, 0, LIVE), dvd(1, 1)],
            {"0:1": "", "1:0": ""},
        ),
        # A drive that somebody removed stays gone.
        ([dvd(1, 0, OWN_ISO)], [dvd(1, 1, PAYLOAD)], {}),
        # What the run does not use is nobody's business.
        (
            [dvd(0, 1), dvd(1, 0), dvd(1, 1, OWN_ISO)],
            [dvd(0, 1, LIVE), dvd(1, 0, PAYLOAD), dvd(1, 1)],
            {"0:1": "", "1:0": "", "1:1": ""},
        ),
    ],
)
def test_drives_and_isos_of_others_stay(
    before: list[DvdDrive], meanwhile: list[DvdDrive], after: dict[str, str]
) -> None:
    captured = describe_vm(dvd_drives=tuple(before))
    changed = replace(attach(captured), dvd_drives=tuple(meanwhile))
    restored = detach(captured, changed)
    assert drives(restored) == after
    assert replace(restored, dvd_drives=captured.dvd_drives) == captured


def test_a_com1_that_leads_elsewhere_stays() -> None:
    captured = describe_vm()
    theirs = (ComPort(1, r"\\.\pipe\theirs", "Off"),)
    restored = detach(captured, replace(attach(captured), com_ports=theirs))
    assert restored.com_ports == theirs


def test_a_startup_order_other_than_ours_stays() -> None:
    captured = describe_vm()
    theirs = (bios("Floppy", "CD", "IDE", "LegacyNetworkAdapter"),)
    restored = detach(captured, replace(attach(captured), bios=theirs))
    assert restored.bios == theirs


def test_automatic_actions_and_checkpoints_of_others_stay() -> None:
    captured = describe_vm()
    changed = replace(
        attach(captured),
        automatic_start_action="Start",
        automatic_stop_action="ShutDown",
        automatic_checkpoints_enabled=True,
    )
    restored = detach(captured, changed)
    assert restored.automatic_start_action == "Start"
    assert restored.automatic_stop_action == "ShutDown"
    assert restored.automatic_checkpoints_enabled is True


@any_machine
@given(machines(), machines())
def test_without_anything_of_ours_everything_stays(
    captured: VmDescription, current: VmDescription
) -> None:
    assert not plan(captured, current, None, keep_adapter=True)


@any_machine
@given(machines())
def test_the_machine_as_captured_is_left_alone(captured: VmDescription) -> None:
    assert not plan(captured, captured, None)
    assert not plan(captured, captured, WATCHING, keep_adapter=True) or captured.com1.path == PIPE


# Adapters.


def successor_of(old: NetworkAdapter) -> NetworkAdapter:
    has_address = old.mac_address != "000000000000"
    expected = replace(
        names_and_settings(old),
        dynamic_mac_address_enabled=not has_address,
        allow_teaming=old.allow_teaming or "Off",
        cluster_monitored=old.cluster_monitored is not False,
        dynamic_ip_address_limit=old.dynamic_ip_address_limit or 0,
        storm_limit=old.storm_limit or 0,
    )
    return expected if old.is_legacy is False else old


def sort(adapters: Iterable[NetworkAdapter]) -> list[str]:
    return sorted(repr(each) for each in adapters)


@any_machine
@given(machines(), isos)
def test_each_adapter_has_a_legacy_successor_from_every_state_on_the_way(
    captured: VmDescription, isos: tuple[str, ...]
) -> None:
    assume(can_attach(captured, isos))
    legacy = [each for each in captured.network_adapters if each.is_legacy]
    expected = [successor_of(each) for each in captured.network_adapters if not each.is_legacy]
    state = attach(captured, isos)
    for _ in range(MAX_ROUNDS):
        states = list_states(state, plan(captured, state, keep_adapter=True))
        for cut_short in states:
            grafted = detach(captured, cut_short, keep_adapter=True)
            found = grafted.network_adapters
            assert [each for each in found if each in legacy] == legacy
            added = [names_and_settings(each) for each in found if each not in legacy]
            assert all(each.is_legacy for each in found)
            assert sort(added) == sort(expected)
            assert replace(grafted, network_adapters=captured.network_adapters) == captured
        state = states[-1]


def test_an_adapter_without_an_address_takes_no_successor_that_has_anothers() -> None:
    captured = describe_vm(
        network_adapters=(
            adapter("A", id=adapter_id(1), mac_address="00155D010203", dhcp_guard="On"),
            adapter("A", id=adapter_id(2), mac_address=NO_ADDRESS, switch_name="", dhcp_guard="On"),
        )
    )
    expected = [successor_of(each) for each in captured.network_adapters]
    state = attach(captured)
    for _ in range(2):
        states = list_states(state, plan(captured, state, keep_adapter=True))
        for cut_short in states:
            found = detach(captured, cut_short, keep_adapter=True).network_adapters
            assert sort(names_and_settings(each) for each in found) == sort(expected)
        state = states[-1]


def test_an_adapter_is_removed_only_after_its_successor_was_added() -> None:
    captured = describe_vm(network_adapters=(adapter("LAN", mac_address="00155D010203"),))
    changes = plan(captured, attach(captured), keep_adapter=True)
    counts = [len(each.network_adapters) for each in list_states(attach(captured), changes)]
    assert min(counts) == 1
    assert max(counts) == 2


def test_an_adapter_that_somebody_removed_gets_no_successor() -> None:
    captured = describe_vm(
        network_adapters=(adapter("A", id=adapter_id(1)), adapter("B", id=adapter_id(2)))
    )
    current = replace(attach(captured), network_adapters=captured.network_adapters[:1])
    grafted = detach(captured, current, keep_adapter=True)
    assert [each.name for each in grafted.network_adapters] == ["A"]


def test_adapters_are_somebody_elses_once_the_media_are_out() -> None:
    captured = describe_vm()
    grafted = detach(captured, attach(captured), keep_adapter=True)
    (successor,) = grafted.network_adapters
    theirs = replace(successor, switch_name="DMZ")
    changed = replace(grafted, network_adapters=(theirs,))
    restored = detach(captured, changed, WATCHING, keep_adapter=True)
    assert restored.network_adapters == (theirs,)


def test_slots_are_named_by_channel_and_unit() -> None:
    assert str(Slot(1, 0)) == "1:0"
