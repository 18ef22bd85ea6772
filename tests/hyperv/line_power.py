"""Guests whose serial line and end a test holds in its hands."""

import socket
from collections.abc import Callable

from hyperv.power import NoGuest, PlaceholderDisks, PowerError, Running
from hyperv.vm import Vm


class LinePower(PlaceholderDisks):
    """One machine's power: `line` is the guest's end of COM1, `ended` says that it is off."""

    def __init__(self) -> None:
        self.refusal = ""
        self.resets = 0
        self.line: socket.socket
        self.ended: Callable[[], None]

    def start(self, vm: Vm, ended: Callable[[], None]) -> Running:
        if self.refusal:
            raise PowerError(self.refusal)
        self.ended = ended
        return LineGuest(self)


class LineGuest(NoGuest):
    """One boot of it."""

    def __init__(self, power: LinePower) -> None:
        self._power = power

    def open_com1(self) -> socket.socket:
        ours, self._power.line = socket.socketpair()
        return ours

    def reset(self) -> None:
        self._power.resets += 1

    def turn_off(self) -> None:
        if hasattr(self._power, "line"):
            self._power.line.close()
