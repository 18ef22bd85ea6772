"""The host's end of a running machine's COM port: from the guest's line to the named pipe."""

import contextlib
import socket
import threading

from hyperv.pipes import Connection, Pipe, PipeError, Pipes

BLOCK = 1024  # bytes taken at once
LAST_WORDS_TIMEOUT = 1.0  # seconds for what a guest that has ended has still said


class ComPortLine:
    """Carries bytes between a guest's serial line and a pipe while the machine is on.

    Normally the machine is the pipe's server; a machine without a guest says nothing. Where a
    server of that name exists at the start, it is that one's client instead, and
    `answered_by_stranger` says so.
    """

    def __init__(self, pipes: Pipes, name: str, guest: socket.socket | None) -> None:
        self._guest = guest
        self._stranger: Connection | None = None
        self._pipe: Pipe | None = None
        try:
            self._pipe = pipes.create(name)
        except PipeError:
            existing = pipes.find(name)
            with contextlib.suppress(PipeError):  # busy: then the port leads nowhere
                self._stranger = existing.connect() if existing is not None else None
        self.answered_by_stranger = self._pipe is None
        self._out: threading.Thread | None = None
        if guest is not None:
            self._out = threading.Thread(target=self._carry_out, args=(guest,), daemon=True)
            self._out.start()
            threading.Thread(target=self._carry_in, args=(guest,), daemon=True).start()

    def disconnect(self) -> None:
        """End the client's handle, as a reset of the machine does.

        A machine that is itself the client never comes back to the server of that name.
        """
        if self._pipe is not None:
            self._pipe.disconnect()

    def end(self) -> None:
        """The machine is off: the guest's last words are carried out, then the pipe goes."""
        if self._out is not None:
            self._out.join(LAST_WORDS_TIMEOUT)
        if self._pipe is not None:
            self._pipe.close()
        if self._stranger is not None:
            self._stranger.close()
        if self._guest is not None:
            with contextlib.suppress(OSError):
                self._guest.shutdown(socket.SHUT_RDWR)
            self._guest.close()

    def _carry_out(self, guest: socket.socket) -> None:
        while data := _receive(guest):
            with contextlib.suppress(PipeError):  # the client has left: the rest is lost
                if self._stranger is not None:
                    self._stranger.write(data)
                elif self._pipe is not None and (client := self._pipe.connection) is not None:
                    client.server_write(data)

    def _carry_in(self, guest: socket.socket) -> None:
        while (data := self._take()) is not None:
            with contextlib.suppress(OSError):  # the guest is gone
                guest.sendall(data)

    def _take(self) -> bytes | None:
        if self._stranger is not None:
            return self._stranger.read(BLOCK) or None
        if self._pipe is None:
            return None
        client = self._pipe.wait_client()
        return None if client is None else client.server_read(BLOCK)


def _receive(guest: socket.socket) -> bytes:
    try:
        return guest.recv(BLOCK)
    except OSError:
        return b""
