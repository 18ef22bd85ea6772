"""Finding a Linux guest's root, and what it mounts, in trees that stand for file systems."""

import contextlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from bootgraft_agent.disks import Disk, Partition
from bootgraft_agent.errors import AmbiguousError, RefusedError
from bootgraft_agent.file_systems import FileSystem, Nodes, Storage, of_place, split_tag
from bootgraft_agent.files import Tree
from bootgraft_agent.linux_root import find_linux, find_root_file_system
from bootgraft_agent.live_recipes import beside_grub
from bootgraft_agent.lvm import LogicalVolume
from bootgraft_agent.machine import Machine, Place
from bootgraft_agent.plan import Options


@dataclass(frozen=True, slots=True)
class Folders(Nodes):
    """Folders that stand for mounted file systems, by the file systems' names."""

    folder: Path = Path()

    @contextlib.contextmanager
    def read(self, file_system: FileSystem) -> Iterator[Tree]:
        place = self.folder / file_system.name.replace("/", "-")
        if not place.is_dir():
            raise RefusedError(f"the kernel cannot mount {file_system.name}")
        with Tree(place) as tree:
            yield tree


def make_disk(
    name: str, *kinds: str, kernel_name: str | None = None, bus: str = "virtio", uuids: str = ""
) -> Disk:
    """Make a disk whose partitions hold these; their UUIDs begin with the disk's name."""
    kernel_name = kernel_name or name
    partitions = tuple(
        Partition(
            *(f"{name}{number}", f"{kernel_name}{number}", number, number << 20, 1 << 20),
            *(False, "0x83", kind, f"{name} {number}", f"{uuids or name}-{number}"),
            *(f"part-{name}-{number}", None),
        )
        for number, kind in enumerate(kinds, start=1)
    )
    cable = 0 if bus == "ide" else None
    return Disk(name, kernel_name, bus, cable, cable, 1 << 30, 512, None, "msdos", partitions, None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def make_root(folder: Path, name: str, fstab: str) -> None:
    """Give a file system the files of a root."""
    place = folder / name.replace("/", "-")
    (place / "etc").mkdir(parents=True)
    (place / "usr").mkdir()
    (place / "boot").mkdir()
    (place / "etc/fstab").write_text(fstab)


def make_storage(
    folder: Path, *disks: Disk, logical: Mapping[LogicalVolume, str] | None = None
) -> Storage:
    """Give all file systems; `logical` has what the logical volumes hold."""
    places = [Place(disk, each) for disk in disks for each in disk.partitions]
    volumes = [
        FileSystem(str(each), kind, None, f"uuid-{each.name}", (Path("/dev/vda"),), logical=each)
        for each, kind in (logical or {}).items()
    ]
    found = (*map(of_place, places), *volumes)
    for each in found:
        (folder / each.name.replace("/", "-")).mkdir(exist_ok=True)
    return Storage(Machine(disks, ()), found, (), Folders({}, folder=folder))


ROOT = LogicalVolume("debian-vg", "root", "LVM-1", ("vda5",))
SWAP = LogicalVolume("debian-vg", "swap_1", "LVM-2", ("vda5",))


@pytest.mark.parametrize(
    "spec",
    [
        "UUID=vda-2",
        'UUID="VDA-2"',
        "LABEL=vda\\0402",
        "PARTUUID=part-vda-2",
        "/dev/vda2",
        "/dev/sda2",
        "/dev/xvda2",
        "/dev/nvme0n1p2",
        "/dev/disk/by-uuid/vda-2",
        r"/dev/disk/by-label/vda\x202",
        "/dev/disk/by-partuuid/part-vda-2",
    ],
)
def test_a_root_is_what_its_own_fstab_calls_so(folder: Path, spec: str) -> None:
    make_root(folder, "vda1", "/dev/vda9 / ext4 defaults 0 1\n")  # a copy of another machine's
    make_root(folder, "vda2", f"{spec} / ext4 defaults 0 1\n")
    storage = make_storage(folder, make_disk("vda", "ext4", "ext4"))
    assert find_root_file_system(storage, None).name == "vda2"


def test_the_only_candidate_is_taken_whatever_its_fstab_says(folder: Path) -> None:
    make_root(folder, "vdb1", "/dev/disk/by-path/somewhere / ext4 defaults 0 1\n")
    storage = make_storage(folder, make_disk("vda", "ext4"), make_disk("vdb", "xfs"))
    assert find_root_file_system(storage, None).name == "vdb1"


def test_an_ide_disk_is_where_its_cable_is(folder: Path) -> None:
    make_root(folder, "hda1", "/dev/hda1 / ext3 defaults 0 1\n")
    make_root(folder, "vda1", "/dev/sdb1 / ext3 defaults 0 1\n")
    ide = make_disk("hda", "ext3", kernel_name="sda", bus="ide")
    storage = make_storage(folder, ide, make_disk("vda", "ext3"))
    with pytest.raises(AmbiguousError, match="hda1 and vda1 both hold a Linux system"):
        find_root_file_system(storage, None)
    assert find_root_file_system(storage, "/dev/sda1").name == "hda1"
    assert find_root_file_system(storage, "vda1").name == "vda1"


def test_a_disk_and_its_copy_are_ambiguous_with_both_named(folder: Path) -> None:
    make_root(folder, "vda1", "UUID=same-1 / ext4 defaults 0 1\nUUID=same-2 /boot ext4\n")
    make_root(folder, "vdb1", "UUID=same-1 / ext4 defaults 0 1\nUUID=same-2 /boot ext4\n")
    disks = [make_disk(name, "ext4", "ext4", uuids="same") for name in ("vda", "vdb")]
    storage = make_storage(folder, *disks)
    with pytest.raises(AmbiguousError, match=r"vda1 and vdb1 both .* --root-partition"):
        find_root_file_system(storage, None)
    found = find_linux(storage, "vdb1")
    assert found.file_systems["boot"].name == "vdb2"  # of the same disk


def test_a_root_that_is_named_but_is_none_is_refused_with_those_that_are(folder: Path) -> None:
    make_root(folder, "vda1", "UUID=vda-1 / ext4 defaults 0 1\n")
    storage = make_storage(folder, make_disk("vda", "ext4", "ext4", "swap"))
    with pytest.raises(RefusedError, match=r"no root file system vda2 .*; there are: vda1"):
        find_root_file_system(storage, "vda2")


def test_without_a_root_it_is_said_what_was_looked_at(folder: Path) -> None:
    storage = make_storage(folder, make_disk("vda", "ext4", "crypto_LUKS", "linux_raid_member"))
    (folder / "vda1").rmdir()
    with pytest.raises(RefusedError) as caught:
        find_root_file_system(storage, None)
    assert "the kernel cannot mount vda1" in str(caught.value)
    assert "vda2 is encrypted" in str(caught.value)
    assert "vda3 is part of a RAID" in str(caught.value)


def test_without_a_disk_it_is_said_so(folder: Path) -> None:
    with pytest.raises(RefusedError, match="no disk was found"):
        find_root_file_system(make_storage(folder), None)


def test_lvm_s_problem_is_an_error_unless_the_root_is_named(folder: Path) -> None:
    make_root(folder, "vda1", "UUID=vda-1 / ext4 defaults 0 1\n")
    sound = make_storage(folder, make_disk("vda", "ext4"))
    problem = ("two volume groups are called vg0, on vdb1 and vdc1",)
    storage = Storage(sound.machine, sound.file_systems, problem, sound.nodes)
    with pytest.raises(RefusedError, match="two volume groups are called vg0"):
        find_root_file_system(storage, None)
    assert find_root_file_system(storage, "vda1").name == "vda1"


FSTAB = """\
/dev/mapper/debian--vg-root / ext4 errors=remount-ro 0 1
UUID=vda-1 /boot ext2 defaults 0 2
UUID=vda-2 /boot/efi vfat umask=0077 0 1
/dev/mapper/debian--vg-swap_1 none swap sw 0 0
tmpfs /tmp tmpfs defaults 0 0
nas:/home /home nfs defaults 0 0
/home/data /srv none bind 0 0
UUID=gone /opt ext4 nofail 0 2
UUID=vda-4 /var/secret ext4 defaults 0 2
UUID=vda-3 /mnt/spare ext4 noauto 0 0
"""


def test_what_the_root_mounts_is_found_by_its_fstab(folder: Path) -> None:
    make_root(folder, "debian-vg/root", FSTAB)
    disk = make_disk("vda", "ext2", "vfat", "ext4", "crypto_LUKS", "LVM2_member")
    storage = make_storage(folder, disk, logical={ROOT: "ext4", SWAP: "swap"})
    found = find_linux(storage, None)
    assert {where: each.name for where, each in found.file_systems.items()} == {
        "root": "debian-vg/root",
        "boot": "vda1",
        "boot/efi": "vda2",
    }
    assert found.mounts == (("", "root"), ("boot", "boot"), ("boot/efi", "boot/efi"))
    assert found.boot_prefix == ""
    assert found.uuids == {
        "/": "uuid-root",
        "/boot": "vda-1",
        "/boot/efi": "vda-2",
        "/dev/mapper/debian--vg-swap_1": "uuid-swap_1",
        "swap": "uuid-swap_1",
    }
    reasons = dict(found.absent)
    assert list(reasons) == ["tmp", "home", "srv", "opt", "var/secret"]
    assert "tmpfs" in reasons["tmp"]
    assert "network" in reasons["home"]
    assert "/home/data" in reasons["srv"]
    assert "no file system of this machine" in reasons["opt"]
    assert "vda4 is encrypted" in reasons["var/secret"]


def test_a_fstab_cannot_have_everything_mounted(folder: Path) -> None:
    lines = "".join(f"UUID=vda-2 /mnt/{number} ext4\n" for number in range(500))
    make_root(folder, "vda1", f"UUID=vda-1 / ext4 defaults 0 1\n{lines}")
    found = find_linux(make_storage(folder, make_disk("vda", "ext4", "ext4")), None)
    assert len(found.mounts) < 70
    assert "more than" in dict(found.absent)["mnt/400"]


def test_a_boot_directory_of_the_root_is_a_volume_with_a_prefix(folder: Path) -> None:
    make_root(folder, "vda1", "UUID=vda-1 / ext4 defaults 0 1\n")
    found = find_linux(make_storage(folder, make_disk("vda", "ext4")), None)
    assert found.file_systems["boot"] == found.file_systems["root"]
    assert found.boot_prefix == "boot/"
    assert ("boot", "boot") in found.mounts


@pytest.mark.parametrize("is_link", [True, False])
def test_without_a_boot_directory_the_root_holds_what_boot_would(
    folder: Path, is_link: bool
) -> None:
    make_root(folder, "vda1", "UUID=vda-1 / ext4 defaults 0 1\n")
    (folder / "vda1/boot").rmdir()
    if is_link:
        (folder / "vda1/boot").symlink_to("usr")
    found = find_linux(make_storage(folder, make_disk("vda", "ext4")), None)
    assert found.boot_prefix == ""
    assert found.mounts == (("", "root"),)


def test_a_missing_boot_file_system_is_not_its_empty_directory(folder: Path) -> None:
    make_root(folder, "vda1", "UUID=vda-1 / ext4 defaults 0 1\nUUID=gone /boot ext4 defaults\n")
    found = find_linux(make_storage(folder, make_disk("vda", "ext4")), None)
    assert ("boot", "boot") not in found.mounts
    assert "UUID=gone" in dict(found.absent)["boot"]


@pytest.mark.parametrize(
    ("spec", "tag"),
    [
        ("UUID=x", ("UUID", "x")),
        ("partlabel='a b'", ("PARTLABEL", "a b")),
        ("/dev/sda1", ("", "/dev/sda1")),
        ("UUID=", ("", "UUID=")),
    ],
)
def test_a_spec_has_a_tag_or_is_a_device(spec: str, tag: tuple[str, str]) -> None:
    assert split_tag(spec) == tag


def test_disks_beyond_the_26th_and_of_other_kinds_are_counted(folder: Path) -> None:
    letters = [*map(chr, range(ord("a"), ord("z") + 1))]
    names = itertools.islice((f"vd{a}{b}" for a in ["", *letters] for b in letters), 28)
    storage = make_storage(folder, *(make_disk(name, "ext4") for name in names))
    assert [each.name for each in storage.find("/dev/sdab1")] == ["vdab1"]
    assert [each.name for each in storage.find("/dev/mmcblk2p1")] == ["vdc1"]
    assert storage.find("/dev/vda2") == storage.find("/dev/loop0") == ()


# Beside a boot partition that was found by GRUB legacy's files


def test_grub_s_boot_partition_goes_with_a_root_on_lvm(folder: Path) -> None:
    make_root(folder, "debian-vg/root", "/dev/debian-vg/root / ext3\nLABEL=/boot /boot ext3\n")
    disk = make_disk("hda", "ext3", "LVM2_member", bus="ide")
    storage = make_storage(folder, disk, logical={ROOT: "ext3", SWAP: "swap"})
    boot = storage.file_systems[0]
    found = beside_grub(storage, boot, "", None, Options())
    assert found.file_systems["boot"] == boot
    assert found.file_systems["root"].name == "debian-vg/root"
    assert (found.boot_prefix, found.absent) == ("", ())  # whatever its label was
    assert ("boot", "boot") in found.mounts


def test_grub_s_boot_partition_must_be_the_root_s_boot(folder: Path) -> None:
    make_root(folder, "hda2", "UUID=hda-2 / ext3\nUUID=hda-3 /boot ext3\n")
    storage = make_storage(folder, make_disk("hda", "ext3", "ext3", "ext3", bus="ide"))
    boot, root, _ = storage.file_systems
    with pytest.raises(AmbiguousError, match="on hda1, but /boot of the guest is on hda3"):
        beside_grub(storage, boot, "", root, Options())
