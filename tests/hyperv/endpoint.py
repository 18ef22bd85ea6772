"""A WinRM endpoint on this computer: HTTPS, Negotiate (NTLM) or client certificate, PSRP.

The scripts that it is sent run on the modelled host given to it. Kerberos is not here.
"""

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from hyperv import wsman
from hyperv.certificates import make_certificates
from hyperv.direct import Host
from hyperv.faults import Fault, FaultKind, Faults
from hyperv.http_side import Answer, Server
from hyperv.shells import Call, Output, Shell
from hyperv.values import Session, StoppedError

USER = "operator"
PASSWORD = "a 'quoted' $(pass);word \u00fc"  # noqa: S105 - of this endpoint alone
SHORTEST_IDLE_TIMEOUT = 60.0  # seconds; WinRM refuses less
_USER_FILE = "NTLM_USER_FILE"  # where pyspnego's server side looks for passwords


class Endpoint:
    """A context manager, which at its end raises the first of `problems`, if there are any.

    `problems` are exceptions that are no errors of PowerShell: mistakes in scripts or in the model.
    """

    def __init__(self, host: Host, folder: Path) -> None:
        self.certificates = make_certificates(folder)
        self.port = 0  # chosen at the first start, kept at later ones
        self.calls: list[Call] = []
        self.problems: list[Exception] = []
        self.delays: dict[str, float] = {}  # seconds by script, before it runs
        self.refusal: int | None = None  # an HTTP status for all requests
        self.refusal_fault: wsman.FaultError | None = None  # a WSManFault for all requests
        self.requests = 0  # of authenticated clients
        self._host = host
        self._user_file = folder / "users"
        self._faults = Faults()
        self._lock = threading.Lock()
        self._shells: dict[str, Shell] = {}
        self._server: Server | None = None

    def __enter__(self) -> "Endpoint":
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        if error is None and self.problems:
            raise self.problems[0]

    def start(self) -> None:
        """Listen, at the same port as before; until then connections are refused."""
        self._user_file.write_text(f":{USER}:{PASSWORD}\n", "utf-8")
        os.environ[_USER_FILE] = str(self._user_file)  # pyspnego offers no other way
        self._server = Server(self.port, self.certificates, self)
        self.port = self._server.server_address[1]
        self._server.start()

    def stop(self) -> None:
        """Refuse connections and cut those there are; shells stay, as on a host cut off."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    def close(self) -> None:
        """Stop, and end all shells."""
        self.stop()
        self.drop_shells()
        if os.environ.get(_USER_FILE) == str(self._user_file):
            del os.environ[_USER_FILE]

    def drop_shells(self) -> None:
        """End all shells, as a reboot of the host does, or their idle timeouts."""
        with self._lock:
            dropped = list(self._shells.values())
            self._shells.clear()
        for shell in dropped:
            shell.end()

    def shells(self) -> list[str]:
        """The ids of the shells there are."""
        with self._lock:
            return list(self._shells)

    def arm(
        self, kind: FaultKind, *, script: str | None = None, request: int | None = None
    ) -> None:
        """Have a fault happen once: to the next run of a script, or to the n-th request."""
        self._faults.arm(Fault(kind, script, request))

    def armed(self) -> list[Fault]:
        """The faults that have not happened yet."""
        return self._faults.armed()

    def scripts(self) -> list[str]:
        """The names of the scripts that were sent, in order."""
        return [call.script for call in self.calls]

    def asked(self, script: str) -> list[Mapping[str, object]]:
        """What each run of a script was asked, in order."""
        requests = [call.parameters["Request"] for call in self.calls if call.script == script]
        return [json.loads(str(request)) for request in requests]

    def answer(self, document: bytes) -> Answer | None:
        """Answer one request of an authenticated client; None: cut the connection instead."""
        with self._lock:
            self.requests += 1
            kind = self._faults.take_for_request(self.requests)
        if kind is FaultKind.NOT_RUN:
            return None
        request = wsman.parse_request(document)
        status, output = 200, None
        try:
            answered, output = self._carry_out(request)
        except wsman.FaultError as fault:
            status, answered = 500, wsman.answer_fault(request, fault)
        if output is not None and output.done and kind is None:
            kind = self._faults.take_for_script(output.script)
        if kind in (FaultKind.NOT_RUN, FaultKind.ANSWER_LOST):
            return None
        return Answer(status, answered, cut_in_middle=kind is FaultKind.ANSWER_CUT)

    def _carry_out(self, request: wsman.Request) -> tuple[bytes, Output | None]:
        """Do what is asked; the answer, and the output in it where it was a Receive."""
        if self.refusal_fault is not None:
            raise self.refusal_fault
        if request.verb == "Create":
            return self._create(request), None
        shell = self._shell(request)
        if request.verb == "Receive":
            return self._receive(shell, request)
        if request.verb == "Command":
            command_id, fragments = wsman.read_command(request)
            shell.feed(fragments, command_id)
            return wsman.answer_command(request, command_id), None
        if request.verb == "Send":
            for whose, fragments in wsman.read_send(request):
                shell.feed(fragments, whose)
        elif request.verb == "Signal":
            shell.stop(wsman.read_signal(request))
        elif request.verb == "Delete":
            with self._lock:
                self._shells.pop(shell.shell_id, None)
            shell.end()
        else:
            raise wsman.FaultError(wsman.NOT_SUPPORTED, f"{request.action} is not supported")
        return wsman.answer_plainly(request), None

    def _shell(self, request: wsman.Request) -> Shell:
        with self._lock:
            shell = self._shells.get(request.shell_id or "")
        if shell is None:
            raise _shell_not_found(request)
        return shell

    def _create(self, request: wsman.Request) -> bytes:
        wanted = wsman.read_create(request)
        if wanted.idle_timeout is not None and wanted.idle_timeout < SHORTEST_IDLE_TIMEOUT:
            raise wsman.FaultError(wsman.OUT_OF_RANGE, "The value of IdleTimeOut is out of range.")
        shell = Shell(
            wanted.shell_id, self._host.world(), self._before_script, self.problems.append
        )
        shell.feed(wanted.fragments)
        with self._lock:
            self._shells[wanted.shell_id] = shell
        return wsman.answer_create(request, wanted.shell_id)

    def _receive(self, shell: Shell, request: wsman.Request) -> tuple[bytes, Output]:
        command_id = wsman.read_receive(request)
        output = shell.receive(command_id, request.timeout)
        if shell.gone:
            raise _shell_not_found(request)
        if output is None:
            raise wsman.FaultError(
                wsman.OPERATION_TIMED_OUT,
                "The WS-Management service cannot complete the operation within the time"
                " specified in OperationTimeout.",
            )
        document = wsman.answer_receive(request, command_id, output.blocks, done=output.done)
        return document, output

    def _before_script(self, call: Call, session: Session) -> None:
        """Note what is about to run, in the pipeline's own thread; wait where that is wanted."""
        with self._lock:
            self.calls.append(call)
        session.stopping.wait(self.delays.get(call.script, 0.0))
        if self._faults.keeps_from_running(call.script):
            raise StoppedError


def _shell_not_found(request: wsman.Request) -> wsman.FaultError:
    return wsman.FaultError(
        wsman.SHELL_NOT_FOUND,
        f"The request for the Windows Remote Shell with ShellId {request.shell_id} failed because"
        " the shell was not found on the server.",
    )
