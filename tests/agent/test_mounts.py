"""What mounting needs to know before it mounts; mounting itself is tested in the live system."""

import subprocess
from pathlib import Path

import pytest

from bootgraft_agent import mounts

EPOCH_2008 = 1_199_145_600


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "ext3.img"
    subprocess.run(["mke2fs", "-q", "-t", "ext3", path, "2048k"], check=True)
    return path


@pytest.mark.parametrize(
    ("now", "target"),
    [
        (EPOCH_2008 + 3e8, EPOCH_2008 + 1.0),
        (EPOCH_2008 + 1.5, EPOCH_2008 + 1.0),
        (EPOCH_2008 + 1.0, None),
        (EPOCH_2008 - 5.0, None),
    ],
)
def test_the_clock_is_never_later_than_a_second_after_the_last_write(
    now: float, target: float | None
) -> None:
    assert mounts.clock_for_write(EPOCH_2008, now) == target


def test_a_superblock_says_when_it_was_written_and_that_it_is_clean(image: Path) -> None:
    superblock = mounts.read_ext_superblock(image)
    assert superblock is not None
    assert not superblock.has_errors
    assert not superblock.has_dirty_journal
    assert superblock.is_clean
    assert superblock.written > EPOCH_2008


def test_a_superblock_with_errors_and_one_with_a_dirty_journal_are_seen(image: Path) -> None:
    commands = "set_super_value state 2\nset_super_value feature_incompat 6\n"
    subprocess.run(["debugfs", "-w", "-f", "-", image], input=commands.encode(), check=True)
    superblock = mounts.read_ext_superblock(image)
    assert superblock is not None
    assert superblock.has_errors
    assert superblock.has_dirty_journal


@pytest.mark.parametrize(
    "change",
    [
        "state 0",  # in use when the machine stopped
        "state 3",  # errors
        "state 5",  # orphans
        "last_orphan 12",
        "feature_incompat 6",  # a journal to be replayed
        "feature_ro_compat 0x10003",  # orphans in a file of their own
    ],
)
def test_a_file_system_that_mounting_would_mend_is_not_clean(image: Path, change: str) -> None:
    subprocess.run(["debugfs", "-w", "-R", f"set_super_value {change}", image], check=True)
    superblock = mounts.read_ext_superblock(image)
    assert superblock is not None
    assert not superblock.is_clean


def test_what_is_no_ext_file_system_has_no_such_superblock(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(bytes(100_000))
    (tmp_path / "short").write_bytes(bytes(1500))
    assert mounts.read_ext_superblock(tmp_path / "image") is None
    assert mounts.read_ext_superblock(tmp_path / "short") is None


def test_a_failed_command_says_what_it_was_and_what_it_said() -> None:
    with pytest.raises(mounts.CommandError, match="ls /nowhere/at/all ended with status 2: ls"):
        mounts.run(["ls", "/nowhere/at/all"])
    with pytest.raises(mounts.CommandError, match="cannot run no-such-program"):
        mounts.run(["no-such-program"])
    with pytest.raises(mounts.CommandError, match="timed out"):
        mounts.run(["sleep", "5"], timeout=0.05)
