"""What a Hyper-V host says of one virtual machine: the answer of scripts/describe.ps1, parsed.

A field is named as in the answer, whose StartupOrder is `startup_order` here, and means what the
cmdlets' property of that name means; enumerations are their members' names. An empty text stands
also for the $null that Hyper-V gives in its place. None is what this host does not tell, as older
ones lack a property.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from bootgraft_agent.wire import JSON
from bootgraft_host.hyperv.runner import HostError

IDE = "IDE"
NO_ADDRESS = "000000000000"  # a dynamic MAC address before the machine's first start


class Slot(NamedTuple):
    """Where a drive is; on IDE the numbers are the channel and the unit."""

    controller_number: int
    controller_location: int

    def __str__(self) -> str:
        return f"{self.controller_number}:{self.controller_location}"


@dataclass(frozen=True, slots=True)
class DvdDrive:
    """A DVD drive; `path` is that of its ISO on the host, or empty."""

    controller_type: str
    controller_number: int
    controller_location: int
    dvd_media_type: str
    path: str
    pool_name: str

    @property
    def slot(self) -> Slot:
        """Where it is."""
        return Slot(self.controller_number, self.controller_location)


@dataclass(frozen=True, slots=True)
class HardDrive:
    """A hard drive; `path` is that of its file on the host."""

    controller_type: str
    controller_number: int
    controller_location: int
    path: str

    @property
    def slot(self) -> Slot:
        """Where it is."""
        return Slot(self.controller_number, self.controller_location)


@dataclass(frozen=True, slots=True)
class ComPort:
    """A serial port; `path` names a pipe, or is empty. `debugger_mode` is empty on older hosts."""

    number: int
    path: str
    debugger_mode: str


@dataclass(frozen=True, slots=True)
class Bios:
    """The BIOS of a generation 1 machine."""

    startup_order: tuple[str, ...]
    num_lock_enabled: bool


@dataclass(frozen=True, slots=True)
class Vlan:
    """An adapter's VLAN: Untagged, Access, Trunk or Private; the ids of other modes mean nothing.

    `private_vlan_mode` is Isolated, Community or Promiscuous.
    """

    operation_mode: str
    access_vlan_id: int | None
    native_vlan_id: int | None
    allowed_vlan_id_list: str
    private_vlan_mode: str
    primary_vlan_id: int | None
    secondary_vlan_id: int | None
    secondary_vlan_id_list: str


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """An adapter's share of the network: bits per second, and a weight."""

    maximum_bandwidth: int | None
    minimum_bandwidth_absolute: int | None
    minimum_bandwidth_weight: int | None


@dataclass(frozen=True, slots=True)
class NetworkAdapter:
    """A network adapter; `switch_name` is empty where it is not connected."""

    id: str
    name: str
    is_legacy: bool
    switch_name: str
    mac_address: str
    dynamic_mac_address_enabled: bool
    mac_address_spoofing: str
    dhcp_guard: str
    router_guard: str
    port_mirroring: str
    ieee_priority_tag: str
    allow_teaming: str
    acls: tuple[str, ...]
    extended_acls: tuple[str, ...]
    routing_domains: tuple[str, ...]
    isolation_mode: str
    virtual_subnet_id: int | None
    cluster_monitored: bool | None
    device_naming: str
    dynamic_ip_address_limit: int | None
    iov_weight: int | None
    pool_name: str
    storm_limit: int | None
    test_replica_pool_name: str
    test_replica_switch_name: str
    vmq_weight: int | None
    bandwidth: tuple[Bandwidth, ...]
    vlan: tuple[Vlan, ...]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint of the machine."""

    id: str
    name: str
    snapshot_type: str


@dataclass(frozen=True, slots=True)
class VmDescription:
    """A virtual machine; `state` is Off, Running, Saved, Paused, OffCritical and the like."""

    id: str
    name: str
    generation: int
    state: str
    status: str
    notes: str
    automatic_start_action: str
    automatic_start_delay: int
    automatic_stop_action: str
    automatic_checkpoints_enabled: bool | None
    checkpoint_type: str
    is_clustered: bool | None
    replication_state: str
    bios: tuple[Bios, ...]  # none in generation 2
    dvd_drives: tuple[DvdDrive, ...]
    hard_drives: tuple[HardDrive, ...]
    com_ports: tuple[ComPort, ...]
    network_adapters: tuple[NetworkAdapter, ...]
    checkpoints: tuple[Checkpoint, ...]

    @property
    def com1(self) -> ComPort:
        """The first serial port."""
        return next(port for port in self.com_ports if port.number == 1)

    @property
    def startup_order(self) -> tuple[str, ...]:
        """From what the BIOS tries to boot, first things first; empty in generation 2."""
        return self.bios[0].startup_order if self.bios else ()


def parse_description(document: Mapping[str, JSON]) -> VmDescription:
    """Parse what describe answered, or what `to_document` gave.

    Raises HostError, whose message names the field, for any other shape.
    """
    description = VmDescription(**_parse_fields(VmDescription, document, "the machine"))
    if 1 not in {port.number for port in description.com_ports}:
        raise HostError("the machine's ComPorts: COM1 is missing")
    return description


def to_document(description: VmDescription) -> Mapping[str, JSON]:
    """Give a description as JSON, in the shape of describe's answer."""
    return _give_fields(description)


# From JSON to the classes above and back, by the names and types of their fields.


def _parse_fields(kind: type, document: Mapping[str, JSON], where: str) -> dict[str, Any]:
    types = _types_of(kind)
    values = {}
    for field in fields(kind):
        key = _key(field.name)
        if key not in document:
            raise HostError(f"{where}'s {key} is missing")
        values[field.name] = _parse_value(types[field.name], document[key], f"{where}'s {key}")
    return values


_types_of = cache(get_type_hints)


def _parse_value(kind: Any, value: JSON, where: str) -> Any:
    if get_origin(kind) is tuple:
        return _parse_items(get_args(kind)[0], value, where)
    if is_dataclass(kind) and isinstance(kind, type) and isinstance(value, Mapping):
        return kind(**_parse_fields(kind, value, where))
    if value is None and kind is str:
        return ""
    if value is None and isinstance(kind, UnionType):
        return None
    if type(value) not in (get_args(kind) or (kind,)):  # a bool is an int, too
        expected = " or ".join(each.__name__ for each in get_args(kind) or (kind,))
        raise HostError(f"{where}: expected {expected}, found {value!r}")
    return value


def _parse_items(kind: Any, value: JSON, where: str) -> tuple[Any, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise HostError(f"{where}: expected a list, found {value!r}")
    return tuple(
        _parse_value(kind, item, f"{where}, number {number}")
        for number, item in enumerate(value, 1)
    )


def _give_fields(item: Any) -> dict[str, JSON]:
    return {_key(field.name): _give_value(getattr(item, field.name)) for field in fields(item)}


def _give_value(value: Any) -> JSON:
    if isinstance(value, tuple):
        return [_give_value(item) for item in value]
    if is_dataclass(value):
        return _give_fields(value)
    known: JSON = value
    return known


def _key(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))
