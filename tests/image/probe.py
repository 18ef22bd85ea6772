"""Stands in for the agent in the live system, and reports what it finds there on the serial port.

Runs in the live system alone, as the module that the live system's init starts. Each report is a
line of JSON; the last one is {"done": true}, then the machine powers off.
"""

import contextlib
import ctypes
import importlib
import json
import os
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

READY = Path("/run/bootgraft/ready")
if __name__ == "__main__":
    # The first word of an agent needs less than what follows.
    while not READY.exists():
        time.sleep(0.1)
    importlib.invalidate_caches()

# These are libraries that the image must have.
import parted  # noqa: E402
import pyudev  # noqa: E402
import serial  # noqa: E402

MARKER = b"@probe "
MOUNT_POINT = Path("/mnt")
SNAPSHOT_SIZE = 16 << 20  # bytes, sparse
SO_ACCEPTCON = 1 << 16  # linux, include/uapi/linux/net.h
IFF_UP = 1  # linux, include/uapi/linux/if.h
NOT_STARTED = 127  # status of the dynamic loader's failure
STA_UNSYNC = 0x40  # adjtimex(2): not synchronised, so that the kernel leaves the RTC alone
REBOOT_POWER_OFF = 0x4321FEDC  # reboot(2)
# Programs for guests' volumes and for people: what each of them is asked, so that it does nothing.
PROGRAMS = {
    "debugfs": "-V",
    "dmsetup": "--version",
    "dumpe2fs": "-V",
    "e2fsck": "-V",
    "fsck.vfat": "--help",
    "jfs_fsck": "-V",
    "lvm": "version",
    "mdadm": "--version",
    "nano-tiny": "--version",
    "reiserfsck": "-V",
    "tune2fs": "-V",
    "udevadm": "--version",
    "xfs_db": "-V",
    "xfs_repair": "-V",
}


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
        "problem": READY.read_text(encoding="utf-8").strip(),
        "listening": list_listening_sockets(),
        "links_up": list_links_up(),
        "secure_boot": read_secure_boot(),
        "boot_code": sorted(path.name for path in Path("/usr/lib/grub-legacy").iterdir()),
        "versions": parted.version(),
        # As the agent's own child is started, and other than this process, which was there before.
        "child_path": run(sys.executable, "-I", "-c", "import sys; print(sys.prefix)").strip(),
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
        "refused_programs": list_refused_programs(),  # last: some want the device mapper
    }


def read_lines(path: str) -> list[str]:
    """Read the lines of a small file; none where there is no file."""
    file = Path(path)
    return file.read_text(encoding="ascii").splitlines() if file.exists() else []


def list_programs() -> list[str]:
    """Read the command lines of all processes but the kernel's own."""
    lines = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if line := (folder / "cmdline").read_bytes():
                lines.append(line.replace(b"\0", b" ").decode().strip())
    return lines


def list_listening_sockets() -> list[str]:
    """List the sockets of the network that anybody could reach, and those for programs here."""
    found = []
    for name in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6", "packet"):
        found += [f"{name} {line}" for line in read_lines(f"/proc/net/{name}")[1:]]
    # A Unix socket that listens has this flag; udev's for udevadm is the one that may.
    unix = (line.split() for line in read_lines("/proc/net/unix")[1:])
    return found + [words[-1] for words in unix if int(words[3], 16) & SO_ACCEPTCON]


def list_links_up() -> list[str]:
    """List the network interfaces that somebody has turned on."""
    flags = Path("/sys/class/net").glob("*/flags")
    return [path.parent.name for path in flags if int(path.read_text(), 16) & IFF_UP]


def list_refused_programs() -> list[str]:
    """List the programs that cannot be started, as for want of a library."""
    refused = []
    for program, question in PROGRAMS.items():
        try:
            result = subprocess.run(
                [program, question], capture_output=True, text=True, check=False, timeout=60
            )
        except OSError as error:
            refused.append(f"{program}: {error}")
            continue
        if result.returncode == NOT_STARTED:
            refused.append(f"{program}: {result.stderr.strip()}")
    return refused


def read_secure_boot() -> list[str]:
    """Read what the kernel says about Secure Boot."""
    messages = subprocess.run(["dmesg"], capture_output=True, text=True, check=True).stdout
    words = ("secureboot:", "locked down", "Lockdown:")
    return [line for line in messages.splitlines() if any(word in line for word in words)]


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
    """List disks, partitions and DVD drives as udev knows them; the live system's own is none."""
    devices = pyudev.Context().list_devices(subsystem="block")
    devices = (device for device in devices if "/devices/virtual/" not in device.sys_path)
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
