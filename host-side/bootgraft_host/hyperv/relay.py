"""The relay: a script session on a Hyper-V host that holds the client's end of a named pipe.

::

    guest's COM1 <-> pipe <-> relay-open.ps1's copying -> temporary file -> relay-exchange.ps1 -> us
                          <- relay-exchange.ps1's blocks <---------------------------------------

Copying goes on between the scripts, so that the guest never stalls. Each exchange asks for what
came since an offset of ours, and gives at most one block to write, which has a number: whatever
request or answer is lost on the way may be sent again, and no byte is lost or doubled either way.
The relay closes the pipe when nothing was exchanged for IDLE_TIME.
"""

import base64
import binascii
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass

from bootgraft_agent.wire import JSON
from bootgraft_host.hyperv.runner import HostError, Runner, ScriptError
from bootgraft_host.machine import MachineError

IDLE_TIME = 30.0  # seconds
CONNECT_TIME = 0.1  # seconds; .NET keeps a processor busy where the pipe does not exist
WRITE_TIME = 0.05  # seconds that one exchange waits for its block to be written
OPEN_TIME = 3.0  # seconds in which the pipe may come to be, or to be free
OPEN_INTERVAL = 0.1  # seconds between two attempts
RUN_TIMEOUT = 20.0  # seconds for one script; when one takes longer, its session is given up
CLOSE_TIMEOUT = 5.0  # seconds

FETCH_SIZE = 64 * 1024  # bytes of one answer; in Base64 well below WinRM's 500 KiB a message
BLOCK_SIZE = 16 * 1024  # bytes of one block to write
FILE_LIMIT = 64 * 1024 * 1024  # bytes; then the relay starts anew, with an empty file

# FullyQualifiedErrorIds: the pipe does not exist, or has another client.
_NOT_YET = ("TimeoutException", "IOException")

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Block:
    """Bytes to write at once; the numbers of one relay's blocks rise."""

    number: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What an exchange brought."""

    data: bytes
    ended: bool  # the pipe is closed, and `data` is the last of it
    ending: str  # .NET's word for how the copying stands
    written: int  # the number of the last block that the host took
    writing: bool  # that block still waits for the guest to read


class Relay:
    """One relay, from `open` to `close`; used by one thread at a time. Raises HostError."""

    def __init__(self, runner: Runner, pipe_name: str) -> None:
        self._runner = runner
        self._pipe_name = pipe_name
        self._offset = 0
        self._written = 0  # of the last answer

    def __str__(self) -> str:
        return f"the relay to the pipe {self._pipe_name} on {self._runner.host}"

    @property
    def full(self) -> bool:
        """Whether its file has become so long that the relay should start anew."""
        return self._offset >= FILE_LIMIT

    def open(self) -> None:
        """Connect to the pipe, waiting a little for it where it is not there or not free."""
        asked: dict[str, JSON] = {
            "PipeName": self._pipe_name,
            "ConnectMilliseconds": _milliseconds(CONNECT_TIME),
            "IdleMilliseconds": _milliseconds(IDLE_TIME),
        }
        deadline = time.monotonic() + OPEN_TIME
        while True:
            try:
                self._runner.run("relay-open", asked, timeout=RUN_TIMEOUT)
            except ScriptError as error:
                if error.error_id not in _NOT_YET or time.monotonic() > deadline:
                    raise
                time.sleep(OPEN_INTERVAL)
            else:
                self._offset = self._written = 0
                return

    def exchange(self, *, limit: int, block: Block | None = None, last: bool = False) -> Answer:
        """Fetch up to `limit` bytes, and give a block to write, unless one is being written.

        After an UnreachableError the same block may be given again; the host takes it once. With
        `last`, the relay closes the pipe; what has come from it is still to be fetched.
        """
        asked: dict[str, JSON] = {
            "Offset": self._offset,
            "Limit": limit,
            "IdleMilliseconds": 0 if last else _milliseconds(IDLE_TIME),
            "WriteMilliseconds": _milliseconds(WRITE_TIME),
            "Write": [] if block is None else [self._offer(block)],
        }
        answer = self._parse(self._runner.run("relay-exchange", asked, timeout=RUN_TIMEOUT), limit)
        self._offset += len(answer.data)
        return answer

    def reopen(self) -> None:
        """Start anew in the same session."""
        self._runner.run("relay-close", timeout=RUN_TIMEOUT)
        self.open()

    def close(self) -> None:
        """Let go of the pipe and end the session."""
        try:
            self._runner.run("relay-close", timeout=CLOSE_TIMEOUT)
        except MachineError as error:
            _LOGGER.debug("%s: it closes by itself: %s", self, error)
        self.abandon()

    def abandon(self) -> None:
        """End the session, and with it what it holds."""
        try:
            self._runner.close()
        except MachineError as error:
            _LOGGER.debug("%s: its session ends by itself: %s", self, error)

    def _offer(self, block: Block) -> Mapping[str, JSON]:
        return {
            "After": self._written,
            "Number": block.number,
            "Data": base64.b64encode(block.data).decode(),
        }

    def _parse(self, answers: list[Mapping[str, JSON]], limit: int) -> Answer:
        match answers:
            case [
                {
                    "Data": str(text),
                    "Ended": bool(ended),
                    "Ending": str(ending),
                    "Written": int(written),
                    "Writing": str(writing),
                }
            ]:
                data = _decode(text)
                if data is not None and len(data) <= limit:
                    self._written = written
                    return Answer(
                        data=data,
                        ended=ended and len(data) < limit,
                        ending=ending,
                        written=written,
                        writing=writing not in {"RanToCompletion", "Faulted", "Canceled"},
                    )
        raise HostError(f"{self}: the host answered something else than relay-exchange does")


def _decode(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return None


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
