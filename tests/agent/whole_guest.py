"""A guest of three volumes with whatever a recipe may change, and a recipe that changes it all."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from agent.faulty_volumes import Volumes, silent
from bootgraft_agent.apply import apply_plan
from bootgraft_agent.plan import BACKUPS, Plan
from bootgraft_agent.states import Attributes
from bootgraft_agent.volumes import Outcome
from bootgraft_agent.world import PayloadRef, World, open_world

RECIPE = "everything:0123456789ab"
MENU = b"default 0\ntitle old\n\tkernel /vmlinuz\n"
DRIVER = bytes(range(256)) * 1200  # more than a text may have
TEXTS = {
    "boot/grub/grub.conf": MENU,
    "boot/grub/device.map": b"(hd0) /dev/sda\n",
    "boot/vmlinuz": b"kernel",
    "root/etc/fstab": b"/dev/xvda2 / ext3 defaults 1 1\n",
    "root/etc/hosts": b"127.0.0.1 localhost\r\nno newline",
    "root/etc/issue": b"old\n",
    "root/etc/secret": b"root:x\n",
    "root/etc/became-link": b"a file\n",
    "root/etc/old-name": b"renamed\n",
    "root/etc/rules": b"to be removed\n",
    "root/etc/old.d/deep/one": b"1\n",
    "root/etc/old.d/two": b"2\n",
    "root/usr/lib/old-driver": DRIVER[::-1],
    "var/lib/state": b"state\n",
    "var/cache/big": DRIVER,
    "payload/files/driver": DRIVER,
    "payload/files/issue": b"new\n",
}
LINKS = {
    "boot/grub/menu.lst": "./grub.conf",
    "root/etc/mtab": "/proc/mounts",
    "root/etc/old-link": "../nowhere",
    "root/etc/was-link": "hosts",
    "root/etc/state": "/var/lib/state",
}


def make_guest(base: Path) -> Path:
    """Write the guest's volumes and the payload below a directory."""
    for path, content in TEXTS.items():
        (base / path).parent.mkdir(parents=True, exist_ok=True)
        (base / path).write_bytes(content)
    for path, text in LINKS.items():
        (base / path).symlink_to(text)
    for path in ("root/etc/private", "root/boot", "root/var", "root/etc/empty.d"):
        (base / path).mkdir()
    (base / "boot/grub/grub.conf").chmod(0o600)
    (base / "root/etc/secret").chmod(0o640)
    os.chown(base / "root/etc/secret", 0, 42)
    os.chown(base / "root/etc/old.d/two", 7, 8)
    os.lchown(base / "root/etc/old-link", 7, 8)
    (base / "root/etc/old.d/deep").chmod(0o2751)
    for path in ("root/etc/issue", "root/etc/rules", "root/etc/old.d/deep", "var/cache/big"):
        os.setxattr(base / path, "user.kept", path.encode())
    os.setxattr(base / "root/etc/issue", "security.selinux", b"system_u:object_r:etc_t:s0\0")
    for number, path in enumerate([*TEXTS, *LINKS]):
        time = 1_200_000_000_000_000_000 + number * 1_000_000_007
        os.utime(base / path, ns=(time, time), follow_symlinks=False)
    return base


def change_everything(world: World) -> None:
    """Do what a recipe may do, each in every way."""
    fstab = world.read("/etc/fstab").replace(b"/dev/xvda2", b"/dev/sda2")
    world.write("/etc/fstab", fstab, "its new name")
    world.write("/etc/hosts", world.read("/etc/hosts") + b"\r\n10.0.0.1 new", "one more")
    world.write("/etc/new.conf", b"new\n", "wanted")
    world.write("/etc/state", b"through a link\n", "another volume")
    secret = replace(world.attributes("/etc/secret"), mode=0o600)
    world.write("/etc/secret", world.read("/etc/secret"), "private", secret)
    world.copy("/usr/lib/driver", driver(), None, replace=False, reason="a driver")
    world.copy("/usr/lib/old-driver", driver(), None, replace=True, reason="a newer driver")
    issue = PayloadRef("files/issue", 4, hashlib.sha256(b"new\n").hexdigest())
    world.copy("/etc/issue", issue, Attributes(0o604, 3, 4), replace=True, reason="greeting")
    world.copy("/boot/driver", driver(), None, replace=False, reason="for the boot loader")
    world.link("/etc/alias", "fstab", "a new name")
    world.link("/etc/became-link", "/etc/hosts", "one file", replace=True)
    world.link("/etc/mtab", "../proc/self/mounts", "as today", replace=True)
    world.remove("/etc/was-link", "a file")
    world.write("/etc/was-link", b"a file now\n", "a file")
    world.make_directory("/etc/new.d", None, "for settings")
    world.make_directory("/etc/new.d/deep", Attributes(0o1700, 5, 6), "for settings")
    world.write("/etc/new.d/deep/file", b"setting\n", "a setting")
    world.make_directory("/etc/private", Attributes(0o700, 0, 9), "private")
    world.remove("/etc/rules", "not wanted")
    world.remove("/etc/old-link", "not wanted")
    world.remove("/etc/old.d", "not wanted")
    world.remove("/etc/empty.d", "not wanted")
    world.remove("/var/cache/big", "not wanted")
    world.rename("/etc/old-name", "/etc/new.d/new-name", "its new name")
    menu = world.read("/boot/grub/menu.lst").replace(b"vmlinuz", b"vmlinuz console=ttyS0")
    world.write("/boot/grub/menu.lst", menu, "a console")
    world.write("/boot/grub/device.map", b"(hd0) /dev/vda\n", "its new name")


def driver() -> PayloadRef:
    """Give the payload's driver."""
    return PayloadRef("files/driver", len(DRIVER), hashlib.sha256(DRIVER).hexdigest())


def plan_for(
    volumes: Volumes,
    change: Callable[[World], None] = change_everything,
    recipe: str = RECIPE,
) -> Plan:
    """Plan a recipe on a guest."""
    with open_world(volumes, recipe) as world:
        change(world)
        return Plan(
            recipe=recipe,
            steps=world.steps(),
            check=None,
            backups=f"{volumes.boot_prefix}{BACKUPS}",
            warnings=(),
            switches=world.switches(),
            continues=tuple(world.original.runs),
        )


def run(base: Path, volumes: Volumes | None = None, run_id: str = "run-1") -> Outcome:
    """Plan and apply."""
    return apply_plan(plan_for(Volumes(base)), volumes or Volumes(base), run_id, silent)


Snapshot = dict[str, tuple[object, ...]]


def snapshot(base: Path, *, with_times: bool = True) -> Snapshot:
    """Everything of the guest: contents, links, owners, modes, attributes, times of files."""
    found: Snapshot = {}
    for where in ("boot", "root", "var"):
        for path in sorted((base / where).rglob("*")):
            status = path.lstat()
            is_directory = path.is_dir() and not path.is_symlink()
            if path.is_symlink():
                content = f"-> {path.readlink()}"
            else:
                content = "/" if is_directory else hashlib.sha256(path.read_bytes()).hexdigest()
            names = os.listxattr(path, follow_symlinks=False)
            xattrs = {name: os.getxattr(path, name, follow_symlinks=False) for name in names}
            time = 0 if is_directory or not with_times else status.st_mtime_ns
            owner = status.st_uid, status.st_gid
            found[str(path.relative_to(base))] = (content, status.st_mode, owner, xattrs, time)
    return found


def without_backups(found: Snapshot) -> Snapshot:
    """Leave out what is kept for a rollback."""
    return {path: each for path, each in found.items() if not path.startswith("boot/bootgraft")}
