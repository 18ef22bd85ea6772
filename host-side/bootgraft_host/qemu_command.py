"""The command line of QEMU for a machine's configuration; pure."""

import json
from collections.abc import Iterator
from pathlib import Path

from bootgraft_host.vmconfig import (
    AdapterKind,
    DeviceClass,
    DiskConfig,
    DvdConfig,
    Slot,
    VmConfig,
)

PROGRAM = "qemu-system-x86_64"
COM1_ID = "com1"

# "legacy" is Hyper-V's word for its emulated DEC 21140, which QEMU calls tulip.
_ADAPTERS: dict[AdapterKind, str] = {
    "legacy": "tulip",
    "e1000": "e1000",
    "virtio": "virtio-net-pci",
}


def build_command(
    config: VmConfig,
    *,
    accelerator: str,
    qmp_socket: Path,
    com1_socket: Path,
    pid_file: Path,
) -> list[str]:
    """Build QEMU's argv; `com1_socket` is where COM1 is served, if the machine has one.

    The guest is cut off from everything but its disks, its DVDs, COM1 and the screen: network
    adapters lead nowhere. A guest that restarts itself is switched off instead, so that a boot
    that fails by a reset is seen and does not repeat for ever.
    """
    return [
        PROGRAM,
        *("-name", f"guest={_escape(config.name)}"),
        *("-machine", "pc"),
        *("-accel", accelerator),
        *cpu_options(accelerator),
        *("-m", str(config.memory_mib)),
        "-no-user-config",
        "-nodefaults",
        "-no-reboot",
        *("-rtc", "base=utc"),
        *("-vga", "std"),
        *("-display", "none"),
        # Only what boot_order names is booted.
        *("-boot", "menu=off,strict=on"),
        *("-pidfile", str(pid_file)),
        *("-chardev", _served_socket("qmp", qmp_socket)),
        *("-mon", "chardev=qmp,mode=control"),
        *_com1_options(config, com1_socket),
        *_drive_options(config),
        *_network_options(config),
    ]


def cpu_options(accelerator: str) -> Iterator[str]:
    """Give the host's own processor to KVM; emulated, QEMU's plain default: Xen resets on "max"."""
    if accelerator == "kvm":
        yield from ("-cpu", "host")


def _com1_options(config: VmConfig, socket: Path) -> Iterator[str]:
    if config.com1 is not None:
        yield from ("-chardev", _served_socket(COM1_ID, socket))
        yield from ("-serial", f"chardev:{COM1_ID}")


def _served_socket(name: str, path: Path) -> str:
    return f"socket,id={name},path={_escape(str(path))},server=on,wait=off"


def _drive_options(config: VmConfig) -> Iterator[str]:
    boot_indexes = _number_boot_devices(config)
    for disk in config.disks:
        yield from ("-blockdev", _block_node(disk.slot, disk.path, disk.format, read_only=False))
        yield from ("-device", _ide_device("ide-hd", disk, boot_indexes, has_medium=True))
    for dvd in config.dvds:
        if dvd.iso is not None:
            yield from ("-blockdev", _block_node(dvd.slot, dvd.iso, "raw", read_only=True))
        has_medium = dvd.iso is not None
        yield from ("-device", _ide_device("ide-cd", dvd, boot_indexes, has_medium=has_medium))


def _number_boot_devices(config: VmConfig) -> dict[Slot, int]:
    """Number the devices as the firmware tries them: class by class, the lowest slot first."""
    classes: dict[DeviceClass, tuple[DiskConfig | DvdConfig, ...]] = {
        "disk": config.disks,
        "dvd": config.dvds,
    }
    slots = [
        slot
        for name in config.boot_order
        for slot in sorted(device.slot for device in classes[name])
    ]
    return {slot: number for number, slot in enumerate(slots)}


def _block_node(slot: Slot, path: Path, image_format: str, *, read_only: bool) -> str:
    return json.dumps(
        {
            "driver": image_format,
            "node-name": _node_name(slot),
            "read-only": read_only,
            "file": {"driver": "file", "filename": str(path)},
        }
    )


def _ide_device(
    driver: str, device: DiskConfig | DvdConfig, boot_indexes: dict[Slot, int], *, has_medium: bool
) -> str:
    options = [driver, f"bus=ide.{device.slot.channel}", f"unit={device.slot.unit}"]
    if isinstance(device, DvdConfig):
        options.append(f"id={dvd_device_id(device.slot)}")
    if has_medium:
        options.append(f"drive={_node_name(device.slot)}")
    if device.slot in boot_indexes:
        options.append(f"bootindex={boot_indexes[device.slot]}")
    return ",".join(options)


def dvd_device_id(slot: Slot) -> str:
    """Name a DVD drive for QEMU's monitor."""
    return f"dvd{slot.channel}-{slot.unit}"


def _node_name(slot: Slot) -> str:
    return f"ide{slot.channel}-{slot.unit}"


def _network_options(config: VmConfig) -> Iterator[str]:
    yield from ("-nic", "none")
    network = config.network
    if network is not None and network.kind != "none":
        # Without its option ROM the firmware does not try to boot from the adapter.
        yield from ("-device", f"{_ADAPTERS[network.kind]},mac={network.mac},romfile=")


def _escape(text: str) -> str:
    """Return text as an option's value: QEMU reads two commas as one."""
    return text.replace(",", ",,")
