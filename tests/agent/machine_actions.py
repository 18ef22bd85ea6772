"""A machine's actions without a machine: what was found, planned and done is what a test says."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bootgraft_agent.plan import Options
from bootgraft_agent.volumes import Progress
from bootgraft_agent.wire import JSON

PLAN_SHA256 = "ab" * 32
NO_PAYLOAD = "no payload DVD with a shim was found: hdd is empty"
CHANGES: list[JSON] = [{"path": "hda1:/grub/grub.conf", "before_sha256": "1", "after_sha256": "2"}]


def guest(**changes: JSON) -> dict[str, JSON]:
    """Give the facts of a guest."""
    facts: dict[str, JSON] = {
        "boot": {
            "volume": "hda1",
            "bios": "(hd0,0)",
            "menu": "/grub/grub.conf",
            "default": 0,
            "entries": ["Appliance"],
        },
        "kernels": [
            {
                "path": "/vmlinuz-xen",
                "xen": True,
                "bits": 64,
                "initrd": "/initrd-xen",
                "problem": None,
            }
        ],
        "grafted_entry": None,
        "root": "hda2",
        "root_problem": None,
        "payload": {
            "name": "hdd",
            "files": [
                {"name": "shim64", "size": 9, "format": "multiboot", "problem": None},
                {"name": "readme", "size": 9, "format": None, "problem": None},
            ],
        },
    }
    return facts | changes


def partition(name: str, **changes: JSON) -> dict[str, JSON]:
    """Give the facts of a partition."""
    facts: dict[str, JSON] = {
        "name": name,
        "size": 100 << 20,
        "fs_type": "ext3",
        "label": None,
        "active": False,
    }
    return facts | changes


def inspection(
    found: JSON, problem: str | None = None, *, partitions: Sequence[JSON] | None = None
) -> dict[str, JSON]:
    """Give what was found."""
    parts = partitions or [partition("hda1", label="/boot", active=True), partition("hda2")]
    disk: dict[str, JSON] = {
        "name": "hda",
        "size": 8 << 30,
        "model": "DISK",
        "problem": None,
        "partitions": parts,
    }
    drive: dict[str, JSON] = {
        "name": "hdd",
        "label": "LIC",
        "has_medium": True,
        "is_live_medium": False,
    }
    facts: dict[str, JSON] = {"disks": [disk], "dvd_drives": [drive], "guest": found}
    return {"facts": facts, "problem": problem, "warnings": []}


def plan(**changes: JSON) -> dict[str, JSON]:
    """Give a plan of two steps, one diff and one warning."""
    planned: dict[str, JSON] = {
        "recipe": "hyperv-shim",
        "plan_sha256": PLAN_SHA256,
        "already_grafted": False,
        "steps": [{"kind": "CopyFile", "text": "copy shim64"}, {"kind": "W", "text": "edit menu"}],
        "diffs": [{"path": "hda1:/grub/grub.conf", "diff": "-timeout 3\n+timeout 15"}],
        "warnings": ["/etc/fstab was left alone; choose with --boot-partition"],
        "facts": {},
    }
    return planned | changes


@dataclass
class ToldActions:
    """Actions that give what they were told, and note what they were asked."""

    found: Mapping[str, JSON] = field(default_factory=lambda: inspection(guest()))
    planned: Mapping[str, JSON] = field(default_factory=plan)
    errors: dict[str, Exception] = field(default_factory=dict)
    payload_problems: list[str | None] = field(default_factory=list)
    runs: list[JSON] = field(default_factory=list)
    asked: list[tuple[Any, ...]] = field(default_factory=list)
    on_payload: Callable[["ToldActions"], None] = lambda _: None

    def _note(self, *what: Any) -> None:
        self.asked.append(what)
        if what[0] in self.errors:
            raise self.errors[what[0]]

    def inspect(self, options: Options) -> Mapping[str, JSON]:
        self._note("inspect", options)
        return self.found

    def plan(self, options: Options) -> Mapping[str, JSON]:
        self._note("plan", options)
        return self.planned

    def apply(
        self, options: Options, plan_sha256: str, run_id: str, progress: Progress
    ) -> Mapping[str, JSON]:
        progress("copying the shim", 0, 10)
        self._note("apply", options, plan_sha256)
        progress("copying the shim", 10, 10)
        texts: list[JSON] = [{"path": "hda1:/grub/grub.conf", "before": "old", "after": "new"}]
        return {"run_id": run_id, "changed": True, "changes": CHANGES, "texts": texts}

    def rollback(
        self, options: Options, run_id: str | None, progress: Progress
    ) -> Mapping[str, JSON]:
        self._note("rollback", options, run_id)
        return {"run_id": run_id or "run-9", "changed": True, "changes": CHANGES}

    def look_for_payload(self) -> str | None:
        self._note("look_for_payload")
        problem = self.payload_problems.pop(0) if self.payload_problems else None
        if problem is None:
            self.on_payload(self)
        return problem

    def list_runs(self, options: Options) -> Mapping[str, JSON]:
        self._note("list_runs", options)
        return {"runs": self.runs}

    def keep_result(self, options: Options, run_id: str, content: bytes) -> bool:
        self._note("keep_result", run_id, content)
        return True

    @property
    def names(self) -> list[str]:
        """Return what was asked for, in order."""
        return [each[0] for each in self.asked]
