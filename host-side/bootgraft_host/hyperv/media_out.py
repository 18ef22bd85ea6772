"""The ISOs that somebody put in by hand, out of a machine of a Hyper-V host."""

from bootgraft_host.hyperv.apply import HeldError, make_changes
from bootgraft_host.hyperv.changes import Changes, plan_changes, wanted_without_media
from bootgraft_host.hyperv.description import VmDescription
from bootgraft_host.hyperv.marks import find_foreign_mark
from bootgraft_host.hyperv.preflight import explain_mark
from bootgraft_host.hyperv.vm import Vm


def take_media_out(vm: Vm) -> tuple[str, ...]:
    """Empty the DVD drives, CD last; say in words what was changed.

    Raises HeldError where a run holds the machine.
    """
    said: dict[str, None] = {}

    def plan(now: VmDescription) -> Changes:
        mark = find_foreign_mark(now.notes, token=None)
        if mark is not None:
            raise HeldError(explain_mark(now, mark))
        changes = plan_changes(now, wanted_without_media(now))
        said.update(dict.fromkeys(changes.describe()))
        return changes

    make_changes(vm, plan)
    return tuple(said)
