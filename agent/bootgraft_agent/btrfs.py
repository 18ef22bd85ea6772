"""Subvolumes of a btrfs that is mounted: their numbers and names.

Sources: Linux, include/uapi/linux/btrfs.h (BTRFS_IOC_INO_LOOKUP) and btrfs_tree.h;
proc_pid_mountinfo(5).
"""

import contextlib
import fcntl
import itertools
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

TOP_LEVEL = 5  # the subvolume that holds all others
MAX_LISTED = 256  # subvolumes side by side; snapshots may be many
MAX_NAMES = 10_000  # of the top level that are looked at

_ROOT_INODE = 256  # of the root directory of every subvolume
_INO_LOOKUP = 0xD000_9412
_LOOKUP = struct.Struct("=QQ4080x")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MOUNT_INFO = Path("/proc/self/mountinfo")


def read_number(mount: Path) -> int:
    """Give the number of the subvolume that a directory is in. Raises OSError."""
    with _opened(mount) as fd:
        return _number(fd)


def read_name(mount: Path) -> str:
    """Give the path of a mounted subvolume below the top level, "" for that itself."""
    for line in _MOUNT_INFO.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        words = line.split(" ")
        if words[4] == str(mount):
            return _unescape(words[3]).strip("/")
    raise FileNotFoundError(f"{mount} is not mounted")


def list_subvolumes(top: Path) -> dict[str, int]:
    """Give the subvolumes in the mounted top level's own directory: their numbers by their names.

    Raises OSError.
    """
    found: dict[str, int] = {}
    with os.scandir(top) as entries:
        for entry in itertools.islice(entries, MAX_NAMES):
            if len(found) >= MAX_LISTED:
                break
            # The inode's number in the directory itself is the subvolume's.
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode) and status.st_ino == _ROOT_INODE:
                found[entry.name] = read_number(top / entry.name)
    return dict(sorted(found.items()))


def find_subvolume(top: Path, path: str) -> int | None:
    """Give the number of the subvolume of a path below the mounted top level; None without one.

    Links are not followed.
    """
    with contextlib.ExitStack() as stack:
        fd = stack.enter_context(_opened(top))
        for name in path.split("/"):
            if name in ("", "."):
                continue
            if name == "..":
                return None
            try:
                fd = os.open(name, _DIRECTORY, dir_fd=fd)
            except OSError:
                return None
            stack.callback(os.close, fd)
        return _number(fd) if os.fstat(fd).st_ino == _ROOT_INODE else None


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, _DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def _number(fd: int) -> int:
    buffer = bytearray(_LOOKUP.pack(0, _ROOT_INODE))
    fcntl.ioctl(fd, _INO_LOOKUP, buffer)  # of bytes Python takes no more than 1,024
    number: int = _LOOKUP.unpack(buffer)[0]
    return number


def _unescape(text: str) -> str:
    for escape, character in ((r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")):
        text = text.replace(escape, character)
    return text
