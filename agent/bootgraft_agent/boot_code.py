"""Whether the BIOS will come to GRUB legacy on a disk: its boot code, from the disk's sectors.

A disk that only pygrub ever booted grafts well and never boots, so it is refused.
"""

from pathlib import Path
from typing import BinaryIO

from bootgraft_agent import stages
from bootgraft_agent.disks import Disk, Partition
from bootgraft_agent.errors import RefusedError
from bootgraft_agent.files import Tree
from bootgraft_agent.guest import Boot, grub_path

_SECTOR = 512
_STAGE2_HEAD = 8 * _SECTOR  # enough for the header of a stage1_5 or stage2
# Boot code that only starts the active partition's own boot sector.
_CHAINING = frozenset({"generic-mbr", "windows"})
_NEXT = (
    "bootgraft edits menus and installs no boot loader: install GRUB legacy on the disk (as by"
    " grub-install in the guest), then run again"
)


def check(disk: Disk, partition: Partition, boot: Boot, tree: Tree) -> None:
    """Follow the boot code from the MBR to the stage2 of the boot directory.

    Raises RefusedError where it leads elsewhere.
    """
    if boot.stage2 is None:
        raise RefusedError(
            f"{boot.volume}: /{boot.grub_directory}/stage2 is missing or not GRUB legacy's; {_NEXT}"
        )
    with Path(disk.device_path).open("rb") as stream:
        where, stage1 = _find_stage1(disk, stream)
        loaded = stages.parse_stage2(_read(stream, stage1.stage2_lba * _SECTOR, _STAGE2_HEAD))
    if loaded is None:
        raise RefusedError(
            f"GRUB's boot code in {where} loads sector {stage1.stage2_lba}, where there is neither"
            f" a stage1_5 nor a stage2; {_NEXT}"
        )
    if loaded.is_stage1_5 and not tree.is_file(grub_path(loaded.config_file)):
        raise RefusedError(
            f"GRUB's boot code in {where} loads /{grub_path(loaded.config_file)}, which is not on"
            f" {partition.name}; {_NEXT}"
        )
    if loaded.partition is not None and loaded.partition != partition.number - 1:
        raise RefusedError(
            f"GRUB's boot code in {where} belongs to partition {loaded.partition + 1} of"
            f" {disk.name}, not to {partition.name}; name the right one with --boot-partition"
        )


def _find_stage1(disk: Disk, stream: BinaryIO) -> tuple[str, stages.Stage1]:
    """Find stage1 in the MBR, or where the MBR's code goes: the active partition's boot sector."""
    sector = _read(stream, 0, _SECTOR)
    stage1 = stages.parse_stage1(sector)
    if stage1 is not None:
        return f"the MBR of {disk.name}", stage1
    kind = stages.identify_boot_sector(sector)
    active = [each for each in disk.partitions if each.active]
    if kind not in _CHAINING or len(active) != 1:
        raise RefusedError(f"the MBR of {disk.name} holds {_named(kind)}, not GRUB legacy; {_NEXT}")
    boot_sector = _read(stream, active[0].offset, _SECTOR)
    stage1 = stages.parse_stage1(boot_sector)
    if stage1 is None:
        kind = stages.identify_boot_sector(boot_sector)
        raise RefusedError(
            f"the boot sector of the active partition {active[0].name} holds {_named(kind)}, not"
            f" GRUB legacy; {_NEXT}"
        )
    return f"the boot sector of {active[0].name}", stage1


def _named(kind: str) -> str:
    return {"empty": "no boot code", "unknown": "unknown boot code"}.get(kind, kind)


def _read(stream: BinaryIO, offset: int, size: int) -> bytes:
    stream.seek(offset)
    return stream.read(size)
