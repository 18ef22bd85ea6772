"""Edits of a text by whole lines: ensure, remove, replace, between anchors. Pure."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bootgraft_agent.recipe_file.model import Count
from bootgraft_agent.recipe_file.patterns import Match, Pattern, Work
from bootgraft_agent.recipe_file.templates import Template
from bootgraft_agent.recipe_file.text_lines import (
    EditError,
    body,
    check_count,
    insert_lines,
    line_end,
    split_lines,
    to_bytes,
)

_REFERENCE = re.compile(r"\\([0-9\\])")


@dataclass(frozen=True, slots=True)
class Anchors:
    """What an edit keeps to: behind the first line that matches one, before the next of another."""

    after: Pattern | None = None
    before: Pattern | None = None


def ensure_lines(data: bytes, wanted: Sequence[bytes], anchors: Anchors, work: Work) -> bytes:
    """See to it that lines stand between the anchors; missing ones go beside the anchor.

    That is behind `after`, else before `before`, else to the end. A second time changes nothing.
    Raises EditError where an anchor is missing, or is one of the lines itself.
    """
    changed = _ensure(data, wanted, anchors, work)
    if changed != data and _ensure(changed, wanted, anchors, work) != changed:
        raise EditError("an anchor matches the new lines themselves, which would be added anew")
    return changed


def _ensure(data: bytes, wanted: Sequence[bytes], anchors: Anchors, work: Work) -> bytes:
    lines = split_lines(data)
    start, end = _region(lines, anchors, work)
    present = {body(line) for line in lines[start:end]}
    missing = [line for line in dict.fromkeys(wanted) if line not in present]
    if not missing:
        return data
    return insert_lines(data, lines, start if anchors.after else end, missing)


def remove_lines(
    data: bytes, pattern: Pattern, anchors: Anchors, count: Count, work: Work
) -> bytes:
    """Remove the lines that match between the anchors. Raises EditError for another count."""
    lines = split_lines(data)
    places = list(_matching(lines, pattern, anchors, work))
    check_count(len(places), count, f"lines match {pattern.text}")
    for place in reversed(places):
        del lines[place]
    return b"".join(lines)


def replace_in_lines(
    data: bytes,
    pattern: Pattern,
    replacement: Callable[[bytes, Match], bytes],
    anchors: Anchors,
    count: Count,
    work: Work,
) -> bytes:
    """Replace the leftmost match in each line that has one, between the anchors.

    Raises EditError for another count of such lines.
    """
    lines = split_lines(data)
    places = list(_matching(lines, pattern, anchors, work))
    check_count(len(places), count, f"lines match {pattern.text}")
    for place in places:
        line = body(lines[place])
        match = pattern.search(line, work)
        if match is not None:
            new = replacement(line, match)
            rest = line[match.end :] + line_end(lines[place])
            lines[place] = line[: match.start] + new + rest
    return b"".join(lines)


def expand(replacement: Template, values: Mapping[str, str]) -> Callable[[bytes, Match], bytes]:
    """Give what makes the new text of a match: `\\1` is a group, `\\0` all, `\\\\` a backslash.

    In the values of placeholders a backslash means nothing.
    """
    pieces: list[tuple[bool, str]] = []  # a reference, or a text
    for number, part in enumerate(replacement.parts):
        if number % 2:
            pieces.append((False, values[part]))
        else:
            pieces += [(bool(odd % 2), text) for odd, text in enumerate(_REFERENCE.split(part))]

    def new_text(line: bytes, match: Match) -> bytes:
        return b"".join(
            _referred(text, line, match) if is_reference else to_bytes(text)
            for is_reference, text in pieces
        )

    return new_text


def _referred(reference: str, line: bytes, match: Match) -> bytes:
    if reference == "\\":
        return b"\\"
    span = match.spans[int(reference)]
    return b"" if span is None else line[span[0] : span[1]]


def has_line(data: bytes, pattern: Pattern, work: Work) -> bool:
    """Say whether a line of a text matches."""
    return any(pattern.matches(body(line), work) for line in split_lines(data))


def _matching(
    lines: Sequence[bytes], pattern: Pattern, anchors: Anchors, work: Work
) -> Iterator[int]:
    start, end = _region(lines, anchors, work)
    for place in range(start, end):
        if pattern.matches(body(lines[place]), work):
            yield place


def _region(lines: Sequence[bytes], anchors: Anchors, work: Work) -> tuple[int, int]:
    start, end = 0, len(lines)
    if anchors.after is not None:
        start = _anchor(lines, anchors.after, 0, work) + 1
    if anchors.before is not None:
        end = _anchor(lines, anchors.before, start, work)
    return start, end


def _anchor(lines: Sequence[bytes], pattern: Pattern, start: int, work: Work) -> int:
    for place in range(start, len(lines)):
        if pattern.matches(body(lines[place]), work):
            return place
    behind = " behind the other anchor" if start else ""
    raise EditError(f"no line matches the anchor {pattern.text}{behind}")
