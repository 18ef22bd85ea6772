"""XFS file systems inside disk images, made without mounting them, as GRUB legacy can read them.

GRUB legacy reads version 4 alone, without checksums (crc=0) and without types in directories
(ftype=0). mkfs.xfs still makes that, and says that it is deprecated; Linux mounts it where it is
built with CONFIG_XFS_SUPPORT_V4, as Debian 13's kernel is.
"""

import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vm.commands import run

LOG_SIZE = 4 << 20  # bytes; about the smallest

_OPTIONS = (
    "--unsupported",  # for a file system of less than 300 MiB
    *("-m", "crc=0,finobt=0,rmapbt=0,reflink=0"),
    *("-i", "size=256,sparse=0,maxpct=0,nrext64=0"),
    *("-n", "version=2,ftype=0"),
    *("-l", f"size={LOG_SIZE}"),
    *("-d", "agcount=1"),
)


@dataclass(frozen=True, slots=True)
class Xfs:
    """A file system that starts `offset` bytes into a raw image."""

    image: Path
    offset: int

    def log_sectors(self) -> range:
        """Give the sectors of the log, counted from the file system's start."""
        with self.image.open("rb") as stream:
            stream.seek(self.offset)
            superblock = stream.read(512)
        block_size = int.from_bytes(superblock[4:8], "big")
        start = int.from_bytes(superblock[48:56], "big")  # in blocks; of the one group here
        blocks = int.from_bytes(superblock[96:100], "big")
        return range(start * block_size // 512, (start + blocks) * block_size // 512)


def make_xfs(image: Path, offset: int, size: int, tree: Path) -> Xfs:
    """Make a file system of `size` bytes, at least 16 MiB, with a copy of a folder, all root's."""
    with tempfile.TemporaryDirectory(dir=image.parent) as scratch:
        volume, prototype = Path(scratch, "volume"), Path(scratch, "prototype")
        volume.touch()
        os.truncate(volume, size)
        prototype.write_text("/\n0 0\n" + "\n".join(_describe(tree)) + "\n")
        run(["mkfs.xfs", "-q", "-f", *_OPTIONS, "-p", prototype, volume])
        with image.open("r+b") as stream:
            stream.seek(offset)
            stream.write(volume.read_bytes())
    return Xfs(image, offset)


def find_xfs(image: Path, offset: int) -> Xfs | None:
    """Give the file system that begins there, if it is XFS."""
    with image.open("rb") as stream:
        stream.seek(offset)
        return Xfs(image, offset) if stream.read(4) == b"XFSB" else None


def _describe(folder: Path) -> Iterator[str]:
    """Describe a folder as mkfs.xfs's prototype: its own mode, its members, `$`."""
    yield f"d--{folder.stat().st_mode & 0o777:03o} 0 0"
    yield from _describe_members(folder)
    yield "$"


def _describe_members(folder: Path) -> Iterator[str]:
    for path in sorted(folder.iterdir()):
        status = path.lstat()
        mode = f"{stat.S_IMODE(status.st_mode):03o}"
        if stat.S_ISLNK(status.st_mode):
            yield f"{path.name} l--{mode} 0 0 {path.readlink()}"
        elif stat.S_ISDIR(status.st_mode):
            yield f"{path.name} d--{mode} 0 0"
            yield from _describe_members(path)
            yield "$"
        else:
            yield f"{path.name} ---{mode} 0 0 {path}"
