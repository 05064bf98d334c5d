"""Data as people have it: what each form holds is what is read, and what is left out is said."""

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin
from small_data import files_of, load_all, png

from ssl_inv.catalogue import SettingError
from ssl_inv.data.layout import Choice
from ssl_inv.data.looks import broken_images, odd_looks, require_one_size
from ssl_inv.data.source import Data
from ssl_inv.data.sources.folder import ImageFolder, folder
from ssl_inv.data.sources.table import table
from ssl_inv.run.recipe import as_saved

Write = Callable[..., str]


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def wide(value: int, kind: str = "PNG") -> bytes:
    """A grey image of 16 bits with one value, and 0 in a corner."""
    pixels = np.full((8, 8), value, dtype=np.uint16)
    pixels[0, 0] = 0
    return encoded(Image.fromarray(pixels), kind)


def ink(value: int) -> bytes:
    """Black ink on transparent ground, in the left half."""
    pixels = np.zeros((8, 8, 4), dtype=np.uint8)
    pixels[:, :4, 3] = value
    return encoded(Image.fromarray(pixels), "PNG")


def four_bands() -> bytes:
    return encoded(Image.merge("RGBA", [Image.new("L", (8, 8), value) for value in (10, 20, 30, 0)]), "PNG")


def everything(data: Data) -> set[str]:
    return files_of(data.train) | files_of(data.validation)


@pytest.mark.parametrize(
    ("content", "settings", "right"),
    [
        (wide(65535), {}, [255, 255, 255]),
        (wide(4095), {"white": 4095}, [255, 255, 255]),
        (wide(2048, "TIFF"), {"white": 4096}, [128, 128, 128]),
        (ink(255), {}, [0, 0, 0]),
        (ink(0), {"background": "white"}, [255, 255, 255]),
        (four_bands(), {}, [0, 0, 0]),
        (four_bands(), {"background": "drop"}, [10, 20, 30]),
        (four_bands(), {"bands": [3, 2, 1]}, [30, 20, 10]),
        (four_bands(), {"bands": [2]}, [20, 20, 20]),
        (encoded(Image.fromarray(np.full((8, 8), 0.5, dtype=np.float32)), "TIFF"), {"white": 1.0}, [128, 128, 128]),
    ],
)
@pytest.mark.parametrize("photographs", ["whole", "squares"])
def test_numbers_become_the_colours_that_are_asked_for(tmp_path, write: Write, content, settings, right, photographs):
    path = write(tmp_path / "data", {f"{number}.png": content for number in range(4)})
    data = folder(path=path, size=8, cache=False, photographs=photographs, **settings)
    assert load_all(data.train).pixels[0, :, 4, 2].tolist() == right


@pytest.mark.parametrize(
    ("contents", "settings", "said"),
    [
        (
            [wide(4000)] * 8,
            {},
            "4 images looked at have values from 0 to 16 of 255 only; for grey files of 10 or 12 bits",
        ),
        ([ink(255)] * 8, {}, "4 of 4 images looked at have one value everywhere: "),
        ([wide(4000)] * 8, {"white": 4095}, None),
        ([ink(255)] * 8, {"background": "white"}, None),
    ],
)
def test_images_that_show_nothing_are_told_before_a_run(tmp_path, write: Write, contents, settings, said):
    path = write(tmp_path / "data", {f"{number}.png": content for number, content in enumerate(contents)})
    found = odd_looks(folder(path=path, validation_share=0.5, **settings).train)
    assert (found is None) if said is None else found.startswith(said)


GRADIENT = np.linspace(0, 255, 64).reshape(8, 8)
NARROW, BROAD = GRADIENT.astype(np.uint8), (GRADIENT * 257).astype(np.uint16)


@pytest.mark.parametrize(
    ("kinds", "settings", "told"),
    [
        ({"png": NARROW}, {"white": 4095.0}, True),
        ({"jpg": NARROW}, {"white": 4095.0}, True),
        ({"tif": NARROW}, {"white": 4095.0}, True),
        ({"png": NARROW}, {}, False),
        ({"png": NARROW}, {"range": [0, 255]}, False),
        ({"png": BROAD}, {"white": 65535.0}, False),
        ({"tif": BROAD}, {"white": 65535.0}, False),
        ({"png": NARROW, "tif": BROAD}, {"white": 65535.0}, False),
    ],
)
def test_a_white_that_changes_nothing_is_told(tmp_path, kinds, settings, told):
    for number in range(4):
        for suffix, pixels in kinds.items():
            Image.fromarray(pixels).save(tmp_path / f"{number}.{suffix}")
    found = odd_looks(folder(path=str(tmp_path), validation_share=0.5, **settings).train)
    assert (found is not None) == told
    assert not told or found.startswith("`white: 4095` changes nothing: it is for more than 8 bits")


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"background": "grey"}, "background: must be black, white, drop, got 'grey'"),
        ({"white": 0.0}, "white: must be above 0, got 0.0"),
        ({"max_pixels": 0}, "max_pixels: must be at least 1, got 0"),
        ({"label_level": 0}, "label_level: must be at least 1, got 0"),
    ],
)
def test_wrong_settings_are_one_line(tmp_path, write: Write, settings, problem):
    path = write(tmp_path / "data", {"1.png": png(1), "2.png": png(2)})
    with pytest.raises(SettingError, match=f"^{problem}$"):
        folder(path=path, **settings)


@pytest.mark.parametrize(
    ("names", "settings", "classes", "judged"),
    [
        (["a/1.png", "b/2.png"], {}, ("a", "b"), None),
        (["x/train/a/1.png", "x/train/b/2.png", "x/val/a/3.png"], {}, ("a", "b"), {"x/val/a/3.png"}),
        (["train/1.png", "val/2.png", "tram/3.png"], {"split": "none"}, ("train", "tram", "val"), None),
        (["train/1.png", "val/2.png", "old/3.png"], {"exclude": ["old"]}, None, {"val/2.png"}),
        (["p/cat/1.png", "p/dog/2.png", "q/cat/3.png"], {"label_level": 2}, ("cat", "dog"), None),
        (
            ["train/p/cat/1.png", "train/p/dog/2.png", "val/q/cat/3.png"],
            {"label_level": 2},
            ("cat", "dog"),
            {"val/q/cat/3.png"},
        ),
    ],
)
def test_folders_mean_what_their_owner_says(tmp_path, write: Write, names, settings, classes, judged):
    path = write(tmp_path / "data", {name: png(10 * number) for number, name in enumerate(names)})
    data = folder(path=path, **settings)
    assert (data.train.labels and data.train.labels.names) == classes
    if judged is not None:
        assert files_of(data.validation) == judged


def test_what_is_not_used_is_said(tmp_path, write: Write):
    path = write(
        tmp_path / "data", {"a/1.png": png(1), "a/2.jfif": png(2), "a/3.txt": b"", "b/4.json": b"{}", "m/5.png": png(5)}
    )
    Path(path, "b", "again").symlink_to(Path(path, "a"))
    data = folder(path=path, exclude=["m"])
    assert everything(data) == {"a/1.png", "a/2.jfif"}
    assert data.notes["not used"] == (
        "2 file(s) with other endings (1 .txt, 1 .json); "
        "1 link(s) to folders that are read already, the first b/again; 1 excluded"
    )


def test_no_file_has_two_names(tmp_path, write: Write):
    path, other = write(tmp_path / "data", {"a/1.png": png(1)}), write(tmp_path / "other", {"x/2.png": png(2)})
    Path(path, "first").symlink_to(other)
    Path(path, "second").symlink_to(Path(other, "x"))
    Path(other, "x", "round").symlink_to(path)
    assert everything(folder(path=path, validation_share=0.5)) == {"a/1.png", "first/x/2.png"}


def test_training_images_are_no_validation_images(tmp_path, write: Write):
    path = write(tmp_path / "data", {"a/1.png": png(1), "b/2.png": png(2), "held/a/3.png": png(3)})
    with pytest.raises(SettingError, match=r"^validation: .* is the training data itself; leave it out, and a share"):
        folder(path=path, validation=os.path.relpath(path))
    with pytest.raises(SettingError, match=r"^validation: .* lies inside the training data, which has its images too"):
        folder(path=path, validation=f"{path}/held")
    with pytest.raises(SettingError, match=r"^validation: .*/a' lies inside the training data"):
        folder(path=path, validation=f"{path}/a")
    data = folder(path=path, validation=f"{path}/held", exclude=["held"], labels="folders")
    assert len(data.train) == 2


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("views.csv", b"path;zoom[real]\n1.png;0.5\nsub/2.png;1.5\n"),
        ("views.tsv", b"path\tzoom[real]\n1.png\t0.5\nsub/2.png\t1.5\n"),
        ("views.csv", "path,zoom[real]\r\n1.png,0.5\r\nsub/2.png,1.5\r\n".encode("utf-16")),
        (
            "views.csv",
            b"file_name,zoom[real scale=2]\n./1.png,0.5\nsub\\2.png,1.5\n",
        ),
        ("views.csv", b"path,zoom[real]\nsub/../1.png,0.5\n./sub//2.png,1.5\n"),
        ("views.csv", b"sep=;\r\npath;zoom[real]\r\n1.png;0.5\r\nsub/2.png;1.5\r\n;\r\n"),
        (
            "views.jsonl",
            '{"path": "1.png", "zoom[real]": 0.5, "by": "\u2028"}\n{"zoom[real]": 1.5, "path": "sub/2.png"}'.encode(),
        ),
        ("views.jsonl", b'{"path": "1.png", "zoom[real]": 0.5}\n\n{"zoom[real]": 1.5, "path": "sub/2.png"}\n'),
    ],
)
def test_tables_are_read_as_they_are_written(tmp_path, write: Write, name, text):
    path = write(tmp_path / "data", {name: text, "1.png": png(1), "sub/2.png": png(2)})
    data = table(path=path, validation_share=0.5)
    assert everything(data) == {"1.png", "sub/2.png"}
    zoom = {one.describe(0, 0): one.load([0], [0]).transform["zoom"].item() for one in (data.train, data.validation)}
    assert zoom == {"1.png": 0.5, "sub/2.png": 1.5}


def test_letters_of_a_path_may_be_composed_or_not(tmp_path, write: Write):
    path = write(
        tmp_path / "data", {"v.csv": "path\nu\u0308ber.png\nb.png\n".encode(), "\u00fcber.png": png(1), "b.png": png(2)}
    )
    assert everything(table(path=path, validation_share=0.5)) == {"\u00fcber.png", "b.png"}


def test_paths_that_lead_outside_need_leave(tmp_path, write: Write):
    other = write(tmp_path / "other", {"2.png": png(2), "3.png": png(3)})
    path = write(
        tmp_path / "data", {"v.csv": f"path\n1.png\n{other}/2.png\n../other/3.png\n".encode(), "1.png": png(1)}
    )
    with pytest.raises(ValueError, match=r"row 2: .* leads out of the folder of the data; `outside: true` allows it"):
        table(path=path)
    data = table(path=path, outside=True, validation_share=0.4)
    assert everything(data) == {"1.png", "../other/2.png", "../other/3.png"}
    assert load_all(data.train).readable.all()
    before = data.train.stamp
    Path(other, "3.png").write_bytes(png(40))
    assert table(path=path, outside=True, validation_share=0.4).train.stamp != before


def test_a_file_has_one_name_however_its_path_is_written(tmp_path, write: Write):
    path, other = write(tmp_path / "data", {"1.png": png(1), "2.png": png(2)}), write(tmp_path / "o", {"3.png": png(3)})
    Path(tmp_path, "link").symlink_to(path)
    cells = [f"{path}/1.png", "../data/2.png", f"{tmp_path}/link/2.png", f"{other}/3.png", "../o/3.png"]
    Path(path, "v.csv").write_text("path,object\n" + "".join(f"{cell},one{n // 3}\n" for n, cell in enumerate(cells)))
    data = table(path=f"{tmp_path}/link", outside=True, validation_share=0.5)
    assert everything(data) == {"1.png", "2.png", "../o/3.png"}
    assert load_all(data.train).readable.all()
    Path(path, "v.csv").write_text(f"path\n{path}/1.png\n../data/2.png\n")
    assert everything(table(path=path, validation_share=0.5)) == {"1.png", "2.png"}


@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize("cell", ["/etc/hostname", "../other/2.png"])
@pytest.mark.parametrize("pack", ["zip", "tar"])
def test_nothing_is_read_outside_an_archive(tmp_path, write: Write, pack, cell, outside):
    write(tmp_path / "other", {"2.png": png(2)})
    path = write(tmp_path / "data", {"v.csv": f"path\n1.png\n{cell}\n".encode(), "1.png": png(1)})
    packed = shutil.make_archive(str(tmp_path / "packed"), pack, path)
    problem = "no file" if outside else "leads out of the archive of the data; move the files there"
    with pytest.raises((ValueError, FileNotFoundError), match=f"row 2: .*{problem}"):
        table(path=packed, outside=outside)


@pytest.mark.parametrize("form", ["folder", "zip", "tar"])
def test_patterns_mean_the_same_in_every_form(tmp_path, write: Write, form):
    files = {"a/1.png": png(1), "a/m/2.png": png(2), "m/3.png": png(3), "b/4_thumb.png": png(4), "b/5.png": png(5)}
    path = write(tmp_path / "top" / "data", files)
    if form != "folder":
        path = shutil.make_archive(str(tmp_path / "packed"), form, tmp_path / "top", "data")
    data = folder(path=path, exclude=["m/*", "*_thumb.png", "mask*"], validation_share=0.4)
    assert everything(data) == {"a/1.png", "a/m/2.png", "b/5.png"}
    assert data.notes["not used"] == "2 excluded; nothing more is left out by 'mask*'"
    with pytest.raises(ValueError, match=r"has no images; not used: 5 excluded$"):
        folder(path=path, exclude=["*"])


def test_a_split_in_one_folder_is_found_unless_a_run_began_without(tmp_path, write: Write):
    names = ["x/train/a/1.png", "x/train/b/2.png", "x/val/a/3.png"]
    path = write(tmp_path / "data", {name: png(10 * number) for number, name in enumerate(names)})
    assert files_of(folder(path=path, split="folders").validation) == {"x/val/a/3.png"}
    old = as_saved({"data": {"name": "folder", "path": path}})["data"]
    assert old.pop("name") == "folder"
    assert old == {"path": path, "photographs": "squares", "split": "top"}
    assert folder(**old, validation_share=0.4).notes["split"] == "1 of 3 objects held out at random, seed 0"


def test_the_split_of_a_validation_folder_is_not_needed(tmp_path, write: Write):
    path = write(tmp_path / "data", {"train/a/1.png": png(1), "train/b/2.png": png(2)})
    other = write(tmp_path / "other", {"a/3.png": png(3)})
    assert files_of(folder(path=path, split="folders", validation=other).validation) == {"a/3.png"}


def test_a_folder_that_is_deeper_than_all_images_names_no_class(tmp_path, write: Write):
    path = write(tmp_path / "data", {"a/1.png": png(1), "b/2.png": png(2)})
    with pytest.raises(SettingError, match=r"^label_level: no image of .* lies 2 folders deep$"):
        folder(path=path, label_level=2)


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("v.csv", "path\n1.png\n".encode("utf-16-le"), "v.csv is no text in UTF-8, or in UTF-16 with its mark"),
        ("v.csv", "path\n1.png\n".encode("utf-16")[:-1], r"v.csv is not UTF-16 text \(byte"),
        ("v.csv", b"path\n\xff.png\n", r"v.csv is not UTF-8 text \(byte 6\)"),
        ("v.csv", b"", "v.csv is empty"),
        ("v.jsonl", b"\n\n", "v.jsonl is empty"),
        ("v.jsonl", b"[" * 100_000, "v.jsonl, line 1 is no JSON: maximum recursion depth"),
        ("v.jsonl", b'{"path": "1.png"}\n{"path": 1' + b"0" * 5000 + b"}", "v.jsonl, line 2 is no JSON: Exceeds"),
        ("v.jsonl", b'{"path": "\\ud800.png"}', r"v.jsonl, row 1: path is '\\ud800.png', which is no text"),
    ],
)
def test_what_is_no_table_is_one_line(tmp_path, write: Write, name, text, problem):
    path = write(tmp_path / "data", {name: text, "1.png": png(1)})
    with pytest.raises(ValueError, match=problem) as refusal:
        table(path=path)
    assert "\n" not in str(refusal.value)


def test_numbers_without_a_unit_are_mentioned(tmp_path, write: Write):
    path = write(
        tmp_path / "data", {"v.csv": b"path,angle,who\n1.png,3,x\n2.png,4,y\n", "1.png": png(1), "2.png": png(2)}
    )
    assert table(path=path).notes["not used"] == (
        "columns of numbers without a unit: angle; "
        "for a latent, write angle[real] in the header, or name it in `latents`"
    )


def test_a_huge_jpeg_is_decoded_at_a_fraction_of_its_size(tmp_path, write: Write):
    path = write(
        tmp_path / "data", {f"{n}.jpg": encoded(Image.new("RGB", (4000, 3000), (200, 0, 0)), "JPEG") for n in "ab"}
    )
    data = folder(path=path, size=32, max_pixels=1_000_000)
    assert load_all(data.train).readable.all()
    with pytest.raises(ValueError, match=r"4000x3000 pixels are more than 1,000,000, which `max_pixels` allows"):
        folder(path=path, size=2000, max_pixels=1_000_000)


def test_images_that_are_all_unreadable_are_one_line(tmp_path, write: Write, caplog):
    path = write(tmp_path / "data", {f"{number}.png": png(1) for number in range(30)})
    with pytest.raises(ValueError, match=r"^.*: more than 10 of 30 images cannot be read .* there is no band 9"):
        folder(path=path, bands=[9])
    assert not caplog.records
    Path(path, "0.png").write_bytes(b"")
    folder(path=path)
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: cannot read 0.png: not an image in a known format"
    ]


def stack(values: list[int], kind: str, masks: int = 0) -> bytes:
    """A file with one image for every value, and in a TIFF with masks behind them."""
    images = [Image.new("RGB", (8, 8), (value, value, value)) for value in values]
    if kind != "TIFF":
        options = {"lossless": True} if kind == "WEBP" else {}
        return encoded(images[0], kind, save_all=True, append_images=images[1:], **options)
    buffer = io.BytesIO()
    with TiffImagePlugin.AppendingTiffWriter(buffer) as writer:
        for number, image in enumerate([*images, *[Image.new("L", (8, 8))] * masks]):
            image.save(writer, "TIFF", tiffinfo={254: 4 if number >= len(images) else 0})
            writer.newFrame()
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["folder", "stored"])
@pytest.mark.parametrize("photographs", ["whole", "squares"])
def test_pages_are_views_of_one_object_if_that_is_asked_for(tmp_path, write: Write, form, photographs):
    contents = {
        "a/1.tif": stack([10, 20, 30], "TIFF", masks=1),
        "a/2.gif": stack([40, 90], "GIF"),
        "b/3.webp": stack([60, 120], "WEBP"),
        "b/4.png": stack([80, 160], "PNG"),
        "b/5.png": png(100),
        "b/6.tif": b"broken",
    }
    path = write(tmp_path / "data", contents, form)
    source = ImageFolder(path, 8, Choice(pages="views"), cache=False, photographs=photographs)
    assert source.view_counts.tolist() == [3, 2, 2, 2, 1, 1]
    images = load_all(source)
    assert images.pixels[:, 0, 4, 4].tolist() == [10, 20, 30, 40, 90, 60, 120, 80, 160, 100, 0]
    assert images.readable.tolist() == [True] * 10 + [False]
    assert [source.describe(0, view) for view in range(3)] == ["a/1.tif", "a/1.tif page 2", "a/1.tif page 3"]
    assert source.labels is not None
    assert source.labels.classes.tolist() == [0, 0, 1, 1, 1, 1]
    assert source.notes["images"].startswith("6 with 11 pages from ")
    assert source.sides_of(2) == (8, 8)
    assert not source.groups
    first = ImageFolder(path, 8)
    assert first.view_counts.tolist() == [1] * 6
    assert first.notes["not used"] == "4 of 6 files have more pages; only the first is read"


def test_some_files_tell_that_there_are_more_pages(tmp_path, write: Write):
    pages = {f"{number:03}.tif": stack([1, 2], "TIFF") for number in range(100)}
    path = write(tmp_path / "data", {**pages, "x.jpg": encoded(Image.new("RGB", (8, 8)), "JPEG")})
    note = "64 of 64 files that were looked at, of 100 that can have some, have more pages; only the first is read"
    assert folder(path=path, size=8).notes["not used"] == note
    Path(path, "v.csv").write_text("path\n000.tif\n001.tif\n")
    assert table(path=path).notes["not used"] == "2 of 2 files have more pages; only the first is read"


@pytest.mark.parametrize("odd", [0, 37, 500])
def test_images_of_another_size_are_refused_before_a_run(tmp_path, write: Write, odd):
    contents = {f"{number:03}.png": png(1, (8, 8) if number != odd else (8, 9)) for number in range(501)}
    path = write(tmp_path / "data", contents)
    if not odd:
        with pytest.raises(ValueError, match=r"000.png has 8x9 pixels; images that are not square need a `size`"):
            folder(path=path)
        return
    problem = rf"^size: {odd:03}.png has 8x9 pixels but the first image 8x8; these images need a `size`$"
    with pytest.raises(SettingError, match=problem):
        require_one_size(folder(path=path))
    require_one_size(folder(path=path, size=8))


def test_every_broken_image_is_found_and_none_is_counted(tmp_path, write: Write):
    contents = {f"{number:02}.png": png(number) for number in range(40)}
    whole = encoded(Image.effect_noise((64, 64), 90), "JPEG")
    contents |= {"03.png": b"", "20.png": b"text", "41.jpg": whole[: len(whole) // 2]}
    data = folder(path=write(tmp_path / "data", contents), size=8)
    told: list[tuple[int, int]] = []
    found = broken_images(data.train, lambda *numbers: told.append(numbers))
    assert [*found] == ["03.png", "20.png", "41.jpg"]
    assert found["20.png"] == "not an image in a known format"
    assert "truncated" in found["41.jpg"]
    assert told[-1] == (41, 41)
    inner = data.train.source
    assert not inner.broken
