"""All modelled .NET classes; what is not here, scripts cannot name."""

from typing import TYPE_CHECKING

from hyperv.enums import ALL_ENUMERATIONS
from hyperv.net_files import file_types
from hyperv.net_pipes import pipe_types
from hyperv.net_streams import stream_types
from hyperv.net_system import system_types
from hyperv.net_tasks import task_types
from hyperv.values import DotNet, enum_type

if TYPE_CHECKING:
    from hyperv.model import SimulatedHost


def dotnet_types(host: "SimulatedHost") -> list[DotNet]:
    """The classes for one host."""
    return [
        *map(enum_type, ALL_ENUMERATIONS),
        *stream_types(host),
        *file_types(host),
        *task_types(),
        *pipe_types(host),
        *system_types(host),
    ]
