"""Bad input that takes a whole machine: one clear message, nothing changed, the machine restored.

What can be had without one is in tests/agent/test_tree_mode.py and tests/host.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import debian_packages
from bootgraft_host.qemu import QemuMachine
from vm import debian_guest
from vm.appliance import KERNEL, Appliance, build_appliance, unchanged_disk, unchanged_trees
from vm.bench import Bench
from vm.commands import run
from vm.demo import VM_TOML
from vm.ext3 import Ext3
from vm.guest_disk import SECTOR, GuestDisk, copy_grub_files
from vm.payload import SHIM, BadPayload, bad_files, build_payload, good_files

pytestmark = pytest.mark.vm

BOOT_CODE = 440  # bytes of the MBR before the partition table's own
TOKEN = "bad-input"  # noqa: S105
SILENCE = 20  # seconds that an agent gets which is not there
DISK_TABLE = VM_TOML[VM_TOML.index("[[disk]]") : VM_TOML.index("[[dvd]]")]
COM1_TABLE = VM_TOML[VM_TOML.index("[com1]") :]


@pytest.fixture
def bench(make_bench: Callable[[], Bench]) -> Bench:
    """A machine whose disk is empty."""
    bench = make_bench()
    run(["qemu-img", "create", "-f", "vpc", bench.disk, "16M"])
    return bench


@pytest.fixture(scope="module")
def appliance(tmp_path_factory: pytest.TempPathFactory) -> Appliance:
    """The demo appliance, to be copied."""
    return build_appliance(tmp_path_factory.mktemp("appliance"), token=TOKEN)


@pytest.fixture
def appliance_bench(make_bench: Callable[[], Bench], appliance: Appliance) -> Bench:
    """A machine with the demo appliance's disk."""
    bench = make_bench()
    shutil.copyfile(appliance.disk, bench.disk)
    return bench


def assert_refused(
    bench: Bench, message: str, payload: Path, *options: str | Path, status: int = 1
) -> None:
    """Run, and find one message, nothing changed and nothing left."""
    disk, vm_toml = bench.hash_disk(), bench.vm.read_bytes()
    said = bench.bootgraft("run", bench.vm, "--payload", payload, *options)
    assert said.status == status, said.text
    assert said.text.count(message) == 1, said.text
    assert "Traceback" not in said.text
    assert bench.hash_disk() == disk
    assert bench.vm.read_bytes() == vm_toml
    assert bench.leftovers() == []


# Before anything is started.


def edit_vm(bench: Bench, old: str, new: str) -> None:
    text = bench.vm.read_text()
    assert old in text
    bench.vm.write_text(text.replace(old, new))


def fill_slots(bench: Bench) -> None:
    """Add a disk in each slot that is free."""
    for channel in (0, 1):
        image = f"more-{channel}.img"
        run(["qemu-img", "create", "-f", "raw", bench.folder / image, "1M"])
        disk = f'path = "{image}"\nformat = "raw"\nchannel = {channel}\nunit = 1\n'
        edit_vm(bench, "[[dvd]]", f"[[disk]]\n{disk}\n[[dvd]]")


def use_a_files_name_as_socket(bench: Bench) -> None:
    edit_vm(bench, 'socket = ""', f'socket = "{bench.disk}"')


def insert_a_missing_iso(bench: Bench) -> None:
    edit_vm(bench, 'iso = ""', 'iso = "old.iso"')


def replacing(old: str, new: str) -> Callable[[Bench], None]:
    return lambda bench: edit_vm(bench, old, new)


def rename_vm_toml(bench: Bench) -> None:
    bench.vm.rename(bench.folder / "other.toml")


BAD_MACHINES: dict[str, tuple[Callable[[Bench], None], str, int]] = {
    "no-vm-toml": (rename_vm_toml, "cannot find", 2),
    "missing-key": (replacing("memory_mib = 512\n", ""), "memory_mib: missing", 2),
    "unknown-key": (replacing("[com1]", "[com1]\nspeed = 1"), "speed: unknown key", 2),
    "no-such-slot": (replacing("unit = 0\n\n[[dvd]]", "unit = 2\n\n[[dvd]]"), "unit: expected", 2),
    "missing-iso": (insert_a_missing_iso, "old.iso, does not exist", 1),
    "missing-disk": (replacing("appliance.vhd", "else.vhd"), "else.vhd, does not exist", 1),
    "other-format": (replacing('"vpc"', '"qcow2"'), "cannot be used as qcow2", 1),
    "no-free-slot": (fill_slots, "0 of the four IDE slots are free", 1),
    "no-socket": (use_a_files_name_as_socket, "would replace another file", 1),
}


@pytest.mark.parametrize("name", BAD_MACHINES)
def test_a_machine_that_cannot_be_prepared_is_refused(
    name: str, bench: Bench, payload_iso: Path
) -> None:
    edit, message, status = BAD_MACHINES[name]
    edit(bench)
    files = {path: path.read_bytes() for path in bench.folder.iterdir() if path.is_file()}
    said = bench.bootgraft("run", bench.vm, "--payload", payload_iso)
    assert said.status == status, said.text
    assert said.text.count(message) == 1, said.text
    assert {path: path.read_bytes() for path in bench.folder.iterdir() if path.is_file()} == files
    assert bench.leftovers() == []


def test_media_that_cannot_be_the_right_ones_are_refused(bench: Bench, payload_iso: Path) -> None:
    missing = bench.folder / "missing.iso"
    assert_refused(bench, "missing.iso' does not exist", missing, status=2)
    assert_refused(bench, "missing.iso' does not exist", payload_iso, "--iso", missing, status=2)
    assert_refused(bench, "are the same file", bench.live_iso)
    assert_refused(bench, "is no disc image", bench.disk)


def test_com1_at_a_socket_that_is_taken_is_refused(bench: Bench, payload_iso: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server, short_folder() as folder:
        server.bind(str(folder / "com1"))
        server.listen()
        edit_vm(bench, 'socket = ""', f'socket = "{folder / "com1"}"')
        assert_refused(bench, "com1 is in use by another process", payload_iso)
        assert (folder / "com1").is_socket()


def test_words_expected_of_a_machine_without_com1_are_refused(
    bench: Bench, payload_iso: Path
) -> None:
    edit_vm(bench, COM1_TABLE, "")
    assert_refused(bench, "has no COM1 on which --expect could", payload_iso, "--expect", "login:")


def test_a_running_machine_is_refused_and_left_running(
    appliance_bench: Bench, payload_iso: Path
) -> None:
    bench = appliance_bench
    vm_toml = bench.vm.read_bytes()
    with running(bench) as machine:
        said = bench.bootgraft("run", bench.vm, "--payload", payload_iso)
        assert said.status == 1
        assert said.text.count("demo-appliance is on; shut it down first") == 1
        assert machine.state() == "running"
        assert bench.vm.read_bytes() == vm_toml


@contextlib.contextmanager
def running(bench: Bench) -> Iterator[QemuMachine]:
    with machine_of(bench) as machine:
        machine.start()
        try:
            yield machine
        finally:
            machine.turn_off()


@contextlib.contextmanager
def machine_of(bench: Bench) -> Iterator[QemuMachine]:
    """Give the machine of a bench, with the runtime folder that the commands have."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", bench.environment["XDG_RUNTIME_DIR"])
        machine = QemuMachine(bench.vm)
    yield machine
    machine.close()


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """Give a folder whose path is short enough for a socket's."""
    with contextlib.ExitStack() as stack:
        folder = Path(f"/tmp/bg-{os.getpid()}-{threading.get_ident()}")
        folder.mkdir()
        stack.callback(shutil.rmtree, folder)
        yield folder


# Guests.


@dataclass(frozen=True, slots=True)
class BadGuest:
    """An appliance that is bad in one way, and what is to be said of it."""

    message: str
    edit_trees: Callable[[Path, Path], None] = unchanged_trees
    edit_disk: Callable[[GuestDisk], None] = unchanged_disk


def write_boot_code(disk: GuestDisk, code: bytes) -> None:
    with disk.path.open("r+b") as image:
        image.write(code[:BOOT_CODE].ljust(BOOT_CODE, b"\0"))


def remove_boot_code(disk: GuestDisk) -> None:
    write_boot_code(disk, b"")


def leave_pygrub_alone(disk: GuestDisk) -> None:
    """Leave what a guest has that only pygrub ever booted: a menu, and nothing that reads it."""
    remove_boot_code(disk)
    with disk.path.open("r+b") as image:
        image.seek(SECTOR)
        image.write(bytes(62 * SECTOR))
    for name in ("stage1", "stage2", "e2fs_stage1_5"):
        disk.file_systems[0].remove(f"/grub/{name}")


def install_grub2(disk: GuestDisk) -> None:
    folder = debian_packages.unpack("grub-pc-bin") / "usr/lib/grub/i386-pc"
    write_boot_code(disk, (folder / "boot.img").read_bytes())


def install_syslinux(disk: GuestDisk) -> None:
    folder = debian_packages.unpack("isolinux") / "usr/lib/ISOLINUX"
    write_boot_code(disk, (folder / "isohdpfx.bin").read_bytes())


def install_mbr_that_chains(disk: GuestDisk) -> None:
    folder = debian_packages.unpack("syslinux-common") / "usr/lib/syslinux/mbr"
    write_boot_code(disk, (folder / "mbr.bin").read_bytes())


def remove_stage2(disk: GuestDisk) -> None:
    disk.file_systems[0].remove("/grub/stage2")


def remove_grub(disk: GuestDisk) -> None:
    boot = disk.file_systems[0]
    for name in boot.names("/grub"):
        boot.remove(f"/grub/{name}")


def name_another_menu(disk: GuestDisk) -> None:
    """Let stage2 name a menu that is not there, beside two that differ."""
    boot = disk.file_systems[0]
    stage2 = boot.read("/grub/stage2")
    assert stage2.count(b"/grub/grub.conf\0") == 1
    boot.write("/grub/stage2", stage2.replace(b"/grub/grub.conf\0", b"/grub/else.conf\0"))
    boot.write("/grub/menu.lst", boot.read("/grub/grub.conf") + b"# another one\n")


def damage_boot(disk: GuestDisk) -> None:
    """Clear an inode that a directory names."""
    disk.file_systems[0].debugfs("clri /grub/device.map")


def fill_boot(disk: GuestDisk) -> None:
    boot = disk.file_systems[0]
    boot.write("/filler", b"#" * (free_bytes(boot) - (1 << 20)))  # zeros would be a hole


def free_bytes(file_system: Ext3) -> int:
    (line,) = (
        line
        for line in file_system.debugfs("show_super_stats -h").splitlines()
        if line.startswith("Free blocks:")
    )
    return int(line.split()[-1]) * 1024


def make_menu_a_fifo(boot: Path, root: Path) -> None:
    (boot / "grub/grub.conf").unlink()
    os.mkfifo(boot / "grub/grub.conf")


def remove_kernel(boot: Path, root: Path) -> None:
    (boot / KERNEL).unlink()


def add_a_second_boot_directory(boot: Path, root: Path) -> None:
    shutil.copytree(boot / "grub", root / "boot/grub", symlinks=True)
    copy_grub_files(root / "boot/grub", "/boot/grub/grub.conf")


PYGRUB_ONLY = BadGuest("/grub/stage2 is missing or not GRUB legacy's", edit_disk=leave_pygrub_alone)
BAD_GUESTS = {
    "no-grub-files": BadGuest("no boot partition with GRUB legacy's files", edit_disk=remove_grub),
    "no-boot-code": BadGuest("the MBR of hda holds no boot code", edit_disk=remove_boot_code),
    "no-stage2": BadGuest("/grub/stage2 is missing or not GRUB", edit_disk=remove_stage2),
    "grub2": BadGuest("the MBR of hda holds grub2, not GRUB legacy", edit_disk=install_grub2),
    "syslinux": BadGuest("the MBR of hda holds syslinux", edit_disk=install_syslinux),
    "chained": BadGuest(
        "the boot sector of the active partition hda1 holds no boot code",
        edit_disk=install_mbr_that_chains,
    ),
    "other-menu": BadGuest(
        "hda1: the installed GRUB reads /grub/else.conf, which does not exist there; found:"
        " /grub/menu.lst and /grub/grub.conf",
        edit_disk=name_another_menu,
    ),
    "fifo-menu": BadGuest(
        "/grub/grub.conf is a FIFO, not a regular file", edit_trees=make_menu_a_fifo
    ),
    "no-kernel-xen": BadGuest("no Xen kernel with an initrd of its own", edit_trees=remove_kernel),
    "damaged": BadGuest("hda1 is damaged", edit_disk=damage_boot),
    "full": BadGuest("KiB free, the graft needs", edit_disk=fill_boot),
}


def test_a_disk_that_only_pygrub_ever_booted_is_refused(
    make_bench: Callable[[], Bench], payload_iso: Path
) -> None:
    refuse_guest(make_bench(), PYGRUB_ONLY, payload_iso)


@pytest.mark.matrix
@pytest.mark.parametrize("name", BAD_GUESTS)
def test_a_guest_that_cannot_be_grafted_is_refused(
    name: str, make_bench: Callable[[], Bench], payload_iso: Path
) -> None:
    refuse_guest(make_bench(), BAD_GUESTS[name], payload_iso)


def refuse_guest(bench: Bench, guest: BadGuest, payload: Path) -> None:
    build_appliance(
        bench.folder, token=TOKEN, edit_trees=guest.edit_trees, edit_disk=guest.edit_disk
    )
    assert_refused(bench, guest.message, payload)


@pytest.mark.matrix
def test_of_two_boot_partitions_one_has_to_be_named(
    make_bench: Callable[[], Bench], payload_iso: Path
) -> None:
    bench = make_bench()
    refuse_guest(
        bench,
        BadGuest(
            "cannot choose a boot partition: hda1:/ and hda2:/boot/ both hold GRUB's files; name"
            " one with --boot-partition",
            edit_trees=add_a_second_boot_directory,
        ),
        payload_iso,
    )
    options = ("--payload", payload_iso, "--dry-run")
    said = bench.bootgraft("run", bench.vm, *options, "--boot-partition", "hda1")
    assert said.status == 0, said.text
    assert_refused(
        bench, "loads /grub/stage2, which is not on hda2", payload_iso, "--boot-partition", "hda2"
    )


@pytest.mark.matrix
def test_a_machine_without_a_disk_is_refused(bench: Bench, payload_iso: Path) -> None:
    edit_vm(bench, DISK_TABLE, "")
    assert_refused(bench, "no disk was found in this machine", payload_iso)


@pytest.mark.matrix
def test_an_empty_disk_is_refused(bench: Bench, payload_iso: Path) -> None:
    assert_refused(bench, "no boot partition with GRUB legacy's files was found", payload_iso)


# Payloads.


def payload_without_shim(bench: Bench) -> Path:
    return build_payload(bench.folder, files=bad_files(BadPayload.NO_SHIM_FOLDER))


def payload_that_is_cut_off(bench: Bench) -> Path:
    """An ISO of which a part is missing: the shim cannot be read to its end."""
    iso = build_payload(bench.folder, files={SHIM: os.urandom(8 << 20), **good_files()})
    os.truncate(iso, iso.stat().st_size // 2 // 2048 * 2048)
    return iso


def payload_with_the_guests_kernel(bench: Bench) -> Path:
    files = {**good_files(), f"shim/{KERNEL}": debian_guest.read_busybox()}
    return build_payload(bench.folder, files=files, rock_ridge=True)


def payload_that_is_a_live_iso(bench: Bench) -> Path:
    return Path(shutil.copyfile(bench.live_iso, bench.folder / "copy.iso"))


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (payload_without_shim, "hdd has no directory named shim"),
        (payload_that_is_cut_off, "is the ISO complete?"),
        (payload_with_the_guests_kernel, f"shim/{KERNEL} of the payload would replace"),
        (payload_that_is_a_live_iso, "hdd holds the live ISO itself, which carries no payload"),
    ],
)
def test_a_payload_that_does_not_fit_is_refused(
    make: Callable[[Bench], Path], message: str, appliance_bench: Bench
) -> None:
    assert_refused(appliance_bench, message, make(appliance_bench))


# The agent, and the line to it.


def test_a_live_iso_without_an_agent_is_given_up(
    appliance_bench: Bench, payload_iso: Path, tmp_path: Path
) -> None:
    """The wrong ISO does not boot, so that the appliance does, up to GRUB's error."""
    bench, other = appliance_bench, build_payload(tmp_path, name="other.iso")
    options = ("--iso", other, "--boot-timeout", str(SILENCE))
    message = (
        f"HELLO from the agent did not come within {SILENCE} s; nothing at all was heard on the"
        " serial line"
    )
    assert_refused(bench, message, payload_iso, *options)
    assert (bench.last_run() / "screen-no-hello.png").is_file()


@pytest.mark.matrix
def test_a_machine_that_is_turned_off_while_it_is_looked_at_is_restored(
    appliance_bench: Bench, payload_iso: Path
) -> None:
    bench = appliance_bench
    disk, vm_toml = bench.hash_disk(), bench.vm.read_bytes()
    command = bench.start("run", bench.vm, "--payload", payload_iso)
    wait_for_step(command, "inspect")
    cut_power(bench)
    stdout, stderr = command.communicate()
    assert command.returncode == 1, stdout + stderr
    assert stderr.count("the machine turned off while the reply to inspect was awaited") == 1
    assert (bench.hash_disk(), bench.vm.read_bytes()) == (disk, vm_toml)
    assert bench.leftovers() == []


@pytest.mark.matrix
def test_after_a_power_cut_in_the_middle_of_a_graft_a_second_run_finishes_it(
    appliance_bench: Bench, payload_iso: Path, appliance: Appliance
) -> None:
    bench = appliance_bench
    disk, vm_toml = bench.hash_disk(), bench.vm.read_bytes()
    command = bench.start("run", bench.vm, "--payload", payload_iso)
    wait_for_step(command, "apply")
    wait_until_written(bench.disk)
    cut_power(bench)
    stdout, stderr = command.communicate()
    assert command.returncode == 3, stdout + stderr
    assert stderr.count("the machine turned off while the reply to apply was awaited") == 1
    assert "whether the guest is changed is not known" in stderr
    assert bench.hash_disk() != disk
    assert bench.vm.read_bytes() == vm_toml
    assert bench.leftovers() == []
    options = ("--payload", payload_iso, "--expect", appliance.expect)
    said = bench.bootgraft("run", bench.vm, *options)
    assert said.status == 0, said.text


def wait_for_step(command: subprocess.Popen[str], name: str) -> None:
    assert command.stderr is not None
    seen = []
    for line in command.stderr:
        seen.append(line)
        if line.startswith(f"{name}: "):
            return
    raise AssertionError(f"the step {name} did not begin: {seen}")


def wait_until_written(image: Path) -> None:
    before, deadline = image.stat().st_mtime_ns, time.monotonic() + 120
    while image.stat().st_mtime_ns == before:
        assert time.monotonic() < deadline, f"nothing was written to {image}"
        time.sleep(0.01)


def cut_power(bench: Bench) -> None:
    with machine_of(bench) as machine:
        machine.turn_off()


@pytest.mark.matrix
def test_com1_with_another_client_that_never_reads_leaves_the_boot_unproven(
    appliance_bench: Bench, payload_iso: Path, appliance: Appliance
) -> None:
    """The live system talks over a socket of its own; the guest boots on the user's."""
    bench = appliance_bench
    with short_folder() as folder, other_client(folder / "com1"):
        edit_vm(bench, 'socket = ""', f'socket = "{folder / "com1"}"')
        wanted = bench.vm.read_text().replace('kind = "virtio"', 'kind = "legacy"')
        options = ("--payload", payload_iso, "--expect", appliance.expect)
        said = bench.bootgraft("run", bench.vm, *options)
        assert said.status == 4, said.text
        message = "COM1 of demo-appliance has another client; disconnect that one first"
        assert said.text.count(message) == 1, said.text
        assert bench.vm.read_text() == wanted
        assert bench.leftovers() == []
        assert list(folder.iterdir()) == []


@contextlib.contextmanager
def other_client(address: Path) -> Iterator[None]:
    """Connect to a socket as soon as it is there, and do nothing more."""
    stop = threading.Event()
    client = socket.socket(socket.AF_UNIX)

    def connect() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError):
                client.connect(str(address))
                return
            stop.wait(0.001)

    thread = threading.Thread(target=connect)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        client.close()


@pytest.mark.matrix
def test_a_machine_without_com1_gets_one_for_the_live_system_alone(
    appliance_bench: Bench, payload_iso: Path
) -> None:
    bench = appliance_bench
    edit_vm(bench, COM1_TABLE, "")
    disk, vm_toml = bench.hash_disk(), bench.vm.read_bytes()
    said = bench.bootgraft("run", bench.vm, "--payload", payload_iso, "--dry-run")
    assert said.status == 0, said.text
    assert (bench.hash_disk(), bench.vm.read_bytes()) == (disk, vm_toml)
    assert bench.leftovers() == []


@pytest.mark.matrix
def test_kernel_messages_between_the_frames_do_no_harm(
    appliance_bench: Bench, payload_iso: Path, tmp_path: Path
) -> None:
    bench, noisy = appliance_bench, tmp_path / "noisy.iso"
    make_noisy(bench.live_iso, noisy)
    options = ("--payload", payload_iso, "--iso", noisy, "--dry-run")
    said = bench.bootgraft("run", bench.vm, *options)
    assert said.status == 0, said.text
    console = (bench.last_run() / "console.log").read_bytes()
    first, last = console.index(b"@bg1 "), console.rindex(b"@bg1 ")
    assert b"Linux version" in console[:first]
    assert b"EXT4-fs" in console[first:last]


def make_noisy(iso: Path, noisy: Path) -> None:
    """Copy the live ISO, so that boot loader and kernel tell of themselves on COM1."""
    config = noisy.with_suffix(".cfg")
    run(["xorriso", "-osirrox", "on", "-indev", iso, "-extract", "/isolinux/isolinux.cfg", config])
    text = config.read_text()
    assert "console=tty0" in text
    verbose = text.replace("quiet", "").replace("console=tty0", "console=tty0 console=ttyS0")
    config.chmod(0o644)
    config.write_text(f"serial 0 115200\n{verbose}")
    run(
        [
            *("xorriso", "-indev", iso, "-outdev", noisy, "-boot_image", "any", "replay"),
            *("-map", config, "/isolinux/isolinux.cfg"),
        ]
    )
