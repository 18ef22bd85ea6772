"""Recipes on whole machines: Debian's systems of today and the demo appliance.

Each is patched, starts, shows the effect on COM1, and is brought back byte for byte: by a
controller, and by one ISO that does all by itself.
"""

import json
import os
import re
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from bootgraft_host.customise import BootChanges, customise_iso
from bootgraft_host.recipe_cli import choose
from bootgraft_host.recipes import Setting
from vm.appliance import Appliance, build_appliance
from vm.bench import Bench, Said, find_live_iso
from vm.boots import boot_disk
from vm.commands import run
from vm.consoles import boot_console
from vm.debian_systems import (
    ROOT_HASH,
    DebianSystem,
    Name,
    PathState,
    build_system,
    modern_vm_toml,
    read_states,
)
from vm.ext3 import Ext3
from vm.file_states import read_states as read_ext3_states
from vm.guest_disk import GuestDisk
from vm.payload import good_files, write_files
from vm.person import Person

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1800)]

SYSTEMS: tuple[Name, ...] = (
    *("debian-12-ext4", "debian-13-ext4", "debian-13-lvm", "debian-13-btrfs"),
)
RUN_TIMEOUT = 900.0  # seconds; about 150 on an idle machine
CONFIRM_TIMEOUT = "400"
BOOT_TIMEOUT = 400.0
POWER_OFF_AFTER = 4

# One of each kind of change, in the root and in /boot; its effect is what a login on COM1 begins
# with.
HOUSE = r"""
version = 1
name = "house"
description = "the house's rules"

[parameters.token]
description = "what the login shall say"
required = true
pattern = "[0-9a-f]{16}"

[[action]]
do = "lines"
path = "/etc/issue"
ensure = 'BOOTGRAFT-RECIPE {token} on \l'

[[action]]
do = "copy"
path = "/usr/local/share/house"
source = "house"
mode = "0640"

[[action]]
do = "directory"
path = "/srv/house/data"
parents = true
mode = "0711"

[[action]]
do = "link"
path = "/srv/house/rules"
to = "/usr/local/share/house/rules.txt"

[[action]]
do = "remove"
path = "/etc/motd"

[[action]]
do = "rename"
path = "/etc/profile"
to = "/etc/profile.house"

[[action]]
do = "variables"
path = "/etc/default/grub"
set = { GRUB_TIMEOUT = "3" }

[[action]]
do = "fstab"
mount_point = "/"
add_options = ["noatime"]

[[action]]
do = "copy"
path = "/boot/house-{kernel}"
for_each = "kernels"
content = "started as {token}\n"

[[action]]
do = "variables"
path = "/boot/grub/grubenv"
style = "grubenv"
set = { house = "{token}" }
"""
HOUSE_FILES = {"rules.txt": b"be kind\n", "rooms/kitchen.txt": b"\xff no UTF-8\r\n"}
# What a guest writes by itself when it is started, and left on until its power is cut.
GUEST_WRITES = re.compile(
    r"/var/(lib/systemd|log)(/.*)?|/etc/(mtab|adjtime|resolv\.conf)|/tmp/\.(ICE|X11|XIM|font)-unix"
)


def write_house(folder: Path) -> Path:
    write_files(folder, {f"house/{name}": content for name, content in HOUSE_FILES.items()})
    recipe = folder / "recipe.toml"
    recipe.write_text(HOUSE)
    return recipe


@dataclass(frozen=True, slots=True)
class Machine:
    """A system on its bench, as it was before all else."""

    bench: Bench
    system: DebianSystem
    recipe: Path
    token: str
    states: Mapping[str, PathState]
    disk_hash: str

    @property
    def expect(self) -> str:
        """What a login on COM1 says once the recipes are there."""
        return rf"^BOOTGRAFT-RECIPE {self.token} on ttyS0\s+{self.system.name} login:"

    @property
    def recipes(self) -> tuple[str, ...]:
        """The options that choose the recipes."""
        house = ("--recipe", str(self.recipe), "--set", f"token={self.token}")
        return ("--recipe", "serial-console", *house)


@dataclass(frozen=True, slots=True)
class Stage:
    """One command, and what it has left."""

    said: Said
    result: Mapping[str, Any]
    vm_toml: str
    disk_hash: str
    leftovers: list[str]


def make_machine(name: Name, folder: Path, runtime: Path, live_iso: Path) -> Machine:
    if os.geteuid() != 0:
        pytest.skip("a Debian system is made with loop devices and mounts, which need root")
    system = build_system(name, folder)
    toml = modern_vm_toml(name)
    bench = Bench(folder, runtime, live_iso, vm_toml=toml, disk=system.disk.name)
    (folder / "recipe").mkdir()
    recipe = write_house(folder / "recipe")
    states = read_states(system)
    return Machine(bench, system, recipe, secrets.token_hex(8), states, bench.hash_disk())


def perform(bench: Bench, *arguments: str | Path) -> Stage:
    said = bench.bootgraft(*arguments, timeout=RUN_TIMEOUT)
    return Stage(
        said=said,
        result=bench.read_result(),
        vm_toml=bench.vm.read_text(),
        disk_hash=bench.hash_disk(),
        leftovers=bench.leftovers(),
    )


def changed_paths(
    before: Mapping[str, PathState], after: Mapping[str, PathState]
) -> dict[str, tuple[PathState | None, PathState | None]]:
    return {
        path: (before.get(path), after.get(path))
        for path in sorted({*before, *after})
        if before.get(path) != after.get(path)
    }


def check_secrets(machine: Machine, *more: str) -> None:
    """See that root's password, of which a recipe says nothing, was written and shown nowhere."""
    files = (path for path in machine.bench.state.rglob("*") if path.is_file())
    texts = [*more, *(path.read_bytes().decode("utf-8", "replace") for path in files)]
    assert not [text for text in texts if ROOT_HASH in text]


# A controller at work.


@pytest.fixture(scope="module", params=SYSTEMS)
def machine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, live_iso: Path
) -> Iterator[Machine]:
    folder = tmp_path_factory.mktemp("recipes")
    with tempfile.TemporaryDirectory(prefix="bg") as runtime:
        machine = make_machine(request.param, folder, Path(runtime), live_iso)
        yield machine
        machine.bench.close()
        machine.system.disk.unlink()


@pytest.fixture(scope="module")
def dry_run(machine: Machine) -> Stage:
    return perform(machine.bench, "run", machine.bench.vm, *machine.recipes, "--dry-run")


@pytest.fixture(scope="module")
def patched(machine: Machine, dry_run: Stage) -> Stage:
    confirm = ("--expect", machine.expect, "--confirm-timeout", CONFIRM_TIMEOUT)
    return perform(machine.bench, "run", machine.bench.vm, *machine.recipes, *confirm)


@pytest.fixture(scope="module")
def second_run(machine: Machine, patched: Stage) -> Stage:
    return perform(machine.bench, "run", machine.bench.vm, *machine.recipes)


@pytest.fixture(scope="module")
def rolled_back(machine: Machine, second_run: Stage) -> Stage:
    return perform(machine.bench, "rollback", machine.bench.vm)


@pytest.mark.matrix
def test_a_dry_run_shows_the_recipes_plan_and_changes_no_byte(
    machine: Machine, dry_run: Stage
) -> None:
    assert dry_run.said.status == 0, dry_run.said.text
    assert dry_run.result["outcome"] == "planned"
    assert "recipes: serial-console, house" in dry_run.said.stdout
    assert f"+BOOTGRAFT-RECIPE {machine.token} on \\l" in dry_run.said.stdout
    assert dry_run.disk_hash == machine.disk_hash
    assert dry_run.leftovers == []


@pytest.mark.matrix
def test_the_effect_is_seen_on_com1(machine: Machine, patched: Stage) -> None:
    assert patched.said.status == 0, patched.said.text
    assert patched.result["outcome"] == "grafted"
    assert patched.result["confirm"]["proven"] is True
    assert f"BOOTGRAFT-RECIPE {machine.token} on ttyS0" in patched.said.stdout


@pytest.mark.matrix
def test_the_machine_comes_back_as_it_was_its_adapter_too(machine: Machine, patched: Stage) -> None:
    assert patched.vm_toml == modern_vm_toml(machine.system.name)
    assert patched.result["machine"]["adapter"] == "as captured"
    assert patched.leftovers == []
    assert not list(machine.bench.state.rglob("*.iso"))  # the payload may have held secrets


@pytest.mark.matrix
def test_a_second_run_finds_the_work_done_and_changes_no_byte(
    patched: Stage, second_run: Stage
) -> None:
    assert second_run.said.status == 0, second_run.said.text
    assert second_run.result["outcome"] == "already-grafted"
    assert second_run.disk_hash == patched.disk_hash


@pytest.mark.matrix
def test_a_rollback_brings_every_file_back(machine: Machine, rolled_back: Stage) -> None:
    assert rolled_back.said.status == 0, rolled_back.said.text
    changed = changed_paths(machine.states, read_states(machine.system))
    assert {path: both for path, both in changed.items() if not GUEST_WRITES.fullmatch(path)} == {}
    check_secrets(machine, rolled_back.said.text)


# One ISO, nobody there.


@dataclass(frozen=True, slots=True)
class Unattended:
    """What the ISO did, by itself."""

    machine: Machine
    screen: str
    console: str
    states: Mapping[str, PathState]


@pytest.fixture(scope="module", params=SYSTEMS)
def unattended(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, live_iso: Path
) -> Iterator[Unattended]:
    folder = tmp_path_factory.mktemp("unattended")
    with tempfile.TemporaryDirectory(prefix="bg") as runtime:
        machine = make_machine(request.param, folder, Path(runtime), live_iso)
        iso = folder / "patch.iso"
        changes = BootChanges(0, "unattended", [f"bootgraft.power-off-after={POWER_OFF_AFTER}"])
        settings = [Setting(None, "token", machine.token)]
        chosen = choose(("serial-console", str(machine.recipe)), settings, ())
        customise_iso(find_live_iso(), iso, changes, recipes=chosen)
        with boot_console(machine.system.disk, iso, disk_format="raw") as boot:
            person = Person(boot)
            screen = person.sees("switches itself off in", BOOT_TIMEOUT)
            person.keeps_picture(f"unattended-{machine.system.name}")
            boot.wait_off(POWER_OFF_AFTER + 60)
            console = boot.console_text()
        yield Unattended(machine, screen, console, read_states(machine.system))
        machine.bench.close()
        machine.system.disk.unlink()


@pytest.mark.matrix
def test_one_iso_patches_by_itself(unattended: Unattended) -> None:
    assert "bootgraft: SUCCESS" in unattended.screen
    line = next(
        each for each in unattended.console.splitlines() if each.startswith("BOOTGRAFT-RESULT ")
    )
    document = json.loads(line.removeprefix("BOOTGRAFT-RESULT "))
    assert (document["ok"], document["outcome"]) == (True, "grafted")


@pytest.mark.matrix
def test_only_what_the_recipes_say_has_changed(unattended: Unattended) -> None:
    changed = changed_paths(unattended.machine.states, unattended.states)
    kernels = {path for path in changed if path.startswith("/boot/house-")}
    backups = {path for path in changed if path.startswith("/boot/bootgraft")}
    assert len(kernels) == 1
    assert backups
    assert set(changed) - kernels - backups == {
        *("/boot/grub/grubenv", "/etc/default/grub", "/etc/fstab", "/etc/issue", "/etc/motd"),
        *("/etc/profile", "/etc/profile.house"),
        "/etc/systemd/system/getty.target.wants/serial-getty@ttyS0.service",
        *("/srv/house", "/srv/house/data", "/srv/house/rules"),
        *(f"/usr/local/share/house{end}" for end in ("", "/rooms", "/rooms/kitchen.txt")),
        "/usr/local/share/house/rules.txt",
    }
    before, after = changed["/etc/issue"]
    assert before is not None
    assert after is not None
    assert (before.mode, before.owner) == (after.mode, after.owner)
    renamed = unattended.states["/etc/profile.house"]
    assert replace(renamed, links=1) == unattended.machine.states["/etc/profile"]  # and a backup


@pytest.mark.matrix
def test_the_patched_guest_greets_on_com1_and_is_rolled_back_byte_for_byte(
    unattended: Unattended,
) -> None:
    machine = unattended.machine
    with boot_disk(machine.system.disk) as boot:  # what the guest writes is thrown away
        boot.wait_for_console(machine.expect, BOOT_TIMEOUT)
    rolled_back = perform(machine.bench, "rollback", machine.bench.vm)
    assert rolled_back.said.status == 0, rolled_back.said.text
    assert changed_paths(machine.states, read_states(machine.system)) == {}
    check_secrets(machine, unattended.console, unattended.screen)


# The demo appliance: GRUB legacy, a shim and a recipe in one plan.

MARK_RECIPE = """\
version = 1
name = "new-token"
description = "another token"

[parameters.token]
description = "the token"
required = true

[when]
boot_loader = "grub-legacy"

[[action]]
do = "lines"
path = "/etc/demo-token"
replace = "^[0-9a-f]+$"
with = "{token}"

[[action]]
do = "copy"
path = "/boot/token.txt"
content = "{token}"
"""


@dataclass(frozen=True, slots=True)
class Demo:
    """The appliance, patched by a recipe and the shim in one run, and rolled back."""

    appliance: Appliance
    token: str
    patched: Stage
    rolled_back: Stage
    before: list[object]
    after: list[object]


@pytest.fixture(scope="module")
def demo(
    tmp_path_factory: pytest.TempPathFactory, live_iso: Path, payload_iso: Path
) -> Iterator[Demo]:
    folder = tmp_path_factory.mktemp("demo")
    offsets: list[int] = []

    def note(disk: GuestDisk) -> None:
        offsets.extend(each.offset for each in disk.file_systems)

    def read_disk() -> list[object]:
        raw = folder / "disk.raw"
        run(["qemu-img", "convert", "-f", "vpc", "-O", "raw", appliance.disk, raw])
        states: list[object] = [read_ext3_states(Ext3(raw, offset)) for offset in offsets]
        raw.unlink()
        return states

    appliance = build_appliance(folder, token=secrets.token_hex(8), edit_disk=note)
    token = secrets.token_hex(8)
    (folder / "new-token.toml").write_text(MARK_RECIPE)
    before = read_disk()
    with tempfile.TemporaryDirectory(prefix="bg") as runtime:
        bench = Bench(folder, Path(runtime), live_iso)
        recipes = ("--recipe", folder / "new-token.toml", "--recipe", "hyperv-shim")
        expect = appliance.expect.replace(appliance.token, token)
        options = ("--payload", payload_iso, "--set", f"new-token.token={token}")
        patched = perform(bench, "run", bench.vm, *recipes, *options, "--expect", expect)
        rolled_back = perform(bench, "rollback", bench.vm)
        yield Demo(appliance, token, patched, rolled_back, before, read_disk())
        bench.close()


def test_a_recipe_and_the_shim_are_one_plan_on_the_demo_appliance(demo: Demo) -> None:
    assert demo.patched.said.status == 0, demo.patched.said.text
    assert "recipes: new-token, hyperv-shim" in demo.patched.said.stdout
    assert demo.patched.result["confirm"]["evidence"] == [
        f"BOOTGRAFT-DEMO {demo.token} hypervisor=xen boot=ok root=/dev/hda2"
    ]
    assert demo.patched.result["machine"]["adapter"] == "legacy"
    assert demo.patched.leftovers == []


def test_one_rollback_takes_both_back_byte_for_byte(demo: Demo) -> None:
    assert demo.rolled_back.said.status == 0, demo.rolled_back.said.text
    assert demo.after == demo.before


@pytest.mark.matrix
def test_one_iso_patches_the_demo_appliance_by_itself(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("demo-unattended")
    appliance = build_appliance(folder, token=secrets.token_hex(8))
    token = secrets.token_hex(8)
    payload = folder / "payload"
    write_files(payload, good_files())
    (payload / "rules").mkdir()
    (payload / "rules/recipe.toml").write_text(MARK_RECIPE)
    (payload / "recipes.toml").write_text(
        'version = 1\n[[recipe]]\nname = "hyperv-shim"\n'
        f'[[recipe]]\nfile = "rules/recipe.toml"\nset = {{ token = "{token}" }}\n'
    )
    iso = folder / "patch.iso"
    changes = BootChanges(0, "unattended", [f"bootgraft.power-off-after={POWER_OFF_AFTER}"])
    customise_iso(find_live_iso(), iso, changes, payload)
    with boot_console(appliance.disk, iso) as boot:
        shown = Person(boot).sees("switches itself off in", BOOT_TIMEOUT)
        assert "bootgraft: SUCCESS" in shown
        boot.wait_off(POWER_OFF_AFTER + 60)
    with boot_disk(appliance.disk, disk_format="vpc") as boot:
        boot.wait_for_console(appliance.expect.replace(appliance.token, token), BOOT_TIMEOUT)
