"""What others do to a machine in the midst of a run, and how it is told from what is ours."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bootgraft_host.hyperv import vm as vm_module
from bootgraft_host.hyperv.apply import HeldError
from bootgraft_host.machine import Media
from hyperv.enums import START_ACTION, STOP_ACTION
from hyperv.machines import (
    ISO,
    LIVE,
    MEDIA,
    OWN_ISO,
    PAYLOAD,
    CutRunner,
    add_appliance,
    drives,
    machine_of,
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


# What others do meanwhile.


def test_notes_that_a_person_edits_stay_but_for_our_line(host: SimulatedHost, vm: Vm) -> None:
    machine = machine_of(vm)
    captured = machine.capture()
    machine.attach(MEDIA)
    vm.notes = "call 4711 first\r\n" + vm.notes + "\r\nand then 4712"
    machine.detach(captured, keep_adapter=False)
    assert vm.notes == "call 4711 first\r\nours since 2019\r\n\r\nand then 4712"


def test_a_mark_that_a_person_removes_stops_attach_and_not_detach(
    host: SimulatedHost, vm: Vm
) -> None:
    before = host.describe(vm)
    machine = machine_of(vm)
    captured = machine.capture()

    def remove_mark(name: str) -> None:
        if name == "Hyper-V\\Set-VMBios done":
            vm.notes = "ours since 2019\r\n"

    host.fault = remove_mark
    with pytest.raises(HeldError, match="somebody has removed the mark of this run"):
        machine.attach(MEDIA)
    host.fault = lambda _: None
    attached = host.describe(vm)
    assert attached != before
    machine_of(vm).detach(captured, keep_adapter=False)  # knows by the pipe
    assert host.describe(vm) == before


def test_a_controller_knows_what_is_its_own_without_any_mark(host: SimulatedHost, vm: Vm) -> None:
    before = host.describe(vm)
    machine = machine_of(vm)
    captured = machine.capture()
    machine.attach(MEDIA)
    vm.notes = "ours since 2019\r\n"
    vm.com_ports[0].path = ""
    machine_of(vm).detach(captured, keep_adapter=False)
    assert drives(vm) == {(1, 0): LIVE, (1, 1): PAYLOAD}  # to anybody else it looks restored
    machine.detach(captured, keep_adapter=False)
    assert host.describe(vm) == before


def test_an_upload_that_is_in_a_drive_is_not_removed_as_the_machine_would_not_start(
    host: SimulatedHost, vm: Vm, tmp_path: Path
) -> None:
    path = tmp_path / "live.iso"
    path.write_bytes(ISO)
    machine = machine_of(vm)
    captured = machine.capture()
    there = machine.prepare_media(Media(path, None, upload=True), lambda _: None)
    machine.attach(there)
    vm.notes = "ours since 2019\r\n"
    vm.com_ports[0].path = ""
    machine_of(vm).detach(captured, keep_adapter=False)  # to anybody else it looks restored
    assert drives(vm) == {(1, 0): str(there.live_iso)}
    vm.start()
    vm.turn_off()
    machine.detach(captured, keep_adapter=False)
    assert drives(vm) == {(1, 0): OWN_ISO}
    assert host.files.find_file(str(there.live_iso)) is None


def test_what_another_sets_while_a_machine_is_attached_stays(host: SimulatedHost, vm: Vm) -> None:
    machine = machine_of(vm)
    captured = machine.capture()
    machine.attach(MEDIA)
    theirs = "\\\\.\\pipe\\theirs"
    vm.com_ports[0].path = theirs
    vm.start_action = START_ACTION.value("Start")
    vm.stop_action = STOP_ACTION.value("ShutDown")
    vm.add_dvd_drive(0, 1, LIVE)
    vm.set_medium(vm.dvd_drives[1], OWN_ISO)
    machine_of(vm).detach(captured, keep_adapter=False)
    assert vm.com_ports[0].path == theirs
    assert (vm.start_action.name, vm.stop_action.name) == ("Start", "ShutDown")
    assert drives(vm) == {(0, 1): None, (1, 0): OWN_ISO}
    assert vm.notes == "ours since 2019\r\n"


def test_two_controllers_race_for_a_machine_and_one_steps_back(host: SimulatedHost, vm: Vm) -> None:
    before = host.describe(vm)
    first, second = machine_of(vm), machine_of(vm)
    first_captured, second_captured = first.capture(), second.capture()
    first.attach(MEDIA)
    held = host.describe(vm)
    with pytest.raises(HeldError, match=r"a run by \S+ holds appliance since .*ic.iso"):
        second.attach(MEDIA)
    second.detach(second_captured, keep_adapter=False)
    assert host.describe(vm) == held
    first.start()
    with pytest.raises(HeldError, match="the power is not cut, as a run by"):
        second.turn_off()
    assert first.state() == "running"
    first.turn_off()
    first.detach(first_captured, keep_adapter=False)
    assert host.describe(vm) == before


def test_who_steps_back_leaves_the_uploads_of_the_other(
    host: SimulatedHost, vm: Vm, tmp_path: Path
) -> None:
    path = tmp_path / "live.iso"
    path.write_bytes(ISO)
    media = Media(path, None, upload=True)
    first, second = machine_of(vm), machine_of(vm)
    first_captured, second_captured = first.capture(), second.capture()
    there = first.prepare_media(media, lambda _: None)
    second.prepare_media(media, lambda _: None)
    first.attach(there)
    with pytest.raises(HeldError):
        second.attach(there)
    second.detach(second_captured, keep_adapter=False)
    machine_of(vm).detach(second_captured, keep_adapter=False)  # nor does who recovers it
    first.start()
    first.turn_off()
    first.detach(first_captured, keep_adapter=False)
    assert host.files.find_file(str(there.live_iso)) is None


def test_a_mark_set_between_our_look_and_our_own_is_found(host: SimulatedHost, vm: Vm) -> None:
    first, second = machine_of(vm), machine_of(vm, runner := CutRunner(host))
    first.capture()
    second_captured = second.capture()

    def race(script: str) -> bool:
        if script == "mark":
            runner.cut = lambda _: False
            first.attach(MEDIA)
        return False

    runner.cut = race
    with pytest.raises(HeldError, match="holds appliance since"):
        second.attach(MEDIA)
    held = host.describe(vm)
    assert drives(vm) == {(1, 0): LIVE, (1, 1): PAYLOAD}
    second.detach(second_captured, keep_adapter=False)
    assert host.describe(vm) == held


def test_a_mark_of_another_computers_run_is_a_problem_that_says_who(vm: Vm) -> None:
    vm.notes = (
        "[bootgraft: a run by other-pc holds this machine since 2026-11-23T08:45Z, with"
        f' "{LIVE}", mark {"ab" * 16}; "bootgraft recover" there restores it]'
    )
    (problem,) = machine_of(vm).problems(MEDIA)
    assert "a run by other-pc holds appliance since 2026-11-23T08:45Z" in problem
    assert "`bootgraft recover` on other-pc restores the machine" in problem
    assert f"if the records there are lost, take that run's ISOs (here {LIVE})" in problem
    with pytest.raises(HeldError):
        machine_of(vm).capture()


def test_another_run_is_not_disturbed_by_a_recovery_that_has_nothing_left(
    host: SimulatedHost, vm: Vm
) -> None:
    machine = machine_of(vm)
    captured = machine.capture()
    machine.attach(MEDIA)
    machine.detach(captured, keep_adapter=False)
    other = machine_of(vm)
    other.capture()
    other.attach(MEDIA)
    held = host.describe(vm)
    machine_of(vm).detach(captured, keep_adapter=False)
    assert host.describe(vm) == held


def test_a_recovery_that_has_something_left_waits_for_the_other_run(
    host: SimulatedHost, vm: Vm
) -> None:
    machine = machine_of(vm)
    captured = machine.capture()
    machine.attach(MEDIA)
    ours = captured["token"]
    vm.notes = vm.notes.replace(str(ours), "cd" * 16).replace("a run by ", "a run by other-")
    held = host.describe(vm)
    with pytest.raises(HeldError, match="a run by other-"):
        machine_of(vm).detach(captured, keep_adapter=False)
    assert host.describe(vm) == held


# Confirm.


def test_a_watched_boot_has_a_lent_com1_and_the_host_lets_it_be(
    host: SimulatedHost, vm: Vm
) -> None:
    before = host.describe(vm)
    machine = machine_of(vm)
    assert not machine.has_com1()
    assert machine.lends_com1()
    captured = machine.capture()
    machine.prepare_confirm(com1=True)
    assert vm.com_ports[0].path == captured["pipe"]
    assert not machine.has_com1()
    assert (vm.start_action.name, vm.stop_action.name) == ("Nothing", "TurnOff")
    assert drives(vm) == {(1, 0): OWN_ISO}
    machine_of(vm).detach(captured, keep_adapter=True)
    assert host.describe(vm) == before


def test_a_com1_of_the_guests_own_stays_while_it_is_watched(host: SimulatedHost, vm: Vm) -> None:
    vm.com_ports[0].path = "\\\\.\\pipe\\own"
    machine = machine_of(vm)
    assert machine.has_com1()
    machine.capture()
    machine.prepare_confirm(com1=False)
    assert vm.com_ports[0].path == "\\\\.\\pipe\\own"


def test_what_a_person_sets_while_a_grafted_machine_is_watched_stays(
    host: SimulatedHost, vm: Vm
) -> None:
    machine = machine_of(vm)
    captured = machine.capture()
    machine.attach(MEDIA)
    machine.detach(captured, keep_adapter=True)
    machine.prepare_confirm(com1=False)
    (adapter,) = vm.adapters
    adapter.switch = next(each for each in host.switches if each.name == "Backup")
    vm.set_medium(vm.dvd_drives[0], None)
    machine_of(vm).detach(captured, keep_adapter=True)
    assert adapter.switch is not None
    assert adapter.switch.name == "Backup"
    assert drives(vm) == {(1, 0): None}
    assert vm.notes == "ours since 2019\r\n"
    assert vm.start_action.name == "StartIfRunning"
