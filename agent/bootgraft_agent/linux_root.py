"""Finding a Linux guest's root file system on any disk, and by its fstab all that it mounts."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from bootgraft_agent import btrfs, fstab, mounts
from bootgraft_agent.errors import AmbiguousError, RefusedError
from bootgraft_agent.file_systems import FileSystem, Storage
from bootgraft_agent.files import Tree
from bootgraft_agent.fstab import Entry
from bootgraft_agent.guest import MAX_TEXT
from bootgraft_agent.plan import Where

FSTAB = "etc/fstab"
MAX_MOUNTS = 64  # of a guest; each is mounted while recipes are planned
_SIGNS = (FSTAB, "etc/os-release", "usr/lib/os-release")
_PROGRAMS = ("usr", "bin")
# What a guest may be in, and nobody looks into here.
_CLOSED = {
    "crypto_LUKS": "is encrypted",
    "linux_raid_member": "is part of a RAID, which is not started",
    "ddf_raid_member": "is part of a RAID, which is not started",
    "isw_raid_member": "is part of a RAID, which is not started",
    "BitLocker": "is encrypted",
    "zfs_member": "is part of a ZFS pool, which is not read",
    "bcache": "is a bcache, which is not started",
}


@dataclass(frozen=True, slots=True)
class GuestFileSystems:
    """A guest's file systems by what they are to it.

    `mounts` gives each mount point, without its first slash, what is there; `absent` those that
    cannot be changed here, and why; `uuids` are by mount point, of swap areas by their device, and
    of an only one by "swap", too.
    """

    file_systems: dict[Where, FileSystem]
    boot_prefix: str
    mounts: tuple[tuple[str, Where], ...]
    absent: tuple[tuple[str, str], ...]
    uuids: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A file system that may be a root, and whether its own fstab says that it is."""

    file_system: FileSystem
    names_itself: bool


def find_linux(storage: Storage, root_partition: str | None) -> GuestFileSystems:
    """Find the guest's root file system and all that it mounts.

    Raises RefusedError where there is none, or it cannot be told for LVM's sake, AmbiguousError
    for several.
    """
    return find_mounts(storage, find_root_file_system(storage, root_partition))


# The root


def find_root_file_system(storage: Storage, root_partition: str | None) -> FileSystem:
    """Find the guest's root: what its own fstab calls so, or the only one that looks like it."""
    if not storage.machine.disks:
        raise RefusedError("no disk was found in this machine; is it attached?")
    notes: list[str] = []
    candidates = list(_find_candidates(storage, notes))
    if root_partition is not None:
        candidates = _choose_named(storage, candidates, root_partition, notes)
    elif storage.problems:
        raise RefusedError("cannot choose a root file system: " + "; ".join(storage.problems))
    chosen = [each for each in candidates if each.names_itself] or candidates
    if len(chosen) > 1:
        names = tuple(each.file_system.name for each in chosen)
        raise AmbiguousError(
            f"cannot choose a root file system: {' and '.join(names)} both hold a Linux system;"
            " name one with --root-partition",
            names,
        )
    if not chosen:
        looked = "; ".join(notes) or "no file system that Linux boots from"
        raise RefusedError(f"no root file system of a Linux guest was found: {looked}")
    return chosen[0].file_system


def _choose_named(
    storage: Storage, candidates: Sequence[_Candidate], name: str, notes: Sequence[str]
) -> list[_Candidate]:
    wanted = name.removeprefix("/dev/")
    exact = [each for each in candidates if each.file_system.name == wanted]
    chosen = exact or [each for each in candidates if wanted in each.file_system.names]
    if not chosen:
        listed = ", ".join(each.file_system.name for each in candidates) or "none"
        why = "; ".join((*storage.problems, *notes))
        raise RefusedError(
            f"there is no root file system {name} of a Linux guest; there are: {listed}"
            + (f" ({why})" if why else "")
        )
    return chosen


def _find_candidates(storage: Storage, notes: list[str]) -> Iterator[_Candidate]:
    for file_system in storage.file_systems:
        if file_system.fs_type in _CLOSED:
            notes.append(f"{file_system.name} {_CLOSED[file_system.fs_type]}")
        elif file_system.fs_type in mounts.DISK_FILE_SYSTEMS:
            yield from _look_into(storage, file_system, notes)
        elif not file_system.fs_type and file_system.logical is not None:
            notes.append(f"{file_system.name} is empty, or LVM cannot start it")


def _look_into(storage: Storage, file_system: FileSystem, notes: list[str]) -> Iterator[_Candidate]:
    try:
        variants, default = [file_system], None
        if file_system.fs_type == "btrfs":
            variants, default = _find_subvolumes(storage, file_system)
        found = [
            _Candidate(variant, _names_itself(storage, variant, entries, default))
            for variant in variants
            if (entries := _read_root(storage, variant)) is not None
        ]
    except (RefusedError, OSError) as error:
        notes.append(f"{file_system.name}: {error}")
        return
    if not found:
        notes.append(f"{file_system.name} ({file_system.fs_type}) is no root")
    yield from found


def _find_subvolumes(storage: Storage, file_system: FileSystem) -> tuple[list[FileSystem], int]:
    """Give the subvolumes that may be a root, the default one first, and the default's number."""
    with storage.nodes.read(file_system) as tree:
        default = btrfs.read_number(tree.root)
        default_name = btrfs.read_name(tree.root)
    top = replace(file_system, subvolume=btrfs.TOP_LEVEL)
    with storage.nodes.read(top) as tree:
        listed = btrfs.list_subvolumes(tree.root)
    numbers = {default: default_name, btrfs.TOP_LEVEL: ""}
    numbers |= {number: name for name, number in listed.items() if number not in numbers}
    return [_subvolume(file_system, number, name) for number, name in numbers.items()], default


def _subvolume(file_system: FileSystem, number: int, name: str) -> FileSystem:
    title = f"{file_system.name}[{name}]" if name else file_system.name
    return replace(file_system, name=title, subvolume=number)


def _read_root(storage: Storage, file_system: FileSystem) -> tuple[Entry, ...] | None:
    """Read the fstab of a file system that looks like a root, none where it has none; else None."""
    with storage.nodes.read(file_system) as tree:
        has_sign = any(tree.is_file(each) for each in _SIGNS)
        if not has_sign or not any(tree.is_directory(each) for each in _PROGRAMS):
            return None
        return _read_fstab(tree)


def _read_fstab(tree: Tree) -> tuple[Entry, ...]:
    return fstab.parse_fstab(tree.read(FSTAB, MAX_TEXT)) if tree.is_file(FSTAB) else ()


def _names_itself(
    storage: Storage, file_system: FileSystem, entries: Sequence[Entry], default: int | None
) -> bool:
    for entry in entries:
        if fstab.place_of(entry.mount_point) == "" and any(
            each.is_same_device(file_system) for each in storage.find(entry.spec)
        ):
            return default is None or file_system.subvolume == _subvolume_number(
                storage, file_system, entry, default
            )
    return False


def _subvolume_number(
    storage: Storage, file_system: FileSystem, entry: Entry, default: int
) -> int | None:
    """Give the number of the subvolume that a line of fstab names; None where there is none."""
    number, path = entry.option("subvolid"), entry.option("subvol")
    if number is not None:
        return int(number) if number.isascii() and number.isdigit() else None
    if path is None:
        return default
    top = replace(file_system, subvolume=btrfs.TOP_LEVEL)
    with storage.nodes.read(top) as tree:
        return btrfs.find_subvolume(tree.root, path)


# What the root mounts


def find_mounts(storage: Storage, root: FileSystem) -> GuestFileSystems:
    """Find what the fstab of a root file system mounts."""
    with storage.nodes.read(root) as tree:
        entries = _read_fstab(tree)
        has_boot = _is_directory(tree, "boot")
    found: dict[str, FileSystem | str] = {}  # what is there, or why not
    uuids = {"/": root.uuid or ""}
    for entry in entries:
        place = fstab.place_of(entry.mount_point)
        if entry.is_swap:
            fitting = storage.find(entry.spec)
            uuids[entry.spec] = (fitting[0].uuid or "") if len(fitting) == 1 else ""
        elif place and not entry.is_left_out:
            there: FileSystem | str = f"it is more than the {MAX_MOUNTS} that are looked at"
            if len(found) < MAX_MOUNTS:
                there = _find_mounted(storage, root, entry)
            found[place] = there
            uuids[f"/{place}"] = there.uuid or "" if isinstance(there, FileSystem) else ""
    areas = [entry.spec for entry in entries if entry.is_swap]
    if len(areas) == 1:
        uuids["swap"] = uuids[areas[0]]
    absent = {place: why for place, why in found.items() if isinstance(why, str)}
    present = {place: each for place, each in found.items() if isinstance(each, FileSystem)}
    return _arranged(root, present, absent, uuids, has_boot=has_boot)


def _arranged(
    root: FileSystem,
    present: dict[str, FileSystem],
    absent: dict[str, str],
    uuids: dict[str, str],
    *,
    has_boot: bool,
) -> GuestFileSystems:
    boot = present.get("boot")
    mounted: list[tuple[str, Where]] = [("", "root")]
    if boot is not None or (has_boot and "boot" not in absent):
        mounted.append(("boot", "boot"))
    mounted += [(place, place) for place in present if place != "boot"]
    others = {place: each for place, each in present.items() if place != "boot"}
    return GuestFileSystems(
        file_systems={"root": root, "boot": boot or root, **others},
        boot_prefix="boot/" if boot is None and ("boot", "boot") in mounted else "",
        mounts=tuple(mounted),
        absent=tuple(absent.items()),
        uuids={place: uuid for place, uuid in uuids.items() if uuid},
    )


def _is_directory(tree: Tree, path: str) -> bool:
    """Whether there is a directory, which is no link to one."""
    with contextlib.suppress(OSError):
        return tree.resolve(path) == path and tree.is_directory(path)
    return False


def _find_mounted(storage: Storage, root: FileSystem, entry: Entry) -> FileSystem | str:
    """Find what a line of fstab mounts, or say why that cannot be changed here."""
    if entry.is_bind:
        return f"it shows {entry.spec} once more; name the path there"
    if entry.fs_type in fstab.PSEUDO:
        return f"it is of type {entry.fs_type}, which is on no disk"
    if entry.fs_type in fstab.NETWORK:
        return f"it is of type {entry.fs_type}, which is elsewhere on the network"
    fitting = storage.find(entry.spec)
    # Of disks that pass for each other the one that the root is on.
    beside = [each for each in fitting if not set(each.below).isdisjoint(root.below)]
    chosen = beside if len(beside) == 1 else fitting
    if len(chosen) != 1:
        listed = " and ".join(each.name for each in chosen) or "no file system of this machine"
        return f"{entry.spec} of the guest's fstab fits {listed}"
    return _as_mounted(storage, chosen[0], entry)


def _as_mounted(storage: Storage, file_system: FileSystem, entry: Entry) -> FileSystem | str:
    if file_system.fs_type not in mounts.GUEST_FILE_SYSTEMS:
        kind = file_system.fs_type or "of an unknown kind"
        closed = _CLOSED.get(kind, f"is {kind}, which is not read here")
        return f"{file_system.name} {closed}"
    if file_system.fs_type != "btrfs":
        return file_system
    try:
        with storage.nodes.read(file_system) as tree:
            default = btrfs.read_number(tree.root)
        number = _subvolume_number(storage, file_system, entry, default)
        if number is None:
            return f"{file_system.name} has no subvolume {entry.option('subvol')}"
        subvolume = replace(file_system, subvolume=number)
        with storage.nodes.read(subvolume) as tree:
            return _subvolume(file_system, number, btrfs.read_name(tree.root))
    except (RefusedError, OSError) as error:
        return f"{file_system.name}: {error}"
