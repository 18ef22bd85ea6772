"""A serial line as bad as it can be: a proxy between a controller and a guest's end of COM1.

::

    controller -- Unix socket, which it may open again -- BadLine -- the guest's end, an open file

Bytes are lost, repeated, changed, put in, held back and split; lines of a kernel and of GRUB come
in at any byte; earlier lines come once more; the connection is cut and comes back; the line is dead
for a while or for good. What falls on which byte comes from the seed.
"""

import contextlib
import os
import random
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

Kind = Literal["lose", "repeat", "change", "insert", "chatter", "hold", "split", "old", "cut"]

KINDS: tuple[Kind, ...] = (
    *("lose", "repeat", "change", "insert", "chatter", "hold", "split", "old", "cut"),
)
CHATTER = (
    b"\r\n[    4.260731] ata2.00: exception Emask 0x0 SAct 0x0 SErr 0x0 action 0x6 frozen\r\n",
    b"[   12.000000] EXT4-fs (dm-0): recovery complete\n",
    b"GRUB loading stage2.\r\n\x1b[2J\x1b[H  Booting 'bootgraft'\r\n",
    b"\n    GNU GRUB  version 0.97  (639K lower / 523200K upper memory)\n",
    b"@bg",
    b"@bg1 00000000 D 1 ",
    b"\r\nPress any key to continue.\r\n",
    b"\xff\xfe\x00\x1b]0;",
)
LONGEST_HOLD = 0.3  # seconds
LONGEST_CUT = 0.5
KEPT_LINES = 20
_READ = 4096  # bytes


@dataclass(frozen=True, slots=True)
class Pause:
    """The line stands still; `cut`: and nobody is connected meanwhile, so that bytes are lost."""

    seconds: float
    cut: bool = False


Piece = bytes | Pause


class Mangler:
    """What one direction of a line does to the bytes on it. Pure.

    `chances` gives for each kind of fault how often it falls on a byte.
    """

    def __init__(self, chances: Mapping[Kind, float], rng: random.Random) -> None:
        self._kinds: Sequence[Kind] = list(chances)
        self._weights = list(chances.values())
        self._total = sum(self._weights)
        self._rng = rng
        self._lines: deque[bytes] = deque(maxlen=KEPT_LINES)
        self._gap = self._next_gap()

    def _next_gap(self) -> float:
        return self._rng.expovariate(self._total) if self._total else float("inf")

    def mangle(self, data: bytes) -> Iterator[Piece]:
        """Give what becomes of some bytes."""
        self._lines.extend(line for line in data.splitlines(keepends=True) if len(line) > 1)
        at = 0
        while len(data) - at > self._gap:
            struck = at + int(self._gap)
            if struck > at:
                yield data[at:struck]
            yield from self._strike(data[struck : struck + 1])
            at = struck + 1
            self._gap = self._next_gap()
        self._gap -= len(data) - at
        if at < len(data):
            yield data[at:]

    def _strike(self, byte: bytes) -> Iterator[Piece]:
        rng = self._rng
        match rng.choices(self._kinds, self._weights)[0]:
            case "lose":
                pass
            case "repeat":
                yield byte * rng.randint(2, 5)
            case "change":
                yield bytes([byte[0] ^ rng.randint(1, 255)])
            case "insert":
                yield byte + rng.randbytes(rng.randint(1, 4))
            case "chatter":
                yield byte + rng.choice(CHATTER)
            case "hold":
                yield byte
                yield Pause(rng.uniform(0.01, LONGEST_HOLD))
            case "split":
                yield byte
                yield Pause(0.002)
            case "old":
                yield byte + rng.choice(self._lines or [b"\n"])
            case "cut":
                yield Pause(rng.uniform(0.0, LONGEST_CUT), cut=True)


@dataclass(frozen=True, slots=True)
class Dead:
    """From so many bytes on, counted both ways, nothing passes for so many seconds."""

    after: int
    seconds: float
    connected: bool = True  # False: the controller's connection is gone meanwhile, too


@dataclass
class _Way:
    """One direction: what is still to be passed on, in order."""

    mangler: Mangler
    waiting: deque[Piece] = field(default_factory=deque)
    stands_until: float = 0.0


class BadLine:
    """The proxy, in a thread of its own; leaving the context ends it.

    `guest` is the guest's end, which stays its owner's; `address` is where the controller connects.
    """

    def __init__(
        self,
        guest: int,
        address: Path,
        chances: Mapping[Kind, float],
        rng: random.Random,
        dead: Dead | None = None,
    ) -> None:
        self._guest = guest
        self._to_controller = _Way(Mangler(chances, random.Random(rng.random())))  # noqa: S311
        self._to_guest = _Way(Mangler(chances, random.Random(rng.random())))  # noqa: S311
        self._dead = dead
        self.died_at = 0.0  # by the monotonic clock; 0: not yet
        self.passed = 0  # bytes that came in, both ways
        self._away_until = 0.0
        self._is_healed = False
        self._controller: socket.socket | None = None
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(address))
        self._listener.listen(1)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        os.set_blocking(guest, False)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the proxy."""
        self._stop.set()
        self._thread.join(10)
        self._hang_up()
        self._listener.close()

    def heal(self) -> None:
        """Be a good line from now on: what still is on its way comes at once."""
        self._is_healed = True
        self._dead = None
        self._away_until = 0.0
        for way in (self._to_controller, self._to_guest):
            way.mangler = Mangler({}, random.Random(0))  # noqa: S311
            way.stands_until = 0.0

    # The proxy's thread.

    def _run(self) -> None:
        while not self._stop.is_set():
            self._turn(time.monotonic())

    def _turn(self, now: float) -> None:
        readers: list[int | socket.socket] = [self._guest]
        if self._controller is not None:
            readers.append(self._controller)
        elif now >= self._away_until:
            readers.append(self._listener)
        busy = self._to_controller.waiting or self._to_guest.waiting
        try:
            readable, _, _ = select.select(readers, [], [], 0.002 if busy else 0.05)
        except OSError:  # the guest has gone
            self._stop.set()
            return
        if self._listener in readable:
            self._controller, _ = self._listener.accept()
            self._controller.setblocking(False)
        if self._guest in readable:
            self._take(self._to_controller, self._read_guest())
        if self._controller is not None and self._controller in readable:
            self._take(self._to_guest, self._read_controller(self._controller))
        now = time.monotonic()
        self._pass_on(self._to_controller, self._write_controller, now)
        self._pass_on(self._to_guest, self._write_guest, now)

    def _read_guest(self) -> bytes:
        try:
            data = os.read(self._guest, _READ)
        except BlockingIOError:
            return b""
        except OSError:
            data = b""
        if not data:
            self._stop.set()
        return data

    def _read_controller(self, controller: socket.socket) -> bytes:
        try:
            data = controller.recv(_READ)
        except BlockingIOError:
            return b""
        except OSError:
            data = b""
        if not data:
            self._hang_up()
        return data

    def _take(self, way: _Way, data: bytes) -> None:
        self.passed += len(data)
        lost = way is self._to_controller and self._controller is None  # as on any serial line
        if self._is_dead():
            way.waiting.clear()
        elif not lost:
            way.waiting.extend(way.mangler.mangle(data))

    def _is_dead(self) -> bool:
        dead = self._dead
        if dead is None or self.passed <= dead.after:
            return False
        now = time.monotonic()
        if not self.died_at:
            self.died_at = now
            if not dead.connected:
                self._hang_up()
                self._away_until = now + dead.seconds
        return now < self.died_at + dead.seconds

    def _pass_on(self, way: _Way, write: Callable[[bytes], int], now: float) -> None:
        while way.waiting and now >= way.stands_until:
            piece = way.waiting.popleft()
            if isinstance(piece, Pause):
                if self._is_healed:
                    continue
                way.stands_until = now + piece.seconds
                if piece.cut:
                    self._cut(way.stands_until)
            elif rest := piece[write(piece) :]:
                way.waiting.appendleft(rest)
                return

    def _cut(self, until: float) -> None:
        """Lose the connection, and what is on the line."""
        self._away_until = until
        self._hang_up()
        for way in (self._to_controller, self._to_guest):
            way.waiting.clear()

    def _write_controller(self, data: bytes) -> int:
        """Write to the controller, if it is there."""
        if self._controller is None:
            return len(data)
        try:
            return self._controller.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            self._hang_up()
            return len(data)

    def _write_guest(self, data: bytes) -> int:
        try:
            return os.write(self._guest, data)
        except BlockingIOError:
            return 0
        except OSError:
            self._stop.set()
            return len(data)

    def _hang_up(self) -> None:
        if self._controller is not None:
            with contextlib.suppress(OSError):
                self._controller.close()
            self._controller = None
