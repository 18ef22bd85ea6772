"""Two hundred machines on one host, worked on at the same time."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from bootgraft_host.hyperv import protocol_hvrelay
from bootgraft_host.hyperv.machine import HyperVMachine, open_machine
from bootgraft_host.hyperv.runner import Runner
from bootgraft_host.hyperv.targets import find_vm
from bootgraft_host.job import Deadlines, Setup
from bootgraft_host.machine import ConfigurationError
from bootgraft_host.results import RunResult
from bootgraft_host.runs import StateDirectory
from bootgraft_host.workflow import GraftOrder, run_graft, run_inspect
from host.bench import EXPECT, Watcher
from hyperv.adapters import Nic
from hyperv.direct import DirectRunner
from hyperv.hardware import Disk, Dvd
from hyperv.hyperv_bench import target
from hyperv.machines import ISO, LIVE, LOOK, MEDIA, ONE_DRIVE, PAYLOAD, make_host
from hyperv.model import SimulatedHost
from hyperv.power import AgentPower
from hyperv.serve_host import ServedHost
from hyperv.vm import Vm

SIZE = 200
AT_ONCE = 12
NAMES = 3  # machines of one name
LONGEST = 120.0  # seconds for all; a quarter of that on two processors with nothing else to do
DEADLINES = Deadlines(
    serial=60, hello=60, silence=30, request=60, power_off=30, turn_off=30, confirm=60, watch=1
)


def add_vm(host: SimulatedHost, number: int) -> Vm:
    """Machines of several kinds: with one disk, or so many that there is room for one drive."""
    disks = [Disk(f"C:\\VMs\\{number}.vhdx")]
    if number % 5 == 0:
        disks += [Disk(f"C:\\VMs\\{number}-{n}.vhdx", n // 2, n % 2) for n in (1, 3)]
    return host.add_vm(
        f"machine {number // NAMES}",
        hard_drives=disks,
        dvd_drives=(Dvd(),) if number % 5 == 0 or number % 2 else (),
        adapters=[Nic(mac=f"00155D0A{number:04X}", vlan=1 + number)],
        notes=f"number {number}",
        automatic_checkpoints=number % 7 == 0,
        power=AgentPower(),
    )


def work_on(machine: HyperVMachine, number: int, state: StateDirectory) -> RunResult:
    """Graft every tenth machine, look at the others."""
    setup = Setup(machine, state, Watcher(), DEADLINES)
    if number % 10:
        return run_inspect(setup, LOOK, {})
    return run_graft(setup, GraftOrder(ONE_DRIVE if number % 5 == 0 else MEDIA, expect=EXPECT))


def work_on_all(
    host: SimulatedHost, vms: list[Vm], folder: Path, open_one: Callable[[Vm], HyperVMachine]
) -> None:
    state = StateDirectory(folder / "state")
    before = [host.describe(vm) for vm in vms]

    def work(number: int) -> RunResult:
        machine = open_one(vms[number])
        try:
            return work_on(machine, number, state)
        finally:
            machine.close()

    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(pool.map(work, range(len(vms))))
    for number, (vm, then, result) in enumerate(zip(vms, before, results, strict=True)):
        wanted = "inspected" if number % 10 else "grafted"
        assert (result.outcome, result.message) == (wanted, ""), number
        check_restored(then, host.describe(vm), grafted=number % 10 == 0)
    assert state.list_unfinished() == ()
    assert host.pipes.names() == []


def check_restored(before: dict[str, Any], after: dict[str, Any], *, grafted: bool) -> None:
    (old,), (new,) = before.pop("NetworkAdapters"), after.pop("NetworkAdapters")
    assert after == before
    other = {"IsLegacy": True, "VmqWeight": 0, "Id": new["Id"]} if grafted else {}
    assert new == {**old, **other}


@pytest.mark.parametrize("size", [40, pytest.param(SIZE, marks=pytest.mark.matrix)])
def test_a_fleet_is_worked_on_at_the_same_time_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    host = make_host(tmp_path / "host")

    def open_runner(name: str) -> Runner:
        return DirectRunner(host, name)

    monkeypatch.setattr(protocol_hvrelay, "open_runner", open_runner)
    vms = [add_vm(host, number) for number in range(size)]
    with pytest.raises(ConfigurationError, match=f"has {NAMES} machines named 'machine 1'"):
        find_vm(DirectRunner(host), "machine 1")
    started = time.monotonic()
    work_on_all(
        host, vms, tmp_path, lambda vm: HyperVMachine(DirectRunner(host), str(vm.id), vm.name)
    )
    assert time.monotonic() - started < LONGEST


def test_a_fleet_is_reached_through_one_endpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ServedHost(tmp_path / "host") as served:
        monkeypatch.setenv("BOOTGRAFT_HOSTS", str(served.hosts_file))
        for path in (LIVE, PAYLOAD):
            served.host.files.put(path, ISO)
        vms = [add_vm(served.host, number) for number in range(11)]
        work_on_all(served.host, vms, tmp_path, lambda vm: open_machine(target(str(vm.id))))
        assert served.endpoint.shells() == []
        assert served.endpoint.problems == []
