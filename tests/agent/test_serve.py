"""Serving a controller over a real terminal: requests, replies, restarts, silence, nobody there."""

import os
import select
import threading
import time
import tty
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import StringIO

import pytest
import serial

from bootgraft_agent import wire
from bootgraft_agent.errors import ChangesLeftError, RefusedError
from bootgraft_agent.plan import Options
from bootgraft_agent.serve import Server
from bootgraft_agent.volumes import Progress
from bootgraft_agent.wire import JSON

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
        return {"run_id": run_id}

    def rollback(
        self, options: Options, run_id: str | None, progress: Progress
    ) -> Mapping[str, JSON]:
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


@pytest.fixture
def actions() -> SlowActions:
    return SlowActions()


@pytest.fixture
def screen() -> StringIO:
    return StringIO()


@pytest.fixture
def line(actions: SlowActions, screen: StringIO) -> Iterator[Line]:
    """A running server on a pseudo-terminal, and the controller's end of it."""
    master, slave = os.openpty()
    tty.setraw(slave)
    server = Server(actions, screen, IDENTITY)

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
    assert line.wait("result")["id"] == 2
    error = line.wait("error")
    assert error["id"] == 1
    assert "asked to stop" in str(error["error"])


def test_noise_and_a_broken_protocol_do_not_end_the_service(line: Line, screen: StringIO) -> None:
    line.welcome()
    line.exchange(0.1)
    session = line.connection.session
    os.write(line.fd, os.urandom(5000) + b"\n")
    os.write(line.fd, wire.encode_frame(wire.Frame(1, session, "D", 1, "[]")))
    time.sleep(0.3)
    assert "broke the protocol" in screen.getvalue()
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
