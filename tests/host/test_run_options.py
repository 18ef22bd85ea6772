"""Runs on machines of another host: uploads, one drive, checkpoints, heartbeats, a lent COM1."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bootgraft_agent.errors import RefusedError
from bootgraft_host.job import NotRestoredError
from bootgraft_host.machine import MachineError, Media
from bootgraft_host.recipes import choose_recipes
from bootgraft_host.replies import Progress
from bootgraft_host.workflow import GraftOrder, run_confirm, run_graft, run_inspect, run_recover
from host.bench import (
    EXPECT,
    GRAFTED_CONFIGURATION,
    QUICK,
    Bench,
    FaultAt,
    check_aftermath,
    raise_machine_error,
)
from host.simulated import (
    CONFIGURATION,
    HOST_FOLDER,
    MARKER,
    UNTOUCHED,
    Guest,
    SimulatedMachine,
    plan_result,
)

HEARTBEAT = "OkApplicationsUnknown"


def order_of(machine: SimulatedMachine, *names: str) -> list[str]:
    """Which of these moments came, in their order."""
    return [call for call in machine.calls if call in names]


def test_a_run_with_everything_has_its_steps_in_order(bench: Bench) -> None:
    bench.everything = True
    machine = bench.machine()
    result = bench.graft(machine)
    assert (result.outcome, result.exit_status, result.message) == ("grafted", 0, "")
    assert bench.watcher.steps == [
        *("preflight", "capture", "upload", "checkpoint", "attach", "boot", "handshake"),
        *("exchange", "inspect", "plan", "apply", "power_off", "detach", "confirm"),
        *("restore", "remove_checkpoint"),
    ]
    assert machine.configuration == GRAFTED_CONFIGURATION
    check_aftermath(bench, result)


# Preflight.


def test_remarks_are_warnings_and_stand_in_nobodys_way(bench: Bench) -> None:
    machine = bench.machine()
    machine.remarked = ("it has 2 checkpoints",)
    result = bench.graft(machine)
    assert (result.outcome, result.warnings[-1]) == ("grafted", "it has 2 checkpoints")


def test_a_claim_that_cannot_be_had_says_what_is_left_of_an_earlier_run(bench: Bench) -> None:
    fault = FaultAt("claim", raise_machine_error)
    with pytest.raises(MachineError, match=r"^the hypervisor does not feel like it$"):
        run_recover(bench.setup(bench.machine(fault=fault)))
    bench.graft(bench.machine(fault=FaultAt("turn_off", raise_machine_error, for_good=True)))
    assert bench.unfinished()
    fault = FaultAt("claim", raise_machine_error)
    with pytest.raises(NotRestoredError, match=r"`bootgraft recover '/vms/my vm\.toml'` turns it"):
        run_recover(bench.setup(bench.machine(fault=fault)))


def test_a_machine_that_another_controller_has_claimed_is_refused(bench: Bench) -> None:
    def refuse() -> None:
        raise RefusedError("another controller is at work")

    with pytest.raises(RefusedError, match="another controller is at work"):
        bench.graft(bench.machine(fault=FaultAt("claim", refuse)))


# Uploads.


def test_uploaded_isos_are_attached_by_their_paths_on_the_host_and_removed(bench: Bench) -> None:
    machine = bench.machine()
    order = GraftOrder(replace(bench.media, upload=True), dry_run=True)
    assert run_graft(bench.setup(machine), order).outcome == "planned"
    assert machine.dvds_at["plan"] == [f"{HOST_FOLDER}/live.iso", f"{HOST_FOLDER}/payload.iso"]
    assert order_of(machine, "capture", "prepare_media", "attach") == [
        *("capture", "prepare_media", "attach")
    ]
    told = [each.text for each in bench.watcher.events if isinstance(each, Progress)]
    assert told == ["copy live.iso", "copy payload.iso"]
    assert machine.uploads == []


def test_recipes_become_a_payload_that_is_uploaded_and_gone_afterwards(bench: Bench) -> None:
    recipes = choose_recipes(["serial-console"], ())
    guest = Guest(
        answers={"plan": plan_result(already_grafted=True, recipe="serial-console:0123456789ab")}
    )
    machine = bench.machine(guest)
    media = replace(bench.media, payload_iso=None, upload=True)
    result = run_graft(bench.setup(machine), GraftOrder(media, recipes=recipes))
    assert (result.outcome, result.adapter_kept) == ("already-grafted", False)
    assert bench.watcher.steps[:3] == ["payload", "preflight", "capture"]
    assert machine.dvds_at["plan"] == [f"{HOST_FOLDER}/live.iso", f"{HOST_FOLDER}/payload.iso"]
    assert machine.configuration == CONFIGURATION
    assert machine.uploads == []
    assert not list(result.directory.glob("*.iso"))


def test_a_cut_off_run_of_recipes_is_recovered_with_the_adapter_as_it_was(bench: Bench) -> None:
    plan = plan_result(already_grafted=False, recipe="serial-console:0123456789ab")
    fault = FaultAt("turn_off", raise_machine_error, for_good=True)
    bench.graft(bench.machine(Guest(answers={"plan": plan}), fault))
    (record,) = bench.state.list_unfinished()
    assert (record.stage, record.keeps_adapter) == ("grafted", False)
    machine = bench.machine()
    assert run_recover(bench.setup(machine)).outcome == "restored"
    assert machine.configuration == CONFIGURATION


def test_a_failed_upload_leaves_the_machine_as_it_was(bench: Bench) -> None:
    bench.everything = True
    machine = bench.machine(fault=FaultAt("prepare_media, done", raise_machine_error))
    result = bench.graft(machine)
    assert (result.outcome, result.exit_status) == ("failed", 1)
    assert "start" not in machine.calls
    check_aftermath(bench, result)


# One drive.


def test_with_one_drive_the_payload_takes_the_live_isos_place_after_the_handshake(
    bench: Bench,
) -> None:
    machine = bench.machine()
    media = replace(bench.media, one_drive=True)
    result = run_inspect(bench.setup(machine), media, {})
    assert result.steps == [
        *("preflight", "capture", "attach", "boot", "handshake", "exchange"),
        *("inspect", "power_off", "restore"),
    ]
    assert machine.dvds_at == {
        "inspect": [str(media.payload_iso)],
        "power_off": [str(media.payload_iso)],
    }
    assert machine.configuration == CONFIGURATION


def test_one_drive_without_a_payload_needs_no_exchange(bench: Bench) -> None:
    machine = bench.machine()
    run_inspect(bench.setup(machine), Media(bench.media.live_iso, None, one_drive=True), {})
    assert "insert_payload" not in machine.calls
    assert machine.dvds_at["inspect"] == [str(bench.media.live_iso)]


def test_a_failed_exchange_leaves_guest_and_machine_as_they_were(bench: Bench) -> None:
    bench.everything = True
    machine = bench.machine(fault=FaultAt("insert_payload", raise_machine_error))
    result = bench.graft(machine)
    assert (result.outcome, result.exit_status) == ("failed", 1)
    assert machine.disk == UNTOUCHED
    check_aftermath(bench, result)


# Checkpoints.


def order_with_checkpoint(bench: Bench) -> GraftOrder:
    return GraftOrder(bench.media, expect=EXPECT, checkpoint=True)


def machine_with_checkpoints(bench: Bench, guest: Guest | None = None) -> SimulatedMachine:
    machine = bench.machine(guest)
    machine.takes_checkpoints = True
    return machine


def test_a_checkpoint_is_taken_before_the_first_change_and_removed_after_the_last(
    bench: Bench,
) -> None:
    machine = machine_with_checkpoints(bench)
    result = run_graft(bench.setup(machine), order_with_checkpoint(bench))
    assert (result.outcome, result.checkpoint, machine.checkpoints) == ("grafted", None, [])
    assert order_of(machine, "capture", "take_checkpoint", "attach", "remove_checkpoint") == [
        *("capture", "take_checkpoint", "attach", "remove_checkpoint")
    ]
    assert machine.calls.index("remove_checkpoint") > machine.calls.index("turn_off, done")


def test_a_checkpoint_stays_until_the_boot_is_proven_and_the_result_says_how_to_use_it(
    bench: Bench,
) -> None:
    machine = machine_with_checkpoints(bench, Guest(console=b"kernel panic\n"))
    result = run_graft(bench.setup(machine), order_with_checkpoint(bench))
    name = f"bootgraft {result.run_id}"
    assert (result.outcome, result.checkpoint, machine.checkpoints) == ("unproven", name, [name])
    advice = f"the checkpoint {name} stays: Restore-It '{name}', Remove-It '{name}'"
    assert result.warnings[-1] == advice
    document = json.loads((result.directory / "result.json").read_bytes())
    assert document["machine"]["checkpoint"] == name


@pytest.mark.parametrize("request_name", ["plan", "apply"])
def test_no_checkpoint_stays_of_a_run_that_changed_nothing(bench: Bench, request_name: str) -> None:
    guest = Guest(errors={request_name: ("refused", "not this guest")})
    machine = machine_with_checkpoints(bench, guest)
    result = run_graft(bench.setup(machine), order_with_checkpoint(bench))
    assert (result.outcome, result.checkpoint, machine.checkpoints) == ("refused", None, [])


def test_no_checkpoint_stays_of_a_run_that_found_the_work_done(bench: Bench) -> None:
    bench.graft(bench.machine())
    machine = machine_with_checkpoints(bench)
    result = run_graft(bench.setup(machine), order_with_checkpoint(bench))
    assert (result.outcome, machine.checkpoints) == ("already-grafted", [])


def test_a_checkpoint_of_a_machine_that_is_left_running_is_removed_all_the_same(
    bench: Bench,
) -> None:
    machine = machine_with_checkpoints(bench)
    order = replace(order_with_checkpoint(bench), leave_running=True)
    assert run_graft(bench.setup(machine), order).left_running
    assert (machine.state(), machine.checkpoints) == ("running", [])
    assert not bench.unfinished()


def test_a_dry_run_takes_no_checkpoint(bench: Bench) -> None:
    machine = machine_with_checkpoints(bench)
    order = replace(order_with_checkpoint(bench), dry_run=True)
    result = run_graft(bench.setup(machine), order)
    assert (result.outcome, "take_checkpoint" in machine.calls) == ("planned", False)


def test_a_checkpoint_that_cannot_be_taken_is_refused_before_anything_is_changed(
    bench: Bench,
) -> None:
    machine = bench.machine()
    result = run_graft(bench.setup(machine), order_with_checkpoint(bench))
    assert (result.outcome, result.exit_status) == ("refused", 1)
    assert "leave --checkpoint out" in result.message
    assert bench.watcher.steps == ["preflight"]


# Heartbeats.


@pytest.mark.parametrize("own_com1", [True, False])
def test_without_expect_a_heartbeat_proves_the_boot(bench: Bench, own_com1: bool) -> None:
    machine = bench.machine(Guest(heartbeats=[None, HEARTBEAT]))
    machine.own_com1 = own_com1
    patient = replace(QUICK, watch=20)
    result = run_confirm(replace(bench.setup(machine), deadlines=patient), None)
    assert (result.outcome, result.exit_status) == ("confirmed", 0)
    boot = result.confirmation
    assert boot is not None
    assert (boot.proof, boot.heartbeat) == ("heartbeat", HEARTBEAT)
    assert boot.evidence == (f"the integration services' heartbeat: {HEARTBEAT}",)
    assert (result.directory / "screen-guest.png").exists()


def test_a_heartbeat_that_is_not_well_proves_nothing_and_is_noted(bench: Bench) -> None:
    machine = bench.machine(Guest(heartbeats=["LostCommunication"]))
    result = run_confirm(bench.setup(machine), None)
    assert result.exit_status == 0
    assert result.confirmation is not None
    assert (result.confirmation.proven, result.confirmation.heartbeat) == (
        *(False, "LostCommunication"),
    )


def test_expect_alone_decides_where_it_is_given(bench: Bench) -> None:
    guest = Guest(console=b"kernel panic\n", heartbeats=[HEARTBEAT])
    machine = bench.machine(guest)
    result = bench.graft(machine)
    assert (result.outcome, result.exit_status) == ("unproven", 4)
    assert result.confirmation is not None
    assert result.confirmation.heartbeat == HEARTBEAT
    guest.console = MARKER.encode() + b"\n"
    result = run_confirm(bench.setup(bench.machine(guest)), EXPECT)
    assert result.confirmation is not None
    assert (result.confirmation.proof, result.confirmation.evidence) == ("com1", (MARKER,))


def test_a_heartbeat_that_cannot_be_read_decides_nothing(bench: Bench) -> None:
    fault = FaultAt("heartbeat", raise_machine_error, for_good=True)
    result = bench.graft(bench.machine(fault=fault), expect=None)
    assert (result.outcome, result.exit_status) == ("grafted", 0)
    check_aftermath(bench, result)


# A COM1 that is lent.


def machine_without_com1(bench: Bench, *, lends: bool = True) -> SimulatedMachine:
    machine = bench.machine()
    machine.own_com1 = False
    machine.can_lend_com1 = lends
    return machine


def test_a_machine_without_com1_is_lent_one_for_expect_and_keeps_nothing_of_it(
    bench: Bench,
) -> None:
    machine = machine_without_com1(bench)
    result = bench.graft(machine)
    assert (result.outcome, result.exit_status) == ("grafted", 0)
    assert result.confirmation is not None
    assert result.confirmation.evidence == (MARKER,)
    assert machine.configuration == GRAFTED_CONFIGURATION


def test_without_expect_no_com1_is_lent(bench: Bench) -> None:
    machine = machine_without_com1(bench)
    result = bench.graft(machine, expect=None)
    assert (result.outcome, machine.calls.count("open_serial")) == ("grafted", 1)
    assert not (result.directory / "console-confirm.log").exists()


@pytest.mark.parametrize(
    ("lends", "leave_running", "words"),
    [
        (False, False, "has no COM1 on which --expect could match"),
        (True, True, "can only be taken back when it is off"),
    ],
)
def test_expect_without_a_com1_is_refused_before_anything_is_changed(
    bench: Bench, lends: bool, leave_running: bool, words: str
) -> None:
    machine = machine_without_com1(bench, lends=lends)
    result = bench.graft(machine, leave_running=leave_running)
    assert (result.outcome, result.exit_status) == ("refused", 1)
    assert words in result.message
    assert "capture" not in machine.calls
    result = run_confirm(bench.setup(machine), EXPECT, leave_running=leave_running)
    assert words in result.message
    assert "start" not in machine.calls


def test_the_boot_of_a_machine_that_is_left_running_is_watched_with_nothing_of_ours(
    bench: Bench,
) -> None:
    machine = bench.machine()
    assert bench.graft(machine, leave_running=True).left_running
    assert "prepare_confirm" not in machine.calls
    assert machine.configuration == GRAFTED_CONFIGURATION


def test_what_is_prepared_for_the_boot_is_prepared_before_it_and_taken_back(bench: Bench) -> None:
    machine = bench.machine()
    bench.graft(machine)
    machine.calls.clear()
    run_confirm(bench.setup(machine), EXPECT)
    assert order_of(machine, "capture", "prepare_confirm", "start", "detach") == [
        *("capture", "prepare_confirm", "start", "detach")
    ]
    assert machine.configuration == GRAFTED_CONFIGURATION


def test_the_media_that_are_attached_are_those_that_have_a_drive() -> None:
    live, payload = Path("live.iso"), Path("payload.iso")
    assert Media(live, payload).attached == (live, payload)
    assert Media(live, payload, one_drive=True).attached == (live,)
    assert Media(live, None).attached == (live,)
    assert Media(live, payload, one_drive=True).isos == (live, payload)
