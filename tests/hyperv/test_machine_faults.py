"""Attach, detach and the rest cut short anywhere: the machine comes back, nothing is done twice."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bootgraft_host.hyperv import vm as vm_module
from bootgraft_host.hyperv.apply import MAX_CUTS
from bootgraft_host.hyperv.runner import ScriptError, UnreachableError
from bootgraft_host.machine import Configuration, MachineError
from hyperv.adapters import Nic
from hyperv.machines import (
    MEDIA,
    ONE_DRIVE,
    CutRunner,
    add_appliance,
    machine_of,
    watched_host,
)
from hyperv.model import SimulatedHost
from hyperv.model_object import operation_failed
from hyperv.vm import Vm

Work = Callable[[Vm], Configuration]


class Killed(BaseException):
    """The controller ends here."""


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vm_module, "READ_PAUSES", (0.0, 0.0, 0.0))


@pytest.fixture
def host(tmp_path: Path) -> Iterator[SimulatedHost]:
    yield from watched_host(tmp_path)


def add_vm(host: SimulatedHost) -> Vm:
    nics = (Nic(mac="00155D0A0B0C", vlan=7), Nic(mac="00155D0A0B0D"))
    return add_appliance(host, adapters=nics, automatic_checkpoints=True, notes="keep")


@pytest.fixture
def vm(host: SimulatedHost) -> Vm:
    return add_vm(host)


def without_adapters(description: dict[str, Any]) -> dict[str, Any]:
    return {**description, "NetworkAdapters": []}


def settings(description: dict[str, Any]) -> list[dict[str, Any]]:
    """The adapters without what no successor can have."""
    other = {"Id", "IsLegacy", "VmqWeight"}
    return [
        {name: value for name, value in adapter.items() if name not in other}
        for adapter in description["NetworkAdapters"]
    ]


def fail_at(number: int, error: Exception | Killed) -> Callable[[str], None]:
    """Raise at that moment, before or after a cmdlet that changes something, once."""
    moments = iter(range(1, 1 << 30))

    def fault(name: str) -> None:
        if changes_something(name) and next(moments) == number:
            raise error

    return fault


def changes_something(name: str) -> bool:
    return name.startswith("Hyper-V\\") and not name.startswith("Hyper-V\\Get-")


def count_moments(host: SimulatedHost, work: Callable[[], object]) -> int:
    names: list[str] = []
    host.fault = names.append
    work()
    host.fault = lambda _: None
    return sum(map(changes_something, names))


@pytest.mark.parametrize("keep_adapter", [False, True])
@pytest.mark.parametrize("error", [operation_failed("The disk is full."), Killed()])
def test_a_fault_at_each_cmdlet_that_changes_something_is_recovered(
    host: SimulatedHost, error: Exception | Killed, keep_adapter: bool
) -> None:
    probe = add_vm(host)
    machine = machine_of(probe)
    captured = machine.capture()
    attaching = count_moments(host, lambda: machine.attach(MEDIA))
    detaching = count_moments(host, lambda: machine.detach(captured, keep_adapter=keep_adapter))
    host.remove_vm(probe)

    for number in range(1, attaching + detaching + 1):
        vm = add_vm(host)
        before = host.describe(vm)
        machine = machine_of(vm)
        captured = machine.capture()
        host.fault = fail_at(number, error)
        with contextlib.suppress(MachineError, Killed):
            machine.attach(MEDIA)
            machine.detach(captured, keep_adapter=keep_adapter)
        host.fault = lambda _: None
        machine_of(vm).detach(captured, keep_adapter=keep_adapter)
        after = host.describe(vm)
        assert without_adapters(after) == without_adapters(before), number
        if keep_adapter and number > attaching:
            assert all(adapter.legacy for adapter in vm.adapters)
            assert settings(after) == settings(before), number
        elif not keep_adapter:
            assert after == before, number
        host.remove_vm(vm)


@pytest.mark.parametrize("script", ["describe", "mark", "change"])
@pytest.mark.parametrize("when", ["", " done"])
def test_a_connection_that_is_cut_once_in_each_script_changes_nothing(
    host: SimulatedHost, vm: Vm, script: str, when: str
) -> None:
    before = host.describe(vm)
    runner = CutRunner(host)
    machine = machine_of(vm, runner)
    captured = machine.capture()
    runner.cut = cut_once(script + when)
    machine.attach(MEDIA)
    runner.cut = cut_once(script + when)
    machine.detach(captured, keep_adapter=False)
    assert host.describe(vm) == before


def cut_once(moment: str, times: int = 1) -> Callable[[str], bool]:
    left = [moment] * times

    def cut(now: str) -> bool:
        if now in left:
            left.remove(now)
            return True
        return False

    return cut


def cut_everything(_: str) -> bool:
    return True


def test_a_host_that_stays_away_ends_attach_and_is_restored_when_it_is_back(
    host: SimulatedHost, vm: Vm
) -> None:
    before = host.describe(vm)
    runner = CutRunner(host)
    machine = machine_of(vm, runner)
    captured = machine.capture()
    runner.cut = cut_once("change done", MAX_CUTS + 1)
    machine.attach(MEDIA)  # the first answer was lost, and nothing was left to do
    machine.detach(captured, keep_adapter=False)
    runner.cut = cut_once("change", MAX_CUTS + 1)
    with pytest.raises(UnreachableError, match="does not answer"):
        machine.attach(MEDIA)
    runner.cut = cut_everything
    for work in (lambda: machine.detach(captured, keep_adapter=False), machine.state):
        with pytest.raises(UnreachableError):
            work()
    runner.cut = lambda _: False
    machine.detach(captured, keep_adapter=False)
    assert host.describe(vm) == before


def test_a_change_that_does_not_take_is_given_up_and_named(host: SimulatedHost, vm: Vm) -> None:
    machine = machine_of(vm)
    machine.capture()

    def forget(name: str) -> None:
        if name == "Hyper-V\\Set-VMComPort done":
            vm.com_ports[0].path = ""

    host.fault = forget
    with pytest.raises(
        MachineError, match="has not become so in 4 attempts; left to do: lead COM1"
    ):
        machine.attach(MEDIA)


def test_a_script_that_fails_is_quoted(host: SimulatedHost, vm: Vm) -> None:
    machine = machine_of(vm)
    machine.capture()

    def refuse(name: str) -> None:
        if name == "Hyper-V\\Set-VMComPort":
            raise operation_failed("The pipe is not liked.")

    host.fault = refuse
    with pytest.raises(MachineError, match=r"The pipe is not liked\..*left to do: .*lead COM1 to"):
        machine.attach(MEDIA)


def test_notes_that_cannot_be_set_stop_a_run_before_anything_is_changed(
    host: SimulatedHost, vm: Vm
) -> None:
    before = host.describe(vm)
    machine = machine_of(vm)
    machine.capture()

    def keep_notes(name: str) -> None:
        vm.notes = "keep"

    host.fault = keep_notes
    with pytest.raises(MachineError, match="does not stay in the notes of appliance"):
        machine.attach(MEDIA)
    assert host.describe(vm) == before


# Power and the rest.


@pytest.mark.parametrize("when", ["start", "start done"])
def test_a_start_whose_answer_is_lost_is_looked_after(
    host: SimulatedHost, vm: Vm, when: str
) -> None:
    runner = CutRunner(host)
    machine = machine_of(vm, runner)
    starts: list[str] = []
    host.fault = lambda name: starts.append(name) if name == "Hyper-V\\Start-VM" else None
    runner.cut = cut_once(when)
    machine.start()
    assert vm.state == "Running"
    assert len(starts) == 1


def test_a_host_that_is_cut_off_at_each_start_is_given_up(host: SimulatedHost, vm: Vm) -> None:
    runner = CutRunner(host)
    runner.cut = lambda moment: moment == "start"
    with pytest.raises(MachineError, match="cannot be started: its host is cut off"):
        machine_of(vm, runner).start()


@pytest.mark.parametrize("when", ["turn-off", "turn-off done"])
def test_a_power_cut_whose_answer_is_lost_is_looked_after(
    host: SimulatedHost, vm: Vm, when: str
) -> None:
    runner = CutRunner(host)
    machine = machine_of(vm, runner)
    machine.start()
    runner.cut = cut_once(when)
    machine.turn_off()
    assert vm.state == "Off"


def test_an_unreachable_host_is_waited_for_until_the_deadline(
    host: SimulatedHost, vm: Vm, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = CutRunner(host)
    machine = machine_of(vm, runner)
    runner.cut = cut_once("state", 3)
    monkeypatch.setattr("bootgraft_host.hyperv.machine.POLL_INTERVAL", 0.01)
    assert machine.wait_off(5.0)
    runner.cut = cut_everything
    with pytest.raises(UnreachableError):
        machine.wait_off(0.05)


@pytest.mark.parametrize("when", ["insert", "insert done"])
def test_an_exchange_whose_answer_is_lost_is_looked_after(
    host: SimulatedHost, vm: Vm, when: str
) -> None:
    runner = CutRunner(host)
    machine = machine_of(vm, runner)
    machine.capture()
    machine.attach(ONE_DRIVE)
    machine.start()
    runner.cut = cut_once(when)
    machine.insert_payload(ONE_DRIVE)
    assert vm.dvd_drives[0].path == str(ONE_DRIVE.payload_iso)


@pytest.mark.parametrize("when", ["", " done"])
def test_checkpoints_whose_answer_is_lost_are_looked_after(
    host: SimulatedHost, vm: Vm, when: str
) -> None:
    runner = CutRunner(host)
    machine = machine_of(vm, runner)
    runner.cut = cut_once(f"checkpoint{when}")
    machine.take_checkpoint("run")
    assert len(vm.checkpoints) == 1
    runner.cut = cut_once(f"remove-checkpoint{when}")
    machine.remove_checkpoint("run")
    assert vm.checkpoints == []


def test_a_host_that_starts_anew_leaves_the_machine_off_and_recoverable(
    host: SimulatedHost, vm: Vm
) -> None:
    before = host.describe(vm)
    machine = machine_of(vm)
    captured = machine.capture()
    machine.attach(MEDIA)
    machine.start()
    host.reboot()
    assert machine.state() == "off"
    machine_of(vm).detach(captured, keep_adapter=False)
    assert host.describe(vm) == before


def test_a_fault_of_powershells_is_passed_on(host: SimulatedHost, vm: Vm) -> None:
    def fail(name: str) -> None:
        if name == "Hyper-V\\Start-VM":
            raise operation_failed("Not enough memory.")

    host.fault = fail
    with pytest.raises(ScriptError, match="Not enough memory"):
        machine_of(vm).start()
