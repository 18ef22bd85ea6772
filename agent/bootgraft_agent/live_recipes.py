"""A guest for recipes in the live system: found on whatever disks, looked at, and planned for."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bootgraft_agent import mounts
from bootgraft_agent.errors import AmbiguousError, BootgraftError, RefusedError
from bootgraft_agent.file_systems import FileSystem, Storage, looking, of_place
from bootgraft_agent.files import Tree
from bootgraft_agent.guest import Guest
from bootgraft_agent.linux_facts import LinuxJson, linux_json, problem_json
from bootgraft_agent.linux_root import (
    GuestFileSystems,
    find_linux,
    find_mounts,
    find_root_file_system,
)
from bootgraft_agent.live_guest import read_grub_guest
from bootgraft_agent.live_volumes import LiveVolumes
from bootgraft_agent.machine import Machine
from bootgraft_agent.payload_sources import PayloadSource, find_recipes
from bootgraft_agent.plan import Options, Plan, ReplayJournal
from bootgraft_agent.plan_growth import check_plan_growth
from bootgraft_agent.recipe_requests import Request, has_recipes, is_shim, read_requests
from bootgraft_agent.recipes.sequence import plan_sequence


@dataclass(frozen=True, slots=True)
class Asked:
    """Which recipes are asked for, and the medium that says so; None where none does."""

    requests: tuple[Request, ...]
    source: PayloadSource | None

    @property
    def is_shim_alone(self) -> bool:
        """Whether it is the one recipe that needs no root file system."""
        return all(map(is_shim, self.requests))


@dataclass(frozen=True, slots=True)
class RecipeLook:
    """What was found for recipes; `plan` is what they come to, or why they come to nothing."""

    guest: Guest | None  # GRUB legacy's facts, where the shim's recipe is among them
    volumes: LiveVolumes
    linux: LinuxJson
    plan: Plan | BootgraftError


def find_asked(machine: Machine, options: Options) -> Asked:
    """Find out which recipes a run has: those of the options, of the payload, or the shim's."""
    if options.recipes:
        return Asked(read_requests(None, options), None)
    source = find_recipes(machine.drives, machine.live_volumes, has_recipes)
    if source is None:
        return Asked(read_requests(None, options), None)
    with source.open() as payload:
        return Asked(read_requests(payload, options), source)


def look_for_recipes(machine: Machine, asked: Asked, options: Options) -> RecipeLook:
    """Find the guest, read its facts and make the plan. Raises RefusedError, AmbiguousError."""
    with looking(machine) as storage:
        found = None
        source = asked.source
        if any(map(is_shim, asked.requests)):
            found = read_grub_guest(machine, options, storage.nodes.require_views(), source)
            source = found.payload_source
            boot = of_place(found.boot)
            root = of_place(found.root) if found.root is not None else None
            guest = beside_grub(storage, boot, found.boot_prefix, root, options)
        else:
            guest = find_linux(storage, options.root_partition)
        volumes = LiveVolumes(guest, source, storage.nodes)
        linux = linux_json(volumes)
        facts = found.facts if found else None
        plan = _make_plan(asked.requests, volumes, facts, options)
    return RecipeLook(facts, LiveVolumes(guest, source), linux, plan)


def look_for_linux(machine: Machine, options: Options) -> LinuxJson:
    """Say what Linux guest is there, for who looks at a machine without GRUB legacy."""
    try:
        with looking(machine) as storage:
            guest = find_linux(storage, options.root_partition)
            return linux_json(LiveVolumes(guest, None, storage.nodes))
    except (RefusedError, OSError) as error:
        return problem_json(error)


def _make_plan(
    requests: Sequence[Request], volumes: LiveVolumes, guest: Guest | None, options: Options
) -> Plan | BootgraftError:
    try:
        with contextlib.ExitStack() as stack:
            payload: Tree | None = None
            if volumes.payload_source is not None:
                payload = stack.enter_context(volumes.payload())
            dirty = volumes.dirty_journals
            plan = plan_sequence(requests, volumes, guest, payload, options, dirty)
        _check_file_systems(plan, volumes)
        check_plan_growth(plan, volumes)
    except BootgraftError as error:
        return error
    return plan


def _check_file_systems(plan: Plan, volumes: LiveVolumes) -> None:
    """Refuse to write to a file system that is damaged."""
    written = {step.target.where for step in plan.steps if not isinstance(step, ReplayJournal)}
    if not written:
        return
    found = {volumes.file_system(where) for where in (*written, "boot")}
    for each in sorted(found, key=lambda found: found.name):
        view = volumes.nodes.require_views()(volumes.nodes.device(each))
        mounts.check_file_system(view, each.fs_type, each.name)


def beside_grub(
    storage: Storage,
    boot: FileSystem,
    boot_prefix: str,
    root: FileSystem | None,
    options: Options,
) -> GuestFileSystems:
    """Find all file systems of a guest whose boot partition is found by GRUB legacy's files.

    Without a root it is looked for: GRUB's menu does not lead to one on LVM.
    """
    guest = find_mounts(storage, root or find_root_file_system(storage, options.root_partition))
    known = guest.file_systems["boot"]
    if ("boot", "boot") in guest.mounts and not known.is_same_device(boot):
        raise AmbiguousError(
            f"GRUB's files are on {boot.name}, but /boot of the guest is on {known.name}; name the"
            " right one with --boot-partition"
        )
    return replace(
        guest,
        file_systems={**guest.file_systems, "boot": boot},
        boot_prefix=boot_prefix,
        mounts=tuple(dict.fromkeys((*guest.mounts, ("boot", "boot")))),
        absent=tuple(each for each in guest.absent if each[0] != "boot"),
    )
