"""What a search has found, as a page of pictures and as text."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from ssl_inv.data.decoding import Pixels
from ssl_inv.run.pages.sheet import INK, SOFT, Look, Page, Strip, Tile, font
from ssl_inv.run.search import Found, Index
from ssl_inv.run.search.duplicates import Duplicates, Group
from ssl_inv.run.tables import Table

_LOOK = Look(side=150, gap=16, text=13, names=INK)
_COLUMNS = 4
_MOST_STRIPS, _MOST_TILES = 200, 24
_EMPTY, _COPY = "#eceff2", "#15803d"


def write_neighbours(index: Index, found: Sequence[Found], path: Path) -> None:
    """Write a page with every query and its neighbours, one strip for each part of the features.

    Args:
        index: that was searched.
        found: the answers.
        path: `.html` or `.png`; missing folders are made.
    """
    strips = [
        Strip(f"{one.query}: {_meaning(part)}", [_query(index, one), *_near(index, one, part)])
        for one in found[:_MOST_STRIPS]
        for part in one.parts
    ]
    words = (
        "The query, then its nearest pictures. The number is the cosine of the two vectors: 1 is the same direction."
    )
    usual = "; ".join(
        f"{part}: {facts['random_pairs']['50%']:.2f}"
        for part, facts in index.facts.items()
        if found and part in found[0].parts and facts.get("random_pairs")
    )
    words += f" For half of all random pairs it is above this: {usual}." if usual else ""
    _page("Nearest pictures", words, strips, len(found) - _MOST_STRIPS, "queries", index).write(path)


def write_duplicates(index: Index, duplicates: Duplicates, path: Path) -> None:
    """Write a page with every group of near duplicates; see `write_neighbours`."""
    groups = duplicates.groups
    strips = [_group_strip(index, group) for group in groups[:_MOST_STRIPS]]
    nothing = Strip("no near duplicates", [])
    page = _page("Near duplicates", told(duplicates), strips or [nothing], len(groups) - _MOST_STRIPS, "groups", index)
    page.write(path)


def told(duplicates: Duplicates) -> str:
    """The result in a few sentences, with the meaning of the threshold."""
    exact = sum(group.exact for group in duplicates.groups)
    counts = f"{len(duplicates.groups):,} groups with {duplicates.images:,} of {duplicates.rows:,} images"
    usual = duplicates.random_pairs.get("99.9%")
    compared = "" if duplicates.complete else " Each image was compared with the nearest ones that the index finds."
    return (
        f"{counts}, {exact:,} of them exact copies; {duplicates.surplus:,} images could go. "
        f"Two images are near duplicates if the cosine of their vectors ({duplicates.part}) is at least "
        f"{duplicates.threshold:g}: 1 is the same direction"
        + ("." if usual is None else f"; one random pair in a thousand has more than {usual:.3f}.")
        + compared
        + (f" Careful: {duplicates.advice}." if duplicates.advice else "")
    )


def neighbours_table(found: Sequence[Found]) -> Table:
    """One row for each neighbour."""
    return Table(
        [
            {"query": one.query, "part": part, "rank": rank, "score": near.score, "row": near.row, "image": near.id}
            | ({} if near.label is None else {"class": near.label})
            for one in found
            for part, line in one.parts.items()
            for rank, near in enumerate(line, start=1)
        ]
    )


def duplicates_table(duplicates: Duplicates) -> Table:
    """One row for each image of a group."""
    return Table(
        [
            {
                "group": number,
                "kind": "exact" if group.exact else "near",
                "score": one.score,
                "row": one.row,
                "image": one.id,
                "same file": "" if one.copy is None else chr(ord("a") + one.copy % 26),
            }
            for number, group in enumerate(duplicates.groups, start=1)
            for one in group.members
        ]
    )


def _meaning(part: str) -> str:
    words = {"invariant": "invariant, what is in it", "equivariant": "equivariant, how it was seen"}
    return words.get(part, f"{part} features" if part == "all" else part)


def _page(title: str, words: str, strips: Sequence[Strip], left_out: int, what: str, index: Index) -> Page:
    foot = [f"{left_out:,} more {what} are not shown; the JSON has all."] if left_out > 0 else []
    if index.pictures.cannot:
        foot.append(f"Some pictures are missing: {index.pictures.cannot}. --data.path says where they are now.")
    columns = min(_COLUMNS, max((len(strip.tiles) for strip in strips), default=1) or 1)
    return Page(title, words, strips, columns, foot, _LOOK, lossy=True)


def _query(index: Index, one: Found) -> Tile:
    pixels = one.pixels if one.row is None else index.pictures.square(one.row, 2 * _LOOK.side)
    return Tile(_picture(pixels, one.query), "query", SOFT)


def _near(index: Index, one: Found, part: str) -> list[Tile]:
    return [
        Tile(
            _picture(index.pictures.square(near.row, 2 * _LOOK.side), near.id),
            f"{near.score:.3f} {near.id if near.label is None else near.label}",
        )
        for near in one.parts[part]
    ]


def _group_strip(index: Index, group: Group) -> Strip:
    kind = "exact copies" if group.exact else f"near duplicates, {group.score:.3f}"
    shown = group.members[:_MOST_TILES]
    more = f", the first {len(shown)} are shown" if len(shown) < len(group.members) else ""
    tiles = [
        Tile(
            _picture(index.pictures.square(one.row, 2 * _LOOK.side), one.id),
            one.id if one.copy is None else f"{one.id} (copy {chr(ord('a') + one.copy % 26)})",
            INK if one.copy is None else _COPY,
        )
        for one in shown
    ]
    return Strip(f"{len(group.members)} images: {kind}{more}", tiles)


def _picture(pixels: Pixels | None, name: str) -> Image.Image:
    """A picture of the page, or an empty one with the name of what is missing."""
    side = _LOOK.side
    if pixels is not None:
        image = Image.fromarray(pixels)
        way = Image.Resampling.NEAREST if 2 * image.width <= side else Image.Resampling.LANCZOS
        return image.resize((side, side), way)
    empty = Image.new("RGB", (side, side), _EMPTY)
    draw = ImageDraw.Draw(empty)
    lines = ["picture missing", *(name[start : start + 18] for start in range(0, min(len(name), 90), 18))]
    for place, line in enumerate(lines):
        draw.text((10, 12 + 20 * place), line, fill=SOFT if place else INK, font=font(12))
    return empty
