"""Features of every image, in memory."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_inv.catalogue import within
from ssl_inv.data.source import Indices, Source, Subset
from ssl_inv.engine.features import feature_table
from ssl_inv.evaluation.features import FeatureTable
from ssl_inv.nn.backbones import Backbone, Cached
from ssl_inv.run.encoders import LoadedModel, best_device, on
from ssl_inv.run.judging import parts_of
from ssl_inv.run.tables import Table

_ALL_VIEWS = 2**31


class Embeddings(Mapping[str, NDArray[np.float32]]):
    """Features by part, each `(N, D)`, float32. Images that cannot be read are left out.

    Attributes:
        images: a row for each image: `id` (its file, if it has one), `split`, `object`, `view` and, if there are
            classes, `label`.
    """

    def __init__(self, parts: Mapping[str, NDArray[np.float32]], images: Table) -> None:
        self._parts, self.images = dict(parts), images

    def __getitem__(self, part: str) -> NDArray[np.float32]:
        return self._parts[part]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def __repr__(self) -> str:
        parts = ", ".join(f"{part} {value.shape[1]}" for part, value in self._parts.items())
        return f"Embeddings({len(self.images)} images: {parts})"

    def neighbours(self, part: str = "all", count: int = 5) -> NDArray[np.int64]:
        """The rows of the nearest other images by cosine similarity, `(N, count)`, nearest first.

        Raises:
            ValueError: if there is no such part, or there are not that many other images.
        """
        if part not in self._parts:
            raise ValueError(f"there is no part {part!r}; there are {', '.join(self._parts)}")
        rows = torch.from_numpy(self._parts[part])
        if not 1 <= count < len(rows):
            raise ValueError(f"count must be at least 1 and below the {len(rows)} images, got {count}")
        unit = torch.nn.functional.normalize(rows, dim=1)
        found = []
        for start in range(0, len(unit), 1024):
            alike = unit[start : start + 1024] @ unit.T
            alike[torch.arange(len(alike)), torch.arange(start, start + len(alike))] = -torch.inf
            found.append(alike.topk(count, dim=1).indices)
        return torch.cat(found).numpy()


def embedded(loaded: LoadedModel, one_part: bool) -> Embeddings:
    """The features of all views of a model's data, by part.

    Args:
        loaded: the model and the data.
        one_part: whether the data are their training objects alone, which belong to no split.
    """
    device = best_device()
    backbone, objective = on(loaded.model.trained(), device)

    def encode(pixels: Tensor) -> dict[str, Tensor]:
        if objective is None:
            return parts_of(backbone(pixels))
        assert isinstance(backbone, Backbone)
        return parts_of(objective.representations(Cached(backbone, batches=1))(pixels))

    splits = {"train": loaded.data.train}
    if not one_part:
        splits["validation"] = loaded.data.validation
    module = torch.nn.ModuleList([backbone] if objective is None else [backbone, objective])
    tables = {}
    for split, source in splits.items():
        with within("data"):
            objects = np.arange(len(source))
            tables[split] = feature_table(encode, module, source, objects, _ALL_VIEWS, loaded.whole, device)
    rows = [row for split, table in tables.items() for row in _rows("" if one_part else split, splits[split], table)]
    parts = {
        part: np.concatenate([table.part(part).numpy() for table in tables.values()])
        for part in tables["train"].features
    }
    order = _order(splits, tables)
    return Embeddings({part: value[order] for part, value in parts.items()}, Table([rows[row] for row in order]))


def _order(splits: Mapping[str, Source], tables: Mapping[str, FeatureTable]) -> Indices:
    """The order of the rows: of the data where both splits are parts of one source, else split by split."""
    wholes = [one.source if isinstance(one, Subset) else one for one in splits.values()]
    count = sum(len(table.objects) for table in tables.values())
    if any(whole is not wholes[0] for whole in wholes):
        return np.arange(count)
    keys = [
        source.objects[table.objects.numpy()] if isinstance(source, Subset) else table.objects.numpy()
        for source, table in zip(splits.values(), tables.values(), strict=True)
    ]
    return np.argsort(np.concatenate(keys), kind="stable")


def _rows(split: str, source: Source, table: FeatureTable) -> Iterator[dict[str, Any]]:
    known = None if table.labels is None else torch.ones(len(table), dtype=torch.bool)
    known = table.labelled if table.labelled is not None else known
    for row, (item, view) in enumerate(zip(table.objects.tolist(), table.views.tolist(), strict=True)):
        found = {"id": source.describe(item, view), "object": item, "view": view}
        if split:
            found["split"] = split
        if table.labels is not None and known is not None:
            found["label"] = table.class_names[int(table.labels[row])] if bool(known[row]) else None
        yield found
