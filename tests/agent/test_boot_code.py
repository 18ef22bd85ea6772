"""Whether the BIOS comes to GRUB legacy: real installations, followed from the MBR, and broken."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bootgraft_agent import boot_code
from bootgraft_agent.disks import Disk, Partition
from bootgraft_agent.errors import RefusedError
from bootgraft_agent.files import Tree
from bootgraft_agent.guest import BootDirectory, read_boot
from vm import guest_disk
from vm.guest_disk import MIB, copy_grub_files, install_grub, make_guest_disk

SECTOR = 512
MENU = b"title Appliance\n\tkernel /vmlinuz\n"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk with GRUB in the MBR and its files on the first partition, and these as a tree."""
    folder = tmp_path_factory.mktemp("installed")
    (folder / "boot/grub").mkdir(parents=True)
    copy_grub_files(folder / "boot/grub", "/grub/menu.lst")
    (folder / "boot/grub/menu.lst").write_bytes(MENU)
    disk = make_guest_disk(
        folder / "disk.img",
        guest_disk.Partition(8 * MIB, folder / "boot"),
        guest_disk.Partition(MIB, None),
    )
    install_grub(disk.path, 0, "/grub", "/grub/menu.lst")
    return folder


def partition(number: int, offset: int) -> Partition:
    return Partition(
        name=f"hda{number}",
        kernel_name=f"sda{number}",
        number=number,
        offset=offset,
        size=8 * MIB,
        active=number == 1,
        kind="0x83",
        fs_type="ext3",
        label=None,
        uuid=None,
    )


def check(
    folder: Path,
    tmp_path: Path,
    damage: Callable[[bytearray], None] = lambda _: None,
    number: int = 1,
) -> None:
    """Check a copy of the disk after some damage, with partition `number` as boot partition."""
    content = bytearray((folder / "disk.img").read_bytes())
    damage(content)
    image = tmp_path / "disk.img"
    image.write_bytes(content)
    partitions = (partition(1, guest_disk.FIRST_PARTITION), partition(2, 9 * MIB))
    disk = Disk(
        name="hda",
        kernel_name=f"..{image}",  # leads from /dev to the image
        bus="ide",
        channel=0,
        unit=0,
        size=len(content),
        sector_size=SECTOR,
        model=None,
        table="msdos",
        partitions=partitions,
        problem=None,
    )
    with Tree(folder / "boot") as tree:
        boot = read_boot(tree, f"hda{number}", BootDirectory("", "grub"), menu_is_embedded=True)
        boot_code.check(disk, partitions[number - 1], boot, tree)


def to_boot_sector(content: bytearray) -> None:
    """Move stage1 to the active partition's boot sector; the MBR only chains to it."""
    start = guest_disk.FIRST_PARTITION
    content[start : start + SECTOR] = content[:SECTOR]
    content[:440] = b"Error loading operating system".ljust(440, b"\x90")


def erase(start: int, end: int) -> Callable[[bytearray], None]:
    def damage(content: bytearray) -> None:
        content[start:end] = bytes(end - start)

    return damage


def test_grub_in_the_mbr_is_followed_to_its_menu(installed: Path, tmp_path: Path) -> None:
    check(installed, tmp_path)


def test_grub_in_the_active_partitions_boot_sector_is_followed(
    installed: Path, tmp_path: Path
) -> None:
    check(installed, tmp_path, to_boot_sector)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (erase(0, 440), "MBR of hda holds no boot code, not GRUB legacy; bootgraft edits menus"),
        (erase(SECTOR, 10 * SECTOR), "loads sector 1, where there is neither a stage1_5 nor"),
    ],
)
def test_a_disk_that_only_pygrub_ever_booted_is_refused(
    installed: Path, tmp_path: Path, damage: Callable[[bytearray], None], message: str
) -> None:
    with pytest.raises(RefusedError, match=message):
        check(installed, tmp_path, damage)


def test_an_mbr_that_chains_to_no_grub_is_refused(installed: Path, tmp_path: Path) -> None:
    def damage(content: bytearray) -> None:
        to_boot_sector(content)
        start = guest_disk.FIRST_PARTITION
        content[start : start + SECTOR] = b"LILO".ljust(510, b"\x90") + b"\x55\xaa"

    with pytest.raises(RefusedError, match="boot sector of the active partition hda1 holds lilo"):
        check(installed, tmp_path, damage)


def test_boot_code_of_another_partition_is_refused(installed: Path, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="belongs to partition 1 of hda, not to hda2"):
        check(installed, tmp_path, number=2)


def test_a_missing_stage2_is_refused(installed: Path) -> None:
    with Tree(installed / "boot") as tree:
        boot = read_boot(tree, "hda1", BootDirectory("", "grub"), menu_is_embedded=True)
    disk = Disk("hda", "sda", "ide", 0, 0, 0, 512, None, "msdos", (), None)
    with Tree(installed) as tree, pytest.raises(RefusedError, match="/grub/stage2 is missing"):
        boot_code.check(disk, partition(1, 0), replace(boot, stage2=None), tree)
