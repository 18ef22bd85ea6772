"""Which recipes a run has: those of the options, those that the payload names, or the shim's.

The payload has either one /recipe.toml with its files beside it, or a /recipes.toml that lists
recipes by name or by file; without both the recipe is `hyperv-shim`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from bootgraft_agent.errors import InvalidRequestError, RefusedError
from bootgraft_agent.files import Tree, parent_of
from bootgraft_agent.payload import plain_name
from bootgraft_agent.plan import Options
from bootgraft_agent.recipe_file import (
    RecipeFile,
    check_settings,
    library,
    parse_recipe,
    parse_recipe_list,
)
from bootgraft_agent.recipe_source import PayloadDirectory
from bootgraft_agent.recipes.hyperv_shim import NAME

ONE = "recipe.toml"
LIST = "recipes.toml"
MAX_FILE = 256 * 1024  # bytes of a recipe or a list


@dataclass(frozen=True, slots=True)
class Request:
    """One recipe of a run; `recipe` None stands for the shim's.

    `settings` has a value for every parameter. `directory` on the payload has its files; None for
    one of the library, which has none.
    """

    recipe: RecipeFile | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    directory: str | None = None

    def __str__(self) -> str:
        """Name it as a plan and its manifest do."""
        if self.recipe is None:
            return NAME
        return f"{self.recipe.name}:{self.recipe.identity(self.settings)[:12]}"


def is_shim(request: Request) -> bool:
    """Whether it is the recipe `hyperv-shim`."""
    return request.recipe is None


def has_recipes(payload: Tree) -> bool:
    """Whether a payload says which recipes a run has."""
    return bool(_find(payload, ONE) or _find(payload, LIST))


def read_requests(payload: Tree | None, options: Options) -> tuple[Request, ...]:
    """Read which recipes a run has, and check them.

    Raises InvalidRequestError (of recipe files RecipeError, with all problems), RefusedError.
    """
    if options.recipes:
        return tuple(_named(name, {}) for name in options.recipes)
    one = _find(payload, ONE) if payload is not None else None
    listed = _find(payload, LIST) if payload is not None else None
    if one is not None and listed is not None:
        raise RefusedError(f"the payload has both /{ONE} and /{LIST}; leave one of them out")
    if payload is not None and one is not None:
        return (_read(payload, one, ONE, {}),)
    if payload is not None and listed is not None:
        return _read_list(payload, listed)
    return (Request(),)


def _read_list(payload: Tree, path: str) -> tuple[Request, ...]:
    requests = []
    top = PayloadDirectory(payload, "")
    for each in parse_recipe_list(payload.read(path, MAX_FILE), LIST):
        if each.name is not None:
            requests.append(_named(each.name, each.settings))
        elif each.file is not None:
            file = top.ref(each.file)
            requests.append(_read(payload, file.source, each.file, each.settings))
    return tuple(requests)


def _read(payload: Tree, path: str, name: str, settings: Mapping[str, str]) -> Request:
    recipe = parse_recipe(payload.read(path, MAX_FILE), name)
    return Request(recipe, check_settings(recipe, settings), parent_of(path))


def _named(name: str, settings: Mapping[str, str]) -> Request:
    if name == NAME:
        if settings:
            raise InvalidRequestError(f"{NAME} has no parameters; its options choose")
        return Request()
    known = library()
    if name not in known:
        listed = ", ".join((NAME, *known))
        raise InvalidRequestError(f"there is no recipe {name!r}; there are: {listed}")
    return Request(known[name], check_settings(known[name], settings))


def _find(payload: Tree, name: str) -> str | None:
    """Find a file at the payload's top, by its plain name. Raises RefusedError for several."""
    found = [each for each in payload.names("") if plain_name(each) == name]
    if len(found) > 1:
        raise RefusedError(f"the payload has {' and '.join(found)}, which are one name; remove one")
    return found[0] if found and payload.is_file(found[0]) else None
