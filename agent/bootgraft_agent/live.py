"""A graft in the live system: find the guest on the machine's disks, plan, apply, roll back."""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bootgraft_agent import boot_code, grub, mounts
from bootgraft_agent.apply import apply_plan, keep_result
from bootgraft_agent.disks import (
    Disk,
    DvdDrive,
    LiveVolume,
    Partition,
    read_block_devices,
    read_disks,
    read_dvd_drives,
    read_live_volumes,
)
from bootgraft_agent.errors import AmbiguousError, RefusedError
from bootgraft_agent.files import Tree, WritableTree
from bootgraft_agent.guest import (
    FILE_COMMANDS,
    MAX_TEXT,
    MENU_NAMES,
    Boot,
    BootDirectory,
    Guest,
    find_boot_directories,
    read_boot,
    read_existing,
    read_initrd_drivers,
    read_kernels,
    read_root,
    with_module_drivers,
)
from bootgraft_agent.payload_sources import PayloadSource, find_payload
from bootgraft_agent.plan import BACKUPS, Options, Where
from bootgraft_agent.recipes import hyperv_shim
from bootgraft_agent.recipes.kernels import choose_kernel
from bootgraft_agent.rollback import read_manifests, roll_back
from bootgraft_agent.secrets_mask import mask_text
from bootgraft_agent.view import disks_json, guest_json, outcome_json, plan_json
from bootgraft_agent.volumes import Progress
from bootgraft_agent.wire import JSON

SETTLE_TIMEOUT = 10  # seconds for udev to look at a disk or DVD that has just come
# The kernel itself notices only after seconds that a drive holds another DVD.
_LOOK_AT_DVD_DRIVES = [
    *("udevadm", "trigger", "--action=change"),
    *("--subsystem-match=block", "--sysname-match=sr*"),
]

# Gives the view of a device, the same one throughout a look.
Views = Callable[[Path], Path]

_ROOT_DEVICE = re.compile(r"/dev/(?P<kind>xvd|hd|sd)(?P<letter>[a-z])(?P<part>\d*)\Z")
_TAG_LINK = re.compile(r"/dev/disk/by-(?P<tag>uuid|label)/(?P<value>.+)\Z")


@dataclass(frozen=True, slots=True)
class Place:
    """A partition of the machine with the disk that holds it."""

    disk: Disk
    partition: Partition

    @property
    def name(self) -> str:
        """Its name for people: "hda1"."""
        return self.partition.name

    @property
    def device(self) -> Path:
        """The kernel's node."""
        return Path("/dev") / self.partition.kernel_name

    @property
    def fs_type(self) -> str:
        """Its file system as udev calls it, "" where it knows none."""
        return self.partition.fs_type or ""


@dataclass(frozen=True, slots=True)
class Found:
    """Where the guest's boot directory was found."""

    place: Place
    directory: BootDirectory


@dataclass(frozen=True, slots=True)
class LiveVolumes:
    """The guest's file systems in the live system; they are the Volumes of an apply."""

    boot: Place
    root: Place | None
    payload_source: PayloadSource | None

    @property
    def boot_prefix(self) -> str:
        """Where /boot is in the volume "boot"."""
        return "boot/" if self.boot == self.root else ""

    def _place(self, where: Where) -> Place:
        if where == "boot":
            return self.boot
        if self.root is None:
            raise RefusedError("the guest's root file system was not found, and is needed here")
        return self.root

    @contextlib.contextmanager
    def read(self, where: Where) -> Iterator[Tree]:
        """Look at a volume through a fresh view."""
        place = self._place(where)
        with (
            mounts.mounted_view(place.device, place.fs_type, place.name) as mount,
            Tree(mount) as tree,
        ):
            yield tree

    @contextlib.contextmanager
    def write(self, where: Where) -> Iterator[WritableTree]:
        """Mount a volume for writing; unmounting it empties its journal."""
        place = self._place(where)
        disk = Path(place.disk.device_path)
        with (
            mounts.mounted_for_writing(disk, place.device, place.fs_type, place.name) as mount,
            WritableTree(mount) as tree,
        ):
            yield tree

    @contextlib.contextmanager
    def payload(self) -> Iterator[Tree]:
        """Mount what the payload is on."""
        if self.payload_source is None:
            raise RefusedError("the payload is gone")
        with self.payload_source.open() as tree:
            yield tree

    def name(self, where: Where) -> str:
        """Name a volume as the user does."""
        return self._place(where).name


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine as it is now: its disks, all set read-only, and its DVD drives."""

    disks: tuple[Disk, ...]
    drives: tuple[DvdDrive, ...]
    live_volumes: tuple[LiveVolume, ...] = ()

    @property
    def ide_disks(self) -> tuple[Disk, ...]:
        """The disks that the BIOS counts, in its order."""
        return tuple(disk for disk in self.disks if disk.hd_name is not None)

    def places(self) -> Iterator[Place]:
        """Give every partition with a file system that a guest's disk may have."""
        for disk in self.disks:
            for partition in disk.partitions:
                if partition.fs_type in mounts.DISK_FILE_SYSTEMS:
                    yield Place(disk, partition)


@dataclass(frozen=True, slots=True)
class Look:
    """All facts of one look at the machine."""

    machine: Machine
    guest: Guest
    volumes: LiveVolumes


def read_machine() -> Machine:
    """Set every disk and partition read-only, then find the disks and DVD drives."""
    mounts.run(_LOOK_AT_DVD_DRIVES, good=1)
    mounts.run(["udevadm", "settle", f"--timeout={SETTLE_TIMEOUT}"], good=1)
    devices = read_block_devices()
    for device in devices:
        if device.is_guest_storage:
            mounts.set_read_only(Path("/dev") / device.kernel_name, read_only=True)
    return Machine(read_disks(devices), read_dvd_drives(devices), read_live_volumes(devices))


def read_live_guest(machine: Machine, options: Options) -> tuple[Guest, LiveVolumes]:
    """Find the guest and read its facts. Raises RefusedError and AmbiguousError."""
    with mounts.views() as view:
        found = _find_boot(machine, options, view)
        place = found.place
        with _looked_at(place, view) as tree:
            boot = read_boot(tree, place.name, found.directory, menu_is_embedded=True)
            boot_code.check(place.disk, place.partition, boot, tree)
            guest, source = _read_without_root(machine, place, boot, tree)
            root = _find_chosen_root(machine, guest, options)
            guest = _with_root(guest, place, root, tree, view)
        mounts.check_file_system(view(place.device), place.fs_type, place.name)
    root_place = root if isinstance(root, Place) and guest.root is not None else None
    return guest, LiveVolumes(place, root_place, source)


def find_backups(machine: Machine, options: Options) -> tuple[str, LiveVolumes]:
    """Find what a rollback needs, however damaged the graft is: the backups, and the volumes.

    The root file system is the first that an entry of a menu names; None where none does.
    """
    with mounts.views() as view:
        found = _find_boot(machine, options, view)
        place = found.place
        with _looked_at(place, view) as tree:
            roots = [find_root(machine, each) for each in _read_arguments(tree, found.directory)]
    root = next((each for each in roots if isinstance(each, Place)), None)
    return f"{found.directory.prefix}{BACKUPS}", LiveVolumes(place, root, None)


@contextlib.contextmanager
def _looked_at(place: Place, view: Views) -> Iterator[Tree]:
    """Mount a partition's view."""
    copy = view(place.device)
    with mounts.mounted(copy, place.fs_type, place.name) as mount, Tree(mount) as tree:
        yield tree


def _read_arguments(tree: Tree, directory: BootDirectory) -> Iterator[bytes]:
    """Give the arguments of every kernel that a menu names."""
    for path in (f"{directory.grub_directory}/{name}" for name in MENU_NAMES):
        if tree.is_file(path):
            for entry in grub.parse_menu(tree.read(path, MAX_TEXT)).entries:
                yield from (each.argument for each in entry.commands if each.name in FILE_COMMANDS)


# The boot partition


def _find_boot(machine: Machine, options: Options, view: Views) -> Found:
    """Find the one boot directory on the IDE disks. Raises RefusedError and AmbiguousError."""
    if not machine.disks:
        raise RefusedError(
            "no disk was found in this machine; is it attached, and to an IDE channel?"
        )
    places = _chosen_places(machine, options.boot_partition)
    notes: list[str] = []
    found = [each for place in places for each in _search(place, view, notes)]
    if len(found) > 1:
        listed = " and ".join(f"{each.place.name}:/{each.directory.prefix}" for each in found)
        raise AmbiguousError(
            f"cannot choose a boot partition: {listed} both hold GRUB's files; name one with"
            " --boot-partition"
        )
    if not found:
        looked = "; ".join(notes) or "no partition with a file system that Linux boots from"
        raise RefusedError(f"no boot partition with GRUB legacy's files was found: {looked}")
    if found[0].place.disk.hd_name is None:
        raise RefusedError(
            f"the boot partition {found[0].place.name} is on a {found[0].place.disk.bus} disk;"
            " attach that disk to an IDE channel, which is what the shim's kernel can use"
        )
    return found[0]


def _chosen_places(machine: Machine, name: str | None) -> list[Place]:
    places = list(machine.places())
    if name is None:
        return places
    wanted = name.removeprefix("/dev/")
    chosen = [place for place in places if wanted in {place.name, place.partition.kernel_name}]
    if len(chosen) != 1:
        listed = ", ".join(place.name for place in places) or "none"
        raise RefusedError(f"there is no partition {name} with a file system; there are: {listed}")
    return chosen


def _search(place: Place, view: Views, notes: list[str]) -> Iterator[Found]:
    try:
        with _looked_at(place, view) as tree:
            directories = find_boot_directories(tree)
    except (RefusedError, OSError) as error:
        notes.append(f"{place.name}: {error}")
        return
    if not directories:
        notes.append(f"{place.name} ({place.fs_type}) has none")
    for directory in directories:
        yield Found(place, directory)


# The root file system


@dataclass(frozen=True, slots=True)
class NoRoot:
    """Why the guest's root file system is not there to be edited."""

    reason: str


def find_root(machine: Machine, arguments: bytes) -> Place | NoRoot:
    """Find the root file system that a kernel's arguments name."""
    words = re.findall(rb"(?<!\S)root=(\S+)", arguments)
    if not words:
        return NoRoot("the kernel's arguments name no root file system")
    spec = words[-1].decode("utf-8", "backslashreplace").replace('"', "")
    tag, value = _split_tag(spec)
    if tag in {"LABEL", "UUID"}:
        return _find_by_tag(machine, spec, tag, value)
    match = _ROOT_DEVICE.match(spec)
    if match is None:
        return NoRoot(
            f"root={spec} is neither a partition nor a label or UUID; LVM and RAID are not started"
        )
    return _find_by_name(machine, spec, match)


def _split_tag(spec: str) -> tuple[str, str]:
    """Give the tag and value of UUID=… or LABEL=…, also written as udev's links to them."""
    link = _TAG_LINK.match(spec)
    if link is None:
        tag, _, value = spec.partition("=")
        return tag, value
    value = re.sub(r"\\x([0-9a-f]{2})", lambda escape: chr(int(escape[1], 16)), link["value"])
    return link["tag"].upper(), value


def _find_by_tag(machine: Machine, spec: str, tag: str, value: str) -> Place | NoRoot:
    places = list(machine.places())
    named = [
        place
        for place in places
        if value == (place.partition.label if tag == "LABEL" else place.partition.uuid)
    ]
    if len(named) == 1:
        return named[0]
    listed = " and ".join(place.name for place in named) or "no partition"
    return NoRoot(f"root={spec} fits {listed}")


def _find_by_name(machine: Machine, spec: str, match: re.Match[str]) -> Place | NoRoot:
    """Find the partition of the n-th disk, or of the disk whose IDE name is given."""
    disks = machine.ide_disks
    by_name = [disk for disk in disks if disk.name == f"hd{match['letter']}"]
    number = ord(match["letter"]) - ord("a")
    chosen = by_name if match["kind"] == "hd" and by_name else disks[number : number + 1]
    for place in machine.places():
        if place.disk in chosen and place.partition.number == int(match["part"] or 0):
            return place
    return NoRoot(f"root={spec} fits no file system on the machine's IDE disks")


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
    machine: Machine, place: Place, boot: Boot, tree: Tree
) -> tuple[Guest, PayloadSource | None]:
    """Read what the boot directory and the payload say."""
    payload, problem, source = find_payload(machine.drives, machine.live_volumes)
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
        return dataclasses.replace(guest, root_problem=root.reason)
    if root == boot_place:
        return _with_root_tree(guest, root, boot_tree)
    try:
        with _looked_at(root, view) as tree:
            guest = _with_root_tree(guest, root, tree)
        mounts.check_file_system(view(root.device), root.fs_type, root.name)
    except RefusedError as error:
        return dataclasses.replace(guest, root=None, root_problem=str(error))
    journals = (*guest.dirty_journals, *_dirty_journals(root))
    return dataclasses.replace(guest, dirty_journals=journals)


def _with_root_tree(guest: Guest, root: Place, tree: Tree) -> Guest:
    if not tree.is_directory("etc"):
        return dataclasses.replace(guest, root_problem=f"{root.name} has no directory /etc")
    return dataclasses.replace(
        guest,
        root=read_root(tree, root.name),
        kernels=with_module_drivers(guest.kernels, tree),
    )


# What a controller or a person asks for


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
        names = {"boot": volumes.name("boot"), "root": volumes.root.name if volumes.root else "?"}
        return {
            "runs": [
                {
                    "run_id": each.run_id,
                    "changes": [
                        f"{names.get(change.where, change.where)}:/{change.path}"
                        for change in each.changes
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
