"""Tree mode: the same grafts and recipes on file systems that are mounted already, anywhere."""

import contextlib
import ctypes
import datetime
import fcntl
import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bootgraft_agent import fstab, grub
from bootgraft_agent.apply import apply_plan
from bootgraft_agent.effects import targets
from bootgraft_agent.errors import InvalidRequestError, RefusedError
from bootgraft_agent.files import Tree, WritableTree
from bootgraft_agent.guest import (
    MAX_TEXT,
    BootDirectory,
    Guest,
    find_boot_directories,
    read_boot,
    read_existing,
    read_initrd_drivers,
    read_kernels,
    read_root,
)
from bootgraft_agent.payload import read_payload
from bootgraft_agent.payload_folders import PayloadFolders
from bootgraft_agent.plan import BACKUPS, Options, Plan, Where
from bootgraft_agent.plan_growth import check_plan_growth
from bootgraft_agent.recipe_requests import Request, is_shim
from bootgraft_agent.recipes import hyperv_shim
from bootgraft_agent.recipes.sequence import plan_sequence
from bootgraft_agent.rollback import roll_back
from bootgraft_agent.volumes import Outcome, Progress, where_of

# Linux, include/uapi/linux/fs.h
_FIFREEZE = 0xC0045877
_FITHAW = 0xC0045878
# The machine's disks are unknown here; an IDE machine has up to these.
_HD_NAMES = ("hda", "hdb", "hdc", "hdd")


@dataclass(frozen=True, slots=True)
class Trees:
    """Where the guest's file systems are mounted; they are the Volumes of an apply.

    root: the guest's root directory. boot: the mount point of its boot partition; None where
    /boot is a directory of the root file system. payload: a directory with `shim` or recipes in it.
    others: further file systems of the guest, by their mount points without the first slash.
    recipe_folders: those of recipe files, by the paths that they would have on the payload.
    """

    root_directory: Path
    boot_directory: Path | None
    payload_directory: Path | None
    others: tuple[tuple[str, Path], ...] = ()
    recipe_folders: tuple[tuple[str, Path], ...] = ()

    def check(self) -> None:
        """Refuse what is no directory. Raises InvalidRequestError."""
        named = {
            "--root": self.root_directory,
            "--boot": self.boot_directory,
            "--payload": self.payload_directory,
            **{f"--mount /{point}": directory for point, directory in self.others},
        }
        for option, path in named.items():
            if path is not None and not path.is_dir():
                raise InvalidRequestError(f"{option} {path} is not a directory")

    @property
    def boot_prefix(self) -> str:
        """Where /boot is in the volume "boot"; "" also where the guest has no such directory."""
        if self.boot_directory is not None:
            return ""
        place = self.root_directory / "boot"
        return "boot/" if place.is_dir() and not place.is_symlink() else ""

    @property
    def mounts(self) -> tuple[tuple[str, Where], ...]:
        """The mount points without their first slash, "" for the root, and what is there."""
        has_boot = self.boot_directory is not None or self.boot_prefix
        boot = (("boot", "boot"),) if has_boot else ()
        return (("", "root"), *boot, *((point, where_of(point)) for point, _ in self.others))

    @property
    def absent(self) -> tuple[tuple[str, str], ...]:
        """Mount points in the guest's fstab that nobody has named here."""
        given = {"", *(point for point, _ in self.others)}
        if self.boot_directory is not None:
            given.add("boot")
        return tuple(
            (point, f"it is not mounted here; name its directory with {_option_of(point)}")
            for point in self._fstab_mounts()
            if point not in given
        )

    def _fstab_mounts(self) -> list[str]:
        with Tree(self.root_directory) as tree:
            if not tree.is_file("etc/fstab"):
                return []
            entries = fstab.parse_fstab(tree.read("etc/fstab", MAX_TEXT))
        found = (fstab.place_of(each.mount_point) for each in entries if not each.is_swap)
        return [each for each in found if each is not None]

    def check_boot(self) -> None:
        """Refuse a guest whose /boot is mounted nowhere: backups would lie below its mount point.

        Raises RefusedError.
        """
        if "boot" in dict(self.absent):
            raise RefusedError(
                f"/boot of {self.root_directory} is a file system of its own, by the guest's fstab;"
                " name where it is mounted with --boot"
            )

    @property
    def uuids(self) -> dict[str, str]:
        """UUIDs of the file systems that are mounted here, by their mount points in the guest."""
        known = {
            link.stat().st_rdev: link.name
            for link in Path("/dev/disk/by-uuid").glob("*")
            if link.exists()
        }
        found = {
            f"/{mount}": known.get(self._directory(where).stat().st_dev)
            for mount, where in self.mounts
        }
        return {mount: uuid for mount, uuid in found.items() if uuid is not None}

    def _directory(self, where: Where) -> Path:
        """Give where a volume is mounted. Raises RefusedError for one that is not."""
        if where == "boot" and self.boot_directory is not None:
            return self.boot_directory
        others = {where_of(point): directory for point, directory in self.others}
        if where in others:
            return others[where]
        if where not in {"root", "boot"}:
            point = where.removeprefix("./")
            raise RefusedError(
                f"/{point} of the guest is not mounted here; name its directory with"
                f" {_option_of(point)}"
            )
        return self.root_directory

    def read(self, where: Where) -> Tree:
        """Open a volume for reading."""
        return Tree(self._directory(where))

    @contextlib.contextmanager
    def write(self, where: Where) -> Iterator[WritableTree]:
        """Open a volume for writing; everything is on the disk when it closes."""
        directory = self._directory(where)
        with WritableTree(directory) as tree:
            yield tree
            settle(directory)

    def payload(self) -> Tree:
        """Open the payload for reading."""
        folders = dict(self.recipe_folders)
        if self.payload_directory is None and not folders:
            raise InvalidRequestError("name the payload's directory with --payload")
        root = self.payload_directory or next(iter(folders.values()))
        return PayloadFolders(root, folders)

    def name(self, where: Where) -> str:
        """Name a volume by its directory. Raises RefusedError for one that is not mounted."""
        return str(self._directory(where))


def _option_of(point: str) -> str:
    return "--boot" if point == "boot" else f"--mount /{point}=DIR"


def settle(directory: Path) -> None:
    """Write a file system's data and its journal to their places.

    GRUB reads a disk without replaying the journal, so a mounted file system is frozen for an
    instant, which empties it. Not the running system's own root: a process killed in that instant
    would leave it frozen.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(fd) != 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), str(directory))
        if os.fstat(fd).st_dev != Path("/").stat().st_dev and os.path.ismount(directory):
            _freeze_for_an_instant(fd)
    finally:
        os.close(fd)


def _freeze_for_an_instant(fd: int) -> None:
    """Freeze a file system and thaw it, in a process of its own.

    Were this one killed or interrupted in between, whatever writes there next would wait for ever.
    """
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        os.setsid()  # out of reach of the terminal's signals
        with contextlib.suppress(OSError):  # not every file system can be frozen
            fcntl.ioctl(fd, _FIFREEZE, 0)
            fcntl.ioctl(fd, _FITHAW, 0)
    finally:
        os._exit(0)  # the parent's work must not go on here, too


def make_plan(
    trees: Trees,
    grub_root: str | None,
    options: Options,
    requests: Sequence[Request] = (Request(),),
) -> Plan:
    """Read the mounted trees and decide. Raises RefusedError, InvalidRequestError."""
    trees.check()
    options.check()
    has_shim = any(map(is_shim, requests))
    guest = _read(trees, grub_root) if has_shim else None
    if guest is not None and all(map(is_shim, requests)):
        plan = hyperv_shim.plan(guest, options)
        check_plan_growth(plan, trees)
        return plan
    trees.check_boot()
    with contextlib.ExitStack() as stack:
        payload = None
        if any(each.directory is not None for each in requests):
            payload = stack.enter_context(trees.payload())
        plan = plan_sequence(requests, trees, guest, payload, options)
    _check_writable(plan, trees)
    check_plan_growth(plan, trees)
    return plan


def _check_writable(plan: Plan, trees: Trees) -> None:
    """Refuse to change what is mounted read-only. Raises RefusedError."""
    changed = {target.where for step in plan.steps for target in targets(step)}
    for where in sorted({*changed, "boot"} if changed else ()):
        with trees.read(where) as mounted:
            if mounted.room().read_only:
                raise RefusedError(
                    f"{trees.name(where)} is mounted read-only; mount it for writing to change it"
                )


def graft(trees: Trees, plan: Plan, progress: Progress) -> Outcome:
    """Carry out a plan on the mounted trees."""
    return apply_plan(plan, trees, new_run_id(), progress)


def undo(trees: Trees, run_id: str | None, progress: Progress) -> Outcome:
    """Roll the latest graft back, or the one named."""
    trees.check()
    return roll_back(f"{trees.boot_prefix}{BACKUPS}", trees, run_id, progress)


def new_run_id() -> str:
    """Give an id that names a run by its time."""
    now = datetime.datetime.now(tz=datetime.UTC)
    return f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"


def _read(trees: Trees, grub_root: str | None) -> Guest:
    if trees.payload_directory is None:
        raise InvalidRequestError("name the payload's directory with --payload")
    with trees.read("boot") as boot_tree, trees.read("root") as root_tree:
        directory = _boot_directory(trees, boot_tree)
        boot = read_boot(boot_tree, trees.name("boot"), directory, menu_is_embedded=False)
        bios, warnings = _bios_device(grub_root, boot.menu.content, boot.saved_default)
        kernels = read_kernels(boot_tree, boot, root_tree)
        with trees.payload() as payload_tree:
            payload = read_payload(payload_tree, str(trees.payload_directory))
        return Guest(
            boot=boot,
            bios=bios,
            hd_names=_HD_NAMES,
            hd_names_assumed=True,
            kernels=kernels,
            root=read_root(root_tree, trees.name("root")),
            root_problem=None,
            payload=payload,
            payload_problem=None,
            existing=read_existing(boot_tree, boot, payload),
            initrd_drivers=read_initrd_drivers(boot_tree, boot, kernels),
            read_only=tuple(
                str(tree.root) for tree in (boot_tree, root_tree) if tree.room().read_only
            ),
            warnings=warnings,
        )


def _boot_directory(trees: Trees, tree: Tree) -> BootDirectory:
    prefix = "" if trees.boot_directory is not None else "boot/"
    found = [each for each in find_boot_directories(tree) if each.prefix == prefix]
    if not found:
        raise RefusedError(
            f"{trees.name('boot')}: no GRUB legacy files in /{prefix}grub; name the mounted boot"
            " partition with --boot"
        )
    return found[0]


def _bios_device(
    grub_root: str | None, menu: bytes, saved_default: int
) -> tuple[grub.Device, tuple[str, ...]]:
    """Give the device for the new entry's `root`: as asked for, or as the default entry has it."""
    if grub_root is not None:
        device = grub.parse_device(grub_root.encode())
        if device is None or device.partition is None:
            raise InvalidRequestError(f"--grub-root takes a partition as (hd0,0), not {grub_root}")
        return device, ()
    default = grub.parse_menu(menu).boot_entry(saved_default)
    for command in default.commands if default else ():
        is_root = command.name in {b"root", b"rootnoverify"}
        device = grub.parse_device(command.argument) if is_root else None
        if device is not None and device.partition is not None:
            return device, ()
    return grub.Device(0, 0), ("the default entry names no root; (hd0,0) is taken: --grub-root",)
