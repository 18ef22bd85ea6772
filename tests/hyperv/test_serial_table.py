"""One table of cases for every kind of line to a guest's COM1.

- `socket`: QEMU's Unix socket;
- `relay`: a pipe of the modelled host, by the relay's scripts interpreted in this process;
- `winrm`: the same by way of WinRM and PowerShell remoting, over a real connection;
- `pipe`: a pipe of this computer by Win32's functions, of which a stand-in is called: the rules are
  proven, Windows itself was never tried.
"""

import contextlib
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, cast

import pytest
import serial

from bootgraft_host.hyperv import named_pipe, protocol_hvpipe, protocol_hvrelay, relay
from bootgraft_host.hyperv.hosts import HostSettings
from bootgraft_host.hyperv.pipe_names import pipe_url, relay_url
from bootgraft_host.hyperv.windows_pipes import WindowsPipes
from bootgraft_host.hyperv.winrm import WinRMRunner
from bootgraft_host.link import Link
from hyperv.direct import DirectRunner
from hyperv.endpoint import PASSWORD, USER, Endpoint
from hyperv.kernel32 import Kernel32
from hyperv.pipes import Pipes
from hyperv.serial_host import SerialHost
from hyperv.serial_peers import DEADLINE, Peer, PipePeer, SocketPeer, wait_until

PIPE = "bootgraft 1%/é"  # a name that a URL must quote
HOST = "hv1.example.com"
EVERY_BYTE = bytes(range(256))
KINDS = ("socket", "relay", "winrm", "pipe")


class Port(Protocol):
    """What is used of pyserial's ports; its type stubs leave out a part."""

    timeout: float | None
    write_timeout: float | None

    @property
    def in_waiting(self) -> int: ...
    def read(self, size: int, /) -> bytes: ...
    def write(self, data: bytes, /) -> int: ...
    def reset_input_buffer(self) -> None: ...
    def reset_output_buffer(self) -> None: ...
    def close(self) -> None: ...


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "OPEN_TIME", 0.3)
    monkeypatch.setattr(named_pipe, "CONNECT_TIMEOUT", 0.3)


@pytest.fixture(params=KINDS)
def peer(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Peer]:
    """A machine that is switched on."""
    makers: dict[str, Callable[[Path, pytest.MonkeyPatch], Iterator[Peer]]] = {
        "socket": make_socket,
        "relay": make_relay,
        "winrm": make_winrm,
        "pipe": make_pipe,
    }
    for peer in makers[request.param](tmp_path, monkeypatch):
        peer.switch_on()
        yield peer
        peer.switch_off()


def make_socket(_folder: Path, _monkeypatch: pytest.MonkeyPatch) -> Iterator[Peer]:
    with tempfile.TemporaryDirectory() as folder:  # a path short enough for a socket
        yield SocketPeer(Path(folder) / "com 1%.sock")


def make_relay(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Peer]:
    host = SerialHost(folder)
    monkeypatch.setattr(protocol_hvrelay, "open_runner", lambda name: DirectRunner(host, name))
    yield PipePeer(relay_url(HOST, PIPE), host.pipes, PIPE)


def make_winrm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Peer]:
    host = SerialHost(folder / "host")
    with Endpoint(host, folder) as endpoint:
        settings = make_settings(endpoint, folder)
        monkeypatch.setattr(protocol_hvrelay, "open_runner", lambda _name: WinRMRunner(settings))
        yield PipePeer(relay_url(HOST, PIPE), host.pipes, PIPE)
        assert endpoint.shells() == []


def make_settings(endpoint: Endpoint, folder: Path) -> HostSettings:
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


def make_pipe(_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Peer]:
    pipes = Pipes()
    kernel32 = Kernel32(pipes)
    system = WindowsPipes(kernel32, kernel32.last_error)
    monkeypatch.setattr(protocol_hvpipe, "open_system", lambda: system)
    yield PipePeer(pipe_url(PIPE), pipes, PIPE)
    assert kernel32.open_handles == 0


@pytest.fixture
def port(peer: Peer) -> Iterator[Port]:
    """A port that is connected to the machine."""
    opened = open_port(peer)
    peer.wait_client()
    yield opened
    opened.close()


def open_port(peer: Peer) -> Port:
    port = serial.serial_for_url(peer.url, timeout=DEADLINE, write_timeout=DEADLINE)
    return cast("Port", port)


def always() -> bool:
    return True


def in_thread(function: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=function)
    thread.start()
    return thread


def read_link(link: Link, size: int) -> bytes:
    data = b""
    deadline = time.monotonic() + DEADLINE
    while len(data) < size and time.monotonic() < deadline:
        data += link.read(DEADLINE)
    return data


def test_what_came_before_open_returned_is_read(peer: Peer) -> None:
    speaker = in_thread(lambda: peer.send(b"first words"))
    with contextlib.closing(open_port(peer)) as port:
        assert port.read(11) == b"first words"
    speaker.join()


def test_a_read_ends_when_it_has_what_it_wants_and_when_its_time_is_over(
    peer: Peer, port: Port
) -> None:
    port.timeout = 0.3
    before = time.monotonic()
    assert port.read(1) == b""
    assert 0.3 <= time.monotonic() - before < DEADLINE
    peer.send(b"abc")
    port.timeout = 2.0
    assert port.read(10) == b"abc"
    peer.send(b"defg")
    port.timeout = DEADLINE
    before = time.monotonic()
    assert port.read(4) == b"defg"
    assert time.monotonic() - before < DEADLINE / 2
    port.timeout = 0
    assert port.read(1) == b""


def test_what_waits_is_counted(peer: Peer, port: Port) -> None:
    assert port.in_waiting == 0
    peer.send(b"abcde")
    wait_until(lambda: port.in_waiting == 5)
    assert port.read(2) == b"ab"
    assert port.in_waiting == 3
    assert port.read(3) == b"cde"
    assert port.in_waiting == 0


def test_what_waits_can_be_dropped(peer: Peer, port: Port) -> None:
    peer.send(b"older")
    assert port.read(1) == b"o"
    port.reset_input_buffer()
    port.reset_output_buffer()
    peer.send(b"new")
    assert port.read(3) == b"new"


def test_every_byte_goes_both_ways(peer: Peer, port: Port) -> None:
    assert port.write(EVERY_BYTE) == 256
    assert peer.receive(256) == EVERY_BYTE
    peer.send(EVERY_BYTE[::-1])
    assert port.read(256) == EVERY_BYTE[::-1]


def test_a_write_does_not_wait_for_a_read_in_another_thread(peer: Peer, port: Port) -> None:
    heard: list[bytes] = []
    reader = in_thread(lambda: heard.append(port.read(6)))
    for _ in range(5):
        before = time.monotonic()
        port.write(b"hello")
        assert peer.receive(5) == b"hello"
        assert time.monotonic() - before < DEADLINE / 4
    peer.send(b"answer")
    reader.join(DEADLINE)
    assert heard == [b"answer"]


def test_a_guest_that_does_not_read_is_still_heard(peer: Peer, port: Port) -> None:
    port.write_timeout = 0.3
    before = time.monotonic()
    with pytest.raises(serial.SerialTimeoutException, match="does not read"):
        port.write(bytes(4 * 1024 * 1024))
    assert time.monotonic() - before < DEADLINE / 2
    with pytest.raises(serial.SerialTimeoutException):
        port.write(b"x" * 100_000)
    peer.send(b"still heard")
    assert port.read(11) == b"still heard"


def test_a_megabyte_goes_both_ways_at_once(peer: Peer, port: Port) -> None:
    port.timeout = port.write_timeout = 3 * DEADLINE
    up, down = EVERY_BYTE * 4096, EVERY_BYTE[::-1] * 4096
    heard: list[bytes] = []
    threads = [
        in_thread(lambda: port.write(up)),
        in_thread(lambda: peer.send(down)),
        in_thread(lambda: heard.append(peer.receive(len(up)))),
    ]
    assert port.read(len(down)) == down
    for thread in threads:
        thread.join(3 * DEADLINE)
    assert heard == [up]


def test_the_end_comes_after_the_last_bytes(peer: Peer, port: Port) -> None:
    heard: list[bytes] = []
    reader = in_thread(lambda: heard.append(port.read(100)))
    peer.send(b"power down")
    peer.leave()
    reader.join(DEADLINE)
    assert heard == [b"power down"]
    for _ in range(2):
        with pytest.raises(serial.SerialException, match="disconnected"):
            port.read(1)
    assert port.in_waiting == 0
    with pytest.raises(serial.SerialException):
        port.write(b"anybody there?")


def test_a_machine_that_is_off_is_not_connected_to(peer: Peer) -> None:
    peer.switch_off()
    before = time.monotonic()
    with pytest.raises(serial.SerialException, match="cannot connect"):
        open_port(peer)
    assert time.monotonic() - before < DEADLINE / 2


def test_a_second_client_is_refused_and_the_first_goes_on(peer: Peer, port: Port) -> None:
    with pytest.raises(serial.SerialException, match="cannot connect"):
        open_port(peer)
    peer.send(b"hello")
    assert port.read(5) == b"hello"


def test_closing_is_quick_and_lets_the_next_client_in(peer: Peer, port: Port) -> None:
    threads = threading.active_count()
    before = time.monotonic()
    port.close()
    port.close()
    assert time.monotonic() - before < DEADLINE / 4
    assert threading.active_count() <= threads
    peer.wait_gone()
    for use in (lambda: port.read(1), lambda: port.write(b"x"), lambda: port.in_waiting):
        with pytest.raises(serial.PortNotOpenError):
            use()
    peer.leave()
    with contextlib.closing(open_port(peer)) as second:
        peer.send(b"again")
        assert second.read(5) == b"again"


def test_closing_is_quick_while_the_guest_does_not_read(peer: Peer, port: Port) -> None:
    port.write_timeout = 0.1
    with pytest.raises(serial.SerialTimeoutException):
        port.write(bytes(4 * 1024 * 1024))
    before = time.monotonic()
    port.close()
    assert time.monotonic() - before < DEADLINE / 4


def test_a_link_connects_again_after_a_reset(peer: Peer) -> None:
    with Link(peer.url, may_connect=always) as link:
        for word in (b"first", b"second", b"third"):
            assert link.wait_connected(DEADLINE)
            peer.send(word)
            link.write(word[::-1])
            assert peer.receive(len(word)) == word[::-1]
            peer.leave()
            assert read_link(link, len(word)) == word
            wait_until(lambda: not link.connected)  # what is written until then is lost


def test_a_link_waits_for_a_machine_and_ends_with_it(peer: Peer) -> None:
    running = threading.Event()
    running.set()
    peer.switch_off()
    with Link(peer.url, may_connect=running.is_set) as link:
        assert not link.wait_connected(0.5)
        peer.switch_on()
        assert link.wait_connected(DEADLINE)
        peer.send(b"bye")
        running.clear()
        peer.switch_off()
        wait_until(lambda: link.ended)
        assert link.read(DEADLINE) == b"bye"
        assert link.read(DEADLINE) == b""
