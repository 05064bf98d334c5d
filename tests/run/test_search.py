"""A search finds what a comparison with every vector finds, shows it, and says what is wrong in one line."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset
import pyarrow.parquet
import pytest
import torch
from PIL import Image

import ssl_inv
from ssl_inv.catalogue import RecipeError
from ssl_inv.memories.indices import unit
from ssl_inv.run.cli import main
from ssl_inv.run.encoders import load_model
from ssl_inv.run.search import Index
from ssl_inv.run.search import writing as search_index
from ssl_inv.run.shards import read_manifest


def command(text: str) -> int:
    return main(shlex.split(text))


def texture(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((32, 32), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def made(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photographs `photos` and their index `index`; to be read and copied, not changed."""
    folder = tmp_path_factory.mktemp("search")
    (folder / "photos").mkdir()
    for number in range(10):
        texture(number).save(folder / "photos" / f"{number:02}.png")
    shutil.copy(folder / "photos" / "03.png", folder / "photos" / "03 copy.png")
    texture(4).save(folder / "photos" / "04 again.jpg", quality=95)
    assert command(f"embed {tiny_run} --data {folder}/photos --output {folder}/index --index auto --shard-size 5") == 0
    return folder


@pytest.fixture
def copied(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a copy of the index; the photographs are where they were."""
    shutil.copytree(made / "index", tmp_path / "index")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def vectors_of(folder: Path) -> np.ndarray[Any, Any]:
    return np.array(pyarrow.parquet.read_table(folder)["embedding"].to_pylist(), dtype=np.float32)


def test_an_index_is_written_from_python_and_a_function_is_asked_for_if_it_made_it(made: Path, tmp_path: Path) -> None:
    def mean(pixels: torch.Tensor) -> torch.Tensor:
        return pixels.flatten(2).mean(2)

    folder = ssl_inv.embed(mean, made / "photos", output=tmp_path / "index", index="exact", settings={"data.size": 32})
    picture = made / "photos" / "05.png"
    with pytest.raises(RecipeError, match="made with a module or function"):
        Index.open(folder).neighbours(picture)
    row = Index.open(folder).columns["id"].index("05.png")
    (by_file,) = Index.open(folder, mean).neighbours(picture, k=3)
    (by_row,) = Index.open(folder).neighbours(row, k=2)
    assert [one.row for one in by_file.parts["all"]] == [row, *(one.row for one in by_row.parts["all"])]


def test_arrow_reads_the_folder_as_it_is(made: Path) -> None:
    table = pyarrow.parquet.read_table(made / "index")
    assert table.num_rows == pyarrow.dataset.dataset(made / "index").count_rows() == 12
    assert {"id", "split", "embedding"} <= set(table.column_names)


def test_a_folder_of_an_earlier_version_is_read_and_gets_an_index(copied: Path, tiny_run: Path, made: Path) -> None:
    manifest = read_manifest(copied / "index")
    (copied / "index/_manifest.json").unlink()
    shutil.rmtree(copied / "index/_index")
    old = {name: value for name, value in manifest.items() if name not in ("index", "encoder")}
    (copied / "index/manifest.json").write_text(json.dumps(old))
    with pytest.raises(RecipeError, match="has embeddings and no index"):
        Index.open("index")
    embed = f"embed {tiny_run} --data {made}/photos --output index --index exact --shard-size 5"
    shards = {path: path.stat().st_mtime_ns for path in Path("index").glob("part-*")}
    assert command(embed) == 0
    assert {path: path.stat().st_mtime_ns for path in shards} == shards
    assert not Path("index/manifest.json").exists()
    assert len(Index.open("index")) == 12


@pytest.mark.parametrize("part", ["all", "invariant", "equivariant"])
def test_neighbours_are_those_of_all_vectors_in_each_part(part: str, made: Path) -> None:
    index = Index.open(made / "index")
    vectors = unit(vectors_of(made / "index")[:, index.parts[part]])
    cosines = vectors @ vectors.T - 2 * np.eye(12)
    for row, found in enumerate(index.neighbours(range(12), k=4, part=part)):
        near = found.parts[part]
        assert row not in [one.row for one in near]
        np.testing.assert_allclose([one.score for one in near], np.sort(cosines[row])[:-5:-1], atol=1e-4)


def test_parts_are_those_of_the_objective(made: Path, tiny_run: Path) -> None:
    model = load_model(str(tiny_run), str(made / "photos"), [], False)
    (backbone, objective), _ = model.networks()
    pixels = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        parts = objective.representations(backbone.eval())(pixels)
    index = Index.open(made / "index")
    assert index.parts.keys() == parts.keys()
    assert all(torch.equal(parts["all"][:, ends], parts[name]) for name, ends in index.parts.items())


def test_a_file_is_encoded_as_it_was_when_the_index_was_made(made: Path) -> None:
    index = Index.open(made / "index")
    by_file, by_id, by_row = index.neighbours([made / "photos/07.png", "07.png", index.columns["id"].index("07.png")])
    assert by_file.parts["invariant"][0].id == "07.png"
    assert by_file.parts["invariant"][0].score == 1
    assert by_id.parts == by_row.parts
    assert [one.id for one in by_file.parts["invariant"][1:]] == [one.id for one in by_id.parts["invariant"][:9]]
    picture = Image.open(made / "photos/07.png")
    for same in (picture, np.asarray(picture)):
        assert index.neighbours(same)[0].parts == by_file.parts


def test_a_folder_asks_for_all_its_pictures_and_broken_ones_are_told(made: Path, tmp_path: Path, capsys) -> None:
    shutil.copytree(made / "photos", tmp_path / "asked")
    (tmp_path / "asked/05.png").write_bytes(b"no picture")
    assert command(f"neighbours {made}/index {tmp_path}/asked -k 2 --json") == 0
    shown = capsys.readouterr()
    answers = json.loads(shown.out)
    assert len(answers) == 11
    assert {len(one["neighbours"]["equivariant"]) for one in answers} == {2}
    assert "05.png cannot be read: not an image in a known format" in " ".join(shown.err.split())
    assert Path(answers[0]["neighbours"]["invariant"][0]["path"]).is_file()


def test_a_second_call_writes_the_index_that_is_missing_and_no_other(copied: Path, tiny_run: Path, made: Path) -> None:
    before = {path.name: path.read_bytes() for path in Path("index/_index").iterdir()}
    Path("index/_index/invariant.faiss").unlink()
    with pytest.raises(RecipeError, match="index of 'invariant' is missing"):
        Index.open("index")
    times = {path: path.stat().st_mtime_ns for path in Path("index/_index").iterdir()}
    assert command(f"embed {tiny_run} --data {made}/photos --output index --index exact --shard-size 5") == 0
    assert {path.name: path.read_bytes() for path in Path("index/_index").iterdir()} == before
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_queries_are_encoded_by_the_same_weights_wherever_they_are(
    copied: Path, tiny_run: Path, made: Path, capsys
) -> None:
    manifest = read_manifest(Path("index"))
    manifest["encoder"]["name"] = "/gone"
    Path("index/_manifest.json").write_text(json.dumps(manifest))
    query = made / "photos/01.png"
    assert command(f"neighbours index {query}") == 2
    assert "'/gone' is neither the folder of a run" in (told := capsys.readouterr().err)
    assert "--encoder names the place where it is now" in told
    assert command(f"neighbours index {query} --encoder {tiny_run}") == 0
    assert command(f"neighbours index {query} --encoder timm:resnet10t") == 2
    assert "has other weights" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["html", "png"])
def test_pictures_that_were_moved_leave_a_placeholder_and_can_be_found_again(
    suffix: str, copied: Path, made: Path, tmp_path: Path, capsys
) -> None:
    shutil.copytree(made / "photos", tmp_path / "elsewhere")
    manifest = read_manifest(Path("index"))
    manifest["data"]["path"] = str(tmp_path / "gone")
    Path("index/_manifest.json").write_text(json.dumps(manifest))
    assert command(f"neighbours index 02.png 3 --output page.{suffix} --json") == 0
    answers = json.loads(capsys.readouterr().out)
    assert {one["path"] for answer in answers for one in answer["neighbours"]["invariant"]} == {None}
    missing = Path(f"page.{suffix}").read_bytes()
    if suffix == "html":
        assert b"Some pictures are missing: no such folder" in missing
    assert command(f"neighbours index 02.png 3 --data.path elsewhere --output page.{suffix} --json") == 0
    found = json.loads(capsys.readouterr().out)[0]["neighbours"]["invariant"][0]
    assert found["path"] == f"elsewhere/{found['id']}"
    assert Path(f"page.{suffix}").read_bytes() != missing
    Path("elsewhere", found["id"]).unlink()
    assert command(f"neighbours index 02.png --data.path elsewhere --output page.{suffix}") == 0


@pytest.mark.parametrize("block", [3, 2048])
def test_near_duplicates_are_grouped_and_exact_copies_told_apart(block: int, made: Path, monkeypatch) -> None:
    monkeypatch.setattr("ssl_inv.run.search.duplicates._BLOCK", block)
    index = Index.open(made / "index")
    vectors = unit(vectors_of(made / "index"))
    cosines = vectors @ vectors.T - 2 * np.eye(12)
    names = index.columns["id"]
    again = float(cosines[names.index("04.png"), names.index("04 again.jpg")])
    found = index.duplicates(again - 1e-4)
    assert [one.id for one in found.groups[0].members] == sorted(["03.png", "03 copy.png"], key=names.index)
    assert found.groups[0].exact
    assert found.groups[0].score == 1
    pairs = {frozenset(names[row] for row in pair.tolist()) for pair in np.argwhere(cosines >= again - 1e-4)}
    groups = [{one.id for one in group.members} for group in found.groups]
    assert all(any(pair <= group for group in groups) for pair in pairs)
    assert sum(map(len, groups)) == len(frozenset.union(*pairs))
    near = next(group for group in found.groups if "04.png" in {one.id for one in group.members})
    assert not near.exact
    assert {one.copy for one in near.members} == {None}


def test_a_threshold_that_is_too_low_is_told_with_what_random_pairs_have(made: Path, capsys) -> None:
    assert command(f"neighbours {made}/index --duplicates --threshold 0.1 --output {made}/duplicates.html") == 0
    shown = capsys.readouterr().out
    assert "1 groups with 12 of 12 images" in shown
    assert "one random pair in a thousand has more than 0." in shown
    assert (made / "duplicates.html").read_bytes().count(b"<img") == 12


@pytest.fixture(scope="module")
def many(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compressed index of 1,200 rendered views."""
    folder = tmp_path_factory.mktemp("many") / "index"
    data = "--data.objects 400 --data.size 16"
    assert command(f"embed {tiny_run} {data} --output {folder} --format npy --shard-size 500 --index ivf-pq") == 0
    return folder


def test_a_compressed_index_states_its_memory_and_its_measured_recall(many: Path) -> None:
    facts = read_manifest(many)["index"]
    assert facts["kind"] == "ivf-pq"
    for part, told in facts["files"].items():
        assert told["memory"] == pytest.approx((many / f"_index/{part}.faiss").stat().st_size, rel=0.1)
        assert told["recall_at_10"] > 0.9
        assert 1 <= told["probes"] <= told["cells"]
    vectors = unit(np.concatenate([np.load(path) for path in sorted(many.glob("part-*.npy"))]))
    cosines = vectors @ vectors.T - 2 * np.eye(len(vectors))
    asked = range(0, 1200, 50)
    found = [{near.row for near in one.parts["all"]} for one in Index.open(many).neighbours(asked, part="all")]
    true = [set(np.argsort(-cosines[row])[:10].tolist()) for row in asked]
    share = np.mean([len(one & other) / 10 for one, other in zip(found, true, strict=True)])
    assert share > facts["files"]["all"]["recall_at_10"] - 0.05


def test_duplicates_in_a_compressed_index_are_said_to_be_those_it_finds(many: Path) -> None:
    found = Index.open(many).duplicates(0.9999)
    assert not found.complete
    vectors = unit(np.concatenate([np.load(path) for path in sorted(many.glob("part-*.npy"))]))
    for group in found.groups:
        rows = [one.row for one in group.members]
        assert ((vectors[rows] @ vectors[rows].T - 2 * np.eye(len(rows))).max(axis=1) > 0.9998).all()


def test_the_kind_is_chosen_by_the_number_of_images_and_too_few_are_not_compressed(
    copied: Path, tiny_run: Path, made: Path, monkeypatch, capsys
) -> None:
    embed = f"embed {tiny_run} --data {made}/photos --output index --shard-size 5"
    monkeypatch.setattr(search_index, "EXACT_ROWS", 11)
    assert command(f"{embed} --index auto") == 2
    assert "--index: a compressed index needs at least 1,024 images, and there are 12" in capsys.readouterr().err


def test_memory_is_told_in_bytes_of_arithmetic() -> None:
    told = search_index._memory_told("ivf-pq", 1_000_000, {"all": (0, 512), "invariant": (0, 256)})
    assert "128 + 64 bytes an image, " in told
    # (128 + 8 + 64 + 8) bytes for a million, and 4,000 centroids and 256 words of 512 and 256 numbers.
    assert f"{(208e6 + 4256 * 768 * 4) / 1e9:.2f} GB of memory to search" in told
    assert "1.02 GB of vectors on disk" in told
    assert "4.10 GB of memory" in search_index._memory_told("exact", 2_000_000, {"all": (0, 512)})


WRONG = {
    "index": ("neighbours nowhere 1", "there is no folder 'nowhere'"),
    "other folder": ("neighbours {made}/photos 1", "is no folder of embeddings"),
    "nothing asked": ("neighbours {made}/index", "IMAGE is missing"),
    "both": ("neighbours {made}/index 1 --duplicates", "--duplicates: compares the pictures of the index"),
    "row": ("neighbours {made}/index 12", "there is no row 12; the index has rows 0 to 11"),
    "image": ("neighbours {made}/index 07.pgn", "'07.pgn' is neither a file, nor the id or number of a row"),
    "part": (
        "neighbours {made}/index 1 --part invarant",
        "part: the index has no 'invarant'; did you mean",
    ),
    "threshold alone": ("neighbours {made}/index 1 --threshold 0.9", "--threshold: goes with --duplicates"),
    "threshold": ("neighbours {made}/index --duplicates --threshold 2", "--threshold: must lie between 0 and 1"),
    "no threshold": ("neighbours {made}/index --duplicates --threshold 0", "--threshold: a cosine above 0"),
    "count": ("neighbours {made}/index 1 -k 0", "-k: must lie between 1 and 10000, got 0"),
    "page": ("neighbours {made}/index 1 --output page.pdf", "--output: the name must end with .html, .png, .json"),
    "section": ("neighbours {made}/index 1 --trainer.steps 3", "trainer"),
    "kind": ("embed run --output out --index flat", "--index: there is no 'flat'; there are exact, ivf-pq, auto"),
    "picture setting": (
        "neighbours {made}/index 1 --data.pth photos",
        "data.pth: no such setting; did you mean 'path'",
    ),
    "too few": (
        "embed timm:test_resnet --data {made}/photos --output out --index ivf-pq",
        "a compressed index needs at least 1,024 images, and there are 12",
    ),
    "no images": ("neighbours {made}/index {made}", "has no images"),
}


@pytest.mark.parametrize("case", WRONG)
def test_every_mistake_is_one_line(case: str, made: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    text, told = WRONG[case]
    text = text.replace("{made}", str(made)) if case != "no images" else f"neighbours {made}/index {tmp_path}/empty"
    assert command(text) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert told in shown.err
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_the_page_about_the_search_is_true(tiny_run: Path, made: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    text = (Path(__file__).parents[2] / "docs" / "search.md").read_text()
    for name in ("photos", "holiday"):
        shutil.copytree(made / "photos", tmp_path / name)
    shutil.copytree(tiny_run, tmp_path / "runs" / "photos")
    texture(7).save(tmp_path / "query.jpg", quality=95)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL)
    for line in "".join(code for kind, code in blocks if kind == "sh").splitlines():
        assert command(line.removeprefix("ssl-inv ")) == 0, line
    assert {path.name for path in tmp_path.glob("*.html")} == {"nearest.html", "duplicates.html"}
    capsys.readouterr()
    for code in (code for kind, code in blocks if kind == "python"):
        exec(compile(code, "search.md", "exec"), {})
    assert capsys.readouterr().out.startswith("query.jpg invariant [('07.png', 0.9")


def test_the_search_is_imported_without_anything_heavy() -> None:
    code = "import sys, ssl_inv.run.search; print({'torch', 'numpy', 'faiss', 'pyarrow'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout.strip() == "set()"
