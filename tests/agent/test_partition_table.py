"""Partition tables as libparted reads them, written by sfdisk, mkfs, and by hand where hostile."""

import hashlib
import os
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bootgraft_agent.partition_table import (
    READER_UID,
    PartitionTable,
    TableEntry,
    read_only_path,
    read_partition_table,
)

DISK_SIZE = 16 << 20  # bytes
SECTOR = 512
GPT_CHECKSUM = 16  # offset in the header
LINUX, EXTENDED = 0x83, 0x05

# Two logical partitions with a gap before, between and after them.
EXTENDED_WITH_GAPS = """
label: dos
start=2048, size=8192, type=83, bootable
start=10240, size=20480, type=5
start=12288, size=4096, type=83
start=20480, size=4096, type=82
"""
FOUR_PRIMARIES = """
label: dos
start=2048, size=2048, type=83
start=4096, size=2048, type=82, bootable
start=6144, size=2048, type=8e
start=8192, size=2048, type=7
"""
GPT = """
label: gpt
start=2048, size=2048, type=U
start=4096, size=2048, type=L, attrs=LegacyBIOSBootable
"""


def run(*command: str | Path, text: str = "") -> None:
    subprocess.run(command, input=text.encode(), check=True, capture_output=True)


def read(image: Path, timeout: float = 60.0) -> PartitionTable:
    """Read the image's table, which must leave it as it is."""
    before = hashlib.sha256(image.read_bytes()).digest()
    table = read_partition_table(image, timeout)
    assert hashlib.sha256(image.read_bytes()).digest() == before
    return table


def overwrite(image: Path, offset: int, data: bytes) -> None:
    with image.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def mbr_sector(*entries: tuple[int, int, int]) -> bytes:
    """Write an MBR or EBR from (type, first sector, sectors)."""
    table = b"".join(
        struct.pack("<4xB3xII", kind, first, sectors) for kind, first, sectors in entries
    )
    return bytes(446) + table.ljust(64, b"\0") + b"\x55\xaa"


def entry(number: int, start: int, sectors: int, active: bool = False) -> TableEntry:
    return TableEntry(number, start * SECTOR, sectors * SECTOR, active)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.touch()
    os.truncate(path, DISK_SIZE)
    return path


@pytest.fixture
def gpt_image(image: Path) -> Path:
    run("sfdisk", "-q", image, text=GPT)
    return image


def test_four_primaries_are_read_with_the_active_one(image: Path) -> None:
    run("sfdisk", "-q", image, text=FOUR_PRIMARIES)
    assert read(image) == PartitionTable(
        "msdos",
        (
            entry(1, 2048, 2048),
            entry(2, 4096, 2048, active=True),
            entry(3, 6144, 2048),
            entry(4, 8192, 2048),
        ),
    )


def test_logical_partitions_are_numbered_from_five_whatever_gaps_lie_between(image: Path) -> None:
    run("sfdisk", "-q", image, text=EXTENDED_WITH_GAPS)
    assert read(image) == PartitionTable(
        "msdos",
        (
            entry(1, 2048, 8192, active=True),
            entry(2, 10240, 20480),
            entry(5, 12288, 4096),
            entry(6, 20480, 4096),
        ),
    )


def test_gpt_is_read_with_the_partition_that_a_bios_may_boot(gpt_image: Path) -> None:
    assert read(gpt_image) == PartitionTable(
        "gpt", (entry(1, 2048, 2048), entry(2, 4096, 2048, active=True))
    )


def test_a_gpt_disk_that_has_grown_is_read_as_it_is(gpt_image: Path) -> None:
    os.truncate(gpt_image, 2 * DISK_SIZE)
    table = read(gpt_image)
    assert (table.kind, len(table.entries), table.problem) == ("gpt", 2, None)


@pytest.mark.parametrize(
    "command", [("mkfs.ext3", "-q"), ("mkfs.vfat",), ("true",)], ids=["ext3", "vfat", "blank"]
)
def test_a_disk_without_a_table_has_none_and_no_problem(
    image: Path, command: tuple[str, ...]
) -> None:
    run(*command, image)
    assert read(image) == PartitionTable(None)


def test_random_bytes_are_no_table(image: Path) -> None:
    overwrite(image, 0, hashlib.shake_256(b"no table").digest(1 << 20))
    assert read(image) == PartitionTable(None)


def test_a_table_of_another_kind_is_named(image: Path) -> None:
    run("sfdisk", "-q", image, text="label: sun\n")
    assert read(image) == PartitionTable(
        None, problem="cannot read a partition table of the kind sun"
    )


def break_primary_gpt(image: Path) -> None:
    overwrite(image, SECTOR + GPT_CHECKSUM, bytes(4))


def break_backup_gpt(image: Path) -> None:
    overwrite(image, DISK_SIZE - SECTOR + GPT_CHECKSUM, bytes(4))


def break_both_gpts(image: Path) -> None:
    break_primary_gpt(image)
    break_backup_gpt(image)


def cut_disk_in_half(image: Path) -> None:
    os.truncate(image, DISK_SIZE // 2)


def claim_four_gib_of_gpt_entries(image: Path) -> None:
    header = bytearray(image.read_bytes()[SECTOR : SECTOR + 92])
    struct.pack_into("<II", header, 80, 8192, 1 << 19)
    struct.pack_into("<I", header, GPT_CHECKSUM, 0)
    struct.pack_into("<I", header, GPT_CHECKSUM, zlib.crc32(header))
    overwrite(image, SECTOR, bytes(header))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (break_primary_gpt, "The primary GPT table is corrupt"),
        (break_backup_gpt, "The backup GPT table is corrupt"),
        (break_both_gpts, "Both the primary and backup GPT tables are corrupt"),
        (cut_disk_in_half, "disk.img"),
        (claim_four_gib_of_gpt_entries, ""),
    ],
)
def test_a_damaged_gpt_is_a_problem(
    gpt_image: Path, damage: Callable[[Path], None], reason: str
) -> None:
    damage(gpt_image)
    assert_damaged(read(gpt_image), reason)


HOSTILE_MBRS: dict[str, dict[int, bytes]] = {
    "overlap": {0: mbr_sector((LINUX, 2048, 4096), (LINUX, 4096, 4096))},
    "beyond the disk": {0: mbr_sector((LINUX, 2048, 0xFFFF0000))},
    "extended beyond the disk": {0: mbr_sector((EXTENDED, 0x7FFF0000, 4096))},
    "two extended partitions": {
        0: mbr_sector((EXTENDED, 2048, 4096), (EXTENDED, 8192, 4096)),
        2048: mbr_sector(),
        8192: mbr_sector(),
    },
    "logical outside the extended": {
        0: mbr_sector((EXTENDED, 2048, 4096)),
        2048: mbr_sector((LINUX, 8192, 2048)),
    },
    "extended without signature": {0: mbr_sector((EXTENDED, 2048, 4096)), 2048: bytes(512)},
    "loop of two extended partitions": {
        0: mbr_sector((EXTENDED, 2048, 16384)),
        2048: mbr_sector((EXTENDED, 100, 100)),
        2148: mbr_sector((EXTENDED, 0, 100)),
    },
    "loop with a logical partition": {
        0: mbr_sector((EXTENDED, 2048, 16384)),
        2048: mbr_sector((LINUX, 10, 10), (EXTENDED, 100, 100)),
        2148: mbr_sector((LINUX, 10, 10), (EXTENDED, 0, 100)),
    },
}


@pytest.mark.parametrize("sectors", HOSTILE_MBRS.values(), ids=HOSTILE_MBRS.keys())
def test_a_hostile_mbr_is_a_problem(image: Path, sectors: dict[int, bytes]) -> None:
    for number, sector in sectors.items():
        overwrite(image, number * SECTOR, sector)
    assert_damaged(read(image), "")


def test_a_table_that_takes_for_ever_is_given_up(image: Path) -> None:
    """Each of 60 extended partitions points three times to the next: 3**60 to read."""
    overwrite(image, 0, mbr_sector((EXTENDED, 2048, 16384)))
    for index in range(60):
        onward = (EXTENDED, index + 1, 1)
        overwrite(image, (2048 + index) * SECTOR, mbr_sector(onward, onward, onward))
    overwrite(image, (2048 + 60) * SECTOR, mbr_sector())
    assert_damaged(read(image, timeout=2.0), "took longer than 2 s")


def test_a_disk_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    assert_damaged(read_partition_table(tmp_path / "sda"), "No such file or directory")


def assert_damaged(table: PartitionTable, reason: str) -> None:
    assert (table.kind, table.entries) == (None, ())
    assert table.problem is not None
    assert table.problem.startswith("cannot read the partition table: ")
    assert reason in table.problem
    assert "/" not in table.problem.removesuffix("sda'")  # the node's directory is nobody's concern


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="loop devices need root")


@pytest.fixture
def loop_device(image: Path) -> Iterator[Path]:
    run("sfdisk", "-q", image, text=FOUR_PRIMARIES)
    attach = ("losetup", "--find", "--show", image)
    found = subprocess.run(attach, check=True, capture_output=True, text=True)
    device = Path(found.stdout.strip())
    yield device
    run("losetup", "--detach", device)


@needs_root
def test_a_block_device_is_read_without_leaving_a_trace(loop_device: Path) -> None:
    table = read_partition_table(loop_device)
    assert (table.kind, len(table.entries), table.problem) == ("msdos", 4, None)
    assert not list(Path("/dev").glob("bootgraft-*"))


@needs_root
@pytest.mark.parametrize(("access", "status"), [("-r", 0), ("-w", 1)])
def test_the_reader_of_a_block_device_cannot_write_it(
    loop_device: Path, access: str, status: int
) -> None:
    with read_only_path(loop_device) as node:
        as_reader = subprocess.run(
            ["/usr/bin/test", access, node], user=READER_UID, group=READER_UID, check=False
        )
    assert as_reader.returncode == status
