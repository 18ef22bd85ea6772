"""ext3 file systems inside disk images, made and edited without mounting them.

GRUB legacy reads ext2 and ext3 of its own time alone: inodes of 128 bytes, and none of the features
that came later.
"""

import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vm.commands import run

_COMMON = "none,ext_attr,resize_inode,dir_index,filetype,sparse_super,large_file"
FEATURES = {
    "ext2": _COMMON,
    "ext3": f"{_COMMON},has_journal",
    # As far as GRUB legacy can read it: no extents, no 64 bits, inodes of the old size.
    "ext4": f"{_COMMON},has_journal,huge_file,uninit_bg,dir_nlink",
}
BLOCK_SIZE = 1024


@dataclass(frozen=True, slots=True)
class Ext3:
    """A file system that starts `offset` bytes into a raw image."""

    image: Path
    offset: int

    def read(self, path: str) -> bytes:
        """Return the content of a regular file, which is not reached through a link."""
        with tempfile.TemporaryDirectory() as scratch:
            copy = Path(scratch, "copy")
            self.debugfs(f"dump {path} {copy}")
            return copy.read_bytes()

    def write(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """Make a regular file of root's, in place of the one that is there."""
        if PurePosixPath(path).name in self.names(str(PurePosixPath(path).parent)):
            self.remove(path)
        with tempfile.NamedTemporaryFile() as source:
            source.write(content)
            source.flush()
            self.debugfs(
                f"write {source.name} {path}",
                f"set_inode_field {path} mode 0{stat.S_IFREG | mode:o}",
                f"set_inode_field {path} uid 0",
                f"set_inode_field {path} gid 0",
            )

    def remove(self, path: str) -> None:
        """Remove a file or a link."""
        self.debugfs(f"rm {path}")

    def names(self, path: str) -> set[str]:
        """Return the names in a directory, without `.` and `..`."""
        # Lines are /inode/mode/uid/gid/name/size/.
        lines = self.debugfs(f"ls -p {path}").splitlines()
        found = {line.split("/")[5] for line in lines if line.startswith("/")}
        return found - {".", ".."}

    def first_block(self, path: str) -> int:
        """Return the number of the block that holds a file's beginning."""
        return int(self.debugfs(f"bmap {path} 0").split()[-1])

    def journal_blocks(self) -> frozenset[int]:
        """Return the numbers of the blocks of the journal; none without one."""
        words = self.debugfs("blocks <8>").split()
        return frozenset(int(word) for word in words if word.isdecimal())

    def write_to_journal(self, block: int, content: bytes) -> None:
        """Leave a block's new content in the journal, so that a replay is due.

        The block itself changes only when something replays the journal.
        """
        with tempfile.NamedTemporaryFile() as source:
            source.write(content.ljust(BLOCK_SIZE, b"\0"))
            source.flush()
            self.debugfs("journal_open", f"journal_write -b {block} {source.name}", "journal_close")

    def debugfs(self, *requests: str) -> str:
        """Run debugfs requests in order and return what they print.

        Raises RuntimeError when one of them complains: debugfs itself ends with status 0 always.
        """
        name = f"{self.image}?offset={self.offset}"
        result = run(["debugfs", "-w", "-f", "-", name], stdin="\n".join(requests) + "\n")
        _version, *complaints = result.stderr.splitlines()
        if complaints:
            raise RuntimeError(f"debugfs on {name}: {requests}: {complaints}")
        return result.stdout


def make_ext3(image: Path, offset: int, size: int, tree: Path, kind: str = "ext3") -> Ext3:
    """Make a file system of `size` bytes that holds a copy of a folder, all of it root's.

    `kind` is one of FEATURES.
    """
    run(
        [
            *("mke2fs", "-t", kind, "-q", "-F", "-I", "128", "-b", str(BLOCK_SIZE), "-m", "0"),
            *("-O", FEATURES[kind], "-E", f"offset={offset},root_owner=0:0", "-d", tree),
            *(image, str(size // BLOCK_SIZE)),
        ]
    )
    file_system = Ext3(image, offset)
    if os.geteuid() != 0:
        _give_to_root(file_system, tree)
    return file_system


def _give_to_root(file_system: Ext3, tree: Path) -> None:
    paths = [f"/{path.relative_to(tree)}" for path in tree.rglob("*")]
    file_system.debugfs(
        *(f"set_inode_field {path} {field} 0" for path in paths for field in ("uid", "gid"))
    )
