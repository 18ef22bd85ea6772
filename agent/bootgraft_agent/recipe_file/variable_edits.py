"""Variables in a shell's file, in plain key=value lines, and in GRUB's environment block. Pure.

Of several assignments to one variable the last decides, and is the one that is changed.

Sources: POSIX.1-2017, Shell Command Language, 2.2; GRUB 2.12, grub-core/lib/envblk.c.
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

_ASSIGNMENT = re.compile(
    rb"(?P<start>[ \t]*(?:export[ \t]+)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<more>\+?)=)"
)
# One part of a word: quoted, escaped, or plain up to what the shell would act on.
_PART = re.compile(
    rb"""'(?P<single>[^']*+)'|"(?P<double>(?:[^"\\]++|\\.)*+)"|\\(?P<escaped>.)"""
    rb"""|(?P<plain>[^\s'"\\;&|<>()`]++)""",
    re.DOTALL,
)
_IN_DOUBLE = re.compile(rb'\\([$`"\\])')
_EXPANSION = re.compile(rb"(?<!\\)(?:\\\\)*[$`]")
_SAFE = re.compile(rb"[A-Za-z0-9_.,:/@%+=-]*")
_SPECIAL = re.compile(rb'([$`"\\])')

_BLANKS = b" \t"

_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)  # in GRUB's environment

GRUBENV_SIZE = 1024
_GRUBENV_HEADER = b"# GRUB Environment Block\n"


@dataclass(frozen=True, slots=True)
class _Assignment:
    """start and end span the value's word in the line; value: None for what only a shell knows."""

    place: int
    name: bytes
    start: int
    end: int
    value: bytes | None
    problem: str  # why it cannot be changed


def get_shell(data: bytes, name: bytes) -> bytes | None:
    """Give a variable's value, None where it is not set.

    Raises EditError for a value that only a shell can tell.
    """
    found = _last(split_lines(data), name)
    if found is None:
        return None
    _check(found)
    if found.value is None:
        raise EditError(f"line {found.place + 1}: {to_text(name)} has a value that is computed")
    return found.value


def set_shell(data: bytes, name: bytes, value: bytes) -> bytes:
    """Give a variable its value, quoted as it was, or as it must be; a new one goes to the end.

    Raises EditError for an assignment that is not alone on its line, or goes on in the next.
    """
    lines = split_lines(data)
    found = _last(lines, name)
    if found is None:
        new = insert_lines(data, lines, len(lines), [name + b"=" + _quoted(value, b"")])
        if get_shell(new, name) != value:
            raise EditError(f"the last line goes on in the next, so {to_text(name)} has no place")
        return new
    _check(found)
    if found.value == value:
        return data
    line = lines[found.place]
    old = line[found.start : found.end]
    lines[found.place] = line[: found.start] + _quoted(value, old) + line[found.end :]
    return b"".join(lines)


def unset_shell(data: bytes, name: bytes) -> bytes:
    """Take away every line that assigns to a variable. Raises EditError as set_shell does."""
    lines = split_lines(data)
    for found in reversed([each for each in _assignments(lines) if each.name == name]):
        _check(found)
        del lines[found.place]
    return b"".join(lines)


def _check(found: _Assignment) -> None:
    if found.problem:
        raise EditError(f"line {found.place + 1}: {to_text(found.name)} {found.problem}")


def _last(lines: Sequence[bytes], name: bytes) -> _Assignment | None:
    found = None
    for each in _assignments(lines):
        found = each if each.name == name else found
    return found


def _assignments(lines: Sequence[bytes]) -> Iterator[_Assignment]:
    """Give the lines that begin with an assignment, but for those that go on from the line before:
    by a backslash, or in the quotes of another assignment's value.
    """
    quote = b""
    joined = False
    for place, line in enumerate(lines):
        text = body(line)
        if quote:
            quote = b"" if quote in text else quote
        elif not joined and (match := _ASSIGNMENT.match(line)):
            value, end = _word(text, match.end())
            problem = _problem(text[end:]) if not match["more"] else "is appended to with +="
            yield _Assignment(place, match["name"], match.end(), end, value, problem)
            quote = text[end : end + 1] if text[end : end + 1] in (b"'", b'"') else b""
        joined = (len(text) - len(text.rstrip(b"\\"))) % 2 == 1
        joined = joined and not text.lstrip(b" \t").startswith(b"#")


def _word(text: bytes, start: int) -> tuple[bytes | None, int]:
    """Read a word of the shell: its value, None where something in it is computed; and its end."""
    parts = []
    computed = False
    place = start
    while (part := _PART.match(text, place)) is not None:
        place = part.end()
        if part["single"] is not None:
            parts.append(part["single"])
        elif part["double"] is not None:
            computed = computed or _EXPANSION.search(part["double"]) is not None
            parts.append(_IN_DOUBLE.sub(rb"\1", part["double"]))
        elif part["escaped"] is not None:
            parts.append(part["escaped"])
        else:
            computed = computed or b"$" in part["plain"]
            parts.append(part["plain"])
    return None if computed else b"".join(parts), place


def _problem(rest: bytes) -> str:
    """Say why an assignment with this behind it cannot be changed."""
    if not rest.strip() or (rest[:1] in b" \t" and rest.lstrip().startswith(b"#")):
        return ""
    if rest[:1] in (b"'", b'"', b"\\"):
        return "goes on in the next line"
    return "is not alone on its line"


def _quoted(value: bytes, old: bytes) -> bytes:
    """Quote a value for the shell, as the old one was where that is possible."""
    if old.startswith(b"'") and b"'" not in value:
        return b"'" + value + b"'"
    if not old.startswith((b'"', b"'")) and _SAFE.fullmatch(value):
        return value
    return b'"' + _SPECIAL.sub(rb"\\\1", value) + b'"'


# Plain key=value lines, in which nothing is quoted


def set_plain(data: bytes, name: bytes, value: bytes) -> bytes:
    """Give a key its value. Raises EditError for what would not be read back."""
    if name.strip(_BLANKS) != name or not name or b"=" in name or name.startswith((b"#", b";")):
        raise EditError(f"{to_text(name)!r} cannot be a key")
    if value.strip(_BLANKS) != value:
        raise EditError(f"the value of {to_text(name)} begins or ends with a blank")
    lines = split_lines(data)
    found = [place for place, key in _plain_keys(lines) if key == name]
    if not found:
        keys = [lines[place] for place, _ in _plain_keys(lines)]
        sign = b" = " if keys and b" = " in keys[-1] else b"="
        return insert_lines(data, lines, len(lines), [name + sign + value])
    line = lines[found[-1]]
    start = line.index(b"=") + 1
    old = body(line)[start:]
    if old.strip(_BLANKS) == value:
        return data
    blanks = old[: len(old) - len(old.lstrip(_BLANKS))] if old.strip(_BLANKS) else b""
    lines[found[-1]] = line[:start] + blanks + value + line_end(line)
    return b"".join(lines)


def unset_plain(data: bytes, name: bytes) -> bytes:
    """Take away every line of a key."""
    lines = split_lines(data)
    for place in reversed([place for place, key in _plain_keys(lines) if key == name]):
        del lines[place]
    return b"".join(lines)


def _plain_keys(lines: Sequence[bytes]) -> Iterator[tuple[int, bytes]]:
    for place, line in enumerate(lines):
        name, sign, _ = body(line).partition(b"=")
        if sign and not line.lstrip(_BLANKS).startswith((b"#", b";")):
            yield place, name.strip(_BLANKS)


# GRUB's environment block: 1,024 bytes, lines, and # to the end


def get_grubenv(data: bytes, name: bytes) -> bytes | None:
    """Give a variable's value. Raises EditError for what is no environment block."""
    value = None
    for line in _grubenv_lines(data):
        if line.startswith(name + b"="):
            value = _ESCAPED.sub(rb"\1", line[len(name) + 1 :].removesuffix(b"\n"))
    return value


def set_grubenv(data: bytes, name: bytes, value: bytes) -> bytes:
    """Give a variable its value; the block stays as long as it is. Raises EditError if it is full.

    Empty data becomes a new block.
    """
    new = name + b"=" + re.sub(rb"([\\\n])", rb"\\\1", value) + b"\n"
    lines = _grubenv_lines(data)
    places = [place for place, line in enumerate(lines) if line.startswith(name + b"=")]
    if places:
        lines[places[-1]] = new
    else:
        lines.append(new)
    return _grubenv(lines)


def unset_grubenv(data: bytes, name: bytes) -> bytes:
    """Take a variable away."""
    return _grubenv([line for line in _grubenv_lines(data) if not line.startswith(name + b"=")])


def _grubenv_lines(data: bytes) -> list[bytes]:
    if not data:
        return [_GRUBENV_HEADER]
    if len(data) != GRUBENV_SIZE or not data.startswith(_GRUBENV_HEADER):
        raise EditError(f"it is no environment block of GRUB's: {len(data)} bytes")
    content = data.rstrip(b"#")
    if not content.endswith(b"\n"):
        raise EditError("it is a damaged environment block of GRUB's")
    # A newline with a backslash before it is part of a value.
    return re.findall(rb"(?:[^\\\n]++|\\.)*+\n", content, re.DOTALL)


def _grubenv(lines: Sequence[bytes]) -> bytes:
    content = b"".join(lines)
    if len(content) > GRUBENV_SIZE:
        raise EditError("GRUB's environment block has no room for it")
    return content.ljust(GRUBENV_SIZE, b"#")
