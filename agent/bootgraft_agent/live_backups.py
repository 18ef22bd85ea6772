"""Finding what a rollback needs in the live system: the backups, and the guest's volumes."""

from bootgraft_agent.errors import AmbiguousError, RefusedError
from bootgraft_agent.file_systems import looking
from bootgraft_agent.linux_root import find_linux
from bootgraft_agent.live_guest import find_grub_backups
from bootgraft_agent.live_recipes import beside_grub
from bootgraft_agent.live_volumes import LiveVolumes
from bootgraft_agent.machine import Machine
from bootgraft_agent.plan import BACKUPS, Options
from bootgraft_agent.recipes import hyperv_shim
from bootgraft_agent.rollback import read_manifests


def find_backups(machine: Machine, options: Options) -> tuple[str, LiveVolumes]:
    """Find the backups of a guest, by GRUB legacy's files or by its root file system.

    Raises RefusedError and AmbiguousError.
    """
    if options.root_partition is not None or (
        options.recipes and hyperv_shim.NAME not in options.recipes
    ):
        return _find_linux_backups(machine, options)
    try:
        backups, volumes = find_grub_backups(machine, options)
    except AmbiguousError:
        raise
    except RefusedError as error:
        return _find_without_grub(machine, options, error)
    if _has_all_volumes(backups, volumes):
        return backups, volumes
    with looking(machine) as storage:
        root = volumes.guest.file_systems.get("root")
        boot = volumes.guest.file_systems["boot"]
        guest = beside_grub(storage, boot, volumes.boot_prefix, root, options)
    return backups, LiveVolumes(guest, None)


def _find_without_grub(
    machine: Machine, options: Options, problem: RefusedError
) -> tuple[str, LiveVolumes]:
    if not machine.disks:
        raise problem
    try:
        return _find_linux_backups(machine, options)
    except AmbiguousError:
        raise
    except RefusedError as error:
        raise RefusedError(f"{problem}; {error}") from error


def _find_linux_backups(machine: Machine, options: Options) -> tuple[str, LiveVolumes]:
    with looking(machine) as storage:
        guest = find_linux(storage, options.root_partition)
    return f"{guest.boot_prefix}{BACKUPS}", LiveVolumes(guest, None)


def _has_all_volumes(backups: str, volumes: LiveVolumes) -> bool:
    """Whether no run has changed a volume that GRUB's menu does not lead to."""
    with volumes.read("boot") as boot:
        manifests = read_manifests(boot, backups)
    changed = {change.where for each in manifests for change in each.changes}
    return changed <= set(volumes.guest.file_systems)
