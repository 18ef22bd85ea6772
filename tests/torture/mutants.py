"""Broken builds of bootgraft, each of which a family must catch: `make torture-mutants`.

A mutant is a copy of the sources with a few texts replaced. The family that must catch it is run
with few cases; it must lose one of them, and not merely fail.
"""

import argparse
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from image.live_boot import make_iso_with_package
from torture.__main__ import FAILED, say
from vm.bench import find_live_iso

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCES = ("agent", "host-side")
AT_ONCE = 2  # mutants


@dataclass(frozen=True, slots=True)
class Edit:
    """Another text in place of one that a file has exactly once."""

    file: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Mutant:
    """A broken build, and the family that must catch it."""

    name: str
    family: str
    edits: tuple[Edit, ...]
    count: int = 60
    needs_iso: bool = False  # the family boots the live system


APPLY = "agent/bootgraft_agent/apply.py"
FILES = "agent/bootgraft_agent/files.py"

MUTANTS = (
    Mutant(
        "the menu is written before the shim",
        "tree_mode_log",
        (
            Edit(
                APPLY,
                """\
        for step in opening.steps:
            _do(step, boot, volumes, progress)
        return [_Switch(step, _make(step, boot, volumes, progress)) for step in switched]
""",
                """\
        for step in (*switched, *opening.steps):
            _do(step, boot, volumes, progress)
        return []
""",
            ),
        ),
    ),
    Mutant(
        "no fsync",
        "tree_mode_log",
        (
            Edit(
                FILES,
                "class WritableTree(Tree):\n",
                "os.fsync = lambda fd: None\n\n\nclass WritableTree(Tree):\n",
            ),
            Edit(
                "agent/bootgraft_agent/tree.py",
                "            yield tree\n            settle(directory)\n",
                "            yield tree\n",
            ),
        ),
    ),
    Mutant(
        "the rename is left out: the menu is written in its place",
        "tree_mode_log",
        (
            Edit(
                APPLY,
                "        _put(switch.step, switch.temporary, boot)\n",
                '        temporary = switch.temporary or ""\n'
                '        with (boot.root / switch.step.target.path).open("r+b") as place:\n'
                "            place.write((boot.root / temporary).read_bytes())\n"
                "        boot.remove(temporary)\n",
            ),
        ),
    ),
    Mutant(
        "the two mounts are made one",
        "tree_mode_log",
        (
            Edit(
                APPLY,
                """\
            switches = _prepare(plan, manifest, first, in_boot, copies, volumes, progress)
        for opening in rest:
            _carry_out(opening, volumes, progress)
""",
                """\
            for opening in rest:
                _carry_out(opening, volumes, progress)
            switches = _prepare(plan, manifest, first, in_boot, copies, volumes, progress)
""",
            ),
            Edit(
                APPLY,
                "        return [_Switch(step, _make(step, boot, volumes, progress))"
                " for step in switched]\n",
                "        for step in switched:\n"
                "            _put(step, _make(step, boot, volumes, progress), boot)\n"
                "        return []\n",
            ),
        ),
    ),
    Mutant(
        "a rollback frees the new menu's inode as it renames",
        "tree_mode_log",
        (
            Edit(
                "agent/bootgraft_agent/rollback.py",
                "        _keep_inode(switch, writable)\n",
                "",
            ),
        ),
    ),
    Mutant(
        "a directory that GRUB reads is let grow",
        "crowded_log",
        (
            Edit(
                "agent/bootgraft_agent/directory_growth.py",
                "    if grows:\n",
                "    if grows and not names:\n",
            ),
        ),
        count=8,
    ),
    Mutant(
        "a disk is not set read-only while looking",
        "write_log",
        (
            Edit(
                "agent/bootgraft_agent/mounts.py",
                'fcntl.ioctl(fd, _BLKROSET, struct.pack("i", read_only))',
                'fcntl.ioctl(fd, _BLKROSET, struct.pack("i", False))',
            ),
        ),
        needs_iso=True,
    ),
    Mutant(
        "detach is skipped on an error",
        "controller_killed",
        (
            Edit(
                "host-side/bootgraft_host/restore.py",
                "    finally:\n        with uninterrupted():\n            _finish(job, failure)\n",
                "    if failure is None:\n"
                "        with uninterrupted():\n"
                "            _finish(job, failure)\n",
            ),
        ),
    ),
    Mutant(
        "the CRC is ignored",
        "serial_line",
        (
            Edit(
                "agent/bootgraft_agent/wire.py",
                "    return frame if encode_frame(frame)[:-1] == line[start:] else None\n",
                "    return frame\n",
            ),
        ),
    ),
    Mutant(
        "links are followed",
        "hostile_tree",
        (
            Edit(
                FILES,
                '        todo = deque(path.split("/"))\n',
                "        if (self.root / path).exists():\n"
                '            return path.strip("/")\n'
                '        todo = deque(path.split("/"))\n',
            ),
            Edit(
                FILES,
                "_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC\n",
                "_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC\n",
            ),
        ),
        count=200,
    ),
    Mutant(
        "disks are not set read-only before they are looked at",
        "hostile_disk",
        (
            Edit(
                "agent/bootgraft_agent/machine.py",
                "        if device.is_guest_storage:\n",
                "        if not device:\n",
            ),
        ),
        count=2,
        needs_iso=True,
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Make each mutant and run its family; give the exit status."""
    parser = argparse.ArgumentParser(prog="python -m torture.mutants", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))  # noqa: S311
    parser.add_argument("--iso", type=Path, help="the live ISO; by default the one that was built")
    parser.add_argument("words", nargs="*", help="only mutants whose name or family has one")
    arguments = parser.parse_args(argv)
    say(f"mutants: seed {arguments.seed}")
    iso = (arguments.iso or find_live_iso()).absolute()
    chosen = [each for each in MUTANTS if _is_chosen(each, arguments.words)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        caught = list(pool.map(lambda mutant: _is_caught(mutant, arguments.seed, iso), chosen))
    say(f"mutants: {len(caught)} tried, {sum(caught)} caught")
    return 0 if all(caught) and caught else 1


def _is_chosen(mutant: Mutant, words: Sequence[str]) -> bool:
    return not words or any(word in f"{mutant.name} {mutant.family}" for word in words)


def _is_caught(mutant: Mutant, seed: int, iso: Path) -> bool:
    with tempfile.TemporaryDirectory(prefix="bootgraft-mutant-") as scratch:
        copy = Path(scratch)
        make_mutant(mutant, copy)
        if mutant.needs_iso:
            iso = make_iso_with_package(iso, copy / "agent/bootgraft_agent", copy, "mutant.iso")
        done = _run_family(mutant, seed, iso, copy)
    lost = list(_read_lost(done.stdout))
    if done.returncode == 1 and lost:
        say(f"mutant “{mutant.name}” caught by family {mutant.family}: {lost[0]}")
        return True
    end = (done.stdout + done.stderr).strip()[-1000:]
    say(f"mutant “{mutant.name}” NOT caught by family {mutant.family}: {end}")
    return False


def make_mutant(mutant: Mutant, copy: Path) -> None:
    """Copy the sources and edit them. Raises ValueError where a text is not there just once."""
    for name in SOURCES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, copy / name, ignore=ignored)
    for edit in mutant.edits:
        path = copy / edit.file
        text = path.read_text("utf-8")
        if text.count(edit.old) != 1:
            raise ValueError(
                f"mutant “{mutant.name}”: {edit.file} has its text {text.count(edit.old)} times,"
                f" not once: {edit.old!r}"
            )
        path.write_text(text.replace(edit.old, edit.new), "utf-8")


def _run_family(
    mutant: Mutant, seed: int, iso: Path, copy: Path
) -> "subprocess.CompletedProcess[str]":
    paths = [*(copy / name for name in SOURCES), REPOSITORY / "tests"]
    return subprocess.run(
        [
            *(sys.executable, "-m", "torture", "--seed", str(seed), "--count", str(mutant.count)),
            *("--enough", "1", "--iso", str(iso), "--family", mutant.family),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
        capture_output=True,
        text=True,
        check=False,
    )


def _read_lost(output: str) -> Iterator[str]:
    """Give the cases that were lost; a family that fails by itself proves nothing."""
    for line in re.findall(r"(?m)^  lost: (.*) \(again: ", output):
        if not line.startswith(FAILED):
            yield line[:300]


if __name__ == "__main__":
    sys.exit(main())
