"""Declarative recipes: what people want changed in a guest, as a file of data. No code runs.

`parse_recipe` checks a file and `explain` says it in words, on any system; in the module `evaluate`
a recipe changes a World, in `facts` are those that it selects guests by.
"""

from bootgraft_agent.recipe_file.commands import (
    check_text,
    explain_library,
    explain_text,
    list_library,
)
from bootgraft_agent.recipe_file.errors import RecipeError
from bootgraft_agent.recipe_file.explain import explain
from bootgraft_agent.recipe_file.library import library
from bootgraft_agent.recipe_file.model import Parameter, RecipeFile
from bootgraft_agent.recipe_file.parse import parse_recipe
from bootgraft_agent.recipe_file.recipe_list import Listed, parse_recipe_list
from bootgraft_agent.recipe_file.settings import check_settings, secret_values

__all__ = [
    "Listed",
    "Parameter",
    "RecipeError",
    "RecipeFile",
    "check_settings",
    "check_text",
    "explain",
    "explain_library",
    "explain_text",
    "library",
    "list_library",
    "parse_recipe",
    "parse_recipe_list",
    "secret_values",
]
