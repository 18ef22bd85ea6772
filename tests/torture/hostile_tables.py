"""Partition tables that overlap, loop, or lie about their size."""

import random
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

SECTOR = 512
IMAGE_SIZE = 4 << 20  # bytes


def make_table(image: Path, rng: random.Random) -> None:
    """Make a disk with a table of one of the kinds that a hostile or broken installer leaves."""
    with image.open("wb") as disk:
        disk.truncate(IMAGE_SIZE)
        rng.choice([_write_mbr, _write_extended, _write_gpt])(disk, rng)
        if rng.random() < 0.3:
            for _ in range(rng.randint(1, 20)):
                disk.seek(rng.randrange(40 * SECTOR))
                disk.write(rng.randbytes(rng.randint(1, 4)))


def _write_mbr(disk: BinaryIO, rng: random.Random) -> None:
    disk.seek(0)
    disk.write(table_sector([_entry(rng) for _ in range(4)]))


def _entry(rng: random.Random) -> bytes:
    """Give an entry: overlapping, beyond the end, of no size, of an unknown kind or flag."""
    start = rng.choice([0, 1, 63, 2048, rng.randrange(IMAGE_SIZE // SECTOR), 0xFFFFFFFF])
    size = rng.choice([0, 1, 2048, IMAGE_SIZE // SECTOR, 0x7FFFFFFF, 0xFFFFFFFF])
    kind = rng.choice([0x83, 0x82, 0x05, 0x0F, 0x85, 0x8E, 0xFD, 0xEE, 0, rng.randrange(256)])
    return partition_entry(kind, start, size, rng.choice([0, 0x80, 0x7F]))


def partition_entry(kind: int, start: int, sectors: int, flag: int = 0) -> bytes:
    """Give an entry of an MBR."""
    return struct.pack("<B3sB3sII", flag, b"", kind, b"", start, sectors)


def table_sector(entries: Sequence[bytes]) -> bytes:
    """Give an MBR, or an extended partition's table, of these entries."""
    return bytes(446) + b"".join(entries).ljust(64, b"\0") + b"\x55\xaa"


def _write_extended(disk: BinaryIO, rng: random.Random) -> None:
    """Chain extended partitions: to each other, to themselves, backwards, without an end."""
    sectors = IMAGE_SIZE // SECTOR
    base = rng.choice([1, 63, 2048])
    disk.seek(0)
    extended = partition_entry(0x05, base, rng.choice([sectors, 0xFFFFFFFF]))
    disk.write(table_sector([_entry(rng), extended]))
    for at in range(base, min(sectors, base + rng.choice([1, 50, 4000]))):
        following = rng.choice([at + 1 - base, at - base, 0, rng.randrange(sectors), 0xFFFFFFFF])
        logical = partition_entry(0x83, 1, rng.choice([1, 0, sectors]))
        link = partition_entry(0x05, following, 2)
        disk.seek(at * SECTOR)
        disk.write(table_sector([logical, link]))


def _write_gpt(disk: BinaryIO, rng: random.Random) -> None:
    """Write a GPT whose checksums are right, as a rule, and whose numbers lie."""
    sectors = IMAGE_SIZE // SECTOR
    entries = b"".join(
        rng.randbytes(32)
        + struct.pack("<QQQ", *(rng.choice([0, 34, sectors, 1 << 63]) for _ in range(3)))
        + rng.randbytes(72)
        for _ in range(rng.randint(1, 8))
    )
    lie = rng.choice
    header = struct.pack(
        "<8sIIIIQQQQ16sQIII",
        *(b"EFI PART", 0x10000, lie([92, 92, 92, 512, 0xFFFFFFFF]), 0, 0),
        *(1, lie([sectors - 1, 1, 1 << 62]), lie([34, 0, 1 << 62]), lie([sectors - 34, 1 << 63])),
        *(rng.randbytes(16), lie([2, 2, 2, 0, 1 << 60]), lie([8, 128, 0, 0xFFFFFFFF])),
        *(lie([128, 128, 1, 0, 0xFFFFFFFF]), zlib.crc32(entries.ljust(1024, b"\0"))),
    )
    if rng.random() < 0.8:
        header = header[:16] + struct.pack("<I", zlib.crc32(header)) + header[20:]
    disk.seek(0)
    disk.write(table_sector([partition_entry(0xEE, 1, 0xFFFFFFFF)]))
    disk.write(header.ljust(SECTOR, b"\0") + entries)
