"""What pypsrp raises, in the words of this package: which class, what was tried, what to do."""

import socket
import ssl
import struct
import xml.etree.ElementTree as ET
from collections.abc import Iterator

import requests
from pypsrp.exceptions import AuthenticationError, WinRMError, WinRMTransportError, WSManFaultError
from spnego.exceptions import FeatureMissingError, SpnegoError

from bootgraft_host.hyperv.hosts import HostSettings
from bootgraft_host.hyperv.runner import AccessError, HostError, UnreachableError

# Codes of WSManFault, as Windows' winerror.h and wsmerror.h name them.
ACCESS_DENIED = 5
SHELL_NOT_FOUND = 0x8033805B  # ERROR_WSMAN_UNEXPECTED_SELECTORS: this host does not know the shell
OPERATION_TIMED_OUT = 0x80338029  # ERROR_WSMAN_OPERATION_TIMEDOUT: asked again where that is right

# What a peer that does not speak the protocol makes the libraries raise.
_NONSENSE = (ArithmeticError, AttributeError, ET.ParseError, LookupError, TypeError, ValueError)
FAILURES = (
    *(OSError, WinRMError, SpnegoError, FeatureMissingError, ImportError, struct.error),
    *_NONSENSE,
)


def explain(error: Exception, settings: HostSettings, doing: str, unsure: str = "") -> HostError:
    """Give the error to raise instead of one of FAILURES.

    `unsure` says what is not known now, of a host that has answered before.
    """
    what = f"{doing} on {_place(settings)} failed: {_reason(error)}"
    if _is_refusal(error):
        return AccessError(_sentences(what, unsure, _advise_access(settings)))
    return UnreachableError(_sentences(what, unsure or _advise(error, settings)))


def _sentences(*texts: str) -> str:
    return ". ".join(text.removesuffix(".") for text in texts if text)


def is_fault(error: Exception, code: int) -> bool:
    """Say whether the host answered with this WSManFault."""
    return isinstance(error, WSManFaultError) and error.code == code


def _place(settings: HostSettings) -> str:
    way = "HTTPS" if settings.tls else "HTTP"
    return f"{settings.host} (WinRM at {settings.address}, port {settings.port}, {way})"


def _is_refusal(error: Exception) -> bool:
    if isinstance(error, WinRMTransportError):
        return bool(error.code == requests.codes.forbidden)
    refusals = (AuthenticationError, SpnegoError, FeatureMissingError, ImportError)
    return isinstance(error, refusals) or is_fault(error, ACCESS_DENIED)


def _reason(error: Exception) -> str:
    """Say what came, in as few words as the innermost error has."""
    cause = list(_causes(error))[-1]
    if isinstance(cause, WSManFaultError):
        return f"{cause.reason or 'no reason given'} (WSManFault {cause.code})"
    if isinstance(cause, WinRMTransportError):
        return f"HTTP status {cause.code}"
    if isinstance(cause, ssl.SSLError):
        return getattr(cause, "verify_message", "") or str(cause.reason or cause)
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    if isinstance(cause, _NONSENSE):
        return f"the peer does not speak WinRM ({type(cause).__name__}: {cause})"
    return str(cause) or type(cause).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Walk into an error of requests, which wraps one of urllib3, which wraps the system's."""
    inner: BaseException | None = error
    seen: set[int] = set()
    while inner is not None and id(inner) not in seen:
        seen.add(id(inner))
        yield inner
        wrapped = (getattr(inner, "reason", None), *reversed(inner.args), inner.__cause__)
        inner = next((each for each in wrapped if isinstance(each, BaseException)), None)


def _advise_access(settings: HostSettings) -> str:
    who = f"the user {settings.user}" if settings.user else "the user logged in here"
    if settings.auth == "certificate":
        who = f"the certificate in {settings.certificate_file}, mapped to a user of the host,"
    return (
        f"Expected {who} to be let in by {settings.auth}, as {settings.table} says: a user of a"
        " domain is written DOMAIN\\user, a Kerberos ticket is got by kinit; an administrator"
        " of the host has the rights"
    )


def _advise(error: Exception, settings: HostSettings) -> str:
    causes = list(_causes(error))
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        return (
            f"Name the certificate of its authority as ca_file in {settings.table}, or the host's"
            " own where it signed itself; its name must be the address that is connected to"
        )
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return (
            f"Does port {settings.port} speak HTTPS? `winrm enumerate winrm/config/listener` on the"
            f" host lists what listens; tls = false in {settings.table} is for a host without HTTPS"
        )
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return f"Where it has another name or none, name its address as address in {settings.table}"
    if isinstance(error, WSManFaultError):
        return "" if error.code == OPERATION_TIMED_OUT else "The host's event log may say more"
    return (
        f"Is the host up, does it listen on port {settings.port}, and does its firewall let that"
        f" in? `bootgraft doctor hyperv://{settings.host}` has the commands for it"
    )
