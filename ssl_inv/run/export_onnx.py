"""Exports a trained backbone as an ONNX file, which ONNX Runtime must reproduce."""

import importlib.util
import json
from pathlib import Path

import torch
from torch import nn

from ssl_inv.run.export import Preprocessing, evaluation_copy, new_at, plain_state

ONNX_TOLERANCE = 1e-4
"""Largest allowed difference between features of ONNX Runtime and torch, in shares of the largest feature if that
exceeds 1.
"""


def export_onnx(model: nn.Module, path: Path | str, preprocessing: Preprocessing, overwrite: bool = False) -> Path:
    """Write an ONNX file from normalised `image` `(B, C, H, W)` to `features` `(B, D)`, for any batch size B.

    The metadata of the file has the preprocessing under `mean`, `std` and `input_size`, as JSON.

    Raises:
        ModuleNotFoundError: if the extra `onnx` is not installed.
        ValueError: if the file exists, weights are not finite, or ONNX Runtime differs from torch by more than
            `ONNX_TOLERANCE`.
    """
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(f"ONNX export needs {', '.join(missing)}: pip install 'ssl-inv[onnx]'")
    original = evaluation_copy(model)
    plain_state(original)
    with new_at(Path(path), overwrite) as aside:
        _write_onnx(original, aside, preprocessing)
        _require_onnx_agrees(original, aside, preprocessing)
    return Path(path)


def _write_onnx(model: nn.Module, path: Path, preprocessing: Preprocessing) -> None:
    import onnx

    program = torch.onnx.export(
        model,
        (preprocessing.sample(batch=2),),
        dynamo=True,
        input_names=["image"],
        output_names=["features"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    proto = program.model_proto
    for key in ("mean", "std", "input_size"):
        proto.metadata_props.add(key=key, value=json.dumps(getattr(preprocessing, key)))
    onnx.save(proto, path)


def _require_onnx_agrees(model: nn.Module, path: Path, preprocessing: Preprocessing) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        image = preprocessing.sample(batch)
        with torch.inference_mode():
            expected = model(image)
        features = torch.from_numpy(session.run(None, {"image": image.numpy()})[0])
        distance = ((features - expected).abs().max() / expected.abs().max().clamp_min(1)).item()
        # NaN must fail too.
        if not distance <= ONNX_TOLERANCE:
            raise ValueError(
                f"ONNX Runtime differs from torch by {distance:.1e} at batch size {batch}; "
                f"allowed is {ONNX_TOLERANCE:.0e}"
            )
