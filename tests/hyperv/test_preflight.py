"""What preflight says: each problem with what to do, and what is only worth knowing."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bootgraft_host.hyperv.description import Bandwidth, Checkpoint, ComPort
from bootgraft_host.hyperv.marks import Mark
from bootgraft_host.hyperv.preflight import (
    Facts,
    find_local_problem,
    find_path_problem,
    find_problems,
    find_remarks,
)
from bootgraft_host.machine import Media
from hyperv.descriptions import (
    LIVE,
    OWN_ISO,
    PAYLOAD,
    PIPE,
    TOKEN,
    UNTAGGED,
    VM_ID,
    adapter,
    adapter_id,
    bios,
    describe_vm,
    disk,
    dvd,
)
from hyperv.machines import ISO

MEDIA = Media(Path(LIVE), Path(PAYLOAD))
LOOK = Media(Path(LIVE), None)
ONE_DRIVE = Media(Path(LIVE), Path(PAYLOAD), one_drive=True)
FULL: dict[str, Any] = {"hard_drives": (disk(0, 0), disk(0, 1), disk(1, 1))}


def problems(media: Media = MEDIA, facts: Facts | None = None, **fields: Any) -> list[str]:
    return list(find_problems(describe_vm(**fields), media, facts or Facts()))


def remarks(media: Media = MEDIA, facts: Facts | None = None, **fields: Any) -> list[str]:
    quiet = {"network_adapters": (adapter(dynamic_mac_address_enabled=False),)}
    return list(find_remarks(describe_vm(**(quiet | fields)), media, facts or Facts()))


def test_a_machine_as_it_comes_is_ready() -> None:
    assert problems() == []
    assert remarks() == []


# The state.


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("Running", "appliance is on: shut it down first"),
        ("Paused", "appliance is paused: resume it (Resume-VM), and shut it down"),
        ("Saved", "appliance is off, but with its memory saved, as in a hibernation: start it"),
        ("FastSaved", "appliance is off, but with its memory saved: start it and shut it down"),
        ("Hibernated", "appliance is hibernated: start it and shut it down"),
        ("Starting", "appliance is just starting: shut it down first"),
        ("Stopping", "appliance is just stopping: wait until that is over"),
        ("Saving", "appliance is just being saved: start it again then, and shut it down"),
        ("OffCritical", "in a critical state, OffCritical (Cannot reach storage), as when"),
        ("RunningCritical", "in a critical state, RunningCritical (Cannot reach storage)"),
        ("ComponentServicing", "appliance is in the state ComponentServicing: have it off first"),
    ],
)
def test_a_machine_that_is_not_off_is_refused_in_words(state: str, message: str) -> None:
    (problem,) = problems(state=state, status="Cannot reach storage")
    assert message in problem


def test_generation_2_is_refused_with_the_reason() -> None:
    (problem,) = problems(generation=2, bios=(), dvd_drives=(dvd(0, 1, "", "SCSI"),))
    assert "of generation 2, whose firmware is UEFI: GRUB legacy cannot boot there" in problem


# Drives.


def test_no_slot_for_a_second_drive_calls_for_one_drive() -> None:
    (problem,) = problems(**FULL)
    assert "1 DVD drives and 0 of its four IDE slots free" in problem
    assert "use --one-drive" in problem
    assert problems(ONE_DRIVE, **FULL) == []
    assert problems(LOOK, **FULL) == []


def test_one_free_slot_and_no_drive_call_for_one_drive() -> None:
    (problem,) = problems(dvd_drives=(), **FULL)
    assert "0 DVD drives and 1 of its four IDE slots free" in problem
    assert problems(ONE_DRIVE, dvd_drives=(), **FULL) == []


def test_four_disks_leave_no_place_for_any_drive() -> None:
    disks = tuple(disk(*slot) for slot in ((0, 0), (0, 1), (1, 0), (1, 1)))
    for media in (MEDIA, ONE_DRIVE, LOOK):
        (problem,) = problems(media, dvd_drives=(), hard_drives=disks)
        assert "give it a DVD drive in the place of a disk" in problem


def test_disks_on_scsi_take_no_ide_slot_but_cannot_be_booted_from() -> None:
    disks = tuple(disk(0, number, "SCSI") for number in range(4))
    assert problems(hard_drives=disks) == []
    (remark,) = remarks(hard_drives=disks)
    assert "on SCSI controllers alone, from which a generation 1 machine cannot boot" in remark
    assert remarks(hard_drives=(disk(0, 0), *disks)) == []


def test_a_machine_without_a_disk_has_no_guest() -> None:
    (problem,) = problems(hard_drives=())
    assert problem == "appliance has no hard drive: there is no guest to graft"


def test_an_own_iso_that_would_be_booted_before_the_disks_is_worth_knowing() -> None:
    dvds = (dvd(1, 0, OWN_ISO),)
    cd_first = (bios("CD", "IDE", "LegacyNetworkAdapter", "Floppy"),)
    (remark,) = remarks(dvd_drives=dvds, bios=cd_first)
    assert f"tries its DVD drives before its disks, and has {OWN_ISO} in them" in remark
    assert remarks(dvd_drives=dvds) == []
    assert remarks(bios=cd_first) == []


# COM1.


def test_a_com1_in_use_is_named_with_the_command_that_clears_it() -> None:
    (problem,) = problems(com_ports=(ComPort(1, r"\\.\pipe\theirs", "Off"),))
    assert r"COM1 of appliance leads to \\.\pipe\theirs already" in problem
    assert f"`Get-VM -Id {VM_ID} | Set-VMComPort -Number 1 -Path $null` disconnects it" in problem


def test_a_com1_in_debugger_mode_is_refused() -> None:
    (problem,) = problems(com_ports=(ComPort(1, "", "On"),))
    assert "COM1 of appliance is in debugger mode" in problem
    assert "Set-VMComPort -Number 1 -DebuggerMode Off` ends that" in problem


def test_a_com1_that_an_earlier_run_has_left_is_free_and_worth_knowing() -> None:
    ports = (ComPort(1, PIPE.upper(), ""),)
    assert problems(com_ports=ports) == []
    (remark,) = remarks(com_ports=ports)
    assert "which an earlier run has left" in remark


# The mark, the cluster.


def test_a_mark_says_who_since_when_and_what_to_do() -> None:
    mark = Mark(TOKEN, "other-pc", "2026-11-22T08:45Z", (LIVE, PAYLOAD))
    (problem,) = problems(notes=f"theirs\r\n{mark.line}")
    assert "a run by other-pc holds appliance since 2026-11-22T08:45Z" in problem
    assert "`bootgraft recover` on other-pc restores the machine" in problem
    assert f"ISOs (here {LIVE}, {PAYLOAD}) and its DVD drive out by hand" in problem


def test_a_machine_of_a_cluster_is_refused() -> None:
    (problem,) = problems(is_clustered=True)
    assert "belongs to a failover cluster" in problem
    assert f"`Remove-ClusterGroup -VMId {VM_ID} -RemoveResources`" in problem


# Adapters.


def test_more_adapters_than_there_can_be_legacy_ones_are_refused_for_a_graft_alone() -> None:
    adapters = tuple(adapter(id=adapter_id(number)) for number in range(5))
    (problem,) = problems(network_adapters=adapters)
    assert "has 5 network adapters, and a machine can have no more than 4 legacy ones" in problem
    assert problems(LOOK, network_adapters=adapters) == []
    assert problems(network_adapters=adapters[:4]) == []


def test_a_vlan_that_is_not_known_is_refused() -> None:
    odd = replace(UNTAGGED, operation_mode="Private", private_vlan_mode="New")
    (problem,) = problems(network_adapters=(adapter(vlan=(odd,)),))
    assert "has an unknown kind of VLAN" in problem


@pytest.mark.parametrize(
    ("fields", "loss"),
    [
        ({"bandwidth": (Bandwidth(100_000_000, 0, 0),)}, "bandwidth management"),
        ({"bandwidth": (Bandwidth(0, 0, 5),)}, "bandwidth management"),
        ({"iov_weight": 100}, "SR-IOV"),
        ({"device_naming": "On"}, "device naming"),
        ({"acls": ("ACL", "ACL")}, "2 port ACLs"),
        ({"extended_acls": ("ACL",)}, "1 extended port ACLs"),
        ({"routing_domains": ("domain",)}, "1 routing domains"),
        ({"isolation_mode": "NativeVirtualSubnet"}, "isolation mode NativeVirtualSubnet"),
        ({"virtual_subnet_id": 5001}, "virtual subnet 5001"),
        ({"pool_name": "Gold"}, "resource pool Gold"),
        ({"test_replica_pool_name": "Test"}, "test replica pool Test"),
        ({"test_replica_switch_name": "Test"}, "test replica switch Test"),
    ],
)
def test_a_feature_that_a_legacy_adapter_does_not_get_is_named(
    fields: dict[str, Any], loss: str
) -> None:
    given = adapter(dynamic_mac_address_enabled=False, **fields)
    (remark,) = remarks(network_adapters=(given,))
    assert remark == (
        f"the network adapter Network Adapter of appliance becomes a legacy one without its {loss}"
    )
    assert remarks(LOOK, network_adapters=(given,)) == []
    legacy = adapter(is_legacy=True, dynamic_mac_address_enabled=False, **fields)
    assert remarks(network_adapters=(legacy,)) == []


def test_what_every_adapter_has_is_no_loss() -> None:
    bandwidth = (Bandwidth(0, 0, 0),)
    usual = adapter(dynamic_mac_address_enabled=False, bandwidth=bandwidth, pool_name="Primordial")
    assert remarks(network_adapters=(usual,)) == []


def test_a_dynamic_address_becomes_a_static_one() -> None:
    (remark,) = remarks(network_adapters=(adapter(),))
    assert "keeps its dynamic MAC address 00155D010203 as a static one" in remark


def test_an_address_that_is_given_by_the_runs_first_start_is_worth_knowing() -> None:
    new = adapter(mac_address="000000000000")
    for media in (MEDIA, LOOK):
        (remark,) = remarks(media, network_adapters=(new,))
        assert "has no MAC address yet: the host gives it one at its first start" in remark


# The rest.


def test_checkpoints_replication_and_automatic_checkpoints_are_worth_knowing() -> None:
    (remark,) = remarks(checkpoints=(Checkpoint("1", "before", "Standard"),))
    assert "has checkpoints (before): they do not hold the graft" in remark
    (remark,) = remarks(replication_state="Replicating")
    assert "is replicated (Replicating)" in remark
    (remark,) = remarks(automatic_checkpoints_enabled=True)
    assert remark == "automatic checkpoints of appliance are switched off meanwhile"


def test_namesakes_are_worth_knowing() -> None:
    (remark,) = remarks(facts=Facts(namesakes=("1234",)))
    assert remark == f"appliance has namesakes on its host (1234); this run is about {VM_ID}"


def test_what_the_host_says_of_the_isos_is_passed_on() -> None:
    assert problems(facts=Facts(iso_problems=("the live ISO: gone",))) == ["the live ISO: gone"]


def test_one_iso_cannot_be_both() -> None:
    (problem,) = problems(Media(Path(LIVE), Path(LIVE.upper())))
    assert "are the same file" in problem


def test_all_problems_are_told_at_once() -> None:
    found = problems(
        state="Saved", is_clustered=True, com_ports=(ComPort(1, "x", "On"),), hard_drives=()
    )
    assert len(found) == 5


# Paths.


@pytest.mark.parametrize(
    "path",
    [
        r"D:\iso\live.iso",
        "d:/iso/live.ISO",
        r"C:\ClusterStorage\Volume1\a b (1).iso",
        r"D:\ü.iso",
        r"D:\a.b\~c.iso",
    ],
)
def test_a_path_on_the_host_can_be_an_isos(path: str) -> None:
    assert find_path_problem(path) is None


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (r"\\server\share\live.iso", "is not on the host itself"),
        ("//server/share/live.iso", "is not on the host itself"),
        (r"\\?\D:\live.iso", "is not on the host itself"),
        ("/srv/iso/live.iso", "is no whole path of a file on the host"),
        ("live.iso", "is no whole path"),
        (r"D:live.iso", "is no whole path"),
        ("D:\\", "is no whole path"),
        (r'D:\a"b.iso', "is no whole path"),
        (r"D:\a.iso:stream.iso", "is no whole path"),
        ("D:\\a\nb.iso", "is no whole path"),
        (r"D:\iso\live.img", "does not end in .iso"),
        (r"C:\Users\ADMINI~1\Temp\live.iso", "give the long name in its place"),
        ("C:/PROGRA~2/live.iso", "give the long name in its place"),
        (r"D:\iso.\live.iso", "ends with a dot or a space"),
        (r"D:\my iso \live.iso", "ends with a dot or a space"),
    ],
)
def test_any_other_path_is_refused_with_the_reason(path: str, message: str) -> None:
    assert message in (find_path_problem(path) or "")


def test_a_file_that_is_to_be_uploaded_must_be_an_iso(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.iso", tmp_path / "bad.iso"
    good.write_bytes(ISO)
    bad.write_bytes(b"short")
    assert find_local_problem(good) is None
    assert "is no ISO" in (find_local_problem(bad) or "")
    assert "cannot be read" in (find_local_problem(tmp_path / "missing.iso") or "")
