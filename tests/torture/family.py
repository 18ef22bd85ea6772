"""What a family of faults is: it tries cases, and counts those that bootgraft did not survive."""

import contextlib
import random
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run of the families was asked for; `scratch` is an empty folder of the family's."""

    seed: int
    count: int | None  # cases of a family; None: as many as the family takes by default
    iso: Path  # the live ISO
    scratch: Path


class EnoughLostError(BaseException):
    """As many cases are lost as anybody wanted to see."""


@dataclass
class Tally:
    """The cases of a family: how many were tried, and a line on each that was lost."""

    tried: int = 0
    lost: list[str] = field(default_factory=list)
    enough: int | None = None  # lost cases at which the family ends; None: it tries all

    @property
    def survived(self) -> int:
        """Return how many cases ended as they must."""
        return self.tried - len(self.lost)

    @contextlib.contextmanager
    def case(self, name: str) -> Iterator[None]:
        """Try one case; what is raised in it makes it lost, and the next one is tried."""
        self.tried += 1
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever it is, the case is lost
            self.lose(f"{name}: {describe(error)}")

    def lose(self, line: str) -> None:
        """Note that a case, tried already, was lost."""
        self.lost.append(" ".join(line.split()))
        if self.enough is not None and len(self.lost) >= self.enough:
            raise EnoughLostError


def describe(error: Exception) -> str:
    """Say what went wrong; an assertion without words is its own text."""
    said = str(error) or str(traceback.extract_tb(error.__traceback__)[-1].line)
    return f"{type(error).__name__}: {said}"


class Family(Protocol):
    """A family of faults."""

    @property
    def name(self) -> str:
        """Return its name on the command line."""

    def run(self, settings: Settings, rng: random.Random, tally: Tally) -> None:
        """Try its cases; everything that is left to chance comes from `rng`."""
