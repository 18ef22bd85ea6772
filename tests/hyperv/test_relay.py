"""The relay's scripts on the modelled host, by single exchanges, and its port."""

import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import serial

from bootgraft_agent.wire import JSON
from bootgraft_host.hyperv import protocol_hvrelay, relay, relay_stream
from bootgraft_host.hyperv.pipe_names import relay_url
from bootgraft_host.hyperv.relay import Block, Relay
from bootgraft_host.hyperv.runner import (
    DEFAULT_TIMEOUT,
    AccessError,
    HostError,
    ScriptError,
    UnreachableError,
)
from bootgraft_host.machine import ConfigurationError
from hyperv.files import USER_TEMP
from hyperv.pipes import Pipe
from hyperv.relay_line import (
    EVERY_BYTE,
    HOST,
    PIPE,
    LossyRunner,
    files_of,
    guest_of,
    hear_exactly,
)
from hyperv.serial_host import SerialHost
from hyperv.serial_peers import DEADLINE, wait_until


@pytest.fixture
def host(tmp_path: Path) -> SerialHost:
    return SerialHost(tmp_path)


@pytest.fixture
def pipe(host: SerialHost) -> Iterator[Pipe]:
    made = host.pipes.create(PIPE)
    yield made
    made.close()


@pytest.fixture
def runner(host: SerialHost, monkeypatch: pytest.MonkeyPatch) -> LossyRunner:
    monkeypatch.setattr(relay, "OPEN_TIME", 0.3)
    monkeypatch.setattr(relay_stream, "RETRY_INTERVAL", 0.01)
    return LossyRunner(host)


@pytest.fixture
def opened(runner: LossyRunner, pipe: Pipe) -> Iterator[Relay]:
    made = Relay(runner, PIPE)
    made.open()
    yield made
    made.close()


def fetch(opened: Relay, size: int) -> bytes:
    """Exchange until so many bytes have come."""
    data = b""
    deadline = time.monotonic() + DEADLINE
    while len(data) < size and time.monotonic() < deadline:
        data += opened.exchange(limit=1000).data
    return data


def test_an_answer_that_was_lost_is_asked_for_again(
    opened: Relay, runner: LossyRunner, pipe: Pipe
) -> None:
    guest_of(pipe).server_write(b"one two")
    assert fetch(opened, 7) == b"one two"
    guest_of(pipe).server_write(b"three")
    runner.fate = lambda _script: "answer"
    for _ in range(3):
        with pytest.raises(UnreachableError):
            opened.exchange(limit=1000)
    runner.fate = lambda _script: ""
    assert fetch(opened, 5) == b"three"
    assert opened.exchange(limit=1000).data == b""


@pytest.mark.parametrize("lost", ["request", "answer"])
def test_a_block_whose_exchange_was_lost_is_written_once(
    opened: Relay, runner: LossyRunner, pipe: Pipe, lost: str
) -> None:
    block = Block(1, b"hello")
    runner.fate = lambda _script: lost
    with pytest.raises(UnreachableError):
        opened.exchange(limit=0, block=block)
    runner.fate = lambda _script: ""
    assert opened.exchange(limit=0, block=block).written == 1
    assert opened.exchange(limit=0, block=Block(2, b" again")).written == 2
    assert hear_exactly(guest_of(pipe), 11) == b"hello again"


def test_a_request_that_comes_late_writes_nothing_twice(
    opened: Relay, runner: LossyRunner, pipe: Pipe
) -> None:
    block = Block(1, b"hello")
    runner.fate = lambda _script: "request"
    with pytest.raises(UnreachableError):
        opened.exchange(limit=0, block=block)
    runner.fate = lambda _script: ""
    assert opened.exchange(limit=0, block=block).written == 1
    [(script, asked)] = runner.late
    runner.run(script, asked)
    assert opened.exchange(limit=0, block=Block(2, b"!")).written == 2
    assert hear_exactly(guest_of(pipe), 6) == b"hello!"


def test_a_late_request_does_not_pass_for_the_block_after_it(
    opened: Relay, runner: LossyRunner, pipe: Pipe
) -> None:
    runner.fate = lambda _script: "request"
    with pytest.raises(UnreachableError):
        opened.exchange(limit=0, block=Block(1, b"given up"))
    runner.fate = lambda _script: ""
    assert opened.exchange(limit=0).written == 0
    runner.run(*runner.late[0])
    assert opened.exchange(limit=0, block=Block(2, b", next")).written == 1
    assert opened.exchange(limit=0, block=Block(2, b", next")).written == 2
    assert hear_exactly(guest_of(pipe), 14) == b"given up, next"


def test_no_block_overtakes_one_that_waits_for_the_guest(opened: Relay, pipe: Pipe) -> None:
    first, second = EVERY_BYTE * 40, b"the second"
    answer = opened.exchange(limit=0, block=Block(1, first))
    assert answer.written == 1
    assert answer.writing
    assert opened.exchange(limit=0).writing
    assert hear_exactly(guest_of(pipe), len(first)) == first
    wait_until(lambda: not opened.exchange(limit=0).writing)
    assert opened.exchange(limit=0, block=Block(2, second)).written == 2
    assert hear_exactly(guest_of(pipe), len(second)) == second


def test_an_exchange_waits_a_moment_for_the_guest_to_read(
    opened: Relay, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "WRITE_TIME", DEADLINE)
    data = EVERY_BYTE * 40
    guest = guest_of(pipe)
    reader = threading.Timer(0.1, hear_exactly, (guest, len(data)))
    reader.start()
    before = time.monotonic()
    assert not opened.exchange(limit=0, block=Block(1, data)).writing
    assert time.monotonic() - before < DEADLINE
    reader.join()


def test_the_end_is_told_with_the_last_byte_and_not_before(opened: Relay, pipe: Pipe) -> None:
    guest = guest_of(pipe)
    guest.server_write(b"0123456789")
    guest.disconnect()
    wait_until(lambda: bool(opened.exchange(limit=0).ending == "RanToCompletion"))
    answers = [opened.exchange(limit=5) for _ in range(3)]
    assert [answer.data for answer in answers] == [b"01234", b"56789", b""]
    assert [answer.ended for answer in answers] == [False, False, True]


def test_a_caller_that_is_lost_keeps_nobody_out_and_finds_what_came_before(
    host: SerialHost, runner: LossyRunner, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "IDLE_TIME", 0.3)
    lost = Relay(runner, PIPE)
    lost.open()
    guest_of(pipe).server_write(b"said to the lost one")
    wait_until(lambda: pipe.connection is None)
    other = Relay(LossyRunner(host), PIPE)
    other.open()
    guest_of(pipe).server_write(b"said to the other one")
    assert fetch(lost, 20) == b"said to the lost one"
    assert lost.exchange(limit=100).ended
    assert fetch(other, 21) == b"said to the other one"
    lost.close()
    other.close()


def test_each_exchange_gives_the_relay_its_time_anew(
    runner: LossyRunner, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "IDLE_TIME", 0.5)
    kept = Relay(runner, PIPE)
    kept.open()
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        assert not kept.exchange(limit=10).ended
        time.sleep(0.1)
    assert pipe.connection is not None
    kept.close()


def test_closing_lets_go_of_the_pipe_and_of_the_file(
    host: SerialHost, runner: LossyRunner, pipe: Pipe
) -> None:
    made = Relay(runner, PIPE)
    made.open()
    assert len(files_of(host)) == 1
    made.close()
    assert pipe.connection is None
    assert files_of(host) == []
    assert runner.scripts() == ["relay-open", "relay-close"]


def test_the_closing_script_frees_the_pipe_while_its_session_goes_on(
    host: SerialHost, opened: Relay, runner: LossyRunner, pipe: Pipe
) -> None:
    runner.run("relay-close")
    assert pipe.connection is None
    assert files_of(host) == []
    opened.open()
    assert pipe.connection is not None


def test_a_session_that_ends_lets_go_of_the_pipe_and_of_the_file(
    host: SerialHost, opened: Relay, pipe: Pipe
) -> None:
    opened.abandon()
    assert pipe.connection is None
    assert files_of(host) == []


def test_opening_waits_a_little_for_a_machine_that_is_just_starting(
    host: SerialHost, runner: LossyRunner
) -> None:
    threading.Timer(0.15, host.pipes.create, (PIPE,)).start()
    made = Relay(runner, PIPE)
    made.open()
    assert runner.scripts().count("relay-open") > 1
    made.close()


def test_opening_does_not_wait_long_for_a_pipe_with_another_client(
    host: SerialHost, opened: Relay
) -> None:
    before = time.monotonic()
    with pytest.raises(ScriptError, match="relay-open failed"):
        Relay(LossyRunner(host), PIPE).open()
    assert time.monotonic() - before < DEADLINE / 4


def test_opening_that_fails_half_way_leaves_nothing_when_its_session_ends(
    host: SerialHost, runner: LossyRunner, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol_hvrelay, "open_runner", lambda _host: runner)
    host.files.locate(USER_TEMP).rmdir()
    with pytest.raises(serial.SerialException, match="cannot connect"):
        protocol_hvrelay.Serial(relay_url(HOST, PIPE))
    assert runner.scripts() == ["relay-open"]
    assert pipe.connection is None


def test_an_answer_of_another_shape_is_refused(opened: Relay, runner: LossyRunner) -> None:
    good = runner.run("relay-exchange", exchange_request())[0]
    wrong: list[list[Mapping[str, JSON]]] = [
        [],
        [good, good],
        [{**good, "Data": "no Base64!"}],
        [{**good, "Data": "AAAA"}],  # more than was asked for
        [{**good, "Ended": "yes"}],
        [{**good, "Written": None}],
    ]
    for answers in wrong:
        fake = Relay(FakeRunner(answers), PIPE)
        with pytest.raises(HostError, match="answered something else"):
            fake.exchange(limit=1)


def exchange_request() -> dict[str, JSON]:
    return {
        "Offset": 0,
        "Limit": 1,
        "IdleMilliseconds": 1000,
        "WriteMilliseconds": 0,
        "Write": [],
    }


class FakeRunner:
    """Gives the same answer to everything."""

    host = HOST

    def __init__(self, answers: list[Mapping[str, JSON]]) -> None:
        self._answers = answers

    def run(
        self,
        script: str,
        asked: Mapping[str, JSON] | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> list[Mapping[str, JSON]]:
        return self._answers

    def another(self) -> "FakeRunner":
        return self

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    "error",
    [ConfigurationError("hosts.toml is wrong"), AccessError("no rights"), HostError("no luck")],
)
def test_a_host_that_cannot_be_used_is_an_error_of_the_port(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(_host: str) -> FakeRunner:
        raise error

    monkeypatch.setattr(protocol_hvrelay, "open_runner", refuse)
    with pytest.raises(serial.SerialException, match=str(error)):
        protocol_hvrelay.Serial(relay_url(HOST, PIPE))


def test_a_password_file_that_is_wrong_when_the_session_is_opened_is_an_error_of_the_port(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Wrong(FakeRunner):
        def run(
            self,
            script: str,
            asked: Mapping[str, JSON] | None = None,
            *,
            timeout: float = DEFAULT_TIMEOUT,
        ) -> list[Mapping[str, JSON]]:
            raise ConfigurationError("password_file is gone")

    monkeypatch.setattr(protocol_hvrelay, "open_runner", lambda _host: Wrong([]))
    with pytest.raises(serial.SerialException, match="password_file is gone"):
        protocol_hvrelay.Serial(relay_url(HOST, PIPE))


def test_the_host_itself_needs_no_relay() -> None:
    with pytest.raises(serial.SerialException, match="hvpipe"):
        protocol_hvrelay.Serial(relay_url(".", PIPE))
