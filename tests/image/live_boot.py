"""Boots the live ISO in QEMU, as it is or with the probe in the agent's place."""

import contextlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bootgraft_host.client import Client
from bootgraft_host.link import Link, unix_url
from vm import cpio
from vm.boots import Boot
from vm.commands import run

REPOSITORY = Path(__file__).resolve().parents[2]
LIVE_ISO = REPOSITORY / "build/bootgraft.iso"
MEMORY = 160  # MiB, what the live system has to do with
OVMF = Path("/usr/share/OVMF")
PROBE = Path(__file__).with_name("probe.py").read_bytes()
PROBE_MARKER = "@probe "
POWER_OFF_TIMEOUT = 30.0  # seconds

# Python looks there before it looks where the agent is.
_AGENT_FOLDER = "early/usr/lib/python3.13/bootgraft_agent"


def boot_live(
    iso: Path, arguments: Sequence[str], memory_mib: int = MEMORY, *, com1: Path | None = None
) -> Boot:
    """Start a machine with a DVD in the secondary master, and what the arguments add."""
    return Boot([*ide_dvd(iso, 2, "bootindex=1"), *arguments], memory_mib, com1=com1)


def uefi(folder: Path, *, secure_boot: bool) -> list[str]:
    """Arguments for a machine with UEFI firmware, its variables in the folder.

    With Secure Boot the firmware has Microsoft's keys and starts nothing that they do not vouch
    for; its variables are out of the reach of everything but the firmware itself.
    """
    variables = folder / "variables.fd"
    shutil.copyfile(OVMF / f"OVMF_VARS_4M{'.ms' if secure_boot else ''}.fd", variables)
    code = OVMF / f"OVMF_CODE_4M{'.secboot' if secure_boot else ''}.fd"
    guarded = ("-global", "driver=cfi.pflash01,property=secure,value=on")
    return [
        *("-M", f"q35,smm={'on' if secure_boot else 'off'}"),
        *(guarded if secure_boot else ()),
        *("-drive", f"if=pflash,unit=0,readonly=on,format=raw,file={code}"),
        *("-drive", f"if=pflash,unit=1,format=raw,file={variables}"),
    ]


def extract(iso: Path, path: str, folder: Path) -> Path:
    """Take a file out of an ISO."""
    file = folder / Path(path).name
    run(["xorriso", "-osirrox", "on", "-indev", f"stdio:{iso}", "-extract", path, file])
    file.chmod(0o600)
    return file


def ide_disk(image: Path, index: int) -> list[str]:
    """Arguments for an IDE disk; `index` is the channel times 2 plus the unit."""
    return _ide("ide-hd", image, index, readonly="off")


def ide_dvd(iso: Path, index: int, *properties: str) -> list[str]:
    """Arguments for an IDE DVD drive with an ISO in it."""
    return _ide("ide-cd", iso, index, *properties, readonly="on")


def _ide(device: str, file: Path, index: int, *properties: str, readonly: str) -> list[str]:
    place = f"bus=ide.{index // 2},unit={index % 2}"
    return [
        *("-drive", f"if=none,id=ide{index},file={file},format=raw,readonly={readonly}"),
        *("-device", ",".join([device, f"drive=ide{index}", place, *properties])),
    ]


@contextlib.contextmanager
def conversation(boot: Boot, com1: Path, *, timeout: float, silence: float) -> Iterator[Client]:
    """Talk with the agent of a machine whose COM1 is served, from its HELLO on; in seconds."""
    with Link(unix_url(com1), may_connect=lambda: boot.is_running) as line:
        client = Client(line, on_event=lambda _: None, silence=silence)
        client.await_hello(timeout)
        yield client


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """All that the probe has said, and all that has come over COM1."""

    system: dict[str, Any]
    devices: dict[str, dict[str, Any]]  # by name
    mounted: dict[str, dict[str, Any]]  # by the device's name
    console: str


def run_probe(
    iso: Path, arguments: Sequence[str], *, timeout: float, memory_mib: int = MEMORY
) -> ProbeReport:
    """Boot an ISO whose agent is the probe, and let it finish; `timeout` in seconds."""
    with boot_live(iso, arguments, memory_mib) as boot:
        return finish_probe(boot, timeout)


def finish_probe(boot: Boot, timeout: float) -> ProbeReport:
    """Let the probe finish in a machine that boots; `timeout` in seconds."""
    boot.wait_for_console(r'^@probe {"(done|error)": .*\n', timeout)
    report = _collect_report(boot.console_text())
    boot.wait_off(POWER_OFF_TIMEOUT)
    return report


def _collect_report(console: str) -> ProbeReport:
    report = ProbeReport({}, {}, {}, console)
    for line in re.findall(rf"{PROBE_MARKER}(.*)$", console, re.MULTILINE):
        match json.loads(line):
            case {"error": error}:
                raise AssertionError(f"the probe failed in the live system: {error}")
            case {"system": system}:
                report.system.update(system)
            case {"device": device}:
                report.devices[device["name"]] = device
            case {"mounted": name, "outcome": outcome}:
                report.mounted[name] = outcome
    return report


def make_iso_with_agent(
    iso: Path, main_module: bytes, folder: Path, *, package: bytes = b""
) -> Path:
    """Make an ISO from the live one whose init starts another module instead of the agent.

    `package` is the __init__ of the package that the module is in.
    """
    return _with_agent_files(
        iso, {"__init__.py": package, "__main__.py": main_module}, folder, "changed.iso"
    )


def make_iso_with_package(iso: Path, package: Path, folder: Path, name: str) -> Path:
    """Make an ISO from the live one, with the agent of another source tree in it."""
    files = {str(path.relative_to(package)): path.read_bytes() for path in package.rglob("*.py")}
    return _with_agent_files(iso, files, folder, name)


def make_iso_beside_agent(iso: Path, package: bytes, folder: Path, name: str) -> Path:
    """Make an ISO from the live one in which something runs beside the agent.

    `package` is the __init__ of the agent's package; it must extend __path__ to where the agent is.
    """
    return _with_agent_files(iso, {"__init__.py": package}, folder, name)


def _with_agent_files(iso: Path, files: Mapping[str, bytes], folder: Path, name: str) -> Path:
    """Add files of the agent to the initrd: as its last archive they win."""
    initrd = extract(iso, "/boot/initrd.img", folder)
    with initrd.open("ab") as file:
        file.write(b"\0" * (-file.tell() % 4))
        file.write(cpio.encode(_agent_members(files)))
    changed = folder / name
    run(
        [
            # stdio: as xorriso takes everything below /dev, /dev/shm too, for a burner.
            *("xorriso", "-indev", f"stdio:{iso}", "-outdev", f"stdio:{changed}"),
            *("-boot_image", "any", "replay", "-map", initrd, "/boot/initrd.img", "-end"),
        ]
    )
    return changed


def _agent_members(files: Mapping[str, bytes]) -> list[cpio.Member]:
    paths = {str(Path(_AGENT_FOLDER, path)): content for path, content in sorted(files.items())}
    folders = {str(folder) for path in paths for folder in Path(path).parents if folder.name}
    return [
        *(cpio.directory(path) for path in sorted(folders)),
        *(cpio.regular(path, content) for path, content in paths.items()),
    ]
