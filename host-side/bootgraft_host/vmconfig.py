"""vm.toml: the persistent configuration of a machine that QEMU runs.

::

    name = "appliance"
    firmware = "bios"
    memory_mib = 512
    boot_order = ["disk", "dvd"]     # classes; what is left out is never booted
    [[disk]]
    path = "appliance.vhd"           # relative paths start at vm.toml's folder
    format = "vpc"                   # raw, vpc, vhdx, qcow2: never guessed
    channel = 0
    unit = 0
    [[dvd]]
    channel = 1
    unit = 0
    iso = ""                         # "": the drive is empty
    [network]                        # without this table: no adapter
    kind = "virtio"                  # legacy, e1000, virtio, none
    mac = "52:54:00:12:34:56"
    [com1]                           # without this table: no COM1
    socket = ""                      # a Unix socket that QEMU serves; "": not connected

Reading is strict: an unknown key is a mistake. Writing is lossless: what is not changed keeps its
bytes, comments and white space included.
"""

import os
import re
import stat
import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar, get_args

import tomlkit
from tomlkit.container import OutOfOrderTableProxy
from tomlkit.items import AoT, Array, InlineTable, Table

from bootgraft_host.machine import ConfigurationError, MachineError, Media

DeviceClass = Literal["disk", "dvd"]
DiskFormat = Literal["raw", "vpc", "vhdx", "qcow2"]
AdapterKind = Literal["legacy", "e1000", "virtio", "none"]

SOCKET_PATH_LIMIT = 107  # bytes; sun_path of unix(7), without its final NUL
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.IGNORECASE)

_Name = TypeVar("_Name", bound=str)
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True, order=True)
class Slot:
    """A place for an IDE device: channel (0 primary, 1 secondary), unit (0 master, 1 slave)."""

    channel: int
    unit: int

    def __str__(self) -> str:
        return f"channel {self.channel}, unit {self.unit}"


ALL_SLOTS = tuple(Slot(channel, unit) for channel in (0, 1) for unit in (0, 1))


@dataclass(frozen=True, slots=True)
class DiskConfig:
    """A disk and the image file that holds it."""

    path: Path
    format: DiskFormat
    slot: Slot


@dataclass(frozen=True, slots=True)
class DvdConfig:
    """A DVD drive and the ISO in it."""

    slot: Slot
    iso: Path | None = None


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """A network adapter."""

    kind: AdapterKind
    mac: str | None  # None: only where the kind is "none"


@dataclass(frozen=True, slots=True)
class Com1Config:
    """COM1 and the socket that it is connected to."""

    socket: Path | None


@dataclass(frozen=True, slots=True)
class VmConfig:
    """A machine as vm.toml describes it; all paths are absolute."""

    name: str
    firmware: Literal["bios"]
    memory_mib: int
    boot_order: tuple[DeviceClass, ...]
    disks: tuple[DiskConfig, ...]
    dvds: tuple[DvdConfig, ...]
    network: NetworkConfig | None
    com1: Com1Config | None

    @property
    def used_slots(self) -> tuple[Slot, ...]:
        """The slots of all disks and DVD drives."""
        return (*(disk.slot for disk in self.disks), *(dvd.slot for dvd in self.dvds))


# Reading.


def parse_vm_config(data: bytes, path: Path) -> VmConfig:
    """Parse the content of vm.toml; `path` is its absolute path.

    Raises ConfigurationError, whose message names the file, the key and the mistake.
    """
    root = _Table(_parse_toml(data, path), path)
    config = VmConfig(
        name=root.text("name"),
        firmware=_parse_firmware(root),
        memory_mib=root.integer("memory_mib", 16, 1 << 20),
        boot_order=_parse_boot_order(root),
        disks=tuple(_parse_disk(table) for table in root.tables("disk")),
        dvds=tuple(_parse_dvd(table) for table in root.tables("dvd")),
        network=_parse_network(root.table("network")),
        com1=_parse_com1(root.table("com1")),
    )
    root.refuse_unknown_keys()
    _refuse_shared_slots(config, root)
    return config


def _parse_toml(data: bytes, path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: not UTF-8 text: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path}: not valid TOML: {error}") from error


def _parse_firmware(root: "_Table") -> Literal["bios"]:
    if root.text("firmware", "bios") == "uefi":
        raise root.mistake("firmware", '"uefi" is not supported yet, only "bios" is')
    return root.choice("firmware", ("bios",), "bios")


def _parse_boot_order(root: "_Table") -> tuple[DeviceClass, ...]:
    known: tuple[DeviceClass, ...] = get_args(DeviceClass)
    classes = root.take("boot_order", list, "a list")
    order = tuple(name for item in classes for name in known if item == name)
    if not order or len(order) != len(classes) or len(set(order)) != len(order):
        raise root.mistake("boot_order", f"expected each of {_listed(known)} at most once")
    return order


def _parse_disk(table: "_Table") -> DiskConfig:
    disk = DiskConfig(
        path=table.path("path"),
        format=table.choice("format", get_args(DiskFormat)),
        slot=_parse_slot(table),
    )
    table.refuse_unknown_keys()
    return disk


def _parse_dvd(table: "_Table") -> DvdConfig:
    dvd = DvdConfig(slot=_parse_slot(table), iso=table.optional_path("iso"))
    table.refuse_unknown_keys()
    return dvd


def _parse_slot(table: "_Table") -> Slot:
    return Slot(table.integer("channel", 0, 1), table.integer("unit", 0, 1))


def _parse_network(table: "_Table | None") -> NetworkConfig | None:
    if table is None:
        return None
    kind = table.choice("kind", get_args(AdapterKind))
    mac = table.text("mac", "")
    if mac or kind != "none":
        _check_mac(table, mac)
    table.refuse_unknown_keys()
    return NetworkConfig(kind, mac or None)


def _check_mac(table: "_Table", mac: str) -> None:
    if not _MAC.fullmatch(mac):
        raise table.mistake("mac", f'"{mac}" is not a MAC address like 52:54:00:12:34:56')
    if int(mac[:2], 16) & 1:
        raise table.mistake("mac", f'"{mac}" is a group address, which no adapter may have')


def _parse_com1(table: "_Table | None") -> Com1Config | None:
    if table is None:
        return None
    socket = table.optional_path("socket")
    if socket is not None and len(bytes(socket)) > SOCKET_PATH_LIMIT:
        raise table.mistake("socket", f"{socket} is longer than {SOCKET_PATH_LIMIT} bytes")
    table.refuse_unknown_keys()
    return Com1Config(socket)


def _refuse_shared_slots(config: VmConfig, root: "_Table") -> None:
    for slot, devices in Counter(config.used_slots).items():
        if devices > 1:
            raise root.mistake("disk, dvd", f"{devices} devices have the same slot, {slot}")


class _Table:
    """A table of the file that knows which of its keys have been read."""

    def __init__(self, values: Mapping[str, object], source: Path, where: str = "") -> None:
        self._values = values
        self._source = source
        self._where = where  # as in "[[disk]] 2: "
        self._known: set[str] = set()

    def mistake(self, key: str, text: str) -> ConfigurationError:
        return ConfigurationError(f"{self._source}: {self._where}{key}: {text}")

    def take(self, key: str, kind: type[_Value], expected: str) -> _Value:
        self._known.add(key)
        value = self._values.get(key)
        if value is None:
            raise self.mistake(key, f"missing; expected {expected}")
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self.mistake(key, f"expected {expected}, found {value!r}")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        self._known.add(key)
        if default is not None and key not in self._values:
            return default
        text = self.take(key, str, "a text")
        if not (text or default == "") or not text.isprintable():
            raise self.mistake(key, f"expected printable text, found {text!r}")
        return text

    def integer(self, key: str, low: int, high: int) -> int:
        expected = f"a whole number from {low} to {high}"
        number = self.take(key, int, expected)
        if not low <= number <= high:
            raise self.mistake(key, f"expected {expected}, found {number}")
        return number

    def choice(self, key: str, names: tuple[_Name, ...], default: str | None = None) -> _Name:
        text = self.text(key, default)
        for name in names:
            if name == text:
                return name
        raise self.mistake(key, f"expected one of {_listed(names)}, found {text!r}")

    def path(self, key: str) -> Path:
        return self._source.parent / self.text(key)

    def optional_path(self, key: str) -> Path | None:
        return self._source.parent / text if (text := self.text(key, "")) else None

    def table(self, key: str) -> "_Table | None":
        if key not in self._values:
            self._known.add(key)
            return None
        return _Table(self.take(key, dict, f"a table, [{key}]"), self._source, f"[{key}] ")

    def tables(self, key: str) -> list["_Table"]:
        if key not in self._values:
            self._known.add(key)
            return []
        expected = f"tables, [[{key}]]"
        tables = self.take(key, list, expected)
        if not all(isinstance(table, dict) for table in tables):
            raise self.mistake(key, f"expected {expected}")
        return [
            _Table(table, self._source, f"[[{key}]] {number} ")
            for number, table in enumerate(tables, 1)
        ]

    def refuse_unknown_keys(self) -> None:
        unknown = sorted(set(self._values) - self._known)
        if unknown:
            raise self.mistake(unknown[0], f"unknown key; known are {_listed(sorted(self._known))}")


def _listed(names: "tuple[str, ...] | list[str]") -> str:
    return ", ".join(names)


# Deciding and writing.


def plan_attached(config: VmConfig, media: Media, com1_socket: Path) -> VmConfig:
    """Plan the configuration that boots the live ISO, with COM1 on a socket of ours.

    A change of what it returned is no change. Raises MachineError where no IDE slot is free.
    """
    added = _plan_added_drives(config, len(media.attached))
    dvds = (*config.dvds, *(DvdConfig(slot) for slot in added))
    slots = sorted(dvd.slot for dvd in dvds)
    isos = dict(zip(slots, media.attached, strict=False))
    return replace(
        config,
        boot_order=("dvd", *(name for name in config.boot_order if name != "dvd")),
        dvds=tuple(replace(dvd, iso=isos.get(dvd.slot, dvd.iso)) for dvd in dvds),
        network=plan_attached_adapter(config.network),
        com1=Com1Config(com1_socket),
    )


def plan_without_media(config: VmConfig) -> VmConfig:
    """Plan the configuration that boots from the disk, with every DVD drive empty."""
    first = tuple(name for name in config.boot_order if name != "dvd")
    return replace(
        config,
        boot_order=(*first, *(name for name in config.boot_order if name == "dvd")),
        dvds=tuple(replace(dvd, iso=None) for dvd in config.dvds),
    )


def plan_attached_adapter(network: NetworkConfig | None) -> NetworkConfig | None:
    """Plan a legacy adapter with the same MAC address where there is one at all."""
    if network is None or network.kind == "none":
        return network
    return replace(network, kind="legacy")


def _plan_added_drives(config: VmConfig, wanted: int) -> list[Slot]:
    """Choose slots for the DVD drives that are missing, after the present one if possible."""
    lowest = min((dvd.slot for dvd in config.dvds), default=ALL_SLOTS[0])
    free = sorted(set(ALL_SLOTS) - set(config.used_slots), key=lambda slot: (slot < lowest, slot))
    missing = max(0, wanted - len(config.dvds))
    if len(free) < missing:
        way_out = "; --one-drive makes do with one drive" if config.dvds or free else ""
        raise MachineError(
            f"cannot add a DVD drive to {config.name}: {missing} more must be added for"
            f" {wanted} ISOs, but {len(free)} of the four IDE slots are free{way_out}"
        )
    return free[:missing]


def edit_vm_config(data: bytes, path: Path, wanted: VmConfig) -> bytes:
    """Bring the content of vm.toml to the wanted configuration, value by value.

    The ISOs, added DVD drives, the boot order, the adapter's kind and COM1's socket can change.
    The result is parsed again and compared. Raises ConfigurationError where that fails.
    """
    current = parse_vm_config(data, path)
    document = tomlkit.parse(data.decode())
    lossless = tomlkit.dumps(document).encode() == data
    if wanted.boot_order != current.boot_order:
        document["boot_order"] = list(wanted.boot_order)
    if wanted.dvds != current.dvds:
        _edit_dvds(document, current.dvds, wanted.dvds)
    if wanted.network != current.network and wanted.network is not None:
        _edit_table(document, "network", "kind", wanted.network.kind)
    if wanted.com1 != current.com1 and wanted.com1 is not None:
        _edit_table(document, "com1", "socket", _written(wanted.com1.socket))
    edited = tomlkit.dumps(document).encode()
    if not lossless or parse_vm_config(edited, path) != wanted:
        raise ConfigurationError(
            f"{path}: cannot be edited without changing other parts; keep each table, and all"
            " [[dvd]] tables, together in one place"
        )
    return edited


def _edit_dvds(
    document: tomlkit.TOMLDocument,
    current: tuple[DvdConfig, ...],
    wanted: tuple[DvdConfig, ...],
) -> None:
    if "dvd" not in document:
        document["dvd"] = tomlkit.aot()
    drives = document["dvd"]
    if not isinstance(drives, AoT | Array):
        return  # the caller finds that nothing has changed
    for number, dvd in enumerate(wanted):
        if number >= len(current):
            drives.append(_added_drive(dvd, inline=isinstance(drives, Array)))
        elif dvd != current[number]:
            drives[number]["iso"] = _written(dvd.iso)


def _added_drive(dvd: DvdConfig, *, inline: bool) -> Table | InlineTable:
    table = tomlkit.inline_table() if inline else tomlkit.table()
    table["channel"] = dvd.slot.channel
    table["unit"] = dvd.slot.unit
    table["iso"] = _written(dvd.iso)
    return table


def _edit_table(document: tomlkit.TOMLDocument, name: str, key: str, value: str) -> None:
    if name not in document:
        document[name] = tomlkit.table()
    table = document[name]
    if isinstance(table, Table | InlineTable | OutOfOrderTableProxy):
        table[key] = value


def _written(path: Path | None) -> str:
    text = "" if path is None else str(path)
    if not text.isprintable():
        raise ConfigurationError(f"the path {text!r} cannot be written in a TOML file")
    return text


def write_vm_config(path: Path, data: bytes) -> None:
    """Replace the content of vm.toml: old or new, never torn, whatever happens meanwhile.

    `path` is the file itself, not a link to it. Mode and owner stay. Raises MachineError.
    """
    new = path.with_name(f".{path.name}.new")
    try:
        new.unlink(missing_ok=True)
        _write_synced(new, data, path.stat())
        new.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise MachineError(f"cannot write {path}: {error.strerror}") from error


def _write_synced(path: Path, data: bytes, like: os.stat_result) -> None:
    with path.open("xb") as file:
        os.fchmod(file.fileno(), stat.S_IMODE(like.st_mode))
        os.fchown(file.fileno(), like.st_uid, like.st_gid)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
