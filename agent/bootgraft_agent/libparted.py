"""Lets libparted read one partition table, in a process that does nothing else.

Called by `bootgraft_agent.partition_table` alone, which says why it is a process of its own.

No handler for libparted's questions is registered, and no table is ever committed: pyparted then
answers every offer to repair with "ignore" or "cancel", and turns errors into exceptions.
"""

import json
import os
import resource
import stat
from dataclasses import asdict
from pathlib import Path

import parted
from _ped import (
    DeviceException,
    DiskException,
    DiskLabelException,
    IOException,
    PartedException,
    PartitionException,
)

from bootgraft_agent.partition_table import READER_UID, PartitionTable, TableEntry

_MEMORY_LIMIT = (
    256 << 20
)  # bytes more than the process has already; a table may claim that its entries fill 4 GiB
# On GPT, libparted's "boot" is the EFI system partition's type.
_ACTIVE_FLAGS = {"msdos": parted.PARTITION_BOOT, "gpt": parted.PARTITION_LEGACY_BOOT}
_ERRORS = (
    DeviceException,
    DiskException,
    DiskLabelException,
    IOException,
    PartedException,
    PartitionException,
    OSError,
)


def read_as_json(path: Path) -> bytes:
    """Read the table of a disk, as a user who cannot write it, and with little memory.

    Gives a PartitionTable as JSON. What this process may do, it may not any more afterwards.
    """
    path = path.resolve()
    limit = _address_space() + _MEMORY_LIMIT
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    if os.geteuid() == 0 and stat.S_ISBLK(path.stat().st_mode):
        _become_reader()
    return json.dumps(asdict(_read(path))).encode()


def _address_space() -> int:
    """Give the size of this process's address space in bytes; proc_pid_statm(5)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    return pages * resource.getpagesize()


def _become_reader() -> None:
    """Become the user who may read the node, and no longer write it."""
    os.setgroups([])
    os.setresgid(READER_UID, READER_UID, READER_UID)
    os.setresuid(READER_UID, READER_UID, READER_UID)


def _read(path: Path) -> PartitionTable:
    try:
        _read_first_sector(path)
        device = parted.getDevice(str(path))
        kind = _probe_kind(device)
        match kind:
            case None | "loop":  # "loop": the whole disk is one file system
                return PartitionTable(None)
            case "msdos" | "gpt":
                return PartitionTable(kind, _list_entries(parted.newDisk(device)))
    except _ERRORS as error:
        reason = str(error).replace(f"{path.parent}/", "")
        return PartitionTable(None, problem=f"cannot read the partition table: {reason}")
    return PartitionTable(None, problem=f"cannot read a partition table of the kind {kind}")


def _read_first_sector(path: Path) -> None:
    """Raise OSError for a disk that cannot be read: to libparted that is a disk without a table."""
    with path.open("rb", buffering=0) as disk:
        disk.read(4096)


def _probe_kind(device: parted.Device) -> str | None:
    """Name the kind of table; None where libparted recognises nothing."""
    try:
        return str(device.getPedDevice().disk_probe().name)
    except IOException:
        return None


def _list_entries(disk: parted.Disk) -> tuple[TableEntry, ...]:
    sector_size = disk.device.sectorSize
    return tuple(
        TableEntry(
            number=partition.number,
            offset=partition.geometry.start * sector_size,
            size=partition.geometry.length * sector_size,
            active=partition.getFlag(_ACTIVE_FLAGS[disk.type]),
        )
        for partition in disk.partitions
    )
