"""Running a script on a Hyper-V host, whatever the way there.

A script is a constant file of this package, scripts/NAME.ps1. It is asked by one JSON object and
answers with one JSON array of objects; no value is ever spliced into its text.
"""

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Protocol

from bootgraft_agent.wire import JSON
from bootgraft_host.machine import MachineError

DEFAULT_TIMEOUT = 120.0  # seconds for one run
REQUEST_LIMIT = 2_097_152  # characters; MaxJsonLength of ConvertFrom-Json in Windows PowerShell


class HostError(MachineError):
    """Something on or about the Hyper-V host failed."""


class UnreachableError(HostError):
    """The host did not answer, or the connection was cut; the same request may be tried again.

    The message says where it is not known whether the script ran.
    """


class AccessError(HostError):
    """The host refused the credentials or the rights."""


class ScriptError(HostError):
    """A script failed on the host.

    `error_id` is PowerShell's FullyQualifiedErrorId, `category` its error category, `detail` its
    own message, in the host's language.
    """

    def __init__(self, host: str, script: str, error_id: str, category: str, detail: str) -> None:
        self.script = script
        self.error_id = error_id
        self.category = category
        self.detail = detail
        super().__init__(f"{script} failed on {host}: {detail} ({error_id}, {category})")


class Runner(Protocol):
    """A session on a Hyper-V host. One run at a time: a second one waits for the first."""

    @property
    def host(self) -> str:
        """The host as in hyperv://HOST/VM; "." is this computer."""

    def run(
        self,
        script: str,
        asked: Mapping[str, JSON] | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> list[Mapping[str, JSON]]:
        """Run scripts/`script`.ps1 and give the objects that it answers with.

        `timeout` is in seconds; the script is stopped where it takes longer. Raises HostError.
        """

    def another(self) -> "Runner":
        """Give a session of its own on the same host, not opened yet."""

    def close(self) -> None:
        """End the session; a later run opens a new one."""


def read_script(script: str) -> str:
    """Read the text of scripts/`script`.ps1."""
    return resources.files(__package__).joinpath("scripts", f"{script}.ps1").read_text("utf-8")


def encode_request(asked: Mapping[str, JSON] | None) -> str:
    """Give what a script is asked as JSON text of ASCII alone; ValueError for too long a one."""
    text = json.dumps(asked or {}, ensure_ascii=True, allow_nan=False)
    if len(text) > REQUEST_LIMIT:
        raise ValueError(
            f"a request of {len(text)} characters; at most {REQUEST_LIMIT} can be read"
        )
    return text


def only_text(output: Sequence[object], script: str, host: str) -> str:
    """Give the one text that a script has put out; raises HostError for anything else."""
    match output:
        case [str(text)]:
            return text
    kinds = ", ".join(type(item).__name__ for item in output)
    raise HostError(
        f"{script} on {host} put out {len(output)} values ({kinds}); one text was expected"
    )


def parse_answer(text: str, script: str, host: str) -> list[Mapping[str, JSON]]:
    """Parse what a script answered; raises HostError for anything but an array of objects."""
    try:
        answer = json.loads(text)
    except ValueError as error:
        raise HostError(
            f"{script} on {host} answered with something that is not JSON ({error}): {text[:200]!r}"
        ) from error
    if not isinstance(answer, list) or not all(isinstance(item, dict) for item in answer):
        raise HostError(
            f"{script} on {host} answered with {text[:200]!r}; an array of objects was expected"
        )
    return answer
