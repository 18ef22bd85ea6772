"""Guests whose files are hostile: links out of the tree, loops, devices, names, manifests.

Each edit changes one sample tree; what a follower of links would reach lies outside the guest,
where nothing may change.
"""

import json
import os
import random
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vm.trees import SampleTree

TEBIBYTE = 1 << 40
CROWD = 100_000  # names in one directory
ESCAPES = "\x1b]0;owned\x07\x1b[2J\x1b[31m\x9b1;1H\n@bg1 00000000 H 0 0 {}\n\r\x08\u202e\x7f"
# Where anything may lie; below the root, with boot/ standing for the boot folder.
PLACES = (
    *("boot", "boot/grub", "boot/grub/grub.conf", "boot/grub/menu.lst", "boot/grub/device.map"),
    *(
        "boot/grub/stage2",
        "boot/grub/default",
        "boot/{kernel}",
        "boot/{initrd}",
        "boot/config-{release}",
    ),
    *("boot/xen-64.gz", "boot/readme.txt", "boot/bootgraft", "boot/grub/bootgraft", "etc"),
    *(
        "etc/fstab",
        "etc/inittab",
        "etc/securetty",
        "lib",
        "lib/modules/{release}/kernel/drivers/ide",
    ),
)


@dataclass(frozen=True, slots=True)
class Victim:
    """A guest to be made hostile, and the folder outside it that no link may reach."""

    tree: SampleTree
    outside: Path

    def place(self, name: str) -> Path:
        """Give one of PLACES."""
        kernel = self.tree.shape.kernels[0]
        words = {"kernel": f"vmlinuz-{kernel.release}", "initrd": kernel.initrd}
        path = name.format(release=kernel.release, **words)
        if path == "boot" or path.startswith("boot/"):
            return self.tree.boot_folder / path[5:]
        return self.tree.root / path

    def take_away(self, place: Path, number: int) -> Path:
        """Move what is at a place to the outside; give where it is."""
        moved = self.outside / f"taken-{number}"
        if place.is_symlink() or place.is_file():
            shutil.move(place, moved)
        elif place.is_dir():
            if place == self.tree.boot_folder and self.tree.boot is not None:
                raise NotHereError  # it is where the boot partition is mounted
            shutil.move(place, moved)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            moved.write_bytes(b"a file outside the guest\n")
        return moved


class NotHereError(Exception):
    """The edit does not go with this guest."""


Edit = Callable[[Victim, Path, random.Random], None]


def link_to_the_outside(victim: Victim, place: Path, rng: random.Random) -> None:
    """Replace a place by a link to where its content is now: outside."""
    moved = victim.take_away(place, rng.randrange(10**6))
    up = "/".join([".."] * 30)
    place.symlink_to(rng.choice([str(moved), f"{up}{moved}", os.path.relpath(moved, place.parent)]))


def link_to_the_host(victim: Victim, place: Path, rng: random.Random) -> None:
    """Replace a place by a link to something that this computer has."""
    victim.take_away(place, rng.randrange(10**6))
    targets = ("/etc/passwd", "/dev/zero", "/proc/self/mem", "/proc/self/fd/0", "/", "/dev/tty")
    place.symlink_to(rng.choice(targets))


def link_in_a_loop(victim: Victim, place: Path, rng: random.Random) -> None:
    """Replace a place by a link that leads to itself, at once or by a detour."""
    victim.take_away(place, rng.randrange(10**6))
    match rng.randrange(4):
        case 0:
            place.symlink_to(place.name)
        case 1:
            place.symlink_to(f"{place.name}.2")
            place.with_name(f"{place.name}.2").symlink_to(place.name)
        case 2:
            place.symlink_to(f"../{place.parent.name}/{place.name}/{place.name}")
        case 3:
            place.symlink_to(".")


def long_chain_of_links(victim: Victim, place: Path, rng: random.Random) -> None:
    """Put the content at the end of more links than Linux follows."""
    moved = place.with_name(f"{place.name}.0")
    if not place.exists() or (place.is_dir() and not place.is_symlink()):
        raise NotHereError
    place.rename(moved)
    length = rng.randint(30, 60)
    for number in range(1, length):
        place.with_name(f"{place.name}.{number}").symlink_to(f"{place.name}.{number - 1}")
    place.symlink_to(f"{place.name}.{length - 1}")


def special_file(victim: Victim, place: Path, rng: random.Random) -> None:
    """Put a FIFO, a device, or a folder in a place."""
    victim.take_away(place, rng.randrange(10**6))
    match rng.randrange(4):
        case 0:
            os.mkfifo(place)
        case 1:
            os.mknod(place, stat.S_IFCHR | 0o666, os.makedev(1, rng.choice([5, 8, 9])))
        case 2:
            os.mknod(place, stat.S_IFBLK | 0o666, os.makedev(7, 0))
        case 3:
            place.mkdir()
            (place / "more").mkdir()


def hard_link(victim: Victim, place: Path, rng: random.Random) -> None:
    """Make a place a second name of a file outside."""
    moved = victim.take_away(place, rng.randrange(10**6))
    if moved.is_dir():
        moved.rename(place)
        raise NotHereError
    os.link(moved, place, follow_symlinks=False)


def sparse_tebibyte(victim: Victim, place: Path, rng: random.Random) -> None:
    """Make a file a TiB long, with its beginning as it was or not."""
    if place.is_dir():
        raise NotHereError
    content = place.read_bytes() if place.is_file() and rng.random() < 0.5 else b""
    victim.take_away(place, rng.randrange(10**6))
    place.write_bytes(content)
    os.truncate(place, TEBIBYTE)


def other_bytes(victim: Victim, place: Path, rng: random.Random) -> None:
    """Damage a file's content."""
    if not place.is_file() or place.is_symlink():
        raise NotHereError
    content = bytearray(place.read_bytes())
    match rng.randrange(6):
        case 0:
            content = bytearray()
        case 1:
            content = bytearray(rng.randbytes(rng.randint(1, 100_000)))
        case 2:
            content = bytearray(bytes(rng.randint(1, 100_000)))
        case 3:
            content = content[: rng.randrange(len(content) + 1)]
        case 4:
            for _ in range(rng.randint(1, 50)):
                if content:
                    content[rng.randrange(len(content))] = rng.randrange(256)
        case 5:
            at = rng.randrange(len(content) + 1)
            content[at:at] = rng.choice([b"x", b"\\\n", b"title ", b"\x1b[2J"]) * rng.randint(
                1, 20_000
            )
    place.write_bytes(bytes(content))


def hostile_menu(victim: Victim, place: Path, rng: random.Random) -> None:
    """Let the menu name files that are not the guest's, with words that a terminal acts on."""
    menu = victim.tree.menu
    if not menu.is_file() or menu.is_symlink():
        raise NotHereError
    files = (
        "/../../../../etc/shadow",
        "/proc/self/environ",
        "(hd9,9)/x",
        "(cd)+1",
        "/" + "../" * 900,
        "/" + "a" * 5000,
        ESCAPES.replace("\n", ""),
        "\udcff\udcfe",
        "/dev/zero",
        "",
    )
    lines = [
        f"title {ESCAPES.replace(chr(10), '')}",
        f"{rng.choice(['kernel', 'kernel --type=x', 'module', 'initrd'])} {rng.choice(files)} x",
        f"initrd {rng.choice(files)}",
        f"splashimage={rng.choice(files)}",
        f"default {rng.choice(['saved', '99999999999999', '-1', '0x7fffffff', ESCAPES[:5]])}",
        f"password --md5 {rng.choice(files)}",
    ]
    rng.shuffle(lines)
    new = "\n".join(lines).encode("utf-8", "surrogateescape") + b"\n"
    old = menu.read_bytes()
    menu.write_bytes(new + old if rng.random() < 0.5 else old + new)


def hostile_names(victim: Victim, place: Path, rng: random.Random) -> None:
    """Put files with names that a terminal acts on beside the kernels."""
    folder = victim.tree.boot_folder
    kernel = folder / f"vmlinuz-{victim.tree.shape.kernels[0].release}"
    for number, words in enumerate((ESCAPES.replace("/", ""), "\udcff\udc9b", "-rf *", " ")):
        name = f"vmlinuz-{number}{words}"
        if kernel.is_file() and rng.random() < 0.7:
            shutil.copyfile(kernel, folder / name)
            (folder / f"initrd-{number}{words}.img").write_bytes(b"no initrd")
        else:
            (folder / name).mkdir()


def hostile_texts(victim: Victim, place: Path, rng: random.Random) -> None:
    """Fill the root's texts with words that a terminal acts on, beside devices to be renamed."""
    lines = f"/dev/xvda2 {ESCAPES} / ext3\n/dev/xvda1\t/boot\x00 ext3 {'x' * 3000}\nxvc0{ESCAPES}\n"
    for name in ("fstab", "inittab", "securetty"):
        path = victim.tree.root / "etc" / name
        if path.is_file() and not path.is_symlink():
            path.write_bytes(lines.encode() + path.read_bytes())


def hostile_manifest(victim: Victim, place: Path, rng: random.Random) -> None:
    """Leave a manifest as if of an earlier run, whose paths lead anywhere."""
    tree = victim.tree
    run = tree.boot_folder / "bootgraft/earlier"
    run.mkdir(parents=True)
    secret = victim.outside / "secret"
    paths = (
        str(secret),
        f"{'../' * 20}{secret}",
        "..",
        ".",
        "/",
        "grub/..",
        "bootgraft/earlier/manifest.json",
        "grub/grub.conf",
        "boot/grub/grub.conf",
        "grub",
        "a" * 300,
        ESCAPES,
    )
    (run / "000").write_bytes(b"default 0\n")
    zeros = "0" * 64
    changes = [
        {
            "where": rng.choice(["boot", "root"]),
            "path": rng.choice(paths),
            "before": rng.choice([None, zeros]),
            "after": zeros,
            "backup": rng.choice(["000", None, "manifest.json", ".."]),
            "linked": rng.random() < 0.5,
            "mtime_ns": rng.choice([None, 0, 1 << 61]),
            "is_menu": rng.random() < 0.5,
        }
        for _ in range(rng.randint(1, 4))
    ]
    manifest = {
        "version": 1,
        "run_id": "earlier",
        "sequence": rng.choice([1, 10**30, -1]),
        "recipe": ESCAPES,
        "continues": rng.choice([[], ["earlier"], [".."]]),
        "changes": changes,
    }
    (run / "manifest.json").write_text(json.dumps(manifest))


EDITS_OF_A_PLACE: tuple[Edit, ...] = (
    link_to_the_outside,
    link_to_the_host,
    link_in_a_loop,
    long_chain_of_links,
    special_file,
    hard_link,
    sparse_tebibyte,
    other_bytes,
)
EDITS_OF_A_GUEST: tuple[Edit, ...] = (
    hostile_menu,
    hostile_names,
    hostile_texts,
    hostile_manifest,
)


def make_hostile(victim: Victim, rng: random.Random) -> str:
    """Make one to three edits; give their names."""
    done: list[str] = []
    while not done or (len(done) < 3 and rng.random() < 0.3):
        edit = rng.choice(EDITS_OF_A_PLACE if rng.random() < 0.75 else EDITS_OF_A_GUEST)
        name = rng.choice(PLACES)
        place = victim.place(name)
        try:
            edit(victim, place, rng)
        except (NotHereError, OSError):  # an earlier edit is in the way, or it is not this guest's
            continue
        done.append(f"{edit.__name__} {name}" if edit in EDITS_OF_A_PLACE else edit.__name__)
    return ", ".join(done)


def crowd(folder: Path, count: int) -> None:
    """Fill a folder with so many names."""
    for number in range(count):
        os.close(os.open(folder / f"{number:06d}", os.O_CREAT | os.O_WRONLY, 0o600))


def check_harmless(text: str) -> None:
    """Raise where a terminal would act on some text."""
    harmful = {each for each in text if not each.isprintable() and each not in "\n\t"}
    if harmful:
        raise AssertionError(f"control characters were shown: {sorted(harmful)!r}")
