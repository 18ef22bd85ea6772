"""A lost case is counted, named and makes the whole fail; the same seed gives the same cases."""

import os
import random
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from torture.__main__ import main
from torture.family import Family, Settings, Tally


@dataclass
class Numbers:
    """A family that survives all numbers but the ones to lose."""

    to_lose: frozenset[int] = frozenset()
    breaks: bool = False
    drawn: list[int] = field(default_factory=list)
    name: str = "numbers"

    def run(self, settings: Settings, rng: random.Random, tally: Tally) -> None:
        assert not list(settings.scratch.iterdir())
        for number in range(settings.count or 3):
            self.drawn.append(rng.randrange(1000))
            with tally.case(f"number {number}"):
                if number in self.to_lose:
                    raise AssertionError("it was\nto lose")
        if self.breaks:
            raise RuntimeError("no more numbers")


def torture(*families: Family, arguments: tuple[str, ...] = ()) -> int:
    return main(["--seed", "7", "--iso", sys.executable, "--jobs", "1", *arguments], families)


def test_what_survives_ends_with_0_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert torture(Numbers()) == 0
    first, line, last = capsys.readouterr().out.splitlines()
    assert first == "torture: seed 7"
    assert line.startswith("numbers: 3 cases tried, 3 survived, 0 lost, ")
    assert last == "torture: 0 s in all"


def test_a_lost_case_is_named_with_how_to_repeat_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert torture(Numbers(frozenset({1})), arguments=("--count", "5")) == 1
    _, line, lost, _ = capsys.readouterr().out.splitlines()
    assert line.startswith("numbers: 5 cases tried, 4 survived, 1 lost, ")
    again = "(again: make torture SEED=7 FAMILY=numbers COUNT=5)"
    assert lost == f"  lost: number 1: AssertionError: it was to lose {again}"


def test_an_assertion_without_words_is_named_by_its_text() -> None:
    tally = Tally()
    with tally.case("sum"):
        assert_sums()
    assert tally.lost == ["sum: AssertionError: raise AssertionError"]


def assert_sums() -> None:
    raise AssertionError


def test_a_family_ends_at_enough_lost_cases(capsys: pytest.CaptureFixture[str]) -> None:
    family = Numbers(frozenset({1, 2}))
    assert torture(family, arguments=("--count", "9", "--enough", "2")) == 1
    assert len(family.drawn) == 3
    assert "numbers: 3 cases tried, 1 survived, 2 lost, " in capsys.readouterr().out


def test_a_family_that_fails_or_tries_nothing_is_lost(tmp_path: Path) -> None:
    assert torture(Numbers(breaks=True)) == 1

    class Nothing:
        name = "nothing"

        def run(self, settings: Settings, rng: random.Random, tally: Tally) -> None: ...

    assert torture(Nothing()) == 1


def test_a_seed_repeats_its_cases() -> None:
    first, again, other = Numbers(), Numbers(), Numbers(name="others")
    torture(first)
    torture(again, other)
    assert first.drawn == again.drawn
    assert first.drawn != other.drawn


class Dies:
    """A family whose process is gone at once."""

    name = "dies"

    def run(self, settings: Settings, rng: random.Random, tally: Tally) -> None:
        settings.scratch.rmdir()
        os._exit(9)


def test_families_side_by_side_are_all_run_and_each_can_make_the_whole_fail(
    capfd: pytest.CaptureFixture[str],
) -> None:
    families = [Numbers(name=f"numbers-{number}") for number in range(4)]
    side_by_side = ("--jobs", "2")
    assert torture(*families, arguments=side_by_side) == 0
    assert capfd.readouterr().out.count(": 3 cases tried, 3 survived, 0 lost, ") == 4
    assert torture(*families, Numbers(frozenset({1})), arguments=side_by_side) == 1
    assert "lost: number 1: AssertionError: it was to lose (again: " in capfd.readouterr().out
    assert torture(*families, Dies(), arguments=side_by_side) == 1
    assert "dies ended with 9" in capfd.readouterr().out


def test_only_the_families_named_are_run() -> None:
    one, two = Numbers(name="one"), Numbers(name="two")
    assert torture(one, two, arguments=("--family", "two")) == 0
    assert (len(one.drawn), len(two.drawn)) == (0, 3)
