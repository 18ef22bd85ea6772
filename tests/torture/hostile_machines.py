"""Hostile disks in the live system, in QEMU: file systems damaged at random, and whole machines.

The first boot looks at many guests that lie in one disk, each with other bytes of its file system
changed, and makes an LVM volume group and an array. The second is a machine with these and with
disks that lie, loop, or pass for each other; a third one is looked at by a controller.
"""

import contextlib
import functools
import hashlib
import io
import json
import os
import random
import re
import shutil
import stat
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from rich.console import Console

from bootgraft_agent.errors import BootgraftError, RefusedError
from bootgraft_agent.wire import JSON
from bootgraft_host.client import Client
from bootgraft_host.replies import parse_inspection
from bootgraft_host.report import print_result
from bootgraft_host.results import RunResult
from image.bench_subjects import BESIDE_THE_AGENT
from image.live_boot import (
    ProbeReport,
    boot_live,
    conversation,
    finish_probe,
    ide_disk,
    make_iso_with_agent,
)
from torture import hostile_trees
from torture.family import Tally
from torture.hostile_tables import make_table, partition_entry, table_sector
from torture.hostile_trees import check_harmless
from vm.commands import run
from vm.guest_disk import MIB, GuestDisk, Partition, install_grub, make_guest_disk
from vm.trees import build_tree

# As in inside.py, which only the live system can import.
CASES = b"bootgraft cases "
MAKE_LVM = b"bootgraft: make an LVM volume here"
MAKE_MD = b"bootgraft: make an array here"
TABLES = 8
INSIDE = Path(__file__).with_name("inside.py").read_bytes()
MEMORY = 512  # MiB
CASES_TIMEOUT = 1500.0  # seconds for the boot with the cases
MACHINE_TIMEOUT = 400.0
REQUEST_TIMEOUT = 200.0
GUEST_SIZE = 6 * MIB
CHUNK = 4096  # bytes
FIRST_CASE = MIB  # where the first guest begins in the disk that holds them all


@dataclass(frozen=True, slots=True)
class Region:
    """A part of a file system: where it begins, in bytes from the disk's start, and its size."""

    name: str
    offset: int
    size: int


class MachineBench:
    """The live ISO with our module in the agent's place, and a guest's disk to be copied."""

    def __init__(self, iso: Path, scratch: Path, package: bytes = BESIDE_THE_AGENT) -> None:
        self.scratch = scratch
        self.iso = iso
        (scratch / "iso").mkdir()
        self.inside = make_iso_with_agent(iso, INSIDE, scratch / "iso", package=package)
        tree = build_tree("crlf", scratch / "guest")
        self.guest = make_guest_disk(scratch / "guest.img", Partition(GUEST_SIZE, tree.root))
        install_grub(self.guest.path, 0, "/boot/grub", f"/boot/{tree.shape.menu}")

    def lvm(self) -> Path:
        """The disk that the first boot makes a volume group of."""
        return self.scratch / "lvm.img"

    def md(self) -> Path:
        """The disk that the first boot makes an array of."""
        return self.scratch / "md.img"


def try_machines(count: int, bench: MachineBench, rng: random.Random, tally: Tally) -> None:
    """Try so many damaged file systems, then machines of hostile disks."""
    try_damaged(count, bench, rng, tally)
    disks = make_hostile_disks(bench, rng)
    try_inside(bench, disks, tally)
    try_from_outside(bench, disks, tally)


# Damaged file systems


def try_damaged(count: int, bench: MachineBench, rng: random.Random, tally: Tally) -> None:
    """Look at so many damaged guests in one boot."""
    carrier = bench.scratch / "carrier.img"
    names = write_carrier(carrier, bench.guest, count, rng)
    for image, words in ((bench.lvm(), MAKE_LVM), (bench.md(), MAKE_MD)):
        image.write_bytes(words.ljust(32 * MIB, b"\0"))
    before = hash_file(carrier)
    report = run_inside(bench, [carrier, bench.lvm(), bench.md()], CASES_TIMEOUT)
    with bench.md().open("r+b") as disk:
        disk.write(bytes(len(MAKE_MD)))  # the array's own record is at the disk's end
    for number, name in enumerate(names):
        with tally.case(f"file system {number}, damaged: {name}"):
            check_outcome(report.devices[f"case {number}"]["outcome"], is_good=number == 0)
    with tally.case("the disk of damaged file systems, which nobody may write"):
        if hash_file(carrier) != before:
            raise AssertionError("it has changed")
    with tally.case("the live system after looking at damaged file systems"):
        check_live_system(report)


def write_carrier(carrier: Path, guest: GuestDisk, count: int, rng: random.Random) -> list[str]:
    """Write so many copies of a guest, each damaged, into one disk; give what was done to each."""
    base = guest.path.read_bytes()
    regions = list(find_regions(guest))
    names, cases = [], []
    with carrier.open("wb") as disk:
        disk.truncate(FIRST_CASE + count * len(base))
        for number in range(count):
            at = FIRST_CASE + number * len(base)
            content = bytearray(base)
            names.append(damage(content, regions, rng) if number else "not at all")
            write_sparsely(disk, at, bytes(content))
            place = {"disk": at, "size": len(base), "offset": guest.file_systems[0].offset}
            fs_type = rng.choice(["ext3", "ext3", "ext2", "ext4"]) if number else "ext3"
            cases.append({**place, "length": GUEST_SIZE, "fs_type": fs_type})
        text = json.dumps(cases).encode()
        disk.seek(0)
        disk.write(CASES + b"%010d" % len(text) + text)
    if len(text) > 60_000:
        raise RuntimeError("too many cases for one disk")
    return names


def write_sparsely(disk: BinaryIO, at: int, content: bytes) -> None:
    """Write what is not zero."""
    for start in range(0, len(content), CHUNK):
        chunk = content[start : start + CHUNK]
        if any(chunk):
            disk.seek(at + start)
            disk.write(chunk)


def find_regions(guest: GuestDisk) -> Iterator[Region]:
    """Find what a file system hangs on, from its superblock to its journal."""
    file_system = guest.file_systems[0]
    start, block = file_system.offset, 1024
    yield Region("superblock", start + 1024, 1024)
    yield Region("group descriptors", start + 2048, 32)
    text = file_system.debugfs("stats")
    found = re.search(r"block bitmap at (\d+), inode bitmap at (\d+), inode table at (\d+)", text)
    if found is None:
        raise RuntimeError(f"debugfs has told no layout: {text[-500:]}")
    for name, number, size in zip(
        ("block bitmap", "inode bitmap", "inodes"),
        found.groups(),
        (1024, 1024, 64 * 128),
        strict=True,
    ):
        yield Region(name, start + int(number) * block, size)
    for path in ("/", "/boot", "/boot/grub", "/etc", "/boot/grub/menu.lst", "/boot/grub/stage2"):
        first = file_system.first_block(path)
        yield Region(path, start + first * block, block)
    yield Region("journal", start + file_system.first_block("<8>") * block, 4 * block)


def damage(content: bytearray, regions: Sequence[Region], rng: random.Random) -> str:
    """Change bytes of one to three parts of a file system; give which."""
    chosen = rng.sample(list(regions), rng.choice([1, 1, 2, 3]))
    for region in chosen:
        _damage_region(content, region, rng)
    if rng.random() < 0.3:  # a journal that is to be replayed
        (features,) = struct.unpack_from("<I", content, regions[0].offset + 0x60)
        struct.pack_into("<I", content, regions[0].offset + 0x60, features | 4)
        chosen.append(Region("dirty", 0, 0))
    return ", ".join(region.name for region in chosen)


def _damage_region(content: bytearray, region: Region, rng: random.Random) -> None:
    match rng.randrange(4):
        case 0:
            for _ in range(rng.randint(1, 16)):
                content[region.offset + rng.randrange(region.size)] ^= 1 << rng.randrange(8)
        case 1:
            size = rng.choice([1, 2, 4])
            for _ in range(rng.randint(1, 8)):
                at = region.offset + rng.randrange(0, region.size - size + 1, size)
                value = rng.choice([b"\0" * 4, b"\xff" * 4, b"\x01\0\0\0", rng.randbytes(4)])
                content[at : at + size] = value[:size]
        case 2:
            size = rng.randint(1, region.size)
            at = region.offset + rng.randrange(region.size - size + 1)
            content[at : at + size] = rng.randbytes(size)
        case 3:
            filling = bytes([rng.choice([0, 0xFF])]) * region.size
            content[region.offset : region.offset + region.size] = filling


def check_outcome(outcome: str, *, is_good: bool) -> None:
    """Raise where it is neither a result nor, of a damaged guest, a refusal in words."""
    wanted = r"found: \d+\Z" if is_good else r"(refused: .{20}|found: \d+\Z)"
    if not re.match(wanted, outcome, re.DOTALL):
        raise AssertionError(outcome)


def check_live_system(report: ProbeReport) -> None:
    """Raise where the live system is not as it was."""
    system = report.system
    if system["own_files"] < 100 or system["own_files_changed"]:
        raise AssertionError(f"files of the live system changed: {system['own_files_changed']}")
    if system["left"]:
        raise AssertionError(f"mounts or devices are left: {system['left']}")
    if system["trouble"]:
        raise AssertionError(f"the kernel failed: {system['trouble']}")


# Machines of hostile disks


@dataclass(frozen=True, slots=True)
class HostileDisk:
    """A disk, and whether it is on the IDE controller."""

    name: str
    image: Path
    is_ide: bool


def make_hostile_disks(bench: MachineBench, rng: random.Random) -> list[HostileDisk]:
    """Make disks that lie, loop, pass for each other, or hold what must not start by itself."""
    folder = bench.scratch
    twin = Path(shutil.copyfile(bench.guest.path, folder / "twin.img"))
    disks = [
        HostileDisk("a guest", bench.guest.path, is_ide=True),
        HostileDisk("its twin, with the same UUID", twin, is_ide=True),
        HostileDisk("hostile files", make_disk_of_hostile_files(folder, rng), is_ide=True),
        HostileDisk("LVM", bench.lvm(), is_ide=False),
        HostileDisk("an array", bench.md(), is_ide=False),
        HostileDisk("a TiB", make_sparse_disk(folder), is_ide=False),
        HostileDisk("a crowd", make_crowded_disk(folder), is_ide=False),
    ]
    for number in range(TABLES):
        image = folder / f"table-{number}.img"
        make_table(image, rng)
        disks.append(HostileDisk(f"table {number}", image, is_ide=False))
    return disks


def make_disk_of_hostile_files(folder: Path, rng: random.Random) -> Path:
    """Make a guest with the links, devices and names that lead out of it."""
    tree = build_tree("crlf", folder / "hostile")
    boot = tree.boot_folder
    (boot / "grub/device.map").unlink()
    os.mkfifo(boot / "grub/device.map")
    (boot / "grub/default").symlink_to("/dev/zero")
    (boot / "loop").symlink_to("loop")
    (boot / f"vmlinuz-1{hostile_trees.ESCAPES.replace('/', '')}").write_bytes(b"no kernel")
    os.mknod(boot / "vmlinuz-2", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    (tree.root / "etc/fstab").unlink()
    (tree.root / "etc/fstab").symlink_to("/proc/self/mem")
    disk = make_guest_disk(folder / "hostile.img", Partition(GUEST_SIZE, tree.root))
    install_grub(disk.path, 0, "/boot/grub", f"/boot/{tree.shape.menu}")
    name = f"{disk.path}?offset={disk.file_systems[0].offset}"
    run(["tune2fs", "-L", hostile_trees.ESCAPES[:12], name])
    return disk.path


def make_sparse_disk(folder: Path) -> Path:
    """Make a disk of a TiB, whose only partition begins near its end and says it is longer."""
    image = folder / "sparse.img"
    image.write_bytes(table_sector([partition_entry(0x83, 2**31 - 2048, 2**32 - 1)]))
    os.truncate(image, hostile_trees.TEBIBYTE)
    return image


def make_crowded_disk(folder: Path) -> Path:
    """Make a file system, on a whole disk, whose grub directory holds 100,000 names and more.

    The kernel fills it: mke2fs takes minutes for so many.
    """
    image, place = folder / "crowd.img", folder / "crowd"
    place.mkdir()
    run(["mke2fs", "-q", "-F", "-t", "ext3", "-N", str(hostile_trees.CROWD + 1000), image, "96M"])
    run(["mount", "-o", "loop,nosuid,nodev,noexec", image, place])
    try:
        grub = place / "boot/grub"
        grub.mkdir(parents=True)
        hostile_trees.crowd(grub, hostile_trees.CROWD + 1)
        (grub / "menu.lst").write_text("title none\nroot (hd0,0)\n")
    finally:
        run(["umount", place])
    return image


def try_inside(bench: MachineBench, disks: Sequence[HostileDisk], tally: Tally) -> None:
    """Have our module look at a machine of these disks, as the agent does."""
    before = {disk.name: hash_file(disk.image) for disk in disks}
    report = run_inside(bench, disks, MACHINE_TIMEOUT)
    system = report.system
    with tally.case("inspect of a machine of hostile disks"):
        if not system["inspect"].startswith('{"facts": '):
            raise AssertionError(system["inspect"])
    with tally.case("a look for Linux systems on hostile disks, logical volumes among them"):
        if "no root file system of a Linux guest" not in json.loads(system["linux"])["problem"]:
            raise AssertionError(system["linux"])
    with tally.case("LVM and arrays, which must not start by themselves"):
        if "hostile" not in system["volumes"] or "ARRAY" not in system["arrays"]:
            raise AssertionError(f"there was nothing to start: {system}")
        if system["active"]:
            raise AssertionError(f"started: {system['active']}")
    with tally.case("disks and partitions, each read-only while they are looked at"):
        if system["writable"]:
            raise AssertionError(f"writable: {system['writable']}")
    with tally.case("the live system after an inspect of hostile disks"):
        check_live_system(report)
    check_unchanged(disks, before, tally)


def try_from_outside(bench: MachineBench, disks: Sequence[HostileDisk], tally: Tally) -> None:
    """Let a controller ask the real agent for all that it is asked before a graft."""
    before = {disk.name: hash_file(disk.image) for disk in disks}
    com1 = bench.scratch / "com1"
    with boot_live(bench.iso, attach(disks), MEMORY, com1=com1) as boot:
        with conversation(boot, com1, timeout=MACHINE_TIMEOUT, silence=60.0) as client:
            for name, options in (
                ("inspect", {}),
                ("plan", {}),
                *(("plan", {"boot_partition": each}) for each in ("hda1", "hdb1", "hdd1", "vdd")),
                *(("rollback", {"boot_partition": each}) for each in ("hda1", "hdd1")),
            ):
                with tally.case(f"{name} {options} of a machine of hostile disks"):
                    answer = ask(client, name, options)
                    if name == "inspect":
                        check_shown(answer)
            with contextlib.suppress(BootgraftError):
                client.request("power_off", {}, 60.0)
        boot.wait_off(60.0)
    check_unchanged(disks, before, tally)


def ask(client: Client, name: str, options: Mapping[str, str]) -> Mapping[str, JSON]:
    """Ask for something; a result or a refusal is an answer, an internal error is none."""
    try:
        return client.request(name, options, REQUEST_TIMEOUT)
    except RefusedError as error:
        if len(str(error)) < 20:
            raise AssertionError(f"refused without a reason: {error}") from error
        return {}


def check_shown(answer: Mapping[str, JSON]) -> None:
    """Raise where a terminal would act on what an inspect of hostile disks shows."""
    inspection = parse_inspection(answer)
    if "\\u001b" not in json.dumps(answer):
        raise AssertionError("no disk has a label that a terminal would act on")
    result = RunResult("inspect", "run", Path("run"), "machine", "machine")
    result.inspection, result.outcome = inspection, "inspected"
    shown = io.StringIO()
    print_result(result, Console(file=shown, width=500))
    if len(shown.getvalue()) < 500:
        raise AssertionError(f"nothing was shown: {shown.getvalue()}")
    check_harmless(shown.getvalue())


def check_unchanged(disks: Sequence[HostileDisk], before: Mapping[str, str], tally: Tally) -> None:
    """See that no disk has changed."""
    for disk in disks:
        with tally.case(f"the disk of {disk.name}, which nobody may write"):
            if hash_file(disk.image) != before[disk.name]:
                raise AssertionError("it has changed")


def hash_file(path: Path) -> str:
    """Hash a file that may have long holes: each block that is not zero, with its place.

    Where holes are depends on when they are asked for; what is in a block does not.
    """
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        end, at = os.fstat(file.fileno()).st_size, 0
        while at < end:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA) // CHUNK * CHUNK
            except OSError:  # only a hole is left
                break
            file.seek(at)
            for block in iter(functools.partial(file.read, CHUNK), b""):
                if not any(block):
                    at += len(block)
                    break
                digest.update(b"%d:" % at + block)
                at += len(block)
    return digest.hexdigest()


def attach(disks: Sequence[HostileDisk | Path]) -> list[str]:
    """Give QEMU's arguments for disks on the places that the DVD leaves free, and on virtio."""
    places = iter((0, 1, 3))
    arguments: list[str] = []
    for number, disk in enumerate(disks):
        image = disk if isinstance(disk, Path) else disk.image
        if isinstance(disk, HostileDisk) and disk.is_ide:
            arguments += ide_disk(image, next(places))
        else:
            drive = f"if=none,id=more{number},file={image},format=raw"
            arguments += ["-drive", drive, "-device", f"virtio-blk-pci,drive=more{number}"]
    return arguments


def run_inside(
    bench: MachineBench, disks: Sequence[HostileDisk | Path], timeout: float
) -> ProbeReport:
    """Boot our module in a machine with these disks, and let it finish; `timeout` in seconds."""
    with boot_live(bench.inside, attach(disks), MEMORY) as boot:
        return finish_probe(boot, timeout)
