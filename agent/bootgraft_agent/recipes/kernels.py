"""Which kernel is grafted, with what its entry gave it: the user's choice, or the guest's. Pure."""

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

from bootgraft_agent import device_map, grub
from bootgraft_agent.errors import AmbiguousError, RefusedError
from bootgraft_agent.guest import FILE_COMMANDS, Guest, Kernel, file_argument, grub_path
from bootgraft_agent.plan import Options, readable
from bootgraft_agent.recipes.guest_texts import argument_devices
from bootgraft_agent.recipes.shims import is_shim

MARKER = b"bootgraft hyperv-shim"  # of our entry in the menu
TITLE = b"Hyper-V (bootgraft): "  # before the title of the entry that it was made from

_NODE = re.compile(rb"/dev/(?P<driver>hd|sd)[a-z]")
_IGNORED_VERSION = re.compile(r"kdump|rescue|debug")


@dataclass(frozen=True, slots=True)
class Choice:
    """The kernel to graft, with what its entry gives it."""

    kernel: Kernel
    initrd: str
    arguments: bytes
    title: bytes


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
        choice = _entry_choice(guest, entry, kernel)
        if choice is not None:
            return choice
    return _without_entry(guest, kernel, default, warnings)


def _entry_choice(
    guest: Guest, entry: grub.Entry | None, wanted: Kernel | None = None
) -> Choice | None:
    """Take the Xen kernel out of an entry: its kernel, or the first module of a hypervisor's.

    None where the entry boots no Xen kernel that is there, or not the wanted one. Raises
    RefusedError where it boots one whose initrd is not there.
    """
    candidates = guest.kernels if wanted is None else (wanted,)
    kernels = {kernel.path: kernel for kernel in candidates if kernel.is_xen}
    commands = _loading_commands(entry)
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


def _loading_commands(entry: grub.Entry | None) -> list[grub.Command]:
    """List the commands that name files, from the last `kernel` on: GRUB forgets the earlier."""
    commands = [each for each in entry.commands if each.name in FILE_COMMANDS] if entry else []
    kernels = [number for number, each in enumerate(commands) if each.name == b"kernel"]
    return commands[kernels[-1] :] if kernels else commands


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
    arguments = (_arguments(each.argument) for each in _loading_commands(default))
    chosen = next((each for each in arguments if b"root=" in each), b"")
    warnings.append(
        f"no entry of the menu boots /{kernel.path}; it gets the default entry's arguments:"
        f" {readable(chosen)}"
    )
    return Choice(kernel, _own_initrd(guest, kernel), chosen, kernel.path.encode())


# What an earlier graft chose


def with_earlier(guest: Guest, menu: grub.Menu, choice: Choice, options: Options) -> Options:
    """Fill the options that the user left open from our own entry, where it boots that kernel."""
    ours = grub.find_marked_entry(menu.data, MARKER)
    earlier = _entry_choice(guest, ours)
    loaders = [each for each in _loading_commands(ours) if each.name == b"kernel"]
    if earlier is None or earlier.kernel != choice.kernel or not loaders:
        return options
    earlier_options = Options(
        shim=_earlier_shim(guest, loaders[0]),
        shim_args=_arguments(loaders[0].argument).decode("utf-8", "surrogateescape"),
        guest_disk=_earlier_disk(guest, earlier),
    )
    given = {name: value for name, value in asdict(options).items() if value is not None}
    return replace(earlier_options, **given)


def _earlier_shim(guest: Guest, loader: grub.Command) -> str | None:
    name = _path(loader).removeprefix(guest.boot.prefix)
    shims = [each.name for each in guest.require_payload().files if is_shim(each)]
    return name if name in shims else None


def _earlier_disk(guest: Guest, earlier: Choice) -> str | None:
    """Give the driver that the entry's root= stands for, or else the device map."""
    node = _NODE.search(b" ".join(argument_devices(earlier.arguments)))
    if node is None and guest.boot.device_map is not None:
        lines = device_map.parse_device_map(guest.boot.device_map.content).lines
        drive = f"hd{guest.bios.drive}".encode()
        node = _NODE.match(b"".join(line.device for line in lines if line.drive == drive))
    return f"{node['driver'].decode()}a" if node else None
