"""A whole run on the demo appliance in a machine of a modelled Hyper-V host, as a user does it.

`bootgraft` is a process of its own; it reaches the host, another process, through WinRM: pypsrp,
the scripts, the relay. The host's machine is QEMU's. The stages are done once, in order, each by a
fixture that needs the one before; the tests look at what each stage has left.
"""

import secrets
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hyperv.endpoint import PASSWORD
from hyperv.hyperv_bench import HostProcess, HyperVBench, target
from vm.appliance import Appliance, build_appliance
from vm.bench import Said, find_live_iso
from vm.commands import run
from vm.ext3 import Ext3
from vm.file_states import FileState, read_states
from vm.guest_disk import GuestDisk
from vm.payload import build_payload
from vm.picture import read_picture

pytestmark = pytest.mark.vm
matrix = pytest.mark.matrix

NAME = "demo appliance"  # with a space
MAC = "00155D0A0B0C"
NOTES = "Ask Mallory before you touch this.\r\n"
NEW_ENTRY = "Hyper-V (bootgraft): Appliance"
# What a legacy adapter cannot have of the one in whose place it is.
OTHER_IN_ADAPTER = {"Id", "IsLegacy", "VmqWeight"}


@dataclass(frozen=True, slots=True)
class Place:
    """The served host, its machine with the appliance, and the controller's computer."""

    host: HostProcess
    bench: HyperVBench
    vm: str
    appliance: Appliance
    file_systems: tuple[int, ...]  # offsets on the disk
    states: tuple[Mapping[str, FileState], ...]  # of each file system
    payload: Path


@dataclass(frozen=True, slots=True)
class Stage:
    """One command, and what it has left."""

    said: Said
    directory: Path
    result: Mapping[str, Any]
    description: dict[str, Any]
    left: dict[str, Any]  # on the host
    changed: list[bool]  # of each file system, whether its files are others than before


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("whole")
    states: list[dict[str, FileState]] = []
    offsets: list[int] = []

    def note(disk: GuestDisk) -> None:
        states.extend(read_states(each) for each in disk.file_systems)
        offsets.extend(each.offset for each in disk.file_systems)

    with tempfile.TemporaryDirectory(prefix="bg") as runtime:
        bench = HyperVBench(folder, Path(runtime))
        with HostProcess(bench.host_folder, bench.environment) as host:
            images = host.drive() / "VMs"
            images.mkdir(parents=True)
            appliance = build_appliance(images, token=secrets.token_hex(8), edit_disk=note)
            vm = host.ask(
                "add_vm",
                name=NAME,
                power="qemu",
                hard_drives=[{"path": "C:\\VMs\\appliance.vhd"}],
                adapters=[{"mac": MAC, "vlan": 7}],
                notes=NOTES,
                automatic_checkpoints=True,
            )
            disk = (tuple(offsets), tuple(states))
            yield Place(host, bench, vm, appliance, *disk, build_payload(folder))


@pytest.fixture(scope="module")
def before(place: Place) -> dict[str, Any]:
    """The machine's whole description before anything was done."""
    found: dict[str, Any] = place.host.ask("describe", vm=place.vm)
    return found


@pytest.fixture(scope="module")
def grafted(place: Place, before: dict[str, Any]) -> Stage:
    """The graft and the boot that proves it."""
    isos = ("--upload", "--payload", place.payload, "--iso", find_live_iso())
    return perform(place, "run", *isos, "--expect", place.appliance.expect)


@pytest.fixture(scope="module")
def rolled_back(place: Place, grafted: Stage) -> Stage:
    """The way back."""
    return perform(place, "rollback", "--upload", "--iso", find_live_iso())


def perform(place: Place, command: str, *arguments: str | Path) -> Stage:
    said = place.bench.bootgraft(command, target(NAME), *arguments)
    return Stage(
        said=said,
        directory=place.bench.run_directories()[-1],
        result=place.bench.read_result(),
        description=place.host.ask("describe", vm=place.vm),
        left=place.host.ask("look"),
        changed=check_disk(place),
    )


def check_disk(place: Place) -> list[bool]:
    """Check the file systems; tell of each whether its files are others than before."""
    image = place.host.drive() / "VMs" / "appliance.vhd"
    with tempfile.TemporaryDirectory() as scratch:
        raw = Path(scratch, "disk.raw")
        run(["qemu-img", "convert", "-f", "vpc", "-O", "raw", image, raw])
        for offset in place.file_systems:
            run(["e2fsck", "-f", "-n", f"{raw}?offset={offset}"])
        found = [read_states(Ext3(raw, offset)) for offset in place.file_systems]
    return [now != then for now, then in zip(found, place.states, strict=True)]


def test_the_grafted_machine_boots_into_its_own_userland_on_xen(
    place: Place, grafted: Stage
) -> None:
    assert grafted.said.status == 0, grafted.said.text
    assert grafted.result["outcome"] == "grafted"
    assert grafted.result["confirm"]["proof"] == "com1"
    marker = f"BOOTGRAFT-DEMO {place.appliance.token} hypervisor=xen boot=ok root=/dev/hda2"
    assert grafted.result["confirm"]["evidence"] == [marker]
    assert marker.encode() in (grafted.directory / "console-confirm.log").read_bytes()


def test_the_machine_is_as_it_was_but_for_the_legacy_adapter(
    before: dict[str, Any], grafted: Stage
) -> None:
    after = grafted.description
    assert (after["State"], after["Notes"]) == ("Off", NOTES)
    assert {**after, "NetworkAdapters": []} == {**before, "NetworkAdapters": []}
    (old,), (new,) = before["NetworkAdapters"], after["NetworkAdapters"]
    assert new["IsLegacy"]
    assert (new["MacAddress"], new["SwitchName"]) == (MAC, "LAN")
    assert new["Vlan"][0]["AccessVlanId"] == 7
    assert {name for name in old if old[name] != new[name]} == OTHER_IN_ADAPTER


@pytest.mark.parametrize("stage", ["grafted", pytest.param("rolled_back", marks=matrix)])
def test_nothing_is_left_on_the_host(stage: str, request: pytest.FixtureRequest) -> None:
    left = request.getfixturevalue(stage).left
    assert left["files"] == ["C:\\VMs\\appliance.vhd"]
    assert (left["shells"], left["pipes"], left["warnings"]) == ([], [], [])
    assert {"write-block", "hash", "relay-exchange", "screenshot"} <= {*left["scripts"]}


def test_the_thumbnails_show_grubs_menu_and_the_booted_guest(grafted: Stage) -> None:
    pictures = {Path(path).stem: Path(path) for path in grafted.result["confirm"]["pictures"]}
    for path in pictures.values():
        with Image.open(path) as picture:
            assert picture.format == "PNG"
    shown = [read_picture(path) for path in pictures.values() if is_text(path)]
    assert [text for text in shown if "GNU GRUB" in text and NEW_ENTRY in text]
    assert "appliance login:" in read_picture(pictures["screen-guest"])


def is_text(path: Path) -> bool:
    with Image.open(path) as picture:
        return picture.size == (720, 400)


def test_both_file_systems_of_the_guest_are_changed_and_clean(grafted: Stage) -> None:
    assert grafted.changed == [True, True]


@matrix
def test_a_rollback_brings_every_file_back_and_leaves_the_machine(
    grafted: Stage, rolled_back: Stage
) -> None:
    assert rolled_back.said.status == 0, rolled_back.said.text
    assert rolled_back.result["outcome"] == "rolled-back"
    assert rolled_back.changed == [False, False]
    assert rolled_back.description == grafted.description


@pytest.mark.parametrize("stage", ["grafted", pytest.param("rolled_back", marks=matrix)])
def test_no_secret_is_said_or_kept(
    place: Place, stage: str, request: pytest.FixtureRequest
) -> None:
    performed = request.getfixturevalue(stage)
    kept = [path.read_bytes() for path in performed.directory.iterdir()]
    kept.append(performed.said.text.encode())
    for secret in (PASSWORD, *place.appliance.secrets):
        assert not [data for data in kept if secret.encode() in data]


@matrix
def test_a_run_with_one_drive_on_a_machine_without_room_for_two(
    tmp_path: Path,
) -> None:
    with tempfile.TemporaryDirectory(prefix="bg") as runtime:
        bench = HyperVBench(tmp_path, Path(runtime))
        with HostProcess(bench.host_folder, bench.environment) as host:
            run_with_one_drive(bench, host)


def run_with_one_drive(bench: HyperVBench, host: HostProcess) -> None:
    images = host.drive() / "VMs"
    images.mkdir(parents=True)
    appliance = build_appliance(images, token=secrets.token_hex(8))
    for name in ("second.img", "third.img"):
        run(["qemu-img", "create", "-q", "-f", "raw", images / name, "1M"])
    slots = (("appliance.vhd", 0, 0), ("second.img", 0, 1), ("third.img", 1, 1))
    drives = [
        {"path": f"C:\\VMs\\{name}", "number": number, "location": location}
        for name, number, location in slots
    ]
    nics = [{"mac": MAC}]
    vm = host.ask("add_vm", name=NAME, power="qemu", hard_drives=drives, adapters=nics)
    before = host.ask("describe", vm=vm)
    payload = build_payload(bench.host_folder)
    isos = ("--upload", "--payload", payload, "--iso", find_live_iso())
    command = ("run", target(NAME), *isos, "--expect", appliance.expect)

    refused = bench.bootgraft(*command)
    assert refused.status == 1
    assert "0 of its four IDE slots free" in refused.stderr
    assert host.ask("describe", vm=vm) == before

    said = bench.bootgraft(*command, "--one-drive")
    assert said.status == 0, said.text
    result = bench.read_result()
    assert (result["outcome"], result["confirm"]["proof"]) == ("grafted", "com1")
    assert "exchange" in result["steps"]
    (drive,) = result["facts"]["dvd_drives"]
    assert (drive["name"], drive["label"]) == ("hdc", "LIC")
    after = host.ask("describe", vm=vm)
    assert {**after, "NetworkAdapters": []} == {**before, "NetworkAdapters": []}
    assert [nic["IsLegacy"] for nic in after["NetworkAdapters"]] == [True]
    assert len(host.ask("look")["files"]) == len(drives)
