"""The vmlinux comes out of a bzImage however it was packed."""

import gzip
import lzma
import struct
import subprocess
from collections.abc import Callable

import pytest

from vm.debian_guest import extract_vmlinux

VMLINUX = b"\x7fELF" + bytes(range(256)) * 64


def compress_zstd(content: bytes) -> bytes:
    argv = ["zstd", "--compress", "--stdout"]
    return subprocess.run(argv, input=content, capture_output=True, check=True).stdout


def make_bz_image(packed: bytes) -> bytes:
    """Lay the payload out as Linux does: behind the setup sectors, its unpacked size at its end."""
    payload = packed + struct.pack("<I", len(VMLINUX))
    setup = bytearray(3 * 512)
    setup[0x1F1] = 2
    struct.pack_into("<II", setup, 0x248, 0x40, len(payload))
    return bytes(setup) + b"\x90" * 0x40 + payload + b"relocation code"


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress, compress_zstd])
def test_the_vmlinux_is_unpacked(compress: Callable[[bytes], bytes]) -> None:
    assert extract_vmlinux(make_bz_image(compress(VMLINUX))) == VMLINUX


def test_an_unknown_packing_is_named() -> None:
    with pytest.raises(ValueError, match="unknown way: 4c5a4950"):
        extract_vmlinux(make_bz_image(b"LZIP"))
