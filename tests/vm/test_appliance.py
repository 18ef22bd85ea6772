"""The demo appliance is what it claims to be: it cannot boot, and the manual job makes it boot."""

from pathlib import Path

import pytest

from vm.appliance import FSTAB, MARKER, Appliance, build_appliance, graft_by_hand
from vm.boots import boot_disk
from vm.guest_disk import GuestDisk

pytestmark = pytest.mark.vm

NEW_FSTAB = FSTAB.replace("/dev/xvda", "/dev/hda")


def build_grafted(
    directory: Path, *, arguments: str = "root=/dev/hda2", fstab: str = NEW_FSTAB
) -> Appliance:
    """Make an appliance and graft it by hand."""

    def graft(disk: GuestDisk) -> None:
        boot, root = disk.file_systems
        graft_by_hand(boot, arguments)
        root.write("/etc/fstab", fstab.encode())

    return build_appliance(directory, token="grafted", edit_disk=graft)  # noqa: S106


def test_grub_by_itself_stops_at_error_13(tmp_path: Path) -> None:
    appliance = build_appliance(tmp_path, token="untouched")  # noqa: S106
    with boot_disk(appliance.disk, disk_format="vpc") as boot:
        boot.wait_for_screen("Error 13: Invalid or unsupported executable format", timeout=60)
        boot.take_screenshot(tmp_path / "error-13.png")
        assert MARKER not in boot.console_text()
    assert (tmp_path / "error-13.png").read_bytes().startswith(b"\x89PNG")


def test_the_graft_by_hand_boots_into_the_userland_on_xen(tmp_path: Path) -> None:
    appliance = build_grafted(tmp_path)
    with boot_disk(appliance.disk, disk_format="vpc") as boot:
        boot.wait_for_console(appliance.expect, timeout=120)
        boot.wait_for_screen("appliance login:", timeout=20)


@pytest.mark.matrix
def test_a_wrong_boot_partition_in_fstab_shows_in_the_marker(tmp_path: Path) -> None:
    fstab = NEW_FSTAB.replace("/dev/hda1", "/dev/xvda1")
    appliance = build_grafted(tmp_path, arguments="root=/dev/hda2 demo.poweroff", fstab=fstab)
    with boot_disk(appliance.disk, disk_format="vpc") as boot:
        boot.wait_for_console("hypervisor=xen boot=failed root=/dev/hda2", timeout=120)
        boot.wait_off(timeout=30)


@pytest.mark.matrix
def test_a_wrong_root_in_fstab_stops_before_the_marker(tmp_path: Path) -> None:
    fstab = NEW_FSTAB.replace("/dev/hda2", "/dev/xvda2")
    appliance = build_grafted(tmp_path, fstab=fstab)
    with boot_disk(appliance.disk, disk_format="vpc") as boot:
        boot.wait_for_screen(r"\(Repair filesystem\)", timeout=120)
        assert MARKER not in boot.console_text()


@pytest.mark.matrix
@pytest.mark.parametrize("device", ["/dev/xvda2", "/dev/sda2"])
def test_the_kernel_knows_its_disk_by_the_old_ide_name_alone(device: str, tmp_path: Path) -> None:
    appliance = build_grafted(tmp_path, arguments=f"root={device}")
    with boot_disk(appliance.disk, disk_format="vpc") as boot:
        boot.wait_for_screen(f"could not find filesystem '{device}'", timeout=120)
        assert MARKER not in boot.console_text()
