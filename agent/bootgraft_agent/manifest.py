"""The manifest of one run: which files it changes, from what to what, and where the backups are.

It lies beside the backups on the boot volume, is written before the first change, and says by
states alone how far a run came: each path is as before, as after, or changed by somebody else.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from bootgraft_agent.errors import InvalidRequestError, RefusedError
from bootgraft_agent.plan import Where
from bootgraft_agent.states import State, parse_state, state_json
from bootgraft_agent.wire import JSON

_Value = TypeVar("_Value")

NAME = "manifest.json"
RESULT = "result.json"  # beside it, where no controller keeps the result
MAX_SIZE = 16 * 1024 * 1024
VERSION = 2
_RUN_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}")
_WHERE = re.compile(r"[^/\0]+(?:/[^/\0]+)*")
_KEYS = {"where", "path", "before", "after", "backup", "linked", "is_switch"}


@dataclass(frozen=True, slots=True)
class Change:
    """One path that a run changes, and what is there before and after."""

    where: Where
    path: str
    before: State
    after: State
    backup: str | None  # of a file: its name in the run's directory
    linked: bool  # the backup is a second name of the old file itself
    is_switch: bool  # a boot loader reads it at any instant: the menu

    def to_json(self) -> JSON:
        """Give it as data."""
        return {
            "where": self.where,
            "path": self.path,
            "before": state_json(self.before),
            "after": state_json(self.after),
            "backup": self.backup,
            "linked": self.linked,
            "is_switch": self.is_switch,
        }


@dataclass(frozen=True, slots=True)
class Manifest:
    """All changes of one run, in the order in which they are made."""

    run_id: str
    sequence: int  # counts the runs on this guest, from 1
    recipe: str
    continues: tuple[str, ...]  # earlier runs that were cut off and that this one finishes
    changes: tuple[Change, ...]

    def to_bytes(self) -> bytes:
        """Give the manifest's file."""
        values: JSON = {
            "version": VERSION,
            "run_id": self.run_id,
            "sequence": self.sequence,
            "recipe": self.recipe,
            "continues": list(self.continues),
            "changes": [each.to_json() for each in self.changes],
        }
        return (json.dumps(values, indent=1) + "\n").encode()


def check_run_id(run_id: str) -> str:
    """Refuse a run id that cannot name a directory. Raises InvalidRequestError."""
    if not _RUN_ID.fullmatch(run_id):
        raise InvalidRequestError(
            f"a run id has 1 to 64 letters, digits, dots, dashes and underscores, not {run_id!r}"
        )
    return run_id


def parse_manifest(data: bytes) -> Manifest:
    """Read a manifest's file; raises RefusedError for anything else."""
    try:
        values = json.loads(data)
        if values.pop("version") != VERSION:
            raise RefusedError("the manifest was written by another version of bootgraft")
        changes = tuple(_parse_change(change) for change in values.pop("changes"))
        manifest = Manifest(
            run_id=check_run_id(values.pop("run_id")),
            sequence=_typed(values.pop("sequence"), int),
            recipe=_typed(values.pop("recipe"), str),
            continues=tuple(check_run_id(each) for each in values.pop("continues")),
            changes=changes,
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RefusedError(f"the manifest is damaged: {error}") from error
    except InvalidRequestError as error:
        raise RefusedError(f"the manifest is damaged: {error}") from error
    return manifest


def _parse_change(values: Mapping[str, JSON]) -> Change:
    """Check one change; raises KeyError, TypeError or ValueError."""
    if set(values) != _KEYS:
        raise ValueError(f"a change has the keys {sorted(values)}")
    backup = _optional(values["backup"], str)
    if backup is not None:
        check_run_id(backup)
    return Change(
        where=_where(values["where"]),
        path=_path(values["path"]),
        before=parse_state(values["before"]),
        after=parse_state(values["after"]),
        backup=backup,
        linked=_typed(values["linked"], bool),
        is_switch=_typed(values["is_switch"], bool),
    )


def _where(value: JSON) -> Where:
    text = _typed(value, str)
    if not _WHERE.fullmatch(text):
        raise ValueError(f"a change is in {text!r}")
    return text


def _typed(value: object, kind: type[_Value]) -> _Value:
    if not isinstance(value, kind):
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value


def _optional(value: object, kind: type[_Value]) -> _Value | None:
    return None if value is None else _typed(value, kind)


def _path(value: object) -> str:
    text = _typed(value, str)
    if not text or "\0" in text:
        raise ValueError(f"{text!r} is no path")
    os.fsencode(text)  # raises ValueError for what no file name holds
    return text
