"""A virtual machine that is made for trying things out on a host, and removed afterwards."""

import logging
import re
import secrets
import time
from collections.abc import Callable
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
    base: str | None  # the host's upload_folder, for the commands that remove what is left

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
        try:
            keep_trying(self._try_to_remove)
        except HostError as error:
            raise HostError(
                f"the machine {self.name} is left on {self.runner.host}: {error}; remove it there"
                f" with: {removal_command(self.name, self.base)}"
            ) from error

    def _try_to_remove(self) -> None:
        if self.vm.id not in {found.id for found in find_vms(self.runner)}:
            return
        found = self.vm.describe()
        if (found.name, found.notes) != (self.name, self.notes):
            raise HostError(f"{self.vm.id} is not the machine made here: it is {found.name}")
        self.turn_off()
        self.runner.run("remove-scratch", {"Id": self.vm.id})


def keep_trying(work: Callable[[], None]) -> None:
    """Do what may be done twice, again and again while the host cannot be reached."""
    deadline = time.monotonic() + REMOVE_TIMEOUT
    while True:
        try:
            return work()
        except UnreachableError as error:
            if time.monotonic() > deadline:
                raise
            log.info("%s; tried again", error)
            time.sleep(INTERVAL)


def make_scratch(runner: Runner, base: str | None = None) -> Scratch:
    """Make the machine. Where the answer does not come, a machine that was made is removed.

    `base` is the host's upload_folder.
    """
    token = secrets.token_hex(8)
    name = f"{NAME_PREFIX}{token}"
    notes = f"[bootgraft: made by doctor --settle for trials, {token}; may be removed]"
    asked: dict[str, JSON] = {"Name": name, "Notes": notes, "MemoryBytes": MEMORY}
    try:
        vm_id = ask(runner, "make-scratch", asked).text("Id").lower()
    except BaseException:
        _remove_half_made(runner, name)
        raise
    return Scratch(runner, Vm(runner, vm_id), name, notes, base)


def _remove_half_made(runner: Runner, name: str) -> None:
    """Remove a machine by its random name; it may still lack its notes."""

    def remove() -> None:
        for found in find_vms(runner):
            if found.name == name:
                runner.run("remove-scratch", {"Id": found.id})

    try:
        keep_trying(remove)
    except HostError as error:
        command = f"Remove-VM -Name {name} -Force"
        log.warning("%s may be left on %s: %s; remove it: %s", name, runner.host, error, command)


def find_leftovers(runner: Runner) -> list[str]:
    """Find machines that an earlier trial was kept from removing, by their names."""
    return [found.name for found in find_vms(runner) if found.name.startswith(NAME_PREFIX)]


def removal_command(name: str, base: str | None) -> str:
    """Give the commands that remove a scratch machine by hand, and its ISOs."""
    return (
        f"$id = (Get-VM -Name {name}).Id; Stop-VM -Name {name} -TurnOff -Force;"
        f" Remove-VM -Name {name} -Force; {remove_folder_command(base, '$id')}"
    )


def remove_folder_command(base: str | None, vm_id: str) -> str:
    """Give the command that removes a machine's folder with its ISOs by hand."""
    above = "$env:ProgramData\\bootgraft" if base is None else _quoted(base.rstrip("\\"))
    return f'Remove-Item -Recurse -LiteralPath "{above}\\{vm_id}"'


def _quoted(text: str) -> str:
    """Give a text as it stands between double quotes of PowerShell."""
    return re.sub('([`$"\u201c\u201d\u201e])', r"`\1", text)
