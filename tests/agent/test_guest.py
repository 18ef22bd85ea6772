"""Facts of a guest from real directory trees: menus of all kinds, kernels, large files."""

import gzip
from pathlib import Path

import pytest

from bootgraft_agent.errors import AmbiguousError, RefusedError
from bootgraft_agent.files import Tree
from bootgraft_agent.guest import (
    GRAFTED,
    MAX_TEXT,
    Boot,
    BootDirectory,
    Kernel,
    read_boot,
    read_initrd_drivers,
    read_kernels,
)
from bootgraft_agent.images import MAX_IMAGE
from bootgraft_agent.payload import read_payload
from bootgraft_agent.recipes.kernels import MARKER
from vm import tiny_kernel
from vm.guest_disk import copy_grub_files

from .test_initrd import TRAILER, member

RELEASE = "2.6.18-8.el5xen"
MENU = f"""\
default saved
title Appliance
\troot (hd0,0)
\tkernel /vmlinuz-{RELEASE} ro root=/dev/xvda2
\tinitrd /initrd-{RELEASE}.img
""".encode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A boot partition without stage2."""
    (tmp_path / "grub").mkdir()
    (tmp_path / "grub/menu.lst").write_bytes(MENU)
    (tmp_path / f"vmlinuz-{RELEASE}").write_bytes(tiny_kernel.make_kernel_xen(RELEASE))
    initrd = gzip.compress(member(b"lib/ide-disk.ko") + member(b"bin/sh") + TRAILER)
    (tmp_path / f"initrd-{RELEASE}.img").write_bytes(initrd)
    return tmp_path


def boot_of(folder: Path) -> Boot:
    with Tree(folder) as tree:
        return read_boot(tree, "hda1", BootDirectory("", "grub"), menu_is_embedded=False)


def kernels_of(folder: Path) -> dict[str, Kernel]:
    boot = boot_of(folder)
    with Tree(folder) as tree:
        return {kernel.path: kernel for kernel in read_kernels(tree, boot, None)}


def drivers_of(folder: Path) -> dict[str, frozenset[str] | None]:
    boot = boot_of(folder)
    with Tree(folder) as tree:
        return read_initrd_drivers(tree, boot, read_kernels(tree, boot, None))


def enlarge(path: Path, size: int) -> None:
    with path.open("ab") as file:
        file.truncate(size)


# Menus


def test_equal_menus_are_one_choice_and_the_other_file_is_named(folder: Path) -> None:
    (folder / "grub/grub.conf").hardlink_to(folder / "grub/menu.lst")
    linked = boot_of(folder)
    (folder / "grub/grub.conf").unlink()
    (folder / "grub/grub.conf").write_bytes(MENU)
    copied = boot_of(folder)
    for boot in (linked, copied):
        assert (boot.menu.path, boot.other_menus) == ("grub/menu.lst", ("grub/grub.conf",))


def test_the_menu_that_was_grafted_is_the_one_from_then_on(folder: Path) -> None:
    (folder / "grub/grub.conf").write_bytes(MENU + b"# " + MARKER + b": begin\n")
    assert (b"# " + MARKER).startswith(GRAFTED)
    assert boot_of(folder).menu.path == "grub/grub.conf"


def test_two_different_menus_are_ambiguous(folder: Path) -> None:
    (folder / "grub/grub.conf").write_bytes(MENU + b"\n")
    with pytest.raises(AmbiguousError, match=r"menu.lst and /grub/grub.conf are two different"):
        boot_of(folder)


def test_a_link_to_the_menu_is_no_other_file(folder: Path) -> None:
    (folder / "grub/grub.conf").symlink_to("menu.lst")
    assert boot_of(folder).other_menus == ()


def test_the_saved_default_lies_beside_the_menus_own_name_not_its_target(folder: Path) -> None:
    (folder / "etc").mkdir()
    (folder / "grub/menu.lst").rename(folder / "etc/menu.lst")
    (folder / "grub/menu.lst").symlink_to("../etc/menu.lst")
    (folder / "grub/default").write_bytes(b"3\0\0")
    (folder / "etc/default").write_bytes(b"1\0\0")
    copy_grub_files(folder / "grub", "/grub/menu.lst")
    boot = boot_of(folder)
    assert (boot.menu.path, boot.saved_default) == ("etc/menu.lst", 3)


def test_an_endless_menu_is_refused(folder: Path) -> None:
    enlarge(folder / "grub/menu.lst", MAX_TEXT + 1)
    with pytest.raises(RefusedError, match="at most 131072 are expected"):
        boot_of(folder)


# Kernels and initrds


def test_a_large_initrd_is_no_kernel_and_no_reason_to_refuse(folder: Path) -> None:
    (folder / "other.img").write_bytes(b"")
    enlarge(folder / "other.img", MAX_IMAGE + 1)
    (folder / "grub/menu.lst").write_bytes(MENU + b"title b\n kernel /gone\n initrd /other.img\n")
    enlarge(folder / f"initrd-{RELEASE}.img", MAX_IMAGE + 1)
    assert list(kernels_of(folder)) == [f"vmlinuz-{RELEASE}"]
    assert drivers_of(folder) == {
        f"initrd-{RELEASE}.img": frozenset({"ide-disk"}),
        "other.img": None,
    }


def test_a_kernel_that_is_too_long_has_a_problem(folder: Path) -> None:
    (folder / "vmlinuz-9").write_bytes(b"")
    enlarge(folder / "vmlinuz-9", MAX_IMAGE + 1)
    kernels = kernels_of(folder)
    assert (
        kernels["vmlinuz-9"].image.problem
        == "it is 67108865 bytes long; at most 67108864 are expected"
    )
    assert kernels[f"vmlinuz-{RELEASE}"].is_xen


def test_a_hypervisors_module_may_be_the_kernel(folder: Path) -> None:
    (folder / f"vmlinuz-{RELEASE}").rename(folder / "linux")
    menu = b"title a\n kernel /xen.gz\n module /linux ro\n module /initrd\n"
    (folder / "grub/menu.lst").write_bytes(menu)
    assert kernels_of(folder)["linux"].is_xen


def test_only_xen_kernels_have_their_own_initrds_read(folder: Path) -> None:
    (folder / "vmlinuz-3").write_bytes(b"nothing")
    (folder / "initrd-3.img").write_bytes(b"")
    assert kernels_of(folder)["vmlinuz-3"].initrd == "initrd-3.img"
    assert set(drivers_of(folder)) == {f"initrd-{RELEASE}.img"}


def test_a_long_file_of_the_payload_is_refused_and_named(tmp_path: Path) -> None:
    (tmp_path / "shim").mkdir()
    (tmp_path / "shim/x64").write_bytes(b"")
    enlarge(tmp_path / "shim/x64", MAX_IMAGE + 1)
    with Tree(tmp_path) as tree, pytest.raises(RefusedError, match=r"shim/x64 .* bytes long"):
        read_payload(tree, "hdd")
