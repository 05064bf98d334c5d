"""From an encoder and a data source to feature tables, the input of the evaluation suite."""

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
    """Views of some objects, not augmented; unreadable images are left out.

    Args:
        source: the data set.
        objects: which of its objects.
        views: views of each object at most. From an object with more they are spread evenly over all, because the views
            of a film or a turntable come in order.
        normalise: from pixels in [0, 1] to the encoder's input.
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
    encoded: Callable[[int], None] | None = None,
) -> FeatureTable:
    """Features of `views` views of some objects; see `evaluation_batches` and `extract`. After every batch `encoded` is
    called with its number of views.
    """
    batches = evaluation_batches(source, objects, views, normalise, device)
    if encoded is not None:
        batches = _counted(batches, encoded)
    names = source.labels.names if source.labels is not None else ()
    return extract(encoder, batches, device, module=module, class_names=names, disk=source.turned, cache=cache)


def _counted(batches: Iterator[EvaluationBatch], encoded: Callable[[int], None]) -> Iterator[EvaluationBatch]:
    for batch in batches:
        yield batch
        # The next batch is asked for when this one is encoded.
        encoded(len(batch.objects))


@dataclass(frozen=True)
class FeatureCache:
    """Feature tables in a folder. A hash of everything that a table was made from is part of its name.

    Files enter the hash by size and time. A user's own data set enters it by settings, numbers of views and labels.

    Attributes:
        folder: where the files are.
        sections: further parts of the hash, such as the recipe's sections `data` and `normalization`; plain values.
        crop_share: side of the square that the encoder sees, as a share of the image's side.
    """

    folder: Path
    sections: Mapping[str, Any]
    crop_share: float = 1.0

    def file(self, split: str, module: nn.Module, source: Source, objects: Indices, views: int) -> Path:
        """The file for the features of `views` views of `objects`, encoded by `module` with the objective's parts."""
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
    """A hash of a network's layers and weights."""
    digest = hashlib.sha256(repr(module).encode())
    for name, value in module.state_dict().items():
        digest.update(name.encode())
        # Modules also keep plain values, such as numbers of steps.
        digest.update(value.cpu().contiguous().numpy().tobytes() if isinstance(value, Tensor) else repr(value).encode())
    return digest.hexdigest()[:16]


def choose_objects(source: Source, count: int | None, seed: int) -> Indices:
    """`count` random objects in ascending order; all objects if there are fewer or `count` is None."""
    if count is None or count >= len(source):
        return np.arange(len(source))
    return np.sort(keyed_random.permutation(seed, len(source), length=len(source))[:count])
