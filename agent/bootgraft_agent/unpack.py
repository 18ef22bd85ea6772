"""Unpacking piece by piece: neither the packed data nor the unpacked lie in memory whole."""

import lzma
import zlib
from collections.abc import Iterable, Iterator
from typing import Protocol

_PIECE = 256 * 1024  # bytes unpacked at a time

UNPACK_ERRORS = (zlib.error, lzma.LZMAError, OSError)  # bz2 raises OSError


class Decompressor(Protocol):
    """What lzma and bz2 offer: it keeps the input that it has not used yet."""

    @property
    def eof(self) -> bool:
        """Whether the end of the packed data was reached."""

    @property
    def needs_input(self) -> bool:
        """Whether there is nothing more to unpack without more input."""

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        """Unpack at most `max_length` bytes."""


class Gunzip:
    """zlib's decompressor with the manners of the others."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        """Whether the end of the packed data was reached."""
        return self._inflate.eof

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        """Unpack at most `max_length` bytes."""
        piece = self._inflate.decompress(self._inflate.unconsumed_tail + data, max_length)
        self.needs_input = len(piece) < max_length and not self._inflate.unconsumed_tail
        return piece


def unpack(chunks: Iterable[bytes], decompressor: Decompressor) -> Iterator[bytes]:
    """Yield what the chunks unpack to, in small pieces.

    Raises EOFError where they end too early, and UNPACK_ERRORS where they are damaged.
    """
    for chunk in chunks:
        yield decompressor.decompress(chunk, _PIECE)
        while not (decompressor.eof or decompressor.needs_input):
            yield decompressor.decompress(b"", _PIECE)
        if decompressor.eof:
            return
    raise EOFError("the compressed data is cut off")
