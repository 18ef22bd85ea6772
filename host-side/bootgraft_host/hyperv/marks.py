"""The mark of a run in a machine's notes: a line that says who holds the machine, for everybody.

It is there from before the first change until after the last, names the ISOs that the run inserts,
and is told from other runs' by 128 random bits. The rest of the notes is other people's.
"""

import re
import socket
from dataclasses import dataclass
from datetime import datetime

_NEWLINE = r"\r\n|\n|\r"
_TOKEN = "[0-9a-f]{32}"  # noqa: S105 - no password
_ISO = re.compile(r'"([^"]*)"')


def _line_pattern(token: str) -> str:
    return (
        r"\[bootgraft: a run by (?P<holder>\S*) holds this machine since (?P<since>[^\s,]*)"
        rf"(?:, with (?P<isos>\"[^\r\n]*\"))?, mark (?P<token>{token});[^\r\n]*?\]"
    )


@dataclass(frozen=True, slots=True)
class Mark:
    """Who holds a machine: a computer's name, a moment (UTC), paths of ISOs on the host.

    Without ISOs, the run only watches the machine boot from its own disk.
    """

    token: str  # 32 hexadecimal digits
    holder: str
    since: str
    isos: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """The line in the notes."""
        isos = ", with " + " and ".join(f'"{iso}"' for iso in self.isos) if self.isos else ""
        return (
            f"[bootgraft: a run by {self.holder} holds this machine since {self.since}{isos},"
            f' mark {self.token}; "bootgraft recover" there restores it]'
        )


def own_name() -> str:
    """Give this computer's name as marks have it."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", socket.gethostname()) or "unknown"


def format_moment(moment: datetime) -> str:
    """Give a moment in UTC as marks have it."""
    return moment.strftime("%Y-%m-%dT%H:%MZ")


def find_marks(notes: str) -> tuple[Mark, ...]:
    """Find all marks in a machine's notes."""
    return tuple(_parse(match) for match in re.finditer(_line_pattern(_TOKEN), notes))


def _parse(match: re.Match[str]) -> Mark:
    isos = tuple(_ISO.findall(match["isos"] or ""))
    return Mark(match["token"], match["holder"] or "unknown", match["since"] or "unknown", isos)


def find_own_mark(notes: str, token: str) -> Mark | None:
    """Find the mark with that token."""
    return next((mark for mark in find_marks(notes) if mark.token == token), None)


def find_foreign_mark(notes: str, token: str | None) -> Mark | None:
    """Find a mark with another token."""
    return next((mark for mark in find_marks(notes) if mark.token != token), None)


def with_mark(notes: str, mark: Mark) -> str:
    """Give the notes with the mark as the last line, in the place of one with the same token."""
    rest = without_mark(notes, mark.token)
    return f"{rest}\r\n{mark.line}" if rest else mark.line


def without_mark(notes: str, token: str) -> str:
    """Give the notes without the mark, and without the line's end that came with it."""
    found = re.search(rf"(?:{_NEWLINE})?{_line_pattern(token)}", notes)
    if found is None:
        return notes
    before, after = notes[: found.start()], notes[found.end() :]
    return before + after if before else re.sub(rf"\A(?:{_NEWLINE})", "", after)
