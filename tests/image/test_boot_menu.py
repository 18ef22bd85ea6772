"""The boot menus: which keys they know, and that nothing on COM1 holds them up."""

import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from image.live_boot import MEMORY, ide_dvd, uefi
from vm.bench import find_live_iso
from vm.boots import Boot

pytestmark = [pytest.mark.vm, pytest.mark.matrix, pytest.mark.timeout(600)]

BOOT_TIMEOUT = 180.0  # seconds
UEFI_MEMORY = 288  # MiB
STRAY = b"x\r\n 1\x7f\t\x1b[A"


@pytest.fixture
def com1() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bg") as folder:
        yield Path(folder, "com1")


def boot(folder: Path, *, by_uefi: bool, com1: Path | None = None) -> Boot:
    firmware = uefi(folder, secure_boot=False) if by_uefi else []
    memory = UEFI_MEMORY if by_uefi else MEMORY
    return Boot([*firmware, *ide_dvd(find_live_iso(), 2, "bootindex=1")], memory, com1=com1)


def test_stray_bytes_on_com1_hold_no_menu_up(com1: Path, tmp_path: Path) -> None:
    with boot(tmp_path, by_uefi=False, com1=com1) as machine:
        machine.wait_for_screen("Host-driven: wait for a controller", BOOT_TIMEOUT)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(com1))
            client.sendall(STRAY * 10)
            machine.wait_for_console("^@bg1 ", BOOT_TIMEOUT)


def test_by_uefi_stray_bytes_hold_nothing_up_where_the_firmware_takes_com1_for_a_keyboard(
    com1: Path, tmp_path: Path
) -> None:
    with boot(tmp_path, by_uefi=True, com1=com1) as machine:
        machine.wait_for_console("To choose, press now", BOOT_TIMEOUT)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(com1))
            client.sendall(b"x\r\n 1\x7f\t")  # the firmware makes keys of these
            machine.wait_for_console("@bg1 ", BOOT_TIMEOUT)


def test_by_uefi_a_key_chooses_another_mode(tmp_path: Path) -> None:
    with boot(tmp_path, by_uefi=True) as machine:
        machine.wait_for_console("To choose, press now", BOOT_TIMEOUT)
        machine.press("f2")
        machine.wait_for_console("bootgraft: unattended: nobody is asked anything", BOOT_TIMEOUT)


def test_by_uefi_esc_shows_the_whole_menu(tmp_path: Path) -> None:
    with boot(tmp_path, by_uefi=True) as machine:
        machine.wait_for_console("To choose, press now", BOOT_TIMEOUT)
        machine.press("esc")
        machine.wait_for_console("Rescue: a root shell on this screen", BOOT_TIMEOUT)
        machine.press("down", "ret")
        machine.wait_for_console("bootgraft: unattended: nobody is asked anything", BOOT_TIMEOUT)
