"""How fast a machine's COM1 is, by the time that long messages take to the agent and back."""

import time
from dataclasses import dataclass

from bootgraft_agent.errors import InvalidRequestError
from bootgraft_host.client import AgentError, Client
from bootgraft_host.link import Link

MESSAGE_SIZE = 30_000  # characters; the agent takes requests of 64 KiB


class MeasuredLine:
    """A line that counts what goes through it."""

    def __init__(self, line: Link) -> None:
        self._line = line
        self.sent = 0  # bytes
        self.received = 0

    @property
    def ended(self) -> bool:
        """Whether nothing more will ever come."""
        return self._line.ended

    def read(self, timeout: float) -> bytes:
        """Read what came, and count it."""
        data = self._line.read(timeout)
        self.received += len(data)
        return data

    def write(self, data: bytes) -> None:
        """Count the bytes, and send them."""
        self.sent += len(data)
        self._line.write(data)

    def close(self) -> None:
        """Close the line."""
        self._line.close()


@dataclass(frozen=True, slots=True)
class Speed:
    """What was measured; frames that were sent again count, too."""

    round_trip: float  # seconds for a short request and its reply
    to_guest: float  # bytes per second
    from_guest: float | None  # None: the reply was no quicker to measure than the request

    def __str__(self) -> str:
        back = f"{self.from_guest:,.0f} bytes/s" if self.from_guest else "too fast to be measured"
        return (
            f"{self.to_guest:,.0f} bytes/s to the guest, {back} from it, {self.round_trip:.2f} s"
            " for a short request and its reply"
        )


def measure_speed(client: Client, line: MeasuredLine, timeout: float) -> Speed:
    """Send a request that is refused in a few words, and one that is refused in its own.

    Raises AgentError where the agent takes them, and what Client raises.
    """
    short, _, _ = _time_refusal(client, line, "?", {}, timeout)
    text = ("measured " * MESSAGE_SIZE)[:MESSAGE_SIZE]
    there, sent, _ = _time_refusal(client, line, text, {}, timeout)
    both, _, received = _time_refusal(client, line, "inspect", {text: ""}, timeout)
    back = both - there
    return Speed(
        round_trip=short,
        to_guest=sent / max(there - short, 0.001),
        from_guest=received / back if back > 0 and received > MESSAGE_SIZE else None,
    )


def _time_refusal(
    client: Client, line: MeasuredLine, name: str, options: dict[str, str], timeout: float
) -> tuple[float, int, int]:
    """Give the seconds until a request was refused, and the bytes each way meanwhile."""
    sent, received = line.sent, line.received
    begun = time.monotonic()
    try:
        client.request(name, options, timeout)
    except InvalidRequestError:
        return time.monotonic() - begun, line.sent - sent, line.received - received
    raise AgentError(f"the agent took the request {name[:20]!r}, which it should refuse")
