"""A whole run with one DVD drive, on a machine that has no place for a second one."""

import secrets
from collections.abc import Callable
from pathlib import Path

import pytest

from vm.appliance import build_appliance
from vm.bench import Bench
from vm.commands import run
from vm.demo import VM_TOML

pytestmark = [pytest.mark.vm, pytest.mark.matrix]

OTHER_DISK_SIZE = 1024 * 1024  # bytes
OTHER_DISKS = {"second.img": (0, 1), "third.img": (1, 1)}  # channel and unit, by name


def test_a_run_with_one_drive_grafts_and_proves_the_boot(
    make_bench: Callable[[], Bench], payload_iso: Path
) -> None:
    bench = make_bench()
    appliance = build_appliance(bench.folder, token=secrets.token_hex(8))
    others = "".join(add_disk(bench.folder, name) for name in OTHER_DISKS)
    vm_toml = VM_TOML.replace("[[dvd]]", f"{others}[[dvd]]")
    bench.vm.write_text(vm_toml)
    options = (bench.vm, "--payload", payload_iso, "--expect", appliance.expect)

    refused = bench.bootgraft("run", *options)
    assert refused.status == 1
    assert "0 of the four IDE slots are free" in refused.stderr
    assert bench.vm.read_text() == vm_toml

    said = bench.bootgraft("run", *options, "--one-drive")
    assert said.status == 0, said.text
    result = bench.read_result()
    assert (result["outcome"], result["confirm"]["proof"]) == ("grafted", "com1")
    assert result["steps"].index("exchange") == result["steps"].index("handshake") + 1
    assert result["problem"] is None  # already the first look finds the payload
    (drive,) = result["facts"]["dvd_drives"]
    assert (drive["name"], drive["label"], drive["is_live_medium"]) == ("hdc", "LIC", False)
    assert bench.vm.read_text() == vm_toml.replace('kind = "virtio"', 'kind = "legacy"')
    assert bench.leftovers() == []


def add_disk(folder: Path, name: str) -> str:
    """Make an empty disk; give its part of vm.toml."""
    run(["qemu-img", "create", "-q", "-f", "raw", folder / name, str(OTHER_DISK_SIZE)])
    channel, unit = OTHER_DISKS[name]
    return f'[[disk]]\npath = "{name}"\nformat = "raw"\nchannel = {channel}\nunit = {unit}\n\n'
