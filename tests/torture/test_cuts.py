"""Cuts keep what a disk may keep: whole epochs, and any part of the next one, sector by sector."""

import itertools
import random

from torture.cuts import Cut, every_prefix, every_small_subset, random_subsets
from vm.write_log import SECTOR, Epoch, Write

WRITES = tuple(Write(n * 8 * SECTOR, bytes([n]) * 2 * SECTOR) for n in range(6))
EPOCHS = (Epoch(WRITES[:1]), Epoch(WRITES[1:3]), Epoch(WRITES))


def states(cuts: list[Cut]) -> set[tuple[int, tuple[Write, ...]]]:
    return {(cut.epochs, cut.kept) for cut in cuts}


def test_every_prefix_is_there() -> None:
    found = states(list(every_prefix(EPOCHS)))
    assert found == {
        *((0, ()), (1, ()), (1, WRITES[1:2]), (2, ()), (3, ())),
        *((2, WRITES[:count]) for count in range(1, 6)),
    }


def test_every_subset_of_few_writes_is_there() -> None:
    found = states(list(every_small_subset(EPOCHS)))
    assert found == {
        *((0, each) for each in ((), WRITES[:1])),
        *((1, each) for each in ((), WRITES[1:2], WRITES[2:3], WRITES[1:3])),
    }


def test_random_subsets_keep_sectors_of_one_epoch_alone() -> None:
    cuts = list(random_subsets(EPOCHS, 200, random.Random(5)))  # noqa: S311
    assert len(cuts) == 200
    torn = 0
    for cut in cuts:
        whole = {(write.offset, write.data) for write in EPOCHS[cut.epochs].writes}
        sectors = {
            (offset + at, data[at : at + SECTOR])
            for offset, data in whole
            for at in range(0, len(data), SECTOR)
        }
        assert {(write.offset, write.data) for write in cut.kept} <= whole | sectors
        torn += any(len(write.data) == SECTOR for write in cut.kept)
    assert torn > 50
    assert len({cut.epochs for cut in cuts}) == 3


def test_a_seed_repeats_its_cuts() -> None:
    one, two = (list(random_subsets(EPOCHS, 50, random.Random(7))) for _ in range(2))  # noqa: S311
    assert one == two


def test_nothing_is_cut_where_nothing_was_written() -> None:
    assert states(list(itertools.chain(every_prefix(()), every_small_subset(())))) == {(0, ())}
    assert list(random_subsets((), 10, random.Random(7))) == []  # noqa: S311
