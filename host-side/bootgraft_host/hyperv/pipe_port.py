"""pyserial ports over a named pipe, wherever the pipe is.

Baud rate and control lines mean nothing to a pipe. A port keeps what the peer sent before `open`
returned and what came just before the peer went away.
"""

import time
from typing import Protocol

from serial import PortNotOpenError, SerialBase, SerialException, SerialTimeoutException


class PipeStream(Protocol):
    """The client's end of a pipe; a stream of bytes, used from any thread.

    Times are in seconds, None is for ever. What goes wrong is an OSError.
    """

    def waiting(self) -> int:
        """How many bytes can be received without waiting."""

    def receive(self, size: int, timeout: float | None) -> bytes:
        """Wait for a first byte and give up to `size` bytes, none where the time is over.

        Raises OSError where the peer has gone and nothing is left.
        """

    def send(self, data: bytes, timeout: float | None) -> None:
        """Write all of `data`; raises TimeoutError where the peer does not read it in time."""

    def close(self) -> None:
        """Disconnect; a stream that is closed stays so."""


class PipePort(SerialBase):
    """A port of pyserial's kind; a subclass says how its URL is connected to."""

    def __init__(self, *args: object, **settings: object) -> None:
        self._stream: PipeStream | None = None
        super().__init__(*args, **settings)  # type: ignore[arg-type]

    def connect(self, url: str) -> PipeStream:
        """Connect to what the URL names; raises OSError, or ValueError for a URL that is none."""
        raise NotImplementedError

    def open(self) -> None:
        """Connect to what the URL names."""
        try:
            self._stream = self.connect(str(self.port))
        except (OSError, ValueError) as error:
            raise SerialException(f"cannot connect to {self.port}: {error}") from error
        self.is_open = True

    def close(self) -> None:
        """Disconnect; a port that is closed stays so."""
        self.is_open = False
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    @property
    def in_waiting(self) -> int:
        """How many bytes can be read without waiting."""
        return self._connected().waiting()

    def read(self, size: int = 1, /) -> bytes:
        """Read `size` bytes, fewer where `timeout` ends or the peer goes away meanwhile.

        Raises SerialException where the peer has gone and nothing is left.
        """
        stream = self._connected()
        received = bytearray()
        deadline = None if self.timeout is None else time.monotonic() + self.timeout
        while len(received) < size:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                piece = stream.receive(size - len(received), left)
            except OSError as error:
                if received:
                    break
                raise SerialException(f"{self.port}: {error}") from error
            if not piece:
                break
            received += piece
        return bytes(received)

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        """Write all of `data`; raises SerialTimeoutException after `write_timeout`."""
        stream = self._connected()
        try:
            stream.send(bytes(data), self.write_timeout)
        except TimeoutError as error:
            raise SerialTimeoutException(f"{self.port}: {error}") from error
        except OSError as error:
            raise SerialException(f"cannot write to {self.port}: {error}") from error
        return len(data)

    def reset_input_buffer(self) -> None:
        """Drop what waits to be read."""
        while waiting := self.in_waiting:
            self._connected().receive(waiting, 0)

    def reset_output_buffer(self) -> None:
        """Do nothing: what is written is on its way."""

    def _reconfigure_port(self, **_changed: object) -> None:
        """Do nothing: SerialBase calls this when a setting changes."""

    def _connected(self) -> PipeStream:
        if self._stream is None:
            raise PortNotOpenError
        return self._stream
