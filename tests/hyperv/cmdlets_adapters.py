"""The cmdlets for network adapters."""

from collections.abc import Iterator

from hyperv.adapters import (
    NetworkAdapter,
    VirtualSwitch,
    VlanSetting,
    normalize_mac,
    not_on_legacy,
)
from hyperv.cmdlets import MACHINES, VM_SETS, Call, Cmdlet, fits, pass_through
from hyperv.enums import ON_OFF, PORT_MIRRORING
from hyperv.model_object import invalid_parameter, object_not_found
from hyperv.values import ArrayOf, EnumValue, ParameterType
from hyperv.vlan import plan_vlan

_SECURITY = ("MacAddressSpoofing", "DhcpGuard", "RouterGuard", "IeeePriorityTag", "AllowTeaming")
_SYNTHETIC_ONLY = ("VmqWeight", "IovWeight")
_NUMBERS = {
    "storm_limit": "StormLimit",
    "dynamic_ip_address_limit": "DynamicIPAddressLimit",
    "vmq_weight": "VmqWeight",
    "iov_weight": "IovWeight",
}
_ADAPTERS: dict[str, ParameterType] = {**MACHINES, "VMNetworkAdapter": ArrayOf(NetworkAdapter)}
_ADAPTER_SETS = {"VMNetworkAdapter": (), "VM": ("Name",), "VMName": ("Name",)}
_VLAN_ADAPTER_SETS = {
    "VMNetworkAdapter": (),
    "VM": ("VMNetworkAdapterName",),
    "VMName": ("VMNetworkAdapterName",),
}


def _adapters(call: Call, name: str = "Name") -> list[NetworkAdapter]:
    """The adapters given, or those of machines; a name that fits none is an error."""
    if call.has("VMNetworkAdapter"):
        return call.items("VMNetworkAdapter", NetworkAdapter)
    found = [adapter for vm in call.machines() for adapter in vm.adapters]
    pattern = call.get(name, str)
    if not pattern:
        return found
    fitting = [adapter for adapter in found if fits(pattern, adapter.name)]
    if not fitting:
        raise object_not_found("No network adapter was found with the given name.")
    return fitting


def _get_adapter(call: Call) -> Iterator[object]:
    legacy = call.get("IsLegacy", bool)
    for adapter in _adapters(call):
        adapter.vm.require_present()
        if legacy in (None, adapter.legacy):
            yield adapter


def _add_adapter(call: Call) -> Iterator[object]:
    """As AddVMNetworkAdapter: without a static address the address is dynamic."""
    if call.has("StaticMacAddress") and call.switch("DynamicMacAddress"):
        raise invalid_parameter("A static and a dynamic MAC address cannot both be specified.")
    legacy = call.switch("IsLegacy")
    name = call.get("Name", str) or ("Legacy Network Adapter" if legacy else "Network Adapter")
    given = call.get("StaticMacAddress", str)
    mac = normalize_mac(given) if given is not None else None
    switch = _find_switch(call) if call.has("SwitchName") else None
    for vm in call.machines():
        with vm.lock:
            adapter = vm.add_adapter(name, legacy=legacy)
            adapter.switch = switch
            if mac is not None:
                adapter.mac, adapter.dynamic_mac = mac, False
        yield from pass_through(call, adapter)


def _find_switch(call: Call) -> VirtualSwitch:
    """As SetConnectedSwitchName: the name is a pattern, and exactly one switch must fit it.

    It becomes a pattern of WQL's, in which a bracket cannot be escaped, nor a quote.
    """
    pattern = call.get("SwitchName", str) or ""
    if "'" in pattern or "`[" in pattern:
        raise invalid_parameter(f'The pattern "{pattern}" cannot be converted to WQL.')
    fitting = [switch for switch in call.host.switches if fits(pattern, switch.name)]
    if not fitting:
        raise invalid_parameter(
            f'Hyper-V was unable to find a virtual switch with name "{pattern}".'
        )
    if len(fitting) > 1:
        raise invalid_parameter("Sequence contains more than one element")
    return fitting[0]


def _remove_adapter(call: Call) -> Iterator[object]:
    for adapter in _adapters(call):
        with adapter.vm.lock:
            adapter.vm.require_adapter(adapter)
            adapter.vm.adapters.remove(adapter)
        yield from pass_through(call, adapter)


def _get_switch(call: Call) -> Iterator[object]:
    yield from call.host.switches


def _connect_adapter(call: Call) -> Iterator[object]:
    switch = call.get("VMSwitch", VirtualSwitch) or _find_switch(call)
    for adapter in _adapters(call):
        with adapter.vm.lock:
            adapter.vm.require_adapter(adapter)
            adapter.switch = switch
        yield from pass_through(call, adapter)


def _set_adapter(call: Call) -> Iterator[object]:
    """As SetVMNetworkAdapter; a static address ends the dynamic one."""
    if call.has("StaticMacAddress") and call.switch("DynamicMacAddress"):
        raise invalid_parameter("A static and a dynamic MAC address cannot both be specified.")
    for adapter in _adapters(call):
        with adapter.vm.lock:
            adapter.vm.require_adapter(adapter)
            _refuse_on_legacy(call, adapter)
            _set_connection(call, adapter)
            _set_security(call, adapter)
        yield from pass_through(call, adapter)


def _refuse_on_legacy(call: Call, adapter: NetworkAdapter) -> None:
    for name in _SYNTHETIC_ONLY:
        if adapter.legacy and call.given.get(name):
            raise not_on_legacy(name)


def _set_connection(call: Call, adapter: NetworkAdapter) -> None:
    if call.switch("DynamicMacAddress"):
        adapter.dynamic_mac = True
    mac = call.get("StaticMacAddress", str)
    if mac is not None:
        adapter.mac, adapter.dynamic_mac = normalize_mac(mac), False
    naming = call.get("DeviceNaming", EnumValue)
    if naming is not None:
        adapter.set_device_naming(naming)
    unmonitored = call.get("NotMonitoredInCluster", bool)
    if unmonitored is not None:
        adapter.cluster_monitored = not unmonitored


def _set_security(call: Call, adapter: NetworkAdapter) -> None:
    for name in _SECURITY:
        value = call.get(name, EnumValue)
        if value is not None:
            adapter.security[name] = value
    adapter.port_mirroring = call.get("PortMirroring", EnumValue) or adapter.port_mirroring
    for attribute, name in _NUMBERS.items():
        if call.has(name):
            setattr(adapter, attribute, call.get(name, int))


def _get_vlan(call: Call) -> Iterator[object]:
    for adapter in _adapters(call, "VMNetworkAdapterName"):
        yield VlanSetting(adapter)


def _set_vlan(call: Call) -> Iterator[object]:
    plan = plan_vlan({name: call.given.get(name) for name in _VLAN})
    for adapter in _adapters(call, "VMNetworkAdapterName"):
        with adapter.vm.lock:
            adapter.vm.require_adapter(adapter)
            adapter.vlan = plan
        yield from pass_through(call, VlanSetting(adapter))


_VLAN: dict[str, ParameterType] = {
    "Untagged": "switch",
    "Access": "switch",
    "VlanId": int,
    "Trunk": "switch",
    "NativeVlanId": int,
    "AllowedVlanIdList": str,
    "Isolated": "switch",
    "Community": "switch",
    "Promiscuous": "switch",
    "PrimaryVlanId": int,
    "SecondaryVlanId": int,
    "SecondaryVlanIdList": str,
}
_SETTINGS: dict[str, ParameterType] = {
    **dict.fromkeys(_SECURITY, ON_OFF),
    "PortMirroring": PORT_MIRRORING,
    "DynamicMacAddress": "switch",
    "StaticMacAddress": str,
    "DeviceNaming": ON_OFF,
    "NotMonitoredInCluster": bool,
    "StormLimit": int,
    "DynamicIPAddressLimit": int,
    "VmqWeight": int,
    "IovWeight": int,
}

CMDLETS = (
    Cmdlet(
        "Get-VMNetworkAdapter", _get_adapter, {**MACHINES, "Name": str, "IsLegacy": bool}, VM_SETS
    ),
    Cmdlet(
        "Add-VMNetworkAdapter",
        _add_adapter,
        {
            **MACHINES,
            "Name": str,
            "IsLegacy": bool,
            "SwitchName": str,
            "StaticMacAddress": str,
            "DynamicMacAddress": "switch",
        },
        VM_SETS,
        not_empty=("Name", "SwitchName", "StaticMacAddress"),
    ),
    Cmdlet("Remove-VMNetworkAdapter", _remove_adapter, {**_ADAPTERS, "Name": str}, _ADAPTER_SETS),
    Cmdlet(
        "Connect-VMNetworkAdapter",
        _connect_adapter,
        {
            "VMNetworkAdapter": _ADAPTERS["VMNetworkAdapter"],
            "SwitchName": str,
            "VMSwitch": VirtualSwitch,
        },
        {"SwitchName": (), "VMSwitch": ()},
        required=("VMNetworkAdapter",),
    ),
    Cmdlet("Get-VMSwitch", _get_switch, {}, {}, needs_no_set=True),
    Cmdlet(
        "Set-VMNetworkAdapter",
        _set_adapter,
        {**_ADAPTERS, "Name": str, **_SETTINGS},
        _ADAPTER_SETS,
        not_empty=tuple(_SETTINGS),
    ),
    Cmdlet(
        "Get-VMNetworkAdapterVlan",
        _get_vlan,
        {**_ADAPTERS, "VMNetworkAdapterName": str},
        _VLAN_ADAPTER_SETS,
    ),
    Cmdlet(
        "Set-VMNetworkAdapterVlan",
        _set_vlan,
        {**_ADAPTERS, "VMNetworkAdapterName": str, **_VLAN},
        _VLAN_ADAPTER_SETS,
    ),
)
