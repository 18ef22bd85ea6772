"""The end of the kernel's log, where udev's messages go, too: what a failed request is sent with.

Source: syslog(2).
"""

import ctypes
import re

LIMIT = 8192  # bytes: the last hundred messages or so, a second on a slow serial port
_READ_ALL = 3
_SIZE_BUFFER = 10
# The level and facility, then the seconds since the kernel's start.
_PREFIX = re.compile(r"<\d+>(?=\[)")


def read_kernel_log() -> list[str]:
    """Read the last messages, whole lines; none where the kernel lets nobody read them."""
    syslog = ctypes.CDLL(None).klogctl
    size = syslog(_SIZE_BUFFER, None, 0)
    if size <= 0:
        return []
    buffer = ctypes.create_string_buffer(size)
    length = syslog(_READ_ALL, buffer, size)
    return parse_kernel_log(buffer.raw[: max(length, 0)])


def parse_kernel_log(log: bytes) -> list[str]:
    """Give the last lines of a log, LIMIT bytes of it at most, without the numbers of levels."""
    lines = log.decode("utf-8", "backslashreplace").splitlines()
    kept: list[str] = []
    left = LIMIT
    for line in reversed(lines):
        text = _PREFIX.sub("", line)
        left -= len(text.encode()) + 1
        if left < 0:
            break
        kept.append(text)
    return kept[::-1]
