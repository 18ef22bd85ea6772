"""The log of a disk's writes is read as QEMU writes it, and disks of the past come of it."""

import json
import struct
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from vm.write_log import (
    SECTOR,
    Epoch,
    Flush,
    LogError,
    Replay,
    Write,
    count_entries,
    parse_log,
    read_log,
    split_epochs,
)

ONE, TWO, THREE = (bytes([n]) * SECTOR for n in (1, 2, 3))


def log_with_qemu(disk: Path, log: Path, *commands: str) -> None:
    """Let QEMU's own program write to a disk behind the filter."""
    node = {
        "driver": "blklogwrites",
        "file": {"driver": "file", "filename": str(disk)},
        "log": {"driver": "file", "filename": str(log)},
    }
    log.write_bytes(b"")
    argv = ["qemu-io", "-n", *(word for each in commands for word in ("-c", each))]
    subprocess.run([*argv, f"json:{json.dumps(node)}"], check=True, capture_output=True)


def test_qemus_own_log_is_read(tmp_path: Path) -> None:
    disk, log = tmp_path / "disk", tmp_path / "log"
    disk.write_bytes(bytes(8 * SECTOR))
    log_with_qemu(
        disk, log, "write -P 1 0 512", "write -P 2 1k 512", "flush", "write -z 512 1k", "flush"
    )
    entries = read_log(log)
    assert entries[:3] == (Write(0, ONE), Write(2 * SECTOR, TWO), Flush())
    assert entries[3:5] == (Write(SECTOR, bytes(2 * SECTOR)), Flush())
    assert count_entries(log) == len(entries)
    replayed = tmp_path / "replayed"
    replayed.write_bytes(bytes(8 * SECTOR))
    with closing(Replay(replayed)) as replay:
        replay.write(entry for entry in entries if isinstance(entry, Write))
    assert replayed.read_bytes() == disk.read_bytes()


def test_a_log_without_a_flush_has_no_entries_yet(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"")
    assert count_entries(log) == 0


def make_log(*entries: tuple[int, int, int, bytes], count: int | None = None) -> bytes:
    """Make a log of (sector, sectors, flags, data)."""
    number = len(entries) if count is None else count
    content = struct.pack("<QQQI", 0x6A736677736872, 1, number, SECTOR).ljust(SECTOR, b"\0")
    for sector, sectors, flags, data in entries:
        content += struct.pack("<QQQQ", sector, sectors, flags, 0).ljust(SECTOR, b"\0") + data
    return content


def test_a_discarded_range_reads_as_zeros() -> None:
    assert parse_log(make_log((4, 2, 4, b""))) == (Write(4 * SECTOR, bytes(2 * SECTOR)),)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        bytes(SECTOR),
        make_log((0, 1, 0, ONE))[:-1],
        make_log((0, 1, 0, ONE), count=2),
        make_log((0, 1, 64, ONE)),
    ],
    ids=["empty", "zeros", "data cut off", "entry missing", "unknown flag"],
)
def test_a_damaged_log_is_refused(content: bytes) -> None:
    with pytest.raises(LogError):
        parse_log(content)


def test_epochs_end_at_flushes() -> None:
    writes = [Write(n * SECTOR, ONE) for n in range(4)]
    entries: list[Write | Flush] = [
        writes[0],
        Flush(),
        Flush(),
        writes[1],
        writes[2],
        Flush(),
        writes[3],
    ]
    assert list(split_epochs(entries)) == [
        Epoch((writes[0],)),
        Epoch((writes[1], writes[2])),
        Epoch((writes[3],)),
    ]


def test_what_is_tried_out_is_taken_back(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(4 * SECTOR))
    with closing(Replay(image)) as replay:
        replay.write([Write(0, ONE)])
        with replay.tried_out([Write(0, TWO + TWO), Write(SECTOR, THREE)]) as changed:
            assert image.read_bytes() == TWO + THREE + bytes(2 * SECTOR)
            assert dict(changed.sectors) == {0: TWO, 1: THREE}
        assert image.read_bytes() == ONE + bytes(3 * SECTOR)
        with replay.tried_out([]) as unchanged:
            assert dict(unchanged.sectors) == {0: ONE}
    assert changed.hash() != unchanged.hash()
    assert changed.hash(lambda sector: sector > 7) == unchanged.hash(lambda sector: sector > 7)
