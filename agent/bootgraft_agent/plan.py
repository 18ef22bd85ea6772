"""Plans: an ordered list of steps, as data that can be shown, compared and sent."""

import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from bootgraft_agent.errors import InvalidRequestError
from bootgraft_agent.secrets_mask import mask_given, mask_secrets, mask_text
from bootgraft_agent.states import (
    Attributes,
    DirectoryState,
    FileState,
    LinkState,
    State,
    digest_of,
)
from bootgraft_agent.wire import JSON

# A volume of the guest: "root", "boot" (what holds /boot, be it the root), or its mount point
# without the first slash: "var", "usr/local".
Where = str

# Characters of texts, and of their diffs, that are shown: a message has at most 4 MiB.
MAX_SHOWN = 512 * 1024
BACKUPS = "bootgraft"  # directory beside GRUB's, with one directory for each run


@dataclass(frozen=True, slots=True)
class Options:
    """What the user chose; None leaves the choice to the facts."""

    boot_partition: str | None = None
    kernel: str | None = None
    shim: str | None = None
    shim_args: str | None = None
    guest_disk: str | None = None
    recipe: str | None = None  # names separated by commas, instead of what the payload says
    root_partition: str | None = None

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
        for name in ("recipe", "root_partition"):
            value = getattr(self, name)
            if value is not None and not (value.isprintable() and value.strip()):
                raise InvalidRequestError(f"--{name.replace('_', '-')} is empty or unprintable")

    @property
    def recipes(self) -> tuple[str, ...]:
        """Give the names of the recipes that were asked for, in order."""
        return tuple(filter(None, (each.strip() for each in (self.recipe or "").split(","))))


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
    """Copy a file of the payload: to a place where nothing stands yet, or over what was seen there.

    Without attributes it belongs to root, has mode 0644 and no label.
    """

    target: Target
    source: str  # path in the payload
    size: int
    sha256: str
    attributes: Attributes | None = None
    before: State = None
    reason: str = ""

    def describe(self) -> str:
        """Say the step in words."""
        copied = f"copy {self.source} of the payload to {self.target} ({self.size} bytes)"
        return _described(copied, self.attributes, self.before, self.reason)

    def identity(self) -> JSON:
        """Give what makes this step this one and no other."""
        known: list[JSON] = ["copy", self.target.where, self.target.path, self.sha256]
        if self.attributes is None and self.before is None:
            return known
        return [*known, *_identity(self.attributes, self.before)]


@dataclass(frozen=True, slots=True)
class WriteFile:
    """Replace a text file's content; owner, mode, attributes and links stay.

    Unless attributes are given.
    """

    target: Target
    before: bytes
    after: bytes
    reason: str
    attributes: Attributes | None = None

    def describe(self) -> str:
        """Say the step in words."""
        return _described(f"edit {self.target}: {self.reason}", self.attributes)

    def identity(self) -> JSON:
        """Give what makes this step this one and no other."""
        known: list[JSON] = [
            "write",
            self.target.where,
            self.target.path,
            sha256(self.before),
            sha256(self.after),
        ]
        return known if self.attributes is None else [*known, self.attributes.to_json()]


@dataclass(frozen=True, slots=True)
class CreateFile:
    """Write a file where none stands yet, or in the place of a link or file that was seen there."""

    target: Target
    content: bytes
    attributes: Attributes
    reason: str
    before: State = None

    def describe(self) -> str:
        """Say the step in words."""
        created = f"create {self.target} ({len(self.content)} bytes)"
        return _described(created, self.attributes, self.before, self.reason)

    def identity(self) -> JSON:
        """Give what makes this step this one and no other."""
        place: list[JSON] = ["create", self.target.where, self.target.path, sha256(self.content)]
        return [*place, *_identity(self.attributes, self.before)]


@dataclass(frozen=True, slots=True)
class MakeLink:
    """Make a symbolic link, where nothing stands or in the place of a link or file seen there."""

    target: Target
    text: str
    attributes: Attributes
    reason: str
    before: State = None

    def describe(self) -> str:
        """Say the step in words."""
        made = f"link {self.target} to {self.text}"
        return _described(made, None, self.before, self.reason)

    def identity(self) -> JSON:
        """Give what makes this step this one and no other."""
        place: list[JSON] = ["link", self.target.where, self.target.path, self.text]
        return [*place, *_identity(self.attributes, self.before)]


@dataclass(frozen=True, slots=True)
class MakeDirectory:
    """Make a directory; one that was seen there gets these attributes."""

    target: Target
    attributes: Attributes
    reason: str
    before: DirectoryState | None = None

    def describe(self) -> str:
        """Say the step in words."""
        verb = "make directory" if self.before is None else "set the attributes of directory"
        return _described(f"{verb} {self.target}", self.attributes, None, self.reason)

    def identity(self) -> JSON:
        """Give what makes this step this one and no other."""
        place: list[JSON] = ["make-directory", self.target.where, self.target.path]
        return [*place, *_identity(self.attributes, self.before)]


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove a file or a link."""

    target: Target
    before: FileState | LinkState
    reason: str

    def describe(self) -> str:
        """Say the step in words."""
        return _described(f"remove {self.target}", None, None, self.reason)

    def identity(self) -> JSON:
        """Give what makes this step this one and no other."""
        return ["remove", self.target.where, self.target.path, digest_of(self.before)]


@dataclass(frozen=True, slots=True)
class RemoveDirectory:
    """Remove a directory, which is empty by then."""

    target: Target
    before: DirectoryState
    reason: str

    def describe(self) -> str:
        """Say the step in words."""
        return _described(f"remove directory {self.target}", None, None, self.reason)

    def identity(self) -> JSON:
        """Give what makes this step this one and no other."""
        return ["remove-directory", self.target.where, self.target.path]


@dataclass(frozen=True, slots=True)
class Move:
    """Give a file or a link another name, in the same volume, where nothing stands yet."""

    target: Target  # its old name
    to: Target
    before: FileState | LinkState
    reason: str

    def describe(self) -> str:
        """Say the step in words."""
        return _described(f"rename {self.target} to /{self.to.path}", None, None, self.reason)

    def identity(self) -> JSON:
        """Give what makes this step this one and no other."""
        place: list[JSON] = ["move", self.target.where, self.target.path, self.to.path]
        return [*place, digest_of(self.before)]


def _described(
    what: str, attributes: Attributes | None, before: State = None, reason: str = ""
) -> str:
    text = what + (f", {attributes.describe()}" if attributes else "")
    if before is not None:
        text += f", in the place of the {_NOUNS[type(before)]} that is there"
    return text + (f": {reason}" if reason else "")


def _identity(attributes: Attributes | None, before: State) -> list[JSON]:
    return [attributes.to_json() if attributes else None, digest_of(before)]


_NOUNS: dict[type, str] = {FileState: "file", LinkState: "link", DirectoryState: "directory"}

Step = (
    ReplayJournal
    | CopyFile
    | WriteFile
    | CreateFile
    | MakeLink
    | MakeDirectory
    | Remove
    | RemoveDirectory
    | Move
)


@dataclass(frozen=True, slots=True)
class BootCheck:
    """What GRUB must find after the graft: its menu and every file that the new entry names."""

    menu: Target
    entry: int
    files: tuple[Target, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What recipes decided. What a boot loader reads by itself, where it changes, is last."""

    recipe: str  # names in order; of a recipe file "NAME:" and the start of its identity
    steps: tuple[Step, ...]
    check: BootCheck | None
    backups: str  # directory of the boot volume that holds one directory for each run
    warnings: tuple[str, ...]
    # Besides the menu of `check`: files that are switched alone, each in an opening of its own.
    switches: tuple[Target, ...] = ()
    continues: tuple[str, ...] = ()  # earlier runs of the same recipes, which it completes
    secrets: tuple[str, ...] = field(default=(), repr=False)  # masked wherever text is shown

    @property
    def is_done(self) -> bool:
        """Whether there is nothing left to do."""
        return not self.steps

    def is_switch(self, target: Target) -> bool:
        """Whether a boot loader reads the file at any instant, without replaying a journal."""
        return target in self.switches or (self.check is not None and target == self.check.menu)

    def sha256(self) -> str:
        """Identify the plan: equal plans for equal guests have equal hashes."""
        text = json.dumps([self.recipe, [step.identity() for step in self.steps]])
        return sha256(text.encode())

    def masked(self, text: str) -> str:
        """Mask what may not be shown, be it the guest's or the recipes', in a text of this plan."""
        return mask_text(mask_given(text, self.secrets))

    def texts(self) -> Iterator[tuple[str, str, str]]:
        """Give (path, before, after) for each text file that changes, with secrets masked.

        In all MAX_SHOWN characters; what is longer is left out.
        """
        left = MAX_SHOWN
        for step in self.steps:
            if not isinstance(step, WriteFile | CreateFile):
                continue
            contents = _contents(step)
            if b"\0" in contents[1]:
                continue
            left -= sum(map(len, contents))
            if left < 0:
                return
            before, after = (
                self.masked(content.decode("utf-8", "backslashreplace")) for content in contents
            )
            yield self.masked(str(step.target)), before, after

    def diffs(self) -> Iterator[tuple[str, str]]:
        """Give (path, unified diff) for each of the texts."""
        for path, before, after in self.texts():
            names = f"{path} (before)", path
            lines = difflib.unified_diff(before.split("\n"), after.split("\n"), *names, lineterm="")
            yield path, "\n".join(lines) or f"(nothing but secrets changes in {path})"


def _contents(step: "WriteFile | CreateFile") -> tuple[bytes, bytes]:
    """Give a file's content before and after a step."""
    if isinstance(step, WriteFile):
        return step.before, step.after
    return b"", step.content


def sha256(data: bytes) -> str:
    """Give a SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def readable(content: bytes) -> str:
    """Give a guest's text for showing: secrets masked, bytes that are not UTF-8 escaped."""
    return mask_secrets(content).decode("utf-8", "backslashreplace")
