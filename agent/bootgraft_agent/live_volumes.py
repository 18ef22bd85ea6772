"""The guest's file systems in the live system, as an apply and a rollback open them."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bootgraft_agent import mounts
from bootgraft_agent.errors import RefusedError
from bootgraft_agent.files import Tree, WritableTree
from bootgraft_agent.machine import Place
from bootgraft_agent.payload_sources import PayloadSource
from bootgraft_agent.plan import Where


@dataclass(frozen=True, slots=True)
class LiveVolumes:
    """The guest's file systems in the live system; they are the Volumes of an apply."""

    boot: Place
    root: Place | None
    payload_source: PayloadSource | None

    def _place(self, where: Where) -> Place:
        if where == "boot":
            return self.boot
        if self.root is None:
            raise RefusedError("the guest's root file system was not found, and is needed here")
        return self.root

    @contextlib.contextmanager
    def read(self, where: Where) -> Iterator[Tree]:
        """Look at a volume through a fresh view."""
        place = self._place(where)
        with (
            mounts.mounted_view(place.device, place.fs_type, place.name) as mount,
            Tree(mount) as tree,
        ):
            yield tree

    @contextlib.contextmanager
    def write(self, where: Where) -> Iterator[WritableTree]:
        """Mount a volume for writing; unmounting it empties its journal."""
        place = self._place(where)
        disk = Path(place.disk.device_path)
        with (
            mounts.mounted_for_writing(disk, place.device, place.fs_type, place.name) as mount,
            WritableTree(mount) as tree,
        ):
            yield tree

    @contextlib.contextmanager
    def payload(self) -> Iterator[Tree]:
        """Mount what the payload is on."""
        if self.payload_source is None:
            raise RefusedError("the payload is gone")
        with self.payload_source.open() as tree:
            yield tree

    def name(self, where: Where) -> str:
        """Name a volume as the user does."""
        return self._place(where).name
