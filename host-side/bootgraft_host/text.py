"""Text of others, made harmless before a person's terminal or a log shows it."""

import unicodedata

# Controls, invisible format characters (bidirectional overrides among them), surrogates,
# private use, and the two separators that some terminals take as line ends.
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def printable(text: str) -> str:
    """Give one line of text in which whatever is not plainly visible is written as an escape."""
    return "".join(_escape(char) for char in text)


def printable_lines(text: str) -> list[str]:
    """Give the lines of a text, each printable; tabs become spaces."""
    return [printable(line.expandtabs()) for line in text.removesuffix("\n").split("\n")]


def _escape(char: str) -> str:
    if unicodedata.category(char) not in _UNSAFE:
        return char
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")
