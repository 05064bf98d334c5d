"""Claims about the Python interface: it does what the command line does, and every mistake is one line."""

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import ssl_inv
from ssl_inv.evaluation.protocols.knn import NearestNeighbours
from ssl_inv.run.plain_yaml import parse_yaml

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (60, 32, 32, 3), dtype=np.uint8)
CLASSES = [number % 3 for number in range(60)]
GIVEN = (PIXELS, CLASSES)
SMALL: dict[str, Any] = {
    "objective": {"name": "simclr", "projector": [16, 8]},
    "backbone": {"name": "test_resnet"},
    "augmentation": {"name": "simclr"},
    "trainer": {"steps": 4, "batch_size": 8, "accelerator": "cpu", "checkpoint_every": 2, "log_every": 1},
    "monitor": {"every": 0},
    "evaluation": {"protocol": "quick", "views": 2},
}
SETTINGS = {"evaluation.neighbours": 3}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ssl_inv.RunResult:
    """A run on images in memory; to be read, not changed."""
    return ssl_inv.pretrain(SMALL, GIVEN, output=tmp_path_factory.mktemp("runs") / "given", quiet=True)


def test_the_package_is_imported_without_torch_and_refuses_a_recipe_without_it():
    script = (
        "import ssl_inv, sys\n"
        "assert len(ssl_inv.recipes()) > 50\n"
        "assert set(ssl_inv.__all__) <= set(dir(ssl_inv))\n"
        "try: ssl_inv.pretrain('demo', settings={'trainer.stpes': 1})\n"
        "except ssl_inv.RecipeError as error: print(error)\n"
        "assert not {'torch', 'numpy'} & set(sys.modules), 'torch is loaded'\n"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (told.stdout, told.stderr) == ("trainer.stpes: no such setting; did you mean 'steps'?\n", "")


@pytest.mark.parametrize("name", ssl_inv.__all__)
def test_every_public_name_is_there_and_says_what_it_does(name):
    if name in ("compare", "RunComparison") and find_spec("ssl_inv.run.side_by_side.comparison") is None:
        pytest.skip("runs are not compared by this version")
    public = getattr(ssl_inv, name)
    assert callable(public)
    assert public.__doc__


def test_views_is_a_function_and_a_package():
    import ssl_inv.views.plan as plan
    from ssl_inv.views import Plan

    assert plan.Plan is Plan
    with pytest.raises(ssl_inv.RecipeError, match="did you mean 'demo'"):
        ssl_inv.views("dmo")
    with pytest.raises(AttributeError, match=r"no attribute 'pretrian'; public are .* pretrain"):
        ssl_inv.pretrian  # noqa: B018


@pytest.mark.parametrize("kind", ["path", "mapping", "typed"])
def test_a_recipe_of_any_kind_gives_the_run_of_the_command_line(kind, tiny_recipe, tiny_run, tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(tiny_recipe)
    recipe = {"path": path, "mapping": parse_yaml(tiny_recipe), "typed": ssl_inv.recipes(path)}[kind]
    settings = {"trainer.steps": 2, "data.views": np.int64(3), "objective.projector": (8, 8)}
    made = ssl_inv.pretrain(recipe, output=tmp_path / "run", settings=settings, quiet=True)
    assert made.recipe == ssl_inv.RunResult(tiny_run).recipe
    assert made.metrics.column("loss/equivariance") == ssl_inv.RunResult(tiny_run).metrics.column("loss/equivariance")
    assert made.state == "complete"


def test_one_of_steps_and_epochs_replaces_the_other_and_a_trainer_is_settings():
    recipe = ssl_inv.check(SMALL, PIXELS, trainer={"epochs": 2, "seed": 3}).recipe
    assert (recipe.trainer.steps, recipe.trainer.epochs, recipe.trainer.seed) == (None, 2, 3)


def test_a_run_on_data_in_memory_records_them_and_measures_what_the_same_data_give_again(run):
    data = run.recipe.data
    assert data.name == "given"
    assert (data.settings["training_objects"], data.settings["validation_objects"]) == (54, 6)
    again = ssl_inv.evaluate(run, GIVEN, quiet=True)
    columns = [name for name in run.table.columns if name != "remark"]
    assert [[row[name] for name in columns] for row in again] == [[row[name] for name in columns] for row in run.table]
    assert run.table.where(measure="linear/top1", part="all")[0]["untrained"] is not None
    assert run.metrics.column("step") == [1, 2, 3, 4]
    assert run.export.is_dir()
    assert "linear/top1" in run._repr_html_()


def test_a_run_on_data_in_memory_goes_on_as_if_it_had_never_stopped_if_the_data_are_the_same(
    run, tmp_path, monkeypatch
):
    from ssl_inv.engine import recorder

    def stop(self: Any, *arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        save = recorder.Recorder.save
        patched.setattr(recorder.Recorder, "save", lambda self, module: (save(self, module), stop(self)))
        with pytest.raises(KeyboardInterrupt):
            ssl_inv.pretrain(SMALL, GIVEN, output=tmp_path / "run", quiet=True)
    begun = ssl_inv.RunResult(tmp_path / "run")
    assert begun.state == "interrupted"
    with pytest.raises(ssl_inv.RecipeError, match=r"data.fingerprint: the run was given other data"):
        ssl_inv.pretrain(data=(PIXELS[::-1], CLASSES), resume=begun, quiet=True)
    with pytest.raises(
        ssl_inv.RecipeError, match=r"data.name: 'given' is data in the memory .* give data=\.\.\. there"
    ):
        ssl_inv.pretrain(resume=begun, quiet=True)
    with pytest.raises(ssl_inv.RecipeError, match=r"began with another recipe: trainer\.steps: 4 -> 5"):
        ssl_inv.pretrain(data=GIVEN, resume=begun, trainer={"steps": 5})
    done = ssl_inv.pretrain(data=GIVEN, resume=begun, quiet=True)
    assert done.metrics.column("loss/nt_xent") == run.metrics.column("loss/nt_xent")
    assert done.table == run.table


def test_a_run_goes_on_with_what_its_owner_changes_and_records_it(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "run")
    longer = ssl_inv.pretrain(
        data=GIVEN, resume=tmp_path / "run", changes={"trainer.steps": 6, "optimizer.lr": np.float64(5e-4)}, quiet=True
    )
    (once,) = longer.record["continued"]
    assert (once["step"], once["changes"]["trainer.steps"]) == (4, [4, 6])
    assert (longer.recipe.trainer.steps, longer.recipe.optimizer["lr"]) == (6, 5e-4)
    losses = longer.metrics.column("loss/nt_xent")
    assert losses[:4] == run.metrics.column("loss/nt_xent")
    assert len(losses) == 6
    by_epochs = ssl_inv.pretrain(data=GIVEN, resume=longer, changes={"trainer.epochs": 2}, quiet=True)
    assert (by_epochs.recipe.trainer.steps, by_epochs.recipe.trainer.epochs) == (None, 2)
    assert by_epochs.metrics.column("step")[-1] == 2 * (54 // 8)


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "a text": ({"changes": "trainer.steps=9"}, "^changes: must be a mapping .* got str"),
    "a section": ({"changes": {"trainer": {"steps": 9}}}, "^changes: 'trainer' is a section"),
    "no section": ({"changes": {"trianer.steps": 9}}, "^changes: no section 'trianer' .* did you mean 'trainer'"),
    "no setting": ({"changes": {"trainer.stpes": 9}}, "^trainer.stpes: no such setting; did you mean 'steps'"),
    "of another kind": ({"changes": {"trainer.steps": "many"}}, "^trainer.steps: expected a whole number"),
    "fewer steps": ({"changes": {"trainer.steps": 2}}, "trainer.steps: 2, but the run has done 4 steps"),
    "another network": ({"changes": {"backbone.name": "resnet18"}}, "^changes backbone.name: cannot change in a run"),
    "without a word": ({"settings": {"trainer.steps": 9}}, "if that is meant, say so: changes={'trainer.steps': 9}$"),
    "another recipe": ({"recipe": "demo"}, "began with another recipe: objective.name: 'simclr' -> 'sie'"),
    "another place": ({"output": "elsewhere"}, "output and resume exclude each other"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_change_that_cannot_be_made_is_one_line_in_words_of_python_and_nothing_is_written(case, run):
    arguments, message = CHANGES[case]
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    with pytest.raises(ssl_inv.RecipeError, match=message) as caught:
        ssl_inv.pretrain(data=GIVEN, resume=run, quiet=True, **arguments)
    assert "\n" not in str(caught.value)
    assert "--" not in str(caught.value)
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


def test_the_command_line_says_that_data_in_memory_must_be_given_in_python(run, capsys):
    from ssl_inv.run.cli import main

    assert main(["pretrain", "--resume", str(run.path)]) == 2
    assert "'given' is data in the memory of a Python program" in capsys.readouterr().err


def test_quiet_prints_nothing_and_the_results_are_printed_without_it(tmp_path, capsys):
    recipe = {**SMALL, "trainer": {**SMALL["trainer"], "steps": 1}, "evaluation": {"protocol": "none"}}
    ssl_inv.pretrain(recipe, PIXELS, output=tmp_path / "quiet", quiet=True)
    assert capsys.readouterr() == ("", "")
    ssl_inv.pretrain(recipe, PIXELS, output=tmp_path / "loud")
    told = capsys.readouterr()
    assert "export: " in told.out
    assert "simclr on given: 54 training and 6 validation objects" in told.err


# Encoders.


def test_an_encoder_maps_images_of_any_kind_and_size_as_the_evaluation_does(run, tmp_path):
    encoder = ssl_inv.load(run)
    expected = ssl_inv.embed(run, GIVEN)
    assert expected["all"].shape == (60, encoder.parts["all"])
    assert expected.images.column("label") == [str(one) for one in CLASSES]
    Image.fromarray(PIXELS[3]).save(tmp_path / "3.png")
    forms = {
        "array": PIXELS[:4],
        "tensor": torch.from_numpy(PIXELS[:4]).permute(0, 3, 1, 2),
        "floats": torch.from_numpy(PIXELS[:4] / np.float32(255)).permute(0, 3, 1, 2),
        "pictures": [Image.fromarray(one) for one in PIXELS[:4]],
        "mixed": [
            PIXELS[0],
            Image.fromarray(PIXELS[1]),
            torch.from_numpy(PIXELS[2]).movedim(-1, 0),
            tmp_path / "3.png",
        ],
        "double": np.repeat(np.repeat(PIXELS[:4], 2, axis=1), 2, axis=2),
    }
    with torch.no_grad():
        found = {form: encoder(images)["all"].numpy() for form, images in forms.items()}
        one = encoder(Image.fromarray(PIXELS[0]))["all"].numpy()
    np.testing.assert_allclose(one, expected["all"][:1], atol=1e-4)
    assert found["double"].shape == found["array"].shape
    del found["double"]
    for form, features in found.items():
        np.testing.assert_allclose(features, expected["all"][:4], atol=1e-4, err_msg=form)


def test_an_export_gives_the_parts_of_its_run_everywhere(tiny_run):
    run = ssl_inv.RunResult(tiny_run)
    export, pixels = ssl_inv.load(run.export), torch.rand(5, 3, 64, 64)
    assert export.parts == run.encoder.parts
    assert set(export.parts) == {"all", "invariant", "equivariant"}
    for part, features in run.encoder(pixels).items():
        torch.testing.assert_close(export(pixels)[part], features)
    data = "demo"
    settings = {"data.objects": 30}
    table = ssl_inv.evaluate({"folder": run.export, "loaded": export}, data, ["knn"], settings=settings, quiet=True)
    assert {row["part"] for row in table.where(encoder="folder")} == {"all", "invariant", "equivariant"}
    assert all(row["untrained"] is not None for row in table)
    without = [[row[name] for name in table.columns[1:]] for row in table]
    assert without[: len(without) // 2] == without[len(without) // 2 :]
    assert set(ssl_inv.embed(export, data, settings=settings)) == {"all", "invariant", "equivariant"}


def test_an_encoder_gives_the_parts_of_its_objective_and_can_be_trained(tiny_run):
    encoder = ssl_inv.load(tiny_run)
    parts = encoder(torch.rand(2, 3, 48, 40))
    assert {part: value.shape[1] for part, value in parts.items()} == encoder.parts
    assert {"all", "invariant", "equivariant"} == set(parts)
    parts["equivariant"].sum().backward()
    assert any(one.grad is not None and bool(one.grad.any()) for one in encoder.backbone.parameters())
    before = ssl_inv.embed(encoder, PIXELS)["all"]
    with torch.no_grad():
        for one in encoder.backbone.parameters():
            one.mul_(1.5)
    assert not np.allclose(ssl_inv.embed(encoder, PIXELS)["all"], before)


def test_runs_exports_modules_and_functions_stand_in_one_table_and_each_is_run_once_over_the_data(run):
    seen: dict[str, int] = {}

    def mean(pixels: Tensor) -> Tensor:
        assert pixels.min() >= 0
        assert pixels.max() <= 1
        seen["mean"] = seen.get("mean", 0) + len(pixels)
        return pixels.mean(dim=(2, 3))

    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 8))
    encoders = {"run": run, "export": run.export, "module": network, "function": mean, "timm": "timm:test_resnet"}
    table = ssl_inv.evaluate(encoders, GIVEN, ["knn", "spectrum"], settings=SETTINGS, quiet=True)
    assert list(dict.fromkeys(table.column("encoder"))) == list(encoders)
    assert {one.split("/")[0] for one in table.column("measure")} == {"knn", "spectrum"}
    assert seen["mean"] == 60 + 1  # one image shows that the function takes images of this size
    top = {row["encoder"]: row for row in table.where(measure="knn/top1")}
    assert top["run"]["value"] == top["export"]["value"]
    assert top["function"]["untrained"] is None
    assert top["module"]["untrained"] is not None


def test_protocols_are_named_or_given(run):
    own = ssl_inv.evaluate(run, GIVEN, NearestNeighbours(k=3), quiet=True)
    named = ssl_inv.evaluate([run], GIVEN, "knn", settings=SETTINGS, quiet=True)
    assert own == named
    with pytest.raises(ssl_inv.RecipeError, match="none is called 'linaer'; did you mean 'linear'"):
        ssl_inv.evaluate(run, GIVEN, ["linaer"], quiet=True)


def test_features_keep_the_order_of_files_and_shards_are_written(run, tmp_path):
    for number, pixels in enumerate(PIXELS[:12]):
        Image.fromarray(pixels).save(tmp_path / f"{number:02}.png")
    found = ssl_inv.embed(run, tmp_path)
    assert found.images.column("id") == [f"{number:02}.png" for number in range(12)]
    assert {"train", "validation"} == set(found.images.column("split"))
    nearest = found.neighbours("all", 2)
    assert nearest.shape == (12, 2)
    assert not (nearest == np.arange(12)[:, None]).any()
    folder = ssl_inv.embed(run, tmp_path, output=tmp_path / "shards", file_format="npy")
    rows = np.load(folder / "part-00000.npy")
    kept = [number for number in range(12) if found.images[number]["split"] == "train"]
    np.testing.assert_allclose(rows, found["all"][kept], atol=1e-5)


def test_views_are_pixels_records_and_a_picture(tmp_path):
    shown = ssl_inv.views(SMALL, GIVEN, images=2, output=tmp_path / "page.html")
    assert len(shown) == 2
    view = shown[0].sources[0].views[0]
    assert view.pixels.shape == (32, 32, 3)
    assert {"crop", "hue"} <= set(view.record)
    assert shown._repr_png_().startswith(b"\x89PNG")
    assert (tmp_path / "page.html").is_file()


def test_a_dotted_path_is_the_same_data_on_the_command_line(tmp_path, monkeypatch):
    (tmp_path / "own_pictures.py").write_text(
        "import numpy\n\n\ndef pictures(count):\n"
        "    pixels = numpy.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype='uint8')\n"
        "    return pixels, [number % 3 for number in range(count)]\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    section = {"name": "dataset", "dataset": "own_pictures:pictures", "arguments": {"count": 60}}
    told = ssl_inv.check({**SMALL, "data": section}, trust=["own_pictures"])
    assert told.total == ssl_inv.check(SMALL, GIVEN).total
    assert told.objects == (54, 6)


FOLDER = {"name": "folder", "path": "nowhere"}
MISTAKES: dict[str, tuple[Any, str]] = {
    "no recipe": (lambda: ssl_inv.pretrain(), "recipe: one is missing"),
    "a number": (lambda: ssl_inv.check(3), "recipe: must be the name .* got int"),
    "settings": (lambda: ssl_inv.check("demo", settings=["a"]), "settings: must be a mapping .* got list"),
    "a section": (lambda: ssl_inv.check("demo", settings={"trainer": {}}), "'trainer' is a section"),
    "no section": (lambda: ssl_inv.check("demo", settings={"trianer.steps": 1}), "did you mean 'trainer'"),
    "twice": (
        lambda: ssl_inv.check("demo", settings={"trainer.steps": 1}, trainer={"steps": 1}),
        "trainer.steps: is given twice",
    ),
    "a trainer": (lambda: ssl_inv.check("demo", trainer=object()), "trainer: must be a mapping .* got object"),
    "no data": (lambda: ssl_inv.check(SMALL, "nowhere"), "^data nowhere: no such file, folder, recipe or data set"),
    "no folder": (lambda: ssl_inv.check(SMALL, FOLDER), "data.path: no such file or folder: 'nowhere'"),
    "a start": (
        lambda: ssl_inv.pretrain(SMALL, PIXELS, settings={"trainer.start": "nowhere"}),
        "trainer.start: 'nowhere' is not the folder of a run with a checkpoint",
    ),
    "a prefix": (
        lambda: ssl_inv.check(SMALL, PIXELS, settings={"backbone.weights_prefix": "a."}),
        "backbone.weights_prefix: goes with backbone.weights",
    ),
    "changes": (lambda: ssl_inv.pretrain(SMALL, PIXELS, changes={"trainer.steps": 9}), "changes: need the run"),
    "pretrained": (lambda: ssl_inv.load("nowhere", pretrained=True), "^pretrained goes with timm:NAME"),
    "pretrained modules": (
        lambda: ssl_inv.evaluate(nn.Flatten(), PIXELS, pretrained=True),
        "^pretrained: goes with timm:NAME",
    ),
    "a pretrained function": (lambda: ssl_inv.embed(nn.Flatten(), PIXELS, pretrained=True), "^pretrained: goes with"),
    "a format": (
        lambda: ssl_inv.embed(nn.Flatten(), PIXELS, output="out", file_format="csv"),
        "^file_format: there is",
    ),
    "a size": (lambda: ssl_inv.embed(nn.Flatten(), PIXELS, output="out", shard_size=0), "^shard_size: must be a whole"),
    "an index": (
        lambda: ssl_inv.embed(nn.Flatten(), PIXELS, output="out", index="faiss"),
        "^index: there is no 'faiss'",
    ),
    "an index of what": (lambda: ssl_inv.embed(nn.Flatten(), PIXELS, index="exact"), "^index: is of shards on disk"),
    "a large index": (
        lambda: ssl_inv.embed(nn.Flatten(), PIXELS, output="out", index="ivf-pq"),
        "^index: a compressed index needs at least 1,024 images, and there are 60",
    ),
    "the second": (
        lambda: ssl_inv.evaluate([nn.Flatten(), "nowhere"], GIVEN, output="out", quiet=True),
        "^'nowhere' is neither",
    ),
    "a name": (
        lambda: ssl_inv.evaluate({"a": nn.Flatten(), "../b": nn.Flatten()}, GIVEN, output="out", quiet=True),
        "^encoders: '../b' cannot be the name of a folder in 'out'",
    ),
    "protocols": (lambda: ssl_inv.evaluate(nn.Flatten(), GIVEN, ["kn"], output="out"), "did you mean 'knn'"),
    "no protocol": (
        lambda: ssl_inv.evaluate(nn.Flatten(), GIVEN, ["no.Where"]),
        "^protocols: 'no.Where' is code of the module 'no'",
    ),
    "a protocol of the suite": (
        lambda: ssl_inv.evaluate(nn.Flatten(), GIVEN, settings={"evaluation.also": ["knn"]}),
        "^evaluation.also: 'knn' is one of",
    ),
    "no part for all": (
        lambda: ssl_inv.evaluate(lambda pixels: {"mine": pixels.mean((2, 3))}, GIVEN),
        "gives the parts mine and no part `all`",
    ),
    "no runs": (lambda: ssl_inv.compare([]), "^there is no finished run to compare$"),
    "floats": (lambda: ssl_inv.check(SMALL, PIXELS.astype(float)), "^data: images of floats .* divide them by 255"),
    "of rotations": (lambda: ssl_inv.check("sie-rendered", PIXELS), "no view of this data records 'rotation'"),
    "an encoder": (lambda: ssl_inv.load("nowhere"), "'nowhere' is neither"),
    "a module": (
        lambda: ssl_inv.load(nn.Identity()),
        "encoder: must be a run, .* a module is loaded already, got Identity",
    ),
    "an encoder of 3": (lambda: ssl_inv.evaluate(3, PIXELS), "encoder: must be the folder of a run, .* got int"),
    "encoders": (lambda: ssl_inv.evaluate([], PIXELS), "there are none"),
    "evaluate what": (lambda: ssl_inv.evaluate(nn.Flatten()), "^data is missing"),
    "a failing encoder": (lambda: ssl_inv.evaluate(nn.Linear(2, 2), PIXELS), "Linear fails on images of 32 pixels"),
    "words": (lambda: ssl_inv.embed(lambda pixels: "a", PIXELS), "must give a tensor .* got str"),
    "maps": (lambda: ssl_inv.embed(nn.Identity(), PIXELS), "form .1, 3, 32, 32. .* needed is one vector"),
    "a place": (lambda: ssl_inv.pretrain(SMALL, PIXELS, output=3), "output: must be a path, got int"),
    "a run": (lambda: ssl_inv.pretrain(resume=3), "resume: must be a run or its folder, got int"),
    "images": (lambda: ssl_inv.views(SMALL, PIXELS, images=0), "images: must be a whole number from 1 to 50, got 0"),
    "a page": (lambda: ssl_inv.views(SMALL, PIXELS, output="page.pdf"), r"must end with .png or .html"),
    "recipe settings": (lambda: ssl_inv.recipes(settings={}), "they are those of a recipe"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_nothing_is_written(mistake, tmp_path, monkeypatch):
    call, message = MISTAKES[mistake]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ssl_inv.RecipeError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("file", "content", "use"),
    [
        ("export/config.json", "[]", lambda run: ssl_inv.load(run / "export")),
        ("export/config.json", '{"a": ', lambda run: ssl_inv.load(run / "export")),
        ("export/model.safetensors", "a", lambda run: ssl_inv.load(run / "export")),
        ("checkpoints/last.ckpt", "a", lambda run: ssl_inv.load(run)),
        ("results.json", "[", lambda run: ssl_inv.RunResult(run).table),
    ],
)
def test_a_damaged_file_is_named_in_one_line(file, content, use, run, tmp_path):
    shutil.copytree(run.path, tmp_path / "run")
    (tmp_path / "run" / file).write_text(content)
    with pytest.raises(ssl_inv.RecipeError, match=r"cannot be read|that can be read|is damaged|describes no") as caught:
        use(tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_features_by_part_are_measured_and_protocols_have_dotted_paths(run, tmp_path, monkeypatch):
    def parts(pixels: Tensor) -> dict[str, Tensor]:
        return {"all": pixels.mean((2, 3)), "red": pixels.mean((2, 3))[:, :1]}

    assert set(ssl_inv.evaluate(parts, GIVEN, ["knn"], settings=SETTINGS, quiet=True).column("part")) == {"all", "red"}
    (tmp_path / "nearest.py").write_text(
        "from ssl_inv.evaluation.protocols.knn import NearestNeighbours\n"
        "class Nearest(NearestNeighbours):\n    'The same by another name.'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    table = ssl_inv.evaluate(run, GIVEN, ["nearest.Nearest"], settings=SETTINGS, quiet=True, trust=["nearest"])
    assert table.rows == ssl_inv.evaluate(run, GIVEN, ["knn"], settings=SETTINGS, quiet=True).rows


def test_results_and_shards_go_to_no_folder_that_holds_something_else(tmp_path):
    (tmp_path / "letter.txt").write_text("keep me")
    for write in (
        lambda: ssl_inv.evaluate(nn.Flatten(), GIVEN, ["knn"], output=tmp_path, quiet=True),
        lambda: ssl_inv.embed(nn.Flatten(), PIXELS, output=tmp_path),
    ):
        with pytest.raises(ssl_inv.RecipeError, match=r"exists already|holds something else"):
            write()
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_an_existing_folder_is_refused_and_a_run_with_data_of_its_own_takes_no_others(run, tiny_run):
    with pytest.raises(ssl_inv.RecipeError, match="exists already; choose another name or continue"):
        ssl_inv.pretrain(SMALL, PIXELS, output=run)
    with pytest.raises(ssl_inv.RecipeError, match="data: the run has data of its own, 'rendered'; leave `data` out"):
        ssl_inv.pretrain(data=PIXELS, resume=tiny_run)
    with pytest.raises(ssl_inv.RecipeError, match="exclude each other"):
        ssl_inv.pretrain(resume=run, output="elsewhere")
    assert Path(run) == run.path


@pytest.mark.parametrize("loss", [{"loss": "NTXentLoss", "settings": {"memory_bank_size": 32}}, {"loss": "TiCoLoss"}])
def test_the_step_of_a_check_is_the_first_of_the_run_also_with_a_memory(loss: dict[str, Any], tmp_path: Path):
    recipe = {**SMALL, "objective": {"name": "lightly", **loss}, "evaluation": {"protocol": "none"}}
    first = ssl_inv.pretrain(recipe, GIVEN, output=tmp_path / "run", quiet=True, trainer={"steps": 1}).metrics[0]
    step = ssl_inv.check(recipe, GIVEN)
    assert step.losses == {name: first[f"loss/{name}"] for name in step.losses}
