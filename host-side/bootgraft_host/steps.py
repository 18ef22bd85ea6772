"""The steps of a run that prepare the machine and work with the agent in it.

Plain functions, each with its deadline; each may be done again.
"""

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from bootgraft_agent.errors import (
    BootgraftError,
    ChangesLeftError,
    InvalidRequestError,
    OccupiedError,
    RefusedError,
)
from bootgraft_agent.wire import JSON
from bootgraft_host.client import MAX_RESTARTS, Client, Line, SilenceError
from bootgraft_host.job import Job, describe, how_to_go_on
from bootgraft_host.machine import Media
from bootgraft_host.recipes import SHIM, Chosen, make_payload_iso
from bootgraft_host.replies import (
    Plan,
    ReplyError,
    parse_applied,
    parse_inspection,
    parse_plan,
    parse_rolled_back,
)
from bootgraft_host.restore import turn_off
from bootgraft_host.screens import ScreenWatch
from bootgraft_host.signals import interruptible
from bootgraft_host.text import printable

log = logging.getLogger(__name__)


def preflight(job: Job, media: Media, *, checkpoint: bool) -> None:
    """Refuse, before anything is changed, what could not be done. Raises RefusedError."""
    job.step("preflight", "check the machine and the media")
    problems = list(job.machine.problems(media))
    job.result.machine_name = job.machine.name  # one that was named by its Id has told its name
    if checkpoint and not job.machine.can_checkpoint():
        problems.append("no checkpoint of it can be taken: leave --checkpoint out")
    if problems:
        raise RefusedError(f"{job.machine.name} is not ready: " + "; ".join(problems))
    for remark in job.machine.remarks(media):
        job.warn(remark)


@contextmanager
def payload(job: Job, media: Media, recipes: Sequence[Chosen]) -> Iterator[Media]:
    """Have the payload ISO made of recipes meanwhile, in the run's directory; none: as it is."""
    if not recipes:
        yield media
        return
    job.step("payload", f"make a payload of {', '.join(each.name for each in recipes)}")
    iso = job.run.directory / "payload.iso"
    try:
        with tempfile.TemporaryDirectory(dir=job.run.directory) as scratch:
            make_payload_iso(recipes, media.payload_iso, iso, Path(scratch))
        yield replace(media, payload_iso=iso)
    finally:
        iso.unlink(missing_ok=True)  # it may hold secrets


def upload(job: Job, media: Media) -> Media:
    """Have the media where the machine can read them; give their paths there."""
    if media.upload:
        job.step("upload", "copy the ISOs to the machine's host")
    return job.machine.prepare_media(media, job.event)


def take_checkpoint(job: Job) -> None:
    """Keep the machine as it is; the record knows of it before it is made."""
    job.step("checkpoint", "take a checkpoint of the machine")
    assert job.record is not None  # noqa: S101 - this is called within safeguarded
    name = f"bootgraft {job.run.run_id}"
    job.record = replace(job.record, checkpoint=name)
    job.state.store_unfinished(job.record)
    job.machine.take_checkpoint(name)


def attach(job: Job, media: Media) -> None:
    """Put the media in, DVD first, COM1 to us."""
    job.step("attach", "attach the media and COM1, with the DVD first")
    job.machine.attach(media)


@contextmanager
def live_system(job: Job, media: Media) -> Iterator[Client]:
    """Boot the live system and meet the agent in it, with the payload in its drive."""
    job.step("boot", "start the live system")
    job.machine.start()
    transcript = job.run.open_transcript("console")
    try:
        link = job.machine.open_serial(job.deadlines.serial, transcript=transcript)
        try:
            client = handshake(job, link)
            if media.one_drive and media.payload_iso is not None:
                exchange(job, media)
            yield client
        finally:
            link.close()
    finally:
        transcript.close()


def handshake(job: Job, line: Line) -> Client:
    """Wait for the agent's HELLO and answer it; without one, keep a picture of the screen."""
    job.step("handshake", "wait for the agent")
    client = Client(
        line,
        on_event=job.event,
        silence=job.deadlines.silence,
    )
    try:
        job.result.agent = client.await_hello(job.deadlines.hello)
    except SilenceError:
        if not line.ended:
            ScreenWatch(job.machine, job.run, job.warn).take("no-hello")
        raise
    return client


def exchange(job: Job, media: Media) -> None:
    """Put the payload where the live ISO was, which the live system does not need any more."""
    job.step("exchange", "exchange the live ISO for the payload")
    job.machine.insert_payload(media)


def inspect(job: Job, client: Client, options: Mapping[str, str]) -> None:
    """Have the agent look at the guest."""
    job.step("inspect", "look at the guest's disks")
    reply = client.request("inspect", options, job.deadlines.request)
    job.result.inspection = parse_inspection(reply)


def make_plan(job: Job, client: Client, options: Mapping[str, str]) -> Plan:
    """Have the agent look at the guest and plan the graft."""
    inspect(job, client, options)
    job.step("plan", "plan the graft")
    plan = parse_plan(client.request("plan", options, job.deadlines.request))
    job.result.plan = plan
    if job.record is not None:
        job.record = replace(job.record, legacy_adapter=SHIM in plan.recipe_names)
    job.result.files = job.run.save_texts((), plan.diffs)
    return plan


def graft(job: Job, client: Client, options: Mapping[str, str], plan: Plan) -> None:
    """Apply the plan, unless the guest is grafted already."""
    if plan.already_grafted:
        job.enter("grafted")
    else:
        apply(job, client, options, plan)


def apply(job: Job, client: Client, options: Mapping[str, str], plan: Plan) -> None:
    """Have the agent carry out that very plan, and verify it."""
    job.step("apply", f"carry out the plan's {len(plan.steps)} steps")
    asked: dict[str, JSON] = {
        **options,
        "plan_sha256": plan.sha256,
        "run_id": job.run.run_id,
    }
    with _changing(job, client, how_to_go_on(job, job.run.run_id)):
        applied = parse_applied(_ask_for_change(job, client, "apply", asked))
        if applied.run_id != job.run.run_id:
            raise ReplyError(f"the agent's reply to apply is for another run, {applied.run_id!r}")
    job.result.applied = applied
    job.enter("grafted")
    job.result.files = job.run.save_texts(applied.texts, applied.diffs)
    _stop_if_interrupted(job)


def rollback(job: Job, client: Client, options: Mapping[str, str], run_id: str | None) -> None:
    """Have the agent bring every file back as it was before a graft; the last, without `run_id`.

    Once that has been taken back, another run is the last: so it is asked for no more than once.
    """
    job.step("rollback", "bring the guest's files back")
    asked = {**options, **({} if run_id is None else {"run_id": run_id})}
    max_restarts = 0 if run_id is None else MAX_RESTARTS
    with _changing(job, client, _how_to_finish_rollback(job, run_id)):
        reply = _ask_for_change(job, client, "rollback", asked, max_restarts)
        job.result.rolled_back = parse_rolled_back(reply)
    job.enter("captured")
    _stop_if_interrupted(job)


def _how_to_finish_rollback(job: Job, run_id: str | None) -> str:
    """Name the command that finishes a rollback and does nothing where it was finished."""
    command = job.state.command("rollback", job.target, "--run", run_id or "RUN")
    if run_id is not None:
        return f"{command} again finishes it"
    return (
        f"{command}, with the graft's run as RUN, finishes it; without --run it would take back an"
        " older graft if this one is gone already"
    )


def _ask_for_change(
    job: Job,
    client: Client,
    request: str,
    options: Mapping[str, JSON],
    max_restarts: int = MAX_RESTARTS,
) -> Mapping[str, JSON]:
    """Ask for a change of the guest; when interrupted, let the agent end it in order."""
    timeout = job.deadlines.request
    try:
        return client.request(request, options, timeout, max_restarts=max_restarts)
    except KeyboardInterrupt:
        job.interrupted = True
        job.warn("interrupted; the agent is asked to stop (a second interrupt cuts the power)")
        with interruptible():
            return client.abort(request, job.deadlines.abort)


def _stop_if_interrupted(job: Job) -> None:
    if job.interrupted:
        raise KeyboardInterrupt


@contextmanager
def _changing(job: Job, client: Client, advice: str) -> Iterator[None]:
    """Have on record that the guest may be changed; without a clear answer, say just that.

    A refusal is a clear answer, unless the agent was started anew meanwhile: it does not know then
    what it had changed before.
    """
    job.enter("changing")
    try:
        yield
    except ChangesLeftError:
        raise
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, RefusedError | InvalidRequestError) and not client.restarted:
            job.enter("captured")
            raise
        raise ChangesLeftError(
            f"{describe(error)}; whether the guest is changed is not known, its boot menu is the"
            f" old one or the new one, whole: {advice}"
        ) from error


def power_off(job: Job, client: Client) -> None:
    """Have the live system turn itself off; cut its power if it does not."""
    job.step("power_off", "shut the live system down")
    try:
        client.request("power_off", {}, job.deadlines.power_off)
    except OccupiedError:
        raise
    except BootgraftError as error:
        log.info("power_off: %s", printable(str(error)))
    if not job.machine.wait_off(job.deadlines.power_off):
        job.warn(
            f"the live system did not turn itself off within {job.deadlines.power_off:.0f} s;"
            " its power was cut"
        )
        turn_off(job.machine, job.deadlines)


def detach(job: Job) -> None:
    """Take the media out after a graft; a shim's guest has a legacy adapter from here on."""
    job.step("detach", "detach the media and restore the hardware")
    assert job.record is not None  # noqa: S101 - detach is called within safeguarded
    job.machine.detach(job.record.configuration, keep_adapter=job.record.keeps_adapter)
