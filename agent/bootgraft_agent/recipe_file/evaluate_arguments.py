"""The kernel's arguments in all the places where a guest's boot loader keeps them."""

from collections.abc import Callable
from functools import partial

from bootgraft_agent import grub
from bootgraft_agent.errors import RefusedError
from bootgraft_agent.recipe_file import argument_edits
from bootgraft_agent.recipe_file.argument_edits import ArgumentEdit
from bootgraft_agent.recipe_file.facts import LinuxFacts
from bootgraft_agent.recipe_file.model import GrubArguments, Texts
from bootgraft_agent.recipe_file.patterns import Work
from bootgraft_agent.recipe_file.text_lines import to_bytes, to_text
from bootgraft_agent.recipe_file.variable_edits import get_grubenv, get_shell
from bootgraft_agent.world import World

DEFAULT_GRUB = "/etc/default/grub"
KERNEL_COMMAND_LINE = "/etc/kernel/cmdline"
_MENUS = ("/boot/grub/menu.lst", "/boot/grub/grub.conf")
_ENVIRONMENTS = ("/boot/grub/grubenv", "/boot/grub2/grubenv")
_GENERATED = ("/boot/grub/grub.cfg", "/boot/grub2/grub.cfg")
_LOADERS = ("/boot/loader/entries", "/efi/loader/entries", "/boot/efi/loader/entries")
_COMMAND_LINES = (b"GRUB_CMDLINE_LINUX", b"GRUB_CMDLINE_LINUX_DEFAULT")
MAX_ENTRIES = 200
_BYTE_WORK = 100  # units of work for each byte of a text, see patterns.Work

Warn = Callable[[str], None]


def edit_arguments(
    action: GrubArguments,
    world: World,
    facts: LinuxFacts,
    lines: Callable[[Texts], tuple[bytes, ...]],
    warn: Warn,
    work: Work,
    reason: str,
) -> None:
    """Edit the arguments of the guest's kernels. Raises RefusedError, EditError.

    lines: gives texts with the parameters' values in them. reason: what the plan says.
    """
    edit = ArgumentEdit(
        add=lines(action.add),
        assign=tuple(
            zip(
                lines(tuple(name for name, _ in action.assign)),
                lines(tuple(value for _, value in action.assign)),
                strict=True,
            )
        ),
        remove=lines(action.remove),
    )
    _refuse_odd(edit)
    if facts.boot_loader == "grub-legacy":
        _edit_menus(action, edit, world, facts, warn, work, reason)
    elif facts.boot_loader in ("grub2", "systemd-boot"):
        _edit_configuration(action, edit, world, facts, warn, work, reason)
    else:
        raise RefusedError("the guest has no boot loader whose kernel arguments could be edited")


def _refuse_odd(edit: ArgumentEdit) -> None:
    """Refuse values that would end an argument, or mean something to a shell or a boot loader."""
    pairs = (name + b"=" + value for name, value in edit.assign)
    for argument in (*edit.add, *edit.remove, *pairs):
        if not argument or set(argument) & set(b" \t\"'\\$`\r\n"):
            raise RefusedError(
                f"{to_text(argument)[:80]!r} is no kernel argument: it is empty,"
                " or holds blanks, quotes, $ or \\"
            )


# GRUB legacy


def _edit_menus(
    action: GrubArguments,
    edit: ArgumentEdit,
    world: World,
    facts: LinuxFacts,
    warn: Warn,
    work: Work,
    reason: str,
) -> None:
    paths = dict.fromkeys(world.resolve(path) for path in _MENUS if world.exists(path))
    for path in paths:
        content = world.read(path)
        work.spend(_BYTE_WORK * len(content))
        change = edit
        if action.by_uuid:
            found = argument_edits.menu_devices(content)
            bare = {device for device, has_initrd in found if not has_initrd}
            named = [device for device, _ in found if device not in bare]
            for device in sorted(bare):
                warn(f"{device.decode()} stays in the menu: an entry without initrd names it")
            change = _with_devices(edit, named, world, facts, warn)
        new, odd = argument_edits.edit_menu(
            content,
            change.apply,
            default_only=action.entries == "default",
            saved=_saved_default(world),
        )
        for title in odd:
            warn(f"the menu's entry {title!r} stays: its line is joined from several, or odd")
        world.write(path, new, reason)


def _saved_default(world: World) -> int:
    path = "/boot/grub/default"
    return grub.parse_saved_default(world.read(path)) if world.exists(path) else 0


def _with_devices(
    edit: ArgumentEdit, named: list[bytes], world: World, facts: LinuxFacts, warn: Warn
) -> ArgumentEdit:
    root = to_bytes(facts.root_device) if facts.root_device else None
    devices, unknown = argument_edits.by_uuid(named, root, world.uuids())
    for device in unknown:
        warn(f"the UUID of {device} is not known; the kernel's argument stays as it is")
    return ArgumentEdit(edit.add, edit.assign, edit.remove, devices)


# GRUB 2 and systemd-boot


def _edit_configuration(
    action: GrubArguments,
    edit: ArgumentEdit,
    world: World,
    facts: LinuxFacts,
    warn: Warn,
    work: Work,
    reason: str,
) -> None:
    texts = _command_lines(world, facts)
    if not texts:
        raise RefusedError(
            f"the guest has no {DEFAULT_GRUB} and no boot loader entries, and a generated grub.cfg"
            " is left alone"
        )
    work.spend(_BYTE_WORK * sum(map(len, texts.values())))
    if action.by_uuid:
        named = [device for text in texts.values() for device in argument_edits.devices(text)]
        edit = _with_devices(edit, named, world, facts, warn)
    changes: dict[str, Callable[[bytes], bytes]] = {}
    for path in texts:
        if path == DEFAULT_GRUB:
            changes[path] = partial(
                argument_edits.edit_default_grub, edit=edit, variable=action.variable
            )
        elif path in _ENVIRONMENTS:
            changes[path] = partial(argument_edits.edit_grubenv, edit=edit.apply)
        elif path == KERNEL_COMMAND_LINE:
            changes[path] = partial(_edit_whole, edit=edit)
        else:
            changes[path] = partial(argument_edits.edit_loader_entry, edit=edit.apply)
    changed = [path for path in changes if _change(world, path, changes[path], reason)]
    generated = [path for path in _GENERATED if world.exists(path)]
    if DEFAULT_GRUB in changed and generated:
        warn(
            f"{' and '.join(generated)} is generated and was left alone; the new arguments are used"
            " once update-grub (grub2-mkconfig) has run in the guest"
        )


def _change(world: World, path: str, change: Callable[[bytes], bytes], reason: str) -> bool:
    content = world.read(path)
    new = change(content)
    world.write(path, new, reason)
    return new != content


def _edit_whole(data: bytes, edit: ArgumentEdit) -> bytes:
    text = data.rstrip(b"\r\n")
    return edit.apply(text) + data[len(text) :]


def _command_lines(world: World, facts: LinuxFacts) -> dict[str, bytes]:
    """Give the arguments in each file that has some, by path."""
    texts: dict[str, bytes] = {}
    if facts.boot_loader == "grub2":
        if world.exists(DEFAULT_GRUB):
            content = world.read(DEFAULT_GRUB)
            texts[DEFAULT_GRUB] = b" ".join(
                get_shell(content, name) or b"" for name in _COMMAND_LINES
            )
        for path in _ENVIRONMENTS:
            value = (
                get_grubenv(world.read(path), argument_edits.KERNEL_OPTIONS)
                if (world.exists(path))
                else None
            )
            if value is not None:
                texts[path] = value
    if world.exists(KERNEL_COMMAND_LINE):
        texts[KERNEL_COMMAND_LINE] = world.read(KERNEL_COMMAND_LINE)
    for directory in _LOADERS:
        if world.exists(directory):
            names = [name for name in world.names(directory) if name.endswith(".conf")]
            if len(names) > MAX_ENTRIES:
                raise RefusedError(f"{directory} has {len(names)} entries, more than {MAX_ENTRIES}")
            for name in names:
                content = world.read(f"{directory}/{name}")
                texts[f"{directory}/{name}"] = argument_edits.loader_arguments(content)
    return texts
