"""Another run of the agent, in tree mode, on the mounted file systems of a disk's image."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from bootgraft_agent import tree
from bootgraft_agent.files import TEMPORARY
from bootgraft_agent.plan import BACKUPS, Options
from bootgraft_agent.tree import Trees
from torture.judge import Judge, Side, check_whole, repair
from torture.recording import mounted_volumes
from vm.payload import good_files, write_files


@dataclass(frozen=True, slots=True)
class Finisher:
    """Grafts what a power cut left, or rolls it back, and looks whether the work is done."""

    judge: Judge
    payload: Path  # a folder, with the names that the live system sees on the ISO

    def finish(self, image: Path, copy: Path, wanted: Side) -> None:
        """Graft ("new") or roll back ("old") a copy of the disk; AssertionError unless done."""
        shutil.copyfile(image, copy)
        if self.judge.kind == "ext2":
            repair(copy, self.judge.kind)  # the agent refuses a damaged file system, rightly
        with mounted_volumes(copy) as (boot, root):
            trees = Trees(root, boot, self.payload)
            if wanted == "new":
                plan = tree.make_plan(trees, None, Options())
                tree.graft(trees, plan, lambda *_: None)
                again = tree.make_plan(trees, None, Options())
                assert again.is_done, f"the next run would still {again.steps}"
                has_worked = not plan.is_done  # else it may not even tidy up: no byte changes
            else:
                tree.undo(trees, None, lambda *_: None)
                has_worked = True
            if has_worked:
                check_leftovers((boot, root), wanted)
        check_finished(self.judge, copy, wanted)


def check_finished(judge: Judge, image: Path, wanted: Side) -> None:
    """Check a disk on which a run has ended: it is on that side, and nothing is left to replay."""
    check_whole(image)
    for look in (judge.as_grub_reads_it(image), judge.as_the_guest_finds_it(image)):
        assert look == wanted, f"the run ended well, and the menu is the {look} one"


def check_leftovers(places: tuple[Path, ...], wanted: Side) -> None:
    """Check that no unfinished file of ours is left, nor a manifest of what was rolled back."""
    names = [
        Path(folder, name)
        for place in places
        for folder, _, files in os.walk(place)
        for name in files
    ]
    left = [str(path) for path in names if path.name.startswith(TEMPORARY)]
    assert not left, f"left behind: {left}"
    if wanted == "old":
        assert not [str(path) for path in names if BACKUPS in path.parts]


def write_payload(folder: Path) -> Path:
    """Write what the stand-in payload ISO holds, by the names that Linux gives them there."""
    files = {path.replace("-", "_"): content for path, content in good_files().items()}
    if not folder.exists():
        write_files(folder, files)
    return folder
