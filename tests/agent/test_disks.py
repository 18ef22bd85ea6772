"""Disks and DVD drives, found in trees of sysfs as several hypervisors make them."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from bootgraft_agent.disks import (
    BlockDevice,
    Disk,
    DvdDrive,
    Partition,
    read_block_devices,
    read_disks,
    read_dvd_drives,
)

SYSFS = Path(__file__).parent.parent / "data" / "sysfs"

# The partition tables of the disks that were in the machine when qemu-pc.txt was dumped.
QEMU_PC_TABLES = {
    "sdb": """
        label: dos
        start=2048, size=32768, type=83, bootable
        start=36864, size=32768, type=82
        start=71680, size=57344, type=5
        start=73728, size=16384, type=83
        start=94208, size=16384, type=83
        """,
    "sdc": """
        label: gpt
        start=2048, size=16384, type=L, attrs=LegacyBIOSBootable
        start=18432, size=16384, type=U
        """,
    "sde": "label: dos\nstart=2048, size=30720, type=c\n",
    "nvme0n1": "label: dos\nstart=2048, size=30720, type=83\n",
}
ONE_PARTITION = "label: dos\nstart=2048, size=2048, type=83\n"


class Machine:
    """A tree of sysfs, laid out from a text (tests/data/sysfs/qemu-pc.txt explains the form).

    `dev` has an empty image for every disk.
    """

    def __init__(self, directory: Path, text: str) -> None:
        self.sys = directory / "sys"
        self.dev = directory / "dev"
        self.dev.mkdir()
        self.devices: list[BlockDevice] = []
        for line in text.splitlines():
            if line.startswith("/"):
                current = self.sys / line[1:]
                current.mkdir(parents=True, exist_ok=True)
                properties: dict[str, str] = {}
            elif line.startswith("    udev "):
                if not properties:
                    self.devices.append(BlockDevice(current, properties))
                name, _, value = line.removeprefix("    udev ").partition("=")
                properties[name] = value
            elif line and not line.startswith("#"):
                self._add_entry(current, line.strip())
        for device in self.devices:
            if device.properties["DEVTYPE"] == "disk":
                image = self.dev / device.kernel_name
                image.touch()
                os.truncate(image, device.size)

    def _add_entry(self, directory: Path, line: str) -> None:
        name, separator, value = line.split(" ", maxsplit=2)
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        if separator == "->":
            path.symlink_to(self.sys / value)
        else:
            path.write_text(f"{value}\n")

    def partition(self, kernel_name: str, table: str) -> None:
        """Write a partition table to a disk's image."""
        command = ("sfdisk", "-q", str(self.dev / kernel_name))
        subprocess.run(command, input=table.encode(), check=True, capture_output=True)

    def read_disks(self) -> dict[str, Disk]:
        """Read the disks, by the kernel's names."""
        return {disk.kernel_name: disk for disk in read_disks(self.devices, self.dev)}

    def read_dvd_drives(self) -> tuple[DvdDrive, ...]:
        return read_dvd_drives(self.devices)


def load_machine(directory: Path, name: str) -> Machine:
    return Machine(directory, (SYSFS / f"{name}.txt").read_text())


@pytest.fixture
def qemu_pc(tmp_path: Path) -> Machine:
    machine = load_machine(tmp_path, "qemu-pc")
    for kernel_name, table in QEMU_PC_TABLES.items():
        machine.partition(kernel_name, table)
    return machine


def disk_text(sys_path: str, properties: Mapping[str, str] | None = None, size: int = 4096) -> str:
    lines = [sys_path, f"size = {size}", "queue/logical_block_size = 512", "udev DEVTYPE=disk"]
    lines += [f"udev {name}={value}" for name, value in (properties or {}).items()]
    return "\n    ".join(lines) + "\n"


def node_text(sys_path: str, start: int = 2048) -> str:
    lines = [sys_path, f"start = {start}", "size = 2048", "partition = 1", "udev DEVTYPE=partition"]
    return "\n    ".join([*lines, "udev ID_FS_TYPE=ext3"]) + "\n"


# Each disk: the kernel's name, its name, bus, channel and unit; each DVD drive likewise.
PLACES = {
    "qemu-pc": (
        [
            ("sdb", "hda", "ide", 0, 0),
            ("sdc", "hdb", "ide", 0, 1),
            ("sda", "sda", "scsi", None, None),
            ("sdd", "sdd", "ata", None, None),
            ("sde", "sde", "usb", None, None),
            ("vda", "vda", "virtio", None, None),
            ("nvme0n1", "nvme0n1", "nvme", None, None),
        ],
        [("sr0", "hdc", 1, 0), ("sr1", "hdd", 1, 1), ("sr2", "sr2", None, None)],
    ),
    "hyperv-gen1": (
        [
            ("sdc", "hda", "ide", 0, 0),
            ("sdb", "hdb", "ide", 0, 1),
            ("sdd", "hdd", "ide", 1, 1),
            ("sda", "sda", "scsi", None, None),
        ],
        [("sr0", "hdc", 1, 0)],
    ),
    "hyperv-gen2": (
        [("sda", "sda", "scsi", None, None)],
        [("sr0", "sr0", None, None), ("sr1", "sr1", None, None)],
    ),
    "vmware": (
        [("sda", "sda", "scsi", None, None), ("sdb", "sdb", "scsi", None, None)],
        [("sr0", "hdb", 0, 1), ("sr1", "hdc", 1, 0)],
    ),
    "xen-hvm": (
        [("xvda", "xvda", "xen", None, None), ("xvdb", "xvdb", "xen", None, None)],
        [("sr0", "hdd", 1, 1)],
    ),
}


@pytest.mark.parametrize("name", PLACES)
def test_each_drive_has_the_name_of_its_place(tmp_path: Path, name: str) -> None:
    machine = load_machine(tmp_path, name)
    disks, drives = PLACES[name]
    assert [
        (disk.kernel_name, disk.name, disk.bus, disk.channel, disk.unit)
        for disk in machine.read_disks().values()
    ] == disks
    assert [
        (drive.kernel_name, drive.name, drive.channel, drive.unit)
        for drive in machine.read_dvd_drives()
    ] == drives


def test_an_ide_disk_is_read_with_its_partitions_and_their_file_systems(qemu_pc: Machine) -> None:
    disk = qemu_pc.read_disks()["sdb"]
    uuid = "11111111-2222-3333-4444-55555555550"
    assert disk == Disk(
        name="hda",
        kernel_name="sdb",
        bus="ide",
        channel=0,
        unit=0,
        size=64 << 20,
        sector_size=512,
        model="QEMU HARDDISK",
        table="msdos",
        partitions=(
            Partition(
                "hda1", "sdb1", 1, 1 << 20, 16 << 20, True, "0x83", "ext3", "/boot", f"{uuid}1"
            ),
            Partition("hda2", "sdb2", 2, 18 << 20, 16 << 20, False, "0x82", None, None, None),
            Partition("hda3", "sdb3", 3, 35 << 20, 28 << 20, False, "0x5", None, None, None),
            Partition(
                "hda5", "sdb5", 5, 36 << 20, 8 << 20, False, "0x83", "ext3", "root fs é", f"{uuid}5"
            ),
            Partition("hda6", "sdb6", 6, 46 << 20, 8 << 20, False, "0x83", None, None, None),
        ),
        problem=None,
    )
    assert (disk.hd_name, disk.device_path) == ("hda", "/dev/sdb")


def test_gpt_partitions_have_the_kernels_numbers_and_guids(qemu_pc: Machine) -> None:
    disk = qemu_pc.read_disks()["sdc"]
    assert disk.table == "gpt"
    assert [(part.name, part.number, part.active, part.kind) for part in disk.partitions] == [
        ("hdb1", 1, True, "0fc63daf-8483-4772-8e79-3d69d8477de4"),
        ("hdb2", 2, False, "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"),
    ]


def test_a_disk_elsewhere_has_no_hd_name(qemu_pc: Machine) -> None:
    disks = qemu_pc.read_disks()
    assert [disks[name].hd_name for name in ("sda", "sdd", "sde", "vda", "nvme0n1")] == [None] * 5
    assert [part.name for part in disks["sde"].partitions] == ["sde1"]
    assert [part.name for part in disks["nvme0n1"].partitions] == ["nvme0n1p1"]


def test_a_file_system_on_the_whole_disk_is_number_0(qemu_pc: Machine) -> None:
    disk = qemu_pc.read_disks()["vda"]
    uuid = "11111111-2222-3333-4444-555555555509"
    assert (disk.table, disk.problem) == (None, None)
    assert disk.partitions == (
        Partition("vda", "vda", 0, 0, 16 << 20, False, None, "ext3", "data", uuid),
    )


def test_an_empty_table_in_a_boot_sector_does_not_hide_the_file_system(tmp_path: Path) -> None:
    properties = {"ID_FS_TYPE": "ext3", "ID_PART_TABLE_TYPE": "dos"}
    machine = Machine(tmp_path, disk_text("/devices/vbd-1/block/xvda", properties))
    machine.partition("xvda", "label: dos\n")
    disk = machine.read_disks()["xvda"]
    assert disk.table is None
    assert [(part.number, part.fs_type) for part in disk.partitions] == [(0, "ext3")]


def test_partitions_speak_against_a_file_system_on_the_whole_disk(tmp_path: Path) -> None:
    properties = {"ID_FS_TYPE": "ext3"}
    machine = Machine(tmp_path, disk_text("/devices/vbd-1/block/xvda", properties))
    machine.partition("xvda", ONE_PARTITION)
    disk = machine.read_disks()["xvda"]
    assert [(part.number, part.fs_type) for part in disk.partitions] == [(1, None)]


def test_a_damaged_table_is_a_problem_of_a_disk_without_partitions(qemu_pc: Machine) -> None:
    os.truncate(qemu_pc.dev / "sdb", 20 << 20)
    disk = qemu_pc.read_disks()["sdb"]
    assert (disk.name, disk.table, disk.partitions) == ("hda", None, ())
    assert disk.problem is not None
    assert "outside the disk" in disk.problem


def test_a_partition_without_a_node_is_read_without_its_file_system(tmp_path: Path) -> None:
    machine = Machine(tmp_path, disk_text("/devices/vbd-1/block/xvda"))
    machine.partition("xvda", ONE_PARTITION)
    assert machine.read_disks()["xvda"].partitions == (
        Partition("xvda1", "xvda1", 1, 1 << 20, 1 << 20, False, None, None, None, None),
    )


def test_a_node_that_is_not_where_the_table_says_is_a_problem(tmp_path: Path) -> None:
    path = "/devices/vbd-1/block/xvda"
    machine = Machine(tmp_path, disk_text(path) + node_text(f"{path}/xvda1", start=63))
    machine.partition("xvda", ONE_PARTITION)
    disk = machine.read_disks()["xvda"]
    assert disk.partitions == ()
    assert disk.problem == (
        "the partition table has partition 1 at byte 1048576,"
        " but the kernel has xvda1 in another place"
    )


def test_the_live_medium_is_marked_among_the_drives(qemu_pc: Machine) -> None:
    assert [
        (drive.name, drive.has_medium, drive.label, drive.is_live_medium)
        for drive in qemu_pc.read_dvd_drives()
    ] == [
        ("hdc", True, "BOOTGRAFT", True),
        ("hdd", True, "LINUXIC", False),
        ("sr2", False, None, False),
    ]


@pytest.mark.parametrize(("fs_type", "found"), [("iso9660", []), ("ext3", ["xvda"])])
def test_a_disk_is_the_live_medium_only_by_the_label_of_an_iso_image(
    tmp_path: Path, fs_type: str, found: list[str]
) -> None:
    properties = {"ID_FS_TYPE": fs_type, "ID_FS_LABEL_ENC": "BOOTGRAFT"}
    machine = Machine(tmp_path, disk_text("/devices/vbd-1/block/xvda", properties))
    assert list(machine.read_disks()) == found


def test_devices_that_are_no_disks_are_left_out(tmp_path: Path) -> None:
    names = ("loop0", "ram0", "zram0", "dm-0", "md0", "nbd0")
    text = "".join(disk_text(f"/devices/virtual/block/{name}") for name in names)
    text += disk_text("/devices/platform/floppy.0/block/fd0")
    text += disk_text("/devices/pci0000:00/0000:00:06.0/usb1/host0/block/sda", size=0)
    text += disk_text("/devices/pci0000:00/nvme/nvme0/nvme0c0n1") + "    hidden = 1\n"
    text += disk_text("/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1")
    assert list(Machine(tmp_path, text).read_disks()) == ["nvme0n1"]


IDE_PATH = "/devices/pci0000:00/0000:00:1f.2"


@pytest.mark.parametrize(
    ("pci_class", "port_no", "name"),
    [
        ("0x010180", 1, "hdb"),  # PIIX3
        ("0x01018a", 2, "hdd"),  # PIIX4: could leave the legacy ports, and has not
        ("0x01018f", 1, "sda"),  # both channels in native mode
        ("0x010185", 2, "sda"),
        ("0x010181", 1, "sda"),  # the primary channel alone in native mode
        ("0x010181", 2, "hdd"),
        ("0x01018a", 3, "sda"),  # a third channel
        ("0x010601", 1, "sda"),  # AHCI
    ],
)
def test_only_a_channel_at_the_legacy_ports_gives_an_hd_name(
    tmp_path: Path, pci_class: str, port_no: int, name: str
) -> None:
    text = f"{IDE_PATH}\n    class = {pci_class}\n"
    text += f"{IDE_PATH}/ata7/ata_port/ata7\n    port_no = {port_no}\n"
    text += disk_text(f"{IDE_PATH}/ata7/host6/target6:0:1/6:0:1:0/block/sda")
    assert [disk.name for disk in Machine(tmp_path, text).read_disks().values()] == [name]


def test_disks_without_a_place_come_in_the_kernels_order(tmp_path: Path) -> None:
    names = ("sdaa", "sdb", "sda", "sdz")
    text = "".join(disk_text(f"/devices/host0/block/{name}") for name in names)
    assert list(Machine(tmp_path, text).read_disks()) == ["sda", "sdb", "sdz", "sdaa"]


@pytest.mark.parametrize(
    ("encoded", "text"),
    [
        (r"\x2fboot", "/boot"),
        (r"two\x20words", "two words"),
        (r"a\x5cx20b", r"a\x20b"),
        ("Größe", "Größe"),
        (r"Gr\xf6\xdfe", r"Gr\xf6\xdfe"),  # Latin-1
        ("", None),
    ],
)
def test_udevs_escaped_text_is_decoded(encoded: str, text: str | None) -> None:
    device = BlockDevice(Path("/sys/block/sda"), {"ID_FS_LABEL_ENC": encoded})
    assert device.text("ID_FS_LABEL_ENC") == text


def test_udev_lists_the_block_devices_of_this_machine() -> None:
    class_directory = Path("/sys/class/block")
    if not class_directory.is_dir():
        pytest.skip("this machine shows no block devices")
    devices = {device.kernel_name: device for device in read_block_devices()}
    assert set(devices) == {path.name for path in class_directory.iterdir()}
    for device in devices.values():
        assert device.size == int((device.sys_path / "size").read_text()) * 512
