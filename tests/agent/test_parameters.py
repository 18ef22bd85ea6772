"""The kernel's command line: modes, options, times, and what is not understood."""

import pytest

from bootgraft_agent.parameters import MODES, Parameters, is_activated, parse_parameters
from bootgraft_agent.plan import Options


def test_without_any_the_live_system_is_host_driven_with_the_stated_times() -> None:
    assert parse_parameters("quiet console=tty0 bootgraft.mode=host") == Parameters()
    assert Parameters().console_after == 60
    assert Parameters().power_off_after == 60


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_one_word(mode: str) -> None:
    assert parse_parameters(f"quiet bootgraft.mode={mode}").mode == mode


def test_options_of_the_graft_are_words_of_the_same_names() -> None:
    parameters = parse_parameters(
        "bootgraft.boot-partition=hda1 bootgraft.kernel=vmlinuz-xen bootgraft.shim=x64.gz"
        ' bootgraft.shim-args="com1=115200,8n1 vga=keep" bootgraft.guest_disk=sda'
    )
    assert parameters.problems == ()
    assert parameters.options == Options(
        boot_partition="hda1",
        kernel="vmlinuz-xen",
        shim="x64.gz",
        shim_args="com1=115200,8n1 vga=keep",
        guest_disk="sda",
    )


def test_times_are_seconds_and_the_result_may_be_shown_for_ever() -> None:
    parameters = parse_parameters(
        "bootgraft.console-after=5 bootgraft.payload-wait=0 bootgraft.power-off-after=never"
        " bootgraft.time-limit=600 bootgraft.terminal=xterm"
    )
    assert parameters == Parameters(
        console_after=5, payload_wait=0, power_off_after=None, time_limit=600, terminal="xterm"
    )


def test_of_two_the_last_counts() -> None:
    assert parse_parameters("bootgraft.mode=host bootgraft.mode=manual").mode == "manual"


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("bootgraft.mode=automatic", "it takes host, unattended, manual, manual-serial, rescue"),
        ("bootgraft.payload-wait=soon", "it takes whole seconds, at most 604800"),
        ("bootgraft.payload-wait=604801", "it takes whole seconds, at most 604800"),
        ("bootgraft.payload-wait=-1", "it takes whole seconds"),
        ("bootgraft.power-off-after=x", "it takes whole seconds, at most 604800, or never"),
        ("bootgraft.guest-disk=hdb", "takes hda or sda"),
        ("bootgraft.kernel=", "--kernel is empty"),
        ("bootgraft.kernl=x", "bootgraft.kernl is unknown; known: bootgraft.boot-partition, "),
        ("bootgraft.terminal=../../x", "it takes a terminal's name"),
    ],
)
def test_what_is_not_understood_is_told_and_nothing_guessed(word: str, problem: str) -> None:
    parameters = parse_parameters(f"bootgraft.mode=unattended {word}")
    assert len(parameters.problems) == 1
    assert word.partition("=")[0] in parameters.problems[0]
    assert problem in parameters.problems[0]
    assert parameters.options == Options()


def test_the_shell_beside_the_agent_and_words_of_others_are_no_problem() -> None:
    parameters = parse_parameters("bootgraft.shell quiet other.kernel=x quote=\"a 'b")
    assert parameters == Parameters()


def test_only_a_mode_lets_the_agent_act() -> None:
    assert is_activated("quiet bootgraft.mode=rescue")
    assert not is_activated("quiet bootgraft.shell bootgraft.kernel=x")
    assert not is_activated('note="no bootgraft.mode=host here"')
