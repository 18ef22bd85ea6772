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
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import bootgraft_agent
from torture.again import Finisher, check_finished, write_payload
from torture.cuts import Cut, Cutter, every_prefix, every_small_subset, random_subsets
from torture.family import Settings, Tally
from torture.judge import Judge, Side, check_boots, read_disk, repair
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
from torture.small_appliance import build_small_appliance
from vm.payload import build_payload
from vm.write_log import Entry, Replay, Write

KINDS = ("ext3", "ext2", "ext4")
SUBSETS = 400  # random ones, of all recordings together
EVERY_NTH_AGAIN = 5  # of the disks, finished by another run of the agent


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
        Trial(part, settings, samples, tally, rng).run(subsets)


@dataclass(frozen=True, slots=True)
class Samples:
    """How many of a part's disks are tried in QEMU, which takes long."""

    booted: int  # by GRUB's own stages
    finished: int  # by the live system


LIVE = Samples(booted=2, finished=1)
TREE = Samples(booted=1, finished=0)


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
    judge = Judge(read_disk(recording.disk), read_disk(grafted), kind)
    yield Part(f"{kind} graft", recording.disk, recording.graft, judge, "new", folder)
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
        self._tally = tally
        self._rng = rng
        self._image = part.folder / "cut.raw"
        self._copy = part.folder / "copy.raw"

    def run(self, subsets: int) -> None:
        """Try every prefix, every subset of few writes, and random subsets of many."""
        shutil.copyfile(self._part.disk, self._image)
        with closing(Replay(self._image)) as replay:
            cutter = Cutter(replay, self._part.entries)
            cuts = [*every_prefix(cutter.epochs), *every_small_subset(cutter.epochs)]
            cuts += random_subsets(cutter.epochs, subsets, self._rng)
            live = self._rng.sample(cuts, self._samples.finished)
            booted = self._rng.sample(cuts, self._samples.booted)
            seen: set[str] = set()
            sides: list[Side | None] = []
            for cut in sorted(cuts, key=lambda cut: cut.epochs):
                cutter.forward(cut.epochs)
                with replay.tried_out(cut.kept) as digest:
                    if digest not in seen:
                        seen.add(digest)
                        sides.append(self._judge(cut, len(seen) % EVERY_NTH_AGAIN == 0))
                    if cut in booted:
                        self._boot(cut)
                    if cut in live:
                        self._finish_live(cut)
        with self._tally.case(f"{self._part.name}: from one menu to the other"):
            other: Side = "old" if self._part.wanted == "new" else "new"
            assert (sides[0], sides[-1]) == (other, self._part.wanted)

    def _judge(self, cut: Cut, again: bool) -> Side | None:
        """Judge a disk, and have it finished; give the menu that GRUB finds in it."""
        side = None
        with self._tally.case(f"{self._part.name}, {cut.name}"):
            side = self._part.judge.as_grub_reads_it(self._image)
            self._part.judge.as_the_guest_finds_it(self._image, self._copy)
            if again:
                # Mostly what was cut off is done again; it may also be taken back.
                wanted = self._rng.choice((self._part.wanted, self._part.wanted, "old", "new"))
                self._finisher.finish(self._image, self._copy, wanted)
        return side

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
            check_finished(self._part.judge, self._copy, self._part.wanted)
