"""Every mistake of a user is answered with one line that says what is wrong, where, and what would be right.

Nothing is written.
"""

import os
import pickle
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_inv.run.cli import main

RUN = "pretrain tiny.yaml"
SHARDS = f"{RUN} --trainer.strategy=fsdp --trainer.devices=2"
PAGE = "views simclr-folder --data.path images"
TIMM = "evaluate timm:test_resnet"
SIMCLR = f"{RUN} --objective.name=simclr --data.name=folder --data.size=16"


class Harmful:
    """Unpickling it makes a folder."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("code-was-run",)


def _images(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")


CHANGES = {
    "section.yaml": ("trainer:", "trianer:"),
    "setting.yaml": ("steps:", "stpes:"),
    "type.yaml": ("batch_size: 8", "batch_size: eight"),
    "truth.yaml": ("batch_size: 8", "batch_size: true"),
    "twice.yaml": ("steps: 2,", "steps: 2, steps: 3,"),
    "unnamed.yaml": ("name: sie, ", ""),
    "no-length.yaml": ("steps: 2, ", ""),
    "syntax.yaml": ("monitor: {every: 0}", "monitor: {every: 0"),
    "flat.yaml": ("monitor: {every: 0}", "monitor: 0"),
    "latent.yaml": ("name: sie,", "name: sie, parameters: [rotatoin],"),
    "tiny.yaml": ("", ""),
}
FILES = {
    "list.yaml": b"- objective\n- data\n",
    "nothing.yaml": b"",
    "binary.yaml": b"\xff\xfe\x00",
    "file": b"not a folder",
    "texts/notes.txt": b"no image",
    "broken.zip": b"PK\x03\x04 and then nothing of the kind",
    "views.csv": b"file,object\n00.png,a\n",
    "harmful/checkpoints/last.ckpt": pickle.dumps(Harmful()),
    **{f"broken/{number}.png": b"\x89PNG no more" for number in range(30)},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_run, tiny_recipe, write) -> Path:
    """A folder with data and runs, good and bad."""
    folder = tmp_path_factory.mktemp("place")
    for name in ("run", "untrained", "harmful"):
        shutil.copytree(tiny_run, folder / name)
    write(folder, FILES | {name: tiny_recipe.replace(*change).encode() for name, change in CHANGES.items()})
    (folder / "empty").mkdir()
    (folder / "untrained" / "checkpoints" / "last.ckpt").unlink()
    for name in ("images", "one-class/apples"):
        _images(folder / name, 24)
    return folder


CASES = {
    # The command line itself.
    "no command": ("", "COMMAND is missing"),
    "unknown command": ("pretain", "'pretain'", "did you mean 'pretrain'?"),
    "unknown option": (f"{RUN} --outptu x", "--outptu", "did you mean '--output'?"),
    "option without value": (f"{RUN} --output", "--output: expected one argument"),
    "setting without value": (f"{RUN} --trainer.steps", "--trainer.steps: a value is missing"),
    "setting before an option": (f"{RUN} --trainer.steps --quiet", "--trainer.steps: a value is missing"),
    "section without key": (f"{RUN} --trainer 3", "--trainer.KEY VALUE"),
    "unknown option first": ("--verison", "--verison", "did you mean '--version'?"),
    "stray argument": (f"{RUN} again", "unexpected argument 'again'"),
    "unknown choice": (
        "embed run --output out --format parqet",
        "--format: there is no 'parqet'",
        "did you mean 'parquet'?",
    ),
    "no number": ("embed run --output out --shard-size many", "--shard-size: expected a whole number", "'many'"),
    "number out of range": ("embed run --output out --shard-size 0", "--shard-size: must be at least 1, got 0"),
    "missing argument": ("check", "arguments are required: RECIPE", "ssl-inv check --help"),
    "best in nothing": ("check tiny.yaml --trainer.best accuracy", "trainer.best: nothing that is logged is called"),
    "best in nothing, with advice": (
        "check tiny.yaml --trainer.best accuracy --backbone.name resnet18",
        "trainer.best: nothing that is logged is called",
    ),
    "stop by nothing": (
        "check tiny.yaml --trainer.stop.name varience",
        "trainer.stop.name",
        "did you mean 'variance'?",
    ),
    "checkpoint that is not kept": ("export run --checkpoint best", "no checkpoint 'best'; there are last"),
    "checkpoint of no run": ("evaluate timm:resnet18 --checkpoint best", "--checkpoint goes with the folder of a run"),
    "no recipe": ("pretrain", "a recipe is missing"),
    "settings of no recipe": ("recipes --data.size 3", "a recipe is missing"),
    # The recipe.
    "unknown recipe": ("pretrain dmeo", "'dmeo'", "did you mean 'demo'?"),
    "missing recipe file": ("pretrain my/recipe.yaml", "'my/recipe.yaml' does not exist"),
    "section with a typo": ("pretrain section.yaml", "section.yaml", "'trianer'", "did you mean 'trainer'?"),
    "section with a typo, typed": (f"{RUN} --trianer.steps 3", "--trianer.steps", "did you mean 'trainer'?"),
    "setting with a typo": ("pretrain setting.yaml", "trainer.stpes", "did you mean 'steps'?"),
    "text for a number": ("pretrain type.yaml", "trainer.batch_size: expected a whole number, got 'eight'"),
    "truth for a number": ("pretrain truth.yaml", "trainer.batch_size: expected a whole number, got True"),
    "no finite number": (f"{RUN} --optimizer.lr .nan", "optimizer.lr: expected a finite number, got nan"),
    "number for a text": (
        f"{SIMCLR} --data.path 1e3",
        "data.path: expected a text or a list of texts, got 1000.0; a text that YAML reads",
        "in quotes",
    ),
    "no such literal": (f"{RUN} --trainer.precision fp16", "trainer.precision: expected one of fp32, bf16"),
    "unknown optimizer": (
        f"{RUN} --optimizer.name adamww",
        "optimizer.name: no optimizer is called 'adamww'; did you mean 'adamw'?",
    ),
    "optimizer that cannot train here": (f"{RUN} --optimizer.name kron", "optimizer.name: kron cannot be used: it"),
    "unknown schedule": (f"{RUN} --optimizer.schedule cosin", "optimizer.schedule: ", "did you mean 'cosine'?"),
    "text in list": (f"{RUN} --objective.projector '[8, x]'", "objective.projector: expected a list of whole numbers"),
    "YAML that is none": ("pretrain syntax.yaml", "syntax.yaml line 9"),
    "YAML that is none, typed": (f"{RUN} --objective.projector '[8'", "--objective.projector: '[8' is not"),
    "key twice": ("pretrain twice.yaml", "twice.yaml line 7", "'steps' stands twice"),
    "no mapping": ("pretrain list.yaml", "list.yaml: a recipe is a mapping of sections"),
    "empty recipe": ("pretrain nothing.yaml", "nothing.yaml: a recipe is a mapping of sections"),
    "no text": ("pretrain binary.yaml", "binary.yaml: cannot be read"),
    "section without settings": ("pretrain flat.yaml", "monitor: expected a mapping of settings, got 0"),
    "missing name": ("pretrain unnamed.yaml", "objective.name: required", "sie"),
    "missing setting": (f"{RUN} --data.name folder", "data.path: required"),
    "neither steps nor epochs": ("pretrain no-length.yaml", "trainer", "give steps or epochs, not both"),
    "large seed": (f"{RUN} --trainer.seed 99999999999999999999", "trainer.seed: expected a number within 64 bits"),
    "no views": (f"{SIMCLR} --data.path=images --augmentation.size=0", "augmentation.size: must be at least 1 pixel"),
    "setting of an objective within": (
        "pretrain simclr-ecr-folder --data.path=images --objective.base.temperature=0",
        "objective.base.temperature: must be above 0, got 0",
    ),
    "heads without outputs": (
        f"{RUN} --objective.name=vicreg '--objective.projector=[16, -1]'",
        "objective.projector: must have widths of at least 1, got [16, -1]",
    ),
    "negative number": (f"{RUN} --trainer.batch_size -4", "trainer.batch_size: must be at least 1, got -4"),
    "unknown objective": (f"{RUN} --objective.name vicrge", "objective.name", "did you mean 'vicreg'?"),
    "unknown data set": (f"{RUN} --data.name foldr", "data.name", "did you mean 'folder'?"),
    "unknown augmentation": (f"{RUN} --augmentation.name simcrl", "augmentation.name", "did you mean 'simclr'?"),
    "missing module": (f"{RUN} --objective.name mine.Loss", "objective.name", "'mine.Loss' cannot be imported"),
    "foreign setting": (f"{RUN} --objective.name=simclr --objective.variance=1", "objective.variance: no such setting"),
    # What only building shows.
    "unknown backbone": (f"{RUN} --backbone.name resnt18", "backbone.name", "did you mean 'resnet18'?"),
    "argument of the backbone": (RUN + " --backbone.arguments '{depht: 3}'", "backbone.arguments", "depht"),
    "weights as an argument": (
        RUN + " --backbone.arguments '{pretrained: true}'",
        "backbone.arguments.pretrained: weights to start from are a setting of their own: backbone.weights: timm",
    ),
    "file of weights as an argument": (
        RUN + " --backbone.arguments '{checkpoint_path: w.safetensors}'",
        "backbone.arguments.checkpoint_path: weights to start from are a setting of their own: backbone.weights: FILE",
    ),
    "features only": (RUN + " --backbone.arguments '{features_only: true}'", "backbone.arguments.features_only: "),
    "classes": (RUN + " --backbone.arguments '{num_classes: 7}'", "backbone.arguments.num_classes: "),
    "one channel": (
        RUN + " --backbone.arguments '{in_chans: 1}'",
        "backbone.arguments.in_chans: is 1, and the images have 3",
    ),
    "no pooling": (
        RUN + " --backbone.arguments '{global_pool: \"\"}'",
        "backbone: the network test_resnet",
        "does it pool?",
    ),
    "batch below the symmetries": (
        f"{RUN} --objective.name=soft-equivariance '--objective.base={{name: vicreg, projector: [8, 8]}}' "
        "--trainer.batch_size=2",
        "trainer.batch_size: 2 is too small",
        "3 samples together",
    ),
    "share": (f"{RUN} --objective.equivariant_share 1.5", "objective.equivariant_share: must be above 0 and at most 1"),
    "warm-up out of range": (f"{RUN} --optimizer.warmup 2", "optimizer.warmup: must be a share"),
    "unknown latent": ("pretrain latent.yaml", "objective.parameters", "'rotatoin'", "did you mean 'rotation'?"),
    "data without latents": (
        f"{RUN} --data.name=folder --data.path=images --augmentation.name=simclr",
        "objective.parameters",
        "'rotation'",
    ),
    "plain images without augmentation": (f"{SIMCLR} --data.path=images", "data", "choose an augmentation"),
    "other class": (f"{RUN} --objective.name=torch.nn.Identity", "objective.name: 'torch.nn.Identity' does not derive"),
    "image size": (RUN + " --backbone.name=vit_tiny_patch16_224 '--backbone.arguments={depth: 1}'", "data.size", "224"),
    "maps of another size": (
        f"{RUN} --objective.name=equicaps --objective.capsules=3",
        "objective.map_side: 8, but the backbone's feature maps of these images have 1 x 1 places",
    ),
    "images that do not go through": (
        f"{RUN} --data.size=17 --backbone.name=vit_tiny_patch16_224 "
        "'--backbone.arguments={depth: 1, img_size: 16, patch_size: 4, dynamic_img_size: true}'",
        "fails on images of 17 pixels",
        "divisible by patch size",
    ),
    "two channels": (f"{RUN} '--normalization.mean=[1, 1]'", "normalization.mean: must have as many numbers as std, 3"),
    "batch of one": (f"{RUN} --trainer.batch_size 1", "trainer.batch_size: 1 is", "choose 2 or more"),
    "batch above the data": (f"{RUN} --trainer.batch_size 64", "trainer.batch_size: 64 is larger than the 32 objects"),
    "no device": (f"{RUN} --trainer.accelerator=gpu --trainer.devices=99", "trainer.devices: must be at most the"),
    "shards of one process": (f"{RUN} --trainer.strategy fsdp", "trainer.strategy: fsdp needs at least two processes"),
    "shards of no blocks": (
        f"{SHARDS} --backbone.name=dla46_c",
        "backbone.name: dla46_c has 0% of its weights in lists that are called blocks, stages, layers or layer1",
    ),
    "shards of whole weights": (f"{SHARDS} --optimizer.name=muon", "optimizer.name: muon needs whole weights", "adamw"),
    # Data.
    "no data": (f"{SIMCLR} --data.path=image", "data.path: no such file or folder: 'image'", "did you mean 'images'?"),
    "empty folder": (f"{SIMCLR} --data.path=empty", "data: empty has no images"),
    "folder without images": (f"{SIMCLR} --data.path=texts", "data: texts has no images"),
    "damaged zip": (
        f"{SIMCLR} --data.path=broken.zip",
        "data: broken.zip is neither a folder nor a readable zip or uncompressed tar archive",
    ),
    "damaged images": (f"{SIMCLR} --data.path=broken", "data: broken", "cannot be read"),
    "table without column": (f"{TIMM} --data views.csv", "data: ", "views.csv has no column 'path'"),
    # Folders.
    "output in a file": (f"{RUN} --output file/run", "'file/run' cannot be written", "file is not a writable folder"),
    "page where nobody can write": ("views tiny.yaml --output /proc/views.png", "is not a writable folder"),
    "output that exists": (f"{RUN} --output run", "'run' exists already", "--resume run"),
    "rendering over a folder": ("render images", "'images' exists already"),
    "embedding into a folder": ("embed run --output images", "'images' holds something else"),
    "output of a resumed run": ("pretrain --resume run --output x", "--output and --resume exclude each other"),
    "resuming nothing": ("pretrain --resume runn", "'runn' is not a run folder"),
    "resuming by another recipe": (f"{RUN} --resume run --optimizer.lr 1", "optimizer.lr: 0.001 -> 1.0"),
    "resuming with a change": ("pretrain --resume run --trainer.steps 9", "trainer.steps: 2 -> 9"),
    # Pages of views.
    "page of missing data": (
        "views simclr-folder --data.path image",
        "error: data.path: no such file or folder: 'image'; did you mean 'images'?",
    ),
    "page of nothing": (f"{PAGE} --images=0", "error: --images: must lie between 1 and 50, got 0"),
    "page of too much": (f"{PAGE} --images=51", "error: --images: must lie between 1 and 50, got 51"),
    "page in JPEG": (
        "views tiny.yaml --output=a.jpg",
        "error: --output: 'a.jpg' is no page; its name must end with .png or .html",
    ),
    "page in a file": ("views tiny.yaml --output=file/a.png", "error: output 'file/a.png' cannot be written: "),
    "old page": (
        "views tiny.yaml --output=images/00.png",
        "error: output 'images/00.png' exists already; choose another name",
    ),
    "views of nothing": ("views", "error: a recipe is missing: ssl-inv views RECIPE; "),
    "images of operations": ("views --operations --images=3", "error: --images and --operations exclude each other"),
    "settings of operations": (
        "views --operations --data.size=64",
        "error: settings are those of a recipe, whose first image is drawn on: ssl-inv views --operations RECIPE",
    ),
    "operations as something else": ("views --operations --output=a.pdf", "must end with .png or .html"),
    "operations on no recipe": ("views --operations tiny", "error: no recipe is called 'tiny'; "),
    "page of no recipe": ("views tiny", "error: no recipe is called 'tiny'; "),
    "single views": ("views tiny.yaml --data.views=1", "error: data: objects of this data have 1 view(s) and 2 are"),
    # Models.
    "evaluating nonsense": ("evaluate nonsense", "'nonsense' is neither the folder of a run"),
    "evaluating a folder": ("evaluate images", "'images' is neither the folder of a run"),
    "timm's model by its bare name": ("evaluate resnet18", "timm:resnet18"),
    "unknown model of timm": ("evaluate timm:resnt18 --data images", "'resnt18'", "did you mean 'resnet18'?"),
    "model without data": (TIMM, "--data is missing"),
    "unknown data": (f"{TIMM} --data demoo", "--data demoo", "did you mean 'demo'?"),
    "setting that judges nothing": ("evaluate run --trainer.steps 3", "--trainer.steps", "'trainer'"),
    "setting of judging with a typo": ("evaluate run --evaluation.protocl full", "did you mean 'protocol'?"),
    "no protocol": ("evaluate run", "evaluation.protocol: 'none' evaluates nothing"),
    "one class": (
        f"{TIMM} --data=one-class --data.labels=folders --data.size=16",
        "evaluation: labels have one class only",
    ),
    "export of no run": ("export images", "'images' is not a run folder"),
    "export without checkpoint": ("export untrained", "'untrained' has no checkpoint yet"),
    "export of another kind": ("export run --format torchvision", "export: test_resnet has no counterpart", "resnet18"),
    "checkpoint with code": ("evaluate harmful", "last.ckpt: not a checkpoint that can be read"),
}


def _tree(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.lstat().st_mtime_ns for path in sorted(folder.rglob("*"))}


def _is_one_error(text: str, fragments: list[str]) -> None:
    assert text.startswith("error: ")
    assert text.find("\n") == len(text) - 1
    for fragment in fragments:
        assert fragment in text


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_one_line_and_writes_nothing(case, place, monkeypatch, capsys):
    command, *fragments = CASES[case]
    monkeypatch.chdir(place)
    before = _tree(place)
    assert main(shlex.split(command)) == 2
    shown = capsys.readouterr()
    _is_one_error(shown.err, fragments)
    assert shown.out == ""
    assert _tree(place) == before


def without_torch(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a command in a process of its own, whose exit code is 99 if it loads torch."""
    program = (
        "import atexit, os, sys; from ssl_inv.run.cli import main; "
        f"atexit.register(lambda: 'torch' in sys.modules and os._exit(99)); sys.exit(main({shlex.split(command)!r}))"
    )
    return subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False)


EARLY = ("unknown command", "unknown recipe", "setting with a typo", "no data", "resuming nothing")


@pytest.mark.parametrize("case", [*EARLY, "setting that judges nothing"])
def test_a_mistake_is_answered_before_torch_is_loaded(case, place):
    command, *fragments = CASES[case]
    done = without_torch(command, place)
    assert (done.returncode, done.stdout) == (2, "")
    _is_one_error(done.stderr, fragments)


@pytest.mark.parametrize("command", ["--help", "pretrain --help", "--version", "recipes demo --explain"])
def test_help_is_printed_without_torch(command, tmp_path):
    done = without_torch(command, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout
