"""What a directory of ext takes without growing: by its bytes, and by what the kernel does."""

import itertools
import os
import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootgraft_agent.directory_growth import check_growth, fits, fits_xfs
from bootgraft_agent.errors import RefusedError
from bootgraft_agent.files import Tree
from vm.commands import run

SIZE = 24 << 20  # bytes
LOOKS = 150


def entry(name: bytes, length: int, inode: int = 12) -> bytes:
    return struct.pack("<IHBB", inode, length, len(name), 1) + name.ljust(length - 8, b"\0")


def block(*entries: bytes) -> bytes:
    return b"".join(entries)


@pytest.mark.parametrize(
    ("content", "names", "wanted"),
    [
        (block(entry(b".", 12), entry(b"..", 52)), ["a" * 32], True),
        (block(entry(b".", 12), entry(b"..", 52)), ["a" * 33], False),
        (block(entry(b".", 12), entry(b"..", 52)), ["a" * 12, "b" * 12], True),
        (block(entry(b".", 12), entry(b"..", 52)), ["a" * 12, "b" * 13], False),
        # Two gaps are not one; what a removed name had is one.
        (block(entry(b".", 32), entry(b"..", 32)), ["a" * 13], False),
        (block(entry(b".", 12), entry(b"gone", 32, inode=0), entry(b"..", 12)), ["a" * 24], True),
        (block(entry(b".", 12), entry(b"gone", 32, inode=0), entry(b"..", 12)), ["a" * 25], False),
        # A length of nothing or beyond the end, as on a damaged disk, ends the look.
        (entry(b".", 12)[:4] + bytes(60), ["a" * 48], True),
        (block(entry(b".", 12), struct.pack("<IHBB", 12, 60_000, 1, 1) + bytes(44)), ["a"], True),
        (b"", ["a"], False),
    ],
    ids=itertools.count(),
)
def test_names_need_gaps_that_are_long_enough(
    content: bytes, names: list[str], wanted: bool
) -> None:
    assert fits(content, names) is wanted


def xfs_block(count: int, gap: tuple[int, int]) -> bytes:
    """A directory's only block, of 512 bytes, with one gap: offset and length."""
    start = b"XD2B" + struct.pack(">HHHHHH", *gap, 0, 0, 0, 0)
    return start + bytes(512 - len(start) - 8) + struct.pack(">II", count, 0)


@pytest.mark.parametrize(
    ("block", "names", "wanted"),
    [
        # The index of ten names begins at 424.
        (xfs_block(10, (384, 40)), ["a" * 20], True),
        (xfs_block(10, (384, 40)), ["a" * 21], False),
        (xfs_block(10, (376, 48)), ["a" * 4, "b" * 4], True),
        (xfs_block(10, (376, 48)), ["a" * 4, "b" * 5], False),
        # A gap elsewhere leaves the index no room.
        (xfs_block(10, (300, 100)), ["a"], False),
        (b"XD2D" + xfs_block(10, (384, 40))[4:], ["a"], False),
    ],
    ids=itertools.count(),
)
def test_names_in_a_block_of_xfs_need_room_before_the_index(
    block: bytes, names: list[str], wanted: bool
) -> None:
    assert fits_xfs(block, names) is wanted


@pytest.fixture(params=["1024", "4096"])
def mounted(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounts file systems")
    image, place = tmp_path / "image", tmp_path / "place"
    image.touch()
    os.truncate(image, SIZE)
    run(["mke2fs", "-q", "-F", "-t", "ext3", "-b", request.param, image])
    place.mkdir()
    run(["mount", "-o", "loop,nosuid,nodev,noexec", image, place])
    yield place
    run(["umount", place])


def test_no_directory_grows_that_was_said_to_have_room(mounted: Path) -> None:
    chance = random.Random(3)  # noqa: S311
    refused = 0
    for number in range(LOOKS):
        names = [
            f"{number}-{nth}-{'x' * chance.randint(0, 60)}" for nth in range(chance.randint(1, 3))
        ]
        size = mounted.stat().st_size
        if is_refused(mounted, names):
            refused += 1
            size = SIZE
        for name in names:
            (mounted / name).touch()
        assert mounted.stat().st_size <= size, f"it grew with {names}"
        if number % 5 == 0:
            (mounted / names[0]).unlink()
    assert mounted.stat().st_size > 4096
    assert 0 < refused < LOOKS


def is_refused(place: Path, names: list[str]) -> bool:
    try:
        with Tree(place) as tree:
            check_growth(tree, "", names, "hda1:/")
    except RefusedError:
        return True
    return False


def test_a_directory_without_room_is_named(mounted: Path) -> None:
    with (
        Tree(mounted) as tree,
        pytest.raises(RefusedError, match="the directory hda1:/ has no room for 20 more names"),
    ):
        check_growth(tree, "", ["a" * 250] * 20, "hda1:/")


def test_nothing_is_said_of_a_folder_on_no_disk_and_of_a_directory_that_is_not_there() -> None:
    with Tree(Path("/dev/shm")) as tree:
        check_growth(tree, "", ["a" * 200] * 1000, "/")
        check_growth(tree, "nowhere", ["a"], "/nowhere")
