"""Who has the machine: a controller on the serial port, or a person at its console.

Both ask here before they begin, so that there is one of them at a time.
"""

import threading
import time
from collections.abc import Callable

from bootgraft_agent.errors import OccupiedError

MESSAGE = (
    "a person works at this machine's own console, so nothing is done for a controller: let them"
    " finish, or choose there: Leave it to a controller"
)


class Attendance:
    """Tells a person's turn from a controller's; its methods may be called from any thread."""

    def __init__(self, *, person: bool = False, now: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()
        self._now = now
        self._person = person
        self._controller_works = False
        self._last_heard = now()

    @property
    def has_person(self) -> bool:
        """Whether a person has begun."""
        with self._lock:
            return self._person

    @property
    def seconds_without_controller(self) -> float:
        """Give how long no controller was heard; none at all while one is worked for."""
        with self._lock:
            return 0.0 if self._controller_works else self._now() - self._last_heard

    def try_begin(self) -> bool:
        """Begin as a person; False while something is done for a controller."""
        with self._lock:
            if not self._controller_works:
                self._person = True
            return self._person

    def leave(self) -> None:
        """Leave the machine to a controller."""
        with self._lock:
            self._person = False
            self._last_heard = self._now()

    def note_controller(self) -> None:
        """Note that a controller was heard."""
        with self._lock:
            self._last_heard = self._now()

    def begin_work(self) -> None:
        """Begin to work for a controller. Raises OccupiedError where a person has begun."""
        with self._lock:
            if self._person:
                raise OccupiedError(MESSAGE)
            self._controller_works = True
            self._last_heard = self._now()

    def end_work(self) -> None:
        """Be done with a controller's request."""
        with self._lock:
            self._controller_works = False
            self._last_heard = self._now()
