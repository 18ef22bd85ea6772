"""The manual console, used by keys and read from the screen, in front of the demo appliance."""

import re
import secrets
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bootgraft_agent.errors import OccupiedError
from image.live_boot import conversation
from vm.appliance import Appliance, build_appliance
from vm.bench import find_live_iso
from vm.boots import Boot, boot_disk
from vm.consoles import (
    EMPTY_DRIVE,
    MEMORY,
    boot_console,
    boot_file_system,
    copy_of,
    hash_file,
    make_iso,
    never_reading,
    with_payload_dvd,
)
from vm.ext3 import make_ext3
from vm.guest_disk import SECTOR, GuestDisk
from vm.payload import good_files, write_files
from vm.person import Person

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]

START = 180.0  # seconds to the first page; about 15 on an idle machine
GRAFT = 120.0
OVERVIEW = "This machine"
TABLE, ENTRY = 446, 16  # bytes: where an MBR's partition table begins, and each of its entries


@dataclass(frozen=True, slots=True)
class Source:
    """The demo appliance, to be copied, and ISOs that start in the modes of these tests."""

    appliance: Appliance
    boot_offset: int
    manual: Path
    host: Path
    serial: Path
    unattended: Path


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    folder = tmp_path_factory.mktemp("console")
    offsets: list[int] = []

    def note(disk: GuestDisk) -> None:
        offsets.extend(each.offset for each in disk.file_systems)

    appliance = build_appliance(folder, token=secrets.token_hex(8), edit_disk=note)
    live = find_live_iso()
    return Source(
        appliance,
        offsets[0],
        manual=make_iso(live, folder, "manual"),
        host=make_iso(live, folder, "host", "console-after=5"),
        serial=make_iso(live, folder, "manual-serial"),
        unattended=make_iso(live, folder, "unattended", "payload-wait=5", "power-off-after=8"),
    )


@pytest.fixture
def disk(source: Source, tmp_path: Path) -> Path:
    return copy_of(source.appliance.disk, tmp_path)


@pytest.fixture
def com1(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A short path for a socket."""
    folder = Path("/tmp", f"bg{secrets.token_hex(4)}")
    folder.mkdir()
    yield folder / "com1"
    shutil.rmtree(folder)


def test_a_person_grafts_while_a_client_of_com1_never_reads(
    source: Source, disk: Path, payload_iso: Path, com1: Path, tmp_path: Path
) -> None:
    second = with_payload_dvd(payload_iso)
    with (
        never_reading(com1) as is_stuck,
        boot_console(disk, source.manual, *second, com1=com1) as boot,
    ):
        person = Person(boot)
        person.on_page(OVERVIEW, START)
        graft(person)
        assert is_stuck()
        switch_off(person)
        boot.wait_off(60)
    menu = boot_file_system(disk, tmp_path, source.boot_offset).read("/grub/grub.conf")
    assert b"Hyper-V (bootgraft): Appliance" in menu


@pytest.mark.matrix
def test_a_person_looks_around_chooses_wrongly_uses_the_shell_and_takes_the_graft_back(
    source: Source, disk: Path, payload_iso: Path, tmp_path: Path
) -> None:
    before = hash_file(disk)
    with boot_console(disk, source.manual, *with_payload_dvd(payload_iso)) as boot:
        person = Person(boot)
        look_around(person)
        assert hash_file(disk) == before  # all of that was looking
        graft(person)
        shell_and_back(person)
        take_back(person)
        switch_off(person)
        boot.wait_off(60)
    boot_volume = boot_file_system(disk, tmp_path, source.boot_offset)
    assert b"bootgraft" not in boot_volume.read("/grub/grub.conf")
    assert "bootgraft" not in boot_volume.names("/")


def look_around(person: Person) -> None:
    """Go everywhere where nothing is written, choose wrongly, and come back."""
    person.sees("Looking at this machine's disks", START)
    person.keeps_picture("console-looking")
    shown = person.on_page(OVERVIEW, START)
    person.keeps_picture("console-overview")
    assert "This machine can be grafted. Nothing has been written so far." in shown
    assert "hda1: 64 MiB ext3" in shown
    person.boot.press("pgdn")
    person.sees("Payload: hdd with ")
    person.keeps_picture("console-overview-scrolled")
    person.chooses("Choose the boot partition")
    person.on_page("Choose")
    person.keeps_picture("console-choose")
    person.chooses("Boot partition")
    person.on_page("Boot partition")
    person.keeps_picture("console-choose-partition")
    person.chooses("hda2")  # the root file system, which has no GRUB
    person.on_page("Choose")
    person.goes_back()
    person.sees("No graft is possible now: no boot partition with GRUB legacy's files", GRAFT)
    person.keeps_picture("console-wrong-choice")
    person.chooses("Choose the boot partition")
    person.on_page("Choose")
    person.chooses("Arguments for the shim")
    person.sees("Type what the shim is to get")
    person.keeps_picture("console-typing")
    person.goes_back()
    person.on_page("Choose")
    person.chooses("Boot partition: hda2")
    person.on_page("Boot partition")
    person.chooses("Automatic")
    person.on_page("Choose")
    person.goes_back()
    person.sees("This machine can be grafted", GRAFT)


def graft(person: Person) -> None:
    """See the plan and the diffs, say no, then yes."""
    person.on_page(OVERVIEW)
    person.accepts_default("Show the plan")
    shown = person.on_page("The plan", GRAFT)
    person.keeps_picture("console-plan")
    assert re.search(r"^  1\. copy shim/", shown, re.MULTILINE)
    person.chooses("Show the changes")
    person.on_page("Changes of text files")
    person.keeps_picture("console-diffs")
    person.boot.press("end")
    person.sees("PgUp: scroll back")
    person.keeps_picture("console-diffs-scrolled")
    person.goes_back()
    person.on_page("The plan")
    person.accepts_default("Graft: says what is written")
    person.on_page(r"Write to the disk\?")
    person.keeps_picture("console-confirm")
    person.accepts_default("No, back")
    person.on_page("The plan")
    person.accepts_default("Graft: says what is written")
    person.on_page(r"Write to the disk\?")
    person.chooses("Yes, write it now")
    person.sees("^ bootgraft   Grafting")
    person.keeps_picture("console-grafting")
    shown = person.on_page("Result", GRAFT)
    person.keeps_picture("console-result")
    assert "SUCCESS" in shown
    person.chooses("Show the whole record")
    person.sees('"outcome": "grafted"')
    person.keeps_picture("console-record")
    person.goes_back()
    person.on_page("Result")
    person.goes_back()
    person.on_page(OVERVIEW, GRAFT)


def shell_and_back(person: Person) -> None:
    """Use the shell, and the same commands as the console's there."""
    person.chooses("Root shell")
    person.sees("Root shell. Type exit and Enter to go back.")
    person.types("bootgraft-agent runs")
    person.sees(r"^manual-[0-9a-f]{8}$", GRAFT)
    person.keeps_picture("console-shell")
    person.types("exit")
    person.on_page(OVERVIEW, GRAFT)


def take_back(person: Person) -> None:
    person.chooses("Take a graft back")
    shown = person.on_page("Take a graft back", GRAFT)
    person.keeps_picture("console-rollback")
    assert "hda1:/grub/grub.conf" in shown
    person.chooses("Yes, take it back now")
    shown = person.on_page("Result", GRAFT)
    person.keeps_picture("console-rollback-result")
    assert "is taken back: 6 files are as before it." in shown
    person.goes_back()
    person.on_page(OVERVIEW, GRAFT)


def switch_off(person: Person) -> None:
    person.chooses("Restart the machine")
    person.on_page("Restart")
    person.keeps_picture("console-restart")
    person.goes_back()
    person.on_page(OVERVIEW)
    person.chooses("Switch the machine off")
    person.on_page("Switch off")
    person.keeps_picture("console-off")
    person.accepts_default("Yes, switch off")


@pytest.mark.matrix
def test_without_a_serial_port_a_payload_inserted_while_waiting_is_grafted(
    source: Source, disk: Path, payload_iso: Path
) -> None:
    with boot_console(disk, source.manual, *EMPTY_DRIVE, has_com1=False) as boot:
        person = Person(boot)
        shown = person.on_page(OVERVIEW, START)
        person.keeps_picture("console-no-payload")
        assert "no payload DVD with a shim was found" in shown
        person.accepts_default("Wait for the DVD")
        person.on_page("Waiting for the DVD")
        person.keeps_picture("console-waiting")
        person.goes_back()
        person.on_page(OVERVIEW, GRAFT)
        person.accepts_default("Wait for the DVD")
        person.on_page("Waiting for the DVD")
        boot.exchange_medium("second", payload_iso)
        person.sees("This machine can be grafted", GRAFT)
        person.accepts_default("Show the plan")
        person.on_page("The plan", GRAFT)
        person.accepts_default("Graft")
        person.on_page(r"Write to the disk\?")
        person.chooses("Yes")
        assert "SUCCESS" in person.on_page("Result", GRAFT)
        person.accepts_default("Switch the machine off")
        person.on_page("Switch off")
        person.accepts_default("Yes")
        boot.wait_off(60)
    with boot_disk(disk, disk_format="vpc") as boot:
        boot.wait_for_console(source.appliance.expect, 180)


@pytest.mark.matrix
def test_two_boot_partitions_are_named_and_one_is_chosen(
    source: Source, disk: Path, payload_iso: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copyfile(disk, tmp_path / "other.vhd"))
    drive = ("-drive", f"if=none,id=other,file={other},format=vpc")
    more = (*drive, "-device", "ide-hd,bus=ide.0,unit=1,drive=other")
    dvd = with_payload_dvd(payload_iso)
    with boot_console(disk, source.manual, *more, *dvd) as boot:
        person = Person(boot)
        shown = person.on_page(OVERVIEW, START)
        person.keeps_picture("console-two-partitions")
        assert "hda1:/ and hdb1:/" in " ".join(shown.split())
        assert 'name one with the choice "Boot partition"' in " ".join(shown.split())
        person.accepts_default("Choose the boot partition")
        person.on_page("Choose")
        person.chooses("Boot partition")
        person.on_page("Boot partition")
        person.chooses("hdb1")
        person.on_page("Choose")
        person.goes_back()
        shown = person.on_page(OVERVIEW, GRAFT)
        assert "This machine can be grafted." in shown
        person.boot.press("pgdn", "pgdn")
        person.sees("Chosen by you: Boot partition: hdb1")


@pytest.mark.matrix
def test_a_controller_that_comes_late_is_answered_unless_a_person_has_begun(
    source: Source, disk: Path, payload_iso: Path, com1: Path
) -> None:
    dvd = with_payload_dvd(payload_iso)
    with boot_console(disk, source.host, *dvd, com1=com1) as boot:
        person = Person(boot)
        person.sees("press Enter to work with this machine here", START)
        person.keeps_picture("host-offer")
        with conversation(boot, com1, timeout=START, silence=GRAFT) as client:
            assert client.request("inspect", {}, GRAFT)["problem"] is None
        person.sees(r"inspect: done[\s\S]*press Enter to work", GRAFT)
        boot.press("ret")
        person.on_page(OVERVIEW, GRAFT)
        with conversation(boot, com1, timeout=START, silence=GRAFT) as client:
            with pytest.raises(OccupiedError, match="a person works at this machine's own console"):
                client.request("inspect", {}, GRAFT)
            person.chooses("Leave it to a controller")
            person.sees("left to a controller, which is waited for")
            person.keeps_picture("host-left")
            assert client.request("inspect", {}, GRAFT)["problem"] is None


def test_the_console_works_on_the_serial_port(
    source: Source, disk: Path, payload_iso: Path
) -> None:
    dvd = with_payload_dvd(payload_iso)
    with boot_console(disk, source.serial, *dvd) as boot:
        Person(boot).sees("the console is on /dev/ttyS0: 115200 baud", START)
        Person(boot).keeps_picture("serial-notice")
        boot.wait_for_console(r"This machine can be grafted[\s\S]*> 1  Show the plan", START)
        boot.console_text().encode("ascii")


@pytest.mark.matrix
def test_without_a_serial_port_the_serial_console_is_on_the_screen(
    source: Source, disk: Path, payload_iso: Path
) -> None:
    dvd = with_payload_dvd(payload_iso)
    with boot_console(disk, source.serial, *dvd, has_com1=False) as boot:
        person = Person(boot)
        person.sees("the console comes on this screen instead", START)
        person.on_page(OVERVIEW, START)


@pytest.mark.matrix
def test_unattended_fails_in_big_letters_while_a_client_of_com1_never_reads(
    source: Source, disk: Path, com1: Path
) -> None:
    before = hash_file(disk)
    with (
        never_reading(com1) as is_stuck,
        boot_console(disk, source.unattended, *EMPTY_DRIVE, com1=com1) as boot,
    ):
        person = Person(boot)
        shown = person.sees("switches itself off in", START)
        person.keeps_picture("unattended-failed")
        assert "bootgraft: FAILED" in shown
        assert "which carries no payload. Nothing was changed." in " ".join(shown.split())
        assert "What to do now: Put the ISO with the directory shim" in shown
        boot.wait_off(60)
        assert is_stuck()
    assert hash_file(disk) == before


@pytest.mark.matrix
def test_the_payload_may_lie_on_a_partition_beside_the_iso(
    source: Source, disk: Path, tmp_path: Path
) -> None:
    stick = make_stick(source.unattended, tmp_path)
    drive = f"if=none,id=stick,file={stick},format=raw"
    guest = ["-drive", f"if=none,id=disk,file={disk},format=vpc"]
    guest += ["-device", "ide-hd,bus=ide.0,unit=0,drive=disk"]
    usb = ["-device", "qemu-xhci", "-device", "usb-storage,drive=stick,bootindex=1"]
    with Boot([*guest, "-drive", drive, *usb], MEMORY) as boot:
        shown = Person(boot).sees("switches itself off in", START)
        assert "bootgraft: SUCCESS" in shown
        boot.wait_off(60)
    with boot_disk(disk, disk_format="vpc") as boot:
        boot.wait_for_console(source.appliance.expect, 180)


def make_stick(iso: Path, folder: Path) -> Path:
    """Write an ISO to a disk, and a third partition with the directory shim behind it."""
    stick = Path(shutil.copyfile(iso, folder / "stick.img"))
    start, size = stick.stat().st_size, 16 << 20
    write_files(folder / "payload", good_files())
    with stick.open("r+b") as file:
        file.truncate(start + size)
        file.seek(TABLE + 2 * ENTRY)
        # Not active, no cylinders, Linux, first sector, number of sectors.
        file.write(struct.pack("<B3xB3xII", 0, 0x83, start // SECTOR, size // SECTOR))
    make_ext3(stick, start, size, folder / "payload")
    return stick
