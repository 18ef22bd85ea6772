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

# The live system may have no more than 256 MiB. Debian 6.1's vmlinux has 63 MiB, and lies in a
# bzImage of 8 MiB.
UNPACK_LIMIT = 80 * 1024 * 1024
_MEMORY = 136 * 1024 * 1024  # bytes for a bzImage, what it unpacks to, and xz's dictionary
_CHUNK = 64 * 1024
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
_BANNER = b"Linux version "
_MAX_BANNERS = 64
_RELEASE = re.compile(rb"[0-9][!-'*-~]{0,63}(?=[ \0])")

Format = Literal["multiboot", "linux-elf", "bzimage", "unknown"]
Bits = Literal[32, 64]
Content = bytes | bytearray


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


def recognise(data: bytes) -> Image:
    """Say what a file is. Unpacks at most UNPACK_LIMIT bytes, at most twice."""
    return recognise_chunks([data])


def recognise_chunks(chunks: Iterable[bytes]) -> Image:
    """Say what a file is that comes in chunks, as `recognise` does."""
    pieces = iter(chunks)
    first = next(pieces, b"")
    whole = chain([first], pieces)
    if not first.startswith(_GZIP):
        content = bytearray()
        for piece in whole:
            content += piece
        return _recognise_unpacked(content)
    content, problem = _unpack(whole, Gunzip(), UNPACK_LIMIT)
    del first
    image = _recognise_unpacked(content)
    return replace(image, compressed=True, problem=problem or image.problem)


def _recognise_unpacked(content: Content) -> Image:
    if not content:
        return Image("unknown", problem="it is empty")
    if content[:4] == b"\x7fELF":
        return _recognise_elf(content)
    if content[0x1FE:0x200] == b"\x55\xaa" and content[0x202:0x206] == b"HdrS":
        return _recognise_bzimage(content)
    header = _find_multiboot_header(content)
    if header is not None:
        return Image("multiboot", multiboot=True, problem=_flat_problem(content, header))
    return Image("unknown")


def _unpack(
    packed: Iterable[bytes], decompressor: Decompressor, limit: int
) -> tuple[bytearray, str | None]:
    """Return what can be unpacked, up to the limit, and why it is not all."""
    content = bytearray()
    try:
        for piece in unpack(packed, decompressor):
            content += piece[: limit - len(content)]
            if len(content) == limit:
                return content, f"it unpacks to {limit >> 20} MiB or more"
    except EOFError:
        return content, "its compressed data is cut off"
    except UNPACK_ERRORS as error:
        return content, f"its compressed data is damaged: {error}"
    return content, None


def _find_multiboot_header(content: Content) -> int | None:
    """Return the offset of the multiboot header."""
    end = min(_MULTIBOOT_SEARCH, len(content) - 11)
    for offset in range(0, end, 4):
        if content[offset : offset + 4] == _MULTIBOOT_MAGIC:
            magic, flags, checksum = struct.unpack_from("<3I", content, offset)
            if (magic + flags + checksum) & 0xFFFFFFFF == 0:
                return offset
    return None


def _flat_problem(content: Content, header: int) -> str | None:
    """Say why a multiboot file that is no ELF file cannot be loaded: by its own addresses."""
    (flags,) = struct.unpack_from("<I", content, header + 4)
    if not flags & _HAS_ADDRESSES or len(content) < header + 32:
        return "its multiboot header gives no load addresses, and it is no ELF file"
    header_address, load, load_end = struct.unpack_from("<3I", content, header + 12)
    start = header - (header_address - load)
    if start < 0 or (load_end and start + load_end - load > len(content)):
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

    def read(self, content: Content, limit: int) -> bytes:
        return bytes(content[self.offset : self.offset + min(self.size, limit)])


def _recognise_elf(content: Content) -> Image:
    layout = _ELF64 if content[4:5] == b"\2" else _ELF32
    if len(content) < layout.file.size:
        return Image("unknown", problem="it is cut off in its ELF header")
    _, machine, _, _, segments_at, sections_at, _, _, *sizes = layout.file.unpack_from(content)
    segments = _read_segments(content, layout, segments_at, sizes[0], sizes[1])
    sections = _read_sections(content, layout, sections_at, *sizes[2:])
    multiboot = _find_multiboot_header(content) is not None
    xen = _is_xen_guest(content, segments, sections)
    version = _find_release(content)
    image = Image(
        "unknown", multiboot=multiboot, xen=xen, problem=_elf_problem(content, segments, sizes[1])
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
    content: Content, layout: _Layout, start: int, size: int, count: int
) -> list[_Part]:
    kind, offset, length = layout.segment_fields
    headers = _read_table(content, layout.segment, start, size, count)
    return [_Part(header[kind], header[offset], header[length]) for header in headers]


def _read_sections(
    content: Content, layout: _Layout, start: int, size: int, count: int, names_index: int
) -> list[_Part]:
    headers = list(_read_table(content, layout.section, start, size, count))
    names_at = headers[names_index][4] if names_index < len(headers) else len(content)
    return [
        _Part(kind, offset, length, _read_name(content, names_at + name))
        for name, kind, _, _, offset, length, *_ in headers
    ]


def _read_name(content: Content, offset: int) -> bytes:
    return bytes(content[offset : offset + 16]).partition(b"\0")[0]


def _read_table(
    content: Content, header: struct.Struct, start: int, size: int, count: int
) -> Iterator[tuple[int, ...]]:
    """Yield the headers of a table, as far as they are in the file."""
    for index in range(min(count, _MAX_HEADERS)):
        offset = start + index * size
        if offset + header.size > len(content):
            return
        yield header.unpack_from(content, offset)


def _elf_problem(content: Content, segments: list[_Part], count: int) -> str | None:
    loaded = [segment for segment in segments if segment.kind == _PT_LOAD]
    missing = len(segments) < min(count, _MAX_HEADERS)
    if missing or any(segment.offset + segment.size > len(content) for segment in loaded):
        return "it is cut off: its segments reach beyond the file"
    return None if loaded else "it has no segment to load"


def _is_xen_guest(content: Content, segments: list[_Part], sections: list[_Part]) -> bool:
    """Tell whether the file says how Xen starts it, in notes or in the older __xen_guest."""
    noted = [part for part in segments if part.kind == _PT_NOTE]
    noted += [part for part in sections if part.kind == _SHT_NOTE]
    if any(_has_xen_entry(part.read(content, _MAX_NOTES_SIZE)) for part in noted):
        return True
    return any(
        b"XEN_VER=" in part.read(content, _MAX_NOTES_SIZE)
        for part in sections
        if part.name == b"__xen_guest"
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


def _find_release(content: Content) -> str | None:
    """Return the release that a Linux kernel's banner names."""
    place = -1
    for _ in range(_MAX_BANNERS):
        place = content.find(_BANNER, place + 1)
        if place < 0:
            return None
        release = _read_release(content, place + len(_BANNER))
        if release is not None:
            return release
    return None


def _read_release(content: Content, offset: int) -> str | None:
    match = _RELEASE.match(bytes(content[offset : offset + 80]))
    return match[0].decode("ascii") if match else None


def _recognise_bzimage(content: Content) -> Image:
    """Read the header of a bzImage, and the kernel inside where it can be unpacked."""
    header = bytes(content[:0x250]).ljust(0x250, b"\0")
    (protocol,) = struct.unpack_from("<H", header, 0x206)
    (version_at,) = struct.unpack_from("<H", header, 0x20E)
    (flags,) = struct.unpack_from("<H", header, 0x236)
    setup_end = ((header[0x1F1] or 4) + 1) * 512
    # A dictionary may grow as large as what is unpacked.
    limit = min(UNPACK_LIMIT, (_MEMORY - len(content)) // 2)
    inner = _recognise_payload(_find_payload(content, header, protocol, setup_end), limit)
    is_64 = protocol >= 0x20C and flags & 1  # XLF_KERNEL_64
    return Image(
        "bzimage",
        bits=64 if is_64 else inner.bits,
        xen=inner.xen,
        version=(_read_release(content, version_at + 0x200) if version_at else inner.version),
        problem=_bzimage_problem(content, header, setup_end),
    )


def _bzimage_problem(content: Content, header: bytes, setup_end: int) -> str | None:
    (paragraphs,) = struct.unpack_from("<I", header, 0x1F4)
    # The last paragraph of 16 bytes need not be full.
    if len(content) <= setup_end + (paragraphs - 1) * 16:
        return "it is cut off: its header announces more"
    return None


def _find_payload(content: Content, header: bytes, protocol: int, setup_end: int) -> memoryview:
    """Return the compressed kernel; before protocol 2.08 nothing but its gzip header tells it."""
    view = memoryview(content)
    if protocol >= 0x208:
        offset, size = struct.unpack_from("<2I", header, 0x248)
        return view[setup_end + offset : setup_end + offset + size]
    start = content.find(_GZIP + b"\x08\0", setup_end)
    return view[start:] if start >= 0 else view[:0]


def _recognise_payload(payload: memoryview, limit: int) -> Image:
    for magic, decompressor in _DECOMPRESSORS:
        if payload[: len(magic)] == magic:
            content, _ = _unpack(_chunks(payload), decompressor(), limit)
            if content[:4] == b"\x7fELF":
                return _recognise_elf(content)
            return Image("unknown", version=_find_release(content))
    return Image("unknown")


def _chunks(data: memoryview) -> Iterator[bytes]:
    return (bytes(data[start : start + _CHUNK]) for start in range(0, len(data), _CHUNK))
