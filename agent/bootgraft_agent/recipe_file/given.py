"""Values of parameters as a user gives them: [RECIPE.]NAME=VALUE. Pure."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bootgraft_agent.errors import InvalidRequestError
from bootgraft_agent.recipe_file.errors import RecipeError

_KEY = re.compile(r"(?:(?P<recipe>[A-Za-z0-9][A-Za-z0-9._-]*)\.)?(?P<name>[a-z][a-z0-9_-]*)")


@dataclass(frozen=True, slots=True)
class Given:
    """A parameter's value, for one recipe or for the one that has such a parameter."""

    recipe: str | None
    name: str
    value: str


def parse_given(text: str) -> Given:
    """Read [RECIPE.]NAME=VALUE. Raises InvalidRequestError."""
    key, equals, value = text.partition("=")
    match = _KEY.fullmatch(key)
    if not equals or match is None:
        raise InvalidRequestError(f"a setting is NAME=VALUE or RECIPE.NAME=VALUE, not {key[:60]!r}")
    return Given(match["recipe"], match["name"], value)


def share_out(
    given: Iterable[Given], parameters: Mapping[str, Iterable[str]]
) -> dict[str, dict[str, str]]:
    """Give each recipe its settings; `parameters` are each recipe's, by the recipes' names.

    Raises RecipeError with all that have no recipe, or several.
    """
    shares: dict[str, dict[str, str]] = {name: {} for name in parameters}
    problems: list[str] = []
    for each in given:
        owners = [name for name, known in parameters.items() if each.name in known]
        if each.recipe is not None:
            owners = [name for name in parameters if name == each.recipe]
        if len(owners) == 1:
            shares[owners[0]][each.name] = each.value
        elif each.recipe is not None:
            problems.append(f"there is no recipe {each.recipe} in this run, to set {each.name}")
        elif owners:
            ways = " or ".join(f"{owner}.{each.name}" for owner in owners)
            problems.append(f"several recipes have a parameter {each.name}: say {ways}")
        else:
            listed = dict.fromkeys(name for names in parameters.values() for name in names)
            problems.append(
                f"no recipe of this run has a parameter {each.name}; there are:"
                f" {', '.join(listed) or 'none'}"
            )
    if problems:
        raise RecipeError(problems)
    return shares
