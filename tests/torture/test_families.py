"""A small share of the families of hostile input, from one seed; `make torture` has the rest."""

import random
from pathlib import Path

from torture.family import Tally
from torture.hostile_disk import try_tables, try_trees
from torture.serial_line import try_conversations

SEED = 20


def chance() -> random.Random:
    return random.Random(SEED)  # noqa: S311


def test_conversations_over_bad_lines_end_as_over_a_good_one(tmp_path: Path) -> None:
    tally = Tally()
    try_conversations(5, tmp_path, chance(), tally)
    assert (tally.tried, tally.lost) == (5, [])


def test_hostile_folders_end_in_a_result_or_a_refusal_and_touch_nothing_else(
    tmp_path: Path,
) -> None:
    tally = Tally()
    try_trees(6, tmp_path, chance(), tally)
    assert (tally.tried, tally.lost) == (6, [])


def test_hostile_partition_tables_end_in_a_result_or_a_problem(tmp_path: Path) -> None:
    tally = Tally()
    try_tables(40, tmp_path, chance(), tally)
    assert (tally.tried, tally.lost) == (40, [])
