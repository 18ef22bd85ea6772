"""What describe answers, parsed strictly, and stored as JSON."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from bootgraft_host.hyperv.description import (
    Slot,
    VmDescription,
    parse_description,
    to_document,
)
from bootgraft_host.hyperv.runner import HostError
from hyperv.adapters import Nic
from hyperv.descriptions import describe_vm, machines
from hyperv.hardware import Dvd
from hyperv.machines import OWN_ISO, make_host
from hyperv.model import Windows

Document = dict[str, Any]


@given(machines())
def test_a_description_goes_through_json_unchanged(description: VmDescription) -> None:
    assert parse_description(json.loads(json.dumps(to_document(description)))) == description


@pytest.mark.parametrize("windows", ["2012R2", "2016", "2022"])
@pytest.mark.parametrize("generation", [1, 2])
def test_what_a_host_answers_is_a_description(
    tmp_path: Path, windows: Windows, generation: int
) -> None:
    host = make_host(tmp_path, windows=windows)
    vm = host.add_vm(
        "Müller's machine [1]",
        generation=generation,
        dvd_drives=(Dvd(path=OWN_ISO) if generation == 1 else Dvd(0, 1, OWN_ISO),),
        adapters=(Nic(mac="00155D0A0B0C", vlan=7), Nic(switch=None)),
    )
    vm.take_checkpoint("before")
    document = host.describe(vm)
    found = parse_description(document)
    assert found.name == "Müller's machine [1]"
    assert found.generation == generation
    assert [drive.path for drive in found.dvd_drives] == [OWN_ISO]
    assert [checkpoint.name for checkpoint in found.checkpoints] == ["before"]
    assert [adapter.switch_name for adapter in found.network_adapters] == ["LAN", ""]
    assert found.network_adapters[0].vlan[0].access_vlan_id == 7
    assert (found.startup_order == ()) == (generation == 2)
    assert (found.automatic_checkpoints_enabled is None) == (windows in ("2012R2", "2016"))
    assert parse_description(to_document(found)) == found


def test_empty_texts_stand_for_what_hyper_v_leaves_out() -> None:
    document = document_of(lambda each: each["DvdDrives"][0].update(Path=None, PoolName=None))
    (drive,) = parse_description(document).dvd_drives
    assert (drive.path, drive.pool_name) == ("", "")
    assert drive.slot == Slot(1, 0)


def document_of(change: Callable[[Document], object]) -> Document:
    document: Document = json.loads(json.dumps(to_document(describe_vm())))
    change(document)
    return document


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda each: each.pop("Notes"), "the machine's Notes is missing"),
        (lambda each: each.update(Name=7), "the machine's Name: expected str, found 7"),
        (lambda each: each.update(Generation=True), "Generation: expected int, found True"),
        (lambda each: each.update(Generation=None), "Generation: expected int, found None"),
        (
            lambda each: each.update(AutomaticCheckpointsEnabled=1),
            "AutomaticCheckpointsEnabled: expected bool or NoneType, found 1",
        ),
        (lambda each: each.update(DvdDrives={}), "the machine's DvdDrives: expected a list"),
        (lambda each: each.update(DvdDrives="none"), "the machine's DvdDrives: expected a list"),
        (lambda each: each.update(DvdDrives=[1]), "DvdDrives, number 1: expected DvdDrive"),
        (
            lambda each: each["DvdDrives"][0].update(ControllerNumber="1"),
            "the machine's DvdDrives, number 1's ControllerNumber: expected int, found '1'",
        ),
        (
            lambda each: each["NetworkAdapters"][0]["Vlan"][0].pop("NativeVlanId"),
            "the machine's NetworkAdapters, number 1's Vlan, number 1's NativeVlanId is missing",
        ),
        (lambda each: each.update(ComPorts=[]), "COM1 is missing"),
    ],
)
def test_any_other_shape_is_refused_and_the_field_named(
    change: Callable[[Document], object], message: str
) -> None:
    with pytest.raises(HostError) as caught:
        parse_description(document_of(change))
    assert message in str(caught.value)
