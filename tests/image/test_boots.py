"""The ways to boot the live ISO, and the disks that its agent then reports.

The agent itself answers, over COM1.
"""

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bootgraft_agent.errors import RefusedError
from bootgraft_host.customise import BootChanges, customise_iso
from image.live_boot import (
    LIVE_ISO,
    MEMORY,
    PROBE,
    REPOSITORY,
    conversation,
    extract,
    finish_probe,
    ide_dvd,
    make_iso_with_agent,
    uefi,
)
from vm.boots import Boot
from vm.commands import run

pytestmark = [pytest.mark.vm, pytest.mark.matrix, pytest.mark.timeout(600)]

BOOT_TIMEOUT = 180.0  # seconds; 15 to 20 on an idle machine
INSPECT_TIMEOUT = 120.0
UEFI_MEMORY = 288  # MiB
README = REPOSITORY / "README.md"
KERNEL_PARAMETERS = "quiet console=tty0 rootfstype=ramfs bootgraft.mode=host"
MIB = 1024 * 1024

# A disk of a guest: arguments for QEMU, which name the drive "guest".
DISKS: Mapping[str, Sequence[str]] = {
    "ide": ["-device", "ide-hd,drive=guest,bus=ide.0,unit=0"],
    "ata": ["-device", "ahci,id=ahci", "-device", "ide-hd,drive=guest,bus=ahci.0"],
    "virtio": ["-device", "virtio-blk-pci,drive=guest"],
    "pvscsi": ["-device", "pvscsi,id=pv", "-device", "scsi-hd,drive=guest,bus=pv.0"],
    "lsi": ["-device", "lsi53c895a,id=lsi", "-device", "scsi-hd,drive=guest,bus=lsi.0"],
    "nvme": ["-device", "nvme,drive=guest,serial=guest"],
}


@dataclass(frozen=True, slots=True)
class Way:
    """A way to boot: the guest's disk, QEMU's arguments by the ISO and a folder, the memory."""

    disk: str
    arguments: Callable[[Path, Path], Sequence[str]]
    memory: int = MEMORY
    bus: str | None = None  # as the agent names it, where QEMU has another word


def from_dvd(iso: Path, folder: Path) -> list[str]:
    return ide_dvd(iso, 2, "bootindex=1")


def from_disk(iso: Path, folder: Path) -> list[str]:
    drive = f"if=none,id=stick,file={iso},format=raw,snapshot=on"
    device = "usb-storage,bus=xhci.0,drive=stick,bootindex=1"
    return ["-device", "qemu-xhci,id=xhci", "-drive", drive, "-device", device]


def from_uefi_dvd(iso: Path, folder: Path) -> list[str]:
    return [*uefi(folder, secure_boot=False), *from_dvd(iso, folder)]


def from_uefi_disk(iso: Path, folder: Path) -> list[str]:
    return [*uefi(folder, secure_boot=False), *from_disk(iso, folder)]


def from_secure_dvd(iso: Path, folder: Path) -> list[str]:
    drive = f"if=none,id=dvd,file={iso},format=raw,readonly=on"
    return [
        *uefi(folder, secure_boot=True),
        *("-drive", drive, "-device", "ide-cd,drive=dvd,bus=ide.2"),
    ]


def from_kernel_and_initrd(iso: Path, folder: Path) -> list[str]:
    """Boot without the ISO: the machine's firmware has both files in memory."""
    return [
        *("-kernel", str(extract(iso, "/boot/vmlinuz", folder))),
        *("-initrd", str(extract(iso, "/boot/initrd.img", folder))),
        *("-append", KERNEL_PARAMETERS),
    ]


def from_network(iso: Path, folder: Path) -> list[str]:
    """Boot by iPXE, as README shows it, from a server that has the script and both files."""
    server = folder / "server"
    server.mkdir()
    for path in ("/boot/vmlinuz", "/boot/initrd.img"):
        extract(iso, path, server)
    (script,) = re.findall(r"(?ms)^```\n(#!ipxe\n.*?)^```$", README.read_text("utf-8"))
    (server / "boot.ipxe").write_text(script, "ascii")
    return [
        *("-netdev", f"user,id=net,restrict=on,tftp={server},bootfile=boot.ipxe"),
        *("-device", "virtio-net-pci,netdev=net,bootindex=1"),
    ]


WAYS = {
    "bios-dvd-ide": Way("ide", from_dvd),
    "bios-dvd-ahci": Way("ata", from_dvd),
    "bios-dvd-virtio": Way("virtio", from_dvd),
    "bios-dvd-pvscsi": Way("pvscsi", from_dvd, bus="scsi"),
    "bios-dvd-lsi": Way("lsi", from_dvd, bus="scsi"),
    "bios-dvd-nvme": Way("nvme", from_dvd),
    "bios-disk": Way("ide", from_disk),
    "uefi-dvd": Way("ata", from_uefi_dvd, UEFI_MEMORY),
    "uefi-disk": Way("nvme", from_uefi_disk, UEFI_MEMORY),
    "secure-boot": Way("virtio", from_secure_dvd, UEFI_MEMORY),
    "kernel-and-initrd": Way("ide", from_kernel_and_initrd),
    "network": Way("ide", from_network),
}


@pytest.fixture
def com1() -> Iterator[Path]:
    """Where COM1 is served: sockets need short paths."""
    with tempfile.TemporaryDirectory(prefix="bg") as folder:
        yield Path(folder, "com1")


@pytest.fixture
def guest_disk(tmp_path: Path) -> Path:
    """A disk with one partition and its file system, whose sizes no other disk here has."""
    image = tmp_path / "guest.img"
    run(["truncate", "--size", str(37 * MIB), image])
    run(["sfdisk", "--quiet", image], stdin="start=1MiB, size=33MiB, type=83, bootable\n")
    run(["mke2fs", "-q", "-t", "ext3", "-E", f"offset={MIB}", image, "33m"])
    return image


@pytest.mark.parametrize("name", WAYS)
def test_the_agent_reports_the_disk_that_is_there(
    name: str, guest_disk: Path, com1: Path, tmp_path: Path
) -> None:
    way = WAYS[name]
    drive = ["-drive", f"if=none,id=guest,file={guest_disk},format=raw"]
    arguments = [*way.arguments(LIVE_ISO, tmp_path), *drive, *DISKS[way.disk]]
    with Boot(arguments, way.memory, com1=com1) as boot:
        facts = inspect(boot, com1)["facts"]
    (disk,) = facts["disks"]  # the live medium is none of the guest's
    assert disk["problem"] is None
    (partition,) = disk["partitions"]
    assert disk["size"] == 37 * MIB
    assert disk["bus"] == (way.bus or way.disk)
    assert (partition["size"], partition["active"], partition["fs_type"]) == (
        33 * MIB,
        True,
        "ext3",
    )
    assert all(drive["is_live_medium"] for drive in facts["dvd_drives"])


def test_a_failed_request_brings_the_kernel_s_log(
    com1: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level("INFO", "bootgraft_host"),
        Boot(from_dvd(LIVE_ISO, tmp_path), MEMORY, com1=com1) as boot,
        conversation(boot, com1, timeout=BOOT_TIMEOUT, silence=INSPECT_TIMEOUT) as client,
        pytest.raises(RefusedError, match="no disk was found"),
    ):
        client.request("plan", {}, INSPECT_TIMEOUT)
    said = [line for line in caplog.messages if line.startswith("the live system's kernel: ")]
    assert any("sr 1:0:0:0: Attached scsi CD-ROM sr0" in line for line in said)


def test_a_customised_iso_boots_from_a_disk_after_its_menu(com1: Path, tmp_path: Path) -> None:
    iso = tmp_path / "customised.iso"
    customise_iso(LIVE_ISO, iso, BootChanges(2, None, ["bootgraft.shell"]))
    with Boot(from_disk(iso, tmp_path), MEMORY, com1=com1) as boot:
        boot.wait_for_screen("Host-driven: wait for a controller", BOOT_TIMEOUT)
        boot.wait_for_console("^@bg1 ", BOOT_TIMEOUT)


def test_the_dvd_can_be_exchanged_for_the_payload(com1: Path, tmp_path: Path) -> None:
    payload = make_payload(tmp_path)
    with Boot(from_dvd(LIVE_ISO, tmp_path), MEMORY, com1=com1) as boot:
        boot.wait_for_console("^@bg1 ", BOOT_TIMEOUT)
        boot.exchange_medium("ide2", payload)
        (drive,) = inspect(boot, com1)["facts"]["dvd_drives"]
    assert (drive["label"], drive["is_live_medium"]) == ("PAYLOAD", False)


def test_secure_boot_is_enforced_and_the_kernel_locked_down(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    # With the probe in the initramfs: no signature covers that.
    iso = make_iso_with_agent(LIVE_ISO, PROBE, tmp_path_factory.mktemp("probe"))
    with Boot(from_secure_dvd(iso, tmp_path), UEFI_MEMORY) as boot:
        report = finish_probe(boot, BOOT_TIMEOUT)
    said = "\n".join(report.system["secure_boot"])
    assert re.search("secureboot: Secure boot enabled", said)
    assert re.search("locked down from EFI Secure Boot", said)
    assert report.system["problem"] == ""
    assert {"squashfs", "sr_mod"} <= set(report.system["modules"])


def test_secure_boot_starts_no_changed_kernel(tmp_path: Path) -> None:
    kernel = extract(LIVE_ISO, "/boot/vmlinuz", tmp_path)
    content = bytearray(kernel.read_bytes())
    content[len(content) // 2] ^= 1
    kernel.write_bytes(content)
    changed = tmp_path / "changed.iso"
    run(
        [
            *("xorriso", "-indev", LIVE_ISO, "-outdev", changed, "-boot_image", "any", "replay"),
            *("-map", kernel, "/boot/vmlinuz", "-end"),
        ]
    )
    with Boot(from_secure_dvd(changed, tmp_path), UEFI_MEMORY) as boot:
        boot.wait_for_console("bad shim signature", BOOT_TIMEOUT)


def inspect(boot: Boot, com1: Path) -> Mapping[str, Any]:
    """Have the agent look at the machine."""
    with conversation(boot, com1, timeout=BOOT_TIMEOUT, silence=INSPECT_TIMEOUT) as client:
        return client.request("inspect", {}, INSPECT_TIMEOUT)


def make_payload(folder: Path) -> Path:
    """Make an ISO that holds a file."""
    tree, iso = folder / "payload", folder / "payload.iso"
    tree.mkdir()
    (tree / "shim").write_bytes(b"a file")
    run(["xorriso", "-as", "mkisofs", "-quiet", "-V", "PAYLOAD", "-o", iso, tree])
    return iso
