"""Every prefix of the writes of a real graft and a real rollback, and random subsets of them.

Both are done by the live system in QEMU, or by tree mode and the kernel here, on the small
appliance, with file systems that GRUB legacy reads; every write is logged in order. Each case is
the disk as a power cut at some instant leaves it: GRUB's own code must find the old menu or the new
one in it, whole, and whole files, with and without a replay of the journal; and another run must
finish the work.

ext2 has no journal. There, too, GRUB finds the old or the new, whole; but the guest's own check of
the file system must put it right, as after any power cut, before anything is said of the rest.
"""

import contextlib
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import bootgraft_agent
from torture.again import Finisher, check_finished, write_payload
from torture.cuts import Cut, Cutter, every_prefix, every_small_subset, random_subsets
from torture.family import Settings, Tally
from torture.judge import Files, Judge, Side, check_boots, read_contents, repair
from torture.recording import (
    REQUEST_TIMEOUT,
    Recording,
    graft,
    live_system,
    make_tempted_iso,
    power_off,
    raw_drive,
    record,
    record_tree_mode,
)
from torture.small_appliance import OFFSETS, build_small_appliance
from vm.ext3 import BLOCK_SIZE, Ext3
from vm.payload import build_payload
from vm.write_log import SECTOR, Changed, Entry, Replay, Write
from vm.xfs import find_xfs

KINDS = ("ext3", "ext2", "ext4")
SUBSETS = 400  # random ones, of all recordings together
EVERY_NTH_AGAIN = 5

_Found = TypeVar("_Found")


class WriteLog:
    """The family of grafts by the live system."""

    name = "write_log"

    def run(self, settings: Settings, rng: random.Random, tally: Tally) -> None:
        """Record on each file system, cut, and judge."""
        payload = build_payload(settings.scratch)
        iso = make_tempted_iso(settings.iso, settings.scratch)
        for kind in KINDS:
            with _folder(settings.scratch, kind) as folder:
                disk = build_small_appliance(folder, kind)
                recording = record(iso, payload, disk.path, folder)
                with tally.case(f"{kind}: looking writes nothing, and lets nobody write"):
                    assert not recording.looking, f"{len(recording.looking)} writes and flushes"
                _try_all(recording, kind, folder, settings, tally, rng, LIVE)


class TreeModeLog:
    """The family of grafts in tree mode: this machine's kernel writes."""

    name = "tree_mode_log"

    def run(self, settings: Settings, rng: random.Random, tally: Tally) -> None:
        """Record on each file system, cut, and judge."""
        agent = Path(bootgraft_agent.__file__).parents[1]
        for kind in KINDS:
            with _folder(settings.scratch, kind) as folder:
                disk = build_small_appliance(folder, kind)
                payload = write_payload(folder / "payload")
                recording = record_tree_mode(agent, payload, disk.path, folder)
                _try_all(recording, kind, folder, settings, tally, rng, TREE)


@contextlib.contextmanager
def _folder(scratch: Path, kind: str) -> Iterator[Path]:
    folder = scratch / kind
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def _try_all(
    recording: Recording,
    kind: str,
    folder: Path,
    settings: Settings,
    tally: Tally,
    rng: random.Random,
    samples: "Samples",
) -> None:
    subsets = (settings.count or SUBSETS) // (2 * len(KINDS))
    for part in split(recording, kind, folder):
        Trial(part, settings, replace(samples, subsets=subsets), tally, rng).run()
    with tally.case(f"{kind}: the rollback of the recorded graft"):
        assert recording.problem is None, recording.problem


@dataclass(frozen=True, slots=True)
class Samples:
    """How many cuts of a part are tried, besides its prefixes, and in what other ways."""

    subsets: int  # random ones; with any, also all those of few writes
    every_nth_again: int  # of the disks, finished by another run of the agent
    booted: int  # by GRUB's own stages in QEMU
    finished: int  # by the live system


LIVE = Samples(SUBSETS, EVERY_NTH_AGAIN, booted=2, finished=1)
TREE = Samples(SUBSETS, EVERY_NTH_AGAIN, booted=1, finished=0)
SMALL = Samples(subsets=0, every_nth_again=25, booted=0, finished=0)


@dataclass(frozen=True, slots=True)
class Part:
    """A graft or a rollback to cut: the disk before it, its writes, and what may be found."""

    name: str  # "ext3 graft"
    disk: Path
    entries: Sequence[Entry]
    judge: Judge
    wanted: Side  # the menu in the end
    folder: Path


def split(recording: Recording, kind: str, folder: Path) -> Iterator[Part]:
    """Give the graft and the rollback of a recording."""
    grafted = folder / "grafted.raw"
    shutil.copyfile(recording.disk, grafted)
    with closing(Replay(grafted)) as replay:
        replay.write(entry for entry in recording.graft if isinstance(entry, Write))
    judge = Judge(read_contents(recording.disk, kind), read_contents(grafted, kind), kind)
    yield Part(f"{kind} graft", recording.disk, recording.graft, judge, "new", folder)
    if recording.problem is None:
        yield Part(f"{kind} rollback", grafted, recording.rollback, judge, "old", folder)


class Trial:
    """Cuts one part, and judges each disk that comes of it once."""

    def __init__(
        self, part: Part, settings: Settings, samples: Samples, tally: Tally, rng: random.Random
    ) -> None:
        self._part = part
        self._iso = settings.iso
        self._payload_iso = settings.scratch / "payload.iso"
        self._finisher = Finisher(part.judge, write_payload(part.folder / "payload"))
        self._samples = samples
        self._journal = _journal_sectors(part.disk)
        # What was found, by the hash of all that it can depend on.
        self._sides: dict[str, Side] = {}
        self._boots: dict[str, Files] = {}
        self._roots: dict[str, Files] = {}
        self._tally = tally
        self._rng = rng
        self._image = part.folder / "cut.raw"
        self._copy = part.folder / "copy.raw"

    def run(self) -> None:
        """Try every prefix; and as the samples say, subsets, other runs, and boots."""
        judge = self._part.judge
        with self._tally.case(f"{self._part.name}: the graft that was reported is on the disk"):
            assert judge.old.by_grub != judge.new.by_grub, "GRUB finds the old menu"
        shutil.copyfile(self._part.disk, self._image)
        with closing(Replay(self._image)) as replay:
            cutter = Cutter(replay, self._part.entries)
            cuts = list(every_prefix(cutter.epochs))
            if self._samples.subsets:
                cuts += every_small_subset(cutter.epochs)
                cuts += random_subsets(cutter.epochs, self._samples.subsets, self._rng)
            live = self._rng.sample(cuts, self._samples.finished)
            booted = self._rng.sample(cuts, self._samples.booted)
            seen: set[str] = set()
            sides: list[
                Side | None
            ] = []  # the menus that GRUB finds, from the first cut to the last
            for cut in sorted(cuts, key=lambda cut: cut.epochs):
                cutter.forward(cut.epochs)
                with replay.tried_out(cut.kept) as changed:
                    if changed.hash() not in seen:
                        seen.add(changed.hash())
                        self._judge(cut, changed)
                        if len(seen) % self._samples.every_nth_again == 0:
                            self._finish(cut)
                    sides.append(self._sides.get(changed.hash(self._is_grubs)))
                    if cut in booted:
                        self._boot(cut)
                    if cut in live:
                        self._finish_live(cut)
        with self._tally.case(f"{self._part.name}: what was reported as done is on the disk"):
            assert sides[-1] == self._part.wanted, f"in the end the menu is the {sides[-1]} one"
            assert sides[0] != sides[-1], f"the menu was the {sides[0]} one to begin with"

    def _judge(self, cut: Cut, changed: Changed) -> None:
        """Judge a disk, as GRUB reads it and as the guest finds it."""
        judge, image = self._part.judge, self._image
        with self._tally.case(f"{self._part.name}, {cut.name}"):
            _once(self._sides, changed.hash(self._is_grubs), lambda: judge.as_grub_reads_it(image))
            self._judge_guest(cut, changed)

    def _judge_guest(self, cut: Cut, changed: Changed) -> None:
        """Judge a disk as the guest finds it."""
        judge, image = self._part.judge, self._image
        judge.judge_guest(
            _once(self._boots, changed.hash(is_boot), lambda: judge.read_boot(image)),
            _once(self._roots, changed.hash(_is_root), lambda: judge.read_root(image)),
        )

    def _is_grubs(self, sector: int) -> bool:
        """Whether GRUB may look at a sector: it knows nothing of journals."""
        return is_boot(sector) and sector not in self._journal

    def _finish(self, cut: Cut) -> None:
        """Have the agent finish what was cut off; or take it back, which must also do."""
        wanted = self._rng.choice((self._part.wanted, self._part.wanted, "old", "new"))
        with self._tally.case(f"{self._part.name}, {cut.name}, brought to {wanted}"):
            self._finisher.finish(self._image, self._copy, wanted)

    def _boot(self, cut: Cut) -> None:
        """Boot the disk with GRUB's own stages."""
        with self._tally.case(f"{self._part.name}, {cut.name}, booted"):
            side = self._part.judge.as_grub_reads_it(self._image)
            check_boots(self._image, side)

    def _finish_live(self, cut: Cut) -> None:
        """Have the live system finish what was cut off."""
        with self._tally.case(f"{self._part.name}, {cut.name}, finished by the live system"):
            shutil.copyfile(self._image, self._copy)
            if self._part.judge.kind == "ext2":
                repair(self._copy, "ext2")
            drive = raw_drive(self._copy)
            with live_system(self._iso, self._payload_iso, drive) as (boot, client):
                if self._part.wanted == "new":
                    graft(client, "finished")
                else:
                    client.request("rollback", {}, REQUEST_TIMEOUT)
                power_off(boot, client)
            self._check_finished(self._copy)

    def _check_finished(self, image: Path) -> None:
        check_finished(self._part.judge, image, self._part.wanted)


def _once(known: dict[str, _Found], key: str, look: Callable[[], _Found]) -> _Found:
    """Look where that has not been done for such a disk."""
    if key not in known:
        known[key] = look()
    return known[key]


def is_boot(sector: int) -> bool:
    """Whether a sector is of the boot volume, or before it."""
    return sector * SECTOR < OFFSETS[1]


def _is_root(sector: int) -> bool:
    return not is_boot(sector)


def _journal_sectors(disk: Path) -> frozenset[int]:
    """Give the sectors of the boot volume's journal."""
    sectors = BLOCK_SIZE // SECTOR
    start = OFFSETS[0] // SECTOR
    if xfs := find_xfs(disk, OFFSETS[0]):
        return frozenset(start + sector for sector in xfs.log_sectors())
    blocks = Ext3(disk, OFFSETS[0]).journal_blocks()
    return frozenset(start + block * sectors + n for block in blocks for n in range(sectors))
