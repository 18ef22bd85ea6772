"""The modes of the live system: who works with the machine, and on which terminal."""

import contextlib
import ctypes
import fcntl
import logging
import os
import select
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bootgraft_agent import power, serve
from bootgraft_agent.attendance import Attendance
from bootgraft_agent.errors import BootgraftError
from bootgraft_agent.parameters import Parameters, read_parameters
from bootgraft_agent.screen import Screen
from bootgraft_agent.startup import LaterActions, load_live_actions, require_live_system

_log = logging.getLogger(__name__)

SCREEN_TERMINAL = "linux"
TERMINFO = Path("/early/usr/share/terminfo")  # there before the rest of the live system is
PSEUDO_TERMINALS = Path("/dev/pts")
POLL = 0.5  # seconds
REOPEN_AFTER = 5.0  # seconds
_CONSOLE_LEVEL = 8  # syslog(2): messages of which level the kernel shows on its consoles
_ONLY_EMERGENCIES = 1


def run(device: str, screen_path: Path) -> int:
    """Do what the kernel's command line asks for; give the exit status, if it comes to an end.

    Raises RefusedError outside the live system.
    """
    require_live_system()
    parameters = read_parameters()
    actions = LaterActions(load_live_actions)
    actions.prepare()
    with contextlib.closing(Screen(screen_path)) as screen:
        screen.take_over_stderr()
        for problem in parameters.problems:
            screen.show(problem)
        if parameters.mode == "unattended":
            from bootgraft_agent import unattended_mode  # noqa: PLC0415 - HELLO waits for nothing

            return unattended_mode.run(parameters, actions, device, screen)
        if parameters.mode == "manual-serial":
            return _run_on_serial(parameters, actions, device, screen, screen_path)
        turns = Attendance(person=parameters.mode == "manual")
        screen.is_lent = turns.has_person
        person = threading.Thread(
            target=_await_person,
            args=(parameters, actions, turns, screen, screen_path),
            daemon=True,
        )
        person.start()
        serve.run(device, actions, screen.show, turns)
    return 0


# A person at the machine's own screen


def _await_person(
    parameters: Parameters,
    actions: LaterActions,
    turns: Attendance,
    screen: Screen,
    screen_path: Path,
) -> None:
    """Offer the console when no controller comes, and have it used, again and again."""
    while True:
        try:
            if not turns.has_person:
                with _open_keyboard(screen_path) as fd:
                    _offer(fd, turns, parameters.console_after, screen.show)
            with _screen_for_one(screen), _open_keyboard(screen_path) as fd:
                run_console(fd, SCREEN_TERMINAL, parameters, actions, can_leave=True)
            turns.leave()
            screen.show("left to a controller, which is waited for")
        except (OSError, termios.error, BootgraftError) as error:
            screen.show(f"the console cannot be shown here: {error}")
            time.sleep(REOPEN_AFTER)


def _offer(fd: int, turns: Attendance, after: float, show: Callable[[str], None]) -> None:
    """Wait until somebody who was offered the console has pressed Enter."""
    tty.setcbreak(fd)
    offered = False
    while True:
        is_due = turns.seconds_without_controller >= after
        if is_due and not offered:
            termios.tcflush(fd, termios.TCIFLUSH)  # keys of before
            show(f"no controller has come for {after:.0f} s; it is still waited for")
            show("press Enter to work with this machine here, on its own screen")
        offered = is_due
        if not select.select([fd], [], [], POLL)[0]:
            continue
        pressed = os.read(fd, 64)
        if offered and (b"\n" in pressed or b"\r" in pressed):
            if turns.try_begin():
                return
            show("a controller is at work; please wait")


@contextlib.contextmanager
def _screen_for_one(screen: Screen) -> Iterator[None]:
    """Have nobody else write to the screen: neither our log nor the kernel."""
    ctypes.CDLL(None).klogctl(_CONSOLE_LEVEL, None, _ONLY_EMERGENCIES)
    screen.is_lent = True
    try:
        yield
    finally:
        screen.is_lent = False


@contextlib.contextmanager
def _open_keyboard(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDWR | os.O_NOCTTY)
    before = termios.tcgetattr(fd)
    try:
        yield fd
    finally:
        with contextlib.suppress(OSError, termios.error):
            termios.tcsetattr(fd, termios.TCSANOW, before)
        os.close(fd)


# The console


def run_console(
    fd: int, terminal: str, parameters: Parameters, actions: LaterActions, *, can_leave: bool
) -> None:
    """Show the console on a terminal until the machine is left to a controller."""
    # HELLO waits for nothing of this.
    from bootgraft_agent import mounts  # noqa: PLC0415
    from bootgraft_agent.console import Console  # noqa: PLC0415
    from bootgraft_agent.terminal import open_terminal  # noqa: PLC0415

    _mount_pseudo_terminals(mounts.run)
    if TERMINFO.is_dir():
        os.environ["TERMINFO"] = str(TERMINFO)
    with open_terminal(fd, terminal) as interface:
        Console(
            interface=interface,
            actions=actions,
            power=power.MachinePower(),
            options=parameters.options,
            problems=parameters.problems,
            new_run_id=lambda: f"manual-{serve.new_id()[:8]}",
            can_leave=can_leave,
        ).run()


def _mount_pseudo_terminals(run: Callable[[Sequence[str]], str]) -> None:
    """Have the kernel make pseudo-terminals, which the console's shell runs on."""
    if not os.path.ismount(PSEUDO_TERMINALS):
        PSEUDO_TERMINALS.mkdir(exist_ok=True)
        run(["mount", "-t", "devpts", "devpts", str(PSEUDO_TERMINALS)])


# A person on the serial port


def _run_on_serial(
    parameters: Parameters,
    actions: LaterActions,
    device: str,
    screen: Screen,
    screen_path: Path,
) -> int:
    """Show the console on the serial port; on the screen, where there is none."""
    try:
        fd = _open_serial(device)
    except (OSError, termios.error) as error:
        screen.show(f"{device} cannot be used: {error}")
        screen.show("the console comes on this screen instead")
        time.sleep(REOPEN_AFTER)
        with _screen_for_one(screen), _open_keyboard(screen_path) as fd:
            run_console(fd, SCREEN_TERMINAL, parameters, actions, can_leave=False)
        return 0
    screen.show(f"the console is on {device}: 115200 baud, 8 bits, a {parameters.terminal}")
    screen.show("press Ctrl-L there to have it drawn again")
    run_console(fd, parameters.terminal, parameters, actions, can_leave=False)
    return 0


def _open_serial(device: str) -> int:
    """Open the serial port as a terminal: 115200 baud, whatever the other end's wires say.

    The kernel opens a port, too, that the machine does not have. Only its wires are not there.
    """
    fd = os.open(device, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    fcntl.ioctl(fd, termios.TIOCMGET, bytes(4))
    attributes = termios.tcgetattr(fd)
    attributes[2] |= termios.CLOCAL | termios.CREAD
    attributes[4] = attributes[5] = termios.B115200
    termios.tcsetattr(fd, termios.TCSANOW, attributes)
    os.set_blocking(fd, True)
    return fd
