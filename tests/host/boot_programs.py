"""Tiny bootable disks and DVDs: guest_program.S under a name of the test's choice."""

import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("guest_program.S")
NAME = b"NAMENAME"


def build_program(folder: Path, name: str) -> bytes:
    """Assemble the guest program; `name`, up to eight letters, is what it greets with."""
    linked = folder / "guest_program.bin"
    assembled = folder / "guest_program.o"
    _run("as", "--32", "-o", assembled, SOURCE)
    _run(
        *("ld", "-m", "elf_i386", "-Ttext", "0x7c00", "--oformat", "binary"),
        *("-o", linked, assembled),
    )
    return linked.read_bytes().replace(NAME, name.encode().ljust(len(NAME)))


def build_disk(path: Path, name: str) -> Path:
    """Make a raw disk of 1 MiB that boots the guest program."""
    path.write_bytes(build_program(path.parent, name).ljust(1 << 20, b"\0"))
    return path


def build_iso(path: Path, name: str) -> Path:
    """Make an ISO that boots the guest program, without any emulation (El Torito)."""
    tree = path.with_suffix(".tree")
    tree.mkdir()
    (tree / "boot.bin").write_bytes(build_program(path.parent, name).ljust(2048, b"\0"))
    _run(
        *("xorriso", "-as", "mkisofs", "-quiet", "-b", "boot.bin", "-no-emul-boot"),
        *("-boot-load-size", "4", "-o", path, tree),
    )
    return path


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, capture_output=True)
