"""CimCmdlets of the modelled host: what a picture of a machine's screen needs of WMI.

Classes and values are those of Microsoft's reference of root/virtualization/v2.
"""

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from hyperv.cmdlets import refuse_prompt
from hyperv.running import PowerError
from hyperv.values import (
    Command,
    Hashtable,
    HostObject,
    PowerShellError,
    PSObject,
    Session,
    text_of,
)
from hyperv.vm import Vm

if TYPE_CHECKING:
    from hyperv.model import SimulatedHost

NAMESPACE = "root/virtualization/v2"
REALIZED = "Microsoft:Hyper-V:System:Realized"
SNAPSHOT = "Microsoft:Hyper-V:Snapshot:Realized"
INVALID_PARAMETER = 32773
# Two who measured it found four bytes more than the pixels have; that they come last is assumed.
AFTER_PICTURE = bytes(4)
INVALID_STATE = 32775
_CLASS = "Microsoft.Management.Infrastructure.CimCmdlets"
_COMPARISON = re.compile(r"\s*(\w+)\s*=\s*'([^']*)'\s*")


class Instance(HostObject):
    """A CimInstance."""

    type_name = "Microsoft.Management.Infrastructure.CimInstance"

    def __init__(
        self, class_name: str, properties: Mapping[str, object], vm: Vm | None = None
    ) -> None:
        self.class_name = class_name
        self.vm = vm
        self._properties = properties

    def properties(self) -> Mapping[str, object]:
        return self._properties


def wmi_commands(host: "SimulatedHost") -> list[Command]:
    """The commands of CimCmdlets that scripts use."""

    def get(_: Session, given: dict[str, object]) -> Iterable[object]:
        _check_namespace(given)
        every = _find_class(text_of(given["ClassName"]))(host)
        return [each for each in every if _passes(each, given.get("Filter"))]

    def invoke(_: Session, given: dict[str, object]) -> Iterable[object]:
        refuse_prompt(host, given)
        service, method = given["InputObject"], text_of(given["MethodName"])
        assert isinstance(service, Instance)
        is_service = service.class_name == "Msvm_VirtualSystemManagementService"
        if not is_service or method.lower() != "getvirtualsystemthumbnailimage":
            raise PowerShellError(
                f"Method {method} was not found.",
                f"HRESULT 0x80041055,{_CLASS}.InvokeCimMethodCommand",
                "InvalidType",
            )
        yield _take_thumbnail(given["Arguments"])

    return [
        Command(
            "CimCmdlets\\Get-CimInstance",
            {"Namespace": str, "ClassName": str, "Filter": str},
            get,
            frozenset({"ClassName"}),
        ),
        Command(
            "CimCmdlets\\Invoke-CimMethod",
            {
                "InputObject": Instance,
                "MethodName": str,
                "Arguments": Hashtable,
                "Confirm": "switch",
            },
            invoke,
            frozenset({"InputObject", "MethodName", "Arguments"}),
        ),
    ]


def _check_namespace(given: Mapping[str, object]) -> None:
    """Without one it is root/cimv2, which has none of these classes."""
    namespace = text_of(given.get("Namespace") or "root/cimv2").replace("\\", "/").lower()
    if namespace != NAMESPACE:
        raise PowerShellError(
            "Invalid class", f"HRESULT 0x80041010,{_CLASS}.GetCimInstanceCommand", "MetadataError"
        )


def _find_class(name: str) -> "Callable[[SimulatedHost], Iterator[Instance]]":
    classes = {
        "msvm_videohead": _video_heads,
        "msvm_virtualsystemmanagementservice": _services,
        "msvm_virtualsystemsettingdata": _settings,
    }
    found = classes.get(name.lower())
    if found is None:
        raise PowerShellError(
            "Invalid class", f"HRESULT 0x80041010,{_CLASS}.GetCimInstanceCommand", "MetadataError"
        )
    return found


def _video_heads(host: "SimulatedHost") -> Iterator[Instance]:
    """One for each machine that is on."""
    for vm in host.sorted_vms():
        if vm.running is not None:
            try:
                width, height = vm.running.screen_size()
            except PowerError:
                continue  # it has just ended
            values: dict[str, object] = {
                "SystemName": str(vm.id).upper(),
                "CurrentHorizontalResolution": width,
                "CurrentVerticalResolution": height,
            }
            yield Instance("Msvm_VideoHead", values, vm)


def _services(_: "SimulatedHost") -> Iterator[Instance]:
    yield Instance("Msvm_VirtualSystemManagementService", {"Name": "vmms"})


def _settings(host: "SimulatedHost") -> Iterator[Instance]:
    """One for each machine, and one for each checkpoint of it."""
    for vm in host.sorted_vms():
        for kind in (REALIZED, *(SNAPSHOT for _ in vm.checkpoints)):
            values: dict[str, object] = {
                "VirtualSystemIdentifier": str(vm.id).upper(),
                "VirtualSystemType": kind,
                "ElementName": vm.name,
            }
            yield Instance("Msvm_VirtualSystemSettingData", values, vm)


def _passes(instance: Instance, condition: object) -> bool:
    """Whether an instance fits a WQL condition: equations of texts, all of which must hold."""
    if condition is None:
        return True
    for part in re.split(r"\bAND\b", text_of(condition), flags=re.IGNORECASE):
        match = _COMPARISON.fullmatch(part)
        if match is None or match[1] not in instance:
            raise PowerShellError(
                "Invalid query", f"HRESULT 0x80041017,{_CLASS}.GetCimInstanceCommand"
            )
        if text_of(instance.read(match[1])).lower() != match[2].lower():
            return False
    return True


def _take_thumbnail(arguments: object) -> PSObject:
    assert isinstance(arguments, Hashtable)
    target = arguments.read("TargetSystem")
    width, height = arguments.read("WidthPixels"), arguments.read("HeightPixels")
    code, picture = INVALID_PARAMETER, None
    if isinstance(target, Instance) and target.vm is not None:
        assert isinstance(width, int)
        assert isinstance(height, int)
        guest, code = target.vm.running, INVALID_STATE
        with contextlib.suppress(PowerError):
            picture = None if guest is None else guest.take_thumbnail(width, height)
            code = INVALID_STATE if picture is None else 0
    data = None if picture is None else bytearray(picture + AFTER_PICTURE)
    return PSObject([("ImageData", data), ("ReturnValue", code)])
