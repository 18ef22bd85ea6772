"""Payload ISOs that are cut off, damaged, or made to lead out of themselves.

They are put one after the other into the DVD drive of one machine, which runs the live system with
a guest that could be grafted. Each gives a plan, or a refusal in words; nothing is written. In the
end a good one, with names as ISO 9660 alone has them, is grafted.
"""

import contextlib
import os
import random
import stat
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bootgraft_agent.errors import BootgraftError, RefusedError
from bootgraft_agent.wire import JSON
from bootgraft_host.client import Client
from image.live_boot import boot_live, conversation, ide_disk, ide_dvd
from torture.family import Settings, Tally
from torture.hostile_machines import MEMORY, REQUEST_TIMEOUT, hash_file
from torture.hostile_trees import ESCAPES
from vm.boots import Boot
from vm.commands import run
from vm.payload import SHIM, build_payload, good_files, write_files
from vm.trees import build_tree, disk_from_tree

RANDOM_CASES = 12  # by default: ISOs that are cut off, or damaged, at random
MANY = 10_000  # files
START_TIMEOUT = 240.0  # seconds
SECTOR = 2048
DESCRIPTORS = 16 * SECTOR  # where an ISO's own data begin
MAX_ISO = 64 << 20  # bytes; damage falls on the first of them
DRIVE, DRIVE_INDEX = "ide3", 3

Ending = Literal["planned", "refused", "either"]
Make = Callable[[Path, random.Random], Path]


class PayloadIso:
    """The family."""

    name = "payload_iso"

    def run(self, settings: Settings, rng: random.Random, tally: Tally) -> None:
        """Try them all in one boot."""
        count = settings.count or RANDOM_CASES
        payloads = [*PAYLOADS, *(_draw(number, rng) for number in range(count))]
        try_payloads(payloads, settings, rng, tally)


@dataclass(frozen=True, slots=True)
class BadIso:
    """An ISO to be made, and how a plan with it must end."""

    name: str
    make: Make
    ending: Ending
    words: str = ""  # that a refusal must have


def try_payloads(
    payloads: list[BadIso], settings: Settings, rng: random.Random, tally: Tally
) -> None:
    """Put each into the drive of a running live system, and plan; graft with a good one."""
    scratch = settings.scratch
    guest = disk_from_tree(build_tree("crlf", scratch / "guest"), scratch / "guest.img").path
    good = build_payload(scratch, name="good.iso")
    before, com1 = hash_file(guest), scratch / "com1"
    devices = [*ide_disk(guest, 0), *ide_dvd(good, DRIVE_INDEX)]
    with boot_live(settings.iso, devices, MEMORY, com1=com1) as boot:
        with conversation(boot, com1, timeout=START_TIMEOUT, silence=60.0) as client:
            for payload in payloads:
                with tally.case(payload.name), tempfile.TemporaryDirectory(dir=scratch) as folder:
                    iso = payload.make(Path(folder), rng)
                    try_payload(payload, iso, boot, client)
            with tally.case("the guest's disk, with each of them in the drive"):
                if hash_file(guest) != before:
                    raise AssertionError("it has changed")
            with tally.case("a graft with a good payload after all of them"):
                boot.exchange_medium(DRIVE, good)
                graft(client)
            with contextlib.suppress(BootgraftError):
                client.request("power_off", {}, 60.0)
        boot.wait_off(60.0)


def try_payload(payload: BadIso, iso: Path, boot: Boot, client: Client) -> None:
    """Inspect and plan with an ISO in the drive. Raises where it does not end as it must."""
    boot.exchange_medium(DRIVE, iso)
    client.request("inspect", {}, REQUEST_TIMEOUT)
    try:
        plan = client.request("plan", {}, REQUEST_TIMEOUT)
    except RefusedError as error:
        if payload.ending == "planned" or payload.words not in str(error):
            raise
        if len(str(error)) < 20:
            raise AssertionError(f"refused without a reason: {error}") from error
        return
    if payload.ending == "refused" or not plan["steps"]:
        raise AssertionError(f"it was not refused: {plan['steps']}")
    check_names(plan)


def check_names(plan: Mapping[str, JSON]) -> None:
    """Raise where a plan copies something that is no file of the ISO's shim directory."""
    steps = plan["steps"]
    if not isinstance(steps, list):
        raise AssertionError("a plan without steps")
    for step in steps:
        if step["kind"] == "CopyFile" and any(word in step["text"] for word in (":/..", "shadow")):
            raise AssertionError(f"a step leads out of the boot directory: {step['text']}")


def graft(client: Client) -> None:
    """Graft with what is in the drive."""
    client.request("inspect", {}, REQUEST_TIMEOUT)
    plan = client.request("plan", {}, REQUEST_TIMEOUT)
    order = {"plan_sha256": plan["plan_sha256"], "run_id": "torture"}
    applied = client.request("apply", order, REQUEST_TIMEOUT)
    if not applied["changed"] or not applied["verified"]:
        raise AssertionError(f"it was not grafted: {applied}")


# The ISOs


def _from_tree(folder: Path, edit: Callable[[Path], None]) -> Path:
    """Make an ISO with Rock Ridge from the good files, edited as a folder."""
    tree = folder / "tree"
    write_files(tree, good_files())
    edit(tree)
    iso = folder / "bad.iso"
    run(["xorriso", "-as", "mkisofs", "-quiet", "-V", "LIC", "-R", "-o", iso, tree])
    return iso


def _edited(edit: Callable[[Path], None]) -> Make:
    return lambda folder, rng: _from_tree(folder, edit)


def _good(folder: Path, rng: random.Random) -> Path:
    return build_payload(folder)


def _filled(content: Callable[[random.Random], bytes]) -> Make:
    def make(folder: Path, rng: random.Random) -> Path:
        iso = folder / "bad.iso"
        iso.write_bytes(content(rng))
        return iso

    return make


def _ext3(folder: Path, rng: random.Random) -> Path:
    iso = folder / "bad.iso"
    write_files(folder / "tree", good_files())
    run(["mke2fs", "-q", "-F", "-t", "ext3", "-d", folder / "tree", iso, "16M"])
    return iso


def _shim_is_a_file(tree: Path) -> None:
    (tree / SHIM).rename(tree / "moved")
    (tree / "shim/readme.txt").unlink()
    (tree / "shim").rmdir()
    (tree / "moved").rename(tree / "shim")


def _shim_is_a_link(target: str) -> Callable[[Path], None]:
    def edit(tree: Path) -> None:
        (tree / "shim").rename(tree / "other")
        (tree / "shim").symlink_to(target)

    return edit


def _many_files(name: str) -> Callable[[Path], None]:
    def edit(tree: Path) -> None:
        (tree / name).mkdir(exist_ok=True)
        for number in range(MANY):
            (tree / name / f"{number:05d}").touch()

    return edit


def _shim_is_linked_to_the_host(tree: Path) -> None:
    (tree / SHIM).unlink()
    (tree / SHIM).symlink_to("/etc/shadow")


def _links_and_devices_beside_the_shim(tree: Path) -> None:
    shim = tree / "shim"
    (shim / "a").symlink_to("b")
    (shim / "b").symlink_to("a")
    (shim / "out").symlink_to("../../../../../../etc/shadow")
    os.mknod(shim / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    os.mknod(shim / "disk", stat.S_IFBLK | 0o666, os.makedev(8, 0))
    os.mkfifo(shim / "fifo")


def _shim_is_a_device(tree: Path) -> None:
    (tree / SHIM).unlink()
    os.mknod(tree / SHIM, stat.S_IFBLK | 0o666, os.makedev(8, 0))


def _escapes_in_names(tree: Path) -> None:
    (tree / "shim" / ESCAPES.replace("/", "")[:60]).write_bytes(b"harmless")


def _deep(tree: Path) -> None:
    (tree.joinpath(*["d"] * 60)).mkdir(parents=True)


def _patched(old: bytes, new: bytes) -> Make:
    """Replace a name of Rock Ridge by one that no honest writer makes, of the same length."""

    def make(folder: Path, rng: random.Random) -> Path:
        def rename(tree: Path) -> None:
            (tree / SHIM).rename(tree / "shim" / old.decode())

        iso = _from_tree(folder, rename)
        content = iso.read_bytes()
        if old not in content or len(old) != len(new):
            raise RuntimeError(f"the name {old!r} is not on the ISO")
        iso.write_bytes(content.replace(old, new))
        return iso

    return make


def _lying_size(folder: Path, rng: random.Random) -> Path:
    """Let the directory say that the shim has nearly 4 GiB."""
    iso = build_payload(folder)
    content = bytearray(iso.read_bytes())
    record = content.index(b"XEN_64.GZ;1") - 33
    content[record + 10 : record + 18] = b"\0\0\xff\xff" + b"\xff\xff\0\0"
    iso.write_bytes(content)
    return iso


def _cut_off(at: float) -> Make:
    def make(folder: Path, rng: random.Random) -> Path:
        iso = build_payload(folder, rock_ridge=rng.random() < 0.5)
        size = iso.stat().st_size
        os.truncate(iso, max(SECTOR, int(size * at)) // SECTOR * SECTOR)
        return iso

    return make


def _damaged(seed: float) -> Make:
    """Change bytes of descriptors, path tables and directories."""

    def make(folder: Path, rng: random.Random) -> Path:
        chance = random.Random(seed)  # noqa: S311
        iso = build_payload(folder, rock_ridge=chance.random() < 0.5)
        content = bytearray(iso.read_bytes())
        end = min(len(content), DESCRIPTORS + 40 * SECTOR)
        used = [at for at in range(DESCRIPTORS, end) if content[at]]
        for _ in range(chance.choice([1, 4, 16, 64])):
            content[chance.choice(used)] = chance.choice([0, 0xFF, chance.randrange(256)])
        iso.write_bytes(content)
        return iso

    return make


def _draw(number: int, rng: random.Random) -> BadIso:
    if number % 3 == 0:
        at = rng.random()
        return BadIso(f"cut off at {at:.3f} of its length", _cut_off(at), "either")
    return BadIso(f"damaged, {number}", _damaged(rng.random()), "either")


PAYLOADS = (
    BadIso("good, names in upper case with ;1", _good, "planned"),
    BadIso("zeros", _filled(lambda _: bytes(1 << 20)), "refused", "neither ISO 9660 nor UDF"),
    BadIso("noise", _filled(lambda rng: rng.randbytes(1 << 20)), "refused", "no payload DVD"),
    BadIso("one sector", _filled(lambda _: bytes(SECTOR)), "refused", "no payload DVD"),
    BadIso("an ext3", _ext3, "refused", "neither ISO 9660 nor UDF"),
    BadIso("cut off in the first sectors", _cut_off(0.0), "refused", "no payload DVD"),
    BadIso("shim is a file", _edited(_shim_is_a_file), "refused", "no directory named shim"),
    BadIso("10,000 files in shim", _edited(_many_files("shim")), "refused", "10002 names"),
    BadIso("10,000 files beside shim", _edited(_many_files("more")), "planned"),
    BadIso("shim linked to itself", _edited(_shim_is_a_link("shim")), "refused", "no directory"),
    BadIso("shim linked to /etc", _edited(_shim_is_a_link("/etc")), "refused", "no directory"),
    BadIso("shim linked upwards", _edited(_shim_is_a_link("../../../etc")), "refused", "no dir"),
    BadIso("shim linked to a folder of the ISO", _edited(_shim_is_a_link("other")), "planned"),
    BadIso("shim linked to the top", _edited(_shim_is_a_link("/")), "refused", "no file"),
    BadIso("the shim linked to a file of ours", _edited(_shim_is_linked_to_the_host), "refused"),
    BadIso("the shim is a device", _edited(_shim_is_a_device), "refused"),
    BadIso("links and devices in shim", _edited(_links_and_devices_beside_the_shim), "planned"),
    BadIso("a name that a terminal acts on", _edited(_escapes_in_names), "either"),
    BadIso("folders 60 deep", _edited(_deep), "planned"),
    BadIso("a name with slashes", _patched(b"xx_xx_xx.gz", b"../../xx.gz"), "refused", "be read"),
    BadIso("a name of two dots", _patched(b"xxxxxxxx", b"..\0/etc/"), "either"),
    BadIso("a shim of nearly 4 GiB, it says", _lying_size, "refused"),
)
