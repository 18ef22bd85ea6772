"""Whether a guest's file systems have room for a plan and for its backups."""

from collections import Counter

from bootgraft_agent.effects import changes, targets, wanted
from bootgraft_agent.errors import RefusedError
from bootgraft_agent.manifest import Manifest
from bootgraft_agent.plan import Plan, Where
from bootgraft_agent.states import FileState
from bootgraft_agent.volumes import Volumes

_BOOKKEEPING = 64 * 1024  # bytes for directories and the like
_OF_EACH = 2048  # bytes of a change in the manifest, at most but for long paths and attributes


def check_room(plan: Plan, manifest: Manifest, volumes: Volumes) -> None:
    """Refuse a plan for which there is no room, before anything is written. Raises RefusedError.

    What it frees is not counted: a file and its replacement are there at once, and old files of
    the volume of the backups stay there.
    """
    for where, needed in _needed(plan, manifest, volumes).items():
        with volumes.read(where) as tree:
            free = tree.room().free_bytes
        if needed > free:
            use = "the changes and their backups" if where == "boot" else "the changes"
            raise RefusedError(
                f"{volumes.name(where)} has {free} bytes free, and {use} need {needed}; nothing"
                " was changed. Make room there, then start again"
            )


def _needed(plan: Plan, manifest: Manifest, volumes: Volumes) -> Counter[Where]:
    """Give the bytes that a plan takes, by volume."""
    # Where /boot is a directory, the root and "boot" are one volume.
    same = {"root": "boot"} if volumes.boot_prefix else {}
    needed: Counter[Where] = Counter()
    needed["boot"] = _BOOKKEEPING + _OF_EACH * len(manifest.changes)
    for _, step in changes(plan):
        for target in targets(step):
            after = wanted(step, target, None)
            is_moved = len(targets(step)) > 1
            if isinstance(after, FileState) and not is_moved:
                needed[same.get(target.where, target.where)] += after.size
    for change in manifest.changes:
        where = same.get(change.where, change.where)
        if where != "boot" and change.backup and isinstance(change.before, FileState):
            needed["boot"] += change.before.size
    return needed
