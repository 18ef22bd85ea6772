"""Modelled machines whose guests QEMU runs, with the guest program of 512 bytes."""

import re
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bootgraft_host import qemu_accelerator
from bootgraft_host.hyperv.runner import ScriptError
from bootgraft_host.hyperv.thumbnail import take_thumbnail
from bootgraft_host.qemu_accelerator import choose_accelerator
from host.boot_programs import build_disk, build_iso
from hyperv.adapters import Nic
from hyperv.direct import DirectRunner
from hyperv.model import SimulatedHost
from hyperv.pipes import Connection
from hyperv.power import QemuPower
from hyperv.qemu_power import describe_hardware, disk_format
from hyperv.scripting import change, slot
from hyperv.vm import Vm

pytestmark = pytest.mark.vm

NAME = "bootgraft-qemu"
BOOT_TIMEOUT = 60.0  # seconds
DISK = "C:\\VMs\\tiny.img"
LIVE = "C:\\ISOs\\live.iso"
PAYLOAD = "C:\\ISOs\\payload.iso"
CD_FIRST = ["CD", "IDE", "LegacyNetworkAdapter", "Floppy"]
IDE_FIRST = ["IDE", "CD", "LegacyNetworkAdapter", "Floppy"]


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A runtime folder of the test's own, with a short path; what KVM does is known."""
    accelerator = choose_accelerator()
    with tempfile.TemporaryDirectory(prefix="bg") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        monkeypatch.setenv("XDG_CACHE_HOME", f"{folder}/cache")
        known = qemu_accelerator._cache_file()
        known.parent.mkdir(parents=True)
        known.write_text(accelerator)
        yield


@pytest.fixture
def host(tmp_path: Path) -> SimulatedHost:
    host = SimulatedHost(tmp_path / "host")
    for path in (DISK, LIVE):
        host.files.locate(path).parent.mkdir(parents=True)
    build_disk(host.files.locate(DISK), "DISK")
    build_iso(host.files.locate(LIVE), "LIVE")
    build_iso(host.files.locate(PAYLOAD), "PAYLOAD")
    return host


@pytest.fixture
def vm(host: SimulatedHost, tmp_path: Path) -> Iterator[Vm]:
    vm = host.add_vm("tiny", hard_drives=[DISK], memory_mib=16, power=QemuPower(tmp_path / "qemu"))
    vm.com_ports[0].path = f"\\\\.\\pipe\\{NAME}"
    yield vm
    vm.turn_off()


def wait_for(condition: Callable[[], bool], timeout: float = 20.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def boot(host: SimulatedHost, vm: Vm) -> tuple[Connection, str]:
    """Start the machine, and give the pipe and the name of the medium that has booted."""
    vm.start()
    client = host.pipes.connect(NAME, 10)
    data = b""
    deadline = time.monotonic() + BOOT_TIMEOUT

    def late() -> bool:
        return time.monotonic() > deadline

    while (greeting := re.search(rb"\n(\w+) *\n", data)) is None:
        data += client.read(100, late)
        assert not late(), data
    client.write(b"x")
    while b"X" not in data:
        data += client.read(100, late)
        assert not late(), data
    return client, greeting[1].decode()


def test_the_startup_order_decides_what_boots(host: SimulatedHost, vm: Vm) -> None:
    change(host, vm, Insert=[slot(1, 0, Path=LIVE)])
    change(host, vm, Bios=[{"StartupOrder": IDE_FIRST}])
    assert boot(host, vm)[1] == "DISK"
    vm.turn_off()
    change(host, vm, Bios=[{"StartupOrder": CD_FIRST}])
    client, name = boot(host, vm)
    assert name == "LIVE"
    client.write(b"p")
    wait_for(lambda: vm.plain_state == "Off")
    assert client.read(100) == b""
    assert host.pipes.names() == []


def test_media_are_exchanged_while_the_guest_runs(host: SimulatedHost, vm: Vm) -> None:
    change(host, vm, Insert=[slot(1, 0, Path=LIVE)])
    boot(host, vm)
    runner = DirectRunner(host)
    for path in (PAYLOAD, None):
        runner.run("insert", {"Id": str(vm.id), **slot(1, 0, Path=path)})
        assert vm.dvd_drives[0].path == path


def test_the_screen_is_a_picture(host: SimulatedHost, vm: Vm, tmp_path: Path) -> None:
    boot(host, vm)
    path = tmp_path / "screen.png"
    take_thumbnail(DirectRunner(host), str(vm.id), path)
    content = path.read_bytes()
    assert struct.unpack(">II", content[16:24]) == (720, 400)
    assert len(content) > 300


def test_a_checkpoint_keeps_the_disk_of_then(host: SimulatedHost, vm: Vm) -> None:
    runner = DirectRunner(host)
    before = host.files.locate(DISK).read_bytes()
    (made,) = runner.run("checkpoint", {"Id": str(vm.id), "Name": "bootgraft"})
    overlay = vm.hard_drives[0].path
    assert overlay is not None
    assert disk_format(Path(overlay)) == "qcow2"
    assert boot(host, vm)[1] == "DISK"
    vm.turn_off()
    write = ["qemu-io", "-f", "qcow2", "-c", "write -P 7 4096 512"]
    subprocess.run([*write, str(host.files.locate(overlay))], check=True, capture_output=True)
    assert host.files.locate(DISK).read_bytes() == before
    vm.start()
    runner.run("remove-checkpoint", {"CheckpointId": made["Id"]})
    assert vm.hard_drives[0].path == overlay  # until it is off
    vm.turn_off()
    assert vm.hard_drives[0].path == DISK
    assert host.files.locate(DISK).read_bytes()[4096:4608] == b"\7" * 512


def test_what_qemu_refuses_is_a_start_that_fails(host: SimulatedHost, vm: Vm) -> None:
    host.files.locate(DISK).unlink()
    with pytest.raises(ScriptError, match=r"failed to start.*tiny\.img"):
        DirectRunner(host).run("start", {"Id": str(vm.id)})
    assert vm.plain_state == "Off"


def test_an_old_guest_sees_no_synthetic_adapter(host: SimulatedHost, vm: Vm) -> None:
    assert "network" not in describe_hardware(vm, Path("/com1"))
    old = host.add_vm("old", adapters=[Nic(), Nic(legacy=True, mac="00155D010203")])
    assert describe_hardware(old, Path("/com1"))["network"] == {
        "kind": "legacy",
        "mac": "00:15:5D:01:02:03",
    }
