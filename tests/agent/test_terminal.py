"""The console's pages on a real terminal, drawn by curses in a process of its own."""

import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fcntl import ioctl

import pytest

from bootgraft_agent.pages import message_page, page
from bootgraft_agent.terminal import open_terminal

CHOICES = {"first": "The first", "second": "The second", "back": "Back"}
PAGE = page("A title", [f"line {number}" for number in range(60)], CHOICES, back="back")
SEQUENCE = re.compile(rb"\x1b(\[[0-9;?]*[A-Za-z]|[()][A-Z0-9]|[=>78M])|[\x0e\x0f]")


@dataclass
class Screen:
    """A terminal of 80 x 24 with a process of ours on it."""

    fd: int
    child: int
    heard: bytes = b""

    def press(self, keys: bytes) -> None:
        os.write(self.fd, keys)

    def wait(self, text: str) -> str:
        """Wait until something is shown; give all that was since the last wait."""
        deadline = time.monotonic() + 10
        while text not in self.text:
            left = deadline - time.monotonic()
            assert left > 0, f"no {text!r} in {self.text!r}"
            if select.select([self.fd], [], [], left)[0]:
                self.heard += os.read(self.fd, 65536)
        seen, self.heard = self.text, b""
        return seen

    @property
    def text(self) -> str:
        return SEQUENCE.sub(b"\n", self.heard).decode("ascii")


def run_on_terminal(work: str) -> Screen:
    """Start a process whose terminal is ours; `work` is done with an open `terminal`."""
    child, fd = pty.fork()
    if child == 0:
        ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        program = f"from agent import test_terminal\ntest_terminal.{work}()\n"
        os.execv(sys.executable, [sys.executable, "-c", program])  # noqa: S606 - no shell wanted
    return Screen(fd, child)


def say(text: str) -> None:
    os.write(1, f"\r\n{text}\r\n".encode())


def ask_three_times() -> None:
    answers = []
    with open_terminal(os.dup(0), "vt220") as terminal:
        answers += [terminal.ask(PAGE) for _ in range(3)]
        answers.append(str(terminal.read_text("Typing", "What?", "ab")))
    say(f"answers: {answers}")


def wait_for_something() -> None:
    began = time.monotonic()
    with open_terminal(os.dup(0), "vt100") as terminal:
        answer = terminal.ask(PAGE, until=lambda: time.monotonic() > began + 0.5)
        terminal.ask(message_page("Got", repr(answer)))


def work_slowly() -> None:
    def work(progress: object) -> str:
        assert callable(progress)
        progress("copying the shim", 5, 10)
        time.sleep(1)
        raise OSError("the disk is gone")

    with open_terminal(os.dup(0), "vt220") as terminal:
        try:
            terminal.work("Working", work)
        except OSError as error:
            terminal.ask(message_page("Failed", str(error)))


def use_a_shell() -> None:
    with open_terminal(os.dup(0), "vt220") as terminal:
        terminal.shell()
        terminal.ask(message_page("Back", "again at the console"))


@pytest.fixture
def path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(each for each in sys.path if each))


@pytest.fixture
def cleanup() -> Iterator[list[Screen]]:
    screens: list[Screen] = []
    yield screens
    for screen in screens:
        os.kill(screen.child, signal.SIGKILL)
        os.waitpid(screen.child, 0)
        os.close(screen.fd)


@pytest.fixture
def asking(path: None, cleanup: list[Screen]) -> Screen:
    screen = run_on_terminal("ask_three_times")
    cleanup.append(screen)
    return screen


def test_keys_choose_scroll_and_go_back(asking: Screen) -> None:
    first = asking.wait("Esc: back")
    assert "A title" in first
    assert "line 0" in first
    assert "line 17" not in first  # 24 rows hold no more
    asking.press(b" \x0c")  # a page down, drawn from scratch
    assert "line 0" not in asking.wait("line 30")
    asking.press(b"\x1b[B")  # down
    asking.wait("> 2  The second")
    asking.press(b"\x1b[B\x1b[B\x1b[A\r")  # to the end, and one up
    asking.wait("> 1  The first")
    asking.press(b"3")  # a number only chooses
    asking.wait("> 3  Back")
    asking.press(b"1\r\x0c")
    asking.wait("Esc: back")
    asking.press(b"\x1b")
    asking.wait("Typing")
    asking.press(b"\x7fc\x1b[Ad\r")  # arrows mean nothing there
    assert "['second', 'first', 'back', 'acd']" in asking.wait("']")


def test_nothing_but_ascii_reaches_a_serial_terminal(asking: Screen) -> None:
    asking.wait("Esc: back")
    asking.press(b"\x0c")  # Ctrl-L draws it again
    assert "A title" in asking.wait("Esc: back")
    asking.heard.decode("ascii")


def test_a_page_goes_by_itself_when_what_it_waits_for_has_come(
    path: None, cleanup: list[Screen]
) -> None:
    screen = run_on_terminal("wait_for_something")
    cleanup.append(screen)
    screen.wait("A title")
    screen.wait("interrupted")


def test_work_shows_how_far_it_is_and_its_failure_comes_back(
    path: None, cleanup: list[Screen]
) -> None:
    screen = run_on_terminal("work_slowly")
    cleanup.append(screen)
    seen = screen.wait("50 %")
    assert "copying the shim" in seen
    screen.press(b"\r\r\r")  # keys of meanwhile answer no later question
    screen.wait("the disk is gone")
    assert select.select([screen.fd], [], [], 1)[0] == [] or "gone" not in screen.text


def test_a_shell_has_a_terminal_of_its_own_and_ends_without_harm_to_ours(
    path: None, cleanup: list[Screen]
) -> None:
    screen = run_on_terminal("use_a_shell")
    cleanup.append(screen)
    screen.wait("# " if os.geteuid() == 0 else "$ ")
    screen.press(b"stty size; echo at $((6 * 7)); tty\r")
    seen = screen.wait("/dev/pts/")
    assert "24 80" in seen
    assert "at 42" in seen
    screen.press(b"exit\r")
    screen.wait("again at the console")
