"""The log of a disk's writes that QEMU's filter `blklogwrites` keeps, and disks as of any moment.

    | superblock | entry | its data | entry | entry | its data | …     in sectors of the log

An entry is logged when the write is done; a flush is an entry without data. The format is that of
Linux's dm-log-writes, all of it little-endian.

Sources: Linux, drivers/md/dm-log-writes.c; QEMU, block/blklogwrites.c (its superblock counts the
entries up to the latest flush).
"""

import contextlib
import hashlib
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

SECTOR = 512

_MAGIC = 0x6A736677736872
_VERSION = 1
_SUPERBLOCK = struct.Struct("<QQQI")  # magic, version, entries, bytes of a sector
_ENTRY = struct.Struct("<QQQQ")  # sector, sectors, flags, length of a mark's text
_FLUSH, _FUA, _DISCARD, _MARK = 1, 2, 4, 8


@dataclass(frozen=True, slots=True)
class Write:
    """Data that went to the disk, at an offset in bytes; without a flush it may still be lost."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Flush:
    """Everything written before it is on the disk."""


Entry = Write | Flush


@dataclass(frozen=True, slots=True)
class Epoch:
    """What was written between two flushes: a power cut keeps any part of it, in any order."""

    writes: tuple[Write, ...]


class LogError(Exception):
    """A file is no log of writes, or a damaged one."""


def count_entries(log: Path) -> int:
    """Give how many entries the log has up to its latest flush, also while it is written."""
    with log.open("rb") as stream:
        start = stream.read(_SUPERBLOCK.size)
    # Before the first flush there is no superblock.
    return _read_superblock(start)[0] if any(start) else 0


def read_log(log: Path) -> tuple[Entry, ...]:
    """Read all entries up to the latest flush. Raises LogError."""
    with log.open("rb") as stream:
        return parse_log(stream.read())


def parse_log(content: bytes) -> tuple[Entry, ...]:
    """Parse a whole log. Raises LogError."""
    count, sector = _read_superblock(content)
    entries: list[Entry] = []
    at = sector
    for number in range(count):
        if at + _ENTRY.size > len(content):
            raise LogError(f"the log ends before entry {number} of {count}")
        first, sectors, flags, _ = _ENTRY.unpack_from(content, at)
        at += sector
        if flags & ~(_FLUSH | _FUA | _DISCARD):
            raise LogError(f"entry {number} has the flags {flags:#x}")
        size = sectors * sector
        if flags & _DISCARD:
            data = bytes(size)  # no more than one of the things that may be read there now
        else:
            data = content[at : at + size]
            at += size
        if len(data) != size:
            raise LogError(f"the log ends within entry {number} of {count}")
        if flags & _FLUSH:
            entries.append(Flush())
        if size:
            entries.append(Write(first * sector, data))
    return tuple(entries)


def _read_superblock(content: bytes) -> tuple[int, int]:
    if len(content) < _SUPERBLOCK.size:
        raise LogError("the log is too short for a superblock")
    magic, version, count, sector = _SUPERBLOCK.unpack_from(content)
    if (magic, version) != (_MAGIC, _VERSION) or sector < SECTOR or sector & (sector - 1):
        raise LogError(f"this is no log of writes: {content[: _SUPERBLOCK.size].hex()}")
    return count, sector


def split_epochs(entries: Iterable[Entry]) -> Iterator[Epoch]:
    """Give the writes from flush to flush; those after the last one come last.

    A write that is forced to the disk (FUA) is taken as any other, so as one that may be lost:
    more can happen here than on a disk.
    """
    writes: list[Write] = []
    for entry in entries:
        if isinstance(entry, Write):
            writes.append(entry)
        elif writes:
            yield Epoch(tuple(writes))
            writes = []
    if writes:
        yield Epoch(tuple(writes))


@dataclass(frozen=True, slots=True)
class Changed:
    """The sectors of a disk that were written since the beginning, by number."""

    sectors: Mapping[int, bytes]

    def hash(self, matters: Callable[[int], bool] = lambda _: True) -> str:
        """Give the hash of those sectors that matter."""
        digest = hashlib.sha256()
        for number, data in sorted(self.sectors.items()):
            if matters(number):
                digest.update(number.to_bytes(8) + data)
        return digest.hexdigest()


class Replay:
    """A raw image that writes are put into and taken back from: the disk as of some moment."""

    def __init__(self, image: Path) -> None:
        self.image = image
        self._stream = image.open("r+b", buffering=0)
        self._written: dict[int, bytes] = {}  # by sector

    def close(self) -> None:
        """Close the image."""
        self._stream.close()

    def write(self, writes: Iterable[Write]) -> None:
        """Do writes for good."""
        for write in writes:
            self._put(write)
            self._written.update(_sectors(write))

    @contextlib.contextmanager
    def tried_out(self, writes: Sequence[Write]) -> Iterator["Changed"]:
        """Do writes until the context is left, and give all that differs then."""
        before = [self._get(write) for write in writes]
        for write in writes:
            self._put(write)
        written = dict(self._written)
        for write in writes:
            written.update(_sectors(write))
        try:
            yield Changed(written)
        finally:
            for write in reversed(before):
                self._put(write)

    def _put(self, write: Write) -> None:
        self._stream.seek(write.offset)
        self._stream.write(write.data)

    def _get(self, write: Write) -> Write:
        self._stream.seek(write.offset)
        return replace(write, data=self._stream.read(len(write.data)))


def _sectors(write: Write) -> Iterator[tuple[int, bytes]]:
    for at in range(0, len(write.data), SECTOR):
        yield (write.offset + at) // SECTOR, write.data[at : at + SECTOR]
