"""Views per second of SimCLR's policy, here and in other libraries, and of the least possible work.

    python benchmarks/views.py --threads 1 2

All start from the same images in memory, in the form that suits them best, and end with normalised floats. Every
contestant is measured right after ours in the same process, in several rounds. `--device cuda` makes the views on the
GPU, and also measures their share of a training step of a ResNet-50. Tables and a line of JSON are printed, after some
five minutes on a CPU. Only the views here come with a record.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from view_contestants import MEAN, STD, Contestant, InMemory, contestants, ours, photographs, read_images

from ssl_inv.augment.policies import simclr
from ssl_inv.data.batches import Batch
from ssl_inv.data.source import Images
from ssl_inv.nn.backbones import make_backbone, to_channels_last
from ssl_inv.objectives.simclr import SimCLR
from ssl_inv.run.environment import keep_freed_memory
from ssl_inv.transforms import Transform
from ssl_inv.views import Pair
from ssl_inv.views.maker import ViewMaker

SHAPES = ((96, 64), (256, 224))
"""Sides of the images and of the views, in pixels."""

POLICIES: dict[str, list[dict[str, Any]]] = {"SimCLR's policy": [], "with random fields": [{"name": "random_field"}]}
"""The policies whose share of a training step is measured, by what they do beyond SimCLR's."""

_THREAD_SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


# Measurements.


def images_per_second(one: Contestant, images: int, device: torch.device, seconds: float) -> float:
    """Views made in about `seconds`, in at least one call, divided by the time."""
    calls, start = 0, time.perf_counter()
    while calls == 0 or time.perf_counter() - start < seconds:
        one.make()
        synchronize(device)
        calls += 1
    return images * one.views * calls / (time.perf_counter() - start)


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def compare(pixels: Tensor, size: int, rounds: int, seconds: float) -> tuple[list[dict[str, Any]], list[str]]:
    """Ours and every other contestant, alternating.

    Returns:
        A row per contestant: images per second, and the time as a multiple of ours, each as median, lowest and highest
        over the rounds; and notes about missing contestants.
    """
    reference = ours("ours", pixels, size)
    found = list(contestants(pixels, size))
    others, notes = (
        [one for one in found if isinstance(one, Contestant)],
        [one for one in found if isinstance(one, str)],
    )
    for one in (reference, *others):
        images_per_second(one, len(pixels), pixels.device, 0)
    speeds: dict[str, list[float]] = {one.name: [] for one in (reference, *others)}
    ratios: dict[str, list[float]] = {one.name: [] for one in others}
    for _ in range(rounds):
        for one in others:
            mine, theirs = (images_per_second(each, len(pixels), pixels.device, seconds) for each in (reference, one))
            speeds[reference.name].append(mine)
            speeds[one.name].append(theirs)
            ratios[one.name].append(mine / theirs)
    ratios[reference.name] = [1.0]
    shape = {"threads": torch.get_num_threads(), "image": pixels.shape[-1], "view": size}
    spreads = {
        name: {"images_per_second": _spread(speeds[name]), "times_ours": _spread(ratios[name])} for name in speeds
    }
    rows: list[dict[str, Any]] = [{**shape, "name": name, **spread} for name, spread in spreads.items()]
    return rows, notes


def _spread(values: list[float]) -> list[float]:
    return [float(f"{one:.4g}") for one in (statistics.median(values), min(values), max(values))]


def share_of_step(
    pixels: Tensor, size: int, steps: int, model: str = "resnet50", extra: Sequence[dict[str, Any]] = ()
) -> dict[str, float]:
    """The share of SimCLR's training step, in bfloat16 and with channels last, in which its two views are made.

    Measured between events in the stream of the GPU: work of the host counts if the GPU waits for it.

    Args:
        pixels: a batch of sources on the device, uint8.
        size: side of the views in pixels.
        steps: measured steps, after three more.
        model: a timm model.
        extra: further operations of the policy.

    Returns:
        Medians over the steps: milliseconds for the views, milliseconds for the whole step, and the share.
    """
    device, index = pixels.device, torch.arange(len(pixels))
    maker = ViewMaker(Pair(), InMemory(pixels), simclr(size=size, extra=list(extra)), MEAN, STD, seed=0).to(device)
    backbone = make_backbone(name=model).to(device)
    to_channels_last(backbone)
    objective = SimCLR(backbone.features, maker.groups).to(device)
    optimizer = torch.optim.SGD([*backbone.parameters(), *objective.parameters()], lr=1e-3, momentum=0.9)
    images = Images(pixels, Transform.empty(), torch.ones(len(pixels), dtype=torch.bool))
    marks = []
    for step in range(3 + steps):
        begun = _mark(device)
        views = maker(Batch((images,), index, step, ()))
        made = _mark(device)
        with torch.autocast(device.type, torch.bfloat16):
            losses = objective.loss(views, backbone)
        torch.stack([term.weight * term.value for term in losses.values()]).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        marks.append((begun, made, _mark(device)))
    synchronize(device)
    times = [(_milliseconds(begun, made), _milliseconds(begun, ended)) for begun, made, ended in marks[3:]]
    views_ms, step_ms = (statistics.median(one) for one in zip(*times, strict=True))
    return {"views_ms": views_ms, "step_ms": step_ms, "share": statistics.median(part / whole for part, whole in times)}


def _mark(device: torch.device) -> Any:
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event


def _milliseconds(begun: Any, ended: Any) -> float:
    return 1000 * (ended - begun) if isinstance(begun, float) else float(begun.elapsed_time(ended))


# The command line.


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything that one process measures; prints tables as it goes."""
    torch.set_num_threads(arguments.threads[0])
    keep_freed_memory()  # as on our command line; here everybody gains by it
    device = torch.device(arguments.device)
    result: dict[str, Any] = {"rows": []}
    for side, size in SHAPES:
        rows, notes = compare(
            sources(arguments.images, arguments.batch, side).to(device), size, arguments.rounds, arguments.seconds
        )
        print(f"\n{side} px to {size} px, {arguments.batch} images, {arguments.threads[0]} thread(s), {device}")
        _print_table(rows, notes)
        result["rows"] += rows
    if device.type == "cuda":
        side, size = SHAPES[-1]
        pixels = sources(arguments.images, arguments.step_batch, side).to(device)
        result["step"] = {
            name: share_of_step(pixels, size, arguments.steps, extra=extra) for name, extra in POLICIES.items()
        }
        for name, step in result["step"].items():
            print(
                f"\nResNet-50 at {size} px, {arguments.step_batch} pairs, bfloat16, {name}: "
                f"{step['step_ms']:.1f} ms a step, ",
                end="",
            )
            print(f"{step['views_ms']:.2f} ms of it, {100 * step['share']:.1f} %, for its views", flush=True)
    return result


def _print_table(rows: list[dict[str, Any]], notes: list[str]) -> None:
    print(f"{'':34}{'images/s':>9}{'lowest':>9}{'highest':>9}{'time / ours':>13}{'lowest':>9}{'highest':>9}")
    for row in rows:
        speed, ratio = row["images_per_second"], row["times_ours"]
        print(
            f"{row['name']:34}{speed[0]:9.0f}{speed[1]:9.0f}{speed[2]:9.0f}"
            f"{ratio[0]:13.2f}{ratio[1]:9.2f}{ratio[2]:9.2f}"
        )
    for note in notes:
        print(note)
    sys.stdout.flush()


def sources(images: Path | None, count: int, side: int) -> Tensor:
    """The user's images, or synthetic ones; at most 64 different ones, because making them takes time."""
    return read_images(images, count, side) if images else photographs(min(count, 64), side)[torch.arange(count) % 64]


def in_own_process(threads: int, argv: list[str]) -> dict[str, Any]:
    """The measurement with another number of threads, in a fresh process."""
    environment = {**os.environ, **dict.fromkeys(_THREAD_SETTINGS, str(threads))}
    command = [sys.executable, __file__, *argv, "--in-this-process", "--threads", str(threads)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = ""
        for line in process.stdout:
            if not line.startswith("{"):
                print(line, end="", flush=True)
    if process.returncode:
        raise SystemExit(process.returncode)
    result: dict[str, Any] = json.loads(line)
    return result


def circumstances(arguments: argparse.Namespace) -> dict[str, Any]:
    """Hardware and versions."""
    names = ("torch", "torchvision", "kornia", "lightly", "albumentations", "nvidia-dali-cuda120")
    installed = {
        one.metadata["Name"].lower(): one.version for one in importlib.metadata.distributions() if one.metadata["Name"]
    }
    return {
        "device": torch.cuda.get_device_name() if arguments.device.startswith("cuda") else _processor(),
        "images": str(arguments.images or "made in code: 1/f noise with edges"),
        "batch": arguments.batch,
        "rounds": arguments.rounds,
        "versions": {name: installed[name] for name in names if name in installed},
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main(argv: list[str]) -> None:
    """Measure, print a table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", help="each in a process of its own; 1 and 2 on a CPU, else 1")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each measurement; at least one batch")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--images", type=Path, help="a folder or zip of images; otherwise they are made in code")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--step-batch", type=int, default=256, help="pairs in the training step that is measured on a GPU"
    )
    parser.add_argument("--steps", type=int, default=30, help="of training that are measured on a GPU")
    parser.add_argument("--json", type=Path, help="a file for the line of JSON")
    parser.add_argument("--in-this-process", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.in_this_process:
        print(json.dumps(measure(arguments)))
        return
    numbers = arguments.threads or ([1, 2] if arguments.device == "cpu" else [1])
    facts = circumstances(arguments)
    print("  ".join(f"{name}: {value}" for name, value in facts.items()))
    parts = [in_own_process(threads, argv) for threads in numbers]
    result = {**facts, **parts[-1], "rows": [row for part in parts for row in part["rows"]]}
    if arguments.json:
        arguments.json.write_text(json.dumps(result) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1:])
