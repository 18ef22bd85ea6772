"""A machine: one virtual machine as the controller sees it, whatever runs it.

Power, DVD drives, boot order, network adapter, COM1 and screen. Changes of the machine are changes
of its persistent configuration, made while it is off: `capture` reads that configuration,
`attach` turns it into the one for our ISOs, `detach` brings the captured one back.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from bootgraft_agent.errors import BootgraftError
from bootgraft_agent.wire import JSON
from bootgraft_host.link import Link

Configuration: TypeAlias = Mapping[str, JSON]
State: TypeAlias = Literal["off", "running", "other"]


class MachineError(BootgraftError):
    """The machine did not do what was asked; the message says what, and what to do."""


class ConfigurationError(MachineError):
    """A machine's description is wrong; the message names the file and the key."""

    exit_status = 2


@dataclass(frozen=True, slots=True)
class Media:
    """The ISOs of a run: ours, and, unless only a look is wanted, the payload."""

    live_iso: Path
    payload_iso: Path | None

    @property
    def isos(self) -> tuple[Path, ...]:
        """The ISOs in the order of their DVD drives."""
        return (self.live_iso,) if self.payload_iso is None else (self.live_iso, self.payload_iso)


class Machine(Protocol):
    """What the steps of a run need of a machine. Whatever fails raises MachineError."""

    @property
    def machine_id(self) -> str:
        """The same for the same machine at all times; safe as a directory's name."""

    @property
    def name(self) -> str:
        """What people call the machine."""

    def claim(self) -> AbstractContextManager[None]:
        """Keep every other controller away from the machine, whatever its state directory.

        Raises MachineError where one is at work. The claim goes with the process, however it ends.
        """

    def has_com1(self) -> bool:
        """Whether the guest has a serial port of its own, not only during a run."""

    def state(self) -> State:
        """Read whether the machine is off, running, or something else (paused, crashed)."""

    def problems(self, media: Media) -> tuple[str, ...]:
        """Say what would stand in a run's way; changes nothing."""

    def capture(self) -> Configuration:
        """Read everything that attach may change, enough to restore it exactly."""

    def attach(self, media: Media) -> None:
        """Prepare the machine for a boot of the live ISO; done twice it is done once.

        The live ISO is in the lowest DVD slot, a payload ISO in a second drive, which is added
        where there is none; DVD boots first; a network adapter becomes a legacy one with the same
        MAC address; COM1 leads to us.
        """

    def detach(self, captured: Configuration, *, keep_adapter: bool) -> None:
        """Restore what `capture` read, all but the adapter where it is kept; idempotent.

        What somebody else has changed meanwhile stays, once nothing of attach's is left.
        """

    def start(self) -> None:
        """Switch the machine on."""

    def turn_off(self) -> None:
        """Cut the power, whatever the guest is doing; a machine that is off stays so."""

    def wait_off(self, timeout: float) -> bool:
        """Wait until the machine is off; False where it still is not after `timeout` seconds."""

    def open_serial(
        self, timeout: float, *, transcript: Callable[[bytes], None] | None = None
    ) -> Link:
        """Connect to COM1 within `timeout` seconds; `transcript` gets all that the guest sends."""

    def take_screenshot(self, path: Path) -> None:
        """Write a picture of the screen, a PNG file."""

    def read_screen_text(self) -> str | None:
        """Read the text on the screen; None where it cannot be had, as in a graphics mode."""

    def close(self) -> None:
        """Let go of what this object holds; the machine itself goes on as it is."""
