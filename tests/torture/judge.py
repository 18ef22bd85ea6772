"""What a disk must be at any moment of a graft or a rollback: old or new, and never torn.

As GRUB sees it, whose own code reads the disk as it is; and as the guest sees it, once its journal
is replayed.
"""

import re
import shutil
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

Side = Literal["old", "new"]

_BOOT, _ROOT = "(hd0,0)/", "(hd0,1)/"
_MENU = _BOOT + MENU
_STAGE2 = f"{_BOOT}grub/stage2"
# Files that are edited, but that GRUB does not read when it boots.
_EDITED = (f"{_BOOT}grub/device.map", *(_ROOT + path for path in ROOT_FILES))
BOOT_TIMEOUT = 120.0  # seconds
_FIXED = {0, 1}  # e2fsck: no errors, or all corrected


@dataclass(frozen=True, slots=True)
class Judge:
    """Knows the disk before and after a graft."""

    old: Mapping[str, bytes | None]
    new: Mapping[str, bytes | None]
    kind: str

    def as_grub_reads_it(self, image: Path) -> Side:
        """Say which menu GRUB finds; AssertionError unless it and all that it names are whole."""
        return self._read(image, ())[0]

    def as_the_guest_finds_it(self, image: Path, copy: Path) -> Side:
        """Replay the journals, on a copy, and judge that; give which menu there is."""
        shutil.copyfile(image, copy)
        repair(copy, self.kind)
        side, found = self._read(copy, _EDITED)
        for path in _EDITED:
            if found[path] not in (self.old[path], self.new[path]):
                raise AssertionError(
                    f"{path} is neither the old one nor the new: {_show(found[path])}"
                )
            if side == "new" and found[path] != self.new[path]:
                raise AssertionError(f"the menu is the new one, and {path} is not")
        return side

    def _read(self, image: Path, more: Sequence[str]) -> tuple[Side, dict[str, bytes | None]]:
        """Check the menu, what it names and GRUB itself; give what else was read, too."""
        paths = [_MENU, _STAGE2, *named_files(self.old[_MENU] or b""), *more]
        found = dict(zip(paths, read_files(image, paths), strict=True))
        menu = found[_MENU]
        side: Side = "old" if menu == self.old[_MENU] else "new"
        wanted = self.old if side == "old" else self.new
        if menu is None or menu != wanted[_MENU]:
            raise AssertionError(f"GRUB's menu is neither the old one nor the new: {_show(menu)}")
        named = [_STAGE2, *named_files(menu)]
        others = [path for path in named if path not in found]
        if others:
            found |= zip(others, read_files(image, others), strict=True)
        for path in named:
            if found[path] is None or found[path] != wanted[path]:
                raise AssertionError(
                    f"the {side} menu needs {path}, which is {_show(found[path])}, not"
                    f" {_show(wanted[path])}"
                )
        return side, found


def _show(content: bytes | None) -> str:
    return "not there" if content is None else f"{len(content)} bytes, {content[:60]!r}…"


def named_files(menu: bytes) -> list[str]:
    """Give GRUB's names of the files that a menu's entries load."""
    return [
        f"{_BOOT}{command.argument.split()[0].decode().lstrip('/')}"
        for entry in grub.parse_menu(menu).entries
        for command in entry.commands
        if command.name in {b"kernel", b"module", b"initrd"}
    ]


def read_disk(image: Path) -> dict[str, bytes | None]:
    """Read all files of an appliance that a graft may have to do with, by their GRUB names."""
    (menu,) = read_files(image, [_MENU])
    paths = [_STAGE2, *_EDITED, *named_files(menu or b"")]
    return {_MENU: menu} | dict(zip(paths, read_files(image, paths), strict=True))


def repair(image: Path, kind: str) -> None:
    """Do what a guest does when it boots: replay a journal, or check a file system without one.

    Without a journal a check may find more than it mends unasked; people then answer yes.
    """
    options = ("-f", "-y") if kind == "ext2" else ("-p",)
    with tempfile.TemporaryDirectory(dir=image.parent) as scratch:
        for offset in OFFSETS:
            volume = cut_out(image, offset, Path(scratch, str(offset)))
            _check(volume, options, _FIXED)
            with image.open("r+b") as stream:
                stream.seek(offset)
                stream.write(volume.read_bytes())


def check_whole(image: Path) -> None:
    """Check both file systems without writing; AssertionError for anything that e2fsck finds."""
    with tempfile.TemporaryDirectory(dir=image.parent) as scratch:
        for offset in OFFSETS:
            _check(cut_out(image, offset, Path(scratch, str(offset))), ("-f", "-n"), {0})


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
