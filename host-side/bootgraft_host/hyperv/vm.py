"""One virtual machine on its host: the scripts that are about it, and their answers.

What only reads is tried again where the host does not answer. What changes something is not: the
caller looks first whether it was done.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from bootgraft_agent.wire import JSON
from bootgraft_host.hyperv.changes import Changes
from bootgraft_host.hyperv.description import Slot, VmDescription, parse_description
from bootgraft_host.hyperv.host_files import Answer
from bootgraft_host.hyperv.runner import (
    DEFAULT_TIMEOUT,
    HostError,
    Runner,
    ScriptError,
    UnreachableError,
)
from bootgraft_host.machine import MachineGoneError

READ_PAUSES = (1.0, 2.0, 4.0)  # seconds before a read is tried again
POLL_INTERVAL = 1.0  # seconds between two looks at a machine's state
POWER_TIMEOUT = 300.0  # seconds to start a machine or to cut its power, on a busy host
CHECKPOINT_TIMEOUT = 900.0  # seconds
OFF = "Off"

_Result = TypeVar("_Result")

log = logging.getLogger(__name__)


class GoneError(HostError, MachineGoneError):
    """The host does not have the machine any more."""


@dataclass(frozen=True, slots=True)
class VmState:
    """How a machine is; `heartbeat` is empty where the host does not tell."""

    state: str
    heartbeat: str


@dataclass(frozen=True, slots=True)
class FoundVm:
    """A machine in the host's list."""

    id: str
    name: str
    generation: int
    state: str


def find_vms(runner: Runner) -> tuple[FoundVm, ...]:
    """List all machines of a host. Raises HostError."""
    answers = _read(runner, "find", {})
    found = (Answer(answer, "find", runner.host) for answer in answers)
    return tuple(
        FoundVm(
            id=each.text("Id").lower(),
            name=each.text("Name"),
            generation=each.number("Generation"),
            state=each.text("State"),
        )
        for each in found
    )


def _read(
    runner: Runner,
    script: str,
    asked: Mapping[str, JSON],
    pauses: Sequence[float] | None = None,
) -> list[Mapping[str, JSON]]:
    return persist(lambda: runner.run(script, asked), pauses)


def persist(work: Callable[[], _Result], pauses: Sequence[float] | None = None) -> _Result:
    """Do what may be done twice; where the host does not answer, do it again after each pause."""
    for pause in READ_PAUSES if pauses is None else pauses:
        try:
            return work()
        except UnreachableError as error:
            log.info("%s; tried again in %.0f s", error, pause)
            time.sleep(pause)
    return work()


def attempt(change: Callable[[], None]) -> bool:
    """Make a change; False where the answer was lost, and it must be looked whether it was done."""
    try:
        change()
    except UnreachableError as error:
        log.info("%s; looking whether it was done", error)
        return False
    return True


class Vm:
    """The machine with that Id, whatever its name. Whatever fails raises HostError."""

    def __init__(self, runner: Runner, vm_id: str) -> None:
        self._runner = runner
        self._generation: int | None = None
        self.id = vm_id

    def describe(self) -> VmDescription:
        """Read all that there is to know."""
        if self._generation is None:
            self._generation = self._describe(with_bios=False).generation
        return self._describe(with_bios=self._generation == 1)

    def _describe(self, *, with_bios: bool) -> VmDescription:
        return parse_description(self._read_one("describe", {"WithBios": with_bios}))

    def read_state(self, *, patient: bool = True) -> VmState:
        """Read how it is just now; not `patient`, once and without waiting for the host."""
        found = self._read_one("state", {}, None if patient else ())
        answer = Answer(found, "state", self._runner.host)
        return VmState(answer.text("State"), answer.text("Heartbeat"))

    def change(self, changes: Changes) -> None:
        """Make changes; the machine is off."""
        self._run("change", changes.to_request(self.id))

    def replace_notes(self, before: str, notes: str) -> None:
        """Replace the notes, unless they are not as before any more."""
        self._run("mark", {"Before": before, "Notes": notes})

    def insert(self, slot: Slot, path: str) -> None:
        """Put an ISO into a DVD drive, also while the machine runs."""
        drive: dict[str, JSON] = {
            "ControllerNumber": slot.controller_number,
            "ControllerLocation": slot.controller_location,
        }
        self._run("insert", {**drive, "Path": path})

    def start(self) -> None:
        """Switch it on."""
        self._run("start", {}, POWER_TIMEOUT)

    def turn_off(self) -> None:
        """Cut its power; a saved state is given up."""
        self._run("turn-off", {}, POWER_TIMEOUT)

    def take_checkpoint(self, name: str) -> None:
        """Make a checkpoint."""
        self._run("checkpoint", {"Name": name}, CHECKPOINT_TIMEOUT)

    def remove_checkpoint(self, checkpoint_id: str) -> None:
        """Remove a checkpoint."""
        self._run("remove-checkpoint", {"CheckpointId": checkpoint_id}, CHECKPOINT_TIMEOUT)

    def _read_one(
        self, script: str, asked: Mapping[str, JSON], pauses: Sequence[float] | None = None
    ) -> Mapping[str, JSON]:
        try:
            answers = _read(self._runner, script, {"Id": self.id, **asked}, pauses)
        except ScriptError as error:
            raise self._explain(error) from error
        if len(answers) != 1:
            raise HostError(
                f"{script} on {self._runner.host} answered with {len(answers)} objects; one was"
                " expected"
            )
        return answers[0]

    def _run(
        self, script: str, asked: Mapping[str, JSON], timeout: float = DEFAULT_TIMEOUT
    ) -> None:
        try:
            self._runner.run(script, {"Id": self.id, **asked}, timeout=timeout)
        except ScriptError as error:
            raise self._explain(error) from error

    def _explain(self, error: ScriptError) -> HostError:
        """Say that the machine is gone, where it is: the script's own words may be in any language.

        The list of machines says so for certain.
        """
        if any(found.id == self.id for found in find_vms(self._runner)):
            return error
        return GoneError(
            f"{self._runner.host} has no machine with the Id {self.id} any more: it was deleted or"
            " moved (if it was moved, name its new host, as in"
            f" `bootgraft recover hyperv://HOST/{self.id}`)"
        )


class PowerWatch:
    """Says whether a machine is on; asks seldom, and takes an unreachable host for a yes."""

    def __init__(self, vm: Vm) -> None:
        self._vm = vm
        self._is_on = True
        self._next_look = 0.0

    def __call__(self) -> bool:
        """Whether the machine is on, as far as that is known."""
        if time.monotonic() >= self._next_look:
            try:
                self._is_on = self._vm.read_state(patient=False).state != OFF
            except HostError as error:
                log.info("%s", error)
                self._is_on = True
            self._next_look = time.monotonic() + POLL_INTERVAL
        return self._is_on
