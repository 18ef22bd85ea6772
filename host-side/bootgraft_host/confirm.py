"""The last step: the machine boots from its own disk, and the guest's own words prove it.

Nothing at all is sent on the serial line, as one stray byte stops a boot loader that listens
there; and only what came after this power-on counts.
"""

import codecs
import re
import time

from bootgraft_agent.errors import RefusedError
from bootgraft_host.client import Deadline, Line
from bootgraft_host.job import Job, UnprovenError
from bootgraft_host.results import Confirmation
from bootgraft_host.screens import ScreenWatch

CONSOLE_TEXT_LIMIT = 256 * 1024  # characters of COM1's text that --expect looks at
READ_INTERVAL = 0.5  # seconds


def require_com1(job: Job, expect: re.Pattern[str] | None) -> None:
    """Refuse, before anything is changed, to expect words of a guest that has no COM1."""
    if expect is not None and not job.machine.has_com1():
        raise RefusedError(
            f"{job.machine.name} has no COM1 on which --expect could match: give it one, or leave"
            " --expect out, and the boot is shown and not proven"
        )


def confirm(job: Job, expect: re.Pattern[str] | None, *, leave_running: bool) -> None:
    """Boot the machine and wait for what proves the boot; keep pictures of it.

    Raises UnprovenError when `expect` does not match in time, or the machine turns off; without
    `expect` the boot is shown for a while, not proven.
    """
    job.step("confirm", "boot the machine from its own disk")
    deadline = Deadline(job.deadlines.confirm if expect else job.deadlines.watch)
    started = time.monotonic()
    job.machine.start()
    screens = ScreenWatch(job.machine, job.run, job.warn)
    try:
        evidence = _listen(job, expect, deadline, screens)
    finally:
        screens.take("guest")
    job.result.confirmation = Confirmation(
        proven=bool(evidence),
        evidence=evidence,
        seconds=time.monotonic() - started,
        pictures=screens.pictures,
    )
    if not evidence and not deadline.is_over:
        raise UnprovenError("the machine turned off by itself while it booted from its own disk")
    if not evidence and expect is not None:
        raise UnprovenError(
            f"nothing on COM1 matched {expect.pattern!r} within {deadline.timeout:.0f} s"
        )
    job.result.left_running = leave_running


def _listen(
    job: Job, expect: re.Pattern[str] | None, deadline: Deadline, screens: ScreenWatch
) -> tuple[str, ...]:
    if not job.machine.has_com1():
        return _watch(job, deadline, screens)
    transcript = job.run.open_transcript("console-confirm")
    try:
        link = job.machine.open_serial(job.deadlines.serial, transcript=transcript)
        try:
            return _await_evidence(link, expect, deadline, screens)
        finally:
            link.close()
    finally:
        transcript.close()


def _watch(job: Job, deadline: Deadline, screens: ScreenWatch) -> tuple[str, ...]:
    """Look at the screen alone while the machine is on; that proves nothing."""
    while not deadline.is_over and job.machine.state() != "off":
        screens.look()
        time.sleep(min(READ_INTERVAL, deadline.left))
    return ()


def _await_evidence(
    line: Line, expect: re.Pattern[str] | None, deadline: Deadline, screens: ScreenWatch
) -> tuple[str, ...]:
    """Give the lines that `expect` matched; none when the time is up or the line ended.

    A line that is not whole yet counts only when nothing follows for READ_INTERVAL.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = ""
    while not deadline.is_over:
        data = line.read(min(READ_INTERVAL, deadline.left))
        screens.look()
        text = (text + decoder.decode(data)).replace("\r\n", "\n")[-CONSOLE_TEXT_LIMIT:]
        settled = text[: text.rfind("\n") + 1] if data else text
        if expect is not None and (match := expect.search(settled)):
            return _find_lines(match)
        if not data and line.ended:
            break
    return ()


def _find_lines(match: re.Match[str]) -> tuple[str, ...]:
    """Give the whole lines that a match touches."""
    start = match.string.rfind("\n", 0, match.start()) + 1
    end = match.string.find("\n", match.end())
    return tuple(match.string[start : end if end >= 0 else None].split("\n"))
