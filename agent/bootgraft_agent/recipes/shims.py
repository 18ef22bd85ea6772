"""Which file of the payload is the shim that the new entry loads. Pure."""

import re

from bootgraft_agent.errors import AmbiguousError, RefusedError
from bootgraft_agent.guest import Guest, Kernel
from bootgraft_agent.payload import PayloadFile

_BITNESS = {64: re.compile(r"64"), 32: re.compile(r"32|i[3-6]86|pae", re.IGNORECASE)}


def choose_shim(guest: Guest, kernel: Kernel, name: str | None) -> PayloadFile:
    """Choose the multiboot file of the payload that the new entry loads."""
    files = guest.require_payload().files
    shims = [each for each in files if is_shim(each)]
    listed = ", ".join(f"{each.name} ({_shim_word(each)})" for each in files)
    if name is not None:
        named = [each for each in shims if name in {each.name, each.source}]
        if len(named) != 1:
            raise RefusedError(f"the payload has no shim named {name}; found: {listed}")
        return named[0]
    if not shims:
        raise RefusedError(
            f"no file of the payload's shim directory is a complete multiboot program: {listed};"
            " is this the Linux Integration Components ISO, and is it complete?"
        )
    fitting = [each for each in shims if _said_bits(each.name) in ({kernel.image.bits}, set())]
    if len(fitting) > 1:
        fitting = [each for each in fitting if _said_bits(each.name)]
    if len(fitting) == 1:
        return fitting[0]
    raise AmbiguousError(
        f"the kernel /{kernel.path} is a {kernel.image.bits}-bit one, and not exactly one shim says"
        f" in its name that it fits; name one with --shim; found: {listed}"
    )


def is_shim(file: PayloadFile) -> bool:
    """Tell whether GRUB can load a file as a multiboot program."""
    return file.image.format == "multiboot" and file.image.problem is None


def _shim_word(file: PayloadFile) -> str:
    if file.image.problem is not None:
        return file.image.problem
    return "multiboot" if file.image.format == "multiboot" else "not a multiboot program"


def _said_bits(name: str) -> set[int | None]:
    """Give the bitness that a name says; 64 where it says both, as in x86_64-pae32."""
    said: set[int | None] = {bits for bits, pattern in _BITNESS.items() if pattern.search(name)}
    return {64} if 64 in said else said
