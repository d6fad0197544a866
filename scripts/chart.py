#!/usr/bin/env python3
"""Draws docs/size-and-time.svg from the table that the example `compare` prints.

cargo run --release -p pulse-tools --bin compare -- --simulate 208 | python3 scripts/chart.py
python3 scripts/chart.py compare.txt -o chart.svg
"""

import argparse
import re
import sys
from html import escape
from pathlib import Path

# Columns of the table, which are at least two spaces apart.
LAYOUT, BYTES, BITS, SMALLER, TIME, RATIO = range(6)

WIDTH, ROW, BAR = 960, 30, 16
LABELS, SIZES, TIMES = 24, 268, 636  # where labels and both groups of bars begin
SIZE_SPAN, TIME_SPAN = 210, 160  # longest bar of each
TOP = 118

STYLE = """
text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: #1f2328; }
.title { font-size: 19px; font-weight: 600; }
.head { font-weight: 600; }
.quiet { fill: #59636e; }
.mine { font-weight: 600; }
.page { fill: #ffffff; stroke: #d1d9e0; }
.ours { fill: #0969da; }
.other { fill: #afb8c1; }
.line { stroke: #bc4c00; stroke-width: 1.5; stroke-dasharray: 3 3; }
.mark { fill: #bc4c00; }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc; }
  .quiet { fill: #9198a1; }
  .page { fill: #0d1117; stroke: #3d444d; }
  .ours { fill: #4493f8; }
  .other { fill: #59636e; }
  .line { stroke: #f0883e; }
  .mark { fill: #f0883e; }
}
"""


def read(lines):
    """Facts above the table, its rows, and the bound."""
    facts, rows, bound = {}, [], None
    for line in lines:
        cells = re.split(r"\s{2,}", line.strip())
        if len(cells) == 2 and not rows:
            facts[cells[0]] = cells[1]
        elif cells[0] == "entropy of the class model":
            bound = cells
        elif len(cells) == 8 and cells[0] != "layout":
            rows.append(cells)
    if not rows or bound is None:
        sys.exit("this is no output of `compare`: it has no table")
    return facts, rows, bound


def number(text):
    return float(text.replace(",", ""))


def size(text):
    value = number(text)
    return f"{value / 1e6:.2f} MB" if value >= 999_500 else f"{value / 1e3:.0f} kB"


def text(x, y, content, kind="", anchor="start"):
    kind = f' class="{kind}"' if kind else ""
    anchor = f' text-anchor="{anchor}"' if anchor != "start" else ""
    return f'<text x="{x:g}" y="{y:g}"{kind}{anchor}>{escape(content)}</text>'


def bar(x, y, length, kind):
    return f'<rect x="{x:g}" y="{y:g}" width="{max(length, 2):.1f}" height="{BAR}" rx="3" class="{kind}"/>'


def mark(x, y, bottom, content):
    """A line down the rows, named at its foot."""
    return [
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y}" y2="{bottom}" class="line"/>',
        text(round(x, 1), bottom + 17, content, "mark", "middle"),
    ]


def draw(facts, rows, bound):
    rows = sorted(rows, key=lambda row: number(row[BYTES]))
    bottom = TOP + ROW * len(rows)
    height = bottom + 66
    size_unit = SIZE_SPAN / max(number(row[BYTES]) for row in rows)
    time_unit = TIME_SPAN / max(number(row[RATIO]) for row in rows)
    changes = facts.get("changes", "").replace(" of the elements", "")
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
        ' role="img" aria-labelledby="title">',
        '<title id="title">Bytes and encode time of each layout</title>',
        f"<style>{STYLE}</style>",
        f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8" class="page"/>',
        text(LABELS, 38, "What one optimizer step costs on the wire, and to encode", "title"),
        text(LABELS, 61, f"{facts.get('full', '')} of BF16; {changes} of the elements change".replace("  ", " "), "quiet"),
        text(SIZES, 100, "bytes, and times smaller than a full copy", "head"),
        text(TIMES, 100, "encode, as a multiple of SHA-256", "head"),
    ]
    for i, row in enumerate(rows):
        name = re.sub(r" \[\d+\]$", "", row[LAYOUT])
        mine = name.startswith(("contextual", "flat", ".pulse"))
        kind, weight = ("ours", "mine") if mine else ("other", "")
        y = TOP + ROW * i
        baseline = y + BAR - 3.5
        sent, slow = number(row[BYTES]) * size_unit, number(row[RATIO]) * time_unit
        out += [
            text(LABELS, baseline, name, weight),
            bar(SIZES, y, sent, kind),
            text(SIZES + sent + 8, baseline, f"{size(row[BYTES])}, {float(row[SMALLER][:-1]):.0f}x", "quiet"),
            bar(TIMES, y, slow, kind),
            # Numbers stay clear of the mark.
            text(TIMES + max(slow, time_unit) + 8, baseline, f"{row[RATIO]} ({row[TIME]})", "quiet"),
        ]
    out += mark(SIZES + number(bound[BYTES]) * size_unit, TOP - 8, bottom, "entropy of the class model")
    out += mark(TIMES + time_unit, TOP - 8, bottom, "SHA-256 of the target")
    out.append(
        text(
            LABELS,
            height - 18,
            "Blue: this crate. Only the .pulse files have names, framing and digests of both checkpoints in them. "
            "One thread.",
            "quiet",
        )
    )
    return "\n".join([*out, "</svg>", ""])


def main():
    parser = argparse.ArgumentParser(description="Draw what the example `compare` prints.")
    parser.add_argument("table", nargs="?", type=argparse.FileType(), default=sys.stdin, help="default: standard input")
    root = Path(__file__).resolve().parent.parent
    parser.add_argument("-o", "--output", type=Path, default=root / "docs" / "size-and-time.svg")
    options = parser.parse_args()
    drawing = draw(*read(options.table))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(drawing, encoding="utf-8")
    print(options.output)


if __name__ == "__main__":
    main()
