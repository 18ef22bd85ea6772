"""Sample trees: guests' file systems as plain folders, in the shapes of the real distributions.

The text files lie in sample-trees/NAME/{root,boot}; there is a `boot` where /boot is a file system
of its own. Kernels, initrds and GRUB's files are added here. Every kernel-xen is one that Xen
starts, see tiny_kernel.
"""

import gzip
import shutil
from dataclasses import dataclass
from pathlib import Path

from vm import cpio, debian_guest, tiny_kernel
from vm.guest_disk import (
    MIB,
    GuestDisk,
    Partition,
    copy_grub_files,
    install_grub,
    make_guest_disk,
)

SAMPLES = Path(__file__).with_name("sample-trees")
SPLASH = "grub/splash.xpm.gz"

IDE_BUILT_IN = "CONFIG_IDE=y\nCONFIG_BLK_DEV_IDE=y\nCONFIG_BLK_DEV_IDEDISK=y\n"
IDE_MODULES = "CONFIG_IDE=m\nCONFIG_BLK_DEV_IDE=m\nCONFIG_BLK_DEV_IDEDISK=m\n"
LIBATA = "# CONFIG_IDE is not set\nCONFIG_ATA=m\nCONFIG_ATA_PIIX=m\nCONFIG_BLK_DEV_SD=m\n"


@dataclass(frozen=True, slots=True)
class KernelXen:
    """A kernel for Xen and the initrd that goes with it."""

    release: str
    initrd: str
    drivers: tuple[str, ...] = ()  # modules in the initrd
    config: str | None = None  # None: the guest keeps no config file
    markers: tiny_kernel.Markers = "notes"


@dataclass(frozen=True, slots=True)
class Shape:
    """What is peculiar to one sample tree, besides its text files."""

    kernels: tuple[KernelXen, ...]  # the one to graft first
    arguments: str  # what the grafted entry must hand to it
    plain_kernels: tuple[tuple[str, str], ...] = ()  # (release, initrd)
    hypervisors: tuple[str, ...] = ()  # the guest's own
    other_files: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()  # in the boot folder: (path, target)
    menu: str = "grub/menu.lst"  # in the boot folder
    partition: int = 0  # of GRUB's files; the ones before it hold no file system
    boot_beside_root: bool = False  # a separate /boot is mounted elsewhere than at root/boot
    crlf: bool = False
    splash: bool = False


@dataclass(frozen=True, slots=True)
class SampleTree:
    """A built tree."""

    name: str
    shape: Shape
    root: Path
    boot: Path | None  # the mounted boot partition; None where /boot is a folder of root

    @property
    def boot_folder(self) -> Path:
        """Return the folder of kernels and of grub/."""
        return self.boot or self.root / "boot"

    @property
    def boot_prefix(self) -> str:
        """Return how GRUB's paths to the boot folder begin."""
        return "" if self.boot else "/boot"

    @property
    def grub_root(self) -> str:
        """Return GRUB's name of the partition that holds its files."""
        return f"(hd0,{self.shape.partition})"

    @property
    def menu(self) -> Path:
        """Return the menu that GRUB reads."""
        return self.boot_folder / self.shape.menu


SHAPES = {
    "rhel5": Shape(
        kernels=(
            KernelXen(
                "2.6.18-164.el5xen",
                "initrd-2.6.18-164.el5xen.img",
                ("ext3", "xenblk"),
                IDE_BUILT_IN,
            ),
        ),
        arguments="ro root=/dev/hda2 console=tty0 rhgb quiet",
        plain_kernels=(("2.6.18-164.el5", "initrd-2.6.18-164.el5.img"),),
        hypervisors=("xen.gz-2.6.18-164.el5",),
        links=(("grub/menu.lst", "./grub.conf"),),
        menu="grub/grub.conf",
    ),
    "centos5": Shape(
        kernels=(
            KernelXen(
                "2.6.18-128.el5xen",
                "initrd-2.6.18-128.el5xen.img",
                ("ext3", "dm-mod", "ata_piix"),
                IDE_BUILT_IN,
            ),
            KernelXen("2.6.18-92.el5xen", "initrd-2.6.18-92.el5xen.img", config=IDE_BUILT_IN),
        ),
        arguments="ro root=/dev/VolGroup00/LogVol00",
        plain_kernels=(("2.6.18-128.el5", "initrd-2.6.18-128.el5.img"),),
        hypervisors=("xen.gz-2.6.18-128.el5", "xen.gz-2.6.18-92.el5"),
        links=(("grub/menu.lst", "./grub.conf"),),
        menu="grub/grub.conf",
        splash=True,
    ),
    "sles10": Shape(
        kernels=(
            KernelXen(
                "2.6.16.60-0.21-xen",
                "initrd-2.6.16.60-0.21-xen",
                ("ext3", "ide-core", "ide-disk", "piix"),
                IDE_MODULES,
                "xen_guest",
            ),
        ),
        arguments="root=/dev/hda2 resume=/dev/hda3 splash=silent showopts console=tty0",
        plain_kernels=(("2.6.16.60-0.21-smp", "initrd-2.6.16.60-0.21-smp"),),
        hypervisors=("xen-3.2.0_16718_14-0.4.gz",),
        links=(
            ("boot", "."),
            ("xen.gz", "xen-3.2.0_16718_14-0.4.gz"),
            ("vmlinuz-xen", "vmlinuz-2.6.16.60-0.21-xen"),
            ("initrd-xen", "initrd-2.6.16.60-0.21-xen"),
        ),
        boot_beside_root=True,
    ),
    "opensuse": Shape(
        kernels=(
            KernelXen(
                "2.6.27.7-9-xen",
                "initrd-2.6.27.7-9-xen",
                ("ext3", "libata", "ata_piix", "sd_mod"),
                LIBATA,
            ),
        ),
        arguments="root=/dev/sda2 resume=/dev/sda1 splash=silent showopts",
        plain_kernels=(("2.6.27.7-9-default", "initrd-2.6.27.7-9-default"),),
        hypervisors=("xen-3.3.1_18546_12-3.1.gz",),
        links=(
            ("boot", "."),
            ("xen.gz", "xen-3.3.1_18546_12-3.1.gz"),
            ("vmlinuz-xen", "vmlinuz-2.6.27.7-9-xen"),
            ("initrd-xen", "initrd-2.6.27.7-9-xen"),
        ),
        partition=1,
    ),
    "lenny": Shape(
        kernels=(
            KernelXen(
                "2.6.26-2-xen-amd64",
                "initrd.img-2.6.26-2-xen-amd64",
                ("ext3", "ide-core", "ide-disk", "piix"),
                IDE_MODULES,
            ),
        ),
        arguments="root=/dev/hda1 ro console=tty0 quiet",
        plain_kernels=(("2.6.26-2-amd64", "initrd.img-2.6.26-2-amd64"),),
        hypervisors=("xen-3.2-1-amd64.gz",),
    ),
    "ubuntu804": Shape(
        kernels=(
            KernelXen(
                "2.6.24-16-xen",
                "initrd.img-2.6.24-16-xen",
                ("ext3", "libata", "ata_piix", "sd_mod"),
                LIBATA,
            ),
        ),
        arguments="root=UUID=5b6f0a4e-2c1d-4f7c-9d52-0c6e2f1a8b37 ro console=tty0 quiet splash",
        hypervisors=("xen-3.2.gz",),
        other_files=("memtest86+.bin",),
    ),
    "crlf": Shape(
        kernels=(KernelXen("2.6.18-6-xen-vendor", "initrd-2.6.18-6-xen-vendor.img", ("ext3",)),),
        arguments="root=/dev/hda1 ro console=tty0 panic=10",
        crlf=True,
    ),
    "saved": Shape(
        kernels=(
            KernelXen(
                "2.6.18-6-xen-amd64",
                "initrd.img-2.6.18-6-xen-amd64",
                ("ext3", "ide-disk", "ide-generic"),
                IDE_MODULES,
                "xen_guest",
            ),
        ),
        arguments="root=/dev/hda1 ro console=tty0",
        plain_kernels=(("2.6.18-6-amd64", "initrd.img-2.6.18-6-amd64"),),
    ),
}


def build_tree(name: str, directory: Path) -> SampleTree:
    """Build a sample tree below a folder: root/, and boot/ where it is mounted beside it."""
    shape = SHAPES[name]
    root = directory / "root"
    shutil.copytree(SAMPLES / name / "root", root, symlinks=True)
    boot: Path | None = None
    if (SAMPLES / name / "boot").is_dir():
        boot = directory / "boot" if shape.boot_beside_root else root / "boot"
        shutil.copytree(SAMPLES / name / "boot", boot)
    tree = SampleTree(name, shape, root, boot)
    _add_boot_files(tree)
    _add_grub(tree)
    return tree


def disk_from_tree(tree: SampleTree, path: Path) -> GuestDisk:
    """Make a raw disk whose GRUB boots the tree's menu, as it is now; only its boot volume is made.

    The volume's partition comes behind as many empty ones as the menu says.
    """
    empty = [Partition(MIB, None)] * tree.shape.partition
    disk = make_guest_disk(path, *empty, Partition(32 * MIB, tree.boot or tree.root))
    prefix = tree.boot_prefix
    install_grub(path, tree.shape.partition, f"{prefix}/grub", f"{prefix}/{tree.shape.menu}")
    return disk


def _add_boot_files(tree: SampleTree) -> None:
    folder, shape = tree.boot_folder, tree.shape
    for kernel in shape.kernels:
        content = tiny_kernel.make_kernel_xen(kernel.release, kernel.markers)
        (folder / f"vmlinuz-{kernel.release}").write_bytes(content)
        (folder / kernel.initrd).write_bytes(_make_initrd(kernel.release, kernel.drivers))
        if kernel.config is not None:
            (folder / f"config-{kernel.release}").write_text(f"CONFIG_XEN=y\n{kernel.config}")
    for release, initrd in shape.plain_kernels:
        (folder / f"vmlinuz-{release}").write_bytes(tiny_kernel.make_bz_image(release))
        (folder / initrd).write_bytes(_make_initrd(release, ("ext3",)))
    for name in shape.hypervisors:
        (folder / name).write_bytes(debian_guest.read_hypervisor())
    for name in shape.other_files:
        (folder / name).write_bytes(name.encode())
    for name, target in shape.links:
        (folder / name).symlink_to(target)


def _add_grub(tree: SampleTree) -> None:
    """Add GRUB's own files, and what a checkout does not keep of the menu: its mode and CRLF."""
    folder = tree.boot_folder / "grub"
    copy_grub_files(folder, f"{tree.boot_prefix}/{tree.shape.menu}")
    if tree.shape.splash:
        (tree.boot_folder / SPLASH).write_bytes(_make_splash())
    tree.menu.chmod(0o600)
    if tree.shape.crlf:
        for path in (tree.menu, folder / "device.map"):
            # Without a newline at the end, as editors of that world leave it.
            path.write_bytes(path.read_bytes().rstrip(b"\n").replace(b"\n", b"\r\n"))


def _make_initrd(release: str, drivers: tuple[str, ...]) -> bytes:
    loads = "".join(f"insmod /lib/{name}.ko\n" for name in drivers)
    members = [
        cpio.directory("lib"),
        *(cpio.regular(f"lib/{name}.ko", release.encode()) for name in drivers),
        cpio.regular("init", f"#!/bin/nash\n{loads}".encode(), 0o755),
    ]
    return gzip.compress(cpio.encode(members), mtime=0)


def _make_splash() -> bytes:
    """Make a picture as GRUB wants it: XPM, 640 x 480, at most 14 colours, gzipped."""
    row = '"' + "a" * 640 + '",\n'
    text = (
        f'/* XPM */\nstatic char * splash[] = {{\n"640 480 1 1",\n"a c #102040",\n{row * 480}}};\n'
    )
    return gzip.compress(text.encode(), mtime=0)
