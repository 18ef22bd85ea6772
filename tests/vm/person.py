"""A person at a machine's screen and keyboard: reads what is shown, and presses keys."""

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from vm.boots import COLUMNS, Boot

# Where pictures of every screen are kept, for people to look at; nowhere without it.
PICTURES = os.environ.get("BOOTGRAFT_PICTURES")
SETTLE = 0.3  # seconds in which a screen is drawn
KEYS = {" ": "spc", "-": "minus", ".": "dot", "/": "slash", ",": "comma"}
POLL = 0.3


@dataclass
class Person:
    """Looks at the screen of a machine and presses its keys."""

    boot: Boot

    def sees(self, pattern: str, timeout: float = 60.0) -> str:
        """Wait until the screen shows a pattern; give the whole screen. Raises AssertionError."""
        deadline = time.monotonic() + timeout
        shown = self.boot.shown_text()
        while not re.search(pattern, shown, re.MULTILINE):
            if time.monotonic() > deadline:
                raise AssertionError(f"no {pattern!r} within {timeout:.0f} s:\n{shown}")
            time.sleep(POLL)
            shown = self.boot.shown_text()
        time.sleep(SETTLE)
        shown = self.boot.shown_text()
        assert max(map(len, shown.split("\n"))) <= COLUMNS
        return shown

    def on_page(self, title: str, timeout: float = 60.0) -> str:
        """Wait until a page of the console is shown, and has its choices."""
        return self.sees(rf"\A bootgraft   {title} *\n[\s\S]*^ > \d+  ", timeout)

    def chooses(self, label: str) -> None:
        """Choose an answer by its number, see that it is marked, and press Enter."""
        shown = self.boot.shown_text()
        found = re.search(rf"^ [ >] (\d+)  {label}", shown, re.MULTILINE)
        assert found, f"{label!r} is no choice:\n{shown}"
        self.boot.press(found[1])
        self.sees(rf"^ > {found[1]}  {label}")
        self.boot.press("ret")

    def accepts_default(self, label: str) -> None:
        """See that an answer is marked, and press Enter."""
        self.sees(rf"^ > \d+  {label}")
        self.boot.press("ret")

    def goes_back(self) -> None:
        """Press Esc."""
        self.boot.press("esc")

    def types(self, text: str) -> None:
        """Type a line."""
        self.boot.press(*(KEYS.get(each, each) for each in text), "ret")

    def keeps_picture(self, name: str) -> None:
        """Keep a picture of the screen, where pictures are wanted."""
        if PICTURES:
            Path(PICTURES).mkdir(parents=True, exist_ok=True)
            self.boot.take_screenshot(Path(PICTURES, f"{name}.png"))
