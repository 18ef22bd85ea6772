"""The syntax of recipes' patterns: text to a tree. Pure.

It is a part of RE2's, and means here what it means there: literals, `.`, classes with ranges,
`\\d \\w \\s` and their opposites, `^ $ \\b \\B`, groups `( )` and `(?: )`, `|`, and
`* + ? {n} {n,} {n,m}`, each also lazy with a `?`; `(?i)` at the start for either case. There are no
references to groups and nothing that looks ahead or behind, and nothing is repeated that may be
empty, on which engines differ.

Source: RE2's syntax.
"""

from dataclasses import dataclass

MAX_REPEAT = 100  # of {n,m}
MAX_DEPTH = 30  # groups in groups
MAX_GROUPS = 9  # as `\9` is the last that a replacement can name

LINE_END = 0x0A
DIGITS = frozenset(b"0123456789")
WORD = DIGITS | frozenset(b"_abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_BLANKS = frozenset(b"\t\n\f\r ")
_ALL = frozenset(range(256)) - {LINE_END}
_CLASSES = {"d": DIGITS, "w": WORD, "s": _BLANKS}
_CONTROLS = {"t": 9, "f": 12, "r": 13, "n": 10}


class PatternError(ValueError):
    """A pattern that is not understood; the message says why, and where."""


@dataclass(frozen=True, slots=True)
class Bytes:
    """One byte of several."""

    allowed: frozenset[int]


@dataclass(frozen=True, slots=True)
class Assert:
    """A place: `^`, `$`, `b` for a word's edge, `B` for none."""

    kind: str


@dataclass(frozen=True, slots=True)
class Sequence:
    """One after the other."""

    parts: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Either:
    """The first that fits."""

    choices: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """Several times, most: None for any number."""

    node: "Node"
    least: int
    most: int | None
    greedy: bool


@dataclass(frozen=True, slots=True)
class Group:
    """What is told of a match by its number."""

    node: "Node"
    number: int


Node = Bytes | Assert | Sequence | Either | Repeat | Group


def parse_pattern(text: str) -> tuple[Node, int]:
    """Read a pattern: its tree, and how many groups it has. Raises PatternError."""
    parser = _Parser(text)
    return parser.parse(), parser.groups


class _Parser:
    """Reads a pattern into a tree."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.place = 0
        self.depth = 0
        self.groups = 0
        self.any_case = text.startswith("(?i)")
        if self.any_case:
            self.place = 4

    def parse(self) -> Node:
        node = self._either()
        if self.place < len(self.text):
            raise self._error("a ) without its (")
        return node

    def _error(self, problem: str) -> PatternError:
        return PatternError(f"{problem}, at character {self.place + 1}")

    def _peek(self) -> str:
        return self.text[self.place : self.place + 1]

    def _take(self, expected: str) -> bool:
        if self.text.startswith(expected, self.place):
            self.place += len(expected)
            return True
        return False

    def _either(self) -> Node:
        choices = [self._sequence()]
        while self._take("|"):
            choices.append(self._sequence())
        return choices[0] if len(choices) == 1 else Either(tuple(choices))

    def _sequence(self) -> Node:
        parts: list[Node] = []
        while self._peek() not in ("", "|", ")"):
            parts.append(self._repeated())
        return Sequence(tuple(parts))

    def _repeated(self) -> Node:
        node = self._single()
        counts = self._counts()
        if counts is None:
            return node
        if _may_be_empty(node):
            raise self._error("a repetition of what may match nothing at all")
        node = Repeat(node, *counts, greedy=not self._take("?"))
        if self._peek() in ("*", "+", "?") or self._counts() is not None:
            raise self._error("a repetition of a repetition; put the inner one in (?: )")
        return node

    def _counts(self) -> tuple[int, int | None] | None:
        for sign, counts in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._take(sign):
                return counts
        return self._braces()

    def _braces(self) -> tuple[int, int | None] | None:
        """Read {n}, {n,} or {n,m}; any other brace is a literal."""
        if self._peek() != "{":
            return None
        inside, closed, _ = self.text[self.place + 1 :].partition("}")
        first, comma, second = inside.partition(",")
        if not closed or not _is_number(first) or not (second == "" or _is_number(second)):
            return None
        if len(inside) > 9:
            raise self._error(f"more than {MAX_REPEAT} repetitions")
        least = int(first)
        most = int(second) if second else None if comma else least
        if max(least, most or 0) > MAX_REPEAT:
            raise self._error(f"more than {MAX_REPEAT} repetitions")
        if most is not None and most < least:
            raise self._error("a repetition whose bounds are in the wrong order")
        self.place += len(inside) + 2
        return least, most

    def _single(self) -> Node:
        character = self._peek()
        if character == "(":
            return self._group()
        if character == "[":
            return self._class()
        if character == "\\":
            return self._escape()
        if character in ("*", "+", "?"):
            raise self._error(f"a {character} with nothing before it to repeat")
        self.place += 1
        if character == ".":
            return Bytes(_ALL)
        if character in ("^", "$"):
            return Assert(character)
        if character == "\n":
            raise self._error("a line's end, which no line holds")
        return self._literal(character)

    def _literal(self, character: str) -> Node:
        encoded = character.encode("utf-8", "surrogateescape")
        if len(encoded) > 1:
            return Sequence(tuple(Bytes(frozenset({byte})) for byte in encoded))
        return Bytes(self._cased(frozenset(encoded)))

    def _cased(self, allowed: frozenset[int]) -> frozenset[int]:
        if not self.any_case:
            return allowed
        letters = bytes(byte for byte in allowed if byte < 0x80)
        return allowed | frozenset(letters.lower()) | frozenset(letters.upper())

    def _group(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self._error(f"more than {MAX_DEPTH} groups in each other")
        self.place += 1
        number = 0
        if not self._take("?:"):
            if self._peek() == "?":
                raise self._error("(? with something else than : is not supported")
            self.groups += 1
            number = self.groups
            if number > MAX_GROUPS:
                raise self._error(f"more than {MAX_GROUPS} groups; use (?: ) for some")
        node = self._either()
        if not self._take(")"):
            raise self._error("a ( without its )")
        self.depth -= 1
        return Group(node, number) if number else node

    def _escape(self) -> Node:
        self.place += 1
        character = self._peek()
        if character in ("b", "B"):
            self.place += 1
            return Assert(character)
        return Bytes(self._cased(self._escaped()))

    def _escaped(self) -> frozenset[int]:
        """Read what follows a backslash, also within a class."""
        character = self._peek()
        if character == "":
            raise self._error("a backslash with nothing after it")
        self.place += 1
        if character.lower() in _CLASSES:
            allowed = _CLASSES[character.lower()]
            return allowed if character.islower() else frozenset(range(256)) - allowed
        if character in _CONTROLS:
            return frozenset({_CONTROLS[character]})
        if character.isalnum() or not character.isascii():
            self.place -= 1
            raise self._error(f"\\{character} is not supported")
        return frozenset(character.encode())

    def _class(self) -> Node:
        self.place += 1
        negated = self._take("^")
        allowed: set[int] = set()
        first = True
        while first or self._peek() != "]":
            first = False
            allowed |= self._class_item()
        self.place += 1
        found = self._cased(frozenset(allowed))
        return Bytes(frozenset(range(256)) - found - {LINE_END} if negated else found)

    def _class_item(self) -> frozenset[int]:
        low = self._class_byte()
        following = self.text[self.place + 1 : self.place + 2]
        if len(low) > 1 or self._peek() != "-" or following in ("]", ""):
            return low
        self.place += 1
        high = self._class_byte()
        if len(high) > 1 or min(high) < min(low):
            raise self._error("a range whose bounds are in the wrong order or no characters")
        return frozenset(range(min(low), min(high) + 1))

    def _class_byte(self) -> frozenset[int]:
        character = self._peek()
        if character == "":
            raise self._error("a [ without its ]")
        if character == "[" and self.text[self.place + 1 : self.place + 2] == ":":
            raise self._error("[: :] is not supported; write the characters")
        self.place += 1
        if character == "\\":
            return self._escaped()
        if not character.isascii():
            self.place -= 1
            raise self._error("a class of other characters than ASCII; use ( | )")
        return frozenset(character.encode())


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _may_be_empty(node: Node) -> bool:
    """Tell whether a node can match without a byte; engines differ on repetitions of such."""
    match node:
        case Bytes():
            return False
        case Assert():
            return True
        case Sequence():
            return all(map(_may_be_empty, node.parts))
        case Either():
            return any(map(_may_be_empty, node.choices))
        case Repeat():
            return node.least == 0 or _may_be_empty(node.node)
        case Group():
            return _may_be_empty(node.node)
