"""The picture: one bar per promise, drawn so that the bound is the same line for all of them.

A bar is as long as the ratio measured in its bound, so one that ends before the line keeps its promise. The thin line is
the spread between the quartiles. Rows without a promise are left to the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from .measure import Row

WIDTH, LEFT, RIGHT, TOP, PITCH, BAR = 860, 400, 150, 62, 34, 18
HOLDS, LOSES, INK, FAINT = "#2b6f8f", "#c4572b", "#222222", "#8a8a8a"
DARK = {"#ffffff": "#1a1c1e", HOLDS: "#4f9fc4", LOSES: "#e0764a", INK: "#d8d8d8", FAINT: "#9a9a9a"}
"""What each colour becomes where the reader prefers dark pages."""
LONGEST = 1.5
"""Where a bar is cut, in bounds."""


def style() -> str:
    """The colours of a dark page, for viewers that know of them."""
    rules = "".join(f'[fill="{a}"]{{fill:{b}}}[stroke="{a}"]{{stroke:{b}}}' for a, b in DARK.items())
    return f"<style>@media (prefers-color-scheme: dark) {{{rules}}}</style>"


def opening(width: int, height: int, title: str) -> list[str]:
    """How a picture begins: its size, its title, its colours."""
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="13">',
        f"<title>{escape(title)}</title>",
        style(),
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="16" y="26" font-size="16" fill="{INK}">{escape(title)}</text>',
    ]


def draw(rows: Sequence[Row], title: str) -> str:
    """The picture as SVG."""
    promises = [row for row in rows if row.bound is not None]
    height = TOP + PITCH * len(promises) + 16
    unit = (WIDTH - LEFT - RIGHT) / LONGEST

    def at(share: float) -> float:
        return LEFT + unit * min(share, LONGEST)

    parts = [
        *opening(WIDTH, height, title),
        f'<text x="{at(1):.0f}" y="{TOP - 10}" text-anchor="middle" fill="{FAINT}">at most</text>',
    ]
    for number, row in enumerate(promises):
        assert row.bound is not None
        ratio, y = row.ratio, TOP + PITCH * number
        middle = y + PITCH / 2
        colour = HOLDS if row.holds else LOSES
        label = f"{row.title}, to {row.theirs}"
        end = at(ratio.median / row.bound)
        parts += [
            f'<text x="{LEFT - 12}" y="{middle + 4:.0f}" text-anchor="end" fill="{INK}">{escape(label)}</text>',
            f'<rect x="{LEFT}" y="{middle - BAR / 2:.0f}" width="{end - LEFT:.1f}" height="{BAR}" fill="{colour}"/>',
            f'<line x1="{at(ratio.low / row.bound):.1f}" x2="{at(ratio.high / row.bound):.1f}" y1="{middle:.0f}"'
            f' y2="{middle:.0f}" stroke="{INK}" stroke-width="1.5"/>',
            f'<text x="{WIDTH - RIGHT + 12}" y="{middle + 4:.0f}" fill="{INK}">'
            f"{ratio.median:.2f} (at most {row.bound:.2f})</text>",
        ]
    parts += [
        f'<line x1="{at(1):.1f}" x2="{at(1):.1f}" y1="{TOP - 4}" y2="{height - 12}" stroke="{FAINT}" stroke-dasharray="4 3"/>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def write(path: Path, rows: Sequence[Row], title: str) -> None:
    """Write the picture to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(draw(rows, title), encoding="utf-8")
