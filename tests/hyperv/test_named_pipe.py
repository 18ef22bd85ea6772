"""What Win32's error numbers lead to, over a handle that says what it is told to.

Nothing here was tried on Windows. The numbers are those that clients of Hyper-V's pipes met, and
those of Win32's documentation.
"""

import sys
import threading
from collections import deque

import pytest
import serial

from bootgraft_host.hyperv import named_pipe, protocol_hvpipe
from bootgraft_host.hyperv.named_pipe import NamedPipe, NamedPipeError, Outcome, connect_pipe
from bootgraft_host.hyperv.pipe_names import parse_pipe_url, parse_relay_url, pipe_url, relay_url
from bootgraft_host.hyperv.windows_pipes import WindowsPipes
from hyperv.kernel32 import Kernel32
from hyperv.pipes import Pipes

PATH = r"\\.\pipe\bootgraft-1"
CLOSED = [109, 232, 233]
PENDING = 997  # ERROR_IO_PENDING: the outcome is not there yet


class ScriptedTransfer:
    def __init__(self, data: bytes, winerror: int, count: int | None = None) -> None:
        self.content = data
        self.outcome = Outcome(winerror, len(data) if count is None else count)
        self.done = threading.Event()
        self.finished = False
        if winerror != PENDING:
            self.done.set()

    def end(self, data: bytes, winerror: int = 0) -> None:
        self.content, self.outcome = data, Outcome(winerror, len(data))
        self.done.set()

    def wait(self, timeout: float | None) -> bool:
        return self.done.wait(timeout)

    def cancel(self) -> None:
        if not self.done.is_set():
            self.outcome = Outcome(995, 0)
            self.done.set()

    def finish(self) -> Outcome:
        assert self.done.wait(10), "a transfer does not end"
        assert not self.finished, "the outcome is asked for twice"
        self.finished = True
        return self.outcome

    def data(self, count: int) -> bytes:
        return self.content[:count]


class ScriptedHandle:
    """Gives one transfer, or one error, after the other."""

    def __init__(
        self,
        reads: list[ScriptedTransfer | int] | None = None,
        writes: list[ScriptedTransfer | int] | None = None,
    ) -> None:
        self._reads = deque(reads or [])
        self._writes = deque(writes or [])
        self.begun: list[ScriptedTransfer] = []
        self.written: list[bytes] = []
        self.in_pipe: int | NamedPipeError = 0
        self.closed = 0

    def read(self, size: int) -> ScriptedTransfer:
        return self._begin(self._reads.popleft() if self._reads else ScriptedTransfer(b"", PENDING))

    def write(self, data: bytes) -> ScriptedTransfer:
        self.written.append(data)
        default = ScriptedTransfer(b"", 0, len(data))
        return self._begin(self._writes.popleft() if self._writes else default)

    def _begin(self, transfer: ScriptedTransfer | int) -> ScriptedTransfer:
        assert not self.closed
        if isinstance(transfer, int):
            raise NamedPipeError(transfer, "the test")
        self.begun.append(transfer)
        return transfer

    def available(self) -> int:
        if isinstance(self.in_pipe, NamedPipeError):
            raise self.in_pipe
        return self.in_pipe

    def cancel(self) -> None:
        for transfer in self.begun:
            transfer.cancel()

    def close(self) -> None:
        assert all(each.done.is_set() for each in self.begun), "a buffer is still Windows'"
        self.closed += 1


class ScriptedSystem:
    """Answers to open and to wait_until_free with the next of its numbers; 0 is success."""

    def __init__(self, *numbers: int) -> None:
        self._numbers = deque(numbers)
        self.calls: list[str] = []
        self.handle = ScriptedHandle()

    def open(self, path: str) -> ScriptedHandle:
        self._answer(f"open {path}")
        return self.handle

    def wait_until_free(self, path: str, timeout: float) -> None:
        assert 0 < timeout <= named_pipe.CONNECT_TIMEOUT
        self._answer(f"wait {path}")

    def _answer(self, call: str) -> None:
        self.calls.append(call)
        if number := self._numbers.popleft():
            raise NamedPipeError(number, "the test")


def open_pipe(handle: ScriptedHandle) -> NamedPipe:
    return NamedPipe(handle, PATH)


def test_a_pipe_that_does_not_exist_means_that_the_machine_is_off() -> None:
    with pytest.raises(FileNotFoundError, match="the machine is off"):
        connect_pipe(ScriptedSystem(2), "bootgraft-1")


def test_a_busy_pipe_is_waited_for_and_opened_again() -> None:
    system = ScriptedSystem(231, 0, 231, 0, 0)
    connect_pipe(system, "bootgraft-1").close()
    assert [call.split()[0] for call in system.calls] == ["open", "wait", "open", "wait", "open"]
    assert system.calls[0] == f"open {PATH}"


@pytest.mark.parametrize(
    ("numbers", "error"),
    [
        ((231, 121), ConnectionRefusedError),  # busy all the time
        ((231, 2), FileNotFoundError),  # and then the machine is off
        ((5,), NamedPipeError),  # access denied
    ],
)
def test_a_pipe_that_stays_away_is_refused_with_its_number(
    numbers: tuple[int, ...], error: type[OSError]
) -> None:
    with pytest.raises(error, match=rf"Win32 error {numbers[-1]}\b"):
        connect_pipe(ScriptedSystem(*numbers), "bootgraft-1")


def test_a_pipe_that_is_busy_again_and_again_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(named_pipe, "CONNECT_TIMEOUT", 0.0)
    with pytest.raises(ConnectionRefusedError, match="another client"):
        connect_pipe(ScriptedSystem(231), "bootgraft-1")


@pytest.mark.parametrize("name", ["", "a\\b", "x" * 300])
def test_a_name_that_no_pipe_can_have_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name of a named pipe"):
        connect_pipe(ScriptedSystem(), name)


def test_a_read_is_always_under_way_and_goes_on_from_call_to_call() -> None:
    transfer = ScriptedTransfer(b"", PENDING)
    handle = ScriptedHandle([transfer])
    pipe = open_pipe(handle)
    assert handle.begun == [transfer]
    assert pipe.receive(100, 0.01) == b""
    assert pipe.receive(100, 0) == b""
    assert handle.begun == [transfer]
    transfer.end(b"late")
    assert pipe.receive(100, 0) == b"late"
    assert len(handle.begun) == 2
    pipe.close()


def test_what_was_read_too_much_is_kept() -> None:
    pipe = open_pipe(ScriptedHandle([ScriptedTransfer(b"abcdef", 0)]))
    assert pipe.receive(2, 1) == b"ab"
    assert pipe.waiting() == 4
    assert pipe.receive(9, 1) == b"cdef"


@pytest.mark.parametrize("winerror", CLOSED)
@pytest.mark.parametrize("at_once", [True, False])
def test_a_closed_pipe_ends_after_its_last_bytes(winerror: int, at_once: bool) -> None:
    ending = winerror if at_once else ScriptedTransfer(b"", winerror)
    pipe = open_pipe(ScriptedHandle([ScriptedTransfer(b"last words", 0), ending]))
    assert pipe.receive(4, 1) == b"last"
    assert pipe.receive(99, 1) == b" words"
    for _ in range(2):
        with pytest.raises(ConnectionError, match=f"disconnected.*{winerror}"):
            pipe.receive(1, 1)


def test_bytes_that_come_with_the_end_are_not_lost() -> None:
    pipe = open_pipe(ScriptedHandle([ScriptedTransfer(b"tail", 109)]))
    assert pipe.receive(99, 1) == b"tail"
    with pytest.raises(ConnectionError):
        pipe.receive(1, 1)


def test_an_error_without_a_meaning_of_its_own_ends_the_stream_with_its_number() -> None:
    pipe = open_pipe(ScriptedHandle([64]))
    with pytest.raises(ConnectionError, match=r"cannot read from .*pipe.*64"):
        pipe.receive(1, 1)


def test_long_and_empty_messages_are_parts_of_the_stream() -> None:
    reads = [
        ScriptedTransfer(b"half of ", 234),
        ScriptedTransfer(b"", 0),
        ScriptedTransfer(b"it", 0),
    ]
    pipe = open_pipe(ScriptedHandle(list(reads)))
    assert pipe.receive(99, 1) == b"half of "
    assert pipe.receive(99, 1) == b"it"


def test_a_read_whose_thread_has_ended_is_begun_again() -> None:
    pipe = open_pipe(ScriptedHandle([ScriptedTransfer(b"", 995), ScriptedTransfer(b"here", 0)]))
    assert pipe.receive(99, 1) == b"here"


def test_what_waits_is_counted_in_every_place() -> None:
    transfer = ScriptedTransfer(b"", PENDING)
    handle = ScriptedHandle([transfer])
    handle.in_pipe = 3
    pipe = open_pipe(handle)
    assert pipe.waiting() == 3
    assert pipe.receive(1, 0) == b""
    transfer.end(b"four")
    assert pipe.waiting() == 4 + 3
    handle.in_pipe = NamedPipeError(233, "the test")
    assert pipe.waiting() == 4
    assert pipe.receive(9, 0) == b"four"


def test_nothing_waits_after_the_end() -> None:
    transfer = ScriptedTransfer(b"", PENDING)
    pipe = open_pipe(ScriptedHandle([transfer]))
    assert pipe.receive(1, 0) == b""
    transfer.end(b"", 233)
    assert pipe.waiting() == 0
    with pytest.raises(ConnectionError):
        pipe.receive(1, 1)


def test_writes_go_in_pieces_and_a_partial_one_is_continued() -> None:
    size = named_pipe.WRITE_SIZE
    handle = ScriptedHandle(writes=[ScriptedTransfer(b"", 0, 10)])
    open_pipe(handle).send(bytes(range(256)) * 20, 1)
    assert [len(piece) for piece in handle.written] == [size, size, 5120 - 10 - size]
    assert handle.written[0][:10] + b"".join(handle.written[1:]) == bytes(range(256)) * 20


def test_a_guest_that_does_not_read_holds_a_writer_up_for_its_time_alone() -> None:
    stuck = ScriptedTransfer(b"", PENDING)
    handle = ScriptedHandle(writes=[stuck])
    pipe = open_pipe(handle)
    with pytest.raises(TimeoutError, match="does not read"):
        pipe.send(b"hello", 0.01)
    assert stuck.finished
    assert handle.written == [b"hello"]
    pipe.send(b"again", 0.01)
    pipe.close()


def test_a_write_that_is_done_while_it_is_cancelled_counts() -> None:
    class Racing(ScriptedTransfer):
        def cancel(self) -> None:
            self.outcome = Outcome(0, 5)
            self.done.set()

    handle = ScriptedHandle(writes=[Racing(b"", PENDING)])
    open_pipe(handle).send(b"hello", 0.01)
    assert handle.written == [b"hello"]


@pytest.mark.parametrize("winerror", CLOSED)
@pytest.mark.parametrize("at_once", [True, False])
def test_writing_to_a_closed_pipe_is_refused(winerror: int, at_once: bool) -> None:
    answer = winerror if at_once else ScriptedTransfer(b"", winerror)
    with pytest.raises(ConnectionError, match=f"disconnected.*{winerror}"):
        open_pipe(ScriptedHandle(writes=[answer])).send(b"x", 1)


def test_another_error_in_writing_is_told_with_its_number() -> None:
    with pytest.raises(OSError, match=r"cannot write to .*64"):
        open_pipe(ScriptedHandle(writes=[64])).send(b"x", 1)


def test_closing_takes_the_buffers_back_first_and_happens_once() -> None:
    transfer = ScriptedTransfer(b"", PENDING)
    handle = ScriptedHandle([transfer])
    pipe = open_pipe(handle)
    assert pipe.receive(1, 0) == b""
    pipe.close()
    pipe.close()
    assert transfer.finished
    assert handle.closed == 1
    for use in (pipe.waiting, lambda: pipe.receive(1, 1), lambda: pipe.send(b"x", 1)):
        with pytest.raises(ConnectionError, match="closed"):
            use()


def test_closing_ends_a_reader_and_a_writer_in_other_threads() -> None:
    handle = ScriptedHandle(writes=[ScriptedTransfer(b"", PENDING)])
    pipe = open_pipe(handle)
    errors: list[OSError] = []

    def read() -> None:
        try:
            pipe.receive(1, None)
        except OSError as error:
            errors.append(error)

    def write() -> None:
        try:
            pipe.send(b"x", None)
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=each) for each in (read, write)]
    for thread in threads:
        thread.start()
    while len(handle.begun) < len(threads):
        threads[0].join(0.01)
    pipe.close()
    for thread in threads:
        thread.join(10)
    assert [str(error) for error in errors] == ["the port is closed"] * 2
    assert handle.closed == 1


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has such pipes")
def test_a_computer_without_such_pipes_says_so() -> None:
    with pytest.raises(serial.SerialException, match="works on Windows alone"):
        protocol_hvpipe.Serial(pipe_url("bootgraft-1"))


def test_every_windows_handle_is_closed_in_the_end() -> None:
    pipes = Pipes()
    server = pipes.create("bootgraft-1")
    kernel32 = Kernel32(pipes)
    pipe = connect_pipe(WindowsPipes(kernel32, kernel32.last_error), "bootgraft-1")
    assert pipe.receive(10, 0.01) == b""
    client = server.connection
    assert client is not None
    client.server_write(b"hello")
    assert pipe.receive(10, 10) == b"hello"
    pipe.send(b"answer", 10)
    assert client.server_read(10) == b"answer"
    assert pipe.receive(10, 0.01) == b""
    pipe.close()
    assert kernel32.open_handles == 0
    assert not client.client_open


def test_windows_functions_that_fail_at_once_leave_no_handle_behind() -> None:
    pipes = Pipes()
    kernel32 = Kernel32(pipes)
    system = WindowsPipes(kernel32, kernel32.last_error)
    with pytest.raises(FileNotFoundError):
        connect_pipe(system, "bootgraft-1")
    server = pipes.create("bootgraft-1")
    pipe = connect_pipe(system, "bootgraft-1")
    with pytest.raises(NamedPipeError, match="WaitNamedPipe failed with Win32 error 121"):
        system.wait_until_free(PATH, 0.01)
    client = server.connection
    assert client is not None
    client.server_write(b"last words")
    server.disconnect()
    assert pipe.receive(99, 10) == b"last words"
    with pytest.raises(ConnectionError, match="233"):
        pipe.receive(1, 10)
    with pytest.raises(ConnectionError, match="233"):
        pipe.send(b"x", 10)
    assert pipe.waiting() == 0
    assert kernel32.calls.count("ReadFile") == 2  # the second one is refused at once
    pipe.close()
    assert kernel32.open_handles == 0


def test_urls_keep_every_character_of_a_host_and_a_name() -> None:
    name = "bootgraft /%?#é\x7f"
    assert parse_pipe_url(pipe_url(name)) == name
    assert parse_relay_url(relay_url("HV1.example.com:5986/x", name)) == (
        "HV1.example.com:5986/x",
        name,
    )


@pytest.mark.parametrize("url", ["hvpipe://", "hvpipe://a/b", "hvpipe://a%5Cb", "hvpipe://a?b"])
def test_a_url_that_names_no_pipe_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"hvpipe|named pipe"):
        parse_pipe_url(url)


@pytest.mark.parametrize("url", ["hvrelay://", "hvrelay://a", "hvrelay://a/", "hvrelay:///b"])
def test_a_url_that_names_no_pipe_of_a_host_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"hvrelay|named pipe"):
        parse_relay_url(url)
