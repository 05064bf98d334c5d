"""SimCLR, VICReg, BYOL and DINO here, in lightly and in stable-pretraining, side by side on one machine.

    python benchmarks/rivals.py --images cifar10_jpeg.zip --python stable-pretraining=venv/bin/python

`--images` is a folder or zip with `train/CLASS/` and `test/CLASS/`. `--python` names an interpreter for a library that
the one in use does not have; a library without any is left out. Every cell, a library with a method and a seed, is a
process of its own (`rival_trainers.py` says what is the same for all); the libraries take turns. The backbone is kept
after `--seconds` and after `--steps`, and judged here: our exact kNN and linear probe, the first `--bank` training
images (which a run has seen without their classes) and `--queries` test images of all classes alike.

The clock is the processor time of a process, which is the wall-clock time of a core that nobody else uses; the load of
a shared machine does not count. `--clock wall` is the wall-clock time, on one core that the process is pinned to.

Results go to `--output`, with the facts of machine, versions and command, after every cell; cells that it has are not
repeated, so an interrupted comparison goes on with the same command. `make docs` makes the table in docs/results.md.
"""

import argparse
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image
from rival_trainers import MEAN, OBJECTIVES, SIDE, STD, TRAINERS, backbone
from torch import Tensor, nn

from ssl_inv.evaluation.features import FeatureTable
from ssl_inv.evaluation.protocols.knn import NearestNeighbours
from ssl_inv.evaluation.protocols.linear import LinearProbe

HERE = Path(__file__).resolve().parent
PACKAGES = ("torch", "timm", "torchvision", "lightly", "stable-pretraining", "lightning", "pytorch-lightning")
_VERSIONS = f"""
import importlib.metadata, json, platform
found = {{"python": platform.python_version()}}
for name in {PACKAGES!r}:
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""
Split = tuple[Tensor, Tensor]
"""Pixels `(N, 3, H, W)`, normalised, and classes `(N,)`."""


# Data and judgement.


def unpacked(images: Path, work: Path) -> Path:
    """The folder with `train/` and `test/`; a zip is unpacked into `work`."""
    if images.is_dir():
        return images
    folder = work / "images"
    if not folder.exists():
        aside = work / "images.unpacking"
        with zipfile.ZipFile(images) as archive:
            for name in archive.namelist():
                if PurePosixPath(name).parts[0] in ("train", "test") and ".." not in PurePosixPath(name).parts:
                    archive.extract(name, aside)
        aside.rename(folder)
    return folder


def split(folder: Path, count: int) -> Split:
    """The first images of every class, equally many, `count` in all."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    pixels, labels = [], []
    for label, one in enumerate(classes):
        for path in sorted(one.iterdir())[: count // len(classes)]:
            with Image.open(path) as image:
                pixels.append(np.asarray(image.convert("RGB").resize((SIDE, SIDE))))
            labels.append(label)
    stacked = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
    normalised = (stacked - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    return normalised, torch.tensor(labels)


@torch.inference_mode()
def features(network: nn.Module, pixels: Tensor) -> Tensor:
    """The features `(N, D)` of images."""
    network.eval()
    return torch.cat([network(some) for some in pixels.split(256)])


def judge(network: nn.Module, bank: Split, queries: Split) -> dict[str, float]:
    """Top-1 of kNN and of a linear probe."""
    tables = []
    for first, (pixels, labels) in ((0, bank), (len(bank[1]), queries)):
        rows = torch.arange(first, first + len(labels))
        tables.append(FeatureTable({"all": features(network, pixels)}, rows, torch.zeros_like(rows), labels))
    found = {}
    for protocol in (NearestNeighbours(), LinearProbe.quick()):
        results = protocol.measure(tables[0], tables[1], "all")
        found[protocol.name] = next(one.value for one in results if one.name == f"{protocol.name}/top1")
    return found


# Runs.


def facts(arguments: argparse.Namespace, pythons: dict[str, str]) -> dict[str, Any]:
    """What a reader must know of the comparison."""
    processors = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    git = ["git", "-C", str(HERE), "--no-optional-locks"]
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=False).stdout
    versions = {
        name: json.loads(subprocess.run([python, "-c", _VERSIONS], capture_output=True, check=True).stdout)
        for name, python in pythons.items()
    }
    kept = ("seconds", "steps", "clock", "batch", "channels", "bank", "queries")
    return {
        "table": "rivals",
        "command": shlex.join(["python", "benchmarks/rivals.py", *_portable(sys.argv[1:])]),
        "commit": commit or "unknown",
        "uncommitted": bool(changed),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}"
        + (f", {processors[0].partition(':')[2].strip()}" if processors else ""),
        "images": arguments.images.name,
        "note": arguments.note,
        "versions": versions,
        "settings": {name: getattr(arguments, name) for name in kept},
    }


def _portable(words: Iterable[str]) -> list[str]:
    """Words of a command, with the last part of the paths in them."""
    return [word if " " in word else "=".join(Path(part).name or part for part in word.split("=")) for word in words]


def run_cell(library: str, method: str, seed: int, python: str, images: Path, arguments: Any) -> dict[str, Any]:
    """Train one contestant, and judge what it has kept.

    Raises:
        RuntimeError: if it ends without its files.
    """
    output = arguments.work / f"{library}-{method}-{seed}"
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    command = [python, str(HERE / "rival_trainers.py"), library, method, "--images", str(images / "train")]
    command += ["--output", str(output), "--seed", str(seed), "--clock", arguments.clock]
    command += ["--seconds", str(arguments.seconds), "--steps", str(arguments.steps), "--batch", str(arguments.batch)]
    command += ["--channels", *map(str, arguments.channels)]
    # Libraries keep caches and registries below the home folder. A file beside the program must not hide a package.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1", "HOME": str(output)}
    environment["PYTHONPATH"] = str(HERE.parent) if library == "ours" else ""
    core = max(os.sched_getaffinity(0))
    pinned = ["taskset", "-c", str(core)] if arguments.clock == "wall" and shutil.which("taskset") else []
    load = os.getloadavg()[0]
    with (output / "said.txt").open("w") as said:
        code = subprocess.run([*pinned, *command], env=environment, stdout=said, stderr=said, check=False).returncode
    if code or not (output / "facts.json").exists():
        last = (output / "said.txt").read_text(errors="replace").strip().splitlines()[-1:]
        raise RuntimeError(
            f"{library}, {method}, seed {seed}: exit code {code}: {''.join(last)}; see {output}/said.txt"
        )
    found = {"library": library, "method": method, "seed": seed, "load": load}
    found |= json.loads((output / "facts.json").read_text(encoding="utf-8"))
    for when in ("seconds", "steps"):
        network = backbone(arguments.channels)
        network.load_state_dict(torch.load(output / f"{when}.pt", weights_only=True))
        found[f"at_{when}"] |= judge(network, *arguments.splits)
    shutil.rmtree(output)
    return found


def compared(arguments: argparse.Namespace, pythons: dict[str, str]) -> dict[str, Any]:
    """All cells; the file is written after each.

    Raises:
        SystemExit: if the file has cells of other settings.
    """
    content = {**facts(arguments, pythons), "untrained": [], "cells": []}
    if arguments.output.exists():
        before = json.loads(arguments.output.read_text(encoding="utf-8"))
        for name in ("settings", "machine", "images"):
            if before[name] != content[name]:
                raise SystemExit(f"{arguments.output}: {name} was {before[name]}, now {content[name]}; remove the file")
        content |= {"untrained": before["untrained"], "cells": before["cells"]}
    images = unpacked(arguments.images, arguments.work)
    arguments.splits = split(images / "train", arguments.bank), split(images / "test", arguments.queries)
    done = {(cell["library"], cell["method"], cell["seed"]) for cell in content["cells"]}
    for number, seed in enumerate(arguments.seeds):
        if seed not in [one["seed"] for one in content["untrained"]]:
            torch.manual_seed(seed)
            content["untrained"].append({"seed": seed, **judge(backbone(arguments.channels), *arguments.splits)})
        for order, method in enumerate(arguments.methods):
            # Each library begins in turn.
            names = list(pythons)
            turn = (number + order) % len(names)
            for library in names[turn:] + names[:turn]:
                if (library, method, seed) not in done:
                    begun = time.perf_counter()
                    cell = run_cell(library, method, seed, pythons[library], images, arguments)
                    content["cells"].append(cell)
                    write(content, arguments.output)
                    at = cell["at_seconds"]
                    told = f"step {at['step']}, kNN {at['knn']:.3f}, linear {at['linear']:.3f}"
                    sys.stdout.write(f"{library}, {method}, {seed}: {told}, {time.perf_counter() - begun:.0f} s\n")
                    sys.stdout.flush()
    return content


def write(content: dict[str, Any], path: Path) -> None:
    """Write the file with one line for every fact and every cell."""
    lines = [
        f" {json.dumps(key)}: {json.dumps(value)}" for key, value in content.items() if not isinstance(value, list)
    ]
    for key, value in content.items():
        if isinstance(value, list):
            rows = ",\n".join(f"  {json.dumps(_rounded(row))}" for row in value)
            lines.append(f" {json.dumps(key)}: [\n{rows}\n ]")
    aside = path.with_suffix(".writing")
    aside.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    aside.replace(path)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return float(f"{value:.5g}") if isinstance(value, float) else value


def interpreters(given: Iterable[str]) -> dict[str, str]:
    """The interpreter of every library that can be compared.

    Raises:
        SystemExit: if a word is not `LIBRARY=FILE`, or an interpreter has not the library.
    """
    named = dict.fromkeys(TRAINERS, sys.executable)
    asked = []
    for word in given:
        library, _, python = word.partition("=")
        if library not in TRAINERS or not python:
            raise SystemExit(f"--python must be LIBRARY=FILE with one of {', '.join(TRAINERS)}, got {word!r}")
        named[library] = str(Path(python).absolute())
        asked.append(library)
    found = {}
    for library, python in named.items():
        module = "ssl_inv" if library == "ours" else library.replace("-", "_")
        search = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
        if subprocess.run([python, "-c", search], cwd=HERE.parent, check=False).returncode == 0:
            found[library] = python
        elif library in asked:
            raise SystemExit(f"--python {library}={python}: this interpreter has no package {module}")
        else:
            sys.stdout.write(f"{library} is left out: not installed\n")
    return found


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--python", action="append", default=[], metavar="LIBRARY=FILE")
    parser.add_argument("--methods", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--clock", choices=["processor", "wall"], default="processor")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--channels", type=int, nargs=4, default=[16, 32, 64, 128], help="widths of the resnet18")
    parser.add_argument("--bank", type=int, default=10_000)
    parser.add_argument("--queries", type=int, default=5_000)
    parser.add_argument("--note", default="", help="a remark on the circumstances, kept with the results")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "rivals")
    parser.add_argument("--output", type=Path, default=HERE.parent / "docs/results/rivals.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.work = arguments.work.resolve()
    arguments.work.mkdir(parents=True, exist_ok=True)
    compared(arguments, interpreters(arguments.python))


if __name__ == "__main__":
    main()
