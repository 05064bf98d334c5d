"""Draw docs/picture.png, the picture of the README, from the report of a run.

    ssl-inv pretrain demo --output runs/demo
    python benchmarks/readme_picture.py runs/demo

On the left are pairs of views with the action between them in words. On the right are the nearest neighbours of some
views among other objects, in the invariant and in the equivariant part of the features.
"""

import argparse
import base64
import io
import re
from html import unescape
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from PIL import Image

PICTURE = Path(__file__).parent.parent / "docs" / "picture.png"
INK, SOFT, GOOD = "#1d2733", "#5d6b7a", "#2c7a43"
_IMAGE = r'<img [^>]*src="data:image/png;base64,([^"]+)">'

View = tuple[Image.Image, str, str, bool]
"""Pixels, class, how the view was seen relative to the query, and whether its class is the query's."""


def picture_of(encoded: str) -> Image.Image:
    """The image that a report has as text."""
    return Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")


def pairs_of(page: str) -> list[tuple[Image.Image, Image.Image, str]]:
    """The pairs of views of a report, and what leads from the first to the second."""
    found = re.findall(rf'<div class="two">{_IMAGE}.*?{_IMAGE}</div>\s*<p>(.*?)</p>', page, re.DOTALL)
    return [(picture_of(first), picture_of(second), unescape(words)) for first, second, words in found]


def neighbours_of(page: str) -> list[tuple[View, dict[str, list[View]]]]:
    """The queries of a report, and their neighbours by part of the features."""
    rows = []
    for block in page.split('<div class="retrieval">')[1:]:
        query, *parts = re.split(r"<h3>(?!query)", block.split("</section>")[0])
        pixels, label = re.search(rf"{_IMAGE}<b>(.*?)</b>", query, re.DOTALL).groups()
        found = {}
        for part in parts:
            views = re.findall(rf'<div class="(same)?\s*">\s*{_IMAGE}<b>(.*?)</b>(.*?)</div>', part, re.DOTALL)
            found[part.split("<")[0]] = [
                (picture_of(one), unescape(name), unescape(words.strip()), bool(same))
                for same, one, name, words in views
            ]
        rows.append(((picture_of(pixels), unescape(label), "", False), found))
    return rows


def draw(page: str, pairs: list[int], queries: list[int]) -> Figure:
    """The picture: the chosen pairs on the left, the chosen queries on the right."""
    figure = Figure(figsize=(12, 7), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 1200), ylim=(700, 0))
    axes.axis("off")
    axes.text(30, 36, "A view knows how it was made", size=14, weight="bold", color=INK)
    axes.text(30, 58, "two views of one object, and the action between them", size=9, color=SOFT)
    for number, index in enumerate(pairs):
        first, second, words = pairs_of(page)[index]
        top = 76 + 207 * number
        _put(axes, first, 30, top, 150)
        _put(axes, second, 216, top, 150)
        axes.annotate("", (213, top + 75), (183, top + 75), arrowprops={"arrowstyle": "->", "color": SOFT, "lw": 1.5})
        for line, text in enumerate(_in_lines(words, 46)):
            axes.text(30, top + 166 + 16 * line, text, size=9.5, color=INK)
    axes.text(440, 36, "Two parts of the features, two kinds of neighbours", size=14, weight="bold", color=INK)
    told = "nearest views of other objects; green frame: the query's class; angle: rotation from the query"
    axes.text(440, 58, told, size=9, color=SOFT)
    for number, index in enumerate(queries):
        query, parts = neighbours_of(page)[index]
        top = 76 + 207 * number
        _put(axes, query[0], 440, top + 22, 124)
        axes.text(440, top + 162, f"query: {query[1]}", size=9.5, color=INK)
        for row, (part, views) in enumerate(parts.items()):
            side, left, up = 78, 676, top + 101 * row
            axes.text(left - 12, up + side / 2, part, size=10.5, color=INK, ha="right", va="center")
            for column, (pixels, name, words, same) in enumerate(views[:4]):
                x = left + 132 * column
                _put(axes, pixels, x, up, side, GOOD if same else None)
                angle = words.removeprefix("rotated ")
                axes.text(x, up + side + 10, f"{name}, {angle}", size=8.5, color=GOOD if same else SOFT, va="center")
    return figure


def _put(axes: Axes, picture: Image.Image, left: float, top: float, side: float, frame: str | None = None) -> None:
    # A point is 1/72 inch, a pixel of the figure 1/100 inch.
    shown = OffsetImage(picture, zoom=side / picture.width * 72 / 100, interpolation="nearest")
    box = {"edgecolor": frame or "#c9d1d9", "linewidth": 4 if frame else 0.8}
    axes.add_artist(AnnotationBbox(shown, (left + side / 2, top + side / 2), pad=0, bboxprops=box))


def _in_lines(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split(", "):
        if lines[-1] and len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] += f", {word}" if lines[-1] else word
    return lines


def main() -> None:
    """Draw the picture of a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a run with a report")
    parser.add_argument("--output", type=Path, default=PICTURE)
    parser.add_argument("--pairs", type=int, nargs=3, default=[0, 1, 5], help="which pairs of the report")
    parser.add_argument("--queries", type=int, nargs=3, default=[0, 2, 5], help="which queries of the report")
    arguments = parser.parse_args()
    page = (arguments.run / "report.html").read_text(encoding="utf-8")
    buffer = io.BytesIO()
    draw(page, arguments.pairs, arguments.queries).savefig(buffer, format="png", dpi=100)
    Image.open(buffer).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(arguments.output, optimize=True)
    print(f"{arguments.output}: {arguments.output.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
