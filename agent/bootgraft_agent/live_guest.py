"""The facts of a guest with GRUB legacy, from the machine's disks, and what a rollback needs."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from bootgraft_agent import boot_code, grub, mounts
from bootgraft_agent.boot_partition import find_boot
from bootgraft_agent.errors import RefusedError
from bootgraft_agent.file_systems import Nodes
from bootgraft_agent.files import Tree
from bootgraft_agent.guest import (
    FILE_COMMANDS,
    MAX_TEXT,
    MENU_NAMES,
    Boot,
    BootDirectory,
    Guest,
    read_boot,
    read_existing,
    read_initrd_drivers,
    read_kernels,
    read_root,
    with_module_drivers,
)
from bootgraft_agent.linux_facts import LinuxJson, linux_json, problem_json
from bootgraft_agent.live_volumes import LiveVolumes, of_places
from bootgraft_agent.machine import Machine, Place, Views, looked_at
from bootgraft_agent.payload_sources import PayloadSource, find_payload, read_shim
from bootgraft_agent.plan import BACKUPS, Options
from bootgraft_agent.recipes.kernels import choose_kernel
from bootgraft_agent.root_partition import NoRoot, find_root


@dataclass(frozen=True, slots=True)
class GrubGuest:
    """A guest with GRUB legacy as it was found."""

    facts: Guest
    boot: Place
    boot_prefix: str
    root: Place | None  # None: facts.root_problem says why
    payload_source: PayloadSource | None


def read_live_guest(machine: Machine, options: Options) -> tuple[Guest, LiveVolumes, LinuxJson]:
    """Find the guest and read its facts. Raises RefusedError and AmbiguousError."""
    with mounts.views() as view:
        found = read_grub_guest(machine, options, view)
        guest = of_places(found.boot, found.root, found.boot_prefix)
        volumes = LiveVolumes(guest, found.payload_source)
        if found.root is None:
            linux = problem_json(found.facts.root_problem or "")
        else:
            linux = linux_json(replace(volumes, nodes=Nodes({}, view)))
    return found.facts, volumes, linux


def read_grub_guest(
    machine: Machine, options: Options, view: Views, source: PayloadSource | None = None
) -> GrubGuest:
    """Find the guest and read its facts, the shim's from a medium if that is found already.

    Raises RefusedError and AmbiguousError.
    """
    found = find_boot(machine, options, view)
    place = found.place
    with looked_at(place, view) as tree:
        boot = read_boot(tree, place.name, found.directory, menu_is_embedded=True)
        boot_code.check(place.disk, place.partition, boot, tree)
        guest, source = _read_without_root(machine, place, boot, tree, source)
        root = _find_chosen_root(machine, guest, options)
        guest = _with_root(guest, place, root, tree, view)
    mounts.check_file_system(view(place.device), place.fs_type, place.name)
    root_place = root if isinstance(root, Place) and guest.root is not None else None
    return GrubGuest(guest, place, found.directory.prefix, root_place, source)


def find_grub_backups(machine: Machine, options: Options) -> tuple[str, LiveVolumes]:
    """Find what a rollback needs, however damaged the graft is: the backups, and the volumes.

    The root file system is the first that an entry of a menu names; None where none does.
    """
    with mounts.views() as view:
        found = find_boot(machine, options, view)
        place = found.place
        with looked_at(place, view) as tree:
            roots = [find_root(machine, each) for each in _read_arguments(tree, found.directory)]
    root = next((each for each in roots if isinstance(each, Place)), None)
    prefix = found.directory.prefix
    return f"{prefix}{BACKUPS}", LiveVolumes(of_places(place, root, prefix), None)


def _read_arguments(tree: Tree, directory: BootDirectory) -> Iterator[bytes]:
    """Give the arguments of every kernel that a menu names."""
    for path in (f"{directory.grub_directory}/{name}" for name in MENU_NAMES):
        if tree.is_file(path):
            for entry in grub.parse_menu(tree.read(path, MAX_TEXT)).entries:
                yield from (each.argument for each in entry.commands if each.name in FILE_COMMANDS)


def _find_chosen_root(machine: Machine, guest: Guest, options: Options) -> Place | NoRoot:
    """Find the root file system of the kernel that would be grafted."""
    menu = grub.parse_menu(guest.boot.menu.content)
    try:
        choice = choose_kernel(guest, menu, options, [])
    except RefusedError as error:
        return NoRoot(str(error))
    return find_root(machine, choice.arguments)


# Facts


def _read_without_root(
    machine: Machine, place: Place, boot: Boot, tree: Tree, source: PayloadSource | None
) -> tuple[Guest, PayloadSource | None]:
    """Read what the boot directory and the payload say."""
    if source is None:
        payload, problem, source = find_payload(machine.drives, machine.live_volumes)
    else:
        payload, problem = read_shim(source)
    number = place.partition.number
    disks = machine.ide_disks
    kernels = read_kernels(tree, boot, None)
    guest = Guest(
        boot=boot,
        bios=grub.Device(disks.index(place.disk), number - 1 if number else None),
        hd_names=tuple(disk.name for disk in disks),
        kernels=kernels,
        root=None,
        root_problem=None,
        payload=payload,
        payload_problem=problem,
        existing=read_existing(tree, boot, payload) if payload else {},
        initrd_drivers=read_initrd_drivers(tree, boot, kernels),
        dirty_journals=_dirty_journals(place),
    )
    return guest, source


def _dirty_journals(place: Place) -> tuple[str, ...]:
    superblock = mounts.read_ext_superblock(place.device)
    return (place.name,) if superblock and superblock.has_dirty_journal else ()


def _with_root(
    guest: Guest,
    boot_place: Place,
    root: Place | NoRoot,
    boot_tree: Tree,
    view: Views,
) -> Guest:
    """Add what the root file system says, or why it says nothing."""
    if isinstance(root, NoRoot):
        return replace(guest, root_problem=root.reason)
    if root == boot_place:
        return _with_root_tree(guest, root, boot_tree)
    try:
        with looked_at(root, view) as tree:
            guest = _with_root_tree(guest, root, tree)
        mounts.check_file_system(view(root.device), root.fs_type, root.name)
    except RefusedError as error:
        return replace(guest, root=None, root_problem=str(error))
    journals = (*guest.dirty_journals, *_dirty_journals(root))
    return replace(guest, dirty_journals=journals)


def _with_root_tree(guest: Guest, root: Place, tree: Tree) -> Guest:
    if not tree.is_directory("etc"):
        return replace(guest, root_problem=f"{root.name} has no directory /etc")
    return replace(
        guest,
        root=read_root(tree, root.name),
        kernels=with_module_drivers(guest.kernels, tree),
    )
