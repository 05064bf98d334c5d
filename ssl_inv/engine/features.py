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
from torch.nn.functional import interpolate

from ssl_inv.data.source import Indices, Labels, Source
from ssl_inv.engine.launch import say
from ssl_inv.engine.team import Team
from ssl_inv.evaluation.features import EvaluationBatch, FeatureTable, extract, kept_table
from ssl_inv.objectives.base import Encoder
from ssl_inv.transforms import keyed_random
from ssl_inv.views.maker import central

_CHUNK = 256

_FORM = 2
"""Of tables in a cache: 2 has small pictures beside the features."""


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
    labels = source.labels
    for rows, numbers in _chunks(source, objects, views):
        batch = _batch(source, labels, rows, numbers, normalise, device)
        if batch is not None:
            yield batch


def _chunks(source: Source, objects: Indices, views: int) -> list[tuple[Indices, Indices]]:
    """The objects and views of every batch."""
    counts = np.minimum(source.view_counts[objects], views)
    rows = np.repeat(objects, counts)
    spread = zip(counts.tolist(), source.view_counts[objects].tolist(), strict=True)
    numbers = np.concatenate([np.arange(count) * whole // count for count, whole in spread]) if len(counts) else rows
    return [(rows[start : start + _CHUNK], numbers[start : start + _CHUNK]) for start in range(0, len(rows), _CHUNK)]


def _batch(
    source: Source,
    labels: Labels | None,
    rows: Indices,
    numbers: Indices,
    normalise: Callable[[Tensor], Tensor],
    device: torch.device | str,
) -> EvaluationBatch | None:
    """The views of a batch that can be read; None if none can. To ask the source for all labels can take long."""
    images = source.load(rows, numbers)
    kept = images.readable.cpu()
    if not bool(kept.any()):
        return None
    which = torch.from_numpy(rows)[kept]
    return EvaluationBatch(
        normalise(images.pixels[kept.to(images.pixels.device)].to(device).float() / 255),
        which,
        torch.from_numpy(numbers)[kept],
        None if labels is None else labels.classes[which],
        None if labels is None else labels.known[which],
        images.transform.select(kept),
    )


def masks_of(source: Source, objects: Tensor, views: Tensor, side: int) -> Tensor | None:
    """The regions of some views, as an encoder sees them: the centre of the image, or all of it enlarged, in so many
    pixels along a side; see `Source.masks`.
    """
    masks = source.masks(objects.numpy(), views.numpy())
    if masks is None:
        return None
    if side > (whole := masks.shape[-1]):
        return interpolate(masks[:, None].float(), (side, side), mode="nearest-exact")[:, 0].long()
    return central(masks, side / whole)


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


def shared_feature_table(
    team: Team,
    encoder: Encoder,
    module: nn.Module,
    source: Source,
    objects: Indices,
    views: int,
    normalise: Callable[[Tensor], Tensor],
    device: torch.device | str,
    cache: Path | None = None,
    encoded: Callable[[int], None] | None = None,
) -> FeatureTable | None:
    """The table of `feature_table`, bit for bit, by all processes of a team: each encodes every W-th batch.

    Processes that have other weights or data than the first one do not help it.

    Returns:
        The table on the first process; None on the others.
    """
    common = source, objects, views, normalise, device
    if team.size == 1:
        return feature_table(encoder, module, *common, cache, encoded)
    facts = hashlib.sha256(json.dumps([fingerprint(module), source.stamp, source.image_size]).encode())
    for numbers in (source.view_counts, objects):
        facts.update(np.ascontiguousarray(numbers).tobytes())
    same = team.collected(facts.digest())
    known = kept_table(cache) if team.first else None
    plan = "known" if known is not None else "shared" if len(set(same)) == 1 else "alone"
    plan = team.spread(plan.encode()).decode()
    if plan == "shared":
        known = _gathered_table(team, encoder, module, *common, encoded)
        if known is not None and cache is not None:
            known.save(cache)
    elif plan == "alone" and team.first:
        say("the other processes have other weights or data, so the first one encodes alone")
        known = feature_table(encoder, module, *common, cache, encoded)
    return known


def _gathered_table(
    team: Team,
    encoder: Encoder,
    module: nn.Module,
    source: Source,
    objects: Indices,
    views: int,
    normalise: Callable[[Tensor], Tensor],
    device: torch.device | str,
    encoded: Callable[[int], None] | None,
) -> FeatureTable | None:
    labels = source.labels
    names = () if labels is None else labels.names
    key, tables, chunks = team.exchange(), list[FeatureTable](), _chunks(source, objects, views)
    own = team.of(len(chunks))
    for number, (rows, numbers) in enumerate(chunks):
        table = None
        if number in own:
            batch = _batch(source, labels, rows, numbers, normalise, device)
            if batch is not None:
                table = extract(encoder, [batch], device, module=module, class_names=names, disk=source.turned)
            if not team.first:
                team.tell(f"{key}/{number}", b"" if table is None else table.to_bytes())
        elif team.first:
            content = team.hear(f"{key}/{number}")
            table = FeatureTable.from_bytes(content) if content else None
            # To name them here too, and to stop if there are too many.
            if broken := _missing(rows, numbers, table):
                source.load(*np.array(broken, dtype=np.int64).T)
        if team.first and table is not None:
            tables.append(table)
            if encoded is not None:
                encoded(len(table))
    return FeatureTable.concatenate(tables) if team.first else None


def unread(source: Source, objects: Indices, table: FeatureTable | None) -> list[tuple[int, int]]:
    """The views of some objects, as `(object, view)`, that are not in the table of all their views."""
    chunks = _chunks(source, objects, int(source.view_counts[objects].max(initial=0)))
    return [view for rows, numbers in chunks for view in _missing(rows, numbers, table)]


def _missing(rows: Indices, numbers: Indices, table: FeatureTable | None) -> list[tuple[int, int]]:
    found = set() if table is None else set(zip(table.objects.tolist(), table.views.tolist(), strict=True))
    return [view for view in zip(rows.tolist(), numbers.tolist(), strict=True) if view not in found]


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
        images = [_FORM, views, source.stamp, source.image_size, self.crop_share, source.turned]
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
