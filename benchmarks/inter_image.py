"""Do other images help? SimCLR, MoCo v2, InterCLR, OBoW and transitive invariance on a part of CIFAR-10.

    python benchmarks/inter_image.py cifar10_jpeg.zip --seeds 0 1 2 --output comparison
    python docs/record.py comparison/simclr-folder-*   # records the mean of these runs; likewise for the others

The part has the first images of every class of a zip or folder with `train/CLASS/` and `test/CLASS/`. All runs have the
same budget; further settings such as `--trainer.steps 2340` apply to all of them. Transitive invariance takes its
neighbours from the features of the SimCLR run with the same seed, so it costs that run in addition. There are five runs
per seed, about 5 minutes each on one core of an AMD EPYC server. Finished runs are not repeated.
"""

import argparse
import json
import re
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

from ssl_inv.data.archives import Files
from ssl_inv.data.names import unpacked

NETWORK = ["--backbone.stem", "3x3-stride2", "--backbone.arguments", "{channels: [16, 32, 64, 128]}"]
BUDGET = ["--trainer.steps", "780", "--trainer.batch_size", "128", "--trainer.workers", "0", "--monitor.every", "0"]
MOCO = {"queue": 2048, "momentum": 0.99}
RECIPES: dict[str, list[str]] = {
    "simclr-folder": [],
    "moco-v2-folder": [word for key, value in MOCO.items() for word in (f"--objective.{key}", str(value))],
    "interclr-folder": [
        *("--objective.base", json.dumps({"name": "moco-v2", "projector": [512, 128], **MOCO})),
        *("--objective.clusters", "100", "--objective.negative_count", "128", "--objective.pool", "1000"),
    ],
    "obow-folder": ["--objective.patches", "0", "--objective.window", "2"],
    "transitive-cifar10": ["--objective.teacher_path", "{output}/simclr-folder-{seed}/export"],
}


def write_part(source: str, path: Path, train: int, test: int) -> None:
    """Write the first `train` and `test` images of every class into a zip archive."""
    files = Files(source)
    most, taken = {"train": train, "test": test}, Counter[str]()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name in map(unpacked, files.names):
            if (found := re.fullmatch(r"(train|test)/[^/]+/.*", name)) is None:
                continue
            folder = name.rpartition("/")[0]
            if taken[folder] < most[found[1]]:
                taken[folder] += 1
                archive.writestr(name, files.read(name))
    if not taken:
        path.unlink()
        raise SystemExit(f"{source}: nothing lies in train/CLASS/ or test/CLASS/")


def main() -> None:
    """Cut the part, train the missing runs, print the scores."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("images", help="zip or folder with train/CLASS/ and test/CLASS/")
    parser.add_argument("--output", type=Path, default=Path("comparison"), help="folder for the part and the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--train", type=int, default=1000, help="training images a class (1000)")
    parser.add_argument("--test", type=int, default=500, help="test images a class (500)")
    options, overrides = parser.parse_known_args()
    options.output.mkdir(parents=True, exist_ok=True)
    part = options.output / "cifar10_10k.zip"
    if not part.exists():
        write_part(options.images, part, options.train, options.test)
    for seed in options.seeds:
        for recipe, own in RECIPES.items():
            run = options.output / f"{recipe}-{seed}"
            settings = [
                word.format(output=options.output, seed=seed) if word.startswith("{output}") else word for word in own
            ]
            command = [
                "ssl-inv",
                "pretrain",
                recipe,
                "--data.path",
                str(part),
                "--trainer.seed",
                str(seed),
                "--output",
                str(run),
            ]
            if not run.exists():
                program = [sys.executable, "-m", "ssl_inv.run.cli", *command[1:]]
                if subprocess.run([*program, *NETWORK, *BUDGET, *settings, *overrides], check=False).returncode:
                    raise SystemExit(f"{recipe}, seed {seed}: the run failed")
            score = json.loads((run / "run.json").read_text(encoding="utf-8"))["score"]
            sys.stdout.write(
                f"{recipe}, seed {seed}: {', '.join(f'{name} {value:.3f}' for name, value in score.items())}\n"
            )


if __name__ == "__main__":
    main()
