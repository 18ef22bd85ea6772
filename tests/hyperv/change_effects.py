"""What planned changes make of a machine: change.ps1's effect on a description, one by one."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from bootgraft_host.hyperv.changes import Changes
from bootgraft_host.hyperv.description import (
    ComPort,
    NetworkAdapter,
    Slot,
    Vlan,
    VmDescription,
)
from hyperv.descriptions import UNTAGGED, adapter, adapter_id, bios, dvd, find_dvd

Step = Callable[[VmDescription], VmDescription]


def apply_changes(description: VmDescription, changes: Changes) -> VmDescription:
    """Give the machine after all changes."""
    return list_states(description, changes)[-1]


def list_states(description: VmDescription, changes: Changes) -> list[VmDescription]:
    """Give the machine before, after each single change, and thus at the end."""
    states = [description]
    for step in _list_steps(changes):
        states.append(step(states[-1]))
    return states


def _list_steps(changes: Changes) -> Iterator[Step]:
    """In the script's order."""
    yield from (_insert(slot, "") for slot in changes.eject_from)
    yield from (_remove_drive(slot) for slot in changes.remove_dvd_drives)
    yield from (_add_drive(slot) for slot in changes.add_dvd_drives)
    if changes.startup_order is not None:
        yield _set(bios=(bios(*changes.startup_order),))
    if changes.com1 is not None:
        yield _lead_com1(changes.com1)
    yield from (_add_adapter(name) for name in changes.adapters.add)
    yield from (_remove_adapter(id_) for id_ in changes.adapters.remove)
    for wanted in changes.adapters.set:
        yield from _set_adapter(wanted)
    if changes.actions is not None:
        start, stop = changes.actions
        yield _set(automatic_start_action=start, automatic_stop_action=stop)
    if changes.automatic_checkpoints is not None:
        yield _set(automatic_checkpoints_enabled=changes.automatic_checkpoints)
    yield from (_insert(slot, path) for slot, path in changes.insert.items())


def _set(**fields: Any) -> Step:
    return lambda description: replace(description, **fields)


def _lead_com1(path: str) -> Step:
    def step(description: VmDescription) -> VmDescription:
        return replace(description, com_ports=(ComPort(1, path, "Off"), *description.com_ports[1:]))

    return step


def _insert(slot: Slot, path: str) -> Step:
    def step(description: VmDescription) -> VmDescription:
        assert find_dvd(description, slot) is not None, f"there is no DVD drive at {slot}"
        drives = (
            dvd(*slot, path) if drive.slot == slot else drive for drive in description.dvd_drives
        )
        return replace(description, dvd_drives=tuple(drives))

    return step


def _add_drive(slot: Slot) -> Step:
    def step(description: VmDescription) -> VmDescription:
        used = {drive.slot for drive in description.dvd_drives}
        used |= {drive.slot for drive in description.hard_drives if drive.controller_type == "IDE"}
        assert slot not in used, f"{slot} is taken"
        drives = sorted((*description.dvd_drives, dvd(*slot)), key=lambda drive: drive.slot)
        return replace(description, dvd_drives=tuple(drives))

    return step


def _remove_drive(slot: Slot) -> Step:
    def step(description: VmDescription) -> VmDescription:
        assert find_dvd(description, slot) is not None, f"there is no DVD drive at {slot}"
        drives = tuple(drive for drive in description.dvd_drives if drive.slot != slot)
        return replace(description, dvd_drives=drives)

    return step


# Adapters.


def _add_adapter(name: str) -> Step:
    def step(description: VmDescription) -> VmDescription:
        adapters = description.network_adapters
        assert sum(each.is_legacy for each in adapters) < 4, "there are four legacy adapters"
        number = 1 + max((int(each.id[-8:]) for each in adapters), default=0)
        added = adapter(
            name,
            id=adapter_id(number + 100),
            is_legacy=True,
            switch_name="",
            mac_address="000000000000",
            vmq_weight=0,
        )
        return replace(description, network_adapters=(*adapters, added))

    return step


def _remove_adapter(removed: str) -> Step:
    def step(description: VmDescription) -> VmDescription:
        adapters = tuple(each for each in description.network_adapters if each.id != removed)
        return replace(description, network_adapters=adapters)

    return step


def _set_adapter(wanted: Mapping[str, Any]) -> Iterator[Step]:
    for name, values in wanted.items():
        if name != "Id":
            yield from (
                _change_adapter(wanted["Id"], _adapter_fields(name, each)) for each in values
            )


def _change_adapter(changed: str, fields: Mapping[str, Any]) -> Step:
    def step(description: VmDescription) -> VmDescription:
        adapters = (
            replace(each, **fields) if each.id == changed else each
            for each in description.network_adapters
        )
        return replace(description, network_adapters=tuple(adapters))

    return step


def _adapter_fields(name: str, value: Any) -> dict[str, Any]:
    simple: dict[str, Callable[[], dict[str, Any]]] = {
        "StaticMacAddress": lambda: {"mac_address": value, "dynamic_mac_address_enabled": False},
        "Security": lambda: _security(value),
        "AllowTeaming": lambda: {"allow_teaming": value},
        "StormLimit": lambda: {"storm_limit": value},
        "DynamicIpAddressLimit": lambda: {"dynamic_ip_address_limit": value},
        "NotMonitoredInCluster": lambda: {"cluster_monitored": not value},
        "Connect": lambda: {"switch_name": value},
    }
    return simple[name]() if name in simple else {"vlan": (_vlan(name, value),)}


def _security(value: Mapping[str, str]) -> dict[str, str]:
    return {
        "mac_address_spoofing": value["MacAddressSpoofing"],
        "dhcp_guard": value["DhcpGuard"],
        "router_guard": value["RouterGuard"],
        "port_mirroring": value["PortMirroring"],
        "ieee_priority_tag": value["IeeePriorityTag"],
    }


def _vlan(kind: str, value: Mapping[str, Any]) -> Vlan:
    if kind in ("Access", "Trunk"):
        return replace(
            UNTAGGED,
            operation_mode=kind,
            access_vlan_id=value.get("VlanId", 0),
            native_vlan_id=value.get("NativeVlanId", 0),
            allowed_vlan_id_list=value.get("AllowedVlanIdList", ""),
        )
    return replace(
        UNTAGGED,
        operation_mode="Private",
        private_vlan_mode=kind,
        primary_vlan_id=value["PrimaryVlanId"],
        secondary_vlan_id=value.get("SecondaryVlanId", 0),
        secondary_vlan_id_list=value.get("SecondaryVlanIdList", ""),
    )


def names_and_settings(each: NetworkAdapter) -> NetworkAdapter:
    """An adapter without what no successor can have: its id, its kind, its features' weights."""
    return replace(each, id="", is_legacy=True, vmq_weight=0)
