"""Mounting a guest's file systems in the live system: to look, through a view; to write.

Looking changes nothing: a disk is set read-only, and its file system is mounted from a view of it.
That is a loop device that refuses writes where the file system was left clean; else a snapshot of
device-mapper whose changes go to memory, so that even the replay of a dirty journal stays there.

Sources: Linux, include/uapi/linux/{fs,loop,mount}.h, Documentation/admin-guide/device-mapper/
snapshot.rst; ext4's superblock: Documentation/filesystems/ext4/super.rst.
"""

import contextlib
import ctypes
import errno
import fcntl
import logging
import os
import secrets
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bootgraft_agent.errors import BootgraftError, RefusedError

_log = logging.getLogger(__name__)

WORK = Path("/run/bootgraft")
SNAPSHOT_SIZE = 256 * 1024 * 1024  # bytes; the file is sparse, only changes take memory
COMMAND_TIMEOUT = 60.0  # seconds
CHECK_TIMEOUT = 900.0
FULL_CHECK_LIMIT = 4 * 1024**3  # bytes; a larger file system is not walked through whole

# For dmsetup: it does not wait until udev's rules have run, which would make links and no more.
_WITHOUT_UDEV = ("--noudevrules", "--noudevsync")
_BLKROSET = 0x125D
_BLKGETSIZE64 = 0x80081272
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_LOOP_CONFIGURE, _LOOP_CLR_FD, _LOOP_CTL_GET_FREE = 0x4C0A, 0x4C01, 0x4C82
# struct loop_config: the file, lo_flags, and 0 for all else.
_LOOP_CONFIG = struct.Struct("=I56xI240x")
_LO_FLAGS_READ_ONLY, _LO_FLAGS_DIRECT_IO = 1, 16
_LOOP_CONTROL = Path("/dev/loop-control")
_LOOP_TRIES = 8
_SAFE = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC

# The kernel's driver and its options, by what udev calls the file system. An error in it must
# never stop the live system, and nothing is initialised in passing.
_EXT = ("ext4", "errors=remount-ro,noinit_itable")
_DRIVERS = {
    "ext2": _EXT,
    "ext3": _EXT,
    "ext4": _EXT,
    "xfs": ("xfs", "nouuid"),
    "btrfs": ("btrfs", ""),
    "reiserfs": ("reiserfs", ""),
    "jfs": ("jfs", ""),
    "iso9660": ("iso9660", ""),
    "udf": ("udf", ""),
    "vfat": ("vfat", ""),
}
DISK_FILE_SYSTEMS = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "reiserfs", "jfs"})
# A guest may have these, too, but not its root.
GUEST_FILE_SYSTEMS = DISK_FILE_SYSTEMS | {"vfat"}
DVD_FILE_SYSTEMS = ("iso9660", "udf")
STICK_FILE_SYSTEMS = frozenset({*DVD_FILE_SYSTEMS, "vfat"})


class CommandError(BootgraftError):
    """A program failed; the message has its arguments, status and output."""


def run(
    argv: Sequence[str],
    timeout: float = COMMAND_TIMEOUT,
    *,
    good: int = 0,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a program without a terminal; give its output. Raises CommandError.

    `good` is the highest exit status that is no failure; `environment` is added to ours.
    """
    _log.debug("running %s", argv)
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
            text=True,
            errors="backslashreplace",
            env=None if environment is None else {**os.environ, **environment},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CommandError(f"cannot run {' '.join(argv)}: {error}") from error
    if not 0 <= done.returncode <= good:
        output = (done.stdout + done.stderr).strip()[-2000:]
        raise CommandError(f"{' '.join(argv)} ended with status {done.returncode}: {output}")
    return done.stdout


def set_read_only(device: Path, *, read_only: bool) -> None:
    """Let the kernel refuse, or take, writes to a disk or partition."""
    fd = os.open(device, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _BLKROSET, struct.pack("i", read_only))
    finally:
        os.close(fd)


@contextlib.contextmanager
def snapshot(device: Path) -> Iterator[Path]:
    """Give a device with the same content whose changes go to memory, and vanish.

    udev is not waited for: it has nothing to say of a snapshot, and the kernel makes the node.
    """
    WORK.mkdir(mode=0o700, exist_ok=True)
    name = f"bootgraft-{secrets.token_hex(4)}"
    with _memory_device() as changes:
        table = f"0 {_size(device) // 512} snapshot {device} {changes} N 8"
        run(["dmsetup", "create", name, *_WITHOUT_UDEV, "--table", table])
        try:
            yield _find_mapped(name)
        finally:
            run(["dmsetup", "remove", "--retry", *_WITHOUT_UDEV, name])


def _find_mapped(name: str) -> Path:
    """Find the kernel's own node of a device of device-mapper."""
    for path in Path("/sys/block").glob("dm-*/dm/name"):
        if path.read_text(encoding="utf-8").strip() == name:
            return Path("/dev") / path.parent.parent.name
    raise RefusedError(f"the kernel has no device {name} a moment after dmsetup has made it")


@contextlib.contextmanager
def view(device: Path) -> Iterator[Path]:
    """Give a device to look at a file system, as it is after its journal; the disk is not written.

    A snapshot takes programs and drivers that a clean file system does not need.
    """
    superblock = read_ext_superblock(device)
    is_clean = superblock is not None and superblock.is_clean
    with _read_only_loop(device) if is_clean else snapshot(device) as copy:
        yield copy


@contextlib.contextmanager
def _read_only_loop(device: Path) -> Iterator[Path]:
    """Give a loop device of another device; it ends writes with an error, whoever makes them.

    It reads around the memory that holds parts of the other device: they may be older than what a
    file system has written there since.
    """
    source = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        loop, fd = _attach_loop(source, _LO_FLAGS_READ_ONLY | _LO_FLAGS_DIRECT_IO)
    finally:
        os.close(source)
    try:
        yield loop
    finally:
        fcntl.ioctl(fd, _LOOP_CLR_FD)
        os.close(fd)


@contextlib.contextmanager
def views() -> Iterator[Callable[[Path], Path]]:
    """Give what makes views, one of each device however often it is asked for."""
    with contextlib.ExitStack() as stack:
        made: dict[Path, Path] = {}

        def make(device: Path) -> Path:
            if device not in made:
                made[device] = stack.enter_context(view(device))
            return made[device]

        yield make


@contextlib.contextmanager
def _memory_device() -> Iterator[Path]:
    """Give a block device of SNAPSHOT_SIZE whose content is in memory, as far as it is written."""
    with tempfile.TemporaryFile(dir=WORK) as file:
        file.truncate(SNAPSHOT_SIZE)
        loop, fd = _attach_loop(file.fileno(), 0)
    try:
        yield loop
    finally:
        fcntl.ioctl(fd, _LOOP_CLR_FD)
        os.close(fd)


def _attach_loop(file: int, flags: int) -> tuple[Path, int]:
    """Make an open file a block device; give its node, and the node opened.

    A person's losetup may take the free one before us: then the next one is tried.
    """
    config = _LOOP_CONFIG.pack(file, flags)
    tries = _LOOP_TRIES
    while True:
        loop = _free_loop()
        fd = os.open(loop, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, _LOOP_CONFIGURE, config)
        except OSError as error:
            os.close(fd)
            tries -= 1
            if error.errno != errno.EBUSY or tries == 0:
                raise
        else:
            return loop, fd


def _free_loop() -> Path:
    fd = os.open(_LOOP_CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        return Path(f"/dev/loop{fcntl.ioctl(fd, _LOOP_CTL_GET_FREE)}")
    finally:
        os.close(fd)


def _size(device: Path) -> int:
    fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size: int = struct.unpack("Q", fcntl.ioctl(fd, _BLKGETSIZE64, bytes(8)))[0]
    finally:
        os.close(fd)
    return size


@contextlib.contextmanager
def mounted(
    device: Path, fs_type: str, name: str, *, writable: bool = False, subvolume: int | None = None
) -> Iterator[Path]:
    """Mount a file system, nosuid, nodev and noexec, and unmount it; `name` is for people.

    `subvolume` is the number of one of btrfs; without it the default one is mounted. Raises
    RefusedError for a type that is not known here, or where the kernel refuses it.
    """
    if fs_type not in _DRIVERS:
        raise RefusedError(f"{name}: file systems of type {fs_type} are not read")
    driver, options = _DRIVERS[fs_type]
    if subvolume is not None:
        options = f"subvolid={subvolume}"
    WORK.mkdir(mode=0o700, exist_ok=True)
    place = Path(tempfile.mkdtemp(dir=WORK, prefix="mount-"))
    try:
        flags = _SAFE if writable else _SAFE | _MS_RDONLY
        _mount(device, place, driver, flags, options, name)
        try:
            yield place
        finally:
            _unmount(place)
    finally:
        place.rmdir()


def _mount(device: Path, place: Path, driver: str, flags: int, options: str, name: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    done = libc.mount(
        os.fsencode(device),
        os.fsencode(place),
        driver.encode(),
        ctypes.c_ulong(flags),
        options.encode(),
    )
    if done != 0:
        reason = os.strerror(ctypes.get_errno())
        raise RefusedError(
            f"the kernel cannot mount {name} as {driver}: {reason}; its file system may be damaged:"
            " check it in the guest or in a rescue system"
        )


def _unmount(place: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(place), 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), str(place))


@contextlib.contextmanager
def mounted_view(
    device: Path, fs_type: str, name: str, *, subvolume: int | None = None
) -> Iterator[Path]:
    """Mount a file system to look at it, as it is after its journal; the disk is not written."""
    with view(device) as copy, mounted(copy, fs_type, name, subvolume=subvolume) as place:
        yield place


@contextlib.contextmanager
def mounted_dvd(device: Path, name: str) -> Iterator[Path]:
    """Mount a DVD as ISO 9660, or else as UDF. Raises RefusedError where it is neither."""
    with contextlib.ExitStack() as stack:
        for fs_type in DVD_FILE_SYSTEMS:
            with contextlib.suppress(RefusedError):
                place = stack.enter_context(mounted(device, fs_type, name))
                break
        else:
            raise RefusedError(f"{name} holds a DVD that is neither ISO 9660 nor UDF")
        yield place


@contextlib.contextmanager
def mounted_for_writing(
    below: Sequence[Path], device: Path, fs_type: str, name: str, *, subvolume: int | None = None
) -> Iterator[Path]:
    """Mount a file system to write to it; afterwards its journal is empty, and it is read-only.

    `below` are the disks, and of a logical volume the physical ones, that hold the device.
    """
    hold_clock_back(device)
    try:
        for each in (*below, device):
            set_read_only(each, read_only=False)
        with mounted(device, fs_type, name, writable=True, subvolume=subvolume) as place:
            yield place
        _flush(device)
    finally:
        for each in (device, *reversed(below)):
            set_read_only(each, read_only=True)


def _flush(device: Path) -> None:
    fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@dataclass(frozen=True, slots=True)
class ExtSuperblock:
    """What the superblock of an ext2, ext3 or ext4 says of its state."""

    written: int  # seconds since 1970: the last write
    has_errors: bool
    has_dirty_journal: bool
    is_clean: bool  # mounting it finds nothing to do


def read_ext_superblock(device: Path) -> ExtSuperblock | None:
    """Read it; None for another file system."""
    with device.open("rb") as stream:
        stream.seek(1024)
        block = stream.read(1024)
    if len(block) < 1024 or block[0x38:0x3A] != b"\x53\xef":
        return None
    (written,) = struct.unpack_from("<I", block, 0x30)
    (state,) = struct.unpack_from("<H", block, 0x3A)
    (incompatible, read_only_compatible) = struct.unpack_from("<II", block, 0x60)
    (last_orphan,) = struct.unpack_from("<I", block, 0xE8)
    has_dirty_journal = bool(incompatible & 4)
    has_orphans = last_orphan != 0 or bool(read_only_compatible & 0x10000)
    return ExtSuperblock(
        written,
        has_errors=bool(state & 2),
        has_dirty_journal=has_dirty_journal,
        is_clean=state == 1 and not has_dirty_journal and not has_orphans,
    )


def clock_for_write(written: int, now: float) -> float | None:
    """Give the time to set so that a mount is no later than a second after the last write.

    None where the clock is early enough. Distributions of that time stop at boot when a file
    system was last mounted in the future.
    """
    return None if now <= written + 1 else written + 1.0


def hold_clock_back(device: Path) -> None:
    """Set the system's clock, never the RTC, for a write to this file system."""
    superblock = read_ext_superblock(device)
    target = clock_for_write(superblock.written, time.time()) if superblock else None
    if target is not None:
        _log.info("setting the live system's clock to %d for %s", target, device)
        time.clock_settime(time.CLOCK_REALTIME, target)


def check_file_system(device: Path, fs_type: str, name: str) -> None:
    """Check an ext file system on a view of it; raises RefusedError where it is damaged."""
    if not fs_type.startswith("ext"):
        return
    superblock = read_ext_superblock(device)
    if superblock is not None and superblock.has_errors:
        raise RefusedError(_damaged(name, "its superblock records errors"))
    if _size(device) > FULL_CHECK_LIMIT:
        return
    try:
        run(["e2fsck", "-f", "-n", str(device)], CHECK_TIMEOUT)
    except CommandError as error:
        raise RefusedError(_damaged(name, str(error))) from error


def _damaged(name: str, what: str) -> str:
    return f"{name} is damaged: {what}. Repair it with e2fsck first; nothing was changed"
