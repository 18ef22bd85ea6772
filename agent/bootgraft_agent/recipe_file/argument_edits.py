"""The kernel's arguments, wherever a boot loader keeps them. Pure.

GRUB legacy's menu: the `kernel` line of an entry, or its first `module` line where a hypervisor or
shim is the kernel; and update-grub's `# kopt=`. GRUB 2: /etc/default/grub, and `kernelopts` in its
environment block. Boot Loader Specification: the `options` lines of an entry.

Sources: Linux, Documentation/admin-guide/kernel-parameters.rst (quotes, and what stands after --);
The Boot Loader Specification; Debian's update-grub of GRUB 0.97.
"""

import re
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass

from bootgraft_agent import grub
from bootgraft_agent.recipe_file.fstab_edits import CHANGING_NAME
from bootgraft_agent.recipe_file.text_lines import (
    EditError,
    body,
    line_end,
    split_lines,
    to_text,
)
from bootgraft_agent.recipe_file.variable_edits import (
    get_grubenv,
    get_shell,
    set_grubenv,
    set_shell,
)

KERNEL_OPTIONS = b"kernelopts"
_ARGUMENT = re.compile(rb"(?:[^\s\"]++|\"[^\"\n]*+\"?)++")
_KERNEL_LINE = re.compile(rb"[ \t]*(?:kernel|module)[ \t=]+(?:--\S+[ \t]+)*[^ \t]+")
_KERNEL_FILE = re.compile(rb"vmlinu|bzimage|kernel|linux", re.IGNORECASE)
_KOPT = re.compile(rb"(?m)^# kopt=(?P<arguments>[^\r\n]*)")
_OPTIONS = re.compile(rb"options[ \t]+(?P<arguments>.*)", re.DOTALL)

Editor = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class ArgumentEdit:
    """What becomes of arguments.

    add: whole arguments that shall be there. assign: names with the value that shall be theirs
    alone. remove: names, or whole arguments where they have an `=`. devices: what root= and
    resume= are to name in the place of kernel names.
    """

    add: tuple[bytes, ...] = ()
    assign: tuple[tuple[bytes, bytes], ...] = ()
    remove: tuple[bytes, ...] = ()
    devices: tuple[tuple[bytes, bytes], ...] = ()

    def apply(self, arguments: bytes) -> bytes:
        """Edit arguments; a second time changes nothing."""
        wanted = {*self.add, *(name + b"=" + value for name, value in self.assign)}
        for argument in self.remove:
            arguments = _without(arguments, _is_meant(argument, wanted))
        for name, value in self.assign:
            arguments = _assign(arguments, name, value)
        for argument in self.add:
            if argument not in _words(arguments):
                arguments = _append(arguments, argument)
        return self._renamed(arguments)

    def trim(self, arguments: bytes) -> bytes:
        """Edit what is there already, and add nothing."""
        names = {each.partition(b"=")[0] for each in _words(arguments)}
        assign = tuple(each for each in self.assign if each[0] in names)
        return ArgumentEdit((), assign, self.remove, self.devices).apply(arguments)

    def _renamed(self, arguments: bytes) -> bytes:
        new = dict(self.devices)

        def rename(match: re.Match[bytes]) -> bytes:
            name, sign, device = match[0].partition(b"=")
            if name in (b"root", b"resume") and device in new:
                return name + sign + new[device]
            return match[0]

        return _ARGUMENT.sub(rename, arguments)


def _words(arguments: bytes) -> list[bytes]:
    return _ARGUMENT.findall(_for_kernel(arguments))


def _for_kernel(arguments: bytes) -> bytes:
    """Give what the kernel takes for itself; behind a lone -- it is for init."""
    end = re.search(rb"(?<!\S)--(?!\S)", arguments)
    return arguments[: end.start()] if end else arguments


def _is_meant(unwanted: bytes, wanted: Container[bytes]) -> Callable[[bytes], bool]:
    def test(argument: bytes) -> bool:
        name = argument if b"=" in unwanted else argument.partition(b"=")[0]
        return name == unwanted and argument not in wanted

    return test


def _without(arguments: bytes, test: Callable[[bytes], bool]) -> bytes:
    """Take arguments away, each with the blanks before it (behind it, for the first)."""
    for match in reversed(list(_ARGUMENT.finditer(_for_kernel(arguments)))):
        if test(match[0]):
            before, after = arguments[: match.start()], arguments[match.end() :]
            if before.strip():
                arguments = before.rstrip(b" \t") + after
            else:
                arguments = before + after.lstrip(b" \t")
    return arguments


def _assign(arguments: bytes, name: bytes, value: bytes) -> bytes:
    """Have one argument of that name: in the place of the first, or behind all others."""
    wanted = name + b"=" + value
    found = [
        match
        for match in _ARGUMENT.finditer(_for_kernel(arguments))
        if match[0].partition(b"=")[0] == name
    ]
    if [match[0] for match in found] == [wanted]:
        return arguments
    if not found:
        return _append(arguments, wanted)
    first = found[0]
    head, tail = arguments[: first.start()], arguments[first.end() :]
    return head + wanted + _rest_without(tail, name)


def _rest_without(tail: bytes, name: bytes) -> bytes:
    marked = b"x" + tail  # so that what is taken away is never the first
    return _without(marked, lambda each: each.partition(b"=")[0] == name)[1:]


def _append(arguments: bytes, argument: bytes) -> bytes:
    """Put an argument behind all others. Raises EditError where it would be in a value's quotes."""
    kernel = _for_kernel(arguments)
    if kernel.count(b'"') % 2:
        raise EditError(f"a quote is never closed, so {to_text(argument)} has no place behind it")
    rest = arguments[len(kernel) :]
    kept = kernel.rstrip()
    blanks = kernel[len(kept) :] if kept or rest else b""
    new = kept + b" " * bool(kept) + argument
    return new + (blanks or b" " * bool(rest)) + rest


# GRUB legacy


def edit_menu(
    data: bytes, edit: Editor, *, default_only: bool, saved: int
) -> tuple[bytes, list[str]]:
    """Edit the arguments of a menu's Linux entries, and update-grub's options for new ones.

    saved: the entry that `default saved` means. Gives also the titles of the entries whose line
    is joined from several, which stay.
    """
    odd: list[str] = []
    menu = grub.parse_menu(data)
    default = menu.boot_entry(saved)
    chosen = menu.entries if not default_only else [default] if default else []
    for entry in reversed(chosen):
        command = _linux_line(entry)
        line = data[command.start : command.end] if command else b""
        if _is_odd(line):
            odd.append(to_text(entry.title))
        elif command is not None:
            data = data[: command.start] + _edit_menu_line(line, edit) + data[command.end :]
    if not default_only:
        data = _KOPT.sub(lambda match: _edit_kopt(match, edit), data)
    return data, odd[::-1]


def menu_devices(data: bytes) -> list[tuple[bytes, bool]]:
    """List what root= and resume= name in a menu's entries, and whether such an entry has an
    initrd, without which a UUID means nothing to a kernel.
    """
    found = []
    for entry in grub.parse_menu(data).entries:
        command = _linux_line(entry)
        if command is not None:
            names = [each.name for each in entry.commands]
            modules = names.count(b"module")
            has_initrd = b"initrd" in names or modules > 1
            found += [(device, has_initrd) for device in devices(command.argument)]
    return found


def _linux_line(entry: grub.Entry) -> grub.Command | None:
    """Find the line that hands arguments to Linux; None for memory tests and chain loaders."""
    modules = [each for each in entry.commands if each.name == b"module"]
    if modules:
        return modules[0]
    kernels = [each for each in entry.commands if each.name == b"kernel"]
    for command in kernels[-1:]:
        words = [word for word in command.argument.split() if not word.startswith(b"--")]
        if words and _KERNEL_FILE.search(words[0].rpartition(b"/")[2]):
            return command
    return None


def _is_odd(line: bytes) -> bool:
    """Tell whether a line is joined from several, holds bytes that GRUB skips, or an open quote."""
    text = body(line)
    is_open = text.count(b'"') % 2 == 1
    return b"\n" in text or b"\r" in text or text.endswith(b"\\") or is_open


def _edit_menu_line(line: bytes, edit: Editor) -> bytes:
    text = body(line)
    start = _KERNEL_LINE.match(text)
    if start is None:
        return line
    arguments = text[start.end() :]
    kept = arguments.lstrip(b" \t")
    changed = edit(kept)
    if changed == kept:
        return line
    blanks = arguments[: len(arguments) - len(kept)] or b" "
    return start[0] + (blanks if changed else b"") + changed + line_end(line)


def _edit_kopt(match: re.Match[bytes], edit: Editor) -> bytes:
    return b"# kopt=" + edit(match["arguments"])


# GRUB 2 and the Boot Loader Specification


def edit_default_grub(data: bytes, edit: ArgumentEdit, variable: str) -> bytes:
    """Edit /etc/default/grub: new arguments go to one variable, and both are trimmed.

    Raises EditError for values that only a shell can tell.
    """
    name = variable.encode()
    elsewhere: set[bytes] = set()
    for other in (b"GRUB_CMDLINE_LINUX", b"GRUB_CMDLINE_LINUX_DEFAULT"):
        value = get_shell(data, other) if other != name else None
        if value is not None:
            trimmed = edit.trim(value)
            elsewhere.update(_words(trimmed))
            data = data if trimmed == value else set_shell(data, other, trimmed)
    names = {each.partition(b"=")[0] for each in elsewhere}
    rest = ArgumentEdit(
        add=tuple(each for each in edit.add if each not in elsewhere),
        assign=tuple(each for each in edit.assign if each[0] not in names),
        remove=edit.remove,
        devices=edit.devices,
    )
    value = get_shell(data, name)
    changed = rest.apply(value or b"")
    if changed == (value or b""):
        return data
    return set_shell(data, name, changed)


def edit_grubenv(data: bytes, edit: Editor) -> bytes:
    """Edit `kernelopts` of GRUB's environment, where it is set. Raises EditError."""
    value = get_grubenv(data, KERNEL_OPTIONS)
    if value is None or edit(value) == value:
        return data
    return set_grubenv(data, KERNEL_OPTIONS, edit(value))


def edit_loader_entry(data: bytes, edit: Editor) -> bytes:
    """Edit the last `options` line of a boot loader entry; one is added where there is none.

    Lines that take GRUB's `$kernelopts` are left to that.
    """
    lines = split_lines(data)
    places = [place for place, line in enumerate(lines) if _OPTIONS.match(body(line))]
    if any(b"$kernelopts" in lines[place] for place in places):
        return data
    if not places:
        new = edit(b"")
        end = b"\n" if data and not data.endswith(b"\n") else b""
        return data + end + b"options " + new + b"\n" if new else data
    line = lines[places[-1]]
    match = _OPTIONS.match(body(line))
    if match is not None:
        start = match.start("arguments")
        lines[places[-1]] = line[:start] + edit(match["arguments"]) + line_end(line)
    return b"".join(lines)


def loader_arguments(data: bytes) -> bytes:
    """Give the arguments of a boot loader entry."""
    found = (_OPTIONS.match(body(line)) for line in split_lines(data))
    return b" ".join(match["arguments"] for match in found if match)


def devices(arguments: bytes) -> list[bytes]:
    """List what root= and resume= name, as far as another hypervisor changes it."""
    pairs = (each.partition(b"=") for each in _words(arguments))
    named = (value for name, _, value in pairs if name in (b"root", b"resume"))
    return [each for each in named if CHANGING_NAME.fullmatch(each)]


def by_uuid(
    named: Sequence[bytes], root: bytes | None, uuids: Mapping[str, str]
) -> tuple[tuple[tuple[bytes, bytes], ...], list[str]]:
    """Give the UUIDs for devices, and the devices whose UUID is not known.

    root: the device that is mounted at `/`, whose UUID is the one of that mount point.
    """
    known = []
    unknown = []
    for device in dict.fromkeys(named):
        uuid = uuids.get("/") if device == root else uuids.get(to_text(device))
        if uuid is None:
            unknown.append(to_text(device))
        else:
            known.append((device, b"UUID=" + uuid.encode()))
    return tuple(known), unknown
