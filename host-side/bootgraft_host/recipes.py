"""Recipes that a user names, and the payload that carries them to the guest.

::

    /recipes.toml                       which recipes, in which order, with which settings
    /recipes/01-NAME/recipe.toml        one for each recipe file, with the files that it copies
    /shim/                              where hyperv-shim is one of them

A recipe file's own folder is never put there as a whole: only what its actions name.
"""

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import tomlkit

from bootgraft_agent.errors import BootgraftError, InvalidRequestError
from bootgraft_agent.recipe_file import (
    RecipeError,
    RecipeFile,
    check_settings,
    library,
    parse_recipe,
    parse_recipe_list,
)
from bootgraft_agent.recipe_file.bounds import MAX_PAYLOAD, MAX_PAYLOAD_FILES, MAX_SIZE
from bootgraft_agent.recipe_file.model import Copy
from bootgraft_agent.recipe_file.templates import Template
from bootgraft_host.xorriso import as_file, list_directories, run_xorriso

SHIM = "hyperv-shim"
RECIPE = "recipe.toml"
RECIPES = "recipes.toml"
MAX_SETTING = 64 * 1024  # bytes of a file that holds a setting
_SETTING = re.compile(r"(?:(?P<recipe>[A-Za-z0-9][A-Za-z0-9._-]*)\.)?(?P<name>[a-z][a-z0-9_-]*)")


@dataclass(frozen=True, slots=True)
class Chosen:
    """A recipe of a run: hyperv-shim without `recipe`, one of the library without `path`."""

    name: str
    recipe: RecipeFile | None = None
    path: Path | None = None
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Setting:
    """A parameter's value, for one recipe or for the one that has such a parameter."""

    recipe: str | None
    name: str
    value: str


def choose_recipes(words: Iterable[str], settings: Sequence[Setting]) -> tuple[Chosen, ...]:
    """Choose recipes by name or file, in order, and give each its settings.

    Raises InvalidRequestError with all that is wrong.
    """
    chosen = tuple(choose_recipe(word) for word in words)
    problems = [
        f"{each.name} is named twice: a run has each recipe once"
        for number, each in enumerate(chosen)
        if each.name in {other.name for other in chosen[:number]}
    ]
    given: dict[str, dict[str, str]] = {each.name: {} for each in chosen}
    for setting in settings:
        owner = _find_owner(setting, chosen, problems)
        if owner is not None:
            given[owner][setting.name] = setting.value
    problems += [
        problem for each in chosen for problem in _setting_problems(each, given[each.name])
    ]
    if problems:
        raise RecipeError(problems)
    return tuple(Chosen(each.name, each.recipe, each.path, given[each.name]) for each in chosen)


def choose_recipe(word: str) -> Chosen:
    """Choose one recipe: hyperv-shim, one of the library, or a file. Raises InvalidRequestError."""
    ready = library()
    if word == SHIM:
        return Chosen(SHIM)
    if word in ready:
        return Chosen(word, ready[word])
    path = Path(word)
    if not path.is_file():
        inside = path / RECIPE
        if inside.is_file():
            raise InvalidRequestError(f"{word} is a directory: name the recipe in it, {inside}")
        names = ", ".join((SHIM, *ready))
        raise InvalidRequestError(f"{word} is neither a file nor a ready recipe: {names}")
    return read_recipe_file(path, word)


def read_recipe_file(path: Path, name: str) -> Chosen:
    """Read a recipe file, which problems call `name`. Raises RecipeError, OSError."""
    with path.open("rb") as file:
        recipe = parse_recipe(file.read(MAX_SIZE + 1), name)
    return Chosen(recipe.name, recipe, path.absolute())


def parse_setting(text: str) -> Setting:
    """Read [RECIPE.]NAME=VALUE. Raises ValueError."""
    key, equals, value = text.partition("=")
    match = _SETTING.fullmatch(key)
    if not equals or match is None:
        raise ValueError("settings are as in NAME=VALUE or RECIPE.NAME=VALUE")
    return Setting(match["recipe"], match["name"], value)


def read_setting(text: str) -> Setting:
    """Read [RECIPE.]NAME=FILE, the value being what the file holds. Raises ValueError, OSError."""
    setting = parse_setting(text)
    with Path(setting.value).open("rb") as file:
        content = file.read(MAX_SETTING + 1)
    if len(content) > MAX_SETTING:
        raise ValueError(f"{setting.value} has more than {MAX_SETTING} bytes")
    value = content.decode("utf-8").removesuffix("\n").removesuffix("\r")
    return Setting(setting.recipe, setting.name, value)


def _find_owner(setting: Setting, chosen: Sequence[Chosen], problems: list[str]) -> str | None:
    """Find the recipe that a setting is for."""
    if setting.recipe is not None:
        if any(each.name == setting.recipe for each in chosen):
            return setting.recipe
        problems.append(f"there is no recipe {setting.recipe} in this run, to set {setting.name}")
        return None
    owners = [
        each.name
        for each in chosen
        if each.recipe and any(known.name == setting.name for known in each.recipe.parameters)
    ]
    if len(owners) == 1:
        return owners[0]
    if owners:
        ways = " or ".join(f"{owner}.{setting.name}" for owner in owners)
        problems.append(f"several recipes have a parameter {setting.name}: say {ways}")
    else:
        problems.append(
            f"no recipe of this run has a parameter {setting.name}; there are: {_known(chosen)}"
        )
    return None


def foreign_settings(chosen: Chosen, settings: Iterable[Setting]) -> list[str]:
    """Say which settings are not for this recipe, the only one."""
    parameters = chosen.recipe.parameters if chosen.recipe else ()
    known = {(recipe, each.name) for each in parameters for recipe in (None, chosen.name)}
    return [
        f"{chosen.name} has no parameter {'.'.join(filter(None, (each.recipe, each.name)))};"
        f" it has: {_known([chosen])}"
        for each in settings
        if (each.recipe, each.name) not in known
    ]


def _known(chosen: Iterable[Chosen]) -> str:
    names = (each.name for one in chosen if one.recipe for each in one.recipe.parameters)
    return ", ".join(dict.fromkeys(names)) or "none"


def _setting_problems(chosen: Chosen, settings: Mapping[str, str]) -> Sequence[str]:
    if chosen.recipe is None:
        return [f"{SHIM} has no parameter {name}" for name in settings]
    try:
        check_settings(chosen.recipe, settings)
    except RecipeError as error:
        return error.problems
    return ()


def sets_secret(chosen: Chosen) -> bool:
    """Whether a secret parameter is set, so that a payload of this recipe holds its value."""
    parameters = chosen.recipe.parameters if chosen.recipe else ()
    return any(each.secret and each.name in chosen.settings for each in parameters)


# The payload's folder, as a user has made it


def read_payload_folder(folder: Path) -> tuple[tuple[Chosen, ...], Path | None]:
    """Read a folder that is to become a payload: its recipes in order, and its directory shim.

    Raises InvalidRequestError where it holds neither, or what it holds is wrong.
    """
    recipes = _read_folder_recipes(folder)
    if recipes and not any(each.name == SHIM for each in recipes):
        return recipes, None
    return recipes or (Chosen(SHIM),), find_shim_folder(folder)


def _read_folder_recipes(folder: Path) -> tuple[Chosen, ...]:
    one, several = folder / RECIPE, folder / RECIPES
    if one.is_file() and several.is_file():
        raise InvalidRequestError(f"{folder} holds {RECIPE} and {RECIPES}: only one can count")
    if one.is_file():
        chosen = read_recipe_file(one, str(one))
        problems = _setting_problems(chosen, {})
        if problems:
            raise RecipeError([*problems, f"settings are given in {several}"])
        return (chosen,)
    if not several.is_file():
        return ()
    with several.open("rb") as file:
        listed = parse_recipe_list(file.read(MAX_SIZE + 1), str(several))
    chosen_ones = []
    problems = []
    for each in listed:
        found = _read_listed(folder, each.name, each.file)
        problems += _setting_problems(found, each.settings)
        chosen_ones.append(Chosen(found.name, found.recipe, found.path, each.settings))
    if problems:
        raise RecipeError(problems)
    return tuple(chosen_ones)


def _read_listed(folder: Path, name: str | None, file: str | None) -> Chosen:
    if file is not None:
        path = folder / file
        if not path.is_file():
            raise InvalidRequestError(f"{folder / RECIPES} names {file}, which is not there")
        return read_recipe_file(path, str(path))
    if name != SHIM and name not in library():
        names = ", ".join((SHIM, *library()))
        raise InvalidRequestError(f"{folder / RECIPES}: there is no ready recipe {name}: {names}")
    return choose_recipe(str(name))


def find_shim_folder(payload: Path) -> Path:
    """Find the directory shim, whatever the case of its name. Raises InvalidRequestError."""
    found = [each for each in payload.iterdir() if each.name.lower() == "shim" and each.is_dir()]
    if len(found) != 1:
        raise InvalidRequestError(
            f"{payload} should hold one directory shim, as the payload ISO does, or a {RECIPE} or"
            f" {RECIPES}; found {len(found)}"
        )
    if not any(each.is_file() for each in found[0].iterdir()):
        raise InvalidRequestError(f"{found[0]} holds no file, so there is no shim to add")
    return found[0]


# The payload


def make_payload_iso(
    recipes: Sequence[Chosen], payload: Path | None, iso: Path, scratch: Path
) -> None:
    """Write an ISO with recipes, and the shim of another payload ISO; both are only our user's.

    Raises InvalidRequestError for what cannot be put there, RefusedError where it fails.
    """
    shim = None
    if any(each.name == SHIM for each in recipes):
        if payload is None:
            raise InvalidRequestError(f"{SHIM} needs --payload, the ISO that holds the shim")
        shim = _extract_shim(payload, scratch)
    mapped = map_payload(recipes, shim, scratch)
    iso.touch(mode=0o600)
    run_xorriso("-outdev", as_file(iso), "-volid", "BOOTGRAFT", *mapped)


def map_payload(recipes: Sequence[Chosen], shim: Path | None, scratch: Path) -> list[str]:
    """Give xorriso's words that put recipes and a shim onto an ISO; `scratch` gets what is new."""
    mapped = [] if shim is None else ["-map", str(shim), "/shim"]
    if all(each.name == SHIM for each in recipes):
        return mapped
    document = tomlkit.document()
    document["version"] = 1
    listed = tomlkit.aot()
    files = _Files()
    for number, each in enumerate(recipes, 1):
        entry = tomlkit.table()
        if each.recipe is None or each.path is None:
            entry["name"] = each.name
        else:
            place = f"recipes/{number:02}-{each.name}"
            entry["file"] = f"{place}/{RECIPE}"
            mapped += ["-map", str(each.path), f"/{place}/{RECIPE}"]
            for source in find_sources(each.recipe, each.settings, each.path):
                files.count(each.path.parent / source)
                mapped += ["-map", str(each.path.parent / source), f"/{place}/{source}"]
        if each.settings:
            entry["set"] = dict(each.settings)
        listed.append(entry)
    document["recipe"] = listed
    text = scratch / RECIPES
    with open(text, "x", encoding="utf-8", newline="\n", opener=_open_private) as file:
        file.write(tomlkit.dumps(document))
    return [*mapped, "-map", str(text), f"/{RECIPES}"]


def find_sources(
    recipe: RecipeFile, settings: Mapping[str, str], path: Path
) -> tuple[PurePosixPath, ...]:
    """Find what a recipe copies from beside it: paths from its folder, none below another.

    Where only the guest's facts say which file is meant, that is the folder that holds them all.
    Raises RecipeError for what is not there.
    """
    values = {each.name: each.default for each in recipe.parameters} | dict(settings)
    known = {name: value for name, value in values.items() if value is not None}
    sources, problems = set(), []
    for action in recipe.actions:
        if not isinstance(action, Copy) or action.source is None:
            continue
        source = _known_part(action.source, known)
        problem = _source_problem(source, path.parent)
        if problem:
            problems.append(f"{recipe.file_name}:{action.line}: {problem}")
        else:
            sources.add(source)
    if problems:
        raise RecipeError(problems)
    outer = {each for each in sources if not any(up in sources for up in each.parents)}
    return tuple(sorted(outer))


def _known_part(source: Template, known: Mapping[str, str]) -> PurePosixPath:
    """Give a source's path up to the component whose name is not known before the guest is."""
    filled = source.fill({name: known.get(name, "\0") for name in source.names})
    parts = filled.split("/")
    unknown = next((number for number, part in enumerate(parts) if "\0" in part), len(parts))
    return PurePosixPath(*parts[:unknown])


def _source_problem(source: PurePosixPath, folder: Path) -> str:
    if not source.parts:
        return "which file is copied is not known before the guest is: put them into a directory"
    if source.is_absolute() or ".." in source.parts:
        return f"{source} is not a path below the recipe's folder"
    place = folder
    for part in source.parts:
        place /= part
        if place.is_symlink():
            return f"{place} is a link; put the file itself there"
    return "" if place.is_file() or place.is_dir() else f"there is no file or directory {place}"


class _Files:
    """Counts what becomes a payload, before it is read."""

    def __init__(self) -> None:
        self._files = 0
        self._size = 0

    def count(self, path: Path) -> None:
        """Count a file, or all in a directory. Raises InvalidRequestError beyond the bounds."""
        for each in _walk(path):
            found = each.lstat()
            if not stat.S_ISREG(found.st_mode):
                raise InvalidRequestError(f"{each} is neither a file nor a directory")
            self._files += 1
            self._size += found.st_size
            if self._files > MAX_PAYLOAD_FILES or self._size > MAX_PAYLOAD:
                raise InvalidRequestError(
                    f"the files of the recipes are more than {MAX_PAYLOAD_FILES}, or have more than"
                    f" {MAX_PAYLOAD} bytes: {each} is one too many"
                )


def _walk(path: Path) -> Iterator[Path]:
    """Give a file, or all in a directory that is none."""
    if path.is_symlink() or not path.is_dir():
        yield path
        return
    for each in sorted(path.iterdir()):
        yield from _walk(each)


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _extract_shim(payload: Path, scratch: Path) -> Path:
    """Copy the directory shim out of a payload ISO. Raises RefusedError where there is none."""
    names = [name for name in list_directories(payload) if name.lower() == "shim"]
    if len(names) != 1:
        raise InvalidRequestError(f"{payload} should hold one directory shim; found {len(names)}")
    folder = scratch / "shim"
    run_xorriso("-osirrox", "on", "-indev", as_file(payload), "-extract", f"/{names[0]}", folder)
    if not folder.is_dir() or not any(folder.iterdir()):
        raise BootgraftError(f"{payload}: {names[0]} holds no file, so there is no shim to copy")
    for each in (folder, *folder.rglob("*")):
        if each.is_dir() and not each.is_symlink():
            each.chmod(0o700)  # so that what is in it can be removed again
    return folder
