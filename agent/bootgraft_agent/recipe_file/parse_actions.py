"""The selectors and actions of a recipe file, checked. Pure; docs/recipes.md has every key."""

import re
from collections.abc import Callable, Iterable, Mapping

from bootgraft_agent.recipe_file.model import (
    BOOT_LOADERS,
    LOOP_NAMES,
    AnyAction,
    Copy,
    Directory,
    ForEach,
    Fstab,
    GrubArguments,
    Ini,
    Lines,
    Link,
    Missing,
    Remove,
    Rename,
    Require,
    Selector,
    Style,
    Variables,
    VersionTest,
)
from bootgraft_agent.recipe_file.patterns import Pattern
from bootgraft_agent.recipe_file.reader import Reader, short

MAX_ACTIONS = 1000
MAX_SOURCES = 100  # copies from the payload; a directory is one
FSTAB_FIELDS = ("device", "mount_point", "type", "options", "dump", "pass")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_VERSION = re.compile(r"(?P<comparison>>=|<=|<|>|=|)\s*(?P<version>\d{1,9}(?:\.\d{1,9}){0,5})")


def parse_selector(table: Reader, names: Iterable[str]) -> Selector:
    """Read what chooses guests. names: the placeholders that its texts may have."""
    table.names = frozenset(names)
    versions = tuple(_parse_version(table, each) for each in table.words("distribution_version"))
    boot_loaders = table.words("boot_loader")
    for each in boot_loaders:
        if each not in BOOT_LOADERS:
            table.problem("boot_loader", f"boot_loader must be of {', '.join(BOOT_LOADERS)}")
    selector = Selector(
        distribution=table.words("distribution"),
        distribution_version=versions,
        architecture=table.words("architecture"),
        boot_loader=boot_loaders,
        root=table.pattern("root"),
        present=table.guest_paths("present"),
        absent=table.guest_paths("absent"),
    )
    table.finish()
    return selector


def _parse_version(table: Reader, text: str) -> tuple[VersionTest, ...]:
    tests = []
    for part in text.split(","):
        match = _VERSION.fullmatch(part.strip())
        if match is None:
            table.problem(
                "distribution_version",
                f'distribution_version must be as "12", ">=10" or ">=10, <13", not {short(text)}',
            )
        else:
            version = tuple(int(number) for number in match["version"].split("."))
            tests.append(VersionTest(match["comparison"] or "=", version))
    return tuple(tests)


def parse_actions(document: Reader, names: Iterable[str]) -> tuple[AnyAction, ...]:
    """Read all actions of a document. names: of its parameters."""
    tables = document.take("action", required=True)
    if tables is None:
        return ()
    if not isinstance(tables, list) or not all(isinstance(each, dict) for each in tables):
        document.problem("action", "actions are tables, each below a line [[action]]")
        return ()
    if len(tables) > MAX_ACTIONS:
        document.problem("action", f"{len(tables)} actions; a recipe has at most {MAX_ACTIONS}")
        return ()
    readers = (
        Reader(table, ("action", number), document.problems) for number, table in enumerate(tables)
    )
    parsed = (_parse_action(reader, names) for reader in readers)
    actions = tuple(action for action in parsed if action is not None)
    if sum(isinstance(each, Copy) and each.source is not None for each in actions) > MAX_SOURCES:
        document.problem("action", f"more than {MAX_SOURCES} files and directories to copy")
    return actions


def _parse_action(table: Reader, names: Iterable[str]) -> AnyAction | None:
    do = table.text("do", required=True)
    if do is None:
        return None
    parse = PARSERS.get(do)
    if parse is None:
        table.problem("do", f"do must be one of {', '.join(PARSERS)}, not {short(do)}")
        return None
    for_each = _parse_for_each(table)
    table.names = frozenset({*names, *(LOOP_NAMES[for_each] if for_each else ())})
    inner = table.table_of("when")
    when = None if inner is None else parse_selector(inner, table.names)
    action = parse(table, Common(table.problems.line(table.path), for_each, when))
    table.finish()
    return action


class Common:
    """What every action has."""

    def __init__(self, line: int, for_each: ForEach | None, when: Selector | None) -> None:
        self.line = line
        self.for_each = for_each
        self.when = when


def _parse_for_each(table: Reader) -> ForEach | None:
    match table.choice("for_each", tuple(LOOP_NAMES), ""):
        case "interfaces":
            return "interfaces"
        case "kernels":
            return "kernels"
    return None


def _parse_missing(table: Reader, *, creates: bool = False) -> Missing:
    match table.choice("missing", ("refuse", "skip", "create")[: 3 if creates else 2], "refuse"):
        case "skip":
            return "skip"
        case "create":
            return "create"
    return "refuse"


def _parse_copy(table: Reader, common: Common) -> Copy:
    table.one_of("copy", ("source", "content"))
    source = table.source_path("source")
    digest = table.digest()
    if digest and table.has("content"):
        table.problem("sha256", "sha256 is for a source, not for content")
    return Copy(
        line=common.line,
        for_each=common.for_each,
        when=common.when,
        path=table.guest_path("path"),
        source=source,
        content=table.template("content"),
        mode=table.mode(),
        owner=table.owner("owner"),
        group=table.owner("group"),
        replace=table.boolean("replace"),
        parents=table.boolean("parents"),
        sha256=digest,
    )


def _parse_remove(table: Reader, common: Common) -> Remove:
    return Remove(
        line=common.line,
        for_each=common.for_each,
        when=common.when,
        path=table.guest_path("path"),
        recursive=table.boolean("recursive"),
        missing=_parse_missing(table),
    )


def _parse_rename(table: Reader, common: Common) -> Rename:
    return Rename(
        line=common.line,
        for_each=common.for_each,
        when=common.when,
        path=table.guest_path("path"),
        to=table.guest_path("to"),
        replace=table.boolean("replace"),
        missing=_parse_missing(table),
    )


def _parse_link(table: Reader, common: Common) -> Link:
    to = table.line("to", required=True)
    if to is not None and not str(to):
        table.problem("to", "to is empty: a link must lead somewhere")
    return Link(
        line=common.line,
        for_each=common.for_each,
        when=common.when,
        path=table.guest_path("path"),
        to=to or table.guest_path("path"),
        replace=table.boolean("replace"),
        parents=table.boolean("parents"),
    )


def _parse_directory(table: Reader, common: Common) -> Directory:
    return Directory(
        line=common.line,
        for_each=common.for_each,
        when=common.when,
        path=table.guest_path("path"),
        mode=table.mode(),
        owner=table.owner("owner"),
        group=table.owner("group"),
        parents=table.boolean("parents"),
    )


def _parse_lines(table: Reader, common: Common) -> Lines:
    table.one_of("lines", ("ensure", "remove", "replace"))
    if table.has("replace") != table.has("with"):
        table.problem("", "lines takes replace and with together, or neither")
    if table.has("ensure") and table.has("count"):
        table.problem("count", "count is for remove and replace")
    if table.has("unless") and not table.has("ensure"):
        table.problem("unless", "unless is for ensure")
    replace = table.pattern("replace")
    replacement = table.line("with")
    if replace is not None and replacement is not None:
        problem = _replacement_problem(str(replacement), Pattern(_probe(replace)).groups)
        if problem:
            table.problem("with", problem)
    return Lines(
        line=common.line,
        for_each=common.for_each,
        when=common.when,
        path=table.guest_path("path"),
        ensure=table.lines("ensure"),
        unless=table.pattern("unless"),
        remove=table.pattern("remove"),
        replace=replace,
        replacement=replacement,
        after=table.pattern("after"),
        before=table.pattern("before"),
        count=table.count(1),
        missing=_parse_missing(table, creates=table.has("ensure")),
        mode=table.mode(),
    )


def _probe(pattern: object) -> str:
    return re.sub(r"\{[a-z][a-z0-9_-]*\}", "x", str(pattern))


def _replacement_problem(text: str, groups: int) -> str:
    """Say what is wrong with a replacement: `\\1` to `\\9`, `\\0` for all, `\\\\` for itself."""
    for match in re.finditer(r"\\(.?)", text):
        if not (match[1].isascii() and match[1].isdigit()) and match[1] != "\\":
            return "with may have a backslash before a group's number or another backslash only"
        if match[1] != "\\" and int(match[1]) > groups:
            return f"with names the group \\{match[1]}, and replace has {groups}"
    return ""


def _parse_ini(table: Reader, common: Common) -> Ini:
    _need_an_edit(table, "ini", ("set", "unset"))
    section = table.line("section", required=True)
    if section is not None and "]" in str(section):
        table.problem("section", "section is the name without brackets")
    return Ini(
        line=common.line,
        for_each=common.for_each,
        when=common.when,
        path=table.guest_path("path"),
        section=section or table.guest_path("path"),
        assign=table.values("set"),
        unset=table.lines("unset"),
        missing=_parse_missing(table, creates=True),
        mode=table.mode(),
    )


def _parse_variables(table: Reader, common: Common) -> Variables:
    _need_an_edit(table, "variables", ("set", "unset"))
    style: Style = "shell"
    match table.choice("style", ("shell", "plain", "grubenv"), "shell"):
        case "plain":
            style = "plain"
        case "grubenv":
            style = "grubenv"
    action = Variables(
        line=common.line,
        for_each=common.for_each,
        when=common.when,
        path=table.guest_path("path"),
        style=style,
        assign=table.values("set"),
        unset=table.lines("unset"),
        missing=_parse_missing(table, creates=True),
        mode=table.mode(),
    )
    for name in (*(pair[0] for pair in action.assign), *action.unset):
        if style != "plain" and not name.names and not _VARIABLE.fullmatch(str(name)):
            table.problem("set", f"{short(str(name))} is no name of a variable")
    return action


def _need_an_edit(table: Reader, kind: str, keys: Iterable[str]) -> None:
    if not any(table.has(key) for key in keys):
        table.problem("", f"{kind} takes at least one of {', '.join(keys)}")


def _parse_fstab(table: Reader, common: Common) -> Fstab:
    edits = ("set", "add_options", "remove_options", "delete", "by_uuid")
    _need_an_edit(table, "fstab", (*edits, "entry"))
    if table.has("entry") and any(table.has(key) for key in (*edits, "count")):
        table.problem("entry", "entry stands alone: it says all fields of one line")
    if table.boolean("delete") and any(table.has(key) for key in edits if key != "delete"):
        table.problem("delete", "delete stands alone")
    action = Fstab(
        line=common.line,
        for_each=common.for_each,
        when=common.when,
        path=table.guest_path("path", "/etc/fstab"),
        device=table.pattern("device"),
        mount_point=table.line("mount_point"),
        type=table.line("type"),
        assign=table.values("set"),
        add_options=table.lines("add_options"),
        remove_options=table.lines("remove_options"),
        delete=table.boolean("delete"),
        by_uuid=table.boolean("by_uuid"),
        entry=table.values("entry"),
        count=table.count("any" if table.has("by_uuid") else 1),
    )
    for key, values in (("set", action.assign), ("entry", action.entry)):
        for name, _ in values:
            if str(name) not in FSTAB_FIELDS:
                table.problem(key, f"{key} has fields of {', '.join(FSTAB_FIELDS)}")
    given = {str(name) for name, _ in action.entry}
    if action.entry and not given >= {"device", "mount_point", "type"}:
        table.problem("entry", "entry needs device, mount_point and type")
    return action


def _parse_grub_arguments(table: Reader, common: Common) -> GrubArguments:
    _need_an_edit(table, "grub-arguments", ("add", "set", "remove", "by_uuid"))
    variable = table.text("variable") or "GRUB_CMDLINE_LINUX"
    if not _VARIABLE.fullmatch(variable):
        table.problem("variable", "variable must be a name of /etc/default/grub")
    entries = table.choice("entries", ("all", "default"), "all")
    action = GrubArguments(
        line=common.line,
        for_each=common.for_each,
        when=common.when,
        add=table.lines("add"),
        assign=table.values("set"),
        remove=table.lines("remove"),
        by_uuid=table.boolean("by_uuid"),
        variable=variable,
        entries="default" if entries == "default" else "all",
    )
    for key, templates in (("add", action.add), ("remove", action.remove)):
        for each in templates:
            if not str(each) or any(character in str(each) for character in " \t\"'\\$`"):
                table.problem(key, f"{key} has whole arguments, without blanks, quotes, $ or \\")
    added = {str(each).partition("=")[0] for each in action.add}
    for name, _ in action.assign:
        if str(name) in added:
            table.problem("set", f"{short(str(name))} is in add, too; set takes others away")
    return action


def _parse_require(table: Reader, common: Common) -> Require:
    exists = table.truth("exists", default=True)
    tests = ("sha256", "size", "contains")
    if not exists and any(table.has(key) for key in tests):
        table.problem("exists", "what must not exist has no sha256, size or content")
    return Require(
        line=common.line,
        for_each=common.for_each,
        when=common.when,
        path=table.guest_path("path"),
        exists=exists,
        sha256=table.digest(),
        size=table.integer("size"),
        contains=table.pattern("contains"),
        message=table.line("message"),
    )


PARSERS: Mapping[str, Callable[[Reader, Common], AnyAction]] = {
    "copy": _parse_copy,
    "remove": _parse_remove,
    "rename": _parse_rename,
    "link": _parse_link,
    "directory": _parse_directory,
    "lines": _parse_lines,
    "ini": _parse_ini,
    "variables": _parse_variables,
    "fstab": _parse_fstab,
    "grub-arguments": _parse_grub_arguments,
    "require": _parse_require,
}
