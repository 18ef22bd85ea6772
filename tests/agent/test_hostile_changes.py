"""Guests that a recipe's changes meet with what they did not expect: words, and nothing changed."""

import contextlib
import os
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.recipe_guests import make_root, write
from agent.test_tree_mode import assert_refused, snapshot
from agent.test_tree_recipes import run
from bootgraft_agent.files import MAX_NAMES

HEAD = 'version = 1\nname = "hostile"\ndescription = "meets a hostile guest"\n'
REMOVE = '[[action]]\ndo = "remove"\npath = "/srv/data"\nrecursive = true\n'
EDIT = '[[action]]\ndo = "lines"\npath = "/srv/data/file"\nensure = "new"\n'
WRITE = '[[action]]\ndo = "copy"\npath = "/srv/data/file"\ncontent = "new"\nreplace = true\n'
CREATE = (
    '[[action]]\ndo = "copy"\npath = "/srv/data/new"\ncontent = "new"\nmode = "0600"\nowner = 0\n'
)
MIB = 1 << 20
DEEP = 300  # directories in each other, which a removal of the tests' folder still takes

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = make_root("debian12", tmp_path)
    write(root, "srv/data/file", "old\n")
    return root


def recipe(root: Path, actions: str) -> Path:
    path = root.with_name("hostile.toml")
    path.write_text(HEAD + actions)
    return path


def assert_words_and_nothing_changed(root: Path, actions: str, words: str) -> None:
    before = snapshot(root)
    for option in ("--dry-run", "--verbose"):
        options = [] if option == "--verbose" else [option]
        assert_refused(run(root, "--recipe", recipe(root, actions), *options), words)
    assert snapshot(root) == before


def test_a_directory_s_default_acl_gives_a_file_no_acl_that_it_did_not_have(root: Path) -> None:
    # linux/posix_acl_xattr.h: version 2; then tag, permissions, id: owner, user 1000, group, mask
    entries = (1, 7, -1), (2, 6, 1000), (4, 5, -1), (16, 7, -1), (32, 5, -1)
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *each) for each in entries)
    os.setxattr(root / "srv/data", "system.posix_acl_default", acl)
    result = run(root, "--recipe", recipe(root, EDIT))
    assert result.returncode == 0, result.stderr
    assert (root / "srv/data/file").read_text() == "old\nnew\n"
    assert os.listxattr(root / "srv/data/file") == []


@pytest.mark.parametrize("name", ["menu.lst", "grubenv"])
def test_a_directory_with_the_name_of_a_menu_is_made_and_taken_back(name: str, root: Path) -> None:
    before = snapshot(root)
    actions = (
        f'[[action]]\ndo = "directory"\npath = "/boot/grub/{name}"\n'
        f'[[action]]\ndo = "copy"\npath = "/boot/grub/{name}/file"\ncontent = "1"\n'
    )
    result = run(root, "--recipe", recipe(root, actions))
    assert result.returncode == 0, result.stderr
    assert (root / "boot/grub" / name / "file").read_text() == "1"
    result = run(root, "--rollback")
    assert result.returncode == 0, result.stderr
    assert snapshot(root).keys() == before.keys()


def test_a_file_becomes_the_menu_and_the_directory_that_held_it_goes(root: Path) -> None:
    write(root, "boot/old/menu", "default 0\n")
    actions = (
        '[[action]]\ndo = "rename"\npath = "/boot/old/menu"\nto = "/boot/grub/menu.lst"\n'
        '[[action]]\ndo = "remove"\npath = "/boot/old"\n'
    )
    result = run(root, "--recipe", recipe(root, actions))
    assert result.returncode == 0, result.stderr
    assert (root / "boot/grub/menu.lst").read_text() == "default 0\n"
    assert not (root / "boot/old").exists()
    assert "nothing is to be done" in run(root, "--recipe", recipe(root, actions)).stdout
    assert run(root, "--rollback").returncode == 0
    assert (root / "boot/old/menu").read_text() == "default 0\n"
    assert not (root / "boot/grub/menu.lst").exists()


# In every place something else


def a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def a_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to("file")


def a_dangling_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/nowhere/in/the/guest")


def a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_huge_file(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(1 << 30)


@pytest.mark.parametrize(
    ("make", "actions", "words"),
    [
        (a_fifo, WRITE, "/srv/data/file is a device, FIFO or socket"),
        (a_fifo, EDIT, "/srv/data/file is a device, FIFO or socket"),
        (a_fifo, REMOVE, "/srv/data/file is a device, FIFO or socket"),
        (a_loop, WRITE, "/srv/data/file"),
        (a_dangling_link, WRITE, "leads to nothing in the guest (/nowhere/in/the/guest)"),
        (a_directory, WRITE, "/srv/data/file is a directory"),
        (a_huge_file, REMOVE, "srv/data/file is 1073741824 bytes long"),
        (a_huge_file, WRITE, "srv/data/file is 1073741824 bytes long"),
    ],
)
def test_what_is_no_plain_file_of_bounded_size_is_refused(
    make: Callable[[Path], None], actions: str, words: str, root: Path
) -> None:
    make(root / "srv/data/file")
    assert_words_and_nothing_changed(root, actions, words)


def test_a_link_out_of_the_guest_leads_within_it(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("of the host\n")
    (root / "srv/data/file").unlink()
    (root / "srv/data").rmdir()
    (root / "srv/data").symlink_to(Path("../../../../../../../..", *outside.parts[1:]))
    before = snapshot(outside)
    result = run(root, "--recipe", recipe(root, WRITE))
    assert result.returncode == 1
    assert "/srv/data" in result.stderr
    assert snapshot(outside) == before


def test_directories_in_each_other_beyond_all_measure_are_refused_at_once(root: Path) -> None:
    deep = os.open(root / "srv/data", os.O_RDONLY)
    for _ in range(DEEP):
        os.mkdir("d", dir_fd=deep)
        deeper = os.open("d", os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = deeper
    os.close(deep)
    assert_words_and_nothing_changed_below(root, REMOVE, "more than 64 directories deep")
    (root / "srv/data/file").unlink()
    (root / "srv/data/file").symlink_to("d/" * DEEP + "x")
    assert_words_and_nothing_changed_below(root, EDIT, "more than 64 directories deep")


def assert_words_and_nothing_changed_below(root: Path, actions: str, words: str) -> None:
    """As above, without a look at all of the depth."""
    before = [(path, path.lstat().st_mtime_ns) for path in (root, root / "srv", root / "srv/data")]
    assert_refused(run(root, "--recipe", recipe(root, actions)), words)
    assert before == [(path, path.lstat().st_mtime_ns) for path, _ in before]
    assert not (root / "boot/bootgraft").exists()


def test_a_directory_of_too_many_names_is_refused_before_anything_is_written(root: Path) -> None:
    folder = os.open(root / "srv/data", os.O_RDONLY)
    for number in range(MAX_NAMES):
        os.close(os.open(str(number), os.O_CREAT | os.O_WRONLY, dir_fd=folder))
    os.close(folder)
    for actions in (EDIT, CREATE):
        before = (root / "srv/data").stat().st_mtime_ns
        result = run(root, "--recipe", recipe(root, actions))
        assert_refused(result, f"more than {MAX_NAMES} names in one directory")
        assert (root / "srv/data").stat().st_mtime_ns == before
        assert not (root / "boot/bootgraft").exists()
    (root / "srv/data/0").unlink()
    assert_refused(
        run(root, "--recipe", recipe(root, REMOVE)), "more than 4096 names, more than one run"
    )
    assert run(root, "--recipe", recipe(root, EDIT)).returncode == 0
    assert run(root, "--rollback").returncode == 0


# File systems that take nothing


@contextlib.contextmanager
def mounted(kind: str, place: Path, options: str) -> Iterator[None]:
    subprocess.run(["mount", "-t", kind, "-o", options, "none", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


@needs_root
def test_a_read_only_file_system_is_refused_before_anything_is_written(root: Path) -> None:
    subprocess.run(["mount", "--bind", root, root], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", root], check=True)
        assert_words_and_nothing_changed(root, EDIT, f"{root} is mounted read-only")
    finally:
        subprocess.run(["umount", root], check=True)


@needs_root
def test_backups_that_do_not_fit_are_refused_before_anything_is_written(
    root: Path, tmp_path: Path
) -> None:
    (root / "srv/data/file").write_bytes(os.urandom(3 * MIB))
    boot = tmp_path / "boot-s"
    boot.mkdir()
    with mounted("tmpfs", boot, "size=2M"):
        before = snapshot(root), snapshot(boot)
        result = run(root, "--boot", boot, "--recipe", recipe(root, REMOVE))
        assert_refused(result, "KiB free, the recipes need")
        assert (snapshot(root), snapshot(boot)) == before


@needs_root
def test_a_file_system_without_names_left_is_refused_before_anything_is_written(
    root: Path, tmp_path: Path
) -> None:
    boot = tmp_path / "boot-s"
    boot.mkdir()
    with mounted("tmpfs", boot, "size=2M,nr_inodes=4"):
        before = (root / "srv/data/file").lstat().st_ctime_ns, sorted(boot.rglob("*"))
        result = run(root, "--boot", boot, "--recipe", recipe(root, EDIT))
        assert_refused(result, "inodes free, the recipes need")
        assert ((root / "srv/data/file").lstat().st_ctime_ns, sorted(boot.rglob("*"))) == before
