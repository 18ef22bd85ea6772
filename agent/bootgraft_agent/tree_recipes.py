"""Which recipes a run in tree mode has: those that are named, or those of the payload."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bootgraft_agent.errors import InvalidRequestError
from bootgraft_agent.files import Tree
from bootgraft_agent.plan import Options
from bootgraft_agent.recipe_file import RecipeFile, check_settings, library, parse_recipe
from bootgraft_agent.recipe_file.bounds import MAX_SIZE
from bootgraft_agent.recipe_file.given import Given, share_out
from bootgraft_agent.recipe_requests import ONE, Request, read_requests
from bootgraft_agent.recipes.hyperv_shim import NAME


@dataclass(frozen=True, slots=True)
class Chosen:
    """The recipes of a run, in order, and the folders of those that are files.

    A folder goes by the path that it would have on a payload ISO.
    """

    requests: tuple[Request, ...]
    folders: tuple[tuple[str, Path], ...] = ()


@dataclass(frozen=True, slots=True)
class _Named:
    """One recipe that was named; `recipe` None stands for the shim's, `file` for the library's."""

    name: str
    recipe: RecipeFile | None
    file: Path | None


def choose(words: Sequence[str], settings: Sequence[Given], payload: Path | None) -> Chosen:
    """Choose recipes by name or file, in order; without any, those that the payload names.

    Raises InvalidRequestError (of recipe files RecipeError, with all problems), RefusedError.
    """
    if words:
        return _choose_named([_find(word) for word in words], settings)
    if settings:
        raise InvalidRequestError(
            f"--set goes with --recipe; of a payload's recipe: --recipe DIR/{ONE}"
        )
    if payload is None:
        return Chosen(read_requests(None, Options()))
    with Tree(payload) as tree:
        return Chosen(read_requests(tree, Options()))


def _find(word: str) -> _Named:
    if word == NAME:
        return _Named(NAME, None, None)
    known = library()
    if word in known:
        return _Named(word, known[word], None)
    path = Path(word)
    if not path.is_file():
        listed = ", ".join((NAME, *known))
        raise InvalidRequestError(f"--recipe {word} is neither a file nor a recipe: {listed}")
    with path.open("rb") as file:
        recipe = parse_recipe(file.read(MAX_SIZE + 1), word)
    return _Named(recipe.name, recipe, path)


def _choose_named(named: Sequence[_Named], settings: Sequence[Given]) -> Chosen:
    names = [each.name for each in named]
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise InvalidRequestError(f"a run has each recipe once, not {' and '.join(twice)} twice")
    parameters = {
        each.name: [known.name for known in each.recipe.parameters] if each.recipe else []
        for each in named
    }
    shares = share_out(settings, parameters)
    if shares.get(NAME):
        raise InvalidRequestError(f"{NAME} has no parameters; its options choose")
    requests = []
    folders = []
    for number, each in enumerate(named, 1):
        if each.recipe is None:
            requests.append(Request())
            continue
        place = f"recipes/{number:02}-{each.name}" if each.file is not None else None
        values = check_settings(each.recipe, shares[each.name])
        requests.append(Request(each.recipe, values, place))
        if place is not None and each.file is not None:
            folders.append((place, each.file.absolute().parent))
    return Chosen(tuple(requests), tuple(folders))
