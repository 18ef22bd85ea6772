"""Checked access to a TOML table: every problem is noted with its line, and reading goes on."""

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

from bootgraft_agent.recipe_file.model import Count, Texts, Values
from bootgraft_agent.recipe_file.patterns import Pattern, PatternError
from bootgraft_agent.recipe_file.positions import Path, Positions
from bootgraft_agent.recipe_file.templates import Template, parse_template

MAX_TEXT = 64 * 1024  # characters of a value
MAX_LIST = 1000  # values of a list or a table
MAX_PATH = 1024
MAX_COUNT = 100_000
MAX_PROBLEMS = 50  # to be shown

_MODE = re.compile(r"0?[0-7]{3}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NOTHING = Template(("",))

_T = TypeVar("_T")


class Problems:
    """The problems of one file."""

    def __init__(self, file_name: str, positions: Positions) -> None:
        self._file_name = file_name
        self._positions = positions
        self._found: list[tuple[int, str]] = []

    def add(self, path: Path, problem: str) -> None:
        """Note a problem of a key."""
        self._found.append((self._positions.line(path), problem))

    def line(self, path: Path) -> int:
        """Give the line of a key."""
        return self._positions.line(path)

    def texts(self) -> list[str]:
        """Give the problems as text, in the order of the lines."""
        ordered = list(dict.fromkeys(sorted(self._found)))
        lines = [f"{self._file_name}:{line}: {text}" for line, text in ordered[:MAX_PROBLEMS]]
        if len(ordered) > MAX_PROBLEMS:
            lines.append(f"{self._file_name}: and {len(ordered) - MAX_PROBLEMS} problems more")
        return lines


class Reader:
    """One table. names: the placeholders that it may use; known: the keys that were asked for."""

    def __init__(
        self, table: Mapping[str, object], path: Path, problems: Problems, names: Iterable[str] = ()
    ) -> None:
        self.table = table
        self.path = path
        self.problems = problems
        self.names = frozenset(names)
        self.known: dict[str, None] = {}

    def problem(self, key: str, text: str) -> None:
        """Note a problem of one of the table's keys."""
        self.problems.add((*self.path, key) if key else self.path, text)

    def has(self, key: str) -> bool:
        """Say whether a key is given."""
        return key in self.table

    def finish(self) -> None:
        """Note every key that nobody has asked for."""
        for key in self.table:
            if key not in self.known:
                known = ", ".join(self.known)
                self.problem(key, f"unknown key {short(key)}; known here: {known}")

    def take(self, key: str, *, required: bool = False) -> object:
        """Give a value as it is, None where there is none."""
        self.known[key] = None
        if required and key not in self.table:
            self.problem("", f"the key {key} is missing")
        return self.table.get(key)

    def _typed(self, key: str, kind: type[_T], word: str, *, required: bool) -> _T | None:
        value = self.take(key, required=required)
        if value is None or (isinstance(value, kind) and not _is_stray_bool(value, kind)):
            return value
        self.problem(key, f"{key} must be {word}, not {short(value)}")
        return None

    def text(self, key: str, *, required: bool = False) -> str | None:
        """Give a text."""
        value = self._typed(key, str, "a text in quotes", required=required)
        if value is not None and len(value) > MAX_TEXT:
            self.problem(key, f"{key} has {len(value)} characters; at most {MAX_TEXT} are allowed")
            return None
        return value

    def boolean(self, key: str) -> bool:
        """Give a truth value, false where none is given."""
        return bool(self._typed(key, bool, "true or false", required=False))

    def truth(self, key: str, *, default: bool) -> bool:
        """Give a truth value with a default."""
        value = self._typed(key, bool, "true or false", required=False)
        return default if value is None else value

    def integer(self, key: str) -> int | None:
        """Give a number that is not negative."""
        value = self._typed(key, int, "a number", required=False)
        if value is not None and not 0 <= value < 1 << 62:
            self.problem(key, f"{key} is out of range")
            return None
        return value

    def choice(self, key: str, choices: Iterable[str], default: str) -> str:
        """Give one of several words."""
        value = self.text(key)
        if value is None:
            return default
        if value not in choices:
            self.problem(key, f"{key} must be one of {', '.join(choices)}, not {short(value)}")
            return default
        return value

    def words(self, key: str) -> tuple[str, ...]:
        """Give a list of texts; one text is a list, too."""
        value = self.take(key)
        if value is None:
            return ()
        found = value if isinstance(value, list) else [value]
        if not found or not all(isinstance(each, str) for each in found):
            self.problem(key, f"{key} must be a text or a list of texts, not {short(value)}")
            return ()
        if len(found) > MAX_LIST or any(len(each) > MAX_TEXT for each in found):
            self.problem(key, f"{key} has more than {MAX_LIST} texts, or too long ones")
            return ()
        return tuple(found)

    def count(self, default: Count) -> Count:
        """Give how many times an edit must find its place."""
        value = self.take("count")
        if value is None:
            return default
        if value == "some":
            return "some"
        if value == "any":
            return "any"
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT:
            return value
        self.problem("count", f'count must be a number, "some" or "any", not {short(value)}')
        return default

    def mode(self, key: str = "mode") -> int | None:
        """Give permissions, which are written as octal text."""
        value = self.text(key)
        if value is None:
            return None
        if not _MODE.fullmatch(value):
            self.problem(key, f'{key} must be octal as "0644", not {short(value)}')
            return None
        return int(value, 8)

    def digest(self) -> str | None:
        """Give a SHA-256."""
        value = self.text("sha256")
        if value is not None and not _SHA256.fullmatch(value):
            self.problem("sha256", "sha256 must be 64 hexadecimal digits in lower case")
            return None
        return value

    def template(self, key: str, *, required: bool = False) -> Template | None:
        """Give a text with placeholders, which may have several lines."""
        value = self.text(key, required=required)
        return None if value is None else self._template(key, value)

    def _template(self, key: str, value: str) -> Template:
        if "\0" in value:
            self.problem(key, f"{key} holds a zero byte")
        template = parse_template(value)
        for name in template.names:
            if name not in self.names:
                self.problem(
                    key,
                    f"{key} has the placeholder {{{name}}}, which nothing here gives a value;"
                    f" write {{{{{name}}} for the text itself",
                )
        return template

    def line(self, key: str, *, required: bool = False) -> Template | None:
        """Give a text with placeholders that is a single line."""
        template = self.template(key, required=required)
        if template is not None:
            self._check_line(key, template)
        return template

    def _check_line(self, key: str, template: Template) -> None:
        if any("\n" in part or "\r" in part for part in template.parts):
            self.problem(key, f"{key} must be a single line")

    def lines(self, key: str) -> Texts:
        """Give lines with placeholders."""
        templates = tuple(self._template(key, each) for each in self.words(key))
        for template in templates:
            self._check_line(key, template)
        return templates

    def owner(self, key: str) -> Template | None:
        """Give a user's or group's name or number."""
        if isinstance(self.table.get(key), int):
            number = self.integer(key)
            self.known[key] = None
            return None if number is None else Template((str(number),))
        return self.line(key)

    def values(self, key: str) -> Values:
        """Give a table of lines with placeholders."""
        table = self.take(key)
        if table is None:
            return ()
        if not isinstance(table, dict) or not table or len(table) > MAX_LIST:
            self.problem(key, f'{key} must be a table such as {{ NAME = "value" }}')
            return ()
        inner = Reader(table, (*self.path, key), self.problems, self.names)
        found = []
        for name in table:
            value = inner.line(name)
            if not name or "\n" in name:
                inner.problem(name, f"{key} has a name that is empty or not a single line")
            found.append((inner._template(name, name), value or _NOTHING))
        return tuple(found)

    def table_of(self, key: str) -> "Reader | None":
        """Give a table inside this one."""
        value = self._typed(key, dict, "a table", required=False)
        if value is None:
            return None
        return Reader(value, (*self.path, key), self.problems, self.names)

    def guest_path(self, key: str, default: str | None = None) -> Template:
        """Give a path of the guest: absolute, without `..`."""
        if default is not None and key not in self.table:
            self.known[key] = None
            return parse_template(default)
        template = self.line(key, required=True)
        if template is None:
            return _NOTHING
        self._check_path(key, template)
        return template

    def _check_path(self, key: str, template: Template, *, absolute: bool = True) -> None:
        """Check a path as far as it is known; with its values it is checked once more."""
        text = str(template)
        known = f"/{text}" if absolute and text.startswith("{") and not template.parts[0] else text
        problem = path_problem(known, absolute=absolute)
        if problem:
            self.problem(key, f"{key} {problem}")

    def guest_paths(self, key: str) -> Texts:
        """Give paths of the guest."""
        templates = self.lines(key)
        for template in templates:
            self._check_path(key, template)
        return templates

    def source_path(self, key: str) -> Template | None:
        """Give a path of the payload: relative to the recipe's directory, never out of it."""
        template = self.line(key)
        if template is not None:
            self._check_path(key, template, absolute=False)
        return template

    def pattern(self, key: str, *, required: bool = False) -> Template | None:
        """Give a pattern, in which values of placeholders stand for themselves."""
        template = self.line(key, required=required)
        if template is not None and "\b" in str(template):
            self.problem(
                key, f"{key} holds a backspace, as \\b means in double quotes; use 'single' ones"
            )
        elif template is not None:
            try:
                Pattern(template.fill(dict.fromkeys(template.names, "x")))
            except PatternError as error:
                self.problem(key, f"{key} is no pattern: {error}")
                return None
        return template

    def one_of(self, kind: str, keys: Iterable[str], at_least: int = 1) -> None:
        """Note where not exactly one of some keys is given."""
        given = [key for key in keys if key in self.table]
        if len(given) < at_least or len(given) > 1:
            listed = ", ".join(keys)
            found = f"{' and '.join(given)} are" if given else "none of them is"
            self.problem("", f"{kind} takes one of {listed}; {found} given")


def path_problem(path: str, *, absolute: bool) -> str:
    """Say what is wrong with a path, "" where nothing is."""
    components = path.split("/")
    problems: dict[str, bool] = {
        f"must be an absolute path of the guest, not {short(path)}": absolute
        and not path.startswith("/"),
        f"must be a path beside the recipe, without a first slash, not {short(path)}": not absolute
        and (path.startswith("/") or not path),
        f"must not hold `..` or `.`: {short(path)}": ".." in components or "." in components,
        f"must not hold two slashes in a row, or end in one: {short(path)}": "" in components[1:],
        f"has more than {MAX_PATH} characters": len(path) > MAX_PATH,
        "must be printable and a single line": not path.isprintable(),
    }
    return next((problem for problem, applies in problems.items() if applies), "")


def _is_stray_bool(value: object, kind: type) -> bool:
    return kind is int and isinstance(value, bool)


def short(value: object) -> str:
    """Show a value in few words, harmlessly."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, int) and abs(value) >= 1 << 64:
        return "a number beyond all bounds"
    if not isinstance(value, str):
        return str(value)[:60]
    return ascii(value[:60]) + ("…" if len(value) > 60 else "")
