"""An empty ISO that nothing boots from: a disc for the drive that is not to be booted.

Source: ECMA-119, 2nd edition; the numbers in parentheses are its sections.
"""

import struct

SECTOR_SIZE = 2048
SECTORS = 64  # more than the volume needs: drives do not like tiny discs
LABEL = "BOOTGRAFT_BLANK"

_PRIMARY, _TERMINATOR = 1, 255
_DESCRIPTORS, _LITTLE_TABLE, _BIG_TABLE, _ROOT = 16, 18, 19, 20  # sectors
_DIRECTORY = 2  # a flag of directory records
_DATE = bytes(7)  # no date (9.1.5)
_LONG_DATE = b"0" * 16 + b"\0"  # no date (8.4.26.1)


def make_blank_iso() -> bytes:
    """Give the whole disc: one empty directory, and no boot record."""
    disc = bytearray(SECTORS * SECTOR_SIZE)
    for sector, content in (
        (_DESCRIPTORS, _primary_descriptor()),
        (_DESCRIPTORS + 1, _head(_TERMINATOR)),
        (_LITTLE_TABLE, _path_table("<")),
        (_BIG_TABLE, _path_table(">")),
        (_ROOT, _directory_record(b"\0") + _directory_record(b"\1")),
    ):
        disc[sector * SECTOR_SIZE : sector * SECTOR_SIZE + len(content)] = content
    return bytes(disc)


def _head(kind: int) -> bytes:
    return bytes([kind]) + b"CD001" + b"\1"


def _primary_descriptor() -> bytes:
    """Lay out the primary volume descriptor (8.4)."""
    spaces = b" " * 128
    return b"".join(
        (
            _head(_PRIMARY),
            b"\0",
            b" " * 32,
            LABEL.encode("ascii").ljust(32),
            bytes(8),
            _both(SECTORS),
            bytes(32),
            _both_short(1),  # volumes in the set
            _both_short(1),  # this one's number
            _both_short(SECTOR_SIZE),
            _both(len(_path_table("<"))),
            struct.pack("<II", _LITTLE_TABLE, 0),
            struct.pack(">II", _BIG_TABLE, 0),
            _directory_record(b"\0"),
            spaces * 4,  # volume set, publisher, data preparer, application
            b" " * 37 * 3,  # copyright, abstract, bibliographic file
            _LONG_DATE * 4,
            b"\1",  # version of the file structure
        )
    )


def _path_table(order: str) -> bytes:
    """Lay out the path table of the root directory alone (9.4)."""
    return struct.pack(f"{order}BBIH", 1, 0, _ROOT, 1) + b"\0\0"


def _directory_record(name: bytes) -> bytes:
    """Lay out the root directory's own record, or that of its parent, which is itself (9.1)."""
    record = b"".join(
        (
            b"\0",  # extended attributes
            _both(_ROOT),
            _both(SECTOR_SIZE),
            _DATE,
            bytes([_DIRECTORY, 0, 0]),
            _both_short(1),
            bytes([len(name)]),
            name,
        )
    )
    return bytes([len(record) + 1]) + record


def _both(number: int) -> bytes:
    return struct.pack("<I", number) + struct.pack(">I", number)


def _both_short(number: int) -> bytes:
    return struct.pack("<H", number) + struct.pack(">H", number)
