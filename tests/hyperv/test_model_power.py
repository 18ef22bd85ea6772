"""The modelled host's rules for power, checkpoints and a reboot of the host."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bootgraft_host.hyperv.runner import ScriptError
from hyperv.direct import DirectRunner
from hyperv.line_power import LinePower
from hyperv.model import SimulatedHost
from hyperv.power import Running
from hyperv.scripting import call, change, slot
from hyperv.values import PowerShellError
from hyperv.vm import Vm

PIPE = "\\\\.\\pipe\\bootgraft-test"
ISO = "C:\\ISOs\\live.iso"
DEADLINE = 10.0


@pytest.fixture
def host(tmp_path: Path) -> Iterator[SimulatedHost]:
    host = SimulatedHost(tmp_path)
    host.files.put(ISO, b"live")
    yield host
    for vm in host.sorted_vms():
        if vm.plain_state not in ("Off", "Saved"):
            vm.turn_off()


@pytest.fixture
def runner(host: SimulatedHost) -> DirectRunner:
    return DirectRunner(host)


@pytest.fixture
def power() -> LinePower:
    return LinePower()


@pytest.fixture
def vm(host: SimulatedHost, power: LinePower) -> Vm:
    """A machine whose COM1 leads to a pipe."""
    vm = host.add_vm("appliance", power=power)
    vm.com_ports[0].path = PIPE
    return vm


def state(runner: DirectRunner, vm: Vm) -> str:
    (answer,) = runner.run("state", {"Id": str(vm.id)})
    return str(answer["State"])


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# States.


def test_a_machine_is_switched_on_and_off(runner: DirectRunner, vm: Vm) -> None:
    asked = {"Id": str(vm.id)}
    runner.run("start", asked)
    assert state(runner, vm) == "Running"
    assert vm.uptime > 0
    runner.run("turn-off", asked)
    assert state(runner, vm) == "Off"
    assert vm.uptime == 0


def test_what_is_in_the_wanted_state_already_is_a_warning_and_no_error(
    host: SimulatedHost, runner: DirectRunner, vm: Vm
) -> None:
    asked = {"Id": str(vm.id)}
    runner.run("turn-off", asked)
    assert len(host.warnings) == 1
    runner.run("start", asked)
    runner.run("start", asked)
    assert host.warnings == ["The virtual machine is already in the specified state."] * 2


def test_a_state_that_allows_it_not_refuses(runner: DirectRunner, vm: Vm) -> None:
    vm.plain_state = "Stopping"
    for script in ("start", "turn-off"):
        with pytest.raises(ScriptError) as caught:
            runner.run(script, {"Id": str(vm.id)})
        assert caught.value.error_id.startswith("InvalidState,Microsoft.HyperV")
    vm.plain_state = "Off"


def test_a_guest_that_switches_itself_off_is_seen(
    runner: DirectRunner, vm: Vm, power: LinePower
) -> None:
    vm.start()
    power.ended()
    wait_for(lambda: state(runner, vm) == "Off")


def test_an_end_of_an_earlier_boot_is_none_of_this_one(
    runner: DirectRunner, vm: Vm, power: LinePower
) -> None:
    vm.start()
    late = power.ended
    vm.turn_off()
    vm.start()
    late()
    time.sleep(0.1)
    assert state(runner, vm) == "Running"


def test_a_start_that_fails_leaves_the_machine_off(
    runner: DirectRunner, vm: Vm, power: LinePower
) -> None:
    power.refusal = "Not enough memory in the system."
    with pytest.raises(ScriptError, match="Not enough memory") as caught:
        runner.run("start", {"Id": str(vm.id)})
    assert caught.value.error_id == "OperationFailed,Microsoft.HyperV.PowerShell.Commands.StartVM"
    assert state(runner, vm) == "Off"


@pytest.mark.parametrize("spoil", ["delete", "forbid"])
def test_an_attached_iso_that_cannot_be_read_keeps_the_machine_off(
    host: SimulatedHost, runner: DirectRunner, vm: Vm, spoil: str
) -> None:
    change(host, vm, Insert=[slot(1, 0, Path=ISO)])
    if spoil == "delete":
        host.files.locate(ISO).unlink()
    else:
        host.files.secure("C:\\ISOs", "O:BAD:P(A;OICI;FA;;;BA)(A;OICI;FA;;;SY)")
    with pytest.raises(ScriptError, match=r"Virtual CD/DVD Disk.*live\.iso"):
        runner.run("start", {"Id": str(vm.id)})
    assert state(runner, vm) == "Off"


def test_saving_and_pausing_are_states_of_their_own(
    host: SimulatedHost, runner: DirectRunner, vm: Vm
) -> None:
    vm.start()
    vm.pause()
    assert state(runner, vm) == "Paused"
    vm.start()
    call(host, "Stop-VM", VM=[vm], Save=True)
    assert state(runner, vm) == "Saved"
    with pytest.raises(ScriptError):
        change(host, vm, ComPorts=[{"Number": 1, "Path": ""}])
    vm.turn_off()
    assert state(runner, vm) == "Off"


def test_stopping_without_a_word_on_how_asks(host: SimulatedHost, vm: Vm) -> None:
    vm.start()
    with pytest.raises(PowerShellError, match="confirmation"):
        call(host, "Stop-VM", VM=[vm])
    call(host, "Stop-VM", VM=[vm], Force=True)
    assert vm.plain_state == "Off"


def test_a_start_that_takes_long_holds_nobody_else_up(
    host: SimulatedHost, runner: DirectRunner
) -> None:
    go_on = threading.Event()

    class SlowPower(LinePower):
        def start(self, vm: Vm, ended: Callable[[], None]) -> Running:
            assert go_on.wait(DEADLINE)
            return super().start(vm, ended)

    slow, other = host.add_vm("slow", power=SlowPower()), host.add_vm("other")
    starting = threading.Thread(target=slow.start)
    starting.start()
    wait_for(lambda: state(runner, slow) == "Starting")
    runner.run("start", {"Id": str(other.id)})
    assert len(runner.run("find")) == 2
    go_on.set()
    starting.join(DEADLINE)
    assert state(runner, slow) == "Running"


# Checkpoints.


def paths(host: SimulatedHost, vm: Vm) -> list[str]:
    return [str(each["Path"]) for each in host.describe(vm)["HardDrives"]]


def test_a_checkpoint_makes_a_chain_and_its_removal_merges_it(
    host: SimulatedHost, runner: DirectRunner, vm: Vm
) -> None:
    (before,) = paths(host, vm)
    (made,) = runner.run("checkpoint", {"Id": str(vm.id), "Name": "bootgraft"})
    (during,) = paths(host, vm)
    assert during.startswith("C:\\VMs\\appliance_")
    assert during.endswith(".avhdx")
    assert host.files.find_file(during) is not None
    (described,) = host.describe(vm)["Checkpoints"]
    assert described == {"Id": made["Id"], "Name": "bootgraft", "SnapshotType": "Standard"}
    assert vm.read("ParentSnapshotName") == "bootgraft"
    runner.run("remove-checkpoint", {"CheckpointId": made["Id"]})
    assert (paths(host, vm), host.describe(vm)["Checkpoints"]) == ([before], [])
    assert host.files.find_file(during) is None


def test_checkpoints_go_in_any_order(host: SimulatedHost, runner: DirectRunner, vm: Vm) -> None:
    (before,) = paths(host, vm)
    made = [
        runner.run("checkpoint", {"Id": str(vm.id), "Name": name})[0]["Id"]
        for name in ("one", "two", "three")
    ]
    (last,) = paths(host, vm)
    for checkpoint in (made[1], made[0]):
        runner.run("remove-checkpoint", {"CheckpointId": checkpoint})
        assert paths(host, vm) == [last]
    runner.run("remove-checkpoint", {"CheckpointId": made[2]})
    assert paths(host, vm) == [before]


def test_a_merge_may_take_its_time(host: SimulatedHost, runner: DirectRunner, vm: Vm) -> None:
    host.merges_slowly = True
    (before,) = paths(host, vm)
    (made,) = runner.run("checkpoint", {"Id": str(vm.id), "Name": "bootgraft"})
    runner.run("remove-checkpoint", {"CheckpointId": made["Id"]})
    description = host.describe(vm)
    assert description["Checkpoints"] == []
    assert description["Status"] == "Merging disks"
    assert paths(host, vm) != [before]
    host.finish_merges()
    assert paths(host, vm) == [before]
    assert host.describe(vm)["Status"] == "Operating normally"


def test_an_unknown_checkpoint_is_not_found(runner: DirectRunner, vm: Vm) -> None:
    with pytest.raises(ScriptError) as caught:
        runner.run("remove-checkpoint", {"CheckpointId": str(vm.id)})
    assert caught.value.category == "ObjectNotFound"


def test_checkpoints_can_be_disabled(host: SimulatedHost, vm: Vm) -> None:
    call(host, "Set-VM", VM=[vm], CheckpointType="Disabled")
    with pytest.raises(PowerShellError, match="disabled"):
        call(host, "Checkpoint-VM", VM=[vm])


def test_automatic_checkpoints_come_with_the_start_and_go_with_the_turning_off(
    host: SimulatedHost, vm: Vm, power: LinePower
) -> None:
    (before,) = paths(host, vm)
    vm.automatic_checkpoints = True
    vm.start()
    (checkpoint,) = vm.checkpoints
    assert checkpoint.read("IsAutomaticCheckpoint") is True
    assert paths(host, vm) != [before]
    vm.turn_off()
    assert (paths(host, vm), vm.checkpoints) == ([before], [])
    vm.start()
    power.ended()  # the guest's own end leaves it
    wait_for(lambda: vm.plain_state == "Off")
    assert len(vm.checkpoints) == 1
    vm.start()
    assert len(vm.checkpoints) == 1


# The host.


def test_a_reboot_leaves_machines_as_their_actions_say(
    host: SimulatedHost, runner: DirectRunner
) -> None:
    names = {
        "saved and resumed": ("StartIfRunning", "Save"),
        "turned off": ("Nothing", "TurnOff"),
        "saved": ("Nothing", "Save"),
        "shut down and started": ("StartIfRunning", "ShutDown"),
    }
    machines = {name: host.add_vm(name) for name in names}
    off = host.add_vm("off", start_action=machines["saved"].start_action)
    always = host.add_vm("always")
    change(host, always, AutomaticActions=[{"Start": "Start", "Stop": "Save"}])
    for name, (start, stop) in names.items():
        change(host, machines[name], AutomaticActions=[{"Start": start, "Stop": stop}])
        machines[name].start()
    ended: list[str] = []
    host.at_reboot.append(lambda: ended.append("shells"))
    stranger = host.pipes.create("somebody's")
    host.reboot()
    states = {name: state(runner, machine) for name, machine in machines.items()}
    assert states == {
        "saved and resumed": "Running",
        "turned off": "Off",
        "saved": "Saved",
        "shut down and started": "Running",
    }
    assert (off.plain_state, always.plain_state) == ("Off", "Running")
    assert ended == ["shells"]
    assert stranger.is_closed


def test_faults_are_told_of_each_cmdlet(host: SimulatedHost, runner: DirectRunner) -> None:
    vm = host.add_vm("appliance")
    told: list[str] = []
    host.fault = told.append
    runner.run("start", {"Id": str(vm.id)})
    names = ["Hyper-V\\Get-VM", "Hyper-V\\Start-VM"]
    assert told == [f"{name}{moment}" for name in names for moment in ("", " done")]
    host.describe(vm)
    assert len(told) == 4

    def refuse(name: str) -> None:
        raise PowerShellError("no more", "Injected")

    host.fault = refuse
    with pytest.raises(ScriptError, match="no more"):
        runner.run("find")


def test_two_hundred_machines_are_cheap(host: SimulatedHost, runner: DirectRunner) -> None:
    began = time.monotonic()
    machines = [host.add_vm(f"vm{number:03}") for number in range(200)]
    for vm in machines:
        runner.run("start", {"Id": str(vm.id)})
        host.describe(vm)
        runner.run("turn-off", {"Id": str(vm.id)})
    assert len(runner.run("find")) == 200
    assert time.monotonic() - began < 60
