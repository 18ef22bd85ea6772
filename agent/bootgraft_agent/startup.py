"""The requests that a controller makes, answered as soon as the live system is all there.

The agent says its first word while init still mounts the rest of the live system and loads drivers.
What the answers need is loaded when init is done, by a thread beside the one that serves the line.
"""

import contextlib
import importlib
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from bootgraft_agent.errors import RefusedError
from bootgraft_agent.parameters import is_activated
from bootgraft_agent.plan import Options
from bootgraft_agent.volumes import Progress
from bootgraft_agent.wire import JSON

KERNEL_COMMAND_LINE = Path("/proc/cmdline")
READY = Path("/run/bootgraft/ready")  # init makes it; its content is what went wrong
READY_TIMEOUT = 120.0  # seconds; init itself waits for devices for 30
_POLL = 0.1  # seconds


class ControllerActions(Protocol):
    """What a controller can ask for; each gives the whole record of its result."""

    def inspect(self, options: Options) -> Mapping[str, JSON]:
        """Say what was found."""

    def plan(self, options: Options) -> Mapping[str, JSON]:
        """Say what a graft would do."""

    def apply(
        self, options: Options, plan_sha256: str, run_id: str, progress: Progress
    ) -> Mapping[str, JSON]:
        """Graft, if the plan is the one of this hash."""

    def rollback(
        self, options: Options, run_id: str | None, progress: Progress
    ) -> Mapping[str, JSON]:
        """Take a graft back."""


class Actions(ControllerActions, Protocol):
    """What can be done in the live system, be it without a controller."""

    def look_for_payload(self) -> str | None:
        """Look whether a payload is there now; give why there is none."""

    def list_runs(self, options: Options) -> Mapping[str, JSON]:
        """List the grafts that can be taken back."""

    def keep_result(self, options: Options, run_id: str, content: bytes) -> bool:
        """Keep a run's result beside its backups, if it has left any."""


class LaterActions:
    """Actions that are loaded in a thread of their own; whoever needs them waits for it."""

    def __init__(self, load: Callable[[], tuple[Actions, str]]) -> None:
        """Take what loads them: it gives them, and what went wrong with the live system."""
        self._load = load
        self._lock = threading.Lock()
        self._loaded: tuple[Actions, str] | None = None

    def prepare(self) -> None:
        """Begin to load them."""
        threading.Thread(target=self._prepare, daemon=True).start()

    def _prepare(self) -> None:
        # Who asks for an action loads again, and is told what stands in the way.
        with contextlib.suppress(RefusedError, ImportError):
            self._get()

    def _get(self) -> tuple[Actions, str]:
        with self._lock:
            if self._loaded is None:
                self._loaded = self._load()
            return self._loaded

    def inspect(self, options: Options) -> Mapping[str, JSON]:
        """Say what was found, and with it what went wrong when the live system started."""
        actions, problem = self._get()
        found = dict(actions.inspect(options))
        warnings = found.get("warnings")
        if problem and isinstance(warnings, list):
            found["warnings"] = [*warnings, f"the live system: {problem}"]
        return found

    def plan(self, options: Options) -> Mapping[str, JSON]:
        """Say what a graft would do."""
        return self._get()[0].plan(options)

    def apply(
        self, options: Options, plan_sha256: str, run_id: str, progress: Progress
    ) -> Mapping[str, JSON]:
        """Graft, if the plan is the one of this hash."""
        return self._get()[0].apply(options, plan_sha256, run_id, progress)

    def rollback(
        self, options: Options, run_id: str | None, progress: Progress
    ) -> Mapping[str, JSON]:
        """Take a graft back."""
        return self._get()[0].rollback(options, run_id, progress)

    def look_for_payload(self) -> str | None:
        """Look whether a payload is there now; give why there is none."""
        return self._get()[0].look_for_payload()

    def list_runs(self, options: Options) -> Mapping[str, JSON]:
        """List the grafts that can be taken back."""
        return self._get()[0].list_runs(options)

    def keep_result(self, options: Options, run_id: str, content: bytes) -> bool:
        """Keep a run's result beside its backups, if it has left any."""
        return self._get()[0].keep_result(options, run_id, content)


def require_live_system() -> None:
    """Refuse to go on where nothing on the kernel's command line lets the agent act.

    Raises RefusedError.
    """
    if not is_activated(KERNEL_COMMAND_LINE.read_text(errors="backslashreplace")):
        raise RefusedError(
            "the kernel command line has no bootgraft.mode=…, so this is not bootgraft's live"
            " system; to graft a mounted tree use `bootgraft-agent tree`"
        )


def load_live_actions() -> tuple[Actions, str]:
    """Wait for the live system's drivers and programs, and load what uses them.

    Raises RefusedError where they do not come.
    """
    problem = wait_until_ready()
    importlib.invalidate_caches()  # init has mounted more libraries where Python has looked already
    from bootgraft_agent.live import LiveActions  # noqa: PLC0415 - only the live system has it all

    return LiveActions(), problem


def wait_until_ready(ready: Path = READY, timeout: float = READY_TIMEOUT) -> str:
    """Wait until init has started everything; give what went wrong, "" where nothing did."""
    deadline = time.monotonic() + timeout
    while not ready.exists():
        if time.monotonic() > deadline:
            raise RefusedError(
                f"the live system's drivers were not all started after {timeout:.0f} s; its screen"
                " may say why"
            )
        time.sleep(_POLL)
    return ready.read_text(encoding="utf-8", errors="backslashreplace").strip()
