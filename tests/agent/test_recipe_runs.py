"""The library's recipes carried out on trees: done once, nothing to do again, and taken back."""

import json
import os
from pathlib import Path

import pytest

from agent.recipe_guests import KnownTrees, make_root, write
from bootgraft_agent.apply import apply_plan
from bootgraft_agent.plan import Options, Plan
from bootgraft_agent.recipe_file import check_settings, library, parse_recipe
from bootgraft_agent.recipe_requests import Request
from bootgraft_agent.recipes.sequence import plan_sequence
from bootgraft_agent.rollback import roll_back
from bootgraft_agent.tree import new_run_id
from bootgraft_agent.view import outcome_json, plan_json, plan_lines

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
    boot = folder / "boot"
    return KnownTrees(root, boot if boot.is_dir() else None, None, (), UUIDS)


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


RECIPE_OF_ALL = """\
version = 1
name = "keys"
description = "secrets everywhere"
[parameters.word]
description = "a word that nobody sees"
required = true
secret = true
[[action]]
do = "lines"
path = "/etc/fstab"
ensure = "# {word}"
[[action]]
do = "copy"
path = "/etc/{word}"
content = "{word}\\nsecond {word}\\n"
[[action]]
do = "link"
path = "/etc/link"
to = "{word}"
[[action]]
do = "variables"
path = "/etc/none"
set = { A = "b" }
missing = "skip"
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="owners are kept by root alone")
def test_a_secret_parameter_is_shown_nowhere(tmp_path: Path) -> None:
    trees = _guest("debian12", tmp_path)
    recipe = parse_recipe(RECIPE_OF_ALL.encode(), "r.toml")
    settings = check_settings(recipe, {"word": "hunter2"})
    plan = plan_sequence([Request(recipe, settings)], trees, None, None, Options())
    said: list[str] = []
    outcome = apply_plan(plan, trees, new_run_id(), lambda text, done, total: said.append(text))
    shown = json.dumps([plan_json(plan), outcome_json(outcome, plan), said, list(plan_lines(plan))])
    assert (trees.root_directory / "etc/hunter2").read_text() == "hunter2\nsecond hunter2\n"
    assert "second ********" in shown
    assert "hunter2" not in shown
