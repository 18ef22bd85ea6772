"""Finding the boot partition: the one file system of the machine that holds GRUB legacy's files."""

from collections.abc import Iterator
from dataclasses import dataclass

from bootgraft_agent.errors import AmbiguousError, RefusedError
from bootgraft_agent.guest import BootDirectory, find_boot_directories
from bootgraft_agent.machine import Machine, Place, Views, looked_at
from bootgraft_agent.plan import Options


@dataclass(frozen=True, slots=True)
class Found:
    """Where the guest's boot directory was found."""

    place: Place
    directory: BootDirectory


def find_boot(machine: Machine, options: Options, view: Views) -> Found:
    """Find the one boot directory on the IDE disks. Raises RefusedError and AmbiguousError."""
    if not machine.disks:
        raise RefusedError(
            "no disk was found in this machine; is it attached, and to an IDE channel?"
        )
    places = _chosen_places(machine, options.boot_partition)
    notes: list[str] = []
    found = [each for place in places for each in _search(place, view, notes)]
    if len(found) > 1:
        listed = " and ".join(f"{each.place.name}:/{each.directory.prefix}" for each in found)
        raise AmbiguousError(
            f"cannot choose a boot partition: {listed} both hold GRUB's files; name one with"
            " --boot-partition"
        )
    if not found:
        looked = "; ".join(notes) or "no partition with a file system that Linux boots from"
        raise RefusedError(f"no boot partition with GRUB legacy's files was found: {looked}")
    if found[0].place.disk.hd_name is None:
        raise RefusedError(
            f"the boot partition {found[0].place.name} is on a {found[0].place.disk.bus} disk;"
            " attach that disk to an IDE channel, which is what the shim's kernel can use"
        )
    return found[0]


def _chosen_places(machine: Machine, name: str | None) -> list[Place]:
    places = list(machine.places())
    if name is None:
        return places
    wanted = name.removeprefix("/dev/")
    chosen = [place for place in places if wanted in {place.name, place.partition.kernel_name}]
    if len(chosen) != 1:
        listed = ", ".join(place.name for place in places) or "none"
        raise RefusedError(f"there is no partition {name} with a file system; there are: {listed}")
    return chosen


def _search(place: Place, view: Views, notes: list[str]) -> Iterator[Found]:
    try:
        with looked_at(place, view) as tree:
            directories = find_boot_directories(tree)
    except (RefusedError, OSError) as error:
        notes.append(f"{place.name}: {error}")
        return
    if not directories:
        notes.append(f"{place.name} ({place.fs_type}) has none")
    for directory in directories:
        yield Found(place, directory)
