"""What a modelled machine needs of whatever runs its guest (see power for the ones there are)."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from hyperv.vm import Vm


class PowerError(Exception):
    """The guest could not be started, or did not do what was asked."""


class Running(Protocol):
    """A guest that is on."""

    def open_com1(self) -> socket.socket | None:
        """The host's end of the guest's COM1, if the guest has anything to say there.

        It is asked for once, and only where COM1 leads to a pipe.
        """

    def change_medium(self, number: int, location: int, iso: Path | None) -> None:
        """Exchange the ISO in a DVD drive, or take it out."""

    def screen_size(self) -> tuple[int, int]:
        """Width and height of the screen in pixels."""

    def take_thumbnail(self, width: int, height: int) -> bytes:
        """The screen as RGB565, little-endian, width * height * 2 bytes."""

    def heartbeat(self) -> str | None:
        """What the guest's integration services say; None: what the machine's attribute says."""

    def reset(self) -> None:
        """Have the guest start anew."""

    def turn_off(self) -> None:
        """Cut the power; returns when the guest is gone and its end of COM1 closed."""


class Power(Protocol):
    """What starts guests, and keeps their disks."""

    merges_live: bool  # whether disks can be merged while the guest runs, as Hyper-V does it

    def start(self, vm: "Vm", ended: Callable[[], None]) -> Running:
        """Start the guest of a machine; `ended` is called if it switches itself off.

        Raises PowerError.
        """

    def fork_disk(self, base: Path, overlay: Path) -> None:
        """Make `overlay` the file that takes all further writes to `base`."""

    def merge_disk(self, overlay: Path, base: Path, child: Path | None) -> None:
        """Bring what was written to `overlay` into `base`; removes `overlay`.

        `child` is the file that goes on from `overlay`, and then goes on from `base`.
        """
