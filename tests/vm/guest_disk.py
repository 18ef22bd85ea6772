"""Raw disks laid out as a guest's installer laid them out, with GRUB legacy in the MBR."""

import itertools
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import grub_legacy
from vm.commands import run
from vm.ext3 import FEATURES, Ext3, make_ext3
from vm.xfs import make_xfs

SECTOR = 512
MIB = 1 << 20
FIRST_PARTITION = 63 * SECTOR  # behind one track, as in the days of cylinders
STAGE2_MENU = b"/boot/grub/menu.lst\0"  # as the package ships it
GRUB_FILES = ("stage1", "stage2", "e2fs_stage1_5")


@dataclass(frozen=True, slots=True)
class Partition:
    """A primary partition to make: its size in bytes and the folder that it gets a copy of."""

    size: int
    tree: Path | None  # None: a swap partition, left empty
    kind: str = "ext3"  # of the file system: one of ext3.FEATURES, or "xfs"


@dataclass(frozen=True, slots=True)
class GuestDisk:
    """A raw disk image and its file systems of ext, the first partition's first."""

    path: Path
    file_systems: tuple[Ext3, ...]


def make_guest_disk(path: Path, *partitions: Partition) -> GuestDisk:
    """Make a disk with an MBR; the first partition is active."""
    starts = list(itertools.accumulate((each.size for each in partitions), initial=FIRST_PARTITION))
    with path.open("wb") as image:
        image.truncate(-(-starts.pop() // MIB) * MIB)
    laid_out = list(zip(starts, partitions, strict=True))
    lines = ["label: dos", *(_sfdisk_line(start, partition) for start, partition in laid_out)]
    run(["sfdisk", "--quiet", path], stdin="\n".join(lines) + "\n")
    for start, partition in laid_out:
        if partition.tree is not None and partition.kind == "xfs":
            make_xfs(path, start, partition.size, partition.tree)
    return GuestDisk(
        path,
        tuple(
            make_ext3(path, start, partition.size, partition.tree, partition.kind)
            for start, partition in laid_out
            if partition.tree is not None and partition.kind in FEATURES
        ),
    )


def _sfdisk_line(start: int, partition: Partition) -> str:
    kind = "82" if partition.tree is None else "83"
    flag = ", bootable" if start == FIRST_PARTITION else ""
    return f"start={start // SECTOR}, size={partition.size // SECTOR}, type={kind}{flag}"


def copy_grub_files(folder: Path, menu: str) -> None:
    """Put GRUB legacy's boot files into a guest's grub folder, stage2 as an installed one.

    `menu` is the path that the installer has put in place of the usual one.
    """
    for name in GRUB_FILES:
        shutil.copyfile(grub_legacy.stage_folder() / name, folder / name)
    stage2 = folder / "stage2"
    content = stage2.read_bytes()
    path = f"{menu}\0".encode()
    at = content.index(STAGE2_MENU)
    stage2.write_bytes(content[:at] + path + content[at + len(path) :])


def install_grub(
    disk: Path, partition: int, grub_folder: str, menu: str, stage1_5: str = "e2fs_stage1_5"
) -> None:
    """Let the GRUB shell write stage1 to the MBR and stage1_5 behind it.

    `stage1_5` is the one for the file system; `partition` counts from 0, `grub_folder` and `menu`
    are paths in its file system. The path of the menu is embedded in stage2: "menu.lst" upstream,
    "grub.conf" at Red Hat.
    """
    embedded = _run_grub_shell(
        f"device (hd0) {disk}",
        f"root (hd0,{partition})",
        f"embed {grub_folder}/{stage1_5} (hd0)",
    )
    sectors = re.search(r"(\d+) sectors are embedded", embedded)
    if sectors is None:
        raise RuntimeError(f"GRUB embedded no stage1_5 in {disk}:\n{embedded}")
    installed = _run_grub_shell(
        f"device (hd0) {disk}",
        f"root (hd0,{partition})",
        f"install {grub_folder}/stage1 (hd0) (hd0)1+{sectors[1]} p "
        f"(hd0,{partition}){grub_folder}/stage2 {menu}",
    )
    if "Error" in installed:
        raise RuntimeError(f"GRUB could not be installed on {disk}:\n{installed}")


def _run_grub_shell(*commands: str) -> str:
    argv: list[str | Path] = [
        grub_legacy.shell_path(),
        "--batch",
        "--no-floppy",
        "--device-map=/dev/null",
    ]
    return run(argv, stdin="\n".join([*commands, "quit"]) + "\n").stdout
