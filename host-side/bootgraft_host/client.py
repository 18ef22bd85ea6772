"""The controller's side of a conversation with the agent, over any line of bytes.

::

    await_hello   agent --HELLO--> controller --WELCOME--> agent
    request       controller --request--> agent --progress, log, ...--> reply

An agent that was started anew (another `instance` in its HELLO) has forgotten the request: it is
welcomed and asked again, a bounded number of times; requests are made to bear that, but for those
that mean something else the second time. Every wait has a deadline, and its message says what was
awaited, for how long, and what was last heard.
Nothing at all is sent before a HELLO came.
"""

import logging
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from bootgraft_agent import wire
from bootgraft_agent.errors import (
    BootgraftError,
    ChangesLeftError,
    InvalidRequestError,
    OccupiedError,
    RefusedError,
)
from bootgraft_agent.wire import JSON
from bootgraft_host.replies import (
    EVENT_TEXT_LIMIT,
    AgentFailure,
    ErrorKind,
    Log,
    Progress,
    ReplyError,
    parse_event,
    parse_failure,
)
from bootgraft_host.text import printable

MAX_RESTARTS = 3  # of the agent within one request
MAX_EVENTS = 20_000  # progress and log lines within one request
READ_AT_MOST = 0.5  # seconds that one read waits
TAIL = 200  # bytes of what was last heard that a message quotes

log = logging.getLogger(__name__)


class SilenceError(BootgraftError):
    """What was awaited did not come in time, or the machine turned off meanwhile."""


class AgentError(BootgraftError):
    """The agent failed by itself (an internal error), or broke the protocol."""


_ERRORS: Mapping[ErrorKind, type[BootgraftError]] = {
    "refused": RefusedError,
    "invalid": InvalidRequestError,
    "changes-left": ChangesLeftError,
    "occupied": OccupiedError,
    "internal": AgentError,
}


class Line(Protocol):
    """A stream of bytes to the guest's COM1."""

    @property
    def ended(self) -> bool:
        """Whether nothing more will ever come, as the machine is off."""

    def read(self, timeout: float) -> bytes:
        """Give what came, after at most `timeout` seconds; b"" when nothing did."""

    def write(self, data: bytes) -> None:
        """Send all of the bytes."""


class Deadline:
    """A moment until which something is awaited."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._end = time.monotonic() + timeout

    @property
    def left(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._end - time.monotonic())

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return self.left == 0.0


@dataclass(slots=True)
class _LastHeard:
    """What a message says about the last sign of life."""

    moment: float = field(default_factory=time.monotonic)
    what: str = ""
    tail: bytes = b""

    def note(self, what: str) -> None:
        self.moment = time.monotonic()
        self.what = what

    @property
    def silence(self) -> float:
        return time.monotonic() - self.moment

    def describe(self) -> str:
        if self.what:
            return f"last heard of it {self.silence:.0f} s ago: {self.what}"
        if self.tail:
            return f"last heard on the serial line, not from an agent: {_quote(self.tail)}"
        return "nothing at all was heard on the serial line"


def _quote(data: bytes) -> str:
    return f'"{printable(data.decode("utf-8", "replace").strip())}"'


class Client:
    """A conversation with the agent in one boot of the live system."""

    def __init__(
        self,
        line: Line,
        *,
        on_event: Callable[[Progress | Log], None],
        silence: float = 60.0,
    ) -> None:
        """Talk over `line`; `silence` is how many seconds the agent may say nothing at all."""
        self._line = line
        self._on_event = on_event
        self._silence = silence
        self._connection = wire.Connection("controller")
        self._agent: wire.Hello | None = None
        self._heard = _LastHeard()
        self._last_id = 0
        self.restarted = False  # the agent, within the last request

    def await_hello(self, timeout: float) -> wire.Hello:
        """Wait for the agent and welcome it.

        Raises SilenceError when it does not come, AgentError when it speaks another version.
        """
        deadline = Deadline(timeout)
        while self._agent is None:
            for event in self._exchange(deadline.left):
                if isinstance(event, wire.Hello):
                    self._welcome(event)
                    break
            else:
                self._check(deadline, "HELLO from the agent", silence=timeout)
        self._flush()
        return self._agent

    def request(
        self,
        name: str,
        options: Mapping[str, JSON],
        timeout: float,
        *,
        max_restarts: int = MAX_RESTARTS,
    ) -> Mapping[str, JSON]:
        """Ask the agent for something; gives the result's object.

        An agent that is started anew is asked again up to `max_restarts` times. Raises the error
        that the agent answered with (RefusedError, InvalidRequestError, ChangesLeftError,
        AgentError), SilenceError, AgentError or ReplyError; InvalidRequestError also for options
        that are too long to be sent.
        """
        self._last_id += 1
        self.restarted = False
        question: dict[str, JSON] = {"id": self._last_id, "request": name, "options": options}
        log.debug("ask %s, id %d", name, self._last_id)
        try:
            self._connection.send(question)
        except wire.ProtocolError as error:
            raise InvalidRequestError(f"cannot ask the agent for {name}: {error}") from error
        return self._await_reply(question, timeout, max_restarts)

    def abort(self, name: str, timeout: float) -> Mapping[str, JSON]:
        """Ask the agent to stop the request that it works on; await that request's own reply.

        `name` is that request. The agent either does it to its end, as always a rollback, or stops
        with RefusedError.
        """
        self._connection.send({"id": 0, "request": "abort", "options": {}})
        return self._await_reply({"request": name}, timeout, 0)

    def _await_reply(
        self, question: Mapping[str, JSON], timeout: float, max_restarts: int
    ) -> Mapping[str, JSON]:
        name = str(question["request"])
        deadline = Deadline(timeout)
        restarts = events = 0
        self._heard.moment = time.monotonic()
        while True:
            for event in self._exchange(deadline.left):
                if isinstance(event, wire.Hello):
                    if self._is_known(event):
                        continue
                    restarts += 1
                    if restarts > max_restarts:
                        raise _restarted_too_often(name, restarts)
                    self._meet_again(event, question, restarts)
                elif isinstance(event, wire.Message):
                    if "event" in event.body:
                        events += 1
                        self._take_event(event.body, name, events)
                    elif self._is_reply(event.body):
                        self._flush()
                        return _read_reply(event.body, name)
            self._check(deadline, f"the reply to {name}", silence=self._silence)

    def _exchange(self, timeout: float) -> list[wire.Event]:
        """Write what is due, read once, give what it means."""
        now = self._flush()
        wait = min(timeout, READ_AT_MOST, max(0.0, self._connection.next_wakeup() - now))
        data = self._line.read(wait)
        self._heard.tail = (self._heard.tail + data)[-TAIL:]
        try:
            return self._connection.receive(data, time.monotonic())
        except wire.PeerError as error:
            raise AgentError(f"the agent broke the protocol: {error}") from error

    def _flush(self) -> float:
        now = time.monotonic()
        data = self._connection.outgoing(now)
        if data:
            self._line.write(data)
        return now

    def _welcome(self, hello: wire.Hello) -> None:
        log.debug("HELLO of instance %s, boot %s", printable(hello.instance), printable(hello.boot))
        try:
            self._connection.welcome(hello, secrets.token_hex(4))
        except wire.PeerError as error:
            raise AgentError(str(error)) from error
        self._agent = hello
        self._heard.note("its HELLO")

    def _is_known(self, hello: wire.Hello) -> bool:
        """Take a HELLO as a sign of life, if it is from the agent that was welcomed."""
        if self._agent is None or hello.instance != self._agent.instance:
            return False
        self._heard.note(f"it is busy with {printable(hello.busy)}" if hello.busy else "its HELLO")
        return True

    def _meet_again(self, hello: wire.Hello, question: Mapping[str, JSON], restarts: int) -> None:
        self.restarted = True
        self._on_event(Log("warning", f"the agent was started anew ({restarts}); asked again"))
        self._welcome(hello)
        self._connection.send(question)

    def _take_event(self, body: Mapping[str, JSON], request: str, events: int) -> None:
        if events > MAX_EVENTS:
            raise AgentError(
                f"the agent sent over {MAX_EVENTS} progress and log lines for {request}"
            )
        event = parse_event(body)
        if event is not None:
            self._heard.note(f'"{printable(event.text[:TAIL])}"')
            self._on_event(event)

    def _is_reply(self, body: Mapping[str, JSON]) -> bool:
        """Tell the awaited reply from one to an earlier request that came late."""
        number = body.get("id")
        if not isinstance(number, int) or isinstance(number, bool):
            raise ReplyError(
                f"the agent sent a message that is neither an event nor a reply: {number!r}"
            )
        self._heard.note(f"a reply to request {number}")
        return number == self._last_id

    def _check(self, deadline: Deadline, awaited: str, silence: float) -> None:
        """Raise SilenceError when waiting on makes no sense."""
        if self._line.ended:
            raise SilenceError(
                f"the machine turned off while {awaited} was awaited; {self._heard.describe()}"
            )
        if deadline.is_over:
            raise SilenceError(
                f"{awaited} did not come within {deadline.timeout:.0f} s; {self._heard.describe()}"
            )
        silent_for = min(self._heard.silence, time.monotonic() - self._connection.heard)
        if silent_for >= silence:
            raise SilenceError(
                f"{awaited} was awaited, but the agent has been silent for {silence:.0f} s;"
                f" {self._heard.describe()}"
            )


def _restarted_too_often(request: str, restarts: int) -> AgentError:
    return AgentError(
        f"the agent was started anew while it worked on {request}, for the {restarts}. time; the"
        " console's transcript may say why"
    )


def _read_reply(body: Mapping[str, JSON], request: str) -> Mapping[str, JSON]:
    error, result = body.get("error"), body.get("result")
    if isinstance(error, Mapping):
        failure = parse_failure(error, request)
        for line in failure.log:
            log.info("the live system's kernel: %s", printable(line[:EVENT_TEXT_LIMIT]))
        raise _error_of(failure)
    if not isinstance(result, Mapping):
        raise ReplyError(f"the agent's reply to {request} holds neither a result nor an error")
    return result


def _error_of(failure: AgentFailure) -> BootgraftError:
    return _ERRORS[failure.kind](failure.message)
