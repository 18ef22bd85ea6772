"""A simulated hypervisor: machines with rules, whose state lies in a file.

The file makes a machine outlive the controller that worked on it, as a real one does. The guest
answers as the agent does while the live ISO boots, and as a guest of its own otherwise.
"""

import json
import socket
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bootgraft_agent.wire import JSON
from bootgraft_host.link import Link, unix_url
from bootgraft_host.machine import Configuration, MachineError, Media, NotOursError, State
from bootgraft_host.replies import Progress
from host.scripted_agent import Body, ScriptedAgent

MARKER = "booted with token 4711"
CONFIGURATION: dict[str, JSON] = {
    "dvds": [""],
    "boot_order": ["disk", "dvd"],
    "adapter": {"kind": "synthetic", "mac": "52:54:00:12:34:56"},
    "com1": "",
    "automatic": "as its owner likes it",
}
HOST_FOLDER = Path("/on/the/host")  # where uploads go
UNTOUCHED: dict[str, JSON] = {"grafted_by": None, "writes": 0}
MENU_SCREEN = "    GNU GRUB  version 0.97\n  bootgraft"


def plan_result(*, already_grafted: bool, recipe: str = "hyperv-shim") -> dict[str, JSON]:
    return {
        "recipe": recipe,
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
    heartbeats: Sequence[str | None] = ()  # of its own boot; the last one goes on
    at_request: Callable[[str], None] = lambda _: None  # called first of all with its name


class SimulatedMachine:
    """machine.Machine, with its rules; `fault` is called at each method's beginning and end.

    `calls` lists these moments. What the machine can do is set by its attributes.
    """

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
        self.own_com1 = True
        self.can_lend_com1 = False
        self.takes_checkpoints = False
        self.is_theirs = False  # on for somebody else
        self.remarked: tuple[str, ...] = ()
        self.name = "appliance"
        self.machine_id = "appliance-1"
        self.target = "/vms/my vm.toml"
        self.calls: list[str] = []
        self.dvds_at: dict[str, list[str]] = {}  # by request
        self._heartbeats = list(self.guest.heartbeats)
        self._agent: ScriptedAgent | None = None
        self._pending: Body | None = None
        self._guests_end: socket.socket | None = None
        self._lock = threading.Lock()
        if not file.exists():
            self._write(
                {
                    "on": False,
                    "configuration": CONFIGURATION,
                    "disk": UNTOUCHED,
                    "uploads": [],
                    "checkpoints": [],
                }
            )

    # What tests look at.

    @property
    def configuration(self) -> dict[str, Any]:
        found: dict[str, Any] = self._read()["configuration"]
        return found

    @property
    def disk(self) -> dict[str, Any]:
        found: dict[str, Any] = self._read()["disk"]
        return found

    @property
    def uploads(self) -> list[str]:
        found: list[str] = self._read()["uploads"]
        return found

    @property
    def checkpoints(self) -> list[str]:
        found: list[str] = self._read()["checkpoints"]
        return found

    def start_for_others(self) -> None:
        self._change(on=True)
        self.is_theirs = True

    # The protocol.

    def claim(self) -> AbstractContextManager[None]:
        self._mark("claim")
        return nullcontext()

    def has_com1(self) -> bool:
        return self.own_com1

    def lends_com1(self) -> bool:
        return self.can_lend_com1

    def state(self) -> State:
        self._mark("state")
        return "running" if self._read()["on"] else "off"

    def problems(self, media: Media) -> tuple[str, ...]:
        self._mark("problems")
        if self._read()["on"]:
            return ("appliance is running; shut it down first",)
        return tuple(f"{iso} does not exist" for iso in media.isos if not iso.exists())

    def remarks(self, media: Media) -> tuple[str, ...]:
        self._mark("remarks")
        return self.remarked

    def held_by_others(self) -> str | None:
        self._mark("held_by_others")
        return None

    def capture(self) -> Configuration:
        self._mark("capture")
        return self.configuration

    def prepare_media(self, media: Media, tell: Callable[[Progress], None]) -> Media:
        self._mark("prepare_media")
        if not media.upload:
            return media
        paths = [HOST_FOLDER / iso.name for iso in media.isos]
        for path in paths:
            self._change(uploads=[*self.uploads, str(path)])
            tell(Progress(0, f"copy {path.name}", 6, 6))
        self._mark("prepare_media, done")
        payload = paths[1] if media.payload_iso is not None else None
        return replace(media, live_iso=paths[0], payload_iso=payload, upload=False)

    def attach(self, media: Media) -> None:
        self._mark("attach")
        dvds = [str(iso) for iso in media.attached]
        adapter = {**self.configuration["adapter"], "kind": "legacy"}
        self._configure(dvds=dvds)
        self._mark("attach, half done")
        self._configure(boot_order=["dvd", "disk"], adapter=adapter, com1="ours")
        self._mark("attach, done")

    def insert_payload(self, media: Media) -> None:
        self._mark("insert_payload")
        if not self._is_on():
            raise MachineError("appliance is off: nobody needs another DVD")
        self._change(configuration={**self.configuration, "dvds": [str(media.payload_iso)]})
        self._mark("insert_payload, done")

    def detach(self, captured: Configuration, *, keep_adapter: bool) -> None:
        self._mark("detach")
        wanted = dict(captured)
        if keep_adapter:
            wanted["adapter"] = self.configuration["adapter"]
        self._configure(dvds=wanted["dvds"], com1=wanted["com1"])
        self._mark("detach, half done")
        self._configure(**wanted)
        self._change(uploads=[])
        self._mark("detach, done")

    def take_media_out(self) -> tuple[str, ...]:
        self._mark("take_media_out")
        if self.configuration["dvds"] == [""]:
            return ()
        self._configure(dvds=[""], boot_order=["disk", "dvd"])
        return ("ejected an ISO",)

    def prepare_confirm(self, *, com1: bool) -> None:
        self._mark("prepare_confirm")
        assert not (com1 and self.own_com1)
        self._configure(automatic="nothing", **({"com1": "lent"} if com1 else {}))
        self._mark("prepare_confirm, done")

    def can_checkpoint(self) -> bool:
        return self.takes_checkpoints

    def take_checkpoint(self, name: str) -> None:
        self._mark("take_checkpoint")
        self._change(checkpoints=[*self.checkpoints, name])
        self._mark("take_checkpoint, done")

    def remove_checkpoint(self, name: str) -> None:
        self._mark("remove_checkpoint")
        self._change(checkpoints=[each for each in self.checkpoints if each != name])
        self._mark("remove_checkpoint, done")

    def how_to_use_checkpoint(self, name: str) -> str:
        return f"Restore-It {name!r}, Remove-It {name!r}"

    def start(self) -> None:
        self._mark("start")
        if self._read()["on"]:
            raise MachineError("appliance is already on")
        self._change(on=True)
        self._mark("start, done")

    def turn_off(self) -> None:
        self._mark("turn_off")
        if self.is_theirs:
            raise NotOursError("appliance is on for somebody else")
        self._power_down()
        self._mark("turn_off, done")

    def wait_off(self, timeout: float) -> bool:
        self._mark("wait_off")
        agent = self._agent
        if agent is not None and self.guest.powers_off:
            agent.stopped.wait(timeout)
        return not self._read()["on"]

    def open_serial(
        self, timeout: float, *, transcript: Callable[[bytes], None] | None = None
    ) -> Link:
        self._mark("open_serial")
        if not self._read()["on"]:
            raise MachineError("appliance is off: it has no COM1 to open")
        if not self.own_com1 and not self.configuration["com1"]:
            raise MachineError("appliance has no COM1 that is connected")
        with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as com1:
            path = Path(folder, "com1")  # the test's own folder may have too long a name
            com1.bind(str(path))
            com1.listen(1)
            link = Link(unix_url(path), may_connect=self._is_on, transcript=transcript)
            if not link.wait_connected(timeout):
                raise MachineError("no connection to COM1 of appliance")
            self._boot(com1.accept()[0])
        self._mark("open_serial, done")
        return link

    def take_screenshot(self, path: Path) -> None:
        self._mark("take_screenshot")
        if not self._read()["on"]:
            raise MachineError("appliance is off: it shows nothing")
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + self.screens[0].encode())

    def read_screen_text(self) -> str | None:
        self._mark("read_screen_text")
        if self.blind:
            return None
        return self.screens.pop(0) if len(self.screens) > 1 else self.screens[0]

    def heartbeat(self) -> str | None:
        self._mark("heartbeat")
        if not self._heartbeats:
            return None
        return self._heartbeats.pop(0) if len(self._heartbeats) > 1 else self._heartbeats[0]

    def close(self) -> None:
        """Nothing is held."""

    # Inside.

    def _mark(self, moment: str) -> None:
        self.calls.append(moment)
        self.fault(moment)

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
        self.dvds_at[name] = self.configuration["dvds"]
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
        wanted = {**self.configuration, **changes}
        if wanted == self.configuration:
            return
        if self._read()["on"]:
            raise MachineError("appliance is on: its hardware cannot be changed")
        self._change(configuration=wanted)

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
