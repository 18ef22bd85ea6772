"""Recipes on guests without GRUB legacy in the live system: roots on LVM and on btrfs."""

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from bootgraft_agent.errors import RefusedError
from bootgraft_host.client import Client
from image.live_boot import (
    LIVE_ISO,
    PROBE,
    boot_live,
    conversation,
    ide_dvd,
    make_iso_with_agent,
    run_probe,
)
from vm.commands import run
from vm.linux_disks import (
    PARTITION_AT,
    FileState,
    Volume,
    make_btrfs_disk,
    make_lvm_disk,
    read_volume,
    root_files,
    write_files,
)

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]

MEMORY = 224  # MiB
BOOT_TIMEOUT = 180.0  # seconds
REQUEST_TIMEOUT = 120.0
GROUP = "small-vg"
LVM_ROOT, BTRFS_ROOT = f"{GROUP}/root", "nvme0n1p1[@rootfs]"
VAR_UUID = "5f9ab4c2-6d7e-4f0d-9a0b-0c1de5b00709"
BTRFS_UUID = "5f9ab4c2-6d7e-4f0d-9a0b-0c1de5b00710"
LVM_FSTAB = f"""\
/dev/mapper/small--vg-root / ext4 errors=remount-ro 0 1
UUID={VAR_UUID} /var ext4 defaults 0 2
/dev/small-vg/swap none swap sw 0 0
tmpfs /tmp tmpfs defaults 0 0
nas:/export /srv nfs defaults 0 0
"""
BTRFS_FSTAB = f"""\
UUID={BTRFS_UUID} / btrfs defaults,subvol=@rootfs 0 0
UUID={BTRFS_UUID} /home btrfs defaults,subvol=@home 0 0
"""
RULES = "etc/udev/rules.d/70-persistent-net.rules"
RECIPE = """\
version = 1
name = "note"
description = "a note in several file systems, and no persistent names"

[[action]]
do = "copy"
path = "/etc/note"
source = "note.txt"

[[action]]
do = "lines"
path = "/etc/hostname"
ensure = "# patched"

[[action]]
do = "remove"
path = "/etc/udev/rules.d/70-persistent-net.rules"

[[action]]
do = "copy"
path = "/var/log/note"
source = "note.txt"
when = { present = "/var/log" }

[[action]]
do = "copy"
path = "/home/me/note"
source = "note.txt"
when = { present = "/home/me" }

[[action]]
do = "lines"
path = "/boot/grub/grub.cfg"
ensure = "# patched"
"""


def hash_file(path: Path) -> str:
    """Return a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_lvm_guest(disk: Path, group: str = GROUP) -> Path:
    """Make a guest with root, /var and swap space on LVM."""
    rules = {RULES: 'SUBSYSTEM=="net", NAME="eth0"\n'}
    volumes = [
        Volume("root", 24, root_files(LVM_FSTAB) | rules),
        Volume("var", 16, {"log/messages": "first\n"}, uuid=VAR_UUID),
        Volume("swap", 8, None),
    ]
    return make_lvm_disk(disk, group, volumes)


def make_btrfs_guest(disk: Path) -> Path:
    """Make a guest with / and /home in subvolumes of btrfs."""
    rules = {RULES: 'SUBSYSTEM=="net", NAME="eth0"\n'}
    subvolumes = {
        "@rootfs": root_files(BTRFS_FSTAB) | rules,
        "@home": {"me/.profile": "umask 022\n"},
    }
    return make_btrfs_disk(disk, BTRFS_UUID, subvolumes)


def make_recipe_iso(folder: Path) -> Path:
    """Make a payload ISO with one recipe."""
    write_files(folder / "recipe", {"recipe.toml": RECIPE, "note.txt": "kept\n"})
    iso = folder / "recipe.iso"
    run(["xorriso", "-as", "mkisofs", "-quiet", "-V", "RECIPE", "-R", "-o", iso, folder / "recipe"])
    return iso


def virtio(disk: Path) -> list[str]:
    """Arguments for a virtio disk."""
    return ["-drive", f"if=virtio,file={disk},format=raw"]


def nvme(disk: Path) -> list[str]:
    """Arguments for an NVMe disk."""
    return [
        *("-drive", f"if=none,id=nvme,file={disk},format=raw"),
        *("-device", "nvme,serial=nvme,drive=nvme"),
    ]


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine with both guests' disks, and somebody who talks with its agent."""

    lvm: Path
    btrfs: Path
    client: Client

    def ask(self, name: str, **options: str) -> Mapping[str, object]:
        return self.client.request(name, options, REQUEST_TIMEOUT)

    def disk_of(self, root: str) -> Path:
        return self.lvm if root == LVM_ROOT else self.btrfs

    def hashes(self) -> tuple[str, str]:
        return hash_file(self.lvm), hash_file(self.btrfs)

    def read(self) -> dict[str, FileState]:
        """Read all files of both guests."""
        return read_lvm_guest(self.lvm) | read_volume(self.btrfs, PARTITION_AT, "btrfs")


def read_lvm_guest(disk: Path) -> dict[str, FileState]:
    """Read the files of both file systems of the guest on LVM."""
    found = {}
    for name, offset in VOLUMES_AT.items():
        states = read_volume(disk, offset, "ext4")
        found.update({f"{name}:{path}": state for path, state in states.items()})
    return found


# Where the file systems are: the physical volume's first extent begins a MiB into it.
VOLUMES_AT = {"root": PARTITION_AT + (1 << 20), "var": PARTITION_AT + (25 << 20)}


@pytest.fixture(scope="module")
def machine(live_iso: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """The machine, its live system started once for all tests here."""
    folder = tmp_path_factory.mktemp("linux")
    lvm = make_lvm_guest(folder / "lvm.img")
    btrfs = make_btrfs_guest(folder / "btrfs.img")
    disks = [*virtio(lvm), *nvme(btrfs), *ide_dvd(make_recipe_iso(folder), 3)]
    with tempfile.TemporaryDirectory(prefix="bg") as runtime:
        com1 = Path(runtime, "com1")
        with (
            boot_live(live_iso, disks, MEMORY, com1=com1) as boot,
            conversation(boot, com1, timeout=BOOT_TIMEOUT, silence=REQUEST_TIMEOUT) as client,
        ):
            yield Machine(lvm, btrfs, client)


def test_two_roots_are_ambiguous_with_both_named(machine: Machine) -> None:
    before = machine.hashes()
    found = machine.ask("inspect")
    assert LVM_ROOT in str(found["problem"])
    assert BTRFS_ROOT in str(found["problem"])
    assert "--root-partition" in str(found["problem"])
    candidates = found["facts"]["linux"]["candidates"]  # type: ignore[index]
    assert set(candidates) == {LVM_ROOT, BTRFS_ROOT}
    with pytest.raises(RefusedError, match="--root-partition"):
        machine.ask("plan")
    assert machine.hashes() == before


def test_a_guest_on_lvm_is_found_with_all_that_it_mounts(machine: Machine) -> None:
    before = machine.hashes()
    found = machine.ask("inspect", root_partition=LVM_ROOT)
    assert found["problem"] is None
    linux = found["facts"]["linux"]  # type: ignore[index]
    assert (linux["distribution"], linux["version"]) == ("debian", "13")
    assert linux["volumes"] == {"/": LVM_ROOT, "/boot": LVM_ROOT, "/var": f"{GROUP}/var"}
    assert set(linux["absent"]) == {"/tmp", "/srv"}
    assert machine.hashes() == before


def test_a_guest_in_a_subvolume_of_btrfs_is_found_with_all_that_it_mounts(
    machine: Machine,
) -> None:
    before = machine.hashes()
    found = machine.ask("inspect", root_partition="nvme0n1p1")
    assert found["problem"] is None
    linux = found["facts"]["linux"]  # type: ignore[index]
    assert linux["volumes"] == {
        "/": BTRFS_ROOT,
        "/boot": BTRFS_ROOT,
        "/home": "nvme0n1p1[@home]",
    }
    assert machine.hashes() == before


@pytest.mark.parametrize("root", [LVM_ROOT, BTRFS_ROOT])
def test_a_plan_is_applied_and_rolled_back_byte_for_byte(machine: Machine, root: str) -> None:
    files, hashes = machine.read(), machine.hashes()
    other = machine.btrfs if root == LVM_ROOT else machine.lvm
    plan = machine.ask("plan", root_partition=root)
    assert machine.hashes() == hashes
    place = f"{GROUP}/var:/log/note" if root == LVM_ROOT else "nvme0n1p1[@home]:/me/note"
    steps = " ".join(str(step["text"]) for step in plan["steps"])  # type: ignore[attr-defined]
    assert place in steps
    sha256 = str(plan["plan_sha256"])
    applied = machine.ask("apply", root_partition=root, plan_sha256=sha256, run_id="run-1")
    changed = {str(each["path"]) for each in applied["changes"]}  # type: ignore[attr-defined]
    assert changed == {
        f"{root}:/etc/note",
        f"{root}:/etc/hostname",
        f"{root}:/{RULES}",
        f"{root}:/boot/grub/grub.cfg",
        place,
    }
    assert hash_file(machine.disk_of(root)) not in hashes
    assert hash_file(other) in hashes
    after = machine.hashes()
    assert machine.ask("plan", root_partition=root)["already_grafted"] is True
    assert machine.hashes() == after
    restored = machine.ask("rollback", root_partition=root)
    assert {str(each["path"]) for each in restored["changes"]} == changed  # type: ignore[attr-defined]
    assert machine.read() == files
    assert hash_file(other) in hashes


@pytest.mark.matrix
def test_two_volume_groups_of_one_name_are_refused_in_words(live_iso: Path, tmp_path: Path) -> None:
    disks = [make_lvm_guest(tmp_path / f"{number}.img") for number in range(2)]
    before = [hash_file(disk) for disk in disks]
    arguments = [*virtio(disks[0]), *virtio(disks[1]), *ide_dvd(make_recipe_iso(tmp_path), 3)]
    with tempfile.TemporaryDirectory(prefix="bg") as runtime:
        com1 = Path(runtime, "com1")
        with (
            boot_live(live_iso, arguments, MEMORY, com1=com1) as boot,
            conversation(boot, com1, timeout=BOOT_TIMEOUT, silence=REQUEST_TIMEOUT) as client,
        ):
            for options in ({}, {"root_partition": LVM_ROOT}):
                with pytest.raises(RefusedError) as caught:
                    client.request("plan", options, REQUEST_TIMEOUT)
                assert f"two volume groups are called {GROUP}, on vda1 and vdb1" in str(
                    caught.value
                )
    assert [hash_file(disk) for disk in disks] == before


@pytest.mark.matrix
def test_nothing_of_lvm_starts_by_itself(tmp_path: Path) -> None:
    disk = make_lvm_guest(tmp_path / "lvm.img")
    before = hash_file(disk)
    probe_iso = make_iso_with_agent(LIVE_ISO, PROBE, tmp_path)
    report = run_probe(probe_iso, virtio(disk), timeout=BOOT_TIMEOUT)
    assert report.devices["vda1"]["properties"]["ID_FS_TYPE"] == "LVM2_member"
    assert not {"dm_mod", "md_mod"} & set(report.system["modules"])
    assert hash_file(disk) == before
