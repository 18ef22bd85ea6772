"""Changing a machine: look, plan, change, and look again until nothing is left to do.

So a change whose answer was lost is not made twice, and one that was cut short is finished. A
machine is changed only while it is off, and, but for its restoring, only by whoever holds its mark.
"""

import logging
from collections.abc import Callable
from functools import partial

from bootgraft_agent.errors import RefusedError
from bootgraft_host.hyperv.changes import Changes
from bootgraft_host.hyperv.description import VmDescription
from bootgraft_host.hyperv.marks import (
    Mark,
    find_foreign_mark,
    find_own_mark,
    with_mark,
    without_mark,
)
from bootgraft_host.hyperv.preflight import describe_state, explain_mark
from bootgraft_host.hyperv.runner import ScriptError, UnreachableError
from bootgraft_host.hyperv.vm import OFF, Vm, attempt
from bootgraft_host.machine import MachineError, NotOursError

MAX_ROUNDS = 4  # of changes; adapters need two
MAX_CUTS = 3  # of changes whose answer was lost

Plan = Callable[[VmDescription], Changes]  # raises MachineError where it objects

log = logging.getLogger(__name__)


class HeldError(NotOursError, RefusedError):
    """Another run holds the machine, or somebody has taken it from this one."""


def require_off(description: VmDescription) -> None:
    """Raise MachineError where a machine cannot be changed."""
    if description.state != OFF:
        raise MachineError(f"cannot change {description.name}: it {describe_state(description)}")


def require_no_other(description: VmDescription, token: str) -> None:
    """Raise HeldError where another run's mark is in a machine's notes, and ours is not."""
    other = find_foreign_mark(description.notes, token)
    if other is not None and find_own_mark(description.notes, token) is None:
        raise HeldError(explain_mark(description, other))


def take_mark(vm: Vm, mark: Mark) -> None:
    """Put a mark into a machine's notes, and see it there. Raises HeldError where another's is.

    The notes are replaced only if they are still what was read, all on the host. What is between
    its two commands, a few milliseconds, is left: so whoever makes a change looks for the mark.
    """
    for _ in range(1 + MAX_CUTS):
        description = vm.describe()
        other = find_foreign_mark(description.notes, mark.token)
        if other is not None:
            raise HeldError(explain_mark(description, other))
        if find_own_mark(description.notes, mark.token) == mark:
            return
        require_off(description)
        notes = with_mark(description.notes, mark)
        attempt(partial(vm.replace_notes, description.notes, notes))
    raise MachineError(f"the mark {mark.line!r} does not stay in the notes of {description.name}")


def require_mark(description: VmDescription, mark: Mark) -> None:
    """Raise HeldError where the mark is not in the machine's notes any more."""
    if find_own_mark(description.notes, mark.token) is None:
        other = find_foreign_mark(description.notes, mark.token)
        if other is not None:
            raise HeldError(explain_mark(description, other))
        raise HeldError(
            f"somebody has removed the mark of this run from {description.name}'s notes"
        )


def remove_mark(vm: Vm, token: str) -> None:
    """Take a mark out of a machine's notes; the rest of them stays. Idempotent."""
    for _ in range(1 + MAX_CUTS):
        description = vm.describe()
        if find_own_mark(description.notes, token) is None:
            return
        notes = without_mark(description.notes, token)
        attempt(partial(vm.replace_notes, description.notes, notes))
    raise MachineError(f"the mark {token} cannot be taken out of the notes of {description.name}")


def make_changes(vm: Vm, plan: Plan, *, advice: str = "") -> None:
    """Make the planned changes until there are none.

    Raises MachineError, which says what is left to do, with `advice` where that is an ISO.
    """
    rounds, cuts = 0, 0
    failed: tuple[Changes, ScriptError] | None = None
    while True:
        description = vm.describe()
        changes = plan(description)
        if not changes:
            return
        require_off(description)
        if failed is not None and changes == failed[0]:
            raise _unfinished(description, changes, str(failed[1]), advice) from failed[1]
        if rounds == MAX_ROUNDS:
            reason = f"it has not become so in {rounds} attempts"
            raise _unfinished(description, changes, reason, advice)
        try:
            vm.change(changes)
        except ScriptError as error:  # it may have come far, or another such may still be at work
            failed = changes, error
        except UnreachableError as error:
            cuts += 1
            if cuts > MAX_CUTS:
                raise
            log.info("%s; looking what was done", error)
            continue
        rounds += 1


def _unfinished(
    description: VmDescription, changes: Changes, reason: str, advice: str
) -> MachineError:
    left = ", ".join(changes.describe())
    more = f" ({advice})" if advice and changes.insert else ""
    return MachineError(f"{description.name} is not as wanted: {reason}; left to do: {left}{more}")
