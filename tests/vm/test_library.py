"""All ready recipes at once, on a Debian that moves to another hypervisor.

One ISO patches the machine by itself. The guest then starts on its old hardware, where cloud-init
finds its seed and root logs in with the new password to make initrd and menu anew, as the recipes'
notes say; and on virtio, where the disk has another name, the kernel and a login are on COM1, the
network is up, and the new key opens it.
"""

import contextlib
import os
import secrets
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from bootgraft_agent.recipe_file import library
from bootgraft_host.customise import BootChanges, customise_iso
from bootgraft_host.recipe_cli import choose
from bootgraft_host.recipes import Setting
from vm.bench import Bench, find_live_iso
from vm.boots import Boot
from vm.commands import run
from vm.consoles import boot_console
from vm.debian_systems import BOUND_MAC, Name, PathState, build_system, modern_vm_toml, read_states
from vm.person import Person

pytestmark = [pytest.mark.vm, pytest.mark.matrix, pytest.mark.timeout(1800)]

NAME: Name = "debian-12-cloud"
READY = tuple(library())
HOSTNAME = "moved"
PASSWORD = "grafted-root-word"  # noqa: S105
# Of that password.
HASH = (
    "$6$bootgraftnew$"
    "jp5/FQDSjgXMFMvPXNU4Ma.U2XFtOlEcShGY1g5dPthYZHmr7lL/sbfjB1bSRv9NvrhJkr0of1PBAMwkt/X9E0"
)
BOOT_TIMEOUT = 400.0  # seconds; about 60 on an idle machine
COMMAND_TIMEOUT = 300.0
POWER_OFF_AFTER = 4
MEMORY = 512  # MiB
GUEST_ADDRESS = "192.0.2.10"
SEED = "#cloud-config\nruncmd:\n- echo BOOTGRAFT-SEED TOKEN >/dev/ttyS0\n"
QUESTIONS = {
    "root": "findmnt -no SOURCE /",
    "swap": "swapon --show=NAME --noheadings",
    "arguments": "cat /proc/cmdline",
    "drivers": "zstd -dc </initrd.img | cpio --list --quiet | xargs -n 1 basename",
    "interfaces": "ls /sys/class/net",
}


@dataclass(frozen=True, slots=True)
class Moved:
    """What the guest said at each stop, and its files before and after all."""

    first_console: str
    second_console: str
    answers: Mapping[str, str]
    before: Mapping[str, PathState]
    patched: Mapping[str, PathState]
    after: Mapping[str, PathState]


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory, live_iso: Path) -> Iterator[Moved]:
    if os.geteuid() != 0:
        pytest.skip("a Debian system is made with loop devices and mounts, which need root")
    folder = tmp_path_factory.mktemp("library")
    token = secrets.token_hex(8)
    system = build_system(NAME, folder)
    before = read_states(system)
    key = folder / "key"
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "an administrator", "-f", key])
    patch(system.disk, folder, token, key.with_suffix(".pub").read_text().strip())
    patched = read_states(system)
    copy = folder / "started.img"
    run(["cp", "--sparse=always", system.disk, copy])
    with tempfile.TemporaryDirectory(prefix="bg") as runtime:
        first = start_on_old_hardware(copy, Path(runtime, "com1"), token)
    second, answers = start_on_virtio(copy, key, token)
    copy.unlink()
    with tempfile.TemporaryDirectory(prefix="bg") as runtime:
        toml = modern_vm_toml(NAME)
        bench = Bench(folder, Path(runtime), live_iso, vm_toml=toml, disk=system.disk.name)
        rolled_back = bench.bootgraft("rollback", bench.vm, timeout=BOOT_TIMEOUT)
        assert rolled_back.status == 0, rolled_back.text
        bench.close()
    yield Moved(first, second, answers, before, patched, read_states(system))
    system.disk.unlink()


def patch(disk: Path, folder: Path, token: str, key: str) -> None:
    """Have one ISO carry out all ready recipes, with nobody there."""
    settings = {
        ("authorized-key", "key"): key,
        ("cloud-init-seed", "hostname"): HOSTNAME,
        ("cloud-init-seed", "user-data"): SEED.replace("TOKEN", token),
        ("reset-root-password", "hash"): HASH,
    }
    given = [Setting(recipe, name, value) for (recipe, name), value in settings.items()]
    iso = folder / "patch.iso"
    changes = BootChanges(0, "unattended", [f"bootgraft.power-off-after={POWER_OFF_AFTER}"])
    customise_iso(find_live_iso(), iso, changes, recipes=choose(READY, given, ()))
    with boot_console(disk, iso, disk_format="raw") as boot:
        shown = Person(boot).sees("switches itself off in", BOOT_TIMEOUT)
        assert "bootgraft: SUCCESS" in shown, shown
        boot.wait_off(POWER_OFF_AFTER + 60)


def start_on_old_hardware(disk: Path, com1: Path, token: str) -> str:
    """Log in with the new password, and make initrd and menu anew; give what COM1 showed."""
    drive = f"file={disk},format=raw,if=ide,index=0"
    with Boot(["-drive", drive], MEMORY, com1=com1) as boot, socket.socket(socket.AF_UNIX) as line:
        line.connect(str(com1))
        threading.Thread(target=read_on, args=(line,), daemon=True).start()
        boot.wait_for_console(f"BOOTGRAFT-SEED {token}", BOOT_TIMEOUT)
        for typed, answer in (
            ("", rf"^{HOSTNAME} login: "),
            ("root", "^Password: "),
            (PASSWORD, rf"root@{HOSTNAME}:~# "),
            ("update-initramfs -u && update-grub && echo made-$((40 + 2))", "^made-42"),
        ):
            line.sendall(f"{typed}\r".encode())
            boot.wait_for_console(answer, COMMAND_TIMEOUT)
        line.sendall(b"poweroff\r")
        boot.wait_off(COMMAND_TIMEOUT)
        return boot.console_text()


def read_on(line: socket.socket) -> None:
    """Take what comes, or the guest would wait; what it is stands in the machine's log."""
    with contextlib.suppress(OSError):
        while line.recv(4096):
            pass


def start_on_virtio(disk: Path, key: Path, token: str) -> tuple[str, dict[str, str]]:
    """Start the guest on other hardware; give what COM1 showed, and what it answered over SSH."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    forward = f"hostfwd=tcp:127.0.0.1:{port}-{GUEST_ADDRESS}:22"
    hardware = [
        *("-drive", f"file={disk},format=raw,if=none,id=disk"),
        *("-device", "virtio-blk-pci,drive=disk,addr=4"),
        *("-netdev", f"user,id=net,net=192.0.2.0/24,host=192.0.2.1,restrict=on,{forward}"),
        *("-device", f"virtio-net-pci,netdev=net,addr=3,mac={BOUND_MAC}"),
    ]
    with Boot(hardware, MEMORY) as boot:
        boot.wait_for_console(rf"^{HOSTNAME} login: ", BOOT_TIMEOUT)
        answers = {what: ask(command, port, key) for what, command in QUESTIONS.items()}
        ask(f"echo '<2>BOOTGRAFT-KERNEL {token}' >/dev/kmsg", port, key)
        boot.wait_for_console(f"BOOTGRAFT-KERNEL {token}", COMMAND_TIMEOUT)
        return boot.console_text(), answers


def ask(command: str, port: int, key: Path) -> str:
    """Run a command in the guest, over SSH."""
    known = ("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null")
    options = ("-i", key, "-p", str(port), "-o", "BatchMode=yes", "-o", "ConnectTimeout=120")
    return run(["ssh", "-F", "none", *options, *known, "root@127.0.0.1", command]).stdout.strip()


def test_the_seed_the_login_and_the_new_password_work_on_the_old_hardware(moved: Moved) -> None:
    assert f"{HOSTNAME} login: root" in moved.first_console
    assert PASSWORD not in moved.first_console


def test_the_guest_starts_from_a_disk_of_another_name(moved: Moved) -> None:
    assert moved.answers["root"] == "/dev/vda1"
    assert moved.answers["swap"] == "/dev/vda2"
    assert "root=UUID=" in moved.answers["arguments"]


def test_kernel_and_login_are_on_com1(moved: Moved) -> None:
    assert "console=tty0 console=ttyS0,115200" in moved.answers["arguments"]
    assert "BOOTGRAFT-KERNEL" in moved.second_console


def test_the_new_initrd_has_the_drivers_of_both_hypervisors(moved: Moved) -> None:
    found = set(moved.answers["drivers"].split())
    assert {"hv_storvsc.ko", "hv_vmbus.ko", "virtio_blk.ko", "virtio_scsi.ko"} <= found


def test_the_interface_is_no_longer_bound_to_an_adapter(moved: Moved) -> None:
    assert moved.answers["interfaces"].split() == ["ens3", "lo"]


def test_a_rollback_brings_every_file_back(moved: Moved) -> None:
    assert moved.patched != moved.before
    assert moved.after == moved.before
