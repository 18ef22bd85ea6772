"""The guest's whole tree as recipes see and change it, without a byte written.

A `World` lies over the guest's volumes, opened for reading: what a recipe writes, copies, links,
makes or removes is kept in memory, and read again by the recipes after it. Paths are absolute, as
the guest sees them; links are resolved within the guest's own tree, across its mounts. In the end
`steps` gives the differences between what is there and what is wanted.

Where an earlier run of the same recipes has changed the guest, a World begins with what was there
before that run, so that recipes decide as they did then: a finished run then gives no steps, and
one that was cut off gives the rest.
"""

import contextlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Literal

from bootgraft_agent.differences import Differences
from bootgraft_agent.effects import targets
from bootgraft_agent.errors import RefusedError
from bootgraft_agent.files import TEMPORARY, Tree, parent_of
from bootgraft_agent.guest import MAX_TEXT
from bootgraft_agent.guest_tree import (
    MAX_DEPTH,
    Before,
    Kind,
    Node,
    PayloadRef,
    View,
    a_kind,
    as_refusal,
    refused,
    size_of,
    with_children,
)
from bootgraft_agent.manifest import Manifest
from bootgraft_agent.plan import BACKUPS, Step, Target, Where, sha256
from bootgraft_agent.rollback import read_manifests
from bootgraft_agent.room import Volume, check_room
from bootgraft_agent.states import SELINUX, Attributes, is_alike
from bootgraft_agent.volumes import GuestVolumes

__all__ = ["PayloadRef", "View", "World", "open_world"]

MAX_STEPS = 4096  # changed paths of a plan
MAX_NEIGHBOURS = 64  # names of a directory that are looked at for its habits
MAX_NAME = 255  # bytes, as Linux has it
MAX_PATH = 4095
# What a boot loader reads by itself, in the volume that holds /boot.
BOOT_LOADER_FILES = (
    *("/boot/grub/menu.lst", "/boot/grub/grub.conf"),
    *("/boot/grub/grubenv", "/boot/grub2/grubenv"),
    *("/boot/grub/grub.cfg", "/boot/grub2/grub.cfg"),
)


_NOTHING_SAID = Node("directory", Attributes(0, 0, 0))


class World(View):
    """A guest's tree as it is to be; see the module. Nothing is ever written through it.

    Wherever a change cannot be made RefusedError says why, with the path and the reason. Changes
    without attributes keep those of what is there; something new is like its neighbours.
    """

    def __init__(
        self,
        trees: Mapping[Where, Tree],
        volumes: GuestVolumes,
        earlier: Sequence[Manifest] = (),
        closed: Mapping[Where, str] = MappingProxyType({}),
    ) -> None:
        """Lay it over open volumes; `closed` says why others could not be opened.

        `earlier` are the manifests of runs of the same recipes.
        """
        super().__init__(trees, volumes, closed)
        self.original = Before(trees, volumes, earlier, closed)
        self.secrets: tuple[str, ...] = ()
        self._now = View(trees, volumes, closed)
        self._wanted: dict[str, Node | None] = {}
        self._reasons: dict[str, str] = {}

    # Reading

    def _look(self, path: str) -> Node | None:
        if path in self._wanted:
            return self._wanted[path]
        for parent in _parents_of(path):
            node = self._wanted.get(parent, _NOTHING_SAID)
            if node is None or node.kind != "directory" or node.is_new:
                return None
            if node is not _NOTHING_SAID:
                break
        return self.original.node(path)

    def _names(self, path: str) -> list[str]:
        node = self._wanted.get(path)
        below = [] if node is not None and node.is_new else self.original.list_node(path)
        return with_children(below, path, self._wanted)

    def new_attributes(self, path: str, kind: Literal["file", "directory", "link"]) -> Attributes:
        """Give what something new gets: owner, mode and label that are usual beside it.

        Without neighbours of its kind the owner, label and privacy of its directory.
        """
        place = self._place_for_change(path)
        with as_refusal(path):
            return self._new_attributes(place, kind)

    def _new_attributes(self, path: str, kind: Kind) -> Attributes:
        directory = parent_of(path)
        found: Counter[Attributes] = Counter()
        for name in self._names(directory)[:MAX_NEIGHBOURS]:
            node = self._look(f"{directory}/{name}" if directory else name)
            if node is not None and node.kind == kind:
                found[_usual(node.attributes)] += 1
        if found:
            most = max(found.values())
            usual = (each for each, count in found.items() if count == most)
            return min(usual, key=lambda each: (each.mode, each.uid, each.gid, each.xattrs))
        above = self._existing(directory).attributes
        mode = 0o777 if kind == "link" else 0o755 if kind == "directory" else 0o644
        if kind != "link" and not above.mode & 0o077:
            mode &= 0o700
        return replace(_usual(above), mode=mode)

    # Changes

    def hide(self, secret: str) -> None:
        """Have a text masked wherever the plan is shown."""
        if secret:
            self.secrets = tuple(dict.fromkeys((*self.secrets, secret)))

    def write(
        self, path: str, content: bytes, reason: str, attributes: Attributes | None = None
    ) -> None:
        """Give a file this content, at most MAX_TEXT; edit it, links followed, or create it."""
        if len(content) > MAX_TEXT:
            raise RefusedError(f"{path} would have {len(content)} bytes; at most {MAX_TEXT} may be")
        place, found = self._file_place(path)
        if found is not None and attributes is None and size_of(found) == len(content):
            is_there = self.digest_of(found) == sha256(content)
            if is_there:
                return
        self._want_file(place, content, attributes, found, reason)

    def copy(
        self,
        path: str,
        source: PayloadRef,
        attributes: Attributes | None,
        *,
        replace: bool,
        reason: str,
    ) -> None:
        """Have a file of the payload's content; a different one is refused without `replace`."""
        place, found = self._file_place(path)
        if found is not None:
            if self.digest_of(found) == source.sha256:
                if attributes is None:
                    return
            elif not replace:
                raise RefusedError(
                    f"{path} is there already, and is another file than {source.source} of the"
                    " payload; let the recipe replace it, or name another path"
                )
        self._want_file(place, source, attributes, found, reason)

    def make_directory(self, path: str, attributes: Attributes | None, reason: str) -> None:
        """Have a directory, whose parent exists; one that is there gets the attributes."""
        if attributes is None and self.is_directory(path):
            return
        place = self._place_for_change(path)
        found = self._look(place)
        if found is not None and found.kind == "link" and self.exists(path):
            place = self._resolve(path, follow_last=True)
            found = self._look(place)
        if found is not None and found.kind != "directory":
            raise RefusedError(f"{path} is {a_kind(found.kind)}, where a directory is to be made")
        if found is None:
            given = attributes or self._new_attributes(place, "directory")
            node = Node("directory", given, is_given=attributes is not None, is_new=True)
        elif attributes is None or is_alike(found.attributes, attributes):
            return
        else:
            self._check_changeable(place)
            node = replace(found, attributes=attributes, is_given=True)
        self._want(place, node, reason)

    def link(self, path: str, to: str, reason: str, *, replace: bool = False) -> None:
        """Have a symbolic link of this text; a file or another link is refused w/o `replace`."""
        if not to or "\0" in to or len(os.fsencode(to)) > MAX_PATH:
            raise RefusedError(f"{path} cannot be a link to {to!r}")
        place = self._place_for_change(path)
        found = self._look(place)
        if found is not None and found.kind == "link" and found.text == to:
            return
        if found is not None and (found.kind not in {"file", "link"} or not replace):
            raise RefusedError(
                f"{path} is {a_kind(found.kind)} already; remove it first, or let the recipe"
                " replace it"
            )
        node = Node("link", self._new_attributes(place, "link"), text=to)
        self._want(place, node, reason)

    def remove(self, path: str, reason: str) -> None:
        """Remove a file, a link, or a directory with all that is in it; nothing is no error."""
        try:
            place = self._place_for_change(path)
        except _NoDirectoryError:
            return
        self._remove(place, reason, 0)

    def _remove(self, place: str, reason: str, count: int) -> int:
        node = self._look(place)
        if node is None:
            return count
        if node.kind == "other":
            raise RefusedError(f"/{place} is {a_kind(node.kind)}, which no recipe can bring back")
        self._check_changeable(place)
        if node.kind == "directory":
            for name in self._names(place):
                count = self._remove(f"{place}/{name}", reason, count)
        if count >= MAX_STEPS:
            raise RefusedError(
                f"/{place} holds more than {MAX_STEPS} names, more than one run removes"
            )
        self._want(place, None, reason)
        return count + 1

    def rename(self, path: str, to: str, reason: str) -> None:
        """Give a file or a link another name, in the same volume, where nothing stands yet."""
        place, new = self._place_for_change(path), self._place_for_change(to)
        node = self._look(place)
        if node is None:
            raise RefusedError(f"{path} is not there to be renamed")
        if node.kind not in {"file", "link"}:
            raise RefusedError(
                f"{path} is {a_kind(node.kind)}; only files and links can be renamed"
            )
        if self._look(new) is not None:
            raise RefusedError(f"{to} is there already; remove it first")
        if self._place(place)[0] != self._place(new)[0]:
            raise RefusedError(f"{path} and {to} are in different file systems of the guest")
        origin = node.origin or place
        self._want(place, None, reason)
        self._want(new, replace(node, origin=origin, is_given=True), reason)

    def _want_file(
        self,
        place: str,
        content: bytes | PayloadRef,
        attributes: Attributes | None,
        found: Node | None,
        reason: str,
    ) -> None:
        kept = found.attributes if found else self._new_attributes(place, "file")
        asked = found is not None and found.is_given and place in self._wanted
        is_given = attributes is not None or asked
        self._want(place, Node("file", attributes or kept, content, is_given=is_given), reason)

    def _want(self, place: str, node: Node | None, reason: str) -> None:
        self._wanted[place] = node
        earlier = self._reasons.get(place)
        if earlier is None or not reason or reason in earlier.split("; "):
            self._reasons[place] = earlier or reason
        else:
            self._reasons[place] = f"{earlier}; {reason}"
        if len(self._wanted) > MAX_STEPS:
            raise RefusedError(f"more than {MAX_STEPS} paths would change; split the recipe")

    def _file_place(self, path: str) -> tuple[str, Node | None]:
        """Find where a file is, or would be; links are followed."""
        place = self._place_for_change(path)
        found = self._look(place)
        if found is not None and found.kind == "link":
            try:
                place = self._resolve(path, follow_last=True)
            except OSError as error:
                raise RefusedError(
                    f"{path} is a link that leads to nothing in the guest ({found.text}); remove it"
                    " first, or name the file itself"
                ) from error
            self._check_changeable(place)
            found = self._look(place)
        if found is not None and found.kind != "file":
            raise RefusedError(f"{path} is {a_kind(found.kind)}, not a regular file")
        return place, found

    def _place_for_change(self, path: str) -> str:
        """Find where a path is whose directory exists. Raises RefusedError, with what to do."""
        try:
            place = self._canonical(path)
        except FileNotFoundError as error:
            raise _NoDirectoryError(
                f"{path}: its directory does not exist; have the recipe make it first"
            ) from error
        except OSError as error:
            raise refused(path, error) from error
        self._check_changeable(place)
        return place

    def _check_changeable(self, place: str) -> None:
        name = place.rpartition("/")[2]
        if not place or place in self._mounts or place in self._absent:
            raise RefusedError(f"/{place} is where a file system is mounted; it stays as it is")
        if len(os.fsencode(name)) > MAX_NAME or len(os.fsencode(place)) > MAX_PATH:
            raise RefusedError(f"/{place[:80]}… is too long for a path")
        if place.count("/") > MAX_DEPTH:
            raise RefusedError(f"/{place[:80]}… lies more than {MAX_DEPTH} directories deep")
        where, inner = self._place(place)
        backups = f"{self._volumes.boot_prefix}{BACKUPS}"
        if where == "boot" and f"{inner}/".startswith(f"{backups}/"):
            raise RefusedError(f"/{place} is where bootgraft keeps its backups; choose another")
        if name.startswith(TEMPORARY):
            raise RefusedError(f"/{place} has a name that bootgraft needs itself; choose another")

    # The steps

    def steps(self) -> tuple[Step, ...]:
        """Give the differences between what is there and what is wanted, in order.

        For each volume, that of /boot first, what is made comes before what is edited, and that
        before what is removed; what a boot loader reads by itself comes last of all. Raises
        RefusedError where that has no room.
        """
        wanted = {**self.original.changed, **self._wanted}
        switches = self.switches()
        steps = list(Differences(self._now, wanted, self._reasons, switches).steps())
        if steps:
            self._check_room(steps)
        places = dict.fromkeys(["boot", "root", *(each.where for each in _targets(steps))])
        order = {where: number for number, where in enumerate(places)}
        return tuple(
            sorted(
                steps,
                key=lambda step: max(
                    (target in switches, order[target.where]) for target in targets(step)
                ),
            )
        )

    def _check_room(self, steps: Iterable[Step]) -> None:
        rooms = {
            where: Volume(self._volumes.name(where), tree.room())
            for where, tree in self._trees.items()
        }
        check_room(steps, rooms, boot_is_in_root=bool(self._volumes.boot_prefix))

    def switches(self) -> tuple[Target, ...]:
        """Give what a boot loader reads by itself at any instant, in the volume of /boot.

        Not a directory of such a name, which it does not read, and which no rename switches.
        """
        found: list[Target] = []
        for path in BOOT_LOADER_FILES:
            with contextlib.suppress(OSError, RefusedError):
                place = self._canonical(path)
                if self._look(place) is not None and self.exists(path):
                    place = self._resolve(path, follow_last=True)
                target = self.locate(place)
                nodes = self._look(place), self._now.node(place)
                is_directory = any(node and node.kind == "directory" for node in nodes)
                if target.where == "boot" and not is_directory:
                    found.append(target)
        return tuple(dict.fromkeys(found))


class _NoDirectoryError(RefusedError):
    """The directory that is to hold a path is not there."""


def _targets(steps: Iterable[Step]) -> Iterator[Target]:
    return (target for step in steps for target in targets(step))


def _parents_of(path: str) -> Iterator[str]:
    while path:
        path = parent_of(path)
        yield path


def _usual(attributes: Attributes) -> Attributes:
    """Give what of a neighbour's attributes something new may have."""
    label = tuple(each for each in attributes.xattrs if each[0] == SELINUX)
    return replace(attributes, mode=attributes.mode & 0o777, xattrs=label)


@contextlib.contextmanager
def open_world(volumes: GuestVolumes, recipe: str) -> Iterator[World]:
    """Open all volumes for reading, and give the guest as it was before runs of these recipes.

    `recipe` is the plan's text for them; a run of some of them, and no others, counts. Raises
    RefusedError for a damaged manifest.
    """
    with contextlib.ExitStack() as stack:
        trees: dict[Where, Tree] = {}
        closed: dict[Where, str] = {}
        for where in dict.fromkeys(("root", "boot", *(where for _, where in volumes.mounts))):
            try:
                trees[where] = stack.enter_context(volumes.read(where))
            except RefusedError as error:
                if where in {"root", "boot"}:
                    raise
                closed[where] = str(error)
        words = set(recipe.split())
        earlier = [
            each
            for each in read_manifests(trees["boot"], f"{volumes.boot_prefix}{BACKUPS}")
            if set(each.recipe.split()) <= words
        ]
        yield World(trees, volumes, earlier, closed)
