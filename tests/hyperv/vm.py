"""A modelled virtual machine: its settings, and the rules by which Hyper-V lets them change.

Where a rule is the PowerShell module's own, its class is named. That the BIOS, COM ports and
network adapters change only while the machine is off is an assumption, on the strict side.
"""

import threading
import time
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hyperv.adapters import LEGACY_LIMIT, NO_MAC, SYNTHETIC_LIMIT, NetworkAdapter
from hyperv.checkpoints import Checkpoint
from hyperv.com1 import ComPortLine
from hyperv.enums import BOOT_DEVICE, CHECKPOINT_TYPE, REPLICATION_STATE, START_ACTION, STOP_ACTION
from hyperv.hardware import (
    IDE_CONTROLLERS,
    LOCATIONS,
    ComPort,
    Drive,
    DvdDrive,
    HardDiskDrive,
    check_dvd_path,
    is_iso_path,
)
from hyperv.model_object import (
    ModelObject,
    Readers,
    access_denied,
    invalid_parameter,
    invalid_state,
    object_not_found,
    operation_failed,
)
from hyperv.running import Power, PowerError, Running
from hyperv.values import EnumValue, PowerShellError
from hyperv.vm_properties import VM_READERS, readers_on

if TYPE_CHECKING:
    from hyperv.model import SimulatedHost

GENERATION_1_DEVICES = ("CD", "IDE", "LegacyNetworkAdapter", "Floppy")
STARTABLE = ("Off", "Saved", "Paused", "FastSaved", "Hibernated")  # the module's VirtualMachine
STOPPABLE = ("Running", "Paused", "Saved", "FastSaved")


class Vm(ModelObject):
    """One virtual machine. Whoever changes it holds its lock, also while that takes long."""

    type_name = "Microsoft.HyperV.PowerShell.VirtualMachine"
    readers = VM_READERS

    def __init__(self, host: "SimulatedHost", name: str, generation: int, power: Power) -> None:
        self.host = host
        self.lock = threading.RLock()
        self.id = uuid.uuid4()
        self.name = name
        self.generation = generation
        self.power = power
        self.notes = ""
        self.start_action = START_ACTION.value("StartIfRunning")
        self.start_delay = 0
        self.stop_action = STOP_ACTION.value("Save")
        self.automatic_checkpoints = False
        self.checkpoint_type = CHECKPOINT_TYPE.value("Production")
        self.replication = REPLICATION_STATE.value("Disabled")
        self.clustered = False
        self.critical = False  # its health, as when its storage is gone
        self.startup_order = [BOOT_DEVICE.value(each) for each in GENERATION_1_DEVICES]
        self.num_lock = False
        self.memory_mib = 512
        self.drives: list[Drive] = []
        self.com_ports = (ComPort(self, 1), ComPort(self, 2))
        self.adapters: list[NetworkAdapter] = []
        self.checkpoints: list[Checkpoint] = []  # oldest first
        self.unmerged: list[Checkpoint] = []  # removed, but still in the chain of disks
        self.deleted = False
        self.guest_heartbeat = "NoContact"  # what the integration services say while it runs
        self.com1_answered_by_stranger = False
        self.plain_state = "Off"
        self._running: Running | None = None
        self._com1: ComPortLine | None = None
        self._started_at = 0.0
        self._starts = 0

    # What it is.

    def known_readers(self) -> Readers:
        return readers_on(self.host.windows)

    @property
    def state(self) -> str:
        """As the module's VirtualMachine.State: ill health gives a state of its own."""
        return f"{self.plain_state}Critical" if self.critical else self.plain_state

    @property
    def uptime(self) -> float:
        """Seconds since it was switched on."""
        return time.monotonic() - self._started_at if self.plain_state == "Running" else 0.0

    @property
    def controller(self) -> str:
        """The kind of controller that DVD drives are on."""
        return "IDE" if self.generation == 1 else "SCSI"

    @property
    def dvd_drives(self) -> list[DvdDrive]:
        """In the order of their slots."""
        found = [drive for drive in self.drives if isinstance(drive, DvdDrive)]
        return sorted(found, key=lambda drive: drive.slot)

    @property
    def hard_drives(self) -> list[HardDiskDrive]:
        """In the order of their slots."""
        found = [drive for drive in self.drives if isinstance(drive, HardDiskDrive)]
        return sorted(found, key=lambda drive: drive.slot)

    @property
    def parent_checkpoint(self) -> Checkpoint | None:
        return self.checkpoints[-1] if self.checkpoints else None

    def require_off(self) -> None:
        """Refuse what may be done only while the machine is off."""
        self.require_present()
        if self.plain_state != "Off":
            raise invalid_state()

    def require_present(self) -> None:
        """Refuse what is asked of an object whose machine was removed."""
        if self.deleted:
            raise object_not_found(f'The virtual machine "{self.name}" does not exist any more.')

    # Drives.

    def find_drive(self, controller: str, number: int, location: int) -> Drive | None:
        for drive in self.drives:
            if drive.slot == (controller, number, location):
                return drive
        return None

    def find_vacancy(self, number: int | None, location: int | None) -> tuple[int, int]:
        """The slot for a new DVD drive, as the module's FindControllerVacancy finds it."""
        numbers = range(IDE_CONTROLLERS if self.generation == 1 else 1)
        locations = range(LOCATIONS[self.controller])
        for each in numbers:
            for place in locations:
                wanted = number in {None, each} and location in {None, place}
                if wanted and self.find_drive(self.controller, each, place) is None:
                    return each, place
        raise object_not_found(
            "Cannot find a vacant location on a controller of the virtual machine."
        )

    def add_dvd_drive(self, number: int | None, location: int | None, path: str | None) -> DvdDrive:
        """Add a drive: on an IDE controller only while the machine is off."""
        self.require_present()
        if path:
            check_dvd_path(path)
        found_number, found_location = self.find_vacancy(number, location)
        if self.plain_state != "Off" and (self.generation == 1 or path):
            raise self._device_error("add", "Synthetic DVD Drive")
        drive = DvdDrive(self, self.controller, found_number, found_location, None)
        if path:
            self._check_medium(path)
            drive.path = path
        self.drives.append(drive)
        return drive

    def remove_dvd_drive(self, drive: DvdDrive) -> None:
        """Remove a drive: from an IDE controller only while the machine is off."""
        self.require_present()
        self._require_drive(drive)
        if self.plain_state != "Off" and self.generation == 1:
            raise self._device_error("remove", "Synthetic DVD Drive")
        self.drives.remove(drive)

    def set_medium(self, drive: DvdDrive, path: str | None) -> None:
        """Put an ISO in, or eject with an empty path; in any state, as Set-VMDvdDrive."""
        self.require_present()
        self._require_drive(drive)
        if path:
            check_dvd_path(path)
            self._check_medium(path)
        if self._running is not None:
            real = self.host.files.find(path) if path else None
            try:
                self._running.change_medium(drive.number, drive.location, real)
            except PowerError as error:
                raise operation_failed(
                    f"'{self.name}' failed to change the medium: {error}"
                ) from error
        drive.path = path or None

    def _require_drive(self, drive: DvdDrive) -> None:
        if drive not in self.drives:
            raise object_not_found("The DVD drive does not exist any more.")

    def _check_medium(self, path: str) -> None:
        """Refuse an ISO that is not there or that the machine's account may not read."""
        if not is_iso_path(path):
            return
        subject = (
            f"'{self.name}' failed to add device 'Virtual CD/DVD Disk'."
            f" (Virtual machine ID {str(self.id).upper()})"
        )
        if self.host.files.find_file(path) is None:
            raise object_not_found(
                f"{subject} Attachment '{path}' not found. Error: 'The system cannot find the"
                " file specified.'"
            )
        if not self.host.files.may_read(path, self.id):
            raise access_denied(
                f"{subject} User account does not have permission required to open attachment"
                f" '{path}'. Error: 'General access denied error' (0x80070005)."
            )

    def _device_error(self, action: str, device: str) -> PowerShellError:
        return invalid_state(
            f"Failed to {action} device '{device}'. '{self.name}' could not {action} it while"
            " running: Not supported (0x8004100C)."
        )

    # BIOS, COM ports, adapters.

    def require_bios(self) -> None:
        """As the module's GetBios."""
        self.require_present()
        if self.generation != 1:
            raise invalid_parameter(
                f'The operation is not supported on the generation 2 virtual machine "{self.name}".'
            )

    def set_startup_order(self, order: Sequence[EnumValue]) -> None:
        """Set it; all four devices of generation 1, each once, and nothing else."""
        self.require_off()
        if sorted(each.name for each in order) != sorted(GENERATION_1_DEVICES):
            raise invalid_parameter("The startup order must name each of the four devices once.")
        self.startup_order = list(order)

    def add_adapter(self, name: str, *, legacy: bool) -> NetworkAdapter:
        """Add a network adapter, which has an Id of its own and a dynamic address."""
        self.require_off()
        same = [adapter for adapter in self.adapters if adapter.legacy == legacy]
        if len(same) >= (LEGACY_LIMIT if legacy else SYNTHETIC_LIMIT):
            raise operation_failed(f"'{self.name}' cannot have more network adapters of this kind.")
        if legacy and self.generation == 2:
            raise invalid_parameter("Generation 2 has no legacy network adapters.")
        adapter = NetworkAdapter(self, name, legacy=legacy)
        self.adapters.append(adapter)
        return adapter

    def require_adapter(self, adapter: NetworkAdapter) -> None:
        """Refuse an adapter that was removed, or a machine that is not off."""
        self.require_off()
        if adapter not in self.adapters:
            raise object_not_found("The network adapter does not exist any more.")

    # Power.

    def start(self) -> bool:
        """Switch it on; False where it was on already, which is a warning and no error.

        The states are those of the module's VirtualMachine.ChangeState.
        """
        with self.lock:
            self.require_present()
            if self.plain_state == "Running":
                return False
            if self.plain_state not in STARTABLE:
                raise invalid_state()
            before = self.plain_state
            if before == "Off":
                self._prepare_start()
            self.plain_state = "Starting"
            self._starts += 1
            number = self._starts
            try:
                self._running = self.power.start(self, lambda: self._ended(number))
                self._serve_com1(self._running)
            except PowerError as error:
                self._power_down(before)
                raise operation_failed(f"'{self.name}' failed to start. {error}") from error
            self._started_at = time.monotonic()
            self.plain_state = "Running"
            return True

    def _prepare_start(self) -> None:
        for drive in self.dvd_drives:
            if drive.path and is_iso_path(drive.path):
                self._check_start_medium(drive.path)
        for adapter in self.adapters:
            if adapter.dynamic_mac and adapter.mac == NO_MAC:
                adapter.mac = self.host.next_mac()
        if self.automatic_checkpoints:
            self._remove_automatic_checkpoint()
            self.take_checkpoint(f"Automatic Checkpoint - {self.name}", automatic=True)

    def _check_start_medium(self, path: str) -> None:
        missing = self.host.files.find_file(path) is None
        if missing or not self.host.files.may_read(path, self.id):
            reason = (
                "The system cannot find the file specified"
                if missing
                else "General access denied error"
            )
            raise operation_failed(
                f"'{self.name}' failed to start. (Virtual machine ID {str(self.id).upper()})"
                f" Failed to add device 'Virtual CD/DVD Disk': '{path}': {reason}."
            )

    def _serve_com1(self, running: Running) -> None:
        name = self.com_ports[0].pipe_name
        self._com1 = None
        if name is not None:
            self._com1 = ComPortLine(self.host.pipes, name, running.open_com1())
        self.com1_answered_by_stranger = self._com1 is not None and self._com1.answered_by_stranger

    def turn_off(self) -> bool:
        """Cut the power; False where it was off already, a warning as in ChangeState.

        As in the module's StopVM, an automatic checkpoint goes with it.
        """
        with self.lock:
            self.require_present()
            if self.plain_state == "Off":
                return False
            if self.plain_state not in STOPPABLE:
                raise invalid_state()
            self._power_down("Off")
            self._remove_automatic_checkpoint()
            return True

    def save(self) -> None:
        """Save its state, as Stop-VM -Save and a host that shuts down do."""
        with self.lock:
            if self.plain_state not in ("Running", "Paused"):
                raise invalid_state()
            self._power_down("Saved")

    def pause(self) -> None:
        """Hold the guest up, as far as the model goes: only the state says so."""
        with self.lock:
            if self.plain_state != "Running":
                raise invalid_state()
            self.plain_state = "Paused"

    def reset(self) -> None:
        """The guest starts anew: the pipe's client is disconnected, the pipe stays."""
        with self.lock:
            if self._com1 is not None:
                self._com1.disconnect()
            if self._running is not None:
                self._running.reset()

    def _power_down(self, state: str) -> None:
        self._starts += 1  # nothing that the guest still says about its end counts
        running, self._running = self._running, None
        if running is not None:
            running.turn_off()
        self._end_com1()
        self.plain_state = state
        if not self.host.merges_slowly:
            self.finish_merges()

    def _ended(self, number: int) -> None:
        """The guest has switched itself off; called by the power, which is not kept waiting."""
        threading.Thread(target=self._settle_end, args=(number,), daemon=True).start()

    def _settle_end(self, number: int) -> None:
        with self.lock:
            if number == self._starts:
                self._power_down("Off")

    def _end_com1(self) -> None:
        line, self._com1 = self._com1, None
        if line is not None:
            line.end()

    @property
    def running(self) -> Running | None:
        """Its guest, while it is on."""
        return self._running

    # Checkpoints.

    def take_checkpoint(self, name: str, *, automatic: bool = False) -> Checkpoint:
        """Freeze the disks: each goes on in a file that holds what differs."""
        self.require_present()
        if self.plain_state not in ("Off", "Running", "Saved", "Paused"):
            raise invalid_state()
        checkpoint = Checkpoint(self, name, automatic=automatic)
        try:
            checkpoint.freeze()
        except PowerError as error:
            raise operation_failed(f"Checkpoint operation failed. {error}") from error
        self.checkpoints.append(checkpoint)
        return checkpoint

    def remove_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Remove one; its disks are merged at once, or in the background (host.merges_slowly)."""
        self.require_present()
        if checkpoint not in self.checkpoints:
            raise object_not_found("The checkpoint does not exist any more.")
        self.checkpoints.remove(checkpoint)
        self.unmerged.append(checkpoint)
        if not self.host.merges_slowly:
            self.finish_merges()

    def finish_merges(self) -> None:
        """Merge what was frozen for checkpoints that are gone, unless it must wait."""
        with self.lock:
            while self.unmerged and (self._running is None or self.power.merges_live):
                try:
                    self.unmerged.pop().merge()
                except PowerError as error:
                    raise operation_failed(f"The disks cannot be merged. {error}") from error

    def _remove_automatic_checkpoint(self) -> None:
        for checkpoint in [each for each in self.checkpoints if each.automatic]:
            self.remove_checkpoint(checkpoint)
