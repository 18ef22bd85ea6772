"""File access that cannot leave one directory tree, and whole-file writes in it.

A guest's links are data of a stranger: they are resolved here, component by component, against
the tree's own root, as the guest itself (and GRUB within one file system) would. Paths are text
relative to that root, without a leading slash; bytes that are not UTF-8 are kept by
surrogateescape.
"""

import contextlib
import errno
import hashlib
import os
import secrets
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from bootgraft_agent.errors import RefusedError
from bootgraft_agent.states import (
    MAX_XATTR,
    MAX_XATTRS,
    SELINUX,
    Attributes,
    DirectoryState,
    FileState,
    LinkState,
    State,
)

MAX_LINKS = 40  # as Linux has it
MAX_NAMES = 100_000  # names read of one directory
MAX_DIGEST = 128 * 1024 * 1024  # bytes of a file to hash; a graft's largest have 64 MiB
TEMPORARY = ".bootgraft-"  # start of the names of our unfinished files
_CHUNK = 1024 * 1024
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Room:
    """What is left on a file system."""

    free_bytes: int
    free_inodes: int | None  # None: the file system makes them as it needs them
    block_size: int
    read_only: bool


class Tree:
    """The files below one directory, on its file system alone. Use it in a `with` statement."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._device = os.fstat(self._fd).st_dev

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._fd)

    def resolve(self, path: str, *, follow_last: bool = True) -> str:
        """Give the path without links, `.` and `..`; the last component must exist.

        Raises OSError: ENOENT, ENOTDIR, ELOOP (more than MAX_LINKS).
        """
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
            with self._directory(done) as parent:
                mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
                if stat.S_ISLNK(mode) and (any(todo) or follow_last):
                    target = os.readlink(name, dir_fd=parent)
                    links += 1
                    if links > MAX_LINKS:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                    if target.startswith("/"):
                        done.clear()
                    todo.extendleft(reversed(target.split("/")))
                    continue
            if any(todo) and not stat.S_ISDIR(mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
            done.append(name)
        return "/".join(done)

    @contextlib.contextmanager
    def _directory(self, components: list[str]) -> Iterator[int]:
        """Open a directory by components that are no links.

        Raises OSError for a link, and EXDEV where another file system is mounted: its files are
        not where this one's would be.
        """
        fd = os.dup(self._fd)
        try:
            for name in components:
                deeper = os.open(name, _DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = deeper
                if os.fstat(fd).st_dev != self._device:
                    raise OSError(errno.EXDEV, "another file system is mounted there", name)
            yield fd
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def parent(self, path: str) -> Iterator[tuple[int, str]]:
        """Open the directory of a path's last component, which need not exist; and its name."""
        directory, _, name = path.rpartition("/")
        resolved = self.resolve(directory)
        with self._directory(resolved.split("/") if resolved else []) as fd:
            yield fd, name

    def lstat(self, path: str) -> os.stat_result:
        """Stat a path without following its last component."""
        if not path.strip("/"):
            return os.fstat(self._fd)
        with self.parent(path) as (fd, name):
            return os.stat(name, dir_fd=fd, follow_symlinks=False)

    def exists(self, path: str) -> bool:
        """Say whether a path leads to something, links followed."""
        try:
            self.resolve(path)
        except OSError:
            return False
        return True

    def is_directory(self, path: str) -> bool:
        """Say whether a path leads to a directory, links followed."""
        return self._has_type(path, stat.S_ISDIR)

    def is_file(self, path: str) -> bool:
        """Say whether a path leads to a regular file, links followed."""
        return self._has_type(path, stat.S_ISREG)

    def _has_type(self, path: str, test: Callable[[int], bool]) -> bool:
        try:
            return test(self.lstat(self.resolve(path)).st_mode)
        except OSError:
            return False

    def names(self, path: str) -> list[str]:
        """List a directory, sorted. Raises RefusedError above MAX_NAMES."""
        resolved = self.resolve(path)
        with (
            self._directory(resolved.split("/") if resolved else []) as fd,
            os.scandir(fd) as entries,
        ):
            names: list[str] = []
            for entry in entries:
                names.append(entry.name)
                if len(names) > MAX_NAMES:
                    raise RefusedError(f"{path}: more than {MAX_NAMES} names in one directory")
        return sorted(names)

    @contextlib.contextmanager
    def open_file(self, path: str) -> Iterator[int]:
        """Open a regular file for reading; never waits on a FIFO or touches a device."""
        with self.parent(self.resolve(path)) as (directory, name):
            fd = os.open(
                name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory
            )
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise RefusedError(f"{path} is not a regular file")
            yield fd
        finally:
            os.close(fd)

    def read(self, path: str, limit: int) -> bytes:
        """Read a regular file of at most `limit` bytes; RefusedError for a longer one."""
        self._check_regular(path)
        with self.open_file(path) as fd:
            size = os.fstat(fd).st_size
            if size > limit:
                raise RefusedError(f"{path} is {size} bytes long; at most {limit} are expected")
            content = b"".join(iter(lambda: os.read(fd, _CHUNK), b""))
        if len(content) > limit:
            raise RefusedError(f"{path} grew while it was read")
        return content

    def _check_regular(self, path: str) -> None:
        """Refuse devices and FIFOs before they are opened: opening alone can have effects."""
        mode = self.lstat(self.resolve(path)).st_mode
        if not stat.S_ISREG(mode):
            raise RefusedError(f"{path} is {_kind(mode)}, not a regular file")

    def is_same_file(self, path: str, other: str) -> bool:
        """Say whether two paths are names of one file (hard links)."""
        try:
            one, two = self.lstat(path), self.lstat(other)
        except OSError:
            return False
        return (one.st_dev, one.st_ino) == (two.st_dev, two.st_ino)

    def digest(self, path: str) -> str | None:
        """Give a regular file's SHA-256; None where there is nothing at that path.

        Raises RefusedError for whatever else is there, a link to nothing included.
        """
        try:
            self.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            self._check_regular(path)
        except OSError as error:
            raise RefusedError(
                f"{path} is a link that leads to no file: {error.strerror}"
            ) from error
        digest = hashlib.sha256()
        with self.open_file(path) as fd:
            size = os.fstat(fd).st_size
            if size > MAX_DIGEST:
                raise RefusedError(
                    f"{path} is {size} bytes long; at most {MAX_DIGEST} are expected"
                )
            for chunk in iter(lambda: os.read(fd, _CHUNK), b""):
                digest.update(chunk)
        return digest.hexdigest()

    def attributes(self, path: str) -> Attributes:
        """Give owner, mode and extended attributes of a path; its last component is not followed.

        Raises RefusedError for more or longer ones than Linux gives a file.
        """
        status = self.lstat(path)
        if not path.strip("/"):
            xattrs = _read_xattrs(f"/proc/self/fd/{self._fd}/.", path)
        else:
            with self.parent(path) as (fd, name):
                xattrs = _read_xattrs(f"/proc/self/fd/{fd}/{name}", path)
        mode = 0o777 if stat.S_ISLNK(status.st_mode) else stat.S_IMODE(status.st_mode)
        return Attributes(mode, status.st_uid, status.st_gid, xattrs)

    def read_link(self, path: str) -> str:
        """Give the text of a link."""
        with self.parent(path) as (fd, name):
            return os.readlink(name, dir_fd=fd)

    def state(self, path: str) -> State:
        """Say what stands at a path; neither it nor its directory may be reached by a link.

        Raises RefusedError for a device, FIFO or socket, a file of more than MAX_DIGEST bytes, and
        where a directory of the path is a link.
        """
        parent = parent_of(path)
        try:
            if self.resolve(parent) != parent:
                raise RefusedError(f"/{parent} is or goes through a link, where none was")
            status = self.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        attributes = self.attributes(path)
        if stat.S_ISLNK(status.st_mode):
            return LinkState(self.read_link(path), attributes, status.st_mtime_ns)
        if stat.S_ISDIR(status.st_mode):
            return DirectoryState(attributes)
        digest = self.digest(path)
        if digest is None:
            return None
        return FileState(digest, status.st_size, attributes, status.st_mtime_ns)

    def room(self, path: str = "") -> Room:
        """Say what is left on the file system that holds a directory."""
        resolved = self.resolve(path)
        with self._directory(resolved.split("/") if resolved else []) as fd:
            found = os.fstatvfs(fd)
        return Room(
            free_bytes=found.f_bavail * found.f_frsize,
            free_inodes=found.f_favail if found.f_files else None,
            block_size=found.f_frsize,
            read_only=bool(found.f_flag & os.ST_RDONLY),
        )


class WritableTree(Tree):
    """A tree that may be changed, one whole file at a time."""

    def make_directory(self, path: str) -> None:
        """Make a directory for root alone; one that exists is left as it is.

        Raises RefusedError where something else has its name.
        """
        with self.parent(path) as (fd, name):
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=fd)
            mode = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
            if not stat.S_ISDIR(mode):
                raise RefusedError(f"{path} is {_kind(mode)}, where a directory is to be made")
            os.fsync(fd)

    def write_temporary(
        self,
        path: str,
        content: Iterable[bytes],
        *,
        like: str | None = None,
        attributes: Attributes | None = None,
        mode: int = 0o644,
        mtime_ns: int | None = None,
    ) -> str:
        """Write a complete file under a temporary name beside `path`, and give that name.

        Owner, mode and extended attributes are those given, or those of the file `like`; without
        either it belongs to root and has `mode`.
        """
        temporary = temporary_beside(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with self.parent(temporary) as (parent, name):
            fd = os.open(name, flags, 0o600, dir_fd=parent)
            try:
                for chunk in content:
                    _write_all(fd, chunk)
                if attributes is not None:
                    _set_attributes(fd, attributes)
                elif like is None:
                    os.fchmod(fd, mode)
                else:
                    with self.open_file(like) as model:
                        _copy_attributes(model, fd)
                if mtime_ns is not None:
                    os.utime(fd, ns=(mtime_ns, mtime_ns))
                os.fsync(fd)
            except BaseException:
                os.unlink(name, dir_fd=parent)
                raise
            finally:
                os.close(fd)
            os.fsync(parent)
        return temporary

    def rename(self, path: str, onto: str) -> None:
        """Put a file in another's place, in the same directory, in one step."""
        with self.parent(path) as (fd, name):
            os.rename(name, onto.rpartition("/")[2], src_dir_fd=fd, dst_dir_fd=fd)
            os.fsync(fd)

    def move(self, path: str, to: str) -> None:
        """Give a file or a link another name, in whatever directory of the same file system.

        Raises FileExistsError where something has that name.
        """
        with self.parent(path) as (source, name), self.parent(to) as (target, new_name):
            with contextlib.suppress(FileNotFoundError):
                os.stat(new_name, dir_fd=target, follow_symlinks=False)
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), to)
            os.rename(name, new_name, src_dir_fd=source, dst_dir_fd=target)
            os.fsync(target)
            os.fsync(source)

    def make_temporary_link(
        self, path: str, text: str, attributes: Attributes, mtime_ns: int | None = None
    ) -> str:
        """Make a symbolic link under a temporary name beside `path`, and give that name."""
        temporary = temporary_beside(path)
        with self.parent(temporary) as (fd, name):
            os.symlink(text, name, dir_fd=fd)
            try:
                os.chown(name, attributes.uid, attributes.gid, dir_fd=fd, follow_symlinks=False)
                _set_xattrs(f"/proc/self/fd/{fd}/{name}", attributes)
                if mtime_ns is not None:
                    times = (mtime_ns, mtime_ns)
                    os.utime(name, ns=times, dir_fd=fd, follow_symlinks=False)
            except BaseException:
                os.unlink(name, dir_fd=fd)
                raise
            os.fsync(fd)
        return temporary

    def make_temporary_directory(self, path: str, attributes: Attributes) -> str:
        """Make a directory under a temporary name beside `path`, and give that name."""
        temporary = temporary_beside(path)
        with self.parent(temporary) as (fd, name):
            os.mkdir(name, 0o700, dir_fd=fd)
            try:
                with _opened_directory(fd, name) as made:
                    _set_attributes(made, attributes)
                    os.fsync(made)
            except BaseException:
                os.rmdir(name, dir_fd=fd)
                raise
            os.fsync(fd)
        return temporary

    def set_directory_attributes(self, path: str, attributes: Attributes) -> None:
        """Give a directory that exists these attributes."""
        with self.parent(path) as (fd, name), _opened_directory(fd, name) as directory:
            _set_attributes(directory, attributes)
            os.fsync(directory)

    def try_link(self, path: str, to: str) -> bool:
        """Give a file a second name (a hard link); False where the file system has none."""
        with self.parent(path) as (source, name), self.parent(to) as (target, new_name):
            try:
                os.link(name, new_name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
            except PermissionError:
                return False
            os.fsync(target)
        return True

    def remove(self, path: str) -> None:
        """Remove a file or a link."""
        with self.parent(path) as (fd, name):
            os.unlink(name, dir_fd=fd)
            os.fsync(fd)

    def remove_directory(self, path: str) -> None:
        """Remove an empty directory."""
        with self.parent(path) as (fd, name):
            os.rmdir(name, dir_fd=fd)
            os.fsync(fd)

    def remove_temporaries(self, directory: str) -> None:
        """Remove what an interrupted write left in a directory."""
        for name in self.names(directory):
            if not name.startswith(TEMPORARY):
                continue
            path = f"{directory}/{name}"
            mode = self.lstat(path).st_mode
            if stat.S_ISREG(mode) or stat.S_ISLNK(mode):
                self.remove(path)
            elif stat.S_ISDIR(mode) and not self.names(path):
                self.remove_directory(path)


@contextlib.contextmanager
def _opened_directory(parent: int, name: str) -> Iterator[int]:
    fd = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        yield fd
    finally:
        os.close(fd)


def read_chunks(fd: int, limit: int) -> Iterator[bytes]:
    """Read an open file piece by piece, up to a limit."""
    while limit > 0 and (chunk := os.read(fd, min(_CHUNK, limit))):
        limit -= len(chunk)
        yield chunk


def parent_of(path: str) -> str:
    """Give the directory of a path, "" for the tree's root."""
    return path.rpartition("/")[0]


def temporary_beside(path: str) -> str:
    """Give a fresh name for an unfinished file in the same directory."""
    directory, slash, _ = path.rpartition("/")
    return f"{directory}{slash}{TEMPORARY}{secrets.token_hex(4)}"


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _read_xattrs(path: str, name: str) -> tuple[tuple[str, str], ...]:
    """Read the extended attributes of a path of ours that leads to one file, and no further."""
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return ()
        raise
    if len(names) > MAX_XATTRS:
        raise RefusedError(f"/{name} has {len(names)} extended attributes")
    found = [(each, os.getxattr(path, each, follow_symlinks=False).hex()) for each in names]
    if any(len(value) > 2 * MAX_XATTR for _, value in found):
        raise RefusedError(f"/{name} has an extended attribute that is too long")
    return tuple(sorted(found))


def _set_attributes(fd: int, attributes: Attributes) -> None:
    """Give an open file or directory these attributes and no others."""
    os.fchown(fd, attributes.uid, attributes.gid)
    os.fchmod(fd, attributes.mode)
    _set_xattrs(fd, attributes)


def _set_xattrs(place: int | str, attributes: Attributes) -> None:
    follow = {} if isinstance(place, int) else {"follow_symlinks": False}
    wanted = dict(attributes.xattrs)
    try:
        found = os.listxattr(place, **follow)
    except OSError as error:
        if error.errno == errno.ENOTSUP and not wanted:
            return
        raise
    for name in found:
        if name not in wanted and name != SELINUX:  # which a system may give every file
            os.removexattr(place, name, **follow)
    for name, value in wanted.items():
        os.setxattr(place, name, bytes.fromhex(value), **follow)


def _copy_attributes(source: int, target: int) -> None:
    """Copy owner, mode and extended attributes (SELinux label, ACLs), and no others, to a file."""
    status = os.fstat(source)
    os.fchown(target, status.st_uid, status.st_gid)
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    try:
        attributes = os.listxattr(source)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return
        raise
    for attribute in os.listxattr(target):
        if attribute not in attributes and attribute != SELINUX:  # of the directory's default ACL
            os.removexattr(target, attribute)
    for attribute in attributes:
        os.setxattr(target, attribute, os.getxattr(source, attribute))


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFREG: "a file",
        stat.S_IFDIR: "a directory",
        stat.S_IFLNK: "a link",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFCHR: "a character device",
        stat.S_IFBLK: "a block device",
        stat.S_IFSOCK: "a socket",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")
