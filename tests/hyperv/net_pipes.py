"""System.IO.Pipes of the modelled host: both ends of named pipes."""

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from hyperv.model_object import Readers
from hyperv.net_object import Methods, NetError, NetObject, net_class
from hyperv.net_streams import check_range, copy_to_async
from hyperv.net_tasks import Task
from hyperv.pipes import Connection, Pipe, PipeError, Stopped
from hyperv.values import (
    DotNet,
    Enumeration,
    EnumValue,
    PowerShellError,
    Session,
    StoppedError,
    enum_type,
)

if TYPE_CHECKING:
    from hyperv.model import SimulatedHost

PIPE_DIRECTION = Enumeration("System.IO.Pipes.PipeDirection", {"In": 1, "Out": 2, "InOut": 3})
PIPE_OPTIONS = Enumeration(
    "System.IO.Pipes.PipeOptions",
    {"None": 0, "WriteThrough": 0x80000000, "Asynchronous": 0x40000000},
)
TRANSMISSION_MODE = Enumeration("System.IO.Pipes.PipeTransmissionMode", {"Byte": 0, "Message": 1})
IMPERSONATION = Enumeration(
    "System.Security.Principal.TokenImpersonationLevel",
    {"None": 0, "Anonymous": 1, "Identification": 2, "Impersonation": 3, "Delegation": 4},
)
_ASYNCHRONOUS = 0x40000000


class NamedPipeClientStream(NetObject):
    """A client of a pipe.

    Without PipeOptions.Asynchronous Windows does one thing at a time on a handle: a pending read
    then holds up every write.
    """

    type_name = "System.IO.Pipes.NamedPipeClientStream"
    readers: ClassVar[Readers] = {
        "IsConnected": lambda stream: (stream.connection is not None and stream.connection.is_open)
    }

    def __init__(
        self,
        host: "SimulatedHost",
        session: Session,
        server: str,
        name: str,
        direction: EnumValue,
        options: EnumValue,
    ) -> None:
        self.connection: Connection | None = None
        self._host = host
        self._session = session
        self._server = server
        self._name = name
        self._direction = direction
        self._one_at_a_time = None if options.number & _ASYNCHRONOUS else threading.Lock()
        self._closed = False
        self._broken = False  # a read has met the end; then writing fails at once
        session.at_end.append(self.close)

    def connect(self, milliseconds: int) -> None:
        """Wait for the pipe: also one that does not exist is waited for."""
        if self._server.lower() not in (".", "localhost", self._host.computer_name.lower()):
            raise NetError("IOException", "The network path was not found.")
        try:
            self.connection = self._host.pipes.connect(
                self._name, milliseconds / 1000, self._session.stopping.is_set
            )
        except TimeoutError as error:
            if self._session.stopping.is_set():
                raise StoppedError from error
            raise NetError("TimeoutException", "The operation has timed out.") from error

    def read_into(self, buffer: bytearray, offset: int, count: int) -> int:
        self._require(1)
        check_range(buffer, offset, count)
        data = self._receive(count, self._session.stopping.is_set)
        buffer[offset : offset + len(data)] = data
        return len(data)

    def read_async(self, buffer: bytearray, offset: int, count: int) -> Task:
        self._require(1)
        check_range(buffer, offset, count)

        def read() -> int:
            data = self._receive(count)
            buffer[offset : offset + len(data)] = data
            return len(data)

        return Task.run(self._session, read)

    def write_from(self, buffer: bytearray, offset: int, count: int) -> None:
        self._require(2)
        check_range(buffer, offset, count)
        self._send(bytes(buffer[offset : offset + count]))

    def write_async(self, buffer: bytearray, offset: int, count: int) -> Task:
        self._require(2)
        check_range(buffer, offset, count)
        if self._broken:
            raise NetError("IOException", "Pipe is broken.")
        data = bytes(buffer[offset : offset + count])
        return Task.run(self._session, lambda: self._send(data))

    def copy_to_async(self, destination: object, buffer_size: int) -> Task:
        self._require(1)
        return copy_to_async(self._receive, destination, buffer_size, self._session)

    def close(self) -> None:
        self._closed = True
        if self.connection is not None:
            self.connection.close()

    net_methods: ClassVar[Methods] = {
        "Connect": connect,
        "Read": read_into,
        "ReadAsync": read_async,
        "Write": write_from,
        "WriteAsync": write_async,
        "CopyToAsync": copy_to_async,
        "Close": close,
        "Dispose": close,
    }

    def _require(self, direction: int) -> Connection:
        if self._closed:
            raise NetError("ObjectDisposedException", "Cannot access a closed pipe.")
        if self.connection is None:
            raise NetError("InvalidOperationException", "Pipe hasn't been connected yet.")
        if not self._direction.number & direction:
            raise NetError("NotSupportedException", "Stream does not support this.")
        return self.connection

    def _receive(self, limit: int, stopped: Stopped = None) -> bytes:
        """Bytes; none at the end, which a disconnection by the server is for .NET, too.

        A task goes on when the script that began it is stopped: only its pipe's end ends it.
        """
        connection = self._require(1)
        with self._turn():
            data = connection.read(limit, stopped)
        if self._closed:
            raise NetError("ObjectDisposedException", "Cannot access a closed pipe.")
        self._broken = self._broken or not (data or connection.is_open)
        return data

    def _send(self, data: bytes) -> None:
        connection = self._require(2)
        try:
            with self._turn():
                connection.write(data)
        except PipeError as error:
            raise NetError("IOException", "Pipe is broken.") from error

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        if self._one_at_a_time is None:
            yield
        else:
            with self._one_at_a_time:
                yield


class NamedPipeServerStream(NetObject):
    """A server's end, for one client."""

    type_name = "System.IO.Pipes.NamedPipeServerStream"

    def __init__(self, host: "SimulatedHost", session: Session, name: str) -> None:
        try:
            self._pipe: Pipe = host.pipes.create(name)
        except PipeError as error:
            raise NetError("IOException", str(error)) from error
        self._session = session
        self._connection: Connection | None = None  # stays when the client has gone
        session.at_end.append(self.dispose)

    def wait_for_connection(self) -> None:
        self._connection = self._pipe.wait_client(self._session.stopping.is_set)
        if self._connection is None:
            raise StoppedError

    def read_into(self, buffer: bytearray, offset: int, count: int) -> int:
        check_range(buffer, offset, count)
        data = self._client().server_read(count)
        buffer[offset : offset + len(data)] = data
        return len(data)

    def write_from(self, buffer: bytearray, offset: int, count: int) -> None:
        check_range(buffer, offset, count)
        try:
            self._client().server_write(bytes(buffer[offset : offset + count]))
        except PipeError as error:
            raise NetError("IOException", "Pipe is broken.") from error

    def dispose(self) -> None:
        self._pipe.close()

    net_methods: ClassVar[Methods] = {
        "WaitForConnection": wait_for_connection,
        "Read": read_into,
        "Write": write_from,
        "Dispose": dispose,
        "Close": dispose,
    }

    def _client(self) -> Connection:
        if self._connection is None:
            raise NetError("InvalidOperationException", "Pipe hasn't been connected yet.")
        return self._connection


def pipe_types(host: "SimulatedHost") -> list[DotNet]:
    """The classes of System.IO.Pipes that scripts use."""

    def client(
        session: Session,
        server: str,
        name: str,
        direction: EnumValue,
        options: EnumValue,
        impersonation: EnumValue | None = None,
    ) -> NamedPipeClientStream:
        return NamedPipeClientStream(host, session, server, name, direction, options)

    def server(
        session: Session,
        name: str,
        direction: EnumValue,
        instances: int,
        mode: EnumValue,
        options: EnumValue,
        in_size: int,
        out_size: int,
    ) -> NamedPipeServerStream:
        if instances != 1 or mode.name != "Byte" or direction.name != "InOut":
            raise PowerShellError("one duplex instance in byte mode is modelled", "NotModelled")
        return NamedPipeServerStream(host, session, name)

    return [
        *map(enum_type, (PIPE_DIRECTION, PIPE_OPTIONS, TRANSMISSION_MODE, IMPERSONATION)),
        net_class("System.IO.Pipes.NamedPipeClientStream", constructor=client),
        net_class("System.IO.Pipes.NamedPipeServerStream", constructor=server),
    ]
