"""System.IO.FileStream of the modelled host."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from hyperv.files import WindowsPathError
from hyperv.model_object import Readers
from hyperv.net_object import Methods, NetError, NetObject, net_class
from hyperv.net_tasks import Task
from hyperv.values import DotNet, Enumeration, EnumValue, PowerShellError, Session, enum_type

if TYPE_CHECKING:
    from hyperv.model import SimulatedHost

FILE_MODE = Enumeration(
    "System.IO.FileMode",
    {"CreateNew": 1, "Create": 2, "Open": 3, "OpenOrCreate": 4, "Truncate": 5, "Append": 6},
)
FILE_ACCESS = Enumeration("System.IO.FileAccess", {"Read": 1, "Write": 2, "ReadWrite": 3})
FILE_SHARE = Enumeration(
    "System.IO.FileShare", {"None": 0, "Read": 1, "Write": 2, "ReadWrite": 3, "Delete": 4}
)
FILE_OPTIONS = Enumeration(
    "System.IO.FileOptions",
    {"None": 0, "DeleteOnClose": 0x4000000, "Asynchronous": 0x40000000},
)
SEEK_ORIGIN = Enumeration("System.IO.SeekOrigin", {"Begin": 0, "Current": 1, "End": 2})
DEFAULT_BUFFER = 4096  # bytes

_SHARES = {1: "Read", 2: "Write", 4: "Delete"}
_DELETE_ON_CLOSE = 0x4000000


class FileStream(NetObject):
    """System.IO.FileStream; written bytes wait in its buffer, where others do not see them."""

    type_name = "System.IO.FileStream"
    readers: ClassVar[Readers] = {
        "Length": lambda stream: stream.length,
        "Position": lambda stream: stream.position,
        "Name": lambda stream: stream.path,
    }

    def __init__(
        self,
        host: "SimulatedHost",
        path: str,
        mode: EnumValue,
        access: EnumValue,
        share: EnumValue,
        buffer_size: int,
        *,
        delete_on_close: bool,
    ) -> None:
        self.path = path
        self._host = host
        self._real = locate(host, path)
        self._access = access
        self._buffer_size = buffer_size
        self._pending = bytearray()
        self._delete = delete_on_close
        self._lock = threading.RLock()
        self._open(mode, share)

    def _open(self, mode: EnumValue, share: EnumValue) -> None:
        exists = self._real.exists()
        if self._real.is_dir():
            raise NetError("UnauthorizedAccessException", f"Access to '{self.path}' is denied.")
        if mode.name == "CreateNew" and exists:
            raise NetError("IOException", f"The file '{self.path}' already exists.")
        if mode.name in ("Open", "Truncate") and not exists:
            raise NetError("FileNotFoundException", f"Could not find file '{self.path}'.")
        if not self._real.parent.is_dir():
            raise missing_part(self.path)
        access = {name for bit, name in _SHARES.items() if self._access.number & bit}
        if self._delete:
            access.add("Delete")
        shared = {name for bit, name in _SHARES.items() if share.number & bit}
        self._handle = self._host.open_files.open(self._real, access, shared)
        flags = os.O_RDWR | os.O_CREAT if self._access.number & 2 else os.O_RDONLY
        if mode.name in ("Create", "Truncate"):
            flags |= os.O_TRUNC
        try:
            descriptor = os.open(self._real, flags, 0o666)
        except OSError as error:
            self._host.open_files.close(self._handle)
            raise NetError("UnauthorizedAccessException", str(error)) from error
        self._file = os.fdopen(descriptor, "r+b" if flags & os.O_RDWR else "rb", 0)

    # What scripts use.

    @property
    def length(self) -> int:
        with self._lock:
            self._require_open()
            return max(
                os.fstat(self._file.fileno()).st_size, self._file.tell() + len(self._pending)
            )

    @property
    def position(self) -> int:
        with self._lock:
            self._require_open()
            return self._file.tell() + len(self._pending)

    def seek(self, offset: int, origin: EnumValue) -> int:
        with self._lock:
            self._require_open()
            self._write_out()
            return self._file.seek(offset, origin.number)

    def set_length(self, length: int) -> None:
        with self._lock:
            self._require("Write", 2)
            self._write_out()
            os.ftruncate(self._file.fileno(), length)

    def read_into(self, buffer: bytearray, offset: int, count: int) -> int:
        with self._lock:
            self._require("Read", 1)
            check_range(buffer, offset, count)
            self._write_out()
            data = self._file.read(count) or b""
            buffer[offset : offset + len(data)] = data
            return len(data)

    def write_from(self, buffer: bytearray, offset: int, count: int) -> None:
        with self._lock:
            self._require("Write", 2)
            check_range(buffer, offset, count)
            self._pending += buffer[offset : offset + count]
            if len(self._pending) >= self._buffer_size:
                self._write_out()

    def flush(self, to_disk: bool = False) -> None:
        with self._lock:
            self._require_open()
            self._write_out()
            if to_disk:
                os.fsync(self._file.fileno())

    def dispose(self) -> None:
        with self._lock:
            if self._file.closed:
                return
            self._write_out()
            self._file.close()
            self._host.open_files.close(self._handle)
            if self._delete:
                self._real.unlink(missing_ok=True)

    net_methods: ClassVar[Methods] = {
        "Seek": seek,
        "SetLength": set_length,
        "Read": read_into,
        "Write": write_from,
        "Flush": flush,
        "Dispose": dispose,
        "Close": dispose,
    }

    # Inside.

    def _require_open(self) -> None:
        if self._file.closed:
            raise NetError("ObjectDisposedException", "Cannot access a closed file.")

    def _require(self, what: str, bit: int) -> None:
        self._require_open()
        if not self._access.number & bit:
            raise NetError("NotSupportedException", f"Stream does not support {what.lower()}ing.")

    def _write_out(self) -> None:
        if self._pending:
            self._file.write(self._pending)
            self._pending.clear()


def copy_to_async(
    read: Callable[[int], bytes], destination: object, buffer_size: int, session: Session
) -> Task:
    """Stream.CopyToAsync: read until the end and write it all, in a thread of its own."""

    def copy() -> None:
        assert isinstance(destination, FileStream)
        while data := read(buffer_size):
            destination.write_from(bytearray(data), 0, len(data))

    if not isinstance(destination, FileStream):
        raise PowerShellError("CopyToAsync is modelled for a FileStream", "NotModelled")
    return Task.run(session, copy)


def stream_types(host: "SimulatedHost") -> list[DotNet]:
    """FileStream and the enumerations that it is made with."""
    return [
        *map(enum_type, (FILE_MODE, FILE_ACCESS, FILE_SHARE, FILE_OPTIONS, SEEK_ORIGIN)),
        net_class("System.IO.FileStream", constructor=_file_stream(host)),
    ]


def _file_stream(host: "SimulatedHost") -> Callable[..., FileStream]:
    def make(
        session: Session,
        path: str,
        mode: EnumValue,
        access: EnumValue,
        share: EnumValue,
        buffer_size: int = DEFAULT_BUFFER,
        options: EnumValue | None = None,
    ) -> FileStream:
        delete = options is not None and bool(options.number & _DELETE_ON_CLOSE)
        if buffer_size <= 0:
            raise NetError("ArgumentOutOfRangeException", "Positive number required.")
        stream = FileStream(host, path, mode, access, share, buffer_size, delete_on_close=delete)
        session.at_end.append(stream.dispose)
        return stream

    return make


def locate(host: "SimulatedHost", path: object) -> Path:
    """The real file of a path; .NET's exceptions for what is no path."""
    if not isinstance(path, str) or not path:
        raise NetError("ArgumentException", "The path is not of a legal form.")
    try:
        return host.files.locate(path)
    except WindowsPathError as error:
        raise NetError("ArgumentException", str(error)) from error


def missing_part(path: str) -> NetError:
    """The exception for a folder that is not there."""
    return NetError("DirectoryNotFoundException", f"Could not find a part of the path '{path}'.")


def check_range(buffer: object, offset: int, count: int) -> None:
    """Refuse a part of a buffer that is not in it."""
    if not isinstance(buffer, bytearray) or offset < 0 or count < 0:
        raise NetError("ArgumentException", "Non-negative number required.")
    if offset + count > len(buffer):
        raise NetError("ArgumentException", "Offset and length were out of bounds for the array.")
