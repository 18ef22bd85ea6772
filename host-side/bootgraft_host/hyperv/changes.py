"""What a run wants of a machine's hardware, and what is left to do; nothing here touches a host.

Attach and detach are both: describe the machine, decide what is wanted, find the difference, make
the changes, and look again until there is none. So each may be cut short anywhere and done again.

::

    captured --wanted_for_live--> media in, CD first, COM1 to us  --wanted_after--> captured
             --wanted_for_watch-> booted from its own disk, watched --wanted_after--> captured
"""

import ntpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from bootgraft_agent.wire import JSON
from bootgraft_host.hyperv.adapters import AdapterChanges, plan_replacement
from bootgraft_host.hyperv.description import IDE, NetworkAdapter, Slot, VmDescription
from bootgraft_host.machine import MachineError

IDE_SLOTS = (Slot(0, 0), Slot(0, 1), Slot(1, 0), Slot(1, 1))
_ADDED_FIRST = (Slot(1, 1), Slot(1, 0), Slot(0, 1), Slot(0, 0))  # hdd, as it is done by hand
_Value = TypeVar("_Value")

_CD = "CD"
_NO_START = "Nothing"  # a host that starts anew in the middle of a run lets the machine be
_NO_SAVE = "TurnOff"


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a run may change, as it is or is wanted.

    `replaced` are the captured network adapters where legacy ones are to take their places; without
    them adapters are nobody's business.
    """

    dvd_drives: Mapping[Slot, str]  # on IDE; the ISO's path, or empty
    startup_order: tuple[str, ...]
    com1: str
    start_action: str
    stop_action: str
    automatic_checkpoints: bool | None
    replaced: tuple[NetworkAdapter, ...] = ()


@dataclass(frozen=True, slots=True)
class Ours:
    """What a run has put into a machine.

    `isos` are those that it may have inserted: none where it only watches the machine boot, None
    where that is not known, as somebody has removed the mark which names them.
    """

    pipe: str
    isos: frozenset[str] | None

    @property
    def attached(self) -> bool:
        """Whether the machine was prepared to boot the live ISO."""
        return self.isos is None or bool(self.isos)

    def has(self, path: str) -> bool:
        """Whether the run inserted this ISO."""
        return self.isos is None or any(same_path(path, iso) for iso in self.isos)


@dataclass(frozen=True, slots=True)
class Changes:
    """What is left to do, in the shape of change.ps1's request."""

    eject_from: tuple[Slot, ...] = ()
    remove_dvd_drives: tuple[Slot, ...] = ()
    add_dvd_drives: tuple[Slot, ...] = ()
    insert: Mapping[Slot, str] = field(default_factory=dict)
    startup_order: tuple[str, ...] | None = None
    com1: str | None = None
    actions: tuple[str, str] | None = None  # start, stop
    automatic_checkpoints: bool | None = None
    adapters: AdapterChanges = field(default_factory=AdapterChanges)

    def __bool__(self) -> bool:
        return self != Changes()

    def to_request(self, vm_id: str) -> Mapping[str, JSON]:
        """Give what change.ps1 is asked."""
        order, actions, checkpoints = self.startup_order, self.actions, self.automatic_checkpoints
        com1: JSON = {"Number": 1, "Path": self.com1 or None}
        return {
            "Id": vm_id,
            "EjectFrom": [_ask_slot(slot) for slot in self.eject_from],
            "RemoveDvdDrives": [_ask_slot(slot) for slot in self.remove_dvd_drives],
            "AddDvdDrives": [_ask_slot(slot) for slot in self.add_dvd_drives],
            "Insert": [{**_ask_slot(slot), "Path": path} for slot, path in self.insert.items()],
            "Bios": [] if order is None else [{"StartupOrder": list(order)}],
            "ComPorts": [] if self.com1 is None else [com1],
            "AddAdapters": [{"Name": name, "IsLegacy": True} for name in self.adapters.add],
            "RemoveAdapters": list(self.adapters.remove),
            "SetAdapters": list(self.adapters.set),
            "AutomaticActions": (
                [] if actions is None else [{"Start": actions[0], "Stop": actions[1]}]
            ),
            "AutomaticCheckpoints": [] if checkpoints is None else [{"Enabled": checkpoints}],
        }

    def describe(self) -> tuple[str, ...]:
        """Say in words what is left to do."""
        return tuple(self._describe())

    def _describe(self) -> Iterator[str]:
        for slot in self.eject_from:
            yield f"eject the ISO in the DVD drive {slot}"
        for slot in self.remove_dvd_drives:
            yield f"remove the DVD drive {slot}"
        for slot in self.add_dvd_drives:
            yield f"add a DVD drive at {slot}"
        for slot, path in self.insert.items():
            yield f"insert {path} into the DVD drive {slot}"
        if self.startup_order is not None:
            yield f"set the startup order to {', '.join(self.startup_order)}"
        if self.com1 is not None:
            yield f"lead COM1 to {self.com1}" if self.com1 else "disconnect COM1"
        for name in self.adapters.add:
            yield f"add a legacy network adapter named {name}"
        for adapter_id in self.adapters.remove:
            yield f"remove the network adapter {adapter_id}"
        for wanted in self.adapters.set:
            yield from _describe_settings(wanted)
        if self.actions is not None:
            start, stop = self.actions
            yield f"set the automatic start action to {start}, the stop action to {stop}"
        if self.automatic_checkpoints is not None:
            yield f"switch automatic checkpoints {'on' if self.automatic_checkpoints else 'off'}"


def _describe_settings(wanted: Mapping[str, JSON]) -> Iterator[str]:
    adapter = f"the network adapter {wanted['Id']}"
    names = [name for name, values in wanted.items() if values and name not in ("Id", "Connect")]
    if names:
        yield f"set {', '.join(names)} of {adapter}"
    switches = wanted["Connect"]
    if isinstance(switches, list) and switches:
        yield f"connect {adapter} to the virtual switch {switches[0]}, the only one of that name"


def _ask_slot(slot: Slot) -> dict[str, JSON]:
    return {
        "ControllerNumber": slot.controller_number,
        "ControllerLocation": slot.controller_location,
    }


def same_path(path: str, other: str) -> bool:
    """Whether two paths of Windows are the same by their text."""
    return ntpath.normcase(path) == ntpath.normcase(other)


def hardware_of(description: VmDescription) -> Hardware:
    """Take from a description what a run may change, the adapters apart."""
    drives = sorted(description.dvd_drives, key=lambda drive: drive.slot)
    return Hardware(
        dvd_drives={drive.slot: drive.path for drive in drives if drive.controller_type == IDE},
        startup_order=description.startup_order,
        com1=description.com1.path,
        start_action=description.automatic_start_action,
        stop_action=description.automatic_stop_action,
        automatic_checkpoints=description.automatic_checkpoints_enabled,
    )


# Attach.


def wanted_for_live(description: VmDescription, isos: Sequence[str], pipe: str) -> Hardware:
    """Decide what boots the first ISO, wherever a machine is on the way there.

    The ISOs are in the lowest DVD drives, in their order; a drive that is there is used before one
    is added. Raises MachineError where no IDE slot is free for that.
    """
    before = hardware_of(description)
    drives = {**before.dvd_drives, **dict.fromkeys(_plan_added(description, len(isos)), "")}
    return replace(
        wanted_for_watch(description, pipe),
        dvd_drives=drives | dict(zip(sorted(drives), isos, strict=False)),
        startup_order=_cd_first(before.startup_order),
    )


def wanted_for_watch(description: VmDescription, pipe: str | None) -> Hardware:
    """Decide what keeps the host from interfering with a boot, COM1 leading to a pipe of ours."""
    before = hardware_of(description)
    return replace(
        before,
        com1=before.com1 if pipe is None else pipe,
        start_action=_NO_START,
        stop_action=_NO_SAVE,
        automatic_checkpoints=None if before.automatic_checkpoints is None else False,
    )


def _cd_first(order: tuple[str, ...]) -> tuple[str, ...]:
    return (_CD, *(device for device in order if device != _CD)) if order else ()


def free_ide_slots(description: VmDescription) -> tuple[Slot, ...]:
    """Give the IDE slots without a drive, in the order in which DVD drives are added to them."""
    used = {drive.slot for drive in description.dvd_drives if drive.controller_type == IDE}
    used |= {drive.slot for drive in description.hard_drives if drive.controller_type == IDE}
    return tuple(slot for slot in _ADDED_FIRST if slot not in used)


def _plan_added(description: VmDescription, wanted: int) -> tuple[Slot, ...]:
    missing = max(0, wanted - len(hardware_of(description).dvd_drives))
    free = free_ide_slots(description)
    if len(free) < missing:
        raise MachineError(
            f"cannot add a DVD drive to {description.name}: {missing} more must be added for"
            f" {wanted} ISOs, but {len(free)} of the four IDE slots are free"
        )
    return free[:missing]


# Detach.


def wanted_after(
    captured: VmDescription, current: VmDescription, ours: Ours | None, *, keep_adapter: bool
) -> Hardware:
    """Decide what has nothing of a run in it any more: what was captured in the place of ours.

    What somebody else has changed meanwhile stays, setting by setting: whatever is neither as it
    was captured nor as the run has it. So stay

    - an ISO that is not ours, wherever it is, and a drive with it, even one that the run added;
    - a drive that somebody else added, but for our ISO in it; one that somebody removed stays gone;
    - a startup order that does not begin with the CD as ours does, a COM1 that leads to no pipe of
      ours, automatic actions other than nothing and turning off, automatic checkpoints.

    A drive of the run that is empty counts as ours: the live system may have ejected its ISO. While
    it is not known which ISOs are ours, all are that are in the run's drives. Without anything of
    ours at all (None) everything stays. `keep_adapter` is for a guest that is grafted: see
    `adapters`.
    """
    before, found = hardware_of(captured), hardware_of(current)
    if ours is None:
        return found
    attached = ours.attached
    is_live_order = found.startup_order == _cd_first(before.startup_order)
    return Hardware(
        dvd_drives=_drives_after(captured, found, ours),
        startup_order=before.startup_order if attached and is_live_order else found.startup_order,
        com1=before.com1 if same_path(found.com1, ours.pipe) else found.com1,
        start_action=_after(found.start_action, _NO_START, before.start_action),
        stop_action=_after(found.stop_action, _NO_SAVE, before.stop_action),
        automatic_checkpoints=before.automatic_checkpoints or found.automatic_checkpoints,
        replaced=captured.network_adapters if attached and keep_adapter else (),
    )


def _after(found: str, ours: str, before: str) -> str:
    return before if found == ours else found


def _drives_after(captured: VmDescription, found: Hardware, ours: Ours) -> Mapping[Slot, str]:
    before = hardware_of(captured).dvd_drives
    added = _find_added(captured)
    used = sorted(before.keys() | added)[:2]
    wanted: dict[Slot, str] = {}
    for slot, path in found.dvd_drives.items():
        is_ours = ours.has(path) if path else slot in used
        if not ours.attached or not is_ours or (ours.isos is None and slot not in used):
            wanted[slot] = path
        elif slot in before or slot not in added:
            wanted[slot] = before.get(slot, "")
    return wanted


def _find_added(captured: VmDescription) -> frozenset[Slot]:
    """Find where a run adds drives: for two ISOs, or for one where there is no room for two."""
    room = len(hardware_of(captured).dvd_drives) + len(free_ide_slots(captured))
    return frozenset(_plan_added(captured, min(2, room)))


# What is left to do.


def wanted_without_media(description: VmDescription) -> Hardware:
    """Decide what boots from the disk, with every DVD drive on IDE empty."""
    found = hardware_of(description)
    rest = tuple(device for device in found.startup_order if device != _CD)
    return replace(
        found,
        dvd_drives=dict.fromkeys(found.dvd_drives, ""),
        startup_order=(*rest, _CD) if _CD in found.startup_order else rest,
    )


def plan_changes(current: VmDescription, wanted: Hardware) -> Changes:
    """Find the changes that lead to what is wanted, or one step nearer; none when it is there."""
    found = hardware_of(current)
    is_there, is_wanted = found.dvd_drives.keys(), wanted.dvd_drives.keys()
    other = {
        slot: path
        for slot, path in wanted.dvd_drives.items()
        if not same_path(path, found.dvd_drives.get(slot, ""))
    }
    actions = (wanted.start_action, wanted.stop_action)
    return Changes(
        eject_from=tuple(slot for slot, path in other.items() if not path),
        remove_dvd_drives=tuple(sorted(is_there - is_wanted)),
        add_dvd_drives=tuple(sorted(is_wanted - is_there)),
        insert={slot: path for slot, path in sorted(other.items()) if path},
        startup_order=_changed(found.startup_order, wanted.startup_order),
        com1=None if same_path(found.com1, wanted.com1) else wanted.com1,
        actions=_changed((found.start_action, found.stop_action), actions),
        automatic_checkpoints=_changed(found.automatic_checkpoints, wanted.automatic_checkpoints),
        adapters=(
            plan_replacement(wanted.replaced, current.network_adapters)
            if wanted.replaced
            else AdapterChanges()
        ),
    )


def _changed(found: _Value, wanted: _Value) -> _Value | None:
    return None if found == wanted else wanted
