"""WinRMRunner against a real endpoint: TLS, NTLM, WS-Management and PSRP over a real connection."""

import signal
import threading
import time
from collections.abc import Callable, Iterator

import psrpcore.types
import pytest

from bootgraft_host.hyperv import winrm
from bootgraft_host.hyperv.hosts import HostSettings
from bootgraft_host.hyperv.runner import (
    REQUEST_LIMIT,
    ScriptError,
    UnreachableError,
    read_script,
)
from bootgraft_host.hyperv.winrm import WinRMRunner
from hyperv.endpoint import Endpoint
from hyperv.faults import FaultKind
from hyperv.notes_host import MARK, NotesHost, mark
from hyperv.values import PowerShellError


def test_a_script_runs_and_its_answer_comes_back(
    modelled: NotesHost, endpoint: Endpoint, runner: WinRMRunner
) -> None:
    mark(runner, "hello")
    assert modelled.vm.read("Notes") == "hello"
    assert endpoint.scripts() == [MARK]
    assert runner.host == "hv1.example.com"


def test_the_scripts_of_the_package_are_what_is_sent(
    endpoint: Endpoint, runner: WinRMRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winrm, "read_script", read_script)
    with pytest.raises(ScriptError, match="'Generation' cannot be found"):
        runner.run("find")
    assert endpoint.scripts() == ["find"]


def test_a_session_is_kept_between_runs_and_ended_by_close(
    endpoint: Endpoint, runner: WinRMRunner
) -> None:
    for _ in range(3):
        mark(runner)
    assert len({call.shell_id for call in endpoint.calls}) == len(endpoint.shells()) == 1
    runner.close()
    assert endpoint.shells() == []
    mark(runner)
    assert len({call.shell_id for call in endpoint.calls}) == 2


def test_a_session_that_was_idle_is_replaced_before_somebody_cuts_it(
    endpoint: Endpoint, runner: WinRMRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark(runner)
    before = endpoint.shells()
    monkeypatch.setattr(winrm, "REUSED_WITHIN", 0.0)
    mark(runner)
    assert len(endpoint.shells()) == 1
    assert endpoint.shells() != before


def test_another_runner_has_a_session_of_its_own(endpoint: Endpoint, runner: WinRMRunner) -> None:
    mark(runner)
    other = runner.another()
    mark(other)
    assert len(endpoint.shells()) == 2
    other.close()
    assert len(endpoint.shells()) == 1
    mark(runner)


def test_a_second_thread_waits_for_its_turn(
    endpoint: Endpoint, modelled: NotesHost, runner: WinRMRunner
) -> None:
    modelled.hold = 0.5
    threads = [threading.Thread(target=mark, args=(runner, str(number))) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert modelled.changes == 4
    assert len(endpoint.shells()) == 1


def once_started(modelled: NotesHost, act: Callable[[], object]) -> threading.Thread:
    """Do something in a thread of its own once the script is at work."""

    def wait_and_act() -> None:
        modelled.started.wait()
        act()

    thread = threading.Thread(target=wait_and_act)
    thread.start()
    return thread


# What goes in, and what comes back.


@pytest.mark.parametrize(
    "text",
    [
        "Bürgeramt \u20ac \U0001f5a5 \u65e5\u672c",
        "'; Remove-Item C:\\ -Recurse; '",
        '"$(Get-Secret)`n" <&>',
        "_x000A_ _x005F_x000A_ \\u0041",
        "one\r\ntwo\n\ttabs \u0085 \u2028 \x01 \x1f",
        "  spaces  ",
    ],
)
def test_any_text_arrives_and_comes_back_as_it_was(
    modelled: NotesHost, runner: WinRMRunner, text: str
) -> None:
    mark(runner, text)
    assert modelled.vm.read("Notes") == text


def test_a_request_of_two_megabytes_arrives_and_as_much_comes_back(
    modelled: NotesHost, runner: WinRMRunner
) -> None:
    text = "0123456789ABCDEF" * 125_000
    mark(runner, text)
    assert modelled.vm.read("Notes") == text


def test_a_request_that_windows_powershell_cannot_read_is_not_sent(
    endpoint: Endpoint, runner: WinRMRunner
) -> None:
    with pytest.raises(ValueError, match="characters"):
        mark(runner, "A" * REQUEST_LIMIT)
    assert endpoint.calls == []


# Scripts that fail.


def test_an_error_of_a_script_carries_its_id_its_category_and_its_message(
    endpoint: Endpoint, modelled: NotesHost, runner: WinRMRunner
) -> None:
    modelled.error = PowerShellError(
        "Hyper-V was unable to find a virtual machine with id \u00abx\u00bb.",
        "InvalidParameter,Microsoft.HyperV.PowerShell.Commands.GetVM",
        "InvalidArgument",
    )
    with pytest.raises(ScriptError) as caught:
        mark(runner)
    error = caught.value
    assert (error.script, error.error_id, error.category, error.detail) == (
        "mark",
        "InvalidParameter,Microsoft.HyperV.PowerShell.Commands.GetVM",
        "InvalidArgument",
        "Hyper-V was unable to find a virtual machine with id \u00abx\u00bb.",
    )
    assert str(error).startswith("mark failed on hv1.example.com: Hyper-V was unable to find")
    modelled.error = None
    mark(runner)
    assert len(endpoint.shells()) == 1


def test_the_categories_have_the_numbers_that_powershell_gives_them() -> None:
    numbered = {category.value: category.name for category in psrpcore.types.ErrorCategory}
    assert dict(enumerate(winrm._CATEGORIES)) == numbered


def test_a_script_that_takes_too_long_is_stopped_and_its_session_ended(
    endpoint: Endpoint, modelled: NotesHost, runner: WinRMRunner
) -> None:
    modelled.hold = 30.0
    began = time.monotonic()
    with pytest.raises(UnreachableError) as caught:
        mark(runner, "late", timeout=2)
    assert time.monotonic() - began < 15
    assert "mark did not end on hv1.example.com within 2 s" in str(caught.value)
    assert "not known whether mark ran to its end" in str(caught.value)
    assert endpoint.shells() == []
    modelled.hold = 0.0
    mark(runner, "in time")
    assert modelled.vm.read("Notes") == "in time"
    assert modelled.changes == 1


def test_a_script_may_take_longer_than_one_wait_for_its_answer(
    modelled: NotesHost, runner: WinRMRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winrm, "POLL_TIMEOUT", 1)
    modelled.hold = 3.0
    mark(runner, "slow")
    assert modelled.vm.read("Notes") == "slow"


# Connections that break.


@pytest.mark.parametrize("kind", list(FaultKind))
def test_after_a_cut_nothing_is_sent_again_and_the_next_run_is_in_the_same_session(
    endpoint: Endpoint, modelled: NotesHost, runner: WinRMRunner, kind: FaultKind
) -> None:
    mark(runner)
    endpoint.arm(kind, script=MARK)
    with pytest.raises(UnreachableError) as caught:
        mark(runner, "cut off")
    assert "running mark on hv1.example.com" in str(caught.value)
    assert "It is not known whether mark ran to its end" in str(caught.value)
    assert modelled.changes == (1 if kind is FaultKind.NOT_RUN else 2)
    assert endpoint.scripts() == [MARK, MARK]
    mark(runner)
    assert len({call.shell_id for call in endpoint.calls}) == 1
    assert endpoint.armed() == []


def test_a_cut_at_any_message_is_an_error_or_harmless_and_the_next_run_works(
    endpoint: Endpoint, modelled: NotesHost, settings: HostSettings
) -> None:
    mark(WinRMRunner(settings))
    outcomes = []
    for number in range(1, endpoint.requests + 1):
        for kind in FaultKind:
            runner = WinRMRunner(settings)
            endpoint.arm(kind, request=endpoint.requests + number)
            before = modelled.changes
            outcome = outcome_of(runner)
            assert {"not run": 0, "answered": 1}.get(outcome, 0) <= modelled.changes - before
            assert modelled.changes - before <= {"not run": 0}.get(outcome, 1)
            outcomes.append(outcome)
            mark(runner, "second")
            assert modelled.vm.read("Notes") == "second"
            runner.close()
            endpoint.drop_shells()
    assert {*outcomes} == {"not run", "not known", "answered"}


def outcome_of(runner: WinRMRunner) -> str:
    try:
        mark(runner, "first")
    except UnreachableError as error:
        return "not known" if "It is not known" in str(error) else "not run"
    return "answered"


def test_a_script_that_was_cut_off_is_ended_before_the_next_one_runs(
    endpoint: Endpoint, modelled: NotesHost, runner: WinRMRunner
) -> None:
    modelled.hold = 30.0
    cutter = once_started(modelled, endpoint.stop)
    with pytest.raises(UnreachableError, match="It is not known whether mark"):
        mark(runner, "cut off")
    cutter.join()
    with pytest.raises(UnreachableError, match="Connection refused"):
        mark(runner, "while it is down")
    endpoint.start()
    modelled.hold = 0.0
    began = time.monotonic()
    mark(runner, "afterwards")
    assert time.monotonic() - began < 15
    assert (modelled.changes, modelled.vm.read("Notes")) == (1, "afterwards")
    assert len({call.shell_id for call in endpoint.calls}) == 1


def press_ctrl_c() -> None:
    """Send the signal to the main thread itself, so that it leaves whatever it waits in."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Take Ctrl-C as Python does, also where a shell has started the tests in the background."""
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, earlier)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_leaves_a_runner_that_can_be_used(
    modelled: NotesHost, runner: WinRMRunner
) -> None:
    modelled.hold = 30.0
    interrupter = once_started(modelled, press_ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        mark(runner, "interrupted", timeout=10)
    interrupter.join()
    modelled.hold = 0.0
    mark(runner, "afterwards")
    assert (modelled.changes, modelled.vm.read("Notes")) == (1, "afterwards")


def test_a_session_that_the_host_has_lost_is_opened_anew_and_the_script_runs_once(
    endpoint: Endpoint, modelled: NotesHost, runner: WinRMRunner
) -> None:
    mark(runner)
    endpoint.drop_shells()
    mark(runner, "after a reboot")
    assert modelled.changes == 2
    assert endpoint.scripts() == [MARK, MARK]
    assert len({call.shell_id for call in endpoint.calls}) == 2


def test_a_host_that_reboots_under_a_script_is_not_asked_again(
    endpoint: Endpoint, modelled: NotesHost, runner: WinRMRunner
) -> None:
    modelled.hold = 30.0
    rebooter = once_started(modelled, endpoint.drop_shells)
    with pytest.raises(UnreachableError) as caught:
        mark(runner, "cut off")
    rebooter.join()
    assert "the shell was not found" in str(caught.value)
    assert "It is not known whether mark ran" in str(caught.value)
    assert endpoint.scripts() == [MARK]
    modelled.hold = 0.0
    mark(runner, "afterwards")
    assert modelled.vm.read("Notes") == "afterwards"


def test_closing_is_quiet_where_the_host_is_gone(endpoint: Endpoint, runner: WinRMRunner) -> None:
    mark(runner)
    endpoint.stop()
    runner.close()
    runner.close()
    endpoint.start()
    mark(runner)
