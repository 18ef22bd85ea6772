"""System.IO of the modelled host: files and folders by their paths."""

import ntpath
import secrets
import string
from typing import TYPE_CHECKING, ClassVar

from hyperv.files import USER_TEMP
from hyperv.model_object import Readers
from hyperv.net_object import Methods, NetError, NetObject, net_class
from hyperv.net_streams import locate, missing_part
from hyperv.values import DotNet, EnumValue, PowerShellError, Session

if TYPE_CHECKING:
    from hyperv.model import SimulatedHost


def file_types(host: "SimulatedHost") -> list[DotNet]:
    """The classes of System.IO that scripts use."""
    return [
        _file_class(host),
        _directory_class(host),
        net_class("System.IO.FileInfo", constructor=lambda _, path: FileInfo(host, path)),
        net_class("System.IO.DirectoryInfo", constructor=lambda _, path: DirectoryInfo(host, path)),
        net_class("System.IO.DriveInfo", constructor=lambda _, name: DriveInfo(host, name)),
        net_class(
            "System.IO.Path",
            static_methods={
                "GetTempPath": lambda _: f"{USER_TEMP}\\",
                "GetRandomFileName": lambda _: _random_name(),
                "Combine": lambda _, folder, name: ntpath.join(folder, name),
            },
        ),
    ]


class FileInfo(NetObject):
    """System.IO.FileInfo."""

    type_name = "System.IO.FileInfo"
    readers: ClassVar[Readers] = {
        "Name": lambda info: info.path.rpartition("\\")[2],
        "FullName": lambda info: info.path,
        "Length": lambda info: info.measure(),
    }

    def __init__(self, host: "SimulatedHost", path: str) -> None:
        self.path = path
        self._host = host

    def measure(self) -> int:
        """The length; a missing file is an exception of a property's reader."""
        found = self._host.files.find_file(self.path)
        if found is None:
            raise PowerShellError(
                f'Exception getting "Length": "Could not find file \'{self.path}\'."',
                "ExceptionWhenGetting",
                "NotSpecified",
            )
        return found.stat().st_size


class DirectoryInfo(NetObject):
    """System.IO.DirectoryInfo."""

    type_name = "System.IO.DirectoryInfo"
    readers: ClassVar[Readers] = {"FullName": lambda info: info.path}

    def __init__(self, host: "SimulatedHost", path: str) -> None:
        self.path = path
        self._host = host

    def get_files(self) -> list[object]:
        found = self._host.files.find(self.path)
        if found is None or not found.is_dir():
            raise missing_part(self.path)
        names = sorted(each.name for each in found.iterdir() if each.is_file())
        folder = self.path.rstrip("\\")
        return [FileInfo(self._host, f"{folder}\\{name}") for name in names]

    net_methods: ClassVar[Methods] = {"GetFiles": get_files}


class DriveInfo(NetObject):
    """System.IO.DriveInfo."""

    type_name = "System.IO.DriveInfo"
    readers: ClassVar[Readers] = {"AvailableFreeSpace": lambda info: info.available()}

    def __init__(self, host: "SimulatedHost", name: str) -> None:
        self._host = host
        self._name = name

    def available(self) -> int:
        """What is free, as the host's files say."""
        if self._host.files.find(self._name) is None:
            raise PowerShellError(
                f'Exception getting "AvailableFreeSpace": "Could not find the drive'
                f" '{self._name}'.\"",
                "ExceptionWhenGetting",
                "NotSpecified",
            )
        return self._host.files.available_bytes


def _file_class(host: "SimulatedHost") -> DotNet:
    def delete(_: Session, path: str) -> None:
        found = locate(host, path)
        if found.is_dir():
            raise NetError("UnauthorizedAccessException", f"Access to the path '{path}' is denied.")
        if not found.parent.is_dir():
            raise missing_part(path)
        host.open_files.require_deletable(found)
        found.unlink(missing_ok=True)
        host.files.forget(found)

    def move(_: Session, old: str, new: str) -> None:
        source, target = locate(host, old), locate(host, new)
        if not source.is_file():
            raise NetError("FileNotFoundException", f"Could not find file '{old}'.")
        if not target.parent.is_dir():
            raise missing_part(new)
        if target.exists():
            raise NetError("IOException", "Cannot create a file when that file already exists.")
        host.open_files.require_deletable(source)
        source.rename(target)
        host.files.move(source, target)

    def attributes(_: Session, path: str) -> EnumValue:
        found = host.files.find(path)
        if found is None:
            raise NetError("FileNotFoundException", f"Could not find file '{path}'.")
        names = [("ReparsePoint", 1024)] if found.is_symlink() else []
        names.append(("Directory", 16) if found.is_dir() else ("Archive", 32))
        names.sort(key=lambda each: each[1])
        return EnumValue(", ".join(name for name, _ in names), sum(bit for _, bit in names))

    return net_class(
        "System.IO.File",
        static_methods={
            "Exists": lambda _, path: host.files.find_file(path) is not None,
            "Delete": delete,
            "Move": move,
            "GetAttributes": attributes,
        },
    )


def _directory_class(host: "SimulatedHost") -> DotNet:
    def exists(_: Session, path: str) -> bool:
        found = host.files.find(path)
        return found is not None and found.is_dir()

    def create(_: Session, path: str, security: object) -> DirectoryInfo:
        """Make the folder and those above it that are missing, all with this security."""
        found = locate(host, path)
        if found.is_file():
            raise NetError("IOException", f"Cannot create '{path}': a file has that name already.")
        missing = [each for each in (found, *found.parents) if not each.exists()]
        found.mkdir(parents=True, exist_ok=True)
        for each in missing:
            host.files.secure(host.files.name(each), getattr(security, "sddl", ""))
        return DirectoryInfo(host, path)

    def delete(_: Session, path: str) -> None:
        found = locate(host, path)
        if not found.is_dir():
            raise missing_part(path)
        try:
            found.rmdir()
        except OSError as error:
            raise NetError("IOException", "The directory is not empty.") from error
        host.files.forget(found)

    return net_class(
        "System.IO.Directory",
        static_methods={"Exists": exists, "CreateDirectory": create, "Delete": delete},
    )


def _random_name() -> str:
    letters = string.ascii_lowercase + string.digits
    name = "".join(secrets.choice(letters) for _ in range(11))
    return f"{name[:8]}.{name[8:]}"
