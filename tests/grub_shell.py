"""The real GRUB legacy shell as a judge: how does GRUB itself read this menu, this device map?

Its menu without curses is plain text, and it waits for a key at every step: no time has to pass.
"""

import os
import pty
import re
import select
import subprocess
import time
import tty
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import grub_legacy

TIMEOUT = 20.0  # seconds
ESCAPE = b"\x1b"
# A key that means nothing to the menu: the shell looks at the clock only after a key.
NO_KEY = b"x"

_AT_MENU = rb"Highlighted entry is \d+: \Z"
_MENU = re.compile(_AT_MENU)
_HIDDEN = re.compile(rb"to enter the menu\.\.\. (\d+)   \Z")
# The four ways in which a menu file, once NO_KEY is pressed, comes to rest.
_LOADED = re.compile(
    rb"|".join(
        (
            rb"grub> x\Z",
            _HIDDEN.pattern,
            rb"Highlighted entry is \d+: .*" + _AT_MENU,
            rb"Booting .*" + _AT_MENU,
            rb"\A(?:(?!entry is).)*Booting .*Press any key to continue\.\.\.\Z",
        )
    ),
    re.DOTALL,
)
_RULE = rb"-" * 67 + rb"\n"
_LIST = re.compile(_RULE + rb"(.*?)" + _RULE, re.DOTALL)
_ITEM = re.compile(rb" ?\d+: (.*)\n")


@dataclass(frozen=True, slots=True)
class ShellMenu:
    """What the GRUB shell shows of a menu file.

    selected: the highlighted entry, if the menu was shown; booted: titles tried with timeout 0.
    bodies: None where a password forbids to look.
    """

    titles: tuple[bytes, ...]
    bodies: tuple[tuple[bytes, ...], ...] | None
    selected: int | None
    timeout: int | None
    hidden: bool
    booted: tuple[bytes, ...]


class GrubShell:
    """A running GRUB shell on a pseudo terminal."""

    def __init__(self, folder: Path, device_map: Path) -> None:
        self._terminal, shell_end = pty.openpty()
        tty.setraw(shell_end)
        self._process = subprocess.Popen(
            [grub_legacy.shell_path(), "--batch", f"--device-map={device_map}"],
            cwd=folder,
            stdin=shell_end,
            stdout=shell_end,
            stderr=shell_end,
        )
        os.close(shell_end)
        self.read_until(re.compile(rb"grub> \Z"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._terminal)

    def read_until(self, pattern: re.Pattern[bytes]) -> bytes:
        """Return the output up to where the pattern matches it."""
        output = b""
        deadline = time.monotonic() + TIMEOUT
        while not pattern.search(output):
            ready, _, _ = select.select([self._terminal], [], [], deadline - time.monotonic())
            if not ready:
                raise TimeoutError(f"the GRUB shell did not show {pattern.pattern!r}: {output!r}")
            output += os.read(self._terminal, 65536)
        return output

    def ask(self, keys: bytes, pattern: re.Pattern[bytes]) -> bytes:
        """Press keys and return the output that follows."""
        os.write(self._terminal, keys)
        return self.read_until(pattern)


def read_menu(menu: bytes, folder: Path, saved: bytes | None = None) -> ShellMenu:
    """Let the GRUB shell load a menu file, from a floppy image in the folder.

    saved is the content of the file `default` beside it.
    """
    device_map = _write_floppy(folder, {"menu.lst": menu, "default": saved})
    with GrubShell(folder, device_map) as shell:
        shell.ask(b"configfile (fd0)/menu.lst", re.compile(rb"menu\.lst\Z"))
        loaded = shell.ask(b"\n" + NO_KEY, _LOADED)
        if loaded.endswith(b"grub> " + NO_KEY):
            return ShellMenu((), (), None, None, False, ())
        screen = loaded
        if not _MENU.search(loaded):
            screen = shell.ask(ESCAPE, _MENU)
        titles = _parse_list(screen)
        locked = b"to enter a\n" in screen
        return ShellMenu(
            titles=titles,
            bodies=None if locked else _read_bodies(shell, screen, len(titles)),
            selected=_find_number(rb"The selected entry is (\d+)", loaded),
            timeout=_find_timeout(loaded),
            hidden=b"entry is" not in loaded,
            booted=tuple(re.findall(rb"  Booting '(.*)'\n", loaded)),
        )


def _find_timeout(loaded: bytes) -> int | None:
    if b"Booting" in loaded:
        return 0
    hidden = _HIDDEN.search(loaded)
    if hidden:
        return int(hidden[1]) + 1  # GRUB counts down before it prints
    return _find_number(rb"automatically in (\d+) seconds", loaded)


def _find_number(pattern: bytes, text: bytes) -> int | None:
    match = re.search(pattern, text)
    return None if match is None else int(match[1])


def _parse_list(screen: bytes) -> tuple[bytes, ...]:
    *_, content = _LIST.findall(screen)
    return tuple(_ITEM.findall(content))


def _read_bodies(shell: GrubShell, screen: bytes, count: int) -> tuple[tuple[bytes, ...], ...]:
    """Look into every entry with the keys e, Escape and v (down), from the first one on."""
    highlighted = int(re.findall(rb"Highlighted entry is (\d+)", screen)[-1])
    for _ in range(highlighted):
        shell.ask(b"^", _MENU)
    bodies = []
    for _ in range(count):
        bodies.append(_parse_list(shell.ask(b"e", _MENU)))
        shell.ask(ESCAPE, _MENU)
        shell.ask(b"v", _MENU)
    return tuple(bodies)


def _write_floppy(folder: Path, files: dict[str, bytes | None]) -> Path:
    """Make a floppy image with those files, and return the device map that names it."""
    image, device_map = folder / "floppy.img", folder / "floppy.map"
    device_map.write_text(f"(fd0) {image}\n")
    image.unlink(missing_ok=True)
    subprocess.run(["mformat", "-C", "-i", image, "-f", "1440", "::"], check=True)
    for name, content in files.items():
        if content is not None:
            subprocess.run(["mcopy", "-i", image, "-", f"::/{name}"], input=content, check=True)
    return device_map


def read_device_map(
    data: bytes, folder: Path, drives: Iterable[bytes]
) -> dict[bytes, bytes] | None:
    """Ask the GRUB shell which devices the drives have; None where it refuses the map.

    The devices must be names of files in the folder.
    """
    device_map = folder / "device.map"
    device_map.write_bytes(data)
    questions = b"".join(b"geometry (%s)\n" % drive for drive in drives)
    result = subprocess.run(
        [grub_legacy.shell_path(), "--batch", f"--device-map={device_map}"],
        cwd=folder,
        input=questions + b"quit\n",
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
    )
    if result.returncode != 0:
        return None
    answers = re.findall(rb"geometry \((\w+)\)\ndrive .* = \d+, (.*)\n", result.stdout)
    return dict(answers)


def takes_device(text: bytes, folder: Path) -> bool:
    """Tell whether `root` understands a device's name, whatever it finds there."""
    device_map = _write_floppy(folder, {})
    with GrubShell(folder, device_map) as shell:
        answer = shell.ask(b"root " + text + b"\n", re.compile(rb"\n.*grub> \Z", re.DOTALL))
    # Invalid device requested, unrecognized device string, no number, a number too large.
    return re.search(rb"Error (11|12|23|35):", answer) is None
