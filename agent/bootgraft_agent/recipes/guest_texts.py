"""Texts of the guest that name the old hypervisor's devices: kernel arguments, fstab, inittab,
securetty. Pure.
"""

import re
from collections.abc import Iterator

from bootgraft_agent.recipes.disk_names import DiskNames

_XEN_CONSOLE = re.compile(rb"(?<!\S)\"?console=\"?(?:xvc|hvc)\d[^\s\"]*\"?(?!\S)")
_XEN_TTY = re.compile(rb"(?<![\w-])(?:xvc|hvc)0(?![\w-])")
_SCREEN = re.compile(rb"(?<!\w)tty1(?!\w)")
_DEVICE_ARGUMENT = re.compile(rb"(?<!\S)\"?(?:root|resume)=(?P<device>\S+)")
_FSTAB_LINE = re.compile(
    rb"(?m)^(?P<indent>[ \t]*)(?P<device>[^#\s]\S*)(?:[ \t]+\S+[ \t]+(?P<type>\S+))?"
)
_OPTICAL = frozenset({b"iso9660", b"udf", b"udf,iso9660", b"iso9660,udf"})


def translate_arguments(arguments: bytes, names: DiskNames) -> bytes:
    """Give a kernel's arguments the disks' new names, and the screen for Xen's console."""
    return _XEN_CONSOLE.sub(b"console=tty0", names.translate(arguments))


def argument_devices(arguments: bytes) -> list[bytes]:
    """List the devices of a kernel's root= and resume=."""
    found = (match["device"] for match in _DEVICE_ARGUMENT.finditer(arguments))
    return [each.strip(b"\"'").removeprefix(b"swap:") for each in found]


def translate_fstab(content: bytes, names: DiskNames) -> bytes:
    """Give the disks of an fstab, its first fields, their new names."""
    parts = []
    done = 0
    for match in _disk_lines(content):
        parts += [content[done : match.start("device")], names.translate(match["device"])]
        done = match.end("device")
    return b"".join((*parts, content[done:]))


def fstab_devices(content: bytes) -> list[bytes]:
    """List the disks' nodes that an fstab names."""
    devices = (match["device"] for match in _disk_lines(content))
    return [each for each in devices if each.strip(b'"').startswith(b"/dev/")]


def _disk_lines(content: bytes) -> Iterator[re.Match[bytes]]:
    """Give the lines of an fstab but for DVDs, whose names are not among the disks'."""
    return (each for each in _FSTAB_LINE.finditer(content) if each["type"] not in _OPTICAL)


def translate_inittab(content: bytes) -> bytes:
    """Let the login of Xen's console appear on the screen; where tty1 has one, switch it off."""
    lines = content.splitlines(keepends=True)
    has_screen = any(_is_screen_login(line) for line in lines)
    edited = []
    for line in lines:
        if _is_in_force(line) and _XEN_TTY.search(line):
            edited.append(b"#" + line if has_screen else _XEN_TTY.sub(b"tty1", line))
            has_screen = has_screen or _is_screen_login(edited[-1])
        else:
            edited.append(line)
    return b"".join(edited)


def _is_in_force(line: bytes) -> bool:
    """Tell whether init acts on a line `id:runlevels:action:process`."""
    fields = line.strip().split(b":", 3)
    return len(fields) == 4 and not fields[0].startswith(b"#") and b"off" not in fields[1:3]


def _is_screen_login(line: bytes) -> bool:
    program = line.rpartition(b":")[2]
    return _is_in_force(line) and b"getty" in program and _SCREEN.search(line) is not None


def translate_securetty(content: bytes) -> bytes:
    """Let root log in on tty1 where only Xen's console was listed."""
    lines = content.splitlines(keepends=True)
    if any(line.strip() == b"tty1" for line in lines):
        return content
    for number, line in enumerate(lines):
        if _XEN_TTY.fullmatch(line.strip()):
            lines[number] = line.replace(line.strip(), b"tty1")
            break
    return b"".join(lines)
