"""What a run stores of a machine before its first change, and all that it needs to restore it."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from bootgraft_agent.wire import JSON
from bootgraft_host.hyperv.description import VmDescription, parse_description, to_document
from bootgraft_host.hyperv.marks import Mark, format_moment, own_name
from bootgraft_host.hyperv.pipe_names import PIPE_FOLDER
from bootgraft_host.hyperv.runner import HostError
from bootgraft_host.machine import Configuration, MachineError

RANDOM_BYTES = 16  # whoever can guess a pipe's name could answer in the machine's place
_NAMES = ("pipe", "token", "holder", "since")


@dataclass(frozen=True, slots=True)
class Captured:
    """A machine as it was, and what the run's own things in it are called."""

    description: VmDescription
    pipe: str  # the path
    mark: Mark  # without ISOs

    def marked_for(self, isos: tuple[str, ...]) -> Mark:
        """Give the mark of a run that inserts these ISOs."""
        return replace(self.mark, isos=isos)

    def to_document(self) -> Configuration:
        """Give the same as JSON."""
        return {
            "description": to_document(self.description),
            "pipe": self.pipe,
            "token": self.mark.token,
            "holder": self.mark.holder,
            "since": self.mark.since,
        }


def capture_description(description: VmDescription, now: datetime) -> Captured:
    """Choose the names of a run's own things in a machine; `now` is in UTC."""
    return Captured(
        description=description,
        pipe=f"{PIPE_FOLDER}bootgraft-{secrets.token_hex(RANDOM_BYTES)}",
        mark=Mark(secrets.token_hex(RANDOM_BYTES), own_name(), format_moment(now)),
    )


def parse_captured(document: Mapping[str, JSON], vm_id: str) -> Captured:
    """Parse what `to_document` gave. Raises MachineError where that is damaged or another's."""
    description = document.get("description")
    texts = [text for name in _NAMES if isinstance(text := document.get(name), str)]
    if not isinstance(description, Mapping) or len(texts) != len(_NAMES):
        raise MachineError(f"the stored configuration of the machine {vm_id} is damaged")
    try:
        parsed = parse_description(description)
    except HostError as error:
        message = f"the stored configuration of the machine {vm_id} is damaged: {error}"
        raise MachineError(message) from error
    if parsed.id.lower() != vm_id:
        raise MachineError(f"the stored configuration is one of {parsed.id}, not of {vm_id}")
    pipe, token, holder, since = texts
    return Captured(parsed, pipe, Mark(token, holder, since))
