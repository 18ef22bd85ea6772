"""The machine's disks, partitions and DVD drives, with their places on the IDE channels.

A kernel of today shows the disk that the guest knew as hda as sdX, with X in the order of
discovery. The hd name therefore comes from the channel and the unit alone:

    a drive on the machine's IDE controller, whose second port is channel 1, at unit 0: hdc
        /sys/devices/pci0000:00/0000:00:01.1/ata2/host1/target1:0:0/1:0:0:0/block/sr0
                 PCI class 0x0101 --^         ^-- port_no 2   ^-- unit 0
    a disk on the same place of Hyper-V's Generation 1, which shows its IDE disks on its VMBus: hdc
        /sys/devices/.../VMBUS:00/00000001-0000-8899-0000-000000000000/host0/target0:0:0/...
                                  channel -^    ^-- unit, both in the file device_id

udev lists the block devices and knows the file systems on them, sysfs knows their places, and
libparted (`bootgraft_agent.partition_table`) reads the partition tables. Nothing is written.

Sources: linux drivers/ata (libata-transport.c, ata_piix.c), drivers/scsi/storvsc_drv.c;
openvmm vm/devices/storage/storvsp build_ide (the device_id); PCI IDE Controller Specification 1.0.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bootgraft_agent.partition_table import PartitionTable, TableEntry, read_partition_table

LIVE_MEDIUM_LABEL = "BOOTGRAFT"

_DEV = Path("/dev")
_SYSFS_SECTOR = 512  # bytes; sysfs counts size and start in it whatever the disk's sector size
_DVD_NAME = re.compile(r"sr\d+")
_FLOPPY_NAME = re.compile(r"fd\d+")
_VIRTUAL = "/devices/virtual/block/"  # loop, ram, zram, dm, md, nbd
_ATA_PATH = re.compile(r"(?P<controller>.+)/(?P<port>ata\d+)/host\d+/target\d+:\d+:(?P<unit>\d+)/")
_HYPERV_IDE_ID = re.compile(r"\{0000000([01])-000([01])-8899-0000-000000000000\}")
_PCI_CLASS_IDE = 0x0101
# In the programming interface of an IDE controller: the channel has left the legacy ports.
_PCI_NATIVE_MODE = {0: 0b0001, 1: 0b0100}
_BUSES = ("usb", "scsi", "virtio", "nvme", "xen", "mmc")  # a stick is SCSI over USB


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition, or the file system that fills a whole disk (number 0).

    `name` has the disk's hd name where there is one ("hda1"). `offset` and `size` are bytes from
    the disk's start. `kind` is the MBR's type ("0x83") or GPT's GUID. What udev could not tell
    is None.
    """

    name: str
    kernel_name: str
    number: int
    offset: int
    size: int
    active: bool
    kind: str | None
    fs_type: str | None
    label: str | None
    uuid: str | None
    entry_uuid: str | None = None  # the partition's own, of its table: PARTUUID
    entry_name: str | None = None  # GPT's name of it: PARTLABEL


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk; `name` is the hd name, or the kernel's where there is none.

    `channel` and `unit` are those of the legacy IDE controller, None on every other bus. `size`
    and `sector_size` are bytes. A table that cannot be read is a `problem`, with no partitions.
    """

    name: str
    kernel_name: str
    bus: str
    channel: int | None
    unit: int | None
    size: int
    sector_size: int
    model: str | None
    table: Literal["msdos", "gpt"] | None
    partitions: tuple[Partition, ...]
    problem: str | None

    @property
    def hd_name(self) -> str | None:
        """The name by channel and unit, if the disk is on the legacy IDE controller."""
        return None if self.channel is None else self.name

    @property
    def device_path(self) -> str:
        """The kernel's node."""
        return f"/dev/{self.kernel_name}"


@dataclass(frozen=True, slots=True)
class DvdDrive:
    """A DVD drive, with the label of the volume in it."""

    name: str
    kernel_name: str
    channel: int | None
    unit: int | None
    has_medium: bool
    label: str | None
    is_live_medium: bool

    @property
    def device_path(self) -> str:
        """The kernel's node."""
        return f"/dev/{self.kernel_name}"


@dataclass(frozen=True, slots=True)
class LiveVolume:
    """A file system on the disk that the live ISO was written to: the ISO, or one beside it."""

    name: str
    kernel_name: str
    fs_type: str


@dataclass(frozen=True, slots=True)
class BlockDevice:
    """A disk, a partition or a DVD drive: its directory in sysfs, and what udev knows of it."""

    sys_path: Path
    properties: Mapping[str, str]

    @property
    def kernel_name(self) -> str:
        """The kernel's name, as in /dev."""
        return self.sys_path.name

    @property
    def is_dvd_drive(self) -> bool:
        """Whether it is a CD or DVD drive."""
        return _DVD_NAME.fullmatch(self.kernel_name) is not None

    @property
    def is_guest_storage(self) -> bool:
        """Whether it is a disk or a partition of one, and nothing that the live system made."""
        return not (
            self.is_dvd_drive
            or _FLOPPY_NAME.fullmatch(self.kernel_name)
            or _VIRTUAL in str(self.sys_path)
        )

    @property
    def size(self) -> int:
        """Size in bytes."""
        return self.number("size") * _SYSFS_SECTOR

    def attribute(self, name: str) -> str | None:
        """Read one of its files in sysfs; None if there is none, or it is empty."""
        return _read_attribute(self.sys_path / name)

    def number(self, name: str) -> int:
        """Read an attribute that is a number; 0 if there is none."""
        return int(self.attribute(name) or 0)

    def text(self, name: str) -> str | None:
        r"""Give a property of udev's; those named _ENC have unsafe bytes written as \xHH."""
        value = self.properties.get(name)
        return decode_udev_text(value) if value else None


@dataclass(frozen=True, slots=True)
class IdePosition:
    """A place on the legacy IDE controller: channel 0 or 1, unit 0 or 1."""

    channel: int
    unit: int

    @property
    def hd_name(self) -> str:
        """The name that BIOS-time Linux gave to the drive there."""
        return f"hd{'abcd'[2 * self.channel + self.unit]}"


def read_disks(devices: Sequence[BlockDevice] | None = None, dev: Path = _DEV) -> tuple[Disk, ...]:
    """Read all disks but the live medium, those with an hd name first.

    `devices` are the machine's own if not given; the disks' nodes or images are in `dev`.
    """
    devices = read_block_devices() if devices is None else devices
    positions = read_ide_positions(devices)
    disks = []
    for device in filter(_is_disk, devices):
        nodes = _partition_nodes(device, devices)
        if not _holds_live_volume(device, *nodes.values()):
            disks.append(_read_disk(device, nodes, positions.get(device.sys_path), dev))
    return tuple(sorted(disks, key=_order))


def read_dvd_drives(devices: Sequence[BlockDevice] | None = None) -> tuple[DvdDrive, ...]:
    """Read all DVD drives, those with an hd name first."""
    devices = read_block_devices() if devices is None else devices
    positions = read_ide_positions(devices)
    drives = [
        _describe_dvd_drive(device, positions.get(device.sys_path))
        for device in devices
        if device.is_dvd_drive
    ]
    return tuple(sorted(drives, key=_order))


def read_live_volumes(devices: Sequence[BlockDevice]) -> tuple[LiveVolume, ...]:
    """Read the file systems of the disks that the live ISO was written to, not those of DVDs.

    The ISO's own partition, which begins where the disk does, is the disk once more.
    """
    volumes: list[LiveVolume] = []
    for disk in filter(_is_disk, devices):
        nodes = _partition_nodes(disk, devices)
        if not _holds_live_volume(disk, *nodes.values()):
            continue
        whole = [disk] if disk.text("ID_FS_TYPE") is not None else []
        parts = [each for _, each in sorted(nodes.items()) if each.number("start") or not whole]
        volumes += [
            LiveVolume(each.kernel_name, each.kernel_name, fs_type)
            for each in (*whole, *parts)
            if (fs_type := each.text("ID_FS_TYPE")) is not None
        ]
    return tuple(volumes)


def read_block_devices() -> tuple[BlockDevice, ...]:
    """Ask udev for all block devices of this machine."""
    import pyudev  # noqa: PLC0415 - a graft of a mounted tree does without pyudev

    return tuple(
        BlockDevice(Path(device.sys_path), dict(device.properties))
        for device in pyudev.Context().list_devices(subsystem="block")
    )


def read_ide_positions(devices: Iterable[BlockDevice]) -> dict[Path, IdePosition]:
    """Find the drives of the legacy IDE controller: their sysfs directories and places.

    A machine may have several IDE controllers, but one primary and one secondary channel: those
    at the legacy ports. Native mode moves a channel elsewhere; and where two controllers claim
    the ports, the kernel gives them to the first and refuses the other (tried: QEMU, 6.12).
    """
    positions = {}
    for device in devices:
        position = _read_hyperv_position(device.sys_path) or _read_ata_position(device.sys_path)
        if position is not None:
            positions[device.sys_path] = position
    return positions


def _read_hyperv_position(sys_path: Path) -> IdePosition | None:
    """Find the place of a disk of Hyper-V's Generation 1, whose IDE disks come by VMBus."""
    for directory in sys_path.parents:
        if match := _HYPERV_IDE_ID.fullmatch(_read_attribute(directory / "device_id") or ""):
            return IdePosition(int(match[1]), int(match[2]))
    return None


def _read_ata_position(sys_path: Path) -> IdePosition | None:
    """Find the place of a drive at the legacy ports of a PCI controller."""
    match = _ATA_PATH.match(str(sys_path))
    if match is None:
        return None
    controller = Path(match["controller"])
    port_no = _read_attribute(controller / match["port"] / "ata_port" / match["port"] / "port_no")
    position = IdePosition(channel=int(port_no or 0) - 1, unit=int(match["unit"]))
    return position if _has_legacy_channel(controller, position.channel) else None


def _has_legacy_channel(controller: Path, channel: int) -> bool:
    pci_class = int(_read_attribute(controller / "class") or "0", 16)
    return (
        pci_class >> 8 == _PCI_CLASS_IDE
        and channel in _PCI_NATIVE_MODE
        and not pci_class & _PCI_NATIVE_MODE[channel]
    )


def _is_disk(device: BlockDevice) -> bool:
    return (
        device.properties.get("DEVTYPE") == "disk"
        and device.is_guest_storage
        and device.attribute("hidden") in (None, "0")  # one path of several to an NVMe disk
        and device.size > 0
    )


def _partition_nodes(disk: BlockDevice, devices: Iterable[BlockDevice]) -> dict[int, BlockDevice]:
    """Find the kernel's nodes of the disk's partitions, by number."""
    return {
        device.number("partition"): device
        for device in devices
        if device.sys_path.parent == disk.sys_path
    }


def _holds_live_volume(*devices: BlockDevice) -> bool:
    """Whether one of them is the live medium: as a DVD, or as an ISO image written to a disk."""
    return any(
        device.text("ID_FS_TYPE") == "iso9660"
        and device.text("ID_FS_LABEL_ENC") == LIVE_MEDIUM_LABEL
        for device in devices
    )


def _read_disk(
    device: BlockDevice,
    nodes: Mapping[int, BlockDevice],
    position: IdePosition | None,
    dev: Path,
) -> Disk:
    name = position.hd_name if position else device.kernel_name
    table = read_partition_table(dev / device.kernel_name)
    problem = table.problem or _find_disagreement(table, nodes)
    partitions: tuple[Partition, ...] = ()
    if _is_one_file_system(device, table):
        table, problem = PartitionTable(None), None
        whole = TableEntry(0, offset=0, size=device.size, active=False)
        partitions = (_describe_partition(name, whole, device.kernel_name, device),)
    elif problem is None:
        partitions = tuple(
            _describe_partition(
                f"{name}{entry.number}" if position else _kernel_partition_name(device, entry),
                entry,
                _kernel_partition_name(device, entry),
                nodes.get(entry.number),
            )
            for entry in table.entries
        )
    return Disk(
        name=name,
        kernel_name=device.kernel_name,
        bus=_read_bus(device, position),
        channel=position.channel if position else None,
        unit=position.unit if position else None,
        size=device.size,
        sector_size=device.number("queue/logical_block_size"),
        model=device.attribute("device/model"),
        table=table.kind,
        partitions=partitions,
        problem=problem,
    )


def _find_disagreement(table: PartitionTable, nodes: Mapping[int, BlockDevice]) -> str | None:
    """Say where the kernel's nodes are not the table's partitions: these are what gets mounted."""
    for entry in table.entries:
        node = nodes.get(entry.number)
        if node is not None and node.number("start") * _SYSFS_SECTOR != entry.offset:
            return (
                f"the partition table has partition {entry.number} at byte {entry.offset},"
                f" but the kernel has {node.kernel_name} in another place"
            )
    return None


def _is_one_file_system(device: BlockDevice, table: PartitionTable) -> bool:
    """Whether udev sees a file system on the whole disk, and no partition speaks against it.

    A boot sector before such a file system passes for an empty or damaged table.
    """
    if device.text("ID_FS_TYPE") is None or table.entries:
        return False
    return table.problem is None or device.text("ID_PART_TABLE_TYPE") is None


def _describe_partition(
    name: str, entry: TableEntry, kernel_name: str, node: BlockDevice | None
) -> Partition:
    return Partition(
        name=name,
        kernel_name=kernel_name,
        number=entry.number,
        offset=entry.offset,
        size=entry.size,
        active=entry.active,
        kind=node.text("ID_PART_ENTRY_TYPE") if node else None,
        fs_type=node.text("ID_FS_TYPE") if node else None,
        label=node.text("ID_FS_LABEL_ENC") if node else None,
        uuid=node.text("ID_FS_UUID_ENC") if node else None,
        entry_uuid=node.text("ID_PART_ENTRY_UUID") if node else None,
        entry_name=node.text("ID_PART_ENTRY_NAME") if node else None,
    )


def _kernel_partition_name(disk: BlockDevice, entry: TableEntry) -> str:
    separator = "p" if disk.kernel_name[-1].isdigit() else ""
    return f"{disk.kernel_name}{separator}{entry.number}"


def _read_bus(device: BlockDevice, position: IdePosition | None) -> str:
    """Name the bus: "ide" only where the disk has an hd name, "ata" for other ATA controllers."""
    if position:
        return "ide"
    if _ATA_PATH.match(str(device.sys_path)):
        return "ata"
    subsystems = {_read_subsystem(directory) for directory in device.sys_path.parents}
    return next((bus for bus in _BUSES if bus in subsystems), "other")


def _describe_dvd_drive(device: BlockDevice, position: IdePosition | None) -> DvdDrive:
    return DvdDrive(
        name=position.hd_name if position else device.kernel_name,
        kernel_name=device.kernel_name,
        channel=position.channel if position else None,
        unit=position.unit if position else None,
        has_medium=device.text("ID_CDROM_MEDIA") == "1",
        label=device.text("ID_FS_LABEL_ENC"),
        is_live_medium=_holds_live_volume(device),
    )


def _order(drive: Disk | DvdDrive) -> tuple[bool, int, int, int, str]:
    """Order by channel and unit, then as the kernel counts: sdb before sdaa."""
    return (
        drive.channel is None,
        drive.channel or 0,
        drive.unit or 0,
        len(drive.kernel_name),
        drive.kernel_name,
    )


def _read_attribute(path: Path) -> str | None:
    try:
        return path.read_text(errors="backslashreplace").strip() or None
    except OSError:
        return None


def _read_subsystem(directory: Path) -> str | None:
    try:
        return (directory / "subsystem").readlink().name
    except OSError:
        return None


def decode_udev_text(text: str) -> str:
    r"""Give a property of udev's whose name ends in _ENC, with unsafe bytes written as \xHH."""
    escaped = text.encode(errors="surrogateescape")
    plain = re.sub(rb"\\x([0-9a-f]{2})", lambda match: bytes.fromhex(match[1].decode()), escaped)
    return plain.decode(errors="backslashreplace")
