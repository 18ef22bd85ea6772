"""Guests whose /boot is a directory of the root file system, or who have none."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.faulty_volumes import PowerCutError, Volumes, silent
from agent.whole_guest import make_guest, plan_for, snapshot
from bootgraft_agent.apply import apply_plan
from bootgraft_agent.files import Tree, WritableTree
from bootgraft_agent.plan import Plan, Where
from bootgraft_agent.rollback import roll_back
from bootgraft_agent.states import Attributes
from bootgraft_agent.world import World


class OneVolume(Volumes):
    """The root file system is the volume of /boot, too."""

    boot_prefix = "boot/"

    @property
    def mounts(self) -> tuple[tuple[str, Where], ...]:
        return (("", "root"), ("boot", "boot"), ("var", "var"))

    def read(self, where: Where) -> Tree:
        return super().read("root" if where == "boot" else where)

    @contextmanager
    def write(self, where: Where) -> Iterator[WritableTree]:
        with super().write("root" if where == "boot" else where) as tree:
            yield tree


class WithoutBoot(OneVolume):
    """The guest has no directory /boot at all."""

    boot_prefix = ""

    @property
    def mounts(self) -> tuple[tuple[str, Where], ...]:
        return (("", "root"), ("var", "var"))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@pytest.fixture(params=[OneVolume, WithoutBoot])
def guest(request: pytest.FixtureRequest) -> type[OneVolume]:
    kind: type[OneVolume] = request.param
    return kind


@pytest.fixture
def base(tmp_path: Path, guest: type[OneVolume]) -> Path:
    base = make_guest(tmp_path)
    (base / "root/boot").rmdir()
    if guest is OneVolume:
        (base / "boot").rename(base / "root/boot")
    return base


def change(world: World) -> None:
    world.write("/etc/fstab", b"new\n", "test")
    world.remove("/etc/rules", "test")
    world.remove("/usr/lib/old-driver", "test")
    world.remove("/var/cache/big", "test")
    world.make_directory("/etc/new.d", Attributes(0o750, 1, 2), "test")
    world.rename("/etc/old-name", "/etc/new.d/new-name", "test")
    if world.is_file("/boot/grub/menu.lst"):
        world.write("/boot/grub/menu.lst", b"default 0\ntitle new\n\tkernel /vmlinuz\n", "test")


def planned(base: Path, guest: type[OneVolume]) -> Plan:
    return plan_for(guest(base), change)


def apply(base: Path, guest: type[OneVolume], volumes: Volumes | None = None) -> None:
    apply_plan(planned(base, guest), volumes or guest(base), "run", silent)


def backups(guest: type[OneVolume]) -> str:
    return f"{guest.boot_prefix}bootgraft"


def test_a_recipe_is_done_once_and_rolled_back_byte_for_byte(
    base: Path, guest: type[OneVolume]
) -> None:
    before = snapshot(base)
    apply(base, guest)
    assert (base / "root" / backups(guest) / "run/manifest.json").is_file()
    assert not (base / "root/etc/rules").exists()
    assert planned(base, guest).is_done
    roll_back(backups(guest), guest(base), None, silent)
    assert snapshot(base) == before


@pytest.mark.parametrize("guest", [OneVolume], indirect=True)
def test_backups_on_the_same_file_system_are_second_names(base: Path) -> None:
    inode = (base / "root/usr/lib/old-driver").stat().st_ino
    apply(base, OneVolume)
    kept = (base / "root/boot/bootgraft/run").iterdir()
    assert inode in {path.stat().st_ino for path in kept}


def test_after_a_power_cut_anywhere_a_second_run_finishes_and_is_rolled_back(
    base: Path, guest: type[OneVolume]
) -> None:
    before = snapshot(base)
    plan = planned(base, guest)

    def work(volumes: Volumes) -> None:
        apply_plan(plan, volumes, "run", silent)

    counting = guest(base)
    work(counting)
    roll_back(backups(guest), guest(base), None, silent)
    for at in range(1, counting.changes + 1):
        with pytest.raises(PowerCutError):
            apply(base, guest, guest(base, PowerCutError(), at))
        apply_plan(planned(base, guest), guest(base), "again", silent)
        assert planned(base, guest).is_done
        while roll_back(backups(guest), guest(base), None, silent).run_id is not None:
            pass
        assert snapshot(base) == before, f"change {at}"
