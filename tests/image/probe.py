"""Stands in for the agent in the live system, and reports what it finds there on the serial port.

Runs in the live system alone, as the module that the live system's init starts. Each report is a
line of JSON; the last one is {"done": true}, then the machine powers off.
"""

import contextlib
import ctypes
import json
import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# These are libraries that the image must have.
import parted
import pyudev
import serial

MARKER = b"@probe "
MOUNT_POINT = Path("/mnt")
SNAPSHOT_SIZE = 16 << 20  # bytes, sparse
STA_UNSYNC = 0x40  # adjtimex(2): not synchronised, so that the kernel leaves the RTC alone
REBOOT_POWER_OFF = 0x4321FEDC  # reboot(2)


def main() -> None:
    """Report, then power off."""
    port = serial.Serial(sys.argv[sys.argv.index("--serial") + 1], exclusive=True)
    try:
        report(port, system=describe_system())
        for device in list_block_devices():
            report(port, device=describe_device(device))
        for device in list_block_devices():
            if device.get("ID_FS_USAGE") == "filesystem":
                report(port, mounted=device.sys_name, outcome=use_file_system(device))
    except Exception:
        report(port, error=traceback.format_exc())
        raise
    report(port, done=True)
    port.flush()
    ctypes.CDLL(None).reboot(REBOOT_POWER_OFF)


def report(port: serial.Serial, **facts: object) -> None:
    """Write one line of JSON."""
    port.write(MARKER + json.dumps(facts).encode() + b"\n")


def describe_system() -> dict[str, object]:
    """Read what the live system is and does."""
    return {
        "arguments": sys.argv[1:],
        "versions": parted.version(),
        "image_id": Path("/etc/bootgraft-image").read_text(encoding="ascii"),
        "command_line": Path("/proc/cmdline").read_text(encoding="ascii").split(),
        "modules": [line.split()[0] for line in read_lines("/proc/modules")],
        "mounts": [line.split()[1:3] for line in read_lines("/proc/mounts")],
        "swaps": read_lines("/proc/swaps")[1:],
        "consoles": [line.split()[0] for line in read_lines("/proc/consoles")],
        "programs": list_programs(),
        "interfaces": [name for _, name in socket.if_nameindex()],
        "clock_status": read_clock_status(),
        "errors": read_kernel_errors(),
    }


def read_lines(path: str) -> list[str]:
    """Read the lines of a small file."""
    return Path(path).read_text(encoding="ascii").splitlines()


def list_programs() -> list[str]:
    """Read the command lines of all processes but the kernel's own."""
    lines = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if line := (folder / "cmdline").read_bytes():
                lines.append(line.replace(b"\0", b" ").decode().strip())
    return lines


def read_clock_status() -> int:
    """Read the kernel's clock status by adjtimex(2), whose `modes` 0 changes nothing."""
    timex = ctypes.create_string_buffer(208)  # struct timex of a 64-bit system
    ctypes.CDLL(None).adjtimex(timex)
    return int.from_bytes(timex.raw[40:44], sys.byteorder)


def read_kernel_errors() -> list[str]:
    """Read the kernel's messages of level "error" and worse."""
    messages = subprocess.run(["dmesg", "-r"], capture_output=True, text=True, check=True).stdout
    return [line for line in messages.splitlines() if line.startswith(("<0>", "<1>", "<2>", "<3>"))]


def list_block_devices() -> list[pyudev.Device]:
    """List disks, partitions and DVD drives as udev knows them."""
    devices = pyudev.Context().list_devices(subsystem="block")
    return sorted(devices, key=lambda device: str(device.sys_name))


def describe_device(device: pyudev.Device) -> dict[str, Any]:
    """Read a device's name and udev's properties."""
    return {
        "name": device.sys_name,
        "properties": dict(device.properties),
        "path": device.sys_path,
    }


def use_file_system(device: pyudev.Device) -> dict[str, Any]:
    """Mount a file system; where it can be written, do that in a snapshot in memory."""
    kind = str(device.get("ID_FS_TYPE"))
    if device.get("ID_CDROM"):
        with mounted(device.device_node, kind, "ro"):
            return {"kind": kind, "files": sorted(path.name for path in MOUNT_POINT.iterdir())}
    word = f"kept by {device.sys_name}"
    with snapshot(device) as node:
        with mounted(node, kind, "rw"):
            (MOUNT_POINT / "word").write_text(word, encoding="ascii")
        with mounted(node, kind, "ro"):
            kept = (MOUNT_POINT / "word").read_text(encoding="ascii")
    return {"kind": kind, "kept": kept == word}


@contextlib.contextmanager
def mounted(node: str, kind: str, mode: str) -> Iterator[None]:
    """Have a file system at MOUNT_POINT."""
    run("mount", "-t", kind, "-o", mode, node, str(MOUNT_POINT))
    try:
        yield
    finally:
        run("umount", str(MOUNT_POINT))


@contextlib.contextmanager
def snapshot(device: pyudev.Device) -> Iterator[str]:
    """Have a writable device over a read-only one; what is written stays in memory."""
    run("blockdev", "--setro", device.device_node)
    store = Path("/tmp/store")
    store.touch()
    os.truncate(store, SNAPSHOT_SIZE)
    loop = run("losetup", "-f").strip()
    run("losetup", loop, str(store))
    sectors = run("blockdev", "--getsz", device.device_node).strip()
    table = f"0 {sectors} snapshot {device.device_node} {loop} N 8"
    run("dmsetup", "create", "probe", "--table", table)
    try:
        yield "/dev/mapper/probe"
    finally:
        run("dmsetup", "remove", "probe")
        run("losetup", "-d", loop)
        store.unlink()


def run(*argv: str) -> str:
    """Run a program of the live system; its words are in the error when it fails."""
    result = subprocess.run(argv, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(
            f"{argv} failed with {result.returncode}: {result.stdout}{result.stderr}"
        )
    return result.stdout


if __name__ == "__main__":
    main()
