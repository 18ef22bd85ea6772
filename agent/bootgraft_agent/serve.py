"""Host-driven mode: answers a controller on the serial port.

Nothing here waits for ever on that port: a machine without one, with an error on it, or with a
client that never reads only makes the agent say so on the screen and try again.
"""

import contextlib
import ctypes
import logging
import os
import queue
import secrets
import select
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, TextIO

import serial

from bootgraft_agent import __version__, wire
from bootgraft_agent.apply import Progress
from bootgraft_agent.errors import (
    BootgraftError,
    ChangesLeftError,
    InvalidRequestError,
    RefusedError,
)
from bootgraft_agent.plan import Options
from bootgraft_agent.view import printable
from bootgraft_agent.wire import JSON

_log = logging.getLogger(__name__)

IMAGE_ID = Path("/etc/bootgraft-image")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
KERNEL_COMMAND_LINE = Path("/proc/cmdline")
ACTIVATION = "bootgraft.mode="

READ_SIZE = 4096
WRITE_TIMEOUT = 2.0  # seconds until bytes that nobody takes are given up; they are sent again
REOPEN_AFTER = 5.0  # seconds
PROGRESS_INTERVAL = 0.25  # seconds between two events for the same step
MAX_BACKLOG = 256  # frames; more progress is not queued for a line that takes none
LAST_WORDS = 5.0  # seconds for the reply to power_off to be acknowledged
_POWER_OFF = 0x4321FEDC  # Linux, include/uapi/linux/reboot.h


class Actions(Protocol):
    """What a controller can ask for; each gives the whole record of its result."""

    def inspect(self, options: Options) -> Mapping[str, JSON]:
        """Say what was found."""

    def plan(self, options: Options) -> Mapping[str, JSON]:
        """Say what a graft would do."""

    def apply(
        self, options: Options, plan_sha256: str, run_id: str, progress: Progress
    ) -> Mapping[str, JSON]:
        """Graft, if the plan is the one of this hash."""

    def rollback(
        self, options: Options, run_id: str | None, progress: Progress
    ) -> Mapping[str, JSON]:
        """Take a graft back."""


def run(device: str, screen: Path | None) -> int:
    """Serve until the machine is powered off. Raises RefusedError outside the live system."""
    if ACTIVATION not in KERNEL_COMMAND_LINE.read_text():
        raise RefusedError(
            f"the kernel command line has no {ACTIVATION}…, so this is not bootgraft's live system;"
            " to graft a mounted tree use `bootgraft-agent tree`"
        )
    from bootgraft_agent.live import LiveActions  # noqa: PLC0415 - only the live system has it all

    with contextlib.ExitStack() as stack:
        shown = stack.enter_context(screen.open("w")) if screen is not None else sys.stderr
        server = Server(LiveActions(), shown, read_identity())
        problem = ""
        while not server.wants_power_off:
            try:
                with serial.Serial(device, 115200, timeout=0, write_timeout=WRITE_TIMEOUT) as port:
                    server.show(f"waiting for a controller on {device}")
                    server.serve(port)
            except (OSError, serial.SerialException) as error:
                if problem != str(error):  # said once, not every few seconds
                    problem = str(error)
                    server.show(f"cannot use {device}: {problem}; trying again")
                time.sleep(REOPEN_AFTER)
    power_off()
    return 0


def read_identity() -> dict[str, JSON]:
    """Give what HELLO says of this agent."""
    return {
        "agent_version": __version__,
        "image": IMAGE_ID.read_text().strip() if IMAGE_ID.exists() else "",
        "boot": BOOT_ID.read_text().strip(),
        "instance": _new_id(),
        "busy": None,
    }


def _new_id() -> str:
    return secrets.token_hex(8)


def power_off() -> None:
    """Write everything out and switch the machine off; the RTC is not written."""
    os.sync()
    ctypes.CDLL(None).reboot(_POWER_OFF)


class Server:
    """Takes requests from a controller, works on one at a time, and reports."""

    def __init__(self, actions: Actions, screen: TextIO, identity: Mapping[str, JSON]) -> None:
        self.wants_power_off = False
        self._actions = actions
        self._screen = screen
        self._identity = dict(identity)
        self._connection = wire.Connection("agent", identity)
        self._outbox: queue.SimpleQueue[dict[str, JSON]] = queue.SimpleQueue()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        self._work: threading.Thread | None = None
        self._work_key: tuple[str, ...] | None = None  # what is being worked on
        self._reply_to: JSON = None  # the id that its reply is for
        self._abort = threading.Event()
        self._results: dict[tuple[str, ...], dict[str, JSON]] = {}  # of applies, by plan and run

    def show(self, text: str) -> None:
        """Show a line on the machine's screen."""
        with contextlib.suppress(OSError):
            self._screen.write(printable(f"bootgraft: {text}\n"))
            self._screen.flush()

    def serve(self, port: serial.Serial) -> None:
        """Serve on an open port until power-off is wanted. Raises OSError, SerialException."""
        while not self.wants_power_off:
            self._exchange(port)
        deadline = time.monotonic() + LAST_WORDS
        while self._connection.backlog and time.monotonic() < deadline:
            self._exchange(port)

    def _exchange(self, port: serial.Serial) -> None:
        """Read what is there, act on it, write what is due."""
        wait = min(max(self._connection.next_wakeup() - time.monotonic(), 0.0), 1.0)
        readable, _, _ = select.select([port, self._wake_read], [], [], wait)
        if self._wake_read in readable:
            os.read(self._wake_read, READ_SIZE)
        if port in readable:
            self._receive(port.read(READ_SIZE))
        while not self._outbox.empty():
            self._send(self._outbox.get())
        outgoing = self._connection.outgoing(time.monotonic())
        if outgoing:
            self._write(port, outgoing)

    def _write(self, port: serial.Serial, data: bytes) -> None:
        try:
            port.write(data)
        except serial.SerialTimeoutException:
            port.reset_output_buffer()

    def _receive(self, data: bytes) -> None:
        try:
            for event in self._connection.receive(data, time.monotonic()):
                if isinstance(event, wire.Welcomed):
                    self.show("a controller is there")
                elif isinstance(event, wire.Message):
                    self._take(event.body)
        except wire.PeerError as error:
            self.show(f"the controller broke the protocol: {error}")
            self._connection = wire.Connection("agent", self._identity | {"instance": _new_id()})

    def _send(self, body: dict[str, JSON]) -> None:
        """Send a message of the worker's; a reply is remembered until it is asked for again."""
        body["id"] = self._reply_to
        if "event" not in body:
            self._work_key = None
            self._connection.set_busy(None)
        elif self._connection.backlog > MAX_BACKLOG:
            return
        if self._connection.session == wire.NO_SESSION:
            return
        try:
            self._connection.send(body)
        except wire.ProtocolError as error:
            self._connection.send({"id": body.get("id"), "error": _error("internal", str(error))})

    # Requests

    def _take(self, body: Mapping[str, JSON]) -> None:
        try:
            self._dispatch(body)
        except BootgraftError as error:
            self._connection.send({"id": body.get("id"), "error": describe_error(error)})

    def _dispatch(self, body: Mapping[str, JSON]) -> None:
        request, number, options = body.get("request"), body.get("id"), body.get("options") or {}
        if not isinstance(number, int) or not isinstance(options, Mapping):
            raise InvalidRequestError("a request has a number as id, and an object of options")
        if request == "power_off":
            self._refuse_while_busy()
            self.show("powering off")
            self._connection.send({"id": number, "result": {}})
            self.wants_power_off = True
        elif request == "abort":
            self._abort.set()
            self._connection.send({"id": number, "result": {}})
        elif request in {"inspect", "plan", "apply", "rollback"}:
            self._start(str(request), number, dict(options))
        else:
            raise InvalidRequestError(f"unknown request {request!r}")

    def _refuse_while_busy(self) -> None:
        if self._work_key is not None:
            raise InvalidRequestError(f"still busy with {self._work_key[0]}; wait for its reply")

    def _start(self, request: str, number: int, values: dict[str, JSON]) -> None:
        """Start a request in its own thread, or take up one that was asked for before."""
        plan_sha256 = _pop_text(values, "plan_sha256")
        run_id = _pop_text(values, "run_id")
        options = Options.from_json(values)
        key = (request, str(options), plan_sha256 or "", run_id or "")
        if key == self._work_key:
            self._reply_to = number
            return
        self._refuse_while_busy()
        if key in self._results:
            self._connection.send(self._results[key] | {"id": number})
            return
        work = self._choose(request, number, options, plan_sha256, run_id)
        self._work_key, self._reply_to = key, number
        self._abort.clear()
        self._connection.set_busy(request)
        self.show(request)
        self._work = threading.Thread(target=self._run, args=(key, work), daemon=True)
        self._work.start()

    def _choose(
        self,
        request: str,
        number: int,
        options: Options,
        plan_sha256: str | None,
        run_id: str | None,
    ) -> Callable[[], Mapping[str, JSON]]:
        progress = _ProgressEvents(number, self._post, self._abort, self.show)
        if request == "inspect":
            return lambda: self._actions.inspect(options)
        if request == "plan":
            return lambda: self._actions.plan(options)
        if request == "rollback":
            return lambda: self._actions.rollback(options, run_id, progress)
        if plan_sha256 is None or run_id is None:
            raise InvalidRequestError("apply needs the plan_sha256 that was shown, and a run_id")
        return lambda: self._actions.apply(options, plan_sha256, run_id, progress)

    def _run(self, key: tuple[str, ...], work: Callable[[], Mapping[str, JSON]]) -> None:
        """Work on a request (in its thread) and post the reply."""
        try:
            reply: dict[str, JSON] = {"result": work()}
            self.show(f"{key[0]}: done")
        except Exception as error:  # noqa: BLE001 - whatever it is, the controller must hear of it
            _log.exception("%s failed", key[0])
            self.show(f"{key[0]}: {error}")
            reply = {"error": describe_error(error)}
        if key[0] == "apply":
            self._results[key] = dict(reply)
        self._post(reply)

    def _post(self, body: dict[str, JSON]) -> None:
        """Hand a message to the main loop, from any thread."""
        self._outbox.put(body)
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b"!")


def _pop_text(values: dict[str, JSON], name: str) -> str | None:
    value = values.pop(name, None)
    if not isinstance(value, str | None):
        raise InvalidRequestError(f"option {name} must be text")
    return value


def _error(kind: str, message: str) -> dict[str, JSON]:
    return {"kind": kind, "message": message}


def describe_error(error: Exception) -> dict[str, JSON]:
    """Give an error as a reply carries it."""
    if isinstance(error, InvalidRequestError):
        return _error("invalid", str(error))
    if isinstance(error, ChangesLeftError):
        return _error("changes-left", str(error))
    if isinstance(error, BootgraftError | OSError):
        return _error("refused", str(error))
    return _error("internal", f"the agent failed: {type(error).__name__}: {error}")


class _ProgressEvents:
    """The progress of one request, as events for the controller and lines on the screen."""

    def __init__(
        self,
        number: int,
        post: Callable[[dict[str, JSON]], None],
        abort: threading.Event,
        show: Callable[[str], None],
    ) -> None:
        self._number = number
        self._post = post
        self._abort = abort
        self._show = show
        self._text = ""
        self._step = 0
        self._said = 0.0

    def __call__(self, text: str, done: int, total: int) -> None:
        if self._abort.is_set():
            raise RefusedError("the controller asked to stop")
        now = time.monotonic()
        is_new = text != self._text
        if not is_new and done < total and now - self._said < PROGRESS_INTERVAL:
            return
        if is_new:
            self._step += 1
            self._show(text)
        self._text, self._said = text, now
        self._post(
            {
                "event": "progress",
                "id": self._number,
                "step": self._step,
                "text": text,
                "bytes": done,
                "total": total,
            }
        )
