"""The progress of one request, as events for the controller and lines on the screen."""

import time
from collections.abc import Callable

from bootgraft_agent.wire import JSON

INTERVAL = 0.25  # seconds between two events for the same step


class ProgressEvents:
    """Turns calls of `volumes.Progress` into events; counts the steps."""

    def __init__(
        self, post: Callable[[dict[str, JSON]], None], show: Callable[[str], None]
    ) -> None:
        self._post = post
        self._show = show
        self._text = ""
        self._step = 0
        self._said = 0.0

    def __call__(self, text: str, done: int, total: int) -> None:
        """Tell how far a step is, no more often than is of use."""
        now = time.monotonic()
        is_new = text != self._text
        if not is_new and done < total and now - self._said < INTERVAL:
            return
        if is_new:
            self._step += 1
            self._show(text)
        self._text, self._said = text, now
        self._post(
            {
                "event": "progress",
                "step": self._step,
                "text": text,
                "bytes": done,
                "total": total,
            }
        )
