"""A relay's stream over a line that loses requests and answers, and over one that is away."""

import contextlib
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootgraft_host.hyperv import relay, relay_stream
from bootgraft_host.hyperv.relay import Relay
from bootgraft_host.hyperv.relay_stream import RelayStream
from bootgraft_host.machine import ConfigurationError
from hyperv.pipes import Pipe
from hyperv.relay_line import (
    EVERY_BYTE,
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
def stream(runner: LossyRunner, pipe: Pipe) -> Iterator[RelayStream]:
    made = Relay(runner, PIPE)
    made.open()
    started = RelayStream(made)
    yield started
    started.close()


def receive_exactly(stream: RelayStream, size: int) -> bytes:
    data = b""
    deadline = time.monotonic() + DEADLINE
    while len(data) < size and time.monotonic() < deadline:
        data += stream.receive(size - len(data), DEADLINE)
    return data


@pytest.mark.parametrize("seed", range(4))
def test_no_byte_is_lost_or_doubled_over_a_line_that_loses_every_third_exchange(
    stream: RelayStream, runner: LossyRunner, pipe: Pipe, seed: int
) -> None:
    dice = random.Random(seed)  # noqa: S311
    guest = guest_of(pipe)
    up, down = EVERY_BYTE * 1000, EVERY_BYTE[::-1] * 1000
    runner.fate = lambda _script: dice.choice(["", "", "", "", "request", "answer"])
    heard: list[bytes] = []
    threads = [
        threading.Thread(target=stream.send, args=(up, 6 * DEADLINE)),
        threading.Thread(target=guest.server_write, args=(down,)),
        threading.Thread(target=lambda: heard.append(hear_exactly(guest, len(up)))),
    ]
    for thread in threads:
        thread.start()
    assert receive_exactly(stream, len(down)) == down
    for thread in threads:
        thread.join(6 * DEADLINE)
    assert heard == [up]
    assert len(runner.late) > 0


def test_a_host_that_is_away_for_a_while_costs_no_byte(
    stream: RelayStream, runner: LossyRunner, pipe: Pipe
) -> None:
    runner.fate = lambda _script: "request"
    guest_of(pipe).server_write(b"said meanwhile")
    assert stream.receive(100, 0.3) == b""
    writer = threading.Thread(target=stream.send, args=(b"written meanwhile", DEADLINE))
    writer.start()
    time.sleep(0.2)
    runner.fate = lambda _script: ""
    assert receive_exactly(stream, 14) == b"said meanwhile"
    assert hear_exactly(guest_of(pipe), 17) == b"written meanwhile"
    writer.join(DEADLINE)


def test_what_a_writer_gave_up_is_not_written_when_the_host_is_back(
    stream: RelayStream, runner: LossyRunner, pipe: Pipe
) -> None:
    runner.fate = lambda _script: "request"
    with pytest.raises(TimeoutError):
        stream.send(b"given up", 0.2)
    runner.fate = lambda _script: ""
    stream.send(b"next", DEADLINE)
    assert hear_exactly(guest_of(pipe), 4) == b"next"


def test_a_host_that_stays_away_ends_the_stream_after_what_was_fetched(
    stream: RelayStream, runner: LossyRunner, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_stream, "PERSISTENCE", 0.3)
    guest_of(pipe).server_write(b"hello")
    wait_until(lambda: stream.waiting() == 5)
    runner.fate = lambda _script: "request"
    with pytest.raises(ConnectionError, match="the request was lost"):
        stream.send(b"anybody there?", DEADLINE)
    assert stream.receive(100, 0) == b"hello"
    with pytest.raises(ConnectionError, match="the request was lost"):
        stream.receive(100, DEADLINE)


def test_a_host_that_has_lost_the_session_ends_the_stream(
    stream: RelayStream, runner: LossyRunner
) -> None:
    runner.close()
    with pytest.raises(ConnectionError, match="relay-exchange failed"):
        stream.receive(1, DEADLINE)
    assert "relay-close" not in runner.scripts()


def test_a_password_file_that_is_gone_when_the_session_is_opened_anew_ends_the_stream_in_words(
    stream: RelayStream, runner: LossyRunner, pipe: Pipe
) -> None:
    def fail(_script: str) -> str:
        raise ConfigurationError("password_file: No such file or directory")

    guest_of(pipe).server_write(b"hello")
    wait_until(lambda: stream.waiting() == 5)
    runner.fate = fail
    with pytest.raises(ConnectionError, match="password_file: No such file"):
        stream.send(b"anybody there?", DEADLINE)
    assert stream.receive(100, 0) == b"hello"
    with pytest.raises(ConnectionError, match="password_file: No such file"):
        stream.receive(100, DEADLINE)


def test_last_words_are_heard_although_a_write_fails(
    stream: RelayStream, runner: LossyRunner, pipe: Pipe
) -> None:
    away = threading.Event()
    runner.fate = lambda _script: "" if away.is_set() else "request"
    guest = guest_of(pipe)
    guest.server_write(b"last words")
    guest.disconnect()
    writer = threading.Thread(target=send_quietly, args=(stream, b"too late"))
    writer.start()
    time.sleep(0.1)
    away.set()
    assert receive_exactly(stream, 10) == b"last words"
    with pytest.raises(ConnectionError, match="disconnected"):
        stream.receive(1, DEADLINE)
    writer.join(DEADLINE)


def send_quietly(stream: RelayStream, data: bytes) -> None:
    with contextlib.suppress(ConnectionError):
        stream.send(data, DEADLINE)


def test_a_full_file_is_followed_by_an_empty_one_and_nothing_of_it_is_lost(
    host: SerialHost,
    stream: RelayStream,
    runner: LossyRunner,
    pipe: Pipe,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relay, "FILE_LIMIT", 10_000)
    first = guest_of(pipe)
    first.server_write(EVERY_BYTE * 80)
    assert receive_exactly(stream, 80 * 256) == EVERY_BYTE * 80
    wait_until(lambda: pipe.connection not in {None, first})
    guest_of(pipe).server_write(b"and on")
    assert receive_exactly(stream, 6) == b"and on"
    stream.send(b"as before", DEADLINE)
    assert hear_exactly(guest_of(pipe), 9) == b"as before"
    assert [file.stat().st_size for file in files_of(host)] == [6]
    assert runner.scripts().count("relay-open") == 2


def test_what_nobody_reads_stays_on_the_host(
    stream: RelayStream, runner: LossyRunner, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_stream, "UNREAD_LIMIT", 10_000)
    guest_of(pipe).server_write(EVERY_BYTE * 200)
    wait_until(lambda: stream.waiting() == 10_000)
    runs = len(runner.calls)
    time.sleep(0.5)
    assert stream.waiting() == 10_000
    assert len(runner.calls) - runs < 30
    assert receive_exactly(stream, 200 * 256) == EVERY_BYTE * 200


def test_a_quiet_line_is_asked_a_few_times_a_second(
    stream: RelayStream, runner: LossyRunner
) -> None:
    time.sleep(0.5)
    runs = len(runner.calls)
    time.sleep(1)
    assert 2 <= len(runner.calls) - runs <= 6


def test_a_stream_whose_guest_has_gone_frees_its_session_before_it_is_closed(
    host: SerialHost, stream: RelayStream, pipe: Pipe
) -> None:
    guest_of(pipe).disconnect()
    with pytest.raises(ConnectionError, match=r"disconnected \(RanToCompletion\)"):
        stream.receive(1, DEADLINE)
    wait_until(lambda: files_of(host) == [])


def test_closing_does_not_wait_for_a_host_that_is_away(
    stream: RelayStream, runner: LossyRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_stream, "RETRY_INTERVAL", 60.0)
    runner.fate = lambda _script: "request"
    with pytest.raises(TimeoutError):
        stream.send(b"x", 0.2)
    before = time.monotonic()
    stream.close()
    assert time.monotonic() - before < relay_stream.CLOSE_TIMEOUT
