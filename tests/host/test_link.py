"""The line to COM1, with real Unix sockets at the other end."""

import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import serial

from bootgraft_host.link import Link, unix_url

DEADLINE = 10.0  # seconds; for what happens within milliseconds
QUIET = 0.3  # seconds in which nothing is expected


class Peer:
    """The hypervisor's end: a Unix socket that takes one client at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.bind(str(path))
        self._server.listen(1)
        self._server.settimeout(DEADLINE)

    def accept(self) -> socket.socket:
        client, _ = self._server.accept()
        client.settimeout(DEADLINE)
        return client

    def close(self) -> None:
        self._server.close()
        self.path.unlink(missing_ok=True)


@pytest.fixture
def address() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "com 1%.sock"  # a name that a URL must quote


@pytest.fixture
def peer(address: Path) -> Iterator[Peer]:
    peer = Peer(address)
    yield peer
    peer.close()


def always() -> bool:
    return True


def connect(peer: Peer, **options: Callable[[bytes], None] | int) -> tuple[Link, socket.socket]:
    link = Link(unix_url(peer.path), may_connect=always, **options)  # type: ignore[arg-type]
    guest = peer.accept()
    assert link.wait_connected(DEADLINE)
    return link, guest


def read_exactly(link: Link, size: int) -> bytes:
    data = b""
    deadline = time.monotonic() + DEADLINE
    while len(data) < size and time.monotonic() < deadline:
        data += link.read(DEADLINE)
    return data


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.01)


def test_bytes_go_both_ways(peer: Peer) -> None:
    link, guest = connect(peer)
    with link, guest:
        guest.sendall(b"\x00hello\xff")
        assert read_exactly(link, 7) == b"\x00hello\xff"
        link.write(b"\xffanswer\x00")
        assert guest.recv(100) == b"\xffanswer\x00"


def test_what_came_before_the_connection_was_complete_is_kept(peer: Peer) -> None:
    def speak_at_once() -> None:
        with peer.accept() as guest:
            guest.sendall(b"first words")

    early = threading.Thread(target=speak_at_once)
    early.start()
    with Link(unix_url(peer.path), may_connect=always) as link:
        assert read_exactly(link, 11) == b"first words"
    early.join()


def test_reading_ends_when_its_time_is_over(peer: Peer) -> None:
    link, guest = connect(peer)
    with link, guest:
        before = time.monotonic()
        assert link.read(0.2) == b""
        assert 0.2 <= time.monotonic() - before < DEADLINE


def test_last_words_before_the_peer_goes_are_read(peer: Peer) -> None:
    link, guest = connect(peer)
    with link:
        guest.sendall(b"power down")
        guest.close()
        assert read_exactly(link, 10) == b"power down"


def test_the_link_comes_back_when_the_peer_does(peer: Peer) -> None:
    link, guest = connect(peer)
    with link:
        guest.close()
        wait_until(lambda: not link.connected)
        link.write(b"lost, as nobody is there")
        guest = peer.accept()
        assert link.wait_connected(DEADLINE)
        guest.sendall(b"again")
        assert read_exactly(link, 5) == b"again"
        link.write(b"and back")
        assert guest.recv(100) == b"and back"
        guest.close()


def test_the_link_waits_for_a_peer_that_is_not_there_yet(address: Path) -> None:
    with Link(unix_url(address), may_connect=always) as link:
        assert not link.wait_connected(QUIET)
        late = Peer(address)
        guest = late.accept()
        assert link.wait_connected(DEADLINE)
        guest.close()
        late.close()


def test_the_line_ends_with_the_machine(peer: Peer) -> None:
    running = threading.Event()
    running.set()
    with Link(unix_url(peer.path), may_connect=running.is_set) as link:
        guest = peer.accept()
        guest.sendall(b"bye")
        running.clear()
        guest.close()
        wait_until(lambda: link.ended)
        assert link.read(DEADLINE) == b"bye"
        assert link.read(DEADLINE) == b""  # at once, not after the time
        assert not link.wait_connected(DEADLINE)


def test_a_flood_is_drained_and_the_newest_bytes_are_kept(peer: Peer) -> None:
    limit = 10_000
    recorded = bytearray()
    link, guest = connect(peer, unread_limit=limit, transcript=recorded.extend)
    flood = bytes(range(256)) * 20_000  # far more than the sockets hold; sendall would block
    with link, guest:
        guest.sendall(flood)
        wait_until(lambda: len(recorded) == len(flood))
        wait_until(lambda: link.lost == len(flood) - limit)
        assert link.read(DEADLINE) == flood[-limit:]
    assert recorded == flood


def test_a_peer_that_never_reads_holds_nobody_up_for_ever(peer: Peer) -> None:
    link, guest = connect(peer)
    with link, guest:
        before = time.monotonic()
        link.write(bytes(4 * 1024 * 1024))
        assert time.monotonic() - before < DEADLINE
        guest.sendall(b"still heard")
        assert read_exactly(link, 11) == b"still heard"


def test_a_peer_that_reads_slowly_gets_everything(peer: Peer) -> None:
    link, guest = connect(peer)
    data = bytes(range(256)) * 8192
    received = bytearray()

    def read_slowly() -> None:
        while len(received) < len(data) and (piece := guest.recv(65536)):
            received.extend(piece)
            time.sleep(0.005)

    reader = threading.Thread(target=read_slowly)
    reader.start()
    with link, guest:
        link.write(data)
        reader.join(DEADLINE)
    assert received == data


def test_a_transcript_that_fails_is_given_up_and_the_line_goes_on(
    peer: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_data: bytes) -> None:
        raise OSError("no space left on device")

    link, guest = connect(peer, transcript=fail)
    with link, guest:
        guest.sendall(b"one")
        assert read_exactly(link, 3) == b"one"
        guest.sendall(b"two")
        assert read_exactly(link, 3) == b"two"
    assert [record.getMessage().count("no space left") for record in caplog.records] == [1]


def test_closing_disconnects_and_ends_the_thread(peer: Peer) -> None:
    threads = threading.active_count()
    link, guest = connect(peer)
    link.close()
    link.close()
    assert guest.recv(1) == b""
    assert link.ended
    assert threading.active_count() == threads
    guest.close()


def test_a_url_of_pyserials_own_works_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
        with Link(f"socket://{host}:{port}", may_connect=always) as link:
            guest, _ = server.accept()
            assert link.wait_connected(DEADLINE)
            wait_until(lambda: send_until_read(guest, link))
            guest.close()


def send_until_read(guest: socket.socket, link: Link) -> bool:
    """Send again and again: pyserial's socket port drops what comes while it opens."""
    guest.sendall(b"x")
    return b"x" in link.read(0.1)


def test_the_port_refuses_use_when_it_is_closed(peer: Peer) -> None:
    port = serial.serial_for_url(unix_url(peer.path))
    port.close()
    with pytest.raises(serial.PortNotOpenError):
        port.read(1)


def test_the_port_drops_its_input_on_request(peer: Peer) -> None:
    port = serial.serial_for_url(unix_url(peer.path), timeout=QUIET)
    guest = peer.accept()
    guest.sendall(b"old")
    port.reset_input_buffer()
    assert port.read(10) == b""
    guest.close()
    port.close()
