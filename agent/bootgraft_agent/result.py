"""What a run without a controller came to: one outcome, one reason, one next step. Pure.

The same record goes to the serial port, to the screen, beside the backups and to `--json`.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from bootgraft_agent import __version__
from bootgraft_agent.errors import (
    AmbiguousError,
    BootgraftError,
    ChangesLeftError,
    InvalidRequestError,
)
from bootgraft_agent.secrets_mask import mask_text
from bootgraft_agent.text import printable
from bootgraft_agent.wire import JSON

FORMAT = 1
SERIAL_MARK = "BOOTGRAFT-RESULT "  # starts the line with the record on the serial port

Outcome = Literal["grafted", "already-grafted", "rolled-back", "refused", "invalid", "left"]
GOOD: tuple[Outcome, ...] = ("grafted", "already-grafted", "rolled-back")
# As `bootgraft-agent` ends.
STATUSES: Mapping[Outcome, int] = {"refused": 1, "invalid": 2, "left": 3}

START_FROM_DISK = "Take the ISO out of the drive, then start the machine from its own disk."
AFTER_ROLLBACK = (
    "Graft the machine again, or switch it off, take the ISO out of the drive and use the disk as"
    " before."
)
INSERT_PAYLOAD = (
    "Put the ISO with the directory shim (Microsoft's Linux Integration Components), or with"
    " recipes, into a second DVD drive, then start this ISO again."
)
CHOOSE = "Start this ISO again with the boot parameter that is named above; manual mode lists all."
CORRECT_PARAMETER = "Correct the boot parameter, then start this ISO again."
TAKE_BACK = (
    "Start this ISO again in manual mode and choose: Take a graft back. Do not start the machine"
    " from its disk before."
)
CORRECT = "Correct that, then start this ISO again; its manual mode shows all that was found."
REPORT = (
    "Start this ISO again in manual mode; if it fails there, too, send the record that is on the"
    " serial port to bootgraft's makers."
)

# For who can do it at once.
CORRECT_HERE = "Correct that and try again. Nothing was changed."
TAKE_BACK_HERE = "Take the graft back before the machine is started from its disk."
PARAMETER_PREFIX = "bootgraft."
_NAME = re.compile(r"(hd|sd|sr|vd)[a-z]*\d*\b|\S*[/.=]")
_OPTION = re.compile(r"--(recipe|root-partition|boot-partition|kernel|shim-args|shim|guest-disk)\b")


@dataclass(frozen=True, slots=True)
class Result:
    """What a run came to; `record` holds what was found, planned, changed and read back."""

    outcome: Outcome
    reason: str
    next_step: str
    run_id: str | None = None
    record: Mapping[str, JSON] = field(default_factory=dict)

    @property
    def is_good(self) -> bool:
        """Whether the machine is as it should be now."""
        return self.outcome in GOOD

    @property
    def headline(self) -> str:
        """Give the one word that is read from across a room."""
        return "SUCCESS" if self.is_good else "FAILED"

    @property
    def exit_status(self) -> int:
        """Give the status that a command ends with."""
        return STATUSES.get(self.outcome, 0)

    def to_document(self) -> dict[str, JSON]:
        """Give the whole record, without secrets of the guest."""
        return {
            "format": FORMAT,
            "ok": self.is_good,
            "outcome": self.outcome,
            "exit_status": self.exit_status,
            "reason": mask_text(self.reason),
            "next_step": self.next_step,
            "run_id": self.run_id,
            "agent_version": __version__,
            **self.record,
        }


def serial_lines(result: Result) -> bytes:
    """Give what goes to the serial port: words for people, then the record in one line."""
    document = json.dumps(result.to_document(), allow_nan=False)
    words = [
        f"bootgraft: {result.headline}: {mask_text(result.reason)}",
        f"bootgraft: next: {result.next_step}",
    ]
    # Seven bits, whatever a file of the guest is called.
    texts = [printable(word).encode("ascii", "backslashreplace") for word in words]
    return b"".join(line + b"\r\n" for line in (*texts, f"{SERIAL_MARK}{document}".encode("ascii")))


def file_content(result: Result) -> bytes:
    """Give the file that is kept beside the backups."""
    return json.dumps(result.to_document(), indent=1, allow_nan=False).encode("ascii") + b"\n"


def grafted(run_id: str, applied: Mapping[str, JSON], record: Mapping[str, JSON]) -> Result:
    """Give the result of a graft that was carried out and read back."""
    changes = applied.get("changes")
    count = len(changes) if isinstance(changes, Sequence) else 0
    return Result(
        "grafted",
        f"The graft is done: {count} files were written, read back and found right.",
        START_FROM_DISK,
        run_id,
        # The texts before and after lie in the guest and among its backups.
        {**record, "applied": {key: value for key, value in applied.items() if key != "texts"}},
    )


def rolled_back(done: Mapping[str, JSON]) -> Result:
    """Give the result of a rollback."""
    changes = done.get("changes")
    count = len(changes) if isinstance(changes, Sequence) else 0
    words = f"The graft {done.get('run_id')} is taken back: {count} files are as before it."
    if done.get("run_id") is None:
        words = "There was no graft that could be taken back. Nothing was changed."
    return Result("rolled-back", words, AFTER_ROLLBACK, record={"rolled_back": done})


def already_grafted(record: Mapping[str, JSON]) -> Result:
    """Give the result where nothing was left to do."""
    reason = "This machine is grafted already. Nothing was changed."
    return Result("already-grafted", reason, START_FROM_DISK, record=record)


def without_payload(reason: str, record: Mapping[str, JSON]) -> Result:
    """Give the result where no payload came."""
    words = f"{_sentence(reason)} Nothing was changed."
    return Result("refused", words, INSERT_PAYLOAD, record=record)


def failed(
    error: Exception,
    record: Mapping[str, JSON],
    run_id: str | None = None,
    *,
    words: Callable[[str], str] | None = None,
) -> Result:
    """Give the result of a run that ended with an error.

    `words` names what the person can choose where the message names options of the command line;
    by default these are the boot parameters.
    """
    reason = _sentence((words or with_parameter_names)(str(error)))
    if isinstance(error, ChangesLeftError):
        return Result(
            "left", reason, TAKE_BACK if words is None else TAKE_BACK_HERE, run_id, record
        )
    if isinstance(error, InvalidRequestError):
        return Result("invalid", reason, CORRECT_PARAMETER, record=record)
    if isinstance(error, AmbiguousError) and words is None and PARAMETER_PREFIX in reason:
        return Result("refused", reason, CHOOSE, record=record)
    if isinstance(error, BootgraftError | OSError):
        return Result("refused", reason, CORRECT if words is None else CORRECT_HERE, record=record)
    said = f"bootgraft itself failed: {type(error).__name__}: {reason}"
    return Result("refused", _sentence(said), REPORT, record=record)


def with_parameter_names(text: str) -> str:
    """Name boot parameters where a message names options of the command line."""
    return _OPTION.sub(rf"{PARAMETER_PREFIX}\1=", text)


def _sentence(text: str) -> str:
    """Begin with a capital letter, but for a disk's or a file's name, and end with a full stop."""
    begin = text[:1] if _NAME.match(text) else text[:1].upper()
    return begin + text[1:].rstrip(".") + "."
