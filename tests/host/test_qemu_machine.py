"""Machines that QEMU really runs, with a guest program of 512 bytes."""

import os
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bootgraft_agent.errors import RefusedError
from bootgraft_host import qemu_accelerator, qemu_process
from bootgraft_host.link import Link
from bootgraft_host.machine import ConfigurationError, MachineError, Media
from bootgraft_host.qemu import QemuMachine
from bootgraft_host.qemu_accelerator import EMULATION, KVM, choose_accelerator, runs_guests
from bootgraft_host.qemu_process import Command, runtime_root
from bootgraft_host.qemu_screen import decode_text_memory
from bootgraft_host.targets import machine_for
from host.boot_programs import build_disk, build_iso

pytestmark = pytest.mark.vm

BOOT_TIMEOUT = 60.0  # seconds from power-on to the guest's first word; about two are enough
TIMEOUT = 20.0  # seconds for everything else

VM_TOML = """\
name = "tiny"  # a comment
memory_mib = 16
boot_order = ["disk", "dvd"]
[[disk]]
path = "disk.img"
format = "raw"
channel = 0
unit = 0
[[dvd]]
channel = 1
unit = 0
iso = ""
[network]
kind = "virtio"
mac = "52:54:00:12:34:56"
[com1]
socket = ""
"""


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A runtime folder of the test's own, with a short path; what KVM does is known."""
    accelerator = choose_accelerator()
    with tempfile.TemporaryDirectory(prefix="bg") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        monkeypatch.setenv("XDG_CACHE_HOME", f"{folder}/cache")
        known = qemu_accelerator._cache_file()
        known.parent.mkdir(parents=True)
        known.write_text(accelerator)
        yield Path(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "vm.toml").write_text(VM_TOML)
    build_disk(tmp_path / "disk.img", "DISK")
    return tmp_path


@pytest.fixture
def machine(folder: Path) -> Iterator[QemuMachine]:
    machine = QemuMachine(folder / "vm.toml")
    yield machine
    machine.turn_off()
    machine.close()


@pytest.fixture
def media(tmp_path: Path) -> Media:
    return Media(
        build_iso(tmp_path / "live.iso", "LIVE"), build_iso(tmp_path / "payload.iso", "PAYLOAD")
    )


def read_until(link: Link, word: bytes) -> bytes:
    data = b""
    deadline = time.monotonic() + TIMEOUT
    while word not in data:
        assert time.monotonic() < deadline, f"{word!r} did not come, but {data!r}"
        data += link.read(1.0)
    return data


def boot(machine: QemuMachine, name: bytes) -> Link:
    """Start a machine and wait until the medium that is to boot obeys."""
    machine.start()
    link = machine.open_serial(TIMEOUT)
    wait_greeting(link, name)
    return link


def wait_greeting(link: Link, name: bytes) -> None:
    """Wait for a whole line of the guest's greeting, and make it stop."""
    greeting = re.compile(rb"\n(\w+) *\n")
    data = b""
    deadline = time.monotonic() + BOOT_TIMEOUT
    while not (found := greeting.search(data)):
        assert time.monotonic() < deadline, f"no greeting, but {data!r}"
        data += link.read(1.0)
    assert found[1] == name
    link.write(b"k")
    read_until(link, b"K")


# Power, serial port, screen.


def test_a_machine_boots_talks_shows_and_leaves_nothing(
    machine: QemuMachine, folder: Path, runtime: Path
) -> None:
    assert machine.state() == "off"
    files = sorted(folder.iterdir())
    with boot(machine, b"DISK") as link:
        assert machine.state() == "running"
        link.write(b"abc")
        assert read_until(link, b"C") == b"ABC"
        assert machine.read_screen_text() == "DISK"
        machine.take_screenshot(folder / "screen.png")
    picture = (folder / "screen.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", picture[16:24]) == (720, 400)
    (folder / "screen.png").unlink()
    (process,) = machine_processes(machine)

    machine.turn_off()
    machine.turn_off()
    assert machine.state() == "off"
    assert machine.wait_off(0)
    machine.close()
    machine.close()
    assert not Path(f"/proc/{process}").exists()
    assert not (runtime / "bootgraft").exists()
    assert sorted(folder.iterdir()) == files


def machine_processes(machine: QemuMachine) -> list[int]:
    """All processes whose command line names the machine's runtime folder."""
    folder = bytes(runtime_root() / machine.machine_id)
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if folder in command:
            found.append(int(path.parent.name))
    return found


def test_a_guest_that_switches_itself_off_is_off(machine: QemuMachine) -> None:
    with boot(machine, b"DISK") as link:
        assert not machine.wait_off(0.2)
        link.write(b"p")
        assert machine.wait_off(TIMEOUT)
        assert machine.state() == "off"
        deadline = time.monotonic() + TIMEOUT
        while not link.ended:
            assert time.monotonic() < deadline
            link.read(0.1)


def test_a_guest_that_restarts_is_switched_off(machine: QemuMachine) -> None:
    with boot(machine, b"DISK") as link:
        link.write(b"r")
        assert machine.wait_off(TIMEOUT)


def test_the_screen_is_read_where_it_has_been_scrolled_to(machine: QemuMachine) -> None:
    with boot(machine, b"DISK") as link:
        link.write(b"s")
        read_until(link, b"S")
        assert machine.read_screen_text() == "DISK"
        # The guest finds the register that it had chosen, and goes on.
        link.write(b"i")
        assert read_until(link, b"\x0e") == b"\x0e"
        assert machine.state() == "running"


def test_a_graphics_mode_has_no_text(machine: QemuMachine) -> None:
    with boot(machine, b"DISK") as link:
        link.write(b"g")
        read_until(link, b"G")
        assert machine.read_screen_text() is None
        assert machine.state() == "running"


def test_text_memory_is_decoded_round_its_end() -> None:
    cells = b"".join(bytes([letter, 7]) for letter in b"ab\xdb\0c")
    memory = cells[4:].ljust(0x8000 - 4, b"\0") + cells[:4]
    assert decode_text_memory(memory, start=0x4000 - 2) == "ab█ c"


def test_a_paused_machine_is_neither_on_nor_off(machine: QemuMachine) -> None:
    with boot(machine, b"DISK"):
        machine._qemu.execute(Command("stop"))
        assert machine.state() == "other"
        assert machine.read_screen_text() == "DISK"
        assert machine.state() == "other"


def test_a_frozen_qemu_is_killed_and_its_socket_removed(
    machine: QemuMachine, folder: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = runtime / "own.sock"
    edit(folder, 'socket = ""', f'socket = "{own}"')
    monkeypatch.setattr(qemu_process, "QUIT_TIMEOUT", 0.5)
    with boot(machine, b"DISK"):
        (process,) = machine_processes(machine)
        os.kill(process, signal.SIGSTOP)
        machine.turn_off()
    assert machine.state() == "off"
    assert not own.exists()


def test_the_power_can_be_cut_whatever_has_become_of_vm_toml(
    machine: QemuMachine, folder: Path
) -> None:
    with boot(machine, b"DISK"):
        (folder / "vm.toml").write_text("no longer a configuration")
        machine.turn_off()
    assert machine.state() == "off"
    assert machine_processes(machine) == []


def test_a_guest_that_floods_com1_can_still_be_stopped(machine: QemuMachine) -> None:
    with boot(machine, b"DISK") as link:
        link.write(b"f")
        assert read_until(link, b"." * 1000)
        machine.turn_off()
    assert machine.state() == "off"


def test_the_transcript_has_every_byte(machine: QemuMachine) -> None:
    recorded = bytearray()
    machine.start()
    with machine.open_serial(TIMEOUT, transcript=recorded.extend) as link:
        wait_greeting(link, b"DISK")
        link.write(b"abc")
        read_until(link, b"C")
    assert recorded.endswith(b"DISK    \nKABC")


def test_com1_takes_a_second_client_only_after_the_first(machine: QemuMachine) -> None:
    with boot(machine, b"DISK"), pytest.raises(MachineError, match="COM1 of tiny has another"):
        machine.open_serial(0.3)
    with machine.open_serial(TIMEOUT) as link:
        link.write(b"a")
        assert read_until(link, b"A") == b"A"


def test_com1_of_a_machine_that_is_off_cannot_be_opened(machine: QemuMachine) -> None:
    with pytest.raises(MachineError, match="the machine is off"):
        machine.open_serial(1)


def test_a_machine_without_com1_says_so(folder: Path, machine: QemuMachine) -> None:
    text = VM_TOML.partition("[com1]")[0]
    (folder / "vm.toml").write_text(text)
    machine.start()
    with pytest.raises(MachineError, match=r"tiny has no COM1: add \[com1\] to .*vm.toml"):
        machine.open_serial(1)


# The controller dies, QEMU goes on.

CONTROLLER = """
import sys, time
from pathlib import Path
from bootgraft_host.qemu import QemuMachine
machine = QemuMachine(Path(sys.argv[1]))
machine.start()
print("started", flush=True)
time.sleep(600)
"""


def test_a_killed_controllers_machine_is_found_and_turned_off(
    machine: QemuMachine, folder: Path
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CONTROLLER, folder / "vm.toml"], stdout=subprocess.PIPE, text=True
    ) as controller:
        assert controller.stdout is not None
        assert controller.stdout.readline() == "started\n"
        controller.kill()
    assert machine.state() == "running"
    with machine.open_serial(TIMEOUT) as link:
        wait_greeting(link, b"DISK")
    with pytest.raises(MachineError, match="cannot start tiny: it is already on"):
        machine.start()
    machine.turn_off()
    assert machine.state() == "off"
    assert machine_processes(machine) == []


def test_a_machine_is_found_whatever_the_runtime_folder_is_now(
    machine: QemuMachine, folder: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with boot(machine, b"DISK"), tempfile.TemporaryDirectory(prefix="bg") as other:
        monkeypatch.setenv("XDG_RUNTIME_DIR", other)
        found = QemuMachine(folder / "vm.toml")
        assert found.state() == "other"  # its monitor is out of reach
        found.turn_off()
        assert found.state() == "off"
    assert machine_processes(machine) == []
    assert machine.state() == "off"


def test_closing_leaves_a_running_machine_alone(machine: QemuMachine, folder: Path) -> None:
    with boot(machine, b"DISK"):
        machine.close()
        assert QemuMachine(folder / "vm.toml").state() == "running"


def test_a_process_number_of_somebody_else_is_not_ours(machine: QemuMachine) -> None:
    with subprocess.Popen(["sleep", "60"]) as stranger:
        machine._qemu.make_folder()
        machine._qemu.pid_file.write_text(f"{stranger.pid}\n")
        assert machine.state() == "off"
        machine.turn_off()
        assert stranger.poll() is None
        stranger.kill()


# What cannot be started.


def test_qemus_own_words_tell_why_it_does_not_start(machine: QemuMachine, folder: Path) -> None:
    (folder / "disk.img").unlink()
    with pytest.raises(MachineError, match=r"cannot start tiny: .*disk\.img.*No such file"):
        machine.start()
    assert machine.state() == "off"


def test_a_missing_qemu_is_named(
    machine: QemuMachine, media: Media, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert machine.problems(media) == ("qemu-system-x86_64 is not installed",)
    with pytest.raises(MachineError, match=r"cannot start tiny: .*qemu-system-x86_64"):
        machine.start()


def test_a_disk_that_another_machine_uses_is_named(machine: QemuMachine, folder: Path) -> None:
    other_folder = folder / "other"
    other_folder.mkdir()
    (other_folder / "vm.toml").write_text(
        VM_TOML.replace("disk.img", "../disk.img").replace("tiny", "second")
    )
    other = QemuMachine(other_folder / "vm.toml")
    with boot(machine, b"DISK"):
        with pytest.raises(MachineError, match=r"second: another process is using .*disk\.img"):
            other.start()
        assert other.state() == "off"
    other.close()


def test_the_users_own_socket_serves_com1_and_is_protected(
    machine: QemuMachine, folder: Path, runtime: Path
) -> None:
    own = runtime / "own.sock"
    (folder / "vm.toml").write_text(VM_TOML.replace('socket = ""', f'socket = "{own}"'))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(own))
        server.listen()
        with pytest.raises(MachineError, match=r"own\.sock is in use by another process"):
            machine.start()
    # Nobody listens any more: what is left of it may be replaced.
    with boot(machine, b"DISK"):
        assert own.is_socket()
    machine.turn_off()
    assert not own.exists()
    own.write_text("a file")
    with pytest.raises(MachineError, match=r"own\.sock would replace another file"):
        machine.start()
    assert own.read_text() == "a file"


# Attach and detach.


def test_attach_boots_the_live_iso_and_detach_restores_every_byte(
    machine: QemuMachine, folder: Path, media: Media
) -> None:
    assert machine.problems(media) == ()
    captured = machine.capture()
    machine.attach(media)
    attached = (folder / "vm.toml").read_bytes()
    machine.attach(media)
    assert (folder / "vm.toml").read_bytes() == attached
    boot(machine, b"LIVE").close()
    with pytest.raises(MachineError, match="cannot change the configuration of tiny: it is on"):
        machine.detach(captured, keep_adapter=False)
    machine.turn_off()

    machine.detach(captured, keep_adapter=True)
    assert (folder / "vm.toml").read_text() == VM_TOML.replace("virtio", "legacy")
    boot(machine, b"DISK").close()
    machine.turn_off()

    for _ in range(2):
        machine.detach(captured, keep_adapter=False)
        assert (folder / "vm.toml").read_text() == VM_TOML
    assert machine.capture() == captured


def test_with_one_drive_the_payload_takes_the_live_isos_place_while_the_machine_runs(
    machine: QemuMachine, folder: Path, media: Media
) -> None:
    media = replace(media, one_drive=True)
    captured = machine.capture()
    machine.attach(media)
    assert (folder / "vm.toml").read_text().count("[[dvd]]") == 1
    assert f'iso = "{media.live_iso}"' in (folder / "vm.toml").read_text()
    with pytest.raises(MachineError, match="cannot exchange the ISO in the DVD drive of tiny"):
        machine.insert_payload(media)
    with boot(machine, b"LIVE") as link:
        for _ in range(2):
            machine.insert_payload(media)
            assert read_inserted(machine) == str(media.payload_iso)
        link.write(b"a")
        read_until(link, b"A")
    machine.turn_off()
    machine.detach(captured, keep_adapter=False)
    assert (folder / "vm.toml").read_text() == VM_TOML


def read_inserted(machine: QemuMachine) -> str:
    """Ask QEMU which ISO the DVD drive holds."""
    (drives,) = machine._qemu.execute(Command("query-block"))
    (path,) = (each["inserted"]["file"] for each in drives if each.get("qdev") == "dvd1-0")
    return str(path)


def test_one_drive_is_enough_where_there_is_no_place_for_a_second(
    machine: QemuMachine, folder: Path, media: Media
) -> None:
    for channel, unit in ((0, 1), (1, 1)):
        disk = build_disk(folder / f"disk{channel}{unit}.img", "OTHER")
        place = f"channel = {channel}\nunit = {unit}\n"
        added = f'[[disk]]\npath = "{disk.name}"\nformat = "raw"\n{place}'
        edit(folder, "[[dvd]]", f"{added}[[dvd]]")
    (problem,) = machine.problems(media)
    assert "0 of the four IDE slots are free; --one-drive makes do" in problem
    assert machine.problems(replace(media, one_drive=True)) == ()


def test_detach_in_a_new_controller_needs_the_captured_configuration_alone(
    machine: QemuMachine, folder: Path, media: Media
) -> None:
    captured = machine.capture()
    machine.attach(media)
    media.live_iso.unlink()
    QemuMachine(folder / "vm.toml").detach(captured, keep_adapter=False)
    assert (folder / "vm.toml").read_text() == VM_TOML


def test_detach_leaves_a_configuration_that_the_user_has_changed(
    machine: QemuMachine, folder: Path, media: Media
) -> None:
    captured = machine.capture()
    machine.attach(media)
    changed = (folder / "vm.toml").read_text().replace("memory_mib = 16", "memory_mib = 32")
    (folder / "vm.toml").write_text(changed)
    with pytest.raises(MachineError, match=r"vm\.toml has been changed by somebody else"):
        machine.detach(captured, keep_adapter=False)
    assert (folder / "vm.toml").read_text() == changed
    # By hand.
    mended = VM_TOML.replace("memory_mib = 16", "memory_mib = 32")
    (folder / "vm.toml").write_text(mended)
    machine.detach(captured, keep_adapter=False)
    with pytest.raises(MachineError, match=r"vm\.toml has been changed by somebody else"):
        machine.detach(captured, keep_adapter=True)
    assert (folder / "vm.toml").read_text() == mended


def test_detach_refuses_what_another_machine_has_captured(machine: QemuMachine) -> None:
    with pytest.raises(MachineError, match=r"is one of /elsewhere/vm\.toml, not of"):
        machine.detach({"path": "/elsewhere/vm.toml", "content_base64": ""}, keep_adapter=False)
    stolen = {**machine.capture(), "content_base64": "%%%"}
    with pytest.raises(MachineError, match="is damaged"):
        machine.detach(stolen, keep_adapter=False)


def test_a_link_to_vm_toml_stays_a_link(folder: Path, media: Media, machine: QemuMachine) -> None:
    link = folder / "link.toml"
    link.symlink_to("vm.toml")
    linked = QemuMachine(link)
    assert linked.machine_id == machine.machine_id
    captured = linked.capture()
    linked.attach(media)
    linked.detach(captured, keep_adapter=False)
    assert link.is_symlink()
    assert link.read_text() == VM_TOML


# Preflight.


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda f: (f / "disk.img").unlink(), r"image of \[\[disk\]\] 1, .* does not exist"),
        (lambda f: (f / "live.iso").unlink(), r"the live ISO, .* does not exist"),
        (lambda f: (f / "payload.iso").write_bytes(b"x"), r"the payload ISO, .* is no disc image"),
        (lambda f: edit(f, 'format = "raw"', 'format = "vhdx"'), r"cannot be used as vhdx"),
        (lambda f: edit(f, 'iso = ""', 'iso = "gone.iso"'), r"ISO of \[\[dvd\]\] 1, .*gone\.iso"),
        (lambda f: edit(f, "memory_mib", "memory"), r"memory_mib: missing"),
        (lambda f: edit(f, "[com1]\n", "[com1]\nport = 2\n"), r"\[com1\] port: unknown key"),
        (lambda f: edit(f, "channel = 1", "channel = 0"), r"2 devices have the same slot"),
        (lambda f: edit(f, 'socket = ""', 'socket = "no/com1"'), r"folder of COM1's socket"),
        (lambda f: edit(f, 'path = "disk.img"', 'path = "live.iso"'), r"are the same file"),
        (lambda f: edit(f, 'path = "disk.img"', 'path = "."'), r"is not a file"),
        (lambda f: fill_slots(f), r"0 of the four IDE slots are free"),
    ],
)
def test_each_problem_is_named_before_anything_changes(
    machine: QemuMachine,
    folder: Path,
    media: Media,
    spoil: Callable[[Path], None],
    problem: str,
) -> None:
    spoil(folder)
    before = (folder / "vm.toml").read_bytes()
    (found,) = machine.problems(media)
    assert re.search(problem, found)
    assert (folder / "vm.toml").read_bytes() == before


def edit(folder: Path, old: str, new: str) -> None:
    text = (folder / "vm.toml").read_text()
    assert old in text
    (folder / "vm.toml").write_text(text.replace(old, new, 1))


def fill_slots(folder: Path) -> None:
    for channel, unit in ((0, 1), (1, 1)):
        build_disk(folder / f"disk{channel}{unit}.img", "MORE")
        with (folder / "vm.toml").open("a") as file:
            file.write(
                f'[[disk]]\npath = "disk{channel}{unit}.img"\nformat = "raw"\n'
                f"channel = {channel}\nunit = {unit}\n"
            )


def test_one_iso_cannot_be_both(machine: QemuMachine, media: Media) -> None:
    (problem,) = machine.problems(Media(media.live_iso, media.live_iso))
    assert "the live ISO and the payload ISO are the same file" in problem


def test_a_machine_that_is_on_must_be_shut_down_first(machine: QemuMachine, media: Media) -> None:
    with boot(machine, b"DISK"):
        assert machine.problems(media) == ("tiny is on; shut it down first",)


# Finding machines, the runtime folder, the accelerator.


def test_a_machine_is_named_by_its_file_or_its_folder(folder: Path) -> None:
    by_file, by_folder = machine_for(str(folder / "vm.toml")), machine_for(str(folder))
    assert by_file.machine_id == by_folder.machine_id
    assert by_file.name == "tiny"
    with pytest.raises(ConfigurationError, match=r"cannot find .*nothing: No such file"):
        machine_for(str(folder / "nothing"))


def test_a_runtime_folder_that_others_can_enter_is_refused(runtime: Path) -> None:
    runtime_root().chmod(0o755)
    with pytest.raises(MachineError, match="must be a folder of your own with mode 0700"):
        runtime_root()


def test_a_runtime_folder_with_a_long_path_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    assert runtime_root() == Path(f"/tmp/bootgraft-{os.getuid()}")
    assert list(long.iterdir()) == []


def test_an_accelerator_works_only_if_a_guest_says_so(runtime: Path) -> None:
    assert runs_guests(EMULATION)
    assert not runs_guests("nonsense")
    assert list(runtime.glob("bootgraft/*")) == []


def test_kvm_is_chosen_only_where_it_runs_guests_and_asked_once(runtime: Path) -> None:
    known = qemu_accelerator._cache_file()
    known.write_text("damaged")
    chosen = choose_accelerator()
    assert chosen == (KVM if os.access("/dev/kvm", os.W_OK) and runs_guests(KVM) else EMULATION)
    before = time.monotonic()
    assert choose_accelerator() == chosen
    assert time.monotonic() - before < 1


def test_a_second_controller_is_refused_whatever_its_state_directory(folder: Path) -> None:
    path = folder / "vm.toml"
    holder = subprocess.Popen(
        [sys.executable, "-c", CLAIMING, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == b"claimed\n"
        with pytest.raises(RefusedError, match="another controller is at work"):
            QemuMachine(path).claim().__enter__()
    finally:
        holder.kill()
        holder.communicate()
    with QemuMachine(path).claim():
        pass


CLAIMING = """
import sys
from pathlib import Path
from bootgraft_host.qemu import QemuMachine
with QemuMachine(Path(sys.argv[1])).claim():
    print("claimed", flush=True)
    sys.stdin.read()
"""
