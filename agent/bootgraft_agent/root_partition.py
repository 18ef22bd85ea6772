"""Finding the root file system that a kernel's arguments name."""

import re
from dataclasses import dataclass

from bootgraft_agent.machine import Machine, Place

_ROOT_DEVICE = re.compile(r"/dev/(?P<kind>xvd|hd|sd)(?P<letter>[a-z])(?P<part>\d*)\Z")
_TAG_LINK = re.compile(r"/dev/disk/by-(?P<tag>uuid|label)/(?P<value>.+)\Z")


@dataclass(frozen=True, slots=True)
class NoRoot:
    """Why the guest's root file system is not there to be edited."""

    reason: str


def find_root(machine: Machine, arguments: bytes) -> Place | NoRoot:
    """Find the root file system that a kernel's arguments name."""
    words = re.findall(rb"(?<!\S)root=(\S+)", arguments)
    if not words:
        return NoRoot("the kernel's arguments name no root file system")
    spec = words[-1].decode("utf-8", "backslashreplace").replace('"', "")
    tag, value = _split_tag(spec)
    if tag in {"LABEL", "UUID"}:
        return _find_by_tag(machine, spec, tag, value)
    match = _ROOT_DEVICE.match(spec)
    if match is None:
        return NoRoot(
            f"root={spec} is neither a partition nor a label or UUID; LVM and RAID are not started"
        )
    return _find_by_name(machine, spec, match)


def _split_tag(spec: str) -> tuple[str, str]:
    """Give the tag and value of UUID=… or LABEL=…, also written as udev's links to them."""
    link = _TAG_LINK.match(spec)
    if link is None:
        tag, _, value = spec.partition("=")
        return tag, value
    value = re.sub(r"\\x([0-9a-f]{2})", lambda escape: chr(int(escape[1], 16)), link["value"])
    return link["tag"].upper(), value


def _find_by_tag(machine: Machine, spec: str, tag: str, value: str) -> Place | NoRoot:
    places = list(machine.places())
    named = [
        place
        for place in places
        if value == (place.partition.label if tag == "LABEL" else place.partition.uuid)
    ]
    if len(named) == 1:
        return named[0]
    listed = " and ".join(place.name for place in named) or "no partition"
    return NoRoot(f"root={spec} fits {listed}")


def _find_by_name(machine: Machine, spec: str, match: re.Match[str]) -> Place | NoRoot:
    """Find the partition of the n-th disk, or of the disk whose IDE name is given."""
    disks = machine.ide_disks
    by_name = [disk for disk in disks if disk.name == f"hd{match['letter']}"]
    number = ord(match["letter"]) - ord("a")
    chosen = by_name if match["kind"] == "hd" and by_name else disks[number : number + 1]
    for place in machine.places():
        if place.disk in chosen and place.partition.number == int(match["part"] or 0):
            return place
    return NoRoot(f"root={spec} fits no file system on the machine's IDE disks")
