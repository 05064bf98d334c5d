"""Small data sets, each with what is right to read, or with the word that it is right to refuse."""

import io
import json
import os
import shutil
import socket
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from numpy.typing import NDArray
from PIL import Image

Colour = tuple[int, int, int]
Found = tuple[Colour, str | None]
"""An image by its colour, a little left and above of its middle, and its class."""

RED, GREEN, BLUE, BLACK, WHITE = (200, 0, 0), (0, 160, 0), (0, 0, 220), (0, 0, 0), (255, 255, 255)
TWO = ((RED, "a"), (GREEN, "b"))


@dataclass(frozen=True)
class Situation:
    """A data set that someone has.

    Attributes:
        group: what it is about.
        name: what it is, in words.
        make: writes it into an empty folder, and may return another path.
        right: the images that are to be read, in any order; None where it is right to refuse.
        settings: settings of ours that say what only the owner knows.
        data: the name of our source.
        said: words that our notes must have, because something is left out; or words of the refusal.
        extra: a package without which it cannot be read.
    """

    group: str
    name: str
    make: Callable[[Path], str | Path | None]
    right: tuple[Found, ...] | None
    settings: Mapping[str, Any] = field(default_factory=dict)
    data: str = "folder"
    said: str = ""
    extra: str | None = None


def encoded(pixels: Colour | NDArray[Any] | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """A file of an image of 16 x 16 pixels."""
    image = Image.new("RGB", (16, 16), pixels) if isinstance(pixels, tuple) else pixels
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Files by their names."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def of(files: Mapping[str, bytes]) -> Callable[[Path], None]:
    """Writes some files."""
    return lambda folder: write(folder, files)


def pair(suffix: str, kind: str, **options: Any) -> Callable[[Path], None]:
    """A red image of class a and a green one of class b, in one format."""
    return lambda folder: write(
        folder, {f"a/1{suffix}": encoded(RED, kind, **options), f"b/2{suffix}": encoded(GREEN, kind, **options)}
    )


def twice(content: Callable[[], bytes], suffix: str = ".png") -> Callable[[Path], None]:
    """The same file as an image of class a and of class b."""
    return lambda folder: write(folder, {f"a/1{suffix}": content(), f"b/2{suffix}": content()})


def both(colour: Colour) -> tuple[Found, ...]:
    """What `twice` is read as."""
    return (colour, "a"), (colour, "b")


PLAIN = {"a/1.png": encoded(RED), "b/2.png": encoded(GREEN)}


def grey16(value: int, kind: str = "PNG", **options: Any) -> bytes:
    return encoded(np.full((16, 16), value, dtype=np.uint16), kind, **options)


def colour16(value: int) -> bytes:
    """A PNG with 16 bits a colour; Pillow cannot write one."""
    rows = b"".join(b"\0" + struct.pack(">HHH", value, 0, 0) * 16 for _ in range(16))
    return png_of(16, 2, rows)


def png_of(bits: int, kind: int, rows: bytes) -> bytes:
    """A PNG of 16 x 16 pixels from its rows, each with its filter."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, bits, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def ink() -> bytes:
    """Black ink on transparent ground, in the right half."""
    pixels = np.zeros((16, 16, 4), dtype=np.uint8)
    pixels[:, 8:, 3] = 255
    return encoded(pixels)


def palette() -> bytes:
    """A palette whose second colour is transparent."""
    image = Image.new("P", (16, 16), 1)
    image.putpalette([*RED, *GREEN])
    return encoded(image, transparency=1)


def turned() -> bytes:
    """Red above green, stored on its side."""
    pixels = np.zeros((16, 16, 3), dtype=np.uint8)
    pixels[:8], pixels[8:] = RED, GREEN
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(np.ascontiguousarray(np.rot90(pixels)), exif=exif)


def frames(kind: str) -> bytes:
    images = [Image.new("RGB", (16, 16), colour) for colour in (RED, GREEN, BLUE)]
    return encoded(images[0], kind, save_all=True, append_images=images[1:])


def four_bands() -> bytes:
    return encoded(Image.merge("RGBA", [Image.new("L", (16, 16), value) for value in (10, 20, 30, 0)]), "TIFF")


def floats(white: float) -> bytes:
    return encoded(np.full((16, 16), white, dtype=np.float32), "TIFF")


@cache
def huge() -> bytes:
    return encoded(Image.new("RGB", (20_000, 9_000), RED), "JPEG")


def link(folder: Path, name: str, target: str) -> None:
    (folder / name).symlink_to(target)


def linked_round(folder: Path) -> None:
    write(folder, PLAIN)
    link(folder, "a/again", "..")


def linked_twice(folder: Path) -> None:
    write(folder, PLAIN)
    link(folder, "b/2_again", "../a")


def lost_link(folder: Path) -> None:
    write(folder, PLAIN)
    link(folder, "a/lost.png", "nowhere.png")


def pipe(folder: Path) -> None:
    write(folder, PLAIN)
    os.mkfifo(folder / "a" / "pipe.png")


def plug(folder: Path) -> None:
    write(folder, PLAIN)
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(folder / "a")  # The path of a socket may not be long.
        server.bind("plug.png")
        os.chdir(here)


def closed(folder: Path) -> None:
    write(folder, {**PLAIN, "c/3.png": encoded(BLUE)})
    (folder / "c").chmod(0)


def not_utf8(folder: Path) -> None:
    write(folder, PLAIN)
    (folder / "b" / "2.png").rename(Path(os.fsdecode(os.fsencode(folder) + b"/b/\xff2.png")))


def packed(kind: str, top: str = "", files: Mapping[str, bytes] = PLAIN) -> Callable[[Path], Path]:
    """An archive of files, perhaps inside one folder."""

    def make(folder: Path) -> Path:
        path = folder / f"data.{kind}"
        if kind == "zip":
            with zipfile.ZipFile(path, "w") as archive:
                for name, content in files.items():
                    archive.writestr(top + name, content)
        else:
            with tarfile.open(path, "w:gz" if kind == "tar.gz" else "w") as tar:
                for name, content in files.items():
                    member = tarfile.TarInfo(top + name)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        return path

    return make


def sheet(name: str, text: str | bytes, encoding: str = "utf-8") -> Callable[[Path], None]:
    """A table beside two images."""
    content = text if isinstance(text, bytes) else text.encode(encoding)
    return of({name: content, "x/1.png": encoded(RED), "x/2.png": encoded(GREEN)})


def above(folder: Path) -> Path:
    write(folder, {"x/1.png": encoded(RED), "x/2.png": encoded(GREEN)})
    write(folder, {"data/views.csv": b"path,class\n../x/1.png,a\n../x/2.png,b\n"})
    return folder / "data"


def _suffixes() -> Iterator[Situation]:
    kinds = {
        **{".jpg": "JPEG", ".jpeg": "JPEG", ".JPG": "JPEG", ".png": "PNG", ".bmp": "BMP", ".webp": "WEBP"},
        **{".tif": "TIFF", ".tiff": "TIFF", ".gif": "GIF", ".ppm": "PPM", ".pnm": "PPM", ".jfif": "JPEG"},
        **{".jpe": "JPEG", ".tga": "TGA", ".dib": "DIB", ".jp2": "JPEG2000", ".avif": "AVIF"},
    }
    for suffix, kind in kinds.items():
        exact = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
        exact |= {"lossless": True} if kind == "WEBP" else {"quality": 100} if kind == "AVIF" else {}
        yield Situation("formats", f"`{suffix}`", pair(suffix, kind, **exact), TWO)
    yield Situation("formats", "`.qoi`", of({"a/1.qoi": qoi(RED), "b/2.qoi": qoi(GREEN)}), TWO)
    yield Situation("formats", "`.heic`", _heic, TWO, extra="pillow_heif")
    yield Situation("formats", "a PNG called `.jpg`", of({"a/1.jpg": encoded(RED), "b/2.jpg": encoded(GREEN)}), TWO)
    yield Situation(
        "formats",
        "images and `.txt` beside them",
        of({**PLAIN, "a/1.txt": b"red"}),
        TWO,
        said="1 file(s) with other endings (1 .txt)",
    )


def qoi(colour: Colour) -> bytes:
    """One pixel and a run of 62, again and again."""
    runs = b"\xfe" + bytes(colour) + b"\xfd" * 4 + bytes([0xC0 | (255 - 4 * 62 - 1)])
    return b"qoif" + struct.pack(">IIBB", 16, 16, 3, 0) + runs + b"\0" * 7 + b"\1"


def _heic(folder: Path) -> None:
    import pillow_heif

    for name, colour in (("a/1.heic", RED), ("b/2.heic", GREEN)):
        (folder / name).parent.mkdir()
        pillow_heif.from_pillow(Image.new("RGB", (16, 16), colour)).save(folder / name, quality=-1)


def _values() -> Iterator[Situation]:
    def one(name: str, content: Callable[[], bytes], right: Colour | None, suffix: str = ".png", **more: Any) -> None:
        found.append(Situation("values", name, twice(content, suffix), right and both(right), **more))

    found: list[Situation] = []
    one("grey", lambda: encoded(Image.new("L", (16, 16), 77)), (77, 77, 77))
    one("two colours, 1 bit", lambda: encoded(Image.new("1", (16, 16), 1)), WHITE)
    half = (128, 128, 128)
    one("grey, 16 bits", lambda: grey16(0x8000), half)
    one("grey, 12 bits in 16", lambda: grey16(0x800), half, settings={"white": 4095})
    one("grey, 16 bits, TIFF", lambda: grey16(0x8000, "TIFF"), half, ".tif")
    one("grey, 16 bits, TIFF where 0 is white", lambda: grey16(0x2000, "TIFF", tiffinfo={262: 0}), (223,) * 3, ".tif")
    one("colour, 16 bits", lambda: colour16(0x8000), (128, 0, 0))
    one("colour, 12 bits in 16", lambda: colour16(0x800), (128, 0, 0), settings={"white": 4095})
    one("floats in [0, 1], TIFF", lambda: floats(0.5), half, ".tif", settings={"white": 1.0})
    one("floats of an unknown range", lambda: floats(37.5), None, ".tif", said="no known white")
    one("CMYK, JPEG", lambda: encoded(Image.new("CMYK", (16, 16), (0, 0, 0, 0)), "JPEG"), WHITE, ".jpg")
    one("black ink on transparent ground", ink, WHITE, settings={"background": "white"})
    one("a palette with a transparent colour", palette, WHITE, settings={"background": "white"})
    one("four bands, the fourth no opacity", four_bands, (10, 20, 30), ".tif", settings={"background": "drop"})
    one("four bands, of which 3, 2, 1 are wanted", four_bands, (30, 20, 10), ".tif", settings={"bands": [3, 2, 1]})
    one("turned by EXIF", turned, RED)
    one("an animation", lambda: frames("GIF"), RED, ".gif")
    one("20,000 x 9,000 pixels, JPEG", huge, RED, ".jpg", settings={"size": 16})
    yield from found


def _pages() -> Iterator[Situation]:
    three = ((RED, "a"), (GREEN, "a"), (BLUE, "a"))
    views, first = {"settings": {"pages": "views"}}, {"said": "only the first is read"}
    for suffix, kind in ((".tif", "TIFF"), (".gif", "GIF")):
        make = of({f"a/1{suffix}": frames(kind), "b/2.png": encoded(GREEN)})
        yield Situation("pages", f"three pages in `{suffix}`, the first is wanted", make, TWO, **first)
        yield Situation("pages", f"three pages in `{suffix}`, all are wanted", make, (*three, (GREEN, "b")), **views)


def _broken() -> Iterator[Situation]:
    good = {f"a/{number}.png": encoded(RED) for number in range(3)} | {"b/9.png": encoded(GREEN)}
    right = (*[(RED, "a")] * 3, (GREEN, "b"))
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    for name, content in {
        "an empty file": b"",
        "half a JPEG": encoded(noise, "JPEG", quality=95)[:500],
        "half a PNG": encoded(noise)[:400],
        "a web page called `.jpg`": b"<html>not found</html>",
    }.items():
        suffix = "png" if "PNG" in name else "jpg"
        yield Situation("broken files", name, of({**good, f"b/0.{suffix}": content}), right)
    yield Situation("broken files", "a named pipe", pipe, TWO)
    yield Situation("broken files", "a socket", plug, TWO)
    yield Situation("broken files", "a link to a file that is lost", lost_link, TWO)
    yield Situation("broken files", "nothing but broken files", of({"a/1.png": b"", "b/2.png": b""}), None)


def _layouts() -> Iterator[Situation]:
    red, green, blue = encoded(RED), encoded(GREEN), encoded(BLUE)

    def one(name: str, make: Any, right: tuple[Found, ...] | None, **more: Any) -> Situation:
        files = make if callable(make) else of(make)
        return Situation("folders", name, files, right, **more)

    yield one("a folder for each class", PLAIN, TWO)
    yield one("no folders", {"1.png": red, "2.png": green}, ((RED, None), (GREEN, None)))
    yield one("a class without images", lambda folder: (write(folder, PLAIN), (folder / "c").mkdir())[0], TWO)
    yield one("images beside class folders", {**PLAIN, "3.png": blue}, (*TWO, (BLUE, None)))
    yield one(
        "`train/` and `val/`", {"train/a/1.png": red, "train/b/2.png": green, "val/a/3.png": blue}, (*TWO, (BLUE, "a"))
    )
    yield one(
        "the same below one more folder",
        {"x/train/a/1.png": red, "x/train/b/2.png": green, "x/val/a/3.png": blue},
        (*TWO, (BLUE, "a")),
    )
    yield one(
        "classes in the second level", {"p/a/1.png": red, "q/b/2.png": green, "q/a/3.png": blue},
        (*TWO, (BLUE, "a")), settings={"label_level": 2},
    )  # fmt: skip
    yield one(
        "masks beside images", {**PLAIN, "masks/1.png": blue}, TWO, settings={"exclude": ["masks"]}, said="1 excluded"
    )
    yield one("hidden files and `__MACOSX`", {**PLAIN, "a/._1.png": b"mac", "__MACOSX/a/1.png": b"mac"}, TWO)
    yield one("a hidden folder", {**PLAIN, ".cache/1.png": blue}, TWO)
    yield one("a link round in a circle", linked_round, TWO, said="read already")
    yield one("two links to one folder", linked_twice, TWO, said="read already")
    if os.geteuid():
        yield one("a folder that may not be read", closed, TWO, said="cannot be read")
    yield one("a name that is not UTF-8", not_utf8, TWO)
    yield one("spaces, commas and quotes in names", {"a/1, 'x' \"y\".png": red, "b/2  .png": green}, TWO)
    yield one("nothing", {}, None)
    yield one("images of several shapes", {
        "a/1.png": encoded(Image.new("RGB", (40, 20), RED)), "b/2.png": encoded(Image.new("RGB", (20, 90), GREEN)),
    }, TWO, settings={"size": 16})  # fmt: skip


def _lists() -> Iterator[Situation]:
    files = {"x/1.png": encoded(RED), "x/2.png": encoded(GREEN), "x/3.png": encoded(BLUE)}

    def one(name: str, text: str, right: tuple[Found, ...] | None = TWO, **more: Any) -> Situation:
        def make(folder: Path) -> Path:
            write(folder, {**files, "list.txt": text.encode()})
            return folder / "list.txt"

        return Situation("lists of files", name, make, right, **more)

    yield one("paths", "x/1.png\nx/2.png\n", ((RED, None), (GREEN, None)))
    yield one("paths and classes after a blank", "x/1.png a\nx/2.png b\n")
    yield one("paths and classes after a comma", "x/1.png,a\nx/2.png,b\n")
    yield one("comments and empty lines", "# some\n\nx/1.png a\nx/2.png b\n")
    yield one("a path that leads out", "../1.png\n", None, said="leads out of the folder of the list")
    yield one("a lost file", "x/1.png\nx/4.png\n", None, said="no file 'x/4.png'")
    yield one("three columns", "x/1.png a 3\nx/2.png b 4\n", None, said="is no class")


def _archives() -> Iterator[Situation]:
    yield Situation("archives", "a zip", packed("zip"), TWO)
    yield Situation("archives", "a zip of one folder", packed("zip", "data/"), TWO)
    yield Situation("archives", "a tar", packed("tar"), TWO)
    yield Situation("archives", "a compressed tar", packed("tar.gz"), None, said="uncompressed tar")
    yield Situation("archives", "half a zip", _half, None)
    yield Situation(
        "archives", "a zip with names that lead out", packed("zip", "../", PLAIN), None, said="has no images"
    )


def _half(folder: Path) -> Path:
    path = packed("zip")(folder)
    path.write_bytes(path.read_bytes()[:-60])
    return path


def _tables() -> Iterator[Situation]:
    def one(name: str, make: Any, right: tuple[Found, ...] | None = TWO, **more: Any) -> Situation:
        return Situation("tables", name, make, right, data="table", **more)

    plain = "path,class\nx/1.png,a\nx/2.png,b\n"
    yield one("commas", sheet("views.csv", plain))
    yield one("semicolons", sheet("views.csv", plain.replace(",", ";")))
    yield one("tabs", sheet("views.tsv", plain.replace(",", "\t")))
    yield one("Excel's `sep=;`", sheet("views.csv", "sep=;\r\n" + plain.replace(",", ";").replace("\n", "\r\n")))
    yield one("UTF-16", sheet("views.csv", plain, "utf-16"))
    yield one("UTF-8 with its mark", sheet("views.csv", plain, "utf-8-sig"))
    yield one(
        "JSON lines", sheet("views.jsonl", '{"path": "x/1.png", "class": "a"}\n{"path": "x/2.png", "class": "b"}\n')
    )
    yield one("a column `file_name`", sheet("metadata.csv", plain.replace("path", "file_name")))
    yield one("`./`, `..` and backslashes", sheet("views.csv", "path,class\n./x/1.png,a\nx\\..\\x\\2.png,b\n"))
    yield one(
        "letters with their accents apart",
        of({
            "views.csv": "path,class\nu\u0308.png,a\n2.png,b\n".encode(),
            "\u00fc.png": encoded(RED), "2.png": encoded(GREEN),
        }),
    )  # fmt: skip
    yield one("a path that leads out", above, None, said="leads out of the folder")
    yield one("the same, allowed", above, settings={"outside": True})
    yield one("a lost file", sheet("views.csv", plain + "x/3.png,a\n"), None, said="no file 'x/3.png'")
    yield one(
        "an image to train on and to judge by",
        sheet("views.csv", "path,class,split\nx/1.png,a,train\nx/2.png,b,train\nx/1.png,a,val\n"),
        None,
        said="both to train on and to judge by",
    )
    yield one("Latin-1 text", sheet("views.csv", "path,class\nx/1.png,\u00e4\n", "latin-1"), None, said="is not UTF-8")


def _columns() -> Iterator[Situation]:
    contents, numbers = [encoded(RED), encoded(GREEN)], [0, 1]
    structs = [{"bytes": one, "path": None} for one in contents]
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["a", "b"]}}
    told = {"huggingface": json.dumps({"info": {"features": features}})}
    hub = pyarrow.table({"image": structs, "label": numbers}).replace_schema_metadata(told)
    plain = pyarrow.table({"image": contents, "class": ["a", "b"], "other": ["x", "y"]})

    def one(name: str, make: Callable[[Path], Path | None], right: tuple[Found, ...] | None = TWO) -> Situation:
        return Situation("columns", name, make, right, data="arrow")

    def parquet(folder: Path, names: Sequence[str], table: pyarrow.Table = hub) -> None:
        for number, name in enumerate(names):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            pyarrow.parquet.write_table(table.slice(number, 1) if len(names) > 1 else table, folder / name)

    def saved(folder: Path) -> None:
        with pyarrow.ipc.new_stream(folder / "data-00000-of-00001.arrow", hub.schema) as stream:
            stream.write_table(hub)
        state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_split": "train"}
        write(folder, {"state.json": json.dumps(state).encode(), "dataset_info.json": b"{}"})

    def feather(folder: Path) -> Path:
        with pyarrow.ipc.new_file(folder / "data.feather", plain.schema) as file:
            file.write_table(plain)
        return folder / "data.feather"

    yield one("Parquet of Hugging Face", lambda folder: parquet(folder, ["data/train-00000-of-00001.parquet"]))
    yield one("its splits", lambda folder: parquet(folder, ["train-0.parquet", "validation-0.parquet"]))
    yield one("two configurations", lambda folder: parquet(folder, ["en/train-0.parquet", "de/train-0.parquet"]), None)
    yield one("Parquet of encoded images", lambda folder: parquet(folder, ["data.parquet"], plain))
    yield one("`save_to_disk`", saved)
    yield one("Feather", feather)


def _arrays() -> Iterator[Situation]:
    pixels = np.empty((2, 16, 16, 3), dtype=np.uint8)
    pixels[0], pixels[1] = RED, GREEN
    classes = np.array(["a", "b"])

    def one(name: str, right: tuple[Found, ...] | None, file: str, *arrays: Any, **named: Any) -> Situation:
        def make(folder: Path) -> Path:
            np.save(folder / file, *arrays) if arrays else np.savez(folder / file, **named)
            return folder / file

        return Situation("arrays", name, make, right, data="arrays")

    bare = ((RED, None), (GREEN, None))
    yield one("`.npy`, channels last", bare, "x.npy", pixels)
    yield one("`.npy`, channels first", bare, "x.npy", pixels.transpose(0, 3, 1, 2))
    yield one("`.npz` with `x` and `y`", TWO, "data.npz", x=pixels, y=classes)
    yield one("`.npz` with `images` and `labels`", TWO, "data.npz", images=pixels, labels=classes)
    yield one(
        "`.npz` with `x_train`, `y_train`, `x_test` and `y_test`", (*TWO, (RED, "a"), (GREEN, "b")), "data.npz",
        x_train=pixels, y_train=classes, x_test=pixels, y_test=classes,
    )  # fmt: skip
    yield one("pickled objects", None, "x.npy", np.array([pixels[0], None], dtype=object))


def _shards() -> Iterator[Situation]:
    samples = {"1.png": encoded(RED), "1.cls": b"a", "2.png": encoded(GREEN), "2.cls": b"b"}
    told = {"1.png": encoded(RED), "1.json": b'{"class": "a"}', "2.png": encoded(GREEN), "2.json": b'{"class": "b"}'}

    def one(name: str, files: Mapping[str, bytes], right: tuple[Found, ...] | None = TWO, **more: Any) -> Situation:
        return Situation("shards", name, packed("tar", files=files), right, data="shards", **more)

    yield one("`.cls` beside images", samples)
    yield one("`.json` beside images", told)
    yield one("`.txt` beside images", {**samples, "1.txt": b"red"}, said="txt")
    yield one(
        "two images in a sample", {"1.left.png": encoded(RED), "1.right.png": encoded(GREEN), "1.cls": b"a"}, None
    )
    yield one(
        "the same, as views", {"1.left.png": encoded(RED), "1.right.png": encoded(GREEN), "1.cls": b"a",
        "2.left.png": encoded(BLUE), "2.right.png": encoded(BLUE), "2.cls": b"b"},
        ((RED, "a"), (GREEN, "a"), (BLUE, "b"), (BLUE, "b")), settings={"members": ["left.png", "right.png"]},
    )  # fmt: skip


SITUATIONS = (
    *(*_suffixes(), *_values(), *_pages(), *_broken(), *_layouts(), *_lists(), *_archives()),
    *(*_tables(), *_columns(), *_arrays(), *_shards()),
)
"""All of them. Names are unique within a group."""


def made(situation: Situation, folder: Path) -> str:
    """The path of a situation, written into an empty folder."""
    folder.mkdir(parents=True)
    other = situation.make(folder)
    return str(folder if other is None else other)


def taken_away(folder: Path) -> None:
    """Remove the folder of a situation, also where it may not be read."""
    for place in folder.rglob("*"):
        if place.is_dir() and not place.is_symlink():
            place.chmod(0o700)
    shutil.rmtree(folder)
