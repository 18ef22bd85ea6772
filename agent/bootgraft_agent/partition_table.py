"""What a disk's partition table says, as libparted reads it.

libparted meets the guest's bytes in a process of its own (`bootgraft_agent.libparted`), because it
does not survive every table: extended partitions that form a loop exhaust its stack. That process,
a fork of ours (in an emulator another interpreter takes seconds to start), has no terminal, none of
our open files, little memory and a deadline, and it cannot write to a disk: libparted opens what it
is given for writing if it can, so a block device is handed to it as a node of which its user may
only read. (Writing is not the only harm: udevd reads a disk's partition table again, and
takes the partitions' nodes away for a moment, whenever a writer closes the disk.)
"""

import json
import os
import select
import signal
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

READER_UID = 65534  # nobody, also the number of its group
_PIECE = 64 * 1024  # bytes
_TIMEOUT = 60.0  # seconds; a sound table takes a fraction of one


@dataclass(frozen=True, slots=True)
class TableEntry:
    """One partition; `offset` and `size` in bytes, `active` as the BIOS understands it."""

    number: int
    offset: int
    size: int
    active: bool


@dataclass(frozen=True, slots=True)
class PartitionTable:
    """A table that is not damaged has no problem; one with a problem has no entries."""

    kind: Literal["msdos", "gpt"] | None
    entries: tuple[TableEntry, ...] = ()
    problem: str | None = None


def read_partition_table(path: Path, timeout: float = _TIMEOUT) -> PartitionTable:
    """Read the table of a disk or an image file; whatever is wrong with it becomes its problem."""
    from bootgraft_agent.libparted import read_as_json  # noqa: PLC0415 - it needs what is here

    try:
        with read_only_path(path) as readable:
            status, answer = _ask_child(lambda: read_as_json(readable), timeout)
    except TimeoutError:
        return _damaged(f"reading it took longer than {timeout:.0f} s")
    except OSError as error:
        return _damaged(f"{path.name}: {error.strerror}")
    if status != 0:
        return _damaged(_explain_failure(status, answer))
    return _parse_answer(answer)


def _ask_child(work: Callable[[], bytes], timeout: float) -> tuple[int, bytes]:
    """Do some work in a child; give its exit status, below 0 for a signal, and what it gave.

    Raises TimeoutError.
    """
    answer, said = os.pipe()
    child = os.fork()
    if child == 0:
        _be_the_child(work, said)
    os.close(said)
    try:
        content = _read_until(answer, time.monotonic() + timeout)
    finally:
        os.close(answer)
        os.kill(child, signal.SIGKILL)  # where it has ended, nothing happens to it any more
        _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), content


def _be_the_child(work: Callable[[], bytes], said: int) -> NoReturn:
    """Work, without a terminal and any open file of the parent's but what is said; and end."""
    status = 1
    try:
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(nothing, number)
        os.dup2(said, 3)
        os.closerange(4, os.sysconf("SC_OPEN_MAX"))
        said = 3
        content = work()
        status = 0
    except BaseException as error:  # noqa: BLE001 - the parent's work must not go on here, too
        content = f"{type(error).__name__}: {error}".encode(errors="replace")
    try:
        with open(said, "wb", closefd=False) as stream:
            stream.write(content)
    finally:
        os._exit(status)


def _read_until(pipe: int, deadline: float) -> bytes:
    """Read until the other end is closed. Raises TimeoutError at the deadline."""
    pieces: list[bytes] = []
    while select.select([pipe], [], [], max(deadline - time.monotonic(), 0))[0]:
        piece = os.read(pipe, _PIECE)
        if not piece:
            return b"".join(pieces)
        pieces.append(piece)
    raise TimeoutError


def _parse_answer(answer: bytes) -> PartitionTable:
    """Parse what the reading process prints: a PartitionTable as JSON."""
    fields = json.loads(answer)
    entries = tuple(TableEntry(**entry) for entry in fields.pop("entries"))
    return PartitionTable(entries=entries, **fields)


@contextmanager
def read_only_path(path: Path) -> Iterator[Path]:
    """Give a path to the same disk that only serves for reading.

    An image file, or a disk of which we are not the owner, is given as it is.
    """
    status = path.stat()
    if not stat.S_ISBLK(status.st_mode) or os.geteuid() != 0:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="bootgraft-", dir="/dev") as directory:
        node = Path(directory, path.name)  # libparted tells NVMe by the name
        os.mknod(node, stat.S_IFBLK | 0o400, status.st_rdev)
        os.chown(node, READER_UID, READER_UID)
        Path(directory).chmod(0o711)
        yield node


def _explain_failure(status: int, answer: bytes) -> str:
    if status < 0:
        name = signal.Signals(-status).name
        return (
            f"libparted stopped at it with {name}, as it does when extended partitions form a loop"
        )
    return answer.decode(errors="replace") or f"its reader ended with status {status}"


def _damaged(reason: str) -> PartitionTable:
    return PartitionTable(None, problem=f"cannot read the partition table: {reason}")
