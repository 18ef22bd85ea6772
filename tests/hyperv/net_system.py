"""The rest of .NET that scripts use: Base64, hashes, the clock, accounts, security descriptors."""

import base64
import binascii
import datetime
import hashlib
from typing import TYPE_CHECKING, ClassVar

from hyperv.files import check_sddl
from hyperv.model_object import Readers
from hyperv.net_object import Methods, NetError, NetObject, net_class
from hyperv.net_streams import FileStream
from hyperv.values import DotNet, PowerShellError, Session

if TYPE_CHECKING:
    from hyperv.model import SimulatedHost

HASH_BLOCK = 1 << 20  # bytes read at once
OS_VERSIONS = {
    "2012R2": "6.3.9600",
    "2016": "10.0.14393",
    "2019": "10.0.17763",
    "2022": "10.0.20348",
}


def system_types(host: "SimulatedHost") -> list[DotNet]:
    """The classes."""
    return [
        net_class(
            "System.Convert",
            static_methods={"ToBase64String": _to_base64, "FromBase64String": _from_base64},
        ),
        net_class(
            "System.Security.Cryptography.SHA256CryptoServiceProvider",
            constructor=lambda _: Sha256(),
        ),
        net_class(
            "System.Security.AccessControl.DirectorySecurity",
            constructor=lambda _: DirectorySecurity(),
        ),
        net_class(
            "System.Security.Principal.WindowsIdentity",
            static_methods={"GetCurrent": lambda _: WindowsIdentity(host)},
        ),
        net_class(
            "System.Environment",
            static_properties={"OSVersion": lambda: OperatingSystem(host.windows)},
        ),
        net_class("System.DateTime", static_properties={"UtcNow": DateTime}),
    ]


def _to_base64(_: Session, data: object, offset: int = 0, count: int | None = None) -> str:
    """Convert.ToBase64String(byte[]) or (byte[], offset, length)."""
    if isinstance(data, list):  # an Object[] of numbers is converted to byte[]
        data = bytearray(data)
    if not isinstance(data, bytes | bytearray):
        raise NetError("ArgumentNullException", "Value cannot be null.")
    end = len(data) if count is None else offset + count
    if offset < 0 or end > len(data):
        raise NetError("ArgumentOutOfRangeException", "Index was out of range.")
    return base64.b64encode(data[offset:end]).decode()


def _from_base64(_: Session, text: object) -> bytearray:
    if not isinstance(text, str):
        raise NetError("ArgumentNullException", "Value cannot be null.")
    try:
        return bytearray(base64.b64decode(text, validate=True))
    except binascii.Error as error:
        raise NetError("FormatException", "The input is not a valid Base-64 string.") from error


class Sha256(NetObject):
    """SHA256CryptoServiceProvider."""

    type_name = "System.Security.Cryptography.SHA256CryptoServiceProvider"

    def compute_hash(self, stream: object) -> bytearray:
        """Read a stream from where it stands to its end."""
        if not isinstance(stream, FileStream):
            raise PowerShellError("ComputeHash is modelled for a FileStream", "NotModelled")
        digest = hashlib.sha256()
        buffer = bytearray(HASH_BLOCK)
        while count := stream.read_into(buffer, 0, len(buffer)):
            digest.update(memoryview(buffer)[:count])
        return bytearray(digest.digest())

    net_methods: ClassVar[Methods] = {"ComputeHash": compute_hash}


class DirectorySecurity(NetObject):
    """System.Security.AccessControl.DirectorySecurity."""

    type_name = "System.Security.AccessControl.DirectorySecurity"
    sddl = ""

    def set_sddl(self, sddl: str) -> None:
        try:
            check_sddl(sddl)
        except ValueError as error:
            raise NetError("ArgumentException", str(error)) from error
        self.sddl = sddl

    net_methods: ClassVar[Methods] = {"SetSecurityDescriptorSddlForm": set_sddl}


class SecurityIdentifier(NetObject):
    """System.Security.Principal.SecurityIdentifier."""

    type_name = "System.Security.Principal.SecurityIdentifier"
    readers: ClassVar[Readers] = {"Value": lambda sid: sid.value}

    def __init__(self, value: str) -> None:
        self.value = value

    def __str__(self) -> str:
        return self.value


class WindowsIdentity(NetObject):
    """Whoever runs the script, as the host says (SimulatedHost.user, user_sid, group_sids)."""

    type_name = "System.Security.Principal.WindowsIdentity"
    readers: ClassVar[Readers] = {
        "Name": lambda identity: identity.host.user,
        "User": lambda identity: SecurityIdentifier(identity.host.user_sid),
        "Groups": lambda identity: [SecurityIdentifier(sid) for sid in identity.host.group_sids],
    }

    def __init__(self, host: "SimulatedHost") -> None:
        self.host = host


class OperatingSystem(NetObject):
    """System.OperatingSystem."""

    type_name = "System.OperatingSystem"
    readers: ClassVar[Readers] = {
        "VersionString": lambda system: f"Microsoft Windows NT {OS_VERSIONS[system.windows]}.0"
    }

    def __init__(self, windows: str) -> None:
        self.windows = windows


class DateTime(NetObject):
    """System.DateTime, of this instant in UTC."""

    type_name = "System.DateTime"

    def __init__(self) -> None:
        self.value = datetime.datetime.now(tz=datetime.UTC)

    def to_string(self, form: str) -> str:
        """The round-trip format alone: seven digits of the second's fraction, and Z."""
        if form != "o":
            raise PowerShellError(f"ToString('{form}') is not modelled", "NotModelled")
        return f"{self.value:%Y-%m-%dT%H:%M:%S.%f}0Z"

    net_methods: ClassVar[Methods] = {"ToString": to_string}
