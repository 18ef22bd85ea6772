"""Every prefix of the writes of a graft and a rollback on XFS, by the live system.

GRUB legacy reads XFS of version 4. Only a mount replays its log, and kernels begin to come without
that version; the live system's has it. So the disks that GRUB's own code has judged are put into
one, and each is mounted and looked at, all in one boot of the live system.
"""

import json
import random
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from image.bench_subjects import BESIDE_THE_AGENT
from image.live_boot import boot_live, finish_probe, make_iso_with_agent
from torture.cuts import Cut
from torture.family import Settings, Tally
from torture.hostile_machines import INSIDE, MEMORY
from torture.judge import (
    ROOT_PATHS,
    Contents,
    Files,
    Judge,
    Side,
    boot_paths,
    cut_out,
    read_by_grub,
)
from torture.recording import Recording, make_tempted_iso, record
from torture.small_appliance import OFFSETS, SIZE, build_small_appliance
from torture.write_log import Part, Samples, Trial, is_boot
from vm.commands import ENVIRONMENT
from vm.grub_files import read_files
from vm.payload import build_payload
from vm.write_log import Changed, Replay, Write

KIND = "xfs"
SUBSETS = 40  # random ones, of the graft and of the rollback each
SAMPLES = Samples(SUBSETS, every_nth_again=10**9, booted=1, finished=1)
BOOT, ROOT = 0, 1  # the volumes of a disk

# As in inside.py, which only the live system can import.
VOLUMES = b"bootgraft volumes "
HEADER = 1 << 16  # bytes before the first volume
LOOK_TIMEOUT = 1800.0  # seconds for all volumes


class XfsLog:
    """The family."""

    name = "xfs_log"

    def run(self, settings: Settings, rng: random.Random, tally: Tally) -> None:
        """Record, cut, judge by GRUB's own code, and in the end judge all by a mount."""
        payload = build_payload(settings.scratch)
        iso = make_tempted_iso(settings.iso, settings.scratch)
        disk = build_small_appliance(settings.scratch, KIND).path
        recording = record(iso, payload, disk, settings.scratch)
        with tally.case("looking writes nothing, and lets nobody write"):
            assert not recording.looking, f"{len(recording.looking)} writes and flushes"
        with tally.case("the rollback of the recorded graft"):
            assert recording.problem is None, recording.problem
        samples = replace(SAMPLES, subsets=settings.count or SUBSETS)
        grafted = settings.scratch / "grafted.raw"
        shutil.copyfile(disk, grafted)
        with closing(Replay(grafted)) as replay:
            replay.write(entry for entry in recording.graft if isinstance(entry, Write))
        carrier = Carrier(settings, disk, grafted)
        for part in _split(recording, carrier.judge, grafted, settings.scratch):
            XfsTrial(part, carrier, settings, samples, tally, rng).run()
        carrier.look(tally)


def _split(recording: Recording, judge: Judge, grafted: Path, folder: Path) -> Iterator[Part]:
    yield Part("xfs graft", recording.disk, recording.graft, judge, "new", folder)
    if recording.problem is None:
        yield Part("xfs rollback", grafted, recording.rollback, judge, "old", folder)


class XfsTrial(Trial):
    """Cuts one part; what the guest finds is judged later, when the carrier is looked at."""

    def __init__(self, part: Part, carrier: "Carrier", *arguments: Any) -> None:
        super().__init__(part, *arguments)
        self._carrier = carrier

    def _judge_guest(self, cut: Cut, changed: Changed) -> None:
        self._carrier.add_cut(self._part.name, cut.name, self._image, changed)

    def _check_finished(self, image: Path) -> None:
        """Check a disk on which a run has ended: its log is empty, so GRUB finds what is there."""
        for volume in (BOOT, ROOT):
            check_xfs(cut_out(image, OFFSETS[volume], self._part.folder / "volume"))
        wanted = self._part.wanted
        assert self._part.judge.as_grub_reads_it(image) == wanted
        assert read_root_by_grub(image) == self._carrier.root_by_grub[wanted]


def check_xfs(volume: Path) -> None:
    """Check a file system without writing; AssertionError for what xfs_repair finds, or a log."""
    # It wants a second group to compare with.
    argv = ["xfs_repair", "-n", "-f", "-o", "force_geometry", str(volume)]
    done = subprocess.run(argv, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    if done.returncode != 0 or "valuable metadata changes in a log" in said:
        raise AssertionError(f"xfs_repair -n ended with status {done.returncode}: {said[-1000:]}")


def read_root_by_grub(image: Path) -> list[bytes | None]:
    """Read what matters of the root file system by GRUB's own code."""
    return read_files(image, [f"(hd0,1){path}" for path in ROOT_PATHS])


@dataclass(frozen=True, slots=True)
class _Cut:
    name: str
    volumes: tuple[int, int]  # numbers of the boot volume and the root file system


class Carrier:
    """A disk that holds file systems, to be mounted one by one in the live system.

    It begins with those of the disk before the graft, and after it.
    """

    def __init__(self, settings: Settings, old: Path, new: Path) -> None:
        self._settings = settings
        self._image = settings.scratch / "carrier.img"
        self._image.touch()
        self._kinds: list[int] = []
        self._numbers: dict[tuple[int, str], int] = {}
        self._cuts: list[_Cut] = []
        by_grub = read_by_grub(old), read_by_grub(new)
        old_side, new_side = (Contents(each, {}, {}) for each in by_grub)
        self.judge = Judge(old_side, new_side, KIND)
        self.root_by_grub: Mapping[Side, list[bytes | None]] = {
            "old": read_root_by_grub(old),
            "new": read_root_by_grub(new),
        }
        self._paths = boot_paths(by_grub[0] | by_grub[1]), ROOT_PATHS
        self._whole = [
            tuple(self._add(disk, volume, str(disk)) for volume in (BOOT, ROOT))
            for disk in (old, new)
        ]

    def add_cut(self, part: str, cut: str, image: Path, changed: Changed) -> None:
        """Add a disk that was cut; a file system that is there already is not added again."""
        boot = self._add(image, BOOT, f"{part}: {changed.hash(is_boot)}")
        root = self._add(image, ROOT, f"{part}: {changed.hash(lambda each: not is_boot(each))}")
        self._cuts.append(_Cut(f"{part}, {cut}", (boot, root)))

    def _add(self, image: Path, volume: int, key: str) -> int:
        if (volume, key) in self._numbers:
            return self._numbers[volume, key]
        number = self._numbers[volume, key] = len(self._kinds)
        self._kinds.append(volume)
        with image.open("rb") as source, self._image.open("r+b") as carrier:
            source.seek(OFFSETS[volume])
            for at in range(0, SIZE, HEADER):
                block = source.read(HEADER)
                if any(block):
                    carrier.seek(HEADER + number * SIZE + at)
                    carrier.write(block)
            carrier.truncate(HEADER + len(self._kinds) * SIZE)
        return number

    def look(self, tally: Tally) -> None:
        """Mount all of them, and judge each cut by what its two file systems then hold."""
        found = self._mount_all()
        old, new = (
            Contents(side.by_grub, *(_files(found[number]) for number in whole))
            for side, whole in zip((self.judge.old, self.judge.new), self._whole, strict=True)
        )
        judge = Judge(old, new, KIND)
        for cut in self._cuts:
            with tally.case(f"{cut.name}, its log replayed"):
                judge.judge_guest(*(_files(found[number]) for number in cut.volumes))

    def _mount_all(self) -> list[Mapping[str, Any]]:
        kinds = "".join(map(str, self._kinds))
        facts = {"size": SIZE, "first": HEADER, "paths": self._paths, "volumes": kinds}
        text = json.dumps(facts).encode()
        with self._image.open("r+b") as carrier:
            carrier.write(VOLUMES + b"%010d" % len(text) + text)
        folder = self._settings.scratch / "inside"
        folder.mkdir()
        iso = make_iso_with_agent(self._settings.iso, INSIDE, folder, package=BESIDE_THE_AGENT)
        drive = f"if=none,id=carrier,file={self._image},format=raw,snapshot=on"
        arguments = ["-drive", drive, "-device", "virtio-blk-pci,drive=carrier"]
        with boot_live(iso, arguments, MEMORY) as boot:
            report = finish_probe(boot, LOOK_TIMEOUT)
        return [report.devices[f"volume {number}"] for number in range(len(self._kinds))]


def _files(looked: Mapping[str, Any]) -> Files:
    """Give the hashes of a file system's files. AssertionError where it could not be mounted."""
    assert looked["problem"] is None, looked["problem"]
    digests = looked["files"].items()
    return {path: digest and digest.encode() for path, digest in digests}
