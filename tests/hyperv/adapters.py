"""The modelled network adapters: what they are, and how their settings may be set.

Property names and defaults are those of the module's VMNetworkAdapter, VMNetworkAdapterBase and
VMNetworkAdapterVlanSetting.
"""

import re
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from hyperv.enums import (
    ISOLATION_MODE,
    ON_OFF,
    PORT_MIRRORING,
    PRIVATE_VLAN_MODE,
    SWITCH_TYPE,
    VLAN_MODE,
)
from hyperv.hardware import PRIMORDIAL
from hyperv.model_object import ModelObject, Readers, invalid_parameter
from hyperv.values import EnumValue, PowerShellError
from hyperv.vlan import Vlan, format_vlan_ids

if TYPE_CHECKING:
    from hyperv.vm import Vm

LEGACY_LIMIT = 4  # in one machine
SYNTHETIC_LIMIT = 8
NO_MAC = "000000000000"  # of an adapter that was never started
DEFAULT_VMQ_WEIGHT = 100

_MAC = re.compile(r"([0-9A-F]{2}[:-]?){5}[0-9A-F]{2}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Nic:
    """A network adapter, as add_vm wants it; without a switch it is not connected."""

    name: str = "Network Adapter"
    legacy: bool = False
    switch: str | None = "LAN"
    mac: str | None = None  # None: dynamic
    vlan: int | None = None  # the id of an access port
    settings: dict[str, object] = field(default_factory=dict)  # attributes of NetworkAdapter


class VirtualSwitch(ModelObject):
    """A virtual switch. Names may repeat, as those of machines may."""

    type_name = "Microsoft.HyperV.PowerShell.VMSwitch"
    readers: ClassVar[Readers] = {
        "Id": lambda switch: switch.id,
        "Name": lambda switch: switch.name,
        "SwitchType": lambda switch: SWITCH_TYPE.value("Private"),
    }

    def __init__(self, name: str) -> None:
        self.id = uuid.uuid4()
        self.name = name


class VlanSetting(ModelObject):
    """An adapter's VLAN setting, read live."""

    type_name = "Microsoft.HyperV.PowerShell.VMNetworkAdapterVlanSetting"
    readers: ClassVar[Readers] = {
        "OperationMode": lambda setting: VLAN_MODE.value(setting.vlan.mode),
        "AccessVlanId": lambda setting: setting.vlan.access,
        "NativeVlanId": lambda setting: setting.vlan.native,
        "AllowedVlanIdList": lambda setting: list(setting.vlan.allowed),
        "AllowedVlanIdListString": lambda setting: format_vlan_ids(setting.vlan.allowed),
        "PrivateVlanMode": lambda setting: PRIVATE_VLAN_MODE.value(setting.vlan.private),
        "PrimaryVlanId": lambda setting: setting.vlan.primary,
        "SecondaryVlanId": lambda setting: setting.vlan.secondary,
        "SecondaryVlanIdList": lambda setting: (
            None if setting.vlan.secondaries is None else list(setting.vlan.secondaries)
        ),
        "SecondaryVlanIdListString": lambda setting: format_vlan_ids(setting.vlan.secondaries),
        "ParentAdapter": lambda setting: setting.adapter,
    }

    def __init__(self, adapter: "NetworkAdapter") -> None:
        self.adapter = adapter

    @property
    def vlan(self) -> Vlan:
        return self.adapter.vlan


class BandwidthSetting(ModelObject):
    """An adapter's bandwidth setting; an adapter without one gives $null."""

    type_name = "Microsoft.HyperV.PowerShell.VMNetworkAdapterBandwidthSetting"
    readers: ClassVar[Readers] = {
        "MaximumBandwidth": lambda setting: setting.maximum,
        "MinimumBandwidthAbsolute": lambda setting: setting.minimum,
        "MinimumBandwidthWeight": lambda setting: setting.weight,
    }

    def __init__(self, *, maximum: int = 0, minimum: int = 0, weight: int = 0) -> None:
        self.maximum = maximum
        self.minimum = minimum
        self.weight = weight


class NetworkAdapter(ModelObject):
    """A network adapter of a machine."""

    type_name = "Microsoft.HyperV.PowerShell.VMNetworkAdapter"

    def __init__(self, vm: "Vm", name: str, *, legacy: bool) -> None:
        self.vm = vm
        self.name = name
        self.legacy = legacy
        self.guid = uuid.uuid4()
        self.switch: VirtualSwitch | None = None
        self.mac = NO_MAC
        self.dynamic_mac = True
        self.security = {
            name: ON_OFF.value("Off")
            for name in (
                "MacAddressSpoofing",
                "DhcpGuard",
                "RouterGuard",
                "IeeePriorityTag",
                "AllowTeaming",
            )
        }
        self.port_mirroring = PORT_MIRRORING.value("None")
        self.device_naming = ON_OFF.value("Off")
        self.vlan = Vlan()
        self.bandwidth: BandwidthSetting | None = None
        self.acls: list[object] = []
        self.extended_acls: list[object] = []
        self.routing_domains: list[object] = []
        self.isolation_mode = ISOLATION_MODE.value("Vlan")
        self.virtual_subnet = 0
        self.cluster_monitored = True
        self.dynamic_ip_address_limit = 0
        self.storm_limit = 0
        self.iov_weight = 0
        self.vmq_weight = 0 if legacy else DEFAULT_VMQ_WEIGHT
        self.pool: str | None = None
        self.test_replica_pool: str | None = None
        self.test_replica_switch: str | None = None

    @property
    def id(self) -> str:
        return f"Microsoft:{str(self.vm.id).upper()}\\{str(self.guid).upper()}"

    @property
    def pool_name(self) -> str:
        """As the module: what is in no pool and on no switch is in the first of all pools."""
        return self.pool or ("" if self.switch is not None else PRIMORDIAL)

    def known_readers(self) -> Readers:
        if self.vm.host.windows == "2012R2":
            return {name: read for name, read in self.readers.items() if name != "DeviceNaming"}
        return self.readers

    def set_device_naming(self, value: EnumValue) -> None:
        """Set it; only a synthetic adapter can have it on, as the module's setter has it."""
        if self.legacy and value.name == "On":
            raise invalid_parameter("Device naming does not apply to a legacy network adapter.")
        self.device_naming = value


def _security(name: str) -> "Readers":
    return {name: lambda adapter: adapter.security[name]}


NetworkAdapter.readers = {
    "Id": lambda adapter: adapter.id,
    "Name": lambda adapter: adapter.name,
    "VMId": lambda adapter: adapter.vm.id,
    "VMName": lambda adapter: adapter.vm.name,
    "IsLegacy": lambda adapter: adapter.legacy,
    "IsSynthetic": lambda adapter: not adapter.legacy,
    "IsManagementOs": lambda adapter: False,
    "Connected": lambda adapter: adapter.switch is not None,
    "SwitchName": lambda adapter: adapter.switch and adapter.switch.name,
    "SwitchId": lambda adapter: adapter.switch and adapter.switch.id,
    "MacAddress": lambda adapter: adapter.mac,
    "DynamicMacAddressEnabled": lambda adapter: adapter.dynamic_mac,
    **_security("MacAddressSpoofing"),
    **_security("DhcpGuard"),
    **_security("RouterGuard"),
    **_security("IeeePriorityTag"),
    **_security("AllowTeaming"),
    "PortMirroringMode": lambda adapter: adapter.port_mirroring,
    "DeviceNaming": lambda adapter: adapter.device_naming,
    "VlanSetting": VlanSetting,
    "BandwidthSetting": lambda adapter: adapter.bandwidth,
    "AclList": lambda adapter: list(adapter.acls),
    "ExtendedAclList": lambda adapter: list(adapter.extended_acls),
    "RoutingDomainList": lambda adapter: list(adapter.routing_domains),
    "CurrentIsolationMode": lambda adapter: adapter.isolation_mode,
    "VirtualSubnetId": lambda adapter: adapter.virtual_subnet,
    "ClusterMonitored": lambda adapter: adapter.cluster_monitored,
    "DynamicIPAddressLimit": lambda adapter: adapter.dynamic_ip_address_limit,
    "StormLimit": lambda adapter: adapter.storm_limit,
    "IovWeight": lambda adapter: adapter.iov_weight,
    "VMQWeight": lambda adapter: adapter.vmq_weight,
    "PoolName": lambda adapter: adapter.pool_name,
    "TestReplicaPoolName": lambda adapter: adapter.test_replica_pool,
    "TestReplicaSwitchName": lambda adapter: adapter.test_replica_switch,
}


def normalize_mac(text: str) -> str:
    """As the module's ValidateAndNormalizeMacAddress: twelve digits, capitals."""
    if not _MAC.fullmatch(text):
        raise invalid_parameter("The format of the parameter 'StaticMacAddress' is not valid.")
    return text.upper().replace(":", "").replace("-", "")


def not_on_legacy(name: str) -> PowerShellError:
    """The error of a setting that only synthetic adapters have.

    Hyper-V's own tools offer it for those alone; that the cmdlet fails is assumed.
    """
    return invalid_parameter(f"The parameter '{name}' does not apply to a legacy network adapter.")
