"""The pages of the console on a terminal, by curses: plain ASCII, any size from 80 x 24 on.

+----------------------------------------+
| bootgraft  TITLE                       |  in reverse
|                                        |
|   the body, wrapped; PgUp and PgDn     |  to what does not fit
|   scroll it                            |
|                                        |
| > 1  the chosen answer                 |  in reverse
|   2  another answer                    |
| Up/Down: choose  Enter: do it  Esc: .. |
+----------------------------------------+
"""

import contextlib
import curses
import curses.ascii
import os
import pty
import select
import threading
import time
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from bootgraft_agent.banner import wrapped
from bootgraft_agent.console import INTERRUPTED
from bootgraft_agent.errors import BootgraftError
from bootgraft_agent.pages import Page
from bootgraft_agent.volumes import Progress

_T = TypeVar("_T")

TICK = 0.2  # seconds between two looks at what goes on beside the keys
POLL = 3.0  # seconds between two looks at what `until` waits for
_NO_KEY = -1
_ESC = 27
_ESC_DELAY = 300  # milliseconds in which the rest of a key's sequence comes
_ENTER = frozenset({curses.ascii.CR, curses.ascii.NL, curses.KEY_ENTER})
_BACKSPACE = frozenset({curses.ascii.BS, curses.ascii.DEL, curses.KEY_BACKSPACE})
_REDRAW = frozenset({curses.ascii.FF, curses.KEY_RESIZE})  # Ctrl-L
_UP, _DOWN = frozenset({curses.KEY_UP, ord("k")}), frozenset({curses.KEY_DOWN, ord("j"), 9})
_MAX_TEXT = 200


class Terminal:
    """An open terminal; made by `open_terminal`."""

    def __init__(self, window: curses.window, fd: int, name: str) -> None:
        self._window = window
        self._fd = fd
        self._name = name

    # Interface

    def ask(self, page: Page, until: Callable[[], bool] | None = None) -> str:
        """Show a page until it is answered, or until something has come; give the choice's key."""
        view = _View(self._window, page)
        with _watched(until) as has_come:
            view.draw()
            while not has_come():
                key = self._read_key()
                if key == _NO_KEY:
                    continue
                answer = view.press(key)
                if answer is not None:
                    return answer
                view.draw()
            return INTERRUPTED

    def read_text(self, title: str, question: str, text: str) -> str | None:
        """Have a line of text edited; None: it stays as it was."""
        while True:
            _draw_frame(self._window, title, "Enter: take it  Esc: back, leave it as it was")
            height, width = self._window.getmaxyx()
            _draw_body(self._window, wrapped(question, width - 1), 2, height - 5)
            shown = text[-(width - 6) :]
            _put(self._window, height - 3, f"  > {shown}_", curses.A_BOLD)
            self._window.refresh()
            key = self._read_key()
            if key in _ENTER:
                return text
            if key == _ESC:
                return None
            if key in _BACKSPACE:
                text = text[:-1]
            elif curses.ascii.isprint(key) and len(text) < _MAX_TEXT:
                text += chr(key)

    def work(self, title: str, function: Callable[[Progress], _T]) -> _T:
        """Do something in a thread of its own, and show how far it is."""
        work = _Work(function)
        while work.is_alive():
            self._show_progress(title, work)
            self._read_key()  # waits for a tick; keys mean nothing now
        curses.flushinp()
        return work.result()

    def shell(self) -> None:
        """Lend the terminal to a root shell."""
        self._window.erase()
        self._window.refresh()
        curses.endwin()
        height, width = self._window.getmaxyx()
        os.write(self._fd, b"\r\nRoot shell. Type exit and Enter to go back.\r\n")
        # On a terminal of its own: when a shell ends, the kernel hangs the terminal up that it had.
        pty.spawn(["sh", "-c", f"stty rows {height} cols {width}; exec sh -l"])
        self._window.clear()
        self._window.refresh()

    def _read_key(self) -> int:
        """Wait for a key, but no longer than a tick; -1: none came.

        curses itself waits by the clock on the wall, which a graft sets back.
        """
        key = self._window.getch()
        if key == _NO_KEY and select.select([self._fd], [], [], TICK)[0]:
            key = self._window.getch()
        return key

    def _show_progress(self, title: str, work: "_Work[_T]") -> None:
        window = self._window
        _draw_frame(window, title, "Please wait; no key is needed.")
        height, width = window.getmaxyx()
        lines = [line for text in work.said[-8:] for line in wrapped(text, width - 1)]
        _draw_body(window, lines, 2, height - 8)
        if work.total:
            room = width - 14
            filled = room * work.done // work.total
            percent = 100 * work.done // work.total
            _put(window, height - 5, f"  [{'#' * filled}{'-' * (room - filled)}] {percent:3} %")
        _put(window, height - 3, f"  {work.seconds:.0f} s so far")
        window.refresh()


@contextlib.contextmanager
def open_terminal(fd: int, name: str) -> Iterator[Terminal]:
    """Take a terminal over, by its open file and its name in terminfo.

    curses knows no other than the program's own, so it becomes that. Raises OSError where there is
    no terminal.
    """
    os.ttyname(fd)
    for own in (0, 1):
        os.dup2(fd, own)
    os.environ["TERM"] = name
    curses.set_escdelay(_ESC_DELAY)
    try:
        window = curses.initscr()
    except curses.error as error:
        raise OSError(f"the terminal {name} is unknown: {error}") from error
    try:
        curses.noecho()
        curses.raw()  # Ctrl-S would stop the console, and there is nobody for Ctrl-C
        with contextlib.suppress(curses.error):
            curses.curs_set(0)
        window.keypad(True)
        window.nodelay(True)
        window.clear()
        yield Terminal(window, fd, name)
    finally:
        window.erase()
        window.refresh()
        with contextlib.suppress(curses.error):
            curses.curs_set(1)
        curses.endwin()


class _View:
    """A page on its way to an answer: what is chosen so far, and how far it is scrolled."""

    def __init__(self, window: curses.window, page: Page) -> None:
        self._window = window
        self._page = page
        keys = [choice.key for choice in page.choices]
        self._chosen = keys.index(page.default)
        self._top = 0
        self._room = 1
        self._lines: list[str] = []

    def draw(self) -> None:
        """Show it."""
        window, page = self._window, self._page
        height, width = window.getmaxyx()
        self._lines = [line for text in page.body for line in wrapped(text, width - 1)]
        shown = min(len(page.choices), max(height // 2 - 2, 3))
        self._room = max(height - shown - 5, 1)
        self._top = max(0, min(self._top, len(self._lines) - self._room))
        _draw_frame(window, page.title, self._keys())
        _draw_body(window, self._lines[self._top :], 2, self._room)
        first = max(0, min(self._chosen - shown // 2, len(page.choices) - shown))
        for row, number in enumerate(range(first, first + shown)):
            mark = ">" if number == self._chosen else " "
            text = f" {mark} {number + 1}  {page.choices[number].label}"[: width - 2]
            style = curses.A_REVERSE if number == self._chosen else curses.A_NORMAL
            _put(window, height - 1 - shown - 1 + row, text.ljust(width - 2), style)
        window.refresh()

    def press(self, key: int) -> str | None:
        """Take a key; give the answer, once there is one."""
        page = self._page
        if key in _ENTER:
            return page.choices[self._chosen].key
        if key in (_ESC, ord("b")) and page.back is not None:
            return page.back
        if key in _UP:
            self._chosen = max(0, self._chosen - 1)
        elif key in _DOWN:
            self._chosen = min(len(page.choices) - 1, self._chosen + 1)
        elif 0 <= key - ord("1") < min(9, len(page.choices)):
            self._chosen = key - ord("1")
        elif key in _REDRAW:
            self._window.clear()
        else:
            self._scroll(key)
        return None

    def _scroll(self, key: int) -> None:
        page = max(self._room - 1, 1)
        steps = {
            curses.KEY_NPAGE: page,
            ord(" "): page,
            curses.KEY_PPAGE: -page,
            ord("-"): -page,
            curses.KEY_HOME: -len(self._lines),
            curses.KEY_END: len(self._lines),
        }
        self._top += steps.get(key, 0)

    def _keys(self) -> str:
        words = ["Up/Down/number: choose", "Enter: do it"]
        if self._page.back is not None:
            words.append("Esc: back")
        if len(self._lines) > self._room:
            below = max(len(self._lines) - self._top - self._room, 0)
            words.append(f"PgUp/PgDn: scroll, {below} more" if below else "PgUp: scroll back")
        return "  ".join(words)


# Drawing


def _draw_frame(window: curses.window, title: str, keys: str) -> None:
    height, width = window.getmaxyx()
    window.erase()
    _put(window, 0, f" bootgraft   {title}".ljust(width - 1), curses.A_REVERSE)
    _put(window, height - 1, f" {keys}")


def _draw_body(window: curses.window, lines: list[str], top: int, room: int) -> None:
    for row, line in enumerate(lines[:room]):
        _put(window, top + row, line)


def _put(window: curses.window, row: int, text: str, style: int = curses.A_NORMAL) -> None:
    """Write a row; a terminal that is too small shows what has room."""
    height, width = window.getmaxyx()
    if 0 <= row < height:
        plain = text.encode("ascii", "backslashreplace").decode("ascii")
        with contextlib.suppress(curses.error):
            window.addstr(row, 0, plain[: width - 1], style)


# What goes on beside the keys


class _Work(threading.Thread, Generic[_T]):
    """Something that is done while the terminal shows how far it is."""

    def __init__(self, function: Callable[[Progress], _T]) -> None:
        super().__init__(daemon=True)
        self.said: list[str] = []
        self.done = self.total = 0
        self._function = function
        self._result: list[_T] = []
        self._error: BaseException | None = None
        self._began = time.monotonic()
        self.start()

    @property
    def seconds(self) -> float:
        """Give how long it has taken so far."""
        return time.monotonic() - self._began

    def run(self) -> None:
        """Do it."""
        try:
            self._result.append(self._function(self._note))
        except BaseException as error:  # noqa: BLE001 - for the thread that waits
            self._error = error

    def result(self) -> _T:
        """Give what came of it; raises what it raised."""
        self.join()
        if self._error is not None:
            raise self._error
        return self._result[0]

    def _note(self, text: str, done: int, total: int) -> None:
        if self.said[-1:] != [text]:
            self.said.append(text)
        self.done, self.total = done, total


@contextlib.contextmanager
def _watched(until: Callable[[], bool] | None) -> Iterator[Callable[[], bool]]:
    """Look in a thread of its own whether something has come."""
    come, stop = threading.Event(), threading.Event()

    def watch() -> None:
        while until is not None and not stop.is_set():
            with contextlib.suppress(BootgraftError, OSError):
                if until():
                    come.set()
                    return
            stop.wait(POLL)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield come.is_set
    finally:
        stop.set()
        watcher.join()
