"""A whole run on the demo appliance, as a user does it, and the way back.

The stages are done once, in order, each by a fixture that needs the one before; the tests look at
what each stage has left.
"""

import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from bootgraft_agent.wire import Decoder
from vm.appliance import Appliance, build_appliance, leave_menu_in_journal
from vm.bench import Bench, Said
from vm.boots import boot_disk
from vm.commands import run
from vm.demo import ERROR_13, VM_TOML
from vm.ext3 import Ext3
from vm.file_states import FileState, read_states
from vm.guest_disk import GuestDisk
from vm.picture import read_picture

pytestmark = pytest.mark.vm

LEGACY_VM_TOML = VM_TOML.replace('kind = "virtio"', 'kind = "legacy"')
NEW_ENTRY = "Hyper-V (bootgraft): Appliance"
MENU = "/grub/grub.conf"

States = tuple[Mapping[str, FileState], ...]  # of each file system


@dataclass(frozen=True, slots=True)
class Guest:
    """The appliance on its bench, and what its file systems hold once the journal is replayed."""

    bench: Bench
    appliance: Appliance
    file_systems: tuple[int, ...]  # offsets on the disk
    states: States
    payload: Path
    disk_hash: str


@dataclass(frozen=True, slots=True)
class Stage:
    """One command, and what it has left."""

    said: Said
    directory: Path
    result: Mapping[str, Any]
    vm_toml: str
    disk_hash: str
    leftovers: list[str]
    files: list[str]  # in the machine's folder


@pytest.fixture(scope="module")
def guest(make_bench: Callable[[], Bench], payload_iso: Path) -> Guest:
    """The appliance, with a newer menu in its journal than GRUB reads."""
    bench = make_bench()
    states: list[dict[str, FileState]] = []
    offsets: list[int] = []

    def edit(disk: GuestDisk) -> None:
        states.extend(read_states(each) for each in disk.file_systems)
        offsets.extend(each.offset for each in disk.file_systems)
        menu = leave_menu_in_journal(disk.file_systems[0])
        states[0][MENU] = replace(states[0][MENU], content=sha256(menu).hexdigest())

    appliance = build_appliance(bench.folder, token=secrets.token_hex(8), edit_disk=edit)
    return Guest(bench, appliance, tuple(offsets), tuple(states), payload_iso, bench.hash_disk())


@pytest.fixture(scope="module")
def dry_run(guest: Guest) -> Stage:
    """The plan, shown."""
    return perform(guest, "run", guest.bench.vm, "--payload", guest.payload, "--dry-run")


@pytest.fixture(scope="module")
def grafted(guest: Guest, dry_run: Stage) -> Stage:
    """The graft and the boot that proves it."""
    options = ("--payload", guest.payload, "--expect", guest.appliance.expect)
    return perform(guest, "run", guest.bench.vm, *options)


@pytest.fixture(scope="module")
def second_run(guest: Guest, grafted: Stage) -> Stage:
    """The same command again."""
    options = ("--payload", guest.payload, "--expect", guest.appliance.expect)
    return perform(guest, "run", guest.bench.vm, *options)


@pytest.fixture(scope="module")
def rolled_back(guest: Guest, second_run: Stage) -> Stage:
    """The way back."""
    return perform(guest, "rollback", guest.bench.vm)


def perform(guest: Guest, *arguments: str | Path) -> Stage:
    bench = guest.bench
    said = bench.bootgraft(*arguments)
    return Stage(
        said=said,
        directory=bench.last_run(),
        result=bench.read_result(),
        vm_toml=bench.vm.read_text(),
        disk_hash=bench.hash_disk(),
        leftovers=bench.leftovers(),
        files=sorted(path.name for path in bench.folder.iterdir()),
    )


def test_before_the_run_grub_stops_at_error_13(guest: Guest, tmp_path: Path) -> None:
    picture = tmp_path / "before.png"
    with boot_disk(guest.bench.disk, disk_format="vpc") as boot:
        boot.wait_for_screen(ERROR_13, timeout=60)
        boot.take_screenshot(picture)
    assert ERROR_13 in read_picture(picture)


def test_a_dry_run_shows_the_plan_and_changes_no_byte(guest: Guest, dry_run: Stage) -> None:
    assert dry_run.said.status == 0, dry_run.said.text
    assert "hda1: replay the journal" in dry_run.said.stdout
    assert "\n-timeout=7\n" in dry_run.said.stdout  # as the journal has it
    assert "\n+timeout=15\n" in dry_run.said.stdout
    assert dry_run.result["outcome"] == "planned"
    assert dry_run.disk_hash == guest.disk_hash
    assert dry_run.vm_toml == VM_TOML
    assert dry_run.leftovers == []


def test_the_grafted_machine_boots_into_its_own_userland_on_xen(
    guest: Guest, grafted: Stage
) -> None:
    assert grafted.said.status == 0, grafted.said.text
    assert grafted.result["outcome"] == "grafted"
    assert grafted.result["confirm"]["proven"] is True
    marker = f"BOOTGRAFT-DEMO {guest.appliance.token} hypervisor=xen boot=ok root=/dev/hda2"
    assert grafted.result["confirm"]["evidence"] == [marker]
    assert marker in grafted.said.stdout
    assert marker.encode() in (grafted.directory / "console-confirm.log").read_bytes()


def test_the_machine_comes_back_as_it_was_but_for_the_legacy_adapter(grafted: Stage) -> None:
    assert grafted.vm_toml == LEGACY_VM_TOML
    assert grafted.leftovers == []
    assert grafted.files == ["appliance.vhd", "state", "vm.toml"]


def test_the_runs_directory_is_complete_and_private(grafted: Stage) -> None:
    directory = grafted.directory
    for each in (directory, *directory.parents[:2]):
        assert each.stat().st_mode & 0o777 == 0o700, each
    texts = [
        f"text-{number:02}{end}"
        for number in range(1, len(grafted.result["files"]) + 1)
        for end in ("-after.txt", "-before.txt", ".diff")
    ]
    assert sorted(path.name for path in directory.iterdir()) == [
        *("console-confirm.log", "console.log", "result.json", "run.log"),
        *("screen-grub-menu.png", "screen-guest.png"),
        *texts,
    ]
    (menu,) = (each for each in grafted.result["files"] if each["path"] == f"hda1:{MENU}")
    before, after, diff = (Path(menu[each]).read_text() for each in ("before", "after", "diff"))
    assert "\ndefault=0\ntimeout=7\nhiddenmenu\n" in before
    assert "\ndefault=1\ntimeout=15\n#hiddenmenu\n" in after
    assert f"\n+title {NEW_ENTRY}" in diff


def test_the_pictures_show_grubs_menu_and_the_booted_guest(grafted: Stage) -> None:
    menu = read_picture(grafted.directory / "screen-grub-menu.png")
    assert "GNU GRUB" in menu
    assert NEW_ENTRY in menu
    assert "appliance login:" in read_picture(grafted.directory / "screen-guest.png")


def test_a_second_run_finds_the_work_done_and_changes_no_byte(
    grafted: Stage, second_run: Stage
) -> None:
    assert second_run.said.status == 0, second_run.said.text
    assert "already grafted; nothing was changed" in second_run.said.stdout
    assert second_run.result["outcome"] == "already-grafted"
    assert second_run.disk_hash == grafted.disk_hash
    assert second_run.vm_toml == LEGACY_VM_TOML
    assert second_run.leftovers == []


def test_a_rollback_brings_every_file_back(
    guest: Guest, rolled_back: Stage, tmp_path: Path
) -> None:
    assert rolled_back.said.status == 0, rolled_back.said.text
    raw = tmp_path / "disk.raw"
    run(["qemu-img", "convert", "-f", "vpc", "-O", "raw", guest.bench.disk, raw])
    file_systems = [Ext3(raw, offset) for offset in guest.file_systems]
    for file_system, states in zip(file_systems, guest.states, strict=True):
        assert read_states(file_system) == states
        run(["e2fsck", "-f", "-n", f"{raw}?offset={file_system.offset}"])
    assert rolled_back.vm_toml == LEGACY_VM_TOML
    assert rolled_back.leftovers == []


def test_the_guests_secrets_appear_nowhere(
    guest: Guest, dry_run: Stage, grafted: Stage, second_run: Stage, rolled_back: Stage
) -> None:
    texts = list(read_all_texts(guest, dry_run, grafted, second_run, rolled_back))
    assert sum("password ********" in text for text in texts) >= 4  # so they would be seen
    for secret in guest.appliance.secrets:
        assert not [text for text in texts if secret in text]


def read_all_texts(guest: Guest, *stages: Stage) -> Iterator[str]:
    """Give all that was said, kept and shown, serial messages put together again as well."""
    for stage in stages:
        yield stage.said.text
    for path in guest.bench.state.rglob("*"):
        if path.suffix == ".png":
            yield read_picture(path)
        elif path.is_file():
            yield path.read_bytes().decode("utf-8", "replace")
        if path.name == "console.log":
            yield join_frames(path.read_bytes())


def join_frames(console: bytes) -> str:
    """Put the text of the agent's frames together, each once, in order."""
    frames = [frame for frame in Decoder().feed(console) if frame.kind in "PD"]
    pieces = {(frame.session, frame.seq): frame.text for frame in frames}
    return "".join(text for _, text in sorted(pieces.items()))
