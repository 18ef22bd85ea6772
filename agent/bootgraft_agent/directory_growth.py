"""Whether a directory of ext or XFS can take more names without having to grow.

A directory of ext that grows moves names to another block: one that was a single block becomes a
tree (dir_index), and a full leaf of such a tree is split. Both blocks then reach the disk one after
the other, in any order. GRUB, which does not replay the journal, may find the first without the
second: files are gone for it, or it reads on for ever. A directory without the tree is safe: a
block is added behind the others, and no name moves.

A directory of XFS (version 4, which GRUB reads) lies in its inode, then in one block, then in
several with an index beside them: the same holds from one form to the next, and GRUB counts the
names of the last form by the index.

Sources: Linux, fs/ext4/namei.c (ext4_add_entry, ext4_find_dest_de, make_indexed_dir),
include/uapi/linux/{fs,fiemap}.h, Documentation/filesystems/ext4/directory.rst,
fs/xfs/libxfs/{xfs_format,xfs_da_format}.h; GRUB legacy, stage2/fsys_xfs.c.
"""

import fcntl
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bootgraft_agent.errors import RefusedError
from bootgraft_agent.files import TEMPORARY, Tree

TEMPORARY_NAME = f"{TEMPORARY}01234567"  # as long as those that files.temporary_beside gives

_SUPERBLOCK_OFFSET, _SUPERBLOCK_SIZE = 1024, 1024
_MAGIC = b"\x53\xef"
_DIR_INDEX, _METADATA_CSUM = 0x20, 0x400
_CHECKSUM_ENTRY = 12  # bytes at the end of a block
_MAX_BLOCKS = 4096  # of a directory to look at

_FS_IOC_GETFLAGS = 0x80086601
_INDEXED = 0x1000
_FS_IOC_FIEMAP = 0xC020660B
_FIEMAP = struct.Struct("=QQIIII")  # start, length, flags, mapped, extents that fit, reserved
_EXTENT = struct.Struct("=QQQQQIIII")  # logical, physical, length, reserved, flags, reserved
_EXTENTS = 512
_UNKNOWN, _INLINE = 0x2, 0x200  # flags of an extent
_ENTRY = struct.Struct("<IHB")  # inode, record length, name length


_XFS_MAGIC = b"XFSB"
_XFS_VERSION_4 = 4
_XFS_CORE = 100  # bytes of an inode of version 4 before what is in it
_XFS_BLOCK_MAGIC = b"XD2B"
_XFS_TAIL = struct.Struct(">II")  # names in the block, and those that are stale
_XFS_LEAF_ENTRY = 8
_XFS_GAP = struct.Struct(">HH")  # offset and length; the block's three largest, after its magic
_XFS_GAPS = 4


@dataclass(frozen=True, slots=True)
class _Ext:
    """What matters of a superblock."""

    block_size: int
    dir_index: bool
    usable: int  # bytes of a directory's block that hold names


def check_growth(tree: Tree, directory: str, names: Sequence[str], shown: str) -> None:
    """Refuse to add names to a directory that may have to grow for them; `shown` is its name.

    Says nothing of other file systems than ext2, ext3, ext4 and XFS of version 4, nor where the
    block device cannot be read. Raises RefusedError.
    """
    try:
        grows = _may_grow(tree, directory, names)
    except OSError:
        return
    if grows:
        raise RefusedError(
            f"the directory {shown} has no room for {len(names)} more names; it would have to"
            " grow, and if the power failed just then, GRUB, which does not replay the journal,"
            " could find nothing in it. Remove something there that is not needed, an old kernel"
            " say, then start again; nothing was changed"
        )


def _may_grow(tree: Tree, directory: str, names: Sequence[str]) -> bool:
    with tree.parent(f"{directory}/." if directory else ".") as (fd, _):
        node = _block_device(os.fstat(fd).st_dev)
        if node is None:
            return False
        with node.open("rb", buffering=0) as device:
            superblock = os.pread(device.fileno(), 512, 0)
            if superblock.startswith(_XFS_MAGIC):
                return _may_grow_in_xfs(fd, device.fileno(), superblock, names)
            ext = _read_superblock(device.fileno())
            if ext is None or not ext.dir_index:
                return False
            blocks = _read_blocks(fd, device.fileno(), ext.block_size)
            (flags,) = struct.unpack("=I", fcntl.ioctl(fd, _FS_IOC_GETFLAGS, bytes(8))[:4])
    if blocks is None:
        return False
    if flags & _INDEXED:
        # Which leaf a name belongs to depends on a hash: none may be too full for all of them.
        return not all(fits(block[: ext.usable], names) for block in blocks[1:])
    return len(blocks) == 1 and not fits(blocks[0][: ext.usable], names)


def fits(block: bytes, names: Sequence[str]) -> bool:
    """Say whether a block of a directory takes names, each in the first gap that is long enough."""
    gaps = list(_find_gaps(block))
    for name in names:
        needed = _record_length(len(os.fsencode(name)))
        for number, gap in enumerate(gaps):
            if gap >= needed:
                gaps[number] -= needed
                break
        else:
            return False
    return True


def _find_gaps(block: bytes) -> Iterator[int]:
    """Give the bytes behind each name that no name has."""
    at = 0
    while at + 8 <= len(block):
        inode, length, name_length = _ENTRY.unpack_from(block, at)
        length = min(length or len(block), len(block) - at)  # 0: 64 KiB; damage is not our matter
        yield length - (_record_length(name_length) if inode else 0)
        at += length


def _record_length(name_length: int) -> int:
    return (8 + name_length + 3) & ~3


def _block_device(number: int) -> Path | None:
    """Give the node of the block device that a file system is on; None where it is on none."""
    try:
        text = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/uevent").read_text()
    except FileNotFoundError:
        return None
    words = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    return Path("/dev", words["DEVNAME"]) if "DEVNAME" in words else None


def _read_superblock(device: int) -> _Ext | None:
    block = os.pread(device, _SUPERBLOCK_SIZE, _SUPERBLOCK_OFFSET)
    if len(block) < _SUPERBLOCK_SIZE or block[0x38:0x3A] != _MAGIC:
        return None
    (exponent,) = struct.unpack_from("<I", block, 0x18)
    compatible, _, read_only = struct.unpack_from("<III", block, 0x5C)
    size = 1024 << min(exponent, 6)
    checksum = _CHECKSUM_ENTRY if read_only & _METADATA_CSUM else 0
    return _Ext(size, bool(compatible & _DIR_INDEX), size - checksum)


def _read_blocks(directory: int, device: int, size: int) -> list[bytes] | None:
    """Read a directory's blocks; None where they are nowhere, or too many."""
    request = bytearray(_FIEMAP.pack(0, 2**64 - 1, 0, 0, _EXTENTS, 0))
    request += bytes(_EXTENTS * _EXTENT.size)
    fcntl.ioctl(directory, _FS_IOC_FIEMAP, request)
    mapped = _FIEMAP.unpack_from(request)[3]
    blocks: list[bytes] = []
    for number in range(mapped):
        _, place, length, _, _, flags, *_ = _EXTENT.unpack_from(
            request, _FIEMAP.size + number * _EXTENT.size
        )
        if flags & (_UNKNOWN | _INLINE) or len(blocks) + length // size > _MAX_BLOCKS:
            return None
        content = os.pread(device, length, place)
        blocks += (content[at : at + size] for at in range(0, len(content), size))
    return blocks or None


# XFS


def _may_grow_in_xfs(directory: int, device: int, superblock: bytes, names: Sequence[str]) -> bool:
    (version,) = struct.unpack_from(">H", superblock, 100)
    if version & 15 != _XFS_VERSION_4:
        return False  # GRUB cannot read it
    (block_size,) = struct.unpack_from(">I", superblock, 4)
    (inode_size,) = struct.unpack_from(">H", superblock, 104)
    block_size <<= superblock[192]  # a directory's may be several of the others
    size = os.fstat(directory).st_size
    if size > block_size:
        return True
    if size < block_size:
        attributes = os.listxattr(directory)
        used = sum(len(os.fsencode(name)) + 16 for name in attributes)
        used += sum(len(os.getxattr(directory, name)) for name in attributes)
        # Of a name: its length, a place, an inode number of up to 8 bytes, perhaps a type.
        needed = sum(len(os.fsencode(name)) + 12 for name in names)
        return bool(size + needed > inode_size - _XFS_CORE - used)
    blocks = _read_blocks(directory, device, block_size)
    return blocks is None or not fits_xfs(blocks[0], names)


def fits_xfs(block: bytes, names: Sequence[str]) -> bool:
    """Say whether the one block of a directory takes names in the gap before its index."""
    if not block.startswith(_XFS_BLOCK_MAGIC):
        return False
    count, _ = _XFS_TAIL.unpack_from(block, len(block) - _XFS_TAIL.size)
    index = len(block) - _XFS_TAIL.size - count * _XFS_LEAF_ENTRY
    gaps = [_XFS_GAP.unpack_from(block, _XFS_GAPS + n * _XFS_GAP.size) for n in range(3)]
    room = max((length for offset, length in gaps if offset + length == index), default=0)
    # Of a name: its inode number, its length, perhaps a type, its place; then in the index.
    needed = sum((len(os.fsencode(name)) + 19) // 8 * 8 + _XFS_LEAF_ENTRY for name in names)
    return needed <= room
