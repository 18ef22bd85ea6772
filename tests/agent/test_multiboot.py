"""Kernels and shims by their bytes: Debian's own, and older and broken ones made here."""

import gzip
import lzma
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootgraft_agent.multiboot import UNPACK_LIMIT, Image, recognise, recognise_chunks
from vm import debian_guest

OLD_GUEST = b"GUEST_OS=linux,GUEST_VER=2.6,XEN_VER=xen-3.0,VIRT_BASE=0xc0000000,LOADER=generic\0"
BANNER = b"Linux version 2.6.18-398.el5xen (mockbuild@example) (gcc 4.1.2) #1 SMP\n\0"
EM_386, EM_X86_64, EM_PPC = 3, 62, 20
PT_LOAD, PT_NOTE, SHT_PROGBITS, SHT_STRTAB, SHT_NOTE = 1, 4, 1, 3, 7
XEN_ENTRY, XEN_PHYS32_ENTRY = 1, 18


def multiboot_header(flags: int = 0, addresses: tuple[int, ...] = ()) -> bytes:
    checksum = -(0x1BADB002 + flags) & 0xFFFFFFFF
    return struct.pack(f"<{3 + len(addresses)}I", 0x1BADB002, flags, checksum, *addresses)


def xen_note(kind: int = XEN_ENTRY, name: bytes = b"Xen\0") -> bytes:
    gnu = struct.pack("<3I", 4, 3, 3) + b"GNU\0" + b"abc\0"
    return gnu + struct.pack("<3I", len(name), 4, kind) + name + b"\0\0\0\xc0"


def elf(
    content: bytes,
    *,
    bits: int = 32,
    machine: int = EM_386,
    note: bytes = b"",
    sections: tuple[tuple[bytes, int, bytes], ...] = (),
) -> bytes:
    """An executable of one segment, perhaps one with notes, and sections with those contents."""
    header_size, segment_size = (52, 32) if bits == 32 else (64, 56)
    names = b"\0" + b"".join(name + b"\0" for name, _, _ in sections) + b".shstrtab\0"
    parts = [content, note, *(data for _, _, data in sections), names]
    starts = [header_size + 2 * segment_size]
    for part in parts:
        starts.append(starts[-1] + len(part))
    word = "I" if bits == 32 else "Q"
    ident = b"\x7fELF" + bytes([1 if bits == 32 else 2, 1, 1]).ljust(12, b"\0")
    table_size = 40 if bits == 32 else 64
    head = ident + struct.pack(
        f"<HHI3{word}I6H",
        *(2, machine, 1, 0x100000, header_size, starts[-1], 0, header_size),
        *(segment_size, 2 if note else 1, table_size, len(sections) + 1, len(sections)),
    )
    segments = [(PT_LOAD, starts[0], len(content)), (PT_NOTE, starts[1], len(note))]
    for kind, offset, size in segments:
        if bits == 32:
            head += struct.pack("<8I", kind, offset, 0, 0, size, size, 5, 4)
        else:
            head += struct.pack("<2I6Q", kind, 5, offset, 0, 0, size, size, 4)
    table = b""
    described = [*sections, (b".shstrtab", SHT_STRTAB, names)]
    for index, (name, kind, data) in enumerate(described):
        place = (names.index(b"\0" + name + b"\0") + 1, kind, 0, 0, starts[2 + index], len(data))
        table += struct.pack(f"<II4{word}II2{word}", *place, 0, 0, 1, 0)
    return head + b"".join(parts) + table


def bzimage(
    payload: bytes, protocol: int = 0x20C, version: bytes = b"2.6.24-16-xen (x@y) #1\0"
) -> bytes:
    """A bzImage with two setup sectors, whose payload stands behind some code."""
    code = bytes(64)
    kernel = code + payload + b"\0" * (-(len(payload) + len(code)) % 16)
    image = bytearray(3 * 512) + kernel
    image[0x1F1] = 2
    image[0x1FE:0x206] = b"\x55\xaa\0\0HdrS"
    struct.pack_into("<I", image, 0x1F4, len(kernel) // 16)
    struct.pack_into("<H", image, 0x206, protocol)
    struct.pack_into("<H", image, 0x20E, 0x200)
    struct.pack_into("<H", image, 0x236, 1)
    struct.pack_into("<2I", image, 0x248, len(code), len(payload))
    image[0x400 : 0x400 + len(version)] = version
    return bytes(image)


XEN_3_PAE = elf(BANNER, sections=((b"__xen_guest", SHT_PROGBITS, OLD_GUEST),))
XEN_64 = elf(BANNER, bits=64, machine=EM_X86_64, note=xen_note())
SHIM = elf(b"\0" * 12 + multiboot_header() + b"\0" * 64)


def test_the_hypervisor_of_debian_is_a_multiboot_program() -> None:
    data = debian_guest.read_hypervisor()
    expected = Image("multiboot", compressed=True, multiboot=True)
    assert recognise(data) == expected
    assert recognise(gzip.decompress(data)) == Image("multiboot", multiboot=True)


def test_the_kernel_of_debian_is_a_bzimage_and_an_elf_file_that_run_on_xen() -> None:
    packed, kernel_xen = debian_guest.read_bz_image(), debian_guest.read_kernel_xen()
    outside, inside = recognise(packed), recognise(kernel_xen)
    assert inside.version is not None
    assert f"Linux version {inside.version} (".encode() in gzip.decompress(kernel_xen)
    assert inside == Image("linux-elf", compressed=True, bits=64, xen=True, version=inside.version)
    # Where Debian packs its kernel with zstd it stays closed.
    readable = b"\xfd7zXZ\0" in packed[:65536]
    assert outside == Image("bzimage", bits=64, xen=readable, version=inside.version)


@pytest.mark.parametrize("read", [debian_guest.read_hypervisor, debian_guest.read_kernel_xen])
def test_a_real_image_cut_off_has_a_problem(read: Callable[[], bytes]) -> None:
    data = read()
    for size in (20, len(data) // 2, len(data) - 1):
        image = recognise(data[:size])
        assert image.problem == "its compressed data is cut off"
        assert image.compressed


def test_a_real_bzimage_cut_off_has_a_problem() -> None:
    image = recognise(debian_guest.read_bz_image()[:100_000])
    assert image.format == "bzimage"
    assert image.problem == "it is cut off: its header announces more"


IMAGES = {
    "xen 3.0, pae": (
        XEN_3_PAE,
        Image("linux-elf", bits=32, xen=True, version="2.6.18-398.el5xen"),
    ),
    "xen 3.0, pae, gzip": (
        gzip.compress(XEN_3_PAE),
        Image("linux-elf", compressed=True, bits=32, xen=True, version="2.6.18-398.el5xen"),
    ),
    "xen notes, 64 bits": (
        XEN_64,
        Image("linux-elf", bits=64, xen=True, version="2.6.18-398.el5xen"),
    ),
    "xen notes in a section alone": (
        elf(BANNER, sections=((b".notes", SHT_NOTE, xen_note()),)),
        Image("linux-elf", bits=32, xen=True, version="2.6.18-398.el5xen"),
    ),
    "xen notes without a banner": (
        elf(b"\0" * 64, note=xen_note()),
        Image("linux-elf", bits=32, xen=True),
    ),
    "linux without xen": (
        elf(BANNER, note=xen_note(name=b"Xxn\0")),
        Image("linux-elf", bits=32, version="2.6.18-398.el5xen"),
    ),
    "linux that only boots as a pvh guest": (
        elf(BANNER, note=xen_note(XEN_PHYS32_ENTRY)),
        Image("linux-elf", bits=32, version="2.6.18-398.el5xen"),
    ),
    "format of a banner before the banner": (
        elf(b"Linux version %s (%s)\n\0" + BANNER),
        Image("linux-elf", bits=32, version="2.6.18-398.el5xen"),
    ),
    "another machine": (elf(BANNER, machine=EM_PPC), Image("unknown")),
    "a program": (elf(b"\x7fELF, but no kernel"), Image("unknown")),
    "shim in elf32": (SHIM, Image("multiboot", multiboot=True)),
    "shim in elf32, gzip": (
        gzip.compress(SHIM),
        Image("multiboot", compressed=True, multiboot=True),
    ),
    "shim in elf64": (
        elf(b"\0" * 8 + multiboot_header() + b"\0" * 64, bits=64, machine=EM_X86_64),
        Image(
            "multiboot",
            multiboot=True,
            bits=64,
            problem="it is an ELF file of 64 bits, which GRUB legacy does not load",
        ),
    ),
    "shim at its own addresses": (
        bytes(64) + multiboot_header(0x10000, (0x100040, 0x100000, 0x100080, 0, 0)) + bytes(64),
        Image("multiboot", multiboot=True),
    ),
    "shim at its own addresses, of any length": (
        multiboot_header(0x10000, (0x100000, 0x100000, 0, 0, 0)),
        Image("multiboot", multiboot=True),
    ),
    "shim at its own addresses, cut off": (
        multiboot_header(0x10000, (0x100000, 0x100000, 0x101000, 0, 0)),
        Image(
            "multiboot",
            multiboot=True,
            problem="it is cut off: its load addresses reach beyond the file",
        ),
    ),
    "shim without addresses": (
        multiboot_header() + bytes(100),
        Image(
            "multiboot",
            multiboot=True,
            problem="its multiboot header gives no load addresses, and it is no ELF file",
        ),
    ),
    "multiboot header with a wrong checksum": (
        multiboot_header()[:8] + bytes(100),
        Image("unknown"),
    ),
    "multiboot header off by two": (bytes(2) + multiboot_header() + bytes(99), Image("unknown")),
    "multiboot header at 8 KiB": (
        bytes(8192) + multiboot_header(0x10000, (0,) * 5),
        Image("unknown"),
    ),
    "multiboot header just before 8 KiB": (
        bytes(8188) + multiboot_header(0x10000, (8188, 0, 0, 0, 0)),
        Image("multiboot", multiboot=True),
    ),
    "bzimage with a xen kernel": (
        bzimage(gzip.compress(XEN_64)),
        Image("bzimage", bits=64, xen=True, version="2.6.24-16-xen"),
    ),
    "bzimage packed with lzma": (
        bzimage(lzma.compress(XEN_3_PAE, lzma.FORMAT_ALONE), protocol=0x208),
        Image("bzimage", bits=32, xen=True, version="2.6.24-16-xen"),
    ),
    "bzimage packed in an unknown way": (
        bzimage(b"\x28\xb5\x2f\xfd" + bytes(100)),
        Image("bzimage", bits=64, version="2.6.24-16-xen"),
    ),
    "old bzimage that does not say where its payload is": (
        bzimage(gzip.compress(XEN_3_PAE), protocol=0x204),
        Image("bzimage", bits=32, xen=True, version="2.6.24-16-xen"),
    ),
    "old bzimage with a raw kernel": (
        bzimage(gzip.compress(bytes(100) + BANNER), protocol=0x204, version=b"\0"),
        Image("bzimage", version=None),
    ),
    "empty": (b"", Image("unknown", problem="it is empty")),
    "empty inside": (
        gzip.compress(b""),
        Image("unknown", compressed=True, problem="it is empty"),
    ),
    "gzip magic alone": (
        b"\x1f\x8b",
        Image("unknown", compressed=True, problem="its compressed data is cut off"),
    ),
    "elf magic alone": (
        b"\x7fELF",
        Image("unknown", problem="it is cut off in its ELF header"),
    ),
    "text": (b"#!/bin/sh\n", Image("unknown")),
}


@pytest.mark.parametrize(("data", "expected"), IMAGES.values(), ids=IMAGES.keys())
def test_images_are_what_they_are(data: bytes, expected: Image) -> None:
    assert recognise(data) == expected


@pytest.mark.parametrize(("data", "expected"), IMAGES.values(), ids=IMAGES.keys())
def test_images_in_small_pieces_are_what_they_are(data: bytes, expected: Image) -> None:
    assert recognise_chunks(data[at : at + 7] for at in range(0, len(data), 7)) == expected


def test_an_elf_file_cut_off_anywhere_in_its_segment_has_a_problem() -> None:
    for size in range(53, len(SHIM) - 70):
        assert recognise(SHIM[:size]).problem is not None
    assert recognise(SHIM).problem is None


def test_damaged_data_has_a_problem() -> None:
    data = bytearray(gzip.compress(SHIM + bytes(range(256)) * 64))
    data[-6] ^= 1  # in the checksum
    image = recognise(bytes(data))
    assert image.problem is not None
    assert image.problem.startswith("its compressed data is damaged: ")


def test_a_bomb_is_unpacked_up_to_the_limit() -> None:
    packer = zlib.compressobj(wbits=31)
    block = bytes(1 << 20)
    bomb = b"".join(packer.compress(block) for _ in range((UNPACK_LIMIT >> 20) + 8))
    bomb += packer.flush()
    image = recognise(bomb)
    assert image.problem == "it unpacks to 80 MiB or more"
    assert recognise(bzimage(bomb)).format == "bzimage"


@pytest.mark.parametrize(
    "make",
    [
        lambda filler: gzip.compress(XEN_64 + filler, 1),
        lambda filler: bzimage(lzma.compress(XEN_64 + filler, preset=0) + bytes(50 << 20)),
        lambda filler: bzimage(gzip.compress(XEN_64 + filler, 1) + bytes(50 << 20)),
    ],
)
def test_a_hostile_image_takes_bounded_memory(make: Callable[[bytes], bytes]) -> None:
    chunks = iter([make(bytes(130 << 20))])
    tracemalloc.start()
    try:
        recognise_chunks(_cut(chunks))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20


def _cut(whole: Iterator[bytes]) -> Iterator[bytes]:
    for data in whole:
        for start in range(0, len(data), 1 << 18):
            yield data[start : start + (1 << 18)]


def mutations(data: bytes) -> st.SearchStrategy[bytes]:
    """Data with some of its bytes changed, and cut off."""

    def change(places: list[tuple[int, bytes]], size: int) -> bytes:
        changed = bytearray(data)
        for place, new in places:
            changed[place : place + len(new)] = new
        return bytes(changed[:size])

    values = st.sampled_from([bytes(4), b"\xff" * 4, b"\xff\xff\xff\x7f", b"\xff", b"\1"])
    places = st.lists(st.tuples(st.integers(0, min(len(data), 700)), values), max_size=6)
    return st.builds(change, places, st.integers(0, len(data)))


@given(
    st.one_of(
        st.binary(max_size=300),
        *(mutations(data) for data in (XEN_3_PAE, XEN_64, SHIM, gzip.compress(SHIM))),
        mutations(bzimage(gzip.compress(XEN_64))),
        mutations(multiboot_header(0x10000, (64, 0, 128, 0, 0)) + bytes(128)),
    )
)
def test_any_bytes_give_an_answer(data: bytes) -> None:
    image = recognise(data)
    assert image.problem is None or image.problem
    assert image.format != "multiboot" or image.multiboot
    assert image.format != "linux-elf" or image.bits in {32, 64}
