"""Machines that QEMU runs on this computer, described by a vm.toml.

The machine's files are the user's own; the runtime folder (see qemu_process) holds what exists
while QEMU runs.
"""

import base64
import binascii
import contextlib
import hashlib
import itertools
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from bootgraft_host.link import Link, unix_url
from bootgraft_host.machine import Configuration, ConfigurationError, MachineError, Media, State
from bootgraft_host.qemu_accelerator import choose_accelerator
from bootgraft_host.qemu_command import COM1_ID, PROGRAM, build_command
from bootgraft_host.qemu_process import MACHINE_ID_LIMIT, Command, QemuProcess
from bootgraft_host.qemu_screen import read_screen_text
from bootgraft_host.vmconfig import (
    DvdConfig,
    Slot,
    VmConfig,
    edit_vm_config,
    parse_vm_config,
    plan_attached,
    plan_attached_adapter,
    write_vm_config,
)

IMAGE_PROGRAM = "qemu-img"
IMAGE_TIMEOUT = 60.0  # seconds to read an image's header
SERIAL_POLL_INTERVAL = 0.05  # seconds

_LOCKED_IMAGE = re.compile(r"Is another process using the image \[(.*)\]\?")
_DESCRIPTOR_OFFSET = 0x8001  # of the first volume descriptor's identifier: ECMA-119, 7.1.1
_DESCRIPTORS = (b"CD001", b"BEA01")  # ISO 9660; UDF alone
_STATE_WORDS = {"off": "off", "running": "on", "other": "on, but paused or stuck"}


class QemuMachine:
    """A machine that QEMU runs; see machine.Machine."""

    def __init__(self, config_file: Path) -> None:
        try:
            self._path = config_file.resolve(strict=True)
        except OSError as error:
            raise ConfigurationError(f"cannot find {config_file}: {error.strerror}") from error
        self._name = self._load().name
        self._qemu = QemuProcess(self.machine_id)

    @property
    def machine_id(self) -> str:
        """A readable word and a hash of vm.toml's real path."""
        word = self._path.parent.name if self._path.name == "vm.toml" else self._path.stem
        digest = hashlib.sha256(bytes(self._path)).hexdigest()[:12]
        readable = re.sub(r"[^a-z0-9]+", "-", word.lower()).strip("-")
        return f"{readable[: MACHINE_ID_LIMIT - 13]}-{digest}"

    @property
    def name(self) -> str:
        """The name that vm.toml gives it."""
        return self._name

    @contextlib.contextmanager
    def claim(self) -> Iterator[None]:
        """Hold a name in the kernel's own list of sockets: no file of it can be left behind."""
        with socket.socket(socket.AF_UNIX) as claim:
            try:
                claim.bind(f"\0bootgraft-{self.machine_id}")
            except OSError as error:
                raise MachineError(
                    f"another controller is at work on {self._path}; wait for its end"
                ) from error
            yield

    def has_com1(self) -> bool:
        """Whether vm.toml has a [com1] table."""
        return self._load().com1 is not None

    def state(self) -> State:
        """Read whether the machine is off, running, or something else (paused, stuck)."""
        if not self._qemu.is_running():
            return "off"
        try:
            (status,) = self._qemu.execute(Command("query-status"))
        except MachineError:
            return "other" if self._qemu.is_running() else "off"
        return "running" if status["status"] == "running" else "other"

    # Configuration.

    def problems(self, media: Media) -> tuple[str, ...]:
        """Say what would stand in a run's way; changes nothing."""
        state = self.state()
        if state != "off":
            return (f"{self.name} is {_STATE_WORDS[state]}; shut it down first",)
        try:
            config = self._load()
            self._plan_attached_file(media)
        except MachineError as error:
            return (str(error),)
        return tuple(self._find_problems(config, media))

    def _find_problems(self, config: VmConfig, media: Media) -> Iterator[str]:
        for program in (PROGRAM, IMAGE_PROGRAM):
            if shutil.which(program) is None:
                yield f"{program} is not installed"
                return
        if not os.access(self._path.parent, os.W_OK):
            yield f"{self._path} cannot be changed: its folder is not writable"
        yield from _find_iso_problems(config, media)
        yield from _find_disk_problems(config)
        yield from _find_shared_files(config, media)
        if self._com1_socket(config) != self._qemu.com1_socket:
            yield from _find_com1_problems(config)

    def capture(self) -> Configuration:
        """Read vm.toml, every byte of it."""
        content = base64.b64encode(self._read()).decode()
        return {"path": str(self._path), "content_base64": content}

    def attach(self, media: Media) -> None:
        """Put both ISOs in, DVD first, a legacy adapter, COM1 on our own socket."""
        attached = self._plan_attached_file(media)
        if attached == self._read():
            return
        self._require_off()
        write_vm_config(self._path, attached)

    def detach(self, captured: Configuration, *, keep_adapter: bool) -> None:
        """Restore vm.toml; one that somebody else has changed must hold nothing of attach's."""
        before = self._captured_content(captured)
        kept = edit_vm_config(before, self._path, _with_attached_adapter(self._parse(before)))
        wanted = kept if keep_adapter else before
        current = self._read()
        if current == wanted:
            return
        if current not in {before, kept} and not self._is_attached(before, current):
            if self._is_detached(before, current, keep_adapter=keep_adapter):
                return
            raise MachineError(
                f"{self._path} has been changed by somebody else during the run and is left as it"
                " is; restore its DVD drives, boot order, adapter and COM1 by hand, as they were"
                " before, then recover it"
            )
        self._require_off()
        write_vm_config(self._path, wanted)

    def _plan_attached_file(self, media: Media) -> bytes:
        current = self._read()
        payload = media.payload_iso.absolute() if media.payload_iso is not None else None
        absolute = Media(media.live_iso.absolute(), payload)
        wanted = plan_attached(self._parse(current), absolute, self._qemu.com1_socket)
        return edit_vm_config(current, self._path, wanted)

    def _is_attached(self, before: bytes, current: bytes) -> bool:
        """Whether attach made `current` from `before`, with whatever media it got."""
        try:
            found = self._parse(current)
        except ConfigurationError:
            return False
        live, payload, *_ = (*(dvd.iso for dvd in sorted(found.dvds, key=_slot)), None, None)
        com1_socket = found.com1.socket if found.com1 else None
        if live is None or com1_socket is None:
            return False
        config = self._parse(before)
        plans = (plan_attached(config, Media(live, each), com1_socket) for each in (payload, None))
        return any(edit_vm_config(before, self._path, plan) == current for plan in plans)

    def _is_detached(self, before: bytes, current: bytes, *, keep_adapter: bool) -> bool:
        """Whether nothing that attach changes is other than before."""
        try:
            found = self._parse(current)
        except ConfigurationError:
            return False
        wanted = self._parse(before)
        if keep_adapter:
            wanted = _with_attached_adapter(wanted)
        return found == replace(
            found,
            boot_order=wanted.boot_order,
            dvds=wanted.dvds,
            network=wanted.network,
            com1=wanted.com1,
        )

    def _captured_content(self, captured: Configuration) -> bytes:
        path, content = captured.get("path"), captured.get("content_base64")
        if path != str(self._path) or not isinstance(content, str):
            raise MachineError(f"the stored configuration is one of {path}, not of {self._path}")
        try:
            return base64.b64decode(content, validate=True)
        except binascii.Error as error:
            raise MachineError(f"the stored configuration of {path} is damaged") from error

    def _load(self) -> VmConfig:
        return self._parse(self._read())

    def _read(self) -> bytes:
        try:
            return self._path.read_bytes()
        except OSError as error:
            raise ConfigurationError(f"cannot read {self._path}: {error.strerror}") from error

    def _parse(self, content: bytes) -> VmConfig:
        return parse_vm_config(content, self._path)

    def _require_off(self) -> None:
        state = self.state()
        if state != "off":
            raise MachineError(
                f"cannot change the configuration of {self.name}: it is {_STATE_WORDS[state]}"
            )

    # Power.

    def start(self) -> None:
        """Start QEMU; returns when its monitor answers."""
        if self._qemu.is_running():
            raise MachineError(f"cannot start {self.name}: it is already on")
        config = self._load()
        self._qemu.make_folder()
        for problem in _find_com1_problems(config):
            raise MachineError(f"cannot start {self.name}: {problem}")
        try:
            self._qemu.start(self._build_command(config))
        except (MachineError, OSError) as error:
            raise MachineError(f"cannot start {self.name}: {_explain(str(error))}") from error

    def _build_command(self, config: VmConfig) -> list[str]:
        return build_command(
            config,
            accelerator=choose_accelerator(),
            qmp_socket=self._qemu.qmp_socket,
            com1_socket=self._com1_socket(config),
            pid_file=self._qemu.pid_file,
        )

    def turn_off(self) -> None:
        """End QEMU, whatever the guest is doing."""
        self._qemu.end()
        with contextlib.suppress(ConfigurationError):  # then the socket is not known
            self._remove_stale_socket(self._com1_socket(self._load()))

    def _remove_stale_socket(self, path: Path) -> None:
        """Remove the socket that a QEMU which was killed has left behind."""
        if path.is_socket() and not _is_served(path):
            path.unlink()

    def wait_off(self, timeout: float) -> bool:
        """Wait until QEMU has ended; False where it is still there after `timeout` seconds."""
        return self._qemu.wait_ended(timeout)

    def close(self) -> None:
        """Remove the runtime folder, unless the machine is on."""
        self._qemu.remove_folder()

    # Serial port and screen.

    def open_serial(
        self, timeout: float, *, transcript: Callable[[bytes], None] | None = None
    ) -> Link:
        """Connect to COM1, which takes one client at a time."""
        config = self._load()
        deadline = time.monotonic() + timeout
        if config.com1 is None:
            raise MachineError(f"{self.name} has no COM1: add [com1] to {self._path}")
        self._wait_com1_free(deadline)
        address = self._com1_socket(config)
        link = Link(unix_url(address), may_connect=self._qemu.is_running, transcript=transcript)
        if not link.wait_connected(deadline - time.monotonic()):
            link.close()
            raise MachineError(
                f"no connection to COM1 of {self.name} at {address} within {timeout:.0f} s"
            )
        return link

    def _wait_com1_free(self, deadline: float) -> None:
        while self._com1_is_taken():
            if time.monotonic() > deadline:
                raise MachineError(
                    f"COM1 of {self.name} has another client; disconnect that one first"
                )
            time.sleep(SERIAL_POLL_INTERVAL)

    def _com1_is_taken(self) -> bool:
        if not self._qemu.is_running():
            raise MachineError(f"cannot open COM1 of {self.name}: the machine is off")
        (devices,) = self._qemu.execute(Command("query-chardev"))
        names = {device["label"]: device["filename"] for device in devices}
        if COM1_ID not in names:
            raise MachineError(f"{self.name} was started without COM1")
        return not names[COM1_ID].startswith("disconnected:")

    def _com1_socket(self, config: VmConfig) -> Path:
        """Return where COM1 is served: a port that is not connected is served to us alone."""
        user_socket = config.com1.socket if config.com1 else None
        return user_socket or self._qemu.com1_socket

    def take_screenshot(self, path: Path) -> None:
        """Write a picture of the screen, a PNG file."""
        arguments: dict[str, object] = {"filename": str(path.absolute()), "format": "png"}
        self._qemu.execute(Command("screendump", arguments))

    def read_screen_text(self) -> str | None:
        """Read the text on the screen; None in a graphics mode."""
        return read_screen_text(self._qemu)


def _with_attached_adapter(config: VmConfig) -> VmConfig:
    return replace(config, network=plan_attached_adapter(config.network))


# What stands in a run's way.


def _slot(dvd: DvdConfig) -> Slot:
    return dvd.slot


def _find_iso_problems(config: VmConfig, media: Media) -> Iterator[str]:
    yield from _find_iso_problem("the live ISO", media.live_iso)
    if media.payload_iso is not None:
        yield from _find_iso_problem("the payload ISO", media.payload_iso)
    for number, dvd in enumerate(config.dvds, 1):
        if dvd.iso is not None:
            yield from _find_file_problem(f"the ISO of [[dvd]] {number}", dvd.iso, os.R_OK)


def _find_iso_problem(what: str, path: Path) -> Iterator[str]:
    problems = tuple(_find_file_problem(what, path, os.R_OK))
    yield from problems
    if not problems and not _is_disc_image(path):
        yield f"{what}, {path}, is no disc image (neither ISO 9660 nor UDF)"


def _is_disc_image(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(_DESCRIPTOR_OFFSET)
        return file.read(5) in _DESCRIPTORS


def _find_disk_problems(config: VmConfig) -> Iterator[str]:
    for number, disk in enumerate(config.disks, 1):
        what = f"the image of [[disk]] {number}"
        problems = tuple(_find_file_problem(what, disk.path, os.R_OK | os.W_OK))
        yield from problems or _find_image_problem(what, disk.path, disk.format)


def _find_image_problem(what: str, path: Path, image_format: str) -> Iterator[str]:
    """Let QEMU look: is it of that format, and does nobody else use it?"""
    command = [IMAGE_PROGRAM, "info", "-f", image_format, str(path)]
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=IMAGE_TIMEOUT
    )
    if result.returncode != 0:
        yield f"{what}, {path}, cannot be used as {image_format}: {_explain(result.stderr)}"


def _find_file_problem(what: str, path: Path, access: int) -> Iterator[str]:
    if not path.exists():
        yield f"{what}, {path}, does not exist"
    elif not path.is_file():
        yield f"{what}, {path}, is not a file"
    elif not os.access(path, access):
        yield f"{what}, {path}, cannot be {'written' if access & os.W_OK else 'read'}"


def _find_shared_files(config: VmConfig, media: Media) -> Iterator[str]:
    """Find files that have two roles of which at most one can be right."""
    roles = list(zip(("the live ISO", "the payload ISO"), media.isos, strict=False))
    roles += [(f"[[disk]] {number}", disk.path) for number, disk in enumerate(config.disks, 1)]
    present = [(what, path) for what, path in roles if path.exists()]
    for (what, path), (other, other_path) in itertools.combinations(present, 2):
        if path.samefile(other_path):
            yield f"{what} and {other} are the same file, {path}"


def _find_com1_problems(config: VmConfig) -> Iterator[str]:
    """Look at the user's own socket: QEMU would silently take its place, whatever it is."""
    path = config.com1.socket if config.com1 else None
    if path is None:
        return
    if not path.parent.is_dir():
        yield f"the folder of COM1's socket {path} does not exist"
    elif path.exists() and not path.is_socket():
        yield f"COM1's socket {path} would replace another file"
    elif _is_served(path):
        yield f"COM1's socket {path} is in use by another process"


def _is_served(path: Path) -> bool:
    """Whether a process listens on a Unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.setblocking(False)
        try:
            client.connect(str(path))
        except BlockingIOError:
            return True  # it listens, and its queue is full
        except OSError:
            return False
    return True


def _explain(words: str) -> str:
    """Say what QEMU means by its words where that is known."""
    locked = _LOCKED_IMAGE.search(words)
    return f"another process is using {locked[1]}" if locked else words.strip()
