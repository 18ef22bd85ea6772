"""What a kernel or a shim is, from its bytes alone. Pure; any bytes give an answer.

Sources: Multiboot Specification 0.6.96, section 3.1 (header) and 3.1.3 (load addresses); System V
ABI, chapter 4 (ELF); Linux Documentation/arch/x86/boot.rst (bzImage); Xen
xen/include/public/elfnote.h (notes, and the __xen_guest section that came before them).
"""

import bz2
import lzma
import re
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Literal

from bootgraft_agent.unpack import UNPACK_ERRORS, Decompressor, Gunzip, unpack

# Debian 6.1's vmlinux has 63 MiB, and lies in a bzImage of 8 MiB. None of it is kept but excerpts;
# xz's dictionary may grow as large as what is unpacked.
UNPACK_LIMIT = 80 * 1024 * 1024
_GZIP = b"\x1f\x8b"
# A kernel's xz stream asks for a dictionary of 32 to 128 MiB; only what is used takes memory.
_DICTIONARY_LIMIT = 136 * 1024 * 1024
# What the standard library unpacks; zstd, LZ4 and LZO stay closed.
_DECOMPRESSORS: tuple[tuple[bytes, Callable[[], Decompressor]], ...] = (
    (_GZIP, Gunzip),
    (b"\xfd7zXZ\0", lambda: lzma.LZMADecompressor(memlimit=_DICTIONARY_LIMIT)),
    (b"\x5d\0\0", lambda: lzma.LZMADecompressor(memlimit=_DICTIONARY_LIMIT)),
    (b"BZh", bz2.BZ2Decompressor),
)

# Holds the setup code of a bzImage, whose size is counted in sectors by one byte, and the headers
# of an ELF file.
_HEAD_SIZE = 128 * 1024
_MULTIBOOT_SEARCH = 8192
_MULTIBOOT_MAGIC = struct.pack("<I", 0x1BADB002)
_HAS_ADDRESSES = 1 << 16
_PT_LOAD, _PT_NOTE, _SHT_NOTE = 1, 4, 7
_EM_386, _EM_X86_64 = 3, 62
# A kernel with an entry point for paravirtual guests; one without it may run on Xen in other ways.
_XEN_ELFNOTE_ENTRY = 1
# Far more than any kernel has; hostile files get no more work out of us.
_MAX_HEADERS = 512
_MAX_NOTES_SIZE = 16384
_XEN_GUEST = b"__xen_guest"
_XEN_VERSION = b"XEN_VER="
_BANNER = b"Linux version "
# What is looked for everywhere in a file: the banner, and what makes a kernel a guest of Xen's (the
# type and the owner of the note that gives its entry; in the older way a section's name and text).
_MARKS = (_BANNER, struct.pack("<I", _XEN_ELFNOTE_ENTRY) + b"Xen\0", _XEN_VERSION, _XEN_GUEST)
_MAX_FOUND = 64  # of each mark
_BEFORE_MARK, _AFTER_MARK = _MAX_NOTES_SIZE, 128  # bytes that are kept with a mark
_RELEASE = re.compile(rb"[0-9][!-'*-~]{0,63}(?=[ \0])")

Format = Literal["multiboot", "linux-elf", "bzimage", "unknown"]
Bits = Literal[32, 64]


@dataclass(frozen=True, slots=True)
class Image:
    """A recognised file.

    compressed: gzip outside, as GRUB unpacks it. multiboot: a valid header within the first 8 KiB.
    bits: of the code; None where only an ELF32 container is seen, which may hold 64-bit code.
    xen: Linux that runs on Xen's hypercalls. version: the kernel's release, as 2.6.18-398.el5xen.
    problem: why it cannot be loaded as it is; None where nothing is wrong with it.
    """

    format: Format
    compressed: bool = False
    multiboot: bool = False
    bits: Bits | None = None
    xen: bool = False
    version: str | None = None
    problem: str | None = None


class _Stream:
    """The pieces of a file, which go by once: its head, and how much has gone by."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self.head = _read_first(self._pieces, _HEAD_SIZE)
        self.size = len(self.head)

    def __iter__(self) -> Iterator[bytes]:
        """Yield the pieces, the head first."""
        yield self.head
        for piece in self._pieces:
            self.size += len(piece)
            yield piece

    def drain(self) -> None:
        """Let the rest go by, so that the size is the file's."""
        for piece in self._pieces:
            self.size += len(piece)


def _read_first(pieces: Iterator[bytes], size: int) -> bytes:
    """Take pieces until they have a size together, or end."""
    first = b""
    while len(first) < size and (piece := next(pieces, b"")):
        first += piece
    return first


class _Unpacked(_Stream):
    """What packed data unpacks to, up to the limit; the problem says why it is not all."""

    def __init__(self, packed: Iterable[bytes], decompressor: Decompressor) -> None:
        self._reason: str | None = None
        super().__init__(self._unpack(packed, decompressor))

    def _unpack(self, packed: Iterable[bytes], decompressor: Decompressor) -> Iterator[bytes]:
        room = UNPACK_LIMIT
        try:
            for piece in filter(None, unpack(packed, decompressor)):
                yield piece[:room]
                room -= len(piece)
                if room <= 0:
                    self._reason = f"it unpacks to {UNPACK_LIMIT >> 20} MiB or more"
                    return
        except EOFError:
            self._reason = "its compressed data is cut off"
        except UNPACK_ERRORS as error:
            self._reason = f"its compressed data is damaged: {error}"

    @property
    def reason(self) -> str | None:
        """Why it is not all, once it has gone by."""
        return self._reason


class _Excerpt:
    """What is kept of a file: its head, some ranges, and the surroundings of the marks."""

    def __init__(self, stream: _Stream, ranges: Iterable[tuple[int, int]] = ()) -> None:
        """Let the stream go by; `ranges` are offsets and sizes."""
        self.head = stream.head
        self._ranges = [(start, start + size, bytearray()) for start, size in ranges]
        self._kept: list[tuple[int, bytes]] = [(0, stream.head)]
        self._found: dict[bytes, list[int]] = {mark: [] for mark in _MARKS}
        window, searched = b"", 0
        start = 0  # of the window in the file
        for piece in stream:
            self._keep_ranges(start + len(window), piece)
            window += piece
            end = start + len(window) - _AFTER_MARK
            self._search(window, start, searched, end)
            searched = max(searched, end)
            dropped = max(len(window) - _BEFORE_MARK - 2 * _AFTER_MARK, 0)
            window, start = window[dropped:], start + dropped
        self._search(window, start, searched, start + len(window))
        self.size = stream.size
        self._kept += [(start, bytes(content)) for start, _, content in self._ranges]

    def _keep_ranges(self, at: int, piece: bytes) -> None:
        for start, end, content in self._ranges:
            if start < at + len(piece) and at < end:
                content.extend(piece[max(start - at, 0) : end - at])

    def _search(self, window: bytes, start: int, first: int, end: int) -> None:
        """Find the marks that begin at `first` or later and before `end`, offsets in the file."""
        for mark, found in self._found.items():
            place = window.find(mark, max(first - start, 0))
            while 0 <= place < end - start and len(found) < _MAX_FOUND:
                found.append(start + place)
                before = max(place - _BEFORE_MARK, 0)
                self._kept.append((start + before, window[before : place + _AFTER_MARK]))
                place = window.find(mark, place + 1)

    def read(self, offset: int, size: int) -> bytes:
        """Give what is kept from an offset on, at most `size` bytes."""
        pieces = [
            content[offset - start : offset - start + size]
            for start, content in self._kept
            if start <= offset < start + len(content)
        ]
        return max(pieces, key=len, default=b"")

    def find_release(self) -> str | None:
        """Return the release that a Linux kernel's banner names."""
        for place in self._found[_BANNER]:
            release = _read_release(self.read(place + len(_BANNER), 80))
            if release is not None:
                return release
        return None


def recognise(data: bytes) -> Image:
    """Say what a file is. Unpacks at most UNPACK_LIMIT bytes, at most twice."""
    return recognise_chunks([data])


def recognise_chunks(chunks: Iterable[bytes]) -> Image:
    """Say what a file is that comes in chunks, as `recognise` does; it is never in memory whole."""
    stream = _Stream(filter(None, chunks))
    if not stream.head.startswith(_GZIP):
        return _recognise_unpacked(stream)
    unpacked = _Unpacked(stream, Gunzip())
    image = _recognise_unpacked(unpacked)
    return replace(image, compressed=True, problem=unpacked.reason or image.problem)


def _recognise_unpacked(stream: _Stream) -> Image:
    head = stream.head
    if not head:
        return Image("unknown", problem="it is empty")
    if head[:4] == b"\x7fELF":
        return _recognise_elf(stream)
    if head[0x1FE:0x200] == b"\x55\xaa" and head[0x202:0x206] == b"HdrS":
        return _recognise_bzimage(stream)
    for _ in stream:  # to its end: only then its size is known
        pass
    header = _find_multiboot_header(head)
    if header is not None:
        return Image("multiboot", multiboot=True, problem=_flat_problem(head, stream.size, header))
    return Image("unknown")


def _find_multiboot_header(head: bytes) -> int | None:
    """Return the offset of the multiboot header."""
    end = min(_MULTIBOOT_SEARCH, len(head) - 11)
    for offset in range(0, end, 4):
        if head[offset : offset + 4] == _MULTIBOOT_MAGIC:
            magic, flags, checksum = struct.unpack_from("<3I", head, offset)
            if (magic + flags + checksum) & 0xFFFFFFFF == 0:
                return offset
    return None


def _flat_problem(head: bytes, size: int, header: int) -> str | None:
    """Say why a multiboot file that is no ELF file cannot be loaded: by its own addresses."""
    (flags,) = struct.unpack_from("<I", head, header + 4)
    if not flags & _HAS_ADDRESSES or size < header + 32:
        return "its multiboot header gives no load addresses, and it is no ELF file"
    header_address, load, load_end = struct.unpack_from("<3I", head, header + 12)
    start = header - (header_address - load)
    if start < 0 or (load_end and start + load_end - load > size):
        return "it is cut off: its load addresses reach beyond the file"
    return None


@dataclass(frozen=True, slots=True)
class _Layout:
    """Structures of an ELF class; segment_fields: which are a segment's type, offset and size."""

    file: struct.Struct
    segment: struct.Struct
    segment_fields: tuple[int, int, int]
    section: struct.Struct


_ELF32 = _Layout(
    struct.Struct("<16xHHIIIIIHHHHHH"), struct.Struct("<8I"), (0, 1, 4), struct.Struct("<10I")
)
_ELF64 = _Layout(
    struct.Struct("<16xHHIQQQIHHHHHH"),
    struct.Struct("<IIQQQQQQ"),
    (0, 2, 5),
    struct.Struct("<IIQQQQIIQQ"),
)


@dataclass(frozen=True, slots=True)
class _Part:
    """A segment or a section: what it is and where its bytes lie in the file."""

    kind: int
    offset: int
    size: int
    name: bytes = b""

    def read(self, excerpt: _Excerpt, limit: int) -> bytes:
        return excerpt.read(self.offset, min(self.size, limit))


def _recognise_elf(stream: _Stream) -> Image:
    head = stream.head
    layout = _ELF64 if head[4:5] == b"\2" else _ELF32
    if len(head) < layout.file.size:
        stream.drain()
        return Image("unknown", problem="it is cut off in its ELF header")
    _, machine, _, _, segments_at, sections_at, _, _, *sizes = layout.file.unpack_from(head)
    tables = (segments_at, sizes[0], sizes[1]), (sections_at, sizes[2], sizes[3])
    excerpt = _Excerpt(
        stream, ((at, size * min(count, _MAX_HEADERS)) for at, size, count in tables)
    )
    segments = _read_segments(excerpt, layout, *tables[0])
    sections = _read_sections(excerpt, layout, *tables[1], sizes[4])
    multiboot = _find_multiboot_header(head) is not None
    xen = _is_xen_guest(excerpt, segments, sections)
    version = excerpt.find_release()
    image = Image(
        "unknown", multiboot=multiboot, xen=xen, problem=_elf_problem(excerpt, segments, sizes[1])
    )
    if multiboot and not xen:
        return _multiboot_elf(image, layout)
    if machine not in {_EM_386, _EM_X86_64} or not (xen or version):
        return image
    bits: Bits = 64 if machine == _EM_X86_64 else 32
    return replace(image, format="linux-elf", bits=bits, version=version)


def _multiboot_elf(image: Image, layout: _Layout) -> Image:
    if layout is _ELF32:
        return replace(image, format="multiboot")
    problem = "it is an ELF file of 64 bits, which GRUB legacy does not load"
    return replace(image, format="multiboot", bits=64, problem=image.problem or problem)


def _read_segments(
    excerpt: _Excerpt, layout: _Layout, start: int, size: int, count: int
) -> list[_Part]:
    kind, offset, length = layout.segment_fields
    headers = _read_table(excerpt, layout.segment, start, size, count)
    return [_Part(header[kind], header[offset], header[length]) for header in headers]


def _read_sections(
    excerpt: _Excerpt, layout: _Layout, start: int, size: int, count: int, names_index: int
) -> list[_Part]:
    headers = list(_read_table(excerpt, layout.section, start, size, count))
    names_at = headers[names_index][4] if names_index < len(headers) else excerpt.size
    return [
        _Part(kind, offset, length, _read_name(excerpt, names_at + name))
        for name, kind, _, _, offset, length, *_ in headers
    ]


def _read_name(excerpt: _Excerpt, offset: int) -> bytes:
    """Read a section's name, of which only that with a mark in it may be kept."""
    return excerpt.read(offset, 16).partition(b"\0")[0]


def _read_table(
    excerpt: _Excerpt, header: struct.Struct, start: int, size: int, count: int
) -> Iterator[tuple[int, ...]]:
    """Yield the headers of a table, as far as they are in the file."""
    for index in range(min(count, _MAX_HEADERS)):
        content = excerpt.read(start + index * size, header.size)
        if len(content) < header.size:
            return
        yield header.unpack(content)


def _elf_problem(excerpt: _Excerpt, segments: list[_Part], count: int) -> str | None:
    loaded = [segment for segment in segments if segment.kind == _PT_LOAD]
    missing = len(segments) < min(count, _MAX_HEADERS)
    if missing or any(segment.offset + segment.size > excerpt.size for segment in loaded):
        return "it is cut off: its segments reach beyond the file"
    return None if loaded else "it has no segment to load"


def _is_xen_guest(excerpt: _Excerpt, segments: list[_Part], sections: list[_Part]) -> bool:
    """Tell whether the file says how Xen starts it, in notes or in the older __xen_guest."""
    noted = [part for part in segments if part.kind == _PT_NOTE]
    noted += [part for part in sections if part.kind == _SHT_NOTE]
    if any(_has_xen_entry(part.read(excerpt, _MAX_NOTES_SIZE)) for part in noted):
        return True
    return any(
        _XEN_VERSION in part.read(excerpt, _MAX_NOTES_SIZE)
        for part in sections
        if part.name == _XEN_GUEST
    )


def _has_xen_entry(notes: bytes) -> bool:
    offset = 0
    while offset + 12 <= len(notes):
        name_size, content_size, kind = struct.unpack_from("<3I", notes, offset)
        name = notes[offset + 12 : offset + 12 + name_size]
        if name == b"Xen\0" and kind == _XEN_ELFNOTE_ENTRY:
            return True
        offset += 12 + -(-name_size // 4) * 4 + -(-content_size // 4) * 4
    return False


def _read_release(text: bytes) -> str | None:
    match = _RELEASE.match(text)
    return match[0].decode("ascii") if match else None


def _recognise_bzimage(stream: _Stream) -> Image:
    """Read the header of a bzImage, and the kernel inside where it can be unpacked."""
    header = stream.head[:0x250].ljust(0x250, b"\0")
    (protocol,) = struct.unpack_from("<H", header, 0x206)
    (version_at,) = struct.unpack_from("<H", header, 0x20E)
    (flags,) = struct.unpack_from("<H", header, 0x236)
    setup_end = ((header[0x1F1] or 4) + 1) * 512
    inner = _recognise_payload(_find_payload(stream, header, protocol, setup_end))
    stream.drain()
    is_64 = protocol >= 0x20C and flags & 1  # XLF_KERNEL_64
    named = stream.head[version_at + 0x200 : version_at + 0x200 + 80]
    return Image(
        "bzimage",
        bits=64 if is_64 else inner.bits,
        xen=inner.xen,
        version=_read_release(named) if version_at else inner.version,
        problem=_bzimage_problem(stream.size, header, setup_end),
    )


def _bzimage_problem(size: int, header: bytes, setup_end: int) -> str | None:
    (paragraphs,) = struct.unpack_from("<I", header, 0x1F4)
    # The last paragraph of 16 bytes need not be full.
    if size <= setup_end + (paragraphs - 1) * 16:
        return "it is cut off: its header announces more"
    return None


def _find_payload(stream: _Stream, header: bytes, protocol: int, setup_end: int) -> Iterator[bytes]:
    """Yield the compressed kernel; before protocol 2.08 nothing but its gzip header tells it."""
    if protocol >= 0x208:
        offset, size = struct.unpack_from("<2I", header, 0x248)
        return _cut(stream, setup_end + offset, size)
    start = stream.head.find(_GZIP + b"\x08\0", setup_end)
    return _cut(stream, start, UNPACK_LIMIT) if start >= 0 else iter(())


def _cut(pieces: Iterable[bytes], offset: int, size: int) -> Iterator[bytes]:
    """Yield the part of a file, which comes in pieces, that has this offset and size."""
    at = 0
    for piece in pieces:
        part = piece[max(offset - at, 0) : max(offset + size - at, 0)]
        if part:
            yield part
        at += len(piece)
        if at >= offset + size:
            return


def _recognise_payload(payload: Iterator[bytes]) -> Image:
    first = _read_first(payload, max(len(magic) for magic, _ in _DECOMPRESSORS))
    for magic, decompressor in _DECOMPRESSORS:
        if first.startswith(magic):
            unpacked = _Unpacked(chain([first], payload), decompressor())
            if unpacked.head[:4] == b"\x7fELF":
                return _recognise_elf(unpacked)
            return Image("unknown", version=_Excerpt(unpacked).find_release())
    return Image("unknown")
