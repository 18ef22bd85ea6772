"""The serial protocol: frames and one connection's state; no I/O. Both sides import it.

A frame is one line of printable ASCII::

    @bg1 5e3a9c01 D 17 9f1c22aa {"id": 3, "request": "inspect"}\\n
    |    |        | |  |        +-- a piece of JSON text; "@" is written \\u0040
    |    |        | |  +-- CRC-32 of all that stands before it, and of the text
    |    |        | +-- sequence number, from 1 in each direction of each session
    |    |        +-- kind: H hello, W welcome, P partial, D data (last piece), A acknowledge
    |    +-- session, chosen by the controller; 00000000 before there is one
    +-- marker and major version of the protocol

The guest speaks first: HELLO, once a second, whenever it has heard nothing for a second (bytes
sent while nobody listens are lost on a virtual serial port). The controller answers with WELCOME,
which opens a session; a new controller opens a new one, and the older one is forgotten. Within a
session messages arrive once and in order: frames are sent again until acknowledged, and the
receiver keeps those that came out of order. HELLO and its layout never change between versions,
so that an unknown version can be refused in words.

Everything from the peer is hostile: lines, messages and windows are bounded, noise is skipped.
"""

import json
import math
import re
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

JSON: TypeAlias = "None | bool | int | float | str | Sequence[JSON] | Mapping[str, JSON]"
Role = Literal["agent", "controller"]

PROTOCOL = 1
MAX_FRAME = 512  # bytes of a line, newline included; receivers take up to MAX_LINE
MAX_LINE = 1024
MAX_MESSAGE = 4 * 1024 * 1024  # bytes of JSON text from the agent
MAX_REQUEST = 64 * 1024  # bytes of JSON text to the agent, which has little memory
_LIMIT_TO: Mapping[Role, int] = {"agent": MAX_REQUEST, "controller": MAX_MESSAGE}
# Frames in flight. Four short ones fit the guest's tty buffer (4 KiB); the host's is ours.
WINDOW: Mapping[Role, int] = {"agent": 16, "controller": 4}
HELLO_INTERVAL = 1.0  # seconds
RESEND_AFTER = 0.5  # seconds until a frame is sent again, doubled up to RESEND_LIMIT
RESEND_LIMIT = 4.0
# Seconds, for a frame that the peer reports as missing; doubled, too: that report may be old.
RESEND_MISSING_AFTER = 0.1
# Seconds until an acknowledgement is said again within an unfinished message, doubled each time: a
# line that breaks in the middle of a window loses the acknowledgement of what had arrived.
ACK_AGAIN_AFTER = 0.3
ACK_TRIES = 4
NO_SESSION = "00000000"
OLD_SESSIONS = 64  # how many superseded sessions are remembered

_MARKER = b"@bg"
_LINE = re.compile(
    rb"@bg(?P<version>[1-9][0-9]{0,3}) (?P<session>[0-9a-f]{8}) (?P<kind>[HWPDA])"
    rb" (?P<seq>[0-9]{1,9}) (?P<crc>[0-9a-f]{8}) (?P<text>[\x20-\x3f\x41-\x7e]*)\Z"
)


class ProtocolError(Exception):
    """We used the protocol wrongly, as by sending a message that is too long."""


class PeerError(Exception):
    """The peer broke the protocol within a valid frame; the session is of no use any more."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One line of the protocol."""

    version: int
    session: str
    kind: str
    seq: int
    text: str


@dataclass(frozen=True, slots=True)
class Hello:
    """The agent is there: who it is, in which boot, and what it is doing."""

    protocol: int
    agent_version: str
    image: str
    boot: str  # new with each boot of the live system
    instance: str  # new with each start of the agent
    busy: str | None  # the request it works on
    session: str  # the session that it is in, or NO_SESSION


@dataclass(frozen=True, slots=True)
class Welcomed:
    """A controller has opened a new session; whatever was queued for an older one is gone."""

    session: str


@dataclass(frozen=True, slots=True)
class Message:
    """A whole message of the peer."""

    body: Mapping[str, JSON]


Event = Hello | Welcomed | Message


def encode_frame(frame: Frame) -> bytes:
    """Give a frame's line."""
    head = f"@bg{frame.version} {frame.session} {frame.kind} {frame.seq}"
    crc = zlib.crc32(f"{head} {frame.text}".encode("ascii"))
    return f"{head} {crc:08x} {frame.text}\n".encode("ascii")


def encode_json(body: Mapping[str, JSON]) -> str:
    """Give a message as JSON text of printable ASCII without an "@"."""
    return json.dumps(body, separators=(",", ":"), allow_nan=False).replace("@", "\\u0040")


def decode_json(text: str) -> dict[str, JSON]:
    """Read a message's JSON text; raises PeerError for anything but an object of finite numbers."""
    try:
        body = json.loads(text, parse_float=_parse_finite, parse_constant=_parse_finite)
    except (ValueError, RecursionError) as error:
        raise PeerError(f"the peer sent a message that is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise PeerError(f"the peer sent a {type(body).__name__} where an object was expected")
    return body


def _parse_finite(text: str) -> float:
    """Read a number; raises ValueError for NaN, Infinity, and what is as large as that."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is no finite number")
    return value


@dataclass(slots=True)
class Decoder:
    """Finds frames in a stream of bytes; whatever else stands between them is skipped."""

    _buffer: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Take more bytes, give the frames that are whole now."""
        for piece in data.splitlines(keepends=True) if data else ():
            self._buffer += piece
            if piece.endswith((b"\n", b"\r")):
                frame = _parse_line(bytes(self._buffer).rstrip(b"\r\n"))
                self._buffer.clear()
                if frame is not None:
                    yield frame
            elif len(self._buffer) > MAX_LINE:
                self._drop_noise()

    def _drop_noise(self) -> None:
        """Keep what may be the start of a frame, no more than a line's length."""
        start = self._buffer.rfind(_MARKER)
        if start < 0 or len(self._buffer) - start > MAX_LINE:
            start = len(self._buffer) - len(_MARKER) + 1
        del self._buffer[:start]


def _parse_line(line: bytes) -> Frame | None:
    """Read the frame at the end of a line; None where there is none or it is damaged."""
    start = line.rfind(_MARKER)
    if start < 0 or len(line) - start >= MAX_LINE:
        return None
    match = _LINE.match(line, start)
    if match is None:
        return None
    frame = Frame(
        version=int(match["version"]),
        session=match["session"].decode(),
        kind=match["kind"].decode(),
        seq=int(match["seq"]),
        text=match["text"].decode(),
    )
    return frame if encode_frame(frame)[:-1] == line[start:] else None


@dataclass(slots=True)
class _InFlight:
    """A frame that was sent and not acknowledged yet."""

    line: bytes
    sent: float
    tries: int = 1


class Connection:
    """One side of the line. Time is passed in, in seconds of a monotonic clock.

    Feed what was read to `receive`; write what `outgoing` gives; call again when bytes arrive or
    `next_wakeup` is reached.
    """

    def __init__(self, role: Role, hello: Mapping[str, JSON] | None = None) -> None:
        if (role == "agent") != (hello is not None):
            raise ProtocolError("the agent has a HELLO to say, the controller has none")
        self.session = NO_SESSION
        self._role: Role = role
        self._send_limit = _LIMIT_TO["controller" if role == "agent" else "agent"]
        self._receive_limit = _LIMIT_TO[role]
        self._hello = dict(hello or {})
        self._decoder = Decoder()
        self._heard = float("-inf")
        self._said_hello = float("-inf")
        self._welcome: str | None = None  # the text of WELCOME, once the controller has said it
        self._guest = ""  # the instance that was welcomed
        self._old_sessions: deque[str] = deque(maxlen=OLD_SESSIONS)
        self._forget()

    def _forget(self) -> None:
        """Start with empty queues, as each session does."""
        self._queue: deque[tuple[str, str]] = deque()  # kind and text of frames not sent yet
        self._in_flight: dict[int, _InFlight] = {}
        self._next_seq = 1
        self._expected = 1
        self._early: dict[int, Frame] = {}
        self._pieces: list[str] = []
        self._assembled = 0
        self._missing: set[int] = set()
        self._ack_due = False
        self._acked = float("-inf")
        self._ack_tries = 0
        self._welcome_due = False

    @property
    def backlog(self) -> int:
        """Frames that wait to be sent or acknowledged."""
        return len(self._queue) + len(self._in_flight)

    @property
    def heard(self) -> float:
        """When the last whole frame of this session came; minus infinity: none has."""
        return self._heard

    def set_busy(self, request: str | None) -> None:
        """Say in HELLO which request is being worked on."""
        self._hello["busy"] = request

    def send(self, body: Mapping[str, JSON]) -> None:
        """Queue a message. Raises ProtocolError without a session, or for one too long."""
        if self.session == NO_SESSION:
            raise ProtocolError("a message was sent before there was a session")
        text = encode_json(body)
        if len(text) > self._send_limit:
            raise ProtocolError(
                f"a message of {len(text)} bytes is over the {self._send_limit} allowed"
            )
        room = MAX_FRAME - len(f"@bg{PROTOCOL} {NO_SESSION} D 999999999 {NO_SESSION} \n")
        pieces = [text[at : at + room] for at in range(0, len(text), room)]
        self._queue.extend(("P", piece) for piece in pieces[:-1])
        self._queue.append(("D", pieces[-1]))

    def welcome(self, hello: Hello, session: str) -> None:
        """Open a session with the agent that said this HELLO (the controller's side).

        `session` is eight fresh random hexadecimal digits. Raises PeerError for a protocol
        version that is not ours.
        """
        if hello.protocol != PROTOCOL:
            raise PeerError(
                f"the agent in the machine speaks version {hello.protocol} of the protocol, this"
                f" controller version {PROTOCOL}: use the ISO that belongs to this controller"
            )
        self._open(session)
        self._guest = hello.instance
        self._welcome = encode_json({"instance": hello.instance})
        self._welcome_due = True

    def _open(self, session: str) -> None:
        self._old_sessions.append(self.session)
        self._forget()
        self.session = session

    def receive(self, data: bytes, now: float) -> list[Event]:
        """Take bytes from the line, give what they mean.

        Raises PeerError when the peer breaks the protocol within a valid frame.
        """
        events: list[Event] = []
        for frame in self._decoder.feed(data):
            events.extend(self._take(frame, now))
        return events

    def _take(self, frame: Frame, now: float) -> Iterator[Event]:
        if frame.kind == "H":
            if self._role == "controller":
                yield self._take_hello(frame)
        elif frame.version != PROTOCOL:
            return
        elif frame.kind == "W":
            if self._role == "agent":
                yield from self._take_welcome(frame, now)
        elif frame.session == self.session != NO_SESSION:
            self._heard = now
            if frame.kind == "A":
                self._take_ack(frame)
            else:
                yield from self._take_data(frame)

    def _take_hello(self, frame: Frame) -> Hello:
        body = decode_json(frame.text)
        busy = body.get("busy")
        words = {}
        for name in ("agent_version", "image", "boot", "instance"):
            value = body.get(name)
            if not isinstance(value, str):
                raise PeerError(f"HELLO has no text named {name}")
            words[name] = value
        if not isinstance(busy, str | None):
            raise PeerError("HELLO's busy is neither text nor null")
        hello = Hello(protocol=frame.version, busy=busy, session=frame.session, **words)
        if self._welcome and hello.instance == self._guest and frame.session != self.session:
            self._welcome_due = True
        return hello

    def _take_welcome(self, frame: Frame, now: float) -> Iterator[Event]:
        if decode_json(frame.text).get("instance") != self._hello["instance"]:
            return
        if frame.session in self._old_sessions or frame.session == NO_SESSION:
            return
        self._heard = now
        if frame.session != self.session:
            self._open(frame.session)
            yield Welcomed(frame.session)

    def _take_ack(self, frame: Frame) -> None:
        """Drop what arrived; note what was overtaken by a later frame that did arrive."""
        early = {int(number, 16) for number in re.findall(r"[0-9a-f]{1,8}", frame.text)}
        arrived = [seq for seq in self._in_flight if seq <= frame.seq or seq in early]
        for seq in arrived:
            del self._in_flight[seq]
        for waiting in self._in_flight.values() if arrived else ():
            waiting.tries = 1  # the line works again
        self._missing = {seq for seq in self._in_flight if seq < max(early, default=0)}

    def _take_data(self, frame: Frame) -> Iterator[Message]:
        self._ack_due = True
        if self._expected <= frame.seq < self._expected + max(WINDOW.values()):
            self._early[frame.seq] = frame
        while (following := self._early.pop(self._expected, None)) is not None:
            self._expected += 1
            self._pieces.append(following.text)
            self._assembled += len(following.text) + 1  # an empty piece counts, too
            if self._assembled > self._receive_limit + self._receive_limit // 256:
                raise PeerError(f"the peer sent a message of over {self._receive_limit} bytes")
            if following.kind == "D":
                text = "".join(self._pieces)
                self._pieces, self._assembled = [], 0
                yield Message(decode_json(text))

    def outgoing(self, now: float) -> bytes:
        """Give the bytes to write now: HELLO, WELCOME, acknowledgements, resends, new frames."""
        lines: list[bytes] = []
        if self._hello_due_at() <= now:
            self._said_hello = now
            lines.append(self._line("H", 0, encode_json(self._hello)))
        if self._welcome_due and self._welcome is not None:
            self._welcome_due = False
            lines.append(self._line("W", 0, self._welcome))
        if self._ack_due or self._ack_again_at() <= now:
            self._ack_tries = 1 if self._ack_due else self._ack_tries + 1
            self._ack_due = False
            self._acked = now
            early = ",".join(f"{seq:x}" for seq in sorted(self._early))
            lines.append(self._line("A", self._expected - 1, early))
        lines.extend(self._resends(now))
        lines.extend(self._new_frames(now))
        return b"".join(lines)

    def next_wakeup(self) -> float:
        """Give the time at which `outgoing` has more to say, as far as is known now."""
        if self._ack_due or self._welcome_due or (self._queue and self._has_room()):
            return float("-inf")
        times = [self._resend_at(seq, frame) for seq, frame in self._in_flight.items()]
        return min([self._hello_due_at(), self._ack_again_at(), *times])

    def _hello_due_at(self) -> float:
        if self._role == "controller":
            return float("inf")
        return max(self._heard, self._said_hello) + HELLO_INTERVAL

    def _ack_again_at(self) -> float:
        if not (self._pieces or self._early) or self._ack_tries >= ACK_TRIES:
            return float("inf")
        return self._acked + ACK_AGAIN_AFTER * float(2 ** (self._ack_tries - 1))

    def _resend_at(self, seq: int, frame: _InFlight) -> float:
        after = RESEND_MISSING_AFTER if seq in self._missing else RESEND_AFTER
        return frame.sent + min(after * float(2 ** (frame.tries - 1)), RESEND_LIMIT)

    def _resends(self, now: float) -> Iterator[bytes]:
        for seq, frame in self._in_flight.items():
            if self._resend_at(seq, frame) <= now:
                frame.sent = now
                frame.tries = min(frame.tries + 1, 8)
                yield frame.line

    def _has_room(self) -> bool:
        oldest = min(self._in_flight, default=self._next_seq)
        return self._next_seq - oldest < WINDOW[self._role]

    def _new_frames(self, now: float) -> Iterator[bytes]:
        while self._queue and self._has_room():
            kind, text = self._queue.popleft()
            line = self._line(kind, self._next_seq, text)
            self._in_flight[self._next_seq] = _InFlight(line, now)
            self._next_seq += 1
            yield line

    def _line(self, kind: str, seq: int, text: str) -> bytes:
        return encode_frame(Frame(PROTOCOL, self.session, kind, seq, text))
