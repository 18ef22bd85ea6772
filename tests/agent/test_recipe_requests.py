"""Which recipes a run has, by its options and its payload."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bootgraft_agent.errors import InvalidRequestError, RefusedError
from bootgraft_agent.files import Tree
from bootgraft_agent.plan import Options
from bootgraft_agent.recipe_file import RecipeError
from bootgraft_agent.recipe_requests import has_recipes, is_shim, read_requests

RECIPE = """\
version = 1
name = "own"
description = "Remove a file."
[parameters.word]
description = "any word"
default = "a"
[[action]]
do = "remove"
path = "/etc/nothing"
"""
LIST = """\
version = 1
[[recipe]]
name = "hyperv-shim"
[[recipe]]
file = "recipes/01-own/recipe.toml"
[recipe.set]
word = "b"
[[recipe]]
name = "serial-console"
"""


@pytest.fixture
def payload(tmp_path: Path) -> Iterator[Tree]:
    with Tree(tmp_path) as tree:
        yield tree


def write(tree: Tree, path: str, text: str) -> None:
    (tree.root / path).parent.mkdir(parents=True, exist_ok=True)
    (tree.root / path).write_text(text)


def test_without_recipes_it_is_the_shim_s(payload: Tree) -> None:
    assert not has_recipes(payload)
    for tree in (payload, None):
        (request,) = read_requests(tree, Options())
        assert is_shim(request)
        assert str(request) == "hyperv-shim"


@pytest.mark.parametrize("name", ["recipe.toml", "RECIPE.TOML;1"])
def test_one_recipe_has_its_files_beside_it(payload: Tree, name: str) -> None:
    write(payload, name, RECIPE)
    assert has_recipes(payload)
    (request,) = read_requests(payload, Options())
    assert str(request).startswith("own:")
    assert request.directory == ""
    assert request.settings == {"word": "a"}


def test_a_list_is_read_in_its_order(payload: Tree) -> None:
    write(payload, "recipes.toml", LIST)
    write(payload, "RECIPES/01-OWN/RECIPE.TOML;1", RECIPE)
    assert has_recipes(payload)
    with pytest.raises(RefusedError, match=r"has no recipes/01-own/recipe.toml"):
        read_requests(payload, Options())
    write(payload, "recipes/01-own/recipe.toml", RECIPE)
    requests = read_requests(payload, Options())
    assert [str(each).partition(":")[0] for each in requests] == [
        "hyperv-shim",
        "own",
        "serial-console",
    ]
    assert requests[1].directory == "recipes/01-own"
    assert requests[1].settings == {"word": "b"}
    assert requests[2].directory is None


def test_the_options_come_before_the_payload(payload: Tree) -> None:
    write(payload, "recipe.toml", RECIPE)
    asked = Options(recipe="serial-console, hyperv-shim")
    names = [str(each).partition(":")[0] for each in read_requests(payload, asked)]
    assert names == ["serial-console", "hyperv-shim"]


def test_settings_make_another_recipe(payload: Tree) -> None:
    write(payload, "recipe.toml", RECIPE)
    write(payload, "other/recipe.toml", RECIPE.replace('"a"', '"c"'))
    (first,) = read_requests(payload, Options())
    write(payload, "recipe.toml", RECIPE.replace('"a"', '"c"'))
    (second,) = read_requests(payload, Options())
    assert str(first) != str(second)


def test_an_unknown_name_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(InvalidRequestError, match=r"'nothing'; there are: hyperv-shim, .*serial"):
        read_requests(None, Options(recipe="nothing"))


def test_a_parameter_that_must_be_set_is_asked_for() -> None:
    with pytest.raises(RecipeError, match="needs the parameter"):
        read_requests(None, Options(recipe="authorized-key"))


def test_the_shim_takes_no_parameters(payload: Tree) -> None:
    write(
        payload,
        "recipes.toml",
        'version = 1\n[[recipe]]\nname = "hyperv-shim"\n[recipe.set]\na="b"',
    )
    with pytest.raises(InvalidRequestError, match="hyperv-shim has no parameters"):
        read_requests(payload, Options())


def test_a_recipe_and_a_list_contradict_each_other(payload: Tree) -> None:
    write(payload, "recipe.toml", RECIPE)
    write(payload, "recipes.toml", LIST)
    with pytest.raises(RefusedError, match=r"both /recipe.toml and /recipes.toml"):
        read_requests(payload, Options())


def test_a_recipe_that_is_too_long_is_refused(payload: Tree) -> None:
    write(payload, "recipe.toml", RECIPE + "#" * 300_000)
    with pytest.raises(RefusedError, match="bytes long"):
        read_requests(payload, Options())


def test_a_link_on_the_payload_is_not_followed(payload: Tree) -> None:
    write(payload, "recipes.toml", LIST)
    (payload.root / "recipes").symlink_to("/etc")
    with pytest.raises(RefusedError, match="is a link"):
        read_requests(payload, Options())
