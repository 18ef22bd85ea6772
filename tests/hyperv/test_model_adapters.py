"""The modelled host's rules for network adapters."""

from pathlib import Path
from typing import Any

import pytest

from bootgraft_agent.wire import JSON
from bootgraft_host.hyperv.runner import ScriptError
from hyperv.adapters import BandwidthSetting, Nic, VirtualSwitch
from hyperv.model import SimulatedHost
from hyperv.scripting import call, change
from hyperv.values import PowerShellError
from hyperv.vm import Vm

SET_LISTS = (
    "StaticMacAddress",
    "Security",
    "AllowTeaming",
    "StormLimit",
    "DynamicIpAddressLimit",
    "NotMonitoredInCluster",
    "Access",
    "Trunk",
    "Isolated",
    "Community",
    "Promiscuous",
    "Connect",
)


@pytest.fixture
def host(tmp_path: Path) -> SimulatedHost:
    return SimulatedHost(tmp_path)


@pytest.fixture
def vm(host: SimulatedHost) -> Vm:
    return host.add_vm("appliance")


def adapters(host: SimulatedHost, vm: Vm) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = host.describe(vm)["NetworkAdapters"]
    return found


def set_adapter(host: SimulatedHost, vm: Vm, **wanted: JSON) -> dict[str, Any]:
    """Set the machine's one adapter, and give its description."""
    lists: dict[str, JSON] = {name: [] for name in SET_LISTS}
    (adapter,) = adapters(host, vm)
    change(host, vm, SetAdapters=[{**lists, **wanted, "Id": adapter["Id"]}])
    (adapter,) = adapters(host, vm)
    return adapter


def test_a_dynamic_address_is_given_at_the_first_start(host: SimulatedHost, vm: Vm) -> None:
    (before,) = adapters(host, vm)
    assert (before["MacAddress"], before["DynamicMacAddressEnabled"]) == ("000000000000", True)
    vm.start()
    (running,) = adapters(host, vm)
    assert running["MacAddress"].startswith("00155D")
    vm.turn_off()
    vm.start()
    assert adapters(host, vm) == [running]


def test_machines_get_addresses_of_their_own(host: SimulatedHost) -> None:
    machines = [host.add_vm(f"vm{number}") for number in range(5)]
    for machine in machines:
        machine.start()
    assert len({machine.adapters[0].mac for machine in machines}) == 5


def test_the_pool_of_addresses_ends(host: SimulatedHost) -> None:
    for number in range(256):
        host.add_vm(f"vm{number}").start()
    with pytest.raises(PowerShellError, match="exhausted"):
        host.add_vm("one too many").start()


def test_an_added_adapter_is_a_new_one(host: SimulatedHost, vm: Vm) -> None:
    change(host, vm, AddAdapters=[{"Name": "Network Adapter", "IsLegacy": True}])
    old, new = adapters(host, vm)
    assert old["Id"] != new["Id"]
    assert (new["IsLegacy"], new["SwitchName"], new["MacAddress"]) == (True, None, "000000000000")
    change(host, vm, RemoveAdapters=[old["Id"]])
    assert adapters(host, vm) == [new]


def test_a_legacy_adapter_lacks_features(host: SimulatedHost) -> None:
    vm = host.add_vm("old", adapters=[Nic(legacy=True)])
    (adapter,) = adapters(host, vm)
    assert (adapter["VmqWeight"], adapter["IovWeight"], adapter["DeviceNaming"]) == (0, 0, "Off")
    for name, value in (("VmqWeight", 100), ("IovWeight", 50), ("DeviceNaming", "On")):
        with pytest.raises(PowerShellError, match="legacy"):
            call(host, "Set-VMNetworkAdapter", VMNetworkAdapter=vm.adapters, **{name: value})
    call(host, "Set-VMNetworkAdapter", VMNetworkAdapter=vm.adapters, DeviceNaming="Off")


def test_a_synthetic_adapter_has_them(host: SimulatedHost, vm: Vm) -> None:
    call(
        host,
        "Set-VMNetworkAdapter",
        VMNetworkAdapter=vm.adapters,
        VmqWeight=50,
        IovWeight=10,
        DeviceNaming="On",
    )
    (adapter,) = adapters(host, vm)
    assert (adapter["VmqWeight"], adapter["IovWeight"], adapter["DeviceNaming"]) == (50, 10, "On")


@pytest.mark.parametrize(("legacy", "limit"), [(True, 4), (False, 8)])
def test_the_number_of_adapters_is_limited(host: SimulatedHost, legacy: bool, limit: int) -> None:
    vm = host.add_vm("many", adapters=())
    for _ in range(limit):
        call(host, "Add-VMNetworkAdapter", VM=[vm], IsLegacy=legacy)
    with pytest.raises(PowerShellError, match="more network adapters"):
        call(host, "Add-VMNetworkAdapter", VM=[vm], IsLegacy=legacy)


def test_generation_2_has_no_legacy_adapters(host: SimulatedHost) -> None:
    vm = host.add_vm("new", generation=2)
    with pytest.raises(PowerShellError, match="Generation 2"):
        call(host, "Add-VMNetworkAdapter", VM=[vm], IsLegacy=True)


def test_adapters_change_only_while_the_machine_is_off(host: SimulatedHost, vm: Vm) -> None:
    vm.start()
    given: dict[str, object] = {"VMNetworkAdapter": vm.adapters}
    uses: dict[str, dict[str, object]] = {
        "Add-VMNetworkAdapter": {"VM": [vm]},
        "Remove-VMNetworkAdapter": given,
        "Set-VMNetworkAdapter": {**given, "DhcpGuard": "On"},
        "Connect-VMNetworkAdapter": {**given, "SwitchName": "LAN"},
        "Set-VMNetworkAdapterVlan": {**given, "Untagged": True},
    }
    for name, arguments in uses.items():
        with pytest.raises(PowerShellError) as caught:
            call(host, name, **arguments)
        assert caught.value.error_id.startswith("InvalidState,")


def test_a_static_address_ends_the_dynamic_one(host: SimulatedHost, vm: Vm) -> None:
    adapter = set_adapter(host, vm, StaticMacAddress=["00:15:5d:01:02:ff"])
    assert adapter["MacAddress"] == "00155D0102FF"
    assert adapter["DynamicMacAddressEnabled"] is False
    with pytest.raises(ScriptError, match="StaticMacAddress"):
        set_adapter(host, vm, StaticMacAddress=["00155D"])


def test_security_settings_are_set_together(host: SimulatedHost, vm: Vm) -> None:
    wanted = {
        "MacAddressSpoofing": "On",
        "DhcpGuard": "On",
        "RouterGuard": "Off",
        "PortMirroring": "Source",
        "IeeePriorityTag": "On",
    }
    adapter = set_adapter(
        host,
        vm,
        Security=[wanted],
        AllowTeaming=["On"],
        StormLimit=[7],
        NotMonitoredInCluster=[True],
    )
    assert {name: adapter[name] for name in wanted} == wanted
    assert (adapter["AllowTeaming"], adapter["StormLimit"]) == ("On", 7)
    assert adapter["ClusterMonitored"] is False


def test_an_adapter_is_connected_by_the_name_of_a_switch(host: SimulatedHost) -> None:
    vm = host.add_vm("appliance", adapters=[Nic(switch=None)])
    (adapter,) = adapters(host, vm)
    assert (adapter["SwitchName"], adapter["PoolName"]) == (None, "Primordial")
    adapter = set_adapter(host, vm, Connect=["backup"])
    assert (adapter["SwitchName"], adapter["PoolName"]) == ("Backup", "")
    for name in ("nowhere", "*", "Back*", ""):
        with pytest.raises(ScriptError, match="'VMSwitch'"):
            set_adapter(host, vm, Connect=[name])
    host.switches.append(VirtualSwitch("LAN"))
    with pytest.raises(ScriptError, match="'VMSwitch'"):
        set_adapter(host, vm, Connect=["LAN"])


def test_the_name_of_a_switch_is_a_pattern_to_the_cmdlet(host: SimulatedHost, vm: Vm) -> None:
    given = {"VMNetworkAdapter": vm.adapters}
    with pytest.raises(PowerShellError, match="more than one"):
        call(host, "Connect-VMNetworkAdapter", **given, SwitchName="*")
    call(host, "Connect-VMNetworkAdapter", **given, SwitchName="Back*")
    (adapter,) = adapters(host, vm)
    assert adapter["SwitchName"] == "Backup"
    for name in ("Bob's", "LAN `[1`]"):
        host.switches.append(VirtualSwitch(name))
        with pytest.raises(PowerShellError, match="cannot be converted to WQL"):
            call(host, "Connect-VMNetworkAdapter", **given, SwitchName=name)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"Access": [{"VlanId": 12}]}, {"OperationMode": "Access", "AccessVlanId": 12}),
        (
            {"Trunk": [{"NativeVlanId": 1, "AllowedVlanIdList": "3,1-2, 7"}]},
            {"OperationMode": "Trunk", "NativeVlanId": 1, "AllowedVlanIdList": "1-3,7"},
        ),
        (
            {"Isolated": [{"PrimaryVlanId": 10, "SecondaryVlanId": 11}]},
            {"OperationMode": "Private", "PrivateVlanMode": "Isolated", "SecondaryVlanId": 11},
        ),
        (
            {"Community": [{"PrimaryVlanId": 10, "SecondaryVlanId": 11}]},
            {"OperationMode": "Private", "PrivateVlanMode": "Community", "PrimaryVlanId": 10},
        ),
        (
            {"Promiscuous": [{"PrimaryVlanId": 10, "SecondaryVlanIdList": "11-12"}]},
            {"PrivateVlanMode": "Promiscuous", "SecondaryVlanIdList": "11-12"},
        ),
    ],
)
def test_a_vlan_is_set_and_taken_away(
    host: SimulatedHost, vm: Vm, wanted: dict[str, JSON], expected: dict[str, JSON]
) -> None:
    (untagged,) = adapters(host, vm)
    (vlan,) = set_adapter(host, vm, **wanted)["Vlan"]
    assert {name: vlan[name] for name in expected} == expected
    call(host, "Set-VMNetworkAdapterVlan", VMNetworkAdapter=vm.adapters, Untagged=True)
    assert adapters(host, vm) == [untagged]


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"Access": True},
        {"VlanId": 5},
        {"Untagged": True, "Access": True, "VlanId": 5},
        {"Trunk": True, "NativeVlanId": 1, "AllowedVlanIdList": ""},
        {"Trunk": True, "NativeVlanId": 1, "AllowedVlanIdList": "5-4"},
        {"Access": True, "VlanId": 4095},
    ],
)
def test_a_vlan_must_be_said_whole(
    host: SimulatedHost, vm: Vm, arguments: dict[str, object]
) -> None:
    with pytest.raises(PowerShellError) as caught:
        call(host, "Set-VMNetworkAdapterVlan", VMNetworkAdapter=vm.adapters, **arguments)
    assert caught.value.error_id.startswith("InvalidParameter,")


def test_what_only_some_adapters_have_is_described(host: SimulatedHost) -> None:
    settings: dict[str, object] = {
        "bandwidth": BandwidthSetting(maximum=1000),
        "pool": "Gold",
        "test_replica_switch": "Test",
        "acls": ["one"],
    }
    vm = host.add_vm("appliance", adapters=[Nic(vlan=3, mac="02155D000001", settings=settings)])
    (adapter,) = adapters(host, vm)
    assert adapter["Bandwidth"] == [
        {"MaximumBandwidth": 1000, "MinimumBandwidthAbsolute": 0, "MinimumBandwidthWeight": 0}
    ]
    assert (adapter["PoolName"], adapter["TestReplicaSwitchName"]) == ("Gold", "Test")
    assert (adapter["Acls"], adapter["RoutingDomains"]) == (["ACL"], [])
    assert adapter["Vlan"][0]["AccessVlanId"] == 3
