"""The machine comes back as it was, whatever happens.

Its configuration is captured and on disk before the first change (`safeguarded`); that record is
the only truth for restoring. It is removed when the machine is restored; while it is there, the
machine is not, and `recover` does it. A checkpoint goes once nobody will want to go back to it.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from bootgraft_agent.errors import OccupiedError
from bootgraft_host.job import Deadlines, Job, NotRestoredError, describe, how_to_go_on
from bootgraft_host.machine import (
    Configuration,
    Machine,
    MachineError,
    MachineGoneError,
    NotOursError,
)
from bootgraft_host.runs import StateDirectory, Unfinished
from bootgraft_host.signals import uninterrupted
from bootgraft_host.text import printable

log = logging.getLogger(__name__)


@contextmanager
def safeguarded(job: Job) -> Iterator[None]:
    """Capture the machine's configuration; whatever happens inside, restore the machine."""
    job.step("capture", "store the machine's configuration")
    captured = job.machine.capture()
    job.record = record = Unfinished(
        machine_id=job.machine.machine_id,
        machine_name=job.machine.name,
        target=job.target,
        run_id=job.run.run_id,
        started=job.result.started,
        stage="captured",
        configuration=captured,
    )
    failure: BaseException | None = None
    try:
        job.state.store_unfinished(record)
        yield
    except BaseException as error:
        failure = error
        raise
    finally:
        with uninterrupted():
            _finish(job, failure)


def _finish(job: Job, failure: BaseException | None) -> None:
    record = job.record
    assert record is not None  # noqa: S101 - set by safeguarded
    if job.result.left_running:
        job.result.adapter_kept = record.keeps_adapter
        _settle_checkpoint(job, record)
        job.state.remove_unfinished(record.machine_id)
        return
    if isinstance(failure, OccupiedError):
        command = job.state.command("recover", job.target)
        raise NotRestoredError(
            f"{failure}; {record.machine_name} is left to them, on and with the media in it: when"
            f" they are done, {command} turns it off and restores it"
        ) from failure
    job.step("restore", "leave the machine off and as it was")
    _restore_or_say_what_is_left(job, record, failure)


def settle_earlier_run(job: Job) -> None:
    """Restore the machine after an earlier run that was cut off.

    That is safe while the machine is off. While it runs, it may have been somebody's since:
    raises NotRestoredError, which names the command that turns it off.
    """
    record = job.state.read_unfinished(job.machine.machine_id)
    if record is None:
        return
    if job.machine.state() != "off":
        raise NotRestoredError(
            f"an earlier run ({record.run_id}) of {record.machine_name} was cut off, and the"
            f" machine is on: {job.state.command('recover', job.target)} turns it off and restores"
            " it (if somebody needs what runs there, shut that down first)"
        )
    recover(job, record)


def recover(job: Job, record: Unfinished) -> None:
    """Turn the machine off and restore what an earlier run captured."""
    job.step("recover", f"restore the machine after the run {record.run_id}")
    job.record = record
    with uninterrupted() as interrupts:
        _restore_or_say_what_is_left(job, record, failure=None)
    if interrupts:
        raise KeyboardInterrupt
    if record.stage == "changing":
        job.warn(
            f"the run {record.run_id} was cut off while the guest was being changed: its boot menu"
            " is the old one or the new one, whole;"
            f" {how_to_go_on(job, record.run_id)}"
        )
    job.record = None


def _restore_or_say_what_is_left(
    job: Job, record: Unfinished, failure: BaseException | None
) -> None:
    try:
        restore(
            job.machine,
            record.configuration,
            keep_adapter=record.keeps_adapter,
            deadlines=job.deadlines,
        )
        job.result.adapter_kept = record.keeps_adapter
        _settle_checkpoint(job, record)
        job.state.remove_unfinished(record.machine_id)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - told in words
        raise NotRestoredError(_say_what_is_left(job, record, failure, error)) from (
            failure or error
        )


def _say_what_is_left(
    job: Job, record: Unfinished, failure: BaseException | None, error: BaseException
) -> str:
    words, reason = describe(failure) if failure else "", describe(error)
    if words and words != reason:
        words = f"{words}; {record.machine_name} could not be restored ({reason})"
    elif words:
        words = f"{reason}; for the same reason {record.machine_name} could not be restored"
    else:
        words = f"{record.machine_name} could not be restored ({reason})"
    if isinstance(error, MachineGoneError):
        return f"{words}: {job.state.how_to_forget(record.machine_id)}"
    if isinstance(error, NotOursError):
        return f"{words}: once it is off, {job.state.command('recover', job.target)} restores it"
    return f"{words}: {how_to_restore(job.state, record.machine_name, job.target)}"


def _settle_checkpoint(job: Job, record: Unfinished) -> None:
    """Remove the run's checkpoint, unless the guest may be changed and its boot is not proven."""
    name = record.checkpoint
    if name is None:
        return
    if _may_be_wanted(job, record):
        what = "stays" if record.run_id == job.run.run_id else "may still be there"
    else:
        job.step("remove_checkpoint", "remove the checkpoint")
        try:
            job.machine.remove_checkpoint(name)
        except Exception as error:  # noqa: BLE001 - a checkpoint too many harms nobody
            what = f"may still be there, as its removal failed ({describe(error)})"
        else:
            return
    job.result.checkpoint = name
    job.warn(f"the checkpoint {name} {what}: {job.machine.how_to_use_checkpoint(name)}")


def _may_be_wanted(job: Job, record: Unfinished) -> bool:
    result = job.result
    is_proven = result.confirmation is not None and result.confirmation.proven
    is_unchanged = result.plan is not None and result.plan.already_grafted
    return record.stage != "captured" and not is_proven and not is_unchanged


def restore(
    machine: Machine, captured: Configuration, *, keep_adapter: bool, deadlines: Deadlines
) -> None:
    """Turn the machine off and bring its captured configuration back; tried twice."""
    try:
        _restore_once(machine, captured, keep_adapter=keep_adapter, deadlines=deadlines)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - whatever it was, once more
        log.warning("restoring failed, tried again: %s", printable(describe(error)))
        _restore_once(machine, captured, keep_adapter=keep_adapter, deadlines=deadlines)


def _restore_once(
    machine: Machine, captured: Configuration, *, keep_adapter: bool, deadlines: Deadlines
) -> None:
    """Somebody else's machine stays on: if nothing of ours is in it, it is restored."""
    try:
        turn_off(machine, deadlines)
    except NotOursError as error:
        log.info("%s", printable(str(error)))
        _detach_what_stays_on(machine, captured, error, keep_adapter=keep_adapter)
    else:
        machine.detach(captured, keep_adapter=keep_adapter)


def _detach_what_stays_on(
    machine: Machine, captured: Configuration, reason: NotOursError, *, keep_adapter: bool
) -> None:
    try:
        machine.detach(captured, keep_adapter=keep_adapter)
    except MachineGoneError:
        raise
    except MachineError as error:
        raise NotOursError(f"{error}; {reason}") from error


def how_to_restore(state: StateDirectory, name: str, target: str) -> str:
    """Name the command that restores a machine."""
    return (
        f"{name} may still be on, with the media in it and its hardware changed;"
        f" {state.command('recover', target)} turns it off and restores it"
    )


def turn_off(machine: Machine, deadlines: Deadlines) -> None:
    """Cut the machine's power, unless it is off. Raises MachineError when it stays on."""
    if machine.state() == "off":
        return
    machine.turn_off()
    if not machine.wait_off(deadlines.turn_off):
        raise MachineError(
            f"{machine.name} is still on {deadlines.turn_off:.0f} s after its power was cut"
        )
