"""What others do to a host and its machines while a run is at work on one."""

from collections.abc import Callable
from typing import Any

from hyperv.machines import ISO
from hyperv.scenes import Scene
from hyperv.values import PowerShellError

Happening = Callable[[Scene], object]
MINE = "C:\\ISOs\\mine.iso"
FOREIGN_MARK = (
    "[bootgraft: a run by elsewhere holds this machine since 2026-01-01T00:00Z, mark"
    f' {"5a" * 16}; "bootgraft recover" there restores it]'
)


def in_step(step: str, happening: Happening) -> Happening:
    """Have it happen when a step of the run begins."""
    return lambda scene: scene.in_step(step, lambda: happening(scene))


def at(moment: str, happening: Happening, number: int = 1) -> Happening:
    """Have it happen at the n-th such moment on the host; see gates."""
    return lambda scene: scene.at(moment, lambda: happening(scene), number)


def fail(cmdlet: str, words: str, number: int = 1) -> Happening:
    """Have the n-th call of a cmdlet fail."""

    def refuse(_: Scene) -> None:
        raise PowerShellError(words, "OperationFailed", "NotSpecified")

    return at(f"Hyper-V\\{cmdlet}", refuse, number)


def nothing(_: Scene) -> None:
    """Let it be."""


# The host and the way to it.


def reboot(scene: Scene) -> None:
    scene.served.host.reboot()


def refuse_everybody(scene: Scene) -> None:
    scene.served.endpoint.refusal = 401


def let_in(scene: Scene) -> None:
    scene.served.endpoint.refusal = None


def fill_disk(scene: Scene) -> None:
    scene.served.host.files.available_bytes = 1000


def remove_uploads(scene: Scene) -> None:
    for path in scene.uploads():
        path.unlink()


def listen_first(scene: Scene) -> None:
    """Open COM1's pipe before the controller does, and keep it."""
    scene.served.host.pipes.connect(scene.pipe_name, 1.0)


def answer_first(scene: Scene) -> None:
    """Serve a pipe of the name that the machine is to serve."""
    stranger = scene.served.host.pipes.create(scene.pipe_name)
    scene.at("Hyper-V\\Stop-VM done", stranger.close)


# The machine.


def start(scene: Scene) -> None:
    scene.vm.start()


def turn_off(scene: Scene) -> None:
    scene.vm.turn_off()


def save(scene: Scene) -> None:
    scene.vm.save()


def pause(scene: Scene) -> None:
    scene.vm.pause()


def reset(scene: Scene) -> None:
    scene.vm.reset()


def delete(scene: Scene) -> None:
    scene.vm.turn_off()
    scene.served.host.remove_vm(scene.vm)


def rename(scene: Scene) -> None:
    scene.vm.name = "renamed"


def take_checkpoint(scene: Scene) -> None:
    with scene.vm.lock:
        scene.vm.take_checkpoint("mine")


def lead_com1_away(scene: Scene) -> None:
    scene.vm.com_ports[0].path = "\\\\.\\pipe\\mine"


def mark(scene: Scene) -> None:
    scene.vm.notes += FOREIGN_MARK


def unmark(scene: Scene) -> None:
    scene.vm.notes = scene.vm.notes.replace(FOREIGN_MARK, "")


def forget_marks(scene: Scene) -> None:
    scene.vm.notes = "keep"


def insert(drive: int) -> Happening:
    """Put another ISO into a drive."""

    def happen(scene: Scene) -> None:
        scene.served.host.files.put(MINE, ISO)
        scene.vm.set_medium(scene.vm.dvd_drives[drive], MINE)

    return happen


# What stays of it.


def checkpoint_stays(scene: Scene) -> dict[str, Any]:
    after = scene.describe()
    assert [each["Name"] for each in after["Checkpoints"]] == ["mine"]
    return {name: after[name] for name in ("Checkpoints", "HardDrives")}


def iso_stays(scene: Scene) -> dict[str, Any]:
    after = scene.describe()
    assert MINE in {drive["Path"] for drive in after["DvdDrives"]}
    return {"DvdDrives": after["DvdDrives"]}


def com1_stays(scene: Scene) -> dict[str, Any]:
    after = scene.describe()
    assert after["ComPorts"][0]["Path"] == "\\\\.\\pipe\\mine"
    return {"ComPorts": after["ComPorts"]}


def name_stays(_: Scene) -> dict[str, Any]:
    return {"Name": "renamed"}
