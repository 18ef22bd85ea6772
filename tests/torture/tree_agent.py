"""An agent in a process of its own: the real service on a terminal, the real graft on a folder.

`python -m torture.tree_agent DEVICE FOLDER PAYLOAD RECORD`: what it answers, and what it is asked
to change, is written to RECORD, a line of JSON each; it ends when it is told to power off.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import serial

from bootgraft_agent import tree
from bootgraft_agent.apply import apply_plan
from bootgraft_agent.errors import RefusedError
from bootgraft_agent.plan import Options
from bootgraft_agent.serve import WRITE_TIMEOUT, Server, read_identity
from bootgraft_agent.view import outcome_json, plan_json
from bootgraft_agent.volumes import Progress
from bootgraft_agent.wire import JSON


class TreeActions:
    """The requests of a controller, answered for a guest that is a folder."""

    def __init__(self, guest: Path, payload: Path, record: Path) -> None:
        self._trees = tree.Trees(guest, guest / "boot", payload)
        self._record = record

    def _note(self, name: str, result: dict[str, JSON]) -> dict[str, JSON]:
        with self._record.open("a") as record:
            record.write(json.dumps([name, result]) + "\n")
        return result

    def inspect(self, options: Options) -> Mapping[str, JSON]:
        """Say what a graft would do, as the facts, and a text that takes many frames."""
        facts = plan_json(tree.make_plan(self._trees, None, options))
        text = "".join(f"{number:05d} a line of a long menu\n" for number in range(400))
        return self._note(
            "inspect", {"facts": facts | {"text": text}, "problem": None, "warnings": []}
        )

    def plan(self, options: Options) -> Mapping[str, JSON]:
        """Say what a graft would do."""
        plan = plan_json(tree.make_plan(self._trees, None, options))
        return self._note("plan", plan | {"facts": {}})

    def apply(
        self, options: Options, plan_sha256: str, run_id: str, progress: Progress
    ) -> Mapping[str, JSON]:
        """Graft, if the plan is the one of this hash."""
        plan = tree.make_plan(self._trees, None, options)
        if plan.sha256() != plan_sha256:
            raise RefusedError("the guest gives another plan")
        outcome = apply_plan(plan, self._trees, run_id, progress)
        return self._note("apply", outcome_json(outcome, plan))

    def rollback(
        self, options: Options, run_id: str | None, progress: Progress
    ) -> Mapping[str, JSON]:
        """Take a graft back."""
        return self._note("rollback", outcome_json(tree.undo(self._trees, run_id, progress)))


def main() -> None:
    """Serve until power-off."""
    device, guest, payload, record = sys.argv[1:]
    actions = TreeActions(Path(guest), Path(payload), Path(record))
    server = Server(actions, lambda _: None, read_identity(), list)
    with serial.Serial(device, 115200, timeout=0, write_timeout=WRITE_TIMEOUT) as port:
        server.serve(port)


if __name__ == "__main__":
    main()
