"""Guests whose disks are hostile, and what may come of them: a result or a refusal, both in words.

In three places: `bootgraft-agent tree` on folders; the reader of partition tables on image files;
and the live system in QEMU, with many disks at once. Whatever they hold, every case ends in time,
and nothing is written but what a graft writes to the guest.
"""

import contextlib
import hashlib
import os
import random
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from bootgraft_agent.partition_table import read_partition_table
from torture import hostile_trees
from torture.family import Settings, Tally
from torture.hostile_machines import MachineBench, try_machines
from torture.hostile_tables import make_table
from torture.hostile_trees import Victim, check_harmless, crowd, make_hostile
from vm.payload import good_files, write_files
from vm.trees import SAMPLES, SHAPES, SampleTree, build_tree

TREES, TABLES, DAMAGED = 200, 300, 40  # cases by default
MAX_DAMAGED = 400  # in one boot
TREE_TIMEOUT = 60.0  # seconds; a folder takes less than one
TABLE_TIMEOUT = 20.0
CROWD = hostile_trees.CROWD - 1000  # names, as many as the agent reads
LARGE = 64 << 20  # bytes; files above it are compared by their size alone


class HostileTree:
    """The family of what needs no machine: folders, and partition tables in files."""

    name = "hostile_tree"

    def run(self, settings: Settings, rng: random.Random, tally: Tally) -> None:
        """Try them."""
        try_trees(settings.count or TREES, settings.scratch, rng, tally)
        try_tables(settings.count or TABLES, settings.scratch, rng, tally)


class HostileDisk:
    """The family of disks in the live system."""

    name = "hostile_disk"

    def run(self, settings: Settings, rng: random.Random, tally: Tally) -> None:
        """Try them, in three boots."""
        count = min(settings.count or DAMAGED, MAX_DAMAGED)
        try_machines(count, MachineBench(settings.iso, settings.scratch), rng, tally)


# Folders


def try_trees(count: int, scratch: Path, rng: random.Random, tally: Tally) -> None:
    """Try so many hostile guests, and one with a crowded folder."""
    bench = TreeBench(scratch)
    for number in range(count):
        seed = rng.random()
        with bench.victim(seed) as victim:
            what = make_hostile(victim, random.Random(seed))  # noqa: S311
            with tally.case(f"tree {number}, {victim.tree.name}: {what}"):
                bench.try_guest(victim)
    if count >= TREES:
        with bench.victim(0.0) as victim:
            crowd(victim.tree.boot_folder / "grub", CROWD)
            with tally.case(f"a grub directory of {CROWD} names and more"):
                bench.try_guest(victim)


class TreeBench:
    """Sample trees to be copied, and a payload."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._payload = scratch / "payload"
        write_files(self._payload, good_files())
        for name in SHAPES:
            build_tree(name, scratch / "trees" / name)

    @contextlib.contextmanager
    def victim(self, seed: float) -> Iterator[Victim]:
        """Copy one of the trees, with a folder outside it that holds a secret."""
        name = random.Random(seed).choice(list(SHAPES))  # noqa: S311
        with tempfile.TemporaryDirectory(dir=self._scratch) as folder:
            guest, outside = Path(folder, "guest"), Path(folder, "outside")
            shutil.copytree(self._scratch / "trees" / name, guest, symlinks=True)
            outside.mkdir()
            (outside / "secret").write_bytes(b"nobody's business\n")
            shape = SHAPES[name]
            boots = (guest / "boot", guest / "root/boot")
            boot = boots[0] if shape.boot_beside_root else boots[1]
            has_own = has_boot_of_its_own(name)
            yield Victim(
                SampleTree(name, shape, guest / "root", boot if has_own else None), outside
            )

    def try_guest(self, victim: Victim) -> None:
        """Graft, then roll back. Raises what makes it a lost case."""
        guest, outside = victim.tree.root.parent, victim.outside
        before, others = describe_files(guest), describe_files(outside)
        status = self._run(victim, "--payload", self._payload)
        check_same("what lies outside the guest", others, describe_files(outside))
        if status != 0:
            check_same("a guest that was refused", before, describe_files(guest))
        status_back = self._run(victim, "--rollback")
        check_same("what lies outside the guest", others, describe_files(outside))
        if status_back == 0 or status != 0:
            check_same("a guest after its rollback", before, describe_files(guest))
        elif status == 0:
            raise AssertionError("a graft could not be rolled back")

    def _run(self, victim: Victim, *options: str | Path) -> int:
        """Run the agent, which must end in time, in words that a terminal may be shown."""
        tree = victim.tree
        boot = ("--boot", tree.boot) if tree.boot is not None else ()
        command: tuple[str | Path, ...] = (sys.executable, "-m", "bootgraft_agent", "tree")
        done = subprocess.run(
            [*command, "--root", tree.root, *boot, *options],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TREE_TIMEOUT,
            check=False,
        )
        said = done.stdout + done.stderr
        text = said.decode("utf-8")
        if done.returncode not in {0, 1} or (done.returncode == 1 and not done.stderr):
            raise AssertionError(f"status {done.returncode}: {text[-500:]!r}")
        if "Traceback" in text:
            raise AssertionError(f"a traceback: {text[-500:]!r}")
        check_harmless(text)
        if b"nobody's business" in said:
            raise AssertionError("it has told what lies outside the guest")
        return done.returncode


def has_boot_of_its_own(name: str) -> bool:
    """Whether a sample tree's boot folder is a file system of its own."""
    return (SAMPLES / name / "boot").is_dir()


def check_same(what: str, before: Mapping[str, str], after: Mapping[str, str]) -> None:
    """Raise where files are not as they were."""
    if before != after:
        paths = {path for path in {*before, *after} if before.get(path) != after.get(path)}
        raise AssertionError(f"{what} has changed: {sorted(paths)[:5]!r}")


def describe_files(folder: Path) -> dict[str, str]:
    """Describe every file of a tree: kind, mode, owner, size, content."""
    paths = (
        Path(place, name)
        for place, directories, names in os.walk(folder)
        for name in (*directories, *names)
    )
    return {str(path.relative_to(folder)): _describe_file(path) for path in paths}


def _describe_file(path: Path) -> str:
    status = path.lstat()
    words: list[object] = [stat.filemode(status.st_mode), status.st_uid, status.st_gid]
    words.append(status.st_rdev)
    if stat.S_ISLNK(status.st_mode):
        words.append(path.readlink())
    elif stat.S_ISREG(status.st_mode):
        words += [status.st_size, status.st_mtime_ns]
        if 0 < status.st_size <= LARGE:
            words.append(hashlib.sha256(path.read_bytes()).hexdigest())
    return " ".join(map(str, words))


# Partition tables


def try_tables(count: int, scratch: Path, rng: random.Random, tally: Tally) -> None:
    """Try so many partition tables that overlap, loop, or lie."""
    image = scratch / "table.img"
    for number in range(count):
        make_table(image, rng)
        with tally.case(f"partition table {number}"):
            try_table(image)


def try_table(image: Path) -> None:
    """Read a table, which must leave the disk alone, and end in time."""
    before, began = image.read_bytes(), time.monotonic()
    table = read_partition_table(image, TABLE_TIMEOUT)
    if time.monotonic() - began > TABLE_TIMEOUT + 5:
        raise AssertionError("it took too long")
    if table.problem is not None:
        check_harmless(table.problem)
    if table.problem is not None and table.entries:
        raise AssertionError("a damaged table has entries")
    if image.read_bytes() != before:
        raise AssertionError("the disk has changed")
