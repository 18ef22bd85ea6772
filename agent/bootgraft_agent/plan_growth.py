"""Whether a plan makes a directory grow that GRUB reads: told with the plan, and at its apply."""

from bootgraft_agent.directory_growth import TEMPORARY_NAME, check_growth
from bootgraft_agent.effects import changes, expected, targets
from bootgraft_agent.files import TEMPORARY, Tree
from bootgraft_agent.plan import Plan, Target
from bootgraft_agent.volumes import Volumes


def check_plan_growth(plan: Plan, volumes: Volumes) -> None:
    """Refuse where a directory that GRUB reads may have to grow for a plan's new names.

    One in which a run that was cut off has left something is let be: an apply tidies it up before
    it looks. Raises RefusedError.
    """
    if plan.is_done:
        return
    names = added_names(plan, volumes)
    with volumes.read("boot") as boot:
        for directory, added in names.items():
            if boot.is_directory(directory) and not has_temporaries(boot, directory):
                new = [each for each in added if not _is_there(boot, directory, each)]
                shown = f"{volumes.name('boot')}:/{directory}"
                check_growth(boot, directory, [*new, TEMPORARY_NAME], shown)


def added_names(plan: Plan, volumes: Volumes) -> dict[str, list[str]]:
    """Give the directories of the boot volume that GRUB reads, and what is put there."""
    directory, _, name = plan.backups.rpartition("/")
    names: dict[str, list[str]] = {directory: [name]}
    for _, step in changes(plan):
        for target in targets(step):
            directory, _, name = target.path.rpartition("/")
            if not _is_read_by_grub(target, directory, volumes):
                continue
            added = names.setdefault(directory, [])
            if expected(step, target) is None:
                added.append(name)
            if plan.is_switch(target):
                added.append(TEMPORARY_NAME)  # it is there together with another one
    return names


def has_temporaries(tree: Tree, directory: str) -> bool:
    """Say whether an interrupted write has left something in a directory."""
    if not tree.is_directory(directory):
        return False
    return any(name.startswith(TEMPORARY) for name in tree.names(directory))


def _is_there(tree: Tree, directory: str, name: str) -> bool:
    return tree.state(f"{directory}/{name}" if directory else name) is not None


def _is_read_by_grub(target: Target, directory: str, volumes: Volumes) -> bool:
    """Whether GRUB looks for its files in or through a directory of the guest's."""
    if target.where == "boot":
        return True
    return bool(volumes.boot_prefix) and target.where == "root" and not directory
