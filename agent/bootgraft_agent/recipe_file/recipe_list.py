"""/recipes.toml of a payload: which recipes a run has, in which order, with which parameters. Pure.

A recipe is named (one of the library, or hyperv-shim) or is a file beside the list.
"""

from dataclasses import dataclass

from bootgraft_agent.recipe_file.errors import RecipeError
from bootgraft_agent.recipe_file.parse import RECIPE_NAME, check_version, read_toml
from bootgraft_agent.recipe_file.reader import MAX_TEXT, Problems, Reader, short

MAX_RECIPES = 100


@dataclass(frozen=True, slots=True)
class Listed:
    """One recipe of a list: name or file is given, the other None. line: where the list has it."""

    name: str | None
    file: str | None  # relative to the list's directory
    settings: dict[str, str]
    line: int


def parse_recipe_list(data: bytes, name: str) -> tuple[Listed, ...]:
    """Read and check a list of recipes; name: what its problems are to call it.

    Raises RecipeError with all its problems.
    """
    values, positions = read_toml(data, name)
    problems = Problems(name, positions)
    document = Reader(values, (), problems)
    check_version(document)
    tables = document.take("recipe", required=True)
    document.finish()
    listed: list[Listed] = []
    if isinstance(tables, list) and all(isinstance(each, dict) for each in tables):
        if not 0 < len(tables) <= MAX_RECIPES:
            document.problem("recipe", f"a list has 1 to {MAX_RECIPES} recipes, not {len(tables)}")
        else:
            readers = (
                Reader(each, ("recipe", number), problems) for number, each in enumerate(tables)
            )
            listed = [_parse_listed(reader) for reader in readers]
    elif tables is not None:
        document.problem("recipe", "recipes are tables, each below a line [[recipe]]")
    found = problems.texts()
    if found:
        raise RecipeError(found)
    return tuple(listed)


def _parse_listed(table: Reader) -> Listed:
    table.one_of("recipe", ("name", "file"))
    name = table.text("name")
    if name is not None and not RECIPE_NAME.fullmatch(name):
        table.problem("name", f"{short(name)} is no recipe's name")
    file = table.source_path("file")
    settings = table.table_of("set")
    given = {} if settings is None else _parse_settings(settings)
    table.finish()
    return Listed(name, None if file is None else str(file), given, table.problems.line(table.path))


def _parse_settings(table: Reader) -> dict[str, str]:
    given = {}
    for name, value in table.table.items():
        if isinstance(value, str) and len(value) <= MAX_TEXT:
            given[name] = value
        else:
            table.problem(name, f"{short(name)} must be a text in quotes of at most {MAX_TEXT}")
    return given
