"""`make bench`: how long the live ISO takes, beside guestfish on the same machine.

All in one run, interleaved: each round starts the live system by BIOS and by UEFI with Secure Boot,
shows the console, grafts the demo appliance from power-on to power-off, and has guestfish and
virt-customize do the same edit on a copy of the same disk; a loop mount and the tree mode are the
floor. Medians of wall and processor seconds; then the lowest memory, the ISO's parts, and a second
build. Ends with status 1 where a goal is missed, or could not be measured.
"""

import argparse
import hashlib
import json
import os
import platform
import re
import resource
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bootgraft_agent.errors import BootgraftError
from bootgraft_agent.wire import JSON
from bootgraft_host.customise import BootChanges, customise_iso
from image import bench_picture
from image.live_boot import (
    OVMF,
    REPOSITORY,
    boot_live,
    conversation,
    ide_dvd,
    make_iso_with_agent,
    uefi,
)
from vm.appliance import build_appliance
from vm.boots import Boot, BootTimeoutError
from vm.commands import run
from vm.payload import SHIM, build_payload, good_files

START_TIMEOUT = 180.0  # seconds
# For a machine that may have too little memory: times what a graft takes with enough.
PATIENCE = 2.5
REQUEST_TIMEOUT = 180.0
ENOUGH = 512  # MiB
BIOS_MEMORY, UEFI_MEMORY = 160, 288  # MiB, the goals
MEMORY_STEP = 16  # MiB
START_CLOCK = Path(__file__).with_name("start_clock.py").read_bytes()
# The agent's modules, after the one that stands before them.
BESIDE_THE_AGENT = b"""\
__version__ = "bench"
__path__.append("/early/usr/lib/python3/dist-packages/bootgraft_agent")
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of wall clock, and of processors: of QEMU, or of a command and its children."""

    wall: float
    processor: float


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


class Bench:
    """The demo appliance, a payload, and the ISO, in a scratch folder."""

    def __init__(self, iso: Path, folder: Path) -> None:
        self.iso = iso
        self.folder = folder
        self.com1 = folder / "com1"
        self.appliance = build_appliance(folder, token=secrets.token_hex(8)).disk
        self.payload = build_payload(folder)
        self.raw = folder / "raw.img"
        run(["qemu-img", "convert", "-f", "vpc", "-O", "raw", self.appliance, self.raw])
        self.unpacked = folder / "payload"
        run(["xorriso", "-osirrox", "on", "-indev", self.payload, "-extract", "/", self.unpacked])
        run(["chmod", "-R", "u+w", self.unpacked])
        self.shim = folder / Path(SHIM).name
        self.shim.write_bytes(good_files()[SHIM])

    # The live system

    def start_by_bios(self) -> Cost:
        """Power-on to HELLO."""
        return self._await_hello(boot_live(self.iso, [], ENOUGH))

    def start_by_secure_boot(self) -> Cost:
        """Power-on to HELLO, with UEFI firmware that checks every signature."""
        dvd = f"if=none,id=dvd,file={self.iso},format=raw,readonly=on"
        arguments = [
            *uefi(self.folder, secure_boot=True),
            *("-drive", dvd, "-device", "ide-cd,drive=dvd,bus=ide.2"),
        ]
        return self._await_hello(Boot(arguments, ENOUGH))

    def _await_hello(self, boot: Boot) -> Cost:
        start = time.monotonic()
        with boot:
            boot.wait_for_console("@bg1 ", START_TIMEOUT)
            return Cost(time.monotonic() - start, boot.cpu_seconds())

    def show_console(self) -> Cost:
        """HELLO to the first screen of the manual console; both come by themselves."""
        iso = self.folder / "manual.iso"
        if not iso.exists():
            customise_iso(self.iso, iso, BootChanges(menu_time=0, mode="manual"))
        with boot_live(iso, [], ENOUGH) as boot:
            boot.wait_for_console("@bg1 ", START_TIMEOUT)
            start, spent = time.monotonic(), boot.cpu_seconds()
            boot.wait_for_screen("^ bootgraft   Looking at this machine's disks", START_TIMEOUT)
            return Cost(time.monotonic() - start, boot.cpu_seconds() - spent)

    def graft(
        self, firmware: Sequence[str] = (), memory_mib: int = ENOUGH, timeout: float = START_TIMEOUT
    ) -> Cost:
        """Power-on to power-off: the demo appliance grafted, driven from here."""
        disk = self._copy(self.appliance)
        arguments = [*firmware, *self._graft_devices(disk)]
        before, start = children_seconds(), time.monotonic()
        with Boot(arguments, memory_mib, com1=self.com1) as boot:
            with conversation(boot, self.com1, timeout=timeout, silence=timeout) as client:
                client.request("inspect", {}, REQUEST_TIMEOUT)
                plan = client.request("plan", {}, REQUEST_TIMEOUT)
                shown = {"plan_sha256": plan["plan_sha256"], "run_id": "bench"}
                client.request("apply", shown, REQUEST_TIMEOUT)
                client.request("power_off", {}, REQUEST_TIMEOUT)
            boot.wait_off(30.0)
            wall = time.monotonic() - start
        return Cost(wall, children_seconds() - before)

    def _graft_devices(self, disk: Path) -> list[str]:
        return [
            *("-drive", f"if=none,id=guest,file={disk},format=vpc"),
            *("-device", "ide-hd,drive=guest,bus=ide.0,unit=0"),
            *ide_dvd(self.iso, 2, "bootindex=1"),
            *ide_dvd(self.payload, 3),
        ]

    def _copy(self, disk: Path) -> Path:
        copy = self.folder / f"copy{disk.suffix}"
        shutil.copyfile(disk, copy)
        return copy

    def find_lowest_memory(
        self, firmware: Callable[[], Sequence[str]], first: int
    ) -> tuple[float | None, str]:
        """Find the lowest memory, in MiB, at which a graft succeeds; `first` may be too low.

        Gives None, and why, where even a machine with enough memory fails.
        """
        try:
            usual = self.graft(firmware(), ENOUGH).wall
        except (BootgraftError, BootTimeoutError) as error:
            return None, f"with {ENOUGH} MiB: {first_line(error)}"
        memory = first
        while memory < ENOUGH and not self._grafts_with(memory, firmware(), usual):
            memory += MEMORY_STEP
        if memory > first:
            return memory, f"{memory - MEMORY_STEP} failed"
        while self._grafts_with(memory - MEMORY_STEP, firmware(), usual):
            memory -= MEMORY_STEP
        return memory, f"{memory - MEMORY_STEP} failed"

    def _grafts_with(self, memory_mib: int, firmware: Sequence[str], usual: float) -> bool:
        try:
            cost = self.graft(firmware, memory_mib, PATIENCE * usual)
        except (BootgraftError, BootTimeoutError) as error:
            say(f"a graft with {memory_mib} MiB failed: {first_line(error)}")
            return False
        say(f"a graft with {memory_mib} MiB succeeded: {cost.wall:.1f} s")
        return True

    def plain_uefi(self) -> list[str]:
        """Give the arguments for UEFI on a machine with IDE, which a graft needs."""
        return ["-M", "pc", *uefi(self.folder, secure_boot=False)[2:]]

    def read_moments(self) -> Mapping[str, float]:
        """Give the seconds from power-on to each moment of a start by BIOS."""
        changed = make_iso_with_agent(self.iso, START_CLOCK, self.folder, package=BESIDE_THE_AGENT)
        start = time.monotonic()
        with boot_live(changed, [], ENOUGH, com1=self.com1) as boot:
            boot.wait_for_screen("ISOLINUX", START_TIMEOUT)
            loader = time.monotonic() - start
            said = boot.wait_for_console(r"^@moments (\{.*\})\r?\n", START_TIMEOUT)
            kernel_start = time.monotonic() - start - json.loads(said[1])["said"]
            with conversation(boot, self.com1, timeout=START_TIMEOUT, silence=60) as client:
                hello = time.monotonic() - start
                client.request("inspect", {}, REQUEST_TIMEOUT)
                inspected = time.monotonic() - start
        moments = {
            name: kernel_start + value
            for name, value in json.loads(said[1]).items()
            if name != "said"
        }
        return {
            "firmware": loader,
            "boot loader, unpacking the kernel": kernel_start,
            "kernel, unpacking the initramfs": moments["init"],
            "init": moments["python_started"],
            "Python": moments["python_is_up"],
            "imports": moments["imported"],
            "HELLO": hello,
            "the rest, drivers, udev; inspect": inspected,
        }

    # Others

    def launch_guestfish(self) -> Cost:
        """Start guestfish's appliance, and do nothing."""
        return self._spend(["guestfish", "-a", self._copy(self.appliance), "run"])

    def edit_by_guestfish(self) -> Cost:
        """Upload the shim, edit the two texts."""
        disk = self._copy(self.appliance)
        script = "\n".join(
            [
                *("run", "mount /dev/sda1 /", "download /grub/grub.conf /dev/null"),
                f"upload {self.shim} /{self.shim.name}",
                *(f"upload {text} /grub/{text.name}" for text in self._texts()),
                "umount-all",
            ]
        )
        return self._spend(["guestfish", "--rw", "-a", disk], stdin=script)

    def edit_by_virt_customize(self) -> Cost:
        """Do the same with virt-customize, which finds the guest's file systems by itself."""
        disk = self._copy(self.appliance)
        uploads = [f"{self.shim}:/boot/{self.shim.name}"]
        uploads += [f"{text}:/boot/grub/{text.name}" for text in self._texts()]
        options = [word for upload in uploads for word in ("--upload", upload)]
        return self._spend(["virt-customize", "--no-network", "-a", disk, *options])

    def _texts(self) -> list[Path]:
        texts = [self.folder / name for name in ("device.map", "grub.conf")]
        for text in texts:
            text.write_text("as it would be\n")
        return texts

    def graft_by_tree_mode(self) -> Cost:
        """Mount the disk's partitions here, boot and root, and graft.

        The payload is unpacked before: not every kernel mounts an ISO.
        """
        disk = self._copy(self.raw)
        table = json.loads(run(["sfdisk", "--json", disk]).stdout)["partitiontable"]
        boot, root = (part["start"] * 512 for part in table["partitions"][:2])
        agent = Path(sys.executable).with_name("bootgraft-agent")
        script = f"""
            set -e
            mkdir -p root
            trap 'umount root/boot; umount root' EXIT
            mount -o loop,offset={root} {disk} root
            mount -o loop,offset={boot},sizelimit=$(({root} - {boot})) {disk} root/boot
            {agent} tree --root root --boot root/boot --payload {self.unpacked}
        """
        return self._spend(["sh", "-c", script])

    def _spend(self, argv: Sequence[str | Path], *, stdin: str = "") -> Cost:
        """Run a command; raises OSError where it is not there, RuntimeError where it fails."""
        before, start = children_seconds(), time.monotonic()
        result = subprocess.run(
            argv, input=stdin, capture_output=True, text=True, cwd=self.folder, check=False
        )
        cost = Cost(time.monotonic() - start, children_seconds() - before)
        if result.returncode != 0:
            said = (result.stderr or result.stdout).strip().splitlines()
            raise RuntimeError(f"{argv[0]}: {said[0] if said else f'status {result.returncode}'}")
        return cost

    # The ISO

    def read_parts(self) -> Mapping[str, int]:
        """Give the sizes of the ISO's parts, in bytes."""
        listing = run(["xorriso", "-indev", self.iso, "-find", "/", "-type", "f", "-exec", "lsdl"])
        found = re.findall(r"^-\S+ +\d+ +\S+ +\S+ +(\d+) .* '(.*)'$", listing.stdout, re.MULTILINE)
        parts = {path: int(size) for size, path in found}
        return {
            **parts,
            "ISO 9660 itself, El Torito, GPT": self.iso.stat().st_size - sum(parts.values()),
        }

    def build_again(self) -> tuple[float, bool]:
        """Build it elsewhere, packages cached; give the seconds, and whether it is the same."""
        other = self.folder / "other"
        for name in ("image-build", "agent"):
            shutil.copytree(REPOSITORY / name, other / name)
        work = other / "build/image-work"
        work.mkdir(parents=True)
        run(["cp", "-a", REPOSITORY / "build/image-work/cache", work])
        start = time.monotonic()
        run([other / "image-build/build.sh"])
        seconds = time.monotonic() - start
        return seconds, hash_file(other / "build/bootgraft.iso") == hash_file(self.iso)


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
        bench = Bench(arguments.iso.absolute(), Path(folder))
        say(describe_machine())
        before = read_load()
        costs, problems = measure(bench, arguments.rounds)
        show_costs(costs, problems)
        others = others_share(before, read_load())
        say(f"  meanwhile others had {others:.0%} of this machine's processors")
        moments = bench.read_moments()
        show_moments(moments)
        show_parts(bench.read_parts())
        say("")
        bios, bios_source = bench.find_lowest_memory(list, BIOS_MEMORY)
        uefi_memory, uefi_source = bench.find_lowest_memory(bench.plain_uefi, UEFI_MEMORY)
        build_seconds, is_same = bench.build_again()
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


def measure(bench: Bench, rounds: int) -> tuple[Mapping[str, Sequence[Cost]], Mapping[str, str]]:
    """Give the costs of each thing measured, round by round, and why some could not be."""
    things: Mapping[str, Callable[[], Cost]] = {
        "power-on to HELLO, BIOS": bench.start_by_bios,
        "power-on to HELLO, UEFI with Secure Boot": bench.start_by_secure_boot,
        "HELLO to the console's first screen": bench.show_console,
        "guestfish: launch alone": bench.launch_guestfish,
        "whole graft, power-on to power-off": bench.graft,
        "guestfish: the same edit": bench.edit_by_guestfish,
        "virt-customize: the same edit": bench.edit_by_virt_customize,
        "loop mount and tree mode": bench.graft_by_tree_mode,
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


def say(text: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
