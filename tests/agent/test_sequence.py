"""Several recipes, the shim's among them, as one plan on a guest's tree, done and taken back."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from bootgraft_agent import grub
from bootgraft_agent.apply import apply_plan
from bootgraft_agent.plan import BACKUPS, Options, Plan
from bootgraft_agent.recipe_requests import Request, read_requests
from bootgraft_agent.recipes import hyperv_shim
from bootgraft_agent.recipes.sequence import plan_sequence
from bootgraft_agent.rollback import roll_back
from bootgraft_agent.tree import Trees, _read
from vm.payload import good_files, write_files
from vm.trees import build_tree

RECIPES = "serial-console,hyperv-shim,drop-persistent-net"
RULES = "etc/udev/rules.d/70-persistent-net.rules"


@dataclass(frozen=True, slots=True)
class Guest:
    """A guest's trees, and what is asked for."""

    trees: Trees
    menu: Path

    def plan(self, recipes: str = RECIPES) -> Plan:
        requests = read_requests(None, Options(recipe=recipes))
        facts = _read(self.trees, None) if any(each.recipe is None for each in requests) else None
        with self.trees.payload() as payload:
            return plan_sequence(requests, self.trees, facts, payload, Options())

    def files(self) -> Mapping[str, tuple[bytes, int, int]]:
        folders = [self.trees.root_directory, self.trees.boot_directory]
        return {
            str(path): (path.read_bytes(), path.stat().st_mode, path.stat().st_mtime_ns)
            for folder in folders
            if folder is not None
            for path in folder.rglob("*")
            if path.is_file() and not path.is_symlink()
        }


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    tree = build_tree("rhel5", tmp_path / "guest")
    (tree.root / RULES).parent.mkdir(parents=True, exist_ok=True)
    (tree.root / RULES).write_text('SUBSYSTEM=="net", NAME="eth0"\n')
    payload = tmp_path / "payload"
    write_files(payload, good_files())
    return Guest(Trees(tree.root, tree.boot, payload), tree.boot_folder / tree.shape.menu)


def test_the_shim_among_other_recipes_gives_one_plan(guest: Guest) -> None:
    plan = guest.plan()
    names = [each.partition(":")[0] for each in plan.recipe.split()]
    assert names == ["serial-console", "hyperv-shim", "drop-persistent-net"]
    assert plan.check is not None
    targets = [str(step.target) for step in plan.steps if hasattr(step, "target")]
    assert len(targets) == len(set(targets)), "each file is written once"
    assert targets[-1] == str(plan.check.menu), "what GRUB reads is switched last"


def test_the_shim_s_entry_has_what_an_earlier_recipe_did_to_its_model(guest: Guest) -> None:
    apply_plan(guest.plan(), guest.trees, "run-1", lambda *_: None)
    menu = grub.parse_menu(guest.menu.read_bytes())
    assert menu.default is not None
    entry = menu.entries[menu.default]
    assert b"console=ttyS0,115200" in b" ".join(each.argument for each in entry.commands)


def test_a_second_plan_has_nothing_to_do_and_a_rollback_brings_all_back(guest: Guest) -> None:
    before = guest.files()
    apply_plan(guest.plan(), guest.trees, "run-1", lambda *_: None)
    after = guest.files()
    assert not (guest.trees.root_directory / RULES).exists()
    assert guest.plan().is_done
    assert guest.files() == after
    roll_back(f"{guest.trees.boot_prefix}{BACKUPS}", guest.trees, None, lambda *_: None)
    assert guest.files() == before


def test_the_shim_alone_in_a_sequence_writes_what_it_writes_alone(guest: Guest) -> None:
    alone = hyperv_shim.plan(_read(guest.trees, None), Options())
    plan = guest.plan("hyperv-shim")
    assert plan.check == alone.check
    wanted = {str(step.target): step for step in alone.steps if hasattr(step, "target")}
    found = {str(step.target): step for step in plan.steps if hasattr(step, "target")}
    assert found.keys() == wanted.keys()
    for target, step in wanted.items():
        assert getattr(found[target], "after", None) == getattr(step, "after", None)


def test_the_order_of_recipes_is_the_order_asked_for(guest: Guest) -> None:
    requests: tuple[Request, ...] = read_requests(None, Options(recipe=RECIPES))
    assert " ".join(map(str, requests)) == guest.plan().recipe
