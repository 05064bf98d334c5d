"""Classes that nothing was fitted to: is a pose read from objects of a new class, and are they found again?"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ssl_inv.evaluation.features import FeatureTable
from ssl_inv.evaluation.protocols.base import Encoded, Protocol
from ssl_inv.evaluation.protocols.cosine_search import nearest_cosine
from ssl_inv.evaluation.protocols.geodesic import linear_regress
from ssl_inv.evaluation.protocols.linear_maps import chosen_ridge
from ssl_inv.evaluation.protocols.transforms_r2 import Kind, Predicted, Target, TransformR2, has_draws, r2_result
from ssl_inv.evaluation.results import Result
from ssl_inv.transforms.keyed_random import permutation

SEEN, UNSEEN = "seen", "unseen"


@dataclass(frozen=True)
class Fold:
    """Rows of both tables.

    Attributes:
        fitted: training rows that heads are fitted to: of the classes of `seen`.
        seen: validation rows of the same classes.
        unseen: validation rows of other classes.
        gallery: training rows of these other classes, in which they are searched.
    """

    fitted: Tensor
    seen: Tensor
    unseen: Tensor
    gallery: Tensor


@dataclass(frozen=True)
class UnseenClasses(Protocol):
    """Whether what is read from features holds for classes that nothing was fitted to.

    What it measures: a head for the pose can learn each class by heart, and an embedding that was fitted to classes can
    be blind to others. Both are fitted to training objects of some classes here, and scored on validation objects of
    the same classes and of others.

    Definition: classes are parted at random in two halves. Heads are fitted to training objects of one half, then of
    the other; every validation object is scored by the heads that know its class, `seen`, and by those that do not,
    `unseen`. So both numbers are of the same objects, and their difference is that of the classes. Where `classes` are
    named, these are the unseen ones, and the numbers are of different objects.

    - `unseen/r2/KIND/NAME/seen` and `/unseen`: R2, the mean over dimensions, of a parameter predicted by ridge
      regression, its penalty chosen on held-out training objects; `relative` between two views of an object, `absolute`
      of one view.
    - `unseen/retrieval/features/seen` and `/unseen`: the share of validation views whose most similar training view, by
      cosine, among those of the half of their own class is of their class. Nothing is fitted: with halves both are one
      number, `unseen/retrieval/features`.
    - `unseen/retrieval/learnt/seen` and `/unseen`: the same in the space of a ridge regression to the classes of the
      half that heads know, which is linear discriminant analysis up to scale.

    Whether the encoder itself has seen a class is not in its features. To have an encoder that has not, leave classes
    out of its training data, name them in `evaluation.unseen_classes`, and examine it on data that have all classes.

    Source: defined here. That classes are held out is from metric learning, where retrieval is measured on classes that
    training lacks (Oh Song et al., "Deep metric learning via lifted structured feature embedding", CVPR 2016); poses of
    unseen classes: Xiao et al., "Pose from shape" (BMVC 2019).

    End points: features that tell the pose of every class in one way have the same R2 twice; where each class has a way
    of its own, `unseen` is near or below 0. Shuffled targets score 0 in R2, and the share of the class in retrieval.

    What it orders wrongly: half of the classes have half of the objects, so `seen` too is below the number of all
    classes. Classes that look alike lie in both halves, and an encoder of objects that all look alike loses nothing.
    With few classes the halves are a matter of luck.

    Attributes:
        classes: names of the classes that are not seen; empty: halves.
        kinds: of the poses that are predicted.
        pairs_per_object: views, or pairs of views, of every object.
        seed: parts the classes, and draws views.
    """

    classes: tuple[str, ...] = ()
    kinds: tuple[Kind, ...] = ("relative",)
    pairs_per_object: int = 4
    seed: int = 0

    headlines: ClassVar[tuple[str, ...]] = ("unseen/r2/relative/rotation/unseen", "unseen/retrieval/learnt/unseen")
    recipe: ClassVar[Mapping[str, str]] = {"unseen_classes": "classes"}

    def run(self, encoded: Encoded) -> Iterator[Result]:
        train, validation = (one.select(one.labelled_rows()).ordered() for one in (encoded.train, encoded.validation))
        try:
            folds = self._folds(train, validation)
        except ValueError as error:
            yield Result("unseen", encoded.parts[0], None, detail=str(error))
            return
        for part in encoded.parts:
            for kind in self.kinds:
                yield from self._poses(train, validation, folds, part, kind)
            yield from self._retrieval(train, validation, folds, part)

    def _folds(self, train: FeatureTable, validation: FeatureTable) -> list[Fold]:
        if not len(train) or not len(validation):
            raise ValueError("the data have no labels")
        here, there = train.known_labels(), validation.known_labels()
        both = [one for one in torch.unique(here).tolist() if bool((there == one).any())]
        if self.classes:
            known = dict(zip(train.class_names, range(len(train.class_names)), strict=True))
            if lost := [name for name in self.classes if known.get(name) not in both]:
                raise ValueError(f"train and validation do not both have a class {lost[0]!r}")
            unseen = [known[name] for name in self.classes]
            halves = [(torch.tensor([one for one in both if one not in unseen]), torch.tensor(unseen))]
        else:
            order = torch.tensor(both)[torch.from_numpy(permutation(self.seed, length=len(both)))]
            first, second = order[: len(both) // 2], order[len(both) // 2 :]
            halves = [(first, second), (second, first)]
        if min(len(one) for pair in halves for one in pair) < 1:
            raise ValueError("needs two classes, of which one is unseen")
        return [
            Fold(*(torch.isin(*pair).nonzero()[:, 0] for pair in ((here, a), (there, a), (there, b), (here, b))))
            for a, b in halves
        ]

    def _poses(
        self, train: FeatureTable, validation: FeatureTable, folds: list[Fold], part: str, kind: Kind
    ) -> Iterator[Result]:
        names = [name for name in train.transform.names if _width(train, kind, name)]
        if not names:
            yield Result("unseen/r2", part, None, detail="the data record no transform")
            return
        settings = TransformR2(pairs_per_object=self.pairs_per_object, seed=self.seed)
        wanted: list[Target] = [(name, "canonical") for name in names]
        found: dict[tuple[str, str], list[Predicted]] = {}
        for fold in folds:
            fitted = train.select(fold.fitted)
            for word, rows in ((SEEN, fold.seen), (UNSEEN, fold.unseen)):
                scored = validation.select(rows)
                if not all(has_draws(table, kind, settings) for table in (fitted, scored)):
                    yield Result("unseen/r2", part, None, detail="no object has two views")
                    return
                for (name, _), one in linear_regress(fitted, scored, part, kind, wanted, settings).items():
                    found.setdefault((name, word), []).append(one)
        for (name, word), ones in found.items():
            columns = ((getattr(one, field) for one in ones) for field in ("targets", "predictions", "objects", "rows"))
            whole = Predicted(*(torch.cat(list(column)) for column in columns))
            yield r2_result(f"unseen/r2/{kind}/{name}/{word}", part, whole, self.bootstrap)

    def _retrieval(
        self, train: FeatureTable, validation: FeatureTable, folds: list[Fold], part: str
    ) -> Iterator[Result]:
        features, queries = train.part(part), validation.part(part)
        known = (train.known_labels()[rows] for fold in folds for rows in (fold.fitted, fold.gallery))
        if min(len(torch.unique(labels)) for labels in known) < 2:
            yield Result("unseen/retrieval", part, None, detail="needs two classes on either side")
            return
        hits: dict[str, list[tuple[Tensor, Tensor]]] = {}

        def search(name: str, bank: Tensor, asked: Tensor, rows: Tensor, wanted: Tensor) -> None:
            nearest = nearest_cosine(bank, asked, 1, self.device)[1][:, 0]
            right = train.known_labels()[rows][nearest] == validation.known_labels()[wanted]
            hits.setdefault(name, []).append((right.double(), validation.objects[wanted]))

        for fold in folds:
            sides = ((SEEN, fold.fitted, fold.seen), (UNSEEN, fold.gallery, fold.unseen))
            targets, objects = _one_hot(train.known_labels()[fold.fitted]), train.objects[fold.fitted]
            weights, constant = chosen_ridge(features[fold.fitted], targets, objects, self.seed)
            for word, rows, wanted in sides:
                if self.classes or word == UNSEEN:
                    name = f"unseen/retrieval/features{f'/{word}' if self.classes else ''}"
                    search(name, features[rows], queries[wanted], rows, wanted)
                bank, asked = (one.double() @ weights.T + constant for one in (features[rows], queries[wanted]))
                search(f"unseen/retrieval/learnt/{word}", bank, asked, rows, wanted)
        for name, ones in hits.items():
            right, objects = (torch.cat(column) for column in zip(*ones, strict=True))
            count = len(torch.unique(validation.known_labels()[folds[0].unseen]))
            detail = f"{count} unseen classes"
            yield Result(name, part, float(right.mean()), self.bootstrap.mean_error(right, objects), detail)


def _width(table: FeatureTable, kind: Kind, name: str) -> int:
    """Numbers of a parameter, or of its difference between two views, which has none for a code."""
    first = table.transform.select(torch.zeros(1, dtype=torch.int64))
    vector = first.as_vector([name]) if kind == "absolute" else first.relative(first).as_vector([name])
    return int(vector.shape[1])


def _one_hot(labels: Tensor) -> Tensor:
    return one_hot(torch.unique(labels, return_inverse=True)[1]).double()
