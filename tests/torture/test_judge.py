"""The judge lets nothing through but a whole old disk and a whole new one."""

import shutil
from pathlib import Path

import pytest

from torture.judge import Judge, read_contents
from torture.small_appliance import build_small_appliance
from vm.appliance import MENU, leave_menu_in_journal
from vm.ext3 import Ext3
from vm.guest_disk import GuestDisk

SHIM = bytes(range(256)) * 20
NEW_MENU = MENU.encode() + b"title new\n\troot (hd0,0)\n\tkernel /shim\n"
NEW_FSTAB = b"/dev/hda2 / ext3 defaults 1 1\n"


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> GuestDisk:
    return build_small_appliance(tmp_path_factory.mktemp("judge"))


@pytest.fixture(scope="module")
def new(old: GuestDisk) -> GuestDisk:
    disk = copy(old, old.path.with_name("new.raw"))
    boot, root = disk.file_systems
    boot.write("/shim", SHIM)
    boot.write("/grub/grub.conf", NEW_MENU)
    root.write("/etc/fstab", NEW_FSTAB)
    return disk


@pytest.fixture(scope="module")
def judge(old: GuestDisk, new: GuestDisk) -> Judge:
    return Judge(read_contents(old.path, "ext3"), read_contents(new.path, "ext3"), "ext3")


@pytest.fixture
def disk(new: GuestDisk, tmp_path: Path) -> GuestDisk:
    """A new disk to spoil."""
    return copy(new, tmp_path / "disk.raw")


def copy(disk: GuestDisk, path: Path) -> GuestDisk:
    shutil.copyfile(disk.path, path)
    return GuestDisk(path, tuple(Ext3(path, each.offset) for each in disk.file_systems))


def test_old_and_new_are_told_apart(judge: Judge, old: GuestDisk, new: GuestDisk) -> None:
    assert judge.as_grub_reads_it(old.path) == judge.as_the_guest_finds_it(old.path) == "old"
    assert judge.as_grub_reads_it(new.path) == judge.as_the_guest_finds_it(new.path) == "new"


@pytest.mark.parametrize("menu", [b"", NEW_MENU[:-9], MENU.encode() + bytes(9)])
def test_a_torn_menu_is_found(judge: Judge, disk: GuestDisk, menu: bytes) -> None:
    disk.file_systems[0].write("/grub/grub.conf", menu)
    for look in (judge.as_grub_reads_it, judge.as_the_guest_finds_it):
        with pytest.raises(AssertionError, match="the menu is neither the old one nor the new"):
            look(disk.path)


@pytest.mark.parametrize("shim", [None, b"", SHIM[:-1], SHIM[:-1] + b"x"])
def test_a_shim_that_is_not_whole_is_found(
    judge: Judge, disk: GuestDisk, shim: bytes | None
) -> None:
    if shim is None:
        disk.file_systems[0].remove("/shim")
    else:
        disk.file_systems[0].write("/shim", shim)
    for look in (judge.as_grub_reads_it, judge.as_the_guest_finds_it):
        with pytest.raises(AssertionError, match="the new menu needs /shim, which is "):
            look(disk.path)


def test_a_new_menu_over_an_old_root_file_system_is_found(
    judge: Judge, old: GuestDisk, new: GuestDisk
) -> None:
    with pytest.raises(AssertionError, match="the menu is the new one, and /etc/fstab is not"):
        judge.judge_guest(judge.read_boot(new.path), judge.read_root(old.path))
    assert judge.judge_guest(judge.read_boot(old.path), judge.read_root(new.path)) == "old"


def test_a_torn_file_of_the_root_file_system_is_found(judge: Judge, disk: GuestDisk) -> None:
    disk.file_systems[1].write("/etc/fstab", NEW_FSTAB[:-1])
    with pytest.raises(AssertionError, match="/etc/fstab is neither the old one nor the new"):
        judge.as_the_guest_finds_it(disk.path)


def test_grub_and_the_guest_are_asked_apart(judge: Judge, old: GuestDisk, tmp_path: Path) -> None:
    disk = copy(old, tmp_path / "disk.raw")
    leave_menu_in_journal(disk.file_systems[0])
    assert judge.as_grub_reads_it(disk.path) == "old"
    with pytest.raises(AssertionError, match="the menu is neither the old one nor the new"):
        judge.as_the_guest_finds_it(disk.path)
