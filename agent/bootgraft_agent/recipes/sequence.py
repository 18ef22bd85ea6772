"""Several recipes as one plan: each sees the guest as those before it leave it."""

from collections.abc import Sequence
from dataclasses import replace

from bootgraft_agent.errors import RefusedError
from bootgraft_agent.files import Tree
from bootgraft_agent.guest import MAX_TEXT, Guest, TextFile
from bootgraft_agent.plan import (
    BACKUPS,
    BootCheck,
    CopyFile,
    Options,
    Plan,
    ReplayJournal,
    Step,
    Target,
    WriteFile,
)
from bootgraft_agent.recipe_requests import Request
from bootgraft_agent.recipe_source import PayloadDirectory
from bootgraft_agent.recipes import hyperv_shim
from bootgraft_agent.secrets_mask import mask_given
from bootgraft_agent.volumes import GuestVolumes
from bootgraft_agent.world import PayloadRef, World, open_world


class _NoFiles(PayloadDirectory):
    """The files of a recipe that came without any."""

    def __init__(self) -> None:
        """Hold nothing."""

    def _find(self, source: str) -> str | None:
        del source
        return None


def plan_sequence(
    requests: Sequence[Request],
    volumes: GuestVolumes,
    guest: Guest | None,
    payload: Tree | None,
    options: Options,
    dirty_journals: Sequence[str] = (),
) -> Plan:
    """Decide every step of several recipes, in their order. Raises RefusedError, AmbiguousError.

    `guest` has GRUB legacy's facts, as they are on the disks, where the shim's recipe is among
    them; `dirty_journals` are names of volumes.
    """
    recipe = " ".join(map(str, requests))
    warnings: list[str] = []
    check: BootCheck | None = None
    with open_world(volumes, recipe) as world:
        for request in requests:
            if request.recipe is not None:
                _evaluate(request, payload, world, warnings)
            elif guest is not None:
                check = _graft(world, guest, options, warnings)
        found = world.steps()
        switches, secrets, runs = world.switches(), world.secrets, world.original.runs
    written = {step.target.volume for step in found if not isinstance(step, ReplayJournal)}
    if found:
        written.add(volumes.name("boot"))  # for the backups
    dirty = [volume for volume in dirty_journals if volume in written]
    steps: tuple[Step, ...] = (*(ReplayJournal(volume) for volume in dirty), *found)
    return Plan(
        recipe=recipe,
        steps=steps,
        check=check,
        backups=f"{volumes.boot_prefix}{BACKUPS}",
        warnings=tuple(dict.fromkeys(warnings)),
        switches=switches,
        continues=tuple(runs) if found else (),
        secrets=secrets,
    )


def _evaluate(request: Request, payload: Tree | None, world: World, warnings: list[str]) -> None:
    # Loaded by need: a machine may be slow, and the shim's recipe does without.
    from bootgraft_agent.recipe_file.evaluate import evaluate  # noqa: PLC0415

    if request.recipe is not None:
        try:
            evaluate(request.recipe, request.settings, _files(request, payload), world, warnings)
        except RefusedError as error:
            raise RefusedError(mask_given(str(error), world.secrets)) from error


def _files(request: Request, payload: Tree | None) -> PayloadDirectory:
    if request.directory is None or payload is None:
        return _NoFiles()
    return PayloadDirectory(payload, request.directory)


# The shim's recipe among others


def _graft(world: World, guest: Guest, options: Options, warnings: list[str]) -> BootCheck | None:
    """Put the shim's graft into a World."""
    plan = hyperv_shim.plan(_as_in(world, guest), options)
    warnings += plan.warnings
    for step in plan.steps:
        if isinstance(step, CopyFile):
            source = PayloadRef(step.source, step.size, step.sha256)
            path = _guest_path(step.target, guest)
            world.copy(path, source, None, replace=False, reason=hyperv_shim.NAME)
        elif isinstance(step, WriteFile):
            world.write(_guest_path(step.target, guest), step.after, step.reason)
    return plan.check


def _guest_path(target: Target, guest: Guest) -> str:
    if target.where == "root":
        return f"/{target.path}"
    if not target.path.startswith(guest.boot.prefix):
        raise RefusedError(f"{target} is not in /boot, where the graft is planned")
    return f"/boot/{target.path.removeprefix(guest.boot.prefix)}"


def _as_in(world: World, guest: Guest) -> Guest:
    """Give the facts with the texts and files that a World has."""
    boot = guest.boot
    volume = boot.volume

    def text(where: str, file: TextFile) -> TextFile:
        path = _guest_path(Target(where, volume, file.path), guest)
        return TextFile(file.path, world.read(path, MAX_TEXT))

    def digest(path: str) -> str | None:
        place = _guest_path(Target("boot", volume, path), guest)
        return world.digest(place) if world.kind(place) is not None else None

    root = guest.root
    if root is not None:
        texts = {name: text("root", file) for name, file in root.texts.items()}
        root = replace(root, texts=texts)
    device_map = text("boot", boot.device_map) if boot.device_map is not None else None
    return replace(
        guest,
        boot=replace(boot, menu=text("boot", boot.menu), device_map=device_map),
        root=root,
        existing={path: digest(path) for path in guest.existing},
    )
