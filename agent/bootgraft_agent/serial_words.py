"""Words on the serial port that nobody need read: what does not go out in time is given up."""

import contextlib
import os
import select
import termios
import time
import tty

from bootgraft_agent.secrets_mask import mask_text
from bootgraft_agent.text import printable

LINE_TIMEOUT = 2.0  # seconds for a line of progress; after one that stuck none is tried any more
RESULT_TIMEOUT = 10.0
_CFLAG, _ISPEED, _OSPEED = 2, 4, 5


class SerialWords:
    """A serial port to write to; a machine without one, or a broken one, takes all in silence.

    It is never closed: closing waits for what nobody reads.
    """

    def __init__(self, device: str) -> None:
        self._fd: int | None = None
        self._is_stuck = False
        with contextlib.suppress(OSError, termios.error):
            fd = os.open(device, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
            _set_up(fd)
            self._fd = fd

    def say(self, text: str) -> None:
        """Write a line of progress."""
        if not self._is_stuck:
            line = printable(mask_text(text)).encode("ascii", "backslashreplace")
            self._is_stuck = not self._write(b"bootgraft: " + line + b"\r\n", LINE_TIMEOUT)

    def write_result(self, data: bytes) -> bool:
        """Write the result, after what is stuck is thrown away; tell whether it all went out."""
        if self._is_stuck and self._fd is not None:
            with contextlib.suppress(OSError, termios.error):
                termios.tcflush(self._fd, termios.TCOFLUSH)
            data = b"\r\n" + data
        return self._write(data, RESULT_TIMEOUT)

    def _write(self, data: bytes, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while data and self._fd is not None:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([], [self._fd], [], left)[1]:
                break
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:
                time.sleep(min(0.05, left))
            except OSError:
                self._fd = None
        return not data


def _set_up(fd: int) -> None:
    """Raw, at the speed that all use, whatever the other end's wires say."""
    tty.setraw(fd)
    attributes = termios.tcgetattr(fd)
    attributes[_CFLAG] |= termios.CLOCAL
    attributes[_ISPEED] = attributes[_OSPEED] = termios.B115200
    termios.tcsetattr(fd, termios.TCSANOW, attributes)
