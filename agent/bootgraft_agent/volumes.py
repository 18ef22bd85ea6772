"""What an apply and a rollback work on, and what they give."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from bootgraft_agent.files import Tree, WritableTree
from bootgraft_agent.plan import Where


class Volumes(Protocol):
    """The guest's file systems and the payload, opened and closed as the phases need them.

    Never two at once: they may be parts of one file system.
    """

    @property
    def boot_prefix(self) -> str:
        """Where /boot is in the volume "boot": "" where that is /boot itself, else "boot/".

        Also "" for a guest without a directory /boot.
        """

    def read(self, where: Where) -> AbstractContextManager[Tree]:
        """Open a volume for reading, fresh from the disk. Raises RefusedError without one."""

    def write(self, where: Where) -> AbstractContextManager[WritableTree]:
        """Open a volume for writing; when it closes, all is on the disk and the journal empty."""

    def payload(self) -> AbstractContextManager[Tree]:
        """Open the payload for reading."""

    def name(self, where: Where) -> str:
        """Name a volume for people: "hda1"."""


class GuestVolumes(Volumes, Protocol):
    """Volumes of a guest whose mount points are known: what recipes are planned on."""

    @property
    def mounts(self) -> tuple[tuple[str, Where], ...]:
        """The mount points without their first slash, "" for the root, and what is there.

        A directory /boot of the root file system is listed as ("boot", "boot").
        """

    @property
    def absent(self) -> tuple[tuple[str, str], ...]:
        """Mount points of the guest's that cannot be written, and why not."""

    @property
    def uuids(self) -> dict[str, str]:
        """UUIDs by mount point ("/", "/boot"), of swap areas by their device in fstab."""


Progress = Callable[[str, int, int], None]  # text; bytes done and in all, 0 where they say nothing


@dataclass(frozen=True, slots=True)
class Changed:
    """One path that was changed, with what was there before and after, None for nothing.

    A file's SHA-256; "link to TEXT"; "directory".
    """

    target: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done, in order, and what was read back from the disk."""

    run_id: str | None
    changes: tuple[Changed, ...]
    verified: tuple[str, ...]
    warnings: tuple[str, ...] = ()
