"""The recipe `hyperv-shim`: GRUB loads the shim, and the guest's Xen kernel as its module. Pure.

The new entry stands at the menu's end, so that every other entry keeps its number, and its bytes.
"""

import re
from collections.abc import Callable, Iterator

from bootgraft_agent import device_map, grub
from bootgraft_agent.errors import RefusedError
from bootgraft_agent.files import TEMPORARY
from bootgraft_agent.guest import (
    FILE_COMMANDS,
    MAX_TEXT,
    Guest,
    TextFile,
    file_argument,
    grub_path,
)
from bootgraft_agent.payload import PayloadFile
from bootgraft_agent.plan import (
    BACKUPS,
    BootCheck,
    CopyFile,
    Options,
    Plan,
    ReplayJournal,
    Step,
    Target,
    Where,
    WriteFile,
)
from bootgraft_agent.recipes.disk_names import DiskDriver, DiskNames, find_evidence
from bootgraft_agent.recipes.guest_texts import (
    argument_devices,
    fstab_devices,
    translate_arguments,
    translate_fstab,
    translate_inittab,
    translate_securetty,
)
from bootgraft_agent.recipes.kernels import MARKER, TITLE, Choice, choose_kernel, with_earlier
from bootgraft_agent.recipes.shims import choose_shim

NAME = "hyperv-shim"
MAX_TITLE = 60  # bytes; GRUB's menu is 74 columns wide
TIMEOUT = 15  # seconds: long enough to choose the old entry by hand
SPARE = 1024 * 1024  # bytes left over for directories, the manifest and the file system itself


def plan(guest: Guest, options: Options) -> Plan:
    """Decide every step. Raises RefusedError and AmbiguousError, with the candidates named."""
    warnings = list(guest.warnings)
    menu = grub.parse_menu(guest.boot.menu.content)
    choice = choose_kernel(guest, menu, options, warnings)
    options = with_earlier(guest, menu, choice, options)
    shim = choose_shim(guest, choice.kernel, options.shim)
    names = DiskNames(_choose_driver(guest, choice, options, warnings), guest.hd_names)
    warnings.extend((*_menu_warnings(guest, menu), *_device_warnings(guest, choice, names)))
    copies = _copy_steps(guest)
    root_steps = list(_root_steps(guest, names, warnings))
    menu_after = _grafted_menu(guest, choice, shim, names, options)
    steps: list[Step] = [
        *copies,
        *_device_map_step(guest, names, warnings),
        *root_steps,
        *_menu_step(guest, menu_after),
    ]
    if root_steps:
        warnings.append(
            "the guest's old boot entry then no longer suits Xen; a rollback restores it"
        )
    if steps:
        _check_room(guest, copies, steps)
        written = {guest.boot.volume, *(step.target.volume for step in root_steps)}
        dirty = [volume for volume in guest.dirty_journals if volume in written]
        steps = [*(ReplayJournal(volume) for volume in dirty), *steps]
    return Plan(
        recipe=NAME,
        steps=tuple(steps),
        check=_boot_check(guest, menu_after, choice, shim),
        backups=f"{guest.boot.prefix}{BACKUPS}",
        warnings=tuple(dict.fromkeys(warnings)),
    )


def grafted_entry(guest: Guest) -> str | None:
    """Give the title of our entry, if it is the default and all that it names is there.

    Without a payload that is all that can be said of an earlier graft.
    """
    menu = grub.parse_menu(guest.boot.menu.content)
    ours = grub.find_marked_entry(menu.data, MARKER)
    if ours is None or menu.default != ours.index:
        return None
    named = [grub_path(file_argument(each.argument)) for each in ours.commands if _is_file(each)]
    if any(guest.boot.files.get(path) is None for path in named):
        return None
    return ours.title.decode("utf-8", "backslashreplace")


def _is_file(command: grub.Command) -> bool:
    return command.name in FILE_COMMANDS


# The disks' names


def _choose_driver(
    guest: Guest, choice: Choice, options: Options, warnings: list[str]
) -> DiskDriver:
    """Decide whether the kernel names an IDE disk hdX or sdX."""
    evidence = find_evidence(choice.kernel, choice.initrd, guest.initrd_drivers.get(choice.initrd))
    warnings.extend(evidence.warnings)
    if options.guest_disk is not None:
        return "hd" if options.guest_disk == "hda" else "sd"
    if evidence.driver is None:
        warnings.append(
            f"nothing in the guest says how /{choice.kernel.path} names an IDE disk; hdX is taken,"
            " --guest-disk sda chooses sdX"
        )
    return evidence.driver or "hd"


# The steps


def _copy_steps(guest: Guest) -> list[CopyFile]:
    """Copy what is not there yet. Raises RefusedError for a file of the guest in the way."""
    steps = []
    for file in guest.require_payload().files:
        if file.name == BACKUPS or file.name.startswith(TEMPORARY):
            raise RefusedError(
                f"{file.source} of the payload has a name that bootgraft needs itself; rename it"
            )
        target = Target("boot", guest.boot.volume, guest.boot.prefix + file.name)
        existing = guest.existing[target.path]
        if existing is None:
            steps.append(CopyFile(target, file.source, file.size, file.sha256))
        elif existing != file.sha256:
            raise RefusedError(
                f"{file.source} of the payload would replace the guest's own, different {target};"
                " rename one of them"
            )
    return steps


def _device_map_step(guest: Guest, names: DiskNames, warnings: list[str]) -> Iterator[WriteFile]:
    boot = guest.boot
    if boot.device_map is None:
        warnings.append(f"{boot.volume}: there is no device.map, so none was edited")
        return
    parsed = device_map.parse_device_map(boot.device_map.content)
    if parsed.error is not None:
        warnings.append(
            f"{boot.volume}: /{boot.device_map.path} was left alone, since GRUB refuses it:"
            f" {parsed.error}"
        )
        return
    name = names.of_disk(guest.bios.drive)
    if name is None:
        return
    drive = f"hd{guest.bios.drive}".encode()
    after = device_map.set_device(boot.device_map.content, drive, f"/dev/{name}".encode())
    yield from _edit(
        "boot", boot.volume, boot.device_map, after, f"(hd{guest.bios.drive}) is {name}"
    )


def _edit(
    where: Where, volume: str, text: TextFile, after: bytes, reason: str
) -> Iterator[WriteFile]:
    """Give the step that edits a text, or none where nothing changes.

    Raises RefusedError where the text would be too long to be read back.
    """
    if len(after) > MAX_TEXT:
        raise RefusedError(f"{volume}: /{text.path} would grow beyond {MAX_TEXT} bytes; shorten it")
    if after != text.content:
        yield WriteFile(Target(where, volume, text.path), text.content, after, reason)


def _root_steps(guest: Guest, names: DiskNames, warnings: list[str]) -> Iterator[WriteFile]:
    root = guest.root
    if root is None:
        warnings.append(f"etc/fstab, inittab and securetty were left alone: {guest.root_problem}")
        return
    edits: dict[str, tuple[Callable[[bytes], bytes], str]] = {
        "etc/fstab": (lambda text: translate_fstab(text, names), "the disks' new names"),
        "etc/inittab": (translate_inittab, "a login on the screen, not on Xen's console"),
        "etc/securetty": (translate_securetty, "root may log in on the screen"),
    }
    for name, text in root.texts.items():
        edit, reason = edits[name]
        yield from _edit("root", root.volume, text, edit(text.content), reason)


def _grafted_menu(
    guest: Guest, choice: Choice, shim: PayloadFile, names: DiskNames, options: Options
) -> bytes:
    """Give the menu with the new entry as its default. Raises RefusedError where GRUB could not
    read it.
    """
    data = grub.comment_hidden_menu(guest.boot.menu.content)
    data = grub.raise_timeout(data, TIMEOUT)
    body = _entry_body(guest, choice, shim, names, options)
    title = TITLE + choice.title[:MAX_TITLE].rstrip(b" \\")
    try:
        data = grub.append_entry(data, title, body, MARKER)
    except ValueError as error:
        raise RefusedError(f"{guest.boot.volume}: cannot write the new entry: {error}") from error
    entry = grub.find_marked_entry(data, MARKER)
    if entry is None:
        raise RefusedError(f"{guest.boot.volume}: GRUB would not count the new entry in this menu")
    return grub.set_default(data, entry.index)


def _entry_body(
    guest: Guest, choice: Choice, shim: PayloadFile, names: DiskNames, options: Options
) -> list[bytes]:
    arguments = translate_arguments(choice.arguments, names)
    shim_arguments = (options.shim_args or "").strip().encode("utf-8", "surrogateescape")
    return [
        b"root " + device_text(guest.bios).encode(),
        _file_line(b"kernel", guest.boot.prefix + shim.name, shim_arguments),
        _file_line(b"module", choice.kernel.path, arguments),
        _file_line(b"module", choice.initrd, b""),
    ]


def device_text(device: grub.Device) -> str:
    """Write a device as GRUB does: (hd0,1)."""
    partition = "" if device.partition is None else f",{device.partition}"
    return f"(hd{device.drive}{partition})"


def _file_line(command: bytes, path: str, arguments: bytes) -> bytes:
    if not re.fullmatch(r"[!-~]+", path) or "\\" in path:
        raise RefusedError(f"GRUB cannot load a file of this name: {path!r}")
    return b" ".join(filter(None, (command, b"/" + path.encode(), arguments)))


def _menu_step(guest: Guest, after: bytes) -> Iterator[WriteFile]:
    menu = grub.parse_menu(after)
    entry = grub.find_marked_entry(after, MARKER)
    title = entry.title.decode("utf-8", "backslashreplace") if entry else ""
    reason = f"entry {menu.default}, {title!r}, is the default; the menu is shown {menu.timeout} s"
    yield from _edit("boot", guest.boot.volume, guest.boot.menu, after, reason)


def _check_room(guest: Guest, copies: list[CopyFile], steps: list[Step]) -> None:
    """Refuse a boot volume without room for the copies, new texts and backups."""
    room = guest.boot.room
    writes = [step for step in steps if isinstance(step, WriteFile)]
    sizes = [step.size for step in copies]
    sizes += [len(text) for step in writes for text in (step.before, step.after)]
    needed = sum(-(-size // room.block_size) * room.block_size for size in sizes) + SPARE
    files = len(copies) + 2 * len(writes) + 3
    if guest.read_only:
        raise RefusedError(
            f"{' and '.join(guest.read_only)}: mounted read-only, so nothing was changed; mount it"
            " for writing"
        )
    if room.free_bytes < needed:
        raise RefusedError(
            f"{guest.boot.volume} has {room.free_bytes // 1024} KiB free, the graft needs"
            f" {needed // 1024} KiB; make room there"
        )
    if room.free_inodes is not None and room.free_inodes < files:
        raise RefusedError(
            f"{guest.boot.volume} has {room.free_inodes} inodes free, the graft needs {files};"
            " remove some files there"
        )


def _boot_check(guest: Guest, menu: bytes, choice: Choice, shim: PayloadFile) -> BootCheck:
    boot = guest.boot
    paths = (boot.prefix + shim.name, choice.kernel.path, choice.initrd)
    return BootCheck(
        menu=Target("boot", boot.volume, boot.menu.path),
        entry=grub.parse_menu(menu).default or 0,
        files=tuple(Target("boot", boot.volume, path) for path in paths),
    )


# What the user should know


def _menu_warnings(guest: Guest, menu: grub.Menu) -> Iterator[str]:
    boot = guest.boot
    for path in boot.other_menus:
        yield (
            f"{boot.volume}: /{path} is another file than /{boot.menu.path}; GRUB reads the latter,"
            " so only that is edited"
        )
    payload = guest.require_payload()
    for name in payload.skipped:
        yield f"{payload.name}: {name} in the shim directory is no regular file; left out"
    default = menu.boot_entry(boot.saved_default)
    for text, device in _named_devices(default):
        if device != guest.bios:
            yield (
                f"the default entry says {text}, but its files lie on"
                f" {device_text(guest.bios)}; the new entry says the latter"
            )
    if boot.missing_splash is not None:
        yield (
            f"{boot.volume}: the menu's splashimage /{boot.missing_splash} is not there; some"
            " builds of GRUB then wait for a key at every boot"
        )


def _named_devices(entry: grub.Entry | None) -> Iterator[tuple[str, grub.Device]]:
    """Give the disks and partitions that an entry's root and file commands name."""
    for command in entry.commands if entry else ():
        if command.name in {b"root", b"rootnoverify"}:
            device = grub.parse_device(command.argument)
        elif command.name in FILE_COMMANDS:
            prefix, _ = grub.split_path(file_argument(command.argument))
            device = grub.parse_device(prefix or b"")
        else:
            continue
        if device is not None:
            yield f"{command.name.decode()} {device_text(device)}", device


def _device_warnings(guest: Guest, choice: Choice, names: DiskNames) -> Iterator[str]:
    """Name every disk in the kernel's arguments and fstab that is not surely the right one."""
    arguments = f"the arguments of /{choice.kernel.path}"
    if not re.search(rb"(?<!\S)\"?root=", choice.arguments):
        yield f"{arguments} have no root=, so the kernel may not find its root file system"
    devices = [(arguments, "name", each) for each in argument_devices(choice.arguments)]
    fstab = guest.root.texts.get("etc/fstab") if guest.root else None
    if guest.root is not None and fstab is not None:
        where = f"{guest.root.volume}:/etc/fstab"
        devices += [(where, "names", each) for each in fstab_devices(fstab.content)]
    for where, verb, device in devices:
        problem = names.problem(device)
        if problem is not None:
            yield f"{where} {verb} {problem}"
        if guest.hd_names_assumed:
            for renamed in names.beyond_first(device):
                yield f"{where}: {renamed}, if the machine has its disks in that order"
