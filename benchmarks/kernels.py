"""Kernels here against kornia's own functions, operation by operation, on the same images and the same parameters.

    python benchmarks/kernels.py --compile
    python benchmarks/kernels.py --device cuda --compile

A policy changes the colours of its views in place: of as many as fit a CPU's cache, or of a whole batch on a GPU. So
colours are measured from a fresh copy of such a portion to its changed pixels in the same memory, with the copy in both
times. Times are measured in turns, and the table has the median over the rounds of kornia's time as a multiple of ours.
`--compile` adds kornia's function compiled by torch, and the seconds that its first two calls take. The table is in
Markdown, for docs/speed.md.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import kornia
import numpy as np
import torch
from torch import Tensor
from view_contestants import odd_tenth, photographs
from views import synchronize

from ssl_inv.augment import kernels
from ssl_inv.augment.colour import Blur, Erasing
from ssl_inv.augment.geometry import Affine, Crop, Perspective
from ssl_inv.augment.noise import Noise
from ssl_inv.augment.operation import Style
from ssl_inv.augment.portions import CACHED_BYTES
from ssl_inv.augment.warp import crop_bands, cut, resized, sample, take
from ssl_inv.run.environment import keep_freed_memory
from ssl_inv.transforms.hsv import hsv_to_rgb, write_hsv

Function = Callable[[], Any]


class Case(NamedTuple):
    """One operation.

    Attributes:
        name: in the table.
        ours: does it here.
        function: does it in kornia.
        arguments: of kornia's function.
        target: where its result belongs, if that is other memory than what it returns.
    """

    name: str
    ours: Function
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    target: Tensor | None = None

    def theirs(self, function: Callable[..., Any] | None = None) -> Any:
        """The result of kornia's function, or of the same one compiled."""
        function = function or self.function
        if self.target is None:
            return function(*self.arguments)
        fresh = self.target.copy_(self.arguments[0])
        return fresh.copy_(function(fresh, *self.arguments[1:]))


def colours(pixels: Tensor) -> Iterator[Case]:
    """Operations that keep pixels where they are."""
    count, device, scratch = len(pixels), pixels.device, torch.empty_like(pixels)
    at_once = device.type != "cpu"
    enhance, colour = kornia.enhance, kornia.color
    factor = torch.linspace(0.2, 1.8, count, device=device)
    column, zero = factor.view(-1, 1, 1, 1), torch.zeros(count, 1, 1, 1, device=device)

    def case(name: str, change: Callable[..., Any], numbers: tuple[Any, ...], function: Any, *theirs: Any) -> Case:
        """An operation that changes images in place."""

        def ours() -> Tensor:
            change(scratch.copy_(pixels), *numbers)
            return scratch

        return Case(name, ours, function, (pixels, *theirs), torch.empty_like(pixels))

    def blend(name: str, change: Callable[..., Any], own: Tensor, mean: Tensor, function: Any) -> Case:
        if at_once:
            return case(name, kernels.blend_at_once, (column, own, mean), function, factor)
        return case(name, change, (column,), function, factor)

    yield blend("brightness", kernels.brighten, zero, zero, enhance.adjust_brightness_accumulative)
    yield blend("contrast", kernels.contrast, zero, 1 - column, enhance.adjust_contrast_with_mean_subtraction)
    yield blend("saturation", kernels.saturate, 1 - column, zero, enhance.adjust_saturation_with_gray_subtraction)
    turns = torch.linspace(-0.2, 0.2, count, device=device)
    turn, numbers = kernels.turn_hue, (turns.view(-1, 1, 1, 1),)
    if at_once:
        shape = torch.from_numpy(kernels.HUE_SHAPE).to(device)
        turn, numbers = kernels.turn_hue_at_once, (6 * turns.view(-1, 1, 1), shape)
    yield case("hue", turn, numbers, enhance.adjust_hue, 2 * math.pi * turns)
    yield Case("grey", lambda: kernels.luma(pixels), colour.rgb_to_grayscale, (pixels,))
    yield blurring(pixels, case)
    threshold = torch.linspace(0.1, 0.9, count, device=device)
    yield case("solarise", kernels.invert_from, (threshold.view(-1, 1, 1, 1),), enhance.solarize, threshold)
    bits = torch.arange(count, device=device) % 4 + 2
    yield case("posterise", kernels.keep_bits, (bits.view(-1, 1, 1, 1).float(),), enhance.posterize, bits)
    seeds = torch.arange(count, device=device).view(-1, 1, 1, 1)
    yield case("noise", Noise.change, ({"noise": column / 20, "noise_seed": seeds},), _noisy, column / 20)
    boxes = np.stack((np.linspace(0, 0.5, count),) * 2 + (np.full(count, 0.25),) * 2, axis=1).astype(np.float32)
    erase, parameters = _erasing(pixels, boxes)
    operation = kornia.augmentation.RandomErasing()
    yield case("erasing", erase, (), operation.apply_transform, parameters, operation.flags)
    planes = [torch.empty_like(pixels[:, 0]) for _ in range(5)]
    below = torch.empty_like(pixels)

    def to_hsv() -> Tensor:
        write_hsv(pixels, planes[0], planes[1], planes[2], planes[3:], below)
        return planes[0]

    yield Case("RGB to HSV", to_hsv, colour.rgb_to_hsv, (pixels,))
    hsv = colour.rgb_to_hsv(pixels)
    hue_in_turns, saturation, value = hsv[:, 0] / (2 * math.pi), hsv[:, 1], hsv[:, 2]
    yield Case("HSV to RGB", lambda: hsv_to_rgb(hue_in_turns, saturation, value), colour.hsv_to_rgb, (hsv,))


def blurring(pixels: Tensor, case: Callable[..., Case]) -> Case:
    """SimCLR's blur with another standard deviation for each image."""
    count, side, device = len(pixels), pixels.shape[-1], pixels.device
    record, rows = {"blur": np.linspace(0.3, 2, count).astype(np.float32)}, np.arange(count)
    weights = torch.from_numpy(Blur.numbers(rows, record, side, Style())["weights"].copy()).to(device)

    def blur(made: Tensor) -> None:
        if device.type == "cpu":
            Blur.apply(made, rows, record, Style())
        else:
            made.copy_(kernels.convolve_at_once(made, weights))

    sigma = torch.from_numpy(record["blur"]).to(device)[:, None].expand(-1, 2).contiguous()
    return case("blur", blur, (), kornia.filters.gaussian_blur2d, (odd_tenth(side),) * 2, sigma)


def _noisy(pixels: Tensor, deviation: Tensor) -> Tensor:
    """As kornia's RandomGaussianNoise, with numbers that nothing but torch's global generator decides."""
    return (pixels + deviation * torch.randn_like(pixels)).clamp(0, 1)


def _erasing(pixels: Tensor, boxes: np.ndarray[Any, Any]) -> tuple[Callable[[Tensor], None], dict[str, Tensor]]:
    """Ours, and kornia's parameters."""
    rows, record, side = np.arange(len(pixels)), {"erasing": boxes}, pixels.shape[-1]
    numbers = {
        name: torch.from_numpy(one.copy()).to(pixels.device)
        for name, one in Erasing.numbers(rows, record, side, Style()).items()
    }

    def erase(made: Tensor) -> None:
        if pixels.device.type == "cpu":
            Erasing.apply(made, rows, record, Style())
        else:
            Erasing.apply_at_once(made, rows, record, Style(), numbers)

    left, top, width, height = torch.from_numpy(np.rint(boxes * side)).unbind(1)
    grey = torch.full((len(boxes),), 0.5)
    return erase, {"xs": left, "ys": top, "widths": width, "heights": height, "values": grey}


def maps(sources: Tensor, size: int) -> Iterator[Case]:
    """Operations that move pixels."""
    count, device, side = len(sources), sources.device, sources.shape[-1]
    rows, random = np.arange(count), np.random.default_rng(0)
    low, share = random.integers(0, side // 4, (count, 2)), random.integers(side // 2, 3 * side // 4, (count, 2))
    boxes = np.concatenate(((low + share / 2) / side, share / side), axis=1)
    crops = Crop.matrices({"crop": boxes})

    # As decoders leave them.
    images = sources.mul(255).round().byte().contiguous(memory_format=torch.channels_last)

    def crop() -> Tensor:
        if device.type != "cpu":
            bands = torch.from_numpy(crop_bands(images, crops, size)).to(device)
            return resized(take(images, rows), bands, size)
        made = sources.new_empty(count, 3, size, size)
        cut(made, rows, images, rows, crops)
        return made

    left, top, right, bottom = *low.T, *(low + share - 1).T
    corners = np.stack(((left, top), (right, top), (right, bottom), (left, bottom))).transpose(2, 0, 1)
    yield Case("crop and resize, of bytes", crop, _crops, (images, torch.from_numpy(corners), size))
    turns = {"angle": random.uniform(-0.5, 0.5, count), "zoom": random.uniform(1.1, 1.4, count)}
    # Everything is enlarged, because we filter what shrinks, and kornia does not.
    shifts = {"perspective": random.uniform(-0.2, 0, (count, 8)) * np.array([1, 1, -1, 1, -1, -1, 1, -1])}
    for name, matrices, function, last in (
        ("affine map", Affine.matrices(turns), kornia.geometry.transform.warp_affine, 2),
        ("perspective", Perspective.matrices(shifts), kornia.geometry.transform.warp_perspective, 3),
    ):
        yield _warp(name, sources, size, matrices, function, last)


def _crops(images: Tensor, corners: Tensor, size: int) -> Tensor:
    return kornia.geometry.transform.crop_by_indices(
        images.float() / 255, corners, (size, size), "bilinear", align_corners=False, antialias=True
    )


def _warp(name: str, sources: Tensor, size: int, matrices: Any, function: Callable[..., Any], last: int) -> Case:
    count, side, rows = len(sources), sources.shape[-1], np.arange(len(sources))

    def ours() -> Tensor:
        made = sources.new_empty(count, 3, size, size)
        sample(made, rows, sources, rows, matrices, "zeros")
        return made

    def pixels(extent: int) -> Any:
        """From coordinates of -1 to 1 between the outer edges to centres of pixels."""
        half = extent / 2
        return np.array([[half, 0, half - 0.5], [0, half, half - 0.5], [0, 0, 1]])

    forward = np.linalg.inv(pixels(side) @ matrices @ np.linalg.inv(pixels(size)))
    given = torch.from_numpy(forward[:, :last]).float().to(sources.device)
    return Case(name, ours, function, (sources, given, (size, size)))


def host(count: int) -> Iterator[Case]:
    """Matrices, which are made on the host."""
    random = np.random.default_rng(0)
    shifts = random.uniform(0, 0.2, (count, 8)) * np.array([1, 1, -1, 1, -1, -1, 1, -1])
    corners = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    there = torch.from_numpy(corners + 2 * shifts.reshape(-1, 4, 2))
    yield Case(
        "homographies of four corners",
        lambda: Perspective.matrices({"perspective": shifts}),
        kornia.geometry.transform.get_perspective_transform,
        (there, torch.from_numpy(corners).expand(count, 4, 2)),
    )
    record = {
        "angle": random.uniform(-3, 3, count),
        "translation": random.uniform(-0.1, 0.1, (count, 2)),
        "zoom": random.uniform(0.8, 1.2, count),
    }
    angle, shift, zoom = (torch.from_numpy(record[name]) for name in record)
    yield Case(
        "affine matrices",
        lambda: Affine.matrices(record),
        _affine_matrices,
        (2 * shift, zoom, torch.rad2deg(-angle)),
    )


def _affine_matrices(shift: Tensor, zoom: Tensor, degrees: Tensor) -> Tensor:
    """From view to source, as `Affine.matrices`."""
    centre, factors = torch.zeros_like(shift), zoom[:, None].expand(-1, 2)
    forward = kornia.geometry.transform.get_affine_matrix2d(shift, centre, factors, degrees)
    return torch.linalg.inv(forward)


# Measurements.


def seconds(function: Function, device: torch.device, least: float) -> float:
    """Time of one call, measured over `least` seconds."""
    calls, start = 0, time.perf_counter()
    while calls == 0 or time.perf_counter() - start < least:
        function()
        calls += 1
    synchronize(device)
    return (time.perf_counter() - start) / calls


def ratios(one: Case, theirs: Function, device: torch.device, rounds: int, least: float) -> tuple[float, list[float]]:
    """Microseconds of ours, and kornia's time divided by ours in every round."""
    mine, found = [], []
    for number in range(rounds):
        pair = [one.ours, theirs] if number % 2 else [theirs, one.ours]
        times = [seconds(each, device, least) for each in pair]
        ours, other = times if number % 2 else reversed(times)
        mine.append(1e6 * ours)
        found.append(other / ours)
    return statistics.median(mine), found


def furthest(one: Case) -> float:
    """The largest difference of the two results."""
    results = [one.ours(), one.theirs()]
    mine, other = (torch.as_tensor(each).double().cpu() for each in results)
    if one.name == "RGB to HSV":
        mine, other = mine.remainder(6), other[:, 0] * 3 / math.pi
    if one.name == "HSV to RGB":
        other = other.movedim(1, -1)
    return float((mine - other).abs().max()) if one.name != "noise" else math.nan


def measure(arguments: argparse.Namespace, cases: list[Case], device: torch.device) -> None:
    """A row of the table for every case."""
    for one in cases:
        with torch.inference_mode():
            apart = furthest(one)
            mine, eager = ratios(one, one.theirs, device, arguments.rounds, arguments.seconds)
        row = f"| {one.name} | {mine:,.0f} | {_spread(eager)} |"
        if arguments.compile:
            row += f" {_compiled(one, device, arguments)} |"
        print(f"{row} {apart:.1g} |", flush=True)


def _compiled(one: Case, device: torch.device, arguments: argparse.Namespace) -> str:
    torch.compiler.reset()
    function = torch.compile(one.function)
    start = time.perf_counter()
    try:
        with torch.inference_mode():
            one.theirs(function)
            one.theirs(function)
            warm_up = time.perf_counter() - start
            _, found = ratios(one, lambda: one.theirs(function), device, arguments.rounds, arguments.seconds)
    except Exception as error:
        return type(error).__name__
    return f"{_spread(found)}, {warm_up:.0f} s"


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    """Measure, and print a table for each size of views."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, help="images; a portion on a CPU, else 64")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=0.1, help="of each measurement; at least one call")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 224], help="of views, in pixels")
    parser.add_argument("--compile", action="store_true", help="measure kornia's functions compiled, too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    device = torch.device(arguments.device)
    for size in arguments.sizes:
        batch = arguments.batch or (max(2, CACHED_BYTES // (12 * size**2)) if device.type == "cpu" else 64)
        pixels = photographs(batch, size).to(device).float() / 255
        cases = [*colours(pixels), *maps(pixels, size), *(host(64) if size == arguments.sizes[0] else ())]
        compiled = " kornia compiled / ours, warm-up |" if arguments.compile else ""
        print(f"\n{size} pixels, {batch} images, {device}, kornia {kornia.__version__}\n")
        print(f"| | ours, us a batch | kornia / ours |{compiled} largest difference |")
        print("|---|" + "---|" * (4 if arguments.compile else 3), flush=True)
        measure(arguments, cases, device)


if __name__ == "__main__":
    main()
