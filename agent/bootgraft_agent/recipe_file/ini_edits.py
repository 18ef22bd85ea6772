"""Files of sections and keys, as systemd, NetworkManager and many others have them. Pure.

A section may stand in several places. A key that stands twice in it is refused: programs differ
on what that means.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bootgraft_agent.recipe_file.text_lines import (
    EditError,
    body,
    insert_lines,
    line_end,
    split_lines,
    to_text,
)

_HEADER = re.compile(rb"[ \t]*\[(?P<name>[^\]]*)\]")
_COMMENTS = (b"#", b";")
_BLANKS = b" \t"


@dataclass(frozen=True, slots=True)
class _Key:
    place: int  # number of its line
    section: bytes
    name: bytes
    value: bytes
    sign: bytes  # the = with the blanks around it


def set_key(data: bytes, section: bytes, name: bytes, value: bytes) -> bytes:
    """Give a key its value; a missing one goes behind the section's last, a missing section last.

    Raises EditError for a key that stands twice, or goes on in the next line.
    """
    if (
        name.strip(_BLANKS) != name
        or not name
        or b"=" in name
        or name.startswith((b"[", *_COMMENTS))
    ):
        raise EditError(f"{to_text(name)!r} cannot be a key")
    if value.strip(_BLANKS) != value or value.endswith(b"\\"):
        raise EditError(f"the value of {to_text(name)} begins or ends with what is not kept")
    lines = split_lines(data)
    keys = list(_keys(lines))
    key = _find(lines, keys, section, name)
    if key is None:
        return _add(data, lines, keys, section, name, value)
    if key.value == value:
        return data
    line = lines[key.place]
    start = line.index(b"=") + 1
    blanks = len(line[start:]) - len(line[start:].lstrip(_BLANKS))
    rest = body(line)[start + blanks + len(key.value) :]
    gap = line[start : start + blanks] if key.value else key.sign.partition(b"=")[2]
    lines[key.place] = line[:start] + gap + value + (rest if value else b"") + line_end(line)
    return b"".join(lines)


def unset_key(data: bytes, section: bytes, name: bytes) -> bytes:
    """Take a key's lines out of a section. Raises EditError where one goes on in the next line."""
    lines = split_lines(data)
    places = [key.place for key in _keys(lines) if (key.section, key.name) == (section, name)]
    for place in reversed(places):
        _refuse_continued(lines, place, name)
        del lines[place]
    return b"".join(lines)


def get_key(data: bytes, section: bytes, name: bytes) -> bytes | None:
    """Give a key's value. Raises EditError as set_key does."""
    lines = split_lines(data)
    key = _find(lines, list(_keys(lines)), section, name)
    return None if key is None else key.value


def sections(data: bytes) -> list[bytes]:
    """List the sections, each once."""
    headers = (_HEADER.match(line) for line in split_lines(data))
    return list(dict.fromkeys(header["name"] for header in headers if header))


def _keys(lines: Sequence[bytes]) -> Iterator[_Key]:
    section = b""
    for place, line in enumerate(lines):
        header = _HEADER.match(line)
        if header:
            section = header["name"]
            continue
        text = body(line)
        name, sign, value = text.partition(b"=")
        if not sign or text.lstrip(_BLANKS).startswith(_COMMENTS):
            continue
        left = name[len(name.rstrip(_BLANKS)) :]
        right = value[: len(value) - len(value.lstrip(_BLANKS))]
        yield _Key(place, section, name.strip(_BLANKS), value.strip(_BLANKS), left + b"=" + right)


def _find(lines: Sequence[bytes], keys: Sequence[_Key], section: bytes, name: bytes) -> _Key | None:
    found = [key for key in keys if (key.section, key.name) == (section, name)]
    if len(found) > 1:
        listed = " and ".join(str(key.place + 1) for key in found[:9])
        raise EditError(f"[{to_text(section)}] has {to_text(name)} more than once: lines {listed}")
    if not found:
        return None
    _refuse_continued(lines, found[0].place, name)
    return found[0]


def _refuse_continued(lines: Sequence[bytes], place: int, name: bytes) -> None:
    """Refuse a value of several lines: by a backslash, or by indented lines that are no keys."""
    following = lines[place + 1] if place + 1 < len(lines) else b""
    indented = following.startswith((b" ", b"\t")) and following.strip()
    is_key = b"=" in following or following.lstrip(_BLANKS).startswith((b"[", *_COMMENTS))
    if body(lines[place]).endswith(b"\\") or (indented and not is_key):
        raise EditError(f"{to_text(name)} goes on in line {place + 2}, which is not supported")
    _refuse_joined(lines, place, name)


def _refuse_joined(lines: Sequence[bytes], place: int, name: bytes) -> None:
    """Refuse a place behind a line that goes on there, by a backslash."""
    before = lines[place - 1] if place else b""
    if body(before).endswith(b"\\") and not before.lstrip(_BLANKS).startswith(_COMMENTS):
        raise EditError(f"line {place} goes on in the next, so {to_text(name)} has no place there")


def _add(
    data: bytes, lines: list[bytes], keys: Sequence[_Key], section: bytes, name: bytes, value: bytes
) -> bytes:
    new = name + _sign(keys, section) + value
    place = _end_of_section(lines, section)
    if place is not None:
        _refuse_joined(lines, place, name)
        return insert_lines(data, lines, place, [new])
    gap = [b""] if lines and body(lines[-1]).strip() else []
    return insert_lines(data, lines, len(lines), [*gap, b"[" + section + b"]", new])


def _sign(keys: Sequence[_Key], section: bytes) -> bytes:
    """Give the = as the section's keys have it, else the file's."""
    nearest = [key for key in keys if key.section == section] or list(keys)
    blanks = nearest and nearest[-1].sign.strip(_BLANKS) != nearest[-1].sign
    return b" = " if blanks else b"="


def _end_of_section(lines: Sequence[bytes], section: bytes) -> int | None:
    """Give the line behind the last text of a section's first place; None where there is none."""
    place = 0 if not section else None
    inside = not section
    for number, line in enumerate(lines):
        header = _HEADER.match(line)
        if header:
            if inside:
                break
            inside = header["name"] == section
            place = number + 1 if inside else place
        elif inside and line.strip() and not line.lstrip(_BLANKS).startswith(_COMMENTS):
            place = number + 1
    return place
