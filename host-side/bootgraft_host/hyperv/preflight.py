"""What stands in a run's way on a Hyper-V host, and what a person should know of it.

Each problem says what to do. Commands are typed in Windows PowerShell on the host.
"""

import ntpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bootgraft_host.hyperv.adapters import (
    LEGACY_LIMIT,
    find_losses,
    has_known_vlan,
    keeps_address,
)
from bootgraft_host.hyperv.changes import free_ide_slots, hardware_of, same_path
from bootgraft_host.hyperv.description import IDE, NetworkAdapter, VmDescription
from bootgraft_host.hyperv.host_files import ISO_MARK_OFFSET, ISO_MARKS
from bootgraft_host.hyperv.marks import Mark, find_foreign_mark
from bootgraft_host.machine import Media

ISO_SUFFIX = ".iso"  # Set-VMDvdDrive takes no other file

_OWN_PIPE = re.compile(r"\\\\\.\\pipe\\bootgraft-[0-9a-f]{32}", re.IGNORECASE)
_LOCAL_PATH = re.compile(r'[A-Za-z]:\\[^<>:"|?*\x00-\x1f\x7f]+')
# Hyper-V shows a path as .NET gives it in full, and only a path that it shows is known again.
_SHORT_NAME = re.compile(r"\\([^\\.]{1,6}~\d+(?:\.[^\\.]{0,3})?)(?=\\|$)")
_TRIMMED_NAME = re.compile(r"\\([^\\]*[. ])(?=\\|$)")
_SHUT_DOWN = "shut it down first"
_WAIT = "wait until that is over"
_STATES: Mapping[str, tuple[str, str]] = {
    "Running": ("is on", _SHUT_DOWN),
    "Paused": ("is paused", "resume it (Resume-VM), and shut it down"),
    "Saved": (
        "is off, but with its memory saved, as in a hibernation",
        "start it and shut it down; or, if what was not stored may be lost, Remove-VMSavedState",
    ),
    "FastSaved": ("is off, but with its memory saved", "start it and shut it down"),
    "Hibernated": ("is hibernated", "start it and shut it down"),
    "Starting": ("is just starting", _SHUT_DOWN),
    "Stopping": ("is just stopping", _WAIT),
    "Saving": ("is just being saved", "start it again then, and shut it down"),
    "Pausing": ("is just being paused", "resume it then (Resume-VM), and shut it down"),
    "Resuming": ("is just being resumed", _SHUT_DOWN),
    "Reset": ("is just being reset", _SHUT_DOWN),
}


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known besides the machine's own description."""

    iso_problems: tuple[str, ...] = ()
    namesakes: tuple[str, ...] = ()  # the ids of other machines of the same name


def for_machine(vm_id: str, command: str) -> str:
    """Give a command of PowerShell's for a machine, by its Id."""
    return f"`Get-VM -Id {vm_id} | {command}`"


def find_path_problem(path: str) -> str | None:
    """Say why a path cannot be that of an ISO on the host; None where it can."""
    if path.startswith(("\\\\", "//")):
        return (
            f"{path} is not on the host itself: a remote session may not go on from there to"
            " another computer; copy the ISO to the host, or use --upload"
        )
    plain = ntpath.normpath(path)
    if not _LOCAL_PATH.fullmatch(plain):
        return rf"{path} is no whole path of a file on the host, as in D:\iso\live.iso"
    if short := _SHORT_NAME.search(plain):
        return f"{path} has the short name {short[1]} in it: give the long name in its place"
    if trimmed := _TRIMMED_NAME.search(plain):
        return f"{path}: {trimmed[1]!r} ends with a dot or a space, which Windows leaves out"
    if not path.lower().endswith(ISO_SUFFIX):
        return f"{path} does not end in {ISO_SUFFIX}, as Hyper-V wants it of an ISO"
    return None


def find_local_problem(iso: Path) -> str | None:
    """Say why a file here, which is to be uploaded, is no ISO; None where it is one."""
    try:
        with iso.open("rb") as file:
            file.seek(ISO_MARK_OFFSET)
            mark = file.read(len(ISO_MARKS[0]))
    except OSError as error:
        return f"{iso} cannot be read: {error.strerror}"
    return None if mark in ISO_MARKS else f"{iso} is no ISO: it has no ISO 9660 or UDF volume"


def describe_state(description: VmDescription) -> str:
    """Say how a machine that is not off is, and what to do about it."""
    plain = description.state.removesuffix("Critical")
    if description.state != plain:
        return (
            f"is in a critical state, {description.state} ({description.status}), as when the host"
            " cannot reach its disks or its settings: mend that first"
        )
    words, advice = _STATES.get(plain, (f"is in the state {plain}", "have it off first"))
    return f"{words}: {advice}"


# Problems.


def find_problems(description: VmDescription, media: Media, facts: Facts) -> Iterator[str]:
    """Find what stands in a run's way."""
    if description.state != "Off":
        yield f"{description.name} {describe_state(description)}"
    if description.generation != 1:
        yield (
            f"{description.name} is of generation {description.generation}, whose firmware is UEFI:"
            " GRUB legacy cannot boot there, nor has it IDE disks or a legacy network adapter;"
            " attach the guest's disk to a generation 1 machine"
        )
        return
    mark = find_foreign_mark(description.notes, token=None)
    if mark is not None:
        yield explain_mark(description, mark)
    if description.is_clustered:
        yield (
            f"{description.name} belongs to a failover cluster, which may move it or start it anew"
            " in the midst of a run: take it out of the cluster meanwhile"
            f" (`Remove-ClusterGroup -VMId {description.id} -RemoveResources`, and"
            f" `Add-ClusterVirtualMachineRole -VMId {description.id}` afterwards)"
        )
    yield from _find_com1_problems(description)
    yield from _find_drive_problems(description, media)
    if media.payload_iso is not None:
        yield from _find_adapter_problems(description)
        if same_path(str(media.live_iso), str(media.payload_iso)):
            yield f"the live ISO and the payload ISO are the same file, {media.live_iso}"
    yield from facts.iso_problems


def explain_mark(description: VmDescription, mark: Mark) -> str:
    """Say who holds a machine, and what to do where that run's records are lost."""
    isos = f" (here {', '.join(mark.isos)})" if mark.isos else ""
    return (
        f"a run by {mark.holder} holds {description.name} since {mark.since}: wait for its end, or,"
        f" if it was cut off, `bootgraft recover` on {mark.holder} restores the machine; if the"
        f" records there are lost, take that run's ISOs{isos} and its DVD drive out by hand, look"
        " at the startup order, COM1 and the automatic start and stop actions, and remove the"
        ' line "[bootgraft: ...]" from the machine\'s notes'
    )


def _find_com1_problems(description: VmDescription) -> Iterator[str]:
    com1 = description.com1
    command = "Set-VMComPort -Number 1"
    if com1.path and not is_own_pipe(com1.path):
        yield (
            f"COM1 of {description.name} leads to {com1.path} already:"
            f" {for_machine(description.id, f'{command} -Path $null')} disconnects it"
        )
    if com1.debugger_mode == "On":
        yield (
            f"COM1 of {description.name} is in debugger mode:"
            f" {for_machine(description.id, f'{command} -DebuggerMode Off')} ends that"
        )


def is_own_pipe(path: str) -> bool:
    """Whether a pipe's name is one of those that runs make."""
    return _OWN_PIPE.fullmatch(path) is not None


def _find_drive_problems(description: VmDescription, media: Media) -> Iterator[str]:
    if not description.hard_drives:
        yield f"{description.name} has no hard drive: there is no guest to graft"
    drives = len(hardware_of(description).dvd_drives)
    wanted = len(media.attached)
    free = len(free_ide_slots(description))
    if drives + free >= wanted:
        return
    advice = "give it a DVD drive in the place of a disk"
    if drives + free:
        advice = "use --one-drive, which does with one DVD drive"
    yield (
        f"{description.name} has {drives} DVD drives and {free} of its four IDE slots free, and"
        f" {wanted} ISOs need {wanted} DVD drives: {advice}"
    )


def _find_adapter_problems(description: VmDescription) -> Iterator[str]:
    adapters = description.network_adapters
    if len(adapters) > LEGACY_LIMIT:
        yield (
            f"{description.name} has {len(adapters)} network adapters, and a machine can have no"
            f" more than {LEGACY_LIMIT} legacy ones, which is what the guest can use: remove some"
        )
    for adapter in _replaced(description):
        if not has_known_vlan(adapter):
            yield (
                f"the network adapter {adapter.name} of {description.name} has an unknown kind of"
                f" VLAN, {adapter.vlan}, which a legacy adapter would not get: change it"
            )


def _replaced(description: VmDescription) -> Iterator[NetworkAdapter]:
    return (adapter for adapter in description.network_adapters if not adapter.is_legacy)


# Remarks.


def find_remarks(description: VmDescription, media: Media, facts: Facts) -> Iterator[str]:
    """Find what a person should know and what stands in nobody's way."""
    name = description.name
    if facts.namesakes:
        yield (
            f"{name} has namesakes on its host ({', '.join(facts.namesakes)}); this run is about"
            f" {description.id}"
        )
    yield from _find_disk_remarks(description)
    yield from _find_boot_remarks(description)
    if description.automatic_checkpoints_enabled:
        yield f"automatic checkpoints of {name} are switched off meanwhile"
    if is_own_pipe(description.com1.path):
        yield (
            f"COM1 of {name} leads to {description.com1.path}, which an earlier run has left; it"
            " will again:"
            f" {for_machine(description.id, 'Set-VMComPort -Number 1 -Path $null')} disconnects it"
        )
    for adapter in description.network_adapters:
        if adapter.dynamic_mac_address_enabled and not keeps_address(adapter):
            yield (
                f"the network adapter {adapter.name} of {name} has no MAC address yet: the host"
                " gives it one at its first start, which is this run's"
            )
    if media.payload_iso is not None:
        yield from _find_adapter_remarks(description)


def _find_disk_remarks(description: VmDescription) -> Iterator[str]:
    name = description.name
    if description.replication_state not in ("", "Disabled"):
        yield (
            f"{name} is replicated ({description.replication_state}): what the run changes goes to"
            " the replica, too"
        )
    if description.checkpoints:
        checkpoints = ", ".join(checkpoint.name for checkpoint in description.checkpoints)
        yield (
            f"{name} has checkpoints ({checkpoints}): they do not hold the graft, and applying one"
            " takes the graft and the legacy network adapter back"
        )
    if description.hard_drives and not any(
        drive.controller_type == IDE for drive in description.hard_drives
    ):
        yield (
            f"{name} has its hard drives on SCSI controllers alone, from which a generation 1"
            " machine cannot boot"
        )


def _find_boot_remarks(description: VmDescription) -> Iterator[str]:
    order = description.startup_order
    isos = [path for path in hardware_of(description).dvd_drives.values() if path]
    if isos and "IDE" in order and "CD" in order[: order.index("IDE")]:
        yield (
            f"{description.name} tries its DVD drives before its disks, and has {', '.join(isos)}"
            " in them: where that can boot, the grafted guest is not what is booted"
        )


def _find_adapter_remarks(description: VmDescription) -> Iterator[str]:
    for adapter in _replaced(description):
        which = f"the network adapter {adapter.name} of {description.name}"
        losses = tuple(find_losses(adapter))
        if losses:
            yield f"{which} becomes a legacy one without its {', '.join(losses)}"
        if adapter.dynamic_mac_address_enabled and keeps_address(adapter):
            yield f"{which} keeps its dynamic MAC address {adapter.mac_address} as a static one"
