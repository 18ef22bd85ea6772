"""The library's recipes carried out on trees: done once, nothing to do again, and taken back."""

import os
from pathlib import Path

import pytest

from agent.recipe_guests import KnownTrees, make_root, write
from bootgraft_agent.apply import apply_plan
from bootgraft_agent.plan import Options, Plan
from bootgraft_agent.recipe_file import check_settings, library
from bootgraft_agent.recipe_requests import Request
from bootgraft_agent.recipes.sequence import plan_sequence
from bootgraft_agent.rollback import roll_back
from bootgraft_agent.tree import new_run_id

SETTINGS = {
    "authorized-key": {"key": "ssh-ed25519 AAAAC3Nza me@here"},
    "cloud-init-seed": {"hostname": "web"},
    "reset-root-password": {"hash": "$6$salt$" + "x" * 86},
}
UUIDS = (("/", "1-2"), ("swap", "3-4"))


def _request(name: str) -> Request:
    recipe = library()[name]
    return Request(recipe, check_settings(recipe, SETTINGS.get(name, {})))


def _plan(names: list[str], trees: KnownTrees) -> Plan:
    return plan_sequence([_request(name) for name in names], trees, None, None, Options())


def _silent(text: str, done: int, total: int) -> None:
    """Take progress and show none."""


def _state(root: Path) -> dict[str, tuple[object, ...]]:
    """Read all that a rollback brings back; backups are no part of it."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if f"{name}/".startswith(("boot/bootgraft/", "bootgraft/")):
            continue
        status = path.lstat()
        attributes = (status.st_mode, status.st_uid, status.st_gid)
        if path.is_symlink():
            found[name] = (*attributes, path.readlink())
        elif path.is_file():
            found[name] = (*attributes, status.st_mtime_ns, path.read_bytes())
        else:
            found[name] = attributes
    return found


def _guest(name: str, folder: Path) -> KnownTrees:
    root = make_root(name, folder)
    write(root, "etc/shadow", "root:*:19000:0:99999:7:::\n")
    (root / "etc/shadow").chmod(0o640)
    write(root, "root/.profile", "")
    write(root, "etc/passwd", "root:x:0:0::/root:/bin/sh\n")
    write(root, "etc/sysconfig/kernel", 'INITRD_MODULES="piix"\n')  # for those without another list
    boot = folder / "boot"
    return KnownTrees(root, boot if boot.is_dir() else None, None, known=UUIDS)


def _states(trees: KnownTrees) -> list[dict[str, tuple[object, ...]]]:
    roots = [trees.root_directory, trees.boot_directory]
    return [_state(root) for root in roots if root is not None]


@pytest.mark.skipif(os.geteuid() != 0, reason="owners are kept by root alone")
@pytest.mark.parametrize("guest", ["rhel5", "sles10", "lenny", "debian12", "fedora", "rhel6"])
def test_recipes_are_done_once_and_taken_back_byte_for_byte(guest: str, tmp_path: Path) -> None:
    trees = _guest(guest, tmp_path)
    names = [name for name in library() if name != "cloud-init-seed" or guest == "debian12"]
    before = _states(trees)
    plan = _plan(names, trees)
    assert plan.steps
    assert _states(trees) == before
    outcome = apply_plan(plan, trees, new_run_id(), _silent)
    assert outcome.changes
    assert _plan(names, trees).steps == ()
    roll_back(plan.backups, trees, None, _silent)
    assert _states(trees) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="owners are kept by root alone")
def test_no_plan_shows_a_password_s_hash(tmp_path: Path) -> None:
    plan = _plan(["reset-root-password"], _guest("debian12", tmp_path))
    texts = [diff for _, diff in plan.diffs()] + [step.describe() for step in plan.steps]
    assert len(texts) == 2
    assert "xxxx" not in "".join(texts)
