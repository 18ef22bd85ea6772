"""`bootgraft detach`: the media out of any number of machines, whoever put them in."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bootgraft_host.qemu import QemuMachine
from host.shell import Shell
from host.simulated import CONFIGURATION, Guest

VM_TOML = """\
name = "hand made"   # a comment
memory_mib = 64
boot_order = ["dvd", "disk"]
[[disk]]
path = "disk.img"
format = "raw"
channel = 0
unit = 0
[[dvd]]
channel = 1
unit = 0
iso = "bootgraft.iso"
[[dvd]]
channel = 1
unit = 1
iso = "payload.iso"
[network]
kind = "virtio"
mac = "52:54:00:12:34:56"
"""


def insert(shell: Shell, *names: str) -> None:
    """Have machines whose ISOs were put in by hand."""
    for name in names:
        machine = shell.machine(name)
        machine._configure(dvds=["/live.iso"], boot_order=["dvd", "disk"])


def test_every_machine_is_done_and_said(shell: Shell) -> None:
    insert(shell, "one", "two")
    output = shell("detach", "one", "two", "three")
    assert (output.status, output.err) == (0, "")
    assert output.out.splitlines() == [
        "appliance: ejected an ISO",
        "appliance: ejected an ISO",
        "appliance: no ISO was in it, and its disk boots first",
    ]
    for name in ("one", "two"):
        assert shell.machine(name).configuration == CONFIGURATION


def test_a_machine_that_cannot_be_changed_stops_no_other(shell: Shell) -> None:
    insert(shell, "on", "off")
    shell.machine("on").start()
    output = shell("detach", "on", "off", "wrong.toml", "--json")
    assert output.status == 2
    machines = output.document["machines"]
    assert [each["exit_status"] for each in machines] == [1, 0, 2]
    assert "is on: its media are taken out once it is off; --wait" in machines[0]["message"]
    assert shell.machine("on").configuration["dvds"] == ["/live.iso"]
    assert shell.machine("off").configuration == CONFIGURATION


def test_a_machine_that_a_cut_off_run_holds_is_left_to_recover(shell: Shell) -> None:
    shell.guest.never_hello = True
    machine = shell.machine()
    state = shell.folder / "state"
    record = state / "machines" / machine.machine_id
    record.mkdir(parents=True, mode=0o700)
    document = {
        "format": 1,
        "machine_id": machine.machine_id,
        "machine_name": "appliance",
        "target": "vm",
        "run_id": "run-1",
        "started": "2026-01-01T00:00:00+00:00",
        "stage": "captured",
        "configuration": {},
        "checkpoint": None,
    }
    (record / "unfinished.json").write_text(json.dumps(document))
    insert(shell, "vm")
    output = shell("detach", "vm")
    assert output.status == 3
    assert "bootgraft recover" in output.err.replace("\n", " ")
    assert shell.machine().configuration["dvds"] == ["/live.iso"]


@pytest.fixture
def vm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    path = tmp_path / "vm.toml"
    path.write_text(VM_TOML)
    return path


def test_a_vm_toml_keeps_every_other_byte(vm: Path) -> None:
    machine = QemuMachine(vm)
    assert machine.take_media_out() == (
        f"ejected {vm.parent}/bootgraft.iso at channel 1, unit 0",
        f"ejected {vm.parent}/payload.iso at channel 1, unit 1",
        "boot order: disk, dvd",
    )
    assert vm.read_text() == VM_TOML.replace('"bootgraft.iso"', '""').replace(
        '"payload.iso"', '""'
    ).replace('["dvd", "disk"]', '["disk", "dvd"]')
    before = vm.stat().st_mtime_ns
    assert machine.take_media_out() == ()
    assert vm.stat().st_mtime_ns == before


def test_the_command_itself_does_it(vm: Path) -> None:
    command = Path(sys.executable).with_name("bootgraft")
    done = subprocess.run(
        [command, "detach", vm.parent, "--state-dir", vm.parent / "state"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("hand made: ejected ")


@pytest.mark.parametrize("request_name", ["inspect", "apply", "power_off"])
def test_a_run_leaves_the_machine_to_the_person_at_its_console(
    shell: Shell, request_name: str
) -> None:
    message = "a person works at this machine's own console"
    shell.guest = Guest(errors={request_name: ("occupied", message)})
    output = shell.run()
    said = " ".join(output.err.split())
    assert output.status == 3
    assert message in said
    assert "left to them, on and with the media in it: when they are done, " in said
    assert "bootgraft recover" in said
    machine = shell.machine()
    assert machine.state() == "running"
    assert machine.configuration["dvds"] != CONFIGURATION["dvds"]
    assert shell("recover").status == 0
    assert shell.machine().state() == "off"
