"""Power cuts for real: QEMU killed at random instants of a run, and the machine then used again.

What the guest had handed to its disk is there afterwards; what it had not is lost.
"""

import contextlib
import random
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bootgraft_host.client import SilenceError
from torture.again import check_finished
from torture.family import Settings, Tally
from torture.judge import Judge, Side, check_boots, read_contents
from torture.recording import REQUEST_TIMEOUT, graft, live_system, power_off, raw_drive
from torture.small_appliance import build_small_appliance
from vm.boots import Boot
from vm.payload import build_payload

CUTS = 15
BOOTS = 5  # at least so many of the disks are booted
WORKERS = 2  # machines at a time
WHILE_WRITING = 0.8  # of the cuts; the others come while the live system boots or looks


class PowerCut:
    """The family."""

    name = "power_cut"

    def run(self, settings: Settings, rng: random.Random, tally: Tally) -> None:
        """Graft once without a cut, to know how long it takes; then cut, boot, and graft again."""
        payload = build_payload(settings.scratch)
        base = build_small_appliance(settings.scratch).path
        bench = _Bench(settings.iso, payload, base, settings.scratch)
        times = bench.graft_without_a_cut()
        cuts = list(_draw(rng, settings.count or CUTS, times))
        booted = set(rng.sample(range(len(cuts)), min(BOOTS, len(cuts))))
        with ThreadPoolExecutor(WORKERS) as pool:
            ends = [
                pool.submit(bench.try_cut, number, cut, number in booted)
                for number, cut in enumerate(cuts)
            ]
            for number, (cut, end) in enumerate(zip(cuts, ends, strict=True)):
                with tally.case(f"cut {number}, {cut}"):
                    end.result()


@dataclass(frozen=True, slots=True)
class _Times:
    """How long the phases of a run take, in seconds."""

    until_apply: float  # from power-on
    apply: float


@dataclass(frozen=True, slots=True)
class _Cut:
    """An instant: seconds after power-on, or after the apply was asked for."""

    in_apply: bool
    seconds: float

    def __str__(self) -> str:
        return f"{self.seconds:.2f} s after {'apply' if self.in_apply else 'power-on'}"


def _draw(rng: random.Random, count: int, times: _Times) -> Iterator[_Cut]:
    for _ in range(count):
        in_apply = rng.random() < WHILE_WRITING
        yield _Cut(in_apply, rng.uniform(0, times.apply if in_apply else times.until_apply))


class _Bench:
    """Copies of one disk, each in a machine of its own."""

    def __init__(self, iso: Path, payload: Path, base: Path, folder: Path) -> None:
        self._iso = iso
        self._payload = payload
        self._base = base
        self._folder = folder
        self._judge: Judge | None = None

    def graft_without_a_cut(self) -> _Times:
        """Graft, learn what the disk must be, and say how long it takes."""
        disk = self._copy("whole")
        started = time.monotonic()
        with live_system(self._iso, self._payload, raw_drive(disk)) as (boot, client):
            client.request("plan", {}, REQUEST_TIMEOUT)
            looked = time.monotonic()
            graft(client, "whole")
            times = _Times(looked - started, time.monotonic() - looked)
            power_off(boot, client)
        self._judge = Judge(read_contents(self._base, "ext3"), read_contents(disk, "ext3"), "ext3")
        return times

    def try_cut(self, number: int, cut: _Cut, is_booted: bool) -> None:
        """Cut, judge, boot where asked for, and graft again; AssertionError where it is lost."""
        assert self._judge is not None
        disk = self._copy(f"cut-{number}")
        self._cut(disk, cut)
        side: Side = self._judge.as_grub_reads_it(disk)
        self._judge.as_the_guest_finds_it(disk)
        if is_booted:
            check_boots(disk, side)
        with live_system(self._iso, self._payload, raw_drive(disk)) as (boot, client):
            graft(client, "again")
            power_off(boot, client)
        check_finished(self._judge, disk, "new")
        disk.unlink()

    def _cut(self, disk: Path, cut: _Cut) -> None:
        def begin(boot: Boot) -> None:
            if not cut.in_apply:
                _cut_after(boot, cut.seconds)

        # The machine turns off while something of it is awaited.
        with (
            contextlib.suppress(SilenceError),
            live_system(self._iso, self._payload, raw_drive(disk), begin) as (boot, client),
        ):
            plan = client.request("plan", {}, REQUEST_TIMEOUT)
            if cut.in_apply:
                _cut_after(boot, cut.seconds)
                options = {"plan_sha256": plan["plan_sha256"], "run_id": "cut"}
                client.request("apply", options, REQUEST_TIMEOUT)
            boot.wait_off(REQUEST_TIMEOUT)

    def _copy(self, name: str) -> Path:
        disk = self._folder / f"{name}.raw"
        shutil.copyfile(self._base, disk)
        return disk


def _cut_after(boot: Boot, seconds: float) -> None:
    """Have the power cut in a while."""
    timer = threading.Timer(seconds, boot.cut_power)
    timer.daemon = True
    timer.start()
