"""The manifest of one run: which files it changes, from what to what, and where the backups are.

It lies beside the backups on the boot volume, is written before the first change, and says by
hashes alone how far a run came: each file is as before, as after, or changed by somebody else.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TypeVar

from bootgraft_agent.errors import InvalidRequestError, RefusedError
from bootgraft_agent.plan import Where
from bootgraft_agent.wire import JSON

_Value = TypeVar("_Value")

NAME = "manifest.json"
RESULT = "result.json"  # beside it, where no controller keeps the result
MAX_SIZE = 1024 * 1024
VERSION = 1
_RUN_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Change:
    """One file that a run changes; SHA-256 before and after, None where there is no file."""

    where: Where
    path: str
    before: str | None
    after: str
    backup: str | None  # its name in the run's directory
    linked: bool  # the backup is a second name of the old file itself
    mtime_ns: int | None  # time of the old file's last change, where the backup is a copy
    is_menu: bool


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
        return (json.dumps({"version": VERSION} | asdict(self), indent=1) + "\n").encode()


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
    if set(values) != {field.name for field in fields(Change)}:
        raise ValueError(f"a change has the keys {sorted(values)}")
    backup = _optional(values["backup"], str)
    if backup is not None:
        check_run_id(backup)
    return Change(
        where=_where(values["where"]),
        path=_path(values["path"]),
        before=None if values["before"] is None else _hash(values["before"]),
        after=_hash(values["after"]),
        backup=backup,
        linked=_typed(values["linked"], bool),
        mtime_ns=_time(values["mtime_ns"]),
        is_menu=_typed(values["is_menu"], bool),
    )


def _where(value: object) -> Where:
    if value == "boot":
        return "boot"
    if value == "root":
        return "root"
    raise ValueError(f"a change is in {value!r}")


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


def _time(value: object) -> int | None:
    time = _optional(value, int)
    if time is not None and not 0 <= time < 1 << 62:
        raise ValueError(f"{time} is no time of a file")
    return time


def _hash(value: object) -> str:
    text = _typed(value, str)
    if not _SHA256.fullmatch(text):
        raise ValueError(f"{text!r} is no SHA-256")
    return text
