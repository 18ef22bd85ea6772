"""A recipe on a guest: its actions, in order, as changes of a World. Nothing is written.

Where the guest is not as an action needs it, RefusedError names the recipe's line and says why.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace

from bootgraft_agent.errors import RefusedError
from bootgraft_agent.recipe_file import fstab_edits, ini_edits, line_edits, variable_edits
from bootgraft_agent.recipe_file.evaluate_arguments import edit_arguments
from bootgraft_agent.recipe_file.facts import LinuxFacts, loop_values, read_facts
from bootgraft_agent.recipe_file.line_edits import Anchors
from bootgraft_agent.recipe_file.model import (
    AnyAction,
    Copy,
    Directory,
    Fstab,
    GrubArguments,
    Ini,
    Lines,
    Link,
    RecipeFile,
    Remove,
    Rename,
    Require,
    Texts,
    Values,
    Variables,
)
from bootgraft_agent.recipe_file.patterns import Pattern, Work, escape
from bootgraft_agent.recipe_file.reader import path_problem
from bootgraft_agent.recipe_file.selectors import mismatches
from bootgraft_agent.recipe_file.settings import check_settings, secret_values
from bootgraft_agent.recipe_file.templates import Template, parse_template
from bootgraft_agent.recipe_file.text_lines import EditError, check_count, to_bytes
from bootgraft_agent.recipe_source import PayloadDirectory
from bootgraft_agent.states import Attributes
from bootgraft_agent.text import printable
from bootgraft_agent.world import World

MAX_LINE = 4096  # characters of a line made from parameters
# Units of work, see patterns.Work; measured on the slowest texts of their kind.
_ACTION_WORK = 5000  # what one action costs, besides its texts
_BYTE_WORK = 20  # what an edit costs for each byte of the text
_HASHED_BYTES = 40  # that are hashed in one unit
_NUMBER = re.compile(r"\d{1,9}")

Edit = Callable[[bytes], bytes]


def evaluate(
    recipe: RecipeFile,
    settings: Mapping[str, str],
    files: PayloadDirectory,
    world: World,
    warnings: list[str],
) -> None:
    """Change the World as a recipe says, with these parameters; what it copies is in `files`.

    Raises RecipeError for wrong parameters, RefusedError where the guest is none that the recipe
    is for, or not as an action needs it.
    """
    values = check_settings(recipe, settings)
    for secret in secret_values(recipe, values):
        world.hide(secret)
    work = Work()
    facts = read_facts(world)
    differences = list(mismatches(recipe.when, facts, world, values, work))
    if differences:
        raise RefusedError(
            f"the recipe {recipe.name} is not for this guest: {'; '.join(differences)}"
        )
    warnings += [f"{recipe.name}: {each}" for each in recipe.notes]
    for action in recipe.actions:
        for turn in loop_values(facts, action.for_each):
            each = _Turn(recipe, files, world, warnings, facts, work, {**values, **turn})
            each.carry_out(action)


class _Turn:
    """One action with the values of one turn of its loop."""

    def __init__(
        self,
        recipe: RecipeFile,
        files: PayloadDirectory,
        world: World,
        warnings: list[str],
        facts: LinuxFacts,
        work: Work,
        values: Mapping[str, str],
    ) -> None:
        self._recipe = recipe
        self._files = files
        self._world = world
        self._warnings = warnings
        self._facts = facts
        self._work = work
        self._values = values

    def carry_out(self, action: AnyAction) -> None:
        """Carry an action out, if it is meant for this guest. Raises RefusedError."""
        self._work.spend(_ACTION_WORK)
        try:
            if isinstance(action, GrubArguments) and self._facts.boot_problem:
                raise RefusedError(f"kernel arguments: {self._facts.boot_problem}")
            if action.when is not None and any(
                mismatches(action.when, self._facts, self._world, self._values, self._work)
            ):
                return
            self._act(action)
        except EditError as error:
            raise self._refused(action, f"{self._path_of(action)}: {error}") from error
        except RefusedError as error:
            raise self._refused(action, str(error)) from error
        except OSError as error:
            raise self._refused(action, f"{error.filename}: {error.strerror}") from error

    def _refused(self, action: AnyAction, problem: str) -> RefusedError:
        where = f"{self._recipe.file_name}:{action.line}"
        return RefusedError(printable(f"recipe {self._recipe.name}, {where}: {problem}"))

    def _path_of(self, action: AnyAction) -> str:
        return (
            "the kernel's arguments"
            if isinstance(action, GrubArguments)
            else (self._text(action.path))
        )

    def _act(self, action: AnyAction) -> None:
        if isinstance(action, GrubArguments):
            edit_arguments(
                action,
                self._world,
                self._facts,
                self._lines,
                self._warn,
                self._work,
                self._reason("kernel arguments"),
            )
            return
        path = self._guest_path(action.path)
        match action:
            case Copy():
                self._copy(action, path)
            case Remove():
                self._remove(action, path)
            case Rename():
                self._rename(action, path)
            case Link():
                self._make_parents(path, wanted=action.parents)
                self._world.link(
                    path, self._line(action.to), self._reason("link"), replace=action.replace
                )
            case Directory():
                self._directory(action, path)
            case Lines():
                self._edit(path, action, self._lines_edit(action), "lines")
            case Ini():
                self._edit(path, action, self._ini_edit(action), "keys")
            case Variables():
                self._edit(path, action, self._variables_edit(action), "variables")
            case Fstab():
                self._fstab(action, path)
            case Require():
                self._require(action, path)

    # Values

    def _text(self, template: Template) -> str:
        return template.fill(self._values)

    def _line(self, template: Template) -> str:
        text = self._text(template)
        if "\n" in text or "\r" in text or "\0" in text or len(text) > MAX_LINE:
            raise RefusedError(
                f"{str(template)[:80]!r} with its parameters is not a single line of at most"
                f" {MAX_LINE} characters"
            )
        return text

    def _lines(self, templates: Texts) -> tuple[bytes, ...]:
        return tuple(to_bytes(self._line(each)) for each in templates)

    def _pairs(self, values: Values) -> list[tuple[bytes, bytes]]:
        return [(to_bytes(self._line(name)), to_bytes(self._line(each))) for name, each in values]

    def _guest_path(self, template: Template) -> str:
        path = self._text(template)
        problem = path_problem(path, absolute=True)
        if problem:
            raise RefusedError(f"with the parameters' values, a path {problem}")
        return path

    def _pattern(self, template: Template | None, form: str = "{}") -> Pattern | None:
        if template is None:
            return None
        pattern = Pattern(form.format(template.fill(self._values, escape)))
        self._work.spend(pattern.cost)
        return pattern

    def _count(self, data: bytes) -> bytes:
        """Count the work of one edit of a text."""
        self._work.spend(_BYTE_WORK * len(data))
        return data

    def _counted(self, edit: Edit) -> Edit:
        return lambda data: edit(self._count(data))

    def _reason(self, what: str) -> str:
        return f"{self._recipe.name}: {what}"

    def _warn(self, warning: str) -> None:
        text = f"{self._recipe.name}: {warning}"
        if text not in self._warnings:
            self._warnings.append(text)

    # Files, links and directories

    def _copy(self, action: Copy, path: str) -> None:
        self._make_parents(path, wanted=action.parents)
        if action.source is None:
            content = to_bytes(self._text(action.content or parse_template("")))
            self._write_new(action, path, content)
            return
        source = self._text(action.source)
        problem = path_problem(source, absolute=False)
        if problem:
            raise RefusedError(f"with the parameters' values, a source {problem}")
        if self._files.kind(source) != "directory":
            self._copy_file(action, path, source)
            return
        if action.sha256:
            raise RefusedError(f"{source} of the payload is a directory; sha256 is for a file")
        self._world.make_directory(path, None, self._reason(f"copy {source}"))
        for inner, kind in self._files.walk(source):
            self._work.spend(_ACTION_WORK)
            if kind == "directory":
                self._world.make_directory(f"{path}/{inner}", None, self._reason("copy"))
            else:
                self._copy_file(action, f"{path}/{inner}", f"{source}/{inner}")

    def _copy_file(self, action: Copy, path: str, source: str) -> None:
        ref = self._files.ref(source)
        self._work.spend(ref.size // _HASHED_BYTES)
        if action.sha256 and ref.sha256 != action.sha256:
            raise RefusedError(
                f"{source} of the payload has the SHA-256 {ref.sha256}, not {action.sha256}"
            )
        attributes = self._attributes(action, path)
        self._world.copy(
            path, ref, attributes, replace=action.replace, reason=self._reason(f"copy {source}")
        )

    def _write_new(self, action: Copy, path: str, content: bytes) -> None:
        """Write a text of the recipe's own."""
        is_there = self._world.kind(path) is not None and not action.replace
        if is_there and self._world.read(path) != content:
            raise RefusedError(
                f"{path} is there already, with another content; let the recipe replace it, or"
                " name another path"
            )
        attributes = self._attributes(action, path)
        self._world.write(path, content, self._reason("a text of the recipe"), attributes)

    def _attributes(self, action: Copy | Directory, path: str) -> Attributes | None:
        """Give the attributes that are asked for; None for those of what is there or beside it."""
        if action.mode is None and action.owner is None and action.group is None:
            return None
        kind = "directory" if isinstance(action, Directory) else "file"
        base = self._present_attributes(path) or (
            self._world.new_attributes(path, "directory" if kind == "directory" else "file")
        )
        uid = self._number(action.owner, "/etc/passwd", "user")
        gid = self._number(action.group, "/etc/group", "group")
        return replace(
            base,
            mode=base.mode if action.mode is None else action.mode,
            uid=base.uid if uid is None else uid,
            gid=base.gid if gid is None else gid,
        )

    def _present_attributes(self, path: str) -> Attributes | None:
        if self._world.kind(path) is None:
            return None
        try:
            return self._world.attributes(self._world.resolve(path))
        except OSError as error:
            raise RefusedError(f"{path} is a link that leads to nothing") from error

    def _number(self, template: Template | None, database: str, what: str) -> int | None:
        """Give an owner's number: as it is, or from the guest's own list of names."""
        if template is None:
            return None
        name = self._line(template)
        if _NUMBER.fullmatch(name):
            return int(name)
        text = self._world.read(database) if self._world.exists(database) else b""
        self._work.spend(len(text))
        for line in text.split(b"\n"):
            fields = line.split(b":")
            if len(fields) > 2 and fields[0] == to_bytes(name) and fields[2].isdigit():
                return int(fields[2][:10])
        raise RefusedError(f"the guest's {database} has no {what} {name!r}; give its number")

    def _make_parents(self, path: str, *, wanted: bool) -> None:
        parents = path.split("/")[1:-1]
        for count in range(1, len(parents) + 1 if wanted else 0):
            parent = "/" + "/".join(parents[:count])
            if not self._world.exists(parent):
                self._world.make_directory(parent, None, self._reason("directory"))

    def _directory(self, action: Directory, path: str) -> None:
        self._make_parents(path, wanted=action.parents)
        attributes = self._attributes(action, path)
        self._world.make_directory(path, attributes, self._reason("directory"))

    def _remove(self, action: Remove, path: str) -> None:
        kind = self._kind_or_skip(path, action.missing)
        if kind is None:
            return
        if kind == "directory" and not action.recursive and self._world.names(path):
            raise RefusedError(f"{path} is a directory with files in it; say recursive = true")
        self._world.remove(path, self._reason("remove"))

    def _rename(self, action: Rename, path: str) -> None:
        to = self._guest_path(action.to)
        if self._kind_or_skip(path, action.missing) is None:
            return
        there = self._world.kind(to)
        if there is not None and action.replace:
            if there not in ("file", "link"):
                raise RefusedError(f"{to} is a {there}, which rename does not replace")
            self._world.remove(to, self._reason("rename"))
        self._world.rename(path, to, self._reason("rename"))

    def _kind_or_skip(self, path: str, missing: str) -> str | None:
        kind = self._world.kind(path)
        if kind is None and missing != "skip":
            raise RefusedError(f'{path} is not there; say missing = "skip" where that may be')
        return kind

    # Texts

    def _edit(self, path: str, action: Lines | Ini | Variables, edit: Edit, what: str) -> None:
        if self._world.exists(path):
            content = self._world.read(path)
            attributes = None
        elif action.missing == "skip":
            return
        elif action.missing == "create":
            content = b""
            attributes = self._mode_of_new(path, action.mode)
        else:
            raise RefusedError(f'{path} is not there; say missing = "skip" where that may be')
        changed = edit(content)
        if changed != content or not self._world.exists(path):
            self._world.write(path, changed, self._reason(what), attributes)

    def _mode_of_new(self, path: str, mode: int | None) -> Attributes | None:
        if mode is None:
            return None
        return replace(self._world.new_attributes(path, "file"), mode=mode)

    def _lines_edit(self, action: Lines) -> Edit:
        anchors = Anchors(self._pattern(action.after), self._pattern(action.before))
        if action.ensure:
            wanted = self._lines(action.ensure)
            unless = self._pattern(action.unless)
            return self._counted(
                lambda data: (
                    data
                    if unless is not None and line_edits.has_line(data, unless, self._work)
                    else line_edits.ensure_lines(data, wanted, anchors, self._work)
                )
            )
        count = action.count
        remove, pattern = self._pattern(action.remove), self._pattern(action.replace)
        if remove is not None:
            return self._counted(
                lambda data: line_edits.remove_lines(data, remove, anchors, count, self._work)
            )
        if pattern is None or action.replacement is None:
            raise RefusedError("the recipe says no edit")
        self._line(action.replacement)
        new = line_edits.expand(action.replacement, self._values)
        return self._counted(
            lambda data: line_edits.replace_in_lines(data, pattern, new, anchors, count, self._work)
        )

    def _ini_edit(self, action: Ini) -> Edit:
        section = to_bytes(self._line(action.section))
        assign, unset = self._pairs(action.assign), self._lines(action.unset)

        def edit(data: bytes) -> bytes:
            for name in unset:
                data = ini_edits.unset_key(self._count(data), section, name)
            for name, value in assign:
                data = ini_edits.set_key(self._count(data), section, name, value)
            return data

        return edit

    def _variables_edit(self, action: Variables) -> Edit:
        set_one, unset_one = {
            "shell": (variable_edits.set_shell, variable_edits.unset_shell),
            "plain": (variable_edits.set_plain, variable_edits.unset_plain),
            "grubenv": (variable_edits.set_grubenv, variable_edits.unset_grubenv),
        }[action.style]
        assign, unset = self._pairs(action.assign), self._lines(action.unset)

        def edit(data: bytes) -> bytes:
            for name in unset:
                data = unset_one(self._count(data), name)
            for name, value in assign:
                data = set_one(self._count(data), name, value)
            return data

        return edit

    def _fstab(self, action: Fstab, path: str) -> None:
        content = self._count(self._world.read(path))
        self._world.write(path, self._edit_fstab(action, content), self._reason("entries"))

    def _edit_fstab(self, action: Fstab, content: bytes) -> bytes:
        if action.entry:
            return fstab_edits.ensure_entry(content, self._fields(action.entry))
        device = self._pattern(action.device, "^(?:{})$")
        chosen = [
            entry
            for entry in fstab_edits.entries(content)
            if device is None or device.matches(entry.field("device"), self._work)
            if self._is_chosen(action, entry)
        ]
        check_count(len(chosen), action.count, "entries are selected")
        if action.delete:
            return fstab_edits.delete_entries(content, chosen)
        content = fstab_edits.set_fields(content, chosen, self._fields(action.assign))
        places = {each.place for each in chosen}
        chosen = [each for each in fstab_edits.entries(content) if each.place in places]
        add, remove = self._lines(action.add_options), self._lines(action.remove_options)
        if add or remove:
            content = fstab_edits.edit_options(content, chosen, add, remove)
        if action.by_uuid:
            content, unknown = fstab_edits.name_by_uuid(content, chosen, self._world.uuids())
            for name in unknown:
                self._warn(f"the UUID of {name} is not known; fstab's line stays as it is")
        return content

    def _fields(self, values: Values) -> dict[str, bytes]:
        return {name.decode(): value for name, value in self._pairs(values)}

    def _is_chosen(self, action: Fstab, entry: fstab_edits.Entry) -> bool:
        return all(
            template is None or to_bytes(self._line(template)) == entry.field(name)
            for name, template in (("mount_point", action.mount_point), ("type", action.type))
        )

    # Preconditions

    def _require(self, action: Require, path: str) -> None:
        problem = self._unfulfilled(action, path)
        if problem:
            message = f"{self._line(action.message)} ({problem})" if action.message else problem
            raise RefusedError(message)

    def _unfulfilled(self, action: Require, path: str) -> str:
        if not action.exists:
            return f"there is a {path}" if self._world.kind(path) is not None else ""
        if not self._world.exists(path):
            return f"there is no {path}"
        if action.size is not None and self._world.size(path) != action.size:
            return f"{path} has {self._world.size(path)} bytes, not {action.size}"
        if action.sha256:
            self._work.spend(self._world.size(path) // _HASHED_BYTES)
            found = self._world.digest(path)
            if found != action.sha256:
                return f"{path} has the SHA-256 {found}, not {action.sha256}"
        pattern = self._pattern(action.contains)
        if pattern is not None and not line_edits.has_line(
            self._world.read(path), pattern, self._work
        ):
            return f"no line of {path} matches {pattern.text}"
        return ""
