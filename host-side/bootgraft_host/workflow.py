"""Whole runs, composed of steps.

::

    run       (payload)  preflight  capture  (upload)  (checkpoint)  attach  boot  handshake
              (exchange)  inspect  plan  apply  power_off  detach  confirm  restore
              (remove_checkpoint)
    inspect   ... inspect  power_off  restore
    rollback  ... rollback  power_off  restore
    confirm   capture  confirm  restore
    recover   restore, from the record of an earlier run

Steps in brackets are done where they were asked for. Whatever goes wrong is in the result.
RefusedError is raised where another controller works on the machine; MachineError, or
NotRestoredError with a record that is left, where that cannot be found out.
"""

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from bootgraft_agent.errors import BootgraftError, ChangesLeftError, RefusedError
from bootgraft_host.confirm import confirm, require_com1
from bootgraft_host.job import Job, NotRestoredError, Setup, UnprovenError, describe
from bootgraft_host.machine import MachineError, Media
from bootgraft_host.recipes import Chosen
from bootgraft_host.restore import how_to_restore, recover, safeguarded, settle_earlier_run
from bootgraft_host.results import DONE, Command, Outcome, RunResult
from bootgraft_host.runs import DamagedRecordError, utc_now
from bootgraft_host.signals import uninterrupted
from bootgraft_host.steps import (
    attach,
    detach,
    graft,
    inspect,
    live_system,
    make_plan,
    payload,
    power_off,
    preflight,
    rollback,
    take_checkpoint,
    upload,
)
from bootgraft_host.text import printable

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GraftOrder:
    """What `run` is to do."""

    media: Media
    options: Mapping[str, str] = field(default_factory=dict)
    recipes: Sequence[Chosen] = ()  # what the payload is made of; none: it is what it is
    dry_run: bool = False
    expect: re.Pattern[str] | None = None
    leave_running: bool = False
    checkpoint: bool = False


def run_graft(setup: Setup, order: GraftOrder) -> RunResult:
    """Graft the machine's guest and prove its boot."""

    def work(job: Job) -> None:
        settle_earlier_run(job)
        require_com1(job, order.expect, leave_running=order.leave_running)
        keep = order.checkpoint and not order.dry_run
        with (
            payload(job, order.media, order.recipes) as media,
            _prepared(job, media, checkpoint=keep, can_checkpoint=order.checkpoint) as prepared,
        ):
            with live_system(job, prepared) as client:
                plan = make_plan(job, client, order.options)
                if not order.dry_run:
                    graft(job, client, order.options, plan)
                power_off(job, client)
            if job.result.applied is not None:
                detach(job)
                confirm(job, order.expect, leave_running=order.leave_running)

    return _perform("run", setup, work)


def run_inspect(
    setup: Setup, media: Media, options: Mapping[str, str], recipes: Sequence[Chosen] = ()
) -> RunResult:
    """Look at the machine's guest, change nothing."""

    def work(job: Job) -> None:
        settle_earlier_run(job)
        with (
            payload(job, media, recipes) as with_payload,
            _prepared(job, with_payload) as prepared,
            live_system(job, prepared) as client,
        ):
            inspect(job, client, options)
            power_off(job, client)

    return _perform("inspect", setup, work)


def run_rollback(
    setup: Setup, media: Media, options: Mapping[str, str], run_id: str | None
) -> RunResult:
    """Take a graft back in the machine's guest; the machine's configuration stays as it is."""

    def work(job: Job) -> None:
        settle_earlier_run(job)
        with _prepared(job, media) as prepared, live_system(job, prepared) as client:
            rollback(job, client, options, run_id)
            power_off(job, client)

    return _perform("rollback", setup, work)


def run_confirm(
    setup: Setup, expect: re.Pattern[str] | None, *, leave_running: bool = False
) -> RunResult:
    """Boot a machine that is grafted already, to prove it."""

    def work(job: Job) -> None:
        settle_earlier_run(job)
        require_com1(job, expect, leave_running=leave_running)
        if job.machine.state() != "off":
            raise RefusedError(f"{job.machine.name} is not off: its boot is proven from power-on")
        with safeguarded(job):
            confirm(job, expect, leave_running=leave_running)

    return _perform("confirm", setup, work)


def run_recover(setup: Setup) -> RunResult:
    """Finish what an earlier run's controller could not: machine off, media out, as captured."""

    def work(job: Job) -> None:
        record = job.state.read_unfinished(job.machine.machine_id)
        if record is None:
            held = job.machine.held_by_others()
            if held is not None:
                raise RefusedError(f"there is no record here of the run that is meant: {held}")
            job.result.machine_name = job.machine.name
            job.result.message = f"{job.machine.name} has no unfinished run"
        else:
            job.result.machine_name = record.machine_name
            recover(job, record)

    return _perform("recover", setup, work)


@contextmanager
def _prepared(
    job: Job, media: Media, *, checkpoint: bool = False, can_checkpoint: bool = False
) -> Iterator[Media]:
    """Have the machine ready to boot the live system from these media; restore it afterwards.

    `can_checkpoint` asks that a checkpoint can be taken, even where none is, as in a dry run.
    """
    preflight(job, media, checkpoint=can_checkpoint)
    with safeguarded(job):
        media = upload(job, media)
        if checkpoint:
            take_checkpoint(job)
        attach(job, media)
        yield media


def _perform(command: Command, setup: Setup, work: Callable[[Job], None]) -> RunResult:
    """Do the work under the machine's lock; turn whatever comes out of it into a result."""
    machine = setup.machine
    with setup.state.locked(machine.machine_id), _claimed(setup):
        run = setup.state.create_run(machine.name)
        result = RunResult(command, run.run_id, run.directory, machine.machine_id, machine.name)
        job = Job(setup, run, result)
        with run.logging():
            try:
                work(job)
            except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - becomes the result
                _note_failure(job, error)
            else:
                _note_success(job)
            with uninterrupted():
                _store_result(job)
        return result


@contextmanager
def _claimed(setup: Setup) -> Iterator[None]:
    """Hold the machine's claim; where it cannot be had, say so of a record that is left, too."""
    machine, state = setup.machine, setup.state
    with ExitStack() as claim:
        try:
            claim.enter_context(machine.claim())
        except MachineError as error:
            record = state.read_unfinished(machine.machine_id)
            if record is None:
                raise
            raise NotRestoredError(
                f"{error}; {how_to_restore(state, record.machine_name, machine.target)}"
            ) from error
        yield


def _store_result(job: Job) -> None:
    job.result.finished = utc_now().isoformat()
    try:
        job.run.write_result(job.result.to_document())
    except OSError as error:
        job.warn(f"result.json could not be written: {error}")


def _note_success(job: Job) -> None:
    result = job.result
    result.exit_status = 0
    result.outcome = DONE[result.command]
    if result.plan is not None and result.applied is None:
        result.outcome = "already-grafted" if result.plan.already_grafted else "planned"


def _note_failure(job: Job, error: BaseException) -> None:
    """Say what went wrong, and what that means for the guest and the machine."""
    log.error("%s", printable(describe(error)), exc_info=error)
    result = job.result
    result.message = describe(error)
    result.machine_restored = _is_restored(job)
    if result.machine_restored and result.rolled_back is not None:
        job.warn(f"after the rollback: {result.message}")
        result.message = ""
        _note_success(job)
        return
    result.exit_status = _judge(job, error)
    outcomes: dict[int, Outcome] = {2: "invalid", 3: "left", 4: "unproven"}
    default: Outcome = "refused" if isinstance(error, RefusedError) else "failed"
    result.outcome = outcomes.get(result.exit_status, default)
    if not result.machine_restored and not isinstance(error, NotRestoredError | DamagedRecordError):
        how = how_to_restore(job.state, result.machine_name, job.target)
        result.message += f"; {how}"


def _judge(job: Job, error: BaseException) -> int:
    if not job.result.machine_restored or isinstance(error, NotRestoredError | ChangesLeftError):
        return 3
    if job.stage == "grafted":
        return UnprovenError.exit_status
    return error.exit_status if isinstance(error, BootgraftError) else 1


def _is_restored(job: Job) -> bool:
    try:
        return job.state.read_unfinished(job.machine.machine_id) is None
    except (BootgraftError, OSError):
        return False
