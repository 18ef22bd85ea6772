"""A recipe in words, for the person who is to accept it. Pure."""

from collections.abc import Iterable, Iterator, Mapping

from bootgraft_agent.recipe_file.model import (
    AnyAction,
    Copy,
    Count,
    Directory,
    Fstab,
    GrubArguments,
    Ini,
    Lines,
    Link,
    Missing,
    RecipeFile,
    Remove,
    Rename,
    Require,
    Selector,
    Values,
    Variables,
)
from bootgraft_agent.recipe_file.settings import shown_settings
from bootgraft_agent.recipe_file.templates import Template
from bootgraft_agent.text import printable

_LOOPS = {
    "interfaces": "for each network interface that the guest names, ",
    "kernels": "for each kernel in the guest's /boot, ",
}
_MISSING = {
    "refuse": "",
    "skip": "; where it is not there, nothing is done",
    "create": "; where it is not there, it is made",
}
_SHOWN = 200  # characters of a text


def explain(recipe: RecipeFile, settings: Mapping[str, str]) -> list[str]:
    """Say in words what a recipe does with these settings; a line for each thing."""
    values = shown_settings(recipe, settings)
    lines = [f"{recipe.name}: {recipe.description}"]
    for each in recipe.parameters:
        origin = "as set" if each.name in settings else "by default"
        text = (
            "must be set"
            if values[each.name] == f"<{each.name}>"
            else (f"{_quoted(values[each.name])}, {origin}")
        )
        lines.append(f"parameter {each.name} ({each.description}): {text}")
    words = _Words(values)
    conditions = list(words.conditions(recipe.when))
    lines.append("for guests " + " and ".join(conditions) if conditions else "for any Linux guest")
    lines += [f"{number}. {words.action(each)}" for number, each in enumerate(recipe.actions, 1)]
    lines += [f"note: {each}" for each in recipe.notes]
    return [printable(line).replace("\n", "\\n") for line in lines]


def _quoted(text: str) -> str:
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text)} characters)"
    return f'"{shown}"'


class _Words:
    """Finds words, with the parameters' values in their places."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = {
            **values,
            "interface": "{interface}",
            "mac": "{mac}",
            "kernel": "{kernel}",
        }

    def text(self, template: Template | None) -> str:
        return "" if template is None else template.fill(self._values)

    def quoted(self, template: Template | None) -> str:
        return _quoted(self.text(template))

    def listed(self, templates: Iterable[Template]) -> str:
        return ", ".join(map(self.quoted, templates))

    def pairs(self, values: Values) -> str:
        return ", ".join(f"{self.text(name)} to {self.quoted(value)}" for name, value in values)

    def conditions(self, selector: Selector) -> Iterator[str]:
        if selector.distribution:
            yield "of " + " or ".join(selector.distribution)
        if selector.distribution_version:
            tests = (" and ".join(map(str, each)) for each in selector.distribution_version)
            yield "of version " + " or ".join(tests)
        if selector.architecture:
            yield "for " + " or ".join(selector.architecture)
        if selector.boot_loader:
            yield "with the boot loader " + " or ".join(selector.boot_loader)
        if selector.root is not None:
            yield f"whose fstab has as / what matches {self.quoted(selector.root)}"
        if selector.present:
            yield f"that have {self.listed(selector.present)}"
        if selector.absent:
            yield f"that have no {self.listed(selector.absent)}"

    def action(self, action: AnyAction) -> str:
        loop = _LOOPS[action.for_each] if action.for_each else ""
        conditions = list(self.conditions(action.when)) if action.when else []
        only = f" (only for guests {' and '.join(conditions)})" if conditions else ""
        return f"{loop}{self._effect(action)}{only}"

    def _effect(self, action: AnyAction) -> str:  # noqa: PLR0911 - one for each kind
        match action:
            case Copy():
                return self._copy(action)
            case Remove():
                whole = " with everything in it, where it is a directory" * action.recursive
                return f"remove {self.text(action.path)}{whole}{_MISSING[action.missing]}"
            case Rename():
                over = ", over what is there" * action.replace
                to = self.text(action.to)
                return f"rename {self.text(action.path)} to {to}{over}{_MISSING[action.missing]}"
            case Link():
                over = ", in place of what is there" * action.replace
                return f"make {self.text(action.path)} a link to {self.text(action.to)}{over}"
            case Directory():
                return f"make the directory {self.text(action.path)}{self._owned(action)}"
            case Lines():
                return f"in {self.text(action.path)}, {self._lines(action)}" + _missing(
                    action.missing, action.mode
                )
            case Ini():
                section = self.quoted(action.section)
                return f"in {self.text(action.path)}, section {section}, " + (
                    self._assigned(action.assign, action.unset)
                    + _missing(action.missing, action.mode)
                )
            case Variables():
                return f"in {self.text(action.path)}, " + (
                    self._assigned(action.assign, action.unset)
                    + _missing(action.missing, action.mode)
                )
            case Fstab():
                return f"in {self.text(action.path)}, {self._fstab(action)}"
            case GrubArguments():
                return self._grub(action)
            case Require():
                return self._require(action)

    def _copy(self, action: Copy) -> str:
        what = (
            f"the text {self.quoted(action.content)}"
            if action.source is None
            else f"{self.text(action.source)} of the payload"
        )
        known = f" (SHA-256 {action.sha256[:12]}…)" if action.sha256 else ""
        over = ", over what is there" * action.replace
        return f"put {what}{known} at {self.text(action.path)}{self._owned(action)}{over}"

    def _owned(self, action: Copy | Directory) -> str:
        parts = []
        if action.mode is not None:
            parts.append(f"mode {action.mode:04o}")
        if action.owner is not None:
            parts.append(f"owner {self.text(action.owner)}")
        if action.group is not None:
            parts.append(f"group {self.text(action.group)}")
        return f" with {', '.join(parts)}" if parts else ""

    def _lines(self, action: Lines) -> str:
        within = ""
        if action.after is not None:
            within += f" after the line that matches {self.quoted(action.after)}"
        if action.before is not None:
            within += f" before the line that matches {self.quoted(action.before)}"
        if action.ensure:
            unless = f", unless a line matches {self.quoted(action.unless)}" * bool(action.unless)
            place = within or " at the end"
            be = "is" if len(action.ensure) == 1 else "are"
            return f"see to it that {self.listed(action.ensure)} {be} there{place}{unless}"
        lines = f"{_count(action.count)} that match{'es' * (action.count == 1)}"
        if action.remove is not None:
            return f"remove {lines} {self.quoted(action.remove)}{within}"
        return (
            f"in {lines} {self.quoted(action.replace)}{within}, put"
            f" {self.quoted(action.replacement)} in its place"
        )

    def _assigned(self, assign: Values, unset: Iterable[Template]) -> str:
        parts = []
        if assign:
            parts.append(f"set {self.pairs(assign)}")
        if unset:
            parts.append(f"take away {self.listed(unset)}")
        return " and ".join(parts)

    def _fstab(self, action: Fstab) -> str:
        if action.entry:
            return f"see to it that there is an entry with {self.pairs(action.entry)}"
        which = [
            f"{name} {self.quoted(template)}"
            for name, template in (
                ("device", action.device),
                ("mount point", action.mount_point),
                ("type", action.type),
            )
            if template is not None
        ]
        selected = (
            f"{_count(action.count, 'entry', 'entries')} with {' and '.join(which)}"
            if which
            else "all entries"
        )
        parts = []
        if action.delete:
            parts.append(f"remove {selected}")
        if action.assign:
            parts.append(f"set {self.pairs(action.assign)} in {selected}")
        if action.add_options:
            parts.append(f"add the options {self.listed(action.add_options)} to {selected}")
        if action.remove_options:
            parts.append(f"take the options {self.listed(action.remove_options)} from {selected}")
        if action.by_uuid:
            parts.append(f"name the devices of {selected} by UUID, where it is known")
        return ", and ".join(parts)

    def _grub(self, action: GrubArguments) -> str:
        which = "the default entry" if action.entries == "default" else "all entries"
        parts = []
        if action.remove:
            parts.append(f"take away {self.listed(action.remove)}")
        if action.assign:
            parts.append(f"set {self.pairs(action.assign)}")
        if action.add:
            parts.append(f"add {self.listed(action.add)}")
        if action.by_uuid:
            parts.append("name the devices of root= and resume= by UUID, where it is known")
        return f"in the kernel's arguments ({which} of the boot loader), {', and '.join(parts)}"

    def _require(self, action: Require) -> str:
        path = self.text(action.path)
        if not action.exists:
            return f"go on only if there is no {path}"
        parts = [f"there is a {path}"]
        if action.sha256:
            parts.append(f"its SHA-256 is {action.sha256}")
        if action.size is not None:
            parts.append(f"it has {action.size} bytes")
        if action.contains is not None:
            parts.append(f"a line of it matches {self.quoted(action.contains)}")
        return f"go on only if {' and '.join(parts)}"


def _missing(missing: Missing, mode: int | None) -> str:
    is_made = missing == "create" and mode is not None
    return _MISSING[missing] + (f" with mode {mode:04o}" if is_made else "")


def _count(count: Count, one: str = "line", many: str = "lines") -> str:
    match count:
        case "some":
            return f"the {many} (one at least)"
        case "any":
            return f"all {many}"
        case 1:
            return f"the one {one}"
        case _:
            return f"the {count} {many}"
