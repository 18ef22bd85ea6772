"""The client against an agent that speaks the real protocol over a real socket."""

import re
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from bootgraft_agent import wire
from bootgraft_agent.errors import ChangesLeftError, InvalidRequestError, RefusedError
from bootgraft_agent.wire import JSON
from bootgraft_host import client as client_module
from bootgraft_host.client import AgentError, Client, SilenceError
from bootgraft_host.replies import (
    Log,
    Progress,
    ReplyError,
    parse_applied,
    parse_inspection,
    parse_plan,
)
from host.scripted_agent import Body, Script, ScriptedAgent, SocketLine

Events = list[Progress | Log]


@contextmanager
def conversation(
    script: Script, *, noise: bytes = b"", silence: float = 5.0
) -> Iterator[tuple[Client, ScriptedAgent, SocketLine, Events]]:
    ours, guests = socket.socketpair()
    agent = ScriptedAgent(guests, script, noise=noise)
    line = SocketLine(ours)
    events: Events = []
    try:
        yield Client(line, on_event=events.append, silence=silence), agent, line, events
    finally:
        line.close()
        agent.stop()
        guests.close()


def answer(agent: ScriptedAgent, request: Body) -> None:
    agent.reply(request, {"asked": request["request"], "options": request["options"]})


def ignore(agent: ScriptedAgent, request: Body) -> None:
    """Never answer."""


@pytest.mark.parametrize(
    "noise",
    [
        b"",
        b"\r\nGRUB Loading stage1.5.\r\n\r\n",
        b"[    0.000000] Linux version 6.12\n",
        bytes(range(256)).replace(b"@", b""),
        b"@bg1 @bg",
        b"x" * 5000,
    ],
    ids=["none", "grub", "kernel", "all bytes", "our marker", "long line"],
)
def test_hello_and_replies_are_found_among_noise(noise: bytes) -> None:
    with conversation(answer, noise=noise) as (client, _, _, _):
        assert client.await_hello(10).agent_version == "0.1.0"
        result = client.request("inspect", {"kernel": "vmlinuz-xen"}, 10)
        assert result == {"asked": "inspect", "options": {"kernel": "vmlinuz-xen"}}


def test_nothing_is_sent_before_hello() -> None:
    ours, guests = socket.socketpair()
    line = SocketLine(ours)
    with pytest.raises(SilenceError, match=r"HELLO .* did not come within 1 s"):
        Client(line, on_event=lambda _: None).await_hello(1.0)
    assert line.written == b""
    line.close()
    guests.close()


def test_a_missing_hello_is_told_with_what_the_console_said_last_made_harmless() -> None:
    ours, guests = socket.socketpair()
    guests.sendall(b"Booting\r\nNo bootable device \x1b[31m.")
    line = SocketLine(ours)
    with pytest.raises(SilenceError) as caught:
        Client(line, on_event=lambda _: None).await_hello(0.3)
    assert r"No bootable device \x1b[31m." in str(caught.value)
    assert "\x1b" not in str(caught.value)
    line.close()
    guests.close()


def test_a_missing_hello_on_a_silent_line_is_told_as_such() -> None:
    ours, guests = socket.socketpair()
    line = SocketLine(ours)
    with pytest.raises(SilenceError, match="nothing at all was heard on the serial line"):
        Client(line, on_event=lambda _: None).await_hello(0.3)
    line.close()
    guests.close()


def test_a_line_that_ends_is_told_at_once() -> None:
    def die(agent: ScriptedAgent, request: Body) -> None:
        agent.line.shutdown(socket.SHUT_RDWR)

    with conversation(die) as (client, _, _, _):
        client.await_hello(10)
        begun = time.monotonic()
        with pytest.raises(SilenceError, match="the machine turned off while the reply to plan"):
            client.request("plan", {}, 60)
        assert time.monotonic() - begun < 5


def test_another_major_version_is_refused_in_words() -> None:
    ours, guests = socket.socketpair()
    hello = '{"agent_version":"9","image":"i","boot":"b","instance":"i","busy":null}'
    guests.sendall(wire.encode_frame(wire.Frame(2, wire.NO_SESSION, "H", 0, hello)))
    line = SocketLine(ours)
    with pytest.raises(AgentError, match="speaks version 2 of the protocol, this controller"):
        Client(line, on_event=lambda _: None).await_hello(10)
    assert line.written == b""
    line.close()
    guests.close()


def test_requests_are_answered_one_after_the_other() -> None:
    with conversation(answer) as (client, agent, _, _):
        client.await_hello(10)
        for name in ("inspect", "plan", "apply", "power_off"):
            assert client.request(name, {}, 10)["asked"] == name
        assert [body["id"] for body in agent.requests] == [1, 2, 3, 4]


def test_progress_and_log_come_to_the_callback_in_order() -> None:
    def work(agent: ScriptedAgent, request: Body) -> None:
        for step in (1, 2):
            progress: dict[str, JSON] = {"event": "progress", "id": 1, "step": step}
            agent.connection.send({**progress, "text": "copy", "bytes": step, "total": 9})
        agent.connection.send({"event": "log", "level": "warning", "text": "old clock"})
        agent.connection.send({"event": "of another age", "text": "skipped"})
        agent.reply(request, {})

    with conversation(work) as (client, _, _, events):
        client.await_hello(10)
        client.request("apply", {}, 10)
    assert events == [
        Progress(1, "copy", 1, 9),
        Progress(2, "copy", 2, 9),
        Log("warning", "old clock"),
    ]


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("refused", RefusedError),
        ("invalid", InvalidRequestError),
        ("changes-left", ChangesLeftError),
        ("internal", AgentError),
    ],
)
def test_each_kind_of_error_is_raised_with_the_agents_words(
    kind: str, error: type[Exception]
) -> None:
    def refuse(agent: ScriptedAgent, request: Body) -> None:
        agent.fail(request, kind, "no boot partition: hda1 holds none")

    with conversation(refuse) as (client, _, _, _):
        client.await_hello(10)
        with pytest.raises(error, match="no boot partition: hda1 holds none"):
            client.request("plan", {}, 10)


def test_the_kernel_s_log_of_a_failure_is_kept_without_control_characters(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(agent: ScriptedAgent, request: Body) -> None:
        error: dict[str, JSON] = {"kind": "refused", "message": "no disk", "log": ["ata1: \x1b[2J"]}
        agent.connection.send({"id": request["id"], "error": error})

    with caplog.at_level("INFO", "bootgraft_host"), conversation(refuse) as (client, _, _, _):
        client.await_hello(10)
        with pytest.raises(RefusedError, match="no disk"):
            client.request("plan", {}, 10)
    assert "the live system's kernel: ata1: \\x1b[2J" in caplog.messages


def restart_times(times: int) -> Callable[[ScriptedAgent, Body], None]:
    def script(agent: ScriptedAgent, request: Body) -> None:
        if agent.instances <= times:
            agent.restart()
        else:
            answer(agent, request)

    return script


def test_an_agent_that_was_started_anew_is_welcomed_and_asked_again() -> None:
    with conversation(restart_times(2)) as (client, agent, _, events):
        client.await_hello(10)
        assert client.request("apply", {"run_id": "r"}, 20)["options"] == {"run_id": "r"}
    assert [body["request"] for body in agent.requests] == ["apply"] * 3
    assert len({body["id"] for body in agent.requests}) == 1
    assert [type(event) for event in events] == [Log, Log]


def test_an_agent_that_dies_of_a_request_is_asked_a_bounded_number_of_times() -> None:
    with conversation(restart_times(99)) as (client, agent, _, _):
        client.await_hello(10)
        with pytest.raises(
            AgentError, match=r"started anew while it worked on apply, for the 4\. time"
        ):
            client.request("apply", {}, 60)
        assert len(agent.requests) == client_module.MAX_RESTARTS + 1


def test_a_request_that_must_not_be_repeated_is_asked_once() -> None:
    with conversation(restart_times(1)) as (client, agent, _, _):
        client.await_hello(10)
        with pytest.raises(AgentError, match="started anew while it worked on rollback"):
            client.request("rollback", {}, 20, max_restarts=0)
    assert [body["request"] for body in agent.requests] == ["rollback"]


def test_options_too_long_for_the_agent_are_refused_in_words() -> None:
    with conversation(answer) as (client, _, _, _):
        client.await_hello(10)
        with pytest.raises(InvalidRequestError, match=r"cannot ask .* over the 65536 allowed"):
            client.request("plan", {"shim_args": "x" * 70_000}, 10)
        assert client.request("inspect", {}, 10)["asked"] == "inspect"


def test_an_aborted_request_is_awaited_and_not_asked_again() -> None:
    def stop_when_told(agent: ScriptedAgent, request: Body) -> None:
        if request["request"] == "abort":
            agent.fail(agent.requests[0], "refused", "the controller asked to stop")
        else:
            agent.connection.set_busy("apply")

    with conversation(stop_when_told) as (client, agent, _, _):
        client.await_hello(10)
        with pytest.raises(SilenceError):
            client.request("apply", {}, 0.3)
        with pytest.raises(RefusedError, match="the controller asked to stop"):
            client.abort("apply", 10)
    assert [body["request"] for body in agent.requests] == ["apply", "abort"]


def test_an_agent_that_dies_while_aborted_is_not_asked_again() -> None:
    def die_when_told(agent: ScriptedAgent, request: Body) -> None:
        if request["request"] == "abort":
            agent.restart()

    with conversation(die_when_told) as (client, agent, _, _):
        client.await_hello(10)
        with pytest.raises(SilenceError):
            client.request("apply", {}, 0.3)
        with pytest.raises(AgentError, match="started anew while it worked on apply"):
            client.abort("apply", 10)
    assert [body["request"] for body in agent.requests] == ["apply", "abort"]


def test_an_agent_that_falls_silent_is_told_with_the_last_thing_heard_of_it() -> None:
    def fall_silent(agent: ScriptedAgent, request: Body) -> None:
        progress: dict[str, JSON] = {"event": "progress", "id": 1, "step": 1}
        agent.connection.send({**progress, "text": "copy xen.gz", "bytes": 0, "total": 0})
        agent.line.sendall(agent.connection.outgoing(time.monotonic()))
        agent.muted = True

    with conversation(fall_silent, silence=1.5) as (client, _, _, _):
        client.await_hello(10)
        expected = re.escape("reply to apply was awaited, but the agent has been silent for 2 s")
        with pytest.raises(SilenceError, match=expected) as caught:
            client.request("apply", {}, 60)
    assert '"copy xen.gz"' in str(caught.value)


def test_a_long_reply_over_a_slow_line_is_no_silence() -> None:
    """At 115,200 baud a message of 4 MiB takes six minutes, in which no other word comes."""

    def send_slowly(agent: ScriptedAgent, request: Body) -> None:
        agent.reply(request, {"text": "x" * 15_000})
        while agent.connection.backlog and not agent.stopped.is_set():
            while select.select([agent.line], [], [], 0)[0]:
                agent.connection.receive(agent.line.recv(65536), time.monotonic())
            for line in agent.connection.outgoing(time.monotonic()).splitlines(keepends=True):
                agent.line.sendall(line)
                time.sleep(0.05)

    with conversation(send_slowly, silence=1.0) as (client, _, _, _):
        client.await_hello(10)
        assert client.request("inspect", {}, 30) == {"text": "x" * 15_000}


def test_a_busy_agent_that_says_hello_is_waited_for_until_the_deadline() -> None:
    def work(agent: ScriptedAgent, request: Body) -> None:
        agent.connection.set_busy("plan")

    with conversation(work, silence=2.0) as (client, _, _, _):
        client.await_hello(10)
        begun = time.monotonic()
        with pytest.raises(SilenceError, match=r"within 4 s; .*it is busy with plan"):
            client.request("plan", {}, 4)
        assert time.monotonic() - begun >= 4


def test_logs_without_an_end_are_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "MAX_EVENTS", 50)

    def chatter(agent: ScriptedAgent, request: Body) -> None:
        for number in range(80):
            agent.connection.send({"event": "log", "level": "info", "text": str(number)})

    with conversation(chatter) as (client, _, _, _):
        client.await_hello(10)
        with pytest.raises(AgentError, match="over 50 progress and log lines for inspect"):
            client.request("inspect", {}, 20)


def test_a_large_reply_arrives_whole() -> None:
    text = "line of a menu \u00e4\n" * 20_000

    def send(agent: ScriptedAgent, request: Body) -> None:
        agent.reply(request, {"text": text})

    with conversation(send, silence=20) as (client, _, _, _):
        client.await_hello(10)
        assert client.request("inspect", {}, 60) == {"text": text}


def test_a_message_over_the_bound_is_refused_before_it_is_whole() -> None:
    def flood(agent: ScriptedAgent, request: Body) -> None:
        session = agent.connection.session
        acknowledged = wire.Decoder()
        window = wire.WINDOW["agent"]
        seq = 0
        while True:  # until the controller hangs up
            for _ in range(window):
                seq += 1
                frame = wire.Frame(wire.PROTOCOL, session, "P", seq, "x" * 900)
                agent.line.sendall(wire.encode_frame(frame))
            while max((f.seq for f in acknowledged.feed(agent.line.recv(65536))), default=0) < seq:
                pass

    with conversation(flood) as (client, _, _, _):
        client.await_hello(10)
        with pytest.raises(AgentError, match=r"broke the protocol: .* over 4194304 bytes"):
            client.request("inspect", {}, 120)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"nothing": 1}, "neither an event nor a reply"),
        ({"id": "1", "result": {}}, "neither an event nor a reply"),
        ({"id": True, "result": {}}, "neither an event nor a reply"),
        ({"id": 1}, "neither a result nor an error"),
        ({"id": 1, "result": [1]}, "neither a result nor an error"),
        ({"id": 1, "error": {"kind": "sad", "message": ""}}, "is of the kind 'sad'"),
        ({"id": 1, "error": {"kind": "refused"}}, "message is missing"),
        ({"id": 1, "error": {"kind": 5, "message": ""}}, "kind should be text, found int '5'"),
        (
            {"id": 1, "error": {"kind": "refused", "message": "", "log": [7]}},
            "log should be text, found int '7'",
        ),
        ({"event": 7}, "event should be text"),
        ({"event": "log", "level": "info", "text": None}, "text should be text, found nothing"),
        (
            {"event": "progress", "step": -1, "text": "", "bytes": 0, "total": 0},
            "step should be a count, found int '-1'",
        ),
    ],
)
def test_a_reply_of_the_wrong_shape_is_an_error_in_words(body: Body, words: str) -> None:
    with conversation(lambda agent, _: agent.connection.send(body)) as (client, _, _, _):
        client.await_hello(10)
        with pytest.raises(ReplyError, match=re.escape(words)):
            client.request("inspect", {}, 10)


def test_a_late_reply_to_an_earlier_request_is_passed_over() -> None:
    def late(agent: ScriptedAgent, request: Body) -> None:
        agent.connection.send({"id": 99, "result": {"of": "another"}})
        agent.reply(request, {"of": "this"})

    with conversation(late) as (client, _, _, _):
        client.await_hello(10)
        assert client.request("inspect", {}, 10) == {"of": "this"}


PLAN: dict[str, JSON] = {
    "plan_sha256": "ab",
    "recipe": "serial-console:0123456789ab hyperv-shim",
    "steps": [{"kind": "copy", "text": "copy xen.gz"}],
    "diffs": [{"path": "grub/menu.lst", "diff": "--- a\n+++ b\n"}],
    "warnings": ["an old initrd"],
    "already_grafted": False,
    "facts": {"disks": [{"name": "hda"}]},
}


def test_a_plan_is_read() -> None:
    plan = parse_plan(PLAN)
    assert (plan.sha256, plan.steps[0].text, plan.diffs[0].path) == (
        "ab",
        "copy xen.gz",
        "grub/menu.lst",
    )
    assert plan.warnings == ("an old initrd",)
    assert plan.recipe_names == ("serial-console", "hyperv-shim")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("plan_sha256", None, "plan: plan_sha256 should be text, found nothing"),
        ("recipe", 7, "plan: recipe should be text, found int '7'"),
        ("steps", {}, "plan: steps should be a list"),
        ("steps", ["copy"], "plan: steps[0] should be an object, found str 'copy'"),
        ("steps", [{"kind": "copy"}], "plan: steps[0]: text is missing"),
        ("diffs", [{"path": 1, "diff": ""}], "plan: diffs[0]: path should be text"),
        ("warnings", [1], "plan: warnings should be text, found int '1'"),
        ("already_grafted", 0, "plan: already_grafted should be true or false, found int '0'"),
        ("facts", [], "plan: facts should be an object"),
        ("facts", {"size": float("inf")}, "plan: facts is nested deeper than 24 levels or holds"),
    ],
)
def test_each_field_of_a_plan_is_checked(field: str, value: JSON, words: str) -> None:
    with pytest.raises(ReplyError, match=re.escape(words)):
        parse_plan({**PLAN, field: value})


def test_facts_nested_too_deep_are_refused() -> None:
    facts: JSON = {}
    for _ in range(30):
        facts = {"in": facts}
    with pytest.raises(ReplyError, match="nested deeper"):
        parse_inspection({"facts": facts, "problem": None, "warnings": []})


def test_every_missing_field_of_an_apply_is_named() -> None:
    whole: dict[str, JSON] = {
        "run_id": "r",
        "changed": True,
        "changes": [{"path": "xen.gz", "before_sha256": None, "after_sha256": "ab"}],
        "texts": [{"path": "menu.lst", "before": "a", "after": "b"}],
        "diffs": [],
        "warnings": [],
        "verified": ["menu.lst"],
    }
    assert parse_applied(whole).changes[0].before_sha256 is None
    for name in whole:
        partial = {key: value for key, value in whole.items() if key != name}
        with pytest.raises(ReplyError, match=f"apply: {name} is missing"):
            parse_applied(partial)
