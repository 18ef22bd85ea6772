"""The machine that the live system runs in: its disks, all set read-only, and its DVD drives."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bootgraft_agent import mounts
from bootgraft_agent.disks import (
    Disk,
    DvdDrive,
    LiveVolume,
    Partition,
    read_block_devices,
    read_disks,
    read_dvd_drives,
    read_live_volumes,
)
from bootgraft_agent.files import Tree

SETTLE_TIMEOUT = 10  # seconds for udev to look at a disk or DVD that has just come
# The kernel itself notices only after seconds that a drive holds another DVD.
_LOOK_AT_DVD_DRIVES = [
    *("udevadm", "trigger", "--action=change"),
    *("--subsystem-match=block", "--sysname-match=sr*"),
]

# Gives the view of a device, the same one throughout a look.
Views = Callable[[Path], Path]


@dataclass(frozen=True, slots=True)
class Place:
    """A partition of the machine with the disk that holds it."""

    disk: Disk
    partition: Partition

    @property
    def name(self) -> str:
        """Its name for people: "hda1"."""
        return self.partition.name

    @property
    def device(self) -> Path:
        """The kernel's node."""
        return Path("/dev") / self.partition.kernel_name

    @property
    def fs_type(self) -> str:
        """Its file system as udev calls it, "" where it knows none."""
        return self.partition.fs_type or ""


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine as it is now: its disks, all set read-only, and its DVD drives."""

    disks: tuple[Disk, ...]
    drives: tuple[DvdDrive, ...]
    live_volumes: tuple[LiveVolume, ...] = ()

    @property
    def ide_disks(self) -> tuple[Disk, ...]:
        """The disks that the BIOS counts, in its order."""
        return tuple(disk for disk in self.disks if disk.hd_name is not None)

    def places(self) -> Iterator[Place]:
        """Give every partition with a file system that a guest's disk may have."""
        for disk in self.disks:
            for partition in disk.partitions:
                if partition.fs_type in mounts.DISK_FILE_SYSTEMS:
                    yield Place(disk, partition)


def read_machine() -> Machine:
    """Set every disk and partition read-only, then find the disks and DVD drives."""
    mounts.run(_LOOK_AT_DVD_DRIVES, good=1)
    mounts.run(["udevadm", "settle", f"--timeout={SETTLE_TIMEOUT}"], good=1)
    devices = read_block_devices()
    for device in devices:
        if device.is_guest_storage:
            mounts.set_read_only(Path("/dev") / device.kernel_name, read_only=True)
    return Machine(read_disks(devices), read_dvd_drives(devices), read_live_volumes(devices))


@contextlib.contextmanager
def looked_at(place: Place, view: Views) -> Iterator[Tree]:
    """Mount a partition's view."""
    copy = view(place.device)
    with mounts.mounted(copy, place.fs_type, place.name) as mount, Tree(mount) as tree:
        yield tree
