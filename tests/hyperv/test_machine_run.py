"""Whole runs on a machine of a modelled Hyper-V host, by the scripts and the relay."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from bootgraft_host.hyperv import protocol_hvrelay
from bootgraft_host.hyperv import vm as vm_module
from bootgraft_host.hyperv.runner import Runner
from bootgraft_host.job import Deadlines, Setup
from bootgraft_host.machine import Machine
from bootgraft_host.runs import StateDirectory, Unfinished
from bootgraft_host.workflow import GraftOrder, run_graft, run_inspect, run_recover
from host.bench import EXPECT, Watcher
from host.simulated import UNTOUCHED, Guest
from hyperv.adapters import Nic
from hyperv.direct import DirectRunner
from hyperv.hardware import Disk
from hyperv.machines import (
    LOOK,
    MEDIA,
    ONE_DRIVE,
    PAYLOAD,
    CutRunner,
    add_appliance,
    machine_of,
    make_host,
)
from hyperv.model import SimulatedHost
from hyperv.power import AgentPower
from hyperv.vm import Vm

DEADLINES = Deadlines(
    serial=20, hello=20, silence=10, request=20, power_off=10, turn_off=5, confirm=20, watch=1
)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimulatedHost:
    host = make_host(tmp_path / "host")

    def open_runner(name: str) -> Runner:
        return DirectRunner(host, name)

    monkeypatch.setattr(protocol_hvrelay, "open_runner", open_runner)
    monkeypatch.setattr(vm_module, "READ_PAUSES", (0.0,))
    return host


@pytest.fixture
def power() -> AgentPower:
    return AgentPower()


@pytest.fixture
def vm(host: SimulatedHost, power: AgentPower) -> Vm:
    return add_appliance(host, automatic_checkpoints=True, notes="keep", power=power)


def setup_of(machine: Machine, tmp_path: Path, **deadlines: float) -> Setup:
    state = StateDirectory(tmp_path / "state")
    return Setup(machine, state, Watcher(), replace(DEADLINES, **deadlines))


def test_a_run_grafts_proves_the_boot_and_only_the_adapter_is_another(
    host: SimulatedHost, vm: Vm, power: AgentPower, tmp_path: Path
) -> None:
    before = host.describe(vm)
    machine = machine_of(vm)
    result = run_graft(setup_of(machine, tmp_path), GraftOrder(MEDIA, expect=EXPECT))
    assert (result.outcome, result.exit_status, result.message) == ("grafted", 0, "")
    assert power.boots == ["live", "disk"]
    assert power.disk["grafted_by"] == result.run_id
    assert power.heard_by_guest == b""
    after = host.describe(vm)
    assert {**after, "NetworkAdapters": before["NetworkAdapters"]} == before
    (old,), (new,) = before["NetworkAdapters"], after["NetworkAdapters"]
    assert new["IsLegacy"]
    assert {name for name in old if old[name] != new[name]} == {"Id", "IsLegacy", "VmqWeight"}


def test_a_heartbeat_proves_the_boot_without_any_words(
    vm: Vm, power: AgentPower, tmp_path: Path
) -> None:
    power.heartbeats = ["NoContact", "OkApplicationsUnknown"]
    result = run_graft(setup_of(machine_of(vm), tmp_path, watch=10), GraftOrder(MEDIA))
    assert result.outcome == "grafted"
    assert result.confirmation is not None
    assert result.confirmation.proof == "heartbeat"


def test_an_inspection_leaves_the_machine_as_it_was(
    host: SimulatedHost, vm: Vm, power: AgentPower, tmp_path: Path
) -> None:
    before = host.describe(vm)
    result = run_inspect(setup_of(machine_of(vm), tmp_path), LOOK, {})
    assert (result.outcome, result.message) == ("inspected", "")
    assert host.describe(vm) == before
    assert power.disk == UNTOUCHED


def test_a_run_with_one_drive_and_a_checkpoint(host: SimulatedHost, tmp_path: Path) -> None:
    inserted: list[str | None] = []

    def look(_: str) -> None:
        inserted.append(host.find_vm("full").dvd_drives[0].path)

    power = AgentPower(Guest(at_request=look))
    disks = tuple(Disk(f"C:\\{n}.vhdx", n // 2, n % 2) for n in (0, 1, 3))
    vm = host.add_vm("full", hard_drives=disks, adapters=(Nic(mac="00155D0A0B0C"),), power=power)
    before = host.describe(vm)
    refused = run_graft(setup_of(machine_of(vm), tmp_path), GraftOrder(MEDIA))
    assert refused.outcome == "refused"
    assert "use --one-drive" in refused.message
    order = GraftOrder(ONE_DRIVE, expect=EXPECT, checkpoint=True)
    result = run_graft(setup_of(machine_of(vm), tmp_path), order)
    assert (result.outcome, result.message) == ("grafted", "")
    assert set(inserted) == {PAYLOAD}
    after = host.describe(vm)
    assert {**after, "NetworkAdapters": before["NetworkAdapters"]} == before


def test_a_boot_that_does_not_come_ends_restored(
    host: SimulatedHost, vm: Vm, power: AgentPower, tmp_path: Path
) -> None:
    power.guest.off_at_boot = True
    before = host.describe(vm)
    result = run_graft(setup_of(machine_of(vm), tmp_path), GraftOrder(MEDIA))
    assert result.outcome == "failed"
    assert result.machine_restored
    assert host.describe(vm) == before


def test_words_that_do_not_come_are_unproven_and_the_machine_is_back(
    host: SimulatedHost, vm: Vm, tmp_path: Path
) -> None:
    order = GraftOrder(MEDIA, expect=re.compile("never said"))
    result = run_graft(setup_of(machine_of(vm), tmp_path, confirm=2), order)
    assert (result.outcome, result.exit_status) == ("unproven", 4)
    assert vm.state == "Off"
    assert vm.com_ports[0].path == ""
    assert vm.notes == "keep"


def test_a_machine_that_another_run_takes_first_is_refused_and_left_to_it(
    host: SimulatedHost, vm: Vm, tmp_path: Path
) -> None:
    other = machine_of(vm)
    captured = other.capture()
    runner = CutRunner(host)

    def race(script: str) -> bool:
        if script == "mark":
            runner.cut = lambda _: False
            other.attach(MEDIA)
        return False

    runner.cut = race
    result = run_graft(setup_of(machine_of(vm, runner), tmp_path), GraftOrder(MEDIA))
    assert result.outcome == "refused"
    assert "a run by" in result.message
    assert result.machine_restored
    assert f"mark {captured['token']};" in vm.notes
    other.detach(captured, keep_adapter=False)
    assert vm.notes == "keep"


def test_a_machine_that_somebody_starts_before_attach_stays_on_and_is_not_changed(
    host: SimulatedHost, vm: Vm, tmp_path: Path
) -> None:
    vm.automatic_checkpoints = False
    before = host.describe(vm)
    runner = CutRunner(host)

    def start(script: str) -> bool:
        if script == "find done":  # preflight's last look
            vm.start()
        return False

    runner.cut = start
    result = run_graft(setup_of(machine_of(vm, runner), tmp_path), GraftOrder(MEDIA))
    assert "cannot change appliance: it is on" in result.message
    assert result.machine_restored
    assert vm.state == "Running"
    vm.turn_off()
    assert host.describe(vm) == before


def test_a_recovery_without_a_record_says_who_holds_the_machine(vm: Vm, tmp_path: Path) -> None:
    other = machine_of(vm)
    captured = other.capture()
    other.attach(MEDIA)
    held = run_recover(setup_of(machine_of(vm), tmp_path))
    assert (held.outcome, held.exit_status) == ("refused", 1)
    assert "no record here of the run that is meant: a run by" in held.message
    other.detach(captured, keep_adapter=False)
    assert run_recover(setup_of(machine_of(vm), tmp_path)).exit_status == 0


def test_a_recovery_by_another_computer_says_what_restores_the_machine_once_it_is_off(
    host: SimulatedHost, vm: Vm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = host.describe(vm)
    machine = machine_of(vm)
    captured = machine.capture()
    setup = setup_of(machine_of(vm), tmp_path)
    setup.state.store_unfinished(
        Unfinished(
            machine.machine_id, machine.name, machine.target, "a-run", "now", "captured", captured
        )
    )
    machine.attach(MEDIA)
    machine.start()
    monkeypatch.setattr("socket.gethostname", lambda: "other")
    left = run_recover(setup)
    assert left.exit_status == 3
    assert "turn it off by hand): once it is off, `bootgraft recover" in left.message
    assert "turns it off" not in left.message
    assert vm.state == "Running"
    vm.turn_off()
    assert run_recover(setup_of(machine_of(vm), tmp_path)).exit_status == 0
    assert host.describe(vm) == before
