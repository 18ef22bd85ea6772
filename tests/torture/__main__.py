"""Try every fault that bootgraft must survive: `make torture [SEED=n] [COUNT=n] [FAMILY="a b"]`.

Everything left to chance comes from the seed, which is printed first. Families run side by side,
each in a process of its own, as most of them wait for a machine or a line much of their time; each
prints its line when it has ended. Ends with status 1 when a case of any family is lost.
"""

import argparse
import multiprocessing
import os
import random
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from multiprocessing import connection
from multiprocessing.context import ForkProcess
from pathlib import Path

from torture.controller_killed import ControllerKilled
from torture.crowded import CrowdedLog
from torture.family import EnoughLostError, Family, Settings, Tally, describe
from torture.hostile_disk import HostileDisk, HostileTree
from torture.payload_iso import PayloadIso
from torture.power_cut import PowerCut
from torture.recipe_log import RecipeLog
from torture.serial_line import SerialLine, SerialRuns
from torture.write_log import TreeModeLog, WriteLog
from torture.xfs_log import XfsLog
from vm.bench import find_live_iso

MEMORY_NEEDED = 4 << 30  # bytes
MOST_JOBS = 2  # families at a time: some hold deadlines
FAILED = "the family itself failed"
FAMILIES: tuple[Family, ...] = (
    WriteLog(),
    XfsLog(),
    TreeModeLog(),
    CrowdedLog(),
    RecipeLog(),
    PowerCut(),
    ControllerKilled(),
    SerialLine(),
    SerialRuns(),
    HostileTree(),
    HostileDisk(),
    PayloadIso(),
)


def main(argv: Sequence[str] | None = None, families: Sequence[Family] = FAMILIES) -> int:
    """Run the families; give the exit status."""
    arguments = _parse(argv, families)
    started = time.monotonic()
    say(f"torture: seed {arguments.seed}")
    chosen = [each for each in families if each.name in (arguments.family or [each.name])]
    if arguments.jobs > 1 and len(chosen) > 1:
        survived = _run_side_by_side(chosen, arguments)
    else:
        ends = [_run(family, arguments) for family in chosen]
        survived = all(ends)
    say(f"torture: {time.monotonic() - started:.0f} s in all")
    return 0 if survived else 1


def _run_side_by_side(families: Sequence[Family], arguments: argparse.Namespace) -> bool:
    """Run each family in a process, so many at a time; give whether all survived."""
    context = multiprocessing.get_context("fork")
    waiting, running = deque(families), list[ForkProcess]()
    survived = True
    try:
        while waiting or running:
            while waiting and len(running) < arguments.jobs:
                family = waiting.popleft()
                process = context.Process(
                    target=_run_to_exit, args=(family, arguments), name=family.name
                )
                process.start()
                running.append(process)
            connection.wait([process.sentinel for process in running])
            for process in [each for each in running if not each.is_alive()]:
                running.remove(process)
                survived = survived and process.exitcode == 0
                if process.exitcode not in {0, 1}:
                    say(f"{process.name} ended with {process.exitcode}")
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.join()
    return survived


def _run_to_exit(family: Family, arguments: argparse.Namespace) -> None:
    sys.exit(0 if _run(family, arguments) else 1)


def _parse(argv: Sequence[str] | None, families: Sequence[Family]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m torture", description=__doc__)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**32))
    parser.add_argument("--count", type=_positive, help="cases of each family")
    parser.add_argument("--iso", type=Path, help="the live ISO; by default the one that was built")
    jobs = min(MOST_JOBS, os.cpu_count() or 1)
    parser.add_argument("--jobs", type=_positive, default=jobs, help="families at a time")
    parser.add_argument("--enough", type=_positive, help="end a family at so many lost cases")
    names = [family.name for family in families]
    parser.add_argument("--family", nargs="+", choices=names, metavar="NAME", help=", ".join(names))
    return parser.parse_args(argv)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"at least 1, not {number}")
    return number


def _run(family: Family, arguments: argparse.Namespace) -> bool:
    """Run one family and say how it went; give whether it survived."""
    started = time.monotonic()
    tally = Tally(enough=arguments.enough)
    with tempfile.TemporaryDirectory(prefix="bootgraft-torture-", dir=_find_place()) as scratch:
        iso = arguments.iso or find_live_iso()
        settings = Settings(arguments.seed, arguments.count, iso.absolute(), Path(scratch))
        try:
            rng = random.Random(f"{settings.seed}:{family.name}")  # noqa: S311
            family.run(settings, rng, tally)
        except EnoughLostError:
            say(f"{family.name}: ended at {tally.enough} lost")
        except Exception as error:  # noqa: BLE001 - the other families are still to run
            tally.enough = None
            tally.tried += 1
            tally.lose(f"{FAILED}: {describe(error)}")
    seconds = time.monotonic() - started
    again = f"make torture SEED={settings.seed} FAMILY={family.name}"
    again += f" COUNT={settings.count}" if settings.count else ""
    lines = [
        f"{family.name}: {tally.tried} cases tried, {tally.survived} survived,"
        f" {len(tally.lost)} lost, {seconds:.0f} s",
        *(f"  lost: {line} (again: {again})" for line in tally.lost),
    ]
    if tally.tried == 0:
        lines.append(f"  {family.name} has tried nothing, which proves nothing")
    say("\n".join(lines))  # as one: other families print, too
    return tally.tried > 0 and not tally.lost


def _find_place() -> str | None:
    """Give a folder in memory, if there is one with room: thousands of small disks are made."""
    memory = Path("/dev/shm")
    if "TMPDIR" in os.environ or not memory.is_dir():
        return None
    return str(memory) if shutil.disk_usage(memory).free > MEMORY_NEEDED else None


def say(text: str) -> None:
    """Print at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # no mount stays
    sys.exit(main())
