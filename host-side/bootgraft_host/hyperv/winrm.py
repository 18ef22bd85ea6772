"""Scripts run through PowerShell remoting: WinRM over HTTPS, or over HTTP with its own encryption.

pypsrp speaks the protocol. A session is one shell with one runspace on the host: opened at the
first run, kept between runs and beyond a connection that was cut, opened anew when the host has
lost it. What was sent is not sent again, except to a host that has lost the session: there it did
not run.
"""

import importlib.util
import logging
import math
import sys
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pypsrp.complex_objects import PSInvocationState
from pypsrp.exceptions import AuthenticationError, WSManFaultError
from pypsrp.messages import ErrorRecordMessage
from pypsrp.powershell import PowerShell, RunspacePool
from pypsrp.shell import SignalCode
from pypsrp.wsman import OptionSet, SelectorSet, WSMan
from spnego.exceptions import SpnegoError

from bootgraft_agent.wire import JSON
from bootgraft_host.hyperv.hosts import HostSettings, read_password
from bootgraft_host.hyperv.refusals import Login
from bootgraft_host.hyperv.runner import (
    DEFAULT_TIMEOUT,
    HostError,
    ScriptError,
    UnreachableError,
    encode_request,
    only_text,
    parse_answer,
    read_script,
)
from bootgraft_host.hyperv.winrm_errors import (
    ACCESS_DENIED,
    FAILURES,
    SHELL_NOT_FOUND,
    explain,
    is_fault,
)
from bootgraft_host.machine import ConfigurationError

CONNECTION_TIMEOUT = 10  # seconds
REQUEST_TIMEOUT = 40  # seconds for one exchange of messages; opening starts a process on the host
POLL_TIMEOUT = 20  # seconds after which the host says that a script is still at work
FAREWELL_TIMEOUT = 5  # seconds for what only tidies up
IDLE_TIMEOUT = 180  # seconds after which the host ends a session of a controller that has gone
REUSED_WITHIN = 60.0  # seconds; what was idle longer may be cut off somewhere between

_LOGGER = logging.getLogger(__name__)

# ErrorCategory of System.Management.Automation, by number.
_CATEGORIES = (
    *("NotSpecified", "OpenError", "CloseError", "DeviceError", "DeadlockDetected"),
    *("InvalidArgument", "InvalidData", "InvalidOperation", "InvalidResult", "InvalidType"),
    *("MetadataError", "NotImplemented", "NotInstalled", "ObjectNotFound", "OperationStopped"),
    *("OperationTimeout", "SyntaxError", "ParserError", "PermissionDenied", "ResourceBusy"),
    *("ResourceExists", "ResourceUnavailable", "ReadError", "WriteError", "FromStdErr"),
    *("SecurityError", "ProtocolError", "ConnectionError", "AuthenticationError"),
    *("LimitsExceeded", "QuotaExceeded", "NotEnabled"),
)


class WinRMRunner:
    """Runs scripts on a host through WinRM, one at a time."""

    def __init__(self, settings: HostSettings) -> None:
        """Connect to nothing yet. Raises ConfigurationError where there is nothing to log in by."""
        _check_credentials(settings)
        self._settings = settings
        self._lock = threading.Lock()
        self._session: _Session | None = None

    @property
    def host(self) -> str:
        """The host as in hyperv://HOST/VM."""
        return self._settings.host

    def run(
        self,
        script: str,
        asked: Mapping[str, JSON] | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> list[Mapping[str, JSON]]:
        """Run scripts/`script`.ps1 on the host; see Runner. Opening a session has its own time."""
        task = _Task(script, read_script(script), encode_request(asked), timeout)
        with self._lock:
            try:
                pipeline = self._carry_out(task)
            except _SessionEndedError:
                pipeline = self._carry_out(task)  # it did not run, and a new session is opened
        return parse_answer(_take_answer(pipeline, script, self.host), script, self.host)

    def another(self) -> "WinRMRunner":
        """Give a runner with a session of its own, whose globals stay from run to run.

        They also stay where a connection was cut and made again. A session that was idle for a
        minute, took too long, or was lost by the host, is followed by one without them.
        """
        return WinRMRunner(self._settings)

    def close(self) -> None:
        """End the session, if the host can be reached; a later run opens a new one."""
        with self._lock:
            if self._session is not None:
                self._session.end()
            self._session = None

    def _carry_out(self, task: "_Task") -> PowerShell:
        session = self._session
        if session is not None and session.idle_for() > REUSED_WITHIN:
            session.end()
        if session is None or session.ended:
            self._session = None
            session = _Session(self._settings)
            session.open()
            self._session = session
        session.take_up()
        return session.invoke(task)


@dataclass(frozen=True, slots=True)
class _Task:
    script: str
    text: str
    request: str
    timeout: float  # seconds, from the moment that a session is open


class _SessionEndedError(UnreachableError):
    """The host no longer knows the session; the script did not run."""


class _Session:
    """One shell on the host, with one runspace, and the connection to it."""

    def __init__(self, settings: HostSettings) -> None:
        self._settings = settings
        password = read_password(settings)
        self._login = Login(settings, password)
        self._connection = _Connection(
            settings.address,
            port=settings.port,
            ssl=settings.tls,
            auth=settings.auth,
            username=settings.user,
            password=password,
            cert_validation=_trusted(settings),  # type: ignore[arg-type] # a file's path, too
            certificate_pem=_path(settings.certificate_file),
            certificate_key_pem=_path(settings.certificate_key_file or settings.certificate_file),
            no_proxy=True,
        )
        self._pool = RunspacePool(self._connection, idle_timeout=IDLE_TIMEOUT)
        self._unfinished: PowerShell | None = None  # what may still be at work on the host
        self._used_at = time.monotonic()
        self.ended = False

    def open(self) -> None:
        if not self._settings.tls_verify:
            _LOGGER.warning(
                "the certificate of %s is not verified: tls_verify = false in %s",
                self._settings.host,
                self._settings.table,
            )
        doing = "opening a PowerShell session"
        if self._login.is_refused():
            raise explain(AuthenticationError(self._login.explain()), self._settings, doing)
        self._limit_requests(REQUEST_TIMEOUT, CONNECTION_TIMEOUT)
        try:
            with self._explained(doing):
                self._pool.open()
        except BaseException:
            self.end()
            raise
        _LOGGER.debug("opened a session on %s", self._settings.host)

    def idle_for(self) -> float:
        """Give the seconds since the host last answered."""
        return time.monotonic() - self._used_at

    def take_up(self) -> None:
        """Go on after a run that broke: have the host end what may still be at work in it."""
        if self._unfinished is None:
            return
        self._disconnect()
        self._limit_requests(REQUEST_TIMEOUT, CONNECTION_TIMEOUT)
        with self._explained("ending the script that was cut off"):
            try:
                self._pool.shell.signal(SignalCode.TERMINATE, self._unfinished.id)
            except WSManFaultError as error:
                if error.code in {SHELL_NOT_FOUND, ACCESS_DENIED}:
                    raise  # anything else is that the script has ended, or never came
        self._unfinished = None

    def invoke(self, task: _Task) -> PowerShell:
        """Run the script to its end; raises UnreachableError where that was not to be seen."""
        deadline = time.monotonic() + task.timeout
        self._limit_requests(min(REQUEST_TIMEOUT, task.timeout), CONNECTION_TIMEOUT)
        pipeline = self._unfinished = PowerShell(self._pool)
        # In a scope of its own: nothing but globals stays from one script to the next.
        pipeline.add_script(task.text, use_local_scope=True)
        pipeline.add_parameter("Request", task.request)
        unsure = f"It is not known whether {task.script} ran to its end"
        with self._explained(f"running {task.script}", unsure):
            pipeline.begin_invoke()
        with self._explained(f"running {task.script}", unsure, begun=True):
            while pipeline.state == PSInvocationState.RUNNING:
                left = deadline - time.monotonic()
                if left <= 0:
                    self.end()
                    raise UnreachableError(
                        f"{task.script} did not end on {self._settings.host} within"
                        f" {task.timeout:g} s and was told to stop. {unsure}"
                    )
                pipeline.poll_invoke(timeout=math.ceil(min(POLL_TIMEOUT, left)))
                self._used_at = time.monotonic()
        if pipeline.state not in {PSInvocationState.COMPLETED, PSInvocationState.FAILED}:
            raise UnreachableError(f"{self._settings.host} has stopped {task.script}. {unsure}")
        self._tidy_up(pipeline)
        return pipeline

    def _tidy_up(self, pipeline: PowerShell) -> None:
        """Have the host forget a script that has ended; later, where that fails now."""
        try:
            pipeline.close()
        except FAILURES as error:
            _LOGGER.debug("%s: the connection broke afterwards: %r", self._settings.host, error)
        else:
            self._unfinished = None

    def end(self) -> None:
        """End the shell and whatever runs in it, through a new connection, if that can be had."""
        self.ended = True
        self._disconnect()
        self._limit_requests(FAREWELL_TIMEOUT, FAREWELL_TIMEOUT)
        if not self._login.is_refused():
            with suppress(*FAILURES):
                self._pool.close()
        self._connection.close()

    def _disconnect(self) -> None:
        """Close the connection; the next message makes a new one, and logs in again."""
        self._connection.close()
        self._connection.transport.encryption = None

    def _limit_requests(self, seconds: float, connection_seconds: int) -> None:
        """Limit how long one exchange of messages may take; the host is to give up earlier."""
        transport = self._connection.transport
        transport.connection_timeout = connection_seconds
        self._connection.operation_timeout = max(1, math.ceil(seconds))
        transport.read_timeout = self._connection.operation_timeout + 2

    @contextmanager
    def _explained(self, doing: str, unsure: str = "", *, begun: bool = False) -> Iterator[None]:
        """Raise what explain gives for each of FAILURES."""
        try:
            yield
        except HostError:
            raise
        except FAILURES as error:
            explained = explain(error, self._settings, doing, unsure)
            if isinstance(error, (AuthenticationError, SpnegoError)):
                self._login.note_refusal()
                self.ended = True  # the next session reads what the password is then
            if is_fault(error, SHELL_NOT_FOUND):
                self.ended = True
                if not begun:
                    raise _SessionEndedError(str(explained)) from error
            raise explained from error


class _Connection(WSMan):
    """A connection on which nothing is asked twice, not even what pypsrp thinks may be."""

    def invoke(
        self,
        action: str,
        resource_uri: str,
        resource: ET.Element | None,
        option_set: OptionSet | None = None,
        selector_set: SelectorSet | None = None,
        timeout: int | None = None,
        *,
        retries_on_read_timeout: int = 0,  # noqa: ARG002
    ) -> ET.Element:
        """Send one message and give the answer."""
        return super().invoke(action, resource_uri, resource, option_set, selector_set, timeout)


def _take_answer(pipeline: PowerShell, script: str, host: str) -> str:
    errors = pipeline.streams.error
    if errors:
        record = errors[-1]  # the one that ended it, if any did
        raise ScriptError(
            host,
            script,
            error_id=str(record.fq_error),
            category=_name_category(record.category),
            detail=_read_message(record),
        )
    if pipeline.had_errors:
        raise HostError(f"{script} failed on {host}, which did not say why")
    return only_text(pipeline.output, script, host)


def _name_category(number: object) -> str:
    if isinstance(number, int) and 0 <= number < len(_CATEGORIES):
        return _CATEGORIES[number]
    return str(number)


def _read_message(record: ErrorRecordMessage) -> str:
    """Give what PowerShell would show: the details' message, or else the exception's own."""
    exception = getattr(record.exception, "adapted_properties", {})
    message = record.details_message or exception.get("Message") or record.message
    return str(message)


def _trusted(settings: HostSettings) -> bool | str:
    return _path(settings.ca_file) or settings.tls_verify


def _path(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _check_credentials(settings: HostSettings) -> None:
    """Refuse to log in by a ticket where no library for tickets is installed."""
    needs_ticket = settings.auth != "certificate" and settings.password_file is None
    if sys.platform == "win32" or importlib.util.find_spec("gssapi") is not None:
        return
    if needs_ticket or settings.auth == "kerberos":
        raise ConfigurationError(
            f"cannot log in to {settings.host} by a Kerberos ticket: Python's gssapi is not"
            " installed. Install `bootgraft[kerberos]`, or name user and password_file, with"
            f' auth = "negotiate", in {settings.table}'
        )
