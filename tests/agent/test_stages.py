"""Boot code as the real programs install it: GRUB legacy's shell, GRUB 2, SYSLINUX, parted."""

import subprocess
from pathlib import Path

import parted
import pytest
from hypothesis import given
from hypothesis import strategies as st

import debian_packages
import grub_legacy
from bootgraft_agent.stages import (
    SECTOR_SIZE,
    Stage1,
    identify_boot_sector,
    parse_stage1,
    parse_stage2,
)

START_LBA = 2048
FILES = {  # id and what it loads, as packaged
    "stage2": (0, b"/boot/grub/menu.lst"),
    "e2fs_stage1_5": (2, b"/boot/grub/stage2"),
    "fat_stage1_5": (3, b"/boot/grub/stage2"),
    "minix_stage1_5": (4, b"/boot/grub/stage2"),
    "reiserfs_stage1_5": (5, b"/boot/grub/stage2"),
    "jfs_stage1_5": (7, b"/boot/grub/stage2"),
    "xfs_stage1_5": (8, b"/boot/grub/stage2"),
}


def install(folder: Path, commands: list[str], *, with_stage1_5: bool = True) -> bytes:
    """Let the real GRUB install itself on a disk whose second partition holds /grub."""
    image, tree = folder / "disk.img", folder / "tree"
    (tree / "grub").mkdir(parents=True)
    for name in ("stage1", "stage2", "e2fs_stage1_5")[: 3 if with_stage1_5 else 2]:
        (tree / "grub" / name).write_bytes((grub_legacy.stage_folder() / name).read_bytes())
    image.write_bytes(b"")
    run(["truncate", "-s", "32M", str(image)])
    run(["sfdisk", "-q", str(image)], b"label: dos\nstart=34816,size=2048\nstart=2048,size=32768\n")
    offset = f"offset={START_LBA * SECTOR_SIZE}"
    run(["mke2fs", "-q", "-I", "128", "-E", offset, "-d", str(tree), str(image), "16384k"])
    script = "\n".join([f"device (hd0) {image}", "root (hd0,1)", *commands, "quit", ""])
    shell = [str(grub_legacy.shell_path()), "--batch", "--device-map=/dev/null"]
    assert b"Error" not in run(shell, script.encode())
    return image.read_bytes()


def run(argv: list[str], content: bytes = b"") -> bytes:
    return subprocess.run(argv, input=content, check=True, capture_output=True).stdout


def sectors_from(disk: bytes, lba: int) -> bytes:
    return disk[lba * SECTOR_SIZE : (lba + 2) * SECTOR_SIZE]


def stage2_file(disk: bytes, folder: Path) -> bytes:
    image, copy = folder / "installed.img", folder / "stage2"
    image.write_bytes(disk[START_LBA * SECTOR_SIZE :])
    run(["debugfs", "-R", f"dump /grub/stage2 {copy}", str(image)])
    return copy.read_bytes()


def test_setup_in_the_mbr_embeds_a_stage1_5_that_names_stage2(tmp_path: Path) -> None:
    disk = install(tmp_path, ["setup (hd0)"])
    assert identify_boot_sector(disk[:SECTOR_SIZE]) == "grub-legacy"
    stage1 = parse_stage1(disk[:SECTOR_SIZE])
    assert stage1 == Stage1(stage2_lba=1, boot_drive=None, loads_stage1_5=True)

    stage1_5 = parse_stage2(sectors_from(disk, 1))
    assert stage1_5 is not None
    assert stage1_5.is_stage1_5
    assert (stage1_5.version, stage1_5.stage2_id) == ("0.97", 2)
    assert (stage1_5.drive, stage1_5.partition) == (None, 1)
    assert stage1_5.config_file == b"/grub/stage2"

    stage2 = parse_stage2(stage2_file(disk, tmp_path))
    assert stage2 is not None
    assert stage2.config_file == b"/grub/menu.lst"


def test_setup_without_a_stage1_5_loads_the_blocks_of_stage2(tmp_path: Path) -> None:
    disk = install(tmp_path, ["setup (hd0)"], with_stage1_5=False)
    stage1 = parse_stage1(disk[:SECTOR_SIZE])
    assert stage1 is not None
    assert stage1.stage2_lba > START_LBA
    assert not stage1.loads_stage1_5

    loaded = parse_stage2(sectors_from(disk, stage1.stage2_lba))
    assert loaded == parse_stage2(stage2_file(disk, tmp_path))
    assert loaded is not None
    assert not loaded.is_stage1_5
    assert (loaded.partition, loaded.config_file) == (1, b"/grub/menu.lst")


def test_setup_in_a_partition_leaves_the_mbr_empty(tmp_path: Path) -> None:
    disk = install(tmp_path, ["setup (hd0,1)"])
    assert identify_boot_sector(disk[:SECTOR_SIZE]) == "empty"
    boot_sector = disk[START_LBA * SECTOR_SIZE :][:SECTOR_SIZE]
    assert identify_boot_sector(boot_sector) == "grub-legacy"
    stage1 = parse_stage1(boot_sector)
    assert stage1 is not None
    loaded = parse_stage2(sectors_from(disk, stage1.stage2_lba))
    assert loaded is not None
    assert (loaded.partition, loaded.config_file) == (1, b"/grub/menu.lst")


@pytest.mark.parametrize("menu", ["/grub/grub.conf", "(hd0,1)/grub/grub.conf"])
def test_install_records_the_menu_and_the_drive_that_it_was_given(
    tmp_path: Path, menu: str
) -> None:
    disk = install(tmp_path, [f"install /grub/stage1 d (hd0) /grub/stage2 p {menu}"])
    stage1 = parse_stage1(disk[:SECTOR_SIZE])
    assert stage1 is not None
    assert stage1.boot_drive == 0x80
    stage2 = parse_stage2(stage2_file(disk, tmp_path))
    assert stage2 is not None
    assert stage2.config_file == menu.encode()


@pytest.mark.parametrize("name", FILES)
def test_packaged_stages_are_recognised(name: str) -> None:
    stage = parse_stage2((grub_legacy.stage_folder() / name).read_bytes())
    assert stage is not None
    assert (stage.stage2_id, stage.config_file) == FILES[name]
    assert (stage.version, stage.partition, stage.drive) == ("0.97", None, None)


def test_a_stage_cut_off_is_none() -> None:
    data = (grub_legacy.stage_folder() / "stage2").read_bytes()
    assert parse_stage2(data[: 2 * SECTOR_SIZE]) is not None
    assert parse_stage2(data[: 2 * SECTOR_SIZE - 1]) is None
    assert parse_stage2(bytes(4096)) is None


def test_other_boot_code_is_named(tmp_path: Path) -> None:
    grub2 = debian_packages.unpack("grub-pc-bin") / "usr/lib/grub/i386-pc/boot.img"
    syslinux = debian_packages.unpack("syslinux-common") / "usr/lib/syslinux/mbr/mbr.bin"
    isolinux = debian_packages.unpack("isolinux") / "usr/lib/ISOLINUX/isohdpfx.bin"
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1 << 21))
    parted.freshDisk(parted.getDevice(str(disk)), "msdos").commit()

    assert identify_boot_sector(bytes(SECTOR_SIZE)) == "empty"
    assert identify_boot_sector(grub2.read_bytes()) == "grub2"
    assert parse_stage1(grub2.read_bytes()) is None
    assert identify_boot_sector(signed(syslinux.read_bytes())) == "generic-mbr"
    assert identify_boot_sector(signed(isolinux.read_bytes())) == "syslinux"
    assert identify_boot_sector(disk.read_bytes()[:SECTOR_SIZE]) == "generic-mbr"


def test_a_fat_boot_sector_is_unknown(tmp_path: Path) -> None:
    image = tmp_path / "fat.img"
    run(["mformat", "-C", "-i", str(image), "-f", "1440", "::"])
    assert identify_boot_sector(image.read_bytes()[:SECTOR_SIZE]) == "unknown"


@pytest.mark.parametrize(
    ("offset", "mark", "kind"),
    [
        (6, b"LILO", "lilo"),
        (3, b"EXTLINUX", "syslinux"),
        (0x163, b"Invalid partition table\0Error loading operating system\0", "windows"),
        (0x1A0, b"BOOTMGR is missing", "windows"),
    ],
)
def test_marks_of_programs_that_cannot_be_had_here(offset: int, mark: bytes, kind: str) -> None:
    assert identify_boot_sector(signed(bytes(offset) + mark)) == kind


def signed(code: bytes) -> bytes:
    """Put boot code where an installer puts it: into a sector with a signature."""
    return code[:440].ljust(510, b"\0") + b"\x55\xaa"


@given(st.binary(max_size=2000))
def test_any_bytes_are_read(data: bytes) -> None:
    stage1 = (grub_legacy.stage_folder() / "stage1").read_bytes()
    stage2 = (grub_legacy.stage_folder() / "stage2").read_bytes()[: 2 * SECTOR_SIZE]
    for content in (data, stage1[:0x3E] + data, stage2[:SECTOR_SIZE] + data):
        assert identify_boot_sector(content)
        assert parse_stage1(content) is None or len(content) >= SECTOR_SIZE
        assert parse_stage2(content) is None or len(content) >= 2 * SECTOR_SIZE
