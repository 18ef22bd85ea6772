"""GRUB legacy's boot code: stage1 in a boot sector, stage1_5 and stage2 after it. Pure.

    stage1 --> stage2                      by the list of its blocks
    stage1 --> stage1_5 --> stage2         by its path; the stage1_5 lies before the first partition
                               --> menu    by the path in the stage2's own file

Sources: GRUB 0.97, stage1/stage1.h, stage2/asm.S, stage2/shared.h, and install_func in
stage2/builtins.c.
"""

import re
import struct
from dataclasses import dataclass

SECTOR_SIZE = 512
_SIGNATURE = b"\x55\xaa"
_COMPATIBLE_MAJOR = 3
_PARTITION_TABLE = 440  # the boot code ends where the disk's signature and partitions begin
# From the version on: major, minor, boot drive, force LBA, address, sector and segment of stage2.
_STAGE1 = struct.Struct("<BBBBHIH")
_STAGE1_OFFSET = 0x3E
_STAGE2_ADDRESS, _STAGE1_5_ADDRESS = 0x8000, 0x2000
# From the second sector on: a far jump, then major, minor, the partition that it was installed
# from, the saved entry, the stage's id, force LBA; then the version's text and what it loads.
_STAGE2 = struct.Struct("<B5xBBIIBB")
_FAR_JUMP = 0xEA
_MAX_ID = 10  # STAGE2_ID_UFS2_STAGE1_5
_VERSION = re.compile(rb"[ -~]{1,32}")
_MAX_PATH = 256
_UNSET = 0xFF  # a partition or drive that is not given
# Words and first instructions that tell boot code apart; the first mark that is found decides.
_MARKS = (
    (b"GRUB \0Geom\0", "grub2"),
    (b"LILO", "lilo"),
    (b"SYSLINUX", "syslinux"),
    (b"EXTLINUX", "syslinux"),
    (b"isolinux.bin", "syslinux"),
    (b"Error loading operating system", "windows"),
    (b"BOOTMGR", "windows"),
    (b"NTLDR", "windows"),
    (b"Operating system load error.", "generic-mbr"),  # SYSLINUX's mbr.bin
    (b"MBR \x10\0\x01\0", "generic-mbr"),  # Debian's package mbr
    (bytes.fromhex("fab800108ed0bc00b0b800008ed88ec0fbbe007cbf0006"), "generic-mbr"),  # parted
)


@dataclass(frozen=True, slots=True)
class Stage1:
    """GRUB legacy's boot sector.

    stage2_lba: the first sector of what it loads. boot_drive: BIOS number of the disk that holds
    it, None for the one that was booted.
    """

    stage2_lba: int
    boot_drive: int | None
    loads_stage1_5: bool


@dataclass(frozen=True, slots=True)
class Stage2:
    """A stage2 (id 0), or a stage1_5 that understands the file system of its id.

    partition: where GRUB was installed from, 0 being the first; None where that is not recorded.
    drive: a stage1_5's BIOS disk of that partition, None for the one that was booted.
    config_file: a stage2's menu, a stage1_5's stage2: a path, perhaps with a device before it.
    """

    version: str
    stage2_id: int
    partition: int | None
    drive: int | None
    config_file: bytes

    @property
    def is_stage1_5(self) -> bool:
        """Whether it loads a stage2, instead of being one."""
        return self.stage2_id != 0


def parse_stage1(sector: bytes) -> Stage1 | None:
    """Read a boot sector of 512 bytes; None where it is not GRUB legacy's."""
    if not _is_boot_sector(sector) or b"GRUB \0Geom\0" not in sector:
        return None
    major, _, boot_drive, _, address, lba, _ = _STAGE1.unpack_from(sector, _STAGE1_OFFSET)
    if major != _COMPATIBLE_MAJOR or address not in {_STAGE2_ADDRESS, _STAGE1_5_ADDRESS}:
        return None
    return Stage1(
        stage2_lba=lba,
        boot_drive=_set_or_none(boot_drive),
        loads_stage1_5=address == _STAGE1_5_ADDRESS,
    )


def identify_boot_sector(sector: bytes) -> str:
    """Name the boot code in a sector.

    One of grub-legacy, grub2, lilo, syslinux, windows, generic-mbr (it goes on with the active
    partition, and so does windows), empty, unknown.
    """
    if not any(sector[:_PARTITION_TABLE]):
        return "empty"
    if not _is_boot_sector(sector):
        return "unknown"
    if parse_stage1(sector) is not None:
        return "grub-legacy"
    return next((kind for mark, kind in _MARKS if mark in sector), "unknown")


def _is_boot_sector(sector: bytes) -> bool:
    return len(sector) >= SECTOR_SIZE and sector[510:512] == _SIGNATURE


def parse_stage2(data: bytes) -> Stage2 | None:
    """Read a stage2's file, or the sectors from a stage1_5's or stage2's first one on.

    1,024 bytes are enough; None where they are not GRUB legacy's.
    """
    if len(data) < 2 * SECTOR_SIZE:
        return None
    jump, major, _, partition, _, stage2_id, _ = _STAGE2.unpack_from(data, SECTOR_SIZE)
    version, end, rest = data[SECTOR_SIZE + _STAGE2.size :].partition(b"\0")
    if jump != _FAR_JUMP or major != _COMPATIBLE_MAJOR or stage2_id > _MAX_ID:
        return None
    drive = _UNSET
    if stage2_id:
        device, rest = int.from_bytes(rest[:4], "little"), rest[4:]
        drive, partition = device >> 24, device & 0xFFFFFF
    path = rest.partition(b"\0")[0]
    if not end or not _VERSION.fullmatch(version) or len(path) > _MAX_PATH:
        return None
    return Stage2(
        version=version.decode("ascii"),
        stage2_id=stage2_id,
        partition=_set_or_none(partition >> 16),
        drive=_set_or_none(drive),
        config_file=path.partition(b" ")[0],
    )


def _set_or_none(number: int) -> int | None:
    return None if number == _UNSET else number
