r"""Named pipes of the modelled host: \\.\pipe\NAME, one instance, one client at a time.

What is known of the pipes of Hyper-V's COM ports is kept here: output without a client is lost; a
client that does not read holds the guest up; a second client finds the pipe busy; disconnecting
ends the client's handle (DisconnectNamedPipe) and leaves the pipe to the next client.
"""

import threading
import time
from collections.abc import Callable

BUFFER_SIZE = 4096  # bytes each way; what Windows would hold, in order of magnitude
DRAIN_TIMEOUT = 2.0  # seconds that a disconnection waits for a client that is reading
POLL = 0.05  # seconds between looks at whether a wait was called off

Stopped = Callable[[], bool] | None  # tells that a wait is called off; None: it cannot be


class PipeError(Exception):
    """A call on a pipe failed; `number` is Windows' error number."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number


FILE_NOT_FOUND = 2
PIPE_BUSY = 231
PIPE_NOT_CONNECTED = 233


def _not_connected() -> PipeError:
    return PipeError(PIPE_NOT_CONNECTED, "No process is on the other end of the pipe.")


class Connection:
    """One client's time on a pipe: a bounded buffer each way, and what becomes of it."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.to_client = bytearray()
        self.to_server = bytearray()
        self.server_open = True
        self.client_open = True
        self._reading = 0  # calls of the client that wait for data

    @property
    def is_open(self) -> bool:
        return self.server_open and self.client_open

    # The client's calls.

    def read(self, limit: int, stopped: Stopped = None) -> bytes:
        """Wait for data, then take up to `limit` bytes; b"" once the server has let go."""
        with self.changed:
            self._reading += 1
            try:
                self._wait(lambda: bool(self.to_client) or not self.is_open, stopped)
            finally:
                self._reading -= 1
            return self._take(self.to_client, limit) if self.client_open else b""

    def write(self, data: bytes, stopped: Stopped = None) -> None:
        """Send all; waits while the server does not read."""
        with self.changed:
            self._put(self.to_server, data, stopped)

    def close(self) -> None:
        """Close the client's end."""
        with self.changed:
            self.client_open = False
            self.changed.notify_all()

    # The server's calls.

    def server_read(self, limit: int) -> bytes:
        """Wait for the client's data; b"" once the connection has ended."""
        with self.changed:
            self._wait(lambda: bool(self.to_server) or not self.is_open)
            return self._take(self.to_server, limit) if self.server_open else b""

    def server_write(self, data: bytes) -> None:
        """Send all, or as much as the client stays for."""
        with self.changed:
            self._put(self.to_client, data)

    def disconnect(self) -> None:
        """End the client's handle; what it has not read is lost, unless it is reading."""
        with self.changed:
            deadline = time.monotonic() + DRAIN_TIMEOUT
            while self.to_client and self.is_open and time.monotonic() < deadline:
                before = len(self.to_client)
                self.changed.wait(POLL)
                if not self._reading and len(self.to_client) == before:
                    break
            self.server_open = False
            self.to_client.clear()
            self.changed.notify_all()

    # Inside.

    def _wait(self, ready: Callable[[], bool], stopped: Stopped = None) -> None:
        while not ready():
            if stopped is not None and stopped():
                return
            self.changed.wait(POLL if stopped is not None else None)

    def _take(self, buffer: bytearray, limit: int) -> bytes:
        taken = bytes(buffer[:limit])
        del buffer[:limit]
        self.changed.notify_all()
        return taken

    def _put(self, buffer: bytearray, data: bytes, stopped: Stopped = None) -> None:
        def has_room() -> bool:
            return len(buffer) < BUFFER_SIZE or not self.is_open

        rest = memoryview(data)
        while rest:
            self._wait(has_room, stopped)
            if not self.is_open:
                raise _not_connected()
            if stopped is not None and stopped():
                return
            room = BUFFER_SIZE - len(buffer)
            buffer += rest[:room]
            rest = rest[room:]
            self.changed.notify_all()


class Pipe:
    """A server's end of a pipe: it goes from client to client until it is closed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._changed = threading.Condition()
        self._connection: Connection | None = None
        self._closed = False

    def connect(self) -> Connection:
        """Open the pipe as a client; PipeError with PIPE_BUSY where another one has it."""
        with self._changed:
            if self._closed:
                raise PipeError(FILE_NOT_FOUND, "The system cannot find the file specified.")
            if self._connection is not None and self._connection.is_open:
                raise PipeError(PIPE_BUSY, "All pipe instances are busy.")
            self._connection = Connection()
            self._changed.notify_all()
            return self._connection

    @property
    def connection(self) -> Connection | None:
        """The client of now."""
        with self._changed:
            found = self._connection
        return found if found is not None and found.is_open else None

    @property
    def is_closed(self) -> bool:
        return self._closed

    def wait_client(self, stopped: Stopped = None) -> Connection | None:
        """Wait for a client; None once the pipe is closed."""
        with self._changed:
            while not self._closed and not (stopped is not None and stopped()):
                if self._connection is not None and self._connection.is_open:
                    return self._connection
                self._changed.wait(POLL if stopped is not None else None)
        return None

    def disconnect(self) -> None:
        """End the client's handle; the pipe waits for the next one."""
        connection = self.connection
        if connection is not None:
            connection.disconnect()

    def close(self) -> None:
        """End the client's handle, and the pipe."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self.disconnect()


class Pipes:
    """All pipes of the host, by name without regard to case."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pipes: dict[str, Pipe] = {}

    def find(self, name: str) -> Pipe | None:
        """The pipe of this name, if there is a server."""
        with self._lock:
            found = self._pipes.get(name.lower())
        return found if found is not None and not found.is_closed else None

    def create(self, name: str) -> Pipe:
        """Make a pipe of one instance; PipeError with PIPE_BUSY where there is one already."""
        with self._lock:
            present = self._pipes.get(name.lower())
            if present is not None and not present.is_closed:
                raise PipeError(PIPE_BUSY, "All pipe instances are busy.")
            made = self._pipes[name.lower()] = Pipe(name)
            return made

    def connect(self, name: str, timeout: float, stopped: Stopped = None) -> Connection:
        """Open a pipe as a client, and wait for it as NamedPipeClientStream.Connect does.

        A pipe that does not exist and one that is busy are both waited for; then TimeoutError.
        """
        deadline = time.monotonic() + timeout
        while True:
            pipe = self.find(name)
            if pipe is not None:
                try:
                    return pipe.connect()
                except PipeError:
                    pass  # busy, or closed this instant
            if time.monotonic() >= deadline or (stopped is not None and stopped()):
                raise TimeoutError
            time.sleep(min(POLL, max(0.0, deadline - time.monotonic())))

    def names(self) -> list[str]:
        """The names of all pipes that are there."""
        with self._lock:
            return [pipe.name for pipe in self._pipes.values() if not pipe.is_closed]

    def close_all(self) -> None:
        """End every pipe, as the host's end does."""
        with self._lock:
            pipes = list(self._pipes.values())
            self._pipes.clear()
        for pipe in pipes:
            pipe.close()
