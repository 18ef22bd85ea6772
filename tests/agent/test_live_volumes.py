"""File systems beside a live ISO that was written to a disk, where a payload may lie."""

from pathlib import Path

import pytest

from bootgraft_agent.disks import BlockDevice, LiveVolume, read_disks, read_live_volumes

ISO = {"ID_FS_TYPE": "iso9660", "ID_FS_LABEL_ENC": "BOOTGRAFT"}


def device(path: Path, kind: str, properties: dict[str, str], **attributes: int) -> BlockDevice:
    path.mkdir(parents=True)
    for name, value in {"size": 4096, **attributes}.items():
        (path / name).write_text(f"{value}\n")
    return BlockDevice(path, {"DEVTYPE": kind, **properties})


@pytest.fixture
def stick(tmp_path: Path) -> list[BlockDevice]:
    """A disk with the ISO from its start, and two partitions more."""
    disk = tmp_path / "devices/pci0000:00/block/sda"
    return [
        device(disk, "disk", ISO),
        device(disk / "sda1", "partition", ISO, partition=1, start=0),
        device(disk / "sda2", "partition", {"ID_FS_TYPE": "vfat"}, partition=2, start=136),
        device(disk / "sda3", "partition", {"ID_FS_TYPE": "ext3"}, partition=3, start=2000),
        device(disk / "sda4", "partition", {}, partition=4, start=3000),
    ]


def test_the_iso_itself_counts_once_and_what_lies_beside_it_too(stick: list[BlockDevice]) -> None:
    assert read_live_volumes(stick) == (
        LiveVolume("sda", "sda", "iso9660"),
        LiveVolume("sda2", "sda2", "vfat"),
        LiveVolume("sda3", "sda3", "ext3"),
    )


def test_the_live_disk_is_no_guest_and_a_guest_s_disk_is_no_live_volume(
    stick: list[BlockDevice], tmp_path: Path
) -> None:
    guest = tmp_path / "devices/pci0000:00/block/sdb"
    devices = [device(guest, "disk", {"ID_FS_TYPE": "ext3", "ID_FS_LABEL_ENC": "BOOTGRAFT"})]
    assert read_live_volumes(devices) == ()
    assert read_disks(stick) == ()
