"""QEMU's command line for a machine."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bootgraft_host.qemu_command import build_command
from bootgraft_host.vmconfig import (
    AdapterKind,
    Com1Config,
    DeviceClass,
    DiskConfig,
    DvdConfig,
    NetworkConfig,
    Slot,
    VmConfig,
)

CONFIG = VmConfig(
    name="appliance, old",
    firmware="bios",
    memory_mib=768,
    boot_order=("disk", "dvd"),
    disks=(DiskConfig(Path("/vms/a,b.vhd"), "vpc", Slot(0, 0)),),
    dvds=(DvdConfig(Slot(1, 1), Path("/iso/x.iso")), DvdConfig(Slot(1, 0))),
    network=NetworkConfig("legacy", "52:54:00:12:34:56"),
    com1=Com1Config(None),
)


def command(config: VmConfig) -> list[str]:
    return build_command(
        config,
        accelerator="tcg",
        qmp_socket=Path("/run/m/qmp.sock"),
        com1_socket=Path("/run/m,n/com1.sock"),
        pid_file=Path("/run/m/pid"),
    )


def values(option: str, config: VmConfig = CONFIG) -> list[str]:
    argv = command(config)
    return [argv[place + 1] for place, word in enumerate(argv) if word == option]


def devices(config: VmConfig) -> list[str]:
    return values("-device", config)


def test_the_machine_itself() -> None:
    assert values("-name") == ["guest=appliance,, old"]
    assert values("-m") == ["768"]
    assert values("-accel") == ["tcg"]
    assert values("-machine") == ["pc"]
    assert values("-rtc") == ["base=utc"]
    assert values("-pidfile") == ["/run/m/pid"]
    assert {"-nodefaults", "-no-user-config", "-no-reboot"} <= set(command(CONFIG))


def test_images_have_explicit_formats_and_isos_are_read_only() -> None:
    nodes = [json.loads(value) for value in values("-blockdev")]
    assert [(n["driver"], n["file"]["filename"], n["read-only"]) for n in nodes] == [
        ("vpc", "/vms/a,b.vhd", False),
        ("raw", "/iso/x.iso", True),
    ]


def test_devices_sit_in_their_slots_and_an_empty_drive_has_no_medium() -> None:
    assert devices(CONFIG)[:3] == [
        "ide-hd,bus=ide.0,unit=0,drive=ide0-0,bootindex=0",
        "ide-cd,bus=ide.1,unit=1,id=dvd1-1,drive=ide1-1,bootindex=2",
        "ide-cd,bus=ide.1,unit=0,id=dvd1-0,bootindex=1",
    ]


@pytest.mark.parametrize(
    ("order", "indexes"),
    [
        (("disk", "dvd"), {"ide-hd 0": 0, "ide-cd 1": 2, "ide-cd 0": 1}),
        (("dvd", "disk"), {"ide-hd 0": 2, "ide-cd 1": 1, "ide-cd 0": 0}),
        (("dvd",), {"ide-hd 0": None, "ide-cd 1": 1, "ide-cd 0": 0}),
    ],
)
def test_boot_order_is_class_by_class_and_lowest_slot_first(
    order: tuple[DeviceClass, ...], indexes: dict[str, int | None]
) -> None:
    found: dict[str, int | None] = {}
    for device in devices(replace(CONFIG, boot_order=order))[:3]:
        driver, *rest = device.split(",")
        options = dict(option.split("=") for option in rest)
        index = options.get("bootindex")
        found[f"{driver} {options['unit']}"] = None if index is None else int(index)
    assert found == indexes
    assert values("-boot", CONFIG) == ["menu=off,strict=on"]


@pytest.mark.parametrize(
    ("kind", "device"),
    [("legacy", "tulip"), ("e1000", "e1000"), ("virtio", "virtio-net-pci")],
)
def test_adapters_keep_their_mac_and_lead_nowhere(kind: AdapterKind, device: str) -> None:
    config = replace(CONFIG, network=NetworkConfig(kind, "52:54:00:12:34:56"))
    assert devices(config)[-1] == f"{device},mac=52:54:00:12:34:56,romfile="
    assert values("-nic", config) == ["none"]
    assert "-netdev" not in command(config)


@pytest.mark.parametrize("network", [None, NetworkConfig("none", None)])
def test_a_machine_may_have_no_adapter(network: NetworkConfig | None) -> None:
    config = replace(CONFIG, network=network)
    assert len(devices(config)) == len(devices(CONFIG)) - 1
    assert values("-nic", config) == ["none"]


def test_com1_is_served_on_its_socket() -> None:
    assert "socket,id=com1,path=/run/m,,n/com1.sock,server=on,wait=off" in values("-chardev")
    assert values("-serial") == ["chardev:com1"]


def test_a_machine_may_have_no_com1() -> None:
    config = replace(CONFIG, com1=None)
    assert values("-serial", config) == []
    assert len(values("-chardev", config)) == 1
