"""Pictures of a boot: GRUB's menu with the new entry, and the booted guest."""

import time
from collections.abc import Callable
from pathlib import Path

from bootgraft_agent.errors import BootgraftError
from bootgraft_host.machine import Machine
from bootgraft_host.runs import Run

MENU_MARK = "GNU GRUB"
LOOK_INTERVAL = 0.5  # seconds
MENU_LOOKS = 2  # the menu's frame is drawn after its mark: the picture of the second look stays
BLIND_INTERVAL = 2.0  # seconds between pictures where the screen's text cannot be read ...
BLIND_PERIOD = 20.0  # ... in the first seconds of the boot, when a menu may be there


class ScreenWatch:
    """Looks at a machine's screen now and then while it boots. A failed picture is a warning."""

    def __init__(self, machine: Machine, run: Run, warn: Callable[[str], None]) -> None:
        self._machine = machine
        self._run = run
        self._warn = warn
        self._begun = time.monotonic()
        self._next_look = self._begun
        self._menu_looks = 0
        self._pictures: list[Path] = []

    @property
    def pictures(self) -> tuple[Path, ...]:
        """What has been taken."""
        return tuple(self._pictures)

    def look(self) -> None:
        """Take a picture if it is time for one."""
        now = time.monotonic()
        if now < self._next_look or self._menu_looks >= MENU_LOOKS:
            return
        self._next_look = now + LOOK_INTERVAL
        text = self._read_text()
        if text is not None and MENU_MARK in text:
            self._menu_looks += 1
            self.take("grub-menu")
        elif text is None and now - self._begun < BLIND_PERIOD:
            self._next_look = now + BLIND_INTERVAL
            self.take(f"{now - self._begun:04.1f}s")

    def take(self, name: str) -> None:
        """Take a picture; one of the same name before it is replaced."""
        path = self._run.picture(name)
        try:
            self._machine.take_screenshot(path)
        except (BootgraftError, OSError) as error:
            self._warn(f"no picture {path.name}: {error}")
            return
        if path not in self._pictures:
            self._pictures.append(path)

    def _read_text(self) -> str | None:
        try:
            return self._machine.read_screen_text()
        except (BootgraftError, OSError):
            return None
