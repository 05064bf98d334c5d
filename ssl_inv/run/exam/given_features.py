"""Encoders that are given by their features alone: a folder with a feature table of each split."""

from dataclasses import dataclass
from pathlib import Path

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


def features_in(folder: Path) -> GivenFeatures:
    """The features in a folder, `train.safetensors` and `validation.safetensors`, as `FeatureTable.save` writes them.

    Raises:
        RecipeError: if one is no feature table or is damaged, or they do not fit each other.
    """
    try:
        train, validation = (FeatureTable.load(folder / f"{split}.safetensors") for split in SPLITS)
    except (OSError, ValueError) as error:
        raise RecipeError(str(error)) from None
    widths = [{part: one.shape[1] for part, one in table.features.items()} for table in (train, validation)]
    if widths[0] != widths[1]:
        raise RecipeError(f"{folder}: the tables have different parts: {widths[0]} in train, {widths[1]} in validation")
    if train.transform.names != validation.transform.names:
        names = f"{list(train.transform.names)} in train, {list(validation.transform.names)} in validation"
        raise RecipeError(f"{folder}: the tables record different parameters: {names}")
    rows = f"{len(train):,} training and {len(validation):,} validation rows"
    return GivenFeatures(train, validation, f"{folder}: features, {rows}")
