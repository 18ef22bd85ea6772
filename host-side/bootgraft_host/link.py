"""The byte stream to a guest's COM1, by a pyserial URL.

A virtual serial port is a poor line, and this module takes it as one:

- a client that is connected but does not read stalls the whole guest, so that one thread always
  reads, whoever listens; what nobody fetched is kept up to a limit, the newest bytes first;
- the peer goes away and comes back, so that the thread connects again while the machine runs;
- what is written while nobody is connected, or to a guest that does not read, is lost.

The protocol copes with lost bytes.
"""

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Protocol, cast
from urllib.parse import quote

import serial

BAUD_RATE = 115200  # for what is a real port
READ_TIMEOUT = 0.2  # seconds; how long `close` takes at most as a rule
CLOSE_TIMEOUT = 10.0  # seconds; then the reader, a daemon thread, is left to itself
WRITE_TIMEOUT = 2.0  # seconds that a guest which does not read can hold up a writer
RECONNECT_INTERVAL = 0.1  # seconds
UNREAD_LIMIT = 8 * 1024 * 1024  # bytes; twice the protocol's longest message

_LOGGER = logging.getLogger(__name__)

for _package in ("bootgraft_host", "bootgraft_host.hyperv"):  # for their modules protocol_*
    if _package not in serial.protocol_handler_packages:
        serial.protocol_handler_packages.append(_package)


class _Port(Protocol):
    """What is used of pyserial's ports; its type stubs leave out a part."""

    @property
    def in_waiting(self) -> int: ...
    def read(self, size: int, /) -> bytes: ...
    def write(self, data: bytes, /) -> int | None: ...
    def close(self) -> None: ...


def unix_url(path: Path) -> str:
    """Return the pyserial URL of a Unix socket; `path` is absolute."""
    return "unix://" + quote(str(path))


class Link:
    """The line to one guest, from its first connection on; reads and writes from any thread.

    `may_connect` says whether it makes sense to connect (again): as long as the machine runs. When
    it says no while nobody is connected, the line has ended. `transcript` gets every byte that the
    guest sends, in the reader's thread, and is dropped with a warning if it raises OSError.
    """

    def __init__(
        self,
        url: str,
        *,
        may_connect: Callable[[], bool],
        transcript: Callable[[bytes], None] | None = None,
        unread_limit: int = UNREAD_LIMIT,
    ) -> None:
        self._url = url
        self._may_connect = may_connect
        self._transcript = transcript
        self._unread_limit = unread_limit
        self._unread = bytearray()
        self._lost = 0
        self._port: _Port | None = None
        self._ended = False
        self._changed = threading.Condition()  # guards all of the above
        self._writing = threading.Lock()  # held around each use of the port by a writer
        self._closing = threading.Event()
        self._reader = threading.Thread(target=self._run, name=f"reader of {url}", daemon=True)
        self._reader.start()

    @property
    def connected(self) -> bool:
        """Whether somebody is at the other end."""
        with self._changed:
            return self._port is not None

    @property
    def ended(self) -> bool:
        """Whether nothing more will ever come; what came before may still be unread."""
        with self._changed:
            return self._ended

    @property
    def lost(self) -> int:
        """How many received bytes were dropped because nobody fetched them."""
        with self._changed:
            return self._lost

    def wait_connected(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for the connection; False where there still is none."""
        with self._changed:
            self._changed.wait_for(lambda: self._port is not None or self._ended, timeout)
            return self._port is not None

    def read(self, timeout: float) -> bytes:
        """Return what has come, after waiting up to `timeout` seconds for a first byte.

        Nothing (b"") means that the time is over, or that the line has ended.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._unread or self._ended, timeout)
            data = bytes(self._unread)
            self._unread.clear()
            return data

    def write(self, data: bytes) -> None:
        """Send bytes to the guest; like on any line, nobody says whether they arrive."""
        with self._writing:
            port = self._port
            if port is None:
                _LOGGER.debug("%s: nobody is connected, %d bytes lost", self._url, len(data))
                return
            try:
                port.write(data)
            except serial.SerialException as error:
                _LOGGER.debug("%s: %d bytes lost: %s", self._url, len(data), error)

    def close(self) -> None:
        """Disconnect and stop reading; a link that is closed stays so."""
        self._closing.set()
        self._reader.join(CLOSE_TIMEOUT)
        if self._reader.is_alive():
            _LOGGER.warning("%s: its reader does not end and is left to itself", self._url)

    def __enter__(self) -> "Link":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # The reader's thread.

    def _run(self) -> None:
        try:
            while not self._closing.is_set() and self._may_connect():
                port = self._connect()
                if port is not None:
                    self._drain(port)
                self._closing.wait(RECONNECT_INTERVAL)
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _connect(self) -> _Port | None:
        try:
            port = serial.serial_for_url(
                self._url, BAUD_RATE, timeout=READ_TIMEOUT, write_timeout=WRITE_TIMEOUT
            )
        except serial.SerialException:
            return None
        return cast("_Port", port)

    def _drain(self, port: _Port) -> None:
        """Read until the peer goes away or the link is closed."""
        self._set_port(port)
        try:
            while not self._closing.is_set():
                self._keep(port.read(port.in_waiting or 1))
        except serial.SerialException as error:
            _LOGGER.debug("%s: %s", self._url, error)
        finally:
            self._set_port(None)
            with self._writing:
                port.close()

    def _set_port(self, port: _Port | None) -> None:
        with self._changed:
            self._port = port
            self._changed.notify_all()

    def _keep(self, data: bytes) -> None:
        if not data:
            return
        self._record(data)
        with self._changed:
            self._unread += data
            excess = max(0, len(self._unread) - self._unread_limit)
            del self._unread[:excess]
            self._lost += excess
            self._changed.notify_all()

    def _record(self, data: bytes) -> None:
        if self._transcript is None:
            return
        try:
            self._transcript(data)
        except OSError as error:
            _LOGGER.warning("the transcript of %s ends here: %s", self._url, error)
            self._transcript = None
