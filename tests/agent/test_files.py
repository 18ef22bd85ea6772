"""File access in a tree: no path and no link leads out of it, whole files or none."""

import os
import stat
import subprocess
from pathlib import Path

import pytest

from bootgraft_agent.errors import RefusedError
from bootgraft_agent.files import TEMPORARY, Tree, WritableTree


@pytest.fixture
def guest(tmp_path: Path) -> Path:
    """A guest's root beside a secret that lies outside of it."""
    (tmp_path / "secret").write_text("outside")
    root = tmp_path / "guest"
    (root / "boot/grub").mkdir(parents=True)
    (root / "boot/grub/grub.conf").write_text("menu")
    return root


@pytest.mark.parametrize(
    ("link", "target", "resolved"),
    [
        ("boot/grub/menu.lst", "./grub.conf", "boot/grub/grub.conf"),
        ("boot/grub/menu.lst", "/boot/grub/grub.conf", "boot/grub/grub.conf"),
        ("menu", "../../../../boot/grub/grub.conf", "boot/grub/grub.conf"),
        ("boot/boot", ".", "boot"),
        ("up", "boot/grub/..", "boot"),
    ],
)
def test_links_resolve_against_the_trees_own_root(
    guest: Path, link: str, target: str, resolved: str
) -> None:
    (guest / link).symlink_to(target)
    with Tree(guest) as tree:
        assert tree.resolve(link) == resolved


@pytest.mark.parametrize("target", ["../secret", "/../secret", "../../secret", "/secret"])
def test_no_link_reads_what_lies_outside(guest: Path, target: str) -> None:
    (guest / "out").symlink_to(target)
    with Tree(guest) as tree:
        with pytest.raises(FileNotFoundError):
            tree.read("out", 100)
        assert not tree.exists("out")
        assert tree.digest("boot/grub/absent") is None


def test_an_absolute_link_to_a_path_of_the_host_stays_inside(guest: Path, tmp_path: Path) -> None:
    (guest / "out").symlink_to(tmp_path / "secret")
    with Tree(guest) as tree, pytest.raises(FileNotFoundError):
        tree.read("out", 100)


def test_a_link_loop_is_an_error_and_no_hang(guest: Path) -> None:
    (guest / "a").symlink_to("b")
    (guest / "b").symlink_to("a")
    with Tree(guest) as tree:
        with pytest.raises(OSError, match="symbolic links"):
            tree.resolve("a")
        assert not tree.is_file("a")


def test_a_fifo_a_directory_and_a_device_are_no_files_to_read(guest: Path) -> None:
    os.mkfifo(guest / "fifo")
    os.mknod(guest / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with Tree(guest) as tree:
        for name, kind in (("fifo", "a FIFO"), ("null", "a character device"), ("boot", "a dir")):
            with pytest.raises(RefusedError, match=kind):
                tree.read(name, 100)


def test_a_file_over_the_limit_is_refused_unread(guest: Path) -> None:
    os.truncate(guest / "boot/grub/grub.conf", 10 * 1024 * 1024)
    with Tree(guest) as tree, pytest.raises(RefusedError, match="at most 1000"):
        tree.read("boot/grub/grub.conf", 1000)


def test_a_path_through_a_file_is_no_path(guest: Path) -> None:
    with Tree(guest) as tree, pytest.raises(NotADirectoryError):
        tree.resolve("boot/grub/grub.conf/more")


def test_a_new_file_takes_owner_mode_and_attributes_of_the_old_one(guest: Path) -> None:
    menu = guest / "boot/grub/grub.conf"
    menu.chmod(0o640)
    os.chown(menu, 12, 34)
    os.setxattr(menu, "user.label", b"kept")
    with WritableTree(guest) as tree:
        path = "boot/grub/grub.conf"
        tree.rename(tree.write_temporary(path, [b"new ", b"menu"], like=path), path)
    found = menu.stat()
    assert menu.read_bytes() == b"new menu"
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o640, 12, 34)
    assert os.getxattr(menu, "user.label") == b"kept"


def test_a_failed_write_leaves_nothing(guest: Path) -> None:
    def broken() -> "list[bytes]":
        raise OSError("the DVD is gone")

    with WritableTree(guest) as tree:
        with pytest.raises(OSError, match="gone"):
            tree.write_temporary("boot/shim", (broken() for _ in range(1)))  # type: ignore[misc]
        assert tree.names("boot") == ["grub"]


def test_what_a_cut_off_write_left_is_removed_and_nothing_else(guest: Path) -> None:
    (guest / "boot" / f"{TEMPORARY}0123").write_text("half")
    (guest / "boot" / "vmlinuz").write_text("kernel")
    with WritableTree(guest) as tree:
        tree.remove_temporaries("boot")
        assert tree.names("boot") == ["grub", "vmlinuz"]


def test_a_write_through_a_linked_directory_stays_inside(guest: Path, tmp_path: Path) -> None:
    (guest / "etc").symlink_to("../../../")
    with WritableTree(guest) as tree:
        tree.rename(tree.write_temporary("etc/fstab", [b"x"]), "etc/fstab")
    assert (guest / "fstab").read_bytes() == b"x"
    assert not (tmp_path / "fstab").exists()


def test_a_link_to_nothing_is_something_and_not_a_free_name(guest: Path) -> None:
    (guest / "boot/shim").symlink_to("missing")
    with Tree(guest) as tree:
        assert tree.digest("boot/absent") is None
        with pytest.raises(RefusedError, match=r"boot/shim .*leads to no file"):
            tree.digest("boot/shim")


def test_a_sparse_file_of_a_tebibyte_is_not_read_through(guest: Path) -> None:
    os.truncate(guest / "boot/grub/grub.conf", 1 << 40)
    with Tree(guest) as tree, pytest.raises(RefusedError, match="1099511627776 bytes long"):
        tree.digest("boot/grub/grub.conf")


@pytest.mark.skipif(os.getuid() != 0, reason="mounting needs root")
def test_a_file_system_mounted_below_is_another_one(guest: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "none", guest / "boot"], check=True)
    try:
        (guest / "boot/grub").mkdir()
        with Tree(guest) as tree:
            assert not tree.is_directory("boot/grub")
            with pytest.raises(OSError, match="another file system is mounted there"):
                tree.names("boot")
    finally:
        subprocess.run(["umount", guest / "boot"], check=True)
