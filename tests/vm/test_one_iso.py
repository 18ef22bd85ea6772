"""One ISO that brings its payload along, unattended: nothing else attached, nobody there."""

import json
import secrets
from dataclasses import dataclass
from pathlib import Path

import pytest

from vm.appliance import Appliance, build_appliance
from vm.bench import find_live_iso
from vm.boots import boot_disk
from vm.consoles import boot_console, boot_file_system, hash_file, make_iso
from vm.guest_disk import GuestDisk
from vm.person import Person

pytestmark = pytest.mark.vm

GRAFT_TIMEOUT = 180.0  # seconds; about 30 on an idle machine
POWER_OFF_AFTER = 4  # seconds


@dataclass(frozen=True, slots=True)
class Machine:
    """The appliance, and where its boot file system begins on the disk."""

    appliance: Appliance
    boot_offset: int
    iso: Path


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    folder = tmp_path_factory.mktemp("one-iso")
    offsets: list[int] = []

    def note(disk: GuestDisk) -> None:
        offsets.extend(each.offset for each in disk.file_systems)

    appliance = build_appliance(folder, token=secrets.token_hex(8), edit_disk=note)
    options = (f"power-off-after={POWER_OFF_AFTER}", "time-limit=900")
    iso = make_iso(find_live_iso(), folder, "unattended", *options, with_payload=True)
    return Machine(appliance, offsets[0], iso)


@pytest.fixture(scope="module")
def grafted_screen(machine: Machine) -> str:
    """What the screen says after a graft without even a serial port, until the machine is off."""
    with boot_console(machine.appliance.disk, machine.iso, has_com1=False) as boot:
        person = Person(boot)
        shown = person.sees("switches itself off in", GRAFT_TIMEOUT)
        person.keeps_picture("unattended-success")
        boot.wait_off(POWER_OFF_AFTER + 30)
    return shown


def test_the_screen_says_success_and_the_one_next_step(grafted_screen: str) -> None:
    assert "bootgraft: SUCCESS" in grafted_screen
    assert "What to do now: Take the ISO out of the drive" in grafted_screen


def test_the_result_lies_beside_the_backups(
    machine: Machine, grafted_screen: str, tmp_path: Path
) -> None:
    boot = boot_file_system(machine.appliance.disk, tmp_path, machine.boot_offset)
    (run_id,) = boot.names("/bootgraft")
    assert run_id.startswith("unattended-")
    document = json.loads(boot.read(f"/bootgraft/{run_id}/result.json"))
    assert (document["ok"], document["outcome"], document["run_id"]) == (True, "grafted", run_id)
    assert document["inspection"]["facts"]["guest"]["payload"]["name"] == "hdc"


def test_a_plain_boot_afterwards_shows_the_appliance_s_own_word(
    machine: Machine, grafted_screen: str
) -> None:
    with boot_disk(machine.appliance.disk, disk_format="vpc") as boot:
        boot.wait_for_console(machine.appliance.expect, 180)


@pytest.mark.matrix
def test_a_grafted_machine_says_remove_the_iso_and_changes_nothing(
    machine: Machine, grafted_screen: str
) -> None:
    before = hash_file(machine.appliance.disk)
    with boot_console(machine.appliance.disk, machine.iso) as boot:
        person = Person(boot)
        shown = person.sees("switches itself off in", GRAFT_TIMEOUT)
        person.keeps_picture("unattended-already-grafted")
        assert "This machine is grafted already. Nothing was changed." in shown
        assert "Take the ISO out of the drive" in shown
        boot.wait_off(POWER_OFF_AFTER + 30)
        assert '"outcome": "already-grafted"' in boot.console_text()
    assert hash_file(machine.appliance.disk) == before
