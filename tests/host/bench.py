"""What tests of whole runs share: a bench with a simulated machine, and faults at its moments."""

import multiprocessing
import os
import re
import signal
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from bootgraft_host.job import Deadlines, Setup
from bootgraft_host.machine import MachineError, Media
from bootgraft_host.replies import Log, Progress
from bootgraft_host.results import RunResult
from bootgraft_host.runs import StateDirectory
from bootgraft_host.workflow import GraftOrder, run_graft, run_recover
from host.simulated import CONFIGURATION, MARKER, Guest, SimulatedMachine

# Each call of the machine's methods in a good run, numbered where repeated, in the order of the
# first: of a run as most are, and what others have besides.
# `test_faults.test_the_points_of_a_run_are_those_listed` reads them from runs.
PLAIN = (
    *("problems", "remarks", "capture", "prepare_media"),
    *("attach", "attach, half done", "attach, done"),
    *("start", "start, done", "open_serial", "open_serial, done", "wait_off"),
    *("detach", "detach, half done", "detach, done", "prepare_confirm", "prepare_confirm, done"),
    *("start 2", "start, done 2", "read_screen_text", "take_screenshot"),
    *("open_serial 2", "open_serial, done 2", "take_screenshot 2", "heartbeat"),
    *("turn_off", "turn_off, done", "wait_off 2"),
    *("detach 2", "detach, half done 2", "detach, done 2"),
)
MORE = (
    *("prepare_media, done", "take_checkpoint", "take_checkpoint, done"),
    *("insert_payload", "insert_payload, done", "remove_checkpoint", "remove_checkpoint, done"),
)

EXPECT = re.compile(MARKER)
QUICK = Deadlines(
    serial=2, hello=2, silence=1.5, request=5, power_off=2, turn_off=1, confirm=2, watch=0.6
)
GRAFTED_CONFIGURATION = {
    **CONFIGURATION,
    "adapter": {"kind": "legacy", "mac": "52:54:00:12:34:56"},
}


@dataclass
class Watcher:
    """An observer that remembers."""

    steps: list[str] = field(default_factory=list)
    events: list[Progress | Log] = field(default_factory=list)

    def step(self, name: str, text: str) -> None:
        self.steps.append(name)

    def event(self, event: Progress | Log) -> None:
        self.events.append(event)


@dataclass
class Bench:
    """A machine, its media, and a state directory, all in one folder."""

    folder: Path
    everything: bool = False  # one drive, uploads, a checkpoint, a COM1 that is lent

    def __post_init__(self) -> None:
        self.media = Media(self.folder / "live.iso", self.folder / "payload.iso")
        for iso in (self.folder / "live.iso", self.folder / "payload.iso"):
            iso.write_bytes(b"an ISO")
        self.state = StateDirectory(self.folder / "state")
        self.watcher = Watcher()

    def machine(
        self, guest: Guest | None = None, fault: Callable[[str], None] = lambda _: None
    ) -> SimulatedMachine:
        machine = SimulatedMachine(self.folder / "machine.json", guest, fault)
        if self.everything:
            machine.own_com1 = False
            machine.can_lend_com1 = machine.takes_checkpoints = True
        return machine

    def setup(self, machine: SimulatedMachine) -> Setup:
        return Setup(machine, self.state, self.watcher, QUICK)

    def graft(
        self,
        machine: SimulatedMachine,
        *,
        dry_run: bool = False,
        expect: re.Pattern[str] | None = EXPECT,
        leave_running: bool = False,
    ) -> RunResult:
        order = GraftOrder(
            replace(self.media, one_drive=self.everything, upload=self.everything),
            {"kernel": "k"},
            dry_run=dry_run,
            expect=expect,
            leave_running=leave_running,
            checkpoint=self.everything,
        )
        return run_graft(self.setup(machine), order)

    def unfinished(self) -> bool:
        return bool(self.state.list_unfinished())


@dataclass
class FaultAt:
    """Does something at one point of a run; where `for_good`, at each later call of it, too."""

    point: str
    act: Callable[[], None]
    for_good: bool = False
    seen: list[str] = field(default_factory=list)
    calls: dict[str, int] = field(default_factory=dict)
    struck: bool = False

    def __call__(self, where: str) -> None:
        self.calls[where] = self.calls.get(where, 0) + 1
        number = self.calls[where]
        name = where if number == 1 else f"{where} {number}"
        self.seen.append(name)
        again = self.struck and self.for_good and where == re.sub(r" \d+$", "", self.point)
        if name == self.point or again:
            self.struck = True
            self.act()


def raise_machine_error() -> None:
    raise MachineError("the hypervisor does not feel like it")


def raise_os_error() -> None:
    raise OSError(5, "Input/output error")


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def check_aftermath(bench: Bench, result: RunResult) -> None:
    """The machine is off and as it was, and the exit status says the truth about the guest."""
    machine = bench.machine()
    grafted = machine.disk["grafted_by"] is not None
    assert machine.state() == "off"
    assert not bench.unfinished()
    assert result.exit_status in ({0, 3, 4} if grafted else {1, 2})
    kept = result.exit_status in {0, 4}
    assert machine.configuration == (GRAFTED_CONFIGURATION if kept else CONFIGURATION)
    assert result.adapter_kept == kept
    assert machine.uploads == []
    if result.checkpoint is None or "may still be there" not in " ".join(result.warnings):
        assert machine.checkpoints == ([] if result.checkpoint is None else [result.checkpoint])


def at(request: str, act: Callable[[], None]) -> Callable[[str], None]:
    return lambda name: act() if name == request else None


def check_recovery(bench: Bench) -> None:
    """Recover restores; the adapter stays exactly where the guest is known to be grafted."""
    (record,) = bench.state.list_unfinished()
    recovered = run_recover(bench.setup(bench.machine()))
    assert (recovered.outcome, recovered.exit_status) == ("restored", 0)
    assert bench.machine().state() == "off"
    assert not bench.unfinished()
    expected = GRAFTED_CONFIGURATION if record.stage == "grafted" else CONFIGURATION
    assert bench.machine().configuration == expected
    assert bench.machine().uploads == []
    assert recovered.checkpoint == (None if record.stage == "captured" else record.checkpoint)
    assert set(bench.machine().checkpoints) <= {recovered.checkpoint}


def kill_in_a_run(bench: Bench, machine: SimulatedMachine) -> None:
    """Do a run in a process of its own, which is killed in it."""
    process = multiprocessing.get_context("fork").Process(target=bench.graft, args=(machine,))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
