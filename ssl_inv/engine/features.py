"""From an encoder and a data source to feature tables: what the command line and the online monitor hand to the
evaluation suite.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssl_inv.data.source import Indices, Source
from ssl_inv.evaluation.features import EvaluationBatch, FeatureTable, extract
from ssl_inv.objectives.base import Encoder
from ssl_inv.transforms import keyed_random

_CHUNK = 256


def evaluation_batches(
    source: Source, objects: Indices, views: int, normalise: Callable[[Tensor], Tensor], device: torch.device | str
) -> Iterator[EvaluationBatch]:
    """Some views of some objects as the data set has them, evenly chosen; what cannot be read is left out.

    Args:
        source: where the views come from.
        objects: which of its objects.
        views: views of each, at most. Of an object with more, these are evenly spread over all, as those of a film or a
            turntable are in order.
        normalise: from pixels in [0, 1] to what the encoder expects.
        device: where the encoder is.
    """
    counts = np.minimum(source.view_counts[objects], views)
    rows = np.repeat(objects, counts)
    spread = zip(counts.tolist(), source.view_counts[objects].tolist(), strict=True)
    numbers = np.concatenate([np.arange(count) * whole // count for count, whole in spread]) if len(counts) else rows
    labels = source.labels
    for start in range(0, len(rows), _CHUNK):
        some, view = rows[start : start + _CHUNK], numbers[start : start + _CHUNK]
        images = source.load(some, view)
        kept = images.readable.cpu()
        if not bool(kept.any()):
            continue
        which = torch.from_numpy(some)[kept]
        yield EvaluationBatch(
            normalise(images.pixels[kept.to(images.pixels.device)].to(device).float() / 255),
            which,
            torch.from_numpy(view)[kept],
            None if labels is None else labels.classes[which],
            None if labels is None else labels.known[which],
            images.transform.select(kept),
        )


def feature_table(
    encoder: Encoder,
    module: nn.Module,
    source: Source,
    objects: Indices,
    views: int,
    normalise: Callable[[Tensor], Tensor],
    device: torch.device | str,
    cache: Path | None = None,
) -> FeatureTable:
    """Features of `views` views of some objects; see `evaluation_batches` and `extract`."""
    batches = evaluation_batches(source, objects, views, normalise, device)
    names = source.labels.names if source.labels is not None else ()
    return extract(encoder, batches, device, module=module, class_names=names, disk=source.turned, cache=cache)


@dataclass(frozen=True)
class FeatureCache:
    """Feature tables in a folder, each under a name that stands for everything it was made from.

    Of files, sizes and times stand for their contents; of what a data set of one's own gives, the settings, numbers of
    views and labels.

    Attributes:
        folder: where the files are.
        sections: what else the name stands for, such as the recipe's sections `data` and `normalization`; plain values.
        crop_share: side of what the encoder sees of an image, in shares of the image's.
    """

    folder: Path
    sections: Mapping[str, Any]
    crop_share: float = 1.0

    def file(self, split: str, module: nn.Module, source: Source, objects: Indices, views: int) -> Path:
        """Where the features of `views` views of `objects` are kept, encoded by `module` with the objective's parts."""
        labels = source.labels
        names = () if labels is None else labels.names
        images = [views, source.stamp, source.image_size, self.crop_share, source.turned]
        facts = [version("ssl-inv"), fingerprint(module), self.sections, *images, list(source.groups), names]
        digest = hashlib.sha256(json.dumps(facts).encode())
        for row in (
            objects,
            source.view_counts,
            *(() if labels is None else (labels.classes.numpy(), labels.known.numpy())),
        ):
            digest.update(np.ascontiguousarray(row).tobytes())
        return self.folder / f"{split}-{digest.hexdigest()[:16]}.safetensors"


def fingerprint(module: nn.Module) -> str:
    """Tells networks with other layers or other weights apart."""
    digest = hashlib.sha256(repr(module).encode())
    for name, value in module.state_dict().items():
        digest.update(name.encode())
        # What modules keep on the host beside their tensors, such as numbers of steps, is plain.
        digest.update(value.cpu().contiguous().numpy().tobytes() if isinstance(value, Tensor) else repr(value).encode())
    return digest.hexdigest()[:16]


def choose_objects(source: Source, count: int | None, seed: int) -> Indices:
    """`count` objects at random in ascending order, or all if there are fewer or `count` is None."""
    if count is None or count >= len(source):
        return np.arange(len(source))
    return np.sort(keyed_random.permutation(seed, len(source), length=len(source))[:count])
