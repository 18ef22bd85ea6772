"""Serial ports behind a Unix socket, for pyserial: `unix:///run/vm/com1.sock`.

pyserial finds this module by its name through serial.protocol_handler_packages (see link.py).
Unlike pyserial's own `socket://` it keeps what the peer sent before `open` returned and what came
just before the peer went away, and it closes at once.
"""

import fcntl
import select
import socket
import struct
import termios
import time
from urllib.parse import unquote, urlsplit

from serial import PortNotOpenError, SerialBase, SerialException, SerialTimeoutException

CONNECT_TIMEOUT = 5.0  # seconds; where the server's backlog is full, even a local connect waits


class Serial(SerialBase):
    """A port of pyserial's kind over AF_UNIX; baud rate and control lines mean nothing here."""

    def __init__(self, *args: object, **settings: object) -> None:
        self._socket: socket.socket | None = None
        super().__init__(*args, **settings)  # type: ignore[arg-type]

    def open(self) -> None:
        """Connect to the socket that the URL names; its path is percent-decoded."""
        path = unquote(urlsplit(str(self.port)).path)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(CONNECT_TIMEOUT)
        try:
            connection.connect(path)
        except OSError as error:
            connection.close()
            raise SerialException(f"cannot connect to {path}: {error}") from error
        connection.setblocking(False)
        self._socket = connection
        self.is_open = True

    def close(self) -> None:
        """Disconnect; a port that is closed stays so."""
        self.is_open = False
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    @property
    def in_waiting(self) -> int:
        """How many bytes can be read without waiting."""
        answer = fcntl.ioctl(self.fileno(), termios.FIONREAD, bytes(4))
        return int(struct.unpack("i", answer)[0])

    def read(self, size: int = 1, /) -> bytes:
        """Read `size` bytes, fewer where `timeout` ends or the peer goes away meanwhile.

        Raises SerialException where the peer has gone and nothing is left.
        """
        received = bytearray()
        deadline = _deadline(self.timeout)
        while len(received) < size and self._wait(select.POLLIN, deadline):
            piece = self._receive(size - len(received))
            if not piece and not received:
                raise SerialException(f"{self.port}: the peer has disconnected")
            if not piece:
                break
            received += piece
        return bytes(received)

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        """Write all of `data`; raises SerialTimeoutException after `write_timeout`."""
        rest = memoryview(data)
        deadline = _deadline(self.write_timeout)
        while rest:
            if not self._wait(select.POLLOUT, deadline):
                raise SerialTimeoutException(f"{self.port}: the peer does not read")
            rest = rest[self._send(rest) :]
        return len(data)

    def fileno(self) -> int:
        """Return the socket's file descriptor."""
        return self._connected().fileno()

    def reset_input_buffer(self) -> None:
        """Drop what waits to be read."""
        while waiting := self.in_waiting:
            self._receive(waiting)

    def reset_output_buffer(self) -> None:
        """Do nothing: what is written is on its way."""

    def _reconfigure_port(self, **_changed: object) -> None:
        """Do nothing: SerialBase calls this when a setting changes."""

    def _connected(self) -> socket.socket:
        if self._socket is None:
            raise PortNotOpenError
        return self._socket

    def _wait(self, event: int, deadline: float | None) -> bool:
        poll = select.poll()
        poll.register(self.fileno(), event)
        left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        return bool(poll.poll(left))

    def _receive(self, size: int) -> bytes:
        try:
            return self._connected().recv(size)
        except OSError as error:
            raise SerialException(f"cannot read from {self.port}: {error}") from error

    def _send(self, data: memoryview) -> int:
        try:
            return self._connected().send(data)
        except BlockingIOError:
            return 0  # room, but not for the next piece
        except OSError as error:
            raise SerialException(f"cannot write to {self.port}: {error}") from error


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout
