"""Encoders that are given by their features alone: a folder with a feature table of each split."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ssl_inv.catalogue import RecipeError
from ssl_inv.evaluation.features import FeatureTable

SPLITS = ("train", "validation")


@dataclass(frozen=True)
class GivenFeatures:
    """Features of both splits, without a network.

    Attributes:
        train: that probes are fitted to.
        validation: that they are scored on.
        description: a sentence about them.
    """

    train: FeatureTable
    validation: FeatureTable
    description: str


def are_features(folder: Path) -> bool:
    """Whether a folder has feature tables and no network."""
    return all((folder / f"{split}.safetensors").is_file() for split in SPLITS)


def require_both(folder: Path) -> None:
    """Refuse a folder that has the table of one split only.

    Raises:
        RecipeError: naming the file that is missing.
    """
    there = [split for split in SPLITS if (folder / f"{split}.safetensors").is_file()]
    networks = any((folder / name).exists() for name in ("recipe.yaml", "config.json", "checkpoints"))
    if len(there) == 1 and not networks:
        lacking = next(split for split in SPLITS if split not in there)
        raise RecipeError(f"{folder} has {there[0]}.safetensors and no {lacking}.safetensors; features need both")


def features_in(folder: Path) -> GivenFeatures:
    """The features in a folder, `train.safetensors` and `validation.safetensors`, as `FeatureTable.save` writes them.

    Raises:
        RecipeError: if one is no feature table, is damaged or cannot be measured, or they do not fit each other.
    """
    tables = {}
    for split in SPLITS:
        file = folder / f"{split}.safetensors"
        try:
            tables[split] = FeatureTable.load(file)
        except (OSError, ValueError) as error:
            text = str(error)
            raise RecipeError(text if str(file) in text else f"{file}: {text}") from None
        if (problem := problem_of(tables[split])) is not None:
            raise RecipeError(f"{file}: {problem}")
    train, validation = tables.values()
    widths = [{part: one.shape[1] for part, one in table.features.items()} for table in (train, validation)]
    if widths[0] != widths[1]:
        raise RecipeError(f"{folder}: the tables have different parts: {widths[0]} in train, {widths[1]} in validation")
    if train.transform.names != validation.transform.names:
        names = f"{list(train.transform.names)} in train, {list(validation.transform.names)} in validation"
        raise RecipeError(f"{folder}: the tables record different parameters: {names}")
    if train.class_names != validation.class_names:
        raise RecipeError(f"{folder}: the tables have different class names, so their labels are not comparable")
    if len(torch.unique(train.objects)) < 2:
        raise RecipeError(f"{folder}: train has one object only; probes need two")
    known = torch.unique(train.known_labels())
    if len(known) == 1:
        raise RecipeError(f"{folder}: labels have one class only: all labelled training rows are of {int(known[0])}")
    rows = f"{len(train):,} training and {len(validation):,} validation rows"
    return GivenFeatures(train, validation, f"{folder}: features, {rows}")


def problem_of(table: FeatureTable) -> str | None:
    """Why a table cannot be measured; None if it can."""
    if not len(table):
        return "there are no rows"
    integers = {"objects": table.objects, "views": table.views, "labels": table.labels}
    for name, column in integers.items():
        if column is not None and (column.dtype != torch.int64 or column.dim() != 1):
            return f"{name} must be (N,) int64, got {_kind(column)}"
    if table.labelled is not None and (table.labelled.dtype != torch.bool or table.labelled.dim() != 1):
        return f"labelled must be (N,) bool, got {_kind(table.labelled)}"
    for part, features in table.features.items():
        if features.dim() != 2 or not features.shape[1]:
            return f"the part {part!r} must be (N, D) with D of at least 1, got {tuple(features.shape)}"
        if features.dtype != torch.float32:
            return f"the part {part!r} must be float32, got {_kind(features)}"
        if not bool(features.isfinite().all()):
            row = int((~features.isfinite()).any(dim=1).nonzero()[0])
            view = f"object {int(table.objects[row])}, view {int(table.views[row])}"
            return f"the part {part!r} is not finite for {view} (row {row})"
    try:
        table.ordered()
    except ValueError as error:
        return str(error)
    return _problem_of_labels(table)


def _problem_of_labels(table: FeatureTable) -> str | None:
    labels, rows = table.known_labels(), table.labelled_rows()
    if not len(labels):
        return None
    if int(labels.min()) < 0:
        return f"labels must be at least 0, got {int(labels.min())}; `labelled` says which rows have none"
    ids, position = torch.unique(table.objects[rows], return_inverse=True)
    low, high = (
        torch.zeros(len(ids), dtype=torch.int64).scatter_reduce(0, position, labels, how, include_self=False)
        for how in ("amin", "amax")
    )
    if bool((odd := low != high).any()):
        first = int(odd.nonzero()[0])
        return f"the views of object {int(ids[first])} have the labels {int(low[first])} and {int(high[first])}"
    return None


def _kind(column: Tensor) -> str:
    return f"{tuple(column.shape)} {str(column.dtype).removeprefix('torch.')}"
