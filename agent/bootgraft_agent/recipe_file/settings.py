"""The values of a recipe's parameters, as the user set them. Pure."""

from collections.abc import Mapping

from bootgraft_agent.errors import RefusedError
from bootgraft_agent.grub import MASK
from bootgraft_agent.recipe_file.errors import RecipeError
from bootgraft_agent.recipe_file.model import Parameter, RecipeFile
from bootgraft_agent.recipe_file.patterns import Pattern, Work

MAX_VALUE = 64 * 1024  # characters
MAX_CHECKED = 4096  # characters of a value that must match a pattern
_SHOWING = 6  # characters of a line of a secret that must not be shown by itself
SETTINGS_WORK = 20_000_000  # what matching all values may cost: 2 s


def check_settings(recipe: RecipeFile, settings: Mapping[str, str]) -> dict[str, str]:
    """Give every parameter's value, defaults included. Raises RecipeError with all problems."""
    known = {each.name: each for each in recipe.parameters}
    listed = ", ".join(known) or "none"
    problems = [
        f"{recipe.name} has no parameter {name!a:.60}; it has: {listed}"
        for name in settings
        if name not in known
    ]
    work = Work(SETTINGS_WORK)
    values = {}
    for parameter in recipe.parameters:
        value = settings.get(parameter.name, parameter.default)
        if value is None:
            problems.append(
                f"{recipe.name} needs the parameter {parameter.name}: {parameter.description}"
            )
            continue
        problem = value_problem(parameter, value, work)
        if problem:
            problems.append(f"{recipe.name}: the parameter {parameter.name} {problem}")
        values[parameter.name] = value
    if problems:
        raise RecipeError(problems)
    return values


def value_problem(parameter: Parameter, value: str, work: Work) -> str:
    """Say what is wrong with a parameter's value, "" where nothing is; the value is not shown."""
    if "\0" in value or len(value) > MAX_VALUE:
        return f"holds a zero byte or more than {MAX_VALUE} characters"
    if parameter.pattern is None:
        return ""
    if "\n" in value or len(value) > MAX_CHECKED:
        return f"must be a single line of at most {MAX_CHECKED} characters"
    pattern = Pattern(f"^(?:{parameter.pattern})$")
    try:
        matches = pattern.matches(value.encode("utf-8", "surrogateescape"), work)
    except RefusedError:
        return f"cannot be compared with {parameter.pattern} in reasonable time"
    return "" if matches else f"must match {parameter.pattern}"


def secret_values(recipe: RecipeFile, settings: Mapping[str, str]) -> tuple[str, ...]:
    """Give the values that must not be shown, the longest first; of long texts also each line."""
    secret = [each for each in recipe.parameters if each.secret]
    values = {settings.get(each.name) or each.default or "" for each in secret}
    lines = {line for value in values for line in value.split("\n") if len(line) >= _SHOWING}
    return tuple(sorted((values | lines) - {""}, key=lambda each: (-len(each), each)))


def shown_settings(recipe: RecipeFile, settings: Mapping[str, str]) -> dict[str, str]:
    """Give the values as they may be shown: secret ones masked, missing ones by their name."""
    values = {}
    for each in recipe.parameters:
        value = settings.get(each.name, each.default)
        if value is None:
            values[each.name] = f"<{each.name}>"
        else:
            values[each.name] = MASK.decode() if each.secret and value else value
    return values
