"""Whether a plan's files and their backups have room in the guest. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bootgraft_agent.errors import RefusedError
from bootgraft_agent.files import Room
from bootgraft_agent.plan import (
    CopyFile,
    CreateFile,
    MakeDirectory,
    MakeLink,
    Remove,
    RemoveDirectory,
    ReplayJournal,
    Step,
    Where,
    WriteFile,
)
from bootgraft_agent.states import FileState

# Bytes of old files of other volumes than that of /boot: their backups go through the live
# system's memory, of which there may be 160 MB in all.
MAX_COPIED = 32 * 1024 * 1024
SPARE = 1024 * 1024  # bytes left over for directories, the manifest and the file system itself
SPARE_FILES = 3  # directories of the backups, and the manifest


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume that a plan writes: its name for people, and what is left there."""

    name: str
    room: Room


def check_room(
    steps: Iterable[Step], volumes: Mapping[Where, Volume], *, boot_is_in_root: bool
) -> None:
    """Refuse a plan whose new files, or backups in the volume of /boot, have no room.

    Raises RefusedError.
    """
    sizes: Counter[Where] = Counter({"boot": SPARE})
    files: Counter[Where] = Counter({"boot": SPARE_FILES})
    copied = 0
    is_beside = {"boot", "root"} if boot_is_in_root else {"boot"}
    for step in steps:
        if isinstance(step, ReplayJournal):
            continue
        where = "boot" if step.target.where in is_beside else step.target.where
        block = volumes[where].room.block_size
        if not isinstance(step, Remove | RemoveDirectory):
            sizes[where] += _rounded(_new_size(step, block), block)
            files[where] += 1
        backup = _old_size(step)
        if backup is not None:
            files["boot"] += 1
            if where != "boot":
                copied += backup
                sizes["boot"] += _rounded(backup, volumes["boot"].room.block_size)
    if copied > MAX_COPIED:
        raise RefusedError(
            f"{copied // 1024} KiB of old files are to be kept on the volume of /boot, more than"
            f" the {MAX_COPIED // 1024} KiB that one run copies; split the recipe"
        )
    for where in sizes:
        _check_volume(volumes[where], sizes[where], files[where])


def _check_volume(volume: Volume, size: int, files: int) -> None:
    room = volume.room
    if room.free_bytes < size:
        raise RefusedError(
            f"{volume.name} has {room.free_bytes // 1024} KiB free, the recipes need"
            f" {size // 1024} KiB; make room there"
        )
    if room.free_inodes is not None and room.free_inodes < files:
        raise RefusedError(
            f"{volume.name} has {room.free_inodes} inodes free, the recipes need {files};"
            " remove some files there"
        )


def _new_size(step: Step, block: int) -> int:
    if isinstance(step, CopyFile):
        return step.size
    if isinstance(step, WriteFile):
        return len(step.after)
    if isinstance(step, CreateFile):
        return len(step.content)
    return block if isinstance(step, MakeDirectory | MakeLink) else 0


def _old_size(step: Step) -> int | None:
    """Give the size of the file that a step makes a backup of; None for none."""
    if isinstance(step, ReplayJournal):
        return None
    if isinstance(step, WriteFile):
        return len(step.before)
    return step.before.size if isinstance(step.before, FileState) else None


def _rounded(size: int, block: int) -> int:
    return -(-size // block) * block
