"""How a guest's kernel names the emulated IDE disk: hdX or sdX, and the old names made new. Pure.

The old IDE driver (2.6.18 of RHEL 5 and SLES 10) gives hdX, libata alone (SLES 11, Ubuntu 8.04)
gives sdX.
"""

import re
from dataclasses import dataclass
from typing import Literal

from bootgraft_agent.guest import ATA_DRIVERS, IDE_DRIVERS, Kernel

DiskDriver = Literal["hd", "sd"]

_DISK = re.compile(rb"(?<![\w/-])/dev/(?P<kind>xvd|hd|sd)(?P<letter>[a-z])(?P<part>\d*)(?![\w-])")
# These name a file system or a logical volume, whatever disk it is on.
_LASTING = re.compile(
    rb"(?:LABEL|UUID|PARTUUID|PARTLABEL|ID)=|/dev/disk/by-(?:uuid|label|partuuid)/|/dev/mapper/"
    rb"|/dev/(?!disk/|cciss/|ida/|rd/|i2o/|ide/|scsi/|discs/)[^/]+/."
)
# No disk at all: memory, floppies, the network; and RAID, which finds its disks by itself.
_NO_DISK = re.compile(
    rb"(?:/dev/)?(?:md|ram|loop|fd|nfs|dvd|cdrom|sr|scd|pts|shm)[\w-]*\Z|none\Z|//"
    rb"|(?:nfs|dhcp|iscsi|live|net)\b|[^/]+:/"
)
_OPTION = r"(?m)^{}=[ym]$"
_BUILT_IN = r"(?m)^{}=y$"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the guest's files say of its disk driver; None: nothing, or both."""

    driver: DiskDriver | None
    warnings: tuple[str, ...] = ()


def find_evidence(kernel: Kernel, initrd: str, drivers: frozenset[str] | None) -> Evidence:
    """Ask the kernel's configuration, its initrd's drivers and its modules, in that order.

    `drivers` are those in the initrd; None: it cannot be read.
    """
    built_in = _built_in_driver(kernel.config)
    if built_in is not None:
        return Evidence(built_in)
    warnings = []
    if drivers is None:
        warnings.append(
            f"the initrd /{initrd} cannot be read as an archive, so its drivers are unknown"
        )
    elif not drivers:
        warnings.append(
            f"the initrd /{initrd} has no driver for the emulated IDE disk: the guest may stop at"
            " its root file system"
        )
    driver = _driver_of(drivers or frozenset()) or _configured_driver(kernel.config)
    return Evidence(driver or _driver_of(kernel.module_drivers), tuple(warnings))


def _built_in_driver(config: str | None) -> DiskDriver | None:
    """Read which driver is in the kernel itself and so is there first."""
    if config is None:
        return None
    if _all_match(_BUILT_IN, ("CONFIG_IDE", "CONFIG_BLK_DEV_IDEDISK"), config):
        return "hd"
    if re.search(_OPTION.format("CONFIG_IDE"), config) is None:
        return "sd" if re.search(_BUILT_IN.format("CONFIG_ATA_PIIX"), config) else None
    return None


def _configured_driver(config: str | None) -> DiskDriver | None:
    """Read which driver the kernel can have at all, where it has but one."""
    if config is None:
        return None
    ide = re.search(_OPTION.format("CONFIG_BLK_DEV_IDEDISK"), config)
    ata = re.search(_OPTION.format("CONFIG_ATA_PIIX"), config)
    if bool(ide) == bool(ata):
        return None
    return "hd" if ide else "sd"


def _all_match(pattern: str, options: tuple[str, ...], config: str) -> bool:
    return all(re.search(pattern.format(option), config) for option in options)


def _driver_of(drivers: frozenset[str]) -> DiskDriver | None:
    ide, ata = drivers & IDE_DRIVERS, drivers & ATA_DRIVERS
    if bool(ide) == bool(ata):
        return None
    return "hd" if ide else "sd"


@dataclass(frozen=True, slots=True)
class DiskNames:
    """How the guest's kernel will name the disks that had the old hypervisor's names."""

    driver: DiskDriver
    hd_names: tuple[str, ...]

    def translate(self, text: bytes) -> bytes:
        """Give every old disk name of a text its new one; LABEL=, UUID= and LVM names stay."""
        return _DISK.sub(self._renamed, text)

    def problem(self, device: bytes) -> str | None:
        """Say why a device keeps a name that may not fit the machine; None where it will fit."""
        name = device.strip(b"\"'")
        shown = name.decode("utf-8", "backslashreplace")
        match = _DISK.search(name)
        if match is not None:
            known = self._new_name(match) is not None
            return None if known else f"{shown}, for which the machine has no IDE disk"
        if _LASTING.match(name) or _NO_DISK.match(name):
            return None
        return f"{shown}, which stays as it is; check that the new hypervisor's disk has that name"

    def beyond_first(self, text: bytes) -> list[str]:
        """Describe the names of disks after the first one that get a new name."""
        pairs = ((match[0], self._renamed(match)) for match in _DISK.finditer(text))
        return [
            f"{old.decode()} becomes {new.decode()}"
            for old, new in pairs
            if old != new and not new.startswith(b"/dev/" + (self.of_disk(0) or "").encode())
        ]

    def _renamed(self, match: re.Match[bytes]) -> bytes:
        name = self._new_name(match)
        return match[0] if name is None else b"/dev/" + name.encode() + match["part"]

    def _new_name(self, match: re.Match[bytes]) -> str | None:
        """Name the disk that has an IDE name of the machine, or else the n-th one."""
        letter = match["letter"].decode()
        if match["kind"] == b"hd" and f"hd{letter}" in self.hd_names:
            return self.of_disk(self.hd_names.index(f"hd{letter}"))
        return self.of_disk(ord(letter) - ord("a"))

    def of_disk(self, number: int) -> str | None:
        """Name the machine's IDE disk of that number; None where there is none."""
        if number >= len(self.hd_names):
            return None
        return self.hd_names[number] if self.driver == "hd" else f"sd{chr(ord('a') + number)}"
