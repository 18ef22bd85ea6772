"""Writing cpio archives in the "newc" form, the one that Linux unpacks as an initramfs.

Layout: Documentation/driver-api/early-userspace/buffer-format.rst of the Linux sources.
"""

import stat
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Member:
    """One file; `mode` holds the type bits, too, `device` is (major, minor) of a device node."""

    path: str
    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(path: str) -> Member:
    """Describe a directory."""
    return Member(path, stat.S_IFDIR | 0o755)


def regular(path: str, content: bytes, mode: int = 0o644) -> Member:
    """Describe a regular file."""
    return Member(path, stat.S_IFREG | mode, content)


def encode(members: Iterable[Member]) -> bytes:
    """Return the archive; equal members give equal bytes."""
    entries = [_encode_member(number, member) for number, member in enumerate(members, start=1)]
    return b"".join([*entries, _encode_member(0, Member("TRAILER!!!", 0))])


def _encode_member(inode: int, member: Member) -> bytes:
    name = member.path.encode() + b"\0"
    fields = (
        inode,
        member.mode,
        *(0, 0),  # owner and group: root
        1,  # links
        0,  # modification time
        len(member.content),
        *(0, 0),  # the device that holds the file
        *member.device,
        len(name),
        0,  # checksum: unused in this form
    )
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _pad(header + name) + _pad(member.content)


def _pad(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
