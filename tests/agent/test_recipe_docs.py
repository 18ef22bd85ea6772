"""docs/recipes.md has every key of a recipe file, and none that is not there."""

import re
from pathlib import Path

import pytest

from bootgraft_agent.recipe_file import RecipeError, check_text, library
from bootgraft_agent.recipe_file.parse import parse_recipe
from bootgraft_agent.recipe_file.parse_actions import PARSERS, Common
from bootgraft_agent.recipe_file.positions import Positions
from bootgraft_agent.recipe_file.reader import Problems, Reader

DOCS = Path(__file__).parents[2] / "docs/recipes.md"


def _keys(heading: str) -> set[str]:
    """List the keys in the first table below a heading."""
    _, _, rest = DOCS.read_text().partition(f"\n{heading}\n")
    table = rest.partition("\n| key |")[2].partition("\n\n")[0]
    rows = re.findall(r"(?m)^\| (`[^|]*`) \|", table)
    return {key for row in rows for key in re.findall(r"`([a-z0-9_]+)`", row)}


@pytest.mark.parametrize("kind", list(PARSERS))
def test_every_key_of_an_action_is_documented(kind: str) -> None:
    reader = Reader({}, (), Problems("x", Positions()))
    PARSERS[kind](reader, Common(1, None, None))
    assert _keys(f"### {kind}") == set(reader.known)


@pytest.mark.parametrize(
    ("heading", "table", "others"),
    [
        ("## A recipe file", "", {"action", "parameters", "when"}),
        ("### Parameters", "[parameters.a]\n", set()),
        ("### Selectors", "[when]\n", set()),
        ("## Actions", '[[action]]\ndo = "require"\npath = "/x"\n', _keys("### require")),
    ],
)
def test_every_key_around_the_actions_is_documented(
    heading: str, table: str, others: set[str]
) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(f"{table}unknown-key = 1\n".encode(), "x")
    known = re.findall("known here: (.*)", str(caught.value))[0].split(", ")
    assert _keys(heading) | others == set(known)


@pytest.mark.parametrize("page", ["docs/recipes.md", "README.md"])
def test_every_action_is_in_the_table_of_actions(page: str) -> None:
    text = (DOCS.parents[1] / page).read_text()
    table = text.partition("\n| action | what it does |")[2].partition("\n\n")[0]
    assert re.findall(r"(?m)^\| `([^`]*)` \|", table) == list(PARSERS)


@pytest.mark.parametrize("name", list(library()))
def test_every_ready_recipe_is_named(name: str) -> None:
    pages = [(DOCS.parents[1] / page).read_text() for page in ("docs/recipes.md", "README.md")]
    assert all(f"`{name}`" in page for page in pages)


@pytest.mark.parametrize("page", ["docs/recipes.md", "README.md"])
def test_every_recipe_in_the_documentation_is_a_good_one(page: str) -> None:
    text = (DOCS.parents[1] / page).read_text()
    blocks = re.findall(r"(?s)```toml\n(.*?)```", text)
    recipes = [block for block in blocks if "[[action]]" in block]
    assert recipes
    for block in recipes:
        assert check_text(block.encode(), page) == []
