"""The cmdlets for checkpoints."""

import datetime
import uuid
from collections.abc import Iterator

from hyperv.checkpoints import Checkpoint
from hyperv.cmdlets import MACHINES, NAMED_MACHINES, Call, Cmdlet, fits, pass_through
from hyperv.model_object import invalid_state, object_not_found
from hyperv.values import ArrayOf

_NOT_FOUND = "Hyper-V was unable to find the checkpoint."


def _checkpoint_vm(call: Call) -> Iterator[object]:
    for vm in call.machines():
        with vm.lock:
            if vm.checkpoint_type.name == "Disabled":
                raise invalid_state("Checkpoints have been disabled for this virtual machine.")
            moment = datetime.datetime.now(tz=datetime.UTC)
            default = f"{vm.name} - ({moment:%m/%d/%Y - %H:%M:%S})"
            checkpoint = vm.take_checkpoint(call.get("SnapshotName", str) or default)
        yield from pass_through(call, checkpoint)


def _get_snapshot(call: Call) -> Iterator[object]:
    """By Id or of machines, the oldest first. As GetVMSnapshot: none of a machine is no error."""
    if call.has("Id"):
        wanted = call.get("Id", uuid.UUID)
        every = (each for vm in call.host.sorted_vms() for each in vm.checkpoints)
        found = [each for each in every if each.id == wanted]
        if not found:
            raise object_not_found(_NOT_FOUND)
        yield from found
    else:
        yield from _of_machines(call)


def _of_machines(call: Call) -> list[Checkpoint]:
    found = [each for vm in call.machines() for each in vm.checkpoints]
    pattern = call.get("Name", str)
    if not pattern:
        return found
    fitting = [each for each in found if fits(pattern, each.name)]
    if not fitting:
        raise object_not_found(_NOT_FOUND)
    return fitting


def _remove_snapshot(call: Call) -> Iterator[object]:
    given = call.has("VMSnapshot")
    for checkpoint in call.items("VMSnapshot", Checkpoint) if given else _of_machines(call):
        with checkpoint.vm.lock:
            checkpoint.vm.remove_checkpoint(checkpoint)
        yield from pass_through(call, checkpoint)


CMDLETS = (
    Cmdlet(
        "Checkpoint-VM",
        _checkpoint_vm,
        {**NAMED_MACHINES, "SnapshotName": str},
        {"VM": (), "Name": ()},
        not_empty=("SnapshotName",),
    ),
    Cmdlet(
        "Get-VMSnapshot",
        _get_snapshot,
        {**MACHINES, "Id": uuid.UUID, "Name": str},
        {"VM": ("Name",), "VMName": ("Name",), "Id": ()},
        not_empty=("Name",),
    ),
    Cmdlet(
        "Remove-VMSnapshot",
        _remove_snapshot,
        {**MACHINES, "VMSnapshot": ArrayOf(Checkpoint), "Name": str},
        {"VMSnapshot": (), "VM": ("Name",), "VMName": ("Name",)},
    ),
)
