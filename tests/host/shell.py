"""The command line on simulated machines, as tests type it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bootgraft_host import cli
from bootgraft_host.machine import ConfigurationError, Machine, MachineError
from host.simulated import MARKER, Guest, SimulatedMachine


@dataclass
class Output:
    status: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found


class Shell:
    """Runs the command line on machines whose names are files in a folder."""

    def __init__(self, folder: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.capture = capture
        self.guest = Guest()
        self.out_of_reach = ""  # part of the targets whose host does not answer
        self.iso, self.payload = folder / "live.iso", folder / "payload.iso"
        for iso in (self.iso, self.payload):
            iso.write_bytes(b"an ISO")

    def machine(self, target: str = "vm") -> SimulatedMachine:
        name = Path(target).name
        machine = SimulatedMachine(self.folder / name, self.guest)
        machine.machine_id = f"{name}-1"
        machine.target = target
        return machine

    def open_machine(self, target: str) -> Machine:
        if "wrong" in target:
            raise ConfigurationError(f"{target}: memory: unknown key")
        if self.out_of_reach and self.out_of_reach in target:
            raise MachineError(f"{target}: the host does not answer")
        return self.machine(target)

    def __call__(self, *argv: str, state: bool = True) -> Output:
        status = cli.main([*argv, *(self.state if state else ())], machines=self.open_machine)
        captured = self.capture.readouterr()
        return Output(status, captured.out, captured.err)

    def run(self, *more: str) -> Output:
        return self(*self.run_argv(*more), state=False)

    def run_argv(self, *more: str) -> list[str]:
        expect = () if "--dry-run" in more or "--expect" in more else ("--expect", MARKER)
        argv = ("run", "vm", "--payload", str(self.payload))
        return [*argv, *self.live, *expect, *more, *self.state]

    @property
    def state(self) -> Sequence[str]:
        return ("--state-dir", str(self.folder / "state"))

    @property
    def live(self) -> Sequence[str]:
        return ("--iso", str(self.iso))
