"""The serial protocol: frames both ways, garbage between them, lossy lines, hostile peers."""

import random
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootgraft_agent import wire
from torture.wire_input import try_input

CORPUS = Path(__file__).parents[1] / "data/wire-corpus"
HELLO: dict[str, wire.JSON] = {
    "agent_version": "0.1.0",
    "image": "abc",
    "boot": "b1",
    "instance": "i1",
    "busy": None,
}
FRAMES = [
    (wire.Frame(1, "00000000", "H", 0, "{}"), b"@bg1 00000000 H 0 d2b1977a {}\n"),
    (wire.Frame(1, "5e3a9c01", "D", 17, '{"id":3}'), b'@bg1 5e3a9c01 D 17 396b9578 {"id":3}\n'),
    (wire.Frame(1, "5e3a9c01", "A", 4, "6,7"), b"@bg1 5e3a9c01 A 4 65f32bd5 6,7\n"),
]


def feed(decoder: wire.Decoder, pieces: Iterable[bytes]) -> list[wire.Frame]:
    return [frame for piece in pieces for frame in decoder.feed(piece)]


def opened() -> tuple[wire.Connection, wire.Connection]:
    """An agent and a controller that have just opened a session."""
    agent, controller = wire.Connection("agent", HELLO), wire.Connection("controller")
    (hello,) = controller.receive(agent.outgoing(0.0), 0.0)
    assert isinstance(hello, wire.Hello)
    controller.welcome(hello, "5e3a9c01")
    assert agent.receive(controller.outgoing(0.0), 0.0) == [wire.Welcomed("5e3a9c01")]
    return agent, controller


def exchange(agent: wire.Connection, controller: wire.Connection) -> list[wire.Event]:
    """Let both sides talk over a perfect line until nothing is left; what both have heard."""
    events: list[wire.Event] = []
    now = 0.0
    while agent.backlog or controller.backlog:
        now += 0.1
        events += controller.receive(agent.outgoing(now), now)
        events += agent.receive(controller.outgoing(now), now)
    return [event for event in events if not isinstance(event, wire.Hello)]


@pytest.mark.parametrize(("frame", "line"), FRAMES)
def test_a_frame_is_encoded_and_decoded_as_written_in_the_table(
    frame: wire.Frame, line: bytes
) -> None:
    assert wire.encode_frame(frame) == line
    assert feed(wire.Decoder(), [bytes([byte]) for byte in line]) == [frame]


@given(st.lists(st.binary(max_size=80)), st.data())
def test_noise_without_our_marker_never_hides_the_frame_after_it(
    noise: list[bytes], data: st.DataObject
) -> None:
    line = FRAMES[1][1]
    stream = b"".join(each.replace(b"@", b"") for each in noise) + line + b"more noise"
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)))))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert feed(wire.Decoder(), pieces) == [FRAMES[1][0]]


@given(st.binary(max_size=4096))
def test_any_bytes_are_decoded_without_an_error(data: bytes) -> None:
    feed(wire.Decoder(), [data])


@given(st.binary(max_size=2048))
def test_any_bytes_and_any_frames_are_taken_within_bounds(data: bytes) -> None:
    try_input(data)


def test_what_the_fuzzer_has_found_is_taken_within_bounds() -> None:
    """The minimised corpus of ten minutes of a coverage-guided fuzzer, torture.fuzz_wire."""
    corpus = list(CORPUS.iterdir())
    assert len(corpus) > 50
    for path in corpus:
        try_input(path.read_bytes())


@pytest.mark.parametrize(
    "pattern",
    [
        *(b"@bg", b"@", b"@bg1 x", b"\r", b"\n", b"\0", b"@bg1 5e3a9c01 D 1 00000000 ", b"\r@bg"),
        FRAMES[1][1],
        wire.encode_frame(wire.Frame(1, "5e3a9c01", "D", 30, "{}")),
        wire.encode_frame(wire.Frame(1, "5e3a9c01", "A", 3, "f," * 300)),
    ],
)
@pytest.mark.parametrize("piece", [1, 100, 1 << 30])
def test_time_is_no_more_than_linear_in_what_comes(pattern: bytes, piece: int) -> None:
    short = pattern * (20_000 // len(pattern))
    once = min(seconds_to_take(short, piece) for _ in range(5))
    eight_times = min(seconds_to_take(short * 8, piece) for _ in range(3))
    assert eight_times < 8 * once * 3 + 0.02


def seconds_to_take(stream: bytes, piece: int) -> float:
    agent, _ = opened()
    began = time.process_time()
    for at in range(0, len(stream), piece):
        agent.receive(stream[at : at + piece], 1.0)
    return time.process_time() - began


@given(st.integers(0, len(FRAMES[1][1]) - 2), st.integers(1, 255))
def test_a_frame_with_one_changed_byte_is_dropped(at: int, change: int) -> None:
    line = bytearray(FRAMES[1][1])
    line[at] ^= change
    assert feed(wire.Decoder(), [bytes(line)]) == []


def test_an_endless_line_takes_no_memory_and_does_not_hide_the_next_frame() -> None:
    decoder = wire.Decoder()
    for _ in range(100):
        assert feed(decoder, [b"@bg1 x" * 1000]) == []
        assert len(decoder._buffer) <= wire.MAX_LINE
    assert feed(decoder, [FRAMES[0][1]]) == [FRAMES[0][0]]


@given(st.dictionaries(st.text(), st.recursive(st.none() | st.integers() | st.text(), st.lists)))
def test_every_message_arrives_as_it_was_sent(body: dict[str, wire.JSON]) -> None:
    agent, controller = opened()
    agent.send(body)
    assert exchange(agent, controller) == [wire.Message(body)]


def test_frames_stay_within_the_line_length() -> None:
    agent, controller = opened()
    agent.send({"text": "@" * 5000 + "\n\x1bé\U0001f600"})
    lines = agent.outgoing(0.0).splitlines(keepends=True)
    assert max(map(len, lines)) <= wire.MAX_FRAME
    assert len(lines) == wire.WINDOW["agent"]
    assert controller.receive(b"".join(lines), 0.0) == []


@pytest.mark.parametrize("seed", range(20))
def test_messages_arrive_once_and_in_order_over_a_line_that_damages_one_byte_in_1000(
    seed: int,
) -> None:
    chance = random.Random(seed)  # noqa: S311
    agent, controller = opened()

    def line(data: bytes) -> bytes:
        damaged = bytearray()
        for byte in data:
            fate = chance.random()
            if fate < 0.0005:
                continue
            damaged.append(byte ^ 0x41 if fate < 0.001 else byte)
        return bytes(damaged)

    sent: list[dict[str, wire.JSON]] = [{"n": n, "text": "x" * (n * 37)} for n in range(60)]
    for body in sent:
        agent.send(body)
        controller.send(body)
    heard: dict[str, list[wire.JSON]] = {"agent": [], "controller": []}
    now = 0.0
    while (agent.backlog or controller.backlog) and now < 120:
        now += 0.02
        for name, one, other in (("a", agent, controller), ("c", controller, agent)):
            for event in other.receive(line(one.outgoing(now)), now):
                if isinstance(event, wire.Message):
                    heard["controller" if name == "a" else "agent"].append(dict(event.body))
    assert heard == {"agent": sent, "controller": sent}
    assert now < 60


def test_a_session_survives_a_line_that_is_dead_for_half_a_minute() -> None:
    agent, controller = opened()
    controller.send({"n": 1})
    for second in range(30):
        controller.outgoing(float(second))
    heard = agent.receive(controller.outgoing(34.0), 34.0)
    assert heard == [wire.Message({"n": 1})]


def test_a_frame_reported_missing_is_sent_again_ever_more_rarely() -> None:
    """The report may be old: nobody is there, or nothing passes, and the line must not be flooded.

    A real one takes 45 ms for a frame.
    """
    agent, controller = opened()
    agent.send({"text": "x" * 5000})
    lines = agent.outgoing(0.0).splitlines(keepends=True)
    controller.receive(b"".join(lines[1:]), 0.0)
    agent.receive(controller.outgoing(0.0), 0.0)
    ticks = [tick for tick in range(1, 300) if lines[0] in agent.outgoing(tick / 10)]
    assert ticks[0] <= 2
    assert len(ticks) < 15


def test_an_acknowledgement_lost_in_the_middle_of_a_message_is_said_again() -> None:
    """A line that breaks in every window would else deliver the same frames for ever."""
    agent, controller = opened()
    agent.send({"text": "x" * 5000})
    first = b"".join(agent.outgoing(0.0).splitlines(keepends=True)[:3])
    controller.receive(first, 0.0)
    controller.outgoing(0.0)  # lost
    assert controller.next_wakeup() < 0.5
    assert not controller.outgoing(0.1)
    before = agent.backlog
    agent.receive(controller.outgoing(0.5), 0.5)
    assert agent.backlog == before - 3
    said = [tick for tick in range(5, 600) if controller.outgoing(tick / 10)]
    assert len(said) < 5


def test_an_acknowledgement_brings_the_rest_soon_after_a_long_silence() -> None:
    agent, controller = opened()
    agent.send({"text": "x" * 5000})
    for tick in range(300):
        lines = agent.outgoing(tick / 10).splitlines(keepends=True)
    lines = agent.outgoing(34.0).splitlines(keepends=True)
    controller.receive(lines[1], 34.0)
    agent.receive(controller.outgoing(34.0), 34.0)
    assert agent.next_wakeup() < 35.0


def test_a_lost_welcome_is_said_again_when_the_agent_repeats_its_hello() -> None:
    agent, controller = wire.Connection("agent", HELLO), wire.Connection("controller")
    (hello,) = controller.receive(agent.outgoing(0.0), 0.0)
    assert isinstance(hello, wire.Hello)
    controller.welcome(hello, "5e3a9c01")
    controller.outgoing(0.0)  # lost
    controller.receive(agent.outgoing(1.0), 1.0)
    assert agent.receive(controller.outgoing(1.0), 1.0) == [wire.Welcomed("5e3a9c01")]


def test_hello_is_repeated_each_second_until_something_is_heard() -> None:
    agent = wire.Connection("agent", HELLO)
    said = [bool(agent.outgoing(tick / 10)) for tick in range(31)]
    assert [tick for tick, each in enumerate(said) if each] == [0, 10, 20, 30]


def test_a_new_controller_takes_over_and_old_frames_are_forgotten() -> None:
    agent, first = opened()
    agent.send({"for": "the first controller"})
    late = first.outgoing(0.0)
    second = wire.Connection("controller")
    (hello,) = second.receive(agent.outgoing(5.0).splitlines(keepends=True)[0], 5.0)
    assert isinstance(hello, wire.Hello)
    assert hello.session == "5e3a9c01"
    second.welcome(hello, "00000002")
    assert agent.receive(second.outgoing(5.0), 5.0) == [wire.Welcomed("00000002")]
    first.welcome(hello, "5e3a9c01")
    assert agent.receive(first.outgoing(6.0) + late, 6.0) == []
    agent.send({"for": "the second controller"})
    assert exchange(agent, second) == [wire.Message({"for": "the second controller"})]


def test_a_welcome_for_an_earlier_instance_of_the_agent_is_ignored() -> None:
    _, controller = opened()
    restarted = wire.Connection("agent", HELLO | {"instance": "i2"})
    controller._welcome_due = True
    assert restarted.receive(controller.outgoing(0.0), 0.0) == []


def test_another_major_version_is_refused_in_words() -> None:
    controller = wire.Connection("controller")
    line = wire.encode_frame(wire.Frame(7, wire.NO_SESSION, "H", 0, wire.encode_json(HELLO)))
    (hello,) = controller.receive(line, 0.0)
    assert isinstance(hello, wire.Hello)
    with pytest.raises(wire.PeerError, match="version 7 of the protocol, this controller version"):
        controller.welcome(hello, "5e3a9c01")


def test_a_message_over_the_limit_is_refused_on_both_sides() -> None:
    agent, controller = opened()
    with pytest.raises(wire.ProtocolError, match="over the"):
        agent.send({"text": "x" * wire.MAX_MESSAGE})
    with pytest.raises(wire.PeerError, match="message of over 4194304 bytes"):
        controller.receive(endless(agent.session, 9000), 0.0)


def test_a_message_to_the_agent_is_short() -> None:
    agent, controller = opened()
    with pytest.raises(wire.ProtocolError, match="over the 65536 allowed"):
        controller.send({"text": "x" * wire.MAX_REQUEST})
    with pytest.raises(wire.PeerError, match="message of over 65536 bytes"):
        agent.receive(endless(agent.session, 80), 0.0)
    agent, controller = opened()
    body: dict[str, wire.JSON] = {"text": "x" * (wire.MAX_REQUEST - 100)}
    controller.send(body)
    assert exchange(agent, controller) == [wire.Message(body)]


def endless(session: str, count: int) -> bytes:
    """The lines of a message that has no end."""
    pieces = (wire.Frame(1, session, "P", seq, "x" * 900) for seq in range(1, count))
    return b"".join(wire.encode_frame(piece) for piece in pieces)


def test_a_message_of_nearly_the_limit_arrives() -> None:
    agent, controller = opened()
    agent.send({"text": "x" * (wire.MAX_MESSAGE - 100)})
    now = 0.0
    events: list[wire.Message] = []
    while not events:
        now += 0.001
        events = [
            event
            for event in controller.receive(agent.outgoing(now), now)
            if isinstance(event, wire.Message)
        ]
        agent.receive(controller.outgoing(now), now)
    assert len(str(events[0].body["text"])) == wire.MAX_MESSAGE - 100


@pytest.mark.parametrize("text", ["[]", "nonsense", "[" * 900, "1e999", "NaN", ""])
def test_a_message_that_is_no_object_ends_the_session(text: str) -> None:
    refuse(text)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "[1e999]"])
def test_a_number_that_is_not_finite_ends_the_session(number: str) -> None:
    refuse(f'{{"id":{number}}}')


def test_a_finite_number_is_taken() -> None:
    assert wire.decode_json('{"id":-1.5e3}') == {"id": -1500.0}


def refuse(text: str) -> None:
    agent, controller = opened()
    with pytest.raises(wire.PeerError):
        controller.receive(wire.encode_frame(wire.Frame(1, agent.session, "D", 1, text)), 0.0)
