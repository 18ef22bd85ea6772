"""Patterns over the bytes of a text's line, in time that grows with pattern times line and no more.

Whether a line matches is told by a finite automaton that is built as it is needed, and where it
matches by a simulation of all threads at once: no pattern can blow up.

Source: Russ Cox, "Regular Expression Matching: the Virtual Machine Approach" (2009).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from bootgraft_agent.errors import RefusedError
from bootgraft_agent.recipe_file.pattern_syntax import (
    WORD,
    Assert,
    Bytes,
    Either,
    Group,
    Node,
    PatternError,
    Repeat,
    Sequence,
    parse_pattern,
)

__all__ = ["Match", "Pattern", "PatternError", "Work", "escape"]

MAX_PATTERN = 1000  # characters
MAX_PROGRAM = 1000  # instructions, repetitions written out
MAX_STATES = 500  # of one pattern's automaton, before it is built anew
MAX_WORK = 100_000_000  # units of about a tenth of a microsecond: 10 s in all

_END = -1  # stands for the byte behind the last one, and before the first


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

    def compile(self, node: Node) -> list[_Instruction]:
        self._emit(Group(node, 0))
        self._add("match")
        return self.program

    def _add(self, operation: _Operation, **values: object) -> _Instruction:
        if len(self.program) >= MAX_PROGRAM:
            raise PatternError("with its repetitions written out it is too long")
        instruction = _Instruction(operation, **values)  # type: ignore[arg-type]
        self.program.append(instruction)
        return instruction

    def _emit(self, node: Node) -> None:
        match node:
            case Bytes():
                self._add("bytes", allowed=node.allowed)
            case Assert():
                self._add("assert", kind=node.kind)
            case Sequence():
                for part in node.parts:
                    self._emit(part)
            case Group():
                self._add("save", number=2 * node.number)
                self._emit(node.node)
                self._add("save", number=2 * node.number + 1)
            case Either():
                self._emit_either(node)
            case Repeat():
                self._emit_repeat(node)

    def _emit_either(self, node: Either) -> None:
        jumps = []
        for choice in node.choices[:-1]:
            split = self._add("split", first=len(self.program) + 1)
            self._emit(choice)
            jumps.append(self._add("jump"))
            split.second = len(self.program)
        self._emit(node.choices[-1])
        for jump in jumps:
            jump.first = len(self.program)

    def _emit_repeat(self, node: Repeat) -> None:
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

    def _aim(self, split: _Instruction, inside: int, node: Repeat) -> None:
        outside = len(self.program)
        split.first, split.second = (inside, outside) if node.greedy else (outside, inside)


class Pattern:
    """A compiled pattern. Raises PatternError for text that is none."""

    def __init__(self, text: str) -> None:
        if len(text) > MAX_PATTERN:
            raise PatternError(f"it has {len(text)} characters; at most {MAX_PATTERN} are allowed")
        node, self.groups = parse_pattern(text)
        self._program = _Compiler().compile(node)
        self.text = text
        self.cost = 50 * len(self._program)  # of this, in units of work
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
            return (before in WORD) != (after in WORD)
        case _:
            return (before in WORD) == (after in WORD)


def _match(slots: _Slots) -> Match:
    pairs = zip(slots[::2], slots[1::2], strict=True)
    return Match(
        tuple(None if start is None or end is None else (start, end) for start, end in pairs)
    )


def escape(text: str) -> str:
    """Give the pattern that matches a text itself."""
    return "".join(f"\\{each}" if each.isascii() and not each.isalnum() else each for each in text)
