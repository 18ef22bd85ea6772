"""`make bench`: how long the live ISO takes, beside guestfish on the same machine.

All in one run, interleaved: each round starts the live system by BIOS and by UEFI with Secure Boot,
shows the console, grafts the demo appliance from power-on to power-off, and has guestfish and
virt-customize do the same edit on a copy of the same disk; a loop mount and the tree mode are the
floor. Medians of wall and processor seconds; then the lowest memory, the ISO's parts, and a second
build. Ends with status 1 where a goal is missed, or could not be measured.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bootgraft_agent.errors import BootgraftError
from bootgraft_agent.wire import JSON
from image import bench_picture
from image.bench_costs import Cost, others_share, read_load, say
from image.bench_report import (
    Goal,
    costs_by_name,
    describe_machine,
    make_goals,
    show_costs,
    show_goals,
    show_moments,
    show_parts,
)
from image.bench_subjects import Subjects
from image.live_boot import REPOSITORY
from vm.boots import BootTimeoutError

BIOS_MEMORY, UEFI_MEMORY = 160, 288  # MiB, the goals


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, draw; give the exit status."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--iso", type=Path, required=True, help="the live ISO")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "build/bench", help="a folder")
    arguments = parser.parse_args(argv)
    output: Path = arguments.output.absolute()
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bg") as folder:
        subjects = Subjects(arguments.iso.absolute(), Path(folder))
        say(describe_machine())
        before = read_load()
        costs, problems = measure(subjects, arguments.rounds)
        show_costs(costs, problems)
        others = others_share(before, read_load())
        say(f"  meanwhile others had {others:.0%} of this machine's processors")
        moments = subjects.read_moments()
        show_moments(moments)
        show_parts(subjects.read_parts())
        say("")
        bios, bios_source = subjects.find_lowest_memory(list, BIOS_MEMORY)
        uefi_memory, uefi_source = subjects.find_lowest_memory(subjects.plain_uefi, UEFI_MEMORY)
        build_seconds, is_same = subjects.build_again()
    goals = make_goals(costs, problems, arguments.iso.stat().st_size)
    goals += [
        Goal("memory for a whole graft, BIOS", BIOS_MEMORY, "MiB", bios, bios_source),
        Goal("memory for a whole graft, UEFI", UEFI_MEMORY, "MiB", uefi_memory, uefi_source),
        Goal("two builds that differ", 0, "", 0 if is_same else 1, "build.sh in another folder"),
        Goal("build, packages cached", 180, "s", build_seconds, "the same build"),
    ]
    show_goals(goals)
    picture = output / "bench.svg"
    picture.write_text(bench_picture.draw(costs_by_name(costs), moments))
    facts: dict[str, JSON] = {"costs": costs_by_name(costs), "moments": dict(moments)}
    (output / "bench.json").write_text(json.dumps(facts, indent=1))
    say(f"\npicture: {picture}")
    return 0 if all(goal.is_met for goal in goals) else 1


def measure(
    subjects: Subjects, rounds: int
) -> tuple[Mapping[str, Sequence[Cost]], Mapping[str, str]]:
    """Give the costs of each thing measured, round by round, and why some could not be."""
    things: Mapping[str, Callable[[], Cost]] = {
        "power-on to HELLO, BIOS": subjects.start_by_bios,
        "power-on to HELLO, UEFI with Secure Boot": subjects.start_by_secure_boot,
        "HELLO to the console's first screen": subjects.show_console,
        "guestfish: launch alone": subjects.launch_guestfish,
        "whole graft, power-on to power-off": subjects.graft,
        "guestfish: the same edit": subjects.edit_by_guestfish,
        "virt-customize: the same edit": subjects.edit_by_virt_customize,
        "loop mount and tree mode": subjects.graft_by_tree_mode,
    }
    costs: dict[str, list[Cost]] = {name: [] for name in things}
    problems: dict[str, str] = {}
    for number in range(rounds):
        for name, thing in things.items():
            if name in problems:
                continue
            try:
                costs[name].append(thing())
            except (OSError, RuntimeError, BootgraftError, BootTimeoutError) as error:
                problems[name] = str(error).splitlines()[0]
                continue
            say(f"round {number + 1}: {name}: {costs[name][-1].wall:.1f} s")
    return {name: taken for name, taken in costs.items() if name not in problems}, problems


if __name__ == "__main__":
    sys.exit(main())
