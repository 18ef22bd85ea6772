"""Host-driven mode: answers a controller on the serial port.

Nothing here waits for ever on that port: a machine without one, with an error on it, or with a
client that never reads only makes the agent say so on the screen and try again.
"""

import contextlib
import logging
import os
import queue
import select
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import serial

from bootgraft_agent import __version__, wire
from bootgraft_agent.attendance import MESSAGE, Attendance
from bootgraft_agent.errors import (
    BootgraftError,
    InvalidRequestError,
    OccupiedError,
    RefusedError,
)
from bootgraft_agent.kernel_log import read_kernel_log
from bootgraft_agent.power import power_off
from bootgraft_agent.progress import ProgressEvents
from bootgraft_agent.requests import Request, describe_error, parse_request, read_number
from bootgraft_agent.startup import ControllerActions
from bootgraft_agent.volumes import Progress
from bootgraft_agent.wire import JSON

_log = logging.getLogger(__name__)

IMAGE_ID = Path("/etc/bootgraft-image")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
FRESH_UUID = BOOT_ID.with_name("uuid")
READ_SIZE = 4096
WRITE_TIMEOUT = 2.0  # seconds until bytes that nobody takes are given up; they are sent again
REOPEN_AFTER = 5.0  # seconds
MAX_BACKLOG = 256  # frames; more progress is not queued for a line that takes none
# Frames that hold the longest message twice: who lets more lie unread has lost the session.
MAX_UNREAD = 2 * wire.MAX_MESSAGE // wire.MAX_FRAME
LAST_WORDS = 5.0  # seconds for the reply to power_off to be acknowledged


def run(
    device: str, actions: ControllerActions, show: Callable[[str], None], turns: Attendance
) -> None:
    """Serve until power-off is wanted, and power off."""
    server = Server(actions, show, read_identity(), turns=turns)
    problem = ""
    while not server.wants_power_off:
        try:
            with serial.Serial(device, 115200, timeout=0, write_timeout=WRITE_TIMEOUT) as port:
                show(f"waiting for a controller on {device}")
                server.serve(port)
        except (OSError, serial.SerialException) as error:
            if problem != str(error):  # said once, not every few seconds
                problem = str(error)
                show(f"cannot use {device}: {problem}; trying again")
            time.sleep(REOPEN_AFTER)
    power_off()


def read_identity() -> dict[str, JSON]:
    """Give what HELLO says of this agent."""
    return {
        "agent_version": __version__,
        "image": IMAGE_ID.read_text().strip() if IMAGE_ID.exists() else "",
        "boot": BOOT_ID.read_text().strip(),
        "instance": new_id(),
        "busy": None,
    }


def new_id() -> str:
    """Give 16 hexadecimal digits, each time others; the kernel has them at once, however young."""
    return FRESH_UUID.read_text().replace("-", "")[:16]


class Server:
    """Takes requests from a controller, works on one at a time, and reports.

    `show` shows a line on the machine's screen; it must not wait. `read_log` gives the end of the
    kernel's log, which goes with a failed request.
    """

    def __init__(
        self,
        actions: ControllerActions,
        show: Callable[[str], None],
        identity: Mapping[str, JSON],
        read_log: Callable[[], Sequence[str]] = read_kernel_log,
        turns: Attendance | None = None,
    ) -> None:
        self.wants_power_off = False
        self._turns = turns or Attendance()
        self.show = show
        self._read_log = read_log
        self._actions = actions
        self._identity = dict(identity)
        self._connection = wire.Connection("agent", identity)
        self._outbox: queue.SimpleQueue[dict[str, JSON]] = queue.SimpleQueue()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        self._work: Request | None = None  # what is being worked on
        self._abort = threading.Event()
        # The last change of the guest, if it went well, and its reply: it may be asked for again.
        self._last_change: tuple[Request, Mapping[str, JSON]] | None = None

    def serve(self, port: serial.Serial) -> None:
        """Serve on an open port until power-off is wanted. Raises OSError, SerialException."""
        while not self.wants_power_off:
            self._exchange(port)
        deadline = time.monotonic() + LAST_WORDS
        while self._connection.backlog and time.monotonic() < deadline:
            self._exchange(port)

    # The line

    def _exchange(self, port: serial.Serial) -> None:
        """Read what is there, act on it, write what is due."""
        wait = min(max(self._connection.next_wakeup() - time.monotonic(), 0.0), 1.0)
        readable, _, _ = select.select([port, self._wake_read], [], [], wait)
        if self._wake_read in readable:
            os.read(self._wake_read, READ_SIZE)
        if port in readable:
            self._receive(port.read(READ_SIZE))
        while not self._outbox.empty():
            self._pass_on(self._outbox.get())
        if self._work is None:
            self._connection.set_busy("a person at the console" if self._turns.has_person else None)
        outgoing = self._connection.outgoing(time.monotonic())
        if outgoing:
            self._write(port, outgoing)

    def _write(self, port: serial.Serial, data: bytes) -> None:
        try:
            port.write(data)
        except serial.SerialTimeoutException:
            port.reset_output_buffer()

    def _receive(self, data: bytes) -> None:
        connection = self._connection
        try:
            events = connection.receive(data, time.monotonic())
        except wire.PeerError as error:
            self._drop_session(f"the controller broke the protocol: {error}")
            return
        for event in events:
            self._turns.note_controller()
            if isinstance(event, wire.Welcomed):
                self.show("a controller is there")
            elif isinstance(event, wire.Message) and connection is self._connection:
                self._take(event.body)

    def _drop_session(self, reason: str) -> None:
        """Begin anew as another instance, which tells the controller that its session is gone."""
        self.show(reason)
        self._connection = wire.Connection("agent", self._identity | {"instance": new_id()})
        self._connection.set_busy(self._work.name if self._work else None)

    def _send(self, body: Mapping[str, JSON]) -> None:
        """Send a message, if there is a controller and it takes what it is sent."""
        if self._connection.session == wire.NO_SESSION:
            return
        if self._connection.backlog > MAX_UNREAD:
            self._drop_session("the controller does not take its replies")
            return
        try:
            self._connection.send(body)
        except wire.ProtocolError as error:
            self._connection.send({"id": body["id"], "error": describe_error(error)})

    # Requests

    def _take(self, body: Mapping[str, JSON]) -> None:
        """Act on a message; whatever is wrong with it, the controller hears of it."""
        try:
            self._dispatch(parse_request(body))
        except Exception as error:  # noqa: BLE001 - no message may end the agent
            self._send({"id": read_number(body), "error": self._note_failure("a request", error)})

    def _dispatch(self, request: Request) -> None:
        if request.name == "abort":
            self._abort.set()
            self._send({"id": request.number, "result": {"log": list(self._read_log())}})
        elif self._turns.has_person:
            raise OccupiedError(MESSAGE)
        elif self._work is not None and request.asks_the_same(self._work):
            self._work = request  # its reply goes to who asked last
        elif self._work is not None:
            raise InvalidRequestError(f"still busy with {self._work.name}; wait for its reply")
        elif request.name == "power_off":
            self.show("powering off")
            self._send({"id": request.number, "result": {}})
            self.wants_power_off = True
        elif self._last_change is not None and request.asks_the_same(self._last_change[0]):
            self._send({"id": request.number, **self._last_change[1]})
        else:
            self._start(request)

    def _start(self, request: Request) -> None:
        """Work on a request in a thread of its own. Raises OccupiedError."""
        self._turns.begin_work()
        if request.is_change:
            self._last_change = None
        self._work = request
        self._abort.clear()
        self._connection.set_busy(request.name)
        self.show(request.name)
        threading.Thread(target=self._run, args=(request,), daemon=True).start()

    def _run(self, request: Request) -> None:
        """Work on a request (in its thread) and post the reply."""
        try:
            reply: dict[str, JSON] = {"result": self._act(request)}
            self.show(f"{request.name}: done")
        except Exception as error:  # noqa: BLE001 - whatever it is, the controller must hear of it
            described = self._note_failure(request.name, error)
            reply = {"error": {**described, "log": list(self._read_log())}}
        self._post(reply)

    def _act(self, request: Request) -> Mapping[str, JSON]:
        progress = ProgressEvents(self._post, self.show)
        if request.name == "inspect":
            return self._actions.inspect(request.options)
        if request.name == "plan":
            return self._actions.plan(request.options)
        if request.name == "rollback":
            return self._actions.rollback(request.options, request.run_id, progress)
        return self._actions.apply(
            request.options, request.plan_sha256, request.run_id or "", self._abortable(progress)
        )

    def _abortable(self, progress: Progress) -> Progress:
        """Let an abort end an apply, which then takes everything back.

        A rollback takes nothing back: it goes on to its end.
        """

        def stop_or_go_on(text: str, done: int, total: int) -> None:
            if self._abort.is_set():
                raise RefusedError("the controller asked to stop")
            progress(text, done, total)

        return stop_or_go_on

    def _note_failure(self, what: str, error: Exception) -> dict[str, JSON]:
        """Tell the screen of a failure; give it as a reply carries it."""
        described = describe_error(error)
        self.show(f"{what}: {described['message']}")
        if not isinstance(error, BootgraftError):
            _log.error("%s failed", what, exc_info=error)
        return described

    def _post(self, body: dict[str, JSON]) -> None:
        """Hand a message of the worker's to the main loop."""
        self._outbox.put(body)
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b"!")

    def _pass_on(self, body: dict[str, JSON]) -> None:
        """Send a message of the worker's; a reply ends the work."""
        work = self._work
        assert work is not None  # noqa: S101 - only its worker posts, and the reply comes last
        if "event" not in body:
            self._finish(work, body)
        elif self._connection.backlog > MAX_BACKLOG:
            return
        self._send({"id": work.number, **body})

    def _finish(self, work: Request, reply: Mapping[str, JSON]) -> None:
        """Be free for the next request.

        The reply to a change is kept, if it went well and the request says which run it is about:
        a rollback of "the latest" run means another one the next time.
        """
        self._work = None
        self._connection.set_busy(None)
        self._turns.end_work()
        if work.is_change and work.run_id is not None and "result" in reply:
            self._last_change = work, reply
