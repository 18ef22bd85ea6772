"""Unattended mode: from what was found to one result, within bounds, without a question."""

import json
from dataclasses import dataclass, field

import pytest

from agent.machine_actions import NO_PAYLOAD, PLAN_SHA256, ToldActions, guest, inspection, plan
from bootgraft_agent.errors import (
    AmbiguousError,
    ChangesLeftError,
    RefusedError,
)
from bootgraft_agent.parameters import Parameters
from bootgraft_agent.plan import Options
from bootgraft_agent.result import Result
from bootgraft_agent.unattended import Unattended
from bootgraft_agent.wire import JSON


@dataclass
class Clock:
    """Time that passes only by waiting."""

    now: float = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0, "a wait that does not wait never ends"
        self.now += seconds


@dataclass
class Attempt:
    """One unattended run on a machine as told."""

    actions: ToldActions
    parameters: Parameters = field(default_factory=Parameters)
    clock: Clock = field(default_factory=Clock)
    said: list[str] = field(default_factory=list)

    def run(self) -> Result:
        return Unattended(
            self.actions, self.parameters, "run-1", self.said.append, self.clock
        ).run()


def test_a_machine_is_grafted_with_the_plan_that_was_made_and_the_result_is_kept() -> None:
    options = Options(kernel="vmlinuz-xen")
    attempt = Attempt(ToldActions(), Parameters(options=options))
    result = attempt.run()
    assert (result.outcome, result.headline, result.exit_status) == ("grafted", "SUCCESS", 0)
    assert "then start the machine from its own disk" in result.next_step
    assert attempt.actions.asked[:3] == [
        ("inspect", options),
        ("plan", options),
        ("apply", options, PLAN_SHA256),
    ]
    _, run_id, content = attempt.actions.asked[3]
    kept = json.loads(content)
    assert (run_id, kept["ok"], kept["run_id"]) == ("run-1", True, "run-1")
    assert kept["applied"]["changes"]
    assert "texts" not in kept["applied"]  # they lie beside it
    assert attempt.said[-1] == "copying the shim"


def test_a_grafted_machine_says_remove_the_iso_and_nothing_is_written() -> None:
    attempt = Attempt(ToldActions(planned=plan(already_grafted=True)))
    result = attempt.run()
    assert result.outcome == "already-grafted"
    assert result.next_step.startswith("Take the ISO out of the drive")
    assert attempt.actions.names == ["inspect", "plan"]


def test_a_grafted_machine_without_a_payload_waits_for_none() -> None:
    found = inspection(guest(payload=None, grafted_entry="Hyper-V: Appliance"), NO_PAYLOAD)
    attempt = Attempt(ToldActions(found=found))
    assert attempt.run().outcome == "already-grafted"
    assert attempt.actions.names == ["inspect"]
    assert attempt.clock.now == 1000


def test_a_payload_is_waited_for_no_longer_than_stated() -> None:
    found = inspection(guest(payload=None), NO_PAYLOAD)
    attempt = Attempt(ToldActions(found=found, payload_problems=[NO_PAYLOAD] * 1000))
    result = attempt.run()
    assert attempt.clock.now == 1000 + Parameters().payload_wait
    assert result.outcome == "refused"
    assert "hdd is empty. Nothing was changed." in result.reason
    assert result.next_step.startswith("Put the ISO with the directory shim")
    assert "waiting 120 s for a DVD with the directory shim or recipes" in attempt.said


def test_a_payload_that_comes_meanwhile_is_used() -> None:
    def come(actions: ToldActions) -> None:
        actions.found = inspection(guest())

    found = inspection(guest(payload=None), NO_PAYLOAD)
    actions = ToldActions(found=found, payload_problems=[NO_PAYLOAD] * 5, on_payload=come)
    attempt = Attempt(actions)
    assert attempt.run().outcome == "grafted"
    assert 1000 < attempt.clock.now < 1030
    assert actions.names.count("inspect") == 2


def linux_without_grub_legacy() -> dict[str, JSON]:
    """An inspection of a guest of today, without any payload."""
    linux: dict[str, JSON] = {"root": "vda1", "problem": None}
    facts: dict[str, JSON] = {"disks": [], "dvd_drives": [], "guest": None, "linux": linux}
    return {"facts": facts, "problem": "no boot partition was found", "warnings": []}


def test_for_a_linux_guest_recipes_may_come_meanwhile() -> None:
    def come(actions: ToldActions) -> None:
        actions.found = inspection(guest())

    found = linux_without_grub_legacy()
    actions = ToldActions(found=found, payload_problems=[NO_PAYLOAD] * 5, on_payload=come)
    attempt = Attempt(actions)
    assert attempt.run().outcome == "grafted"
    assert 1000 < attempt.clock.now < 1030


@pytest.mark.parametrize(
    ("problems", "options"), [([], Options()), ([NO_PAYLOAD] * 99, Options(recipe="x"))]
)
def test_nothing_is_waited_for_where_it_would_change_nothing(
    problems: list[str | None], options: Options
) -> None:
    actions = ToldActions(
        found=linux_without_grub_legacy(),
        payload_problems=problems,
        errors={"plan": RefusedError("no boot partition was found")},
    )
    attempt = Attempt(actions, Parameters(options=options))
    assert attempt.run().outcome == "refused"
    assert attempt.clock.now == 1000


@pytest.mark.parametrize(
    ("error", "outcome", "reason", "next_step"),
    [
        (RefusedError("no disk was found"), "refused", "No disk was found.", "Correct that"),
        (
            AmbiguousError("hda1 and hdb1 both hold GRUB; name one with --boot-partition"),
            "refused",
            "hda1 and hdb1 both hold GRUB; name one with bootgraft.boot-partition=.",
            "Start this ISO again with the boot parameter",
        ),
        (AmbiguousError("eject one of these"), "refused", "Eject one of these.", "Correct that"),
        (ChangesLeftError("not taken back"), "left", "Not taken back.", "Start this ISO again in"),
        (OSError(5, "Input/output error"), "refused", "[Errno 5] Input/output error.", "Correct"),
        (KeyError("x"), "refused", "Bootgraft itself failed: KeyError", "Start this ISO again in"),
    ],
)
def test_every_failure_has_one_reason_and_one_next_step(
    error: Exception, outcome: str, reason: str, next_step: str
) -> None:
    attempt = Attempt(ToldActions(errors={"apply": error}))
    result = attempt.run()
    assert (result.outcome, result.headline) == (outcome, "FAILED")
    assert result.reason.startswith(reason)
    assert result.next_step.startswith(next_step)
    assert result.exit_status != 0
    is_left = outcome == "left"  # only then there is a place to keep the result in
    assert ("keep_result" in attempt.actions.names) == is_left


def test_a_wrong_boot_parameter_stops_the_run_before_anything_is_looked_at() -> None:
    attempt = Attempt(ToldActions(), Parameters(problems=("bootgraft.kernl is unknown",)))
    result = attempt.run()
    assert (result.outcome, result.exit_status) == ("invalid", 2)
    assert attempt.actions.asked == []


def test_a_result_that_cannot_be_kept_is_said_and_stays_a_success() -> None:
    attempt = Attempt(ToldActions(errors={"keep_result": OSError(28, "No space left")}))
    assert attempt.run().is_good
    assert "could not be kept beside the backups" in attempt.said[-1]
