"""Patterns over the bytes of a text's line, in time that grows with pattern times line and no more.

The syntax is a part of RE2's, and means here what it means there: literals, `.`, classes with
ranges, `\\d \\w \\s` and their opposites, `^ $ \\b \\B`, groups `( )` and `(?: )`, `|`, and
`* + ? {n} {n,} {n,m}`, each also lazy with a `?`; `(?i)` at the start for either case. There are no
references to groups and nothing that looks ahead or behind, so no pattern can blow up: whether a
line matches is told by a finite automaton that is built as it is needed, and where it matches by a
simulation of all threads at once.

Source: Russ Cox, "Regular Expression Matching: the Virtual Machine Approach" (2009); RE2's syntax.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from bootgraft_agent.errors import RefusedError

MAX_PATTERN = 1000  # characters
MAX_PROGRAM = 1000  # instructions, repetitions written out
MAX_REPEAT = 100  # of {n,m}
MAX_DEPTH = 30  # groups in groups
MAX_GROUPS = 9  # as `\9` is the last that a replacement can name
MAX_STATES = 500  # of one pattern's automaton, before it is built anew
MAX_WORK = 200_000_000  # units of about a tenth of a microsecond: 20 s in all

_ALL = frozenset(range(256)) - {0x0A}
_DIGITS = frozenset(b"0123456789")
_WORD = _DIGITS | frozenset(b"_abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_BLANKS = frozenset(b"\t\n\f\r ")
_CLASSES = {"d": _DIGITS, "w": _WORD, "s": _BLANKS}
_CONTROLS = {"t": 9, "f": 12, "r": 13, "n": 10}
_END = -1  # stands for the byte behind the last one, and before the first


class PatternError(ValueError):
    """A pattern that is not understood; the message says why, and where."""


class Work:
    """What the matching of one recipe's patterns may cost in all."""

    def __init__(self, limit: int = MAX_WORK) -> None:
        self.left = limit

    def spend(self, units: int) -> None:
        """Count units of work. Raises RefusedError beyond the limit."""
        self.left -= units
        if self.left < 0:
            raise RefusedError(
                "the recipe's edits and patterns cost too much work on this guest's texts; use"
                " fewer of them, or simpler ones"
            )


@dataclass(frozen=True, slots=True)
class Match:
    """Where a pattern matches: the whole first, then each group; None for one without a part."""

    spans: tuple[tuple[int, int] | None, ...]

    @property
    def start(self) -> int:
        """Where the match starts."""
        return self.spans[0][0] if self.spans[0] else 0

    @property
    def end(self) -> int:
        """Where the match ends."""
        return self.spans[0][1] if self.spans[0] else 0


@dataclass(frozen=True, slots=True)
class _Bytes:
    allowed: frozenset[int]


@dataclass(frozen=True, slots=True)
class _Assert:
    kind: str  # ^ $ b B


@dataclass(frozen=True, slots=True)
class _Sequence:
    parts: tuple["_Node", ...]


@dataclass(frozen=True, slots=True)
class _Either:
    choices: tuple["_Node", ...]


@dataclass(frozen=True, slots=True)
class _Repeat:
    node: "_Node"
    least: int
    most: int | None
    greedy: bool


@dataclass(frozen=True, slots=True)
class _Group:
    node: "_Node"
    number: int


_Node = _Bytes | _Assert | _Sequence | _Either | _Repeat | _Group


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

    def parse(self) -> _Node:
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

    def _either(self) -> _Node:
        choices = [self._sequence()]
        while self._take("|"):
            choices.append(self._sequence())
        return choices[0] if len(choices) == 1 else _Either(tuple(choices))

    def _sequence(self) -> _Node:
        parts: list[_Node] = []
        while self._peek() not in ("", "|", ")"):
            parts.append(self._repeated())
        return _Sequence(tuple(parts))

    def _repeated(self) -> _Node:
        node = self._single()
        counts = self._counts()
        if counts is None:
            return node
        if _may_be_empty(node):
            raise self._error("a repetition of what may match nothing at all")
        node = _Repeat(node, *counts, greedy=not self._take("?"))
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

    def _single(self) -> _Node:
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
            return _Bytes(_ALL)
        if character in ("^", "$"):
            return _Assert(character)
        if character == "\n":
            raise self._error("a line's end, which no line holds")
        return self._literal(character)

    def _literal(self, character: str) -> _Node:
        encoded = character.encode("utf-8", "surrogateescape")
        if len(encoded) > 1:
            return _Sequence(tuple(_Bytes(frozenset({byte})) for byte in encoded))
        return _Bytes(self._cased(frozenset(encoded)))

    def _cased(self, allowed: frozenset[int]) -> frozenset[int]:
        if not self.any_case:
            return allowed
        letters = bytes(byte for byte in allowed if byte < 0x80)
        return allowed | frozenset(letters.lower()) | frozenset(letters.upper())

    def _group(self) -> _Node:
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
        return _Group(node, number) if number else node

    def _escape(self) -> _Node:
        self.place += 1
        character = self._peek()
        if character in ("b", "B"):
            self.place += 1
            return _Assert(character)
        return _Bytes(self._cased(self._escaped()))

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

    def _class(self) -> _Node:
        self.place += 1
        negated = self._take("^")
        allowed: set[int] = set()
        first = True
        while first or self._peek() != "]":
            first = False
            allowed |= self._class_item()
        self.place += 1
        found = self._cased(frozenset(allowed))
        return _Bytes(frozenset(range(256)) - found - {0x0A} if negated else found)

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


def _may_be_empty(node: _Node) -> bool:
    """Tell whether a node can match without a byte; engines differ on repetitions of such."""
    match node:
        case _Bytes():
            return False
        case _Assert():
            return True
        case _Sequence():
            return all(map(_may_be_empty, node.parts))
        case _Either():
            return any(map(_may_be_empty, node.choices))
        case _Repeat():
            return node.least == 0 or _may_be_empty(node.node)
        case _Group():
            return _may_be_empty(node.node)


_Operation = Literal["bytes", "split", "jump", "save", "assert", "match"]


@dataclass(slots=True)
class _Instruction:
    operation: _Operation
    allowed: frozenset[int] = frozenset()
    kind: str = ""
    number: int = 0  # of the slot to save in
    first: int = 0  # where to go on, the better choice
    second: int = 0


class _Compiler:
    """Writes a tree as a program of the virtual machine."""

    def __init__(self) -> None:
        self.program: list[_Instruction] = []

    def compile(self, node: _Node) -> list[_Instruction]:
        self._emit(_Group(node, 0))
        self._add("match")
        return self.program

    def _add(self, operation: _Operation, **values: object) -> _Instruction:
        if len(self.program) >= MAX_PROGRAM:
            raise PatternError("with its repetitions written out it is too long")
        instruction = _Instruction(operation, **values)  # type: ignore[arg-type]
        self.program.append(instruction)
        return instruction

    def _emit(self, node: _Node) -> None:
        match node:
            case _Bytes():
                self._add("bytes", allowed=node.allowed)
            case _Assert():
                self._add("assert", kind=node.kind)
            case _Sequence():
                for part in node.parts:
                    self._emit(part)
            case _Group():
                self._add("save", number=2 * node.number)
                self._emit(node.node)
                self._add("save", number=2 * node.number + 1)
            case _Either():
                self._emit_either(node)
            case _Repeat():
                self._emit_repeat(node)

    def _emit_either(self, node: _Either) -> None:
        jumps = []
        for choice in node.choices[:-1]:
            split = self._add("split", first=len(self.program) + 1)
            self._emit(choice)
            jumps.append(self._add("jump"))
            split.second = len(self.program)
        self._emit(node.choices[-1])
        for jump in jumps:
            jump.first = len(self.program)

    def _emit_repeat(self, node: _Repeat) -> None:
        for _ in range(node.least):
            self._emit(node.node)
        if node.most is None:
            start = len(self.program)
            split = self._add("split")
            self._emit(node.node)
            self._add("jump", first=start)
            self._aim(split, start + 1, node)
        else:
            splits = []
            for _ in range(node.most - node.least):
                splits.append((self._add("split"), len(self.program)))
                self._emit(node.node)
            for split, inside in splits:
                self._aim(split, inside, node)

    def _aim(self, split: _Instruction, inside: int, node: _Repeat) -> None:
        outside = len(self.program)
        split.first, split.second = (inside, outside) if node.greedy else (outside, inside)


class Pattern:
    """A compiled pattern. Raises PatternError for text that is none."""

    def __init__(self, text: str) -> None:
        if len(text) > MAX_PATTERN:
            raise PatternError(f"it has {len(text)} characters; at most {MAX_PATTERN} are allowed")
        parser = _Parser(text)
        self._program = _Compiler().compile(parser.parse())
        self.text = text
        self.groups = parser.groups
        self._automaton: dict[tuple[frozenset[int], int], dict[int, _State]] = {}

    def matches(self, line: bytes, work: Work) -> bool:
        """Say whether the pattern is somewhere in a line, which is without its line's end."""
        work.spend(len(line) + 10)
        state: _State = (frozenset(), _END)
        for byte in (*line, _END):
            following = self._automaton.get(state, {}).get(byte)
            state = self._follow(state, byte, work) if following is None else following
            if state is _FOUND:
                return True
        return False

    def _follow(self, state: "_State", byte: int, work: Work) -> "_State":
        """Build one more edge of the automaton."""
        if len(self._automaton) > MAX_STATES:
            self._automaton.clear()
        reached: set[int] = set()
        found = False
        visited = 0
        seen: set[int] = set()
        for start in (*state[0], 0):
            for place in self._closure(start, state[1], byte, seen):
                visited += 1
                instruction = self._program[place]
                found = found or instruction.operation == "match"
                if byte in instruction.allowed:
                    reached.add(place + 1)
        work.spend(10 + 10 * len(seen))
        following = _FOUND if found else (frozenset(reached), byte)
        self._automaton.setdefault(state, {})[byte] = following
        return following

    def _closure(self, start: int, before: int, after: int, seen: set[int]) -> Iterator[int]:
        """Give the instructions that wait for a byte, or match, which are reached without one."""
        todo = [start]
        while todo:
            place = todo.pop()
            if place in seen:
                continue
            seen.add(place)
            instruction = self._program[place]
            if instruction.operation in ("bytes", "match"):
                yield place
            elif instruction.operation == "split":
                todo += [instruction.second, instruction.first]
            elif instruction.operation == "jump":
                todo.append(instruction.first)
            elif instruction.operation == "save" or _holds(instruction.kind, before, after):
                todo.append(place + 1)

    def search(self, line: bytes, work: Work) -> Match | None:
        """Find the leftmost match in a line; of several there, the one that Perl would take."""
        return self.search_from(line, 0, work) if self.matches(line, work) else None

    def search_from(self, line: bytes, start: int, work: Work) -> Match | None:
        """Find the leftmost match that starts at or behind a place of the line."""
        threads: list[_Thread] = []
        found: _Slots | None = None
        none: _Slots = (None,) * (2 * self.groups + 2)
        for index in range(start, len(line) + 1):
            before = line[index - 1] if index else _END
            after = line[index] if index < len(line) else _END
            if found is None:
                threads.append((0, none))
            elif not threads:
                break
            waiting, seen = self._advance(threads, index, before, after)
            work.spend(10 + 10 * seen)
            threads = []
            for place, slots in waiting:
                if self._program[place].operation == "match":
                    found = slots
                    break
                if after in self._program[place].allowed:
                    threads.append((place + 1, slots))
        return None if found is None else _match(found)

    def _advance(
        self, threads: "list[_Thread]", index: int, before: int, after: int
    ) -> "tuple[list[_Thread], int]":
        """Follow every thread, the best first, to where it waits for a byte or matches."""
        waiting: list[_Thread] = []
        seen: set[int] = set()
        todo = threads[::-1]
        while todo:
            place, slots = todo.pop()
            if place in seen:
                continue
            seen.add(place)
            instruction = self._program[place]
            match instruction.operation:
                case "bytes" | "match":
                    waiting.append((place, slots))
                case "split":
                    todo += [(instruction.second, slots), (instruction.first, slots)]
                case "jump":
                    todo.append((instruction.first, slots))
                case "save":
                    number = instruction.number
                    todo.append((place + 1, (*slots[:number], index, *slots[number + 1 :])))
                case "assert":
                    if _holds(instruction.kind, before, after):
                        todo.append((place + 1, slots))
        return waiting, len(seen)


_State = tuple[frozenset[int], int]  # instructions, and the byte before them
_FOUND: _State = (frozenset({-1}), _END)
_Slots = tuple[int | None, ...]
_Thread = tuple[int, _Slots]


def _holds(kind: str, before: int, after: int) -> bool:
    match kind:
        case "^":
            return before == _END
        case "$":
            return after == _END
        case "b":
            return (before in _WORD) != (after in _WORD)
        case _:
            return (before in _WORD) == (after in _WORD)


def _match(slots: _Slots) -> Match:
    pairs = zip(slots[::2], slots[1::2], strict=True)
    return Match(
        tuple(None if start is None or end is None else (start, end) for start, end in pairs)
    )


def escape(text: str) -> str:
    """Give the pattern that matches a text itself."""
    return "".join(f"\\{each}" if each.isascii() and not each.isalnum() else each for each in text)
