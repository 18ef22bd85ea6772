"""Serving a controller over a real terminal: requests, replies, restarts, silence, nobody there."""

import logging
import os
import select
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import serial

from bootgraft_agent import serve, wire
from bootgraft_agent.attendance import Attendance
from bootgraft_agent.errors import ChangesLeftError, RefusedError
from bootgraft_agent.plan import Options
from bootgraft_agent.screen import Screen
from bootgraft_agent.serve import Server
from bootgraft_agent.volumes import Progress
from bootgraft_agent.wire import JSON

KERNEL_LOG = ["[    1.250000] sda: I/O error"]
IDENTITY: Mapping[str, JSON] = {
    "agent_version": "0.1.0",
    "image": "image",
    "boot": "boot",
    "instance": "one",
    "busy": None,
}


@dataclass
class SlowActions:
    """Actions that take as long as the test wants, and count how often they are done."""

    go_on: threading.Event = field(default_factory=threading.Event)
    applied: list[str] = field(default_factory=list)
    rolled_back: list[str | None] = field(default_factory=list)
    error: Exception | None = None

    def inspect(self, options: Options) -> Mapping[str, JSON]:
        return {"facts": {"text": "x" * 20_000}, "partition": options.boot_partition}

    def plan(self, options: Options) -> Mapping[str, JSON]:
        if self.error is not None:
            raise self.error
        return {"plan_sha256": "abc"}

    def apply(
        self, options: Options, plan_sha256: str, run_id: str, progress: Progress
    ) -> Mapping[str, JSON]:
        self.applied.append(run_id)
        while not self.go_on.wait(0.01):
            progress("copying the shim", 1, 10)
        progress("copying the shim", 10, 10)
        if self.error is not None:
            raise self.error
        return {"run_id": run_id}

    def rollback(
        self, options: Options, run_id: str | None, progress: Progress
    ) -> Mapping[str, JSON]:
        self.rolled_back.append(run_id)
        while not self.go_on.wait(0.01):
            progress("restoring the menu", 0, 0)
        progress("restoring the shim", 0, 0)
        return {"run_id": run_id}


@dataclass
class Line:
    """The controller's end of the serial line."""

    fd: int
    connection: wire.Connection = field(default_factory=lambda: wire.Connection("controller"))
    session: int = 0

    def exchange(self, timeout: float) -> list[wire.Event]:
        now = time.monotonic()
        data = self.connection.outgoing(now)
        if data:
            os.write(self.fd, data)
        readable, _, _ = select.select([self.fd], [], [], min(timeout, 0.05))
        if not readable:
            return []
        return self.connection.receive(os.read(self.fd, 65536), time.monotonic())

    def wait(self, wanted: str, timeout: float = 10.0) -> Mapping[str, JSON]:
        """Wait for a message that has this key."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            for event in self.exchange(deadline - time.monotonic()):
                if isinstance(event, wire.Message) and wanted in event.body:
                    return event.body
        raise AssertionError(f"no {wanted} within {timeout} s")

    def welcome(self, timeout: float = 10.0) -> wire.Hello:
        """Take part as a new controller."""
        self.connection = wire.Connection("controller")
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            for event in self.exchange(deadline - time.monotonic()):
                if isinstance(event, wire.Hello):
                    self.session += 1
                    self.connection.welcome(event, f"{self.session:08x}")
                    return event
        raise AssertionError("no HELLO")

    def ask(self, number: int, request: str, **options: JSON) -> None:
        self.connection.send({"id": number, "request": request, "options": options})

    def answer(self, number: int, request: str, **options: JSON) -> Mapping[str, JSON]:
        """Ask, and wait for the reply without its id."""
        self.ask(number, request, **options)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            for event in self.exchange(deadline - time.monotonic()):
                if isinstance(event, wire.Message) and "event" not in event.body:
                    assert event.body["id"] == number
                    return {key: event.body[key] for key in event.body if key != "id"}
        raise AssertionError("no reply")


@pytest.fixture
def actions() -> SlowActions:
    return SlowActions()


@pytest.fixture
def shown() -> list[str]:
    return []


@pytest.fixture
def line(actions: SlowActions, shown: list[str]) -> Iterator[Line]:
    with served(actions, shown.append) as line:
        yield line


@contextmanager
def served(
    actions: SlowActions, show: Callable[[str], None], turns: Attendance | None = None
) -> Iterator[Line]:
    """A running server on a pseudo-terminal, and the controller's end of it."""
    master, slave = os.openpty()
    tty.setraw(slave)
    server = Server(actions, show, IDENTITY, lambda: KERNEL_LOG, turns)

    def serve() -> None:
        with serial.Serial(os.ttyname(slave), timeout=0, write_timeout=0.2) as port:
            server.serve(port)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    line = Line(master)
    yield line
    server.wants_power_off = True
    actions.go_on.set()
    deadline = time.monotonic() + 15
    while thread.is_alive() and time.monotonic() < deadline:
        line.exchange(0.05)
    os.close(master)
    os.close(slave)
    assert not thread.is_alive()


def test_the_agent_speaks_first_and_answers_a_request(line: Line) -> None:
    hello = line.welcome()
    assert (hello.instance, hello.busy) == ("one", None)
    line.ask(1, "inspect", boot_partition="hda1")
    reply = line.wait("result")
    assert reply == {"id": 1, "result": {"facts": {"text": "x" * 20_000}, "partition": "hda1"}}


@pytest.mark.parametrize(
    ("request_name", "options", "kind"),
    [
        ("dance", {}, "invalid"),
        ("plan", {"kernle": "x"}, "invalid"),
        ("plan", {"kernel": 5}, "invalid"),
        ("plan", {"guest_disk": "hdz"}, "invalid"),
        ("apply", {}, "invalid"),
    ],
)
def test_a_wrong_request_is_answered_in_words(
    line: Line, request_name: str, options: dict[str, JSON], kind: str
) -> None:
    line.welcome()
    line.ask(1, request_name, **options)
    error = line.wait("error")["error"]
    assert isinstance(error, Mapping)
    assert error["kind"] == kind
    line.ask(2, "inspect")
    assert line.wait("result")["id"] == 2


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RefusedError("no disk"), "refused"),
        (OSError(5, "Input/output error"), "refused"),
        (ChangesLeftError("half"), "changes-left"),
        (ZeroDivisionError("oops"), "internal"),
    ],
)
def test_every_failure_is_a_reply_of_its_kind(
    line: Line, actions: SlowActions, error: Exception, kind: str
) -> None:
    actions.error = error
    line.welcome()
    line.ask(1, "plan")
    reply = line.wait("error")["error"]
    assert isinstance(reply, Mapping)
    assert reply["kind"] == kind
    assert reply["log"] == KERNEL_LOG


def test_an_apply_goes_on_when_the_controller_restarts_and_is_done_once(
    line: Line, actions: SlowActions
) -> None:
    line.welcome()
    line.ask(1, "apply", plan_sha256="abc", run_id="run-1")
    line.wait("event")
    assert line.welcome().busy == "apply"
    line.ask(7, "apply", plan_sha256="abc", run_id="run-1")
    time.sleep(0.2)
    actions.go_on.set()
    assert line.wait("result") == {"id": 7, "result": {"run_id": "run-1"}}
    assert line.welcome().busy is None
    line.ask(8, "apply", plan_sha256="abc", run_id="run-1")
    assert line.wait("result") == {"id": 8, "result": {"run_id": "run-1"}}
    assert actions.applied == ["run-1"]


def test_another_request_is_refused_while_one_is_worked_on(line: Line) -> None:
    line.welcome()
    line.ask(1, "apply", plan_sha256="abc", run_id="run-1")
    line.wait("event")
    for request in ("inspect", "power_off"):
        line.ask(2, request)
        error = line.wait("error")["error"]
        assert isinstance(error, Mapping)
        assert "still busy with apply" in str(error["message"])


def test_an_abort_ends_an_apply_between_two_steps(line: Line) -> None:
    line.welcome()
    line.ask(1, "apply", plan_sha256="abc", run_id="run-1")
    line.wait("event")
    line.ask(2, "abort")
    assert line.wait("result") == {"id": 2, "result": {"log": KERNEL_LOG}}
    error = line.wait("error")
    assert error["id"] == 1
    assert "asked to stop" in str(error["error"])


APPLY: Mapping[str, JSON] = {"plan_sha256": "abc", "run_id": "run-1"}


def test_an_apply_after_a_rollback_is_done_anew(line: Line, actions: SlowActions) -> None:
    actions.go_on.set()
    line.welcome()
    line.answer(1, "apply", **APPLY)
    line.answer(2, "rollback")
    assert line.answer(3, "apply", **APPLY) == {"result": {"run_id": "run-1"}}
    assert actions.applied == ["run-1", "run-1"]


def test_an_apply_after_another_one_is_done_anew(line: Line, actions: SlowActions) -> None:
    actions.go_on.set()
    line.welcome()
    line.answer(1, "apply", **APPLY)
    line.answer(2, "apply", plan_sha256="abc", run_id="run-2")
    line.answer(3, "apply", **APPLY)
    assert actions.applied == ["run-1", "run-2", "run-1"]


def test_an_apply_that_failed_is_tried_again(line: Line, actions: SlowActions) -> None:
    actions.go_on.set()
    actions.error = RefusedError("the disk is full")
    line.welcome()
    assert "error" in line.answer(1, "apply", **APPLY)
    actions.error = None
    assert line.answer(2, "apply", **APPLY) == {"result": {"run_id": "run-1"}}


def test_a_rollback_of_a_named_run_is_done_once(line: Line, actions: SlowActions) -> None:
    actions.go_on.set()
    line.welcome()
    for number in (1, 2):
        reply = line.answer(number, "rollback", run_id="run-1")
        assert reply == {"result": {"run_id": "run-1"}}
    assert actions.rolled_back == ["run-1"]


def test_a_rollback_of_the_latest_run_means_another_one_each_time(
    line: Line, actions: SlowActions
) -> None:
    actions.go_on.set()
    line.welcome()
    line.answer(1, "rollback")
    line.answer(2, "rollback")
    assert actions.rolled_back == [None, None]


def test_an_abort_does_not_stop_a_rollback(line: Line, actions: SlowActions) -> None:
    line.welcome()
    line.ask(1, "rollback", run_id="run-1")
    line.wait("event")
    line.ask(2, "abort")
    assert line.wait("result") == {"id": 2, "result": {"log": KERNEL_LOG}}
    time.sleep(0.1)
    actions.go_on.set()
    end = time.monotonic() + 10
    replies: list[Mapping[str, JSON]] = []
    while not replies and time.monotonic() < end:
        events = [each.body for each in line.exchange(0.1) if isinstance(each, wire.Message)]
        replies = [body for body in events if "event" not in body]
    assert replies == [{"id": 1, "result": {"run_id": "run-1"}}]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"id": 1},
        {"id": 1, "request": []},
        {"id": 1, "request": {}},
        {"id": True, "request": "inspect"},
        {"id": 1.0, "request": "inspect"},
        {"id": -1, "request": "inspect"},
        {"id": 10**4000, "request": "inspect"},
        {"id": [[]], "request": "inspect"},
        {"id": "x" * 60_000, "request": "inspect"},
        {"id": 1, "request": "\ud800" * 5000},
        {"id": 1, "request": "inspect", "options": []},
        {"id": 1, "request": "inspect", "options": None},
        {"id": 1, "request": "inspect", "options": {"run_id": "run-1"}},
        {"id": 1, "request": "inspect", "options": {"\ud800": 1}},
        {"id": 1, "request": "apply", "options": {"plan_sha256": 1, "run_id": "run-1"}},
        {"id": 1, "request": "apply", "options": {"plan_sha256": "", "run_id": "run-1"}},
    ],
    ids=lambda body: str(body)[:60].encode("ascii", "replace").decode(),
)
def test_no_message_ends_the_service(line: Line, body: Mapping[str, JSON]) -> None:
    line.welcome()
    line.connection.send(body)
    reply = line.wait("error")
    assert reply["id"] == (1 if type(body.get("id")) is int and body["id"] == 1 else None)
    assert isinstance(reply["error"], Mapping)
    assert reply["error"]["kind"] == "invalid"
    assert line.answer(2, "inspect")["result"]


def test_a_controller_that_acknowledges_nothing_loses_its_session(
    line: Line, shown: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "MAX_UNREAD", 50)
    first = line.welcome()
    line.exchange(0.1)
    for seq in range(1, 100):
        text = wire.encode_json({"id": seq, "request": "abort"})
        os.write(line.fd, wire.encode_frame(wire.Frame(1, line.connection.session, "D", seq, text)))
        os.read(line.fd, 65536) if select.select([line.fd], [], [], 0.01)[0] else None
    assert line.welcome().instance != first.instance
    assert "the controller does not take its replies" in shown
    assert line.answer(1, "inspect")["result"]


def test_a_lost_session_is_followed_by_a_hello_that_says_what_is_being_done(line: Line) -> None:
    line.welcome()
    line.ask(1, "apply", **APPLY)
    line.wait("event")
    seq = line.connection._next_seq
    os.write(line.fd, wire.encode_frame(wire.Frame(1, line.connection.session, "D", seq, "[]")))
    time.sleep(0.3)
    while (hello := line.welcome()).instance == "one":
        pass
    assert hello.busy == "apply"


def test_an_error_shows_no_password_of_the_guest(
    line: Line, actions: SlowActions, shown: list[str]
) -> None:
    actions.error = RefusedError("the kernel's arguments are root=/dev/xvda2 password=hunter2")
    line.welcome()
    reply = line.answer(1, "plan")
    assert "root=/dev/xvda2" in str(reply)
    assert "hunter2" not in str(reply) + str(shown)


def test_a_screen_that_a_person_has_stopped_stops_nothing(actions: SlowActions) -> None:
    master, slave = os.openpty()
    actions.go_on.set()
    with closing(Screen(Path(os.ttyname(slave)))) as screen:
        screen.show("before")
        termios.tcflow(slave, termios.TCOOFF)  # as Ctrl-S does
        for _ in range(5000):
            screen.show("while it is stopped")
        with served(actions, screen.show) as line:
            line.welcome()
            assert line.answer(1, "apply", **APPLY) == {"result": {"run_id": "run-1"}}
        termios.tcflow(slave, termios.TCOON)
        screen.show("\x1b[2Jafterwards, password=hunter2")
        heard = read_until(master, b"\r\n", after=b"afterwards")
    os.close(master)
    os.close(slave)
    assert heard.startswith(b"bootgraft: before\r\n")
    assert b"\x1b" not in heard
    assert b"hunter2" not in heard


def read_until(fd: int, end: bytes, after: bytes = b"") -> bytes:
    """Read what is shown on a screen, up to an end that comes after something."""
    heard = b""
    while end not in heard[max(heard.find(after), 0) :] or after not in heard:
        assert select.select([fd], [], [], 10)[0], f"only {heard!r}"
        heard += os.read(fd, 65536)
    return heard


@pytest.fixture
def restored_stderr() -> Iterator[None]:
    stderr = os.dup(2)
    root = logging.getLogger()
    handlers = root.handlers[:]
    root.handlers.clear()  # else they would be closed
    yield
    root.handlers[:] = handlers
    os.dup2(stderr, 2)
    os.close(stderr)


@pytest.mark.usefixtures("restored_stderr")
def test_a_stopped_screen_stops_no_log_and_no_traceback() -> None:
    master, slave = os.openpty()
    with closing(Screen(Path(os.ttyname(slave)))) as screen:
        screen.take_over_stderr()
        logging.getLogger("guest").warning("the argument password=hunter2 is odd")
        heard = read_until(master, b"\r\n")
        assert heard == b"bootgraft: the argument password=******** is odd\r\n"
        termios.tcflow(slave, termios.TCOOFF)
        logging.getLogger("guest").warning("while it is stopped")
        with pytest.raises(BlockingIOError):
            os.write(2, b"Traceback")
    os.close(master)
    os.close(slave)


def test_noise_and_a_broken_protocol_do_not_end_the_service(line: Line, shown: list[str]) -> None:
    line.welcome()
    line.exchange(0.1)
    session = line.connection.session
    os.write(line.fd, os.urandom(5000) + b"\n")
    os.write(line.fd, wire.encode_frame(wire.Frame(1, session, "D", 1, "[]")))
    time.sleep(0.3)
    assert "broke the protocol" in " ".join(shown)
    assert line.welcome().instance != "one"
    line.ask(1, "inspect")
    assert line.wait("result")["id"] == 1


def test_power_off_is_answered_before_the_service_ends(line: Line) -> None:
    line.welcome()
    line.ask(1, "power_off")
    assert line.wait("result") == {"id": 1, "result": {}}


def test_a_client_that_never_reads_does_not_stop_the_work(line: Line, actions: SlowActions) -> None:
    line.welcome()
    line.ask(1, "apply", plan_sha256="abc", run_id="run-1")
    line.wait("event")
    time.sleep(3.0)  # nobody reads; the terminal's buffer fills up
    actions.go_on.set()
    time.sleep(0.3)
    assert line.wait("result", 20) == {"id": 1, "result": {"run_id": "run-1"}}


def test_while_a_person_is_at_the_console_a_controller_is_told_so(actions: SlowActions) -> None:
    turns = Attendance(person=True)
    with served(actions, lambda _: None, turns) as line:
        assert line.welcome().busy == "a person at the console"
        for number, request in enumerate(("inspect", "plan", "power_off"), start=1):
            (error,) = line.answer(number, request).values()
            assert isinstance(error, Mapping)
            assert error["kind"] == "occupied"
            assert "a person works at this machine's own console" in str(error["message"])
        assert line.answer(4, "apply", **APPLY).keys() == {"error"}
        assert actions.applied == []
        turns.leave()
        assert line.answer(5, "plan") == {"result": {"plan_sha256": "abc"}}


def test_a_person_waits_for_the_end_of_what_is_done_for_a_controller(actions: SlowActions) -> None:
    turns = Attendance()
    with served(actions, lambda _: None, turns) as line:
        line.welcome()
        line.ask(1, "apply", **APPLY)
        line.wait("event")
        assert turns.try_begin() is False
        actions.go_on.set()
        line.wait("result")
        assert turns.try_begin() is True
