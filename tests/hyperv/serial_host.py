"""A modelled host without machines: its pipes, its files, and the classes to reach them."""

from pathlib import Path
from typing import TYPE_CHECKING, cast

from hyperv.enums import ALL_ENUMERATIONS
from hyperv.files import Files
from hyperv.net_files import file_types
from hyperv.net_pipes import pipe_types
from hyperv.net_streams import stream_types
from hyperv.net_system import system_types
from hyperv.net_tasks import task_types
from hyperv.open_files import OpenFiles
from hyperv.pipes import Pipes
from hyperv.values import World, enum_type

if TYPE_CHECKING:
    from hyperv.model import SimulatedHost


class SerialHost:
    """What the relay's scripts need of a host."""

    computer_name = "HV1"
    windows = "2022"

    def __init__(self, folder: Path) -> None:
        self.pipes = Pipes()
        self.files = Files(folder)
        self.open_files = OpenFiles(list)

    def world(self) -> World:
        """The classes of this host."""
        world = World()
        host = cast("SimulatedHost", self)
        world.add_types(
            *map(enum_type, ALL_ENUMERATIONS),
            *stream_types(host),
            *file_types(host),
            *task_types(),
            *pipe_types(host),
            *system_types(host),
        )
        return world
