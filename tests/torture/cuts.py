"""Power cuts in a recorded sequence of writes: which writes of those in flight a disk has kept."""

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vm.write_log import SECTOR, Entry, Epoch, Replay, Write, split_epochs

SUBSETS_OF_ALL = 4  # writes in flight of which every subset is tried


@dataclass(frozen=True, slots=True)
class Cut:
    """What is on the disk: `epochs` whole ones, and `kept` of the next one's writes."""

    name: str
    epochs: int
    kept: tuple[Write, ...]


def every_prefix(epochs: Sequence[Epoch]) -> Iterator[Cut]:
    """Cut before everything, behind every flush, and behind every write."""
    yield Cut("before the first write", 0, ())
    for number, epoch in enumerate(epochs):
        for count in range(1, len(epoch.writes)):
            name = f"epoch {number}, the first {count} of {len(epoch.writes)} writes"
            yield Cut(name, number, epoch.writes[:count])
        yield Cut(f"epoch {number}, whole", number + 1, ())


def every_small_subset(epochs: Sequence[Epoch]) -> Iterator[Cut]:
    """Cut where few writes were in flight, with every subset of them kept."""
    for number, epoch in enumerate(epochs):
        if len(epoch.writes) > SUBSETS_OF_ALL:
            continue
        for chosen in itertools.product((False, True), repeat=len(epoch.writes)):
            yield _subset(number, epoch, chosen)


def random_subsets(epochs: Sequence[Epoch], count: int, rng: random.Random) -> Iterator[Cut]:
    """Cut where several writes, or one of several sectors, were in flight.

    A disk writes whole sectors: of a write that is cut off it keeps some and not the others.
    """
    crowded = [
        number
        for number, epoch in enumerate(epochs)
        if sum(len(write.data) for write in epoch.writes) > SECTOR
    ]
    for _ in range(count if crowded else 0):
        number = rng.choice(crowded)
        writes = list(epochs[number].writes)
        chosen = [rng.random() < rng.choice((0.2, 0.5, 0.8)) for _ in writes]
        cut = _subset(number, epochs[number], chosen)
        torn = rng.randrange(len(writes))
        kept = [*cut.kept, *_tear(writes[torn], rng)]
        rng.shuffle(kept)
        if any(_overlap(one, other) for one, other in itertools.combinations(kept, 2)):
            yield cut  # the later of two writes of one sector is the one that counts
        else:
            yield Cut(f"{cut.name}, write {torn} torn", number, tuple(kept))


def _subset(number: int, epoch: Epoch, chosen: Sequence[bool]) -> Cut:
    kept = tuple(itertools.compress(epoch.writes, chosen))
    bits = "".join("x" if each else "-" for each in chosen)
    return Cut(f"epoch {number}, of its writes {bits}", number, kept)


def _tear(write: Write, rng: random.Random) -> Iterator[Write]:
    for at in range(0, len(write.data), SECTOR):
        if rng.random() < 0.5:
            yield Write(write.offset + at, write.data[at : at + SECTOR])


def _overlap(one: Write, other: Write) -> bool:
    return one.offset < other.offset + len(other.data) and other.offset < one.offset + len(one.data)


class Cutter:
    """Makes the disk as it is after one cut after the other; the cuts come in order."""

    def __init__(self, replay: Replay, entries: Sequence[Entry]) -> None:
        self._replay = replay
        self.epochs = tuple(split_epochs(entries))
        self._done = 0

    def forward(self, epochs: int) -> None:
        """Do the writes of that many epochs for good."""
        for epoch in self.epochs[self._done : epochs]:
            self._replay.write(epoch.writes)
        self._done = max(self._done, epochs)
