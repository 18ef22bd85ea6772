"""/etc/fstab by fields: an edit leaves every other byte as it is. Pure.

Source: fstab(5) and getmntent(3): fields between blanks, with \\040 for a blank in one.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bootgraft_agent.recipe_file.text_lines import (
    EditError,
    body,
    insert_lines,
    line_end,
    split_lines,
    to_text,
)

FIELDS = ("device", "mount_point", "type", "options", "dump", "pass")
_DEFAULTS = {"options": b"defaults", "dump": b"0", "pass": b"0"}
_FIELD = re.compile(rb"[^ \t\r\n]++")
_ESCAPED = re.compile(rb"\\([0-7]{3})")
_SPECIAL = re.compile(rb"[ \t\n\r\\#]")
# Names that another hypervisor changes: those that the kernel gives disks as it finds them, and
# udev's by a disk's model, serial number or place, as SUSE's installer writes them. Those of
# device-mapper and md stay what they are.
CHANGING_NAME = re.compile(
    rb"/dev/(?:(?:[hsv]d[a-z]+|xvd[a-z]+|(?:nvme\d+n|mmcblk)\d+p?)\d*"
    rb"|disk/by-(?:path/|id/(?!dm-|lvm-|md-)).+)"
)
_OPTICAL = frozenset({b"iso9660", b"udf", b"udf,iso9660", b"iso9660,udf"})


@dataclass(frozen=True, slots=True)
class Entry:
    """A line that mounts something: its number, and its fields as they are meant."""

    place: int
    fields: tuple[bytes, ...]

    def field(self, name: str) -> bytes:
        """Give a field's value, "" where the line has none."""
        number = FIELDS.index(name)
        return self.fields[number] if number < len(self.fields) else b""

    @property
    def is_kernel_named(self) -> bool:
        """Whether the device is a disk by a name that another hypervisor changes."""
        is_disk = self.field("type") not in _OPTICAL
        return is_disk and CHANGING_NAME.fullmatch(self.field("device")) is not None

    @property
    def uuid_key(self) -> str:
        """By what the UUIDs are found: its mount point, or a swap area's device."""
        mount_point = self.field("mount_point")
        return to_text(mount_point if mount_point.startswith(b"/") else self.field("device"))


def entries(data: bytes) -> list[Entry]:
    """List the entries: lines of two fields at least that are no comments."""
    return list(_entries(split_lines(data)))


def _entries(lines: Sequence[bytes]) -> Iterator[Entry]:
    for place, line in enumerate(lines):
        if not line.lstrip(b" \t").startswith(b"#"):
            fields = tuple(map(_meant, _FIELD.findall(line)[: len(FIELDS)]))
            if len(fields) > 1:
                yield Entry(place, fields)


def root_device(data: bytes) -> bytes | None:
    """Give the device that is mounted at `/`, the last one that is named."""
    found = [each.field("device") for each in entries(data) if each.field("mount_point") == b"/"]
    return found[-1] if found else None


def set_fields(data: bytes, chosen: Sequence[Entry], values: Mapping[str, bytes]) -> bytes:
    """Give fields of entries their values; fields that a line does not have are added."""
    return _edit(data, chosen, lambda _entry: values)


def edit_options(
    data: bytes, chosen: Sequence[Entry], add: Sequence[bytes], remove: Sequence[bytes]
) -> bytes:
    """Take mount options away, by name or as they are, and add others in place of their like."""
    for option in (*add, *remove):
        if not option or b"," in option:
            raise EditError(f"{to_text(option)!r} is no single mount option")

    def edit(entry: Entry) -> Mapping[str, bytes]:
        present = [each for each in entry.field("options").split(b",") if each]
        kept = [each for each in present if not _is_among(each, remove)]
        for option in add:
            name, sign, _ = option.partition(b"=")
            kept = [each for each in kept if not sign or not _is_other(each, option, name)]
            if option not in kept:
                kept.append(option)
        return {} if kept == present else {"options": b",".join(kept) or b"defaults"}

    return _edit(data, chosen, edit)


def _is_among(option: bytes, remove: Sequence[bytes]) -> bool:
    return option in remove or option.partition(b"=")[0] in remove


def _is_other(option: bytes, wanted: bytes, name: bytes) -> bool:
    return option != wanted and option.partition(b"=")[0] == name


def delete_entries(data: bytes, chosen: Sequence[Entry]) -> bytes:
    """Take entries away."""
    gone = {entry.place for entry in chosen}
    lines = split_lines(data)
    return b"".join(line for place, line in enumerate(lines) if place not in gone)


def name_by_uuid(
    data: bytes, chosen: Sequence[Entry], uuids: Mapping[str, str]
) -> tuple[bytes, list[str]]:
    """Name the devices of entries by UUID; give also the devices whose UUID is not known."""
    unknown = []
    changes = {}
    only_swap = sum(entry.field("type") == b"swap" for entry in entries(data)) == 1
    for entry in chosen:
        if entry.is_kernel_named:
            is_swap = only_swap and entry.field("type") == b"swap"
            uuid = uuids.get(entry.uuid_key) or (uuids.get("swap") if is_swap else None)
            if uuid is None:
                unknown.append(to_text(entry.field("device")))
            else:
                changes[entry.place] = {"device": b"UUID=" + uuid.encode()}

    def edit(entry: Entry) -> Mapping[str, bytes]:
        return changes.get(entry.place, {})

    return _edit(data, chosen, edit), unknown


def ensure_entry(data: bytes, values: Mapping[str, bytes]) -> bytes:
    """Have one entry for a mount point (for a device, where it is mounted nowhere).

    Raises EditError where there are several already.
    """
    by = "mount_point" if values["mount_point"].startswith(b"/") else "device"
    present = [each for each in entries(data) if each.field(by) == values[by]]
    if len(present) > 1:
        listed = " and ".join(str(each.place + 1) for each in present[:9])
        raise EditError(f"several entries have the {by} {to_text(values[by])}: lines {listed}")
    if present:
        return set_fields(data, present, values)
    line = b"\t".join(_written(values.get(name, _DEFAULTS.get(name, b""))) for name in FIELDS)
    lines = split_lines(data)
    return insert_lines(data, lines, len(lines), [line])


def _edit(
    data: bytes, chosen: Sequence[Entry], edit: Callable[[Entry], Mapping[str, bytes]]
) -> bytes:
    lines = split_lines(data)
    for entry in chosen:
        values = edit(entry)
        if any(not value for value in values.values()):
            raise EditError("a field of an fstab cannot be empty")
        changed = {name: value for name, value in values.items() if entry.field(name) != value}
        if changed:
            lines[entry.place] = _with_fields(lines[entry.place], entry, changed)
    return b"".join(lines)


def _with_fields(line: bytes, entry: Entry, values: Mapping[str, bytes]) -> bytes:
    text = body(line)
    spans = [match.span() for match in _FIELD.finditer(text)][: len(FIELDS)]
    for number in range(len(spans) - 1, -1, -1):
        if FIELDS[number] in values:
            start, end = spans[number]
            text = text[:start] + _written(values[FIELDS[number]]) + text[end:]
    last = max(FIELDS.index(name) for name in values)
    if last >= len(spans):
        missing = FIELDS[len(spans) : last + 1]
        if "type" in missing and "type" not in values:
            raise EditError(f"line {entry.place + 1} of the fstab has no type")
        added = (_written(values.get(name, _DEFAULTS.get(name, b""))) for name in missing)
        text = b"\t".join((text.rstrip(b" \t"), *added))
    return text + line_end(line)


def _meant(field: bytes) -> bytes:
    return _ESCAPED.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), field)


def _written(value: bytes) -> bytes:
    return _SPECIAL.sub(lambda match: b"\\%03o" % match[0][0], value)
