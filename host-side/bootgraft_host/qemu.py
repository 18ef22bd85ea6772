"""Machines that QEMU runs on this computer, described by a vm.toml.

The machine's files are the user's own; the runtime folder (see qemu_process) holds what exists
while QEMU runs.
"""

import base64
import binascii
import contextlib
import hashlib
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from bootgraft_agent.errors import RefusedError
from bootgraft_host.link import Link, unix_url
from bootgraft_host.machine import Configuration, ConfigurationError, MachineError, Media, State
from bootgraft_host.qemu_accelerator import choose_accelerator
from bootgraft_host.qemu_command import COM1_ID, PROGRAM, build_command, dvd_device_id
from bootgraft_host.qemu_problems import (
    IMAGE_PROGRAM,
    explain,
    find_com1_problems,
    find_disk_problems,
    find_iso_problems,
    find_shared_files,
    is_served,
)
from bootgraft_host.qemu_process import MACHINE_ID_LIMIT, Command, QemuProcess
from bootgraft_host.qemu_screen import read_screen_text
from bootgraft_host.replies import Progress
from bootgraft_host.vmconfig import (
    DvdConfig,
    Slot,
    VmConfig,
    edit_vm_config,
    parse_vm_config,
    plan_attached,
    plan_attached_adapter,
    plan_without_media,
    write_vm_config,
)

SERIAL_POLL_INTERVAL = 0.05  # seconds

_STATE_WORDS = {"off": "off", "running": "on", "other": "on, but paused or stuck"}


class QemuMachine:
    """A machine that QEMU runs; see machine.Machine."""

    def __init__(self, config_file: Path) -> None:
        try:
            self._path = config_file.resolve(strict=True)
        except OSError as error:
            raise ConfigurationError(f"cannot find {config_file}: {error.strerror}") from error
        self._target = str(config_file.absolute())
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

    @property
    def target(self) -> str:
        """The absolute path of vm.toml, as it was named."""
        return self._target

    @contextlib.contextmanager
    def claim(self) -> Iterator[None]:
        """Hold a name in the kernel's own list of sockets: no file of it can be left behind."""
        with socket.socket(socket.AF_UNIX) as claim:
            try:
                claim.bind(f"\0bootgraft-{self.machine_id}")
            except OSError as error:
                raise RefusedError(
                    f"another controller is at work on {self._path}; wait for its end"
                ) from error
            yield

    def has_com1(self) -> bool:
        """Whether vm.toml has a [com1] table."""
        return self._load().com1 is not None

    def lends_com1(self) -> bool:
        """Say no: the boot that is watched is that of vm.toml as it was."""
        return False

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

    def remarks(self, media: Media) -> tuple[str, ...]:  # noqa: ARG002 - the same for all
        """Say nothing: all that matters stands in the way or does not."""
        return ()

    def held_by_others(self) -> str | None:
        """Say nothing: its runs are this computer's."""
        return None

    def _find_problems(self, config: VmConfig, media: Media) -> Iterator[str]:
        for program in (PROGRAM, IMAGE_PROGRAM):
            if shutil.which(program) is None:
                yield f"{program} is not installed"
                return
        if not os.access(self._path.parent, os.W_OK):
            yield f"{self._path} cannot be changed: its folder is not writable"
        yield from find_iso_problems(config, media)
        yield from find_disk_problems(config)
        yield from find_shared_files(config, media)
        if self._com1_socket(config) != self._qemu.com1_socket:
            yield from find_com1_problems(config)

    def capture(self) -> Configuration:
        """Read vm.toml, every byte of it."""
        content = base64.b64encode(self._read()).decode()
        return {"path": str(self._path), "content_base64": content}

    def prepare_media(self, media: Media, tell: Callable[[Progress], None]) -> Media:  # noqa: ARG002
        """Return the media: QEMU reads them where they are."""
        return media

    def attach(self, media: Media) -> None:
        """Put the ISOs in, DVD first, a legacy adapter, COM1 on our own socket."""
        attached = self._plan_attached_file(media)
        if attached == self._read():
            return
        self._require_off()
        write_vm_config(self._path, attached)

    def insert_payload(self, media: Media) -> None:
        """Exchange the ISO in the lowest DVD drive; not by force, as the guest may hold it."""
        if media.payload_iso is None:
            return
        drive = min(dvd.slot for dvd in self._load().dvds)
        arguments: dict[str, object] = {
            "id": dvd_device_id(drive),
            "filename": str(media.payload_iso.absolute()),
            "format": "raw",
            "read-only-mode": "read-only",
        }
        try:
            self._qemu.execute(Command("blockdev-change-medium", arguments))
        except MachineError as error:
            raise MachineError(
                f"cannot exchange the ISO in the DVD drive of {self.name}, {drive}: {error}"
            ) from error

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

    def take_media_out(self) -> tuple[str, ...]:
        """Empty the DVD drives in vm.toml, disk first; every other byte stays."""
        config, current = self._load(), self._read()
        wanted = plan_without_media(config)
        content = edit_vm_config(current, self._path, wanted)
        if content == current:
            return ()
        self._require_off()
        write_vm_config(self._path, content)
        said = [f"ejected {dvd.iso} at {dvd.slot}" for dvd in config.dvds if dvd.iso is not None]
        if wanted.boot_order != config.boot_order:
            said.append(f"boot order: {', '.join(wanted.boot_order)}")
        return tuple(said)

    def _plan_attached_file(self, media: Media) -> bytes:
        current = self._read()
        payload = media.payload_iso.absolute() if media.payload_iso is not None else None
        absolute = replace(media, live_iso=media.live_iso.absolute(), payload_iso=payload)
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

    def prepare_confirm(self, *, com1: bool) -> None:
        """Do nothing: vm.toml as it was is what the boot is watched with."""

    # Checkpoints.

    def can_checkpoint(self) -> bool:
        """Say no: the disks' formats differ in what they can keep."""
        return False

    def take_checkpoint(self, name: str) -> None:
        """Refuse. Raises MachineError."""
        raise MachineError(f"cannot take the checkpoint {name}: {self.name} has none")

    def remove_checkpoint(self, name: str) -> None:
        """Do nothing: none is there."""

    def how_to_use_checkpoint(self, name: str) -> str:
        """Say that there is none."""
        return f"{self.name} has no checkpoint {name}"

    # Power.

    def start(self) -> None:
        """Start QEMU; returns when its monitor answers."""
        if self._qemu.is_running():
            raise MachineError(f"cannot start {self.name}: it is already on")
        config = self._load()
        self._qemu.make_folder()
        for problem in find_com1_problems(config):
            raise MachineError(f"cannot start {self.name}: {problem}")
        try:
            self._qemu.start(self._build_command(config))
        except (MachineError, OSError) as error:
            raise MachineError(f"cannot start {self.name}: {explain(str(error))}") from error

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
        if path.is_socket() and not is_served(path):
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

    def heartbeat(self) -> str | None:
        """Say nothing: there are no integration services."""
        return None


def _with_attached_adapter(config: VmConfig) -> VmConfig:
    return replace(config, network=plan_attached_adapter(config.network))


def _slot(dvd: DvdConfig) -> Slot:
    return dvd.slot
