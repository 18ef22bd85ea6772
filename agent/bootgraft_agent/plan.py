"""Plans: an ordered list of steps, as data that can be shown, compared and sent."""

import difflib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from bootgraft_agent.errors import InvalidRequestError
from bootgraft_agent.secrets_mask import mask_secrets
from bootgraft_agent.wire import JSON

Where = Literal["boot", "root"]

BACKUPS = "bootgraft"  # directory beside GRUB's, with one directory for each run


@dataclass(frozen=True, slots=True)
class Options:
    """What the user chose; None leaves the choice to the facts."""

    boot_partition: str | None = None
    kernel: str | None = None
    shim: str | None = None
    shim_args: str | None = None
    guest_disk: str | None = None

    @classmethod
    def from_json(cls, values: Mapping[str, JSON]) -> "Options":
        """Check options that came from outside; raises InvalidRequestError."""
        known = set(cls.__slots__)
        for name, value in values.items():
            if name not in known:
                raise InvalidRequestError(f"unknown option {name!r}; known: {sorted(known)}")
            if not isinstance(value, str | None):
                raise InvalidRequestError(f"option {name} must be text, not {value!r}")
        options = cls(**{name: value for name, value in values.items() if isinstance(value, str)})
        options.check()
        return options

    def check(self) -> None:
        """Refuse values that no guest could fit. Raises InvalidRequestError."""
        if self.guest_disk not in (None, "hda", "sda"):
            raise InvalidRequestError(f"--guest-disk takes hda or sda, not {self.guest_disk!r}")
        for name in ("kernel", "shim", "shim_args"):
            value = getattr(self, name)
            # Without any text, --shim-args takes earlier arguments away.
            is_text = name == "shim_args" or value is None or value.strip()
            if value is not None and not (value.isprintable() and is_text):
                raise InvalidRequestError(f"--{name.replace('_', '-')} is empty or unprintable")


@dataclass(frozen=True, slots=True)
class Target:
    """A file of the guest: in which of its volumes, and where there, without links."""

    where: Where
    volume: str  # its name for people: "hda1"
    path: str

    def __str__(self) -> str:
        return f"{self.volume}:/{self.path}"


@dataclass(frozen=True, slots=True)
class ReplayJournal:
    """Mount a volume whose journal holds writes that are not in place yet."""

    volume: str

    def describe(self) -> str:
        """Say the step in words."""
        return f"{self.volume}: replay the journal, which was left dirty"

    def identity(self) -> JSON:
        """Give what makes this step this one and no other."""
        return ["replay-journal", self.volume]


@dataclass(frozen=True, slots=True)
class CopyFile:
    """Copy a file of the payload to a place where nothing stands yet."""

    target: Target
    source: str  # path in the payload
    size: int
    sha256: str

    def describe(self) -> str:
        """Say the step in words."""
        return f"copy {self.source} of the payload to {self.target} ({self.size} bytes)"

    def identity(self) -> JSON:
        """Give what makes this step this one and no other."""
        return ["copy", self.target.where, self.target.path, self.sha256]


@dataclass(frozen=True, slots=True)
class WriteFile:
    """Replace a text file's content; owner, mode, attributes and links stay."""

    target: Target
    before: bytes
    after: bytes
    reason: str

    def describe(self) -> str:
        """Say the step in words."""
        return f"edit {self.target}: {self.reason}"

    def identity(self) -> JSON:
        """Give what makes this step this one and no other."""
        return [
            "write",
            self.target.where,
            self.target.path,
            sha256(self.before),
            sha256(self.after),
        ]


Step = ReplayJournal | CopyFile | WriteFile


@dataclass(frozen=True, slots=True)
class BootCheck:
    """What GRUB must find after the graft: its menu and every file that the new entry names."""

    menu: Target
    entry: int
    files: tuple[Target, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a recipe decided. The menu, where it changes, is the last step."""

    recipe: str
    steps: tuple[Step, ...]
    check: BootCheck
    backups: str  # directory of the boot volume that holds one directory for each run
    warnings: tuple[str, ...]

    @property
    def is_done(self) -> bool:
        """Whether there is nothing left to do."""
        return not self.steps

    def sha256(self) -> str:
        """Identify the plan: equal plans for equal guests have equal hashes."""
        text = json.dumps([self.recipe, [step.identity() for step in self.steps]])
        return sha256(text.encode())

    def diffs(self) -> tuple[tuple[str, str], ...]:
        """Give (path, unified diff) for each text file that changes, with secrets masked."""
        return tuple(
            (str(step.target), unified_diff(step))
            for step in self.steps
            if isinstance(step, WriteFile)
        )


def sha256(data: bytes) -> str:
    """Give a SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def readable(content: bytes) -> str:
    """Give a guest's text for showing: secrets masked, bytes that are not UTF-8 escaped."""
    return mask_secrets(content).decode("utf-8", "backslashreplace")


def unified_diff(step: WriteFile) -> str:
    """Give the unified diff of a text file's edit, with secrets masked."""
    name = str(step.target)
    before, after = (readable(content).split("\n") for content in (step.before, step.after))
    return "\n".join(difflib.unified_diff(before, after, f"{name} (before)", name, lineterm=""))
