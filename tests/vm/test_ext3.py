"""File systems in images: what is written without a mount is what a reader finds."""

import subprocess
from pathlib import Path

import pytest

from vm.appliance import MENU, leave_menu_in_journal
from vm.commands import run
from vm.ext3 import Ext3, make_ext3

OFFSET, SIZE = 63 * 512, 16 << 20


@pytest.fixture
def file_system(tmp_path: Path) -> Ext3:
    tree = tmp_path / "tree"
    (tree / "grub").mkdir(parents=True)
    (tree / "grub/grub.conf").write_text(MENU)
    image = tmp_path / "image"
    with image.open("wb") as empty:
        empty.truncate(OFFSET + SIZE)
    return make_ext3(image, OFFSET, SIZE, tree)


def replay_and_check(file_system: Ext3) -> Ext3:
    """Copy a file system out of its image and let e2fsck replay its journal, where one is due."""
    copy = file_system.image.with_name("copy")
    copy.write_bytes(file_system.image.read_bytes()[file_system.offset :])
    # Status 1: errors corrected, the journal's replay being one of them.
    assert subprocess.run(["/sbin/e2fsck", "-p", copy], check=False).returncode in {0, 1}
    run(["e2fsck", "-f", "-n", copy])
    return Ext3(copy, 0)


def test_a_written_file_is_read_back(file_system: Ext3) -> None:
    file_system.write("/grub/grub.conf", b"default=0\n", 0o600)
    file_system.write("/new", b"\0\xff" * 3000)
    assert file_system.read("/grub/grub.conf") == b"default=0\n"
    assert file_system.read("/new") == b"\0\xff" * 3000
    assert file_system.names("/") == {"grub", "lost+found", "new"}
    assert "Mode:  0600" in file_system.debugfs("stat /grub/grub.conf")
    replay_and_check(file_system)


def test_a_removed_file_is_gone(file_system: Ext3) -> None:
    file_system.remove("/grub/grub.conf")
    assert file_system.names("/grub") == set()
    with pytest.raises(RuntimeError, match="File not found"):
        file_system.read("/grub/grub.conf")


def test_a_menu_in_the_journal_is_there_after_a_replay_alone(file_system: Ext3) -> None:
    changed = leave_menu_in_journal(file_system)
    assert "needs_recovery" in file_system.debugfs("features")
    assert file_system.read("/grub/grub.conf") == MENU.encode()
    replayed = replay_and_check(file_system)
    assert replayed.read("/grub/grub.conf") == changed != MENU.encode()
