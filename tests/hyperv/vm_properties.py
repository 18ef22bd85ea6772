"""The properties of a modelled virtual machine, as the module's VirtualMachine has them.

Windows Server 2012 R2 and 2016 lack some, which scripts must not take for granted.
"""

from typing import TYPE_CHECKING, ClassVar

from hyperv.enums import HEARTBEAT, VM_STATE
from hyperv.model_object import ModelObject, Readers

if TYPE_CHECKING:
    from hyperv.vm import Vm

CAME_LATER = {
    "2012R2": {"AutomaticCheckpointsEnabled", "CheckpointType"},
    "2016": {"AutomaticCheckpointsEnabled"},
}
CONFIGURATION_VERSIONS = {"2012R2": "5.0", "2016": "8.0", "2019": "9.0", "2022": "10.0"}


class TimeSpan(ModelObject):
    """System.TimeSpan."""

    type_name = "System.TimeSpan"
    readers: ClassVar[Readers] = {
        "TotalSeconds": lambda span: span.seconds,
        "TotalMilliseconds": lambda span: span.seconds * 1000,
    }

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


def _heartbeat(vm: "Vm") -> object:
    """None while the machine is off, as the module's Heartbeat."""
    if vm.plain_state == "Off":
        return None
    said = vm.running.heartbeat() if vm.running is not None else None
    return HEARTBEAT.value(said or vm.guest_heartbeat)


def _status(vm: "Vm") -> str:
    return "Merging disks" if vm.unmerged else "Operating normally"


VM_READERS: Readers = {
    "Id": lambda vm: vm.id,
    "VMId": lambda vm: vm.id,
    "Name": lambda vm: vm.name,
    "VMName": lambda vm: vm.name,
    "Generation": lambda vm: vm.generation,
    "State": lambda vm: VM_STATE.value(vm.state),
    "Status": _status,
    "Notes": lambda vm: vm.notes,
    "Heartbeat": _heartbeat,
    "Uptime": lambda vm: TimeSpan(vm.uptime),
    "AutomaticStartAction": lambda vm: vm.start_action,
    "AutomaticStartDelay": lambda vm: vm.start_delay,
    "AutomaticStopAction": lambda vm: vm.stop_action,
    "AutomaticCheckpointsEnabled": lambda vm: vm.automatic_checkpoints,
    "CheckpointType": lambda vm: vm.checkpoint_type,
    "IsClustered": lambda vm: vm.clustered,
    "ReplicationState": lambda vm: vm.replication,
    "ParentSnapshotId": lambda vm: vm.parent_checkpoint and vm.parent_checkpoint.id,
    "ParentSnapshotName": lambda vm: vm.parent_checkpoint and vm.parent_checkpoint.name,
    "ComPort1": lambda vm: vm.com_ports[0],
    "ComPort2": lambda vm: vm.com_ports[1],
    "DVDDrives": lambda vm: vm.dvd_drives,
    "HardDrives": lambda vm: vm.hard_drives,
    "NetworkAdapters": lambda vm: list(vm.adapters),
    "MemoryStartup": lambda vm: vm.memory_mib << 20,
    "Version": lambda vm: CONFIGURATION_VERSIONS[vm.host.windows],
    "IsDeleted": lambda vm: vm.deleted,
}
_READERS_ON = {
    windows: {name: read for name, read in VM_READERS.items() if name not in missing}
    for windows, missing in CAME_LATER.items()
}


def readers_on(windows: str) -> Readers:
    """The properties on a host of this version."""
    return _READERS_ON.get(windows, VM_READERS)
