"""Declarative recipes: what people want changed in a guest, as a file of data. No code runs.

`parse_recipe` checks a file and `explain` says it in words, on any system; in the module `evaluate`
a recipe changes a World, in `facts` are those that it selects guests by.

The names below are loaded when they are asked for: the live system, which loads as slowly as the
machine that it is in, does without them where the only recipe is `hyperv-shim`.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bootgraft_agent.recipe_file.commands import (
        check_text,
        explain_library,
        explain_text,
        list_library,
    )
    from bootgraft_agent.recipe_file.errors import RecipeError
    from bootgraft_agent.recipe_file.explanation import explain
    from bootgraft_agent.recipe_file.model import Parameter, RecipeFile
    from bootgraft_agent.recipe_file.parse import parse_recipe
    from bootgraft_agent.recipe_file.ready import library
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

_MODULES = {
    "Listed": "recipe_list",
    "Parameter": "model",
    "RecipeError": "errors",
    "RecipeFile": "model",
    "check_settings": "settings",
    "check_text": "commands",
    "explain": "explanation",
    "explain_library": "commands",
    "library": "ready",
    "explain_text": "commands",
    "list_library": "commands",
    "parse_recipe": "parse",
    "parse_recipe_list": "recipe_list",
    "secret_values": "settings",
}


def __getattr__(name: str) -> object:
    """Load a name that is asked for."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
