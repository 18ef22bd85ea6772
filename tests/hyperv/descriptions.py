"""Descriptions of machines, for tests of what is decided from them."""

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from bootgraft_host.hyperv.changes import IDE_SLOTS
from bootgraft_host.hyperv.description import (
    IDE,
    Bios,
    ComPort,
    DvdDrive,
    HardDrive,
    NetworkAdapter,
    Slot,
    Vlan,
    VmDescription,
)

VM_ID = "5f0c8a3e-5d7e-4d60-9d4f-0c6a2f6a8b11"
LIVE = r"D:\iso\live.iso"
PAYLOAD = r"D:\iso\ic.iso"
OWN_ISO = r"D:\iso\own.iso"
TOKEN = "0123456789abcdef" * 2
PIPE = rf"\\.\pipe\bootgraft-{TOKEN}"
DEVICES = ("CD", "IDE", "LegacyNetworkAdapter", "Floppy")
UNTAGGED = Vlan("Untagged", 0, 0, "", "0", 0, 0, "")


def dvd(number: int, location: int, path: str = "", controller: str = IDE) -> DvdDrive:
    return DvdDrive(controller, number, location, "ISO" if path else "None", path, "Primordial")


def disk(number: int, location: int, controller: str = IDE) -> HardDrive:
    return HardDrive(controller, number, location, rf"D:\vm\{controller}{number}{location}.vhdx")


def adapter(name: str = "Network Adapter", **fields: Any) -> NetworkAdapter:
    given: dict[str, Any] = {
        "id": adapter_id(0),
        "is_legacy": False,
        "switch_name": "LAN",
        "mac_address": "00155D010203",
        "dynamic_mac_address_enabled": True,
        "mac_address_spoofing": "Off",
        "dhcp_guard": "Off",
        "router_guard": "Off",
        "port_mirroring": "None",
        "ieee_priority_tag": "Off",
        "allow_teaming": "Off",
        "acls": (),
        "extended_acls": (),
        "routing_domains": (),
        "isolation_mode": "Vlan",
        "virtual_subnet_id": 0,
        "cluster_monitored": True,
        "device_naming": "Off",
        "dynamic_ip_address_limit": 0,
        "iov_weight": 0,
        "pool_name": "",
        "storm_limit": 0,
        "test_replica_pool_name": "",
        "test_replica_switch_name": "",
        "vmq_weight": 100,
        "bandwidth": (),
        "vlan": (UNTAGGED,),
    }
    return NetworkAdapter(name=name, **(given | fields))


def adapter_id(number: int) -> str:
    return rf"Microsoft:{VM_ID.upper()}\{number:08}"


def describe_vm(**fields: Any) -> VmDescription:
    """A machine as it comes: off, one disk, one empty DVD drive, one synthetic adapter."""
    given: dict[str, Any] = {
        "id": VM_ID,
        "name": "appliance",
        "generation": 1,
        "state": "Off",
        "status": "Operating normally",
        "notes": "",
        "automatic_start_action": "StartIfRunning",
        "automatic_start_delay": 0,
        "automatic_stop_action": "Save",
        "automatic_checkpoints_enabled": False,
        "checkpoint_type": "Production",
        "is_clustered": False,
        "replication_state": "Disabled",
        "bios": (bios("IDE", "CD", "LegacyNetworkAdapter", "Floppy"),),
        "dvd_drives": (dvd(1, 0),),
        "hard_drives": (disk(0, 0),),
        "com_ports": (ComPort(1, "", "Off"), ComPort(2, "", "Off")),
        "network_adapters": (adapter(),),
        "checkpoints": (),
    }
    return VmDescription(**(given | fields))


def bios(*order: str) -> Bios:
    return Bios(order, num_lock_enabled=False)


# Any machine that a run can be prepared for.

_ON_OFF = st.sampled_from(("On", "Off"))
_NUMBERS = st.integers(1, 4094)
_ISOS = st.sampled_from(("", OWN_ISO, LIVE.upper(), PAYLOAD, "E:"))
_SLOTS = st.lists(st.sampled_from(("dvd", "disk", "")), min_size=4, max_size=4).map(
    lambda kinds: dict(zip(IDE_SLOTS, kinds, strict=True))
)
_VLANS = st.one_of(
    st.just(UNTAGGED),
    st.builds(
        lambda number: replace(UNTAGGED, operation_mode="Access", access_vlan_id=number), _NUMBERS
    ),
    st.builds(
        lambda number: replace(
            UNTAGGED,
            operation_mode="Trunk",
            native_vlan_id=number,
            allowed_vlan_id_list="1-9,20",
        ),
        _NUMBERS,
    ),
    st.builds(
        lambda mode, number: replace(
            UNTAGGED,
            operation_mode="Private",
            private_vlan_mode=mode,
            primary_vlan_id=number,
            secondary_vlan_id=0 if mode == "Promiscuous" else 7,
            secondary_vlan_id_list="7-8" if mode == "Promiscuous" else "",
        ),
        st.sampled_from(("Isolated", "Community", "Promiscuous")),
        _NUMBERS,
    ),
)
_ADAPTERS = st.builds(
    adapter,
    name=st.sampled_from(("Network Adapter", "LAN")),
    is_legacy=st.booleans(),
    switch_name=st.sampled_from(("", "LAN", "DMZ")),
    mac_address=st.sampled_from(("000000000000", "00155D010203", "00155D0A0B0C")),
    dynamic_mac_address_enabled=st.booleans(),
    mac_address_spoofing=_ON_OFF,
    dhcp_guard=_ON_OFF,
    router_guard=_ON_OFF,
    port_mirroring=st.sampled_from(("None", "Source", "Destination")),
    ieee_priority_tag=_ON_OFF,
    allow_teaming=st.sampled_from(("", "On", "Off")),
    cluster_monitored=st.sampled_from((None, True, False)),
    dynamic_ip_address_limit=st.sampled_from((None, 0, 4)),
    storm_limit=st.sampled_from((None, 0, 100)),
    vlan=st.tuples(_VLANS),
)


@st.composite
def machines(draw: st.DrawFn) -> VmDescription:
    """Any machine of generation 1 with up to four adapters, whatever its IDE slots hold."""
    slots = draw(_SLOTS)
    adapters = draw(st.lists(_ADAPTERS, max_size=4))
    return describe_vm(
        dvd_drives=tuple(dvd(*slot, draw(_ISOS)) for slot in slots if slots[slot] == "dvd"),
        hard_drives=(*(disk(*slot) for slot in slots if slots[slot] == "disk"), disk(0, 1, "SCSI")),
        bios=(bios(*draw(st.permutations(DEVICES))),),
        com_ports=(ComPort(1, draw(st.sampled_from(("", r"\\.\pipe\own"))), "Off"),),
        automatic_start_action=draw(st.sampled_from(("Nothing", "StartIfRunning", "Start"))),
        automatic_stop_action=draw(st.sampled_from(("TurnOff", "Save", "ShutDown"))),
        automatic_checkpoints_enabled=draw(st.sampled_from((None, True, False))),
        network_adapters=tuple(
            replace(each, id=adapter_id(number)) for number, each in enumerate(adapters)
        ),
    )


def find_dvd(description: VmDescription, slot: Slot) -> DvdDrive | None:
    return next((drive for drive in description.dvd_drives if drive.slot == slot), None)
