"""What `recipe check`, `recipe explain` and `recipe list` say, as lines of text. Pure."""

from collections.abc import Mapping

from bootgraft_agent.recipe_file.errors import RecipeError
from bootgraft_agent.recipe_file.explain import explain
from bootgraft_agent.recipe_file.library import library
from bootgraft_agent.recipe_file.parse import parse_recipe


def check_text(data: bytes, name: str) -> list[str]:
    """Give the problems of a recipe file, each with its line; none for a good one."""
    try:
        parse_recipe(data, name)
    except RecipeError as error:
        return list(error.problems)
    return []


def explain_text(data: bytes, name: str, settings: Mapping[str, str]) -> list[str]:
    """Say a recipe file in words. Raises RecipeError with its problems."""
    return explain(parse_recipe(data, name), settings)


def explain_library(name: str, settings: Mapping[str, str]) -> list[str]:
    """Say a recipe of the library in words. Raises RecipeError for one that is not there."""
    recipe = library().get(name)
    if recipe is None:
        raise RecipeError(
            [f"the library has no recipe {name!a:.60}; it has: {', '.join(library())}"]
        )
    return explain(recipe, settings)


def list_library() -> list[str]:
    """Give a line for each recipe of the library, and one for each of its parameters."""
    lines = []
    for recipe in library().values():
        lines.append(f"{recipe.name}: {recipe.description}")
        for each in recipe.parameters:
            default = "must be set" if each.default is None else f"by default {each.default!r}"
            lines.append(f"    {each.name}: {each.description}; {default}")
    return lines
