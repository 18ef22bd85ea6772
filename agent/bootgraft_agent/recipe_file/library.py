"""The recipes that come along, ready to be used by their names."""

from functools import cache
from pathlib import Path

from bootgraft_agent.recipe_file.model import RecipeFile
from bootgraft_agent.recipe_file.parse import parse_recipe

_DIRECTORY = Path(__file__).with_name("library")


@cache
def library() -> dict[str, RecipeFile]:
    """Give the library's recipes by name; a file is named like its recipe."""
    files = sorted(_DIRECTORY.glob("*.toml"))
    return {each.stem: parse_recipe(each.read_bytes(), each.name) for each in files}
