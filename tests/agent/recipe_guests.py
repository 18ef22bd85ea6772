"""Guests' root directories for tests of recipes: the sample trees, and some newer systems."""

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path

from bootgraft_agent.plan import (
    CopyFile,
    CreateFile,
    MakeDirectory,
    MakeLink,
    Move,
    Remove,
    RemoveDirectory,
    Step,
    Target,
    WriteFile,
)
from bootgraft_agent.recipe_file import RecipeFile, library, parse_recipe
from bootgraft_agent.recipe_file.evaluate import evaluate
from bootgraft_agent.recipe_source import PayloadDirectory
from bootgraft_agent.tree import Trees
from bootgraft_agent.world import open_world
from vm.trees import SAMPLES

HEAD = 'version = 1\nname = "test"\ndescription = "a test"\n'

# The first 20 bytes of a program: ELF, 64 bits, little end first, x86-64.
X86_64 = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\x3e\x00"
I386 = b"\x7fELF\x01\x01\x01" + bytes(9) + b"\x02\x00\x03\x00"

_FSTAB = "/dev/xvda1 / ext4 errors=remount-ro 0 1\n/dev/xvda2 none swap sw 0 0\n"
_DEFAULT_GRUB = """\
GRUB_DEFAULT=0
GRUB_CMDLINE_LINUX_DEFAULT="quiet"
GRUB_CMDLINE_LINUX=""
"""
_UNIT = {"lib/systemd/system/serial-getty@.service": "[Unit]\n"}

NEWER: Mapping[str, Mapping[str, str]] = {
    "debian12": {
        **_UNIT,
        "etc/os-release": 'NAME="Debian GNU/Linux"\nID=debian\nVERSION_ID="12"\n',
        "etc/fstab": _FSTAB,
        "etc/default/grub": _DEFAULT_GRUB,
        "boot/grub/grub.cfg": "# generated\n",
        "boot/vmlinuz-6.1.0-18-amd64": "",
        "etc/network/interfaces": "auto lo ens3\niface lo inet loopback\niface ens3 inet dhcp\n",
        "etc/initramfs-tools/modules": "# one a line\n",
        "etc/cloud/cloud.cfg.d/05_logging.cfg": "",
        "etc/shadow": "root:*:19000:0:99999:7:::\nbin:*:19000:0:99999:7:::\n",
        "etc/passwd": "root:x:0:0::/root:/bin/sh\njoe:x:1000:1000::/home/joe:/bin/sh\n",
        "etc/group": "root:x:0:\nshadow:x:42:\n",
        "root/.profile": "",
    },
    "fedora": {
        **_UNIT,
        "etc/os-release": "ID=fedora\nVERSION_ID=41\n",
        "etc/fstab": "UUID=1-2 / btrfs subvol=root 0 0\n",
        "etc/default/grub": 'GRUB_CMDLINE_LINUX="rhgb quiet"\n',
        "boot/grub2/grub.cfg": "# generated\n",
        "boot/grub2/grubenv": "# GRUB Environment Block\nkernelopts=root=UUID=1-2 ro\n".ljust(
            1024, "#"
        ),
        "boot/loader/entries/a.conf": "title A\noptions root=UUID=1-2 ro rhgb\n",
        "boot/loader/entries/b.conf": "title B\noptions $kernelopts\n",
        "etc/dracut.conf.d/.keep": "",
        "etc/NetworkManager/system-connections/wired.nmconnection": (
            "[connection]\nid=wired\ninterface-name=enp1s0\n"
        ),
    },
    "rhel6": {
        "etc/redhat-release": "Red Hat Enterprise Linux Server release 6.10 (Santiago)\n",
        "etc/fstab": _FSTAB,
        "etc/inittab": "id:3:initdefault:\n",
        "etc/init/rc.conf": "start on runlevel\n",
        "boot/grub/grub.conf": (
            "default=0\ntitle RHEL\n\troot (hd0,0)\n\tkernel /vmlinuz ro root=/dev/xvda1 rhgb\n"
            "\tinitrd /initrd\n"
        ),
        "etc/udev/rules.d/70-persistent-net.rules": (
            'SUBSYSTEM=="net", ATTR{address}=="00:16:3E:00:00:01", NAME="eth0"\n'
        ),
        "etc/sysconfig/network-scripts/ifcfg-eth0": "DEVICE=eth0\nHWADDR=00:16:3e:00:00:01\n",
        "etc/sysconfig/network-scripts/ifcfg-lo": "DEVICE=lo\n",
        "boot/vmlinuz-2.6.32-754.el6": "",
    },
    "arch": {
        **_UNIT,
        "etc/os-release": "ID=arch\n",
        "etc/fstab": "/dev/vda2 / ext4 rw 0 1\n",
        "boot/loader/loader.conf": "default arch\n",
        "boot/loader/entries/arch.conf": "title Arch\nlinux /vmlinuz\noptions root=/dev/vda2 rw\n",
    },
    "alpine": {
        "etc/os-release": "ID=alpine\nVERSION_ID=3.20.1\n",
        "etc/alpine-release": "3.20.1\n",
        "etc/inittab": "::sysinit:/sbin/openrc sysinit\ntty1::respawn:/sbin/getty 38400 tty1\n",
        "sbin/getty": "",
    },
}


@dataclasses.dataclass(frozen=True, slots=True)
class KnownTrees(Trees):
    """Trees whose file systems' UUIDs are known to the test."""

    known: tuple[tuple[str, str], ...] = ()

    @property
    def uuids(self) -> dict[str, str]:
        return dict(self.known)


def make_root(name: str, folder: Path) -> Path:
    """Make a guest's root directory: a sample tree's texts, or a newer system's."""
    root = folder / "root"
    if name in NEWER:
        for path, text in NEWER[name].items():
            write(root, path, text)
    else:
        shutil.copytree(SAMPLES / name / "root", root, symlinks=True)
        if (SAMPLES / name / "boot").is_dir():  # a file system of its own
            shutil.copytree(SAMPLES / name / "boot", folder / "boot")
    write(root, "bin/sh", X86_64)
    return root


def write(root: Path, path: str, text: str | bytes) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(text.encode() if isinstance(text, str) else text)


@dataclasses.dataclass(frozen=True, slots=True)
class Planned:
    """What a recipe would do."""

    steps: tuple[Step, ...]
    warnings: list[str]

    @property
    def texts(self) -> dict[str, bytes]:
        """The new content of each text that is written, by its path in the guest."""
        return {
            _path(step.target): step.after if isinstance(step, WriteFile) else step.content
            for step in self.steps
            if isinstance(step, WriteFile | CreateFile)
        }

    @property
    def others(self) -> list[str]:
        """The other steps: what is done, the path, and the path or text that goes with it."""
        return [words for step in self.steps for words in _words(step)]


def _path(target: Target) -> str:
    inside_boot = target.where == "boot" and not target.path.startswith("boot/")
    return f"/boot/{target.path}" if inside_boot else f"/{target.path}"


def _words(step: Step) -> list[str]:
    match step:
        case CopyFile():
            return [f"copy {step.source} to {_path(step.target)}"]
        case MakeLink():
            return [f"link {_path(step.target)} to {step.text}"]
        case MakeDirectory():
            return [f"make {_path(step.target)}"]
        case Remove() | RemoveDirectory():
            return [f"remove {_path(step.target)}"]
        case Move():
            return [f"rename {_path(step.target)} to {_path(step.to)}"]
    return []


def plan(
    recipe: RecipeFile | str,
    root: Path,
    settings: Mapping[str, str] | None = None,
    *,
    payload: Path | None = None,
    uuids: Mapping[str, str] | None = None,
) -> Planned:
    """Evaluate a recipe (or one of the library, or the actions of one) on a root directory."""
    if isinstance(recipe, str):
        found = library().get(recipe)
        recipe = found or parse_recipe((HEAD + recipe).encode(), "recipe.toml")
    boot = root.with_name("boot")
    known = tuple((uuids or {}).items())
    trees = KnownTrees(root, boot if boot.is_dir() else None, payload or root, (), known)
    warnings: list[str] = []
    with open_world(trees, recipe.name) as world, trees.payload() as tree:
        evaluate(recipe, settings or {}, PayloadDirectory(tree, ""), world, warnings)
        return Planned(world.steps(), warnings)
