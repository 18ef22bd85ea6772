"""Disks of Linux guests on LVM and btrfs, small and with few files: enough to be looked for.

LVM's metadata is written by its own tools, which here start nothing: a file system is written to
where its logical volume begins.
"""

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vm.commands import run

MIB = 1 << 20
SECTOR = 512
PARTITION_AT = MIB  # bytes
EXTENT = MIB
# Without device-mapper, files of LVM's own, and disks of this machine.
LVM_CONFIGURATION = 'backup { backup=0 archive=0 } devices { hints="none" use_devicesfile=0 }'

OS_RELEASE = 'NAME="Debian GNU/Linux"\nID=debian\nVERSION_ID="13"\nPRETTY_NAME="Debian 13"\n'
Files = dict[str, str]


@dataclass(frozen=True, slots=True)
class Volume:
    """A logical volume to make: its size in MiB, and its files; None: swap space."""

    name: str
    size: int
    files: Files | None
    kind: str = "ext4"
    uuid: str | None = None


def root_files(fstab: str) -> Files:
    """Give the files of a small root file system."""
    return {
        "etc/fstab": fstab,
        "etc/os-release": OS_RELEASE,
        "etc/hostname": "small\n",
        "usr/bin/true": "#!/bin/sh\n",
        "boot/grub/grub.cfg": "set default=0\n",
        "home/.keep": "",
    }


def make_lvm_disk(disk: Path, group: str, volumes: Sequence[Volume]) -> Path:
    """Make a disk with one partition, a physical volume with a group of its own."""
    size = sum(volume.size for volume in volumes) + 4
    _partition(disk, size, "8e")
    with loop_device(disk, PARTITION_AT, size * MIB) as loop:
        lvm("pvcreate", loop, "--yes", loop)
        lvm("vgcreate", loop, "--physicalextentsize", f"{EXTENT}b", group, loop)
        for volume in volumes:
            flags = ["--yes", "--activate=n", "--zero=n", "--wipesignatures=n"]
            lvm("lvcreate", loop, *flags, "-L", f"{volume.size}m", "-n", volume.name, group)
        starts = _read_starts(loop)
    for volume in volumes:
        offset = PARTITION_AT + starts[volume.name]
        if volume.files is None:
            _write_swap(disk, offset, volume.size * MIB)
        else:
            _write_ext(disk, offset, volume)
    return disk


def _read_starts(loop: str) -> dict[str, int]:
    """Give where each logical volume of one piece begins in its physical volume, in bytes."""
    report = ("--reportformat", "json", "--units", "b", "--nosuffix")
    (member,) = json.loads(lvm("pvs", loop, *report, "-o", "pe_start"))["report"][0]["pv"]
    rows = json.loads(lvm("lvs", loop, *report, "-o", "lv_name,devices"))["report"][0]["lv"]
    extents = {row["lv_name"]: int(row["devices"].partition("(")[2].rstrip(")")) for row in rows}
    return {name: int(member["pe_start"]) + EXTENT * number for name, number in extents.items()}


def lvm(command: str, loop: str, *arguments: str) -> str:
    """Run a command of LVM's on one device, without device-mapper."""
    return run(
        [
            *("env", "LVM_SYSTEM_DIR=", "LVM_SUPPRESS_FD_WARNINGS=1", "lvm", command),
            *("--driverloaded", "n", "--config", LVM_CONFIGURATION, "--devices", loop),
            *arguments,
        ]
    ).stdout


def _write_ext(disk: Path, offset: int, volume: Volume) -> None:
    tree = disk.with_name(f"{disk.name}.{volume.name}")
    write_files(tree, volume.files or {})
    options = ["-E", f"offset={offset},root_owner=0:0"]
    if volume.uuid:
        options += ["-U", volume.uuid]
    kind = ["-q", "-F", "-t", volume.kind]
    run(["mke2fs", *kind, *options, "-d", tree, disk, f"{volume.size}M"])


def _write_swap(disk: Path, offset: int, size: int) -> None:
    with loop_device(disk, offset, size) as loop:
        run(["mkswap", "-q", loop])


def make_btrfs_disk(
    disk: Path, uuid: str, subvolumes: Mapping[str, Files], *, default: str | None = None
) -> Path:
    """Make a disk with one partition, a btrfs with these subvolumes."""
    size = 120
    _partition(disk, size, "83")
    with loop_device(disk, PARTITION_AT, size * MIB) as loop:
        run(["mkfs.btrfs", "-q", "-U", uuid, loop])
        with mounted(loop) as top:
            for name, files in subvolumes.items():
                run(["btrfs", "subvolume", "create", top / name])
                write_files(top / name, files)
            if default is not None:
                run(["btrfs", "subvolume", "set-default", top / default])
    return disk


def _partition(disk: Path, size: int, kind: str) -> None:
    """Make a disk with one partition of so many MiB."""
    with disk.open("wb") as image:
        image.truncate(PARTITION_AT + (size + 1) * MIB)
    line = f"start={PARTITION_AT // SECTOR}, size={size * MIB // SECTOR}, type={kind}\n"
    run(["sfdisk", "--quiet", disk], stdin=f"label: dos\n{line}")


def write_files(folder: Path, files: Files) -> None:
    """Write text files below a folder."""
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content)


@contextlib.contextmanager
def loop_device(image: Path, offset: int, size: int, *, to_read: bool = False) -> Iterator[str]:
    """Have a part of an image as a block device."""
    part = [f"--offset={offset}", f"--sizelimit={size}", *(["--read-only"] if to_read else ())]
    device = run(["losetup", "--find", "--show", *part, image]).stdout.strip()
    try:
        yield device
    finally:
        run(["losetup", "--detach", device])


@contextlib.contextmanager
def mounted(device: str, *options: str) -> Iterator[Path]:
    """Have a file system mounted."""
    place = Path(device.replace("/dev/", "/run/bootgraft-test-"))
    place.mkdir()
    try:
        run(["mount", "-o", "nosuid,nodev,noexec", *options, device, place])
        try:
            yield place
        finally:
            run(["umount", place])
    finally:
        place.rmdir()


@dataclass(frozen=True, slots=True)
class FileState:
    """A file, directory or link with all that a rollback brings back.

    `content` is a SHA-256 or a link's text; `changed` is its time in ns, None for a directory.
    """

    mode: int
    owner: tuple[int, int]
    links: int
    attributes: tuple[tuple[str, bytes], ...]
    changed: int | None
    content: str


def read_volume(disk: Path, offset: int, kind: str) -> dict[str, FileState]:
    """Read all files of a file system by their paths; it is mounted for that, read-only."""
    options = ("-o", "subvolid=5") if kind == "btrfs" else ()
    with (
        loop_device(disk, offset, disk.stat().st_size - offset, to_read=True) as loop,
        mounted(loop, *options) as top,
    ):
        return {
            str(path.relative_to(top)): _read_state(path)
            for path in sorted(top.rglob("*"))
            if path.name != "lost+found"
        }


def _read_state(path: Path) -> FileState:
    status = path.lstat()
    content = ""
    if stat.S_ISLNK(status.st_mode):
        content = str(path.readlink())
    elif stat.S_ISREG(status.st_mode):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
    is_directory = stat.S_ISDIR(status.st_mode)
    names = os.listxattr(path, follow_symlinks=False)
    return FileState(
        status.st_mode,
        (status.st_uid, status.st_gid),
        1 if is_directory else status.st_nlink,  # a directory of btrfs has 1, of others many
        tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in sorted(names)),
        None if is_directory else status.st_mtime_ns,
        content,
    )
