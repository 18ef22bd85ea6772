"""The demo's appliance with a kernel, an initrd and file systems that are small.

So GRUB's own code can read every file, thousands of times. Xen starts the kernel, which says so on
COM1: see vm.tiny_kernel.
"""

import gzip
import shutil
from pathlib import Path

import grub_legacy
from vm import cpio, tiny_kernel
from vm.appliance import INITRD, KERNEL, RELEASE, write_grub_tree, write_root_tree
from vm.guest_disk import FIRST_PARTITION, MIB, GuestDisk, Partition, install_grub, make_guest_disk

MENU = "grub/grub.conf"
ROOT_FILES = ("etc/fstab", "etc/inittab", "etc/securetty")
BOOTED = rf"^TINY-KERNEL {RELEASE} ro root=/dev/hda2"
SIZE = 16 * MIB
OFFSETS = (FIRST_PARTITION, FIRST_PARTITION + SIZE)


def build_small_appliance(directory: Path, kind: str = "ext3") -> GuestDisk:
    """Make directory/appliance.raw, both of whose file systems are of that kind."""
    boot, root = directory / "boot", directory / "root"
    write_grub_tree(boot)
    (boot / KERNEL).write_bytes(tiny_kernel.make_kernel_xen(RELEASE))
    (boot / INITRD).write_bytes(_make_initrd())
    write_root_tree(root, "small")
    stage1_5 = "e2fs_stage1_5"
    if kind == "xfs":
        stage1_5 = "xfs_stage1_5"
        # As many names as installers leave: the directories are in blocks then, not in inodes.
        for path in grub_legacy.stage_folder().glob("*_stage1_5"):
            shutil.copyfile(path, boot / "grub" / path.name)
        for name in (f"System.map-{RELEASE}", f"symvers-{RELEASE}.gz", f"xen.gz-{RELEASE}"):
            (boot / name).write_text("not what GRUB reads here\n")
    disk = make_guest_disk(
        directory / "appliance.raw", Partition(SIZE, boot, kind), Partition(SIZE, root, kind)
    )
    install_grub(disk.path, 0, "/grub", f"/{MENU}", stage1_5)
    return disk


def _make_initrd() -> bytes:
    init = cpio.regular("init", b"#!/bin/nash\ninsmod /lib/ext3.ko\n", 0o755)
    return gzip.compress(cpio.encode([init]), mtime=0)
