"""A controller that is killed at any moment of a run: its machine is recovered.

The controller is the command `bootgraft` in a process of its own, killed while its host is held up
at a moment. The script of that moment goes on to its end then, as it does on a host whose client
has gone away, or it ends there with its shell.
"""

import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from host.simulated import MARKER
from hyperv.hyperv_bench import HostProcess, HyperVBench, target
from hyperv.machines import ISO
from vm.bench import COMMAND

OWN_ISO = "C:\\ISOs\\own.iso"
MAIN = "import sys; from bootgraft_host.cli import main; sys.exit(main())"
RUN_TIMEOUT = 60.0  # seconds
BLOCK = 8  # moments
LAST_BLOCK = 200  # a whole run has fewer moments
SAMPLE = (
    ("script write-block", 1),
    ("Hyper-V\\Set-VM done", 1),
    ("Hyper-V\\Set-VMDvdDrive", 2),
    ("script relay-exchange", 6),
    ("Hyper-V\\Add-VMNetworkAdapter done", 1),
    ("Hyper-V\\Stop-VM", 1),
)


@dataclass
class Arena:
    """A served host, and a controller's computer."""

    host: HostProcess
    bench: HyperVBench
    isos: list[str]

    def add_vm(self, name: str) -> str:
        vm: str = self.host.ask(
            "add_vm",
            name=name,
            dvd_drives=[{"path": OWN_ISO}],
            startup_order=["IDE", "CD", "LegacyNetworkAdapter", "Floppy"],
            adapters=[{"mac": "00155D0A0B0C", "vlan": 7}],
            automatic_checkpoints=True,
            notes="keep",
        )
        return vm

    def command(self, name: str) -> list[str]:
        return ["run", target(name), *self.isos, "--expect", MARKER, "--checkpoint"]

    def kill(self, name: str, number: int, moment: str = "") -> str | None:
        """Run, and kill the controller at that moment; None where the run ends before."""
        self.host.ask("hold_at", number=number, name=moment)
        with self.bench.start(*self.command(name)) as process:
            try:
                held = self.wait_held(process)
            finally:
                process.kill()
        self.host.ask("let_go", on=number % 2 == 0)
        return held

    def wait_held(self, process: "subprocess.Popen[str]") -> str | None:
        """Wait until the run is held; None where it ends before."""
        for _ in range(round(RUN_TIMEOUT / 0.2)):
            held: str | None = self.host.ask("wait_held", timeout=0.2)
            if held is not None or process.poll() is not None:
                return held
        raise AssertionError("the run neither came to the moment nor ended")


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    folder = tmp_path_factory.mktemp("killed")
    isos: list[str] = ["--upload"]
    for option, content in (("--iso", ISO), ("--payload", ISO + b"payload")):
        path = folder / f"{option.strip('-')}.iso"
        path.write_bytes(content)
        isos += [option, str(path)]
    with tempfile.TemporaryDirectory(prefix="bg") as runtime:
        bench = HyperVBench(folder, Path(runtime))
        with HostProcess(bench.host_folder, bench.environment) as host:
            own = host.drive() / "ISOs" / "own.iso"
            own.parent.mkdir(parents=True)
            own.write_bytes(ISO)
            yield Arena(host, bench, isos)


def check_recovery(arena: Arena, name: str, number: int, moment: str = "") -> str | None:
    """Kill a run of a new machine, recover the machine, look at it."""
    vm = arena.add_vm(name)
    before = arena.host.ask("describe", vm=vm)
    held = arena.kill(name, number, moment)
    stage = read_stage(arena.bench)
    result = recover(arena, name, again=number % 3 == 0)
    after = arena.host.ask("describe", vm=vm)
    where = f"moment {number}: {held}, {stage}"
    assert arena.bench.unfinished() == [], where
    assert after["Notes"] == "keep", where
    kept = {each["Name"] for each in after["Checkpoints"]}
    assert kept <= {result["machine"]["checkpoint"]}, where  # whose message says "may still"
    grafted = [adapter["IsLegacy"] for adapter in after["NetworkAdapters"]]
    assert without_adapters(after) == without_adapters(before), where
    assert grafted == [True] or after["NetworkAdapters"] == before["NetworkAdapters"], where
    if grafted == [True]:
        check_adapter(before, after)
        assert arena.host.ask("guest", vm=vm)["grafted_by"] is not None, where
    if result["command"] == "recover":
        assert grafted == [stage == "grafted"] or held is None, where
    check_leftovers(arena, where)
    return held


def recover(arena: Arena, name: str, *, again: bool) -> Any:
    """Recover the machine by the command for it, or by another run; give the result."""
    if again:
        said = arena.bench.bootgraft(*arena.command(name))
        if said.status == 3:
            named = re.search(r"`bootgraft (recover [^`]*)`", said.stderr)
            assert named is not None, said.text
            said = arena.bench.bootgraft(*shlex.split(named[1]))
    else:
        said = arena.bench.bootgraft("recover", target(name))
    assert said.status == 0, said.text
    return arena.bench.read_result()


def read_stage(bench: HyperVBench) -> str | None:
    records = [path.read_text() for path in bench.unfinished()]
    found = [re.search(r'"stage": "(\w+)"', record) for record in records]
    return found[0][1] if found and found[0] else None


def without_adapters(description: dict[str, Any]) -> dict[str, Any]:
    return {**description, "NetworkAdapters": [], "Checkpoints": [], "HardDrives": []}


def check_adapter(before: dict[str, Any], after: dict[str, Any]) -> None:
    (old,), (new,) = before["NetworkAdapters"], after["NetworkAdapters"]
    assert {name for name in old if old[name] != new[name]} == {"Id", "IsLegacy", "VmqWeight"}


def check_leftovers(arena: Arena, where: str) -> None:
    """What the dead controller's shells hold is all that is left, until WinRM ends them."""
    assert len(arena.host.ask("look")["shells"]) <= 2, where
    arena.host.ask("drop_shells")
    left = arena.host.ask("look")
    assert left["pipes"] == [], where
    assert [path for path in left["files"] if path.endswith(".iso")] == [OWN_ISO], where


@pytest.mark.parametrize(("moment", "number"), SAMPLE)
def test_a_killed_controllers_machine_is_recovered(arena: Arena, moment: str, number: int) -> None:
    assert check_recovery(arena, f"{moment} {number}", number, moment) == moment


@pytest.mark.matrix
@pytest.mark.parametrize("first", range(1, LAST_BLOCK, BLOCK))
def test_a_controller_killed_at_each_moment_has_its_machine_recovered(
    arena: Arena, first: int
) -> None:
    for number in range(first, first + BLOCK):
        if check_recovery(arena, f"killed at {number}", number) is None:
            break
    else:
        assert first + BLOCK < LAST_BLOCK, "a run has more moments than are tried"


def test_a_killed_controller_keeps_nobody_from_the_pipe_for_long(arena: Arena) -> None:
    short = "from bootgraft_host.hyperv import relay; relay.IDLE_TIME = 1.0;"
    arena.bench.command = [sys.executable, "-c", f"{short} {MAIN}"]
    try:
        vm = arena.add_vm("idle")
        arena.host.ask("hold_at", number=8, name="script relay-exchange")
        with arena.bench.start(*arena.command("idle")) as process:
            assert arena.wait_held(process) is not None
            process.kill()
    finally:
        arena.bench.command = [COMMAND]
    assert arena.host.ask("pipe_is_busy", vm=vm)
    arena.host.ask("let_go", on=True)
    deadline = time.monotonic() + 10
    while arena.host.ask("pipe_is_busy", vm=vm):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert arena.host.ask("state", vm=vm) == "Running"
    assert arena.bench.bootgraft("recover", target("idle")).status == 0
