"""Legacy network adapters in the place of those that a guest without Hyper-V's drivers cannot use.

A legacy adapter cannot be made of another one: it is added, the other is removed, and its settings
are set. Each of these steps is told from what the machine has, so that a replacement which was cut
short is finished:

- an adapter that was captured and is there is replaced;
- one that was captured and is gone has a successor, a legacy adapter that was not captured, unless
  somebody else has removed it, as the successor is there first;
- a successor gets the captured adapter's settings.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bootgraft_agent.wire import JSON
from bootgraft_host.hyperv.description import NO_ADDRESS, NetworkAdapter, Vlan

LEGACY_LIMIT = 4  # legacy adapters in one machine
NO_POOLS = ("", "Primordial")
UNTAGGED = "Untagged"

_SECURITY: Mapping[str, Callable[[NetworkAdapter], str]] = {
    "MacAddressSpoofing": lambda adapter: adapter.mac_address_spoofing,
    "DhcpGuard": lambda adapter: adapter.dhcp_guard,
    "RouterGuard": lambda adapter: adapter.router_guard,
    "PortMirroring": lambda adapter: adapter.port_mirroring,
    "IeeePriorityTag": lambda adapter: adapter.ieee_priority_tag,
}


@dataclass(frozen=True, slots=True)
class AdapterChanges:
    """What is left to do: adapters to add, ids to remove, settings to set (see change.ps1)."""

    add: tuple[str, ...] = ()  # names of legacy adapters
    remove: tuple[str, ...] = ()  # ids
    set: tuple[Mapping[str, JSON], ...] = ()


def plan_replacement(
    captured: Sequence[NetworkAdapter], current: Sequence[NetworkAdapter]
) -> AdapterChanges:
    """Plan what makes legacy adapters of the captured ones that are not."""
    known = {adapter.id for adapter in captured}
    there = {adapter.id for adapter in current}
    replaced = [adapter for adapter in captured if not adapter.is_legacy]
    added = [adapter for adapter in current if adapter.is_legacy and adapter.id not in known]
    successors = _match(replaced, added)
    left = [adapter for adapter in replaced if adapter.id in there]
    pairs = [(old, successors[old.id]) for old in replaced if old.id in successors]
    settings = ((new.id, _find_differences(old, new)) for old, new in pairs)
    return AdapterChanges(
        add=tuple(adapter.name for adapter in left if adapter.id not in successors),
        remove=tuple(adapter.id for adapter in left),
        set=tuple(_ask_to_set(id_, differences) for id_, differences in settings if differences),
    )


def _match(
    replaced: Sequence[NetworkAdapter], added: Sequence[NetworkAdapter]
) -> dict[str, NetworkAdapter]:
    """Find the adapters' successors: names may repeat, so those that fit best come first."""
    pairs = [(old, new) for old in replaced for new in added if old.name == new.name]
    successors: dict[str, NetworkAdapter] = {}
    taken: set[str] = set()
    for old, new in sorted(pairs, key=_misfit):
        if old.id not in successors and new.id not in taken:
            successors[old.id] = new
            taken.add(new.id)
    return successors


def _misfit(pair: tuple[NetworkAdapter, NetworkAdapter]) -> int:
    """Tell how badly an adapter fits as a successor; one that is not set yet fits anywhere."""
    old, new = pair
    if not new.dynamic_mac_address_enabled and not _has_address(old, new):
        return 3  # it has another one's address
    if not _find_differences(old, new):
        return 0
    return 2 if new.dynamic_mac_address_enabled else 1


def keeps_address(adapter: NetworkAdapter) -> bool:
    """Whether a successor gets this address; one that was never assigned stays dynamic."""
    return adapter.mac_address not in ("", NO_ADDRESS)


def _has_address(old: NetworkAdapter, new: NetworkAdapter) -> bool:
    return new.mac_address.upper() == old.mac_address.upper()


def _find_differences(old: NetworkAdapter, new: NetworkAdapter) -> dict[str, list[JSON]]:
    """Give the settings of `old` that `new` lacks, as change.ps1 wants them."""
    return {
        name: values
        for name, values in (
            ("StaticMacAddress", list(_address(old, new))),
            ("Security", list(_security(old, new))),
            ("AllowTeaming", list(_value(old.allow_teaming, new.allow_teaming))),
            ("StormLimit", list(_value(old.storm_limit, new.storm_limit))),
            (
                "DynamicIpAddressLimit",
                list(_value(old.dynamic_ip_address_limit, new.dynamic_ip_address_limit)),
            ),
            ("NotMonitoredInCluster", list(_not_monitored(old, new))),
            *_vlan(old, new),
            ("Connect", list(_value(old.switch_name, new.switch_name))),
        )
        if values
    }


def _ask_to_set(adapter_id: str, differences: Mapping[str, list[JSON]]) -> Mapping[str, JSON]:
    names = ("StaticMacAddress", "Security", "AllowTeaming", "StormLimit", "DynamicIpAddressLimit")
    more = ("NotMonitoredInCluster", *_VLAN_KINDS, "Connect")
    return {"Id": adapter_id, **{name: differences.get(name, []) for name in (*names, *more)}}


def _address(old: NetworkAdapter, new: NetworkAdapter) -> Iterator[JSON]:
    if keeps_address(old) and (new.dynamic_mac_address_enabled or not _has_address(old, new)):
        yield old.mac_address


def _security(old: NetworkAdapter, new: NetworkAdapter) -> Iterator[JSON]:
    wanted: dict[str, JSON] = {name: read(old) for name, read in _SECURITY.items()}
    if wanted != {name: read(new) for name, read in _SECURITY.items()}:
        yield wanted


def _value(old: str | int | None, new: str | int | None) -> Iterator[JSON]:
    """Give what is to be set; what the host does not tell, or is not connected, is not."""
    if old not in (None, "", new):
        yield old


def _not_monitored(old: NetworkAdapter, new: NetworkAdapter) -> Iterator[JSON]:
    if old.cluster_monitored is not None and old.cluster_monitored != new.cluster_monitored:
        yield not old.cluster_monitored


# VLANs.


def _access(vlan: Vlan) -> Mapping[str, JSON]:
    return {"VlanId": vlan.access_vlan_id}


def _trunk(vlan: Vlan) -> Mapping[str, JSON]:
    return {"NativeVlanId": vlan.native_vlan_id, "AllowedVlanIdList": vlan.allowed_vlan_id_list}


def _private(vlan: Vlan) -> Mapping[str, JSON]:
    return {"PrimaryVlanId": vlan.primary_vlan_id, "SecondaryVlanId": vlan.secondary_vlan_id}


def _promiscuous(vlan: Vlan) -> Mapping[str, JSON]:
    secondary = vlan.secondary_vlan_id_list
    return {"PrimaryVlanId": vlan.primary_vlan_id, "SecondaryVlanIdList": secondary}


_VLAN_KINDS: Mapping[str, Callable[[Vlan], Mapping[str, JSON]]] = {
    "Access": _access,
    "Trunk": _trunk,
    "Isolated": _private,
    "Community": _private,
    "Promiscuous": _promiscuous,
}


def has_known_vlan(adapter: NetworkAdapter) -> bool:
    """Whether a successor can get the adapter's VLAN; as it is added, it has none."""
    kind = _vlan_kind(adapter)
    return kind == UNTAGGED or kind in _VLAN_KINDS


def _vlan(old: NetworkAdapter, new: NetworkAdapter) -> Iterator[tuple[str, list[JSON]]]:
    kind, wanted = _vlan_setting(old)
    if kind in _VLAN_KINDS and (kind, wanted) != _vlan_setting(new):
        yield kind, [wanted]


def _vlan_setting(adapter: NetworkAdapter) -> tuple[str, Mapping[str, JSON]]:
    kind = _vlan_kind(adapter)
    return kind, _VLAN_KINDS[kind](adapter.vlan[0]) if kind in _VLAN_KINDS else {}


def _vlan_kind(adapter: NetworkAdapter) -> str:
    for vlan in adapter.vlan:
        is_private = vlan.operation_mode == "Private"
        return vlan.private_vlan_mode if is_private else vlan.operation_mode
    return UNTAGGED


# What a successor does not get.


def find_losses(adapter: NetworkAdapter) -> Iterator[str]:
    """Name the features of an adapter that a legacy one lacks, or that are not carried over."""
    for setting in adapter.bandwidth:
        if any(
            (
                setting.maximum_bandwidth,
                setting.minimum_bandwidth_absolute,
                setting.minimum_bandwidth_weight,
            )
        ):
            yield "bandwidth management"
    for name, is_used in (
        ("SR-IOV", bool(adapter.iov_weight)),
        ("device naming", adapter.device_naming == "On"),
        (f"{len(adapter.acls)} port ACLs", bool(adapter.acls)),
        (f"{len(adapter.extended_acls)} extended port ACLs", bool(adapter.extended_acls)),
        (f"{len(adapter.routing_domains)} routing domains", bool(adapter.routing_domains)),
        (f"isolation mode {adapter.isolation_mode}", adapter.isolation_mode not in ("", "Vlan")),
        (f"virtual subnet {adapter.virtual_subnet_id}", bool(adapter.virtual_subnet_id)),
        (f"resource pool {adapter.pool_name}", adapter.pool_name not in NO_POOLS),
        (f"test replica pool {adapter.test_replica_pool_name}", adapter.test_replica_pool_name),
        (
            f"test replica switch {adapter.test_replica_switch_name}",
            adapter.test_replica_switch_name,
        ),
    ):
        if is_used:
            yield name
