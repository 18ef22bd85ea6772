"""The modelled devices of a virtual machine: drives and COM ports.

What may be done with them in which state is the machine's to say (see vm).
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from hyperv.enums import CONTROLLER_TYPE, DVD_MEDIA_TYPE, ON_OFF
from hyperv.model_object import ModelObject, Readers, invalid_parameter

if TYPE_CHECKING:
    from hyperv.vm import Vm

PRIMORDIAL = "Primordial"  # the resource pool of what is in no pool
LOCATIONS = {"IDE": 2, "SCSI": 64}  # on one controller
IDE_CONTROLLERS = 2

_DRIVE_LETTER = re.compile(r"[A-Za-z]:")
_PIPE_PATH = re.compile(r"\\\\[^\\]+\\pipe\\(?P<name>[^\\]+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Disk:
    """A hard drive, as add_vm wants it; `path` is one of the modelled host."""

    path: str
    number: int = 0
    location: int = 0
    controller: Literal["IDE", "SCSI"] = "IDE"


@dataclass(frozen=True, slots=True)
class Dvd:
    """A DVD drive, as add_vm wants it."""

    number: int = 1
    location: int = 0
    path: str | None = None
    controller: Literal["IDE", "SCSI"] = "IDE"


class Drive(ModelObject):
    """A drive in a slot; it belongs to its machine as long as that lists it."""

    def __init__(
        self, vm: "Vm", controller: str, number: int, location: int, path: str | None
    ) -> None:
        self.vm = vm
        self.controller = controller
        self.number = number
        self.location = location
        self.path = path

    @property
    def slot(self) -> tuple[str, int, int]:
        return (self.controller, self.number, self.location)


class HardDiskDrive(Drive):
    """A hard drive and the image file that it is made of."""

    type_name = "Microsoft.HyperV.PowerShell.HardDiskDrive"


class DvdDrive(Drive):
    """A DVD drive, with an ISO or empty."""

    type_name = "Microsoft.HyperV.PowerShell.DvdDrive"
    pool = PRIMORDIAL

    @property
    def media_type(self) -> str:
        """As the module reckons it: by the end of the path."""
        if not self.path:
            return "None"
        return "ISO" if is_iso_path(self.path) else "PassThrough"


_DRIVE_READERS: Readers = {
    "ControllerType": lambda drive: CONTROLLER_TYPE.value(drive.controller),
    "ControllerNumber": lambda drive: drive.number,
    "ControllerLocation": lambda drive: drive.location,
    "Path": lambda drive: drive.path,
    "PoolName": lambda drive: PRIMORDIAL,
    "VMId": lambda drive: drive.vm.id,
    "VMName": lambda drive: drive.vm.name,
}
HardDiskDrive.readers = _DRIVE_READERS
DvdDrive.readers = {
    **_DRIVE_READERS,
    "DvdMediaType": lambda drive: DVD_MEDIA_TYPE.value(drive.media_type),
}


class ComPort(ModelObject):
    """One of the two COM ports; an empty path is a port that leads nowhere."""

    type_name = "Microsoft.HyperV.PowerShell.VMComPort"
    readers: ClassVar[Readers] = {
        "Name": lambda port: f"COM {port.number}",
        "Id": lambda port: f"Microsoft:{str(port.vm.id).upper()}\\8E3A359F\\{port.number - 1}",
        "Path": lambda port: port.path,
        "DebuggerMode": lambda port: ON_OFF.value(port.debugger_mode),
        "VMId": lambda port: port.vm.id,
        "VMName": lambda port: port.vm.name,
    }

    def __init__(self, vm: "Vm", number: int) -> None:
        self.vm = vm
        self.number = number
        self.path: str | None = ""  # None where nobody ever set one, as the module gives it
        self.debugger_mode = "Off"

    def known_readers(self) -> Readers:
        if self.vm.host.windows == "2012R2":
            return {name: read for name, read in self.readers.items() if name != "DebuggerMode"}
        return self.readers

    @property
    def pipe_name(self) -> str | None:
        r"""NAME of \\.\pipe\NAME; None where the port leads nowhere."""
        match = _PIPE_PATH.fullmatch(self.path or "")
        return match["name"] if match else None


def check_pipe_path(path: str) -> None:
    r"""Refuse what is neither empty nor \\SERVER\pipe\NAME.

    The module passes any text on (its SetVMComPort); that the service refuses it is assumed.
    """
    if path and not _PIPE_PATH.fullmatch(path):
        raise invalid_parameter(f"'{path}' is not the path of a named pipe.")


def is_iso_path(path: str) -> bool:
    """As the module's Utilities.IsIsoFilePath: by the name alone."""
    return path.lower().endswith(".iso")


def check_dvd_path(path: str) -> None:
    """Refuse a path that is neither an ISO's by its name nor a drive letter, as Set-VMDvdDrive."""
    if not is_iso_path(path) and not _DRIVE_LETTER.fullmatch(path):
        raise invalid_parameter(
            "The path is not valid: it must be an ISO file's or a physical drive's."
        )
