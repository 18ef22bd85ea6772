"""GRUB legacy's device.map: which device of the operating system is which BIOS drive.

Read by the GRUB shell, grub-install and update-grub, never at boot. A lossless model: GRUB refuses
a map whole for one bad line, and so does this.

Source: GRUB 0.97, lib/device.c (read_device_map).
"""

import re
from dataclasses import dataclass

# fgets into a buffer of 1024 bytes: a longer line is read as several.
_LINE = re.compile(rb"[^\n]{0,1022}\n|[^\n]{1,1023}")
# strtoul: blanks and a sign are taken, and no digits at all are 0.
_NUMBER = re.compile(rb"(?:\s*(?P<sign>[+-]?)(?P<digits>[0-9]+))?")
_DEVICE = re.compile(rb"\s*(?P<word>\S+)")
_DRIVE_LIMIT = 127


@dataclass(frozen=True, slots=True)
class DeviceMapLine:
    """A BIOS drive (hd0, fd0) and its device; start and end span the device's word."""

    drive: bytes
    device: bytes
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class DeviceMap:
    """A device map as GRUB reads it; with an error (why GRUB refuses it all) it has no lines."""

    data: bytes
    lines: tuple[DeviceMapLine, ...]
    error: str | None


class _RefusedLineError(Exception):
    """GRUB refuses the line, and the map with it."""


def parse_device_map(data: bytes) -> DeviceMap:
    """Read a device map; any bytes give one, if only one with an error."""
    lines: dict[bytes, DeviceMapLine] = {}
    for number, match in enumerate(_LINE.finditer(data), 1):
        try:
            line = _parse_line(match[0].partition(b"\0")[0], match.start())
            if line is not None and lines.setdefault(line.drive, line) is not line:
                raise _RefusedLineError("duplicated entry found")
        except _RefusedLineError as error:
            return DeviceMap(data, (), f"line {number}: {error}")
    return DeviceMap(data, tuple(lines.values()), None)


def set_device(data: bytes, drive: bytes, device: bytes) -> bytes:
    """Give a drive (hd0) its device; the other lines stay, a missing line is added at the end.

    Raises ValueError for a map that GRUB refuses and for a name that it would not read back.
    """
    device_map = parse_device_map(data)
    if device_map.error is not None:
        raise ValueError(f"GRUB refuses the device map: {device_map.error}")
    present = [line for line in device_map.lines if line.drive == drive]
    for line in present:
        changed = data[: line.start] + device + data[line.end :]
    if not present:
        separator = b"\n" if data and not data.endswith(b"\n") else b""
        changed = data + separator + b"(" + drive + b")\t" + device + b"\n"
    others = [(line.drive, line.device) for line in device_map.lines if line not in present]
    if _pairs(changed) != sorted([*others, (drive, device)]):
        raise ValueError(f"GRUB would not read {device!r} back as the device of {drive!r}")
    return changed


def _pairs(data: bytes) -> list[tuple[bytes, bytes]]:
    return sorted((line.drive, line.device) for line in parse_device_map(data).lines)


def _parse_line(text: bytes, offset: int) -> DeviceMapLine | None:
    """Read what GRUB reads of a line that starts at the offset; None where it has no drive."""
    content = text.lstrip(b" \t\n\v\f\r")
    if text.startswith(b"#") or not content:
        return None
    if not content.startswith(b"("):
        raise _RefusedLineError("no open parenthesis found")
    kind = content[1:3]
    if kind not in {b"fd", b"hd"}:
        raise _RefusedLineError("bad drive name")
    place = len(text) - len(content) + 3
    number, place = _parse_number(text, place)
    if number < 0:
        raise _RefusedLineError("bad device number")
    if number > _DRIVE_LIMIT:
        return None
    if text[place : place + 1] != b")":
        raise _RefusedLineError("no close parenthesis found")
    device = _DEVICE.match(text, place + 1)
    if device is None:
        raise _RefusedLineError("no filename found")
    start, end = device.span("word")
    return DeviceMapLine(b"%s%d" % (kind, number), device["word"], offset + start, offset + end)


def _parse_number(text: bytes, place: int) -> tuple[int, int]:
    """Return what strtoul makes of the text at place, as a 32-bit int, and where it stops."""
    match = _NUMBER.match(text, place)
    if match is None or match["digits"] is None:
        return 0, place
    value = int(match["digits"])
    if value > 0xFFFFFFFF:
        value = 0xFFFFFFFF
    elif match["sign"] == b"-":
        value = -value & 0xFFFFFFFF
    return value - (value >> 31 << 32), match.end()
