"""The real GRUB legacy: Debian's package, unpacked and never installed."""

from pathlib import Path

import debian_packages

PACKAGE = "grub-legacy"
SUITE = "bookworm"  # Debian 13's package has no boot code any more


def unpack() -> Path:
    """Return the folder that holds the package's tree (usr/sbin/grub, usr/lib/grub/…)."""
    return debian_packages.unpack(PACKAGE, SUITE)


def shell_path() -> Path:
    """Return the GRUB shell: a 32-bit program that needs Debian's libc6-i386."""
    return unpack() / "usr/sbin/grub"


def stage_folder() -> Path:
    """Return the folder of stage1, stage2 and the *_stage1_5 files."""
    return unpack() / "usr/lib/grub/x86_64-pc"
