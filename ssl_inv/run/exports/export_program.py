"""Exports a trained backbone as a program of `torch.export`, and holds what every exported program must show."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssl_inv.run.exports.export import NO_PARTS, Preprocessing, evaluation_copy, first_detail, new_at, plain_state
from ssl_inv.run.exports.parts import Parts

TOLERANCE = 1e-4
"""Largest allowed difference between features of an exported program and of torch, in shares of the largest feature if
that exceeds 1.
"""

_ONE_PIXEL = "images that shrink to a map of one pixel need a program of their own; ask for one image size, or for ONNX"

PROGRAM_FACTS = "ssl_inv.json"
"""The name of the file inside a `.pt2` that has the preprocessing and the parts."""


def export_program(
    model: nn.Module,
    path: Path | str,
    preprocessing: Preprocessing,
    overwrite: bool = False,
    *,
    any_size: bool = False,
    parts: Parts = NO_PARTS,
) -> Path:
    """Write a `.pt2` file for `torch.export.load`, from normalised `image` `(B, C, H, W)` to `(B, D)`, for any B.

    Only torch is needed to run it. The file holds `ssl_inv.json` beside the program: the preprocessing, and the columns
    of the parts of the features.

    Args:
        model: the network.
        path: of the file.
        preprocessing: of the input.
        overwrite: whether an existing file is replaced.
        any_size: whether H and W are free, too.
        parts: first and last column of the parts of the features.

    Raises:
        ValueError: if the file exists, weights are not finite, the network cannot be exported, or the program differs
            from it by more than `TOLERANCE`.
    """
    original = evaluation_copy(model)
    plain_state(original)
    require_sizes(original, preprocessing, any_size)
    with new_at(Path(path), overwrite) as aside, torch.no_grad():
        try:
            program = torch.export.export(
                original, (example(preprocessing, any_size),), dynamic_shapes=dynamic_shapes(any_size)
            )
        except Exception as error:  # torch.export has no common class of errors
            raise ValueError(refusal("torch.export", any_size, preprocessing, error)) from error
        # torch warns of another suffix.
        whole = aside.with_name(f"{aside.name}.pt2")
        try:
            torch.export.save(program, whole, extra_files={PROGRAM_FACTS: json.dumps(facts(preprocessing, parts))})
            loaded = torch.export.load(whole).module()
            require_agrees(original, loaded, preprocessing, any_size, "torch.export's program")
            whole.rename(aside)
        finally:
            whole.unlink(missing_ok=True)
    return Path(path)


def facts(preprocessing: Preprocessing, parts: Parts) -> dict[str, Any]:
    """What a user of a program must know about its input and its output."""
    return {
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
        "input_size": preprocessing.input_size,
        "parts": {name: list(columns) for name, columns in parts.items()},
    }


def example(preprocessing: Preprocessing, any_size: bool) -> Tensor:
    """The input from which a program is made."""
    side = preprocessing.input_size
    # Of a map of one pixel, torch would conclude that it always has one.
    return preprocessing.sample(2, 2 * side, 2 * side + 32) if any_size else preprocessing.sample(2)


def _shapes(preprocessing: Preprocessing, any_size: bool) -> list[tuple[int, int, int]]:
    """Batch size, height and width of the inputs that a program must take; it was made from a batch of 2."""
    side = preprocessing.input_size
    return [(1, side, side), (3, side, side), *([(2, 2 * side, side), (5, side, side + 32)] if any_size else [])]


def require_sizes(model: nn.Module, preprocessing: Preprocessing, any_size: bool) -> None:
    """Raise a `ValueError` if a network that is to take images of any size takes one size only."""
    if not any_size:
        return
    try:
        with torch.inference_mode():
            for shape in _shapes(preprocessing, any_size):
                model(preprocessing.sample(*shape))
    except (AssertionError, RuntimeError, ValueError) as error:
        size = preprocessing.input_size
        told = first_detail(error)
        raise ValueError(f"this network takes images of {size} x {size} pixels only, not of any size: {told}") from None


def dynamic_shapes(any_size: bool) -> tuple[Mapping[int, Any]]:
    """The free dimensions of a program's input."""
    free: dict[int, Any] = {0: torch.export.Dim("batch")}
    if any_size:
        # torch finds out the least and the greatest size.
        free |= {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    return (free,)


def refusal(library: str, any_size: bool, preprocessing: Preprocessing, error: Exception) -> str:
    """Why a library does not export a network, as one line."""
    size = preprocessing.input_size
    if any_size:
        return (
            f"{library} finds no program of this network for images of any size; without --any-size, it takes "
            f"{size} x {size} pixels: {first_detail(error)}"
        )
    return f"{library} does not export this network: {first_detail(error)}"


def require_agrees(
    model: nn.Module, program: Callable[[Tensor], Tensor], preprocessing: Preprocessing, any_size: bool, label: str
) -> None:
    """Raise a `ValueError` unless a program has the features of a network at other batch sizes, and at other sizes if
    it is said to take any.
    """
    for shape in _shapes(preprocessing, any_size):
        image = preprocessing.sample(*shape)
        with torch.inference_mode():
            expected = model(image)
        try:
            features = program(image)
        except Exception as error:  # every runtime has its own errors
            told = _ONE_PIXEL if "Guard failed" in str(error) else first_detail(error)
            raise ValueError(f"{label} fails on {' x '.join(map(str, shape))}: {told}") from error
        distance = ((features - expected).abs().max() / expected.abs().max().clamp_min(1)).item()
        # NaN must fail too.
        if not distance <= TOLERANCE:
            raise ValueError(
                f"{label} differs from torch by {distance:.1e} at {' x '.join(map(str, shape))}; "
                f"allowed is {TOLERANCE:.0e}"
            )
