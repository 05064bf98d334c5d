"""What a newcomer does in the first hour, each step tried and timed in an environment of its own.

    python benchmarks/newcomer.py                    # installs this checkout into a new environment
    python benchmarks/newcomer.py --python .venv/bin/python

Every step is a command line or a few lines of Python, as the docs have them, on small pictures made in code. A step
that fails stops the script with what it printed. A table of seconds is printed, start of Python and imports included.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

REPOSITORY = Path(__file__).parent.parent
EXTRAS = "onnx,tensorboard,wandb"

QUICK = (
    "--trainer.steps 6 --trainer.batch_size 16 --trainer.workers 0 --monitor.every 0 --trainer.accelerator cpu "
    '--backbone.arguments "{channels: [8, 8, 16, 16]}"'
)


def photos(folder: Path) -> None:
    """Pictures of two classes."""
    for number in range(48):
        kind = ("stripes", "spots")[number % 2]
        random = np.random.default_rng(number)
        coarse = random.integers(0, 256, (6, 1 if kind == "stripes" else 6, 3), dtype=np.uint8)
        place = folder / kind / f"{number:02}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(coarse).resize((64, 64), Image.Resampling.NEAREST).save(place)


class Newcomer:
    """Runs steps in a folder, with one Python, and keeps their times."""

    def __init__(self, python: str, folder: Path) -> None:
        self.python, self.folder = python, folder
        self.rows: list[tuple[str, float]] = []

    def step(self, name: str, *commands: str, python: str = "") -> None:
        """Run command lines of `ssl-inv`, or some lines of Python."""
        begun = time.perf_counter()
        calls = [[*self.program, *shlex.split(command)] for command in commands]
        if python:
            (self.folder / "step.py").write_text(python)
            calls.append([self.python, "step.py"])
        for call in calls:
            done = subprocess.run(call, cwd=self.folder, capture_output=True, text=True)
            if done.returncode:
                sys.stderr.write(f"{name}: {shlex.join(call)}\n{done.stdout}{done.stderr}")
                sys.exit(1)
        self.note(name, time.perf_counter() - begun)

    @property
    def program(self) -> list[str]:
        """How `ssl-inv` is called."""
        return [self.python, "-m", "ssl_inv.run.cli"]

    def note(self, name: str, seconds: float) -> None:
        """Keep a time."""
        self.rows.append((name, seconds))
        print(f"{name:58}{seconds:7.1f} s", flush=True)


def killed_sweep(newcomer: Newcomer) -> None:
    """A sweep of four runs that is killed in the middle and taken up again."""
    grid = "--trainer.seed 0:2 --objective.temperature 0.1,0.5"
    command = f"sweep simclr-folder --data.path photos {grid} --output sweep {QUICK}"
    begun = time.perf_counter()
    process = subprocess.Popen(
        [*newcomer.program, *shlex.split(command)],
        cwd=newcomer.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    first = newcomer.folder / "sweep"
    while process.poll() is None and not list(first.glob("*/results.json")) and time.perf_counter() - begun < 300:
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    newcomer.step("a sweep of four: killed after the first, then resumed", command)
    assert len(list(first.glob("*/results.json"))) == 4


STEPS: list[Callable[[Newcomer], None]] = [
    lambda one: one.step("own folder: what is it?", "data photos --output sheet.png"),
    lambda one: one.step("own folder to report", f"pretrain simclr-folder --data.path photos --output first {QUICK}"),
    lambda one: one.step(
        "curves in TensorBoard and W&B, offline",
        f"pretrain simclr-folder --data.path photos --output logged --trainer.loggers [tensorboard,wandb] {QUICK}",
    ),
    lambda one: one.step(
        "start from local weights",
        f"pretrain simclr-folder --data.path photos --output second --backbone.weights first/export {QUICK}",
    ),
    lambda one: one.step("two runs compared, as a page", "compare first second --output compared.html"),
    killed_sweep,
    lambda one: one.step(
        "search, and near duplicates",
        "embed first --data photos --output index --index exact",
        "neighbours index photos/spots/01.jpg --output nearest.html",
        "neighbours index --duplicates --json",
    ),
    lambda one: one.step(
        "eight lines of Python",
        python="""\
import numpy as np, ssl_inv
images = np.random.default_rng(0).integers(0, 256, (48, 32, 32, 3), dtype=np.uint8)
small = {"backbone.arguments": {"channels": [8, 8, 16, 16]}, "trainer.batch_size": 16, "trainer.steps": 4}
run = ssl_inv.pretrain("simclr-folder", data=images, output="third", settings=small, quiet=True)
print(run.table)
features = ssl_inv.load("third")(images[:4])["all"]
table = ssl_inv.compare(["first", "third"])
print(features.shape, len(table))
""",
    ),
    lambda one: one.step(
        "a torch Dataset of one's own",
        python="""\
import torch, ssl_inv
class Own(torch.utils.data.Dataset):
    def __len__(self):
        return 40
    def __getitem__(self, number):
        return torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(number)), number % 4
small = {"backbone.arguments": {"channels": [8, 8, 16, 16]}, "trainer.batch_size": 16, "trainer.steps": 4}
ssl_inv.pretrain("simclr-folder", data=Own(), output="own", settings=small, quiet=True)
""",
    ),
    lambda one: one.step(
        "kornia and lightly in one recipe",
        "pretrain simclr-folder --data.path photos --output parts --objective.name lightly "
        "--objective.loss VICRegLoss --objective.head_settings '{hidden_dim: 16, output_dim: 16}' "
        f"--augmentation.extra '[{{name: kornia.RandomPlasmaShadow, p: 0.3}}]' {QUICK}",
    ),
    lambda one: one.step(
        "loads in timm and transformers",
        python="""\
import timm, torch, ssl_inv.backbones
from transformers import AutoModel
pixels = torch.rand(2, 3, 32, 32)
encoder = timm.create_model("local-dir:first/export", pretrained=True).eval()
model = AutoModel.from_pretrained("first/export").eval()
with torch.inference_mode():
    assert torch.allclose(encoder(pixels), model(pixels).pooler_output, atol=1e-5)
""",
    ),
    lambda one: one.step(
        "loads in torchvision and ONNX Runtime",
        "pretrain simclr-folder --data.path photos --output large --backbone.stem default "
        "--trainer.steps 2 --trainer.batch_size 8 --trainer.workers 0 --monitor.every 0 --evaluation.protocol none",
        "export large --format torchvision",
        "export large --format onnx",
        python="""\
import numpy as np, onnxruntime, torch, torchvision
network = torchvision.models.resnet18().eval()
print(network.load_state_dict(torch.load("large/torchvision.pth", weights_only=True), strict=False))
network.fc = torch.nn.Identity()
pixels = torch.rand(3, 3, 32, 32)
session = onnxruntime.InferenceSession("large/backbone.onnx")
found = session.run(None, {session.get_inputs()[0].name: pixels.numpy()})[0]
with torch.inference_mode():
    assert np.abs(found - network(pixels).numpy()).max() < 1e-3
""",
    ),
]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", help="of an environment that has the package, its extras and transformers")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        photos(folder / "photos")
        python = arguments.python and str(Path(arguments.python).absolute())
        newcomer = Newcomer(python or "", folder)
        if python is None:
            begun = time.perf_counter()
            venv.create(folder / "venv", with_pip=True)
            newcomer.python = str(folder / "venv" / "bin" / "python")
            install = [newcomer.python, "-m", "pip", "install", "--quiet", f"{REPOSITORY}[{EXTRAS}]", "transformers"]
            subprocess.run(install, check=True)
            newcomer.note("install into a new environment", time.perf_counter() - begun)
        for step in STEPS:
            step(newcomer)
    print("\n| step | seconds |\n|---|---|")
    for name, seconds in newcomer.rows:
        print(f"| {name} | {seconds:.0f} |")


if __name__ == "__main__":
    main()
