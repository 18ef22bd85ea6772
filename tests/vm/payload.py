"""Payload ISOs: Xen's hypervisor in shim/, standing in for the Integration Components' shim.

Without Rock Ridge the names are those of ISO 9660 alone: upper case, 8.3, and ";1" at the end
("SHIM/XEN_64.GZ;1").
"""

import argparse
import enum
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from vm import debian_guest
from vm.appliance import KERNEL
from vm.commands import run

SHIM = "shim/xen-64.gz"
README = b"A stand-in for the Linux Integration Components.\r\n"


class BadPayload(enum.StrEnum):
    """Payload ISOs that a graft of the demo appliance must refuse."""

    NO_SHIM_FOLDER = "no-shim-folder"
    EMPTY_SHIM_FOLDER = "empty-shim-folder"
    EMPTY_SHIM = "empty-shim"
    TRUNCATED_SHIM = "truncated-shim"
    TWO_SHIMS = "two-shims"
    OTHER_BITNESS = "other-bitness"
    REPLACES_KERNEL = "replaces-kernel"


def good_files() -> dict[str, bytes]:
    """Return the files of the stand-in payload, by their paths on the ISO."""
    return {SHIM: debian_guest.read_hypervisor(), "shim/readme.txt": README}


def bad_files(kind: BadPayload) -> dict[str, bytes]:
    """Return the files of a payload that is bad in one way."""
    shim = debian_guest.read_hypervisor()
    return {
        BadPayload.NO_SHIM_FOLDER: {"readme.txt": README},
        BadPayload.EMPTY_SHIM_FOLDER: {"readme.txt": README, "shim/": b""},
        BadPayload.EMPTY_SHIM: {SHIM: b""},
        BadPayload.TRUNCATED_SHIM: {SHIM: shim[: len(shim) // 2]},
        BadPayload.TWO_SHIMS: {"shim/first.gz": shim, "shim/second.gz": shim},
        BadPayload.OTHER_BITNESS: {"shim/xen-32.gz": shim},
        BadPayload.REPLACES_KERNEL: {SHIM: shim, f"shim/{KERNEL}": shim},
    }[kind]


def build_payload(
    directory: Path,
    *,
    name: str = "payload.iso",
    files: Mapping[str, bytes] | None = None,
    rock_ridge: bool = False,
    volume_id: str = "LIC",
) -> Path:
    """Make an ISO that holds `files`, the good ones unless told otherwise, and return its path."""
    iso = directory / name
    with tempfile.TemporaryDirectory() as scratch:
        write_files(Path(scratch), good_files() if files is None else files)
        extensions = ["-r"] if rock_ridge else ["--norock", "-iso-level", "1"]
        run(["xorriso", "-as", "mkisofs", "-V", volume_id, *extensions, "-o", iso, scratch])
    return iso


def build_bad_payload(directory: Path, kind: BadPayload) -> Path:
    """Make an ISO that is bad in one way; one with a kernel's long name needs Rock Ridge."""
    rock_ridge = kind is BadPayload.REPLACES_KERNEL
    return build_payload(
        directory, name=f"{kind}.iso", files=bad_files(kind), rock_ridge=rock_ridge
    )


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files by their paths below a folder; a path that ends in a slash is a folder."""
    for path, content in files.items():
        target = folder / path
        if path.endswith("/"):
            target.mkdir(parents=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)


def main(argv: list[str]) -> int:
    """Make the stand-in payload ISO from the command line."""
    parser = argparse.ArgumentParser(prog="python -m vm.payload", description=main.__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--rock-ridge", action="store_true")
    arguments = parser.parse_args(argv)
    arguments.directory.mkdir(parents=True, exist_ok=True)
    iso = build_payload(arguments.directory, rock_ridge=arguments.rock_ridge)
    print(iso)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
