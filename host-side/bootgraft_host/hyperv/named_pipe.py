"""The client's end of a named pipe of this computer: what Win32's error numbers ask for.

Reading and writing are overlapped, so that neither holds up the other. A read is always under way:
the server drops what it has not handed over when it disconnects, and one that is cancelled could
take bytes with it. The pipe is read in byte mode, whatever its type: a stream. How Hyper-V's worker
behaves as the server:

- 2 on opening: the machine is off; 231: another client, or the machine is being reset;
- 109, 232, 233 on reading and writing: the machine was switched off or reset.

Never tried on Windows. Source of the numbers: learn.microsoft.com, System Error Codes.
"""

import threading
import time
from dataclasses import dataclass
from typing import Protocol

from bootgraft_host.hyperv.pipe_names import pipe_path

ERROR_FILE_NOT_FOUND = 2
ERROR_BROKEN_PIPE = 109
ERROR_SEM_TIMEOUT = 121  # of WaitNamedPipe
ERROR_PIPE_BUSY = 231
ERROR_NO_DATA = 232
ERROR_PIPE_NOT_CONNECTED = 233
ERROR_MORE_DATA = 234  # the rest of the message comes with the next read
ERROR_OPERATION_ABORTED = 995

CLOSED = frozenset({ERROR_BROKEN_PIPE, ERROR_NO_DATA, ERROR_PIPE_NOT_CONNECTED})
CONNECT_TIMEOUT = 2.0  # seconds that a busy pipe is waited for
READ_SIZE = 64 * 1024  # bytes
WRITE_SIZE = 4096  # bytes; a write is cancelled at most once in so many
LOCK_INTERVAL = 0.05  # seconds


class NamedPipeError(OSError):
    """A Win32 function failed; `winerror` is its number."""

    def __init__(self, winerror: int, function: str) -> None:
        super().__init__(f"{function} failed with Win32 error {winerror}")
        self.winerror = winerror


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a transfer ended: a Win32 error, 0 for none, and how many bytes were transferred."""

    winerror: int
    count: int


class Transfer(Protocol):
    """An overlapped read or write, from its beginning on."""

    def wait(self, timeout: float | None) -> bool:
        """Wait for the end, up to `timeout` seconds; False where the time is over."""

    def cancel(self) -> None:
        """Ask for the end; it may be over already."""

    def finish(self) -> Outcome:
        """Wait for the end, however long it takes, and give the outcome."""

    def data(self, count: int) -> bytes:
        """The first `count` bytes of what was read."""


class Handle(Protocol):
    """An open pipe; the functions raise NamedPipeError."""

    def read(self, size: int) -> Transfer:
        """Begin to read up to `size` bytes."""

    def write(self, data: bytes) -> Transfer:
        """Begin to write `data`."""

    def available(self) -> int:
        """How many bytes wait in the pipe."""

    def cancel(self) -> None:
        """Ask for the end of every transfer."""

    def close(self) -> None:
        """Close the handle; no transfer is under way."""


class PipeSystem(Protocol):
    """The named pipes of a computer; the functions raise NamedPipeError."""

    def open(self, path: str) -> Handle:
        """Open a pipe for reading and writing."""

    def wait_until_free(self, path: str, timeout: float) -> None:
        """Wait for a pipe that takes a client, up to `timeout` seconds."""


def connect_pipe(system: PipeSystem, name: str) -> "NamedPipe":
    """Connect to a pipe; one that is busy is waited for, up to CONNECT_TIMEOUT. Raises OSError."""
    path = pipe_path(name)
    deadline = time.monotonic() + CONNECT_TIMEOUT
    while True:
        try:
            return NamedPipe(system.open(path), path)
        except NamedPipeError as error:
            left = deadline - time.monotonic()
            if error.winerror != ERROR_PIPE_BUSY or left <= 0:
                raise _explain(error, path) from error
        try:
            system.wait_until_free(path, left)
        except NamedPipeError as error:
            raise _explain(error, path) from error


def _explain(error: NamedPipeError, path: str) -> OSError:
    if error.winerror == ERROR_FILE_NOT_FOUND:
        return FileNotFoundError(f"{path} does not exist: the machine is off ({error})")
    if error.winerror in {ERROR_PIPE_BUSY, ERROR_SEM_TIMEOUT}:
        return ConnectionRefusedError(f"{path} has another client ({error})")
    return error


class NamedPipe:
    """An open pipe as a stream of bytes; see pipe_port.PipeStream."""

    def __init__(self, handle: Handle, path: str) -> None:
        self._handle = handle
        self._path = path
        self._unread = bytearray()  # this and the next two are the reader's
        self._transfer: Transfer | None = None
        self._ending: str | None = None
        self._closed = False
        self._reading = threading.Lock()
        self._writing = threading.Lock()
        self._closing = threading.Lock()
        self._read_on()

    def waiting(self) -> int:
        """How many bytes can be received without waiting."""
        with self._reading:
            self._refuse_when_closed()
            if self._transfer is not None and self._transfer.wait(0):
                self._collect()
            if self._ending is not None:
                return len(self._unread)
            try:
                return len(self._unread) + self._handle.available()
            except NamedPipeError:
                return len(self._unread)  # the next read says what it is

    def receive(self, size: int, timeout: float | None) -> bytes:
        """Wait for a first byte and give up to `size` bytes, none where the time is over."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._reading:
            while not self._unread:
                self._refuse_when_closed()
                if self._ending is not None:
                    raise ConnectionError(self._ending)
                if self._transfer is not None and not self._transfer.wait(_left(deadline)):
                    return b""
                self._collect()
            data = bytes(self._unread[:size])
            del self._unread[:size]
            return data

    def send(self, data: bytes, timeout: float | None) -> None:
        """Write all of `data`; raises TimeoutError where the guest does not read it in time."""
        deadline = None if timeout is None else time.monotonic() + timeout
        rest = data
        with self._writing:
            while rest:
                self._refuse_when_closed()
                rest = rest[self._write(rest[:WRITE_SIZE], _left(deadline)) :]
                if rest and _left(deadline) == 0:
                    raise TimeoutError("the guest does not read what is written")

    def close(self) -> None:
        """Disconnect; a reader and a writer in other threads get an error."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._handle.cancel()
            for lock in (self._reading, self._writing):
                while not lock.acquire(timeout=LOCK_INTERVAL):
                    self._handle.cancel()  # what was begun meanwhile
                lock.release()
            if self._transfer is not None:
                self._transfer.cancel()
                self._transfer.finish()
            self._handle.close()

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise ConnectionError("the port is closed")

    def _collect(self) -> None:
        """Take what a read that is done has brought, and begin the next one."""
        transfer, self._transfer = self._transfer, None
        if transfer is not None:
            outcome = transfer.finish()
            self._unread += transfer.data(outcome.count)
            self._note(outcome.winerror)
        if self._ending is None:
            self._read_on()

    def _read_on(self) -> None:
        """Begin a read; it goes on whether or not somebody asks for what it brings."""
        try:
            self._transfer = self._handle.read(READ_SIZE)
        except NamedPipeError as error:
            self._note(error.winerror)

    def _note(self, winerror: int) -> None:
        """Note what the end of a read means; 995 is for a read whose thread has ended."""
        if winerror in CLOSED:
            self._ending = f"the peer has disconnected (Win32 error {winerror})"
        elif winerror not in {0, ERROR_MORE_DATA, ERROR_OPERATION_ABORTED}:
            self._ending = f"cannot read from {self._path} (Win32 error {winerror})"

    def _write(self, data: bytes, timeout: float | None) -> int:
        """Write what can be written in time; returns how many bytes that is."""
        try:
            transfer = self._handle.write(data)
        except NamedPipeError as error:
            raise self._refusal(error.winerror) from error
        done = False
        try:
            done = transfer.wait(timeout)
        finally:
            if not done:
                transfer.cancel()
            outcome = transfer.finish()  # its buffer is Windows' until then
        if outcome.winerror not in {0, ERROR_OPERATION_ABORTED}:
            raise self._refusal(outcome.winerror)
        return outcome.count

    def _refusal(self, winerror: int) -> OSError:
        if winerror in CLOSED:
            return ConnectionError(f"the peer has disconnected (Win32 error {winerror})")
        return OSError(f"cannot write to {self._path} (Win32 error {winerror})")


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())
