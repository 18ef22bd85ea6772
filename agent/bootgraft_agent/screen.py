"""The machine's own screen, which nothing waits for."""

import contextlib
import logging
import os
from pathlib import Path

from bootgraft_agent.secrets_mask import mask_text
from bootgraft_agent.text import printable


class Screen:
    """A terminal that lines are shown on; while `is_lent` somebody else shows something there.

    Ctrl-S or Scroll Lock stops a terminal for as long as a person likes; a line that does not go
    out at once is dropped.
    """

    def __init__(self, path: Path) -> None:
        """Open the terminal anew: what is set here is not set for others that have it open."""
        self.fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOCTTY | os.O_NONBLOCK)
        self.is_lent = False

    def show(self, text: str) -> None:
        """Show a line, with secrets masked and control characters escaped."""
        if not self.is_lent:
            self.write(printable(f"bootgraft: {mask_text(text)}\n"))

    def write(self, text: str) -> None:
        """Write what may move the cursor, as it is: nothing of the guest's."""
        with contextlib.suppress(OSError):
            os.write(self.fd, text.encode())

    def take_over_stderr(self) -> None:
        """Have logs and whatever else goes to standard error shown here, waited for by nobody."""
        os.dup2(self.fd, 2)
        logging.basicConfig(
            level=logging.getLogger().level,
            format="%(message)s",
            handlers=[_ScreenHandler(self)],
            force=True,
        )

    def close(self) -> None:
        """Close the terminal."""
        os.close(self.fd)


class _ScreenHandler(logging.Handler):
    """Shows the log on a screen."""

    def __init__(self, screen: Screen) -> None:
        super().__init__()
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        """Show a record."""
        self._screen.show(self.format(record))
