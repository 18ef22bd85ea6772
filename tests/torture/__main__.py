"""Try every fault that bootgraft must survive: `make torture [SEED=n] [COUNT=n] [FAMILY="a b"]`.

Everything left to chance comes from the seed, which is printed first. Ends with status 1 when a
case of any family is lost.
"""

import argparse
import os
import random
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from torture.controller_killed import ControllerKilled
from torture.family import EnoughLostError, Family, Settings, Tally, describe
from torture.hostile_disk import HostileDisk, HostileTree
from torture.payload_iso import PayloadIso
from torture.power_cut import PowerCut
from torture.recipe_log import RecipeLog
from torture.serial_line import SerialLine, SerialRuns
from torture.write_log import TreeModeLog, WriteLog
from vm.bench import find_live_iso

MEMORY_NEEDED = 4 << 30  # bytes
FAILED = "the family itself failed"
FAMILIES: tuple[Family, ...] = (
    WriteLog(),
    TreeModeLog(),
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
    say(f"torture: seed {arguments.seed}")
    chosen = [each for each in families if each.name in (arguments.family or [each.name])]
    lost = sum(_run(family, arguments) for family in chosen)
    return 1 if lost else 0


def _parse(argv: Sequence[str] | None, families: Sequence[Family]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m torture", description=__doc__)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**32))
    parser.add_argument("--count", type=_positive, help="cases of each family")
    parser.add_argument("--iso", type=Path, help="the live ISO; by default the one that was built")
    parser.add_argument("--enough", type=_positive, help="end a family at so many lost cases")
    names = [family.name for family in families]
    parser.add_argument("--family", nargs="+", choices=names, metavar="NAME", help=", ".join(names))
    return parser.parse_args(argv)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"at least 1, not {number}")
    return number


def _run(family: Family, arguments: argparse.Namespace) -> int:
    """Run one family and say how it went; give how many cases were lost."""
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
    lost = len(tally.lost)
    say(
        f"{family.name}: {tally.tried} cases tried, {tally.survived} survived, {lost} lost,"
        f" {seconds:.0f} s"
    )
    again = f"make torture SEED={settings.seed} FAMILY={family.name}"
    again += f" COUNT={settings.count}" if settings.count else ""
    for line in tally.lost:
        say(f"  lost: {line} (again: {again})")
    if tally.tried == 0:
        say(f"  {family.name} has tried nothing, which proves nothing")
    return lost or tally.tried == 0


def _find_place() -> str | None:
    """Give a folder in memory, if there is one with room: thousands of small disks are made."""
    memory = Path("/dev/shm")
    if "TMPDIR" in os.environ or not memory.is_dir():
        return None
    return str(memory) if shutil.disk_usage(memory).free > MEMORY_NEEDED else None


def say(text: str) -> None:
    """Print one line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # no mount stays
    sys.exit(main())
