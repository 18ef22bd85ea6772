"""The relay through WinRM and PowerShell remoting, over a real connection that is cut."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootgraft_host.hyperv import protocol_hvrelay, relay_stream
from bootgraft_host.hyperv.hosts import HostSettings
from bootgraft_host.hyperv.pipe_names import relay_url
from bootgraft_host.hyperv.winrm import WinRMRunner
from bootgraft_host.link import Link
from hyperv.endpoint import PASSWORD, USER, Endpoint
from hyperv.faults import FaultKind
from hyperv.pipes import Connection, Pipe
from hyperv.relay_line import EVERY_BYTE, HOST, PIPE, guest_of, hear_exactly
from hyperv.serial_host import SerialHost
from hyperv.serial_peers import DEADLINE, wait_until


@pytest.fixture
def host(tmp_path: Path) -> SerialHost:
    return SerialHost(tmp_path / "host")


@pytest.fixture
def endpoint(host: SerialHost, tmp_path: Path) -> Iterator[Endpoint]:
    with Endpoint(host, tmp_path) as started:
        yield started


@pytest.fixture
def pipe(host: SerialHost) -> Iterator[Pipe]:
    made = host.pipes.create(PIPE)
    yield made
    made.close()


@pytest.fixture
def link(
    endpoint: Endpoint, pipe: Pipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Link]:
    settings = make_settings(endpoint, tmp_path)
    monkeypatch.setattr(protocol_hvrelay, "open_runner", lambda _host: WinRMRunner(settings))
    monkeypatch.setattr(relay_stream, "RETRY_INTERVAL", 0.1)
    with Link(relay_url(HOST, PIPE), may_connect=lambda: True) as made:
        assert made.wait_connected(DEADLINE)
        yield made


def make_settings(endpoint: Endpoint, folder: Path) -> HostSettings:
    """Reach the endpoint as its user."""
    password_file = folder / "password"
    password_file.touch(0o600)
    password_file.write_text(f"{PASSWORD}\n", "utf-8")
    return HostSettings(
        host=HOST,
        file=folder / "hosts.toml",
        address="localhost",
        port=endpoint.port,
        user=USER,
        password_file=password_file,
        ca_file=endpoint.certificates.authority,
    )


def read_exactly(link: Link, size: int) -> bytes:
    data = b""
    deadline = time.monotonic() + DEADLINE
    while len(data) < size and time.monotonic() < deadline:
        data += link.read(DEADLINE)
    return data


def talk(link: Link, guest: Connection) -> None:
    """A few words each way."""
    for _ in range(3):
        link.write(EVERY_BYTE)
        assert hear_exactly(guest, 256) == EVERY_BYTE
        guest.server_write(EVERY_BYTE[::-1])
        assert read_exactly(link, 256) == EVERY_BYTE[::-1]


@pytest.mark.parametrize("kind", FaultKind)
def test_a_connection_that_is_cut_costs_no_byte_and_no_session(
    link: Link, endpoint: Endpoint, pipe: Pipe, kind: FaultKind
) -> None:
    guest = guest_of(pipe)
    for _ in range(3):
        endpoint.arm(kind, script="relay-exchange")
        talk(link, guest)
    assert pipe.connection is guest
    assert endpoint.armed() == []
    assert endpoint.scripts().count("relay-open") == 1


def test_a_host_that_is_away_for_a_while_costs_no_byte_and_no_session(
    link: Link, endpoint: Endpoint, pipe: Pipe
) -> None:
    guest = guest_of(pipe)
    endpoint.stop()
    guest.server_write(b"said meanwhile")
    assert link.read(0.5) == b""
    back = threading.Timer(0.5, endpoint.start)
    back.start()
    assert read_exactly(link, 14) == b"said meanwhile"
    back.join()
    talk(link, guest)
    assert pipe.connection is guest


def test_an_exchange_that_is_told_to_stop_does_not_end_the_relay(
    link: Link, endpoint: Endpoint, pipe: Pipe
) -> None:
    guest = guest_of(pipe)
    endpoint.delays["relay-exchange"] = 2.0
    time.sleep(0.5)  # one is under way
    endpoint.stop()
    endpoint.delays.clear()
    endpoint.start()
    talk(link, guest)
    assert pipe.connection is guest


def test_a_host_that_comes_back_without_its_sessions_is_connected_to_anew(
    link: Link, endpoint: Endpoint, pipe: Pipe
) -> None:
    endpoint.drop_shells()
    wait_until(lambda: not link.connected)
    assert link.wait_connected(DEADLINE)
    talk(link, guest_of(pipe))
