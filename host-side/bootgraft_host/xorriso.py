"""Runs xorriso, which reads and writes ISOs."""

import re
import subprocess
from pathlib import Path

from bootgraft_agent.errors import BootgraftError, RefusedError

_FOUND = re.compile(r"^'/(?P<name>[^'\n]+)'$", re.MULTILINE)


def run_xorriso(*arguments: str | Path) -> str:
    """Run xorriso and give what it prints; names of ISOs without Rock Ridge are in lower case.

    Raises RefusedError with its words where it fails, BootgraftError where it is not installed.
    """
    words = ["-abort_on", "FAILURE", "-ecma119_map", "lowercase", *map(str, arguments), "-end"]
    try:
        done = subprocess.run(
            ["xorriso", *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            text=True,
            errors="backslashreplace",
        )
    except FileNotFoundError as error:
        raise BootgraftError(
            "xorriso is needed to write an ISO, and is not there: install Debian's package xorriso"
        ) from error
    if done.returncode != 0:
        failures = [line for line in done.stderr.splitlines() if " : FAILURE : " in line]
        said = failures or done.stderr.splitlines() or ["it said nothing"]
        raise RefusedError(f"xorriso ended with status {done.returncode}: {said[-1]}")
    return done.stdout


def as_file(iso: Path) -> str:
    """Give an ISO's path as xorriso takes it for a file even in /dev, where it expects drives."""
    return f"stdio:{iso}"


def list_directories(iso: Path) -> tuple[str, ...]:
    """Give the names of the directories at an ISO's top. Raises RefusedError, BootgraftError."""
    found = run_xorriso("-indev", as_file(iso), "-find", "/", "-maxdepth", "1", "-type", "d", "--")
    return tuple(match["name"] for match in _FOUND.finditer(found))
