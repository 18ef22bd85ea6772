"""What the agent answers, checked: its text is hostile input, so every field's type is proven.

The shapes are those of the agent's `serve`. Facts are the agent's own affair and stay a plain
JSON object; only their depth and numbers are bounded, so that they can be stored and printed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from bootgraft_agent.errors import BootgraftError
from bootgraft_agent.wire import JSON

MAX_DEPTH = 24  # of nested objects and lists in a reply
EVENT_TEXT_LIMIT = 1000  # characters of a progress or log line that are kept

ErrorKind = Literal["refused", "invalid", "changes-left", "occupied", "internal"]
ERROR_KINDS: tuple[ErrorKind, ...] = (
    "refused",
    "invalid",
    "changes-left",
    "occupied",
    "internal",
)


class ReplyError(BootgraftError):
    """The agent answered something that is no answer; the message says what and where."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """What the agent found; `problem` says why no graft is possible, where none is."""

    facts: Mapping[str, JSON]
    problem: str | None
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One step of a plan, in words."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Diff:
    """A text file's unified diff; `path` is the guest's and never names a file of the host."""

    path: str
    diff: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What apply would do; `sha256` is what apply is asked to carry out."""

    sha256: str
    recipe: str  # names, in order; a recipe file's has ":" and the start of its identity
    steps: tuple[PlannedStep, ...]
    diffs: tuple[Diff, ...]
    warnings: tuple[str, ...]
    already_grafted: bool
    facts: Mapping[str, JSON]

    @property
    def recipe_names(self) -> tuple[str, ...]:
        """The names of its recipes, in order."""
        return tuple(word.partition(":")[0] for word in self.recipe.split())


@dataclass(frozen=True, slots=True)
class Change:
    """A file that was written; None: it did not exist before, or does not after."""

    path: str
    before_sha256: str | None
    after_sha256: str | None


@dataclass(frozen=True, slots=True)
class Texts:
    """A text file before and after."""

    path: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class Applied:
    """The complete record of an apply, after everything was read back."""

    run_id: str
    changed: bool
    changes: tuple[Change, ...]
    texts: tuple[Texts, ...]
    diffs: tuple[Diff, ...]
    warnings: tuple[str, ...]
    verified: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RolledBack:
    """The complete record of a rollback, after everything was read back."""

    run_id: str | None  # None: there was none to take back
    changed: bool
    changes: tuple[Change, ...]
    warnings: tuple[str, ...]
    verified: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AgentFailure:
    """The agent's error: a kind that the caller acts on, words, the end of the kernel's log."""

    kind: ErrorKind
    message: str
    log: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """The agent is at its step number `step`; `done` of `total` bytes are through."""

    step: int
    text: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Log:
    """A line of the agent's log."""

    level: Literal["info", "warning"]
    text: str


def parse_inspection(body: Mapping[str, JSON]) -> Inspection:
    """Read the result of inspect. Raises ReplyError, as all of these do."""
    fields = Fields(body, "inspect")
    return Inspection(
        facts=fields.free_object("facts"),
        problem=fields.optional_text("problem"),
        warnings=fields.texts("warnings"),
    )


def parse_plan(body: Mapping[str, JSON]) -> Plan:
    """Read the result of plan."""
    fields = Fields(body, "plan")
    return Plan(
        sha256=fields.text("plan_sha256"),
        recipe=fields.text("recipe"),
        steps=tuple(
            PlannedStep(kind=step.text("kind"), text=step.text("text"))
            for step in fields.objects("steps")
        ),
        diffs=_parse_diffs(fields),
        warnings=fields.texts("warnings"),
        already_grafted=fields.flag("already_grafted"),
        facts=fields.free_object("facts"),
    )


def parse_applied(body: Mapping[str, JSON]) -> Applied:
    """Read the result of apply."""
    fields = Fields(body, "apply")
    return Applied(
        run_id=fields.text("run_id"),
        changed=fields.flag("changed"),
        changes=_parse_changes(fields),
        texts=tuple(
            Texts(each.text("path"), each.optional_text("before"), each.optional_text("after"))
            for each in fields.objects("texts")
        ),
        diffs=_parse_diffs(fields),
        warnings=fields.texts("warnings"),
        verified=fields.texts("verified"),
    )


def parse_rolled_back(body: Mapping[str, JSON]) -> RolledBack:
    """Read the result of rollback."""
    fields = Fields(body, "rollback")
    return RolledBack(
        run_id=fields.optional_text("run_id"),
        changed=fields.flag("changed"),
        changes=_parse_changes(fields),
        warnings=fields.texts("warnings"),
        verified=fields.texts("verified"),
    )


def parse_failure(body: Mapping[str, JSON], request: str) -> AgentFailure:
    """Read the error that a request was answered with."""
    fields = Fields(body, f"{request}'s error")
    kind = fields.text("kind")
    for known in ERROR_KINDS:
        if kind == known:
            return AgentFailure(known, fields.text("message"), fields.optional_texts("log"))
    raise ReplyError(f"the agent's reply is unusable: {request}'s error is of the kind {kind!r}")


def parse_event(body: Mapping[str, JSON]) -> Progress | Log | None:
    """Read an event; None for one of a kind that this controller does not know."""
    fields = Fields(body, "an event")
    kind = fields.text("event")
    if kind == "progress":
        return Progress(
            step=fields.count("step"),
            text=fields.text("text")[:EVENT_TEXT_LIMIT],
            done=fields.count("bytes"),
            total=fields.count("total"),
        )
    if kind == "log":
        level = fields.text("level")
        text = fields.text("text")[:EVENT_TEXT_LIMIT]
        return Log("warning" if level == "warning" else "info", text)
    return None


def _parse_diffs(fields: "Fields") -> tuple[Diff, ...]:
    return tuple(Diff(each.text("path"), each.text("diff")) for each in fields.objects("diffs"))


def _parse_changes(fields: "Fields") -> tuple[Change, ...]:
    return tuple(
        Change(
            path=each.text("path"),
            before_sha256=each.optional_text("before_sha256"),
            after_sha256=each.optional_text("after_sha256"),
        )
        for each in fields.objects("changes")
    )


class Fields:
    """A JSON object of the agent's whose fields are read with their types checked.

    `where` names the object in the messages of ReplyError.
    """

    def __init__(self, body: Mapping[str, JSON], where: str) -> None:
        self._body = body
        self._where = where

    def text(self, name: str) -> str:
        """Give a text."""
        value = self._get(name)
        if not isinstance(value, str):
            raise self._wrong(name, value, "text")
        return value

    def optional_text(self, name: str) -> str | None:
        """Give a text or None; the field must be there."""
        return None if self._get(name) is None else self.text(name)

    def flag(self, name: str) -> bool:
        """Give true or false."""
        value = self._get(name)
        if not isinstance(value, bool):
            raise self._wrong(name, value, "true or false")
        return value

    def count(self, name: str) -> int:
        """Give a whole number that is not negative; true and false are none."""
        value = self._get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
            raise self._wrong(name, value, "a count")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """Give a list of texts."""
        values = self._list(name)
        return tuple(Fields({name: value}, self._where).text(name) for value in values)

    def optional_texts(self, name: str) -> tuple[str, ...]:
        """Give a list of texts, none where there is no such field."""
        return self.texts(name) if name in self._body else ()

    def objects(self, name: str) -> "tuple[Fields, ...]":
        """Give a list of objects."""
        found = []
        for index, value in enumerate(self._list(name)):
            if not isinstance(value, Mapping):
                raise self._wrong(f"{name}[{index}]", value, "an object")
            found.append(Fields(value, f"{self._where}: {name}[{index}]"))
        return tuple(found)

    def free_object(self, name: str) -> Mapping[str, JSON]:
        """Give an object of any shape that can be stored as JSON and is not too deep."""
        value = self._get(name)
        if not isinstance(value, Mapping):
            raise self._wrong(name, value, "an object")
        if not _is_storable(value, MAX_DEPTH):
            raise ReplyError(
                f"the agent's reply is unusable: {self._where}: {name} is nested deeper than"
                f" {MAX_DEPTH} levels or holds a number that is none"
            )
        return value

    def _get(self, name: str) -> JSON:
        if name not in self._body:
            raise ReplyError(f"the agent's reply is unusable: {self._where}: {name} is missing")
        return self._body[name]

    def _list(self, name: str) -> Sequence[JSON]:
        value = self._get(name)
        if not isinstance(value, list):
            raise self._wrong(name, value, "a list")
        return value

    def _wrong(self, name: str, value: JSON, expected: str) -> ReplyError:
        found = "nothing" if value is None else f"{type(value).__name__} {str(value)[:40]!r}"
        return ReplyError(
            f"the agent's reply is unusable: {self._where}: {name} should be {expected},"
            f" found {found}"
        )


def _is_storable(value: JSON, depth: int) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Mapping):
        return depth > 0 and all(_is_storable(each, depth - 1) for each in value.values())
    if isinstance(value, list):
        return depth > 0 and all(_is_storable(each, depth - 1) for each in value)
    return True
