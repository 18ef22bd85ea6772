"""The bench's goals, and its words."""

import os
import platform
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from image.bench_costs import Cost, hash_file, say
from image.live_boot import OVMF
from vm.commands import run


@dataclass(frozen=True, slots=True)
class Goal:
    """What is to be reached; `value` None: it could not be measured, for the reason in `source`."""

    what: str
    limit: float
    unit: str
    value: float | None
    source: str

    @property
    def is_met(self) -> bool:
        """Return whether it is reached."""
        return self.value is not None and self.value <= self.limit


def median(costs: Mapping[str, Sequence[Cost]], name: str) -> float | None:
    """Give the median of the wall seconds of a thing; None where it was not measured."""
    taken = costs.get(name)
    return statistics.median(cost.wall for cost in taken) if taken else None


def ratio(costs: Mapping[str, Sequence[Cost]], ours: str, theirs: str) -> float | None:
    """Give the ratio of two medians."""
    one, other = median(costs, ours), median(costs, theirs)
    return one / other if one and other else None


def make_goals(
    costs: Mapping[str, Sequence[Cost]], problems: Mapping[str, str], size: int
) -> list[Goal]:
    """Give the goals about size and time."""
    bios, graft = "power-on to HELLO, BIOS", "whole graft, power-on to power-off"
    secure = "power-on to HELLO, UEFI with Secure Boot"
    console = "HELLO to the console's first screen"
    launch, edit = "guestfish: launch alone", "guestfish: the same edit"

    def why(*names: str) -> str:
        reasons = [problems[name] for name in names if name in problems]
        if reasons:
            return "; ".join(reasons)
        seconds = [statistics.median(cost.processor for cost in costs[name]) for name in names]
        same = seconds[0] if len(names) == 1 else seconds[0] / seconds[1]
        return f"medians of wall seconds; of processor seconds {same:.2f}"

    return [
        Goal("ISO, all contents", 40, "MB", size / 1e6, "its size, by 10^6 bytes"),
        Goal(bios, 9, "s", median(costs, bios), why(bios)),
        Goal(f"{bios} / {launch}", 0.7, "", ratio(costs, bios, launch), why(bios, launch)),
        Goal(f"{graft} / {edit}", 0.9, "", ratio(costs, graft, edit), why(graft, edit)),
        Goal(secure, 13, "s", median(costs, secure), why(secure)),
        Goal(console, 1, "s", median(costs, console), why(console)),
    ]


def costs_by_name(costs: Mapping[str, Sequence[Cost]]) -> dict[str, float]:
    """Give the median wall seconds of all that was measured."""
    return {name: statistics.median(cost.wall for cost in taken) for name, taken in costs.items()}


def show_costs(costs: Mapping[str, Sequence[Cost]], problems: Mapping[str, str]) -> None:
    """Print what was measured, and what was not."""
    say("\nSeconds, median (lowest to highest), and processor seconds")
    for name, taken in costs.items():
        walls = [cost.wall for cost in taken]
        processor = statistics.median(cost.processor for cost in taken)
        spread = f"({min(walls):.1f} to {max(walls):.1f}, n={len(walls)})"
        say(f"  {statistics.median(walls):6.1f} {spread:24} {processor:6.1f}  {name}")
    for name, problem in problems.items():
        say(f"  not measured: {name}: {problem}")


def show_moments(moments: Mapping[str, float]) -> None:
    """Print where the time of one start goes."""
    say("\nOne start by BIOS: seconds of each stage, and since power-on")
    before = 0.0
    for name, moment in moments.items():
        say(f"  {moment - before:6.1f} {moment:6.1f}  {name}")
        before = moment


def show_parts(parts: Mapping[str, int]) -> None:
    """Print what the ISO's bytes are, the largest part first."""
    say("\nThe ISO by part, bytes")
    for name, size in sorted(parts.items(), key=lambda part: -part[1]):
        say(f"  {size:>12,}  {name}")


def show_goals(goals: Sequence[Goal]) -> None:
    """Print what was to be reached, what was, and where the figure comes from."""
    say("\nGoals")
    for goal in goals:
        value = "-" if goal.value is None else f"{goal.value:.2f}"
        word = "met   " if goal.is_met else "MISSED"
        say(f"  {word} {value:>8} of {goal.limit:>5} {goal.unit:4} {goal.what} [{goal.source}]")


def describe_machine() -> str:
    """Name the machine and the programs."""
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    qemu = run(["qemu-system-x86_64", "--version"]).stdout.splitlines()[0]
    try:
        guestfish = run(["guestfish", "--version"]).stdout.strip()
    except (OSError, RuntimeError):
        guestfish = "no guestfish (Debian's guestfish and guestfs-tools have it)"
    firmware = hash_file(OVMF / "OVMF_CODE_4M.secboot.fd")[:12]
    return (
        f"{os.cpu_count()} x {model[1] if model else platform.processor()},"
        f" Linux {platform.release()}, Python {platform.python_version()}\n"
        f"{qemu}, emulation, one processor; OVMF {firmware}; {guestfish}"
    )
