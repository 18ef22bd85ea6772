"""Declarative recipes: what people want changed in a guest, as a file of data. No code runs.

`parse_recipe` checks a file, `explain` says it in words, `evaluate` edits a World by it.
"""

from bootgraft_agent.recipe_file.errors import RecipeError
from bootgraft_agent.recipe_file.explain import explain
from bootgraft_agent.recipe_file.model import Parameter, RecipeFile
from bootgraft_agent.recipe_file.parse import parse_recipe
from bootgraft_agent.recipe_file.settings import check_settings, secret_values

__all__ = [
    "Parameter",
    "RecipeError",
    "RecipeFile",
    "check_settings",
    "explain",
    "parse_recipe",
    "secret_values",
]
