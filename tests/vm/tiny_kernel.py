"""Kernels of a few hundred bytes, in the forms that the distributions of 2005 to 2009 had.

The kernel-xen is a real one: Xen loads it, and all that it does is say on COM1 with which arguments
and which initrd it was started. So a boot of a menu entry is proven within seconds. It is a gzipped
ELF file for 64 bits, which GRUB by itself refuses.
"""

import gzip
import struct
from dataclasses import dataclass
from typing import Literal

VIRT_BASE = 0xFFFFFFFF80000000
LOAD_OFFSET = 0x200000
LOAD_ADDRESS = VIRT_BASE + LOAD_OFFSET

# How a kernel tells Xen what it is: ELF notes (RHEL 5 and later) or the older section of text.
Markers = Literal["notes", "xen_guest"]

# Xen's public headers: elfnote.h.
NOTE_ENTRY, NOTE_VIRT_BASE, NOTE_PADDR_OFFSET = 1, 3, 4
NOTE_XEN_VERSION, NOTE_GUEST_OS, NOTE_GUEST_VERSION, NOTE_LOADER = 5, 6, 7, 8

# Xen's public headers: xen.h (hypercall numbers, start_info), physdev.h, sched.h.
HYPERCALL_SCHED_OP, HYPERCALL_PHYSDEV_OP = 29, 33
PHYSDEVOP_SET_IOPL, SCHEDOP_BLOCK = 6, 1
START_INFO_MOD_START, START_INFO_CMD_LINE = 112, 128

COM1 = 0x3F8

ELF_HEADER_SIZE, PROGRAM_HEADER_SIZE, SECTION_HEADER_SIZE = 64, 56, 64
PT_NULL, PT_LOAD, PT_NOTE = 0, 1, 4
SHT_PROGBITS, SHT_STRTAB, SHT_NOTE = 1, 3, 7
READ_WRITE_EXECUTE = 7


@dataclass(frozen=True, slots=True)
class _Section:
    name: str
    kind: int
    content: bytes


def make_kernel_xen(release: str, markers: Markers = "notes") -> bytes:
    """Make the kernel-xen of a release ("2.6.18-8.el5xen").

    Booted by Xen, it sends the line "TINY-KERNEL <release> <arguments> initrd=<6 bytes>" to COM1.
    """
    program, entry = _program(release)
    if markers == "notes":
        marks = _Section(".notes", SHT_NOTE, _notes(entry))
    else:
        marks = _Section("__xen_guest", SHT_PROGBITS, _xen_guest(entry))
    return gzip.compress(_elf(program, entry, marks), mtime=0)


def make_bz_image(release: str) -> bytes:
    """Make what looks like the plain kernel of a release: a bzImage that carries nothing to boot.

    Linux/x86 boot protocol 2.06, "The real-mode kernel header".
    """
    version = f"{release} (builder@example.org) #1 SMP\0".encode()
    version_at = 0x240
    setup = bytearray(5 * 512)
    setup[0x1F1] = 4  # setup sectors behind the first
    struct.pack_into("<H", setup, 0x1FE, 0xAA55)
    setup[0x200:0x202] = b"\xeb\x3e"  # a jump over the header
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x206, 0x0206)
    struct.pack_into("<H", setup, 0x20E, version_at - 0x200)
    setup[0x211] = 1  # loaded high
    setup[version_at : version_at + len(version)] = version
    return bytes(setup) + gzip.compress(release.encode(), mtime=0).ljust(512, b"\0")


class _Program:
    """Machine code and data for x86-64, put together from the load address upwards."""

    def __init__(self) -> None:
        self.content = b""

    def place(self, content: bytes) -> int:
        """Append bytes and return their address."""
        address = LOAD_ADDRESS + len(self.content)
        self.content += content
        return address

    def call(self, address: int) -> None:
        """Append a call of a routine placed before."""
        behind = LOAD_ADDRESS + len(self.content) + 5
        self.place(b"\xe8" + struct.pack("<i", address - behind))

    def hypercall(self, number: int, command: int, argument: int) -> int:
        """Append a hypercall of two arguments and return its address."""
        start = self.place(b"\xb8" + struct.pack("<I", number))  # mov eax, number
        self.place(b"\xbf" + struct.pack("<I", command))  # mov edi, command
        self.place(b"\x48\xbe" + struct.pack("<Q", argument))  # mov rsi, argument
        self.place(b"\x0f\x05")  # syscall
        return start


def _program(release: str) -> tuple[bytes, int]:
    """Return the kernel, code and data, and the address of its entry.

    Xen enters a paravirtual kernel in 64-bit mode with a stack and with rsi on its start_info.
    """
    program = _Program()
    program.place(f"Linux version {release} (builder@example.org) #1 SMP\n\0".encode())
    greeting = program.place(f"TINY-KERNEL {release} \0".encode())
    initrd = program.place(b" initrd=\0")
    privilege = program.place(struct.pack("<I", 1))
    # lodsb; test al, al; je to the ret; out dx, al; jmp back; ret
    print_text = program.place(b"\xac\x84\xc0\x74\x03\xee\xeb\xf8\xc3")

    entry = program.place(b"\x48\x89\xf3")  # mov rbx, rsi
    # From here on the kernel may use I/O ports.
    program.hypercall(HYPERCALL_PHYSDEV_OP, PHYSDEVOP_SET_IOPL, privilege)
    program.place(b"\x66\xba" + struct.pack("<H", COM1))  # mov dx, COM1
    program.place(b"\x48\xbe" + struct.pack("<Q", greeting))  # mov rsi, greeting
    program.call(print_text)
    program.place(b"\x48\x8d\xb3" + struct.pack("<I", START_INFO_CMD_LINE))  # lea rsi, [rbx + …]
    program.call(print_text)
    program.place(b"\x48\xbe" + struct.pack("<Q", initrd))  # mov rsi, initrd
    program.call(print_text)
    program.place(b"\x48\x8b\x73" + struct.pack("b", START_INFO_MOD_START))  # mov rsi, [rbx + …]
    program.place(b"\xb9" + struct.pack("<I", 6) + b"\xf3\x6e")  # mov ecx, 6; rep outsb
    program.place(b"\xb0\x0a\xee")  # mov al, newline; out dx, al
    halt = program.hypercall(HYPERCALL_SCHED_OP, SCHEDOP_BLOCK, 0)
    behind = LOAD_ADDRESS + len(program.content) + 2
    program.place(b"\xeb" + struct.pack("b", halt - behind))  # jmp halt
    return program.content, entry


def _notes(entry: int) -> bytes:
    def note(kind: int, content: bytes) -> bytes:
        padding = b"\0" * (-len(content) % 4)
        return struct.pack("<III", 4, len(content), kind) + b"Xen\0" + content + padding

    return b"".join(
        (
            note(NOTE_GUEST_OS, b"linux\0"),
            note(NOTE_GUEST_VERSION, b"2.6\0"),
            note(NOTE_XEN_VERSION, b"xen-3.0\0"),
            note(NOTE_VIRT_BASE, struct.pack("<Q", VIRT_BASE)),
            note(NOTE_PADDR_OFFSET, struct.pack("<Q", 0)),
            note(NOTE_ENTRY, struct.pack("<Q", entry)),
            note(NOTE_LOADER, b"generic\0"),
        )
    )


def _xen_guest(entry: int) -> bytes:
    return (
        "GUEST_OS=linux,GUEST_VER=2.6,XEN_VER=xen-3.0,"
        f"VIRT_BASE={VIRT_BASE:#x},ELF_PADDR_OFFSET=0x0,VIRT_ENTRY={entry:#x},LOADER=generic"
    ).encode() + b"\0"


def _elf(program: bytes, entry: int, marks: _Section) -> bytes:
    """Make an ELF file for x86-64 that loads a program and tells Xen what it is."""
    text = _Section(".text", SHT_PROGBITS, program)
    names = f"\0{text.name}\0{marks.name}\0.shstrtab\0".encode()
    sections = (text, marks, _Section(".shstrtab", SHT_STRTAB, names))
    start = ELF_HEADER_SIZE + 2 * PROGRAM_HEADER_SIZE
    body, headers = b"", b"\0" * SECTION_HEADER_SIZE
    offsets = []
    for section in sections:
        offset = start + len(body)
        offsets.append(offset)
        body += section.content + b"\0" * (-len(section.content) % 8)
        name_at = names.index(f"\0{section.name}\0".encode()) + 1
        address = LOAD_ADDRESS if section is text else 0
        headers += struct.pack(
            "<IIQQQQIIQQ",
            *(name_at, section.kind, 0, address, offset, len(section.content), 0, 0, 4, 0),
        )
    mark_kind = PT_NOTE if marks.kind == SHT_NOTE else PT_NULL
    return (
        _elf_header(entry, start + len(body), len(sections) + 1)
        + _program_header(PT_LOAD, offsets[0], LOAD_ADDRESS, LOAD_OFFSET, len(program))
        + _program_header(mark_kind, offsets[1], 0, 0, len(marks.content))
        + body
        + headers
    )


def _elf_header(entry: int, sections_at: int, section_count: int) -> bytes:
    identity = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")  # 64 bits, little-endian, version 1
    return identity + struct.pack(
        "<HHIQQQIHHHHHH",
        *(2, 62, 1),  # an executable for x86-64, version 1
        *(entry, ELF_HEADER_SIZE, sections_at, 0),
        *(ELF_HEADER_SIZE, PROGRAM_HEADER_SIZE, 2, SECTION_HEADER_SIZE),
        *(section_count, section_count - 1),
    )


def _program_header(kind: int, offset: int, virtual: int, physical: int, size: int) -> bytes:
    flags = READ_WRITE_EXECUTE
    return struct.pack("<IIQQQQQQ", kind, flags, offset, virtual, physical, size, size, 8)
