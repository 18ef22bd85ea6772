"""Whole runs on a simulated hypervisor: what they come to, whatever fails and whenever."""

import json
import multiprocessing
import os
import re
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import pytest

from bootgraft_agent.errors import RefusedError
from bootgraft_agent.wire import JSON
from bootgraft_host.job import Deadlines, Setup
from bootgraft_host.machine import MachineError, Media
from bootgraft_host.replies import Log, Progress
from bootgraft_host.results import RunResult
from bootgraft_host.runs import Run, StateDirectory, _RunLog
from bootgraft_host.signals import SIGNALS, interruptible
from bootgraft_host.workflow import (
    GraftOrder,
    run_confirm,
    run_graft,
    run_inspect,
    run_recover,
    run_rollback,
)
from host.simulated import CONFIGURATION, MARKER, UNTOUCHED, Guest, SimulatedMachine, plan_result

EXPECT = re.compile(MARKER)
QUICK = Deadlines(
    serial=2, hello=2, silence=1.5, request=5, power_off=2, turn_off=1, confirm=2, watch=0.6
)
GRAFTED_CONFIGURATION = {
    **CONFIGURATION,
    "adapter": {"kind": "legacy", "mac": "52:54:00:12:34:56"},
}


@dataclass
class Watcher:
    """An observer that remembers."""

    steps: list[str] = field(default_factory=list)
    events: list[Progress | Log] = field(default_factory=list)

    def step(self, name: str, text: str) -> None:
        self.steps.append(name)

    def event(self, event: Progress | Log) -> None:
        self.events.append(event)


@dataclass
class Bench:
    """A machine, its media, and a state directory, all in one folder."""

    folder: Path

    def __post_init__(self) -> None:
        self.media = Media(self.folder / "live.iso", self.folder / "payload.iso")
        for iso in (self.folder / "live.iso", self.folder / "payload.iso"):
            iso.write_bytes(b"an ISO")
        self.state = StateDirectory(self.folder / "state")
        self.watcher = Watcher()

    def machine(
        self, guest: Guest | None = None, fault: Callable[[str], None] = lambda _: None
    ) -> SimulatedMachine:
        return SimulatedMachine(self.folder / "machine.json", guest, fault)

    def setup(self, machine: SimulatedMachine) -> Setup:
        return Setup(machine, "/vms/my vm.toml", self.state, self.watcher, QUICK)

    def graft(
        self,
        machine: SimulatedMachine,
        *,
        dry_run: bool = False,
        expect: re.Pattern[str] | None = EXPECT,
        leave_running: bool = False,
    ) -> RunResult:
        order = GraftOrder(
            self.media, {"kernel": "k"}, dry_run=dry_run, expect=expect, leave_running=leave_running
        )
        return run_graft(self.setup(machine), order)

    def unfinished(self) -> bool:
        return bool(self.state.list_unfinished())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_run_grafts_proves_the_boot_and_hands_the_machine_back(bench: Bench) -> None:
    machine = bench.machine()
    result = bench.graft(machine)
    assert (result.outcome, result.exit_status, result.message) == ("grafted", 0, "")
    assert bench.watcher.steps == [
        *("preflight", "capture", "attach", "boot", "handshake", "inspect", "plan", "apply"),
        *("power_off", "detach", "confirm", "restore"),
    ]
    assert machine.disk == {"grafted_by": result.run_id, "writes": 1}
    assert machine.configuration == GRAFTED_CONFIGURATION
    assert machine.state() == "off"
    assert not bench.unfinished()
    assert result.confirmation is not None
    assert result.confirmation.evidence == (MARKER,)


def test_a_runs_directory_holds_everything_and_is_private(bench: Bench) -> None:
    result = bench.graft(bench.machine())
    names = {path.name for path in result.directory.iterdir()}
    assert names == {
        *("result.json", "run.log", "console.log", "console-confirm.log"),
        *("text-01-before.txt", "text-01-after.txt", "text-01.diff"),
        *("screen-grub-menu.png", "screen-guest.png"),
    }
    assert result.directory.stat().st_mode & 0o777 == 0o700
    assert (result.directory / "text-01-after.txt").read_text() == "timeout=15\n"
    assert b"SeaBIOS" in (result.directory / "console.log").read_bytes()
    assert MARKER.encode() in (result.directory / "console-confirm.log").read_bytes()
    document = json.loads((result.directory / "result.json").read_bytes())
    assert document["files"][0]["path"] == "../../etc/passwd"
    assert document["confirm"]["proven"] is True
    assert document["facts"] == {"disks": [{"name": "hda", "size": 1024}]}


def test_nothing_is_sent_while_the_boot_is_proven(bench: Bench) -> None:
    machine = bench.machine()
    bench.graft(machine)
    assert machine.state() == "off"
    assert machine.heard_by_guest == b""


def test_words_from_before_the_proving_boot_do_not_count(bench: Bench) -> None:
    machine = bench.machine(Guest(console=b"silence\n"))
    result = bench.graft(machine, expect=re.compile("SeaBIOS"))
    assert (result.outcome, result.exit_status) == ("unproven", 4)


def test_a_dry_run_changes_nothing(bench: Bench) -> None:
    machine = bench.machine()
    result = bench.graft(machine, dry_run=True)
    assert (result.outcome, result.exit_status) == ("planned", 0)
    assert machine.disk == UNTOUCHED
    assert machine.configuration == CONFIGURATION
    assert "confirm" not in bench.watcher.steps
    assert (result.directory / "text-01.diff").read_text().endswith("+timeout=15\n")


def test_a_second_run_finds_the_work_done_and_does_not_even_boot_the_guest(bench: Bench) -> None:
    machine = bench.machine()
    first = bench.graft(machine)
    disk = machine.disk
    result = bench.graft(machine)
    assert (result.outcome, result.exit_status) == ("already-grafted", 0)
    assert machine.disk == disk == {"grafted_by": first.run_id, "writes": 1}
    assert machine.configuration == GRAFTED_CONFIGURATION
    assert bench.watcher.steps.count("confirm") == 1


def test_a_rollback_takes_the_graft_back(bench: Bench) -> None:
    machine = bench.machine()
    first = bench.graft(machine)
    result = run_rollback(bench.setup(machine), bench.media, {}, first.run_id)
    assert (result.outcome, result.exit_status) == ("rolled-back", 0)
    assert machine.disk == {"grafted_by": None, "writes": 2}
    assert machine.configuration == GRAFTED_CONFIGURATION


def test_an_inspection_needs_no_payload_and_changes_nothing(bench: Bench) -> None:
    machine = bench.machine()
    media = Media(bench.media.live_iso, None)
    result = run_inspect(bench.setup(machine), media, {})
    assert (result.outcome, result.exit_status) == ("inspected", 0)
    assert machine.configuration == CONFIGURATION
    assert machine.disk == UNTOUCHED


def test_without_expect_the_boot_is_shown_not_proven(bench: Bench) -> None:
    result = bench.graft(bench.machine(), expect=None)
    assert (result.outcome, result.exit_status) == ("grafted", 0)
    assert result.confirmation is not None
    assert not result.confirmation.proven
    assert {path.name for path in result.confirmation.pictures} == {
        "screen-grub-menu.png",
        "screen-guest.png",
    }


def test_where_the_screens_text_cannot_be_read_pictures_are_taken_anyway(bench: Bench) -> None:
    machine = bench.machine()
    machine.blind = True
    result = bench.graft(machine, expect=None)
    assert (result.directory / "screen-00.0s.png").exists()


def test_a_failing_screenshot_is_a_warning(bench: Bench) -> None:
    def fault(where: str) -> None:
        if where == "take_screenshot":
            raise MachineError("no display")

    result = bench.graft(bench.machine(fault=fault))
    assert (result.outcome, result.exit_status) == ("grafted", 0)
    assert "no picture screen-guest.png: no display" in result.warnings


def test_a_machine_is_left_running_only_when_asked_and_proven(bench: Bench) -> None:
    machine = bench.machine()
    assert bench.graft(machine, leave_running=True).left_running
    assert machine.state() == "running"
    assert machine.configuration == GRAFTED_CONFIGURATION
    assert not bench.unfinished()


def test_an_unproven_boot_is_never_left_running(bench: Bench) -> None:
    machine = bench.machine(Guest(console=b"kernel panic\n"))
    result = bench.graft(machine, leave_running=True)
    assert (result.outcome, result.exit_status) == ("unproven", 4)
    assert f"nothing on COM1 matched '{MARKER}' within 2 s" in result.message
    assert machine.state() == "off"


def test_a_boot_can_be_proven_later(bench: Bench) -> None:
    bench.graft(bench.machine(Guest(console=b"fsck runs for an hour\n")))
    result = run_confirm(bench.setup(bench.machine()), EXPECT)
    assert (result.outcome, result.exit_status) == ("confirmed", 0)
    assert bench.machine().state() == "off"


@pytest.mark.parametrize("chunk", ["token 4711", "login: $"])
def test_evidence_is_given_as_whole_lines(bench: Bench, chunk: str) -> None:
    result = bench.graft(bench.machine(), expect=re.compile(chunk, re.MULTILINE))
    assert result.confirmation is not None
    assert result.confirmation.evidence in {(MARKER,), ("login: ",)}


# Refusals and failures: one message, the guest unchanged, the machine restored.


@pytest.mark.parametrize(
    ("guest", "outcome", "status", "words"),
    [
        (Guest(never_hello=True), "failed", 1, "HELLO from the agent did not come within 2 s"),
        (Guest(off_at_boot=True), "failed", 1, "the machine turned off while HELLO"),
        (Guest(silent_at="inspect"), "failed", 1, "silent"),
        (Guest(off_at="plan"), "failed", 1, "the machine turned off while the reply to plan"),
        (
            Guest(errors={"plan": ("refused", "two boot partitions: hda1, hdb1")}),
            "refused",
            1,
            "two boot partitions: hda1, hdb1",
        ),
        (
            Guest(errors={"plan": ("invalid", "no kernel named k")}),
            "invalid",
            2,
            "no kernel named k",
        ),
        (Guest(errors={"inspect": ("internal", "KeyError")}), "failed", 1, "KeyError"),
        (
            Guest(answers={"inspect": {"facts": 1, "problem": None}}),
            "failed",
            1,
            "facts should be an object",
        ),
        (
            Guest(errors={"apply": ("refused", "the plan is another one")}),
            "refused",
            1,
            "the plan is another one",
        ),
    ],
)
def test_what_cannot_be_done_leaves_guest_and_machine_as_they_were(
    bench: Bench, guest: Guest, outcome: str, status: int, words: str
) -> None:
    machine = bench.machine(guest)
    result = bench.graft(machine)
    assert (result.outcome, result.exit_status) == (outcome, status)
    assert words in result.message
    assert (result.directory / "screen-no-hello.png").exists() == guest.never_hello
    assert machine.disk == UNTOUCHED
    assert machine.configuration == CONFIGURATION
    assert machine.state() == "off"
    assert not bench.unfinished()
    stored = json.loads((result.directory / "result.json").read_bytes())
    assert (stored["outcome"], stored["machine"]["restored"]) == (outcome, True)


@pytest.mark.parametrize(
    ("guest", "words"),
    [
        (Guest(silent_at="apply"), "silent"),
        (Guest(off_at="apply"), "the machine turned off while the reply to apply"),
        (Guest(errors={"apply": ("internal", "KeyError")}), "KeyError"),
        (Guest(answers={"apply": {"run_id": "another"}}), "changed is missing"),
    ],
)
def test_an_apply_without_a_clear_answer_says_what_may_be_left_and_what_to_do(
    bench: Bench, guest: Guest, words: str
) -> None:
    machine = bench.machine(guest)
    result = bench.graft(machine)
    assert (result.outcome, result.exit_status) == ("left", 3)
    assert words in result.message
    assert "whether the guest is changed is not known" in result.message
    assert f"`bootgraft rollback '/vms/my vm.toml' --run {result.run_id}`" in result.message
    assert machine.configuration == CONFIGURATION
    assert machine.state() == "off"
    assert not bench.unfinished()


@pytest.mark.parametrize("kind", ["refused", "invalid"])
def test_a_refusal_by_an_agent_that_died_of_the_apply_is_no_clear_answer(
    bench: Bench, kind: str
) -> None:
    guest = Guest(restarts_at="apply", errors={"apply": (kind, "the plan is another one")})
    result = bench.graft(bench.machine(guest))
    assert (result.outcome, result.exit_status) == ("left", 3)
    assert "the plan is another one; whether the guest is changed is not known" in result.message


def test_a_rollback_of_the_latest_run_is_not_asked_again_as_it_might_take_back_an_older_one(
    bench: Bench,
) -> None:
    machine = bench.machine()
    bench.graft(machine)
    machine.guest = Guest(restarts_at="rollback")
    result = run_rollback(bench.setup(machine), bench.media, {}, None)
    assert (result.outcome, result.exit_status) == ("left", 3)
    assert "`bootgraft rollback '/vms/my vm.toml' --run RUN`" in result.message
    assert machine.disk["writes"] == 1


def test_a_rollback_of_a_named_run_is_asked_again(bench: Bench) -> None:
    machine = bench.machine()
    run_id = bench.graft(machine).run_id
    machine.guest = Guest(restarts_at="rollback")
    result = run_rollback(bench.setup(machine), bench.media, {}, run_id)
    assert (result.outcome, machine.disk["writes"]) == ("rolled-back", 2)


def test_a_rollback_with_nothing_to_take_back_is_well(bench: Bench) -> None:
    nothing: dict[str, JSON] = {"run_id": None, "changed": False, "changes": [], "verified": []}
    answer = {"rollback": nothing | {"warnings": ["there is no graft to roll back"]}}
    machine = bench.machine(Guest(answers=answer))
    result = run_rollback(bench.setup(machine), bench.media, {}, None)
    assert (result.outcome, result.exit_status) == ("rolled-back", 0)
    assert "there is no graft to roll back" in result.warnings


def test_an_interrupt_after_a_rollback_does_not_deny_it(bench: Bench) -> None:
    machine = bench.machine(Guest(at_request=at("power_off", interrupt)))
    with interruptible():
        result = run_rollback(bench.setup(machine), bench.media, {}, None)
    assert (result.outcome, result.exit_status) == ("rolled-back", 0)
    assert "after the rollback: interrupted" in result.warnings
    assert machine.configuration == CONFIGURATION
    assert machine.state() == "off"


def test_text_that_no_bytes_stand_for_is_kept_all_the_same(bench: Bench) -> None:
    diffs: list[JSON] = [{"path": "menu.lst", "diff": "-\ud800\n+\udcff\n"}]
    guest = Guest(answers={"plan": plan_result(already_grafted=False) | {"diffs": diffs}})
    result = bench.graft(bench.machine(guest), dry_run=True)
    assert (result.outcome, result.exit_status) == ("planned", 0)
    assert (result.directory / "text-01.diff").read_bytes() == b"-\xed\xa0\x80\n+\xed\xb3\xbf\n"


def test_the_commands_that_are_named_name_a_state_directory_that_is_not_the_default(
    bench: Bench,
) -> None:
    bench.state = StateDirectory(bench.folder / "my state", named=True)
    option = f"--state-dir '{bench.folder / 'my state'}'`"
    result = bench.graft(bench.machine(Guest(silent_at="apply")))
    assert f"rollback '/vms/my vm.toml' --run {result.run_id} {option}" in result.message
    fault = FaultAt("turn_off", raise_machine_error, for_good=True)
    result = bench.graft(bench.machine(fault=fault))
    assert f"`bootgraft recover '/vms/my vm.toml' {option}" in result.message


def test_a_run_log_on_a_full_disk_decides_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def open_full(_: _RunLog) -> TextIO:
        return Path("/dev/full").open("w")

    monkeypatch.setattr(_RunLog, "_open", open_full)
    result = bench.graft(bench.machine())
    check_aftermath(bench, result)
    assert result.outcome == "grafted"
    assert capsys.readouterr().err == ""


def test_a_second_interrupt_right_after_the_first_is_ignored() -> None:
    with interruptible():
        try:
            interrupt()
        except KeyboardInterrupt:
            for number in SIGNALS:
                signal.raise_signal(number)
        else:
            pytest.fail("the first one was ignored, too")


def test_changes_that_the_agent_left_are_told_in_its_words(bench: Bench) -> None:
    guest = Guest(errors={"apply": ("changes-left", "xen.gz stayed; remove it")})
    result = bench.graft(bench.machine(guest))
    assert (result.outcome, result.exit_status) == ("left", 3)
    assert result.message == "xen.gz stayed; remove it"


def test_a_live_system_that_does_not_turn_off_has_its_power_cut(bench: Bench) -> None:
    machine = bench.machine(Guest(powers_off=False))
    result = bench.graft(machine)
    assert (result.outcome, result.exit_status) == ("grafted", 0)
    assert any("its power was cut" in warning for warning in result.warnings)


def test_a_running_machine_is_refused_and_left_alone(bench: Bench) -> None:
    machine = bench.machine()
    machine.start()
    result = bench.graft(machine)
    assert (result.outcome, result.exit_status) == ("refused", 1)
    assert "appliance is running" in result.message
    assert machine.state() == "running"


def test_a_missing_iso_is_refused(bench: Bench) -> None:
    bench.media.live_iso.unlink()
    result = bench.graft(bench.machine())
    assert "live.iso does not exist" in result.message
    assert bench.watcher.steps == ["preflight"]


def test_a_second_controller_is_kept_away(bench: Bench) -> None:
    machine = bench.machine()
    with (
        bench.state.locked(machine.machine_id),
        pytest.raises(RefusedError, match=f"another bootgraft \\(process {os.getpid()}\\)"),
    ):
        bench.graft(machine)


def test_a_watcher_that_cannot_be_told_any_more_changes_nothing(bench: Bench) -> None:
    class GoneWatcher(Watcher):
        def step(self, name: str, text: str) -> None:
            raise BrokenPipeError(32, "Broken pipe")

        def event(self, event: Progress | Log) -> None:
            raise ValueError("I/O operation on closed file")

    bench.watcher = GoneWatcher()
    result = bench.graft(bench.machine())
    check_aftermath(bench, result)
    assert result.outcome == "grafted"


def test_a_full_disk_after_the_graft_still_restores_the_machine(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Run, "write_result", fail)
    monkeypatch.setattr(Run, "_save", fail)
    guest = Guest(answers={"plan": plan_result(already_grafted=False) | {"diffs": []}})
    result = bench.graft(bench.machine(guest))
    check_aftermath(bench, result)
    assert result.exit_status == 4
    assert "No space left on device" in result.message
    assert any("result.json could not be written" in text for text in result.warnings)


# Faults: each method of the machine fails, once or for good, at each point of a run.


def points_of_a_run() -> list[str]:
    """Name each call of the machine's methods in a good run, numbered where repeated.

    Read from the run below by `test_the_points_of_a_run_are_those_listed`.
    """
    return [
        *("problems", "capture", "attach", "attach, half done", "attach, done"),
        *("start", "start, done", "open_serial", "open_serial, done", "wait_off"),
        *("detach", "detach, half done", "detach, done"),
        *("start 2", "start, done 2", "read_screen_text", "take_screenshot"),
        *("open_serial 2", "open_serial, done 2", "take_screenshot 2"),
        *("turn_off", "turn_off, done", "wait_off 2"),
        *("detach 2", "detach, half done 2", "detach, done 2"),
    ]


@dataclass
class FaultAt:
    """Does something at one point of a run; where `for_good`, at each later call of it, too."""

    point: str
    act: Callable[[], None]
    for_good: bool = False
    seen: list[str] = field(default_factory=list)
    calls: dict[str, int] = field(default_factory=dict)
    struck: bool = False

    def __call__(self, where: str) -> None:
        self.calls[where] = self.calls.get(where, 0) + 1
        number = self.calls[where]
        name = where if number == 1 else f"{where} {number}"
        self.seen.append(name)
        again = self.struck and self.for_good and where == re.sub(r" \d+$", "", self.point)
        if name == self.point or again:
            self.struck = True
            self.act()


def raise_machine_error() -> None:
    raise MachineError("the hypervisor does not feel like it")


def raise_os_error() -> None:
    raise OSError(5, "Input/output error")


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_points_of_a_run_are_those_listed(bench: Bench) -> None:
    fault = FaultAt("none", raise_machine_error)
    bench.graft(bench.machine(fault=fault))
    seen = [name for name in fault.seen if not name.startswith("state")]
    assert sorted(set(points_of_a_run())) == sorted(set(seen))


def check_aftermath(bench: Bench, result: RunResult) -> None:
    """The machine is off and as it was, and the exit status says the truth about the guest."""
    machine = bench.machine()
    grafted = machine.disk["grafted_by"] is not None
    assert machine.state() == "off"
    assert not bench.unfinished()
    assert result.exit_status in ({0, 3, 4} if grafted else {1, 2})
    kept = result.exit_status in {0, 4}
    assert machine.configuration == (GRAFTED_CONFIGURATION if kept else CONFIGURATION)
    assert result.adapter_kept == kept


@pytest.mark.parametrize("act", [raise_machine_error, raise_os_error, interrupt])
@pytest.mark.parametrize("point", points_of_a_run())
def test_one_fault_or_interrupt_anywhere_leaves_the_machine_restored(
    bench: Bench, point: str, act: Callable[[], None]
) -> None:
    fault = FaultAt(point, act)
    with interruptible():
        result = bench.graft(bench.machine(fault=fault))
    assert fault.struck
    check_aftermath(bench, result)


def at(request: str, act: Callable[[], None]) -> Callable[[str], None]:
    return lambda name: act() if name == request else None


@pytest.mark.parametrize(
    ("request_name", "status"), [("inspect", 1), ("plan", 1), ("apply", 4), ("power_off", 4)]
)
def test_an_interrupt_while_the_agent_works_leaves_the_machine_restored(
    bench: Bench, request_name: str, status: int
) -> None:
    with interruptible():
        result = bench.graft(bench.machine(Guest(at_request=at(request_name, interrupt))))
    assert "interrupted" in result.message
    assert result.exit_status == status
    assert bench.machine().state() == "off"
    assert not bench.unfinished()
    expected = GRAFTED_CONFIGURATION if status == 4 else CONFIGURATION
    assert bench.machine().configuration == expected


@pytest.mark.parametrize(
    ("too_late", "outcome", "status"), [(False, "refused", 1), (True, "unproven", 4)]
)
def test_an_interrupted_apply_is_ended_in_order(
    bench: Bench, too_late: bool, outcome: str, status: int
) -> None:
    guest = Guest(slow_at="apply", at_request=at("apply", interrupt), abort_comes_too_late=too_late)
    with interruptible():
        result = bench.graft(bench.machine(guest))
    assert (result.outcome, result.exit_status) == (outcome, status)
    assert any("the agent is asked to stop" in text for text in result.warnings)
    check_aftermath(bench, result)


def test_a_second_interrupt_of_an_apply_cuts_the_power(bench: Bench) -> None:
    guest = Guest(silent_at="abort", slow_at="apply")
    guest.at_request = lambda name: interrupt() if name in {"apply", "abort"} else None
    with interruptible():
        result = bench.graft(bench.machine(guest))
    assert (result.outcome, result.exit_status) == ("left", 3)
    assert "whether the guest is changed is not known" in result.message
    assert bench.machine().state() == "off"


@pytest.mark.parametrize("point", points_of_a_run())
def test_a_fault_for_good_restores_or_says_what_is_left_and_recover_does_it(
    bench: Bench, point: str
) -> None:
    fault = FaultAt(point, raise_machine_error, for_good=True)
    result = bench.graft(bench.machine(fault=fault))
    assert fault.struck
    if not bench.unfinished():
        check_aftermath(bench, result)
        return
    assert (result.outcome, result.exit_status) == ("left", 3)
    assert "`bootgraft recover '/vms/my vm.toml'`" in result.message
    assert not result.machine_restored
    check_recovery(bench)


def check_recovery(bench: Bench) -> None:
    """Recover restores; the adapter stays exactly where the guest is known to be grafted."""
    (record,) = bench.state.list_unfinished()
    recovered = run_recover(bench.setup(bench.machine()))
    assert (recovered.outcome, recovered.exit_status) == ("restored", 0)
    assert bench.machine().state() == "off"
    assert not bench.unfinished()
    expected = GRAFTED_CONFIGURATION if record.stage == "grafted" else CONFIGURATION
    assert bench.machine().configuration == expected


def kill_in_a_run(bench: Bench, machine: SimulatedMachine) -> None:
    """Do a run in a process of its own, which is killed in it."""
    process = multiprocessing.get_context("fork").Process(target=bench.graft, args=(machine,))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("point", points_of_a_run())
def test_after_the_controller_was_killed_anywhere_recover_restores(
    bench: Bench, point: str
) -> None:
    kill_in_a_run(bench, bench.machine(fault=FaultAt(point, kill)))
    if bench.unfinished():
        check_recovery(bench)
    assert bench.machine().state() == "off"
    result = bench.graft(bench.machine())
    assert result.exit_status == 0
    assert bench.machine().configuration == GRAFTED_CONFIGURATION


def test_a_run_restores_an_off_machine_after_an_earlier_run_by_itself(bench: Bench) -> None:
    kill_in_a_run(bench, bench.machine(fault=FaultAt("attach, half done", kill)))
    result = bench.graft(bench.machine())
    assert bench.watcher.steps[:2] == ["recover", "preflight"]
    assert result.outcome == "grafted"
    assert bench.machine().configuration == GRAFTED_CONFIGURATION


def test_a_run_refuses_a_running_machine_with_an_unfinished_run_and_names_recover(
    bench: Bench,
) -> None:
    kill_in_a_run(bench, bench.machine(fault=FaultAt("open_serial, done", kill)))
    result = bench.graft(bench.machine())
    assert (result.outcome, result.exit_status) == ("left", 3)
    assert result.message.count("`bootgraft recover '/vms/my vm.toml'` turns it off") == 1
    assert bench.machine().state() == "running"
    check_recovery(bench)


def test_recover_tells_of_a_guest_that_may_be_changed(bench: Bench) -> None:
    kill_in_a_run(bench, bench.machine(Guest(at_request=at("apply", kill))))
    recovered = run_recover(bench.setup(bench.machine()))
    assert recovered.exit_status == 0
    assert any("old one or the new one, whole" in text for text in recovered.warnings)
    assert bench.machine().configuration == CONFIGURATION


def test_recover_without_an_unfinished_run_does_nothing(bench: Bench) -> None:
    machine = bench.machine()
    machine.start()
    result = run_recover(bench.setup(machine))
    assert result.exit_status == 0
    assert "no unfinished run" in result.message
    assert machine.state() == "running"


def test_a_damaged_record_is_never_taken_for_a_restored_machine(bench: Bench) -> None:
    kill_in_a_run(bench, bench.machine(fault=FaultAt("attach, done", kill)))
    record = bench.folder / "state" / "machines" / "appliance-1" / "unfinished.json"
    record.write_bytes(record.read_bytes()[:50])
    result = bench.graft(bench.machine())
    assert result.exit_status == 3
    assert "unfinished.json is damaged" in result.message
    assert not result.machine_restored
