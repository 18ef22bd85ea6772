"""Which files lie in an initrd, by the headers of its cpio archive; pure.

Source: Linux, Documentation/driver-api/early-userspace/buffer-format.rst (newc format).
"""

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from bootgraft_agent.unpack import UNPACK_ERRORS, Gunzip, unpack

MAX_UNPACKED = 256 * 1024 * 1024
MAX_FILES = 100_000
_MAX_NAME = 4096  # PATH_MAX
_GZIP = b"\x1f\x8b"
# Magic and 13 fields of 8 hexadecimal digits; the 7th is the file's size, the 12th its name's.
_HEADER_SIZE = 110
_HEADER = re.compile(rb"07070[12](?:[0-9A-Fa-f]{8}){13}")
_TRAILER = b"TRAILER!!!"


def find_names(chunks: Iterable[bytes], is_wanted: Callable[[str], bool]) -> frozenset[str] | None:
    """Give the wanted names of a gzipped or plain cpio archive, which comes in chunks.

    None where it is neither, or damaged, or beyond all bounds.
    """
    pieces = iter(chunks)
    first = next(pieces, b"")
    whole = chain([first], pieces)
    reader = _Reader(unpack(whole, Gunzip()) if first.startswith(_GZIP) else whole)
    try:
        return frozenset(filter(is_wanted, _read_names(reader)))
    except (EOFError, ValueError, *UNPACK_ERRORS):
        return None


def _read_names(reader: "_Reader") -> Iterator[str]:
    """Yield the names up to the trailer. Raises ValueError for what no archive has."""
    for _ in range(MAX_FILES):
        header = reader.read(_HEADER_SIZE)
        if _HEADER.fullmatch(header) is None:
            raise ValueError("this is no header of a cpio archive")
        size, name_size = int(header[54:62], 16), int(header[94:102], 16)
        if name_size > _MAX_NAME:
            raise ValueError("a name is longer than any path")
        name = reader.read(name_size).rstrip(b"\0")
        if name == _TRAILER:
            return
        yield name.decode("utf-8", "replace")
        reader.skip(-(_HEADER_SIZE + name_size) % 4 + size + -size % 4)
    raise ValueError("the archive has more files than any initrd")


class _Reader:
    """Reads forward. Raises EOFError at the end, ValueError beyond MAX_UNPACKED."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._piece = b""
        self._at = 0  # in the piece
        self._room = MAX_UNPACKED

    def read(self, size: int) -> bytes:
        """Read exactly `size` bytes."""
        parts = []
        while size > 0:
            parts.append(self._some(size))
            size -= len(parts[-1])
        return b"".join(parts)

    def skip(self, size: int) -> None:
        """Pass over `size` bytes."""
        while size > 0:
            size -= len(self._some(size))

    def _some(self, size: int) -> bytes:
        if self._at == len(self._piece):
            self._next_piece()
        start, self._at = self._at, min(self._at + size, len(self._piece))
        return self._piece[start : self._at]

    def _next_piece(self) -> None:
        piece = next(self._pieces, None)
        if piece is None:
            raise EOFError("the archive is cut off")
        self._room -= len(piece)
        if self._room < 0:
            raise ValueError("the archive is larger than any initrd")
        self._piece, self._at = piece, 0
