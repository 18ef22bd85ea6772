"""What is wrong with a recipe file, all of it at once."""

from collections.abc import Sequence

from bootgraft_agent.errors import InvalidRequestError


class RecipeError(InvalidRequestError):
    """A recipe that cannot be used; problems: a line of text for each, as `recipe.toml:12: …`."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)
