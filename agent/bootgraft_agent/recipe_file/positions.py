"""On which lines of a TOML text its keys stand, which Python's tomllib does not tell.

The scan knows strings, comments and brackets, and no more of TOML; what else may be wrong with the
text is tomllib's to say. It also sets bounds, since tomllib's time is not linear in the nesting of
keys: so it comes first.

Source: TOML 1.0.0.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

MAX_DEPTH = 8  # brackets in brackets
MAX_PARTS = 8  # of a dotted key
_KEY_TOKENS = 4 * MAX_PARTS

_TOKEN = re.compile(
    r"""
    (?P<blank>[ \t\r]++)
  | (?P<comment>\#[^\n]*+)
  | (?P<newline>\n)
  | (?P<text>\"\"\"(?:[^"\\]++|\\.|"{1,2}+(?!"))*+"{3,5}+ | '''(?:[^']++|'{1,2}+(?!'))*+'{3,5}+
      | "(?:[^"\\\n]++|\\[^\n])*+" | '[^'\n]*+')
  | (?P<word>[A-Za-z0-9_+:-]++)
  | (?P<sign>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(?:[btnfre\"\\]|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8})")

Path = tuple[str | int, ...]


class BoundError(Exception):
    """A text beyond the bounds, and the line where it is."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(problem)
        self.line = line


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    line: int


@dataclass(slots=True)
class Positions:
    """The line of each table and key: ("action", 3, "path") is a key of the fourth action."""

    lines: dict[Path, int] = field(default_factory=dict)

    def line(self, path: Path) -> int:
        """Give the line of a key, or of the nearest thing around it."""
        while path:
            if path in self.lines:
                return self.lines[path]
            path = path[:-1]
        return 1


def find_positions(text: str) -> Positions:
    """Scan a TOML text; what is no TOML gives what could be found.

    Raises BoundError for keys and values nested too deeply.
    """
    scan = _Scan()
    for statement in _statements(text):
        scan.take(statement)
    return Positions(scan.lines)


def _statements(text: str) -> Iterator[list[_Token]]:
    """Give the tokens of each statement: a header, or a key with its value over all its lines."""
    statement: list[_Token] = []
    depth = parts = 0
    for token in _tokens(text):
        if token.kind == "newline":
            if depth == 0 or _is_header(statement):
                yield statement
                statement, depth = [], 0
            continue
        parts = parts + 1 if token.text == "." else 0 if token.kind == "sign" else parts
        if parts >= MAX_PARTS:
            raise BoundError(token.line, f"a key of more than {MAX_PARTS} parts")
        if token.kind == "sign":
            depth += (token.text in "[{") - (token.text in "]}")
        if depth > MAX_DEPTH:
            raise BoundError(token.line, f"brackets nested more than {MAX_DEPTH} deep")
        if len(statement) < _KEY_TOKENS:  # the value is tomllib's
            statement.append(token)
    yield statement


def _tokens(text: str) -> Iterator[_Token]:
    line = 1
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or ""
        if kind not in ("blank", "comment"):
            yield _Token(kind, match[0], line)
        line += match[0].count("\n")


def _is_header(statement: list[_Token]) -> bool:
    return bool(statement) and statement[0].text == "["


class _Scan:
    """Follows tables and keys."""

    def __init__(self) -> None:
        self.lines: dict[Path, int] = {}
        self._table: Path = ()
        self._counts: dict[Path, int] = {}

    def take(self, statement: list[_Token]) -> None:
        if not statement:
            return
        line = statement[0].line
        if not _is_header(statement):
            self._mark(self._table, _key(statement), line)
            return
        is_array = len(statement) > 1 and statement[1].text == "["
        names = _key(statement[1 + is_array :])
        *outer, last = names or [""]
        self._table = (*self._enter((), outer), last)
        if is_array:
            self._counts[self._table] = self._counts.get(self._table, -1) + 1
        self._mark((), outer, line)
        self._table = self._last(self._table)
        self.lines[self._table] = line

    def _mark(self, table: Path, names: list[str], line: int) -> None:
        for name in names:
            table = self._last((*table, name))
            self.lines.setdefault(table, line)

    def _enter(self, table: Path, names: list[str]) -> Path:
        for name in names:
            table = self._last((*table, name))
        return table

    def _last(self, path: Path) -> Path:
        """Give the last table of an array, or the path itself."""
        count = self._counts.get(path)
        return path if count is None else (*path, count)


def _key(tokens: list[_Token]) -> list[str]:
    """Give the parts of the key that tokens start with."""
    names = []
    for name, dot in zip(tokens[::2], [*tokens[1::2], None], strict=False):
        if name.kind not in ("word", "text"):
            break
        names.append(_plain(name.text))
        if dot is None or dot.text != ".":
            break
    return names


def _plain(text: str) -> str:
    """Give the name in a quoted part of a key."""
    if text.startswith('"'):
        return _ESCAPE.sub(_unescaped, text[1:-1])
    return text[1:-1] if text.startswith("'") else text


def _unescaped(match: re.Match[str]) -> str:
    code = match[0][1:]
    if code[0] in "uU":
        number = int(code[1:], 16)
        return chr(number) if number < 0x110000 else ""
    return {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", "e": "\x1b"}.get(code, code)
