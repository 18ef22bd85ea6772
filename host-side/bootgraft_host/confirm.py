"""The last step: the machine boots from its own disk, and the guest's own words prove it.

Nothing at all is sent on the serial line, as one stray byte stops a boot loader that listens
there; and only what came after this power-on counts.
"""

import codecs
import logging
import re
import time
from dataclasses import dataclass

from bootgraft_agent.errors import BootgraftError, RefusedError
from bootgraft_host.client import Deadline, Line
from bootgraft_host.job import Job, UnprovenError
from bootgraft_host.machine import Machine
from bootgraft_host.results import Confirmation, Proof
from bootgraft_host.screens import ScreenWatch
from bootgraft_host.text import printable

log = logging.getLogger(__name__)

CONSOLE_TEXT_LIMIT = 256 * 1024  # characters of COM1's text that --expect looks at
READ_INTERVAL = 0.5  # seconds
HEARTBEAT_INTERVAL = 2.0  # seconds


def require_com1(job: Job, expect: re.Pattern[str] | None, *, leave_running: bool) -> None:
    """Refuse, before anything is changed, to expect words of a guest that has no COM1."""
    machine = job.machine
    if expect is None or machine.has_com1():
        return
    if not machine.lends_com1():
        raise RefusedError(
            f"{machine.name} has no COM1 on which --expect could match: give it one, or leave"
            " --expect out, and the boot is shown and not proven"
        )
    if leave_running:
        raise RefusedError(
            f"{machine.name} has no COM1 of its own on which --expect could match, and one that is"
            " lent to it can only be taken back when it is off: leave --leave-running or --expect"
            " out"
        )


def confirm(job: Job, expect: re.Pattern[str] | None, *, leave_running: bool) -> None:
    """Boot the machine and wait for what proves the boot; keep pictures of it.

    Raises UnprovenError when `expect` does not match in time, or the machine turns off. Without
    `expect` the guest's heartbeat proves its boot; where there is none, the boot is shown for a
    while, not proven.
    """
    job.step("confirm", "boot the machine from its own disk")
    machine = job.machine
    has_com1 = machine.has_com1()
    if not leave_running:
        machine.prepare_confirm(com1=expect is not None and not has_com1)
    watch = _Watch(
        expect,
        Deadline(job.deadlines.confirm if expect else job.deadlines.watch),
        ScreenWatch(machine, job.run, job.warn),
        Heartbeat(machine),
    )
    started = time.monotonic()
    machine.start()
    try:
        listens = has_com1 or expect is not None
        proof = _listen(job, watch) if listens else _watch_screen(machine, watch)
        is_time_up = watch.deadline.is_over
    finally:
        watch.screens.take("guest")
    watch.heartbeat.read()
    job.result.confirmation = Confirmation(
        proof=proof.kind if proof else None,
        evidence=proof.lines if proof else (),
        seconds=time.monotonic() - started,
        pictures=watch.screens.pictures,
        heartbeat=watch.heartbeat.word,
    )
    if proof is None:
        _refuse_failure(watch, is_time_up=is_time_up)
    job.result.left_running = leave_running


@dataclass(frozen=True, slots=True)
class _Proof:
    """What proves a boot, and in which words."""

    kind: Proof
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Watch:
    """What a boot is watched with, and for how long."""

    expect: re.Pattern[str] | None
    deadline: Deadline
    screens: ScreenWatch
    heartbeat: "Heartbeat"

    def look(self) -> _Proof | None:
        """Take a picture and feel the heartbeat if it is time; give what that proves."""
        self.screens.look()
        if self.expect is None and self.heartbeat.look():
            words = f"the integration services' heartbeat: {self.heartbeat.word}"
            return _Proof("heartbeat", (words,))
        return None


class Heartbeat:
    """What the guest's integration services say of it; that it cannot be read proves nothing."""

    def __init__(self, machine: Machine) -> None:
        self.word: str | None = None  # the last one
        self._machine = machine
        self._next_look = time.monotonic()

    def look(self) -> bool:
        """Read it if it is time; tell whether the guest is well."""
        if time.monotonic() >= self._next_look:
            self.read()
            self._next_look = time.monotonic() + HEARTBEAT_INTERVAL
        return self.word is not None and self.word.startswith("Ok")

    def read(self) -> None:
        """Read it now."""
        try:
            self.word = self._machine.heartbeat() or self.word
        except (BootgraftError, OSError) as error:
            log.info("no heartbeat: %s", printable(str(error)))


def _refuse_failure(watch: _Watch, *, is_time_up: bool) -> None:
    """Raise UnprovenError where no proof is a failure."""
    if not is_time_up:
        raise UnprovenError("the machine turned off by itself while it booted from its own disk")
    if watch.expect is not None:
        raise UnprovenError(
            f"nothing on COM1 matched {watch.expect.pattern!r} within"
            f" {watch.deadline.timeout:.0f} s"
        )


def _listen(job: Job, watch: _Watch) -> _Proof | None:
    transcript = job.run.open_transcript("console-confirm")
    try:
        link = job.machine.open_serial(job.deadlines.serial, transcript=transcript)
        try:
            return _await_proof(link, watch)
        finally:
            link.close()
    finally:
        transcript.close()


def _watch_screen(machine: Machine, watch: _Watch) -> _Proof | None:
    """Look at the screen and the heartbeat alone while the machine is on."""
    while not watch.deadline.is_over and machine.state() != "off":
        if proof := watch.look():
            return proof
        time.sleep(min(READ_INTERVAL, watch.deadline.left))
    return None


def _await_proof(line: Line, watch: _Watch) -> _Proof | None:
    """Give the lines that --expect matched; nothing when the time is up or the line ended.

    A line that is not whole yet counts only when nothing follows for READ_INTERVAL.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = ""
    while not watch.deadline.is_over:
        data = line.read(min(READ_INTERVAL, watch.deadline.left))
        if proof := watch.look():
            return proof
        text = (text + decoder.decode(data)).replace("\r\n", "\n")[-CONSOLE_TEXT_LIMIT:]
        settled = text[: text.rfind("\n") + 1] if data else text
        if watch.expect is not None and (match := watch.expect.search(settled)):
            return _Proof("com1", _find_lines(match))
        if not data and line.ended:
            break
    return None


def _find_lines(match: re.Match[str]) -> tuple[str, ...]:
    """Give the whole lines that a match touches."""
    start = match.string.rfind("\n", 0, match.start()) + 1
    end = match.string.find("\n", match.end())
    return tuple(match.string[start : end if end >= 0 else None].split("\n"))
