"""Directories with just room enough for a graft, or just not: grafted in tree mode, cut anywhere.

Where a directory that GRUB reads would have to grow, names move from block to block, and GRUB,
which does not replay the journal, may find neither block whole: the graft is refused. Where it is
not refused, each cut must leave the old or the new, as ever. A directory without an index may grow:
a block is added, and no name moves.
"""

import random
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import bootgraft_agent
from torture.again import write_payload
from torture.family import Settings, Tally
from torture.judge import check_whole
from torture.recording import AgentFailedError, record_tree_mode
from torture.small_appliance import OFFSETS, build_small_appliance
from torture.write_log import Samples, Trial, split
from vm.ext3 import Ext3

APPLIANCES = 8  # by default
KIND = "ext3"
SAMPLES = Samples(subsets=12, every_nth_again=40, booted=0, finished=0)
# Names of 28 bytes with which a block of 1,024 is nearly full, by directory.
FILLINGS = {"/": range(24, 31), "/grub": range(25, 32)}
REFUSED = "it would have to grow"


@dataclass(frozen=True, slots=True)
class Crowd:
    """How full which directory is."""

    directory: str
    names: int
    has_index: bool

    def __str__(self) -> str:
        index = "" if self.has_index else ", without an index"
        return f"{self.names} names more in {self.directory}{index}"


class CrowdedLog:
    """The family."""

    name = "crowded_log"

    def run(self, settings: Settings, rng: random.Random, tally: Tally) -> None:
        """Graft so many appliances; of those that are not refused, judge every prefix."""
        for number in range(settings.count or APPLIANCES):
            directory = rng.choice(list(FILLINGS))
            crowd = Crowd(directory, rng.choice(FILLINGS[directory]), number % 4 != 3)
            folder = settings.scratch / str(number)
            folder.mkdir()
            try_crowd(crowd, folder, settings, rng, tally)
            shutil.rmtree(folder)


def try_crowd(
    crowd: Crowd, folder: Path, settings: Settings, rng: random.Random, tally: Tally
) -> None:
    """Graft one appliance, roll it back, and cut both anywhere."""
    disk = build_small_appliance(folder, KIND).path
    fill(Ext3(disk, OFFSETS[0]), crowd)
    payload = write_payload(folder / "payload")
    agent = Path(bootgraft_agent.__file__).parents[1]
    with tally.case(f"{crowd}: a graft or a refusal, and a whole file system"):
        try:
            recording = record_tree_mode(agent, payload, disk, folder)
        except AgentFailedError as error:
            if REFUSED not in str(error):
                raise
            return
        for part in split(recording, KIND, folder):
            Trial(part, settings, SAMPLES, tally, rng).run()
            check_whole(part.disk)
        assert recording.problem is None, recording.problem


def fill(boot: Ext3, crowd: Crowd) -> None:
    """Put empty files into a directory, each with a name of 20 characters."""
    with tempfile.NamedTemporaryFile() as nothing:
        names = (f"{crowd.directory}/old-kernel-{number:09d}" for number in range(crowd.names))
        boot.debugfs(
            *(f"write {nothing.name} {name}" for name in names),
            *(() if crowd.has_index else ("feature -dir_index",)),
        )
