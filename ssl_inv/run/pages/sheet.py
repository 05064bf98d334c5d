"""Pages of pictures with words, as one PNG or as HTML with the pictures inside."""

import base64
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import jinja2
from PIL import Image, ImageDraw, ImageFont

from ssl_inv.atomic import written_aside

INK, SOFT, LINE, PAPER = "#1c2127", "#5f6873", "#dfe3e8", "#ffffff"

_MARGIN, _WIDEST, _NARROWEST = 24, 1900, 860


@dataclass(frozen=True)
class Look:
    """Sizes of a page, in pixels.

    Attributes:
        side: of a picture.
        gap: between pictures of a strip.
        apart: between strips side by side.
        text: size of the text.
        names: colour of the names of strips.
    """

    side: int = 256
    gap: int = 24
    apart: int = 24
    text: int = 16
    names: str = SOFT

    @property
    def leading(self) -> int:
        """From one line of text to the next."""
        return round(1.45 * self.text)

    def width(self, columns: int) -> int:
        """Of so many pictures side by side."""
        return columns * (self.side + self.gap) - self.gap


@dataclass(frozen=True)
class Tile:
    """A picture with words below it."""

    picture: Image.Image
    words: str = ""
    colour: str = INK


@dataclass(frozen=True)
class Strip:
    """The pictures of one sample. `unit` of them stay together on one line. `words` stand below the name."""

    name: str
    tiles: Sequence[Tile]
    unit: int = 1
    words: str = ""


@dataclass(frozen=True)
class Page:
    """Strips below a title.

    Attributes:
        title: the heading.
        words: one or two sentences below it.
        strips: at least one.
        columns: pictures on a line of a strip.
        foot: lines at the end.
        look: sizes.
        lossy: whether pictures within HTML are JPEG, a fifth of the bytes: for photographs, not for overlays.
    """

    title: str
    words: str
    strips: Sequence[Strip]
    columns: int
    foot: Sequence[str] = ()
    look: Look = field(default_factory=Look)
    lossy: bool = False

    def write(self, path: Path) -> None:
        """Write the page. The suffix decides whether it is PNG or HTML; missing folders are made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(path) as aside:
            aside.write_bytes(self._html() if path.suffix == ".html" else png(self.picture()))

    def _html(self) -> bytes:
        loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
        environment = jinja2.Environment(
            loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        kind, encoded = ("jpeg", _jpeg) if self.lossy else ("png", png)
        environment.globals["address"] = lambda picture: (
            f"data:image/{kind};base64,{base64.b64encode(encoded(picture)).decode('ascii')}"
        )
        width = self.look.width(self.columns)
        return (
            environment.get_template("views.html.j2")
            .render(page=self, look=self.look, width=width)
            .encode(errors="backslashreplace")
        )

    def picture(self) -> Image.Image:
        """The page as one picture: strips of equal width, as many abreast as fit."""
        look = self.look
        blocks = [self._block(strip) for strip in self.strips]
        step = look.width(self.columns) + look.apart
        abreast = min(max((_WIDEST + look.apart) // step, 1), len(blocks))
        bands = [blocks[start : start + abreast] for start in range(0, len(blocks), abreast)]
        heights = [max(block.height for block in band) for band in bands]
        width = max(2 * _MARGIN + abreast * step - look.apart, _NARROWEST)
        heading, foot = (
            [line for one in words for line in _wrapped(one, width - 2 * _MARGIN, look.text)]
            for words in ([self.words], self.foot)
        )
        top = 2 * _MARGIN + 40 + len(heading) * look.leading
        end = top + sum(heights)
        sheet = Image.new("RGB", (width, end + len(foot) * look.leading + _MARGIN), PAPER)
        draw = ImageDraw.Draw(sheet)
        draw.text((_MARGIN, _MARGIN), self.title, fill=INK, font=font(28, bold=True))
        _write(draw, (_MARGIN, _MARGIN + 46), heading, SOFT, look)
        for band, height in zip(bands, heights, strict=True):
            for number, block in enumerate(band):
                sheet.paste(block, (_MARGIN + number * step, top))
            top += height
        _write(draw, (_MARGIN, end), foot, SOFT, look)
        return sheet

    def _block(self, strip: Strip) -> Image.Image:
        """One strip: a line, its name, and its tiles with their words, line by line."""
        look, columns = self.look, self.columns
        width = look.width(columns)
        lines = [strip.tiles[start : start + columns] for start in range(0, len(strip.tiles), columns)]
        captions = [[_wrapped(tile.words, look.side, look.text) for tile in line] for line in lines]
        below = _wrapped(strip.words, width, look.text)
        heights = [look.side + _MARGIN + look.leading * max(map(len, line)) for line in captions]
        top = (2 + len(below)) * look.leading
        block = Image.new("RGB", (width, top + sum(heights) + 8), PAPER)
        draw = ImageDraw.Draw(block)
        draw.line((0, 0, width, 0), fill=LINE, width=2)
        place = round(look.leading / 2)
        _write(draw, (0, place), [_end_that_fits(strip.name, width, look.text)], look.names, look)
        _write(draw, (0, place + look.leading), below, SOFT, look)
        for line, texts, height in zip(lines, captions, heights, strict=True):
            for column, (tile, text) in enumerate(zip(line, texts, strict=True)):
                block.paste(tile.picture, (column * (look.side + look.gap), top))
                _write(draw, (column * (look.side + look.gap), top + look.side + 8), text, tile.colour, look)
            top += height
        return block


def columns_for(strips: Sequence[Strip], most: int) -> int:
    """Pictures on a line, at most `most`: the lines of the longest strip are equally long, and units stay together."""
    longest, unit = max(len(strip.tiles) for strip in strips), max(strip.unit for strip in strips)
    return math.ceil(longest / math.ceil(longest / most) / unit) * unit


def png(picture: Image.Image) -> bytes:
    """The bytes of a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


@lru_cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The font of all pages."""
    import matplotlib

    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"DejaVuSans{'-Bold' if bold else ''}.ttf"
    # The simple layout engine is always there. With the other one, the page would differ between machines.
    return ImageFont.truetype(file, size, layout_engine=ImageFont.Layout.BASIC)


def _jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def _wrapped(words: str, width: int, size: int) -> list[str]:
    """Lines of at most `width` pixels. They break at spaces, within a phrase that is too long at its spaces that do not
    break otherwise, and within words only where a word is too long.
    """
    lines = [""]
    for piece in _pieces(words, width, size):
        if font(size).getlength((lines[-1] + piece).rstrip()) <= width:
            lines[-1] += piece
        else:
            lines.append(piece.lstrip())
    return [line for one in lines if (line := one.rstrip())]


def _pieces(words: str, width: int, size: int) -> list[str]:
    """Parts of a text with the space behind them, each short enough for a line."""
    found = []
    for phrase in re.findall(r"[^ ]+ *", words):
        fits = font(size).getlength(phrase.rstrip()) <= width
        for word in [phrase] if fits else re.findall(r"[^\u00a0]+\u00a0?", phrase):
            if font(size).getlength(word.rstrip()) <= width:
                found.append(word)
            else:
                found += list(word)
    return found


def _end_that_fits(name: str, width: int, size: int) -> str:
    """A name, or its end if it is too long: the end of a long path tells files apart."""
    if font(size).getlength(name) <= width:
        return name
    return next(end for start in range(len(name)) if font(size).getlength(end := f"…{name[start + 1 :]}") <= width)


def _write(draw: ImageDraw.ImageDraw, place: tuple[int, int], lines: Sequence[str], colour: str, look: Look) -> None:
    for number, line in enumerate(lines):
        draw.text((place[0], place[1] + number * look.leading), line, fill=colour, font=font(look.text))
