"""A pipe of another computer as a stream of bytes: a thread that keeps a relay busy.

The thread asks again and again for what has come, more often while something comes, and at once
when there is something to write. Where the host cannot be reached it tries the same again for as
long as the relay lives there; then the stream has ended.
"""

import logging
import threading
import time

from bootgraft_host.hyperv.relay import BLOCK_SIZE, FETCH_SIZE, Answer, Block, Relay
from bootgraft_host.hyperv.runner import ScriptError, UnreachableError
from bootgraft_host.machine import MachineError

SHORT_PAUSE = 0.02  # seconds between two exchanges while bytes come or go
LONG_PAUSE = 0.25  # seconds between two exchanges when the line is quiet
RETRY_INTERVAL = 0.5  # seconds
PERSISTENCE = 25.0  # seconds without an answer; the relay waits somewhat longer (IDLE_TIME)
UNREAD_LIMIT = 4 * 1024 * 1024  # bytes; more stays in the relay's file until somebody reads
CLOSE_TIMEOUT = 5.0  # seconds; then the thread, a daemon, is left to itself

_LOGGER = logging.getLogger(__name__)


class RelayStream:
    """What `relay`, which is open, brings and takes; see pipe_port.PipeStream."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._received = bytearray()
        self._ending: str | None = None  # why nothing more comes
        self._block: Block | None = None  # offered to the host, not taken yet
        self._number = 0  # of the last block
        self._writing = False  # a block that was taken waits for the guest to read
        self._closing = False
        self._changed = threading.Condition()  # guards all of the above but the relay
        self._pause = SHORT_PAUSE
        self._answered_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=str(relay), daemon=True)
        self._thread.start()

    def waiting(self) -> int:
        """How many bytes have been fetched from the host."""
        with self._changed:
            return len(self._received)

    def receive(self, size: int, timeout: float | None) -> bytes:
        """Wait for a first byte and give up to `size` bytes, none where the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._received or self._ending is not None, timeout)
            if not self._received and self._ending is not None:
                raise ConnectionError(self._ending)
            data = bytes(self._received[:size])
            del self._received[:size]
            return data

    def send(self, data: bytes, timeout: float | None) -> None:
        """Write all of `data`; raises TimeoutError where the guest does not read it in time."""
        deadline = None if timeout is None else time.monotonic() + timeout
        for start in range(0, len(data), BLOCK_SIZE):
            with self._changed:
                self._wait_until_written(deadline)
                self._number += 1
                block = self._block = Block(self._number, data[start : start + BLOCK_SIZE])
                self._changed.notify_all()
                try:
                    self._wait_until_written(deadline)
                finally:
                    if self._block is block:
                        self._block = None  # given up

    def close(self) -> None:
        """Let go of the pipe; what has been fetched is dropped."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(CLOSE_TIMEOUT)
        if self._thread.is_alive():
            _LOGGER.warning("%s is left to itself: it closes when it hears no more", self._relay)

    def _wait_until_written(self, deadline: float | None) -> None:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not self._changed.wait_for(self._is_written_or_over, left):
            raise TimeoutError("the guest does not read what is written")
        if self._ending is not None or self._closing:
            raise ConnectionError(self._ending or "the port is closed")

    def _is_written_or_over(self) -> bool:
        written = self._block is None and not self._writing
        return written or self._ending is not None or self._closing

    # The thread.

    def _run(self) -> None:
        ending, lost = "the port is closed", False
        try:
            while self._wait_for_turn() and (answer := self._exchange()) is not None:
                if not answer.ended:
                    continue
                if not self._relay.full:
                    ending = f"the peer has disconnected ({answer.ending})"
                    break
                self._start_anew()
        except MachineError as error:  # of the host, or a file for logging in is not right any more
            ending, lost = str(error), True
        finally:
            self._end(ending, lost=lost)

    def _start_anew(self) -> None:
        self._relay.reopen()
        with self._changed:
            self._writing = False  # what waited to be read is lost
            self._changed.notify_all()

    def _end(self, ending: str, *, lost: bool) -> None:
        _LOGGER.debug("%s: %s", self._relay, ending)
        with self._changed:
            self._ending = ending
            self._received = bytearray() if self._closing else self._received
            self._changed.notify_all()
        if lost:
            self._relay.abandon()
        else:
            self._relay.close()

    def _wait_for_turn(self) -> bool:
        """Wait until the next exchange is due; False when the port is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._block is not None, self._pause)
            return not self._closing

    def _exchange(self) -> Answer | None:
        """Have one exchange, in spite of a bad line; None when the port is closed meanwhile."""
        with self._changed:
            block = None if self._relay.full else self._block
            limit = min(FETCH_SIZE, max(0, UNREAD_LIMIT - len(self._received)))
        while True:
            asked_at = time.monotonic()
            try:
                answer = self._relay.exchange(limit=limit, block=block, last=self._relay.full)
            except UnreachableError as error:
                if not self._may_try_again(error):
                    raise
                if self._is_closed_within(RETRY_INTERVAL):
                    return None
            except ScriptError:
                if block is None:
                    raise
                block = None  # the peer is gone: what it said before is still to be had
            else:
                self._answered_at = asked_at
                self._take(answer, limit)
                return answer
            with self._changed:
                if self._block is not block:
                    block = None  # the writer waits no more

    def _take(self, answer: Answer, limit: int) -> None:
        with self._changed:
            self._received += answer.data
            self._writing = answer.writing
            wrote = self._block is not None and self._block.number == answer.written
            if wrote:
                self._block = None
            self._changed.notify_all()
        if answer.data and len(answer.data) == limit:
            self._pause = 0
        elif answer.data or wrote or answer.writing:
            self._pause = SHORT_PAUSE
        else:
            self._pause = min(LONG_PAUSE, max(SHORT_PAUSE, self._pause * 1.5))

    def _may_try_again(self, error: UnreachableError) -> bool:
        silence = time.monotonic() - self._answered_at
        _LOGGER.debug("%s: no answer for %.1f s: %s", self._relay, silence, error)
        return silence < PERSISTENCE

    def _is_closed_within(self, seconds: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._closing, seconds)
