"""The trials of `doctor --settle`, on the modelled host with a guest that speaks the protocol."""

import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bootgraft_agent.errors import InvalidRequestError
from bootgraft_agent.requests import describe_error, parse_request
from bootgraft_agent.wire import JSON
from bootgraft_host import doctor_cli
from bootgraft_host.doctor_cli import open_line
from bootgraft_host.hyperv import protocol_hvrelay, scratch, vm
from bootgraft_host.hyperv.runner import DEFAULT_TIMEOUT, HostError, UnreachableError
from bootgraft_host.hyperv.settle import QUESTIONS, Finding, Heard, Waits, settle
from bootgraft_host.link import Link
from bootgraft_host.machine import MachineError
from host.scripted_agent import Body, ScriptedAgent
from hyperv.consoles import Consoles
from hyperv.direct import DirectRunner
from hyperv.model import SimulatedHost
from hyperv.power import NoGuest, PlaceholderDisks
from hyperv.values import PowerShellError

if TYPE_CHECKING:
    from hyperv.vm import Vm

WAITS = Waits(boot=15.0, away=4.0, first_words=1.0, reach=2.0, request=15.0)
LIVE_ISO = b"the live system" * 1000


def answer(agent: ScriptedAgent, request: Body) -> None:
    """Do as the real agent does in a machine without disks."""
    try:
        parse_request(request)
    except InvalidRequestError as error:
        agent.connection.send({"id": request["id"], "error": describe_error(error)})
        return
    agent.reply(request, {"facts": {}, "problem": "no disk was found", "warnings": []})


@dataclass
class LivePower(PlaceholderDisks):
    """Machines that boot our live system, and nothing else, from the DVD drives they look at."""

    drives: int = 2  # how many of the DVD drives, from the lowest on
    silent: bool = False

    def start(self, vm: "Vm", ended: Callable[[], None]) -> "LiveGuest":
        paths = [drive.path for drive in vm.dvd_drives[: self.drives]]
        files = [vm.host.files.find_file(path) for path in paths if path]
        discs = [file.read_bytes() for file in files if file is not None]
        return LiveGuest(speaks=LIVE_ISO in discs and not self.silent)


class LiveGuest(NoGuest):
    """One boot of such a machine."""

    def __init__(self, *, speaks: bool) -> None:
        self._speaks = speaks
        self._agent: ScriptedAgent | None = None
        self._line: socket.socket | None = None

    def open_com1(self) -> socket.socket | None:
        ours, self._line = socket.socketpair()
        if self._speaks:
            self._agent = ScriptedAgent(self._line, answer)
        return ours

    def turn_off(self) -> None:
        if self._agent is not None:
            self._agent.stop()
        elif self._line is not None:
            self._line.close()


@pytest.fixture
def host(tmp_path: Path) -> SimulatedHost:
    return SimulatedHost(tmp_path / "host")


@pytest.fixture
def iso(tmp_path: Path) -> Path:
    path = tmp_path / "live.iso"
    path.write_bytes(LIVE_ISO)
    return path


@pytest.fixture
def runner(host: SimulatedHost, monkeypatch: pytest.MonkeyPatch) -> Iterator[DirectRunner]:
    runner = DirectRunner(host)
    monkeypatch.setattr(protocol_hvrelay, "open_runner", lambda _: runner.another())
    monkeypatch.setattr(scratch, "INTERVAL", 0.05)
    yield runner
    runner.close()


def power_new_machines(host: SimulatedHost, power: LivePower, fault: str = "") -> None:
    """Have machines that are made run so; the cmdlet `fault` fails."""

    def watch(cmdlet: str) -> None:
        if cmdlet == "Hyper-V\\New-VM done":
            for vm in host.sorted_vms():
                if vm.name.startswith(scratch.NAME_PREFIX):
                    vm.power = power
        if cmdlet == fault:
            raise PowerShellError("It failed.", "OperationFailed", "NotSpecified")

    host.fault = watch


def run_settle(
    runner: DirectRunner, iso: Path, told: list[str] | None = None, waits: Waits = WAITS
) -> dict[str, Finding]:
    def connect(pipe: str) -> Link:
        return open_line(runner.host, pipe)

    heard: list[str] = [] if told is None else told
    settled = settle(runner, None, iso, connect, heard.append, waits=waits)
    return {finding.letter: finding for finding in settled.findings}


def nothing_is_left(host: SimulatedHost) -> bool:
    base = host.files.find("C:\\ProgramData\\bootgraft")
    return not host.vms and (base is None or not list(base.iterdir()))


def test_every_question_is_settled_where_all_can_be_tried(
    host: SimulatedHost, runner: DirectRunner, iso: Path
) -> None:
    power_new_machines(host, LivePower())
    told: list[str] = []
    findings = run_settle(runner, iso, told)
    assert list(findings) == list(QUESTIONS)
    assert {letter: each.settled for letter, each in findings.items()} == dict.fromkeys(
        QUESTIONS, True
    )
    answers = {letter: finding.answer for letter, finding in findings.items()}
    assert answers["B1"].startswith("yes: HELLO came")
    assert answers["B2"] == "yes: HELLO was heard"
    assert "bytes/s to the guest" in answers["C"]
    assert answers["D"].startswith("eject: done")
    assert "insert: done" in answers["D"]
    assert answers["E"].startswith("yes, from the host to itself as \\\\HV1\\pipe")
    assert answers["G1"].startswith("no: ")
    assert answers["G2"].startswith("no: ")
    assert "refused" in answers["A"]
    assert nothing_is_left(host)
    assert told[0].startswith("made bootgraft-settle-")


def test_a_machine_that_looks_at_its_lowest_drive_alone_is_told_apart(
    host: SimulatedHost, runner: DirectRunner, iso: Path
) -> None:
    power_new_machines(host, LivePower(drives=1))
    findings = run_settle(runner, iso, waits=replace(WAITS, boot=3.0, away=1.0))
    assert findings["B1"].answer.startswith("yes")
    assert findings["B2"].answer.startswith("no: nothing was heard of it within")
    assert findings["G1"].settled
    assert nothing_is_left(host)


def test_a_live_system_that_says_nothing_leaves_most_questions_open(
    host: SimulatedHost, runner: DirectRunner, iso: Path
) -> None:
    power_new_machines(host, LivePower(silent=True))
    findings = run_settle(runner, iso, waits=replace(WAITS, boot=2.0))
    assert not findings["B1"].settled
    assert "HELLO" in findings["B1"].answer
    assert findings["C"].answer == "the live system was not heard of"
    assert findings["F"].settled
    assert nothing_is_left(host)


@pytest.mark.parametrize(
    "fault",
    [
        "Hyper-V\\Start-VM",
        "Hyper-V\\Set-VMComPort",
        "Hyper-V\\Add-VMDvdDrive",
        "Hyper-V\\Set-VMDvdDrive",
    ],
)
def test_whatever_fails_the_machine_and_the_copies_are_removed(
    host: SimulatedHost, runner: DirectRunner, iso: Path, fault: str
) -> None:
    power_new_machines(host, LivePower(), fault)
    findings = run_settle(runner, iso)
    assert not findings["B1"].settled
    assert "It failed." in findings["B1"].answer
    assert nothing_is_left(host)


def test_a_machine_that_cannot_be_made_leaves_nothing(
    host: SimulatedHost, runner: DirectRunner, iso: Path
) -> None:
    power_new_machines(host, LivePower(), "Hyper-V\\Set-VM")
    with pytest.raises(HostError, match="make-scratch failed"):
        run_settle(runner, iso)
    assert nothing_is_left(host)


def test_a_machine_that_cannot_be_removed_is_named_with_the_command_beside_the_answers(
    host: SimulatedHost, runner: DirectRunner, iso: Path
) -> None:
    power_new_machines(host, LivePower(), "Hyper-V\\Get-VMBios")  # it cannot even be looked at
    settled = settle(
        runner, None, iso, lambda pipe: open_line(runner.host, pipe), lambda _: None, waits=WAITS
    )
    (left,) = host.vms.values()
    assert f"Remove-VM -Name {left.name} -Force" in str(settled.left)
    assert 'Remove-Item -Recurse -LiteralPath "$env:ProgramData\\bootgraft\\$id"' in str(
        settled.left
    )
    assert [finding.letter for finding in settled.findings] == list(QUESTIONS)


def test_what_is_left_is_told_also_where_nothing_could_be_tried(
    host: SimulatedHost, runner: DirectRunner, iso: Path
) -> None:
    power_new_machines(host, LivePower(), "Hyper-V\\Remove-VM")
    iso.unlink()
    told: list[str] = []
    with pytest.raises(MachineError, match=r"cannot read .*live\.iso"):
        run_settle(runner, iso, told)
    assert "Remove-VM -Name bootgraft-settle-" in told[-1]


class CutRunner(DirectRunner):
    """Loses the host when a script is to run for the n-th time, before or after it."""

    def __init__(self, host: SimulatedHost) -> None:
        super().__init__(host)
        self.cuts: dict[str, list[str]] = {}  # by script, for its next runs: "before", "after", ""

    def run(
        self,
        script: str,
        asked: Mapping[str, JSON] | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> list[Mapping[str, JSON]]:
        fates = self.cuts.get(script, [])
        fate = fates.pop(0) if fates else ""
        if fate == "before":
            raise UnreachableError("the network is gone")
        answer = super().run(script, asked, timeout=timeout)
        if fate == "after":
            raise UnreachableError("the network is gone")
        return answer


@pytest.fixture
def cut(host: SimulatedHost, monkeypatch: pytest.MonkeyPatch) -> Iterator[CutRunner]:
    monkeypatch.setattr(scratch, "INTERVAL", 0.01)
    monkeypatch.setattr(scratch, "REMOVE_TIMEOUT", 5.0)
    monkeypatch.setattr(vm, "READ_PAUSES", ())
    power_new_machines(host, LivePower(), "Hyper-V\\Start-VM")
    runner = CutRunner(host)
    yield runner
    runner.close()


def test_a_machine_whose_making_was_cut_off_is_removed_once_the_host_is_back(
    host: SimulatedHost, cut: CutRunner, iso: Path
) -> None:
    cut.cuts = {"make-scratch": ["after"], "find": ["before"] * 3, "remove-scratch": ["after"]}
    with pytest.raises(UnreachableError):
        run_settle(cut, iso)
    assert nothing_is_left(host)


def test_copies_are_removed_once_the_host_is_back(
    host: SimulatedHost, cut: CutRunner, iso: Path
) -> None:
    cut.cuts = {"remove": ["before"] * 3 + ["after"]}
    assert find_left(cut, iso, None) is None
    assert nothing_is_left(host)


def find_left(runner: DirectRunner, iso: Path, base: str | None) -> str | None:
    connect = partial(open_line, runner.host)
    return settle(runner, base, iso, connect, lambda _: None, waits=WAITS).left


@pytest.mark.parametrize(
    ("base", "above"),
    [(None, "$env:ProgramData\\bootgraft"), ("D:\\a $b\\", "D:\\a `$b")],
)
def test_copies_that_cannot_be_removed_are_named_with_the_command(
    host: SimulatedHost,
    cut: CutRunner,
    iso: Path,
    monkeypatch: pytest.MonkeyPatch,
    base: str | None,
    above: str,
) -> None:
    monkeypatch.setattr(scratch, "REMOVE_TIMEOUT", 0.0)
    cut.cuts = {"remove": ["before"] * 3}
    left = str(find_left(cut, iso, base))
    folder = next(str(asked["Id"]) for _, asked in cut.calls if "Id" in asked)
    assert f'Remove-Item -Recurse -LiteralPath "{above}\\{folder}"' in left
    assert not host.vms


def test_an_interrupt_removes_the_machine(
    host: SimulatedHost, runner: DirectRunner, iso: Path
) -> None:
    power_new_machines(host, LivePower())

    def interrupt(pipe: str) -> Link:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        settle(runner, None, iso, interrupt, lambda _: None, waits=WAITS)
    assert nothing_is_left(host)


def test_other_machines_are_not_touched(
    host: SimulatedHost, runner: DirectRunner, iso: Path
) -> None:
    other = host.add_vm("appliance")
    before = host.describe(other)
    power_new_machines(host, LivePower(), "Hyper-V\\Start-VM")
    run_settle(runner, iso)
    assert host.describe(other) == before
    touched = {asked["Id"] for _, asked in runner.calls if "Id" in asked}
    assert str(other.id) not in touched


def test_the_command_prints_the_answers(
    host: SimulatedHost,
    runner: DirectRunner,
    iso: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("BOOTGRAFT_HOSTS", raising=False)
    power_new_machines(host, LivePower(), "Hyper-V\\Start-VM")
    consoles = Consoles()
    status = doctor_cli.examine(
        consoles, "hv1.example.com", True, iso, lambda _: runner, as_json=False
    )
    assert status == 1
    assert f"F   {QUESTIONS['F']}" in consoles.out_text
    assert "    not settled: start failed on hv1.example.com: It failed." in consoles.out_text
    assert doctor_cli.NOTICE in consoles.err_text


def test_output_that_was_kept_is_told_from_what_is_said_now() -> None:
    kept = Heard(unheard=10, period=3, size=1300, hellos=13, any=True)
    lost = Heard(unheard=10, period=3, size=400, hellos=4, any=True)
    assert str(kept).startswith("yes: 13 HELLOs, 1300 bytes, came within 3 s")
    assert str(lost).startswith("no: 4 HELLOs")
