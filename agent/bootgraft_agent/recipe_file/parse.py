"""A recipe file's bytes to a checked recipe: every problem at once, each with its line. Pure.

The format is TOML 1.0.0, read by Python's tomllib; docs/recipes.md has every key.
"""

import hashlib
import re
import tomllib

from bootgraft_agent.recipe_file.bounds import MAX_SIZE
from bootgraft_agent.recipe_file.errors import RecipeError
from bootgraft_agent.recipe_file.model import LOOP_NAMES, Parameter, RecipeFile, Selector
from bootgraft_agent.recipe_file.parse_actions import MAX_ACTIONS, parse_actions, parse_selector
from bootgraft_agent.recipe_file.patterns import Pattern, PatternError, Work
from bootgraft_agent.recipe_file.positions import BoundError, Positions, find_positions
from bootgraft_agent.recipe_file.reader import Problems, Reader, short
from bootgraft_agent.recipe_file.settings import SETTINGS_WORK, value_problem
from bootgraft_agent.recipe_file.templates import NAME

VERSION = 1
MAX_PARAMETERS = 100

# Of files, and of what a plan calls its recipes.
RECIPE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_AT_LINE = re.compile(r" \(at line (?P<line>\d+), column \d+\)\Z")
# What tomllib says, and what is mostly meant; the words differ from Python to Python.
_HINTS = {
    "Unescaped '\\'": "; where it is meant as it is, use 'single quotes'",
    "after a statement": "; a text, as a mode is, stands in quotes",
}
_HEADER = re.compile(rb"(?m)^[ \t]*\[\[[ \t]*action[ \t]*\]\]")


def parse_recipe(data: bytes, name: str) -> RecipeFile:
    """Read and check a recipe file; name: what its problems are to call it.

    Raises RecipeError with all its problems.
    """
    document, positions = read_toml(data, name)
    problems = Problems(name, positions)
    recipe = _parse_document(Reader(document, (), problems), data, name)
    found = problems.texts()
    if found:
        raise RecipeError(found)
    return recipe


def read_toml(data: bytes, name: str) -> tuple[dict[str, object], Positions]:
    """Read TOML within bounds, and where its keys stand. Raises RecipeError."""
    if len(data) > MAX_SIZE:
        raise RecipeError([f"{name}: {len(data)} bytes; a recipe has at most {MAX_SIZE}"])
    actions = len(_HEADER.findall(data))
    if actions > MAX_ACTIONS:
        raise RecipeError([f"{name}: {actions} actions; a recipe has at most {MAX_ACTIONS}"])
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n")  # as some editors on Windows write
        positions = find_positions(text)
        return tomllib.loads(text), positions
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RecipeError([f"{name}:{line}: not UTF-8 text"]) from error
    except BoundError as error:
        raise RecipeError([f"{name}:{error.line}: {error}"]) from error
    except tomllib.TOMLDecodeError as error:
        raise RecipeError([_toml_problem(str(error), text, name)]) from error
    except (ValueError, RecursionError) as error:  # a number of too many digits; deep nesting
        raise RecipeError([f"{name}: cannot be read as TOML: {error}"]) from error


def _toml_problem(message: str, text: str, name: str) -> str:
    place = _AT_LINE.search(message)
    line = place["line"] if place else str(text.count("\n") + 1)
    hints = [hint for sign, hint in _HINTS.items() if sign in message]
    return f"{name}:{line}: not TOML: {_AT_LINE.sub('', message)}{''.join(hints)}"


def _parse_document(document: Reader, data: bytes, file_name: str) -> RecipeFile:
    check_version(document)
    name = document.text("name", required=True) or ""
    if name and not RECIPE_NAME.fullmatch(name):
        document.problem("name", "name may have letters, digits, `.`, `_` and `-`, 64 at most")
    description = document.text("description", required=True) or ""
    if not description.isprintable():
        document.problem("description", "description must be printable and a single line")
    notes = document.words("notes")
    if not all(each.isprintable() for each in notes):
        document.problem("notes", "notes must be printable, each a single line")
    parameters = _parse_parameters(document)
    names = [each.name for each in parameters]
    when = document.table_of("when")
    selector = Selector() if when is None else parse_selector(when, names)
    actions = parse_actions(document, names)
    document.finish()
    digest = hashlib.sha256(data).hexdigest()
    return RecipeFile(file_name, name, description, notes, parameters, selector, actions, digest)


def check_version(document: Reader) -> None:
    """Note a version other than the one that is known."""
    version = document.take("version", required=True)
    if version is not None and (version, type(version)) != (VERSION, int):
        document.problem(
            "version",
            f"version must be {VERSION}, the only one that is known, not {short(version)}",
        )


def _parse_parameters(document: Reader) -> tuple[Parameter, ...]:
    tables = document.table_of("parameters")
    if tables is None:
        return ()
    if len(tables.table) > MAX_PARAMETERS:
        document.problem("parameters", f"more than {MAX_PARAMETERS} parameters")
        return ()
    taken = {name for names in LOOP_NAMES.values() for name in names}
    found = []
    work = Work(SETTINGS_WORK)
    for name in tables.table:
        if not NAME.fullmatch(name) or name in taken:
            tables.problem(
                name,
                f"{short(name)} cannot name a parameter: a lower-case letter, then letters,"
                " digits, `-` and `_`; not interface, mac or kernel",
            )
        table = tables.table_of(name)
        if table is not None:
            found.append(_parse_parameter(name, table, work))
    return tuple(found)


def _parse_parameter(name: str, table: Reader, work: Work) -> Parameter:
    description = table.text("description", required=True) or ""
    default = table.text("default")
    if table.boolean("required") and default is not None:
        table.problem("required", "a required parameter has no default")
    elif default is None and not table.boolean("required"):
        table.problem("", f"parameter {name} needs a default, or required = true")
    pattern = table.text("pattern")
    parameter = Parameter(name, description, default, pattern, table.boolean("secret"))
    if pattern is not None:
        try:
            Pattern(pattern)
        except PatternError as error:
            table.problem("pattern", f"pattern is no pattern: {error}")
        else:
            problem = "" if default is None else value_problem(parameter, default, work)
            if problem:
                table.problem("default", f"the default {problem}")
    table.finish()
    return parameter
