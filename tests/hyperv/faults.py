"""What goes wrong on the way to a host: each fault is armed, and happens once."""

import enum
import threading
from collections.abc import Callable
from dataclasses import dataclass


class FaultKind(enum.Enum):
    """How the connection fails a request, or the run of a script."""

    NOT_RUN = enum.auto()  # cut before anything was done
    ANSWER_LOST = enum.auto()  # all was done, and the connection is cut instead of an answer
    ANSWER_CUT = enum.auto()  # all was done, and the connection is cut in the answer's middle


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: for the next run of a script, or for the request of this number (from 1)."""

    kind: FaultKind
    script: str | None = None
    request: int | None = None


class Faults:
    """The faults that have not happened yet."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._armed: list[Fault] = []

    def arm(self, fault: Fault) -> None:
        """Have this happen, once."""
        with self._lock:
            self._armed.append(fault)

    def armed(self) -> list[Fault]:
        """What has not happened yet."""
        with self._lock:
            return list(self._armed)

    def take_for_request(self, number: int) -> FaultKind | None:
        """The fault of this request, which now happens."""
        return self._take(lambda fault: fault.request == number)

    def take_for_script(self, script: str) -> FaultKind | None:
        """The fault of this script, which now happens."""
        return self._take(lambda fault: fault.script == script)

    def keeps_from_running(self, script: str) -> bool:
        """Whether this run of the script is not to take place; the fault stays armed."""
        fault = next((fault for fault in self.armed() if fault.script == script), None)
        return fault is not None and fault.kind is FaultKind.NOT_RUN

    def _take(self, is_it: Callable[[Fault], bool]) -> FaultKind | None:
        with self._lock:
            for fault in self._armed:
                if is_it(fault):
                    self._armed.remove(fault)
                    return fault.kind
        return None
