"""Whole runs on a simulated hypervisor: what they come to."""

import json
import os
import re
import signal
from pathlib import Path
from typing import TextIO

import pytest

from bootgraft_agent.errors import RefusedError
from bootgraft_agent.wire import JSON
from bootgraft_host.machine import MachineError, Media
from bootgraft_host.replies import Log, Progress
from bootgraft_host.runs import Run, StateDirectory, _RunLog
from bootgraft_host.signals import SIGNALS, interruptible
from bootgraft_host.workflow import (
    run_confirm,
    run_inspect,
    run_rollback,
)
from host.bench import (
    EXPECT,
    GRAFTED_CONFIGURATION,
    Bench,
    FaultAt,
    Watcher,
    at,
    check_aftermath,
    interrupt,
    raise_machine_error,
)
from host.simulated import CONFIGURATION, MARKER, UNTOUCHED, Guest, plan_result


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
