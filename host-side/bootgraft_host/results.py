"""What a run has come to: built up by the steps, stored as result.json, printed by report."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, cast

from bootgraft_agent.wire import JSON, Hello
from bootgraft_host.replies import Applied, Inspection, Plan, RolledBack
from bootgraft_host.runs import utc_now

RESULT_FORMAT = 1

Command = Literal["run", "inspect", "rollback", "confirm", "recover"]
Outcome = Literal[
    "inspected",
    "planned",
    "grafted",
    "already-grafted",
    "rolled-back",
    "confirmed",
    "restored",
    "refused",  # as "invalid" and "failed": the guest is unchanged, the machine restored
    "invalid",
    "failed",
    "left",  # something is left; the message says what, and the command that puts it right
    "unproven",
]

Proof = Literal["com1", "heartbeat"]  # whose word proves a boot

DONE: Mapping[Command, Outcome] = {
    "run": "grafted",
    "inspect": "inspected",
    "rollback": "rolled-back",
    "confirm": "confirmed",
    "recover": "restored",
}


@dataclass(frozen=True, slots=True)
class Confirmation:
    """The boot from the machine's own disk, without our media."""

    proof: Proof | None  # None: the boot is not proven
    evidence: tuple[str, ...]  # the lines of COM1's text that --expect matched, or the heartbeat
    seconds: float  # from power-on
    pictures: tuple[Path, ...]
    heartbeat: str | None = None  # the last word of the guest's integration services

    @property
    def proven(self) -> bool:
        """Whether the guest itself has said that it runs."""
        return self.proof is not None


@dataclass(slots=True)
class RunResult:
    """Everything about one run."""

    command: Command
    run_id: str
    directory: Path
    machine_id: str
    machine_name: str
    started: str = field(default_factory=lambda: utc_now().isoformat())
    finished: str = ""
    outcome: Outcome = "failed"
    exit_status: int = 1
    message: str = ""
    steps: list[str] = field(default_factory=list)
    agent: Hello | None = None
    inspection: Inspection | None = None
    plan: Plan | None = None
    applied: Applied | None = None
    rolled_back: RolledBack | None = None
    files: Sequence[Mapping[str, JSON]] = ()
    confirmation: Confirmation | None = None
    machine_restored: bool = True
    adapter_kept: bool = False
    left_running: bool = False
    checkpoint: str | None = None  # the one that was taken and stays
    notes: list[str] = field(default_factory=list)  # warnings of the controller's own

    @property
    def warnings(self) -> tuple[str, ...]:
        """All warnings, the agent's and the controller's, each once."""
        parts = (self.inspection, self.plan, self.applied, self.rolled_back)
        agents = [text for part in parts if part is not None for text in part.warnings]
        return tuple(dict.fromkeys([*agents, *self.notes]))

    def to_document(self) -> dict[str, JSON]:
        """Give the result as one JSON document."""
        return {
            "format": RESULT_FORMAT,
            "command": self.command,
            "outcome": self.outcome,
            "exit_status": self.exit_status,
            "message": self.message,
            "warnings": self.warnings,
            "run_id": self.run_id,
            "directory": str(self.directory),
            "started": self.started,
            "finished": self.finished,
            "steps": list(self.steps),
            "machine": {
                "id": self.machine_id,
                "name": self.machine_name,
                "restored": self.machine_restored,
                "adapter": "legacy" if self.adapter_kept else "as captured",
                "left_running": self.left_running,
                "checkpoint": self.checkpoint,
            },
            "agent": _plain(self.agent),
            "facts": self._facts(),
            "problem": None if self.inspection is None else self.inspection.problem,
            "plan": _without_facts(_plain(self.plan)),
            "apply": _plain(self.applied),
            "rollback": _plain(self.rolled_back),
            "files": list(self.files),
            "confirm": self._confirmation(),
        }

    def _facts(self) -> Mapping[str, JSON] | None:
        if self.plan is not None:
            return self.plan.facts
        return None if self.inspection is None else self.inspection.facts

    def _confirmation(self) -> Mapping[str, JSON] | None:
        if self.confirmation is None:
            return None
        return {
            "proven": self.confirmation.proven,
            "proof": self.confirmation.proof,
            "evidence": self.confirmation.evidence,
            "heartbeat": self.confirmation.heartbeat,
            "seconds": round(self.confirmation.seconds, 1),
            "pictures": [str(path) for path in self.confirmation.pictures],
        }


def _plain(part: Hello | Plan | Applied | RolledBack | None) -> dict[str, JSON] | None:
    return None if part is None else cast("dict[str, JSON]", asdict(part))


def _without_facts(document: dict[str, JSON] | None) -> Mapping[str, JSON] | None:
    if document is not None:
        del document["facts"]
    return document
