"""A simulated hypervisor: machines with rules, whose state lies in a file.

The file makes a machine outlive the controller that worked on it, as a real one does. The guest
answers as the agent does while the live ISO boots, and as a guest of its own otherwise.
"""

import json
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bootgraft_agent.wire import JSON
from bootgraft_host.link import Link, unix_url
from bootgraft_host.machine import Configuration, MachineError, Media, State
from host.scripted_agent import Body, ScriptedAgent

MARKER = "booted with token 4711"
CONFIGURATION: dict[str, JSON] = {
    "dvds": [""],
    "boot_order": ["disk", "dvd"],
    "adapter": {"kind": "synthetic", "mac": "52:54:00:12:34:56"},
    "com1": "",
}
UNTOUCHED: dict[str, JSON] = {"grafted_by": None, "writes": 0}
MENU_SCREEN = "    GNU GRUB  version 0.97\n  bootgraft"


def plan_result(*, already_grafted: bool) -> dict[str, JSON]:
    return {
        "plan_sha256": "0123abcd",
        "steps": [] if already_grafted else [{"kind": "copy", "text": "copy xen.gz"}],
        "diffs": [{"path": "grub/menu.lst", "diff": "--- old\n+++ new\n-timeout=5\n+timeout=15\n"}],
        "warnings": ["the guest's clock is in the future"],
        "already_grafted": already_grafted,
        "facts": {"disks": [{"name": "hda", "size": 1024}]},
    }


def apply_result(run_id: JSON) -> dict[str, JSON]:
    return {
        "run_id": run_id,
        "changed": True,
        "changes": [{"path": "grub/menu.lst", "before_sha256": "aa", "after_sha256": "bb"}],
        "texts": [{"path": "../../etc/passwd", "before": "timeout=5\n", "after": "timeout=15\n"}],
        "diffs": [{"path": "../../etc/passwd", "diff": "-timeout=5\n+timeout=15\n"}],
        "warnings": [],
        "verified": ["grub/menu.lst: as planned"],
    }


@dataclass
class Guest:
    """What a test wants of the guest; the defaults are a good one."""

    console: bytes = b"GRUB loading\r\n" + MARKER.encode() + b"\r\nlogin: "
    never_hello: bool = False
    off_at_boot: bool = False
    off_at: str = ""  # the request in which the machine turns off
    slow_at: str = ""  # the request that is not answered until it is aborted
    abort_comes_too_late: bool = False
    silent_at: str = ""  # the request that is never answered
    restarts_at: str = ""  # the request of which the agent dies, once
    errors: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # by request
    answers: Mapping[str, JSON] = field(default_factory=dict)  # results by request
    powers_off: bool = True
    at_request: Callable[[str], None] = lambda _: None  # called first of all with its name


class SimulatedMachine:
    """machine.Machine, with its rules; `fault` is called at each method's beginning and end."""

    def __init__(
        self,
        file: Path,
        guest: Guest | None = None,
        fault: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.file = file
        self.guest = guest or Guest()
        self.fault = fault
        self.heard_by_guest = b""  # on COM1, while it booted from its own disk
        self.screens = [MENU_SCREEN, MENU_SCREEN, "login:"]
        self.blind = False
        self._agent: ScriptedAgent | None = None
        self._pending: Body | None = None
        self._guests_end: socket.socket | None = None
        self._lock = threading.Lock()
        if not file.exists():
            self._write({"on": False, "configuration": CONFIGURATION, "disk": UNTOUCHED})

    name = "appliance"
    machine_id = "appliance-1"

    # What tests look at.

    @property
    def configuration(self) -> dict[str, Any]:
        found: dict[str, Any] = self._read()["configuration"]
        return found

    @property
    def disk(self) -> dict[str, Any]:
        found: dict[str, Any] = self._read()["disk"]
        return found

    # The protocol.

    def claim(self) -> AbstractContextManager[None]:
        return nullcontext()

    def has_com1(self) -> bool:
        return True

    def state(self) -> State:
        self.fault("state")
        return "running" if self._read()["on"] else "off"

    def problems(self, media: Media) -> tuple[str, ...]:
        self.fault("problems")
        if self._read()["on"]:
            return ("appliance is running; shut it down first",)
        wanted = (media.live_iso, media.payload_iso)
        return tuple(f"{iso} does not exist" for iso in wanted if iso and not iso.exists())

    def capture(self) -> Configuration:
        self.fault("capture")
        return self.configuration

    def attach(self, media: Media) -> None:
        self.fault("attach")
        dvds = [str(iso) for iso in (media.live_iso, media.payload_iso) if iso]
        adapter = {**self.configuration["adapter"], "kind": "legacy"}
        self._configure(dvds=dvds)
        self.fault("attach, half done")
        self._configure(boot_order=["dvd", "disk"], adapter=adapter, com1="ours")
        self.fault("attach, done")

    def detach(self, captured: Configuration, *, keep_adapter: bool) -> None:
        self.fault("detach")
        wanted = dict(captured)
        if keep_adapter:
            wanted["adapter"] = self.configuration["adapter"]
        self._configure(dvds=wanted["dvds"], com1=wanted["com1"])
        self.fault("detach, half done")
        self._configure(**wanted)
        self.fault("detach, done")

    def start(self) -> None:
        self.fault("start")
        if self._read()["on"]:
            raise MachineError("appliance is already on")
        self._change(on=True)
        self.fault("start, done")

    def turn_off(self) -> None:
        self.fault("turn_off")
        self._power_down()
        self.fault("turn_off, done")

    def wait_off(self, timeout: float) -> bool:
        self.fault("wait_off")
        agent = self._agent
        if agent is not None and self.guest.powers_off:
            agent.stopped.wait(timeout)
        return not self._read()["on"]

    def open_serial(
        self, timeout: float, *, transcript: Callable[[bytes], None] | None = None
    ) -> Link:
        self.fault("open_serial")
        if not self._read()["on"]:
            raise MachineError("appliance is off: it has no COM1 to open")
        path = self.file.with_suffix(".com1")
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as com1:
            com1.bind(str(path))
            com1.listen(1)
            link = Link(unix_url(path), may_connect=self._is_on, transcript=transcript)
            if not link.wait_connected(timeout):
                raise MachineError("no connection to COM1 of appliance")
            self._boot(com1.accept()[0])
        self.fault("open_serial, done")
        return link

    def take_screenshot(self, path: Path) -> None:
        self.fault("take_screenshot")
        if not self._read()["on"]:
            raise MachineError("appliance is off: it shows nothing")
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + self.screens[0].encode())

    def read_screen_text(self) -> str | None:
        self.fault("read_screen_text")
        if self.blind:
            return None
        return self.screens.pop(0) if len(self.screens) > 1 else self.screens[0]

    def close(self) -> None:
        """Nothing is held."""

    # Inside.

    def _boot(self, line: socket.socket) -> None:
        configuration = self.configuration
        from_dvd = configuration["boot_order"][0] == "dvd" and "live" in configuration["dvds"][0]
        if self.guest.off_at_boot:
            self._power_down()
            line.close()
        elif from_dvd and not self.guest.never_hello:
            self._agent = ScriptedAgent(line, self._answer, noise=b"SeaBIOS\r\n")
        else:
            line.sendall(self.guest.console if self.disk["grafted_by"] else b"Error 13\r\n")
            self._guests_end = line

    def _answer(self, agent: ScriptedAgent, request: Body) -> None:
        name = str(request["request"])
        self.guest.at_request(name)
        if name == "abort" and self._pending is not None and self.guest.silent_at != name:
            self._end_pending(agent)
            return
        if name == self.guest.restarts_at and agent.instances == 1:
            agent.restart()
            return
        if name == self.guest.slow_at:
            self._pending = request
            return
        if name == self.guest.off_at:
            self._power_down()
            agent.line.shutdown(socket.SHUT_RDWR)
        elif name == self.guest.silent_at:
            agent.muted = True
        elif name in self.guest.errors:
            agent.fail(request, *self.guest.errors[name])
        elif name in self.guest.answers:
            agent.reply(request, self.guest.answers[name])
        elif name == "power_off":
            agent.reply(request, {})
            if self.guest.powers_off:
                agent.leave(self._power_down)
        else:
            agent.reply(request, self._work(name, request["options"]))

    def _end_pending(self, agent: ScriptedAgent) -> None:
        """Stop the request that is worked on: too late, or in time, as the test wants it."""
        request, self._pending = self._pending, None
        assert request is not None
        if self.guest.abort_comes_too_late:
            agent.reply(request, self._work(str(request["request"]), request["options"]))
        else:
            agent.fail(request, "refused", "the controller asked to stop")

    def _work(self, name: str, options: Any) -> JSON:
        disk = self.disk
        if name == "inspect":
            return {"facts": {"disks": [{"name": "hda"}]}, "problem": None, "warnings": []}
        if name == "plan":
            return plan_result(already_grafted=disk["grafted_by"] is not None)
        if name == "apply":
            self._change(disk={"grafted_by": options["run_id"], "writes": disk["writes"] + 1})
            return apply_result(options["run_id"])
        changed = disk["grafted_by"] is not None
        self._change(disk={"grafted_by": None, "writes": disk["writes"] + int(changed)})
        run_id = str(disk["grafted_by"])
        return {
            "run_id": run_id,
            "changed": changed,
            "changes": [],
            "warnings": [],
            "verified": ["grub/menu.lst: as before"],
        }

    def _power_down(self) -> None:
        self._change(on=False)
        if self._agent is not None:
            self._agent.stop()
            self._agent = None
        if self._guests_end is not None:
            self.heard_by_guest += _read_all(self._guests_end)
            self._guests_end.close()
            self._guests_end = None

    def _is_on(self) -> bool:
        return bool(self._read()["on"])

    def _configure(self, **changes: Any) -> None:
        if self._read()["on"]:
            raise MachineError("appliance is on: its hardware cannot be changed")
        self._change(configuration={**self.configuration, **changes})

    def _change(self, **changes: Any) -> None:
        with self._lock:
            self._write({**self._read(), **changes})

    def _read(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.file.read_bytes())
        return found

    def _write(self, content: Mapping[str, Any]) -> None:
        temporary = self.file.with_suffix(".new")
        temporary.write_text(json.dumps(content))
        temporary.replace(self.file)


def _read_all(line: socket.socket) -> bytes:
    line.setblocking(False)
    try:
        return line.recv(65536)
    except OSError:
        return b""
