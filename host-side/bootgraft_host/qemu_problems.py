"""What stands in the way of a run on a machine that QEMU runs; nothing is changed here."""

import itertools
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from bootgraft_host.machine import Media
from bootgraft_host.vmconfig import VmConfig

IMAGE_PROGRAM = "qemu-img"
IMAGE_TIMEOUT = 60.0  # seconds to read an image's header

_LOCKED_IMAGE = re.compile(r"Is another process using the image \[(.*)\]\?")
_DESCRIPTOR_OFFSET = 0x8001  # of the first volume descriptor's identifier: ECMA-119, 7.1.1
_DESCRIPTORS = (b"CD001", b"BEA01")  # ISO 9660; UDF alone


def find_iso_problems(config: VmConfig, media: Media) -> Iterator[str]:
    """Look at the ISOs of the run, and at those that the DVD drives hold already."""
    yield from _find_iso_problem("the live ISO", media.live_iso)
    if media.payload_iso is not None:
        yield from _find_iso_problem("the payload ISO", media.payload_iso)
    for number, dvd in enumerate(config.dvds, 1):
        if dvd.iso is not None:
            yield from _find_file_problem(f"the ISO of [[dvd]] {number}", dvd.iso, os.R_OK)


def _find_iso_problem(what: str, path: Path) -> Iterator[str]:
    problems = tuple(_find_file_problem(what, path, os.R_OK))
    yield from problems
    if not problems and not _is_disc_image(path):
        yield f"{what}, {path}, is no disc image (neither ISO 9660 nor UDF)"


def _is_disc_image(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(_DESCRIPTOR_OFFSET)
        return file.read(5) in _DESCRIPTORS


def find_disk_problems(config: VmConfig) -> Iterator[str]:
    """Look at the disks' images."""
    for number, disk in enumerate(config.disks, 1):
        what = f"the image of [[disk]] {number}"
        problems = tuple(_find_file_problem(what, disk.path, os.R_OK | os.W_OK))
        yield from problems or _find_image_problem(what, disk.path, disk.format)


def _find_image_problem(what: str, path: Path, image_format: str) -> Iterator[str]:
    """Let QEMU look: is it of that format, and does nobody else use it?"""
    command = [IMAGE_PROGRAM, "info", "-f", image_format, str(path)]
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=IMAGE_TIMEOUT
    )
    if result.returncode != 0:
        yield f"{what}, {path}, cannot be used as {image_format}: {explain(result.stderr)}"


def _find_file_problem(what: str, path: Path, access: int) -> Iterator[str]:
    if not path.exists():
        yield f"{what}, {path}, does not exist"
    elif not path.is_file():
        yield f"{what}, {path}, is not a file"
    elif not os.access(path, access):
        yield f"{what}, {path}, cannot be {'written' if access & os.W_OK else 'read'}"


def find_shared_files(config: VmConfig, media: Media) -> Iterator[str]:
    """Find files that have two roles of which at most one can be right."""
    roles = list(zip(("the live ISO", "the payload ISO"), media.isos, strict=False))
    roles += [(f"[[disk]] {number}", disk.path) for number, disk in enumerate(config.disks, 1)]
    present = [(what, path) for what, path in roles if path.exists()]
    for (what, path), (other, other_path) in itertools.combinations(present, 2):
        if path.samefile(other_path):
            yield f"{what} and {other} are the same file, {path}"


def find_com1_problems(config: VmConfig) -> Iterator[str]:
    """Look at the user's own socket: QEMU would silently take its place, whatever it is."""
    path = config.com1.socket if config.com1 else None
    if path is None:
        return
    if not path.parent.is_dir():
        yield f"the folder of COM1's socket {path} does not exist"
    elif path.exists() and not path.is_socket():
        yield f"COM1's socket {path} would replace another file"
    elif is_served(path):
        yield f"COM1's socket {path} is in use by another process"


def is_served(path: Path) -> bool:
    """Whether a process listens on a Unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.setblocking(False)
        try:
            client.connect(str(path))
        except BlockingIOError:
            return True  # it listens, and its queue is full
        except OSError:
            return False
    return True


def explain(words: str) -> str:
    """Say what QEMU means by its words where that is known."""
    locked = _LOCKED_IMAGE.search(words)
    return f"another process is using {locked[1]}" if locked else words.strip()
