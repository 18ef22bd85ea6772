"""The console's work as commands of the live system's shell: output, JSON, exit statuses."""

import json
from pathlib import Path
from typing import Any

import pytest

from agent.machine_actions import PLAN_SHA256, ToldActions, inspection, plan
from bootgraft_agent import cli, live_command
from bootgraft_agent.errors import AmbiguousError, ChangesLeftError, RefusedError
from bootgraft_agent.plan import Options


@pytest.fixture(autouse=True)
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(live_command, "_LOCK", tmp_path / "lock")
    return tmp_path / "lock"


def perform(actions: ToldActions, *argv: str) -> int:
    return live_command.run(cli._parser().parse_args(argv), actions)


def document(capture: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capture.readouterr().out)


def test_every_command_gives_one_json_document(capsys: pytest.CaptureFixture[str]) -> None:
    actions = ToldActions(runs=[{"run_id": "run-1", "changes": []}])
    assert perform(actions, "inspect", "--json") == 0
    assert document(capsys)["problem"] is None
    assert perform(actions, "plan", "--json", "--boot-partition", "hda1") == 0
    assert document(capsys)["plan_sha256"] == PLAN_SHA256
    assert actions.asked[-1] == ("plan", Options(boot_partition="hda1"))
    assert perform(actions, "runs", "--json") == 0
    assert document(capsys)["runs"][0]["run_id"] == "run-1"
    assert perform(actions, "graft", "--json", "--shim-args", "") == 0
    grafted = document(capsys)
    assert (grafted["ok"], grafted["outcome"]) == (True, "grafted")
    assert perform(actions, "rollback", "--json", "--run", "run-1") == 0
    assert document(capsys)["outcome"] == "rolled-back"
    assert actions.asked[-1] == ("rollback", Options(), "run-1")


def test_every_command_has_words_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    actions = ToldActions(runs=[{"run_id": "run-1", "changes": []}])
    expected = {
        "inspect": "This machine can be grafted",
        "plan": "1. copy shim64",
        "runs": "run-1",
        "graft": "SUCCESS: The graft is done",
        "rollback": "SUCCESS: The graft run-9 is taken back",
    }
    for command, words in expected.items():
        assert perform(actions, command) == 0
        assert words in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "status"),
    [(AmbiguousError("Name one with --kernel"), 1), (ChangesLeftError("Not all"), 3)],
)
def test_a_failure_names_the_option_and_has_its_exit_status(
    error: Exception, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert perform(ToldActions(errors={"apply": error}), "graft") == status
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"bootgraft-agent: FAILED: {error}.\nbootgraft-agent: next: ")
    assert perform(ToldActions(errors={"apply": error}), "graft", "--json") == status
    assert document(capsys)["ok"] is False


def test_another_plan_than_the_one_shown_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    actions = ToldActions()
    assert perform(actions, "graft", "--plan-sha256", "00" * 32) == 1
    assert "apply" not in actions.names
    assert perform(actions, "graft", "--plan-sha256", PLAN_SHA256) == 0


def test_a_grafted_machine_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    actions = ToldActions(planned=plan(already_grafted=True))
    assert perform(actions, "graft") == 0
    assert actions.names == ["plan"]


def test_inspect_says_why_no_graft_is_possible(capsys: pytest.CaptureFixture[str]) -> None:
    perform(ToldActions(found=inspection(None, "no disk was found")), "inspect")
    assert "No graft is possible now: no disk was found" in capsys.readouterr().out


def test_two_commands_never_change_a_guest_at_once() -> None:
    def graft_too(actions: ToldActions) -> None:
        perform(ToldActions(), "graft")

    actions = ToldActions(planned=plan())
    with live_command._alone(), pytest.raises(RefusedError, match="another command changes"):
        graft_too(actions)


def test_outside_the_live_system_nothing_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["graft", "--json"]) == 1
    assert "this is not bootgraft's live system" in document(capsys)["error"]
