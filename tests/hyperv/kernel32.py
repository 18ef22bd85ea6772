"""A stand-in for kernel32.dll: its functions for named pipes, over the modelled host's pipes.

It is called by way of ctypes' own types, so that the calls of windows_pipes.py are what is tested:
buffers, OVERLAPPED, flags. That Windows does the same is not shown by it.
"""

import ctypes
import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bootgraft_host.hyperv import windows_pipes
from hyperv.pipes import Connection, PipeError, Pipes

ACCESS_DENIED = 5
SEM_TIMEOUT = 121
OPERATION_ABORTED = 995
IO_INCOMPLETE = 996
IO_PENDING = 997
NOT_FOUND = 1168
WAIT_TIMEOUT = 258
FLAGS = 0x40000000 | 0x00110000  # overlapped; identification


@dataclass
class _Operation:
    """A transfer under way, or done: its OVERLAPPED, its event, its outcome."""

    overlapped: Any
    event: threading.Event
    cancelled: bool = False
    winerror: int = IO_INCOMPLETE
    count: int = 0


@dataclass
class _File:
    path: str
    connection: Connection
    operations: list[_Operation] = field(default_factory=list)


class Kernel32:
    """One process' view of kernel32; `calls` holds the names of the functions in order."""

    def __init__(self, pipes: Pipes) -> None:
        self._pipes = pipes
        self._numbers = itertools.count(4, 4)
        self._objects: dict[int, threading.Event | _File] = {}
        self._errors = threading.local()
        self.calls: list[str] = []
        for name in (
            *("CancelIoEx", "CloseHandle", "CreateEventW", "CreateFileW", "GetOverlappedResult"),
            *("PeekNamedPipe", "ReadFile", "WaitForSingleObject", "WaitNamedPipeW", "WriteFile"),
        ):
            setattr(self, name, self._function(name))

    @property
    def open_handles(self) -> int:
        """How many handles have not been closed."""
        return len(self._objects)

    def last_error(self) -> int:
        """What the last function in this thread failed with."""
        return int(self._errors.number)

    def _function(self, name: str) -> Callable[..., int]:
        method = getattr(self, "_" + name)

        def function(*arguments: Any) -> int:
            self.calls.append(name)
            self._check(function, arguments)
            return int(method(*arguments))

        return function

    @staticmethod
    def _check(function: Any, arguments: tuple[Any, ...]) -> None:
        """Every argument must be one that ctypes takes for the declared type."""
        assert len(arguments) == len(function.argtypes), "wrong number of arguments"
        for kind, argument in zip(function.argtypes, arguments, strict=True):
            kind.from_param(argument)

    def _fail(self, number: int) -> int:
        self._errors.number = number
        return 0

    def _add(self, thing: "threading.Event | _File") -> int:
        number = next(self._numbers)
        self._objects[number] = thing
        return number

    def _file(self, handle: int) -> _File:
        found = self._objects[handle]
        assert isinstance(found, _File)
        return found

    # The functions.

    def _CreateFileW(  # noqa: N802
        self, path: str, access: int, share: int, _security: None, how: int, flags: int, _file: None
    ) -> int:
        assert (access, share, how, flags) == (0xC0000000, 0, 3, FLAGS)
        pipe = self._pipes.find(path.removeprefix("\\\\.\\pipe\\"))
        if pipe is None:
            self._fail(2)
        else:
            try:
                return self._add(_File(path, pipe.connect()))
            except PipeError as error:
                self._fail(error.number)
        return windows_pipes.INVALID_HANDLE_VALUE or 0

    def _WaitNamedPipeW(self, path: str, milliseconds: int) -> int:  # noqa: N802
        name = path.removeprefix("\\\\.\\pipe\\")
        waited = threading.Event()
        for _ in range(0, milliseconds, 10):
            pipe = self._pipes.find(name)
            if pipe is None:
                return self._fail(2)
            if pipe.connection is None:
                return 1
            waited.wait(0.01)
        return self._fail(SEM_TIMEOUT)

    def _CreateEventW(self, _security: None, manual: bool, signalled: bool, _name: None) -> int:  # noqa: N802
        assert manual
        assert not signalled
        return self._add(threading.Event())

    def _CloseHandle(self, handle: int) -> int:  # noqa: N802
        thing = self._objects.pop(handle)
        if isinstance(thing, _File):
            assert all(each.winerror != IO_INCOMPLETE for each in thing.operations), (
                "the buffer of a transfer under way would be written into later"
            )
            thing.connection.close()
        return 1

    def _ReadFile(  # noqa: N802
        self, handle: int, buffer: Any, size: int, _count: None, overlapped: Any
    ) -> int:
        file = self._file(handle)
        operation = self._begin(file, overlapped)
        if not file.connection.to_client and not file.connection.is_open:
            return self._refuse(file, operation)
        if file.connection.to_client:  # done at once
            self._read(file, operation, buffer, size)
            return 1
        self._start(self._read, file, operation, buffer, size)
        return self._fail(IO_PENDING)

    def _WriteFile(  # noqa: N802
        self, handle: int, buffer: Any, size: int, _count: None, overlapped: Any
    ) -> int:
        file = self._file(handle)
        operation = self._begin(file, overlapped)
        if not file.connection.is_open:
            return self._refuse(file, operation)
        self._start(self._write, file, operation, ctypes.string_at(buffer, size))
        return self._fail(IO_PENDING)

    def _GetOverlappedResult(  # noqa: N802
        self, handle: int, overlapped: Any, count: Any, wait: bool
    ) -> int:
        [operation] = [
            each for each in self._file(handle).operations if each.overlapped is overlapped._obj
        ]
        if wait:
            assert operation.event.wait(10), "a transfer does not end"
        count._obj.value = operation.count
        return 1 if operation.winerror == 0 else self._fail(operation.winerror)

    def _CancelIoEx(self, handle: int, overlapped: Any) -> int:  # noqa: N802
        wanted = [
            each
            for each in self._file(handle).operations
            if each.winerror == IO_INCOMPLETE
            and (overlapped is None or each.overlapped is overlapped._obj)
        ]
        for operation in wanted:
            operation.cancelled = True
        return 1 if wanted else self._fail(NOT_FOUND)

    def _WaitForSingleObject(self, handle: int, milliseconds: int) -> int:  # noqa: N802
        event = self._objects[handle]
        assert isinstance(event, threading.Event)
        return 0 if event.wait(milliseconds / 1000) else WAIT_TIMEOUT

    def _PeekNamedPipe(  # noqa: N802
        self, handle: int, _buffer: None, _size: int, _read: None, available: Any, _left: None
    ) -> int:
        connection = self._file(handle).connection
        available._obj.value = len(connection.to_client)
        return 1 if connection.is_open else self._fail(109)

    # Transfers.

    def _begin(self, file: _File, overlapped: Any) -> _Operation:
        event = self._objects[overlapped._obj.hEvent]
        assert isinstance(event, threading.Event)
        assert not event.is_set()
        operation = _Operation(overlapped._obj, event)
        file.operations.append(operation)
        return operation

    def _refuse(self, file: _File, operation: _Operation) -> int:
        file.operations.remove(operation)
        return self._fail(self._gone(file))

    def _gone(self, file: _File) -> int:
        """109 where the pipe is closed, 233 where the server has only disconnected."""
        return 109 if self._pipes.find(file.path.removeprefix("\\\\.\\pipe\\")) is None else 233

    @staticmethod
    def _start(function: Callable[..., None], *arguments: Any) -> None:
        threading.Thread(target=function, args=arguments, daemon=True).start()

    def _read(self, file: _File, operation: _Operation, buffer: Any, size: int) -> None:
        data = file.connection.read(size, lambda: operation.cancelled)
        ctypes.memmove(buffer, data, len(data))
        failure = OPERATION_ABORTED if operation.cancelled else self._gone(file)
        self._finish(operation, 0 if data else failure, len(data))

    def _write(self, file: _File, operation: _Operation, data: bytes) -> None:
        winerror = 0
        try:
            file.connection.write(data, lambda: operation.cancelled)
        except PipeError as error:
            winerror = error.number
        if operation.cancelled:
            winerror = OPERATION_ABORTED
        self._finish(operation, winerror, len(data) if winerror == 0 else 0)

    @staticmethod
    def _finish(operation: _Operation, winerror: int, count: int) -> None:
        operation.winerror, operation.count = winerror, count
        operation.event.set()
