"""Machines on a modelled Hyper-V host, attached and detached by the scripts themselves."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bootgraft_host.hyperv import vm as vm_module
from bootgraft_host.machine import MachineError, Media
from hyperv.adapters import Nic, VirtualSwitch
from hyperv.direct import DirectRunner
from hyperv.enums import ON_OFF, PORT_MIRRORING
from hyperv.hardware import Disk, Dvd
from hyperv.machines import (
    ISO,
    LIVE,
    LOOK,
    MEDIA,
    ONE_DRIVE,
    OWN_ISO,
    PAYLOAD,
    add_appliance,
    drives,
    machine_of,
    make_host,
    watched_host,
)
from hyperv.model import SimulatedHost
from hyperv.vm import Vm


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vm_module, "READ_PAUSES", (0.0, 0.0, 0.0))


@pytest.fixture
def host(tmp_path: Path) -> Iterator[SimulatedHost]:
    yield from watched_host(tmp_path)


@pytest.fixture
def vm(host: SimulatedHost) -> Vm:
    return add_appliance(host)


def order(vm: Vm) -> list[str]:
    return [device.name for device in vm.startup_order]


def adapter_settings(vm: Vm) -> list[dict[str, Any]]:
    """The adapters without what no successor can have."""
    other = ("Id", "IsLegacy", "VmqWeight")
    adapters = vm.host.describe(vm)["NetworkAdapters"]
    return [{name: adapter[name] for name in adapter if name not in other} for adapter in adapters]


# Attach and detach.


def test_attach_prepares_a_boot_of_the_live_iso(host: SimulatedHost, vm: Vm) -> None:
    machine = machine_of(vm)
    captured = machine.capture()
    adapters = vm.host.describe(vm)["NetworkAdapters"]
    machine.attach(MEDIA)
    assert drives(vm) == {(1, 0): LIVE, (1, 1): PAYLOAD}
    assert order(vm) == ["CD", "IDE", "LegacyNetworkAdapter", "Floppy"]
    assert re.fullmatch(r"\\\\\.\\pipe\\bootgraft-[0-9a-f]{32}", str(vm.com_ports[0].path))
    assert vm.com_ports[0].path == captured["pipe"]
    assert (vm.start_action.name, vm.stop_action.name) == ("Nothing", "TurnOff")
    assert vm.host.describe(vm)["NetworkAdapters"] == adapters
    assert vm.notes.startswith("ours since 2019\r\n\r\n[bootgraft: a run by ")
    assert f'with "{LIVE}" and "{PAYLOAD}", mark {captured["token"]};' in vm.notes


def test_attach_done_twice_is_done_once(host: SimulatedHost, vm: Vm) -> None:
    runner = DirectRunner(host)
    machine = machine_of(vm, runner)
    machine.capture()
    machine.attach(MEDIA)
    attached = host.describe(vm)
    runner.calls.clear()
    machine.attach(MEDIA)
    assert host.describe(vm) == attached
    assert {script for script, _ in runner.calls} == {"describe"}


def test_detach_brings_everything_back_and_done_twice_it_is_done_once(
    host: SimulatedHost, vm: Vm
) -> None:
    before = host.describe(vm)
    runner = DirectRunner(host)
    machine = machine_of(vm, runner)
    captured = machine.capture()
    machine.attach(MEDIA)
    machine.detach(captured, keep_adapter=False)
    assert host.describe(vm) == before
    runner.calls.clear()
    machine.detach(captured, keep_adapter=False)
    assert host.describe(vm) == before
    assert {script for script, _ in runner.calls} == {"describe"}


def test_another_controller_restores_by_the_record_alone(host: SimulatedHost, vm: Vm) -> None:
    before = host.describe(vm)
    machine = machine_of(vm)
    captured = machine.capture()
    machine.attach(MEDIA)
    machine_of(vm).detach(captured, keep_adapter=False)
    assert host.describe(vm) == before


def test_a_machine_without_any_drive_gets_and_loses_both(host: SimulatedHost) -> None:
    vm = host.add_vm("bare", dvd_drives=())
    before = host.describe(vm)
    machine = machine_of(vm)
    captured = machine.capture()
    machine.attach(MEDIA)
    assert drives(vm) == {(1, 0): LIVE, (1, 1): PAYLOAD}
    machine.detach(captured, keep_adapter=False)
    assert host.describe(vm) == before
    machine.attach(LOOK)
    assert drives(vm) == {(1, 1): LIVE}
    machine.detach(captured, keep_adapter=False)
    assert host.describe(vm) == before


def test_drives_that_a_run_does_not_use_keep_their_isos(host: SimulatedHost) -> None:
    dvds = (Dvd(0, 1), Dvd(1, 0), Dvd(1, 1, OWN_ISO))
    vm = host.add_vm("many", dvd_drives=dvds)
    before = host.describe(vm)
    machine = machine_of(vm)
    captured = machine.capture()
    machine.attach(MEDIA)
    assert drives(vm) == {(0, 1): LIVE, (1, 0): PAYLOAD, (1, 1): OWN_ISO}
    machine.detach(captured, keep_adapter=False)
    assert host.describe(vm) == before


def test_one_drive_holds_one_iso_after_the_other(host: SimulatedHost) -> None:
    disks = (Disk("C:\\a.vhdx", 0, 0), Disk("C:\\b.vhdx", 0, 1), Disk("C:\\c.vhdx", 1, 1))
    vm = host.add_vm("full", hard_drives=disks, adapters=(Nic(mac="00155D0A0B0C"),))
    before = host.describe(vm)
    machine = machine_of(vm)
    captured = machine.capture()
    with pytest.raises(MachineError, match="0 of the four IDE slots are free"):
        machine.attach(MEDIA)
    machine.attach(ONE_DRIVE)
    assert drives(vm) == {(1, 0): LIVE}
    machine.start()
    machine.insert_payload(ONE_DRIVE)
    machine.insert_payload(ONE_DRIVE)
    assert drives(vm) == {(1, 0): PAYLOAD}
    machine.turn_off()
    machine.detach(captured, keep_adapter=False)
    assert host.describe(vm) == before


def test_the_payload_takes_the_place_of_the_live_iso_and_no_others(host: SimulatedHost) -> None:
    disk = Disk("C:\\disk.vhdx", 1, 1)
    dvds = (Dvd(0, 0), Dvd(0, 1, OWN_ISO), Dvd(1, 0, OWN_ISO))
    vm = host.add_vm("many", hard_drives=(disk,), dvd_drives=dvds)
    machine = machine_of(vm)
    machine.capture()
    machine.attach(ONE_DRIVE)
    assert drives(vm) == {(0, 0): LIVE, (0, 1): OWN_ISO, (1, 0): OWN_ISO}
    machine.insert_payload(ONE_DRIVE)
    assert drives(vm) == {(0, 0): PAYLOAD, (0, 1): OWN_ISO, (1, 0): OWN_ISO}


def test_a_host_of_2016_has_no_automatic_checkpoints(tmp_path: Path) -> None:
    host = make_host(tmp_path, windows="2016")
    vm = host.add_vm("appliance")
    before = host.describe(vm)
    assert before["AutomaticCheckpointsEnabled"] is None
    machine = machine_of(vm)
    assert machine.problems(MEDIA) == ()
    captured = machine.capture()
    machine.attach(MEDIA)
    assert drives(vm) == {(1, 0): LIVE, (1, 1): PAYLOAD}
    machine.detach(captured, keep_adapter=False)
    assert host.describe(vm) == before


def test_automatic_checkpoints_are_off_meanwhile(host: SimulatedHost) -> None:
    vm = host.add_vm("appliance", automatic_checkpoints=True)
    machine = machine_of(vm)
    assert "automatic checkpoints" in " ".join(machine.remarks(MEDIA))
    captured = machine.capture()
    machine.attach(LOOK)
    machine.start()
    assert vm.checkpoints == []
    machine.turn_off()
    machine.detach(captured, keep_adapter=False)
    assert vm.automatic_checkpoints is True


def test_a_machine_that_is_not_off_is_not_changed(host: SimulatedHost, vm: Vm) -> None:
    machine = machine_of(vm)
    machine.capture()
    vm.start()
    before = host.describe(vm)
    with pytest.raises(MachineError, match="cannot change appliance: it is on: shut it down"):
        machine.attach(MEDIA)
    assert host.describe(vm) == before


def test_attach_needs_what_capture_chose(vm: Vm) -> None:
    with pytest.raises(MachineError, match="only after it was captured"):
        machine_of(vm).attach(MEDIA)


def test_an_iso_that_is_gone_is_named_and_the_rest_comes_back(host: SimulatedHost, vm: Vm) -> None:
    machine = machine_of(vm)
    before = host.describe(vm)
    captured = machine.capture()
    machine.attach(MEDIA)
    found = host.files.find_file(OWN_ISO)
    assert found is not None
    found.unlink()
    expected = re.escape(
        f"left to do: insert {OWN_ISO} into the DVD drive 1:0 (an ISO that is gone"
    )
    with pytest.raises(MachineError, match=expected):
        machine.detach(captured, keep_adapter=False)
    assert vm.com_ports[0].path == ""
    assert drives(vm) == {(1, 0): LIVE}
    host.files.put(OWN_ISO, ISO)
    machine.detach(captured, keep_adapter=False)
    assert host.describe(vm) == before


def test_attach_says_what_hyper_v_says_of_an_iso_that_it_cannot_open(
    host: SimulatedHost, vm: Vm
) -> None:
    machine = machine_of(vm)
    before = host.describe(vm)
    captured = machine.capture()
    found = host.files.find_file(PAYLOAD)
    assert found is not None
    found.unlink()
    with pytest.raises(MachineError, match=r"Attachment 'D:\\iso\\ic.iso' not found.*left to do"):
        machine.attach(MEDIA)
    machine.detach(captured, keep_adapter=False)
    assert host.describe(vm) == before


# Adapters.


def test_adapters_become_legacy_ones_when_the_guest_is_grafted(host: SimulatedHost) -> None:
    nics = (
        Nic(mac="00155D0A0B0C", vlan=7),
        Nic(switch=None),
        Nic("DMZ", switch="Backup", mac="00155D0A0B0D", settings={"storm_limit": 100}),
        Nic("PXE", legacy=True),
    )
    vm = host.add_vm("appliance", adapters=nics)
    for name in vm.adapters[0].security:
        vm.adapters[0].security[name] = ON_OFF.value("On")
    vm.adapters[2].port_mirroring = PORT_MIRRORING.value("Source")
    vm.adapters[2].cluster_monitored = False
    vm.adapters[2].dynamic_ip_address_limit = 4
    vm.adapters[2].mac, vm.adapters[2].dynamic_mac = "00155D0A0B0D", True
    before, settings = host.describe(vm), adapter_settings(vm)
    machine = machine_of(vm)
    captured = machine.capture()
    machine.attach(MEDIA)
    machine.detach(captured, keep_adapter=True)

    assert all(adapter.legacy for adapter in vm.adapters)
    assert len(vm.adapters) == 4
    settings[2]["DynamicMacAddressEnabled"] = False  # as only a static address can be kept
    found = adapter_settings(vm)
    assert sorted(map(str, found)) == sorted(map(str, settings))
    after = host.describe(vm)
    assert {**after, "NetworkAdapters": before["NetworkAdapters"]} == before
    ids = [adapter["Id"] for adapter in before["NetworkAdapters"]]
    assert ids[3] in [adapter["Id"] for adapter in after["NetworkAdapters"]]

    machine.detach(captured, keep_adapter=True)
    assert host.describe(vm) == after


@pytest.mark.parametrize(
    "vlan",
    [
        {"mode": "Trunk", "native": 1, "allowed": (2, 3, 4, 9)},
        {"mode": "Private", "private": "Isolated", "primary": 10, "secondary": 20},
        {"mode": "Private", "private": "Community", "primary": 10, "secondary": 20},
        {"mode": "Private", "private": "Promiscuous", "primary": 10, "secondaries": (20, 21)},
    ],
)
def test_every_kind_of_vlan_goes_with_the_adapter(
    host: SimulatedHost, vlan: dict[str, Any]
) -> None:
    from hyperv.vlan import Vlan  # noqa: PLC0415

    vm = host.add_vm("appliance", adapters=(Nic(settings={"vlan": Vlan(**vlan)}),))
    machine = machine_of(vm)
    (before,) = host.describe(vm)["NetworkAdapters"]
    captured = machine.capture()
    machine.attach(MEDIA)
    machine.detach(captured, keep_adapter=True)
    (after,) = host.describe(vm)["NetworkAdapters"]
    assert after["IsLegacy"] is True
    assert after["Vlan"] == before["Vlan"]


@pytest.mark.parametrize("name", ["LAN [1]", "[", "*", "`LAN`", 'Bob\'s "LAN"', "$(LAN)", "LÄN 网"])
def test_an_adapter_keeps_a_switch_whatever_its_name(host: SimulatedHost, name: str) -> None:
    host.switches.append(VirtualSwitch(name))
    vm = host.add_vm("appliance", adapters=(Nic(switch=name),))
    machine = machine_of(vm)
    captured = machine.capture()
    machine.detach(captured, keep_adapter=False)
    machine.attach(MEDIA)
    machine.detach(captured, keep_adapter=True)
    (adapter,) = vm.adapters
    assert adapter.legacy
    assert adapter.switch is not None
    assert adapter.switch.name == name


def test_a_switch_that_is_gone_is_named(host: SimulatedHost) -> None:
    host.switches.append(gone := VirtualSwitch("gone"))
    vm = host.add_vm("appliance", adapters=(Nic(switch="gone"),))
    machine = machine_of(vm)
    captured = machine.capture()
    machine.attach(MEDIA)
    host.switches.remove(gone)
    expected = r"left to do: connect the network adapter \S+ to the virtual switch gone, the only"
    with pytest.raises(MachineError, match=expected):
        machine.detach(captured, keep_adapter=True)
    host.switches.append(gone)
    machine.detach(captured, keep_adapter=True)
    assert [adapter.switch for adapter in vm.adapters] == [gone]


# Media.


def test_what_preflight_says_of_isos(host: SimulatedHost, vm: Vm, tmp_path: Path) -> None:
    machine = machine_of(vm)
    host.files.put("D:\\iso\\text.iso", b"text")
    bad = Media(Path("D:\\iso\\text.iso"), Path("D:\\iso\\missing.iso"))
    live, payload = machine.problems(bad)
    assert "the live ISO: D:\\iso\\text.iso on hv1.example.com is no ISO" in live
    assert "the payload ISO: D:\\iso\\missing.iso is not a file on hv1.example.com" in payload
    assert machine.problems(Media(Path("d:/ISO/live.iso"), Path(PAYLOAD))) == ()


def test_uploaded_isos_come_and_go(host: SimulatedHost, vm: Vm, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    local = [tmp_path / "here" / name for name in ("live.iso", "ic.iso")]
    for number, path in enumerate(local):
        path.write_bytes(ISO + bytes([number]))
    before = host.describe(vm)
    machine = machine_of(vm)
    media = Media(local[0], local[1], upload=True)
    assert machine.problems(media) == ()
    captured = machine.capture()
    there = machine.prepare_media(media, lambda _: None)
    machine.attach(there)
    assert all(str(path).startswith("C:\\ProgramData\\bootgraft") for path in drives(vm).values())
    assert host.files.find_file(str(there.live_iso)) is not None
    machine.start()
    machine.turn_off()
    machine_of(vm).detach(captured, keep_adapter=False)
    assert host.describe(vm) == before
    assert host.files.find_file(str(there.live_iso)) is None
    assert host.files.find_file(str(there.payload_iso)) is None


def test_an_upload_that_somebody_changed_is_not_booted(
    host: SimulatedHost, vm: Vm, tmp_path: Path
) -> None:
    path = tmp_path / "live.iso"
    path.write_bytes(ISO)
    machine = machine_of(vm)
    machine.capture()
    there = machine.prepare_media(Media(path, None, upload=True), lambda _: None)
    machine.attach(there)
    host.files.put(str(there.live_iso), ISO + b"changed")
    with pytest.raises(MachineError, match="is not what was uploaded"):
        machine.start()
    assert vm.state == "Off"


def test_without_upload_media_stay_as_they_are(vm: Vm) -> None:
    assert machine_of(vm).prepare_media(MEDIA, lambda _: None) is MEDIA


# Media that somebody has put in by hand.


def test_media_put_in_by_hand_are_taken_out_and_the_disk_boots_first(
    host: SimulatedHost, vm: Vm
) -> None:
    machine = machine_of(vm)
    machine.capture()
    machine.attach(MEDIA)
    vm.notes = ""  # as if no run had been here
    said = machine_of(vm).take_media_out()
    assert drives(vm) == {(1, 0): None, (1, 1): None}
    assert order(vm) == ["IDE", "LegacyNetworkAdapter", "Floppy", "CD"]
    assert len(said) == 3
    assert machine_of(vm).take_media_out() == ()


def test_media_of_a_run_are_left_to_it(host: SimulatedHost, vm: Vm) -> None:
    machine = machine_of(vm)
    machine.capture()
    machine.attach(MEDIA)
    with pytest.raises(MachineError, match="a run by"):
        machine_of(vm).take_media_out()
    assert drives(vm) == {(1, 0): LIVE, (1, 1): PAYLOAD}
