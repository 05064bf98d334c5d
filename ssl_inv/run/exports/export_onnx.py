"""Exports a trained backbone as an ONNX file, which ONNX Runtime must reproduce."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssl_inv.run.exports.export import NO_PARTS, Preprocessing, evaluation_copy, new_at, plain_state
from ssl_inv.run.exports.export_program import (
    TOLERANCE,
    dynamic_shapes,
    example,
    facts,
    refusal,
    require_agrees,
    require_sizes,
)
from ssl_inv.run.exports.parts import Parts

ONNX_TOLERANCE = TOLERANCE
"""Largest allowed difference between features of ONNX Runtime and torch, in shares of the largest feature if that
exceeds 1.
"""


def export_onnx(
    model: nn.Module,
    path: Path | str,
    preprocessing: Preprocessing,
    overwrite: bool = False,
    *,
    any_size: bool = False,
    parts: Parts = NO_PARTS,
) -> Path:
    """Write an ONNX file from normalised `image` `(B, C, H, W)` to `features` `(B, D)`, for any batch size B.

    The metadata of the file has the preprocessing under `mean`, `std` and `input_size`, and the columns of the parts of
    the features under `parts`, as JSON.

    Args:
        model: the network.
        path: of the file.
        preprocessing: of the input.
        overwrite: whether an existing file is replaced.
        any_size: whether H and W are free, too.
        parts: first and last column of the parts of the features.

    Raises:
        ModuleNotFoundError: if the extra `onnx` is not installed.
        ValueError: if the file exists, weights are not finite, the network cannot be exported, or ONNX Runtime differs
            from torch by more than `ONNX_TOLERANCE`.
    """
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(f"ONNX export needs {', '.join(missing)}: pip install 'ssl-inv[onnx]'")
    original = evaluation_copy(model)
    plain_state(original)
    require_sizes(original, preprocessing, any_size)
    with new_at(Path(path), overwrite) as aside:
        _write_onnx(original, aside, preprocessing, any_size, parts)
        _require_onnx_agrees(original, aside, preprocessing, any_size)
    return Path(path)


def _write_onnx(model: nn.Module, path: Path, preprocessing: Preprocessing, any_size: bool, parts: Parts) -> None:
    import onnx

    try:
        program = torch.onnx.export(
            model,
            (example(preprocessing, any_size),),
            dynamo=True,
            input_names=["image"],
            output_names=["features"],
            dynamic_shapes=dynamic_shapes(any_size),
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        raise ValueError(refusal("torch.onnx", any_size, preprocessing, error)) from error
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    proto = program.model_proto
    for key, value in facts(preprocessing, parts).items():
        proto.metadata_props.add(key=key, value=json.dumps(value))
    onnx.save(proto, path)


def _require_onnx_agrees(model: nn.Module, path: Path, preprocessing: Preprocessing, any_size: bool) -> None:
    import onnxruntime

    session: Any = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(image: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"image": image.numpy()})[0])

    require_agrees(model, run, preprocessing, any_size, "ONNX Runtime")
