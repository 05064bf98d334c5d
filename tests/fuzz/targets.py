"""What is given damaged inputs: each function makes one and hands it to the code that a command would hand it to."""

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import timm
import torch
from fuzz.mutations import changed, damaged
from PIL import Image

from ssl_inv.catalogue import RecipeError, within
from ssl_inv.data.decoding import decode
from ssl_inv.data.sources.arrays import arrays
from ssl_inv.data.sources.folder import folder as image_folder
from ssl_inv.data.sources.shards import shards
from ssl_inv.data.sources.table import table
from ssl_inv.engine.checkpoints import load_checkpoint
from ssl_inv.nn.backbones import make_backbone
from ssl_inv.nn.weights import read_weights, start_from
from ssl_inv.plain import printable
from ssl_inv.run.build import build_augmentation
from ssl_inv.run.exports.export import Preprocessing, export_timm
from ssl_inv.run.exports.model_card import read_results as results_of_card
from ssl_inv.run.exports.reading import load_backbone_file
from ssl_inv.run.folder import RunFolder
from ssl_inv.run.plain_yaml import YAMLError, dump_yaml, parse_yaml
from ssl_inv.run.python.result_tables import result_table
from ssl_inv.run.recipe import read_yaml, resolve, shipped_recipes
from ssl_inv.run.results_file import checked_rows
from ssl_inv.run.side_by_side.runs import read_saved

_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "ICO", "JPEG2000")


@cache
def _recipes() -> list[dict[str, Any]]:
    return [read_yaml(path) for path in shipped_recipes().values()]


def recipes(random: Random, place: Path) -> None:
    content = random.choice(_recipes())
    if random.random() < 0.9:
        content = changed(random, content, random.choice([1, 1, 1, 2, 3]))
    else:
        try:
            content = parse_yaml(damaged(random, dump_yaml(content).encode()).decode("utf-8", errors="replace"))
        except YAMLError as error:
            raise RecipeError(str(error)) from error
    if not isinstance(content, dict):
        raise RecipeError("no mapping")
    recipe = resolve(content)
    recipe.dump()
    if random.random() < 0.1:
        build_augmentation(recipe)


@cache
def _image(form: str, side: int = 20) -> bytes:
    random = np.random.default_rng(0)
    pixels = Image.fromarray(random.integers(0, 255, (side, side, 3), dtype=np.uint8))
    written = io.BytesIO()
    pixels.save(written, form)
    return written.getvalue()


def images(random: Random, place: Path) -> None:
    with within("data"):
        decode(damaged(random, _image(random.choice(_FORMATS))), random.choice([None, 16]))


def _load_all(data: Any) -> None:
    for source in (data.train, data.validation):
        if len(source):
            objects = np.arange(len(source))
            source.load(objects, np.zeros(len(source), dtype=np.int64))


def archives(random: Random, place: Path) -> None:
    written = io.BytesIO()
    names = [f"{kind}/{number}.png" for kind in ("a", "b") for number in range(4)]
    if is_zip := random.random() < 0.5:
        with zipfile.ZipFile(written, "w", random.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
            for name in names:
                archive.writestr(name, _image("PNG"))
    else:
        with tarfile.open(fileobj=written, mode="w") as tar:
            for name in names:
                member = tarfile.TarInfo(name)
                member.size = len(_image("PNG"))
                tar.addfile(member, io.BytesIO(_image("PNG")))
    file = place / ("data.zip" if is_zip else "data.tar")
    file.write_bytes(damaged(random, written.getvalue()))
    with within("data"):
        _load_all(image_folder(path=str(file), size=16, max_broken=0.9))


@cache
def _arrays(form: str) -> bytes:
    random, written = np.random.default_rng(0), io.BytesIO()
    images, labels = random.integers(0, 255, (8, 12, 12, 3), dtype=np.uint8), np.arange(8) % 2
    if form == "npy":
        np.save(written, images)
    else:
        (np.savez_compressed if form == "packed" else np.savez)(written, x=images, y=labels)
    return written.getvalue()


def _damaged_start(random: Random, content: bytes) -> bytes:
    """Damaged in the first or the last part only, where the headers are."""
    length = random.choice([64, 256, len(content)])
    if random.random() < 0.5:
        return damaged(random, content[:length]) + content[length:]
    return content[:-length] + damaged(random, content[-length:])


def numbers(random: Random, place: Path) -> None:
    form = random.choice(["npy", "plain", "packed"])
    file = place / ("images.npy" if form == "npy" else "images.npz")
    file.write_bytes(_damaged_start(random, _arrays(form)))
    with within("data"):
        _load_all(arrays(path=str(file), size=16, max_broken=0.9))


@cache
def _shard() -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as tar:
        for number in range(6):
            facts = {"object": f"o{number // 2}", "class": "ab"[number // 2 % 2], "angle[deg]": number * 10.5}
            for name, content in ((".png", _image("PNG")), (".json", json.dumps(facts).encode())):
                member = tarfile.TarInfo(f"{number}{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return written.getvalue()


def sharded(random: Random, place: Path) -> None:
    file = place / "data-000.tar"
    file.write_bytes(damaged(random, _shard()))
    file.with_name(f"{file.name}.index").unlink(missing_ok=True)
    (place / "data-001.tar").write_bytes(_shard())
    with within("data"):
        _load_all(shards(path=str(place), size=16, max_broken=0.9, max_broken_shards=0.9))


_ROWS = [{"path": f"{n}.png", "object": f"o{n // 2}", "label": "ab"[n // 4], "angle_deg": n * 10.5} for n in range(8)]


def tables(random: Random, place: Path) -> None:
    for number in range(8):
        if not (file := place / f"{number}.png").is_file():
            file.write_bytes(_image("PNG"))
    rows = changed(random, _ROWS, random.choice([0, 1, 2]))
    rows = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    if random.random() < 0.5:
        name = "views.jsonl"
        text = "".join(json.dumps(row) + "\n" for row in rows)
    else:
        name = "views.csv"
        lines = [",".join(_ROWS[0]), *(",".join(str(cell) for cell in row.values()) for row in rows)]
        text = "\n".join(lines) + "\n"
    content = text.encode("utf-8", errors="replace")
    (place / name).write_bytes(damaged(random, content) if random.random() < 0.7 else content)
    named = {"object_column": "object", "class_column": "label"} if random.random() < 0.8 else {}
    with within("data"):
        _load_all(table(path=str(place), csv_file=name, size=16, max_broken=0.5, **named))


@cache
def _state() -> dict[str, Any]:
    backbone = make_backbone(name="test_resnet")
    return {
        "format": 1,
        "recipe": {"objective": {"name": "simclr"}},
        "step": 2,
        "image_size": 32,
        "extent": (8, 24),
        "groups": {"rotation": ["Rotation", {}]},
        "stamp": "abc",
        "backbone": backbone.state_dict(),
        "objective": {},
        "optimizer": {},
    }


def _saved(state: Any) -> bytes:
    written = io.BytesIO()
    torch.save(state, written)
    return written.getvalue()


@cache
def _checkpoint() -> bytes:
    return _saved(_state())


def checkpoints(random: Random, place: Path) -> None:
    file = place / "last.ckpt"
    if random.random() < 0.5:
        file.write_bytes(damaged(random, _checkpoint()))
    else:
        plain = {**_state(), "backbone": {"conv1.weight": [1]}}
        state = changed(random, plain, 2)
        if isinstance(state, dict) and random.random() < 0.5:
            state["backbone"] = _state()["backbone"]
        file.write_bytes(_saved(state))
    with within("backbone"):
        start_from(make_backbone(name="test_resnet"), read_weights(str(file), "test_resnet"))
    with within("model"):
        load_checkpoint(file)


@cache
def _export(place: Path) -> tuple[str, bytes]:
    with torch.random.fork_rng(devices=[]):
        network = timm.create_model("test_resnet", num_classes=0)
    folder = export_timm(
        network, "test_resnet", place / "export", Preprocessing((0.5,) * 3, (0.5,) * 3, 32), parts={"invariant": (0, 8)}
    )
    return (folder / "config.json").read_text(), (folder / "model.safetensors").read_bytes()


def exports(random: Random, place: Path) -> None:
    text, weights = _export(place)
    config, folder = json.loads(text), place / "export"
    if whole := random.random() < 0.7:
        if random.random() < 0.8:
            del config["ssl_inv"]["crc32"]  # or nothing behind it would be tried
        config = changed(random, config, random.choice([1, 2]))
        if isinstance(config, dict) and random.random() < 0.3:
            words = ("depth", "channels", "pretrained", "img_size", "drop_rate", "checkpoint_path", "layers")
            config["model_args"] = {random.choice(words): changed(random, [random.choice([2, 10**9])], 1)}
    (folder / "config.json").write_bytes(json.dumps(config).encode("utf-8"))
    (folder / "model.safetensors").write_bytes(weights if whole else damaged(random, weights))
    with within("model"):
        load_backbone_file(folder).build()


_RESULT = {"name": "linear/top1", "part": "all", "value": 0.5, "spread": 0.1, "detail": "", "errors": [["0-30", 1.5]]}
_RESULTS = [{"trained": _RESULT, "untrained": _RESULT, "shuffled": None, "reference": None}] * 2
_RECORD = {"state": "complete", "began": "2026-01-01T00:00:00+0000", "host": {}, "versions": {}, "score": {"r2": 0.5}}
_METRICS = {"step": 2, "loss": {"total": 1.5}, "monitor": {"knn": 0.5}, "lr": 0.1}


def results(random: Random, place: Path) -> None:
    def written(value: Any) -> bytes:
        content = json.dumps(changed(random, value, random.choice([0, 1, 2]))).encode()
        return damaged(random, content) if random.random() < 0.3 else content

    (place / "results.json").write_bytes(written(_RESULTS))
    (place / "run.json").write_bytes(written(_RECORD))
    (place / "metrics.jsonl").write_bytes(written(_METRICS) + b"\n" + written(_METRICS))
    (place / "recipe.yaml").write_text(dump_yaml(_recipes()[0]))
    saved = read_saved(place, settings=False)
    if random.random() < 0.5:
        result_table({"": checked_rows(place / "results.json")})
        results_of_card(RunFolder(place))
    _ = saved.last_values, saved.step, saved.seconds
    _ = saved.results


TARGETS: dict[str, tuple[Callable[[Random, Path], None], float]] = {
    "recipes": (recipes, 0.3),
    "images": (images, 0.15),
    "tables": (tables, 0.13),
    "archives": (archives, 0.1),
    "numbers": (numbers, 0.05),
    "shards": (sharded, 0.05),
    "checkpoints": (checkpoints, 0.07),
    "exports": (exports, 0.05),
    "results": (results, 0.1),
}
"""Each kind of input, and its share of all."""


def told_in_one_line(error: RecipeError) -> bool:
    """Whether the command line would answer with one line of text."""
    line = printable(" ".join(str(error).split()))
    return bool(line) and line.isprintable()
