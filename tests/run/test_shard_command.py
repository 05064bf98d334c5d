"""Claims about `ssl-inv shard`: what is written gives back what was read, and a second call continues or refuses."""

import gc
import io
import json
import shlex
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from small_data import every_view, load_all, png

from ssl_inv.catalogue import DATA
from ssl_inv.data.shards import store, writing
from ssl_inv.data.source import Data, Source
from ssl_inv.data.sources.shards import shards
from ssl_inv.data.sources.threediebench_writing import write_threediebench
from ssl_inv.run.cli import main
from ssl_inv.transforms import Rotation


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_INV_CACHE", str(tmp_path / "cache"))


def jpeg(number: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (20 + number, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def a_folder(top: Path, count: int = 9) -> dict[str, Any]:
    for part in ("train", "val"):
        for number in range(count):
            path = top / part / ("zebra", "ant")[number % 2] / f"a.b {number}.JPG"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(jpeg(number + count * (part == "val")))
    return {"name": "folder", "path": str(top), "size": 16}


def a_table(top: Path) -> dict[str, Any]:
    top.mkdir()
    rows = ["path,object,class,split,azimuth[deg],hue[turn],hour[circle period=24],zoom[real scale=2],lit[flag]"]
    for number in range(20):
        (top / f"{number}.png").write_bytes(png(number))
        part = "train" if number < 14 else "test"
        cells = (
            number // 2,
            ("x", "")[number % 8 // 4],
            part,
            17.3 * number,
            number / 7,
            number,
            number**0.5,
            number % 2,
        )
        rows.append(",".join(map(str, (f"{number}.png", *cells))))
    (top / "views.csv").write_text("\n".join(rows))
    return {"name": "table", "path": str(top)}


def rendered(top: Path) -> dict[str, Any]:
    return {"name": "rendered", "classes": 3, "objects": 9, "views": 2, "size": 16}


def torchvisions(top: Path) -> dict[str, Any]:
    for number in range(8):
        path = top / ("b", "a")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(10 * number, (20, 12)))
    return {"name": "torchvision", "dataset": "ImageFolder", "root": str(top), "size": 8}


def threediebench(top: Path) -> dict[str, Any]:
    made: Data = DATA.find("rendered").load()(**{key: one for key, one in rendered(top).items() if key != "name"})
    split = made.train.objects, made.validation.objects  # type: ignore[attr-defined]
    write_threediebench(top, made.train.source, None, split)  # type: ignore[attr-defined]
    return {"name": "threediebench", "path": str(top), "size": None}


FORMS = {
    "folder": a_folder,
    "table": a_table,
    "rendered": rendered,
    "torchvision": torchvisions,
    "threediebench": threediebench,
}


def recipe(section: dict[str, Any], path: Path) -> str:
    path.write_text(yaml.safe_dump({"data": section}))
    return str(path)


def opened(section: dict[str, Any]) -> Data:
    made: Data = DATA.find(section["name"]).load()(**{key: one for key, one in section.items() if key != "name"})
    return made


def by_object(source: Source) -> list[tuple[Any, ...]]:
    """What is known of every object, in an order of its own."""
    images, labels = load_all(source), source.labels
    objects, _ = every_view(source)
    found = []
    for item in range(len(source)):
        rows = np.flatnonzero(objects == item)
        name = labels.names[int(labels.classes[item])] if labels is not None and bool(labels.known[item]) else None
        values = {key: value[rows] for key, value in images.transform.values.items()}
        found.append((images.pixels[rows].numpy().tobytes(), name, values))
    return sorted(found, key=lambda one: one[0])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("order", ["shuffled", "kept"])
def test_shards_give_back_pixels_classes_latents_and_the_split_of_every_form(form, order, tmp_path, capsys):
    section, output = FORMS[form](tmp_path / "data"), tmp_path / "shards"
    arguments = ["shard", recipe(section, tmp_path / "r.yaml"), str(output), "--size-mb", "0.004", "--order", order]
    assert main(arguments) == 0
    before, after = opened(section), shards(path=str(output), size=section.get("size"), photographs="squares")
    assert len(list(output.glob("*.tar"))) > 2
    for one, other in ((before.train, after.train), (before.validation, after.validation)):
        assert one.groups == other.groups
        assert len(one) == len(other)
        names = (None if source.labels is None else source.labels.names for source in (one, other))
        assert next(names) == next(names) or not one.labels.known.all()
        for first, second in zip(by_object(one), by_object(other), strict=True):
            assert first[:2] == second[:2]
            for name, values in first[2].items():
                tolerance = 1e-7 if isinstance(one.groups[name], Rotation) else 0
                assert torch.allclose(values, second[2][name], rtol=0, atol=tolerance)
    assert capsys.readouterr().out.endswith(f"--data.name shards --data.path {output} --data.size PIXELS\n")
    if order == "kept":
        whole = load_all(before.train).pixels
        assert torch.equal(load_all(after.train).pixels, whole)


def test_files_are_copied_byte_for_byte_and_the_index_needs_no_reading(tmp_path, monkeypatch):
    section = a_folder(tmp_path / "data")
    assert main(["shard", section["path"], str(tmp_path / "out")]) == 0
    files = {path.read_bytes() for path in (tmp_path / "data").rglob("*.JPG")}
    members = {}
    for path in (tmp_path / "out").glob("*.tar"):
        with tarfile.open(path) as archive:
            members |= {one.name + path.name: archive.extractfile(one).read() for one in archive}  # type: ignore[union-attr]
    assert {content for name, content in members.items() if ".jpg" in name} == files
    said = [json.loads(content) for name, content in members.items() if ".json" in name]
    assert {"name": "train/ant/a.b 1.JPG", "class": "ant"} in said
    monkeypatch.setattr(store, "make_index", None)
    assert len(shards(path=str(tmp_path / "out"), size=8).train) == 9


def tars(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.tar")}


@pytest.mark.parametrize("after", [0, 1, 3, 4])
def test_a_killed_call_goes_on_and_writes_the_same_bytes(after, tmp_path, monkeypatch, capsys):
    section = a_folder(tmp_path / "data")
    arguments = ["shard", section["path"], str(tmp_path / "out"), "--size-mb", "0.004"]
    assert main([*arguments[:2], str(tmp_path / "whole"), *arguments[3:]]) == 0
    really, calls = writing.write_index, []

    def killed(*some: Any) -> None:
        calls.append(1)
        if len(calls) > after:
            raise KeyboardInterrupt
        really(*some)

    with monkeypatch.context() as patch:
        patch.setattr(writing, "write_index", killed)
        assert main(arguments) == 130
    assert len(tars(tmp_path / "out")) == after + 1
    (tmp_path / "out" / ".train-000009.tar.1").write_bytes(b"left by a killed process")
    # How many may be broken, and what stays in memory, changes no image.
    assert main([*arguments, "--data.max_broken", "0.5", "--data.cache", "false"]) == 0
    assert tars(tmp_path / "out") == tars(tmp_path / "whole")
    assert len(tars(tmp_path / "out")) > 5
    capsys.readouterr()
    for changed, problem in (
        (arguments, "holds these shards already, and is finished"),
        ([*arguments[:-1], "1"], "was begun with another size_mb, 0.004"),
        ([*arguments, "--order", "kept"], "was begun with another order, shuffled"),
        ([*arguments, "--data.labels", "none"], "was begun with other data"),
    ):
        assert main(changed) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert problem in line
    assert tars(tmp_path / "out") == tars(tmp_path / "whole")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["{data}"], "required: OUTPUT"),
        (["nowhere", "{out}"], "nowhere: no such file, folder, recipe or data set"),
        (["{data}", "{data}"], "holds something else; choose an empty folder"),
        (["{data}", "{data}/train/ant/a.b 1.JPG"], "is not a writable folder"),
        (["{data}", "{out}", "--size-mb", "0"], "must be at least 0.001"),
        (["{data}", "{out}", "--size-mb", "much"], "expected a number, got 'much'"),
        (["{data}", "{out}", "--order", "shufled"], "did you mean 'shuffled'?"),
        (["{data}", "{out}", "--data.lables", "none"], "did you mean 'labels'?"),
        (["{data}", "{out}", "--trainer.seed", "1"], "no section 'trainer' can be set here"),
        (["{data}", "{out}", "--siz-mb", "1"], "--siz-mb: no such option; did you mean '--size-mb'?"),
        (["given", "{out}"], "'given' is data in the memory of a Python program"),
    ],
)
def test_what_cannot_be_written_is_one_line(arguments, problem, tmp_path, capsys):
    a_folder(tmp_path / "data", 3)
    before = sorted(tmp_path.rglob("*"))
    paths = {"data": tmp_path / "data", "out": tmp_path / "out"}
    assert main(["shard", *(one.format(**paths) for one in arguments)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert problem in line
    assert sorted(tmp_path.rglob("*")) == before


def test_unreadable_images_are_left_out_and_said(tmp_path, capsys):
    section = a_folder(tmp_path / "data")
    (tmp_path / "data" / "train" / "ant" / "a.b 3.JPG").write_bytes(b"no image")
    assert main(["shard", section["path"], str(tmp_path / "out")]) == 0
    captured = capsys.readouterr()
    assert "17 objects, 17 images in 2 shards" in captured.out
    assert "1 image(s) cannot be read and are left out, the first train/ant/a.b 3.JPG: not an image" in captured.err
    assert len(shards(path=str(tmp_path / "out"), size=8).train) == 8


def test_a_moved_object_keeps_its_numbers_and_what_is_lost_is_said(tmp_path, capsys):
    section = {**rendered(tmp_path), "translation_range": 0.1}
    assert main(["shard", recipe(section, tmp_path / "r.yaml"), str(tmp_path / "out")]) == 0
    assert "translation becomes 3 parameters, from translation_0 on" in capsys.readouterr().err
    names = list(shards(path=str(tmp_path / "out")).train.groups)
    assert [name for name in names if name.startswith("translation")] == [f"translation_{axis}" for axis in range(3)]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_webdataset_reads_what_is_written(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    section = a_folder(tmp_path / "data")
    assert main(["shard", section["path"], str(tmp_path / "out"), "--size-mb", "0.004"]) == 0
    paths = [str(path) for path in sorted((tmp_path / "out").glob("train-*.tar"))]
    found = list(webdataset.WebDataset(paths, shardshuffle=False).decode("pil"))
    gc.collect()  # It leaves its files open.
    assert len(found) == 9
    names = {one["json"]["name"]: np.asarray(one["jpg"].convert("RGB")) for one in found}
    for name, pixels in names.items():
        assert np.array_equal(pixels, np.asarray(Image.open(tmp_path / "data" / name)))
    assert {one["json"]["class"]: one["cls"] for one in found} == {"ant": 0, "zebra": 1}


def test_a_folder_of_shards_is_known_without_its_kind(tmp_path, capsys):
    section = a_folder(tmp_path / "data")
    assert main(["shard", section["path"], str(tmp_path / "out")]) == 0
    capsys.readouterr()
    for name in (str(tmp_path / "out"), f"{tmp_path}/out/{{train,val}}-000000.tar", f"{tmp_path}/out/*.tar"):
        assert main(["data", name, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["training objects"], found["validation objects"], found["classes"]) == (9, 9, 2)


def test_the_settings_that_files_need_again_are_said(tmp_path, write, capsys):
    grey = io.BytesIO()
    Image.fromarray(np.full((8, 8), 4095, dtype=np.uint16)).save(grey, "PNG")
    path = write(tmp_path / "data", {f"{number}.png": grey.getvalue() for number in range(4)})
    settings = ["--data.white", "4095", "--data.background", "white"]
    assert main(["shard", path, f"{tmp_path}/out", "--data.size", "8", *settings]) == 0
    told = shlex.split(capsys.readouterr().out.splitlines()[-1].partition(": ")[2])
    assert told[-4:] == ["--data.background", "white", "--data.white", "4095.0"]
    assert load_all(shards(path=f"{tmp_path}/out", white=4095).train).pixels.min() == 255


def test_pages_that_are_views_become_images_of_their_own(tmp_path, write, capsys):
    pages = [Image.new("RGB", (8, 8), (10 * number, 0, 200)) for number in range(3)]
    file = io.BytesIO()
    pages[0].save(file, "TIFF", save_all=True, append_images=pages[1:])
    path = write(tmp_path / "data", {f"{number}.tif": file.getvalue() for number in range(4)})
    settings = ["--data.pages", "views", "--data.bands", "[3, 2, 1]"]
    assert main(["shard", path, f"{tmp_path}/out", "--data.size", "8", *settings]) == 0
    assert capsys.readouterr().out.endswith("--data.size PIXELS\n")
    found = load_all(shards(path=f"{tmp_path}/out").train).pixels[:3, :, 0, 0].tolist()
    assert found == [[200, 0, 10 * number] for number in range(3)]
