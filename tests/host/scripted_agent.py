"""An agent that speaks the real protocol over a real socket, and answers as a test says."""

import select
import socket
import threading
import time
from collections.abc import Callable, Mapping

from bootgraft_agent import wire
from bootgraft_agent.wire import JSON

Body = Mapping[str, JSON]


# What the agent does with a request; called in the agent's thread.
Script = Callable[["ScriptedAgent", Body], None]


class ScriptedAgent:
    """The guest's end of COM1: says HELLO, hands requests to the script, sends what it says."""

    def __init__(self, line: socket.socket, script: Script, *, noise: bytes = b"") -> None:
        self.line = line
        self.requests: list[Body] = []
        self.instances = 0
        self.muted = False
        self._noise = noise
        self._script = script
        self.stopped = threading.Event()
        self._leave_when_sent: Callable[[], None] | None = None
        self.restart()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def restart(self) -> None:
        """Begin anew, as a new process of the agent does: all is forgotten."""
        self.instances += 1
        self.connection = wire.Connection("agent", self._hello())

    def reply(self, request: Body, result: JSON) -> None:
        self.connection.send({"id": request["id"], "result": result})

    def fail(self, request: Body, kind: str, message: str) -> None:
        self.connection.send({"id": request["id"], "error": {"kind": kind, "message": message}})

    def leave(self, then: Callable[[], None]) -> None:
        """Once all is sent and acknowledged, stop, and do `then`."""
        self._leave_when_sent = then

    def stop(self) -> None:
        self.stopped.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(10)

    def _hello(self) -> dict[str, JSON]:
        return {
            "agent_version": "0.1.0",
            "image": "test image",
            "boot": "boot 1",
            "instance": f"instance {self.instances}",
            "busy": None,
        }

    def _run(self) -> None:
        try:
            while not self.stopped.is_set():
                self._turn()
        except OSError:
            pass  # the controller has closed the line
        finally:
            self.stopped.set()
            self.line.close()

    def _turn(self) -> None:
        data = self.connection.outgoing(time.monotonic())
        if not self.muted:
            for line in data.splitlines(keepends=True):
                self.line.sendall(self._noise + line)
        if select.select([self.line], [], [], 0.01)[0]:
            received = self.line.recv(65536)
            for event in self.connection.receive(received, time.monotonic()):
                if isinstance(event, wire.Message) and not self.muted:
                    self.requests.append(event.body)
                    self._script(self, event.body)
        if self._leave_when_sent is not None and self.connection.backlog == 0:
            self._leave_when_sent()
            self.stopped.set()


class SocketLine:
    """The controller's end of COM1 over a socket, as link.Link is."""

    def __init__(
        self, line: socket.socket, transcript: Callable[[bytes], None] | None = None
    ) -> None:
        self._line = line
        self._transcript = transcript
        self.ended = False
        self.written = b""

    def read(self, timeout: float) -> bytes:
        if self.ended or not select.select([self._line], [], [], timeout)[0]:
            return b""
        try:
            data = self._line.recv(65536)
        except ConnectionError:
            data = b""
        self.ended = not data
        if self._transcript is not None and data:
            self._transcript(data)
        return data

    def write(self, data: bytes) -> None:
        self.written += data
        try:
            self._line.sendall(data)
        except OSError:
            self.ended = True

    def close(self) -> None:
        self._line.close()
        self.ended = True
