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
import errno
import hashlib
import os
import stat
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from bootgraft_agent.errors import RefusedError
from bootgraft_agent.files import MAX_LINKS, MAX_NAMES, TEMPORARY, Tree, parent_of
from bootgraft_agent.guest import MAX_TEXT
from bootgraft_agent.manifest import Manifest
from bootgraft_agent.plan import (
    BACKUPS,
    CopyFile,
    CreateFile,
    MakeDirectory,
    MakeLink,
    Move,
    Remove,
    RemoveDirectory,
    Step,
    Target,
    Where,
    WriteFile,
    sha256,
)
from bootgraft_agent.rollback import read_manifests
from bootgraft_agent.states import (
    SELINUX,
    Attributes,
    DirectoryState,
    FileState,
    LinkState,
    State,
    matches,
)
from bootgraft_agent.volumes import GuestVolumes

Kind = Literal["file", "link", "directory", "other"]

MAX_STEPS = 4096  # changed paths of a plan
MAX_REMOVED = 10_000  # names of a directory that is removed with all that is in it
_NEIGHBOURS = 64  # files of a directory that are looked at for its habits
# What a boot loader reads by itself; in the volume that holds /boot.
_SWITCHES = (
    *("boot/grub/menu.lst", "boot/grub/grub.conf"),
    *("boot/grub/grubenv", "boot/grub2/grubenv"),
    *("boot/grub/grub.cfg", "boot/grub2/grub.cfg"),
)


@dataclass(frozen=True, slots=True)
class PayloadRef:
    """A file of the payload to be copied."""

    source: str  # path in the payload
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class _Stored:
    """Content that lies in the guest: a file's, or a backup's."""

    where: Where
    path: str
    size: int


@dataclass(frozen=True, slots=True)
class _Node:
    """What stands at a path, or is wanted there."""

    kind: Kind
    attributes: Attributes
    content: "bytes | PayloadRef | _Stored | None" = None  # of a file
    text: str = ""  # of a link
    digest: str | None = None  # of a file, where it is known


class View:
    """A guest's tree to read. Paths are absolute; anything else raises RefusedError."""

    def __init__(self, trees: Mapping[Where, Tree], volumes: GuestVolumes) -> None:
        self._trees = trees
        self._volumes = volumes
        self._mounts = dict(volumes.mounts)
        self._absent = dict(volumes.absent)

    # Reading

    def kind(self, path: str) -> Kind | None:
        """Say what stands at a path, whose last component is not followed; None for nothing."""
        try:
            node = self._look(self._canonical(path))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _refused(path, error) from error
        return node.kind if node else None

    def exists(self, path: str) -> bool:
        """Say whether a path leads to something, links followed."""
        try:
            self.resolve(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise _refused(path, error) from error
        return True

    def resolve(self, path: str) -> str:
        """Give the absolute path without links, `.` and `..`; its last component must exist.

        Raises OSError: ENOENT, ENOTDIR, ELOOP.
        """
        return "/" + self._resolve(path, follow_last=True)

    def names(self, path: str) -> list[str]:
        """List a directory, links followed, sorted. Raises RefusedError above MAX_NAMES."""
        with _as_refusal(path):
            return self._names(self._directory(path))

    def read(self, path: str, limit: int = MAX_TEXT) -> bytes:
        """Read a regular file, links followed; RefusedError for more than `limit` bytes."""
        with _as_refusal(path):
            return self._content(path, self._file(path), limit)

    def size(self, path: str) -> int:
        """Give the size of a regular file in bytes, links followed."""
        with _as_refusal(path):
            return _size(self._file(path))

    def digest(self, path: str) -> str:
        """Give the SHA-256 of a regular file, links followed."""
        with _as_refusal(path):
            return self._digest(self._file(path))

    def attributes(self, path: str) -> Attributes:
        """Give owner, mode and extended attributes; the last component is not followed."""
        with _as_refusal(path):
            return self._existing(self._canonical(path)).attributes

    def link_text(self, path: str) -> str:
        """Give the text of a link."""
        with _as_refusal(path):
            node = self._existing(self._canonical(path))
        if node.kind != "link":
            raise RefusedError(f"{path} is no link")
        return node.text

    def target(self, path: str) -> Target:
        """Say in which volume a path is and where there; its last component is not followed."""
        with _as_refusal(path):
            return self._target(self._canonical(path))

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

    def _existing(self, path: str) -> _Node:
        node = self._look(path)
        if node is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"/{path}")
        return node

    def _file(self, path: str) -> _Node:
        node = self._existing(self._resolve(path, follow_last=True))
        if node.kind != "file":
            raise RefusedError(f"{path} is {_a(node.kind)}, not a regular file")
        return node

    def _directory(self, path: str) -> str:
        found = self._resolve(path, follow_last=True)
        if self._existing(found).kind != "directory":
            raise RefusedError(f"{path} is no directory")
        return found

    # What is below: the volumes as they are now

    def _look(self, path: str) -> _Node | None:
        return self._look_below(path)

    def _names(self, path: str) -> list[str]:
        return self._names_below(path)

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

    def _target(self, path: str) -> Target:
        where, inner = self._place(path)
        return Target(where, self._volumes.name(where), inner)

    def _look_below(self, path: str) -> _Node | None:
        where, inner = self._place(path)
        tree = self._trees[where]
        try:
            status = tree.lstat(inner)
            attributes = tree.attributes(inner)
            if stat.S_ISREG(status.st_mode):
                stored = _Stored(where, inner, status.st_size)
                return _Node("file", attributes, stored)
            if stat.S_ISLNK(status.st_mode):
                return _Node("link", attributes, text=tree.read_link(inner))
        except (FileNotFoundError, NotADirectoryError):
            return None
        is_directory = stat.S_ISDIR(status.st_mode)
        return _Node("directory" if is_directory else "other", attributes)

    def _names_below(self, path: str) -> list[str]:
        where, inner = self._place(path)
        try:
            return self._trees[where].names(inner)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _content(self, path: str, node: _Node, limit: int) -> bytes:
        if _size(node) > limit:
            raise RefusedError(f"{path} is {_size(node)} bytes long; at most {limit} are expected")
        if isinstance(node.content, _Stored):
            return self._trees[node.content.where].read(node.content.path, limit)
        if isinstance(node.content, PayloadRef):
            raise RefusedError(
                f"{path} is copied from the payload by an earlier recipe, and cannot be edited by"
                " the same run; edit the payload's file"
            )
        return node.content or b""

    def _digest(self, node: _Node) -> str:
        if node.digest is not None:
            return node.digest
        if isinstance(node.content, PayloadRef):
            return node.content.sha256
        if isinstance(node.content, _Stored):
            stored = node.content
            return self._trees[stored.where].digest(stored.path) or ""
        return sha256(node.content or b"")


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
    ) -> None:
        super().__init__(trees, volumes)
        self._wanted: dict[str, _Node | None] = {}
        self._reasons: dict[str, str] = {}
        self._opaque: set[str] = set()
        self.secrets: tuple[str, ...] = ()
        self.original = View(trees, volumes)
        del earlier

    # Changes

    def hide(self, secret: str) -> None:
        """Have a text masked wherever the plan is shown."""
        if secret:
            self.secrets = tuple(dict.fromkeys((*self.secrets, secret)))

    def write(
        self, path: str, content: bytes, reason: str, attributes: Attributes | None = None
    ) -> None:
        """Give a file this content, at most MAX_TEXT; edit it, links followed, or create it."""
        raise NotImplementedError

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
        raise NotImplementedError

    def make_directory(self, path: str, attributes: Attributes | None, reason: str) -> None:
        """Have a directory, whose parent exists; one that is there gets the attributes."""
        raise NotImplementedError

    def link(self, path: str, to: str, reason: str, *, replace: bool = False) -> None:
        """Have a symbolic link of this text; a file or another link is refused w/o `replace`."""
        raise NotImplementedError

    def remove(self, path: str, reason: str) -> None:
        """Remove a file, a link, or a directory with all that is in it."""
        raise NotImplementedError

    def rename(self, path: str, to: str, reason: str) -> None:
        """Give a file or a link another name, in the same volume, where nothing stands yet."""
        raise NotImplementedError

    def steps(self) -> tuple[Step, ...]:
        """Give the differences between what is there and what is wanted, in order."""
        raise NotImplementedError


@contextlib.contextmanager
def open_world(volumes: GuestVolumes, recipe: str) -> Iterator[World]:
    """Open all volumes for reading, and give the guest as it was before runs of these recipes.

    `recipe` is the plan's text for them. Raises RefusedError for a damaged manifest.
    """
    with contextlib.ExitStack() as stack:
        places = dict.fromkeys(where for _, where in volumes.mounts)
        trees = {where: stack.enter_context(volumes.read(where)) for where in places}
        yield World(trees, volumes)


@contextlib.contextmanager
def _as_refusal(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _refused(path, error) from error


def _refused(path: str, error: OSError) -> RefusedError:
    return RefusedError(f"{path}: {error.strerror or error}")


def _size(node: _Node) -> int:
    if isinstance(node.content, PayloadRef | _Stored):
        return node.content.size
    return len(node.content or b"")


def _a(kind: Kind) -> str:
    return {"other": "a device, FIFO or socket"}.get(kind, f"a {kind}")
