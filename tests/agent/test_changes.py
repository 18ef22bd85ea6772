"""Every kind of change, applied and taken back on real trees: cuts and failures at every one."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.faulty_volumes import PowerCutError, Volumes, count_changes, silent
from agent.whole_guest import (
    DRIVER,
    MENU,
    TEXTS,
    change_everything,
    link_text,
    make_guest,
    plan_for,
    run,
    snapshot,
    without_backups,
)
from bootgraft_agent.apply import apply_plan
from bootgraft_agent.errors import RefusedError
from bootgraft_agent.plan import (
    CopyFile,
    CreateFile,
    MakeDirectory,
    MakeLink,
    Move,
    Remove,
    RemoveDirectory,
    WriteFile,
)
from bootgraft_agent.rollback import roll_back
from bootgraft_agent.world import World


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: thousands of flushes are made."""
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="bootgraft-", dir=memory) as folder:
        try:
            os.setxattr(folder, "user.kept", b"1")  # since Linux 6.6
        except OSError:
            yield tmp_path
        else:
            yield Path(folder)


@pytest.fixture
def base(place: Path) -> Path:
    return make_guest(place / "guest")


@pytest.fixture
def alike(place: Path) -> Path:
    """The same guest, with the recipe's work done."""
    base = make_guest(place / "alike")
    run(base)
    return base


# Every change takes a minute and a half in all; some of them are tried each time.
at_every = pytest.mark.parametrize("every", [9, pytest.param(1, marks=pytest.mark.matrix)])


def roll_all_back(base: Path) -> None:
    while roll_back("bootgraft", Volumes(base), None, silent).run_id is not None:
        pass


def test_a_recipe_that_changes_everything_has_every_kind_of_step(base: Path) -> None:
    kinds = {type(step) for step in plan_for(Volumes(base)).steps}
    assert kinds == {
        *(CopyFile, CreateFile, MakeDirectory, MakeLink, Move, Remove, RemoveDirectory, WriteFile)
    }


def test_every_kind_of_change_is_made_and_read_back(base: Path) -> None:
    outcome = run(base)
    etc = base / "root/etc"
    assert (etc / "fstab").read_bytes() == b"/dev/sda2 / ext3 defaults 1 1\n"
    assert (etc / "secret").stat().st_mode & 0o7777 == 0o600
    assert (etc / "secret").stat().st_gid == 42
    assert (etc / "issue").read_bytes() == b"new\n"
    assert (etc / "issue").stat().st_mode & 0o7777 == 0o604
    assert (base / "root/usr/lib/driver").read_bytes() == DRIVER
    assert (base / "root/usr/lib/old-driver").read_bytes() == DRIVER
    assert link_text(etc / "became-link") == "/etc/hosts"
    assert link_text(etc / "mtab") == "../proc/self/mounts"
    assert (etc / "was-link").read_bytes() == b"a file now\n"
    assert not (etc / "was-link").is_symlink()
    assert (etc / "new.d/deep").stat().st_mode & 0o7777 == 0o1700
    assert ((etc / "new.d/deep").stat().st_uid, (etc / "new.d/deep").stat().st_gid) == (5, 6)
    assert (etc / "new.d/new-name").read_bytes() == b"renamed\n"
    assert (etc / "new.d/new-name").stat().st_mtime_ns < 1_300_000_000_000_000_000
    for gone in ("rules", "old-link", "old.d", "empty.d", "old-name"):
        assert not os.path.lexists(etc / gone)
    assert link_text(etc / "state") == "/var/lib/state"
    assert (base / "var/lib/state").read_bytes() == b"through a link\n"
    assert not (base / "var/cache/big").exists()
    assert b"console=ttyS0" in (base / "boot/grub/grub.conf").read_bytes()
    assert link_text(base / "boot/grub/menu.lst") == "./grub.conf"
    assert "hda2:/etc/rules is gone" in outcome.verified
    assert "hda2:/etc/alias is a link to fstab" in outcome.verified
    changed = {each.target for each in outcome.changes}
    assert len(changed) == len(outcome.changes) == len(outcome.verified)


def test_the_boot_loaders_menu_is_switched_alone_after_everything_else(base: Path) -> None:
    volumes = Volumes(base)
    run(base, volumes)
    assert [where for where, _ in volumes.openings] == ["boot", "root", "var", "boot"]
    steps = plan_for(Volumes(make_guest(base.parent / "other"))).steps
    assert str(steps[-1]).count("grub/grub.conf")


def test_a_rollback_brings_everything_back_with_owners_modes_attributes_and_times(
    base: Path,
) -> None:
    before = snapshot(base)
    done = run(base)
    assert snapshot(base) != before
    outcome = roll_back("bootgraft", Volumes(base), None, silent)
    assert snapshot(base) == before
    assert {each.target for each in outcome.changes} == {each.target for each in done.changes}


def test_a_finished_recipe_gives_no_steps_and_writes_nothing(base: Path) -> None:
    run(base)
    volumes = Volumes(base)
    before = snapshot(base)
    assert plan_for(volumes).is_done
    assert run(base, volumes, "run-2").changes == ()
    assert volumes.openings == []
    assert snapshot(base) == before


def test_a_recipe_whose_actions_do_not_repeat_is_finished_after_its_first_run(base: Path) -> None:
    """Adding a line each time it is evaluated, it finds the guest as it was before its run."""

    def append(world: World) -> None:
        world.write("/etc/hosts", world.read("/etc/hosts") + b"again\n", "one more")

    first = plan_for(Volumes(base), append)
    apply_plan(first, Volumes(base), "run-1", silent)
    assert plan_for(Volumes(base), append).is_done
    assert not plan_for(Volumes(base), append, "another:0123456789ab").is_done


@at_every
def test_a_failure_at_any_change_is_taken_back_whole(base: Path, every: int) -> None:
    before = snapshot(base)
    total = count_changes(base, lambda volumes: run(base, volumes))
    roll_all_back(base)
    assert total > 70
    for at in range(total, 0, -every):
        with pytest.raises(RefusedError, match="taken back whole: No space left"):
            run(base, Volumes(base, OSError(28, "No space left on device"), at))
        assert snapshot(base) == before, f"change {at} of {total}"


@at_every
def test_after_a_power_cut_at_any_change_each_path_is_old_or_new_and_a_second_run_finishes(
    base: Path, alike: Path, every: int
) -> None:
    old = snapshot(base)
    new = without_backups(snapshot(alike, with_times=False))
    total = count_changes(base, lambda volumes: run(base, volumes))
    roll_all_back(base)
    for at in range(total, 0, -every):
        with pytest.raises(PowerCutError):
            run(base, Volumes(base, PowerCutError(), at))
        assert_old_or_new(base, without_times(old), new)
        run(base, run_id="run-2")
        assert without_backups(snapshot(base, with_times=False)) == new, f"change {at} of {total}"
        assert plan_for(Volumes(base)).is_done
        roll_all_back(base)
        assert snapshot(base) == old, f"change {at} of {total}"


@at_every
def test_after_a_power_cut_at_any_change_a_rollback_brings_everything_back(
    base: Path, every: int
) -> None:
    old = snapshot(base)
    total = count_changes(base, lambda volumes: run(base, volumes))
    roll_all_back(base)
    for at in range(total, 0, -every):
        with pytest.raises(PowerCutError):
            run(base, Volumes(base, PowerCutError(), at))
        roll_all_back(base)
        roll_all_back(base)
        assert snapshot(base) == old, f"change {at} of {total}"


@at_every
def test_after_a_power_cut_in_a_rollback_each_path_is_old_or_new_and_a_second_one_finishes(
    base: Path, alike: Path, every: int
) -> None:
    old = snapshot(base)
    new = without_backups(snapshot(alike, with_times=False))
    run(base)
    total = count_changes(base, lambda volumes: roll_back("bootgraft", volumes, None, silent))
    for at in range(total, 0, -every):
        run(base)
        with pytest.raises(PowerCutError):
            roll_back("bootgraft", Volumes(base, PowerCutError(), at), None, silent)
        assert_old_or_new(base, without_times(old), new)
        roll_all_back(base)
        assert without_backups(snapshot(base)) == old, f"change {at} of {total}"


@at_every
def test_a_run_after_a_rollback_that_was_cut_off_leaves_nothing_unfinished(
    base: Path, alike: Path, every: int
) -> None:
    new = without_backups(snapshot(alike, with_times=False))
    run(base)
    total = count_changes(base, lambda volumes: roll_back("bootgraft", volumes, None, silent))
    for at in range(total, 0, -every):
        run(base, run_id=f"first-{at}")
        with pytest.raises(PowerCutError):
            roll_back("bootgraft", Volumes(base, PowerCutError(), at), None, silent)
        if plan_for(Volumes(base)).is_done:
            continue  # the rollback had not begun
        run(base, run_id=f"second-{at}")
        assert without_backups(snapshot(base, with_times=False)) == new, f"change {at} of {total}"
        roll_all_back(base)


def without_times(found: dict[str, tuple[object, ...]]) -> dict[str, tuple[object, ...]]:
    return {path: (*each[:-1], 0) for path, each in found.items()}


def assert_old_or_new(
    base: Path, old: dict[str, tuple[object, ...]], new: dict[str, tuple[object, ...]]
) -> None:
    """Every path is as before or as after; nothing else is there but our unfinished files."""
    found = without_backups(snapshot(base, with_times=False))
    for path in old.keys() | new.keys() | found.keys():
        if "/.bootgraft-" not in path:
            assert found.get(path) in (old.get(path), new.get(path)), path


@pytest.mark.parametrize(
    "path",
    [
        *("root/etc/fstab", "root/etc/rules", "root/etc/old-name", "root/etc/issue"),
        *("root/etc/old.d/two", "var/cache/big", "boot/grub/grub.conf", "root/etc/became-link"),
    ],
)
def test_a_file_that_changed_since_the_plan_ends_the_run_undone(base: Path, path: str) -> None:
    plan = plan_for(Volumes(base))
    (base / path).write_bytes(b"changed in between")
    before = snapshot(base)
    with pytest.raises(RefusedError, match="has changed since the plan was made"):
        apply_plan(plan, Volumes(base), "run-1", silent)
    assert snapshot(base) == before


@pytest.mark.parametrize("path", ["root/etc/secret", "root/etc/private", "root/etc/rules"])
def test_attributes_that_changed_since_the_plan_end_the_run_undone(base: Path, path: str) -> None:
    plan = plan_for(Volumes(base))
    if path.endswith("secret"):
        (base / path).write_bytes(b"edited\n")
    (base / path).chmod(0o511)
    before = snapshot(base)
    with pytest.raises(RefusedError, match="has changed since the plan was made"):
        apply_plan(plan, Volumes(base), "run-1", silent)
    assert snapshot(base) == before


@pytest.mark.parametrize(
    "path", ["root/etc/new.conf", "root/etc/new.d", "root/etc/alias", "boot/driver"]
)
def test_what_appeared_since_the_plan_ends_the_run_undone(base: Path, path: str) -> None:
    plan = plan_for(Volumes(base))
    (base / path).write_bytes(b"somebody else's")
    before = snapshot(base)
    with pytest.raises(RefusedError, match="has appeared since the plan was made"):
        apply_plan(plan, Volumes(base), "run-1", silent)
    assert snapshot(base) == before


def test_a_directory_that_became_a_link_since_the_plan_ends_the_run_undone(base: Path) -> None:
    plan = plan_for(Volumes(base))
    (base / "root/usr/lib").rename(base / "root/usr/elsewhere")
    (base / "root/usr/lib").symlink_to("elsewhere")
    before = snapshot(base)
    with pytest.raises(RefusedError, match="usr/lib is or goes through a link"):
        apply_plan(plan, Volumes(base), "run-1", silent)
    assert snapshot(base) == before


@pytest.mark.parametrize(
    "path",
    [
        *("root/etc/fstab", "root/etc/new.conf", "root/etc/new.d/new-name", "root/etc/issue"),
        *("var/lib/state", "boot/grub/grub.conf", "boot/driver"),
    ],
)
def test_a_rollback_refuses_to_lose_what_somebody_changed_since(base: Path, path: str) -> None:
    run(base)
    (base / path).write_bytes(b"edited by the administrator")
    before = snapshot(base)
    with pytest.raises(RefusedError, match="has been changed since run run-1"):
        roll_back("bootgraft", Volumes(base), None, silent)
    assert snapshot(base) == before


def test_a_rollback_refuses_to_replace_what_came_where_something_was_removed(base: Path) -> None:
    run(base)
    (base / "root/etc/rules").write_bytes(b"new ones")
    before = snapshot(base)
    with pytest.raises(RefusedError, match="etc/rules has been changed since run run-1"):
        roll_back("bootgraft", Volumes(base), None, silent)
    assert snapshot(base) == before


def test_a_rollback_refuses_to_remove_a_directory_that_holds_files_of_the_guest(
    base: Path,
) -> None:
    run(base)
    (base / "root/etc/new.d/of-the-guest").write_bytes(b"kept")
    before = snapshot(base)
    with pytest.raises(RefusedError, match=r"etc/new\.d was made by the run, and now holds 'of-"):
        roll_back("bootgraft", Volumes(base), None, silent)
    assert snapshot(base) == before


def test_a_mode_that_the_administrator_changed_since_does_not_stop_a_rollback(base: Path) -> None:
    before = snapshot(base)
    run(base)
    (base / "root/etc/fstab").chmod(0o600)
    (base / "root/etc/new.d").chmod(0o700)
    roll_back("bootgraft", Volumes(base), None, silent)
    assert snapshot(base) == before


def test_a_damaged_backup_is_found_before_anything_is_restored(base: Path) -> None:
    run(base)
    backups = sorted((base / "boot/bootgraft/run-1").glob("[0-9]*"))
    kept = next(each for each in backups if each.read_bytes() == TEXTS["root/etc/rules"])
    kept.write_bytes(b"damaged")
    before = snapshot(base)
    with pytest.raises(RefusedError, match=r"the backup of /etc/rules, is missing or damaged"):
        roll_back("bootgraft", Volumes(base), None, silent)
    assert snapshot(base) == before


def test_two_recipes_are_rolled_back_one_after_the_other(base: Path) -> None:
    def greet(world: World) -> None:
        world.write("/etc/issue", b"hello\n", "a greeting")

    states = [without_backups(snapshot(base))]
    apply_plan(plan_for(Volumes(base), greet, "greet:1"), Volumes(base), "run-1", silent)
    states.append(without_backups(snapshot(base)))
    apply_plan(plan_for(Volumes(base), change_everything), Volumes(base), "run-2", silent)
    for expected in reversed(states):
        roll_back("bootgraft", Volumes(base), None, silent)
        assert without_backups(snapshot(base)) == expected


def test_what_a_recipe_gains_is_rolled_back_with_its_earlier_run(base: Path) -> None:
    """A new interface, a new kernel: the same recipe has more to do than when it ran."""
    before = snapshot(base)

    def one(world: World) -> None:
        world.write("/etc/one", b"1\n", "the first")

    def two(world: World) -> None:
        one(world)
        world.write("/etc/two", b"2\n", "the second")

    apply_plan(plan_for(Volumes(base), one), Volumes(base), "run-1", silent)
    plan = plan_for(Volumes(base), two)
    assert [step.describe().partition(" (")[0] for step in plan.steps] == ["create hda2:/etc/two"]
    apply_plan(plan, Volumes(base), "run-2", silent)
    roll_back("bootgraft", Volumes(base), None, silent)
    assert snapshot(base) == before


def test_the_old_menu_is_there_until_the_last_change(base: Path) -> None:
    total = count_changes(base, lambda volumes: run(base, volumes))
    roll_all_back(base)
    with pytest.raises(PowerCutError):
        run(base, Volumes(base, PowerCutError(), total))
    assert (base / "boot/grub/grub.conf").read_bytes() == MENU
    assert not (base / "root/etc/rules").exists()
