"""What a controller or a person asks for in the live system: inspect, plan, apply, roll back."""

from dataclasses import dataclass

from bootgraft_agent.apply import apply_plan, keep_result
from bootgraft_agent.errors import RefusedError
from bootgraft_agent.guest import Guest
from bootgraft_agent.live_guest import find_backups, read_live_guest
from bootgraft_agent.live_volumes import LiveVolumes
from bootgraft_agent.machine import Machine, read_machine
from bootgraft_agent.payload_sources import find_payload
from bootgraft_agent.plan import Options
from bootgraft_agent.recipes import hyperv_shim
from bootgraft_agent.rollback import read_manifests, roll_back
from bootgraft_agent.secrets_mask import mask_text
from bootgraft_agent.view import disks_json, guest_json, outcome_json, plan_json
from bootgraft_agent.volumes import Progress
from bootgraft_agent.wire import JSON


@dataclass(frozen=True, slots=True)
class Look:
    """All facts of one look at the machine."""

    machine: Machine
    guest: Guest
    volumes: LiveVolumes


class LiveActions:
    """The requests of a controller, answered for the machine that the live system runs in.

    Facts are read when a controller asks for them, and kept for the plan and its apply: every disk
    is read-only in between, and an apply checks each file again before it writes.
    """

    def __init__(self) -> None:
        self._looks: dict[Options, Look] = {}

    def inspect(self, options: Options) -> dict[str, JSON]:
        """Look anew, and say what was found; where no graft is possible also why."""
        self._looks.clear()
        machine = read_machine()
        facts = disks_json(machine.disks, machine.drives)
        try:
            look = self._look(options, machine)
        except RefusedError as error:
            return {
                "facts": facts | {"guest": None},
                "problem": mask_text(str(error)),
                "warnings": [],
            }
        facts["guest"] = guest_json(look.guest)
        return {"facts": facts, "problem": look.guest.payload_problem, "warnings": []}

    def plan(self, options: Options) -> dict[str, JSON]:
        """Say what a graft would do."""
        look = self._look(options)
        facts = disks_json(look.machine.disks, look.machine.drives)
        facts["guest"] = guest_json(look.guest)
        return plan_json(hyperv_shim.plan(look.guest, options)) | {"facts": facts}

    def apply(
        self, options: Options, plan_sha256: str, run_id: str, progress: Progress
    ) -> dict[str, JSON]:
        """Graft, if the plan is still the one that was shown."""
        look = self._look(options)
        plan = hyperv_shim.plan(look.guest, options)
        if plan.sha256() != plan_sha256:
            raise RefusedError(
                f"the guest now gives plan {plan.sha256()[:12]}, not {plan_sha256[:12]}, which was"
                " shown; nothing was changed: look at the plan again"
            )
        self._looks.clear()
        return outcome_json(apply_plan(plan, look.volumes, run_id, progress), plan)

    def rollback(self, options: Options, run_id: str | None, progress: Progress) -> dict[str, JSON]:
        """Take a graft back."""
        self._looks.clear()
        backups, volumes = find_backups(read_machine(), options)
        return outcome_json(roll_back(backups, volumes, run_id, progress))

    def look_for_payload(self) -> str | None:
        """Look whether a payload is there now; give why there is none."""
        machine = read_machine()
        return find_payload(machine.drives, machine.live_volumes)[1]

    def list_runs(self, options: Options) -> dict[str, JSON]:
        """List the grafts that can be taken back, the latest first, with the files of each."""
        backups, volumes = find_backups(read_machine(), options)
        with volumes.read("boot") as boot:
            manifests = read_manifests(boot, backups)
        names = {where: each.name for where, each in volumes.guest.file_systems.items()}
        return {
            "runs": [
                {
                    "run_id": each.run_id,
                    "changes": [
                        f"{names.get(change.where, '?')}:/{change.path}" for change in each.changes
                    ],
                }
                for each in reversed(manifests)
            ]
        }

    def keep_result(self, options: Options, run_id: str, content: bytes) -> bool:
        """Keep a run's result beside its backups."""
        backups, volumes = find_backups(read_machine(), options)
        return keep_result(backups, volumes, run_id, content)

    def _look(self, options: Options, machine: Machine | None = None) -> Look:
        """Give what was found for these options, read now or kept."""
        if options in self._looks:
            return self._looks[options]
        machine = machine or read_machine()
        look = Look(machine, *read_live_guest(machine, options))
        if look.guest.payload is not None:  # else a payload may be inserted meanwhile
            self._looks[options] = look
        return look
