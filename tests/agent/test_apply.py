"""Apply and rollback on real trees: failures and power cuts at every single write."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.faulty_volumes import PowerCutError, Volumes, count_changes, silent
from bootgraft_agent import grub
from bootgraft_agent.apply import apply_plan, keep_result
from bootgraft_agent.errors import ChangesLeftError, RefusedError
from bootgraft_agent.files import WritableTree
from bootgraft_agent.plan import BootCheck, CopyFile, Plan, Step, Target, Where, WriteFile, sha256
from bootgraft_agent.rollback import roll_back
from bootgraft_agent.volumes import Outcome

OLD_MENU = b"default 0\ntitle old\n\troot (hd0,0)\n\tkernel /vmlinuz\n"
NEW_MENU = b"default 1\n" + OLD_MENU.partition(b"\n")[2] + b"title new\n\tkernel /shim\n"
SHIM = bytes(range(256)) * 3000
MENU = Target("boot", "hda1", "grub/grub.conf")
FSTAB = Target("root", "hda2", "etc/fstab")
MAP = Target("boot", "hda1", "grub/device.map")
COPY = CopyFile(Target("boot", "hda1", "shim"), "shim/shim", len(SHIM), sha256(SHIM))
STEPS: tuple[Step, ...] = (
    COPY,
    WriteFile(MAP, b"(hd0) /dev/xvda\n", b"(hd0) /dev/hda\n", "its new name"),
    WriteFile(FSTAB, b"/dev/xvda2 / ext3\n", b"/dev/hda2 / ext3\n", "its new name"),
    WriteFile(MENU, OLD_MENU, NEW_MENU, "the new entry"),
)
PLAN = Plan("test", STEPS, BootCheck(MENU, 1, (COPY.target,)), "bootgraft", ())


@pytest.fixture
def base(tmp_path: Path) -> Path:
    for path, content in {
        "boot/grub/grub.conf": OLD_MENU,
        "boot/grub/device.map": b"(hd0) /dev/xvda\n",
        "boot/vmlinuz": b"kernel",
        "root/etc/fstab": b"/dev/xvda2 / ext3\n",
        "payload/shim/shim": SHIM,
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    (tmp_path / "boot/grub/menu.lst").symlink_to("./grub.conf")
    (tmp_path / "boot/grub/grub.conf").chmod(0o600)
    return tmp_path


def state(base: Path) -> dict[str, tuple[str, int, int]]:
    """Everything of the guest that a rollback must bring back: content, mode, time."""
    found = {}
    for path in sorted(p for where in ("boot", "root") for p in (base / where).rglob("*")):
        status = path.lstat()
        if path.is_symlink():
            content = str(path.readlink())
        else:
            content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "dir"
        time = status.st_mtime_ns if path.is_file() else 0
        found[str(path.relative_to(base))] = (content, status.st_mode, time)
    return found


def graft(base: Path, volumes: Volumes | None = None, run_id: str = "run-1") -> Outcome:
    return apply_plan(remaining(base), volumes or Volumes(base), run_id, silent)


def remaining(base: Path) -> Plan:
    """The plan for what is not done yet, as a recipe would make it."""
    steps = []
    for step in STEPS:
        assert isinstance(step, CopyFile | WriteFile)
        path = base / step.target.where / step.target.path
        wanted = step.sha256 if isinstance(step, CopyFile) else sha256(step.after)
        if not path.exists() or sha256(path.read_bytes()) != wanted:
            steps.append(step)
    return Plan(PLAN.recipe, tuple(steps), PLAN.check, PLAN.backups, ())


def assert_boots(base: Path) -> None:
    """GRUB finds the old menu or the new one, and every file that it names is complete."""
    menu = (base / "boot/grub/grub.conf").read_bytes()
    assert menu in (OLD_MENU, NEW_MENU)
    if menu == NEW_MENU:
        assert (base / "boot/shim").read_bytes() == SHIM
    assert (base / "root/etc/fstab").read_bytes() in (b"/dev/xvda2 / ext3\n", b"/dev/hda2 / ext3\n")


def test_a_graft_changes_what_it_says_and_verifies_it(base: Path) -> None:
    outcome = graft(base)
    assert (base / "boot/grub/menu.lst").read_bytes() == NEW_MENU
    assert (base / "boot/grub/grub.conf").stat().st_mode & 0o777 == 0o600
    assert [change.target for change in outcome.changes] == [
        "hda1:/shim",
        "hda1:/grub/device.map",
        "hda2:/etc/fstab",
        "hda1:/grub/grub.conf",
    ]
    assert any("entry 1 is the default" in line for line in outcome.verified)


def test_the_menu_is_switched_alone_in_an_opening_of_its_own(base: Path) -> None:
    volumes = Volumes(base)
    seen: list[tuple[bytes, bool]] = []
    original = volumes.write

    @contextmanager
    def spied(where: Where) -> Iterator[WritableTree]:
        with original(where) as tree:
            yield tree
        seen.append(((base / "boot/grub/grub.conf").read_bytes(), (base / "boot/shim").exists()))

    volumes.write = spied  # type: ignore[method-assign]
    graft(base, volumes)
    assert seen == [(OLD_MENU, True), (OLD_MENU, True), (NEW_MENU, True)]
    assert [where for where, _ in volumes.openings] == ["boot", "root", "boot"]


def test_a_finished_plan_writes_nothing(base: Path) -> None:
    graft(base)
    volumes = Volumes(base)
    assert graft(base, volumes, "run-2").changes == ()
    assert volumes.openings == []


def test_a_rollback_brings_everything_back(base: Path) -> None:
    before = state(base)
    graft(base)
    outcome = roll_back("bootgraft", Volumes(base), None, silent)
    assert state(base) == before
    assert len(outcome.changes) == 4
    again = roll_back("bootgraft", Volumes(base), None, silent)
    assert again.changes == ()
    assert again.warnings == ("there is no graft to roll back",)


def test_a_failure_at_any_change_is_taken_back_whole(base: Path) -> None:
    before = state(base)
    total = count_changes(base, lambda volumes: graft(base, volumes))
    roll_back("bootgraft", Volumes(base), None, silent)
    assert total > 10
    for at in range(1, total + 1):
        with pytest.raises(RefusedError, match="taken back whole: No space left"):
            graft(base, Volumes(base, OSError(28, "No space left on device"), at))
        assert state(base) == before, f"change {at} of {total}"


def test_after_a_power_cut_at_any_change_grub_finds_old_or_new_and_a_second_run_finishes(
    base: Path,
) -> None:
    before = state(base)
    total = count_changes(base, lambda volumes: graft(base, volumes))
    roll_back("bootgraft", Volumes(base), None, silent)
    for at in range(1, total + 1):
        with pytest.raises(PowerCutError):
            graft(base, Volumes(base, PowerCutError(), at))
        assert_boots(base)
        graft(base, run_id="run-2")
        assert (base / "boot/grub/grub.conf").read_bytes() == NEW_MENU
        assert not list(base.rglob(".bootgraft-*"))
        for _ in range(2):
            roll_back("bootgraft", Volumes(base), None, silent)
        assert state(base) == before, f"change {at} of {total}"


def test_after_a_power_cut_in_a_rollback_grub_finds_old_or_new_and_a_second_one_finishes(
    base: Path,
) -> None:
    before = state(base)
    graft(base)
    total = count_changes(base, lambda volumes: roll_back("bootgraft", volumes, None, silent))
    for at in range(1, total + 1):
        graft(base)
        with pytest.raises(PowerCutError):
            roll_back("bootgraft", Volumes(base, PowerCutError(), at), None, silent)
        assert_boots(base)
        roll_back("bootgraft", Volumes(base), None, silent)
        leftover = base / "boot/bootgraft"
        assert not leftover.exists() or not list(leftover.rglob("manifest.json"))
        assert {k: v for k, v in state(base).items() if "bootgraft" not in k} == before
        graft(base)
        roll_back("bootgraft", Volumes(base), None, silent)
        assert state(base) == before, f"change {at} of {total}"


def test_a_graft_after_a_rollback_that_was_cut_off_leaves_no_unfinished_file(base: Path) -> None:
    graft(base)
    total = count_changes(base, lambda volumes: roll_back("bootgraft", volumes, None, silent))
    in_root = 0
    for at in range(1, total + 1):
        graft(base, run_id=f"run-{at}")
        with pytest.raises(PowerCutError):
            roll_back("bootgraft", Volumes(base, PowerCutError(), at), None, silent)
        in_root += any((base / "root").rglob(".bootgraft-*"))
        if graft(base, run_id=f"again-{at}").changes:
            assert not list(base.rglob(".bootgraft-*")), f"change {at} of {total}"
        for _ in range(3):
            roll_back("bootgraft", Volumes(base), None, silent)
    assert in_root > 0


def test_no_switch_of_the_menu_frees_the_inode_of_the_other_one(base: Path) -> None:
    """A freed inode may reach the disk before the directory does: GRUB reads an empty menu then."""
    menu = base / "boot/grub/grub.conf"
    switched: list[bool] = []

    class Watched(Volumes):
        @contextmanager
        def write(self, where: Where) -> Iterator[WritableTree]:
            before = menu.stat().st_ino
            with super().write(where) as tree:
                yield tree
            if menu.stat().st_ino != before:
                inodes = {path.lstat().st_ino for path in (base / "boot").rglob("*")}
                switched.append(before in inodes)

    graft(base, Watched(base))
    roll_back("bootgraft", Watched(base), None, silent)
    assert switched == [True, True]


@pytest.mark.parametrize("path", ["boot/grub/grub.conf", "boot/shim", "root/etc/fstab"])
def test_a_rollback_refuses_to_lose_what_somebody_changed_since(base: Path, path: str) -> None:
    graft(base)
    (base / path).write_bytes(b"edited by the administrator")
    before = state(base)
    with pytest.raises(RefusedError, match="has been changed since run run-1"):
        roll_back("bootgraft", Volumes(base), None, silent)
    assert state(base) == before


@pytest.mark.parametrize("path", ["boot/grub/grub.conf", "boot/grub/device.map", "root/etc/fstab"])
def test_a_file_that_changed_since_the_plan_ends_the_graft_undone(base: Path, path: str) -> None:
    (base / path).write_bytes(b"changed in between")
    before = state(base)
    with pytest.raises(RefusedError, match="has changed since the plan was made"):
        apply_plan(PLAN, Volumes(base), "run-1", silent)
    assert state(base) == before


@pytest.mark.parametrize("path", ["boot/grub/grub.conf", "boot/grub/device.map", "root/etc/fstab"])
def test_a_file_that_became_a_link_since_the_plan_ends_the_graft_undone(
    base: Path, path: str
) -> None:
    """What it leads to is still as the plan saw it."""
    file = base / path
    file.rename(file.with_name("moved"))
    file.symlink_to("moved")
    before = state(base)
    with pytest.raises(RefusedError, match="has changed since the plan was made"):
        apply_plan(PLAN, Volumes(base), "run-1", silent)
    assert state(base) == before


@pytest.mark.parametrize("opening", [1, 2])
@pytest.mark.parametrize("path", ["boot/grub/grub.conf", "root/etc/fstab"])
def test_a_file_that_changes_while_the_graft_is_made_ends_it_undone(
    base: Path, path: str, opening: int
) -> None:
    """Somebody else writes to it between two of the graft's openings; that change stays."""
    before = state(base)

    class Visited(Volumes):
        @contextmanager
        def write(self, where: Where) -> Iterator[WritableTree]:
            if len(self.openings) == opening:
                (base / path).write_bytes(b"changed in between")
            with super().write(where) as tree:
                yield tree

    if (path, opening) == ("root/etc/fstab", 2):
        reason = "did not read back as it was written"  # it was written before
    else:
        reason = "has changed since the plan was made"
    with pytest.raises(RefusedError, match=f"was taken back whole: .* {reason}"):
        apply_plan(PLAN, Visited(base), "run-1", silent)
    after = state(base)
    changed = {name for name in before if before[name] != after.get(name)}
    assert changed == {path}
    assert (base / path).read_bytes() == b"changed in between"
    assert set(after) == set(before)


def test_a_file_that_appeared_since_the_plan_where_one_is_to_be_copied_ends_the_graft_undone(
    base: Path,
) -> None:
    (base / "boot/shim").write_bytes(b"somebody else's")
    before = state(base)
    with pytest.raises(RefusedError, match="has appeared since the plan was made"):
        apply_plan(PLAN, Volumes(base), "run-1", silent)
    assert state(base) == before


def test_a_payload_that_is_not_what_the_plan_saw_ends_the_graft_undone(base: Path) -> None:
    before = state(base)
    (base / "payload/shim/shim").write_bytes(SHIM[:-1])
    with pytest.raises(RefusedError, match="changed while it was copied"):
        apply_plan(PLAN, Volumes(base), "run-1", silent)
    assert state(base) == before


def test_what_cannot_be_taken_back_is_named_with_its_backups(base: Path) -> None:
    class Broken(Volumes):
        def _count(self) -> None:
            super()._count()
            if self.changes >= 8:
                raise OSError(5, "Input/output error")

    with pytest.raises(ChangesLeftError, match="backups lie in hda1:/bootgraft/run-1"):
        graft(base, Broken(base))


def test_an_unknown_run_is_refused_with_those_that_there_are(base: Path) -> None:
    graft(base)
    with pytest.raises(RefusedError, match="no run nonsense on this guest; there are: run-1"):
        roll_back("bootgraft", Volumes(base), "nonsense", silent)


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"[]",
        b"{}",
        b"[" * 5000,
        b'{"version": 9}',
        b"path: \\u0000",
        b"path: \\ud800",
        b"path: ",
        b"mtime: 1e400",
        b"mtime: 99999999999999999999999999999",
        b"mtime: -99999999999999999999999999999",
    ],
)
def test_a_damaged_manifest_is_refused_and_nothing_changed(base: Path, damage: bytes) -> None:
    graft(base)
    manifest = base / "boot/bootgraft/run-1/manifest.json"
    kind, _, value = damage.partition(b": ")
    if kind == b"path":
        damage = manifest.read_bytes().replace(b'"path": "shim"', b'"path": "' + value + b'"')
    elif kind == b"mtime":
        damage = re.sub(rb'"mtime_ns": \d+', b'"mtime_ns": ' + value, manifest.read_bytes())
    manifest.write_bytes(damage)
    before = state(base)
    with pytest.raises(RefusedError, match="manifest"):
        roll_back("bootgraft", Volumes(base), None, silent)
    assert state(base) == before


def test_backups_are_for_root_alone(base: Path) -> None:
    graft(base)
    assert (base / "boot/bootgraft").stat().st_mode & 0o777 == 0o700
    copies = base / "boot/bootgraft/run-1"
    assert {path.stat().st_mode & 0o077 for path in copies.glob("00[23]")} == {0}


def test_the_old_menu_keeps_its_inode_as_backup(base: Path) -> None:
    inode = (base / "boot/grub/grub.conf").stat().st_ino
    graft(base)
    assert (base / "boot/bootgraft/run-1/003").stat().st_ino == inode
    roll_back("bootgraft", Volumes(base), None, silent)
    assert (base / "boot/grub/grub.conf").stat().st_ino == inode


def test_the_new_menu_is_read_back_as_grub_reads_it(base: Path) -> None:
    graft(base)
    assert grub.parse_menu((base / "boot/grub/grub.conf").read_bytes()).default == 1


def menu_plan(before: bytes, after: bytes) -> Plan:
    """A plan that changes the menu alone."""
    step = WriteFile(MENU, before, after, "another entry")
    return Plan("test", (step,), PLAN.check, "bootgraft", ())


def guest_files(base: Path) -> dict[str, tuple[str, int, int]]:
    return {path: value for path, value in state(base).items() if "bootgraft" not in path}


def test_grafts_one_after_the_other_are_rolled_back_one_by_one(base: Path) -> None:
    states = [guest_files(base)]
    graft(base)
    other = NEW_MENU + b"# another kernel\n"
    for number, (old, new) in enumerate(
        [(NEW_MENU, other), (other, NEW_MENU), (NEW_MENU, other)], start=2
    ):
        states.append(guest_files(base))
        apply_plan(menu_plan(old, new), Volumes(base), f"run-{number}", silent)
    for expected in reversed(states):
        roll_back("bootgraft", Volumes(base), None, silent)
        assert guest_files(base) == expected


def test_a_file_edited_between_two_grafts_does_not_stop_the_second_ones_rollback(
    base: Path,
) -> None:
    graft(base)
    (base / "boot/grub/device.map").write_bytes(b"(hd0) /dev/hda\n# mine\n")
    before = guest_files(base)
    apply_plan(menu_plan(NEW_MENU, NEW_MENU + b"\n"), Volumes(base), "run-2", silent)
    roll_back("bootgraft", Volumes(base), None, silent)
    assert guest_files(base) == before


def test_a_run_that_mends_a_lost_shim_is_rolled_back_with_the_one_that_it_mends(
    base: Path,
) -> None:
    before = state(base)
    graft(base)
    (base / "boot/shim").unlink()
    graft(base, run_id="run-2")
    volumes = Volumes(base)
    original = volumes.write

    @contextmanager
    def spied(where: Where) -> Iterator[WritableTree]:
        with original(where) as tree:
            yield tree
        assert_boots(base)

    volumes.write = spied  # type: ignore[method-assign]
    roll_back("bootgraft", volumes, None, silent)
    assert state(base) == before


def test_a_rollback_never_removes_what_the_menu_would_still_name(base: Path) -> None:
    graft(base)
    (base / "boot/shim").unlink()
    graft(base, run_id="run-2")
    manifest = base / "boot/bootgraft/run-2/manifest.json"
    manifest.write_text(re.sub(r'"continues": \[[^]]*\]', '"continues": []', manifest.read_text()))
    before = state(base)
    with pytest.raises(RefusedError, match=r"menu /grub/grub\.conf would still name /shim"):
        roll_back("bootgraft", Volumes(base), None, silent)
    assert state(base) == before


def test_a_menu_edited_in_place_after_a_cut_keeps_that_edit(base: Path) -> None:
    total = count_changes(base, lambda volumes: graft(base, volumes))
    roll_back("bootgraft", Volumes(base), None, silent)
    with pytest.raises(PowerCutError):
        graft(base, Volumes(base, PowerCutError(), total))  # the menu's rename
    menu = base / "boot/grub/grub.conf"
    with menu.open("ab") as stream:
        stream.write(b"# edited in place\n")
    edited = menu.read_bytes()
    apply_plan(menu_plan(edited, NEW_MENU), Volumes(base), "run-2", silent)
    roll_back("bootgraft", Volumes(base), None, silent)
    assert menu.read_bytes() == edited
    assert (base / "root/etc/fstab").read_bytes() == b"/dev/xvda2 / ext3\n"
    assert not (base / "boot/shim").exists()


def test_a_rollback_that_fails_in_the_middle_says_so_and_is_finished_by_another(
    base: Path,
) -> None:
    before = guest_files(base)
    graft(base)
    grafted = guest_files(base)
    total = count_changes(base, lambda volumes: roll_back("bootgraft", volumes, None, silent))
    outcomes = set()
    for at in range(1, total + 1):
        graft(base)
        try:
            fault = OSError(28, "No space left on device")
            roll_back("bootgraft", Volumes(base, fault, at), None, silent)
        except ChangesLeftError as error:
            outcomes.add(str(error).rpartition("; ")[2].partition(": ")[0])
        except OSError:
            outcomes.add("nothing changed")
            assert contents(guest_files(base)) == contents(grafted)
        roll_back("bootgraft", Volumes(base), None, silent)
        assert contents(guest_files(base)) == contents(before)
    assert outcomes == {"restored so far", "nothing changed"}


def contents(files: dict[str, tuple[str, int, int]]) -> dict[str, str]:
    return {path: content for path, (content, _, _) in files.items()}


def test_a_damaged_backup_is_found_before_anything_is_restored(base: Path) -> None:
    graft(base)
    (base / "boot/bootgraft/run-1/002").write_bytes(b"damaged")
    before = state(base)
    with pytest.raises(RefusedError, match="bootgraft/run-1/002, the backup of /etc/fstab, is"):
        roll_back("bootgraft", Volumes(base), None, silent)
    assert state(base) == before


@pytest.mark.parametrize("name", ["file", "link"])
def test_something_else_named_like_our_backups_is_refused_by_name(base: Path, name: str) -> None:
    if name == "file":
        (base / "boot/bootgraft").write_text("the guest's own")
    else:
        (base / "boot/bootgraft").symlink_to("missing")
    before = state(base)
    with pytest.raises(RefusedError, match="bootgraft is a"):
        graft(base)
    assert state(base) == before


def test_a_result_lies_beside_the_backups_for_root_alone_and_goes_with_the_rollback(
    base: Path,
) -> None:
    before = guest_files(base)
    graft(base)
    assert keep_result(PLAN.backups, Volumes(base), "run-1", b"result") is True
    kept = base / "boot/bootgraft/run-1/result.json"
    assert kept.read_bytes() == b"result"
    assert kept.stat().st_mode & 0o777 == 0o600
    roll_back("bootgraft", Volumes(base), None, silent)
    assert guest_files(base) == before
    assert not (base / "boot/bootgraft").exists()


def test_a_run_that_changed_nothing_keeps_no_result(base: Path) -> None:
    before = state(base)
    assert keep_result(PLAN.backups, Volumes(base), "run-1", b"result") is False
    assert state(base) == before
