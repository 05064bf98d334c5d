"""Claims about features of images in columns: the same as of `load`, whatever engine spreads the rows."""

import io
import os
import pickle
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from small_data import png

import ssl_inv

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (24, 40, 32, 3), dtype=np.uint8)
SMALL: dict[str, Any] = {
    "objective": {"name": "simclr", "projector": [16, 8]},
    "backbone": {"name": "test_resnet"},
    "augmentation": {"name": "simclr"},
    "trainer": {"steps": 1, "batch_size": 4, "accelerator": "cpu"},
    "monitor": {"every": 0},
    "evaluation": {"protocol": "quick", "views": 2, "neighbours": 1},
}


def encoded(pixels: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


FILES = [encoded(one) for one in PIXELS]


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small exported encoder; to be read, not changed."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    return ssl_inv.pretrain(SMALL, PIXELS[:, :32], output=folder, quiet=True).export


@pytest.fixture(scope="module")
def right(export: Path) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        found: np.ndarray[Any, Any] = ssl_inv.load(export)(list(PIXELS))["all"].numpy()
    return found


@pytest.mark.parametrize("form", ["bytes", "structs", "paths", "arrays", "floats", "lists", "pictures"])
def test_features_are_those_of_the_encoder_in_every_form(export: Path, right, tmp_path, form):
    for number, content in enumerate(FILES):
        (tmp_path / f"{number}.png").write_bytes(content)
    images: dict[str, Any] = {
        "bytes": FILES,
        "structs": [{"bytes": one, "path": None} for one in FILES],
        "paths": [str(tmp_path / f"{number}.png") for number in range(24)],
        "arrays": PIXELS,
        "floats": PIXELS / np.float32(255),
        "lists": PIXELS.tolist(),
        "pictures": [Image.fromarray(one) for one in PIXELS],
    }
    embedder = pickle.loads(pickle.dumps(ssl_inv.Embedder(export, images_at_once=7)))
    found = embedder({"image": images[form], "name": np.arange(24)})
    assert list(found) == ["name", "embedding", "embedding_error"]
    np.testing.assert_allclose(found["embedding"], right, atol=2e-3 if form == "floats" else 1e-5)
    assert found["name"].tolist() == list(range(24))
    assert not any(found["embedding_error"])


def test_a_broken_image_has_its_reason_and_takes_no_other_along(export: Path, right):
    images = [*FILES[:3], b"<html>", None, "/nowhere/1.png", FILES[3]]
    found = ssl_inv.Embedder(export, images_at_once=2)({"image": images})
    np.testing.assert_allclose(found["embedding"][[0, 1, 2, 6]], right[:4], atol=1e-5)
    assert np.isnan(found["embedding"][3:6]).all()
    assert [bool(one) for one in found["embedding_error"]] == [False] * 3 + [True] * 3 + [False]
    assert found["embedding_error"][3] == "not an image in a known format"


def test_frames_of_pandas_keep_their_rows(export: Path, right):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"image": FILES, "name": [f"n{one}" for one in range(24)]}, index=range(5, 29))
    first, second = ssl_inv.Embedder(export, keep_images=True).frames(iter([frame[:10], frame[10:]]))
    assert second.index.tolist() == list(range(15, 29))
    assert list(first.columns) == ["image", "name", "embedding", "embedding_error"]
    np.testing.assert_allclose(np.stack([*first["embedding"], *second["embedding"]]), right, atol=1e-5)


def test_a_file_is_done_once_and_only_whole(export: Path, right, tmp_path, monkeypatch):
    source, target = tmp_path / "in.parquet", tmp_path / "out" / "0.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"image": FILES, "name": list(range(24))}), source, row_group_size=10)
    embedder = ssl_inv.Embedder(export)
    monkeypatch.setattr("ssl_inv.run.python.embedder._ROWS", 7)
    calls = iter(range(2))

    def lost(images):
        if next(calls, None) is None:
            raise RuntimeError("lost")
        return ssl_inv.Embedder._features(embedder, images)

    with monkeypatch.context() as patch:
        patch.setattr(embedder, "_features", lost)
        with pytest.raises(RuntimeError, match="lost"):
            embedder.file(source, target)
    assert not list(target.parent.iterdir())
    assert embedder.file(source, target) == 24
    table = pyarrow.parquet.read_table(target)
    assert table.column_names == ["name", "embedding", "embedding_error"]
    np.testing.assert_allclose(np.array(table["embedding"].to_pylist()), right, atol=1e-5)
    before = target.stat().st_mtime_ns
    assert embedder.file(source, target) == 24
    assert target.stat().st_mtime_ns == before
    empty = tmp_path / "empty.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"image": pyarrow.array([], pyarrow.binary())}), empty)
    assert embedder.file(empty, tmp_path / "none.parquet") == 0
    assert pyarrow.parquet.read_schema(tmp_path / "none.parquet").names == ["embedding", "embedding_error"]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"parts": ["invariante"]}, "parts: .* has no part 'invariante'; "),
        ({"images_at_once": 0}, "images_at_once: must be at least 1, got 0"),
        ({"column": "images"}, "column: there is no column 'images'; did you mean 'image'"),
    ],
)
def test_mistakes_are_one_line(export: Path, settings, problem):
    with pytest.raises(ssl_inv.RecipeError, match=f"^{problem}") as refusal:
        ssl_inv.Embedder(export, **settings)({"image": FILES})
    assert "\n" not in str(refusal.value)


def test_an_encoder_that_is_not_there_is_told_where_the_work_is_planned(tmp_path):
    with pytest.raises(ssl_inv.RecipeError, match=r"nothing' is neither the folder of a run, nor an exported folder"):
        ssl_inv.Embedder(tmp_path / "nothing")


class _KilledOnce(ssl_inv.Embedder):
    """Loses its process in the middle of the work, once."""

    def __call__(self, batch: Any) -> dict[str, Any]:
        marker = Path(os.environ["KILLED_ONCE"])
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(batch)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ray_spreads_rows_over_actors_and_outlives_one(export: Path, right, tmp_path):
    """The code of docs/scale.md, with two actors on CPUs."""
    ray = pytest.importorskip("ray")
    page = (Path(__file__).parents[2] / "docs" / "scale.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(import ray.*?)```", page, re.DOTALL)
    source, marker = tmp_path / "photographs", tmp_path / "killed"
    source.mkdir()
    for part in range(4):
        rows = range(6 * part, 6 * part + 6)
        table = pyarrow.table({"image": [FILES[row] for row in rows], "row": list(rows)})
        pyarrow.parquet.write_table(table, source / f"{part}.parquet")
    own = {"runs/one/export": str(export), "photographs/": str(source), "features/": str(tmp_path / "features")}
    smaller = {"size=8": "size=2", "batch_size=256": "batch_size=3", ", num_gpus=1": ""}
    for word, other in {**own, **smaller}.items():
        assert word in code
        code = code.replace(word, other)
    code = code.replace("import ssl_inv\n", "").replace("ssl_inv.Embedder", "Embedder")
    paths = [str(Path(__file__).parent), str(Path(ssl_inv.__file__).parents[1]), str(Path(__file__).parents[1])]
    environment = {"PYTHONPATH": os.pathsep.join(paths), "KILLED_ONCE": str(marker), "OMP_NUM_THREADS": "1"}
    ray.init(
        # Of any number of real processors. The two actors hold one each, and files are read on the others.
        num_cpus=4,
        include_dashboard=False,
        logging_level="ERROR",
        object_store_memory=200_000_000,
        runtime_env={"env_vars": environment},
    )
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        exec(code, {"Embedder": _KilledOnce})
    finally:
        ray.shutdown()
    assert marker.exists()
    found = pyarrow.parquet.read_table(tmp_path / "features").sort_by("row")
    assert found["row"].to_pylist() == list(range(24))
    np.testing.assert_allclose(np.array(found["embedding"].to_pylist()), right, atol=1e-5)


def test_a_png_is_read_as_the_file_that_it_is(export: Path):
    one = ssl_inv.load(export)
    with torch.no_grad():
        assert torch.equal(one(png(7))["all"], one([png(7)])["all"])
