"""All protocols over all parts of the features, and each number beside what an untrained encoder and shuffled targets
score.
"""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ssl_inv.evaluation.features import FeatureTable
from ssl_inv.evaluation.protocols.aggregation import Aggregate, aggregated, mean_of
from ssl_inv.evaluation.protocols.knn import NearestNeighbourSettings, nearest_neighbours
from ssl_inv.evaluation.protocols.linear import LinearSettings, linear_probe
from ssl_inv.evaluation.protocols.paths import PathSettings, path_integration
from ssl_inv.evaluation.protocols.retrieval import RetrievalSettings, ViewPredictor, retrieval
from ssl_inv.evaluation.protocols.spectrum import spectrum
from ssl_inv.evaluation.protocols.transforms_r2 import TransformR2Settings, transform_r2
from ssl_inv.evaluation.results import DEFAULT_BOOTSTRAP, Bootstrap, Comparison, Result, compare
from ssl_inv.transforms.keyed_random import permutation


@dataclass(frozen=True)
class Protocol:
    """What is measured and how. The defaults are the published settings; `QUICK` is for a look.

    Attributes:
        linear: the linear classifier.
        neighbours: the nearest-neighbour vote.
        transforms: the regression of the transform.
        retrieval: the retrieval by a predictor.
        parts: parts of the features that are probed; None for all.
        aggregate: numbers of views of an object that are classified as one; see
        `ssl_inv.evaluation.protocols.aggregation`.
        paths: sequences of views that are asked where they led; see `ssl_inv.evaluation.protocols.paths`.
        bootstrap: how standard errors are estimated.
        shuffle_seed: decides the order of the shuffled targets.
    """

    linear: LinearSettings = field(default_factory=LinearSettings)
    neighbours: NearestNeighbourSettings = field(default_factory=NearestNeighbourSettings)
    transforms: TransformR2Settings = field(default_factory=TransformR2Settings)
    retrieval: RetrievalSettings = field(default_factory=RetrievalSettings)
    parts: tuple[str, ...] | None = None
    aggregate: tuple[int, ...] = ()
    paths: PathSettings = field(default_factory=PathSettings)
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP
    shuffle_seed: int = 0


FULL = Protocol()
"""The published settings, made for a GPU."""


QUICK = Protocol(
    linear=LinearSettings(steps=1000, batch=256),
    transforms=TransformR2Settings(
        hidden=256, epochs=10, pairs_per_object=4, minimum_steps=500, joint=True, kinds=("relative",)
    ),
    retrieval=RetrievalSettings(splits=("val-val",)),
    paths=PathSettings(sequences=2),
)
"""Seconds on a CPU for some thousand objects: one narrow head for all parameters, fewer steps. Not comparable with
published numbers.
"""


@dataclass(frozen=True)
class Encoded:
    """What one encoder makes of the data.

    Attributes:
        train: features that probes are fitted to.
        validation: features of other objects, that probes are judged on.
        predictor: the encoder's own predictor of views, if it has one.
        aggregate: the encoder's own network for several views, if it has one.
        told: parameters of the actions that the encoder was told in training, of which paths are measured; empty for
            all.
    """

    train: FeatureTable
    validation: FeatureTable
    predictor: ViewPredictor | None = None
    aggregate: Aggregate | None = None
    told: tuple[str, ...] = ()


def _parts(train: FeatureTable, protocol: Protocol) -> list[str]:
    parts = list(train.features if protocol.parts is None else protocol.parts)
    for part in parts:
        train.part(part)
    return parts


def _probes(train: FeatureTable, validation: FeatureTable, protocol: Protocol) -> list[Result]:
    """Everything that is fitted to training targets."""
    results = []
    for part in _parts(train, protocol):
        results += _classification(train, validation, part, protocol)
        results += transform_r2(train, validation, part, protocol.transforms, protocol.bootstrap)
    return results


def _classification(train: FeatureTable, validation: FeatureTable, part: str, protocol: Protocol) -> list[Result]:
    if (missing := _no_classes(train, validation)) is not None:
        return _not_classified(part, missing)
    results = linear_probe(train, validation, part, protocol.linear, protocol.bootstrap)
    return results + nearest_neighbours(train, validation, part, protocol.neighbours, protocol.bootstrap)


def _not_classified(part: str, reason: str) -> list[Result]:
    return [Result(name, part, None, detail=reason) for name in ("linear/top1", "knn/top1")]


def _several_views(encoded: Encoded, protocol: Protocol, shuffled: bool = False) -> list[Result]:
    """Classes of several views of an object at once; `shuffled` fits the probes to the labels of other objects."""
    results = []
    for views in protocol.aggregate:
        train, validation = (
            aggregated(table, views, encoded.aggregate) for table in (encoded.train, encoded.validation)
        )
        if train is None or validation is None:
            results += _not_classified(mean_of(views), f"no object has {views} views")
            continue
        train = shuffle_targets(train, protocol.shuffle_seed) if shuffled else train
        for part in train.features:
            results += _classification(train, validation, part, protocol)
    return results


def _paths(encoded: Encoded, protocol: Protocol, shuffled: bool = False) -> list[Result]:
    """Where sequences of views led; `shuffled` fits the heads to the ways of other sequences."""
    seed = protocol.shuffle_seed if shuffled else None
    heads = replace(protocol.transforms, parameters=protocol.transforms.parameters or encoded.told or None)
    return path_integration(
        encoded.train, encoded.validation, encoded.aggregate, protocol.paths, heads, protocol.bootstrap, seed
    )


def _no_classes(train: FeatureTable, validation: FeatureTable) -> str | None:
    """Why nothing can be classified; None if it can."""
    known = train.known_labels()
    if not len(known) or not len(validation.labelled_rows()):
        return "the data have no labels"
    return "labels have one class only" if int(known.min()) == int(known.max()) else None


def _retrieval(encoded: Encoded, protocol: Protocol) -> list[Result]:
    if encoded.predictor is None:
        return []
    return retrieval(encoded.train, encoded.validation, encoded.predictor, protocol.retrieval, protocol.bootstrap)


def _check_alike(train: FeatureTable, validation: FeatureTable) -> None:
    if train.transform.names != validation.transform.names:
        raise ValueError(f"train records {train.transform.names}, but validation {validation.transform.names}")
    if list(train.features) != list(validation.features):
        raise ValueError(f"train has the parts {list(train.features)}, but validation {list(validation.features)}")


def evaluate(
    train: FeatureTable,
    validation: FeatureTable,
    protocol: Protocol = QUICK,
    predictor: ViewPredictor | None = None,
    aggregate: Aggregate | None = None,
    told: tuple[str, ...] = (),
) -> list[Result]:
    """Every measurement that the data allow, part by part; for the others a result without a value that says why.

    Args:
        train: features that the probes are fitted to, and whose spectrum is measured.
        validation: features of other objects.
        protocol: what is measured and how.
        predictor: measured by retrieval; nothing is retrieved without one.
        aggregate: makes one vector of several views; without one it is their mean alone.
        told: see `Encoded`.

    Raises:
        ValueError: if the tables don't fit together, or a part doesn't exist.
    """
    _check_alike(train, validation)
    encoded = Encoded(train, validation, predictor, aggregate, told)
    results = _probes(train, validation, protocol) + _several_views(encoded, protocol) + _paths(encoded, protocol)
    return (
        results
        + _retrieval(encoded, protocol)
        + [result for part in _parts(train, protocol) for result in spectrum(train, part)]
    )


def _shuffled_labels(table: FeatureTable, seed: int) -> Tensor | None:
    """Labels exchanged between labelled objects."""
    if table.labels is None:
        return None
    rows = table.labelled_rows()
    ids, position = torch.unique(table.objects[rows], return_inverse=True)
    of_object = torch.zeros(len(ids), dtype=torch.int64)
    of_object[position] = table.labels[rows]
    if not torch.equal(of_object[position], table.labels[rows]):
        raise ValueError("labels cannot be shuffled between objects: the views of one object have different labels")
    shuffled = table.labels.clone()
    shuffled[rows] = of_object[torch.from_numpy(permutation(seed, length=len(ids)))][position]
    return shuffled


def shuffle_targets(table: FeatureTable, seed: int = 0) -> FeatureTable:
    """The same features with the targets of others: what a protocol scores on it is its chance level.

    Labels are exchanged between objects, so that all views of one keep a common label. Transforms are exchanged between
    all rows: where every object is seen from the same angles in the same order, an exchange between objects would
    change nothing.

    Raises:
        ValueError: if the views of one object have different labels.
    """
    table = table.ordered()
    order = torch.from_numpy(permutation(seed, length=len(table)))
    return FeatureTable(
        table.features,
        table.objects,
        table.views,
        _shuffled_labels(table, seed),
        table.labelled,
        table.class_names,
        table.transform.select(order),
    )


def evaluate_with_baselines(
    trained: Encoded,
    untrained: Encoded | None,
    protocol: Protocol = QUICK,
    references: dict[tuple[str, str], float] | None = None,
) -> list[Comparison]:
    """`evaluate`, and beside every number what the untrained encoder scores and what shuffled training targets give.

    Args:
        trained: the encoder under test.
        untrained: the same architecture with random weights, on the same views; None if there is none to compare with.
        protocol: what is measured and how.
        references: published numbers by (name, part).

    Raises:
        ValueError: as `evaluate`; or if a reference belongs to nothing that was measured.
    """
    results = evaluate(trained.train, trained.validation, protocol, trained.predictor, trained.aggregate, trained.told)
    train = shuffle_targets(trained.train, protocol.shuffle_seed)
    shuffled = _probes(train, trained.validation, protocol) + _several_views(trained, protocol, shuffled=True)
    shuffled += _paths(trained, protocol, shuffled=True)
    if trained.predictor is not None:
        # Nothing is fitted in retrieval, so there it is the action that is exchanged.
        validation = shuffle_targets(trained.validation, protocol.shuffle_seed)
        shuffled += _retrieval(Encoded(train, validation, trained.predictor), protocol)
    baseline = []
    if untrained is not None:
        baseline = evaluate(
            untrained.train, untrained.validation, protocol, untrained.predictor, untrained.aggregate, untrained.told
        )
    return compare(results, baseline, shuffled, references)
