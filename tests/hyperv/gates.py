"""Moments of a host's work, at one of which it can be held up while something else happens."""

import threading
from collections.abc import Callable

from hyperv.shells import Call
from hyperv.values import Session, StoppedError


class Gate:
    """Counts the moments of a host: each script's beginning, each cmdlet's beginning and end.

    `hold_at` has whoever comes to a moment wait there until `let_go`; all others go on. Cmdlets
    that only read are no moments of their own.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._names: list[str] = []
        self._wanted = ""
        self._left: int | None = None
        self._held_at: str | None = None
        self._may_go_on = True
        self._acts: list[tuple[str, int, Callable[[], None]]] = []

    def at(self, name: str, act: Callable[[], None], number: int = 1) -> None:
        """Do something, once, at the n-th moment of a name from now on, before it goes on."""
        with self._changed:
            self._acts.append((name, number, act))

    def hold_at(self, number: int | None, name: str = "") -> None:
        """Forget what was, and hold at the n-th moment (from 1) of a name, or of any.

        Without a number nobody is held.
        """
        with self._changed:
            self._names.clear()
            self._left, self._wanted, self._held_at = number, name, None

    def names(self) -> list[str]:
        """The moments there were, in order: "script NAME", "CMDLET" or "CMDLET done"."""
        with self._changed:
            return list(self._names)

    def wait_held(self, timeout: float) -> str | None:
        """Wait until somebody is held; the moment's name, or None when the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._held_at is not None, timeout)
            return self._held_at

    def let_go(self, *, on: bool) -> None:
        """Let whoever is held go on, or, without `on`, end there."""
        with self._changed:
            self._left = self._held_at = None
            self._may_go_on = on
            self._changed.notify_all()

    def before_script(self, call: Call, _session: Session) -> None:
        """A script is about to run."""
        self.pass_through(f"script {call.script}")

    def pass_through(self, name: str) -> None:
        """Come to a moment. Raises StoppedError where it is the last one."""
        for act in self._take_acts(name):
            act()
        if "\\Get-" in name:
            return
        with self._changed:
            self._names.append(name)
            if self._left is None or self._wanted not in ("", name):
                return
            self._left -= 1
            if self._left:
                return
            self._left, self._held_at = None, name
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._held_at is None)
            if not self._may_go_on:
                raise StoppedError

    def _take_acts(self, name: str) -> list[Callable[[], None]]:
        """Count this moment down; give what is to be done now."""
        with self._changed:
            counted = [(each, left - (each == name), act) for each, left, act in self._acts]
            self._acts = [each for each in counted if each[1]]
            return [act for _, left, act in counted if not left]
