"""`bootgraft detach VM…`: after unattended runs, the ISOs out of any number of machines."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Protocol

import click
from rich.console import Console

from bootgraft_agent.errors import BootgraftError, RefusedError
from bootgraft_agent.wire import JSON
from bootgraft_host.client import Deadline
from bootgraft_host.job import NotRestoredError
from bootgraft_host.machine import Machine
from bootgraft_host.options import common_options, open_state
from bootgraft_host.report import print_message
from bootgraft_host.restore import how_to_restore
from bootgraft_host.runs import StateDirectory, encode_document
from bootgraft_host.targets import absolute_target
from bootgraft_host.text import printable

LONGEST_WAIT = 7 * 24 * 3600  # seconds


class Shared(Protocol):
    """What is used of the command line's settings."""

    @property
    def machine_for(self) -> Callable[[str], Machine]:
        """Open the machine that VM names."""

    @property
    def out(self) -> Console:
        """For results."""

    @property
    def err(self) -> Console:
        """For what went wrong."""


@click.command(
    epilog="""\b
Exit status:
  0  every machine has its media out
  1  a machine is on, or could not be changed
  2  invalid request
  3  a machine is not restored after a run that was cut off
"""
)
@click.argument("vms", metavar="VM...", nargs=-1, required=True)
@click.option(
    "--wait",
    type=click.FloatRange(0, LONGEST_WAIT),
    default=0.0,
    metavar="SECONDS",
    help="Wait for machines that are still on to switch themselves off.  [default: do not wait]",
)
@common_options
@click.pass_obj
def detach(
    shared: Shared,
    /,
    vms: Sequence[str],
    wait: float,
    state_dir: Path | None,
    as_json: bool,
) -> int:
    """Take the ISOs out of the machines VM..., and let their disks boot first.

    That is for machines whose ISOs were put in by hand, for the unattended mode or the manual
    console: every DVD drive is emptied, nothing else is changed. A machine that cannot be changed
    is named, and the others are done all the same.
    """
    state = open_state(state_dir)
    deadline = Deadline(wait)
    documents: list[Mapping[str, JSON]] = []
    status = 0
    for vm in vms:
        try:
            name, changes = _take_out(shared.machine_for, vm, state, deadline)
            documents.append({"vm": vm, "name": name, "exit_status": 0, "changes": list(changes)})
            if not as_json:
                words = "; ".join(changes) or "no ISO was in it, and its disk boots first"
                shared.out.print(f"{name}: {printable(words)}", markup=False, highlight=False)
        except (BootgraftError, OSError) as error:
            failure = error.exit_status if isinstance(error, BootgraftError) else 1
            status = max(status, failure)
            documents.append({"vm": vm, "exit_status": failure, "message": str(error)})
            print_message(f"{vm}: {error}", shared.err)
    if as_json:
        document = encode_document({"format": 1, "exit_status": status, "machines": documents})
        shared.out.print(document.decode("ascii"), end="")
    return status


def _take_out(
    machine_for: Callable[[str], Machine], vm: str, state: StateDirectory, deadline: Deadline
) -> tuple[str, tuple[str, ...]]:
    """Take the media out of one machine; give its name, and in words what was changed."""
    target = absolute_target(vm)
    with (
        closing(machine_for(target)) as machine,
        state.locked(machine.machine_id),
        machine.claim(),
    ):
        record = state.read_unfinished(machine.machine_id)
        if record is not None:
            raise NotRestoredError(
                f"a run of it was cut off; {how_to_restore(state, record.machine_name, target)}"
            )
        if machine.state() != "off" and not machine.wait_off(deadline.left):
            raise RefusedError(
                f"{machine.name} is on: its media are taken out once it is off; --wait SECONDS"
                " waits for that"
            )
        return machine.name, machine.take_media_out()
