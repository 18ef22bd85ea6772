"""A plan without room for its files and their backups is refused before anything is written."""

import re

import pytest

from bootgraft_agent.errors import RefusedError
from bootgraft_agent.files import Room
from bootgraft_agent.plan import CopyFile, CreateFile, MakeDirectory, Remove, Step, Target, Where
from bootgraft_agent.room import MAX_COPIED, SPARE, SPARE_FILES, Volume, check_room
from bootgraft_agent.states import Attributes, FileState

PLAIN = Attributes(0o644, 0, 0)
BLOCK = 4096


def copied(where: Where, size: int, before: int | None = None) -> CopyFile:
    old = None if before is None else FileState("1" * 64, before, PLAIN)
    return CopyFile(Target(where, where, "etc/file"), "file", size, "0" * 64, PLAIN, old)


def removed(where: Where, size: int) -> Remove:
    return Remove(Target(where, where, "etc/old"), FileState("1" * 64, size, PLAIN), "not wanted")


def volumes(boot: int, root: int, inodes: int | None = 100) -> dict[Where, Volume]:
    sizes = {"boot": boot, "root": root}
    return {
        where: Volume(where, Room(size, inodes, BLOCK, read_only=False))
        for where, size in sizes.items()
    }


@pytest.mark.parametrize(
    ("step", "boot", "root"),
    [
        (copied("root", 10 * BLOCK), SPARE, 10 * BLOCK),
        (copied("root", 10 * BLOCK - 1), SPARE, 10 * BLOCK),
        (copied("boot", 10 * BLOCK), SPARE + 10 * BLOCK, 0),
        (copied("boot", BLOCK, before=10 * BLOCK), SPARE + BLOCK, 0),  # a second name
        (copied("root", BLOCK, before=10 * BLOCK), SPARE + 10 * BLOCK, BLOCK),
        (removed("root", 3 * BLOCK), SPARE + 3 * BLOCK, 0),
        (MakeDirectory(Target("root", "root", "etc/new.d"), PLAIN, "new"), SPARE, BLOCK),
        (CreateFile(Target("root", "root", "etc/a"), b"a", PLAIN, "new"), SPARE, BLOCK),
    ],
)
def test_new_files_and_backups_need_room_in_their_volumes(step: Step, boot: int, root: int) -> None:
    check_room([step], volumes(boot, root), boot_is_in_root=False)
    with pytest.raises(RefusedError, match=rf"boot has {(boot - 1) // 1024} KiB free.* make room"):
        check_room([step], volumes(boot - 1, root), boot_is_in_root=False)
    if root:
        with pytest.raises(RefusedError, match=r"root has \d+ KiB free, the recipes need"):
            check_room([step], volumes(boot, root - 1), boot_is_in_root=False)


def test_old_files_beside_the_backups_are_not_copied() -> None:
    step = removed("root", 2 * MAX_COPIED)
    check_room([step], volumes(SPARE, 0), boot_is_in_root=True)


def test_more_old_files_of_other_volumes_than_memory_should_hold_are_refused() -> None:
    steps = [removed("root", MAX_COPIED // 2), removed("root", MAX_COPIED // 2)]
    check_room(steps, volumes(2 * MAX_COPIED, 0), boot_is_in_root=False)
    with pytest.raises(RefusedError, match=re.escape("more than the 32768 KiB that one run")):
        check_room([*steps, removed("root", 1)], volumes(2 * MAX_COPIED, 0), boot_is_in_root=False)


def test_files_need_inodes_but_where_they_are_made_as_needed() -> None:
    step = removed("root", 1)
    plenty = 1 << 30
    check_room([step], volumes(plenty, plenty, SPARE_FILES + 1), boot_is_in_root=False)
    check_room([step], volumes(plenty, plenty, None), boot_is_in_root=False)
    with pytest.raises(RefusedError, match="boot has 3 inodes free, the recipes need 4"):
        check_room([step], volumes(plenty, plenty, SPARE_FILES), boot_is_in_root=False)
