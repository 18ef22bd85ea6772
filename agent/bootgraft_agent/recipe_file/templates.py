"""Texts with placeholders: `{port}` is a parameter's value, `{{` a brace. Pure.

A value takes its place as it is: it is never read as TOML, as a pattern or as a placeholder.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

# A brace before anything else, as in a{2,3}, is itself.
_PLACEHOLDER = re.compile(r"\{\{|\{(?P<name>[a-z][a-z0-9_-]*)\}")

NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}")


@dataclass(frozen=True, slots=True)
class Template:
    """A text; every second part is a placeholder's name."""

    parts: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The placeholders' names, in order."""
        return self.parts[1::2]

    def fill(self, values: Mapping[str, str], change: Callable[[str], str] = str) -> str:
        """Put values, each changed by a function, in the placeholders' places."""
        return "".join(
            change(values[part]) if number % 2 else part for number, part in enumerate(self.parts)
        )

    def __str__(self) -> str:
        return "".join(
            f"{{{part}}}" if number % 2 else part for number, part in enumerate(self.parts)
        )


def parse_template(text: str) -> Template:
    """Read a text; any text is one."""
    parts = [""]
    done = 0
    for match in _PLACEHOLDER.finditer(text):
        parts[-1] += text[done : match.start()]
        if match["name"]:
            parts += [match["name"], ""]
        else:
            parts[-1] += "{"
        done = match.end()
    parts[-1] += text[done:]
    return Template(tuple(parts))
