"""What a recipe says, as data. Pure."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from bootgraft_agent.recipe_file.templates import Template

ForEach = Literal["interfaces", "kernels"]
Missing = Literal["refuse", "skip", "create"]
Style = Literal["shell", "plain", "grubenv"]
Texts = tuple[Template, ...]
Values = tuple[tuple[Template, Template], ...]
Count = int | Literal["some", "any"]

BOOT_LOADERS = ("grub-legacy", "grub2", "systemd-boot", "none")
# What `for_each` puts in the place of a placeholder.
LOOP_NAMES: Mapping[str, tuple[str, ...]] = {
    "interfaces": ("interface", "mac"),
    "kernels": ("kernel",),
}


@dataclass(frozen=True, slots=True)
class Parameter:
    """What the user of a recipe may choose; without a default, must."""

    name: str
    description: str
    default: str | None
    pattern: str | None  # what the whole value must match
    secret: bool


@dataclass(frozen=True, slots=True)
class VersionTest:
    """A comparison with a version: `>=` and 12, or `=` and 12, which 12.5 has, too."""

    comparison: str
    version: tuple[int, ...]

    def __str__(self) -> str:
        number = ".".join(map(str, self.version))
        return number if self.comparison == "=" else f"{self.comparison}{number}"


@dataclass(frozen=True, slots=True)
class Selector:
    """Which guests are meant: each fact that is given must be one of those named.

    distribution_version: any of these lists of tests, each as a whole.
    root: a pattern for the device that the guest's fstab has for `/`.
    """

    distribution: tuple[str, ...] = ()
    distribution_version: tuple[tuple[VersionTest, ...], ...] = ()
    architecture: tuple[str, ...] = ()
    boot_loader: tuple[str, ...] = ()
    root: Template | None = None
    present: Texts = ()
    absent: Texts = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """What all actions have. line: where the recipe file says it."""

    line: int
    for_each: ForEach | None = None
    when: Selector | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy(Action):
    """Put a file or directory of the payload, or a text of the recipe's own, into the guest."""

    path: Template
    source: Template | None
    content: Template | None
    mode: int | None
    owner: Template | None
    group: Template | None
    replace: bool
    parents: bool
    sha256: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Remove(Action):
    """Remove a file, a link, or a directory with all in it."""

    path: Template
    recursive: bool
    missing: Missing


@dataclass(frozen=True, slots=True, kw_only=True)
class Rename(Action):
    """Give a file, link or directory another name."""

    path: Template
    to: Template
    replace: bool
    missing: Missing


@dataclass(frozen=True, slots=True, kw_only=True)
class Link(Action):
    """Make a symbolic link."""

    path: Template
    to: Template
    replace: bool
    parents: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory(Action):
    """Make a directory where there is none."""

    path: Template
    mode: int | None
    owner: Template | None
    group: Template | None
    parents: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines(Action):
    """Edit a text by whole lines: exactly one of ensure, remove and replace is given."""

    path: Template
    ensure: Texts
    unless: Template | None
    remove: Template | None
    replace: Template | None
    replacement: Template | None
    after: Template | None
    before: Template | None
    count: Count
    missing: Missing
    mode: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ini(Action):
    """Set and unset keys of one section of a file."""

    path: Template
    section: Template
    assign: Values
    unset: Texts
    missing: Missing
    mode: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Variables(Action):
    """Set and unset variables: of a shell's file, of key=value lines, of GRUB's environment."""

    path: Template
    style: Style
    assign: Values
    unset: Texts
    missing: Missing
    mode: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fstab(Action):
    """Edit /etc/fstab by fields: entries that are selected, or one that shall be there."""

    path: Template
    device: Template | None
    mount_point: Template | None
    type: Template | None
    assign: Values
    add_options: Texts
    remove_options: Texts
    delete: bool
    by_uuid: bool
    entry: Values
    count: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class GrubArguments(Action):
    """Edit the kernel's arguments wherever the guest's boot loader keeps them."""

    add: Texts
    assign: Values
    remove: Texts
    by_uuid: bool
    variable: str
    entries: Literal["all", "default"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Require(Action):
    """Refuse the guest unless a path is as expected."""

    path: Template
    exists: bool
    sha256: str | None
    size: int | None
    contains: Template | None
    message: Template | None


AnyAction = (
    Copy
    | Remove
    | Rename
    | Link
    | Directory
    | Lines
    | Ini
    | Variables
    | Fstab
    | GrubArguments
    | Require
)


@dataclass(frozen=True, slots=True)
class RecipeFile:
    """A recipe that was checked. file_name: what problems call it; sha256: of its bytes.

    notes: what the user is to be told along with every plan.
    """

    file_name: str
    name: str
    description: str
    notes: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    when: Selector
    actions: tuple[AnyAction, ...]
    sha256: str

    def identity(self, settings: Mapping[str, str]) -> str:
        """Identify the recipe with its settings, secret ones left out: a SHA-256."""
        secret = {each.name for each in self.parameters if each.secret}
        shown = sorted(item for item in settings.items() if item[0] not in secret)
        text = json.dumps([self.sha256, shown])
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
