"""A virtual machine that is made for trying things out on a host, and removed afterwards."""

import logging
import secrets
import time
from dataclasses import dataclass

from bootgraft_agent.wire import JSON
from bootgraft_host.hyperv.changes import Changes, Hardware, plan_changes
from bootgraft_host.hyperv.description import Slot
from bootgraft_host.hyperv.host_files import ask
from bootgraft_host.hyperv.runner import HostError, Runner, UnreachableError
from bootgraft_host.hyperv.vm import Vm, find_vms

NAME_PREFIX = "bootgraft-settle-"
MEMORY = 512 << 20  # bytes
OFF_TIMEOUT = 60.0  # seconds
REMOVE_TIMEOUT = 120.0  # seconds in which an unreachable host may come back
INTERVAL = 1.0  # seconds between looks
MAX_ROUNDS = 4  # of changes until the machine is as wanted

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Scratch:
    """The machine; `name` is random, and tells it, with its notes, from everybody else's."""

    runner: Runner
    vm: Vm
    name: str
    notes: str

    def bring_to(self, wanted: Hardware) -> None:
        """Have its hardware as wanted; it is off."""
        for _ in range(MAX_ROUNDS):
            changes = plan_changes(self.vm.describe(), wanted)
            if not changes:
                return
            self.vm.change(changes)
        raise HostError(f"{self.name} does not become as wanted: {changes.describe()}")

    def connect_com_port(self, number: int, path: str | None) -> None:
        """Set a COM port's path, to whatever is tried out."""
        ports: JSON = [{"Number": number, "Path": path}]
        self.runner.run("change", {**Changes().to_request(self.vm.id), "ComPorts": ports})

    def com_port(self, number: int) -> str:
        """Read a COM port's path."""
        ports = self.vm.describe().com_ports
        return next(port.path for port in ports if port.number == number)

    def insert(self, slot: Slot, path: str | None) -> None:
        """Insert an ISO, or eject what is there, also while the machine runs."""
        asked: dict[str, JSON] = {
            "Id": self.vm.id,
            "ControllerNumber": slot.controller_number,
            "ControllerLocation": slot.controller_location,
            "Path": path,
        }
        self.runner.run("insert", asked)

    def turn_off(self) -> None:
        """Cut its power, and wait until it is off."""
        deadline = time.monotonic() + OFF_TIMEOUT
        if self.vm.read_state().state != "Off":
            self.vm.turn_off()
        while (state := self.vm.read_state().state) != "Off":
            if time.monotonic() > deadline:
                raise HostError(f"{self.name} is {state} {OFF_TIMEOUT:.0f} s after it was cut off")
            time.sleep(INTERVAL)

    def remove(self) -> None:
        """Turn it off and remove it. Raises HostError, which says how to do it by hand."""
        deadline = time.monotonic() + REMOVE_TIMEOUT
        while True:
            try:
                self._try_to_remove()
            except UnreachableError as error:
                if time.monotonic() > deadline:
                    raise self._left(error) from error
                time.sleep(INTERVAL)
            except HostError as error:
                raise self._left(error) from error
            else:
                return

    def _try_to_remove(self) -> None:
        if self.vm.id not in {found.id for found in find_vms(self.runner)}:
            return
        found = self.vm.describe()
        if (found.name, found.notes) != (self.name, self.notes):
            raise HostError(f"{self.vm.id} is not the machine made here: it is {found.name}")
        self.turn_off()
        self.runner.run("remove-scratch", {"Id": self.vm.id})

    def _left(self, error: HostError) -> HostError:
        return HostError(
            f"the machine {self.name} is left on {self.runner.host}: {error}; remove it there with:"
            f" {removal_command(self.name)}"
        )


def make_scratch(runner: Runner) -> Scratch:
    """Make the machine. Where the answer does not come, a machine that was made is removed."""
    token = secrets.token_hex(8)
    name = f"{NAME_PREFIX}{token}"
    notes = f"[bootgraft: made by doctor --settle for trials, {token}; may be removed]"
    asked: dict[str, JSON] = {"Name": name, "Notes": notes, "MemoryBytes": MEMORY}
    try:
        vm_id = ask(runner, "make-scratch", asked).text("Id").lower()
    except BaseException:
        _remove_half_made(runner, name)
        raise
    return Scratch(runner, Vm(runner, vm_id), name, notes)


def _remove_half_made(runner: Runner, name: str) -> None:
    """Remove a machine by its random name; it may still lack its notes."""
    try:
        for found in find_vms(runner):
            if found.name == name:
                runner.run("remove-scratch", {"Id": found.id})
    except HostError as error:
        log.warning("%s may be left on %s: %s", name, runner.host, error)


def find_leftovers(runner: Runner) -> list[str]:
    """Find machines that an earlier trial was kept from removing, by their names."""
    return [found.name for found in find_vms(runner) if found.name.startswith(NAME_PREFIX)]


def removal_command(name: str) -> str:
    """Give the commands that remove a scratch machine by hand."""
    return f"Stop-VM -Name {name} -TurnOff -Force; Remove-VM -Name {name} -Force"
