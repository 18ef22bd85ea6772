"""Switching the machine off, or starting it again. The hardware's clock is not written.

Source: Linux, include/uapi/linux/reboot.h.
"""

import ctypes
import os
import threading

SYNC_TIMEOUT = 30.0  # seconds; a disk that does not answer any more holds nobody up
_POWER_OFF = 0x4321FEDC
_RESTART = 0x01234567


def power_off() -> None:
    """Write everything out and switch the machine off."""
    _reboot(_POWER_OFF)


def restart() -> None:
    """Write everything out and start the machine again."""
    _reboot(_RESTART)


class MachinePower:
    """The switch of the machine that this runs in."""

    def off(self) -> None:
        """Switch the machine off."""
        power_off()

    def restart(self) -> None:
        """Start the machine again."""
        restart()


def _reboot(command: int) -> None:
    writing = threading.Thread(target=os.sync, daemon=True)
    writing.start()
    writing.join(SYNC_TIMEOUT)
    ctypes.CDLL(None).reboot(command)
