"""What the kernel's command line asks of the live system: `bootgraft.mode=…` and others. Pure.

Whatever is not understood is a problem that is told; nothing is guessed.
"""

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from bootgraft_agent.errors import InvalidRequestError
from bootgraft_agent.plan import Options

Mode = Literal["host", "unattended", "manual", "manual-serial", "rescue"]

MODES: tuple[Mode, ...] = get_args(Mode)
PREFIX = "bootgraft."
LONGEST = 7 * 24 * 3600  # seconds
FOREVER = "never"
TERMINAL = "vt220"  # what nearly every program for serial lines understands

_COMMAND_LINE = Path("/proc/cmdline")
_OPTIONS = tuple(field.name for field in dataclasses.fields(Options))
# White space parts words, but not within quotes, which may stand anywhere in a word.
_WORD = re.compile(r'(?:[^\s"]|"[^"]*"?)+')
_TERMINAL_NAME = re.compile(r"[a-z0-9][a-z0-9+-]{0,30}")


@dataclass(frozen=True, slots=True)
class Parameters:
    """What the live system is to do; times are seconds, None is for ever."""

    mode: Mode = "host"
    options: Options = dataclasses.field(default_factory=Options)
    console_after: float = 60  # host: without a controller, until the console is offered
    payload_wait: float = 120  # unattended: for a payload to be inserted
    power_off_after: float | None = 60  # unattended: the result is shown as long as that
    time_limit: float = 3600  # unattended: for everything, so that the machine is off then
    terminal: str = TERMINAL  # manual-serial: what is at the other end, as terminfo names it
    problems: tuple[str, ...] = ()


def read_parameters() -> Parameters:
    """Read this boot's parameters."""
    return parse_parameters(_COMMAND_LINE.read_text(encoding="utf-8", errors="backslashreplace"))


def is_activated(command_line: str) -> bool:
    """Tell whether a kernel command line lets the agent act at all: it names a mode."""
    return any(word.startswith(f"{PREFIX}mode=") for word in _WORD.findall(command_line))


def parse_parameters(command_line: str) -> Parameters:
    """Read a kernel's command line; of a parameter that stands there twice the last counts."""
    given: dict[str, object] = {}
    options: dict[str, str] = {}
    problems: list[str] = []
    for word in _WORD.findall(command_line):
        name, _, value = word.replace('"', "").partition("=")
        if not name.startswith(PREFIX) or name == f"{PREFIX}shell":  # the shell is init's
            continue
        key = name.removeprefix(PREFIX).replace("-", "_")
        try:
            if key in _OPTIONS:
                Options(**{key: value}).check()
                options[key] = value
            elif key in _READERS:
                given[key] = _READERS[key](value)
            else:
                problems.append(f"the boot parameter {name} is unknown; known: {_known()}")
        except (ValueError, InvalidRequestError) as error:
            problems.append(f"the boot parameter {name}={value} is wrong: {error}")
    parameters = Parameters(options=Options(**options), problems=tuple(problems))
    return dataclasses.replace(parameters, **given)  # type: ignore[arg-type]  # by their readers


def _known() -> str:
    names = sorted([*_READERS, *_OPTIONS, "shell"])
    return ", ".join(PREFIX + name.replace("_", "-") for name in names)


def _read_mode(text: str) -> Mode:
    for mode in MODES:
        if mode == text:
            return mode
    raise ValueError(f"it takes {', '.join(MODES)}")


def _read_seconds(text: str) -> float:
    if not re.fullmatch(r"\d{1,9}", text) or int(text) > LONGEST:
        raise ValueError(f"it takes whole seconds, at most {LONGEST}")
    return int(text)


def _read_seconds_or_never(text: str) -> float | None:
    if text == FOREVER:
        return None
    try:
        return _read_seconds(text)
    except ValueError as error:
        raise ValueError(f"{error}, or {FOREVER}") from error


def _read_terminal(text: str) -> str:
    if not _TERMINAL_NAME.fullmatch(text):
        raise ValueError("it takes a terminal's name, as in vt100 or xterm")
    return text


_READERS: dict[str, Callable[[str], object]] = {
    "mode": _read_mode,
    "console_after": _read_seconds,
    "payload_wait": _read_seconds,
    "power_off_after": _read_seconds_or_never,
    "time_limit": _read_seconds,
    "terminal": _read_terminal,
}
