"""`bootgraft recipe`: the recipes that come along, and files that are to become some."""

from collections.abc import Sequence
from pathlib import Path

import click

from bootgraft_agent.errors import InvalidRequestError
from bootgraft_agent.recipe_file import RecipeError, explain, library, list_library
from bootgraft_host.options import Decorator, with_options
from bootgraft_host.recipes import (
    SHIM,
    Chosen,
    Setting,
    choose_recipe,
    choose_recipes,
    find_sources,
    foreign_settings,
    parse_setting,
    read_recipe_file,
    read_setting,
)

_SHIM_TEXT = f"{SHIM}: a kernel-xen boots by the shim of a payload ISO (see `bootgraft run --help`)"


def _parse_settings(
    ctx: click.Context, param: click.Parameter, texts: Sequence[str]
) -> tuple[Setting, ...]:
    """Read --set and --set-file."""
    read = read_setting if param.name == "setting_files" else parse_setting
    try:
        return tuple(read(text) for text in texts)
    except (ValueError, OSError) as error:
        raise click.BadParameter(str(error), ctx, param) from error


setting_options = with_options(
    click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="[RECIPE.]NAME=VALUE",
        callback=_parse_settings,
        help="Set a recipe's parameter. May be given again.",
    ),
    click.option(
        "--set-file",
        "setting_files",
        multiple=True,
        metavar="[RECIPE.]NAME=FILE",
        callback=_parse_settings,
        help="Set a recipe's parameter to what a file holds, so that a secret is not seen in the"
        " list of processes. May be given again.",
    ),
)


def recipe_options(subject: str) -> Decorator:
    """Make --recipe and the options for its parameters; `subject` says what is made of them."""
    return with_options(
        click.option(
            "--recipe",
            "recipes",
            multiple=True,
            metavar="NAME_OR_FILE",
            help=f"{subject}: hyperv-shim, a ready one (`bootgraft recipe list`), or a file. May be"
            " given again; they are carried out in order, as one plan.",
        ),
        setting_options,
    )


def choose(
    recipes: Sequence[str], settings: Sequence[Setting], setting_files: Sequence[Setting]
) -> tuple[Chosen, ...]:
    """Choose what the options say. Raises UsageError, InvalidRequestError."""
    given = (*settings, *setting_files)
    if given and not recipes:
        raise click.UsageError("--set and --set-file are for recipes, which --recipe names")
    return choose_recipes(recipes, given)


@click.group()
def recipe() -> None:
    """Work with recipes: what is to be changed in a guest, as data."""


@recipe.command("list")
def list_recipes() -> int:
    """List the ready recipes and their parameters."""
    for line in (_SHIM_TEXT, *list_library()):
        click.echo(line)
    return 0


@recipe.command()
@click.argument(
    "files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
def check(files: Sequence[Path]) -> int:
    """Check recipe files, and that what they copy is there; say all that is wrong, with lines."""
    problems: list[str] = []
    for path in files:
        problems += _check_file(path)
    if problems:
        raise RecipeError(problems)
    return 0


def _check_file(path: Path) -> Sequence[str]:
    try:
        found = read_recipe_file(path, str(path))
        assert found.recipe is not None  # noqa: S101 - a file's always has one
        find_sources(found.recipe, {}, path)
    except RecipeError as error:
        return error.problems
    except OSError as error:
        known = "; a ready recipe needs no check" if str(path) in library() else ""
        return [f"{path} cannot be read: {error.strerror}{known}"]
    except InvalidRequestError as error:
        return [str(error)]
    count = len(found.recipe.actions)
    click.echo(f"{path}: good; {found.name}, {count} action{'s' if count > 1 else ''}")
    return ()


@recipe.command("explain")
@click.argument("name_or_file", metavar="NAME_OR_FILE")
@setting_options
def explain_recipe(
    name_or_file: str, settings: Sequence[Setting], setting_files: Sequence[Setting]
) -> int:
    """Say in words what a recipe does."""
    found = choose_recipe(name_or_file)
    if found.recipe is None:
        click.echo(_SHIM_TEXT)
        return 0
    given = (*settings, *setting_files)
    problems = foreign_settings(found, given)
    if problems:
        raise RecipeError(problems)
    for line in explain(found.recipe, {each.name: each.value for each in given}):
        click.echo(line)
    return 0
