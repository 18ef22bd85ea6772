"""A small share of the family `recipe_log`: one layout, cut behind some of the writes."""

import os
import random
from pathlib import Path

import pytest

from torture.family import Tally
from torture.recipe_log import LAYOUTS, Layout, Samples, try_layout

SEED = 20260101
SOME = Samples(every_nth=16, every_nth_again=5)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts file systems")
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_behind_a_write_each_path_is_old_or_new_and_another_run_finishes(
    layout: Layout, tmp_path: Path
) -> None:
    tally = Tally()
    try_layout(layout, tmp_path, tally, random.Random(SEED), SOME)  # noqa: S311
    assert tally.lost == []
    assert tally.tried > 20
