"""Interrupts: SIGINT, SIGTERM and SIGHUP become KeyboardInterrupt, or wait where they must."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_Handler = Callable[[int, FrameType | None], object]


@contextmanager
def interruptible() -> Iterator[None]:
    """Have each of SIGNALS raise KeyboardInterrupt in the main thread meanwhile."""
    with _handled_by(_interrupt):
        yield


@contextmanager
def uninterrupted() -> Iterator[list[int]]:
    """Put SIGNALS off for the block; gives the list of those that came, which grows meanwhile."""
    came: list[int] = []
    with _handled_by(lambda number, _frame: came.append(number)):
        yield came


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


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
