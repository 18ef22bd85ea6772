"""The recipe `hyperv-shim`: GRUB loads the shim, and the guest's Xen kernel as its module. Pure.

The new entry stands at the menu's end, so that every other entry keeps its number; see DESIGN's
chapter on the recipe for each step's reason.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from bootgraft_agent import device_map, grub
from bootgraft_agent.errors import AmbiguousError, RefusedError
from bootgraft_agent.files import TEMPORARY
from bootgraft_agent.guest import (
    FILE_COMMANDS,
    Guest,
    Kernel,
    PayloadFile,
    TextFile,
    file_argument,
    grub_path,
)
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

NAME = "hyperv-shim"
MARKER = b"bootgraft hyperv-shim"
TITLE = b"Hyper-V (bootgraft): "
MAX_TITLE = 60  # bytes; GRUB's menu is 74 columns wide
TIMEOUT = 15  # seconds: long enough to choose the old entry by hand
SPARE = 1024 * 1024  # bytes left over for directories, the manifest and the file system itself

_XEN_CONSOLE = re.compile(rb"(?<!\S)console=(?:xvc|hvc)\d+(?:,\S*)?(?!\S)")
_XEN_TTY = re.compile(rb"(?<![\w-])(?:xvc|hvc)0(?![\w-])")
_IGNORED_VERSION = re.compile(r"kdump|rescue|debug")
_BITNESS = {64: re.compile(r"64"), 32: re.compile(r"32|i[3-6]86|pae", re.IGNORECASE)}


@dataclass(frozen=True, slots=True)
class Choice:
    """The kernel to graft, with what its entry gives it."""

    kernel: Kernel
    initrd: str
    arguments: bytes
    title: bytes


def plan(guest: Guest, options: Options) -> Plan:
    """Decide every step. Raises RefusedError and AmbiguousError, with the candidates named."""
    warnings = list(guest.warnings)
    menu = grub.parse_menu(guest.boot.menu.content)
    choice = choose_kernel(guest, menu, options, warnings)
    shim = choose_shim(guest, choice.kernel, options)
    names = DiskNames(_choose_driver(guest, choice, options, warnings), guest.hd_names)
    warnings.extend(_menu_warnings(guest, menu))
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


# The kernel


def choose_kernel(guest: Guest, menu: grub.Menu, options: Options, warnings: list[str]) -> Choice:
    """Choose the kernel to graft, with its initrd and the arguments of its entry.

    The one asked for; else the one grafted before; else the default entry's; else the newest Xen
    kernel that has an initrd of its own.
    """
    ours = grub.find_marked_entry(menu.data, MARKER)
    default = menu.boot_entry(guest.boot.saved_default)
    if options.kernel is None:
        for entry in (ours, default):
            choice = _entry_choice(guest, entry)
            if choice is not None:
                return choice
        kernel = _newest_kernel(guest, default, warnings)
    else:
        kernel = _named_kernel(guest, options.kernel)
    for entry in (default, ours, *menu.entries):
        choice = _entry_choice(guest, entry)
        if choice is not None and choice.kernel.path == kernel.path:
            return choice
    return _without_entry(guest, kernel, default, warnings)


def _entry_choice(guest: Guest, entry: grub.Entry | None) -> Choice | None:
    """Take the Xen kernel out of an entry: its kernel, or the first module of a hypervisor's.

    None where the entry boots no Xen kernel that is there. Raises RefusedError where it boots one
    whose initrd is not there.
    """
    kernels = {kernel.path: kernel for kernel in guest.kernels if kernel.is_xen}
    commands = [each for each in entry.commands if each.name in FILE_COMMANDS] if entry else []
    for position, command in enumerate(commands):
        path = guest.boot.files[_path(command)]
        if entry is not None and path is not None and path in kernels:
            return Choice(
                kernel=kernels[path],
                initrd=_entry_initrd(guest, entry, kernels[path], commands[position + 1 :]),
                arguments=_arguments(command.argument),
                title=entry.title.removeprefix(TITLE),
            )
    return None


def _path(command: grub.Command) -> str:
    return grub_path(file_argument(command.argument))


def _arguments(argument: bytes) -> bytes:
    """Give what follows the file in a kernel or module command."""
    file = file_argument(argument)
    return argument[argument.index(file) + len(file) :].strip()


def _entry_initrd(
    guest: Guest, entry: grub.Entry, kernel: Kernel, following: Iterable[grub.Command]
) -> str:
    """Find the initrd that an entry gives its kernel, or else the kernel's own."""
    named = [_path(command) for command in following if command.name != b"kernel"]
    if not named:
        return _own_initrd(guest, kernel)
    initrd = guest.boot.files[named[0]]
    if initrd is None:
        raise RefusedError(
            f"{guest.boot.volume}: entry {entry.index} of the menu boots /{kernel.path} with the"
            f" initrd /{named[0]}, which is not there; name another kernel with --kernel"
        )
    return initrd


def _own_initrd(guest: Guest, kernel: Kernel) -> str:
    if kernel.initrd is None:
        raise RefusedError(
            f"{guest.boot.volume}: the kernel /{kernel.path} has no initrd of its own version"
            " beside it, and no entry of the menu names one; name another kernel with --kernel"
        )
    return kernel.initrd


def _named_kernel(guest: Guest, name: str) -> Kernel:
    wanted = name.strip("/")
    found = [each for each in guest.kernels if wanted in {each.path, each.path.rpartition("/")[2]}]
    if len(found) != 1:
        raise RefusedError(
            f"{guest.boot.volume}: no kernel is named {name}; found: {_kernel_list(guest)}"
        )
    if not found[0].is_xen:
        raise RefusedError(
            f"{guest.boot.volume}: /{found[0].path} is {_described(found[0])}, so the shim cannot"
            f" run it; found: {_kernel_list(guest)}"
        )
    return found[0]


def _newest_kernel(guest: Guest, default: grub.Entry | None, warnings: list[str]) -> Kernel:
    """Choose the newest Xen kernel that has an initrd, by version."""
    candidates = [
        kernel
        for kernel in guest.kernels
        if kernel.is_xen
        and kernel.initrd is not None
        and not _IGNORED_VERSION.search(kernel.version or "")
    ]
    if not candidates:
        raise RefusedError(
            f"{guest.boot.volume}: no Xen kernel with an initrd of its own was found; found:"
            f" {_kernel_list(guest)}"
        )
    newest = max(_version_key(kernel) for kernel in candidates)
    chosen = [kernel for kernel in candidates if _version_key(kernel) == newest]
    if len(chosen) > 1:
        raise AmbiguousError(
            f"{guest.boot.volume}: {' and '.join(f'/{each.path}' for each in chosen)} are equally"
            " new; name one with --kernel"
        )
    which = f"entry {default.index}" if default else "no entry"
    warnings.append(
        f"the default ({which}) boots no Xen kernel that is there; the newest one is taken:"
        f" /{chosen[0].path}"
    )
    return chosen[0]


def _version_key(kernel: Kernel) -> list[tuple[int, str]]:
    """Order versions as people do: numbers by value."""
    parts = re.findall(r"\d+|[^\d.\-_]+", kernel.version or "")
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _kernel_list(guest: Guest) -> str:
    described = [f"/{kernel.path} ({_described(kernel)})" for kernel in guest.kernels]
    return ", ".join(described) or "no kernel at all"


def _described(kernel: Kernel) -> str:
    if kernel.image.problem is not None:
        return kernel.image.problem
    initrd = "" if kernel.initrd else ", without an initrd of its own"
    return f"{'a Xen kernel' if kernel.image.xen else 'not a Xen kernel'}{initrd}"


def _without_entry(
    guest: Guest, kernel: Kernel, default: grub.Entry | None, warnings: list[str]
) -> Choice:
    """Graft a kernel that no entry boots: with its own initrd and the default entry's arguments."""
    commands = default.commands if default else ()
    arguments = (_arguments(each.argument) for each in commands if each.name in FILE_COMMANDS)
    chosen = next((each for each in arguments if b"root=" in each), b"")
    shown = chosen.decode("utf-8", "backslashreplace")
    warnings.append(
        f"no entry of the menu boots /{kernel.path}; it gets the default entry's arguments: {shown}"
    )
    return Choice(kernel, _own_initrd(guest, kernel), chosen, kernel.path.encode())


# The shim


def choose_shim(guest: Guest, kernel: Kernel, options: Options) -> PayloadFile:
    """Choose the multiboot file of the payload that the new entry loads."""
    files = guest.require_payload().files
    shims = [
        each for each in files if each.image.format == "multiboot" and each.image.problem is None
    ]
    listed = ", ".join(f"{each.name} ({_shim_word(each)})" for each in files)
    if options.shim is not None:
        named = [each for each in shims if options.shim in {each.name, each.source}]
        if len(named) != 1:
            raise RefusedError(f"the payload has no shim named {options.shim}; found: {listed}")
        return named[0]
    if not shims:
        raise RefusedError(
            f"no file of the payload's shim directory is a complete multiboot program: {listed};"
            " is this the Linux Integration Components ISO, and is it complete?"
        )
    fitting = [each for each in shims if _said_bits(each.name) in ({kernel.image.bits}, set())]
    if len(fitting) > 1:
        fitting = [each for each in fitting if _said_bits(each.name)]
    if len(fitting) == 1:
        return fitting[0]
    raise AmbiguousError(
        f"the kernel /{kernel.path} is a {kernel.image.bits}-bit one, and not exactly one shim says"
        f" in its name that it fits; name one with --shim; found: {listed}"
    )


def _shim_word(file: PayloadFile) -> str:
    if file.image.problem is not None:
        return file.image.problem
    return "multiboot" if file.image.format == "multiboot" else "not a multiboot program"


def _said_bits(name: str) -> set[int | None]:
    """Give the bitness that a name says; 64 where it says both, as in x86_64-pae32."""
    said: set[int | None] = {bits for bits, pattern in _BITNESS.items() if pattern.search(name)}
    return {64} if 64 in said else said


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
    """Give the step that edits a text, or none where nothing changes."""
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
    fstab = root.texts.get("etc/fstab")
    warnings.extend(
        f"{root.volume}:/etc/fstab names {device}, for which the machine has no IDE disk"
        for device in (names.unknown(fstab.content) if fstab else ())
    )


def translate_fstab(content: bytes, names: DiskNames) -> bytes:
    """Give the devices of an fstab, its first fields, their new names."""

    def line(match: re.Match[bytes]) -> bytes:
        return match[1] + names.translate(match[2])

    return re.sub(rb"(?m)^([ \t]*)([^#\s]\S*)", line, content)


def translate_inittab(content: bytes) -> bytes:
    """Let the login of Xen's console appear on the screen; where tty1 has one, switch it off."""
    lines = content.splitlines(keepends=True)
    active = [line for line in lines if not line.lstrip().startswith(b"#")]
    has_screen = any(re.search(rb"(?<!\w)tty1(?!\w)", line) for line in active)
    edited = []
    for line in lines:
        if line in active and _XEN_TTY.search(line):
            edited.append(b"#" + line if has_screen else _XEN_TTY.sub(b"tty1", line))
            has_screen = True
        else:
            edited.append(line)
    return b"".join(edited)


def translate_securetty(content: bytes) -> bytes:
    """Let root log in on tty1 where only Xen's console was listed."""
    if re.search(rb"(?m)^tty1\s*$", content):
        return content
    return _XEN_TTY.sub(b"tty1", content, count=1)


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
    arguments = _XEN_CONSOLE.sub(b"console=tty0", names.translate(choice.arguments))
    shim_arguments = (options.shim_args or "").encode()
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
            f"{boot.volume}: /{path} differs from /{boot.menu.path}; GRUB reads the latter, so"
            " only that is edited"
        )
    payload = guest.require_payload()
    for name in payload.skipped:
        yield f"{payload.name}: {name} in the shim directory is no regular file; left out"
    default = menu.boot_entry(boot.saved_default)
    for command in default.commands if default else ():
        device = grub.parse_device(command.argument) if command.name == b"root" else None
        if device is not None and device != guest.bios:
            yield (
                f"the default entry says root {device_text(device)}, but its files lie on"
                f" {device_text(guest.bios)}; the new entry says the latter"
            )
    if boot.missing_splash is not None:
        yield (
            f"{boot.volume}: the menu's splashimage /{boot.missing_splash} is not there; some"
            " builds of GRUB then wait for a key at every boot"
        )
