"""Named pipes by Win32's own functions; see named_pipe.py for what their errors mean.

Never tried on Windows. Source: learn.microsoft.com, "Synchronous and Asynchronous I/O" and the
page of each function.
"""

import ctypes
import math
import sys
import time
from collections.abc import Callable
from ctypes import wintypes
from typing import Any

from bootgraft_host.hyperv.named_pipe import ERROR_MORE_DATA, NamedPipeError, Outcome

GENERIC_READ_AND_WRITE = 0x80000000 | 0x40000000
OPEN_EXISTING = 3
FILE_FLAG_OVERLAPPED = 0x40000000
# Whoever answers to the pipe's name may know who we are, not act as we.
SECURITY_IDENTIFICATION = 0x00100000 | 0x00010000
INVALID_HANDLE_VALUE = ctypes.c_void_p(-1).value
WAIT_OBJECT_0 = 0
WAIT_TIMEOUT = 258
ERROR_IO_PENDING = 997
WAIT_SLICE = 0.5  # seconds; an interrupt from the keyboard is noticed between two


class Overlapped(ctypes.Structure):
    """OVERLAPPED."""

    _fields_ = (
        ("Internal", ctypes.c_size_t),
        ("InternalHigh", ctypes.c_size_t),
        ("Offset", wintypes.DWORD),
        ("OffsetHigh", wintypes.DWORD),
        ("hEvent", wintypes.HANDLE),
    )


_SIGNATURES: dict[str, tuple[Any, ...]] = {  # the result, then the arguments
    "CancelIoEx": (wintypes.BOOL, wintypes.HANDLE, ctypes.POINTER(Overlapped)),
    "CloseHandle": (wintypes.BOOL, wintypes.HANDLE),
    "CreateEventW": (
        *(wintypes.HANDLE, wintypes.LPVOID, wintypes.BOOL, wintypes.BOOL, wintypes.LPCWSTR),
    ),
    "CreateFileW": (
        *(wintypes.HANDLE, wintypes.LPCWSTR, wintypes.DWORD, wintypes.DWORD, wintypes.LPVOID),
        *(wintypes.DWORD, wintypes.DWORD, wintypes.HANDLE),
    ),
    "GetOverlappedResult": (
        *(wintypes.BOOL, wintypes.HANDLE, ctypes.POINTER(Overlapped), wintypes.LPDWORD),
        wintypes.BOOL,
    ),
    "PeekNamedPipe": (
        *(wintypes.BOOL, wintypes.HANDLE, wintypes.LPVOID, wintypes.DWORD, wintypes.LPDWORD),
        *(wintypes.LPDWORD, wintypes.LPDWORD),
    ),
    "ReadFile": (
        *(wintypes.BOOL, wintypes.HANDLE, wintypes.LPVOID, wintypes.DWORD, wintypes.LPDWORD),
        ctypes.POINTER(Overlapped),
    ),
    "WaitForSingleObject": (wintypes.DWORD, wintypes.HANDLE, wintypes.DWORD),
    "WaitNamedPipeW": (wintypes.BOOL, wintypes.LPCWSTR, wintypes.DWORD),
    "WriteFile": (
        *(wintypes.BOOL, wintypes.HANDLE, wintypes.LPVOID, wintypes.DWORD, wintypes.LPDWORD),
        ctypes.POINTER(Overlapped),
    ),
}


class WindowsPipes:
    """The pipes of this computer; see named_pipe.PipeSystem.

    `library` is kernel32, `last_error` tells what its last function in this thread failed with.
    """

    def __init__(self, library: Any, last_error: Callable[[], int]) -> None:
        for name, (result, *arguments) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
        self._library = library
        self._last_error = last_error

    def open(self, path: str) -> "WindowsHandle":
        """Open a pipe for reading and writing, for nobody else meanwhile."""
        flags = FILE_FLAG_OVERLAPPED | SECURITY_IDENTIFICATION
        handle = self._library.CreateFileW(
            path, GENERIC_READ_AND_WRITE, 0, None, OPEN_EXISTING, flags, None
        )
        if handle == INVALID_HANDLE_VALUE:
            raise NamedPipeError(self._last_error(), "CreateFile")
        return WindowsHandle(self._library, self._last_error, handle)

    def wait_until_free(self, path: str, timeout: float) -> None:
        """Wait for a pipe that takes a client; 0 would mean the server's own timeout."""
        if not self._library.WaitNamedPipeW(path, max(1, _milliseconds(timeout))):
            raise NamedPipeError(self._last_error(), "WaitNamedPipe")


class WindowsHandle:
    """See named_pipe.Handle."""

    def __init__(self, library: Any, last_error: Callable[[], int], handle: int) -> None:
        self._library = library
        self._last_error = last_error
        self._handle = handle

    def read(self, size: int) -> "WindowsTransfer":
        """Begin to read up to `size` bytes."""
        transfer = self._prepare(ctypes.create_string_buffer(size))
        transfer.begin(self._library.ReadFile, "ReadFile")
        return transfer

    def write(self, data: bytes) -> "WindowsTransfer":
        """Begin to write `data`, of which a copy is kept until the end."""
        transfer = self._prepare(ctypes.create_string_buffer(data, len(data)))
        transfer.begin(self._library.WriteFile, "WriteFile")
        return transfer

    def available(self) -> int:
        """How many bytes wait in the pipe."""
        count = wintypes.DWORD()
        if not self._library.PeekNamedPipe(self._handle, None, 0, None, ctypes.byref(count), None):
            raise NamedPipeError(self._last_error(), "PeekNamedPipe")
        return count.value

    def cancel(self) -> None:
        """Ask for the end of every transfer; where there is none, nothing happens."""
        self._library.CancelIoEx(self._handle, None)

    def close(self) -> None:
        """Close the handle; no transfer is under way."""
        self._library.CloseHandle(self._handle)

    def _prepare(self, buffer: "ctypes.Array[ctypes.c_char]") -> "WindowsTransfer":
        event = self._library.CreateEventW(None, True, False, None)
        if not event:
            raise NamedPipeError(self._last_error(), "CreateEvent")
        return WindowsTransfer(self._library, self._last_error, self._handle, event, buffer)


class WindowsTransfer:
    """See named_pipe.Transfer. Whoever began it keeps it until `finish`: Windows writes into it."""

    def __init__(
        self,
        library: Any,
        last_error: Callable[[], int],
        handle: int,
        event: int,
        buffer: "ctypes.Array[ctypes.c_char]",
    ) -> None:
        self._library = library
        self._last_error = last_error
        self._handle = handle
        self._event = event
        self._buffer = buffer
        self._overlapped = Overlapped(hEvent=event)

    def begin(self, function: Callable[..., int], name: str) -> None:
        """Call ReadFile or WriteFile; the event is set when it is done, also when at once."""
        size = len(self._buffer)
        overlapped = ctypes.byref(self._overlapped)
        if function(self._handle, self._buffer, size, None, overlapped):
            return
        winerror = self._last_error()
        if winerror == ERROR_MORE_DATA:
            return  # done at once, and the outcome says it again
        if winerror != ERROR_IO_PENDING:
            self._library.CloseHandle(self._event)
            raise NamedPipeError(winerror, name)

    def wait(self, timeout: float | None) -> bool:
        """Wait for the event, in slices."""
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            left = max(0.0, min(deadline - time.monotonic(), WAIT_SLICE))
            outcome = self._library.WaitForSingleObject(self._event, _milliseconds(left))
            if outcome == WAIT_OBJECT_0:
                return True
            if outcome != WAIT_TIMEOUT:
                raise NamedPipeError(self._last_error(), "WaitForSingleObject")
            if time.monotonic() >= deadline:
                return False

    def cancel(self) -> None:
        """Ask for the end; it may be over already."""
        self._library.CancelIoEx(self._handle, ctypes.byref(self._overlapped))

    def finish(self) -> Outcome:
        """Wait for the end, and give the outcome."""
        count = wintypes.DWORD()
        overlapped = ctypes.byref(self._overlapped)
        done = self._library.GetOverlappedResult(
            *(self._handle, overlapped, ctypes.byref(count), True)
        )
        winerror = 0 if done else self._last_error()
        self._library.CloseHandle(self._event)
        return Outcome(winerror, count.value)

    def data(self, count: int) -> bytes:
        """The first `count` bytes of what was read."""
        return ctypes.string_at(self._buffer, count)


def this_computer() -> WindowsPipes:
    """Give the pipes of this computer; raises OSError where it has none."""
    if sys.platform != "win32":
        raise OSError("hvpipe:// works on Windows alone; elsewhere it is hvrelay://")
    library = ctypes.WinDLL("kernel32", use_last_error=True)
    return WindowsPipes(library, ctypes.get_last_error)


def _milliseconds(seconds: float) -> int:
    return math.ceil(seconds * 1000)
