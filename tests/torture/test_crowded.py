"""A graft or a rollback that would make a directory of GRUB's grow is refused before it begins."""

import os
from pathlib import Path

import pytest

from bootgraft_agent import tree
from bootgraft_agent.errors import RefusedError
from bootgraft_agent.plan import Options
from bootgraft_agent.tree import Trees
from torture.again import write_payload
from torture.crowded import Crowd, fill
from torture.hostile_disk import describe_files
from torture.recording import mounted_volumes
from torture.small_appliance import OFFSETS, build_small_appliance
from vm.ext3 import Ext3

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts file systems")


@pytest.mark.parametrize(("directory", "names"), [("/", 29), ("/grub", 30)])
def test_a_plan_is_refused_where_a_directory_of_grubs_would_grow(
    directory: str, names: int, tmp_path: Path
) -> None:
    disk = build_small_appliance(tmp_path)
    fill(Ext3(disk.path, OFFSETS[0]), Crowd(directory, names, has_index=True))
    payload = write_payload(tmp_path / "payload")
    with mounted_volumes(disk.path) as (boot, root):
        trees = Trees(root, boot, payload)
        before = describe(boot, root)
        with pytest.raises(RefusedError, match=f"{boot}:{directory} has no room for"):
            tree.make_plan(trees, None, Options())
        assert describe(boot, root) == before


def test_a_graft_is_refused_where_the_room_went_after_the_plan_was_made(tmp_path: Path) -> None:
    disk = build_small_appliance(tmp_path)
    payload = write_payload(tmp_path / "payload")
    with mounted_volumes(disk.path) as (boot, root):
        trees = Trees(root, boot, payload)
        plan = tree.make_plan(trees, None, Options())
        for number in range(29):
            (boot / f"old-kernel-{number:09d}").touch()
        before = describe(boot, root)
        with pytest.raises(RefusedError, match=f"{boot}:/ has no room for"):
            tree.graft(trees, plan, lambda *_: None)
        assert describe(boot, root) == before


def test_what_a_run_that_was_cut_off_left_is_removed_before_the_room_is_counted(
    tmp_path: Path,
) -> None:
    disk = build_small_appliance(tmp_path)
    fill(Ext3(disk.path, OFFSETS[0]), Crowd("/", 25, has_index=True))
    payload = write_payload(tmp_path / "payload")
    with mounted_volumes(disk.path) as (boot, root):
        for number in range(4):  # as many as the test above has too many, each as long
            (boot / f".bootgraft-{number:08x}").touch()
        trees = Trees(root, boot, payload)
        assert tree.graft(trees, tree.make_plan(trees, None, Options()), lambda *_: None).changes
        assert not list(boot.glob(".bootgraft-*"))
        assert boot.stat().st_size == 1024


def describe(boot: Path, root: Path) -> tuple[dict[str, str], dict[str, str], list[int]]:
    sizes = [place.stat().st_size for place in (boot, boot / "grub")]
    return describe_files(boot), describe_files(root), sizes


def test_a_rollback_is_refused_where_the_menus_directory_would_grow(tmp_path: Path) -> None:
    disk = build_small_appliance(tmp_path)
    payload = write_payload(tmp_path / "payload")
    with mounted_volumes(disk.path) as (boot, root):
        trees = Trees(root, boot, payload)
        tree.graft(trees, tree.make_plan(trees, None, Options()), lambda *_: None)
        for number in range(30):
            (boot / f"grub/old-kernel-{number:09d}").touch()
        before = describe(boot, root)
        with pytest.raises(RefusedError, match="has no room for 2 more names"):
            tree.undo(trees, None, lambda *_: None)
        assert describe(boot, root) == before
        (boot / "grub/old-kernel-000000029").unlink()
        assert tree.undo(trees, None, lambda *_: None).changes
        assert (boot / "grub").stat().st_size == before[2][1] == 1024
