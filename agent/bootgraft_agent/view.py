"""Facts, plans and outcomes as data for the wire and `--json`, and as text for people.

No secret of the guest leaves through here, and no control character reaches a terminal.
"""

from collections.abc import Iterable, Iterator, Sequence

from bootgraft_agent.disks import Disk, DvdDrive
from bootgraft_agent.grub import parse_menu
from bootgraft_agent.guest import Guest
from bootgraft_agent.payload import Payload
from bootgraft_agent.plan import Plan, readable
from bootgraft_agent.recipes.hyperv_shim import device_text, grafted_entry
from bootgraft_agent.secrets_mask import mask_text
from bootgraft_agent.volumes import Outcome
from bootgraft_agent.wire import JSON


def disks_json(disks: Iterable[Disk], drives: Iterable[DvdDrive]) -> dict[str, JSON]:
    """Give the machine's disks and DVD drives."""
    return {
        "disks": [_disk_json(disk) for disk in disks],
        "dvd_drives": [
            {
                "name": drive.name,
                "kernel_name": drive.kernel_name,
                "channel": drive.channel,
                "unit": drive.unit,
                "has_medium": drive.has_medium,
                "label": drive.label,
                "is_live_medium": drive.is_live_medium,
            }
            for drive in drives
        ],
    }


def _disk_json(disk: Disk) -> dict[str, JSON]:
    return {
        "name": disk.name,
        "kernel_name": disk.kernel_name,
        "bus": disk.bus,
        "channel": disk.channel,
        "unit": disk.unit,
        "size": disk.size,
        "model": disk.model,
        "table": disk.table,
        "problem": disk.problem,
        "partitions": [
            {
                "name": part.name,
                "number": part.number,
                "offset": part.offset,
                "size": part.size,
                "active": part.active,
                "fs_type": part.fs_type,
                "label": part.label,
                "uuid": part.uuid,
            }
            for part in disk.partitions
        ],
    }


def guest_json(guest: Guest) -> dict[str, JSON]:
    """Give what was found in the guest."""
    menu = parse_menu(guest.boot.menu.content)
    return {
        "boot": {
            "volume": guest.boot.volume,
            "bios": device_text(guest.bios),
            "directory": f"/{guest.boot.prefix}",
            "menu": f"/{guest.boot.menu.path}",
            "default": menu.default,
            "default_saved": menu.default_saved,
            "timeout": menu.timeout,
            "hidden": menu.hidden,
            "entries": [readable(entry.title) for entry in menu.entries],
            "device_map": f"/{guest.boot.device_map.path}" if guest.boot.device_map else None,
        },
        "kernels": [
            {
                "path": f"/{kernel.path}",
                "version": kernel.version,
                "format": kernel.image.format,
                "bits": kernel.image.bits,
                "xen": kernel.image.xen,
                "initrd": f"/{kernel.initrd}" if kernel.initrd else None,
                "problem": kernel.image.problem,
            }
            for kernel in guest.kernels
        ],
        "grafted_entry": _masked(grafted_entry(guest)),
        "root": guest.root.volume if guest.root else None,
        "root_problem": guest.root_problem and mask_text(guest.root_problem),
        "payload": _payload_json(guest.payload) if guest.payload else None,
        "payload_problem": guest.payload_problem and mask_text(guest.payload_problem),
        "dirty_journals": list(guest.dirty_journals),
    }


def _masked(text: str | None) -> str | None:
    return text and mask_text(text)


def _payload_json(payload: Payload) -> dict[str, JSON]:
    return {
        "name": payload.name,
        "files": [
            {
                "name": file.name,
                "size": file.size,
                "sha256": file.sha256,
                "format": file.image.format,
                "problem": file.image.problem,
            }
            for file in payload.files
        ],
    }


def plan_json(plan: Plan) -> dict[str, JSON]:
    """Give a plan: its steps in words, its diffs, its warnings, and its identity."""
    return {
        "recipe": plan.recipe,
        "plan_sha256": plan.sha256(),
        "already_grafted": plan.is_done,
        "steps": [
            {"kind": type(step).__name__, "text": plan.masked(step.describe())}
            for step in plan.steps
        ],
        "diffs": [{"path": path, "diff": diff} for path, diff in plan.diffs()],
        "warnings": [plan.masked(each) for each in plan.warnings],
    }


def outcome_json(outcome: Outcome, plan: Plan | None = None) -> dict[str, JSON]:
    """Give what was done; with the plan also the texts before and after."""
    masked = mask_text if plan is None else plan.masked
    warnings = (*(plan.warnings if plan else ()), *outcome.warnings)
    result: dict[str, JSON] = {
        "run_id": outcome.run_id,
        "changed": bool(outcome.changes),
        "changes": [
            {
                "path": masked(each.target),
                "before_sha256": each.before and masked(each.before),
                "after_sha256": each.after and masked(each.after),
            }
            for each in outcome.changes
        ],
        "verified": [masked(each) for each in outcome.verified],
        "warnings": [masked(each) for each in warnings],
    }
    if plan is not None:
        result["diffs"] = [{"path": path, "diff": diff} for path, diff in plan.diffs()]
        result["texts"] = [
            {"path": path, "before": before, "after": after} for path, before, after in plan.texts()
        ]
    return result


def plan_lines(plan: Plan) -> Iterator[str]:
    """Say a plan in words, its diffs and warnings included."""
    if plan.is_done:
        yield "The graft is there already; nothing is to be done."
    else:
        yield f"Plan {plan.sha256()[:12]}, recipe {plan.recipe}:"
    for number, step in enumerate(plan.steps, start=1):
        yield f"  {number}. {plan.masked(step.describe())}"
    for _, diff in plan.diffs():
        yield diff
    yield from warning_lines([plan.masked(each) for each in plan.warnings])


def outcome_lines(outcome: Outcome, done: str) -> Iterator[str]:
    """Say what was done and read back."""
    for each in outcome.changes:
        yield f"{done} {each.target}"
    for line in outcome.verified:
        yield f"verified: {line}"
    yield from warning_lines(outcome.warnings)


def warning_lines(warnings: Sequence[str]) -> Iterator[str]:
    """Say what the user should know."""
    return (f"warning: {mask_text(warning)}" for warning in warnings)
