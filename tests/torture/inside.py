"""Stands in for the agent in the live system, and tries the agent's own code on hostile disks.

Runs in the live system alone, as `__main__` of a package that has the agent's modules, too. What is
to be done stands on the disks: one whose first sector holds CASES holds disks of guests, each
looked at in a child with a deadline; the others are the machine's, looked at as a controller has it
done. Each report is a line of JSON on COM1; the last one is {"done": true}, then the machine powers
off.
"""

import contextlib
import ctypes
import fcntl
import functools
import hashlib
import importlib
import json
import os
import re
import select
import signal
import stat
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

READY = Path("/run/bootgraft/ready")
sys.dont_write_bytecode = True  # an agent from sources would else leave files of its own
if __name__ == "__main__":
    while not READY.exists():
        time.sleep(0.1)
    importlib.invalidate_caches()

import serial  # noqa: E402

from bootgraft_agent import live, live_guest, mounts  # noqa: E402
from bootgraft_agent.disks import Disk, Partition, read_block_devices  # noqa: E402
from bootgraft_agent.errors import BootgraftError  # noqa: E402
from bootgraft_agent.live_recipes import look_for_linux  # noqa: E402
from bootgraft_agent.machine import Machine, read_machine  # noqa: E402
from bootgraft_agent.plan import Options  # noqa: E402
from bootgraft_agent.view import guest_json  # noqa: E402

CASES = b"bootgraft cases "  # then the length of a JSON text, in ten digits, and that text
VOLUMES = b"bootgraft volumes "  # likewise
MAKE_LVM = b"bootgraft: make an LVM volume here"
MAKE_MD = b"bootgraft: make an array here"
# lvm's own, which would lie among the live system's files.
WITHOUT_ARCHIVE = "backup { backup=0 archive=0 }"
CASE_TIMEOUT = 60.0  # seconds
INSPECT_TIMEOUT = 240.0
REBOOT_POWER_OFF = 0x4321FEDC  # reboot(2)
BLKROGET = 0x125E  # linux, include/uapi/linux/fs.h
NOT_OURS = ("/proc", "/sys", "/dev", "/run")
KERNEL_TROUBLE = re.compile(r"BUG:|Oops|general protection|Kernel panic|soft lockup|hung task")


def main() -> None:
    """Try everything, report, power off."""
    port = serial.Serial(sys.argv[sys.argv.index("--serial") + 1], exclusive=True)

    def report(**facts: object) -> None:
        port.write(b"@probe " + json.dumps(facts).encode() + b"\n")

    try:
        files = hash_own_files()
        for device in sorted(Path("/sys/block").glob("vd*")):
            node = Path("/dev") / device.name
            start = read_start(node)
            if start.startswith(CASES):
                try_cases(node, start, report)
            elif start.startswith(VOLUMES):
                look_at_volumes(node, start, report)
            elif start.startswith(MAKE_LVM):
                make_lvm(node, report)
            elif start.startswith(MAKE_MD):
                make_md(node, report)
        report(system=inspect_machine())
        changed = compare(files, hash_own_files())
        report(system={"own_files": len(files), "own_files_changed": changed})
        report(system={"trouble": read_kernel_trouble(), "left": list_left()})
    except Exception:
        report(error=traceback.format_exc())
        raise
    report(done=True)
    port.flush()
    ctypes.CDLL(None).reboot(REBOOT_POWER_OFF)


def read_start(node: Path) -> bytes:
    """Read the beginning of a disk."""
    with node.open("rb") as disk:
        return disk.read(1 << 16)


# The live system itself


def hash_own_files() -> dict[str, str]:
    """Hash every file of the live system."""
    found = {}
    for place, folders, names in os.walk("/"):
        folders[:] = [each for each in folders if str(Path(place, each)) not in NOT_OURS]
        for name in names:
            path = Path(place, name)
            status = path.lstat()
            words = [oct(status.st_mode), str(status.st_size)]
            if stat.S_ISREG(status.st_mode):
                words.append(hashlib.md5(path.read_bytes()).hexdigest())  # noqa: S324
            found[str(path)] = " ".join(words)
    return found


def compare(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """List what is not as it was."""
    return sorted(path for path in {*before, *after} if before.get(path) != after.get(path))[:20]


def read_kernel_trouble() -> list[str]:
    """List what the kernel says of its own failures."""
    messages = subprocess.run(["dmesg"], capture_output=True, text=True, check=True).stdout
    return [line for line in messages.splitlines() if KERNEL_TROUBLE.search(line)][:10]


def list_left() -> list[str]:
    """List the mounts and devices of a look that is over."""
    mounted = [line for line in Path("/proc/mounts").read_text().splitlines() if "/mount-" in line]
    mapped = [path.read_text().strip() for path in Path("/sys/block").glob("dm-*/dm/name")]
    loops = [str(path) for path in Path("/sys/block").glob("loop*/loop/backing_file")]
    return [*mounted, *mapped, *loops[1:]]  # the first is the live system's own


# Disks of guests, in one disk


def try_cases(carrier: Path, start: bytes, report: Callable[..., None]) -> None:
    """Look at each guest, in a child."""
    size = int(start[len(CASES) : len(CASES) + 10])
    cases = json.loads(start[len(CASES) + 10 :][:size])
    for number, case in enumerate(cases):
        began = time.monotonic()
        outcome = in_a_child(functools.partial(look_at, carrier, case), CASE_TIMEOUT)
        seconds = round(time.monotonic() - began, 1)
        report(device={"name": f"case {number}", "outcome": outcome, "seconds": seconds})


def in_a_child(work: Callable[[], str], timeout: float) -> str:
    """Do some work in a child; give what it said, or that it did not end in time."""
    answer, said = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(answer)
        try:
            text = work()
        except BaseException:  # noqa: BLE001 - whatever it is, it is to be told
            text = f"FAILED {traceback.format_exc()[-1500:]}"
        os.write(said, text.encode("utf-8", "backslashreplace")[:4000])
        os._exit(0)
    os.close(said)
    ended = select.select([answer], [], [], timeout)[0]
    text = os.read(answer, 8192).decode() if ended else "HANGS"
    os.kill(child, signal.SIGKILL)
    os.close(answer)
    deadline = time.monotonic() + 10
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            return f"{text} and cannot be killed"
        time.sleep(0.05)
    return text or "FAILED without a word"


def look_at(carrier: Path, case: dict[str, int | str]) -> str:
    """Look at a guest's disk as the agent does; give what came of it."""
    with (
        part_of(carrier, int(case["disk"]), int(case["size"])) as disk,
        part_of(carrier, int(case["disk"]) + int(case["offset"]), int(case["length"])) as node,
    ):
        partition = Partition(
            *("hda1", node.name, 1, int(case["offset"]), int(case["length"]), True, "0x83"),
            *(str(case["fs_type"]), None, None),
        )
        whole = Disk(
            *("hda", disk.name, "ide", 0, 0, int(case["size"]), 512, None, "msdos"),
            *((partition,), None),
        )
        try:
            guest, _, _ = live_guest.read_live_guest(Machine((whole,), ()), Options())
        except (BootgraftError, OSError) as error:
            return f"refused: {error}"
        return f"found: {len(json.dumps(guest_json(guest)))}"


# File systems in one disk, each to be mounted


def look_at_volumes(carrier: Path, start: bytes, report: Callable[..., None]) -> None:
    """Mount each file system, which replays its log, and hash some of its files."""
    size = int(start[len(VOLUMES) : len(VOLUMES) + 10])
    facts = json.loads(start[len(VOLUMES) + 10 :][:size])
    for number, kind in enumerate(map(int, facts["volumes"])):
        offset = facts["first"] + number * facts["size"]
        problem, files = None, {}
        try:
            with (
                part_of(carrier, offset, facts["size"]) as node,
                mounts.mounted(node, "xfs", f"volume {number}", writable=True) as place,
            ):
                files = {path: hash_file(place / path[1:]) for path in facts["paths"][kind]}
        except (BootgraftError, OSError) as error:
            problem = str(error)
        report(device={"name": f"volume {number}", "problem": problem, "files": files})


def hash_file(path: Path) -> str | None:
    """Give a file's SHA-256; None where there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


@contextlib.contextmanager
def part_of(carrier: Path, offset: int, size: int) -> Iterator[Path]:
    """Give a part of a disk as a device, which may be written."""
    name = f"case-{offset}-{size}"
    table = f"0 {size // 512} linear {carrier} {offset // 512}"
    mounts.run(["dmsetup", "create", name, "--noudevrules", "--noudevsync", "--table", table])
    try:
        yield mounts._find_mapped(name)
    finally:
        mounts.run(["dmsetup", "remove", "--retry", "--noudevrules", "--noudevsync", name])


def make_lvm(node: Path, report: Callable[..., None]) -> None:
    """Make a volume group with one volume, and leave it inactive."""
    for argv in (
        ["pvcreate", "-ff", "-y", "--zero", "y", str(node)],
        ["vgcreate", "hostile", str(node)],
        ["lvcreate", "-y", "-Wn", "-Zn", "-L", "4M", "-n", "root", "hostile"],
        ["vgchange", "-an", "hostile"],
    ):
        command = ["lvm", *argv, "--config", WITHOUT_ARCHIVE]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        report(system={f"lvm {argv[0]}": [done.returncode, done.stderr[-300:]]})


def make_md(node: Path, report: Callable[..., None]) -> None:
    """Make an array of one disk, and stop it."""
    create = ["--create", "/dev/md9", "--run", "--force", "--level=1", "--raid-devices=1"]
    for argv in ([*create, "--metadata=1.0", str(node)], ["--stop", "/dev/md9"]):
        done = subprocess.run(["mdadm", *argv], capture_output=True, text=True, check=False)
        report(system={f"mdadm {argv[0]}": [done.returncode, done.stderr[-300:]]})


# The machine's own disks


def inspect_machine() -> dict[str, object]:
    """Inspect and plan as a controller has it done, and see what that has left."""
    found: dict[str, object] = {}
    actions = live.LiveActions()
    began = time.monotonic()
    found["inspect"] = in_a_child(
        lambda: json.dumps(actions.inspect(Options()))[:3500], INSPECT_TIMEOUT
    )
    found["seconds"] = round(time.monotonic() - began, 1)
    found["linux"] = in_a_child(
        lambda: json.dumps(look_for_linux(read_machine(), Options()))[:3500], INSPECT_TIMEOUT
    )
    read_machine()
    found["active"] = [
        path.read_text().strip()
        for path in (*Path("/sys/block").glob("dm-*/dm/name"), *Path("/sys/block").glob("md*/dev"))
    ]
    found["writable"] = list_writable()
    # That there was something to start: the volume group, and the array.
    found["volumes"] = ask(
        "lvm", "vgs", "--noheadings", "-o", "vg_name", "--config", WITHOUT_ARCHIVE
    )
    found["arrays"] = ask("mdadm", "--examine", "--scan")
    return found


def ask(*argv: str) -> str:
    """Run a program; give what it says."""
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout


def list_writable() -> list[str]:
    """List the disks and partitions of guests that take a write."""
    found = []
    for device in read_block_devices():
        if not device.is_guest_storage or device.size == 0:
            continue
        fd = os.open(f"/dev/{device.kernel_name}", os.O_RDONLY)
        try:
            (locked,) = struct.unpack("i", fcntl.ioctl(fd, BLKROGET, bytes(4)))
        finally:
            os.close(fd)
        if not locked:
            found.append(device.kernel_name)
    return found


if __name__ == "__main__":
    main()
