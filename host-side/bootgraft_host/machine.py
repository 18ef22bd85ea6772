"""A machine: one virtual machine as the controller sees it, whatever runs it.

Power, DVD drives, boot order, network adapter, COM1 and screen. Changes of the machine are changes
of its persistent configuration, made while it is off: `capture` reads that configuration,
`attach` turns it into the one for our ISOs, `detach` brings the captured one back.

A machine that this computer runs reads ISOs from paths here; one that another host runs reads them
from paths there, where `prepare_media` can copy ours.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from bootgraft_agent.errors import BootgraftError
from bootgraft_agent.wire import JSON
from bootgraft_host.link import Link
from bootgraft_host.replies import Progress

Configuration: TypeAlias = Mapping[str, JSON]
State: TypeAlias = Literal["off", "running", "other"]


class MachineError(BootgraftError):
    """The machine did not do what was asked; the message says what, and what to do."""


class NotOursError(MachineError):
    """The machine is somebody else's just now, and what was asked could harm them."""


class MachineGoneError(MachineError):
    """The machine is not where it was any more: it was deleted, or moved."""


class ConfigurationError(MachineError):
    """A machine's description is wrong; the message names the file and the key."""

    exit_status = 2


@dataclass(frozen=True, slots=True)
class Media:
    """The ISOs of a run: ours, and, unless only a look is wanted, the payload.

    The paths are the machine's host's, or, with `upload`, ours until `prepare_media` has copied
    them. With `one_drive` both ISOs have the same drive, one after the other.
    """

    live_iso: Path
    payload_iso: Path | None
    one_drive: bool = False
    upload: bool = False

    @property
    def isos(self) -> tuple[Path, ...]:
        """All ISOs."""
        return (self.live_iso,) if self.payload_iso is None else (self.live_iso, self.payload_iso)

    @property
    def attached(self) -> tuple[Path, ...]:
        """The ISOs that attach inserts, in the order of their DVD drives."""
        return self.isos[:1] if self.one_drive else self.isos


class Machine(Protocol):
    """What the steps of a run need of a machine. Whatever fails raises MachineError."""

    @property
    def machine_id(self) -> str:
        """The same for the same machine at all times; safe as a directory's name."""

    @property
    def name(self) -> str:
        """What people call the machine."""

    @property
    def target(self) -> str:
        """What names the machine on a command line, from wherever and whenever it is given."""

    def claim(self) -> AbstractContextManager[None]:
        """Keep every other controller away from the machine, whatever its state directory.

        Raises RefusedError where one is at work. The claim goes with the process, however it ends.
        """

    def has_com1(self) -> bool:
        """Whether the guest has a serial port of its own, not only during a run."""

    def lends_com1(self) -> bool:
        """Whether `prepare_confirm` can lead the COM1 of a machine without its own to us."""

    def state(self) -> State:
        """Read whether the machine is off, running, or something else (paused, crashed)."""

    def problems(self, media: Media) -> tuple[str, ...]:
        """Say what would stand in a run's way; changes nothing."""

    def remarks(self, media: Media) -> tuple[str, ...]:
        """Say what a person should know of this run and what stands in nobody's way."""

    def held_by_others(self) -> str | None:
        """Say which run of another controller holds the machine, and what to do; None: none does.

        Machines of this computer need no mark for that: `claim` and the records here tell.
        """

    def capture(self) -> Configuration:
        """Read everything that attach may change, enough to restore it exactly."""

    def prepare_media(self, media: Media, tell: Callable[[Progress], None]) -> Media:
        """Copy the ISOs to where the machine can read them, and give their paths there.

        What is there already is not copied again. Without `media.upload` they are there: `media` is
        returned. `detach` removes the copies.
        """

    def attach(self, media: Media) -> None:
        """Prepare the machine for a boot of the live ISO; done twice it is done once.

        The live ISO is in the lowest DVD slot, a payload ISO in a second drive, which is added
        where there is none, unless they share one drive; DVD boots first; COM1 leads to us. A
        network adapter becomes a legacy one with the same MAC address, here or in `detach`.
        """

    def insert_payload(self, media: Media) -> None:
        """Exchange the live ISO for the payload ISO in its drive while the live system runs.

        That is for media that share one drive; done twice it is done once.
        """

    def detach(self, captured: Configuration, *, keep_adapter: bool) -> None:
        """Restore what `capture` read, all but the adapter where it is kept; idempotent.

        With `keep_adapter` the guest is grafted: the adapter is a legacy one then. What somebody
        else has changed meanwhile stays, once nothing of attach's or prepare_confirm's is left.
        """

    def take_media_out(self) -> tuple[str, ...]:
        """Empty every DVD drive and let the disk boot before it; say in words what was changed.

        That is for a machine whose owner put the ISOs in: `detach` restores what a run changed.
        """

    def prepare_confirm(self, *, com1: bool) -> None:
        """Prepare the machine, its media out, for a boot that is watched; `detach` takes it back.

        With `com1` its COM1, which is not connected, leads to us meanwhile.
        """

    def can_checkpoint(self) -> bool:
        """Whether the machine's host can take checkpoints of it."""

    def take_checkpoint(self, name: str) -> None:
        """Keep the machine as it is now, disks and configuration, under a name nobody has used."""

    def remove_checkpoint(self, name: str) -> None:
        """Remove a checkpoint and keep the present; one that is not there is removed already."""

    def how_to_use_checkpoint(self, name: str) -> str:
        """Name the commands, typed where the machine runs, that go back to it and remove it."""

    def start(self) -> None:
        """Switch the machine on."""

    def turn_off(self) -> None:
        """Cut the power, whatever the guest is doing; a machine that is off stays so.

        Raises NotOursError where the machine is on for somebody else.
        """

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

    def heartbeat(self) -> str | None:
        """Read what the guest's integration services say of it: "Ok..." while they are well.

        None where the guest has none that answer, or its host does not tell.
        """

    def close(self) -> None:
        """Let go of what this object holds; the machine itself goes on as it is."""
