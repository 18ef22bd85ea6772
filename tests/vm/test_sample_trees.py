"""Every sample tree is grafted by tree mode, and the real GRUB boots the grafted menus."""

import hashlib
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from bootgraft_agent import grub
from vm.boots import boot_disk
from vm.payload import good_files, write_files
from vm.trees import SHAPES, SampleTree, build_tree, disk_from_tree

RHEL5_PASSWORD = "$1$rhPlant$"  # noqa: S105
BACKUPS = "bootgraft"  # the folder of backups and manifests, which a rollback may leave behind


@dataclass(frozen=True, slots=True)
class FileState:
    """What a graft, a second one or a rollback must leave alone in a file."""

    mode: int
    owner: tuple[int, int]
    content: str  # a hash, or a link's target


@pytest.fixture(scope="session")
def payload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mounted payload ISO as tree mode is given it."""
    folder = tmp_path_factory.mktemp("payload")
    write_files(folder, good_files())
    return folder


@pytest.mark.parametrize("name", SHAPES)
def test_a_second_graft_changes_nothing(name: str, tmp_path: Path, payload: Path) -> None:
    tree = build_tree(name, tmp_path)
    untouched = read_states(tmp_path)
    run_tree_mode(tree, payload)
    grafted = read_states(tmp_path), read_times(tmp_path)
    assert grafted[0] != untouched
    run_tree_mode(tree, payload)
    assert (read_states(tmp_path), read_times(tmp_path)) == grafted


@pytest.mark.parametrize("name", SHAPES)
def test_a_dry_run_changes_nothing(name: str, tmp_path: Path, payload: Path) -> None:
    tree = build_tree(name, tmp_path)
    untouched = read_states(tmp_path), read_times(tmp_path)
    run_tree_mode(tree, payload, "--dry-run")
    assert (read_states(tmp_path), read_times(tmp_path)) == untouched


@pytest.mark.parametrize("name", SHAPES)
def test_a_rollback_restores_every_byte(name: str, tmp_path: Path, payload: Path) -> None:
    tree = build_tree(name, tmp_path)
    untouched = read_states(tmp_path)
    run_tree_mode(tree, payload)
    run_tree_mode(tree, payload, "--rollback")
    assert without_backups(read_states(tmp_path)) == untouched


@pytest.mark.parametrize("name", SHAPES)
def test_the_new_entry_hands_the_kernel_its_translated_arguments(
    name: str, tmp_path: Path, payload: Path
) -> None:
    tree = build_tree(name, tmp_path)
    old = grub.parse_menu(tree.menu.read_bytes())
    run_tree_mode(tree, payload)
    entry = default_entry(tree)
    assert entry.index == len(old.entries)
    assert [command.name for command in entry.commands] == [
        b"root",
        b"kernel",
        b"module",
        b"module",
    ]
    root, shim, kernel, initrd = (command.argument.decode() for command in entry.commands)
    wanted = tree.shape.kernels[0]
    assert root == tree.grub_root
    assert (tree.boot_folder / Path(shim).name).read_bytes() in good_files().values()
    # A path may go through a link that the distribution has made.
    named, *arguments = kernel.split()
    assert Path(named).name == f"vmlinuz-{wanted.release}"
    assert arguments == tree.shape.arguments.split()
    assert Path(initrd).name == wanted.initrd


def test_the_password_of_a_menu_is_never_shown(tmp_path: Path, payload: Path) -> None:
    tree = build_tree("rhel5", tmp_path)
    assert RHEL5_PASSWORD in tree.menu.read_text()
    for options in (["--dry-run"], ["--json"], ["--json"], ["--rollback"]):
        assert RHEL5_PASSWORD not in run_tree_mode(tree, payload, *options)


@pytest.mark.vm
@pytest.mark.parametrize("name", SHAPES)
def test_the_real_stage2_boots_the_grafted_menu(name: str, tmp_path: Path, payload: Path) -> None:
    """GRUB shows the new entry, boots it by default, and Xen starts the guest's kernel with it."""
    tree = build_tree(name, tmp_path)
    run_tree_mode(tree, payload)
    disk = disk_from_tree(tree, tmp_path / "disk.raw")
    title = default_entry(tree).title.decode()[:60]  # the menu's frame cuts longer ones
    with boot_disk(disk.path, memory_mib=256) as boot:
        if not tree.shape.splash:  # with a picture behind the menu there is no text to read
            boot.wait_for_screen(re.escape(title), timeout=30)
            boot.press("ret")
        line = boot.wait_for_console(r"^TINY-KERNEL .* initrd=.{6}", timeout=60)[0]
    wanted = f"TINY-KERNEL {tree.shape.kernels[0].release} {tree.shape.arguments} initrd=070701"
    assert line.split() == wanted.split()


def run_tree_mode(tree: SampleTree, payload: Path, *options: str) -> str:
    """Run the agent in tree mode, which must succeed; return all that it said."""
    argv = [sys.executable, "-m", "bootgraft_agent", "tree", "--root", str(tree.root)]
    if tree.boot is not None:
        argv += ["--boot", str(tree.boot)]
    if tree.shape.partition != 0:
        argv += ["--grub-root", tree.grub_root]
    argv += ["--payload", str(payload), *options]
    result = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def default_entry(tree: SampleTree) -> grub.Entry:
    menu = grub.parse_menu(tree.menu.read_bytes())
    assert menu.default is not None
    return menu.entries[menu.default]


def read_states(folder: Path) -> dict[str, FileState]:
    return {str(path.relative_to(folder)): _read_state(path) for path in folder.rglob("*")}


def _read_state(path: Path) -> FileState:
    status = path.lstat()
    content = ""
    if path.is_symlink():
        content = str(path.readlink())
    elif path.is_file():
        content = hashlib.sha256(path.read_bytes()).hexdigest()
    return FileState(status.st_mode, (status.st_uid, status.st_gid), content)


def read_times(folder: Path) -> dict[str, tuple[int, int]]:
    """Return each file's inode and time of change, which every write moves."""
    statuses = {str(path): path.lstat() for path in folder.rglob("*")}
    return {path: (each.st_ino, each.st_ctime_ns) for path, each in statuses.items()}


def without_backups(states: dict[str, FileState]) -> dict[str, FileState]:
    return {path: state for path, state in states.items() if BACKUPS not in Path(path).parts}
