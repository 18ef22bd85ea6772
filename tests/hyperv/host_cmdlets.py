"""The cmdlets of other modules that scripts use: access lists, the execution policy, modules."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from hyperv.model_object import ModelObject, Readers
from hyperv.values import Command, PowerShellError, Session, text_of

if TYPE_CHECKING:
    from hyperv.model import SimulatedHost

MODULE_VERSIONS = {"2012R2": ["1.1"]}  # later ones have two beside each other
LATER_VERSIONS = ["2.0.0.0", "1.1"]


class Acl(ModelObject):
    """What Get-Acl gives."""

    type_name = "System.Security.AccessControl.DirectorySecurity"
    readers: ClassVar[Readers] = {"Sddl": lambda acl: acl.sddl}

    def __init__(self, sddl: str) -> None:
        self.sddl = sddl


class Module(ModelObject):
    """What Get-Module gives."""

    type_name = "System.Management.Automation.PSModuleInfo"
    readers: ClassVar[Readers] = {
        "Name": lambda module: "Hyper-V",
        "Version": lambda module: module.version,
    }

    def __init__(self, version: str) -> None:
        self.version = version


def host_commands(host: "SimulatedHost") -> list[Command]:
    """The commands."""

    def get_acl(_: Session, given: dict[str, object]) -> Iterable[object]:
        path = text_of(given["LiteralPath"])
        if host.files.find(path) is None:
            raise PowerShellError(
                f"Cannot find path '{path}' because it does not exist.",
                "GetAcl_PathNotFound_Exception,Microsoft.PowerShell.Commands.GetAclCommand",
                "ObjectNotFound",
            )
        return [Acl(host.files.sddl(path))]

    def get_module(_: Session, given: dict[str, object]) -> Iterable[object]:
        if given.get("ListAvailable") is not True or text_of(given["Name"]).lower() != "hyper-v":
            return []
        if not host.has_module:
            return []
        return [Module(each) for each in MODULE_VERSIONS.get(host.windows, LATER_VERSIONS)]

    return [
        Command(
            "Microsoft.PowerShell.Security\\Get-Acl",
            {"LiteralPath": str},
            get_acl,
            frozenset({"LiteralPath"}),
        ),
        Command(
            "Microsoft.PowerShell.Core\\Get-Module",
            {"ListAvailable": "switch", "Name": str},
            get_module,
            frozenset({"Name"}),
        ),
    ]
