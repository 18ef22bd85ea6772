"""The guest's file systems in the live system, as an apply and a rollback open them."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from bootgraft_agent import lvm, mounts
from bootgraft_agent.errors import RefusedError
from bootgraft_agent.file_systems import FileSystem, Nodes, of_place
from bootgraft_agent.files import Tree, WritableTree
from bootgraft_agent.linux_root import GuestFileSystems
from bootgraft_agent.machine import Place
from bootgraft_agent.payload_sources import PayloadSource
from bootgraft_agent.plan import Where


@dataclass(frozen=True, slots=True)
class LiveVolumes:
    """The guest's file systems in the live system; they are the volumes of a plan and its apply.

    `nodes` has logical volumes while they are started: within `opened`, or while a guest is looked
    at.
    """

    guest: GuestFileSystems
    payload_source: PayloadSource | None
    nodes: Nodes = field(default_factory=lambda: Nodes({}))

    @property
    def boot_prefix(self) -> str:
        """Where /boot is in the volume "boot"."""
        return self.guest.boot_prefix

    @property
    def mounts(self) -> tuple[tuple[str, Where], ...]:
        """The guest's mount points, and what is there."""
        return self.guest.mounts

    @property
    def absent(self) -> tuple[tuple[str, str], ...]:
        """Mount points that cannot be written, and why not."""
        return self.guest.absent

    @property
    def uuids(self) -> dict[str, str]:
        """UUIDs by mount point, of swap areas by their device in fstab."""
        return self.guest.uuids

    @property
    def dirty_journals(self) -> tuple[str, ...]:
        """Names of the volumes whose journal is to be replayed first; while they are started."""
        found = dict.fromkeys(self.guest.file_systems.values())
        blocks = ((each, mounts.read_ext_superblock(self.nodes.device(each))) for each in found)
        return tuple(each.name for each, block in blocks if block and block.has_dirty_journal)

    def file_system(self, where: Where) -> FileSystem:
        """Give the file system of a volume. Raises RefusedError where there is none."""
        reason = dict(self.guest.absent).get(where)
        if reason is not None:
            raise RefusedError(f"/{where} of the guest cannot be used here: {reason}")
        if where not in self.guest.file_systems:
            what = "root file system" if where == "root" else f"file system of /{where}"
            raise RefusedError(f"the guest's {what} was not found, and is needed here")
        return self.guest.file_systems[where]

    @contextlib.contextmanager
    def opened(self) -> Iterator["LiveVolumes"]:
        """Start the guest's logical volumes, which take no write but within `write`."""
        found = (each.logical for each in self.guest.file_systems.values())
        logical = tuple(dict.fromkeys(each for each in found if each is not None))
        with lvm.started(logical, writable=True) as nodes:
            for node in nodes.values():
                mounts.set_read_only(node, read_only=True)
            yield replace(self, nodes=Nodes(nodes))

    @contextlib.contextmanager
    def read(self, where: Where) -> Iterator[Tree]:
        """Look at a volume through a fresh view, or one that all who look share."""
        with self.nodes.read(self.file_system(where)) as tree:
            yield tree

    @contextlib.contextmanager
    def write(self, where: Where) -> Iterator[WritableTree]:
        """Mount a volume for writing; unmounting it empties its journal."""
        each = self.file_system(where)
        device = self.nodes.device(each)
        with (
            mounts.mounted_for_writing(
                each.below, device, each.fs_type, each.name, subvolume=each.subvolume
            ) as mount,
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
        return self.file_system(where).name


def of_places(boot: Place, root: Place | None, boot_prefix: str) -> GuestFileSystems:
    """Give the two file systems of a guest that the shim's recipe knows."""
    found: dict[Where, FileSystem] = {"boot": of_place(boot)}
    mounted: tuple[tuple[str, Where], ...] = ()
    if root is not None:
        found["root"] = of_place(root)
        mounted = (("", "root"), ("boot", "boot"))
    return GuestFileSystems(found, boot_prefix, mounted, (), {})
