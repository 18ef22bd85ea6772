"""Runs in which something fails, whatever it is and whenever: what they come to."""

from collections.abc import Callable

import pytest

from bootgraft_host.signals import interruptible
from bootgraft_host.workflow import (
    run_recover,
)
from host.bench import (
    GRAFTED_CONFIGURATION,
    MORE,
    PLAIN,
    Bench,
    FaultAt,
    at,
    check_aftermath,
    check_recovery,
    interrupt,
    kill,
    kill_in_a_run,
    raise_machine_error,
    raise_os_error,
)
from host.simulated import CONFIGURATION, Guest

at_each_point = pytest.mark.parametrize(
    ("everything", "point"),
    [(False, point) for point in PLAIN] + [(True, point) for point in MORE],
)


def test_the_points_of_a_run_are_those_listed(bench: Bench) -> None:
    assert see_points(bench) == set(PLAIN)
    bench.everything = True
    bench.machine().file.unlink()
    assert see_points(bench) == {*PLAIN, *MORE}


def see_points(bench: Bench) -> set[str]:
    fault = FaultAt("none", raise_machine_error)
    assert bench.graft(bench.machine(fault=fault)).exit_status == 0
    return {name for name in fault.seen if not name.startswith(("state", "claim"))}


@pytest.mark.parametrize("act", [raise_machine_error, raise_os_error, interrupt])
@at_each_point
def test_one_fault_or_interrupt_anywhere_leaves_the_machine_restored(
    bench: Bench, everything: bool, point: str, act: Callable[[], None]
) -> None:
    bench.everything = everything
    fault = FaultAt(point, act)
    with interruptible():
        result = bench.graft(bench.machine(fault=fault))
    assert fault.struck
    check_aftermath(bench, result)


def test_a_machine_that_somebody_else_starts_before_attach_is_restored_and_stays_on(
    bench: Bench,
) -> None:
    machine = bench.machine()
    machine.fault = at("attach", machine.start_for_others)
    result = bench.graft(machine)
    assert (result.exit_status, result.machine_restored) == (1, True)
    assert "appliance is on: its hardware cannot be changed" in result.message
    assert machine.state() == "running"
    assert machine.configuration == CONFIGURATION
    assert not bench.unfinished()


def test_a_machine_that_is_on_for_somebody_else_with_ours_in_it_is_left_to_recover(
    bench: Bench,
) -> None:
    machine = bench.machine()
    machine.fault = at("attach, half done", machine.start_for_others)
    result = bench.graft(machine)
    assert result.exit_status == 3
    assert "its hardware cannot be changed; appliance is on for somebody else" in result.message
    assert machine.state() == "running"
    assert run_recover(bench.setup(bench.machine())).exit_status == 0
    assert machine.state() == "off"
    assert machine.configuration == CONFIGURATION
    assert not bench.unfinished()


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


@at_each_point
def test_a_fault_for_good_restores_or_says_what_is_left_and_recover_does_it(
    bench: Bench, everything: bool, point: str
) -> None:
    bench.everything = everything
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


@at_each_point
def test_after_the_controller_was_killed_anywhere_recover_restores(
    bench: Bench, everything: bool, point: str
) -> None:
    bench.everything = everything
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
