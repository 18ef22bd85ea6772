"""What things cost on this machine: seconds of wall clock and of processors."""

import hashlib
import os
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of wall clock, and of processors: of QEMU, or of a command and its children."""

    wall: float
    processor: float


def children_seconds() -> float:
    """Give the processor seconds of all ended children so far."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@dataclass(frozen=True, slots=True)
class Load:
    """Processor seconds so far, of the whole machine and of this bench, and the moment."""

    machine: float
    bench: float
    moment: float


def read_load() -> Load:
    """Read the load; time that the host of a virtual machine keeps for itself counts, too."""
    line = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0]
    user, nice, system, _, _, _, _, stolen = (int(field) for field in line.split()[1:9])
    machine = (user + nice + system + stolen) / os.sysconf("SC_CLK_TCK")
    own = resource.getrusage(resource.RUSAGE_SELF)
    return Load(machine, children_seconds() + own.ru_utime + own.ru_stime, time.monotonic())


def others_share(before: Load, after: Load) -> float:
    """Give the share of the processors' time that went to others than this bench."""
    others = (after.machine - before.machine) - (after.bench - before.bench)
    return others / ((after.moment - before.moment) * (os.cpu_count() or 1))


def first_line(error: Exception) -> str:
    """Give the first line of an error's message."""
    return (str(error) or type(error).__name__).splitlines()[0]


def hash_file(path: Path) -> str:
    """Give a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def say(text: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
