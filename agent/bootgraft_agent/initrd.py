"""What lies in an initrd: the names in its cpio archive; pure.

Source: Linux, Documentation/driver-api/early-userspace/buffer-format.rst (newc format).
"""

import zlib

MAX_UNPACKED = 256 * 1024 * 1024
_MAGIC = (b"070701", b"070702")
_HEADER = 110  # bytes: magic and 13 fields of 8 hexadecimal digits
_TRAILER = "TRAILER!!!"


def list_names(data: bytes) -> tuple[str, ...] | None:
    """Give the names in a gzipped or plain cpio archive; None where it is neither, or damaged."""
    unpacked = _unpack(data)
    if unpacked is None or not unpacked.startswith(_MAGIC):
        return None
    names: list[str] = []
    at = 0
    while unpacked[at : at + 6] in _MAGIC:
        try:
            size = int(unpacked[at + 54 : at + 62], 16)
            name_size = int(unpacked[at + 94 : at + 102], 16)
        except ValueError:
            return None
        start = at + _HEADER
        name = unpacked[start : start + name_size].rstrip(b"\0").decode("utf-8", "replace")
        if name == _TRAILER:
            return tuple(names)
        names.append(name)
        at = _aligned(_aligned(start + name_size) + size)
    return None


def _aligned(offset: int) -> int:
    return (offset + 3) & ~3


def _unpack(data: bytes) -> bytes | None:
    if not data.startswith(b"\x1f\x8b"):
        return data[:MAX_UNPACKED]
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        return unpacker.decompress(data, MAX_UNPACKED)
    except zlib.error:
        return None
