"""The HTTPS side of the endpoint: TLS, authentication, and connections that can be cut."""

import base64
import logging
import socket
import ssl
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Protocol

import spnego
from spnego.channel_bindings import GssChannelBindings
from spnego.exceptions import SpnegoError

from hyperv.certificates import CLIENT_NAME, Certificates, fingerprint

# What WinRM's clients say who show a certificate, [MS-WSMV] 1.4.
_BY_CERTIFICATE = "http://schemas.dmtf.org/wbem/wsman/1/wsman/secprofile/https/mutual"
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to a request; `cut_in_middle`: the connection ends in its middle."""

    status: int
    document: bytes
    cut_in_middle: bool = False


class Service(Protocol):
    """What answers requests."""

    problems: list[Exception]

    @property
    def refusal(self) -> int | None:
        """The HTTP status of the answer to every request, if all are refused."""

    def answer(self, document: bytes) -> Answer | None:
        """Answer one request of an authenticated client; None: cut the connection instead."""


class Server(ThreadingHTTPServer):
    """Listens on localhost; port 0 chooses one."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, port: int, certificates: Certificates, service: Service) -> None:
        self.service = service
        digest = fingerprint(certificates.server)
        # Ties an NTLM log-in to this TLS connection: RFC 5929, section 4.
        self.bindings = GssChannelBindings(application_data=b"tls-server-end-point:" + digest)
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", port), _Handler)
        # The handshake is made by the connection's own thread, at its first read.
        self.socket = _tls(certificates).wrap_socket(
            self.socket, server_side=True, do_handshake_on_connect=False
        )

    def start(self) -> None:
        """Answer in a thread of its own."""
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Refuse connections from now on, and cut those there are."""
        self.shutdown()
        self.server_close()
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            cut(connection)

    def opened(self, connection: socket.socket) -> None:
        """A handler has taken a connection."""
        with self._lock:
            self._connections.add(connection)

    def closed(self, connection: socket.socket) -> None:
        """A handler has done with a connection."""
        with self._lock:
            self._connections.discard(connection)

    def handle_error(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: object
    ) -> None:
        """A connection that broke is the client's matter; all else is ours."""
        error = sys.exception()
        _LOGGER.debug("connection from %s", client_address, exc_info=True)
        if isinstance(error, Exception) and not isinstance(error, OSError):
            self.service.problems.append(error)


def _tls(certificates: Certificates) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server, certificates.server_key)
    context.load_verify_locations(certificates.authority)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


def cut(connection: socket.socket) -> None:
    """End a connection at once, without TLS's own farewell."""
    with suppress(OSError):
        # SSLSocket's own would have the connection's thread read what is left undeciphered.
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    """One connection; who has logged in on it stays logged in."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server
    connection: ssl.SSLSocket
    _context: spnego.ContextProxy | None = None
    _let_in = False

    def setup(self) -> None:
        super().setup()
        self.server.opened(self.connection)

    def finish(self) -> None:
        self.server.closed(self.connection)
        with suppress(OSError):
            super().finish()

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        document = self.rfile.read(length)
        if len(document) < length:  # the client has gone away in the middle of its request
            self.close_connection = True
            return
        refusal = self.server.service.refusal
        if refusal is not None:
            self._reply(Answer(refusal, b""), "Negotiate")
            return
        token: str | None = None
        if not self._let_in:
            token = self._log_in()
        if not self._let_in:
            self._reply(Answer(401, b""), token or "Negotiate")
            return
        answer = self.server.service.answer(document)
        if answer is None:
            self._cut()
        else:
            self._reply(answer, token)

    def _log_in(self) -> str | None:
        """Take one step of the log-in; what goes back in WWW-Authenticate."""
        header = self.headers.get("Authorization", "")
        if header == _BY_CERTIFICATE:
            self._let_in = CLIENT_NAME in _names(self.connection.getpeercert() or {})
            return None
        scheme, _, token = header.partition(" ")
        if scheme != "Negotiate":
            return None
        if self._context is None:
            self._context = spnego.server(channel_bindings=self.server.bindings)
        try:
            answer = self._context.step(base64.b64decode(token))
        except (SpnegoError, ValueError) as error:
            _LOGGER.debug("log-in refused: %s", error)
            self._context = None
            return None
        self._let_in = self._context.complete
        return f"Negotiate {base64.b64encode(answer or b'').decode()}" if answer else None

    def _reply(self, answer: Answer, authenticate: str | None) -> None:
        self.send_response(answer.status)
        if authenticate is not None:
            self.send_header("WWW-Authenticate", authenticate)
        self.send_header("Content-Type", "application/soap+xml;charset=UTF-8")
        self.send_header("Content-Length", str(len(answer.document)))
        self.end_headers()
        if answer.cut_in_middle:
            self.wfile.write(answer.document[: len(answer.document) // 2])
            self._cut()
        else:
            self.wfile.write(answer.document)

    def _cut(self) -> None:
        self.close_connection = True
        cut(self.connection)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        _LOGGER.debug(format, *args)


def _names(certificate: Mapping[str, object]) -> list[str]:
    """The common names of a certificate's subject, as the ssl module gives them."""
    subject = certificate.get("subject", ())
    assert isinstance(subject, tuple)
    return [value for part in subject for key, value in part if key == "commonName"]
