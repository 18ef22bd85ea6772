"""What runs the guests of modelled machines: nothing, or the agent's script in a thread.

QEMU is in qemu_power.
"""

import contextlib
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bootgraft_agent.wire import JSON
from host.scripted_agent import Body, ScriptedAgent
from host.simulated import UNTOUCHED, Guest, apply_result, plan_result
from hyperv.hardware import is_iso_path
from hyperv.qemu_power import QemuPower
from hyperv.running import Power, PowerError, Running

if TYPE_CHECKING:
    from hyperv.vm import Vm

__all__ = ["AgentPower", "NoPower", "Power", "PowerError", "QemuPower", "Running"]

TEXT_SCREEN = (720, 400)  # pixels
GREY = b"\xef\x7b"  # RGB565


class NoGuest:
    """A guest that does nothing, and shows a grey screen."""

    def open_com1(self) -> socket.socket | None:
        return None

    def change_medium(self, number: int, location: int, iso: Path | None) -> None:
        """Nobody looks at it."""

    def screen_size(self) -> tuple[int, int]:
        return TEXT_SCREEN

    def take_thumbnail(self, width: int, height: int) -> bytes:
        return GREY * (width * height)

    def heartbeat(self) -> str | None:
        return None

    def reset(self) -> None:
        """It does nothing all the same."""

    def turn_off(self) -> None:
        """There is nothing to end."""


class PlaceholderDisks:
    """Disks of machines whose guests never look at them: files without content."""

    merges_live = True

    def fork_disk(self, base: Path, overlay: Path) -> None:
        overlay.write_bytes(b"")

    def merge_disk(self, overlay: Path, base: Path, child: Path | None) -> None:
        overlay.unlink(missing_ok=True)


class NoPower(PlaceholderDisks):
    """Machines that are on or off, and that is all."""

    def start(self, vm: "Vm", ended: Callable[[], None]) -> Running:
        return NoGuest()


class AgentPower(PlaceholderDisks):
    """A machine whose guest answers on COM1 as `guest` says; one for each machine.

    From a DVD, which the startup order must try first, it boots our live system; else its own
    disk. What was done to that disk is in `disk`.
    """

    def __init__(self, guest: Guest | None = None) -> None:
        self.guest = guest or Guest()
        self.disk: dict[str, Any] = dict(UNTOUCHED)
        self.boots: list[str] = []  # "live" or "disk"
        self.heard_by_guest = b""  # on COM1, while it booted from its own disk
        self.heartbeats = list(self.guest.heartbeats)

    def start(self, vm: "Vm", ended: Callable[[], None]) -> Running:
        live = boots_from_dvd(vm)
        self.boots.append("live" if live else "disk")
        if self.guest.off_at_boot:
            ended()
        return AgentGuest(self, vm, ended, live=live)


def boots_from_dvd(vm: "Vm") -> bool:
    """Whether the firmware finds an ISO in the lowest DVD drive before it tries the disks."""
    lowest = vm.dvd_drives[0].path if vm.dvd_drives else None
    first = next(each.name for each in vm.startup_order if each.name in ("CD", "IDE"))
    return first == "CD" and lowest is not None and is_iso_path(lowest)


class AgentGuest(NoGuest):
    """One boot of such a machine."""

    def __init__(
        self, power: AgentPower, vm: "Vm", ended: Callable[[], None], *, live: bool
    ) -> None:
        self._power = power
        self._vm = vm
        self._ended = ended
        self._live = live
        self._agent: ScriptedAgent | None = None
        self._pending: Body | None = None
        self._line: socket.socket | None = None
        self._off = threading.Event()

    def open_com1(self) -> socket.socket | None:
        ours, self._line = socket.socketpair()
        if self._power.guest.off_at_boot:
            self._line.close()
        elif not self._live:
            threading.Thread(target=self._boot_disk, daemon=True).start()
        elif not self._power.guest.never_hello:
            self._agent = ScriptedAgent(self._line, self._answer, noise=b"SeaBIOS\r\n")
        return ours

    def heartbeat(self) -> str | None:
        """The next one that the test wants of a boot from the disk."""
        heartbeats = self._power.heartbeats
        if self._live or not heartbeats:
            return None
        return heartbeats.pop(0) if len(heartbeats) > 1 else heartbeats[0]

    def turn_off(self) -> None:
        self._off.set()
        if self._agent is not None:
            self._agent.stop()
        elif self._line is not None:
            if not self._live:
                self._power.heard_by_guest += _read_all(self._line)
            self._line.close()

    def _boot_disk(self) -> None:
        """Say what the guest says: it boots so slowly that whoever listens in time hears all."""
        name = self._vm.com_ports[0].pipe_name
        pipe = self._vm.host.pipes.find(name) if name is not None else None
        while pipe is None and not self._off.wait(0.01):
            pipe = self._vm.host.pipes.find(name) if name is not None else None
        if pipe is None or pipe.wait_client(self._off.is_set) is None or self._line is None:
            return
        grafted = self._power.disk["grafted_by"] is not None
        with contextlib.suppress(OSError):  # it was turned off meanwhile
            self._line.sendall(self._power.guest.console if grafted else b"Error 13\r\n")

    # The agent's answers.

    def _answer(self, agent: ScriptedAgent, request: Body) -> None:
        guest = self._power.guest
        name = str(request["request"])
        guest.at_request(name)
        if name == "abort" and self._pending is not None and guest.silent_at != name:
            self._end_pending(agent)
        elif name == guest.restarts_at and agent.instances == 1:
            agent.restart()
        elif name == guest.slow_at:
            self._pending = request
        elif name == guest.off_at:
            self._ended()
            agent.line.shutdown(socket.SHUT_RDWR)
        elif name == guest.silent_at:
            agent.muted = True
        elif name in guest.errors:
            agent.fail(request, *guest.errors[name])
        elif name in guest.answers:
            agent.reply(request, guest.answers[name])
        elif name == "power_off":
            agent.reply(request, {})
            if guest.powers_off:
                agent.leave(self._ended)
        else:
            agent.reply(request, self._work(name, request["options"]))

    def _end_pending(self, agent: ScriptedAgent) -> None:
        request, self._pending = self._pending, None
        assert request is not None
        if self._power.guest.abort_comes_too_late:
            agent.reply(request, self._work(str(request["request"]), request["options"]))
        else:
            agent.fail(request, "refused", "the controller asked to stop")

    def _work(self, name: str, options: object) -> JSON:
        assert isinstance(options, Mapping)
        disk = self._power.disk
        by = disk["grafted_by"]
        if name == "inspect":
            return {"facts": {"disks": [{"name": "hda"}]}, "problem": None, "warnings": []}
        if name == "plan":
            return plan_result(already_grafted=by is not None)
        if name == "apply":
            disk.update(grafted_by=options["run_id"], writes=disk["writes"] + 1)
            return apply_result(options["run_id"])
        disk.update(grafted_by=None, writes=disk["writes"] + int(by is not None))
        return {
            "run_id": str(by),
            "changed": by is not None,
            "changes": [],
            "warnings": [],
            "verified": ["grub/menu.lst: as before"],
        }


def _read_all(line: socket.socket) -> bytes:
    line.setblocking(False)
    try:
        return line.recv(65536)
    except OSError:
        return b""
