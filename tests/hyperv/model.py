"""The modelled Hyper-V host: machines, files, pipes, and what scripts can name of them.

host = SimulatedHost(folder)
vm = host.add_vm("appliance")
DirectRunner(host).run("start", {"Id": str(vm.id)})
"""

import json
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from bootgraft_host.hyperv.runner import read_script
from hyperv import cmdlets_adapters, cmdlets_checkpoints, cmdlets_devices, cmdlets_vm
from hyperv.adapters import Nic, VirtualSwitch, normalize_mac
from hyperv.dotnet import dotnet_types
from hyperv.files import PROGRAM_DATA, USER_TEMP, Files
from hyperv.hardware import Disk, Dvd, DvdDrive, HardDiskDrive
from hyperv.host_cmdlets import host_commands
from hyperv.model_object import invalid_state, operation_failed
from hyperv.open_files import OpenFiles
from hyperv.pipes import Pipes
from hyperv.power import NoPower
from hyperv.powershell import run_script
from hyperv.running import Power
from hyperv.values import Command, Session, World
from hyperv.vlan import Vlan
from hyperv.vm import Vm
from hyperv.wmi import wmi_commands

Windows = Literal["2012R2", "2016", "2019", "2022"]

MAC_PREFIX = "00155D0A14"  # Microsoft's, then two bytes of the host's own
MAC_POOL = 256  # addresses
DEFAULT_SWITCHES = ("LAN", "Backup")


class SimulatedHost:
    """A Windows host with the Hyper-V role.

    `fault` is called with a cmdlet's name before it runs, and with "NAME done" after it; what it
    raises comes out of the script's run. What the host is and who runs scripts on it are plain
    attributes, for tests to set.
    """

    def __init__(
        self,
        folder: Path,
        *,
        windows: Windows = "2022",
        fault: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.windows: Windows = windows
        self.fault = fault
        self.lock = threading.RLock()
        self.files = Files(folder)
        self.open_files = OpenFiles(self._held_files)
        self.pipes = Pipes()
        self.switches = [VirtualSwitch(name) for name in DEFAULT_SWITCHES]
        self.vms: dict[uuid.UUID, Vm] = {}
        self.warnings: list[str] = []  # that cmdlets wrote
        self.merges_slowly = False  # whether disks wait for finish_merges
        self.at_reboot: list[Callable[[], None]] = []  # called when the host goes down
        self.computer_name = "HV1"
        self.user = "HV1\\Administrator"
        self.user_sid = "S-1-5-21-1004336348-1177238915-682003330-500"
        self.group_sids = ["S-1-1-0", "S-1-5-32-544", "S-1-5-32-578", "S-1-5-2", "S-1-5-11"]
        self.default_generation = 1  # of New-VM
        self.confirm_preference: Literal["High", "Low"] = "High"  # of all sessions
        self.has_module = True
        self._next_mac = 0

    # Machines.

    def add_vm(
        self,
        name: str,
        *,
        generation: int = 1,
        hard_drives: Sequence[Disk | str] | None = None,
        dvd_drives: Sequence[Dvd] = (Dvd(),),
        adapters: Sequence[Nic] = (Nic(),),
        memory_mib: int = 512,
        power: Power | None = None,
        **settings: object,
    ) -> Vm:
        r"""Make a machine that is off, with its disks' files where they do not exist.

        `settings` are attributes of Vm. Without `hard_drives` there is one, C:\VMs\NAME.vhdx; a
        bare path goes to the next free slot.
        """
        vm = Vm(self, name, generation, power or NoPower())
        vm.memory_mib = memory_mib
        if hard_drives is None:
            hard_drives = (f"C:\\VMs\\{name}.vhdx",)
        for dvd in dvd_drives:
            place = (vm, vm.controller, dvd.number, dvd.location, dvd.path)
            vm.drives.append(DvdDrive(*place))
        for disk in hard_drives:
            self._add_disk(vm, disk)
        for nic in adapters:
            self._add_adapter(vm, nic)
        for attribute, value in settings.items():
            if not hasattr(vm, attribute):
                raise AttributeError(f"Vm has no {attribute}")
            setattr(vm, attribute, value)
        with self.lock:
            self.vms[vm.id] = vm
        return vm

    def _add_disk(self, vm: Vm, disk: Disk | str) -> None:
        if isinstance(disk, str):
            number, location = _first_free(vm)
            disk = Disk(disk, number, location, "IDE" if vm.generation == 1 else "SCSI")
        place = (vm, disk.controller, disk.number, disk.location, disk.path)
        vm.drives.append(HardDiskDrive(*place))
        if self.files.find(disk.path) is None:
            self.files.put(disk.path)

    def _add_adapter(self, vm: Vm, nic: Nic) -> None:
        adapter = vm.add_adapter(nic.name, legacy=nic.legacy)
        if nic.switch is not None:
            adapter.switch = next(each for each in self.switches if each.name == nic.switch)
        if nic.mac is not None:
            adapter.mac, adapter.dynamic_mac = normalize_mac(nic.mac), False
        if nic.vlan is not None:
            adapter.vlan = replace(Vlan(), mode="Access", access=nic.vlan)
        for attribute, value in nic.settings.items():
            if not hasattr(adapter, attribute):
                raise AttributeError(f"NetworkAdapter has no {attribute}")
            setattr(adapter, attribute, value)

    def remove_vm(self, vm: Vm) -> None:
        """Remove a machine that is off; its disks' files stay."""
        with vm.lock, self.lock:
            vm.require_present()
            if vm.plain_state not in ("Off", "Saved"):
                raise invalid_state()
            vm.deleted = True
            del self.vms[vm.id]

    def sorted_vms(self) -> list[Vm]:
        """The machines by their names, in any case, as Get-VM gives them."""
        with self.lock:
            found = list(self.vms.values())
        return sorted(found, key=lambda vm: vm.name.lower())

    def find_vm(self, name: str) -> Vm:
        """The one machine of a name, for tests."""
        (found,) = (vm for vm in self.sorted_vms() if vm.name == name)
        return found

    def next_mac(self) -> str:
        """The next address of the pool for dynamic addresses."""
        with self.lock:
            used = {adapter.mac for vm in self.vms.values() for adapter in vm.adapters}
            for _ in range(MAC_POOL):
                mac = f"{MAC_PREFIX}{self._next_mac % MAC_POOL:02X}"
                self._next_mac += 1
                if mac not in used:
                    return mac
        raise operation_failed("The pool of dynamic MAC addresses is exhausted.")

    def finish_merges(self) -> None:
        """Do what the host does in the background after a checkpoint was removed."""
        for vm in self.sorted_vms():
            vm.finish_merges()

    def _held_files(self) -> Iterator[Path]:
        """The ISOs that running machines have open."""
        for vm in self.sorted_vms():
            if vm.plain_state in ("Starting", "Running", "Paused", "Stopping"):
                for drive in vm.dvd_drives:
                    found = self.files.find_file(drive.path) if drive.path else None
                    if found is not None:
                        yield found

    # What scripts see.

    def world(self, *, watched: bool = True) -> World:
        """What scripts can name; `watched` tells `fault` of each cmdlet."""
        world = World(
            environment={
                "COMPUTERNAME": self.computer_name,
                "ProgramData": PROGRAM_DATA,
                "TEMP": USER_TEMP,
                "SystemRoot": "C:\\Windows",
            }
        )
        modules = (cmdlets_vm, cmdlets_devices, cmdlets_adapters, cmdlets_checkpoints)
        commands = [cmdlet.command(self) for module in modules for cmdlet in module.CMDLETS]
        commands += [*host_commands(self), *wmi_commands(self)]
        world.add_commands(*(map(self._watch, commands) if watched else commands))
        world.add_types(*dotnet_types(self))
        return world

    def _watch(self, command: Command) -> Command:
        def run(session: Session, given: dict[str, object]) -> Iterable[object]:
            self.fault(command.name)
            output = list(command.run(session, given))
            self.fault(f"{command.name} done")
            return output

        return replace(command, run=run)

    def describe(self, vm: Vm) -> dict[str, Any]:
        """The whole description of a machine, as the describe script gives it."""
        asked = {"Id": str(vm.id), "WithBios": vm.generation == 1}
        session = Session(self.world(watched=False))
        (text,) = run_script(read_script("describe"), {"Request": json.dumps(asked)}, session)
        (description,) = json.loads(str(text))
        return dict(description)

    # The host's own life.

    def reboot(self) -> None:
        """Go down and come up: pipes and open files are gone, machines as their actions say.

        `at_reboot` ends what belongs to others, such as the shells of an endpoint.
        """
        was_running = [vm for vm in self.sorted_vms() if vm.plain_state == "Running"]
        for vm in was_running:
            if vm.stop_action.name == "Save":
                vm.save()
            else:
                vm.turn_off()
        for end in self.at_reboot:
            end()
        self.pipes.close_all()
        self.open_files.close_all()
        for vm in self.sorted_vms():
            action = vm.start_action.name
            if action == "Start" or (action == "StartIfRunning" and vm in was_running):
                vm.start()


def _first_free(vm: Vm) -> tuple[int, int]:
    taken = {(drive.number, drive.location) for drive in vm.drives}
    slots = ((number, location) for number in (0, 1) for location in (0, 1))
    return next(slot for slot in slots if slot not in taken)
