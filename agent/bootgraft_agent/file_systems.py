"""The machine's file systems, wherever they lie: partitions, whole disks, logical volumes.

A partition's node is there always; a logical volume is started for as long as it is looked at or
written, and not before a guest is looked for.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bootgraft_agent import lvm, mounts
from bootgraft_agent.disks import Disk, decode_udev_text
from bootgraft_agent.errors import RefusedError
from bootgraft_agent.files import Tree
from bootgraft_agent.lvm import LogicalVolume
from bootgraft_agent.machine import Machine, Place, Views

_DISK_NODE = re.compile(
    r"/dev/(?:(?P<kind>xvd|hd|sd|vd|ubd)(?P<letters>[a-z]{1,2})(?P<part>\d*)"
    r"|(?:nvme(?P<nvme>\d+)n1|mmcblk(?P<mmc>\d+))(?:p(?P<part_of>\d+))?)\Z"
)
_UDEV_LINK = re.compile(r"/dev/disk/by-(?P<tag>uuid|label|partuuid|partlabel)/(?P<value>.+)\Z")


@dataclass(frozen=True, slots=True)
class FileSystem:
    """A file system, or whatever else fills a partition or a logical volume; of btrfs a subvolume.

    `name` is for people: "hda1", "vg0/root", "vda2[@rootfs]". `fs_type` is as udev has it. One of
    `place` and `logical` is not None. `below` are the nodes that must take writes for a write to
    it, its own excepted: disks, and physical volumes.
    """

    name: str
    fs_type: str
    label: str | None
    uuid: str | None
    below: tuple[Path, ...]
    place: Place | None = None
    logical: LogicalVolume | None = None
    subvolume: int | None = None

    @property
    def names(self) -> frozenset[str]:
        """All names by which a person may call it."""
        names = {self.name, self.name.partition("[")[0]}
        if self.place is not None:
            names.add(self.place.partition.kernel_name)
        if self.logical is not None:
            names |= {name.removeprefix("/dev/") for name in self.logical.node_names}
        return frozenset(names)

    def is_same_device(self, other: "FileSystem") -> bool:
        """Whether it is the other one, or another subvolume of it."""
        return (self.place, self.logical) == (other.place, other.logical)


def of_place(place: Place) -> FileSystem:
    """Give the file system of a partition or whole disk."""
    partition = place.partition
    return FileSystem(
        name=place.name,
        fs_type=place.fs_type,
        label=partition.label,
        uuid=partition.uuid,
        below=(Path(place.disk.device_path),),
        place=place,
    )


@dataclass(frozen=True, slots=True)
class Nodes:
    """Where the kernel has the devices of file systems: of logical volumes those now started.

    With `views` each device has one view, which all who look at it share.
    """

    logical: Mapping[LogicalVolume, Path]
    views: Views | None = None

    def device(self, file_system: FileSystem) -> Path:
        """Give the node of a file system. Raises RefusedError where it is not started."""
        if file_system.place is not None:
            return file_system.place.device
        node = self.logical.get(file_system.logical) if file_system.logical else None
        if node is None:
            raise RefusedError(
                f"LVM cannot start {file_system.name}: are all its physical volumes there, and is"
                " it of a plain kind (linear, striped, mirrored by device-mapper)?"
            )
        return node

    def require_views(self) -> Views:
        """Give what makes the views that are shared; raises RefusedError where none are."""
        if self.views is None:
            raise RefusedError("the machine is not looked at now")
        return self.views

    @contextlib.contextmanager
    def read(self, file_system: FileSystem) -> Iterator[Tree]:
        """Look at a file system through a view."""
        device, fs_type, name = (self.device(file_system), file_system.fs_type, file_system.name)
        subvolume = file_system.subvolume
        if self.views is None:
            mounted = mounts.mounted_view(device, fs_type, name, subvolume=subvolume)
        else:
            mounted = mounts.mounted(self.views(device), fs_type, name, subvolume=subvolume)
        with mounted as mount, Tree(mount) as tree:
            yield tree


@dataclass(frozen=True, slots=True)
class Storage:
    """All file systems of a machine while they are looked at; `problems` are LVM's."""

    machine: Machine
    file_systems: tuple[FileSystem, ...]
    problems: tuple[str, ...]
    nodes: Nodes

    def find(self, spec: str) -> tuple[FileSystem, ...]:
        """Give the file systems that the first field of a guest's fstab may mean."""
        tag, value = split_tag(spec)
        return tuple(each for each in self.file_systems if self._fits(each, tag, value))

    def _fits(self, file_system: FileSystem, tag: str, value: str) -> bool:
        partition = file_system.place.partition if file_system.place else None
        match tag:
            case "UUID":
                return (file_system.uuid or "").lower() == value.lower()
            case "LABEL":
                return file_system.label == value
            case "PARTUUID":
                return partition is not None and (partition.entry_uuid or "") == value.lower()
            case "PARTLABEL":
                return partition is not None and partition.entry_name == value
        if file_system.logical is not None:
            return value in file_system.logical.node_names
        return partition is not None and _is_node_of(value, file_system, self.machine.disks)


def split_tag(spec: str) -> tuple[str, str]:
    """Give tag and value of UUID=…, also where it is quoted, or one of udev's links.

    A device has the tag "".
    """
    if link := _UDEV_LINK.match(spec):
        return link["tag"].upper(), decode_udev_text(link["value"])
    tag, equals, value = spec.partition("=")
    return (tag.upper(), value.strip("\"'")) if equals and value else ("", spec)


def _is_node_of(node: str, file_system: FileSystem, disks: Sequence[Disk]) -> bool:
    """Whether a guest's node is a partition of the disk that has its place in the order of disks.

    The name of an IDE disk is its place on the cables, where the machine has such a disk.
    """
    match, place = _DISK_NODE.match(node), file_system.place
    if match is None or place is None:
        return False
    if place.partition.number != int(match["part"] or match["part_of"] or 0):
        return False
    by_name = [disk for disk in disks if disk.hd_name == f"hd{match['letters']}"]
    if match["kind"] == "hd" and by_name:
        return place.disk in by_name
    number = _letters_number(match["letters"]) if match["letters"] else None
    index = number if number is not None else int(match["nvme"] or match["mmc"])
    return place.disk in disks[index : index + 1]


def _letters_number(letters: str) -> int:
    number = 0
    for letter in letters:
        number = 26 * number + ord(letter) - ord("a") + 1
    return number - 1


@contextlib.contextmanager
def looking(machine: Machine) -> Iterator[Storage]:
    """Find all file systems of a machine, its logical volumes started read-only, to look at them.

    Raises RefusedError where somebody has started a logical volume.
    """
    places = [
        Place(disk, partition)
        for disk in machine.disks
        for partition in disk.partitions
        if partition.fs_type is not None
    ]
    physical = {
        place.partition.kernel_name: place
        for place in places
        if place.fs_type == lvm.PHYSICAL_VOLUME
    }
    found = lvm.read_logical_volumes(sorted(physical))
    with lvm.started(found.volumes) as nodes, mounts.views() as views:
        logical = tuple(_of_logical(each, nodes.get(each), physical) for each in found.volumes)
        yield Storage(
            machine, (*map(of_place, places), *logical), found.problems, Nodes(nodes, views)
        )


def _of_logical(
    volume: LogicalVolume, node: Path | None, physical: Mapping[str, Place]
) -> FileSystem:
    places = [physical[name] for name in volume.physical if name in physical]
    disks = dict.fromkeys(Path(place.disk.device_path) for place in places)
    members = dict.fromkeys(place.device for place in places)
    known = _probe(node) if node is not None else {}
    return FileSystem(
        name=str(volume),
        fs_type=known.get("ID_FS_TYPE", ""),
        label=_text(known, "ID_FS_LABEL_ENC"),
        uuid=_text(known, "ID_FS_UUID_ENC"),
        below=tuple(dict.fromkeys((*disks, *members))),
        logical=volume,
    )


def _probe(node: Path) -> dict[str, str]:
    """Ask udev what a device holds, without waiting for its rules."""
    try:
        said = mounts.run(["udevadm", "test-builtin", "blkid", f"/sys/class/block/{node.name}"])
    except mounts.CommandError:
        return {}
    return dict(line.split("=", 1) for line in said.splitlines() if line.startswith("ID_"))


def _text(known: Mapping[str, str], name: str) -> str | None:
    value = known.get(name)
    return decode_udev_text(value) if value else None
