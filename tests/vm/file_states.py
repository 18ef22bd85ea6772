"""What a guest's file system holds, read without mounting it: all that a rollback brings back."""

import hashlib
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vm.ext3 import Ext3

_STAT = re.compile(
    r"Inode: .*Type: (?P<kind>\w+) +Mode: +(?P<mode>\d+).*\n"
    r"(?:.*\n)*?User: +(?P<user>\d+) +Group: +(?P<group>\d+).*\n"
    r"File ACL: (?P<attributes>\d+)\n"
    r"Links: (?P<links>\d+).*\n"
    r"(?:.*\n)*?mtime: (?P<changed>0x[0-9a-f]+).*\n"
    r"(?:.*\n)*?(?:Fast link dest: \"(?P<link>.*)\"\n|(?=debugfs: )|\Z)"
)


@dataclass(frozen=True, slots=True)
class FileState:
    """A file, directory or link; `content` is a SHA-256 or a link's target."""

    kind: str
    mode: str
    owner: tuple[int, int]
    links: int
    attributes: int  # the block of its extended attributes, 0: it has none
    changed: int | None  # seconds since 1970; None for a directory, where files come and go
    content: str


def read_states(file_system: Ext3) -> dict[str, FileState]:
    """Read every file, directory and link by its path."""
    paths = ["/", *_walk(file_system, "/")]
    return {path: _read_state(file_system, path) for path in paths}


def _walk(file_system: Ext3, folder: str) -> Iterator[str]:
    for line in file_system.debugfs(f"ls -p {folder}").splitlines():
        # Lines are /inode/mode/uid/gid/name/size/.
        fields = line.split("/")
        if len(fields) < 6 or fields[5] in ("", ".", ".."):
            continue
        path = f"{folder.rstrip('/')}/{fields[5]}"
        yield path
        if fields[2].startswith("04"):
            yield from _walk(file_system, path)


def _read_state(file_system: Ext3, path: str) -> FileState:
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch, "copy")
        stat = _STAT.search(file_system.debugfs(f"stat {path}"))
        assert stat is not None, path
        content = stat["link"] or ""
        if stat["kind"] == "regular":
            file_system.debugfs(f"dump {path} {copy}")
            content = hashlib.sha256(copy.read_bytes()).hexdigest()
    return FileState(
        kind=stat["kind"],
        mode=stat["mode"],
        owner=(int(stat["user"]), int(stat["group"])),
        links=int(stat["links"]),
        attributes=int(stat["attributes"]),
        changed=None if stat["kind"] == "directory" else int(stat["changed"], 16),
        content=content,
    )
