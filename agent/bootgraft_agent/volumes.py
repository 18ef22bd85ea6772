"""What an apply and a rollback work on, and what they give."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from bootgraft_agent.files import Tree, WritableTree
from bootgraft_agent.plan import Where


class Volumes(Protocol):
    """The guest's file systems and the payload, opened and closed as the phases need them."""

    def read(self, where: Where) -> AbstractContextManager[Tree]:
        """Open a volume for reading, fresh from the disk. Raises RefusedError without one."""

    def write(self, where: Where) -> AbstractContextManager[WritableTree]:
        """Open a volume for writing; when it closes, all is on the disk and the journal empty."""

    def payload(self) -> AbstractContextManager[Tree]:
        """Open the payload for reading."""

    def name(self, where: Where) -> str:
        """Name a volume for people: "hda1"."""


Progress = Callable[[str, int, int], None]  # text; bytes done and in all, 0 where they say nothing


@dataclass(frozen=True, slots=True)
class Changed:
    """One file that was changed; SHA-256 before and after, None where there is no file."""

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
