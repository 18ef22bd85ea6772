"""Checkpoints of a modelled machine, and the chain of disk files that they leave behind."""

import datetime
import uuid
from typing import TYPE_CHECKING, ClassVar

from hyperv.enums import SNAPSHOT_TYPE, VM_STATE
from hyperv.hardware import HardDiskDrive
from hyperv.model_object import ModelObject, Readers

if TYPE_CHECKING:
    from hyperv.vm import Vm


class Checkpoint(ModelObject):
    """A checkpoint: what was written before it stays in the files of then."""

    type_name = "Microsoft.HyperV.PowerShell.VMSnapshot"
    readers: ClassVar[Readers] = {
        "Id": lambda checkpoint: checkpoint.id,
        "Name": lambda checkpoint: checkpoint.name,
        "VMId": lambda checkpoint: checkpoint.vm.id,
        "VMName": lambda checkpoint: checkpoint.vm.name,
        "SnapshotType": lambda checkpoint: SNAPSHOT_TYPE.value("Standard"),
        "IsAutomaticCheckpoint": lambda checkpoint: checkpoint.automatic,
        "CreationTime": lambda checkpoint: checkpoint.created,
        "State": lambda checkpoint: VM_STATE.value(checkpoint.state),
    }

    def __init__(self, vm: "Vm", name: str, *, automatic: bool) -> None:
        self.vm = vm
        self.id = uuid.uuid4()
        self.name = name
        self.automatic = automatic
        self.created = datetime.datetime.now(tz=datetime.UTC)
        self.state = "Off" if vm.plain_state == "Off" else "Saved"
        self._frozen: dict[HardDiskDrive, tuple[str, str]] = {}  # the file before, and after

    def freeze(self) -> None:
        """Have each drive go on in a differencing file: NAME_GUID.avhdx beside NAME.vhdx."""
        for drive in self.vm.hard_drives:
            if drive.path is None:
                continue
            stem, _, suffix = drive.path.rpartition(".")
            if suffix.lower().startswith("a"):
                stem = stem.rpartition("_")[0]
            kind = "avhd" if suffix.lower() in ("vhd", "avhd") else "avhdx"
            overlay = f"{stem}_{str(self.id).upper()}.{kind}"
            files = self.vm.host.files
            self.vm.power.fork_disk(files.locate(drive.path), files.locate(overlay))
            self._frozen[drive] = (drive.path, overlay)
            drive.path = overlay

    def merge(self) -> None:
        """Bring what was written since into the file of before, which takes its place.

        Where a later checkpoint was made, its file becomes the earlier one's successor.
        """
        files = self.vm.host.files
        later = (*self.vm.checkpoints, *self.vm.unmerged)
        for drive, (before, after) in self._frozen.items():
            next_one = next((each for each in later if each.starts_from(drive, after)), None)
            child = None if next_one is None else files.locate(next_one._frozen[drive][1])
            self.vm.power.merge_disk(files.locate(after), files.locate(before), child)
            if next_one is not None:
                next_one._frozen[drive] = (before, next_one._frozen[drive][1])
            elif drive.path == after:
                drive.path = before

    def starts_from(self, drive: HardDiskDrive, path: str) -> bool:
        """Whether this checkpoint froze that file of the drive."""
        return self._frozen.get(drive, ("", ""))[0] == path
