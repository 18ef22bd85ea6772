"""Interrupts: SIGINT, SIGTERM and SIGHUP become a KeyboardInterrupt, or wait where they must."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

# Windows has no SIGHUP.
SIGNALS = tuple(each for each in signal.Signals if each.name in {"SIGINT", "SIGTERM", "SIGHUP"})

_Handler = Callable[[int, FrameType | None], object]


@contextmanager
def interruptible() -> Iterator[None]:
    """Have the first of SIGNALS raise KeyboardInterrupt in the main thread; ignore later ones.

    Who was interrupted tidies up. A second interrupt right then (a closed terminal may send two)
    would strike where a lock is taken back, and what waits for that lock would wait for ever.
    """
    armed = [True]

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        if armed:
            armed.clear()
            raise KeyboardInterrupt

    with _handled_by(interrupt):
        yield


@contextmanager
def uninterrupted() -> Iterator[list[int]]:
    """Put SIGNALS off for the block; gives the list of those that came, which grows meanwhile."""
    came: list[int] = []
    with _handled_by(lambda number, _frame: came.append(number)):
        yield came


@contextmanager
def _handled_by(handler: _Handler) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
