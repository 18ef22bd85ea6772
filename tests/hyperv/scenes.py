"""Whole runs by the command line in this process, to which something happens on the way.

The host is modelled, the way to it is real: `bootgraft` reaches it through WinRM.
"""

import re
import shlex
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bootgraft_host import cli
from bootgraft_host.hyperv import machine, refusals, relay, relay_stream, upload
from bootgraft_host.hyperv import vm as vm_module
from bootgraft_host.job import Deadlines, Job
from host.simulated import MARKER
from hyperv.hyperv_bench import target
from hyperv.machines import ISO
from hyperv.power import AgentPower
from hyperv.serve_host import ServedHost, write_hosts_file
from hyperv.vm import Vm

OWN_ISO = "C:\\ISOs\\own.iso"
NAME = "appliance"
QUICK = Deadlines(
    serial=4, hello=6, silence=3, request=6, abort=3, power_off=3, turn_off=3, confirm=4, watch=1
)
# What is in the place of what a legacy adapter cannot have.
LEGACY = {"IsLegacy": True, "VmqWeight": 0}


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the host side wait less than it does for real hosts."""
    for owner, name, value in (
        (cli, "DEFAULTS", QUICK),
        (cli, "choose_deadlines", lambda *_: QUICK),
        (machine, "POLL_INTERVAL", 0.1),
        (relay, "OPEN_TIME", 0.5),
        (relay_stream, "PERSISTENCE", 2.0),
        (upload, "RETRY_FOR", 1.0),
        (upload, "RETRY_INTERVAL", 0.1),
        (vm_module, "READ_PAUSES", (0.2, 0.4, 0.8)),
    ):
        monkeypatch.setattr(owner, name, value)


@dataclass
class Scene:
    """A served host with one machine, and what happens in which step of a run on it."""

    folder: Path
    served: ServedHost
    capture: pytest.CaptureFixture[str]
    options: Sequence[str] = ("--upload", "--expect", MARKER)
    _in_steps: dict[str, Callable[[], None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.power = AgentPower()
        self.served.host.files.put(OWN_ISO, ISO)
        self.vm = self.add_vm(NAME)
        self.isos = {"--iso": self.folder / "live.iso", "--payload": self.folder / "ic.iso"}
        for option, path in self.isos.items():
            path.write_bytes(ISO + option.encode())
        self.before = self.describe()

    def add_vm(self, name: str) -> Vm:
        fields: dict[str, Any] = {
            "dvd_drives": [{"path": OWN_ISO}],
            "startup_order": ["IDE", "CD", "LegacyNetworkAdapter", "Floppy"],
            "adapters": [{"mac": "00155D0A0B0C", "vlan": 7}],
            "automatic_checkpoints": True,
            "notes": "keep",
        }
        vm = self.served.add_vm(name, **fields)
        vm.power = self.power
        return vm

    # What happens.

    def in_step(self, name: str, act: Callable[[], object]) -> None:
        """Do something, once, when a step of the run begins."""
        self._in_steps[name] = lambda: (act(), None)[1]

    def at(self, moment: str, act: Callable[[], object], number: int = 1) -> None:
        """Do something, once, at a moment of the host's; see gates."""
        self.served.gate.at(moment, lambda: (act(), None)[1], number)

    def enter(self, step: str) -> None:
        """A step begins."""
        act = self._in_steps.pop(step, None)
        if act is not None:
            act()

    def cut_off(self) -> None:
        self.served.endpoint.stop()

    def is_back(self) -> None:
        self.served.endpoint.start()

    def cut_off_for(self, seconds: float) -> None:
        self.cut_off()
        threading.Timer(seconds, self.is_back).start()

    def set_password(self, password: str) -> None:
        write_hosts_file(self.served.hosts_file, self.served.endpoint, password=password)

    @property
    def pipe_name(self) -> str:
        name = self.vm.com_ports[0].pipe_name
        assert name is not None
        return name

    def uploads(self) -> list[Path]:
        return list(self.served.folder.rglob("bootgraft-*.iso"))  # a part stays, to be resumed

    # The command line.

    def run(self) -> "Ended":
        isos = [str(word) for pair in self.isos.items() for word in pair]
        return self.bootgraft("run", target(NAME), *isos, *self.options)

    def bootgraft(self, *arguments: str) -> "Ended":
        state = ("--state-dir", str(self.folder / "state"))
        refusals._refused.clear()  # as in a process of its own
        status = cli.main([*arguments, *state] if "--state-dir" not in arguments else arguments)
        captured = self.capture.readouterr()
        return Ended(status, captured.out + captured.err)

    # How it ends.

    def describe(self) -> dict[str, Any]:
        return self.served.host.describe(self.vm)

    def unfinished(self) -> list[Path]:
        return list(self.folder.glob("state/machines/*/unfinished.json"))

    def named_checkpoint(self, ended: "Ended") -> dict[str, Any]:
        """What a checkpoint that stays, and was named, changes in the description."""
        after = self.describe()
        assert all(each["Name"] in ended.text for each in after["Checkpoints"])
        return {name: after[name] for name in ("Checkpoints", "HardDrives")}

    def check_restored(self, **changed_by_others: object) -> None:
        """The machine is as before, or with a legacy adapter where its guest is grafted."""
        wanted = {**self.before, **changed_by_others}
        after = self.describe()
        adapters = after.pop("NetworkAdapters")
        wanted.pop("NetworkAdapters")
        assert after == wanted
        (old,) = self.before["NetworkAdapters"]
        if adapters != [old]:
            assert self.power.disk["grafted_by"] is not None
            assert adapters == [{**old, **LEGACY, "Id": adapters[0]["Id"]}]
        assert self.unfinished() == []
        assert self.uploads() == []
        assert self.served.host.pipes.names() == []


@dataclass
class Ended:
    """How a command ended."""

    status: int
    text: str

    @property
    def commands(self) -> list[list[str]]:
        """The commands of ours that it names."""
        return [shlex.split(each) for each in re.findall(r"`bootgraft ([^`]*)`", self.text)]

    def command(self, name: str) -> list[str]:
        """The named command of that name."""
        found = [command for command in self.commands if command[0] == name]
        assert found, self.text
        return found[0]


def watch_steps(monkeypatch: pytest.MonkeyPatch, scene: Scene) -> None:
    """Tell a scene of the steps of runs."""
    step = Job.step

    def watched(job: Job, name: str, text: str) -> None:
        step(job, name, text)
        scene.enter(name)

    monkeypatch.setattr(Job, "step", watched)
