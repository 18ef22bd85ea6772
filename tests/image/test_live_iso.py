"""The live ISO: what it starts, what it finds, what it leaves alone, in the guest's own words."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bootgraft_host.customise import BootChanges, customise_iso
from image.live_boot import (
    LIVE_ISO,
    MEMORY,
    PROBE,
    ProbeReport,
    boot_live,
    ide_disk,
    ide_dvd,
    make_iso_with_agent,
    run_probe,
)
from image.probe import STA_UNSYNC
from vm.boots import Boot
from vm.commands import run

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]

BOOT_TIMEOUT = 180.0  # seconds; 20 on an idle machine
LAST_WORDS = 60  # seconds for which init says why it switches the machine off
FILE_SYSTEM_MODULES = {"ext4", "xfs", "btrfs", "jfs", "reiserfs", "vfat", "isofs", "udf"}


@pytest.fixture(scope="module")
def live_iso() -> Path:
    """The ISO that is under test."""
    if not LIVE_ISO.exists():
        pytest.fail(f"there is no {LIVE_ISO}: build it with image-build/build.sh")
    return LIVE_ISO


@pytest.fixture(scope="module")
def probe_iso(live_iso: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ISO with the probe in the agent's place."""
    return make_iso_with_agent(live_iso, PROBE, tmp_path_factory.mktemp("probe"))


@pytest.fixture
def broken_iso(live_iso: Path, tmp_path: Path) -> Path:
    """The ISO with an agent that cannot even start."""
    return make_iso_with_agent(live_iso, b"import nothing_of_this_name", tmp_path)


@dataclass(frozen=True, slots=True)
class Run:
    """A machine as on Hyper-V: one IDE disk, two DVD drives; what the probe said in it."""

    report: ProbeReport
    disk_before: str
    disk_after: str


@pytest.fixture(scope="module")
def ide_run(probe_iso: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The probe's words from a machine with one PIIX disk and two DVDs."""
    folder = tmp_path_factory.mktemp("ide")
    disk = make_file_system(folder / "disk.img", "ext3", label="guest-boot")
    payload = make_payload_iso(folder)
    before = hash_file(disk)
    devices = [*ide_disk(disk, 0), *ide_dvd(payload, 3)]
    report = run_probe(probe_iso, devices, timeout=BOOT_TIMEOUT)
    return Run(report, before, hash_file(disk))


def test_the_agent_gets_the_serial_port_and_the_screen(ide_run: Run) -> None:
    expected = ["live", "--serial", "/dev/ttyS0", "--screen", "/dev/tty1"]
    assert ide_run.report.system["arguments"] == expected


def test_nobody_but_the_agent_writes_to_the_serial_port(ide_run: Run) -> None:
    assert ide_run.report.system["consoles"] == ["tty0"]
    assert all(line.startswith("@probe ") for line in ide_run.report.console.splitlines())


def test_the_image_id_is_the_beginning_of_its_inputs_hash(ide_run: Run) -> None:
    inputs = LIVE_ISO.with_name("bootgraft.iso.inputs").read_text(encoding="ascii")
    assert ide_run.report.system["image_id"] == f"{inputs[:16]}\n"


def test_disk_and_dvds_are_found_in_the_order_of_their_cables(ide_run: Run) -> None:
    devices = ide_run.report.devices
    ports = {
        name: re.search(r"/ata(\d+)/.*target\d+:0:(\d)/", device["path"])
        for name, device in devices.items()
    }
    places = {name: (int(port[1]) - 1, int(port[2])) for name, port in ports.items() if port}
    assert places == {"sda": (0, 0), "sr0": (1, 0), "sr1": (1, 1)}


def test_udev_knows_disk_and_dvds_by_their_contents(ide_run: Run) -> None:
    labels = {
        name: (device["properties"]["ID_FS_TYPE"], device["properties"]["ID_FS_LABEL"])
        for name, device in ide_run.report.devices.items()
        if "ID_FS_LABEL" in device["properties"]
    }
    assert labels == {
        "sda": ("ext3", "guest-boot"),
        "sr0": ("iso9660", "BOOTGRAFT"),
        "sr1": ("iso9660", "PAYLOAD"),
    }


def test_no_file_system_and_no_volume_manager_is_there_before_it_is_needed(ide_run: Run) -> None:
    modules = set(ide_run.report.system["modules"])
    assert {"ata_piix", "sd_mod", "sr_mod"} <= modules
    assert not modules & (FILE_SYSTEM_MODULES | {"md_mod", "dm_mod"})


def test_nothing_of_the_guest_is_mounted_or_swapped_to(ide_run: Run) -> None:
    kinds = {kind for _, kind in ide_run.report.system["mounts"]}
    # The squashfs is the live system's own /usr.
    assert kinds == {"rootfs", "proc", "sysfs", "devtmpfs", "tmpfs", "squashfs"}
    assert ide_run.report.system["swaps"] == []


def test_the_live_system_runs_init_udev_and_the_agent_alone(ide_run: Run) -> None:
    programs = sorted(line.split()[0] for line in ide_run.report.system["programs"])
    workers = {"(udev-worker)"}
    assert [name for name in programs if name not in workers] == [
        "/bin/sh",
        "/usr/lib/systemd/systemd-udevd",
        "python3",
    ]


def test_no_network_is_configured(ide_run: Run) -> None:
    assert ide_run.report.system["interfaces"] == ["lo"]
    assert ide_run.report.system["links_up"] == []


def test_no_socket_listens_but_udev_s_own(ide_run: Run) -> None:
    assert ide_run.report.system["listening"] == ["/run/udev/control"]


def test_the_start_reports_no_problem(ide_run: Run) -> None:
    assert ide_run.report.system["problem"] == ""


def test_python_s_libraries_are_where_they_always_are(ide_run: Run) -> None:
    assert ide_run.report.system["child_path"] == "/usr"


def test_every_program_for_guests_starts(ide_run: Run) -> None:
    assert ide_run.report.system["refused_programs"] == []


def test_grub_legacy_s_boot_code_is_there(ide_run: Run) -> None:
    assert {"stage1", "stage2", "e2fs_stage1_5"} <= set(ide_run.report.system["boot_code"])


def test_the_kernel_leaves_the_hardware_clock_alone(ide_run: Run) -> None:
    assert ide_run.report.system["clock_status"] & STA_UNSYNC


def test_the_kernel_reports_no_errors(ide_run: Run) -> None:
    assert ide_run.report.system["errors"] == []


def test_a_snapshot_in_memory_is_writable_and_leaves_the_disk_as_it_is(ide_run: Run) -> None:
    assert ide_run.report.mounted["sda"] == {"kind": "ext3", "kept": True}
    assert ide_run.disk_after == ide_run.disk_before


def test_a_payload_without_rock_ridge_can_be_read(ide_run: Run) -> None:
    assert ide_run.report.mounted["sr1"] == {"kind": "iso9660", "files": ["shim"]}


@dataclass(frozen=True, slots=True)
class Adapter:
    """A controller for QEMU, the disk on it, and the file system that the disk gets."""

    disk: str
    file_system: str
    controller: str | None = None


# Every adapter that QEMU has of those in config/initramfs/modules, and every file system.
ADAPTERS = {
    "ahci": Adapter("ide-hd,bus=ahci.0", "ext2", "ahci,id=ahci"),
    "virtio-blk": Adapter("virtio-blk-pci", "ext4"),
    "virtio-scsi": Adapter("scsi-hd,bus=virtio.0", "xfs", "virtio-scsi-pci,id=virtio"),
    "nvme": Adapter("nvme,serial=nvme", "btrfs"),
    "lsi53c895a": Adapter("scsi-hd,bus=lsi.0", "jfs", "lsi53c895a,id=lsi"),
    "am53c974": Adapter("scsi-hd,bus=amd.0", "reiserfs", "am53c974,id=amd"),
    "megasas": Adapter("scsi-hd,bus=megasas.0", "vfat", "megasas,id=megasas"),
    # Linux finds a SAS disk of QEMU's by its name alone.
    "mptsas1068": Adapter(
        "scsi-hd,bus=mptsas.0,wwn=0x50000000000000ff", "udf", "mptsas1068,id=mptsas"
    ),
    "pvscsi": Adapter("scsi-hd,bus=pvscsi.0", "ext3", "pvscsi,id=pvscsi"),
    "xhci": Adapter("usb-storage,bus=xhci.0", "ext4", "qemu-xhci,id=xhci"),
    "ehci": Adapter("usb-storage,bus=ehci.0", "ext2", "usb-ehci,id=ehci"),
    "uhci": Adapter("usb-storage,bus=uhci.0", "vfat", "piix3-usb-uhci,id=uhci"),
    "uas": Adapter("scsi-hd,bus=uas.0", "ext3", "usb-uas,id=uas,bus=xhci.0"),
}


@pytest.fixture(scope="module")
def adapters_report(probe_iso: Path, tmp_path_factory: pytest.TempPathFactory) -> ProbeReport:
    """The probe's words from a machine with a disk on every adapter."""
    folder = tmp_path_factory.mktemp("adapters")
    arguments: list[str] = []
    for name, adapter in ADAPTERS.items():
        image = make_file_system(folder / f"{name}.img", adapter.file_system, label=name)
        if adapter.controller:
            arguments += ["-device", adapter.controller]
        arguments += ["-drive", f"if=none,id=disk-{name},file={image},format=raw"]
        arguments += ["-device", f"{adapter.disk},drive=disk-{name}"]
    # The drivers of 13 adapters and of every file system do not fit beside each other in MEMORY.
    return run_probe(probe_iso, arguments, timeout=2 * BOOT_TIMEOUT, memory_mib=2 * MEMORY)


@pytest.mark.matrix
@pytest.mark.parametrize("name", ADAPTERS)
def test_a_disk_is_found_and_its_file_system_works(adapters_report: ProbeReport, name: str) -> None:
    found = [
        device["name"]
        for device in adapters_report.devices.values()
        if device["properties"].get("ID_FS_LABEL") == name
    ]
    assert len(found) == 1
    expected = {"kind": ADAPTERS[name].file_system, "kept": True}
    assert adapters_report.mounted[found[0]] == expected


def test_the_screen_shows_why_an_agent_ends(broken_iso: Path) -> None:
    with boot_live(broken_iso, []) as boot:
        boot.wait_for_screen("^ModuleNotFoundError: ", BOOT_TIMEOUT)
        boot.wait_for_screen(
            "^bootgraft: the agent has ended with status 1; starting it again", BOOT_TIMEOUT
        )
        assert boot.console_text() == ""


@pytest.mark.matrix
def test_unattended_an_agent_that_cannot_start_leaves_no_machine_on(
    broken_iso: Path, tmp_path: Path
) -> None:
    iso = tmp_path / "unattended.iso"
    customise_iso(broken_iso, iso, BootChanges(0, "unattended"))
    with boot_live(iso, []) as boot:
        boot.wait_for_screen("^bootgraft: FAILED: the agent has ended 3 times", BOOT_TIMEOUT)
        boot.wait_off(LAST_WORDS + 60)


@pytest.fixture
def rescue_boot(live_iso: Path) -> Iterator[Boot]:
    """The rescue shell, chosen at the boot loader's prompt."""
    with boot_live(live_iso, []) as boot:
        boot.wait_for_screen("^boot:", BOOT_TIMEOUT)
        boot.press("5", "ret")
        yield boot


def test_rescue_is_a_shell_and_no_agent(rescue_boot: Boot) -> None:
    rescue_boot.wait_for_screen("^bootgraft: rescue: the agent is not started", BOOT_TIMEOUT)
    rescue_boot.wait_for_screen("^/ #", BOOT_TIMEOUT)
    rescue_boot.press(*"ps", "ret")
    rescue_boot.wait_for_screen("^ +1 .* /init$", BOOT_TIMEOUT)
    assert "python3" not in rescue_boot.screen_text()
    assert rescue_boot.console_text() == ""


@pytest.fixture(scope="module")
def agent_boot(live_iso: Path) -> Iterator[Boot]:
    """The live system as it is, once its agent has said something."""
    with boot_live(live_iso, []) as boot:
        boot.wait_for_console(r"\n", BOOT_TIMEOUT)
        yield boot


def test_the_agent_says_hello_as_the_first_thing_on_the_serial_port(agent_boot: Boot) -> None:
    first_line = agent_boot.console_text().splitlines()[0]
    assert re.fullmatch(r"@bg1 [0-9a-f]{8} H \d+ [0-9a-f]{8} \{.*\}", first_line)


def test_the_screen_shows_each_stage_in_one_line(agent_boot: Boot) -> None:
    assert re.search(
        r"^bootgraft: live system [0-9a-f]{16} starting\n"
        r"bootgraft: starting the agent, then drivers\n"
        r"bootgraft: waiting for a controller on /dev/ttyS0$",
        agent_boot.shown_text(),
        re.MULTILINE,
    )


def make_file_system(image: Path, kind: str, *, label: str) -> Path:
    """Make a disk image that is one file system, without partitions."""
    with image.open("wb") as file:
        file.truncate((320 if kind == "xfs" else 128) << 20)  # mkfs.xfs refuses less than 300 MiB
    commands = {
        "vfat": ["mkfs.vfat", "-n", label],
        "udf": ["mkfs.udf", f"--label={label}"],
        "btrfs": ["mkfs.btrfs", "-q", "-L", label],
        "jfs": ["mkfs.jfs", "-q", "-L", label],
        "reiserfs": ["mkfs.reiserfs", "-q", "-f", "-l", label],
        "xfs": ["mkfs.xfs", "-q", "-L", label],
    }
    ext = ["mke2fs", "-q", "-F", "-t", kind, "-L", label]
    run([*commands.get(kind, ext), image])
    return image


def make_payload_iso(folder: Path) -> Path:
    """Make an ISO as a vendor would: plain ISO 9660, upper case, versions."""
    tree = folder / "payload"
    (tree / "shim").mkdir(parents=True)
    (tree / "shim/shim").write_bytes(b"a file")
    iso = folder / "payload.iso"
    run(["xorriso", "-as", "mkisofs", "-quiet", "-V", "PAYLOAD", "-o", iso, tree])
    return iso


def hash_file(path: Path) -> str:
    """Return a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
