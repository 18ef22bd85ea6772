"""The endpoint's second door: HTTP without TLS, where Negotiate itself encrypts each message.

Framing by pypsrp's own encryption, whose keys are here the server's ([MS-WSMV] 2.2.9.1).
"""

import base64
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import spnego
from pypsrp.encryption import WinRMEncryption
from spnego.exceptions import SpnegoError

from hyperv.endpoint import Endpoint
from hyperv.http_side import cut

_BOUNDARY = "Encrypted Boundary"


class PlainServer(ThreadingHTTPServer):
    """Hands on what it has decrypted to an endpoint that has been started."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.handlers: list[_Handler] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    def cut_connections(self) -> None:
        """End all connections, as HTTP servers do with those that were idle for long."""
        for handler in self.handlers:
            cut(handler.connection)
        self.handlers.clear()


@contextmanager
def serve_plainly(endpoint: Endpoint) -> Iterator[PlainServer]:
    """Serve an endpoint without TLS, too, meanwhile."""
    with PlainServer(endpoint) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()
        server.cut_connections()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: PlainServer
    _context: spnego.ContextProxy | None = None

    def setup(self) -> None:
        super().setup()
        self.server.handlers.append(self)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        token = self._log_in(self.headers.get("Authorization", ""))
        if self._context is None or not self._context.complete:
            self._reply(401, token=token)
        elif body:
            self._answer(body)
        else:  # the client only logs in
            self._reply(200, token=token)

    def _log_in(self, header: str) -> str:
        """Take one step of the log-in; what goes back in WWW-Authenticate."""
        if not header:
            return "Negotiate"
        if self._context is None:
            self._context = spnego.server(options=spnego.NegotiateOptions.wrapping_winrm)
        token = header.removeprefix("Negotiate ")
        try:
            answer = self._context.step(base64.b64decode(token))
        except SpnegoError:
            self._context = None
            return "Negotiate"
        return f"Negotiate {base64.b64encode(answer or b'').decode()}"

    def _answer(self, body: bytes) -> None:
        encryption = WinRMEncryption(self._context, WinRMEncryption.SPNEGO)
        try:
            document = encryption.unwrap_message(body, _BOUNDARY)
        except SpnegoError:  # encrypted for a connection that has gone
            self._reply(400)
            return
        answer = self.server.endpoint.answer(document)
        if answer is None:
            self.close_connection = True
            cut(self.connection)
            return
        kind, encrypted = encryption.wrap_message(answer.document)
        self._reply(answer.status, encrypted, f'{kind};protocol="x";boundary="{_BOUNDARY}"')

    def _reply(self, status: int, body: bytes = b"", kind: str = "", token: str = "") -> None:
        self.send_response(status)
        for name, value in (("WWW-Authenticate", token), ("Content-Type", kind)):
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        pass
