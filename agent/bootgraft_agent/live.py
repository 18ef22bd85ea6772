"""What a controller or a person asks for in the live system: inspect, plan, apply, roll back."""

from dataclasses import dataclass

from bootgraft_agent.apply import apply_plan, keep_result
from bootgraft_agent.errors import AmbiguousError, BootgraftError, RefusedError
from bootgraft_agent.guest import Guest
from bootgraft_agent.linux_facts import LinuxJson, problem_json
from bootgraft_agent.live_backups import find_backups
from bootgraft_agent.live_guest import read_live_guest
from bootgraft_agent.live_recipes import find_asked, look_for_linux, look_for_recipes
from bootgraft_agent.live_volumes import LiveVolumes
from bootgraft_agent.machine import Machine, read_machine
from bootgraft_agent.payload_sources import find_payload
from bootgraft_agent.plan import Options, Plan
from bootgraft_agent.plan_growth import check_plan_growth
from bootgraft_agent.recipes import hyperv_shim
from bootgraft_agent.rollback import read_manifests, roll_back
from bootgraft_agent.secrets_mask import mask_text
from bootgraft_agent.view import disks_json, guest_json, outcome_json, plan_json
from bootgraft_agent.volumes import Progress
from bootgraft_agent.wire import JSON


@dataclass(frozen=True, slots=True)
class Look:
    """All facts of one look at the machine, and what they come to."""

    machine: Machine
    guest: Guest | None  # GRUB legacy's facts, where the shim's recipe is asked for
    linux: LinuxJson
    volumes: LiveVolumes
    plan: Plan | BootgraftError  # or why there is none

    @property
    def problem(self) -> str | None:
        """Why no plan is possible now, as far as an inspection says it."""
        if self.guest is not None and self.guest.payload_problem is not None:
            return self.guest.payload_problem
        is_refused = self.guest is None and isinstance(self.plan, BootgraftError)
        return mask_text(str(self.plan)) if is_refused else None

    @property
    def facts(self) -> dict[str, JSON]:
        """All that was found, for showing."""
        found = disks_json(self.machine.disks, self.machine.drives)
        guest = guest_json(self.guest) if self.guest is not None else None
        return found | {"guest": guest, "linux": self.linux}

    def require_plan(self) -> Plan:
        """Give the plan, or raise what speaks against it."""
        if isinstance(self.plan, BootgraftError):
            raise self.plan
        return self.plan


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
        try:
            look = self._look(options, machine)
        except BootgraftError as error:
            found = disks_json(machine.disks, machine.drives)
            is_open = isinstance(error, RefusedError) and not isinstance(error, AmbiguousError)
            linux = look_for_linux(machine, options) if is_open else problem_json(error)
            return {
                "facts": found | {"guest": None, "linux": linux},
                "problem": mask_text(str(error)),
                "warnings": [],
            }
        return {"facts": look.facts, "problem": look.problem, "warnings": []}

    def plan(self, options: Options) -> dict[str, JSON]:
        """Say what a graft would do."""
        look = self._look(options)
        return plan_json(look.require_plan()) | {"facts": look.facts}

    def apply(
        self, options: Options, plan_sha256: str, run_id: str, progress: Progress
    ) -> dict[str, JSON]:
        """Graft, if the plan is still the one that was shown."""
        look = self._look(options)
        plan = look.require_plan()
        if plan.sha256() != plan_sha256:
            raise RefusedError(
                f"the guest now gives plan {plan.sha256()[:12]}, not {plan_sha256[:12]}, which was"
                " shown; nothing was changed: look at the plan again"
            )
        self._looks.clear()
        with look.volumes.opened() as volumes:
            return outcome_json(apply_plan(plan, volumes, run_id, progress), plan)

    def rollback(self, options: Options, run_id: str | None, progress: Progress) -> dict[str, JSON]:
        """Take a graft back."""
        self._looks.clear()
        backups, found = find_backups(read_machine(), options)
        with found.opened() as volumes:
            return outcome_json(roll_back(backups, volumes, run_id, progress))

    def look_for_payload(self) -> str | None:
        """Look whether a payload is there now; give why there is none."""
        machine = read_machine()
        if find_asked(machine, Options()).source is not None:
            return None
        return find_payload(machine.drives, machine.live_volumes)[1]

    def list_runs(self, options: Options) -> dict[str, JSON]:
        """List the grafts that can be taken back, the latest first, with the files of each."""
        backups, found = find_backups(read_machine(), options)
        with found.opened() as volumes, volumes.read("boot") as boot:
            manifests = read_manifests(boot, backups)
        names = {where: each.name for where, each in found.guest.file_systems.items()}
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
        backups, found = find_backups(read_machine(), options)
        with found.opened() as volumes:
            return keep_result(backups, volumes, run_id, content)

    def _look(self, options: Options, machine: Machine | None = None) -> Look:
        """Give what was found for these options, read now or kept."""
        if options in self._looks:
            return self._looks[options]
        look = _read_look(machine or read_machine(), options)
        # Else a payload may be inserted meanwhile.
        if look.problem is None and not isinstance(look.plan, BootgraftError):
            self._looks[options] = look
        return look


def _read_look(machine: Machine, options: Options) -> Look:
    asked = find_asked(machine, options)
    if not asked.is_shim_alone:
        found = look_for_recipes(machine, asked, options)
        return Look(machine, found.guest, found.linux, found.volumes, found.plan)
    guest, volumes, linux = read_live_guest(machine, options)
    return Look(machine, guest, linux, volumes, _plan_shim(guest, volumes, options))


def _plan_shim(guest: Guest, volumes: LiveVolumes, options: Options) -> Plan | BootgraftError:
    try:
        plan = hyperv_shim.plan(guest, options)
        with volumes.opened() as opened:
            check_plan_growth(plan, opened)
    except BootgraftError as error:
        return error
    return plan
