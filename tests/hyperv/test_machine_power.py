"""A machine's power, serial port, screen, checkpoints, and which machine it is."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bootgraft_agent.errors import RefusedError
from bootgraft_host.hyperv import machine as machine_module
from bootgraft_host.hyperv import vm as vm_module
from bootgraft_host.hyperv.runner import ScriptError
from bootgraft_host.hyperv.vm import GoneError
from bootgraft_host.machine import Configuration, MachineError, NotOursError
from hyperv.direct import DirectRunner
from hyperv.machines import (
    MEDIA,
    CutRunner,
    add_appliance,
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


# Power.


def test_power(host: SimulatedHost, vm: Vm) -> None:
    machine = machine_of(vm)
    assert machine.state() == "off"
    machine.turn_off()
    machine.start()
    assert machine.state() == "running"
    with pytest.raises(MachineError, match="cannot start appliance: it is not off, but Running"):
        machine.start()
    assert machine.wait_off(0) is False
    machine.turn_off()
    assert machine.wait_off(0) is True
    vm.plain_state = "Saved"
    assert machine.state() == "other"
    with pytest.raises(MachineError, match="it is not off, but Saved"):
        machine.start()
    machine.turn_off()
    assert machine.state() == "off"


def test_other_machines_stay_on(host: SimulatedHost, vm: Vm) -> None:
    bystander = host.find_vm("bystander")
    bystander.start()
    machine = machine_of(vm)
    machine.start()
    machine.turn_off()
    assert (vm.state, bystander.state) == ("Off", "Running")
    bystander.turn_off()


def test_the_power_of_a_machine_that_somebody_else_started_is_not_cut(vm: Vm) -> None:
    machine = machine_of(vm)
    captured = machine.capture()
    vm.start()
    with pytest.raises(NotOursError, match="its hardware is its own; so its power is not cut"):
        machine.turn_off()
    assert vm.state == "Running"
    machine.detach(captured, keep_adapter=False)  # nothing is left to do
    machine_of(vm).turn_off()  # but who recovers orders it
    assert vm.state == "Off"


def test_a_machine_that_somebody_else_started_with_our_media_in_it_is_ours_to_cut(vm: Vm) -> None:
    machine = machine_of(vm)
    machine.capture()
    machine.attach(MEDIA)
    vm.start()
    with pytest.raises(MachineError, match="cannot start appliance: it is not off, but Running"):
        machine.start()
    machine.turn_off()
    assert vm.state == "Off"


def test_a_boot_that_is_left_running_can_be_cut_by_whoever_started_it(vm: Vm) -> None:
    machine = machine_of(vm)
    machine.capture()
    machine.start()
    machine.turn_off()
    assert vm.state == "Off"


def test_a_machine_that_somebody_else_started_after_detach_is_theirs(vm: Vm) -> None:
    machine = machine_of(vm)
    captured = machine.capture()
    machine.attach(MEDIA)
    machine.start()
    machine.turn_off()
    machine.detach(captured, keep_adapter=True)
    vm.start()
    with pytest.raises(MachineError, match="it is on: shut it down first"):
        machine.prepare_confirm(com1=False)
    with pytest.raises(NotOursError, match="its power is not cut"):
        machine.turn_off()
    assert vm.state == "Running"


def test_a_machine_that_is_just_starting_is_turned_off_when_it_is_on(
    host: SimulatedHost, vm: Vm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_module, "POLL_INTERVAL", 0.0)
    machine = machine_of(vm)
    machine.capture()
    machine.start()
    vm.plain_state = "Starting"
    with pytest.raises(ScriptError, match="current state"):
        machine.turn_off()
    tries: list[str] = []

    def arrive(name: str) -> None:
        tries.extend([name] if name == "Hyper-V\\Stop-VM" else [])
        vm.plain_state = "Running" if len(tries) == 2 else vm.plain_state

    host.fault = arrive
    machine.turn_off()
    assert vm.state == "Off"


def test_the_heartbeat_is_what_the_integration_services_say(vm: Vm) -> None:
    machine = machine_of(vm)
    assert machine.heartbeat() is None
    vm.start()
    assert machine.heartbeat() is None
    vm.guest_heartbeat = "OkApplicationsHealthy"
    assert machine.heartbeat() == "OkApplicationsHealthy"


def test_a_picture_of_the_screen_is_a_png(vm: Vm, tmp_path: Path) -> None:
    machine = machine_of(vm)
    vm.start()
    machine.take_screenshot(tmp_path / "screen.png")
    assert (tmp_path / "screen.png").read_bytes().startswith(b"\x89PNG")
    assert machine.read_screen_text() is None


def test_com1_is_reached_by_its_pipe_on_the_host_or_by_a_relay(
    host: SimulatedHost, vm: Vm, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls: list[str] = []

    class Line:
        def __init__(self, url: str, **_: object) -> None:
            urls.append(url)

        def wait_connected(self, timeout: float) -> bool:
            return timeout > 1

        def close(self) -> None:
            urls.append("closed")

    monkeypatch.setattr(machine_module, "Link", Line)
    machine = machine_of(vm)
    with pytest.raises(MachineError, match="COM1 of appliance is not connected: there is no pipe"):
        machine.open_serial(2)
    vm.com_ports[0].path = "\\\\server\\pipe\\x"
    with pytest.raises(MachineError, match=r"leads to .*server.*there is no pipe to open"):
        machine.open_serial(2)
    vm.com_ports[0].path = "\\\\.\\pipe\\my pipe"
    machine.open_serial(2)
    machine_of(vm, DirectRunner(host, ".")).open_serial(2)
    with pytest.raises(MachineError, match=r"no connection to COM1 of appliance, .*within 0 s"):
        machine.open_serial(0)
    relay = "hvrelay://hv1.example.com/my%20pipe"
    assert urls == [relay, "hvpipe://my%20pipe", relay, "closed"]


def test_a_line_may_be_connected_again_while_the_machine_is_on_or_its_host_is_away(
    host: SimulatedHost, vm: Vm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vm_module, "POLL_INTERVAL", 0.0)
    runner = CutRunner(host)
    is_on = vm_module.PowerWatch(vm_module.Vm(runner, str(vm.id)))
    assert not is_on()
    vm.start()
    assert is_on()
    vm.turn_off()
    runner.cut = lambda _: True
    assert is_on()
    runner.cut = lambda _: False
    assert not is_on()


# Which machine.


def test_a_machine_that_is_renamed_stays_the_same(vm: Vm) -> None:
    machine = machine_of(vm)
    captured = machine.capture()
    vm.name = "renamed"
    machine.attach(MEDIA)
    machine.detach(captured, keep_adapter=False)
    assert machine.name == "renamed"
    assert machine.machine_id == f"hyperv-{vm.id}"
    assert machine.target == f"hyperv://hv1.example.com/{vm.id}"


def test_a_machine_that_was_deleted_is_gone_and_what_to_do_is_said(
    host: SimulatedHost, vm: Vm
) -> None:
    machine = machine_of(vm)
    captured = machine.capture()
    machine.attach(MEDIA)
    host.remove_vm(vm)
    calls = (
        lambda: machine.detach(captured, keep_adapter=False),
        machine.state,
        machine.start,
        machine.turn_off,
        lambda: machine.problems(MEDIA),
    )
    for call in calls:
        with pytest.raises(GoneError, match="it was deleted or moved"):
            call()


def test_the_record_of_another_machine_is_refused(host: SimulatedHost, vm: Vm) -> None:
    other = host.add_vm("other")
    with pytest.raises(MachineError, match=rf"is one of {other.id}, not of {vm.id}"):
        machine_of(vm).detach(machine_of(other).capture(), keep_adapter=False)


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"description": {}},
        {"description": {}, "pipe": "", "token": "", "holder": "", "since": 1},
    ],
)
def test_a_damaged_record_is_refused(vm: Vm, record: Configuration) -> None:
    with pytest.raises(MachineError, match="is damaged"):
        machine_of(vm).detach(record, keep_adapter=False)


def test_one_controller_of_this_computer_holds_a_machine(vm: Vm) -> None:
    with (
        machine_of(vm).claim(),
        pytest.raises(RefusedError, match="another controller is at work on appliance"),
        machine_of(vm).claim(),
    ):
        pass
    with machine_of(vm).claim():
        pass


# Checkpoints.


def test_a_checkpoint_is_taken_once_and_removed_once(vm: Vm) -> None:
    machine = machine_of(vm)
    assert machine.can_checkpoint()
    machine.take_checkpoint("bootgraft run")
    machine.take_checkpoint("bootgraft run")
    assert [checkpoint.name for checkpoint in vm.checkpoints] == ["bootgraft run"]
    assert "bootgraft run" in " ".join(machine.remarks(MEDIA))
    how = machine.how_to_use_checkpoint("bootgraft's run")
    assert f"`Get-VM -Id {vm.id} | Get-VMSnapshot -Name 'bootgraft''s run' | Restore" in how
    machine.remove_checkpoint("bootgraft run")
    machine.remove_checkpoint("bootgraft run")
    assert vm.checkpoints == []
