"""Guests of modelled machines that QEMU runs, from a vm.toml made of the model's hardware."""

import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import tomlkit
from PIL import Image

from bootgraft_host.machine import MachineError
from bootgraft_host.qemu import QemuMachine
from bootgraft_host.qemu_command import dvd_device_id
from bootgraft_host.qemu_process import Command, QemuProcess
from bootgraft_host.vmconfig import Slot
from hyperv.running import PowerError, Running

if TYPE_CHECKING:
    from hyperv.vm import Vm

FORMATS = {
    ".vhd": "vpc",
    ".vhdx": "vhdx",
    ".qcow2": "qcow2",
    ".avhd": "qcow2",  # what fork_disk makes: QEMU knows no differencing VHD
    ".avhdx": "qcow2",
}
BOOT_CLASSES = {"CD": "dvd", "IDE": "disk"}
CONNECT_TIMEOUT = 10.0  # seconds
WAIT_SLICE = 60.0  # seconds
IMAGE_TIMEOUT = 120.0  # seconds


class QemuPower:
    """Starts machines in QEMU; their vm.toml files are in `folder`.

    Checkpoints are taken while the machine is off; their disks wait for that, too, to be merged.
    """

    merges_live = False

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def start(self, vm: "Vm", ended: Callable[[], None]) -> Running:
        return QemuGuest(self._folder / str(vm.id), vm, ended)

    def fork_disk(self, base: Path, overlay: Path) -> None:
        what = ("-F", disk_format(base), "-b", str(base.resolve()))
        _run_image_program("create", "-q", "-f", "qcow2", *what, str(overlay))

    def merge_disk(self, overlay: Path, base: Path, child: Path | None) -> None:
        _run_image_program("commit", "-q", "-f", "qcow2", str(overlay))
        if child is not None:
            what = ("-F", disk_format(base), "-b", str(base.resolve()))
            _run_image_program("rebase", "-q", "-u", "-f", "qcow2", *what, str(child))
        overlay.unlink()


class QemuGuest:
    """One boot of a machine."""

    def __init__(self, folder: Path, vm: "Vm", ended: Callable[[], None]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # A socket's path is short, which the folder's need not be.
        self._runtime = Path(tempfile.mkdtemp(prefix="bootgraft-"))
        self._socket = self._runtime / "com1"
        config = folder / "vm.toml"
        config.write_text(tomlkit.dumps(describe_hardware(vm, self._socket)))
        try:
            self._machine = QemuMachine(config)
            self._process = QemuProcess(self._machine.machine_id)
            self._machine.start()
        except MachineError as error:
            shutil.rmtree(self._runtime)
            raise PowerError(str(error)) from error
        threading.Thread(target=self._watch, args=(ended,), daemon=True).start()

    def open_com1(self) -> socket.socket | None:
        """Connect to QEMU's socket, as the pipe's server."""
        line = socket.socket(socket.AF_UNIX)
        deadline = time.monotonic() + CONNECT_TIMEOUT
        while True:
            try:
                line.connect(str(self._socket))
            except OSError as error:
                if time.monotonic() > deadline or not self._process.is_running():
                    line.close()
                    raise PowerError(f"COM1 of QEMU: {error}") from error
                time.sleep(0.05)
            else:
                return line

    def change_medium(self, number: int, location: int, iso: Path | None) -> None:
        drive = dvd_device_id(Slot(number, location))
        command = Command("eject", {"id": drive})
        if iso is not None:
            arguments: dict[str, object] = {
                "id": drive,
                "filename": str(iso.resolve()),
                "format": "raw",
                "read-only-mode": "read-only",
            }
            command = Command("blockdev-change-medium", arguments)
        try:
            self._process.execute(command)
        except MachineError as error:
            raise PowerError(str(error)) from error

    def screen_size(self) -> tuple[int, int]:
        return self._take_picture().size

    def take_thumbnail(self, width: int, height: int) -> bytes:
        """As Hyper-V gives it: scaled to what was asked for."""
        picture = self._take_picture().convert("RGB").resize((width, height))
        red, green, blue = (band.tobytes() for band in picture.split())
        pixels = bytearray()
        for r, g, b in zip(red, green, blue, strict=True):
            pixels += ((r >> 3) << 11 | (g >> 2) << 5 | b >> 3).to_bytes(2, "little")
        return bytes(pixels)

    def heartbeat(self) -> str | None:
        return None

    def reset(self) -> None:
        """Reset it; the QEMU of a vm.toml ends instead of starting anew."""
        self._process.execute(Command("system_reset"))

    def turn_off(self) -> None:
        self._machine.turn_off()
        self._machine.close()
        shutil.rmtree(self._runtime, ignore_errors=True)

    def _take_picture(self) -> Image.Image:
        path = self._runtime / "screen.png"
        try:
            self._machine.take_screenshot(path)
        except MachineError as error:
            raise PowerError(str(error)) from error
        with Image.open(path) as picture:
            picture.load()
            return picture

    def _watch(self, ended: Callable[[], None]) -> None:
        while not self._process.wait_ended(WAIT_SLICE):
            pass
        ended()


def describe_hardware(vm: "Vm", com1_socket: Path) -> dict[str, object]:
    """The content of vm.toml: what of the machine an old guest can see.

    A synthetic adapter it cannot see, nor a disk on a SCSI controller.
    """
    files = vm.host.files
    names = [BOOT_CLASSES[each.name] for each in vm.startup_order if each.name in BOOT_CLASSES]
    content: dict[str, object] = {
        "name": vm.name,
        "memory_mib": vm.memory_mib,
        "boot_order": names,
        "com1": {"socket": str(com1_socket)},
        "disk": [
            {
                "path": str(files.locate(drive.path).resolve()),
                "format": disk_format(Path(drive.path)),
                "channel": drive.number,
                "unit": drive.location,
            }
            for drive in vm.hard_drives
            if drive.path is not None and drive.controller == "IDE"
        ],
        "dvd": [
            {
                "channel": drive.number,
                "unit": drive.location,
                "iso": str(files.locate(drive.path).resolve()) if drive.path else "",
            }
            for drive in vm.dvd_drives
        ],
    }
    legacy = next((adapter for adapter in vm.adapters if adapter.legacy), None)
    if legacy is not None:
        mac = ":".join(legacy.mac[at : at + 2] for at in range(0, 12, 2))
        content["network"] = {"kind": "legacy", "mac": mac}
    return content


def disk_format(path: Path) -> str:
    """QEMU's name of a disk image's format, by the file's suffix."""
    return FORMATS.get(path.suffix.lower(), "raw")


def _run_image_program(*arguments: str) -> None:
    try:
        subprocess.run(
            ["qemu-img", *arguments],
            check=True,
            capture_output=True,
            text=True,
            timeout=IMAGE_TIMEOUT,
        )
    except (OSError, subprocess.SubprocessError) as error:
        words = getattr(error, "stderr", "") or str(error)
        raise PowerError(f"qemu-img {arguments[0]}: {words}") from error
