"""What stands at a path of the guest: nothing, a file, a link or a directory. Pure.

States are what a manifest records, what an apply checks before each write and reads back after it,
and what a rollback brings back.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from bootgraft_agent.wire import JSON

SELINUX = "security.selinux"
MAX_XATTRS = 64  # of one file
MAX_XATTR = 64 * 1024  # bytes of one value, as Linux has it
_SHA256 = re.compile(r"[0-9a-f]{64}")
_HEX = re.compile(r"(?:[0-9a-f]{2})*")
_TIMES = (1 << 63) * 10**9  # nanoseconds on either side of 1970, of seconds in 64 bits


@dataclass(frozen=True, slots=True)
class Attributes:
    """Owner, permissions and extended attributes."""

    mode: int  # permission bits, set-user-ID and the like included
    uid: int
    gid: int
    xattrs: tuple[tuple[str, str], ...] = ()  # name and value in hexadecimal, sorted by name

    def describe(self) -> str:
        """Say them in words: "mode 0644, owner 0:0"."""
        return f"mode {self.mode:04o}, owner {self.uid}:{self.gid}"

    def to_json(self) -> JSON:
        """Give them as data."""
        xattrs: dict[str, JSON] = dict(self.xattrs)
        return {"mode": self.mode, "uid": self.uid, "gid": self.gid, "xattrs": xattrs}


@dataclass(frozen=True, slots=True)
class FileState:
    """A regular file; without attributes any are meant. The time is for its return alone."""

    sha256: str
    size: int
    attributes: Attributes | None
    mtime_ns: int | None = None


@dataclass(frozen=True, slots=True)
class LinkState:
    """A symbolic link, with the text that it holds; its mode means nothing."""

    text: str
    attributes: Attributes
    mtime_ns: int | None = None


@dataclass(frozen=True, slots=True)
class DirectoryState:
    """A directory, whatever is in it."""

    attributes: Attributes


State = FileState | LinkState | DirectoryState | None


def matches(found: State, wanted: State) -> bool:
    """Whether what was found is what was wanted: all but times, and what is not said.

    A label that a system gives every file by itself is no difference where none was wanted.
    """
    if isinstance(found, FileState) and isinstance(wanted, FileState):
        same = (found.sha256, found.size) == (wanted.sha256, wanted.size)
        return same and _same_attributes(found.attributes, wanted.attributes)
    if isinstance(found, LinkState) and isinstance(wanted, LinkState):
        return found.text == wanted.text and _same_owner(found.attributes, wanted.attributes)
    if isinstance(found, DirectoryState) and isinstance(wanted, DirectoryState):
        return _same_attributes(found.attributes, wanted.attributes)
    return found is None and wanted is None


def same_content(found: State, other: State) -> bool:
    """Whether two states differ by nothing but attributes and times."""
    if isinstance(found, FileState) and isinstance(other, FileState):
        return (found.sha256, found.size) == (other.sha256, other.size)
    if isinstance(found, LinkState) and isinstance(other, LinkState):
        return found.text == other.text
    return type(found) is type(other)


def is_alike(found: Attributes, given: Attributes) -> bool:
    """Whether attributes are those given, but for the label, which a guest renews by itself."""
    return _without_label(found) == _without_label(given)


def _without_label(attributes: Attributes) -> Attributes:
    kept = tuple(each for each in attributes.xattrs if each[0] != SELINUX)
    return replace(attributes, xattrs=kept)


def _same_attributes(found: Attributes | None, wanted: Attributes | None) -> bool:
    if found is None or wanted is None:
        return True
    return found.mode == wanted.mode and _same_owner(found, wanted)


def _same_owner(found: Attributes, wanted: Attributes) -> bool:
    xattrs = dict(found.xattrs)
    if SELINUX not in dict(wanted.xattrs):
        xattrs.pop(SELINUX, None)
    owners = (found.uid, found.gid) == (wanted.uid, wanted.gid)
    return owners and tuple(sorted(xattrs.items())) == wanted.xattrs


def digest_of(state: State) -> str | None:
    """Give a state as a result records it: a file's SHA-256, a link's text, "directory"."""
    if isinstance(state, FileState):
        return state.sha256
    if isinstance(state, LinkState):
        return f"link to {state.text}"
    return "directory" if state is not None else None


# As data


def state_json(state: State) -> JSON:
    """Give a state as data."""
    if isinstance(state, FileState):
        attributes = state.attributes.to_json() if state.attributes else None
        return {
            "kind": "file",
            "sha256": state.sha256,
            "size": state.size,
            "attributes": attributes,
            "mtime_ns": state.mtime_ns,
        }
    if isinstance(state, LinkState):
        return {
            "kind": "link",
            "text": state.text,
            "attributes": state.attributes.to_json(),
            "mtime_ns": state.mtime_ns,
        }
    if isinstance(state, DirectoryState):
        return {"kind": "directory", "attributes": state.attributes.to_json()}
    return None


def parse_state(value: JSON) -> State:
    """Read a state from data. Raises KeyError, TypeError or ValueError for anything else."""
    if value is None:
        return None
    values = dict(_mapping(value))
    kind = values.pop("kind")
    attributes = values.pop("attributes")
    state: State
    if kind == "file":
        state = FileState(
            sha256=_sha256(values.pop("sha256")),
            size=_number(values.pop("size"), 1 << 62),
            attributes=None if attributes is None else parse_attributes(attributes),
            mtime_ns=_time(values.pop("mtime_ns")),
        )
    elif kind == "link":
        state = LinkState(
            text=_link_text(values.pop("text")),
            attributes=parse_attributes(attributes),
            mtime_ns=_time(values.pop("mtime_ns")),
        )
    elif kind == "directory":
        state = DirectoryState(parse_attributes(attributes))
    else:
        raise ValueError(f"a state is of the kind {kind!r}")
    if values:
        raise ValueError(f"a state has also the keys {sorted(values)}")
    return state


def parse_attributes(value: JSON) -> Attributes:
    """Read attributes from data. Raises KeyError, TypeError or ValueError for anything else."""
    values = dict(_mapping(value))
    if set(values) != {"mode", "uid", "gid", "xattrs"}:
        raise ValueError(f"attributes have the keys {sorted(values)}")
    xattrs = _mapping(values["xattrs"])
    if len(xattrs) > MAX_XATTRS:
        raise ValueError(f"there are {len(xattrs)} extended attributes")
    return Attributes(
        mode=_number(values["mode"], 0o10000),
        uid=_number(values["uid"], 1 << 32),
        gid=_number(values["gid"], 1 << 32),
        xattrs=tuple(sorted((_name(name), _hex(each)) for name, each in xattrs.items())),
    )


def _mapping(value: JSON) -> Mapping[str, JSON]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{value!r} is no object")
    return value


def _number(value: JSON, limit: int, *, at_least: int = 0) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no number")
    if not at_least <= value < limit:
        raise ValueError(f"{value} is not from {at_least} to below {limit}")
    return value


def _time(value: JSON) -> int | None:
    """Check a time, which before 1970 is negative."""
    return None if value is None else _number(value, _TIMES, at_least=-_TIMES)


def _text(value: JSON) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no str")
    return value


def _sha256(value: JSON) -> str:
    text = _text(value)
    if not _SHA256.fullmatch(text):
        raise ValueError(f"{text!r} is no SHA-256")
    return text


def _link_text(value: JSON) -> str:
    text = _text(value)
    if not text or "\0" in text or len(os.fsencode(text)) > os.pathconf("/", "PC_PATH_MAX"):
        raise ValueError(f"{text[:80]!r} is no link's text")
    return text


def _name(name: str) -> str:
    if not 0 < len(os.fsencode(name)) < 256 or "\0" in name:
        raise ValueError(f"{name[:80]!r} names no extended attribute")
    return name


def _hex(value: JSON) -> str:
    text = _text(value)
    if len(text) > 2 * MAX_XATTR or not _HEX.fullmatch(text):
        raise ValueError("an extended attribute's value is not in hexadecimal")
    return text
