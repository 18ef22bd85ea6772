"""Machines with the demo appliance that boot the live ISO without a controller."""

import fcntl
import hashlib
import os
import shutil
import struct
import termios
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bootgraft_agent.parameters import Mode
from bootgraft_host.customise import BootChanges, customise_iso
from image.live_boot import ide_dvd
from vm.boots import Boot
from vm.commands import run
from vm.ext3 import Ext3
from vm.payload import good_files, write_files

MEMORY = 256  # MiB
EMPTY_DRIVE = ("-drive", "if=none,id=second", "-device", "ide-cd,bus=ide.1,unit=1,drive=second")


def make_iso(
    live_iso: Path,
    folder: Path,
    mode: Mode,
    *options: str,
    with_payload: bool = False,
    menu_time: int = 0,
) -> Path:
    """Make a copy of the live ISO that starts in a mode, at once."""
    payload = None
    if with_payload:
        payload = folder / "payload"
        write_files(payload, good_files())
    iso = folder / f"{mode}.iso"
    words = [f"bootgraft.{option}" for option in options]
    customise_iso(live_iso, iso, BootChanges(menu_time, mode, words), payload)
    return iso


def boot_console(
    disk: Path,
    iso: Path,
    *more: str,
    com1: Path | None = None,
    has_com1: bool = True,
    disk_format: str = "vpc",
) -> Boot:
    """Start a machine with a disk, primary master, that is written to, and a DVD, secondary."""
    drive = f"if=none,id=disk,file={disk},format={disk_format}"
    arguments = ["-drive", drive, "-device", "ide-hd,bus=ide.0,unit=0,drive=disk"]
    arguments += [*ide_dvd(iso, 2, "bootindex=1"), *more]
    return Boot(arguments, MEMORY, com1=com1, has_com1=has_com1)


def with_payload_dvd(payload_iso: Path) -> Sequence[str]:
    """Give the arguments for a second DVD drive with the payload."""
    return ide_dvd(payload_iso, 3)


@contextmanager
def never_reading(com1: Path) -> Iterator[Callable[[], bool]]:
    """Be a client of COM1 that reads nothing, in place before the machine starts.

    Gives what tells whether all room for unread bytes is taken, so that the port is stuck.
    """
    for end in ("in", "out"):
        os.mkfifo(f"{com1}.{end}")
    fd = os.open(f"{com1}.out", os.O_RDONLY | os.O_NONBLOCK)
    size = fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, 4096)

    def is_stuck() -> bool:
        unread = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))[0]
        return bool(unread == size)

    try:
        yield is_stuck
    finally:
        os.close(fd)


def boot_file_system(disk: Path, folder: Path, offset: int) -> Ext3:
    """Give the boot file system of an appliance's disk, from a raw copy of it."""
    raw = folder / "raw.img"
    run(["qemu-img", "convert", "-U", "-f", "vpc", "-O", "raw", disk, raw])
    return Ext3(raw, offset)


def copy_of(disk: Path, folder: Path) -> Path:
    """Copy a disk."""
    return Path(shutil.copyfile(disk, folder / "appliance.vhd"))


def hash_file(path: Path) -> str:
    """Return a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
