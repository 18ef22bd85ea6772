"""A run in the making: what its steps work with, whom they tell, how long they wait."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

from bootgraft_agent.errors import BootgraftError
from bootgraft_host.machine import Machine
from bootgraft_host.replies import Log, Progress
from bootgraft_host.results import RunResult
from bootgraft_host.runs import Run, Stage, StateDirectory, Unfinished
from bootgraft_host.text import printable

log = logging.getLogger(__name__)


class UnprovenError(BootgraftError):
    """The guest is grafted, but its boot has not been proven."""

    exit_status = 4


class NotRestoredError(BootgraftError):
    """The machine is not as it was; the message says what is left and what restores it."""

    exit_status = 3


class Observer(Protocol):
    """Whoever watches a run."""

    def step(self, name: str, text: str) -> None:
        """A step begins."""

    def event(self, event: Progress | Log) -> None:
        """The agent, or the controller itself, tells something within a step."""


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long each wait may take, in seconds."""

    serial: float = 30.0  # until COM1 can be opened after power-on
    hello: float = 300.0  # from power-on to the agent's HELLO
    # Between two signs of life of the agent; a line may be dead for half of it.
    silence: float = 60.0
    request: float = 1800.0  # for one reply
    abort: float = 60.0  # until the agent has stopped, and taken back what it did
    power_off: float = 60.0  # until the live system is off by itself
    turn_off: float = 30.0  # until the machine is off after its power was cut
    confirm: float = 300.0  # from power-on until --expect matches
    watch: float = 60.0  # how long the boot is watched without --expect, for a heartbeat to come


@dataclass(frozen=True, slots=True)
class Setup:
    """What every run works with."""

    machine: Machine
    state: StateDirectory
    observer: Observer
    deadlines: Deadlines = field(default_factory=Deadlines)


@dataclass(slots=True)
class Job:
    """One run in the making: what its steps work with."""

    setup: Setup
    run: Run
    result: RunResult
    record: Unfinished | None = None
    interrupted: bool = False  # while the agent changed the guest, which it may end in order

    @property
    def machine(self) -> Machine:
        """The machine."""
        return self.setup.machine

    @property
    def target(self) -> str:
        """What names the machine on the command line."""
        return self.machine.target

    @property
    def state(self) -> StateDirectory:
        """Where runs and records are kept."""
        return self.setup.state

    @property
    def deadlines(self) -> Deadlines:
        """How long each wait may take."""
        return self.setup.deadlines

    @property
    def stage(self) -> Stage:
        """How far the run got."""
        return "captured" if self.record is None else self.record.stage

    def step(self, name: str, text: str) -> None:
        """Begin a step."""
        log.info("%s: %s", name, printable(text))
        self.result.steps.append(name)
        self._tell(lambda observer: observer.step(name, text))

    def event(self, event: Progress | Log) -> None:
        """Pass on what happens within a step."""
        log.debug("%s", printable(event.text))
        self._tell(lambda observer: observer.event(event))

    def warn(self, text: str) -> None:
        """Note a warning of the controller's own."""
        log.warning("%s", printable(text))
        self.result.notes.append(text)
        self._tell(lambda observer: observer.event(Log("warning", text)))

    def _tell(self, tell: Callable[[Observer], None]) -> None:
        try:
            tell(self.setup.observer)
        except Exception:  # noqa: BLE001 - who only watches must not decide over the machine
            log.warning("whoever watches the run cannot be told any more", exc_info=True)

    def enter(self, stage: Stage) -> None:
        """Note on disk how far the run got, before it goes on."""
        if self.record is not None and self.record.stage != stage:
            self.record = replace(self.record, stage=stage)
            self.state.store_unfinished(self.record)


def describe(error: BaseException) -> str:
    """Say in words what an exception is."""
    if isinstance(error, BootgraftError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return f"internal error, {type(error).__name__}: {error} (run.log has the details)"


def how_to_go_on(job: Job, run_id: str) -> str:
    """Name the commands that put a guest right that may be half changed."""
    return (
        f"{job.state.command('run', job.target)} again finishes the graft,"
        f" {job.state.command('rollback', job.target, '--run', run_id)} takes it back"
    )
