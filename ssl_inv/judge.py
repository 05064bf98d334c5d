"""From an encoder and a data source to feature tables: what the command line and the online monitor hand to the evaluation suite."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ssl_inv import keyed_random
from ssl_inv.data.base import Indices, Source
from ssl_inv.evaluation.features import EvaluationBatch, FeatureTable, extract
from ssl_inv.evaluation.suite import FULL, QUICK, Protocol
from ssl_inv.objectives.base import Encoder
from ssl_inv.recipe import Recipe
from ssl_inv.settings import EvaluationSettings

_CHUNK = 256

PREDICTION = "prediction space"
"""The part of a feature table in which the objective's own predictor works; retrieval reads it, nothing probes it."""


def evaluation_batches(
    source: Source, objects: Indices, views: int, normalise: Callable[[Tensor], Tensor], device: torch.device | str
) -> Iterator[EvaluationBatch]:
    """Some views of some objects as the data set has them, evenly chosen; what cannot be read is left out.

    Args:
        source: where the views come from.
        objects: which of its objects.
        views: views of each, at most. Of an object with more, these are evenly spread over all, as those of a film or a turntable are in
            order.
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

    Of files, sizes and times stand for their contents; of what a data set of one's own gives, the settings, numbers of views and labels.

    Attributes:
        folder: where the files are.
        recipe: its sections `data` and `normalization` are part of the name.
        crop_share: side of what the encoder sees of an image, in shares of the image's.
    """

    folder: Path
    recipe: Recipe
    crop_share: float = 1.0

    def file(self, split: str, module: nn.Module, source: Source, objects: Indices, views: int) -> Path:
        """Where the features of `views` views of `objects` are kept, encoded by `module` with the objective's parts."""
        sections = {section: dict(self.recipe[section]) for section in ("data", "normalization")}
        labels = source.labels
        names = () if labels is None else labels.names
        images = [views, source.stamp, source.image_size, self.crop_share, source.turned]
        facts = [version("ssl-inv"), fingerprint(module), sections, *images, list(source.groups), names]
        digest = hashlib.sha256(json.dumps(facts).encode())
        for row in (objects, source.view_counts, *(() if labels is None else (labels.classes.numpy(), labels.known.numpy()))):
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


def require_classes(source: Source) -> None:
    """Raise a `ValueError` if a source has labels, but all are of one class: asked for a judgement alone, one wants to know at once."""
    labels = source.labels
    if labels is not None and len(torch.unique(known := labels.classes[labels.known])) == 1:
        raise ValueError(f"labels have one class only: all {len(known)} labelled training objects are {labels.names[int(known[0])]!r}")


def choose_objects(source: Source, count: int | None, seed: int) -> Indices:
    """`count` objects at random in ascending order, or all if there are fewer or `count` is None."""
    if count is None or count >= len(source):
        return np.arange(len(source))
    return np.sort(keyed_random.permutation(seed, len(source), length=len(source))[:count])


def with_prediction_space(encoder: Encoder, embed: Callable[[Tensor], Tensor]) -> Encoder:
    """An encoder that gives the predictor's embeddings beside the parts that are probed."""

    def encode(pixels: Tensor) -> dict[str, Tensor]:
        return {**encoder(pixels), PREDICTION: embed(pixels)}

    return encode


def protocol_of(settings: EvaluationSettings, parts: tuple[str, ...], seed: int = 0, device: torch.device | str = "cpu") -> Protocol:
    """The suite's protocol that the recipe's settings name, probing `parts` with heads that are trained on a device."""
    base, place = QUICK if settings.protocol == "quick" else FULL, str(device)
    return replace(
        base,
        linear=replace(base.linear, device=place),
        transforms=replace(base.transforms, device=place),
        neighbours=replace(base.neighbours, k=settings.neighbours),
        parts=parts,
        aggregate=tuple(settings.aggregate),
        paths=replace(base.paths, observed=tuple(settings.paths)),
        shuffle_seed=seed,
    )
