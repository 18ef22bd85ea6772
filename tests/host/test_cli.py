"""The command line on a simulated hypervisor: exit statuses, output, one JSON document."""

import io
import os
import re
import shlex
import signal
import stat
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from bootgraft_agent import __version__
from bootgraft_agent.wire import JSON
from bootgraft_host import cli
from bootgraft_host.options import find_live_iso
from bootgraft_host.replies import Log, Progress
from bootgraft_host.report import LiveReporter, PlainReporter, make_console, make_reporter
from bootgraft_host.runs import StateDirectory, default_state_directory
from bootgraft_host.text import printable
from host.shell import Shell
from host.simulated import CONFIGURATION, MARKER, UNTOUCHED, Guest, plan_result

EVIL = "\x1b]0;owned\x07\x1b[2J[red]markup[/red] :smile: \u202etxt \x9b31m end"
HARMLESS = r"\x1b]0;owned\x07\x1b[2J[red]markup[/red] :smile: \u202etxt \x9b31m end"
COMMANDS = ("run", "inspect", "rollback", "confirm", "recover", "detach", "status", "doctor")


@pytest.mark.parametrize("command", ["", *COMMANDS, "iso"])
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_every_command_has_help(shell: Shell, command: str, option: str) -> None:
    output = shell(*([command] if command else []), option, state=False)
    assert output.status == 0
    assert output.out.startswith(f"Usage: bootgraft {command}".rstrip())


@pytest.mark.parametrize("command", ["", *sorted(set(COMMANDS) - {"status", "doctor", "detach"})])
def test_help_documents_the_exit_statuses(shell: Shell, command: str) -> None:
    text = shell(*([command] if command else []), "-h", state=False).out
    assert [line.split()[0] for line in text.splitlines()[-5:]] == list("01234")


def test_the_version_is_told(shell: Shell) -> None:
    assert shell("--version", state=False).out == f"bootgraft {__version__}\n"


@pytest.mark.parametrize(
    "argv",
    [
        ("run",),
        ("run", "vm"),
        ("run", "vm", "--payload", "/nowhere.iso"),
        ("graft", "vm"),
        ("run", "vm", "--expect", "("),
        ("run", "vm", "--guest-disk", "xvda"),
        ("confirm", "vm", "--expect", "x*"),
        ("status", "--no-such-option"),
    ],
)
def test_wrong_usage_is_status_2_with_words_on_stderr(shell: Shell, argv: Sequence[str]) -> None:
    output = shell(*argv, state=False)
    assert output.status == 2
    assert output.out == ""
    assert "Error: " in output.err


def test_a_machine_that_is_described_wrongly_is_status_2(shell: Shell) -> None:
    output = shell("recover", "wrong")
    assert output.status == 2
    assert "memory: unknown key" in output.err


def test_a_run_tells_its_steps_on_stderr_and_its_result_on_stdout(shell: Shell) -> None:
    output = shell.run()
    assert output.status == 0
    assert [line.split(":")[0] for line in output.err.splitlines()] == [
        *("preflight", "capture", "attach", "boot", "handshake", "inspect", "plan", "apply"),
        *("power_off", "detach", "confirm", "restore"),
    ]
    assert "appliance: grafted\n" in output.out
    assert MARKER in output.out
    assert "+timeout=15\n" in output.out
    assert "screen-guest.png" in output.out


def test_without_expect_the_result_says_shown_not_proven(shell: Shell) -> None:
    argv = ("run", "vm", "--payload", str(shell.payload), *shell.live, "--confirm-timeout", "1")
    output = shell(*argv)
    assert output.status == 0
    assert "its boot was started and shown, not proven" in output.out


def test_a_dry_run_prints_plan_and_diffs(shell: Shell) -> None:
    output = shell.run("--dry-run")
    assert output.status == 0
    assert "1. copy xen.gz" in output.out
    assert "-timeout=5\n+timeout=15\n" in output.out
    assert shell.machine().disk == UNTOUCHED


def test_a_second_run_says_already_grafted_with_status_0(shell: Shell) -> None:
    shell.run()
    output = shell.run()
    assert output.status == 0
    assert "appliance: already grafted; nothing was changed" in output.out


def test_inspect_prints_the_facts(shell: Shell) -> None:
    output = shell("inspect", "vm", *shell.live)
    assert output.status == 0
    assert "facts:\n  disks:\n    -\n      name: hda\n" in output.out


def test_inspect_says_why_no_graft_is_possible(shell: Shell) -> None:
    found: dict[str, JSON] = {"facts": {}, "problem": "no disk was found", "warnings": []}
    shell.guest = Guest(answers={"inspect": found})
    assert "no graft is possible: no disk was found" in shell("inspect", "vm", *shell.live).out


def test_rollback_takes_the_last_graft_back(shell: Shell) -> None:
    run_id = shell.run("--json").document["run_id"]
    output = shell("rollback", "vm", "--run", run_id, *shell.live)
    assert output.status == 0
    assert "appliance: rolled back" in output.out
    assert shell.machine().disk["grafted_by"] is None


def test_a_refusal_is_status_1_and_says_that_nothing_changed(shell: Shell) -> None:
    shell.guest = Guest(errors={"plan": ("refused", "no boot partition: hda1 holds none")})
    output = shell.run()
    assert (output.status, output.out) == (1, "")
    assert "no boot partition: hda1 holds none" in output.err
    assert "the guest is unchanged, the machine is as it was" in output.err


def test_an_unproven_boot_is_status_4(shell: Shell) -> None:
    output = shell.run("--expect", "never printed", "--confirm-timeout", "1")
    assert output.status == 4
    assert "nothing on COM1 matched 'never printed' within 1 s" in output.err
    again = shell("confirm", "vm", "--expect", MARKER)
    assert again.status == 0
    assert MARKER in again.out


def test_changes_left_are_status_3(shell: Shell) -> None:
    shell.guest = Guest(errors={"apply": ("changes-left", "xen.gz stayed; remove it")})
    output = shell.run()
    assert output.status == 3
    assert "xen.gz stayed; remove it" in output.err


def test_json_is_one_document_on_stdout_whatever_happens(shell: Shell) -> None:
    assert shell.run("--json", "--dry-run").document["outcome"] == "planned"
    assert shell("inspect", "vm", *shell.live, "--json").document["outcome"] == "inspected"
    grafted = shell.run("--json").document
    assert (grafted["outcome"], grafted["confirm"]["evidence"]) == ("grafted", [MARKER])
    assert shell.run("--json").document["outcome"] == "already-grafted"
    assert shell("rollback", "vm", *shell.live, "--json").document["outcome"] == "rolled-back"
    shell.guest = Guest(errors={"plan": ("refused", "no disk")})
    refused = shell.run("--json")
    assert (refused.document["outcome"], refused.document["exit_status"]) == ("refused", 1)
    assert "no disk" in refused.err
    wrong = shell("confirm", "wrong", "--json")
    assert (wrong.document["outcome"], wrong.document["exit_status"]) == ("invalid", 2)
    assert shell("recover", "--json").document == {"results": []}
    outcomes = [run["outcome"] for run in shell("status", "--json").document["runs"]]
    assert sorted(outcomes) == [
        *("already-grafted", "grafted", "inspected", "planned", "refused", "rolled-back"),
    ]


@pytest.mark.parametrize(
    ("argv", "status"),
    [
        (("run", "vm", "--json"), 2),
        (("graft", "--json"), 2),
        (("run", "vm", "--expect", "(", "--json"), 2),
        (("confirm", "vm", "--json", "--state-dir", "/dev/null/state"), 1),
        (("recover", "vm", "--json", "--state-dir", "/dev/null/state"), 1),
    ],
)
def test_json_is_one_document_where_there_was_no_run(
    shell: Shell, argv: Sequence[str], status: int
) -> None:
    output = shell(*argv, state=False)
    assert output.status == output.document["exit_status"] == status
    assert output.document["message"] in output.err


def test_what_the_terminals_encoding_lacks_is_escaped(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        sys.stdout = (tmp_path / "out").open("w", encoding="ascii")
        make_console(stderr=False).print("\u00e4")
        sys.stdout.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert (tmp_path / "out").read_bytes() == b"\\xe4\n"


def test_a_closed_terminal_silences_a_console(monkeypatch: pytest.MonkeyPatch) -> None:
    class ClosedTerminal(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

        def fileno(self) -> int:
            return spare

    spare = os.open(os.devnull, os.O_WRONLY)
    monkeypatch.setattr(sys, "stderr", ClosedTerminal())
    console = make_console(stderr=True)
    console.print("one")
    console.print("two")
    assert console.quiet
    os.close(spare)


def test_a_run_that_nobody_reads_any_more_goes_on_to_its_end(shell: Shell) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    child = os.fork()
    if child == 0:
        sys.stdout, sys.stderr = os.fdopen(os.dup(writer), "w"), os.fdopen(writer, "w")
        os._exit(cli.main(shell.run_argv(), machines=shell.open_machine))
    os.close(writer)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert shell.machine().disk["grafted_by"] is not None
    assert shell.machine().state() == "off"
    assert shell("status").out.endswith("run  grafted  0  \n")


def test_a_state_directory_that_cannot_be_made_is_told(shell: Shell) -> None:
    (shell.folder / "state").mkdir()
    (shell.folder / "state" / "machines").write_text("a file")
    output = shell.run()
    assert output.status == 1
    assert output.err.startswith("bootgraft: ")
    assert str(shell.folder / "state") in output.err
    assert shell.machine().configuration == CONFIGURATION


def test_an_interrupt_restores_the_machine_and_is_status_1(shell: Shell) -> None:
    shell.guest = Guest(at_request=lambda _: os.kill(os.getpid(), signal.SIGTERM))
    output = shell.run()
    assert output.status == 1
    assert "interrupted" in output.err
    assert shell.machine().configuration == CONFIGURATION
    assert shell.machine().state() == "off"


def test_recover_and_status_know_every_machine_that_is_not_restored(shell: Shell) -> None:
    child = os.fork()
    if child == 0:
        shell.guest = Guest(at_request=lambda _: os.kill(os.getpid(), signal.SIGKILL))
        shell.run()
    os.waitpid(child, 0)
    told = shell("status")
    assert "appliance: not restored after the run" in told.out
    recover = f"bootgraft recover {Path('vm').absolute()} {shlex.join(shell.state)}"
    assert f"  {recover}\n" in told.out
    assert "cut off" in told.out
    assert shell.machine().state() == "running"
    output = shell("recover")
    assert output.status == 0
    assert "appliance: restored" in output.out
    assert shell.machine().state() == "off"
    assert shell.machine().configuration == CONFIGURATION
    assert shell("recover").out == "nothing to recover\n"


def test_guest_text_is_shown_literally_and_without_control_characters(shell: Shell) -> None:
    plan = plan_result(already_grafted=False)
    plan |= {
        "steps": [{"kind": "copy", "text": EVIL}],
        "diffs": [{"path": EVIL, "diff": f"-old\n+{EVIL}\n"}],
        "warnings": [EVIL],
    }
    facts: dict[str, JSON] = {"facts": {EVIL: [EVIL]}, "problem": EVIL, "warnings": [EVIL]}
    shell.guest = Guest(answers={"plan": plan, "inspect": facts})
    outputs = [
        shell.run("--dry-run"),
        shell.run("--dry-run", "--json"),
        shell("inspect", "vm", *shell.live),
    ]
    shell.guest = Guest(errors={"plan": ("refused", EVIL)})
    outputs += [shell.run(), shell("status"), shell("status", "--json")]
    for output in outputs:
        assert not set(output.out + output.err) & set("\x1b\x07\x9b\u202e")
    assert f"  1. {HARMLESS}\n" in outputs[0].out
    assert f"+{HARMLESS}\n" in outputs[0].out
    assert f"{HARMLESS}:\n" in outputs[2].out
    assert HARMLESS in outputs[3].err
    for log in (shell.folder / "state" / "runs").glob("*/run.log"):
        assert not set(log.read_text()) & set("\x1b\x07\x9b\u202e")


def test_what_a_run_keeps_is_for_its_owner_alone(shell: Shell) -> None:
    shell.run()
    runs, machines = shell.folder / "state" / "runs", shell.folder / "state" / "machines"
    for folder in (runs, machines, *runs.iterdir(), *machines.iterdir()):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_the_live_iso_is_the_named_one_or_the_environments(tmp_path: Path) -> None:
    given, named = tmp_path / "given.iso", tmp_path / "named.iso"
    given.write_bytes(b"an ISO")
    assert find_live_iso(given, {"BOOTGRAFT_ISO": str(named)}) == given
    assert find_live_iso(None, {"BOOTGRAFT_ISO": str(named)}) == named


def test_a_reporter_is_live_on_a_terminal_only() -> None:
    assert isinstance(make_reporter(Console(file=io.StringIO())), PlainReporter)
    assert isinstance(make_reporter(Console(file=io.StringIO(), force_terminal=True)), LiveReporter)


def test_live_progress_shows_guest_text_literally() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=200, markup=False, emoji=False)
    with LiveReporter(console) as reporter:
        reporter.step("apply", "carry out the plan")
        reporter.event(Progress(1, EVIL, 0, 0))
        reporter.event(Log("warning", EVIL))
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    assert f"apply: {HARMLESS}" in shown
    assert f"warning: {HARMLESS}" in shown
    assert "\x1b]0;" not in screen.getvalue()


def test_live_progress_shows_a_long_text_whole_and_its_time_at_80_columns() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80, markup=False, emoji=False)
    with LiveReporter(console) as reporter:
        reporter.step("apply", "carry out the plan")
        reporter.event(Progress(1, "copy " + "x" * 90 + " end", 1, 2))
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    assert shown.count("x") == 90
    assert " end" in shown
    assert "0:00:00" in shown


@given(st.text())
def test_printable_text_holds_nothing_that_acts_on_a_terminal(text: str) -> None:
    kinds = {unicodedata.category(char) for char in printable(text)}
    assert not kinds & {"Cc", "Cf", "Cs", "Zl", "Zp"}


def test_the_default_state_directory_follows_xdg(tmp_path: Path) -> None:
    assert default_state_directory({"XDG_STATE_HOME": str(tmp_path)}) == tmp_path / "bootgraft"
    home = Path.home() / ".local" / "state" / "bootgraft"
    assert default_state_directory({}) == home
    assert default_state_directory({"XDG_STATE_HOME": "relative"}) == home


def test_a_runs_name_comes_from_us(tmp_path: Path) -> None:
    run = StateDirectory(tmp_path).create_run("../../etc/\x1b[31mpasswd \u00e4")
    assert re.fullmatch(r"\d{8}T\d{6}Z-etc-31mpasswd-[0-9a-f]{8}", run.run_id)
