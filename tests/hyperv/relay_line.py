"""A relay's runner that loses what it is told to, and what tests of relays share."""

from collections.abc import Callable, Mapping
from pathlib import Path

from bootgraft_agent.wire import JSON
from bootgraft_host.hyperv.runner import DEFAULT_TIMEOUT, UnreachableError
from hyperv.direct import DirectRunner
from hyperv.files import USER_TEMP
from hyperv.pipes import Connection, Pipe
from hyperv.serial_host import SerialHost

PIPE = "bootgraft-0123456789abcdef"
HOST = "hv1.example.com"
EVERY_BYTE = bytes(range(256))


class LossyRunner(DirectRunner):
    """Loses what `fate` says: "request", "answer", or nothing (""); asked before each run."""

    def __init__(self, host: SerialHost) -> None:
        super().__init__(host, HOST)
        self.fate: Callable[[str], str] = lambda _script: ""
        self.late: list[tuple[str, Mapping[str, JSON] | None]] = []  # requests that were lost

    def run(
        self,
        script: str,
        asked: Mapping[str, JSON] | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> list[Mapping[str, JSON]]:
        fate = self.fate(script)
        if fate == "request":
            self.late.append((script, asked))
            raise UnreachableError("the request was lost")
        answer = super().run(script, asked, timeout=timeout)
        if fate == "answer":
            raise UnreachableError("the answer was lost")
        return answer

    def scripts(self) -> list[str]:
        return [script for script, _ in self.calls]


def guest_of(pipe: Pipe) -> Connection:
    connection = pipe.connection
    assert connection is not None
    return connection


def files_of(host: SerialHost) -> list[Path]:
    return list(host.files.locate(USER_TEMP).iterdir())


def hear_exactly(guest: Connection, size: int) -> bytes:
    data = b""
    while len(data) < size and (piece := guest.server_read(size - len(data))):
        data += piece
    return data
