"""Reads the text in a picture of a text screen, by the font of the VGA adapter's own firmware."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

from PIL import Image

# The firmware of QEMU's "-vga std" (Debian: seabios) holds the font of code page 437: 256 glyphs of
# 16 rows, one byte each. It begins with the empty glyph 0 and the smiling face of glyph 1.
FIRMWARE = Path("/usr/share/seabios/vgabios-stdvga.bin")
FONT_START = bytes(16) + bytes.fromhex("00007e81a58181bd9981817e00000000")
WIDTH, HEIGHT = 9, 16  # of a cell; the ninth column is empty, or repeats the eighth
COLUMNS, ROWS = 80, 25
UNKNOWN = "\N{REPLACEMENT CHARACTER}"


def read_picture(path: Path) -> str:
    """Return the text, row by row; unknown glyphs as UNKNOWN. Raises ValueError for graphics."""
    with Image.open(path) as picture:
        if picture.size != (COLUMNS * WIDTH, ROWS * HEIGHT):
            raise ValueError(f"{path} shows no text screen: it has {picture.size} pixels")
        grey = picture.convert("L")
    rows = ("".join(_read_cells(grey, row)).rstrip() for row in range(ROWS))
    return "\n".join(rows)


def _read_cells(picture: Image.Image, row: int) -> Iterator[str]:
    for column in range(COLUMNS):
        left, top = column * WIDTH, row * HEIGHT
        cell = picture.crop((left, top, left + 8, top + HEIGHT)).tobytes()
        yield _read_glyph(cell)


def _read_glyph(cell: bytes) -> str:
    """Find the glyph in whatever two colours; the background's are those of the first pixel."""
    lit = "".join("1" if level != cell[0] else "0" for level in cell)
    glyph = int(lit, 2).to_bytes(HEIGHT, "big")
    inverse = bytes(255 - row for row in glyph)
    font = _read_font()
    return font.get(glyph) or font.get(inverse) or UNKNOWN


@cache
def _read_font() -> dict[bytes, str]:
    firmware = FIRMWARE.read_bytes()
    start = firmware.index(FONT_START)
    glyphs = {
        firmware[start + code * HEIGHT :][:HEIGHT]: bytes((code,)).decode("cp437")
        for code in reversed(range(256))
    }
    return glyphs | {bytes(HEIGHT): " "}
