"""What the modelled host's objects share: properties that are read live, and Hyper-V's errors."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from hyperv.values import HostObject, PowerShellError, property_not_found

Readers = Mapping[str, Callable[[Any], object]]


class ModelObject(HostObject):
    """An object whose properties are each computed when a script reads them.

    The module's own objects read through to the host, too (its DataUpdater): an object that a
    script got earlier shows what is true now.
    """

    readers: ClassVar[Readers] = {}

    def known_readers(self) -> Readers:
        """The properties that objects of this kind have on this host."""
        return self.readers

    def properties(self) -> Mapping[str, object]:
        return {name: read(self) for name, read in self.known_readers().items()}

    def read(self, name: str) -> object:
        read = self._find(name)
        if read is None:
            raise property_not_found(name)
        return read(self)

    def __contains__(self, name: str) -> bool:
        return self._find(name) is not None

    def _find(self, name: str) -> Callable[[Any], object] | None:
        readers = self.known_readers()
        if name in readers:
            return readers[name]
        wanted = name.lower()
        return next((read for known, read in readers.items() if known.lower() == wanted), None)


# Identifiers and categories as the module's ExceptionHelper has them; the cmdlet's class is
# appended where the error leaves the cmdlet (see cmdlets.command).


def invalid_parameter(message: str) -> PowerShellError:
    """An argument that the cmdlet refuses."""
    return PowerShellError(message, "InvalidParameter", "InvalidArgument")


def invalid_state(message: str | None = None) -> PowerShellError:
    """The machine's state does not allow it."""
    default = "The operation cannot be performed while the virtual machine is in its current state."
    return PowerShellError(message or default, "InvalidState", "InvalidOperation")


def object_not_found(message: str) -> PowerShellError:
    """What was named does not exist."""
    return PowerShellError(message, "ObjectNotFound", "ObjectNotFound")


def access_denied(message: str) -> PowerShellError:
    """An account lacks a permission."""
    return PowerShellError(message, "AccessDenied", "PermissionDenied")


def operation_failed(message: str) -> PowerShellError:
    """The virtual machine management service could not do it."""
    return PowerShellError(message, "OperationFailed", "NotSpecified")
