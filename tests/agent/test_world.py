"""The guest's whole tree: links across its mounts and never out of it, changes read back."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.faulty_volumes import Volumes
from agent.whole_guest import driver, make_guest, snapshot
from bootgraft_agent.errors import RefusedError
from bootgraft_agent.guest import MAX_TEXT
from bootgraft_agent.plan import MakeDirectory, Move, WriteFile
from bootgraft_agent.states import Attributes
from bootgraft_agent.world import World, open_world


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("outside of the guest")
    return make_guest(tmp_path)


@pytest.fixture
def world(base: Path) -> Iterator[World]:
    before = snapshot(base)
    with open_world(Volumes(base), "test:0") as opened:
        yield opened
    assert snapshot(base) == before, "a World never writes"


def steps(world: World) -> list[str]:
    return [step.describe() for step in world.steps()]


# Links and mounts


@pytest.mark.parametrize(
    ("link", "text", "resolved"),
    [
        ("root/etc/a", "/var/lib/state", "/var/lib/state"),
        ("root/etc/a", "../var/../var/lib/state", "/var/lib/state"),
        ("var/lib/a", "/etc/fstab", "/etc/fstab"),
        ("var/lib/a", "../../etc/fstab", "/etc/fstab"),
        ("boot/a", "../../../../../etc/fstab", "/etc/fstab"),
        ("root/a", "boot/grub", "/boot/grub"),
    ],
)
def test_links_lead_across_the_guests_mounts_and_never_above_its_root(
    base: Path, link: str, text: str, resolved: str
) -> None:
    (base / link).symlink_to(text)
    with open_world(Volumes(base), "test:0") as world:
        mount = link.partition("/")[0]
        path = f"/{link.partition('/')[2]}" if mount == "root" else f"/{link}"
        assert world.kind(path) == "link"
        assert world.resolve(path) == resolved


@pytest.mark.parametrize("text", ["../../secret", "/../secret", "../../../../secret"])
def test_no_link_reads_or_changes_what_lies_outside(base: Path, text: str) -> None:
    (base / "root/etc/out").symlink_to(text)
    with open_world(Volumes(base), "test:0") as world:
        assert not world.exists("/etc/out")
        with pytest.raises(RefusedError, match="No such file"):
            world.read("/etc/out")
        with pytest.raises(RefusedError, match=r"/etc/out is a link that leads to nothing"):
            world.write("/etc/out", b"changed", "test")


def test_a_link_to_a_path_of_this_system_stays_in_the_guest(base: Path) -> None:
    (base / "root/etc/out").symlink_to(base / "secret")
    with open_world(Volumes(base), "test:0") as world:
        assert not world.exists("/etc/out")


def test_a_loop_of_links_is_an_error_and_no_hang(base: Path) -> None:
    (base / "root/etc/a").symlink_to("/var/b")
    (base / "var/b").symlink_to("/etc/a")
    with open_world(Volumes(base), "test:0") as world:
        with pytest.raises(RefusedError, match="Too many levels"):
            world.read("/etc/a")
        with pytest.raises(RefusedError, match="link that leads to nothing"):
            world.write("/etc/a", b"", "test")


@pytest.mark.parametrize("path", ["etc/fstab", "", "etc", "/etc/a\0b"])
def test_paths_are_absolute(world: World, path: str) -> None:
    with pytest.raises(RefusedError, match="no absolute path"):
        world.kind(path)
    with pytest.raises(RefusedError, match="no absolute path"):
        world.write(path, b"", "test")


def test_a_path_of_a_mount_goes_to_its_volume(world: World) -> None:
    assert str(world.target("/var/lib/state")) == "hda3:/lib/state"
    assert str(world.target("/boot/grub/grub.conf")) == "hda1:/grub/grub.conf"
    assert str(world.target("/etc/fstab")) == "hda2:/etc/fstab"


def test_a_file_system_that_is_not_there_is_not_written_below_its_mount_point(base: Path) -> None:
    class Other(Volumes):
        absent = (("etc/private", "it is on a disk that is not here"),)

    with open_world(Other(base), "test:0") as world:
        with pytest.raises(RefusedError, match="on a disk that is not here"):
            world.write("/etc/private/new", b"", "test")
        with pytest.raises(RefusedError, match="on a disk that is not here"):
            world.exists("/etc/private/x")


# What has been changed is read


def test_changes_are_seen_by_what_comes_after_them(world: World) -> None:
    world.write("/etc/fstab", b"new\n", "test")
    assert world.read("/etc/fstab") == b"new\n"
    assert world.original.read("/etc/fstab") == b"/dev/xvda2 / ext3 defaults 1 1\n"
    world.make_directory("/etc/made", None, "test")
    world.write("/etc/made/file", b"1", "test")
    world.link("/etc/to-made", "made", "test")
    assert world.read("/etc/to-made/file") == b"1"
    assert world.names("/etc/to-made") == ["file"]
    world.remove("/etc/old.d", "test")
    assert world.kind("/etc/old.d/two") is None
    assert "old.d" not in world.names("/etc")
    assert world.original.names("/etc/old.d") == ["deep", "two"]
    world.rename("/etc/old-name", "/etc/made/renamed", "test")
    assert world.kind("/etc/old-name") is None
    assert world.read("/etc/made/renamed") == b"renamed\n"


def test_a_directory_made_anew_has_nothing_of_the_old_one(world: World) -> None:
    world.remove("/etc/old.d", "test")
    world.make_directory("/etc/old.d", None, "test")
    assert world.names("/etc/old.d") == []
    assert world.kind("/etc/old.d/two") is None
    world.write("/etc/old.d/two", b"2\n", "test")
    assert steps(world) == [
        "remove hda2:/etc/old.d/deep/one: test",
        "remove directory hda2:/etc/old.d/deep: test",
    ]


def test_a_change_and_its_contrary_are_no_step(world: World) -> None:
    world.rename("/etc/rules", "/etc/other", "test")
    world.rename("/etc/other", "/etc/rules", "test")
    world.write("/etc/new", b"new", "test")
    world.remove("/etc/new", "test")
    world.write("/etc/hosts", b"x", "test")
    world.write("/etc/hosts", b"127.0.0.1 localhost\r\nno newline", "test")
    assert steps(world) == []


def test_several_edits_of_a_file_are_one_step_with_all_reasons(world: World) -> None:
    world.write("/etc/hosts", b"one", "first")
    world.write("/etc/hosts", b"two", "second")
    world.write("/etc/hosts", b"three", "second")
    (step,) = world.steps()
    assert isinstance(step, WriteFile)
    assert step.after == b"three"
    assert step.describe() == "edit hda2:/etc/hosts: first; second"


def test_a_file_that_is_renamed_and_edited_is_written_anew(world: World) -> None:
    world.rename("/etc/old-name", "/etc/renamed", "test")
    assert isinstance(world.steps()[0], Move)
    world.write("/etc/renamed", b"edited", "test")
    assert steps(world) == [
        "create hda2:/etc/renamed (6 bytes), mode 0644, owner 0:0: test",
        "remove hda2:/etc/old-name: test",
    ]


# What something new gets


def test_something_new_is_like_its_neighbours(base: Path) -> None:
    keys = base / "root/etc/keys"
    keys.mkdir()
    for name in ("a", "b"):
        (keys / name).write_text(name)
        (keys / name).chmod(0o640)
        os.chown(keys / name, 5, 6)
        os.setxattr(keys / name, "security.selinux", b"label\0")
        os.setxattr(keys / name, "user.other", b"its own")
    (keys / "c").write_text("c")
    with open_world(Volumes(base), "test:0") as world:
        label = (("security.selinux", b"label\0".hex()),)
        assert world.new_attributes("/etc/keys/new", "file") == Attributes(0o640, 5, 6, label)


@pytest.mark.parametrize(
    ("above", "file", "directory"), [(0o755, 0o644, 0o755), (0o700, 0o600, 0o700)]
)
def test_something_new_without_neighbours_is_its_directorys(
    base: Path, above: int, file: int, directory: int
) -> None:
    place = base / "root/etc/empty.d"
    place.chmod(above)
    os.chown(place, 7, 8)
    with open_world(Volumes(base), "test:0") as world:
        assert world.new_attributes("/etc/empty.d/x", "file") == Attributes(file, 7, 8)
        assert world.new_attributes("/etc/empty.d/x", "directory") == Attributes(directory, 7, 8)


def test_nothing_new_is_set_user_id_like_its_neighbour(base: Path) -> None:
    place = base / "root/etc/empty.d/su"
    place.write_text("su")
    place.chmod(0o4755)
    with open_world(Volumes(base), "test:0") as world:
        assert world.new_attributes("/etc/empty.d/x", "file").mode == 0o755


# Refusals


def test_what_cannot_be_changed_is_refused_with_its_path_and_what_to_do(
    base: Path, world: World
) -> None:
    os.mkfifo(base / "root/etc/fifo")
    try:
        refusals: dict[str, Callable[[], None]] = {
            "directory does not exist; have": lambda: world.write("/etc/none/x", b"", "test"),
            "/etc is a directory, not a regular": lambda: world.write("/etc", b"", "test"),
            "device, FIFO or socket, not": lambda: world.write("/etc/fifo", b"", "test"),
            "no recipe can bring back": lambda: world.remove("/etc/fifo", "test"),
            "at most 131072 may be": lambda: world.write("/x", bytes(MAX_TEXT + 1), "test"),
            "another file than files/driver": lambda: world.copy(
                "/etc/issue", driver(), None, replace=False, reason="test"
            ),
            "/etc/hosts is a file already": lambda: world.link("/etc/hosts", "a", "test"),
            "/etc is a directory already": lambda: world.link("/etc", "a", "test", replace=True),
            "where a directory is to be made": lambda: world.make_directory(
                "/etc/hosts", None, "test"
            ),
            "/var is where a file system is mounted": lambda: world.remove("/var", "test"),
            "/ is where a file system is mounted": lambda: world.remove("/", "test"),
            "is not there to be renamed": lambda: world.rename("/none", "/other", "test"),
            "only files and links": lambda: world.rename("/etc/old.d", "/etc/new.d", "test"),
            "/etc/issue is there already": lambda: world.rename("/etc/hosts", "/etc/issue", "test"),
            "in different file systems": lambda: world.rename("/etc/hosts", "/var/x", "test"),
            "keeps its backups": lambda: world.write("/boot/bootgraft/x", b"", "test"),
            "name that bootgraft needs": lambda: world.write("/etc/.bootgraft-1", b"", "test"),
            "too long for a path": lambda: world.write("/etc/" + "x" * 256, b"", "test"),
        }
        (base / "boot/bootgraft").mkdir()
        for words, change in refusals.items():
            with pytest.raises(RefusedError, match=words):
                change()
    finally:
        (base / "boot/bootgraft").rmdir()
        (base / "root/etc/fifo").unlink()
    assert steps(world) == []


def test_a_directory_above_a_mount_is_not_removed(base: Path) -> None:
    class Deeper(Volumes):
        @property
        def mounts(self) -> tuple[tuple[str, str], ...]:
            return (("", "root"), ("etc/old.d/deep", "var"))

    with (
        open_world(Deeper(base), "test:0") as world,
        pytest.raises(RefusedError, match=r"/etc/old\.d/deep is where a file system"),
    ):
        world.remove("/etc/old.d", "test")


def test_more_changes_than_a_run_may_make_are_refused(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bootgraft_agent.world.MAX_STEPS", 3)
    with open_world(Volumes(base), "test:0") as world:
        for number in range(3):
            world.write(f"/etc/{number}", b"", "test")
        with pytest.raises(RefusedError, match="more than 3 paths would change; split"):
            world.write("/etc/3", b"", "test")


def test_a_file_does_not_become_a_directory_in_one_run(world: World) -> None:
    world.remove("/etc/rules", "test")
    world.make_directory("/etc/rules", None, "test")
    with pytest.raises(RefusedError, match="cannot become a directory in one run"):
        world.steps()


def test_a_directory_that_is_there_gets_given_attributes_alone(world: World) -> None:
    world.make_directory("/etc/private", None, "test")
    assert steps(world) == []
    world.make_directory("/etc/private", Attributes(0o711, 1, 2), "test")
    (step,) = world.steps()
    assert isinstance(step, MakeDirectory)
    assert step.describe() == (
        "set the attributes of directory hda2:/etc/private, mode 0711, owner 1:2: test"
    )
