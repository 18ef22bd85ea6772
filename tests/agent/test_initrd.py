"""The names in an initrd: archives of all kinds and sizes, whole and hostile, in bounded memory."""

import gzip
import tracemalloc
import zlib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootgraft_agent.initrd import MAX_FILES, MAX_UNPACKED, find_names

MIB = 1024 * 1024


def member(name: bytes, content: bytes = b"", *, size: bytes | None = None) -> bytes:
    """A file of a newc archive; `size` overrides the header's field."""
    fields = [b"00000000"] * 13
    fields[6] = size or b"%08x" % len(content)
    fields[11] = b"%08x" % (len(name) + 1)
    head = b"070701" + b"".join(fields) + name + b"\0"
    return padded(head) + padded(content)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


TRAILER = member(b"TRAILER!!!")
ARCHIVE = (
    member(b"lib/ide-disk.ko", b"module")
    + member(b"bin/sh", b"x" * 70_001)
    + member(b"e")
    + TRAILER
)
NAMES = frozenset({"lib/ide-disk.ko", "bin/sh", "e"})


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def every_name(name: str) -> bool:
    return True


@pytest.mark.parametrize("size", [1, 7, 4096, 1 << 20])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_the_names_are_found_however_the_archive_is_cut(pack: type[bytes], size: int) -> None:
    chunks = list(pieces(pack(ARCHIVE), size))
    if size == 1 and pack is not bytes:
        chunks[:2] = [b"".join(chunks[:2])]  # the packer's mark is in the first piece
    assert find_names(chunks, every_name) == NAMES


def test_only_wanted_names_are_kept() -> None:
    assert find_names([ARCHIVE], lambda name: name.endswith(".ko")) == frozenset(
        {"lib/ide-disk.ko"}
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"not an archive" * 100,
        ARCHIVE[: -len(TRAILER)],
        ARCHIVE[:300],
        gzip.compress(ARCHIVE, mtime=0)[:-20],
        gzip.compress(ARCHIVE, mtime=0)[:40] + bytes(60),
        member(b"a", size=b"-0000070") + TRAILER,
        member(b"a", size=b" 0x00001") + TRAILER,
        member(b"n" * 5000) + TRAILER,
        member(b"a" * 8) * (MAX_FILES + 1) + TRAILER,
    ],
    ids=lambda data: repr(data[:20]),
)
def test_what_is_no_whole_archive_gives_nothing(data: bytes) -> None:
    assert find_names(pieces(data, 65536), every_name) is None


def test_a_header_that_leads_backwards_ends_the_search() -> None:
    assert find_names([member(b"a\0", size=b"-0000070")], every_name) is None


@pytest.mark.parametrize("mib", [200, MAX_UNPACKED // MIB + 1])
def test_a_large_archive_takes_little_memory(mib: int) -> None:
    packer = zlib.compressobj(1, wbits=31)
    start = member(b"ide-disk.ko") + member(b"big", size=b"%08x" % (mib * MIB))
    packed = packer.compress(start) + b"".join(packer.compress(bytes(MIB)) for _ in range(mib))
    packed += packer.compress(TRAILER) + packer.flush()
    tracemalloc.start()
    try:
        found = find_names(pieces(packed, 256 * 1024), every_name)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == (frozenset({"ide-disk.ko", "big"}) if mib * MIB < MAX_UNPACKED else None)
    assert peak < 4 * MIB


@given(st.binary(max_size=400), st.integers(0, len(ARCHIVE)))
def test_any_bytes_give_an_answer(data: bytes, place: int) -> None:
    changed = ARCHIVE[:place] + data + ARCHIVE[place + len(data) :]
    found = find_names([changed], every_name)
    assert found is None or len(found) <= MAX_FILES
