"""The sample trees are what they claim to be, before anything is grafted."""

import gzip
from pathlib import Path

import pytest

from bootgraft_agent import grub, multiboot
from vm.boots import boot_disk
from vm.trees import SHAPES, build_tree, disk_from_tree


@pytest.mark.parametrize("name", SHAPES)
def test_every_file_that_the_menu_names_is_there(name: str, tmp_path: Path) -> None:
    tree = build_tree(name, tmp_path)
    top = tree.boot or tree.root
    menu = grub.parse_menu(tree.menu.read_bytes())
    named = [
        command.argument.decode().split()[0]
        for entry in menu.entries
        for command in entry.commands
        if command.name in {b"kernel", b"module", b"initrd"}
    ]
    assert len(named) >= 2
    assert [path for path in named if not (top / path.lstrip("/")).is_file()] == []


@pytest.mark.parametrize("name", SHAPES)
def test_the_kernels_are_recognised_as_what_they_are(name: str, tmp_path: Path) -> None:
    tree = build_tree(name, tmp_path)
    for kernel in tree.shape.kernels:
        image = multiboot.recognise((tree.boot_folder / f"vmlinuz-{kernel.release}").read_bytes())
        assert (image.xen, image.bits, image.problem) == (True, 64, None)
    for release, _initrd in tree.shape.plain_kernels:
        image = multiboot.recognise((tree.boot_folder / f"vmlinuz-{release}").read_bytes())
        assert not image.xen


@pytest.mark.vm
def test_an_untouched_tree_stops_at_error_13(tmp_path: Path) -> None:
    tree = build_tree("lenny", tmp_path)
    kernel = tree.boot_folder / f"vmlinuz-{tree.shape.kernels[0].release}"
    assert gzip.decompress(kernel.read_bytes()).startswith(b"\x7fELF")
    disk = disk_from_tree(tree, tmp_path / "disk.raw")
    with boot_disk(disk.path, memory_mib=256) as boot:
        boot.wait_for_screen("kernel 2.6.26-2-xen-amd64", timeout=30)
        boot.press("ret")
        boot.wait_for_screen("Error 13: Invalid or unsupported executable format", timeout=30)
