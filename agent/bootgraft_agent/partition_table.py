"""What a disk's partition table says, as libparted reads it.

libparted meets the guest's bytes in a process of its own (`bootgraft_agent.libparted`), because it
does not survive every table: extended partitions that form a loop exhaust its stack. That process
has no terminal, little memory and a deadline, and it cannot write to a disk: libparted opens what
it is given for writing if it can, so a block device is handed to it as a node of which its user
may only read. (Writing is not the only harm: udevd reads a disk's partition table again, and
takes the partitions' nodes away for a moment, whenever a writer closes the disk.)
"""

import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

READER_UID = 65534  # nobody, also the number of its group
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
    try:
        with read_only_path(path) as readable:
            reader = subprocess.run(
                [sys.executable, "-I", "-m", "bootgraft_agent.libparted", readable],
                stdin=subprocess.DEVNULL,
                env={"LC_ALL": "C"},
                capture_output=True,
                timeout=timeout,
                check=False,
            )
    except subprocess.TimeoutExpired:
        return _damaged(f"reading it took longer than {timeout:.0f} s")
    except OSError as error:
        return _damaged(f"{path.name}: {error.strerror}")
    if reader.returncode != 0:
        return _damaged(_explain_failure(reader))
    return _parse_answer(reader.stdout)


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


def _explain_failure(reader: subprocess.CompletedProcess[bytes]) -> str:
    if reader.returncode < 0:
        name = signal.Signals(-reader.returncode).name
        return (
            f"libparted stopped at it with {name}, as it does when extended partitions form a loop"
        )
    lines = reader.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"its reader ended with status {reader.returncode}"


def _damaged(reason: str) -> PartitionTable:
    return PartitionTable(None, problem=f"cannot read the partition table: {reason}")
