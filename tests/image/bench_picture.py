"""The picture of a bench: bars of seconds, and the stages of a start below one another, as SVG."""

from collections.abc import Iterator, Mapping
from xml.sax.saxutils import escape

WIDTH, ROW, LABEL = 900, 24, 330  # pixels
FONT = 'font-family="sans-serif" font-size="13"'


def draw(seconds: Mapping[str, float], moments: Mapping[str, float]) -> str:
    """Draw both; `moments` are the ends of stages that follow one another."""
    bars = {name: (0.0, value) for name, value in seconds.items()}
    starts = [0.0, *moments.values()]
    stages = {
        name: (start, end) for (name, end), start in zip(moments.items(), starts, strict=False)
    }
    rows = [
        ("Seconds, median", None),
        *bars.items(),
        ("One start by BIOS, seconds since power-on", None),
        *stages.items(),
    ]
    scale = (WIDTH - LABEL - 60) / max(end for _, span in rows if span for end in span)
    height = ROW * (len(rows) + 1)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" {FONT}>',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
    ]
    for number, (name, span) in enumerate(rows, start=1):
        lines += _draw_row(number * ROW, name, span, scale)
    return "\n".join([*lines, "</svg>\n"])


def _draw_row(y: int, name: str, span: tuple[float, float] | None, scale: float) -> Iterator[str]:
    weight = ' font-weight="bold"' if span is None else ""
    yield f'<text x="10" y="{y}"{weight}>{escape(name)}</text>'
    if span is not None:
        start, end = span
        left, width = LABEL + start * scale, (end - start) * scale
        yield f'<rect x="{left:.1f}" y="{y - 12}" width="{width:.1f}" height="15" fill="#4a7ab5"/>'
        yield f'<text x="{left + width + 6:.1f}" y="{y}">{end - start:.1f}</text>'
