"""Letters that are read from across a room, and the screen that shows a result with them. Pure."""

import textwrap

from bootgraft_agent.result import Result
from bootgraft_agent.secrets_mask import mask_text
from bootgraft_agent.text import printable

COLUMNS, ROWS = 80, 25
MARGIN = "  "

# Five dots wide, seven high; a dot is shown two columns wide, as a column is half a row.
_LETTERS = {
    "A": (" ### ", "#   #", "#   #", "#####", "#   #", "#   #", "#   #"),
    "C": (" ### ", "#   #", "#    ", "#    ", "#    ", "#   #", " ### "),
    "D": ("#### ", "#   #", "#   #", "#   #", "#   #", "#   #", "#### "),
    "E": ("#####", "#    ", "#    ", "#### ", "#    ", "#    ", "#####"),
    "F": ("#####", "#    ", "#    ", "#### ", "#    ", "#    ", "#    "),
    "I": (" ### ", "  #  ", "  #  ", "  #  ", "  #  ", "  #  ", " ### "),
    "L": ("#    ", "#    ", "#    ", "#    ", "#    ", "#    ", "#####"),
    "S": (" ####", "#    ", "#    ", " ### ", "    #", "    #", "#### "),
    "U": ("#   #", "#   #", "#   #", "#   #", "#   #", "#   #", " ### "),
}
_GREEN, _RED, _PLAIN = "\x1b[0;1;32m", "\x1b[0;1;31m", "\x1b[0m"
_BOLD = "\x1b[0;1m"
_HOME, _ERASE_LINE, _ERASE_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"


def big(word: str) -> list[str]:
    """Draw a word of at most seven letters, 76 columns wide."""
    return [" ".join(_wide(_LETTERS[letter][row]) for letter in word).rstrip() for row in range(7)]


def _wide(dots: str) -> str:
    return "".join("██" if dot == "#" else "  " for dot in dots)


def result_screen(result: Result, last_line: str) -> str:
    """Give the whole screen: the word, the reason, the next step, and what happens now."""
    colour = _GREEN if result.is_good else _RED
    letters = [MARGIN + row for row in big(result.headline)]
    lines = [colour, *letters, _PLAIN, f"{_BOLD}{MARGIN}bootgraft: {result.headline}{_PLAIN}", ""]
    room = ROWS - len(letters) - 8
    step = wrapped(f"What to do now: {result.next_step}")
    reason = wrapped(mask_text(result.reason))
    if len(reason) + len(step) > room:
        reason = [*reason[: room - len(step) - 1], f"{MARGIN}(the rest is on the serial port)"]
    lines += [*reason, "", *(f"{_BOLD}{line}{_PLAIN}" for line in step), "", MARGIN + last_line]
    # Drawn over what was there: it is shown once a second, and must not flicker.
    return _HOME + "".join(f"{line}{_ERASE_LINE}\r\n" for line in lines) + _ERASE_BELOW


def wrapped(text: str, columns: int = COLUMNS - 3) -> list[str]:
    """Wrap a text of several lines, with nothing in it that a terminal acts on."""
    width = columns - len(MARGIN)
    lines = printable(text).replace("\t", "    ").split("\n")
    return [MARGIN + part for line in lines for part in _wrap(line, width) or [""]]


def _wrap(line: str, width: int) -> list[str]:
    indent = line[: len(line) - len(line.lstrip())]
    if len(line) <= width:
        return [line]
    return textwrap.wrap(
        line, width, subsequent_indent=indent and indent + "  ", break_on_hyphens=False
    )
