"""What a disk must be at any moment of a graft or a rollback: old or new, and never torn.

As GRUB sees it, whose own code reads the disk as it is; and as the guest sees it, once its journal
is replayed.
"""

import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bootgraft_agent import grub
from torture.small_appliance import BOOTED, MENU, OFFSETS, ROOT_FILES, SIZE
from vm.boots import boot_disk
from vm.commands import ENVIRONMENT
from vm.demo import ERROR_13
from vm.grub_files import read_files

BOOT_TIMEOUT = 120.0  # seconds

Side = Literal["old", "new"]
Files = Mapping[str, bytes | None]  # by path; None where there is none

_STAGE2 = "/grub/stage2"
_DEVICE_MAP = "/grub/device.map"
_MENU = f"/{MENU}"
ROOT_PATHS = tuple(f"/{path}" for path in ROOT_FILES)
_FIXED = {0, 1}  # e2fsck: no errors, or all corrected


@dataclass(frozen=True, slots=True)
class Contents:
    """A disk's files: as GRUB reads them (unpacked), and as the guest does."""

    by_grub: Files
    boot: Files
    root: Files


@dataclass(frozen=True, slots=True)
class Judge:
    """Knows the disk before and after a graft, and the kind of its file systems."""

    old: Contents
    new: Contents
    kind: str

    def as_grub_reads_it(self, image: Path) -> Side:
        """Say which menu GRUB finds; AssertionError unless it and all that it names are whole."""
        found = _read_by_grub(image, [_MENU, *_needed(self.old.by_grub)])
        side: Side = "old" if found[_MENU] == self.old.by_grub[_MENU] else "new"
        wanted = self._contents(side).by_grub
        more = [path for path in _needed(wanted) if path not in found]
        if found[_MENU] == wanted[_MENU] and more:
            found |= _read_by_grub(image, more)
        _check_menu(found, wanted, side, _needed(wanted))
        return side

    def as_the_guest_finds_it(self, image: Path) -> Side:
        """Replay the journals, on copies, and judge that; give which menu there is."""
        return self.judge_guest(self.read_boot(image), self.read_root(image))

    def read_boot(self, image: Path) -> Files:
        """Read what matters of the boot volume after a replay of its journal."""
        return _read_volume(image, 0, self.kind, tuple(self.new.boot))

    def read_root(self, image: Path) -> Files:
        """Read what matters of the root file system after a replay of its journal."""
        return _read_volume(image, 1, self.kind, tuple(self.new.root))

    def judge_guest(self, boot: Files, root: Files) -> Side:
        """Say which menu there is; AssertionError unless each file is whole, and they fit."""
        side: Side = "old" if boot[_MENU] == self.old.boot[_MENU] else "new"
        contents = self._contents(side)
        _check_menu(boot, contents.boot, side, _needed(contents.by_grub))
        for path in (_DEVICE_MAP, *ROOT_PATHS):
            files, name = (root, "root") if path in ROOT_PATHS else (boot, "boot")
            old, new = getattr(self.old, name)[path], getattr(self.new, name)[path]
            if files[path] not in (old, new):
                raise AssertionError(
                    f"{path} is neither the old one nor the new: {_show(files[path])}"
                )
            if side == "new" and files[path] != new:
                raise AssertionError(f"the menu is the new one, and {path} is not")
        return side

    def _contents(self, side: Side) -> Contents:
        return self.old if side == "old" else self.new


def _check_menu(found: Files, wanted: Files, side: Side, needed: Sequence[str]) -> None:
    if found[_MENU] is None or found[_MENU] != wanted[_MENU]:
        raise AssertionError(f"the menu is neither the old one nor the new: {_show(found[_MENU])}")
    for path in needed:
        if found[path] is None or found[path] != wanted[path]:
            raise AssertionError(
                f"the {side} menu needs {path}, which is {_show(found[path])}, not"
                f" {_show(wanted[path])}"
            )


def _show(content: bytes | None) -> str:
    return "not there" if content is None else f"{len(content)} bytes, {content[:16]!r}…"


def _needed(files: Files) -> list[str]:
    """Give what GRUB loads: its own second stage, and the files of the menu's entries."""
    return [_STAGE2, *named_files(files[_MENU] or b"")]


def named_files(menu: bytes) -> list[str]:
    """Give the paths of the files that a menu's entries load."""
    return [
        command.argument.split()[0].decode()
        for entry in grub.parse_menu(menu).entries
        for command in entry.commands
        if command.name in {b"kernel", b"module", b"initrd"}
    ]


def read_contents(image: Path, kind: str) -> Contents:
    """Read all files of a small appliance that a graft may have to do with."""
    by_grub = read_by_grub(image)
    return Contents(
        by_grub,
        _read_volume(image, 0, kind, boot_paths(by_grub)),
        _read_volume(image, 1, kind, ROOT_PATHS),
    )


def read_by_grub(image: Path) -> dict[str, bytes | None]:
    """Read the menu and all that it names by GRUB's own code."""
    menu = _read_by_grub(image, [_MENU])
    return _read_by_grub(image, list(dict.fromkeys([_MENU, *_needed(menu)])))


def boot_paths(by_grub: Files) -> tuple[str, ...]:
    """Give the paths of the files on the boot volume that matter."""
    return (*by_grub, _DEVICE_MAP)


def _read_by_grub(image: Path, paths: Sequence[str]) -> dict[str, bytes | None]:
    return dict(zip(paths, read_files(image, [f"(hd0,0){path}" for path in paths]), strict=True))


def _read_volume(image: Path, number: int, kind: str, paths: Sequence[str]) -> Files:
    """Repair a copy of a file system as a guest does when it boots, and read files of it."""
    with tempfile.TemporaryDirectory(dir=image.parent) as scratch:
        volume = cut_out(image, OFFSETS[number], Path(scratch, "volume"))
        _check(volume, _repair_options(kind), _FIXED)
        copies = {path: Path(scratch, str(place)) for place, path in enumerate(paths)}
        requests = "".join(f"dump {path} {copy}\n" for path, copy in copies.items())
        argv = ["debugfs", "-f", "-", str(volume)]
        subprocess.run(
            argv, input=requests, env=ENVIRONMENT, capture_output=True, text=True, check=True
        )
        return {path: copy.read_bytes() if copy.exists() else None for path, copy in copies.items()}


def _repair_options(kind: str) -> tuple[str, ...]:
    """A journal is replayed; without one a check may find more than it mends unasked.

    People then answer yes.
    """
    return ("-f", "-y") if kind == "ext2" else ("-p",)


def repair(image: Path, kind: str) -> None:
    """Repair both file systems of a disk as a guest does when it boots."""
    with tempfile.TemporaryDirectory(dir=image.parent) as scratch:
        for offset in OFFSETS:
            volume = cut_out(image, offset, Path(scratch, "volume"))
            _check(volume, _repair_options(kind), _FIXED)
            with image.open("r+b") as stream:
                stream.seek(offset)
                stream.write(volume.read_bytes())


def check_whole(image: Path) -> None:
    """Check both file systems without writing; AssertionError for anything that e2fsck finds."""
    with tempfile.TemporaryDirectory(dir=image.parent) as scratch:
        for offset in OFFSETS:
            _check(cut_out(image, offset, Path(scratch, "volume")), ("-f", "-n"), {0})


def cut_out(image: Path, offset: int, volume: Path) -> Path:
    """Copy a file system out of a disk: e2fsck forgets an offset once it has replayed a journal."""
    with image.open("rb") as stream:
        stream.seek(offset)
        volume.write_bytes(stream.read(SIZE))
    return volume


def _check(volume: Path, options: Sequence[str], good: set[int]) -> None:
    argv = ["e2fsck", *options, str(volume)]
    done = subprocess.run(argv, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    if done.returncode not in good:
        raise AssertionError(f"{argv[:-1]} ended with status {done.returncode}: {done.stdout}")


def check_boots(image: Path, side: Side) -> None:
    """Boot a disk; the new entry starts the kernel, the old one never could, without Xen.

    Raises BootTimeoutError.
    """
    with boot_disk(image, memory_mib=256) as boot:
        if side == "new":
            boot.wait_for_console(BOOTED, BOOT_TIMEOUT)
        else:
            boot.wait_for_screen(re.escape(ERROR_13), BOOT_TIMEOUT)
