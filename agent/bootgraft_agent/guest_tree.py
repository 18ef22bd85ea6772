"""The guest's whole tree, to be read: across its mounts, as it is or as it was before a run.

Paths are absolute, as the guest sees them; links are resolved within the guest's own tree.
"""

import contextlib
import errno
import os
import stat
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from bootgraft_agent.errors import RefusedError
from bootgraft_agent.files import MAX_LINKS, TEMPORARY, Tree, parent_of
from bootgraft_agent.guest import MAX_TEXT
from bootgraft_agent.manifest import Change, Manifest
from bootgraft_agent.plan import BACKUPS, Target, Where, sha256
from bootgraft_agent.states import (
    Attributes,
    DirectoryState,
    FileState,
    LinkState,
    State,
    matches,
    same_content,
)
from bootgraft_agent.volumes import GuestVolumes

MAX_DEPTH = 64  # directories in each other; each level costs every look below it

Kind = Literal["file", "link", "directory", "other"]


@dataclass(frozen=True, slots=True)
class PayloadRef:
    """A file of the payload to be copied."""

    source: str  # path in the payload
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Stored:
    """Content that lies in the guest: a file's, or a backup's."""

    where: Where
    path: str
    size: int


@dataclass(frozen=True, slots=True)
class Node:
    """What stands at a path, or is wanted there."""

    kind: Kind
    attributes: Attributes
    content: "bytes | PayloadRef | Stored | None" = None  # of a file
    text: str = ""  # of a link
    digest: str | None = None  # of a file, where it is known
    is_given: bool = False  # the attributes were asked for, and are to be just so
    is_new: bool = False  # of a directory: nothing of what lies below is in it
    origin: str | None = None  # of a file that was renamed: its path in the guest


class View:
    """A guest's tree to read. Paths are absolute; anything else raises RefusedError."""

    def __init__(
        self,
        trees: Mapping[Where, Tree],
        volumes: GuestVolumes,
        closed: Mapping[Where, str] = MappingProxyType({}),
    ) -> None:
        self._trees = trees
        self._volumes = volumes
        self._mounts = {mount: where for mount, where in volumes.mounts if where not in closed}
        self._absent = dict(volumes.absent)
        self._absent |= {m: closed[where] for m, where in volumes.mounts if where in closed}

    # Reading

    def kind(self, path: str) -> Kind | None:
        """Say what stands at a path, whose last component is not followed; None for nothing."""
        try:
            node = self._look(self._canonical(path))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise refused(path, error) from error
        return node.kind if node else None

    def exists(self, path: str) -> bool:
        """Say whether a path leads to something, links followed."""
        try:
            self.resolve(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise refused(path, error) from error
        return True

    def is_directory(self, path: str) -> bool:
        """Say whether a path leads to a directory, links followed."""
        return self.exists(path) and self.kind(self.resolve(path)) == "directory"

    def is_file(self, path: str) -> bool:
        """Say whether a path leads to a regular file, links followed."""
        return self.exists(path) and self.kind(self.resolve(path)) == "file"

    def resolve(self, path: str) -> str:
        """Give the absolute path without links, `.` and `..`; its last component must exist.

        Raises OSError: ENOENT, ENOTDIR, ELOOP.
        """
        return "/" + self._resolve(path, follow_last=True)

    def names(self, path: str) -> list[str]:
        """List a directory, links followed, sorted. Raises RefusedError above MAX_NAMES."""
        with as_refusal(path):
            return self._names(self._directory(path))

    def read(self, path: str, limit: int = MAX_TEXT) -> bytes:
        """Read a regular file, links followed; RefusedError for more than `limit` bytes."""
        with as_refusal(path):
            return self.content(path, self._file(path), limit)

    def size(self, path: str) -> int:
        """Give the size of a regular file in bytes, links followed."""
        with as_refusal(path):
            return size_of(self._file(path))

    def digest(self, path: str) -> str:
        """Give the SHA-256 of a regular file, links followed."""
        with as_refusal(path):
            return self.digest_of(self._file(path))

    def attributes(self, path: str) -> Attributes:
        """Give owner, mode and extended attributes; the last component is not followed."""
        with as_refusal(path):
            return self._existing(self._canonical(path)).attributes

    def target(self, path: str) -> Target:
        """Say in which volume a path is and where there; its last component is not followed."""
        with as_refusal(path):
            return self.locate(self._canonical(path))

    def uuids(self) -> Mapping[str, str]:
        """Give the UUIDs of the guest's file systems and swap areas, as far as they are known."""
        return self._volumes.uuids

    # Resolving; paths below have no first slash, no links and no dots

    def _resolve(self, path: str, *, follow_last: bool) -> str:
        if not path.startswith("/") or "\0" in path:
            raise RefusedError(f"{path!r} is no absolute path")
        todo = deque(path.split("/"))
        done: list[str] = []
        links = 0
        while todo:
            name = todo.popleft()
            if name in ("", "."):
                continue
            if name == "..":
                del done[-1:]
                continue
            here = "/".join((*done, name))
            node = self._existing(here)
            if node.kind == "link" and (any(todo) or follow_last):
                links += 1
                if links > MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                if node.text.startswith("/"):
                    done.clear()
                todo.extendleft(reversed(node.text.split("/")))
                continue
            if any(todo) and node.kind != "directory":
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
            done.append(name)
            if len(done) > MAX_DEPTH:
                raise RefusedError(f"{path[:80]} leads more than {MAX_DEPTH} directories deep")
        return "/".join(done)

    def _canonical(self, path: str) -> str:
        """Resolve the directory of a path, whose last component need not exist.

        Raises OSError where the directory is not there.
        """
        if not path.startswith("/") or "\0" in path:
            raise RefusedError(f"{path!r} is no absolute path")
        parent, _, name = path.rstrip("/").rpartition("/")
        if name in ("", ".", ".."):
            return self._resolve(path, follow_last=True)
        directory = self._resolve(parent or "/", follow_last=True)
        if self._existing(directory).kind != "directory":
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        return f"{directory}/{name}" if directory else name

    def _existing(self, path: str) -> Node:
        node = self._look(path)
        if node is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"/{path}")
        return node

    def _file(self, path: str) -> Node:
        node = self._existing(self._resolve(path, follow_last=True))
        if node.kind != "file":
            raise RefusedError(f"{path} is {a_kind(node.kind)}, not a regular file")
        return node

    def _directory(self, path: str) -> str:
        found = self._resolve(path, follow_last=True)
        if self._existing(found).kind != "directory":
            raise RefusedError(f"{path} is no directory")
        return found

    # What is below: the volumes as they are now

    def _look(self, path: str) -> Node | None:
        return self._look_below(path)

    def _names(self, path: str) -> list[str]:
        return self._names_below(path)

    # By paths without first slash, links and dots

    def node(self, path: str) -> Node | None:
        """Give what stands at a path."""
        return self._look(path)

    def list_node(self, path: str) -> list[str]:
        """List a directory, sorted."""
        return self._names(path)

    def locate(self, path: str) -> Target:
        """Say in which volume a path is, and where there."""
        where, inner = self._place(path)
        return Target(where, self._volumes.name(where), inner)

    def state(self, target: Target) -> State:
        """Give what is there now."""
        return self._trees[target.where].state(target.path)

    def names_at(self, target: Target) -> list[str]:
        """List a directory as it is now."""
        return self._trees[target.where].names(target.path)

    def _place(self, path: str) -> tuple[Where, str]:
        """Give the volume of a path, and where it is there."""
        parts = path.split("/") if path else []
        for count in range(len(parts), -1, -1):
            mount = "/".join(parts[:count])
            if mount in self._absent:
                raise RefusedError(
                    f"/{path} is in /{mount}, a file system of the guest's own that cannot be"
                    f" changed here: {self._absent[mount]}"
                )
            if mount in self._mounts:
                where = self._mounts[mount]
                inner = "/".join(parts[count:])
                if where == "boot":
                    inner = f"{self._volumes.boot_prefix}{inner}".rstrip("/")
                return where, inner
        raise RefusedError(f"/{path} is in no file system of the guest's")

    def _look_below(self, path: str) -> Node | None:
        where, inner = self._place(path)
        tree = self._trees[where]
        try:
            status = tree.lstat(inner)
            attributes = tree.attributes(inner)
            if stat.S_ISREG(status.st_mode):
                stored = Stored(where, inner, status.st_size)
                return Node("file", attributes, stored)
            if stat.S_ISLNK(status.st_mode):
                return Node("link", attributes, text=tree.read_link(inner))
        except (FileNotFoundError, NotADirectoryError):
            return None
        is_directory = stat.S_ISDIR(status.st_mode)
        return Node("directory" if is_directory else "other", attributes)

    def _names_below(self, path: str) -> list[str]:
        where, inner = self._place(path)
        try:
            names = self._trees[where].names(inner)
        except (FileNotFoundError, NotADirectoryError):
            return []
        # What a run that was cut off left unfinished is nothing of the guest's.
        return [name for name in names if not name.startswith(TEMPORARY)]

    def content(self, path: str, node: Node, limit: int) -> bytes:
        """Give a file's content; `path` is for people. Raises RefusedError."""
        if size_of(node) > limit:
            raise RefusedError(
                f"{path} is {size_of(node)} bytes long; at most {limit} are expected"
            )
        if isinstance(node.content, Stored):
            return self._trees[node.content.where].read(node.content.path, limit)
        if isinstance(node.content, PayloadRef):
            raise RefusedError(
                f"{path} is copied from the payload by an earlier recipe, and cannot be edited by"
                " the same run; edit the payload's file"
            )
        return node.content or b""

    def digest_of(self, node: Node) -> str:
        """Give the SHA-256 of a file's content."""
        if node.digest is not None:
            return node.digest
        if isinstance(node.content, PayloadRef):
            return node.content.sha256
        if isinstance(node.content, Stored):
            stored = node.content
            return self._trees[stored.where].digest(stored.path) or ""
        return sha256(node.content or b"")


class Before(View):
    """A guest's tree as it was before earlier runs of the same recipes."""

    def __init__(
        self,
        trees: Mapping[Where, Tree],
        volumes: GuestVolumes,
        earlier: Sequence[Manifest],
        closed: Mapping[Where, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(trees, volumes, closed)
        self.changed: dict[str, Node | None] = {}  # by path: what was there
        self.runs: list[str] = []  # that have changed what is there, oldest first
        for manifest in sorted(earlier, key=lambda each: -each.sequence):
            if self._take_back(manifest):
                self.runs.insert(0, manifest.run_id)

    def _take_back(self, manifest: Manifest) -> bool:
        """Forget what a run has changed and nobody after it; say whether that is anything."""
        found = False
        for change in manifest.changes:
            path = self._guest_path(change.where, change.path)
            if path is None or not _is_after(self._state(path, change), change):
                continue
            found = True
            directory = f"{self._volumes.boot_prefix}{BACKUPS}/{manifest.run_id}"
            self.changed[path] = _node_of(change.before, f"{directory}/{change.backup}")
        return found

    def _guest_path(self, where: Where, inner: str) -> str | None:
        """Give the path of a file of a volume's; None where that is not mounted."""
        for mount, other in self._mounts.items():
            if other == where:
                prefix = self._volumes.boot_prefix if where == "boot" else ""
                rest = inner.removeprefix(prefix)
                return f"{mount}/{rest}" if mount else rest
        return None

    def _state(self, path: str, change: Change) -> State:
        if path in self.changed:
            return _state_of(self.changed[path])
        tree = self._trees.get(change.where)
        return tree.state(change.path) if tree else None

    def _look(self, path: str) -> Node | None:
        return self.changed[path] if path in self.changed else self._look_below(path)

    def _names(self, path: str) -> list[str]:
        return with_children(self._names_below(path), path, self.changed)


def _is_after(found: State, change: Change) -> bool:
    """Whether a path is as a run left it; attributes count where only they were changed."""
    if same_content(change.before, change.after):
        return matches(found, change.after)
    return same_content(found, change.after)


def _node_of(state: State, backup: str) -> Node | None:
    """Give what a manifest says was there."""
    if isinstance(state, FileState):
        stored = Stored("boot", backup, state.size)
        attributes = state.attributes or Attributes(0o644, 0, 0)
        return Node("file", attributes, stored, digest=state.sha256, is_given=True)
    if isinstance(state, LinkState):
        return Node("link", state.attributes, text=state.text, is_given=True)
    if isinstance(state, DirectoryState):
        return Node("directory", state.attributes, is_given=True)
    return None


def _state_of(node: Node | None) -> State:
    """Give the state of what a manifest says was there."""
    if node is None:
        return None
    if node.kind == "file":
        return FileState(node.digest or "", size_of(node), node.attributes)
    if node.kind == "link":
        return LinkState(node.text, node.attributes)
    return DirectoryState(node.attributes)


def with_children(names: Sequence[str], path: str, over: Mapping[str, Node | None]) -> list[str]:
    """Give a directory's names with those that lie over it, without those that are gone."""
    found = set(names)
    for each, node in over.items():
        if each and parent_of(each) == path:
            name = each.rpartition("/")[2]
            if node is None:
                found.discard(name)
            else:
                found.add(name)
    return sorted(found)


@contextlib.contextmanager
def as_refusal(path: str) -> Iterator[None]:
    """Raise RefusedError for a path that the system refuses."""
    try:
        yield
    except OSError as error:
        raise refused(path, error) from error


def refused(path: str, error: OSError) -> RefusedError:
    """Give what is said of a path that the system refuses."""
    return RefusedError(f"{path}: {error.strerror or error}")


def size_of(node: Node) -> int:
    """Give a file's size in bytes."""
    if isinstance(node.content, PayloadRef | Stored):
        return node.content.size
    return len(node.content or b"")


def a_kind(kind: Kind) -> str:
    """Name a kind in words: "a file"."""
    return {"other": "a device, FIFO or socket"}.get(kind, f"a {kind}")
