"""The machine's end of a serial line, for one table of tests over every kind of line."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from bootgraft_host.link import unix_url
from hyperv.pipes import Connection, Pipe, Pipes

DEADLINE = 10.0  # seconds; for what happens within moments


class Peer(Protocol):
    """A machine that is on, or off, with one serial line that takes one client."""

    url: str

    def switch_on(self) -> None:
        """Let a client connect."""

    def wait_client(self) -> None:
        """Wait for the client."""

    def send(self, data: bytes) -> None:
        """Say something; waits while the client does not read."""

    def receive(self, size: int) -> bytes:
        """Hear exactly `size` bytes."""

    def wait_gone(self) -> None:
        """Wait until the client has gone."""

    def leave(self) -> None:
        """Let go of the client after its last bytes, as a reset does; another one may come."""

    def switch_off(self) -> None:
        """Let go of the client, and let no other one in."""


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.01)


class SocketPeer:
    """QEMU's kind: a Unix socket, which is gone from its place while a client is there."""

    def __init__(self, path: Path) -> None:
        self.url = unix_url(path)
        self._path = path
        self._server: socket.socket | None = None
        self._client: socket.socket | None = None
        self._ready = threading.Event()

    def switch_on(self) -> None:
        self._ready.clear()
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.bind(str(self._path))
        self._server.listen(1)
        self._server.settimeout(DEADLINE)
        threading.Thread(target=self._accept, args=(self._server,), daemon=True).start()

    def wait_client(self) -> None:
        assert self._ready.wait(DEADLINE), "no client came"

    def send(self, data: bytes) -> None:
        self._connected().sendall(data)

    def receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size and (piece := self._connected().recv(size - len(data))):
            data += piece
        return data

    def wait_gone(self) -> None:
        assert self._connected().recv(1) == b""

    def leave(self) -> None:
        self._connected().close()
        self.switch_on()

    def switch_off(self) -> None:
        for each in (self._server, self._client):
            if each is not None:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
                each.close()
        self._path.unlink(missing_ok=True)

    def _accept(self, server: socket.socket) -> None:
        try:
            self._client, _ = server.accept()
        except OSError:
            return
        self._path.unlink(missing_ok=True)
        server.close()
        self._client.settimeout(DEADLINE)
        self._ready.set()

    def _connected(self) -> socket.socket:
        self.wait_client()
        assert self._client is not None
        return self._client


class PipePeer:
    """Hyper-V's kind: a pipe of the modelled host."""

    def __init__(self, url: str, pipes: Pipes, name: str) -> None:
        self.url = url
        self._pipes = pipes
        self._name = name
        self._pipe: Pipe | None = None
        self._connection: Connection | None = None

    def switch_on(self) -> None:
        self._pipe = self._pipes.create(self._name)

    def wait_client(self) -> None:
        self._connected()

    def send(self, data: bytes) -> None:
        self._connected().server_write(data)

    def receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size and (piece := self._connected().server_read(size - len(data))):
            data += piece
        return data

    def wait_gone(self) -> None:
        connection = self._connected()
        wait_until(lambda: not connection.client_open)

    def leave(self) -> None:
        self._connected().disconnect()
        self._connection = None

    def switch_off(self) -> None:
        if self._pipe is not None:
            self._pipe.close()

    def _connected(self) -> Connection:
        assert self._pipe is not None
        if self._connection is None:
            deadline = time.monotonic() + DEADLINE
            self._connection = self._pipe.wait_client(lambda: time.monotonic() > deadline)
            assert self._connection is not None, "no client came"
        return self._connection
