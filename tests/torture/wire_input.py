"""What any bytes may do to the protocol's two ends: give events, or end the session in words.

An input is tried twice: as it is, and as the recipe for frames whose checksums are right, which
comes past the decoder.
"""

from collections.abc import Iterator

from bootgraft_agent import wire

HELLO: dict[str, wire.JSON] = {
    **dict.fromkeys(("agent_version", "image", "boot"), "x"),
    "instance": "i1",
    "busy": None,
}
SESSION = "5e3a9c01"
KINDS = "HWPDA"
SESSIONS = (SESSION, wire.NO_SESSION, "00000001", SESSION)
WINDOW = max(wire.WINDOW.values())


def try_input(data: bytes) -> None:
    """Feed an input to both ends. Raises AssertionError, or whatever it should not."""
    size = data[0] + 1 if data else 1
    for stream in (data[1:], b"".join(frames_of(data[1:]))):
        for connection in opened():
            for now, at in enumerate(range(0, len(stream), size)):
                try:
                    connection.receive(stream[at : at + size], float(now))
                except wire.PeerError:
                    break
                check_bounds(connection)
                connection.outgoing(float(now))
                connection.next_wakeup()


def frames_of(data: bytes) -> Iterator[bytes]:
    """Read an input as a recipe: kind and session, number, length, text; again and again."""
    at = 0
    while at + 3 <= len(data):
        kind = KINDS[data[at] % len(KINDS)]
        session = SESSIONS[data[at] // len(KINDS) % len(SESSIONS)]
        number = data[at + 1]
        text = data[at + 3 : at + 3 + data[at + 2]]
        at += 3 + len(text)
        printable = "".join(chr(32 + byte % 95) for byte in text).replace("@", "a")
        version = 2 if data[at - 1] == 0xFF else wire.PROTOCOL
        yield wire.encode_frame(wire.Frame(version, session, kind, number % 40, printable))


def opened() -> tuple[wire.Connection, wire.Connection]:
    """Give the two ends of a session that has just been opened, each with something to say."""
    agent, controller = wire.Connection("agent", HELLO), wire.Connection("controller")
    (hello,) = controller.receive(agent.outgoing(0.0), 0.0)
    assert isinstance(hello, wire.Hello)
    controller.welcome(hello, SESSION)
    agent.receive(controller.outgoing(0.0), 0.0)
    for end in (agent, controller):
        end.send({"id": 1})
    return agent, controller


def check_bounds(connection: wire.Connection) -> None:
    """Raise where a peer makes an end keep more than it must."""
    assert len(connection._decoder._buffer) <= wire.MAX_LINE
    assert len(connection._early) <= WINDOW
    assert connection._assembled <= wire.MAX_MESSAGE * 2
    assert len(connection._old_sessions) <= wire.OLD_SESSIONS
    assert connection.backlog <= WINDOW
