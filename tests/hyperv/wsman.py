"""WS-Management as far as PowerShell remoting uses it: requests read, answers written; no I/O.

Source: [MS-WSMV] sections 2.2.4 and 3.1.4, [MS-PSRP] section 3.2.5.3.
"""

import base64
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import dataclass

NAMESPACES = {
    "s": "http://www.w3.org/2003/05/soap-envelope",
    "a": "http://schemas.xmlsoap.org/ws/2004/08/addressing",
    "x": "http://schemas.xmlsoap.org/ws/2004/09/transfer",
    "w": "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd",
    "f": "http://schemas.microsoft.com/wbem/wsman/1/wsmanfault",
    "rsp": "http://schemas.microsoft.com/wbem/wsman/1/windows/shell",
    "ps": "http://schemas.microsoft.com/powershell",
}
_SHELL = NAMESPACES["rsp"]
_POWERSHELL = "http://schemas.microsoft.com/powershell/Microsoft.PowerShell"
_FAULT_ACTION = "http://schemas.dmtf.org/wbem/wsman/1/wsman/fault"

# Codes of WSManFault, as wsmerror.h and winerror.h name them.
OPERATION_TIMED_OUT = 2150858793
SHELL_NOT_FOUND = 2150858843
ACCESS_DENIED = 5
NOT_SUPPORTED = 50
OUT_OF_RANGE = 534

for _prefix, _uri in NAMESPACES.items():
    ET.register_namespace(_prefix, _uri)


class FaultError(Exception):
    """The answer is a WSManFault."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{reason} ({code})")
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Request:
    """One message of the client."""

    action: str
    message_id: str
    shell_id: str | None
    timeout: float  # seconds, OperationTimeout
    body: ET.Element

    @property
    def verb(self) -> str:
        """Create, Command, Receive, Send, Signal or Delete."""
        return self.action.rpartition("/")[2]


def parse_request(document: bytes) -> Request:
    """Parse an envelope."""
    root = ET.fromstring(document)  # noqa: S314 - what our own client has sent
    header = _required(root, "s:Header")
    selector = header.find("w:SelectorSet/w:Selector[@Name='ShellId']", NAMESPACES)
    return Request(
        action=_text(header, "a:Action"),
        message_id=_text(header, "a:MessageID"),
        shell_id=None if selector is None else (selector.text or "").upper(),
        timeout=parse_duration(_text(header, "w:OperationTimeout")),
        body=_required(root, "s:Body"),
    )


def parse_duration(text: str) -> float:
    """Parse the one form of an XML duration that is used here: PT20S."""
    return float(text.removeprefix("PT").removesuffix("S"))


@dataclass(frozen=True, slots=True)
class Create:
    """Open a shell."""

    shell_id: str
    idle_timeout: float | None  # seconds
    fragments: bytes


def read_create(request: Request) -> Create:
    """The body of a Create."""
    shell = _required(request.body, "rsp:Shell")
    idle = shell.findtext("rsp:IdleTimeOut", None, NAMESPACES)
    return Create(
        shell_id=(shell.get("ShellId") or str(uuid.uuid4())).upper(),
        idle_timeout=None if idle is None else parse_duration(idle),
        fragments=base64.b64decode(_text(shell, "ps:creationXml")),
    )


def read_command(request: Request) -> tuple[str, bytes]:
    """The pipeline's id and its first fragment."""
    line = _required(request.body, "rsp:CommandLine")
    command_id = (line.get("CommandId") or str(uuid.uuid4())).upper()
    return command_id, base64.b64decode(_text(line, "rsp:Arguments"))


def read_receive(request: Request) -> str | None:
    """Whose output is wanted: a pipeline's, or the shell's."""
    return _required(request.body, "rsp:Receive/rsp:DesiredStream").get("CommandId")


def read_send(request: Request) -> list[tuple[str | None, bytes]]:
    """More fragments, each with the id of its pipeline."""
    streams = request.body.findall("rsp:Send/rsp:Stream", NAMESPACES)
    return [(stream.get("CommandId"), base64.b64decode(stream.text or "")) for stream in streams]


def read_signal(request: Request) -> str:
    """The pipeline that is to stop."""
    return _required(request.body, "rsp:Signal").get("CommandId") or ""


def answer_create(request: Request, shell_id: str) -> bytes:
    """The shell is there."""
    body = ET.Element(_name("s:Body"))
    created = _add(body, "x:ResourceCreated")
    _add(created, "a:Address", "http://localhost/wsman")
    parameters = _add(created, "a:ReferenceParameters")
    _add(parameters, "w:ResourceURI", _POWERSHELL)
    selectors = _add(parameters, "w:SelectorSet")
    _add(selectors, "w:Selector", shell_id, Name="ShellId")
    shell = _add(body, "rsp:Shell")
    _add(shell, "rsp:ShellId", shell_id)
    _add(shell, "rsp:ResourceUri", _POWERSHELL)
    _add(shell, "rsp:State", "Connected")
    return _envelope(request, f"{request.action}Response", body)


def answer_command(request: Request, command_id: str) -> bytes:
    """The pipeline is known."""
    body = ET.Element(_name("s:Body"))
    _add(_add(body, "rsp:CommandResponse"), "rsp:CommandId", command_id)
    return _envelope(request, f"{request.action}Response", body)


def answer_receive(
    request: Request, command_id: str | None, blocks: Iterable[bytes], *, done: bool
) -> bytes:
    """Output of a pipeline or of the shell; `done` after the last of a pipeline."""
    body = ET.Element(_name("s:Body"))
    response = _add(body, "rsp:ReceiveResponse")
    whose = {} if command_id is None else {"CommandId": command_id}
    for block in blocks:
        text = base64.b64encode(block).decode()
        _add(response, "rsp:Stream", text, Name="stdout", **whose)
    if command_id is not None:
        state = "Done" if done else "Running"
        _add(response, "rsp:CommandState", **whose, State=f"{_SHELL}/CommandState/{state}")
    return _envelope(request, f"{request.action}Response", body)


def answer_plainly(request: Request) -> bytes:
    """What was asked is done: the answer to Send, Signal and Delete."""
    body = ET.Element(_name("s:Body"))
    if request.verb in ("Send", "Signal"):
        _add(body, f"rsp:{request.verb}Response")
    return _envelope(request, f"{request.action}Response", body)


def answer_fault(request: Request, fault: FaultError) -> bytes:
    """What was asked failed."""
    body = ET.Element(_name("s:Body"))
    element = _add(body, "s:Fault")
    code = _add(element, "s:Code")
    _add(code, "s:Value", "s:Receiver")
    _add(_add(code, "s:Subcode"), "s:Value", "w:InternalError")
    _add(_add(element, "s:Reason"), "s:Text", fault.reason)
    detail = _add(_add(element, "s:Detail"), "f:WSManFault", Code=str(fault.code), Machine="hv1")
    _add(detail, "f:Message", fault.reason)
    return _envelope(request, _FAULT_ACTION, body)


def _envelope(request: Request, action: str, body: ET.Element) -> bytes:
    root = ET.Element(_name("s:Envelope"))
    header = _add(root, "s:Header")
    _add(header, "a:Action", action)
    _add(header, "a:MessageID", f"uuid:{uuid.uuid4()}")
    _add(header, "a:RelatesTo", request.message_id)
    root.append(body)
    document: bytes = ET.tostring(root, encoding="utf-8")
    return document


def _name(prefixed: str) -> str:
    prefix, _, local = prefixed.partition(":")
    return f"{{{NAMESPACES[prefix]}}}{local}"


def _add(parent: ET.Element, name: str, text: str = "", **attributes: str) -> ET.Element:
    element = ET.SubElement(parent, _name(name), attributes)
    element.text = text
    return element


def _required(parent: ET.Element, path: str) -> ET.Element:
    found = parent.find(path, NAMESPACES)
    if found is None:
        raise ValueError(f"no {path} in the request")
    return found


def _text(parent: ET.Element, path: str) -> str:
    return (_required(parent, path).text or "").strip()
