"""VLANs of adapters' ports: what the setting says, and how the module reads its arguments."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby

from hyperv.model_object import invalid_parameter

HIGHEST = 4094  # of twelve bits all but the first and the last two are VLANs

_RANGE = re.compile(r"(\d+)-(\d+)")
_BAD_LIST = "The VLAN ID list is not valid."
_KINDS = {
    "Untagged": ("Untagged",),
    "Access": ("Access", "VlanId"),
    "Trunk": ("Trunk", "NativeVlanId", "AllowedVlanIdList"),
    "Isolated": ("Isolated", "PrimaryVlanId", "SecondaryVlanId"),
    "Community": ("Community", "PrimaryVlanId", "SecondaryVlanId"),
    "Promiscuous": ("Promiscuous", "PrimaryVlanId", "SecondaryVlanIdList"),
}


@dataclass(frozen=True, slots=True)
class Vlan:
    """The VLAN setting of an adapter's port."""

    mode: str = "Untagged"
    access: int = 0
    native: int = 0
    allowed: tuple[int, ...] = ()
    private: str = "0"
    primary: int = 0
    secondary: int = 0
    secondaries: tuple[int, ...] | None = None


def parse_vlan_ids(text: str) -> tuple[int, ...]:
    """As the module's ParseVlanIdList, which takes no empty list."""
    found: list[int] = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        if match and int(match[2]) > int(match[1]):
            found += range(int(match[1]), int(match[2]) + 1)
        elif part.strip().isdecimal():
            found.append(int(part))
        else:
            raise invalid_parameter(_BAD_LIST)
    return tuple(dict.fromkeys(found))


def format_vlan_ids(ids: Iterable[int] | None) -> str | None:
    """As the module's FormatVlanIdList: 1,3-5."""
    if ids is None:
        return None
    numbered = enumerate(sorted(ids))
    runs = (
        [item for _, item in run] for _, run in groupby(numbered, lambda pair: pair[1] - pair[0])
    )
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def plan_vlan(asked: Mapping[str, object]) -> Vlan:
    """The setting that Set-VMNetworkAdapterVlan's arguments say, as its own check of them.

    Exactly one kind must be there, and that one whole.
    """
    given = {name for name, value in asked.items() if value is not None and value is not False}
    found = [kind for kind in _KINDS if kind in given]
    if len(found) > 1:
        raise invalid_parameter("Conflicting parameters")
    if not found or not given >= set(_KINDS[found[0]]):
        raise invalid_parameter("Missing parameter")
    if given > set(_KINDS[found[0]]):
        raise invalid_parameter("Conflicting parameters")
    return _make_vlan(found[0], asked)


def _make_vlan(kind: str, asked: Mapping[str, object]) -> Vlan:
    if kind == "Untagged":
        return Vlan()
    if kind == "Access":
        return Vlan("Access", access=_check(asked["VlanId"]))
    if kind == "Trunk":
        allowed = _check_all(asked["AllowedVlanIdList"])
        return Vlan("Trunk", native=_check(asked["NativeVlanId"], lowest=0), allowed=allowed)
    primary = _check(asked["PrimaryVlanId"])
    if kind == "Promiscuous":
        all_of_them = _check_all(asked["SecondaryVlanIdList"])
        return Vlan("Private", private=kind, primary=primary, secondaries=all_of_them)
    secondary = _check(asked["SecondaryVlanId"])
    return Vlan("Private", private=kind, primary=primary, secondary=secondary)


def _check_all(value: object) -> tuple[int, ...]:
    return tuple(_check(number) for number in parse_vlan_ids(str(value)))


def _check(value: object, *, lowest: int = 1) -> int:
    """Refuse what is no VLAN; that the service does so is assumed."""
    if not isinstance(value, int) or not lowest <= value <= HIGHEST:
        raise invalid_parameter(f"{value} is not a VLAN ID.")
    return value
