"""The cmdlets for drives, the BIOS and COM ports."""

from collections.abc import Iterator, Sequence
from typing import ClassVar

from hyperv.cmdlets import (
    MACHINES,
    VM_SETS,
    Call,
    Cmdlet,
    check_cluster_path,
    check_range,
    pass_through,
)
from hyperv.enums import BOOT_DEVICE, CONTROLLER_TYPE, ON_OFF
from hyperv.hardware import ComPort, Drive, DvdDrive, check_pipe_path
from hyperv.model_object import ModelObject, Readers
from hyperv.values import ArrayOf, EnumValue, ParameterType
from hyperv.vm import Vm

_SLOT: dict[str, ParameterType] = {"ControllerNumber": int, "ControllerLocation": int}


def _in_slot(call: Call, drives: Sequence[Drive]) -> Iterator[Drive]:
    number, location = call.get("ControllerNumber", int), call.get("ControllerLocation", int)
    for drive in drives:
        if number in (None, drive.number) and location in (None, drive.location):
            yield drive


# Drives.


def _get_dvd_drive(call: Call) -> Iterator[object]:
    for vm in call.machines():
        vm.require_present()
        yield from _in_slot(call, vm.dvd_drives)


def _dvd_drives(call: Call) -> list[DvdDrive]:
    """The drives given; or, by a machine's name, those of the slot, or all of them."""
    if call.has("VMDvdDrive"):
        return call.items("VMDvdDrive", DvdDrive)
    found = [drive for vm in call.machines() for drive in _in_slot(call, vm.dvd_drives)]
    return [drive for drive in found if isinstance(drive, DvdDrive)]


def _set_dvd_drive(call: Call) -> Iterator[object]:
    """Insert, or eject with an empty path; without -Path nothing changes. As SetVMDvdDrive."""
    for drive in _dvd_drives(call):
        with drive.vm.lock:
            if call.has("Path"):
                path = call.get("Path", str)
                if path and not call.switch("AllowUnverifiedPaths"):
                    check_cluster_path(call, drive.vm, path)
                drive.vm.set_medium(drive, path)
        yield from pass_through(call, drive)


def _add_dvd_drive(call: Call) -> Iterator[object]:
    for vm in call.machines():
        with vm.lock:
            path = call.get("Path", str)
            if path and not call.switch("AllowUnverifiedPaths"):
                check_cluster_path(call, vm, path)
            number = call.get("ControllerNumber", int)
            drive = vm.add_dvd_drive(number, call.get("ControllerLocation", int), path)
        yield from pass_through(call, drive)


def _remove_dvd_drive(call: Call) -> Iterator[object]:
    for drive in _dvd_drives(call):
        with drive.vm.lock:
            drive.vm.remove_dvd_drive(drive)
        yield from pass_through(call, drive)


def _get_hard_disk_drive(call: Call) -> Iterator[object]:
    for vm in call.machines():
        vm.require_present()
        kind = call.get("ControllerType", EnumValue)
        for drive in _in_slot(call, vm.hard_drives):
            if kind is None or kind.name == drive.controller:
                yield drive


# BIOS.


class Bios(ModelObject):
    """Microsoft.HyperV.PowerShell.VMBios."""

    type_name = "Microsoft.HyperV.PowerShell.VMBios"
    readers: ClassVar[Readers] = {
        "StartupOrder": lambda bios: list(bios.vm.startup_order),
        "NumLockEnabled": lambda bios: bios.vm.num_lock,
        "VMName": lambda bios: bios.vm.name,
    }

    def __init__(self, vm: Vm) -> None:
        self.vm = vm


def _get_bios(call: Call) -> Iterator[object]:
    for vm in call.machines():
        vm.require_bios()
        yield Bios(vm)


def _set_bios(call: Call) -> Iterator[object]:
    for vm in call.machines():
        with vm.lock:
            vm.require_bios()
            vm.require_off()
            if call.has("StartupOrder"):
                vm.set_startup_order(call.items("StartupOrder", EnumValue))
            vm.num_lock = (vm.num_lock or call.switch("EnableNumLock")) and not call.switch(
                "DisableNumLock"
            )
        yield from pass_through(call, Bios(vm))


# COM ports.


def _com_ports(call: Call) -> list[ComPort]:
    number = call.get("Number", int)
    if number is not None:
        check_range("Number", number, 1, 2)
    ports = [port for vm in call.machines() for port in vm.com_ports]
    return [port for port in ports if number in (None, port.number)]


def _get_com_port(call: Call) -> Iterator[object]:
    for port in _com_ports(call):
        port.vm.require_present()
        yield port


def _set_com_port(call: Call) -> Iterator[object]:
    """Set the path; $null is the empty one, a port that leads nowhere. As SetVMComPort."""
    for port in _com_ports(call):
        with port.vm.lock:
            port.vm.require_off()
            if call.has("Path"):
                path = call.get("Path", str) or ""
                check_pipe_path(path)
                port.path = path
            mode = call.get("DebuggerMode", EnumValue)
            port.debugger_mode = mode.name if mode is not None else port.debugger_mode
        yield from pass_through(call, port)


CMDLETS = (
    Cmdlet("Get-VMDvdDrive", _get_dvd_drive, {**MACHINES, **_SLOT}, VM_SETS),
    Cmdlet(
        "Set-VMDvdDrive",
        _set_dvd_drive,
        {
            **MACHINES,
            **_SLOT,
            "VMDvdDrive": ArrayOf(DvdDrive),
            "Path": str,
            "AllowUnverifiedPaths": "switch",
        },
        {"VMDvdDrive": (), "VMName": tuple(_SLOT)},
    ),
    Cmdlet(
        "Add-VMDvdDrive",
        _add_dvd_drive,
        {**MACHINES, **_SLOT, "Path": str, "AllowUnverifiedPaths": "switch"},
        VM_SETS,
    ),
    Cmdlet(
        "Remove-VMDvdDrive",
        _remove_dvd_drive,
        {**MACHINES, **_SLOT, "VMDvdDrive": ArrayOf(DvdDrive)},
        {"VMDvdDrive": (), "VMName": tuple(_SLOT)},
    ),
    Cmdlet(
        "Get-VMHardDiskDrive",
        _get_hard_disk_drive,
        {**MACHINES, **_SLOT, "ControllerType": CONTROLLER_TYPE},
        VM_SETS,
    ),
    Cmdlet("Get-VMBios", _get_bios, MACHINES, VM_SETS),
    Cmdlet(
        "Set-VMBios",
        _set_bios,
        {
            **MACHINES,
            "StartupOrder": ArrayOf(BOOT_DEVICE),
            "EnableNumLock": "switch",
            "DisableNumLock": "switch",
        },
        VM_SETS,
        not_empty=("StartupOrder",),
    ),
    Cmdlet("Get-VMComPort", _get_com_port, {**MACHINES, "Number": int}, VM_SETS),
    Cmdlet(
        "Set-VMComPort",
        _set_com_port,
        {**MACHINES, "Number": int, "Path": str, "DebuggerMode": ON_OFF},
        VM_SETS,
        required=("Number",),
    ),
)
