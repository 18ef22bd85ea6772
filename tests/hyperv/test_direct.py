"""The runner without a wire runs the real scripts, and fails as a runner does."""

import uuid
from collections.abc import Iterable

import pytest

from bootgraft_host.hyperv.runner import HostError, Runner, ScriptError, read_script
from hyperv.direct import DirectRunner
from hyperv.values import ArrayOf, Command, EnumValue, PSObject, Session, World

VM = "3f2504e0-4f89-11d3-9a0c-0305e82c3301"


class Host:
    """One virtual machine that can be found and started."""

    def __init__(self) -> None:
        self.started = 0
        self.ended = 0
        self.start_gives = 1  # objects

    def world(self) -> World:
        world = World()
        world.add_commands(
            Command("Hyper-V\\Get-VM", {"Id": uuid.UUID}, self._get),
            Command(
                "Hyper-V\\Start-VM", {"VM": ArrayOf(PSObject), "Confirm": "switch"}, self._start
            ),
        )
        return world

    def _get(self, session: Session, given: dict[str, object]) -> Iterable[object]:
        session.at_end.append(self._end)
        state = EnumValue("Off", 3)
        yield PSObject(
            [("Id", uuid.UUID(VM)), ("Name", "a'b"), ("Generation", 1), ("State", state)]
        )

    def _start(self, session: Session, given: dict[str, object]) -> Iterable[object]:
        self.started += 1
        return []

    def _end(self) -> None:
        self.ended += 1


def test_a_script_runs_and_its_answer_is_parsed() -> None:
    runner: Runner = DirectRunner(Host())
    assert runner.run("find") == [{"Id": VM, "Name": "a'b", "Generation": 1, "State": "Off"}]


def test_a_script_acts_on_the_host_and_the_call_is_kept() -> None:
    host = Host()
    runner = DirectRunner(host)
    assert runner.run("start", {"Id": VM}) == []
    assert runner.another().run("find") != []
    assert host.started == 1
    assert runner.calls == [("start", {"Id": VM}), ("find", {})]


def test_an_error_of_powershell_is_a_script_error() -> None:
    with pytest.raises(ScriptError) as caught:
        DirectRunner(Host(), "hv9").run("start", {"Id": "no guid"})
    assert caught.value.script == "start"
    assert caught.value.error_id == "CannotConvertArgumentNoMessage,Hyper-V\\Get-VM"
    assert caught.value.category == "InvalidArgument"
    assert "hv9" in str(caught.value)


def test_a_script_that_is_not_asked_all_it_needs_fails() -> None:
    with pytest.raises(ScriptError, match="'Id' cannot be found"):
        DirectRunner(Host()).run("start")


def test_a_script_that_writes_more_than_its_answer_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    text = read_script("find") + "'more'\n"
    monkeypatch.setattr("hyperv.direct.read_script", lambda script: text)
    with pytest.raises(HostError, match="one text was expected"):
        DirectRunner(Host()).run("find")


def test_the_end_of_a_runner_ends_its_session_alone() -> None:
    host = Host()
    runner = DirectRunner(host)
    other = runner.another()
    runner.run("find")
    other.run("find")
    runner.close()
    runner.close()
    assert host.ended == 1
    assert runner.run("find") != []
