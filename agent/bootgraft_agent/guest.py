"""Facts about one guest: its boot directory, menu, kernels, root file system, and the payload.

The functions here read mounted trees and decide nothing about the graft; both the live system and
tree mode use them. What is missing or contradictory is refused with the candidates named.
"""

import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from bootgraft_agent import grub, initrd, multiboot, stages
from bootgraft_agent.errors import AmbiguousError, RefusedError
from bootgraft_agent.files import Room, Tree, read_chunks
from bootgraft_agent.images import recognise_file
from bootgraft_agent.payload import Payload

MAX_TEXT = 128 * 1024  # bytes of a text file; real menus and fstabs have a few thousand
MAX_CONFIG = 1024 * 1024  # bytes of a kernel's configuration; Debian 6.1's has 256 KiB
MAX_INITRD = 256 * 1024 * 1024
MAX_STAGE2 = 1024 * 1024
ROOT_TEXTS = ("etc/fstab", "etc/inittab", "etc/securetty")
# Drivers of the emulated disk: the old ones name it hdX, libata's name it sdX.
IDE_DRIVERS = frozenset({"ide-disk", "ide-generic", "piix", "ide-piix", "ide_disk", "ide_generic"})
ATA_DRIVERS = frozenset({"ata_piix", "ata_generic", "pata_mpiix", "pata_oldpiix"})
DISK_DRIVERS = IDE_DRIVERS | ATA_DRIVERS

MENU_NAMES = ("menu.lst", "grub.conf")
GRAFTED = b"# bootgraft "  # starts the comment lines around an entry of ours
GRUB_FILES = (*MENU_NAMES, "stage1", "stage2")
FILE_COMMANDS = frozenset({b"kernel", b"module", b"modulenounzip", b"initrd"})
KERNEL_COMMANDS = FILE_COMMANDS - {b"initrd"}  # a kernel may be a hypervisor's module
KERNEL_NAME = re.compile(r"vmlinu[xz](?:-(?P<version>.+))?\Z")
INITRD_NAMES = (
    "initrd-{}.img",
    "initrd.img-{}",
    "initrd-{}",
    "initramfs-{}.img",
    "initrd-{}.gz",
)


@dataclass(frozen=True, slots=True)
class TextFile:
    """A text file of the guest, by its path without links in its volume."""

    path: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel in the boot directory."""

    path: str  # in the boot volume
    size: int
    image: multiboot.Image
    version: str | None  # from its name
    initrd: str | None  # its own, matched by version
    config: str | None  # the text of config-VERSION
    module_drivers: frozenset[str]  # IDE and ATA drivers in the root file system's modules

    @property
    def is_xen(self) -> bool:
        """Whether it runs on Xen's hypercalls."""
        return self.image.xen and self.image.problem is None


@dataclass(frozen=True, slots=True)
class Boot:
    """The boot directory of the guest and the volume that holds it."""

    volume: str  # "hda1", or a directory's name in tree mode
    prefix: str  # "" where the volume is /boot itself, "boot/" where it is a directory
    grub_directory: str
    stage2: stages.Stage2 | None  # its file; None where there is none that is whole
    menu: TextFile
    other_menus: tuple[str, ...]  # other files with a menu's name, which GRUB does not read
    saved_default: int  # what `default saved` means
    device_map: TextFile | None
    room: Room
    files: Mapping[str, str | None]  # by path in the entries: the file without links; None: missing
    missing_splash: str | None  # the menu's splash image, where it leads to no file


@dataclass(frozen=True, slots=True)
class Root:
    """The guest's root file system, as far as the recipe edits it."""

    volume: str
    texts: Mapping[str, TextFile]  # those of ROOT_TEXTS that exist, by that name


@dataclass(frozen=True, slots=True)
class Guest:
    """All that the recipe needs to know."""

    boot: Boot
    bios: grub.Device  # the boot volume as GRUB counts disks and partitions
    hd_names: tuple[str, ...]  # the machine's IDE disks in order, as "hda"
    kernels: tuple[Kernel, ...]
    root: Root | None
    root_problem: str | None  # why there is no root
    payload: Payload | None
    payload_problem: str | None  # why there is no payload
    existing: Mapping[str, str | None]  # SHA-256 of what stands where the payload's files go
    initrd_drivers: Mapping[str, frozenset[str] | None]  # by the initrd's path; None: unreadable
    read_only: tuple[str, ...] = ()  # volumes that cannot be written
    dirty_journals: tuple[str, ...] = ()  # volumes whose journal is to be replayed first
    hd_names_assumed: bool = False  # the machine's disks are unknown
    warnings: tuple[str, ...] = ()

    def require_payload(self) -> Payload:
        """Give the payload; raises RefusedError with the reason where there is none."""
        if self.payload is None:
            raise RefusedError(self.payload_problem or "there is no payload")
        return self.payload


@dataclass(frozen=True, slots=True)
class BootDirectory:
    """A place in a tree that holds GRUB's files."""

    prefix: str
    grub_directory: str


def find_boot_directories(tree: Tree) -> tuple[BootDirectory, ...]:
    """Find where a tree holds GRUB legacy's files: as /boot itself, as the root above it, or not.

    A link `boot -> .` on a /boot of its own, as some distributions have it, is the same place.
    """
    found: dict[str, BootDirectory] = {}
    for prefix in ("", "boot/"):
        directory = f"{prefix}grub"
        if not tree.is_directory(directory):
            continue
        resolved = tree.resolve(directory)
        names = set(tree.names(resolved))
        if names & set(GRUB_FILES) and resolved not in found:
            base = resolved.rpartition("/")[0]
            found[resolved] = BootDirectory(f"{base}/" if base else "", resolved)
    return tuple(found.values())


def read_stage2(tree: Tree, grub_directory: str) -> stages.Stage2 | None:
    """Read the stage2 file of a GRUB directory; None where there is none that is whole."""
    path = f"{grub_directory}/stage2"
    if not tree.is_file(path):
        return None
    return stages.parse_stage2(tree.read(path, MAX_STAGE2))


def read_boot(tree: Tree, volume: str, directory: BootDirectory, *, menu_is_embedded: bool) -> Boot:
    """Read the boot directory's menu, device.map and room.

    With `menu_is_embedded` GRUB is installed and reads what its stage2 names; otherwise stage2's
    word counts only where it leads to a file. Raises RefusedError and AmbiguousError.
    """
    stage2 = read_stage2(tree, directory.grub_directory)
    embedded = _embedded_menu(stage2)
    name = _choose_menu(tree, volume, directory, embedded, must_exist=menu_is_embedded)
    menu = _read_menu(tree, volume, name)
    parsed = grub.parse_menu(menu.content)
    if not parsed.entries:
        raise RefusedError(
            f"{volume}: /{menu.path} has no entry that GRUB would show; is this the right boot"
            " partition? Choose another one with --boot-partition"
        )
    device_map = _read_text(tree, f"{directory.grub_directory}/device.map")
    return Boot(
        volume=volume,
        prefix=directory.prefix,
        grub_directory=directory.grub_directory,
        stage2=stage2,
        menu=menu,
        other_menus=_other_menus(tree, directory, menu),
        saved_default=_read_saved_default(tree, name),
        device_map=device_map,
        room=tree.room(directory.grub_directory),
        files={path: _resolved_file(tree, path) for path in _named_files(parsed, FILE_COMMANDS)},
        missing_splash=_missing_splash(tree, parsed),
    )


def _embedded_menu(stage2: stages.Stage2 | None) -> str | None:
    if stage2 is None or not stage2.config_file:
        return None
    return grub_path(stage2.config_file)


def grub_path(text: bytes) -> str:
    """Give the path of `(hd0,0)/path` or `/path` as a path in a tree."""
    path = text.partition(b")")[2] if text.startswith(b"(") else text
    return path.decode("utf-8", "surrogateescape").strip("/")


def _choose_menu(
    tree: Tree, volume: str, directory: BootDirectory, embedded: str | None, *, must_exist: bool
) -> str:
    """Give the path by which GRUB opens its menu, which may be a link's."""
    present = _present_menus(tree, directory)
    if not present:
        raise RefusedError(
            f"{volume}: /{directory.grub_directory} holds neither menu.lst nor grub.conf: GRUB"
            " has no menu there; choose another file system with --boot-partition"
        )
    if embedded is not None and tree.exists(embedded):
        return embedded
    if must_exist and embedded is not None:
        raise RefusedError(
            f"{volume}: the installed GRUB reads /{embedded}, which does not exist there; found:"
            f" {_listed(present)}. Link the menu to that name, or install GRUB anew"
        )
    return _choose_without_stage2(tree, volume, present)


def _present_menus(tree: Tree, directory: BootDirectory) -> list[str]:
    names = tree.names(directory.grub_directory)
    return [f"{directory.grub_directory}/{name}" for name in MENU_NAMES if name in names]


def _choose_without_stage2(tree: Tree, volume: str, present: Sequence[str]) -> str:
    """Choose among menus: the one that was grafted before, or any of them where all are equal."""
    menus = {path: _read_menu(tree, volume, path) for path in present}
    grafted = {path: menu for path, menu in menus.items() if GRAFTED in menu.content}
    chosen = grafted or menus
    if len({menu.content for menu in chosen.values()}) > 1:
        raise AmbiguousError(
            f"{volume}: {_listed(chosen)} are two different files, and no stage2 says which one"
            " GRUB reads; make one a link to the other"
        )
    return next(iter(chosen))


def _other_menus(tree: Tree, directory: BootDirectory, menu: TextFile) -> tuple[str, ...]:
    """List the files with a menu's name that do not change when the menu is replaced."""
    return tuple(
        path
        for path in _present_menus(tree, directory)
        if tree.is_file(path) and tree.resolve(path) != menu.path
    )


def _read_menu(tree: Tree, volume: str, path: str) -> TextFile:
    """Read a menu through its links. Raises RefusedError for whatever is no plain text file."""
    try:
        resolved = tree.resolve(path)
        return TextFile(resolved, tree.read(resolved, MAX_TEXT))
    except OSError as error:
        raise RefusedError(
            f"{volume}: cannot read the menu /{path}: {error.strerror}; if it is a link, it leads"
            " to nothing within this file system"
        ) from error
    except RefusedError as error:
        raise RefusedError(f"{volume}: cannot use the menu: /{error}") from error


def _read_text(tree: Tree, path: str, limit: int = MAX_TEXT) -> TextFile | None:
    if not tree.is_file(path):
        return None
    resolved = tree.resolve(path)
    return TextFile(resolved, tree.read(resolved, limit))


def _read_saved_default(tree: Tree, menu: str) -> int:
    """Give what `default saved` means: the number in the file `default` beside the menu, or 0.

    Beside the name by which GRUB opens the menu: where that is a link, not beside its target.
    """
    directory = menu.rpartition("/")[0]
    saved = _read_text(tree, f"{directory}/default")
    return grub.parse_saved_default(saved.content) if saved else 0


def _named_files(menu: grub.Menu, commands: Collection[bytes]) -> Iterable[str]:
    """Give the paths that some commands of a menu's entries name, each once."""
    return dict.fromkeys(
        grub_path(file_argument(command.argument))
        for entry in menu.entries
        for command in entry.commands
        if command.name in commands
    )


def _missing_splash(tree: Tree, menu: grub.Menu) -> str | None:
    for command in menu.settings:
        if command.name == b"splashimage" and not tree.is_file(grub_path(command.argument)):
            return grub_path(command.argument)
    return None


def _resolved_file(tree: Tree, path: str) -> str | None:
    return tree.resolve(path) if tree.is_file(path) else None


def file_argument(argument: bytes) -> bytes:
    """Give the file that a kernel, module or initrd command names: after its options."""
    words = argument.split(None)
    while words and words[0].startswith(b"--"):
        words.pop(0)
    return words[0] if words else b""


def read_kernels(boot_tree: Tree, boot: Boot, root_tree: Tree | None) -> tuple[Kernel, ...]:
    """Recognise, by content, every file of the boot directory with a kernel's name, or that an
    entry of the menu names as a kernel or module.
    """
    paths = {
        boot_tree.resolve(f"{boot.prefix}{name}")
        for name in boot_tree.names(boot.prefix)
        if KERNEL_NAME.match(name) and boot_tree.is_file(f"{boot.prefix}{name}")
    }
    named = _named_files(grub.parse_menu(boot.menu.content), KERNEL_COMMANDS)
    paths.update(path for path in map(boot.files.get, named) if path is not None)
    kernels = (_read_kernel(boot_tree, path, root_tree) for path in sorted(paths))
    return tuple(each for each in kernels if each.image.format != "unknown" or each.version)


def with_module_drivers(kernels: Sequence[Kernel], root_tree: Tree) -> tuple[Kernel, ...]:
    """Add what the root file system's modules say; the kernels are not read once more."""
    return tuple(
        replace(kernel, module_drivers=_module_drivers(root_tree, kernel.version))
        for kernel in kernels
    )


def _read_kernel(tree: Tree, path: str, root_tree: Tree | None) -> Kernel:
    size, image = recognise_file(tree, path)
    directory, slash, name = path.rpartition("/")
    match = KERNEL_NAME.match(name)
    version = match["version"] if match else None
    config_path = f"{directory}{slash}config-{version}"
    config = _read_text(tree, config_path, MAX_CONFIG) if version else None
    return Kernel(
        path=path,
        size=size,
        image=image,
        version=version,
        initrd=_own_initrd(tree, f"{directory}{slash}", version),
        config=config.content.decode("utf-8", "replace") if config else None,
        module_drivers=_module_drivers(root_tree, version),
    )


def _own_initrd(tree: Tree, prefix: str, version: str | None) -> str | None:
    if version is None:
        return None
    for pattern in INITRD_NAMES:
        path = prefix + pattern.format(version)
        if tree.is_file(path):
            return tree.resolve(path)
    return None


def _module_drivers(tree: Tree | None, version: str | None) -> frozenset[str]:
    """Find which IDE and ATA drivers the root file system has as modules of a kernel."""
    found: set[str] = set()
    for directory in ("ide", "ide/pci", "ata"):
        path = f"lib/modules/{version}/kernel/drivers/{directory}"
        if tree is not None and version and tree.is_directory(path):
            found.update(_driver_name(name) for name in tree.names(path))
    return frozenset(found & DISK_DRIVERS)


def _driver_name(name: str) -> str:
    return name.rpartition("/")[2].partition(".ko")[0]


def read_initrd_drivers(
    tree: Tree, boot: Boot, kernels: Sequence[Kernel]
) -> dict[str, frozenset[str] | None]:
    """List the IDE and ATA drivers in every initrd of the Xen kernels and of the menu's entries.

    Keys are paths without links; None stands for one that cannot be read as an archive.
    """
    paths = {kernel.initrd for kernel in kernels if kernel.is_xen} | set(boot.files.values())
    paths -= {None, *(kernel.path for kernel in kernels)}
    return {path: _read_drivers(tree, path) for path in paths if path is not None}


def _read_drivers(tree: Tree, path: str) -> frozenset[str] | None:
    with tree.open_file(path) as fd:
        if os.fstat(fd).st_size > MAX_INITRD:
            return None
        names = initrd.find_names(read_chunks(fd, MAX_INITRD), _is_disk_driver)
    return None if names is None else frozenset(_driver_name(name) for name in names)


def _is_disk_driver(name: str) -> bool:
    return _driver_name(name) in DISK_DRIVERS


def read_root(tree: Tree, volume: str) -> Root:
    """Read the text files of the root file system that the recipe may edit."""
    texts = {path: _read_text(tree, path) for path in ROOT_TEXTS}
    return Root(
        volume=volume,
        texts={path: text for path, text in texts.items() if text is not None},
    )


def read_existing(tree: Tree, boot: Boot, payload: Payload) -> dict[str, str | None]:
    """Give the SHA-256 of what already stands where the payload's files are to go."""
    existing: dict[str, str | None] = {}
    for file in payload.files:
        path = f"{boot.prefix}{file.name}"
        try:
            existing[path] = tree.digest(path)
        except RefusedError as error:
            raise RefusedError(
                f"{file.source} of the payload cannot be copied to {boot.volume}: {error}"
            ) from error
    return existing


def _listed(paths: Iterable[str]) -> str:
    return " and ".join(f"/{path}" for path in paths)
