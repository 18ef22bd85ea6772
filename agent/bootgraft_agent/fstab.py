"""What a guest's fstab says, as far as its file systems are to be found by it. Pure.

Source: fstab(5).
"""

import re
from dataclasses import dataclass

MAX_ENTRIES = 1000

_ESCAPE = re.compile(r"\\([0-7]{3})")
# Not on any disk of the guest.
PSEUDO = frozenset(
    {
        *("proc", "sysfs", "tmpfs", "devtmpfs", "devpts", "cgroup", "cgroup2", "debugfs", "ramfs"),
        *("securityfs", "tracefs", "hugetlbfs", "mqueue", "configfs", "usbfs", "binfmt_misc"),
        *("efivarfs", "overlay", "aufs", "autofs"),
    }
)
NETWORK = frozenset({"nfs", "nfs4", "cifs", "smbfs", "smb3", "ceph", "glusterfs", "9p", "virtiofs"})


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of fstab: what is mounted, where ("" is the root, "swap" may be "none"), and how."""

    spec: str
    mount_point: str  # as it stands there
    fs_type: str
    options: tuple[str, ...]

    @property
    def is_swap(self) -> bool:
        """Whether it is a swap area."""
        return self.fs_type == "swap"

    @property
    def is_bind(self) -> bool:
        """Whether it shows a directory of another file system once more."""
        return not {"bind", "rbind"}.isdisjoint(self.options)

    @property
    def is_left_out(self) -> bool:
        """Whether the guest does not mount it by itself."""
        return "noauto" in self.options and "x-systemd.automount" not in self.options

    def option(self, name: str) -> str | None:
        """Give the value of an option NAME=VALUE; the last one counts."""
        values = [each.partition("=")[2] for each in self.options if each.startswith(f"{name}=")]
        return values[-1] if values else None


def parse_fstab(content: bytes) -> tuple[Entry, ...]:
    """Read an fstab; lines that are none are left out, and so are those after MAX_ENTRIES."""
    text = content.decode("utf-8", "surrogateescape")
    entries = []
    for line in text.split("\n"):
        words = line.split()
        if len(words) < 3 or words[0].startswith("#"):
            continue
        spec, mount_point, fs_type = (_unescape(word) for word in words[:3])
        options = tuple(_unescape(words[3]).split(",")) if len(words) > 3 else ()
        entries.append(Entry(spec, mount_point, fs_type, options))
    return tuple(entries[:MAX_ENTRIES])


def place_of(mount_point: str) -> str | None:
    """Give a mount point without slashes at its ends; None for one that is no absolute path."""
    parts = [part for part in mount_point.split("/") if part not in ("", ".")]
    if not mount_point.startswith("/") or ".." in parts:
        return None
    return "/".join(parts)


def _unescape(word: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), word)
