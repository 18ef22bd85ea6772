"""A text's lines as they are: an edit changes the bytes it is about and no others. Pure."""

from collections.abc import Sequence

from bootgraft_agent.recipe_file.model import Count


class EditError(Exception):
    """An edit that cannot be made; the message says why."""


def split_lines(data: bytes) -> list[bytes]:
    """Split after each newline and nowhere else; joined, the lines are the data."""
    lines = data.split(b"\n")
    whole = [line + b"\n" for line in lines[:-1]]
    return [*whole, lines[-1]] if lines[-1] else whole


def body(line: bytes) -> bytes:
    """Give a line without its end."""
    return line.removesuffix(b"\n").removesuffix(b"\r")


def line_end(line: bytes) -> bytes:
    """Give a line's end, which the last one may not have."""
    return line[len(body(line)) :]


def newline(data: bytes) -> bytes:
    """Give the line end that most lines of the data have."""
    return b"\r\n" if 2 * data.count(b"\r\n") > data.count(b"\n") else b"\n"


def insert_lines(data: bytes, lines: list[bytes], place: int, new: Sequence[bytes]) -> bytes:
    """Put new lines before the line of a number; the end of the line before it is seen to."""
    end = newline(data)
    before = b"".join(lines[:place])
    if before and not before.endswith(b"\n"):
        before += end
    return before + b"".join(line + end for line in new) + b"".join(lines[place:])


def check_count(found: int, count: Count, what: str, where: str = "") -> None:
    """Raise EditError unless an edit found its place as often as it must."""
    fits = {"any": True, "some": found > 0}.get(str(count), found == count)
    if not fits:
        wanted = "at least 1" if count == "some" else str(count)
        raise EditError(f"{found} {what}{where}, and {wanted} must")


def to_bytes(text: str) -> bytes:
    """Give a text as it is written."""
    return text.encode("utf-8", "surrogateescape")


def to_text(data: bytes) -> str:
    """Give bytes for a message."""
    return data.decode("utf-8", "backslashreplace")
