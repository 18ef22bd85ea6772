"""Passwords that a host has refused: they are not shown again for a while.

A line to a guest connects anew many times a second, and a host is asked for its machine's state all
the time. With a password that was mistyped or has just been changed, each of these is a failed
log-in, and a few of them lock the user's account.
"""

import hashlib
import threading
import time

from bootgraft_host.hyperv.hosts import HostSettings

FORGET_AFTER = 600.0  # seconds; failed log-ins as rare as this lock no account

_refused: dict[tuple[HostSettings, bytes], float] = {}  # when, in this process
_guard = threading.Lock()


class Login:
    """One way to log in to a host; without a password it cannot be refused."""

    def __init__(self, settings: HostSettings, password: str | None) -> None:
        self._key = None
        if password is not None:
            self._key = settings, hashlib.sha256(password.encode()).digest()

    def note_refusal(self) -> None:
        """Note that the host has just refused it."""
        if self._key is not None:
            with _guard:
                _refused[self._key] = time.monotonic()

    def is_refused(self) -> bool:
        """Whether the host refused it not long ago."""
        return self._left() > 0

    def explain(self) -> str:
        """Say why the host is not asked."""
        return (
            "the host has refused this password, which is shown to it again in"
            f" {self._left():.0f} s at the earliest, so that the account is not locked"
        )

    def _left(self) -> float:
        """Give the seconds until it may be tried again."""
        if self._key is None:
            return 0.0
        with _guard:
            refused_at = _refused.get(self._key)
        return 0.0 if refused_at is None else refused_at + FORGET_AFTER - time.monotonic()
