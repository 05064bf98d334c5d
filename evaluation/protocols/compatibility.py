"""Whether a new encoder's queries find their class in a gallery that an old encoder has made."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ssl_inv.evaluation.protocols.adapters import (
    affine_adapter_of_scale,
    orthogonal_adapter,
    relaxed_adapter,
    same_width,
)
from ssl_inv.evaluation.protocols.base import Encoded, Protocol
from ssl_inv.evaluation.protocols.cka import same_views
from ssl_inv.evaluation.protocols.sampling import at_most
from ssl_inv.evaluation.protocols.stitching import common_parts
from ssl_inv.evaluation.results import Result
from ssl_inv.transforms.keyed_random import permutation

_PAIRS = (
    ("old", "old"),
    ("new", "new"),
    ("new", "old"),
    ("orthogonal", "old"),
    ("orthogonal", "orthogonal"),
    ("relaxed", "old"),
    ("relaxed", "relaxed"),
    ("affine", "old"),
    ("orthogonal", "forward"),
    ("forward", "orthogonal"),
)
"""Queries and gallery."""

_BACKFILL = 5


@dataclass(frozen=True)
class Compatibility(Protocol):
    """Retrieval by class between this encoder, the new one, and the second, the old one.

    `compatibility/cmc1/A/B` is the share of queries by A whose most similar view, by cosine, in a gallery by B is of
    their class; `map` is the mean average precision. Views of the query's own object do not count. A and B are `old`,
    `new`, or features of the new encoder mapped to the old one: `orthogonal` (Procrustes), `relaxed` (nearly
    orthogonal, trained), `affine` (ridge); `forward` maps the old features to the orthogonal ones. The maps are fitted
    to training objects without labels; queries and gallery are validation objects. The shorter features get zeros.

    With M[t, k] the CMC-1 of queries by t in the gallery of k, for the pairs (old, `orthogonal`) and (old, `new`):
    `ac` is 1 if M[new, old] > M[old, old], the criterion of backward compatibility (Shen et al., CVPR 2020); `am` is
    the mean of the lower triangle with diagonal; `gain` is (M[new, old] - M[old, old]) / (M - M[old, old]) with M of
    the new features without a map. `backfill` is the mean CMC-1 of orthogonal queries while the gallery is replaced by
    orthogonal features, from none to all in steps.

    Methods that make the new encoder compatible in training (BCT, BT2, a fixed simplex classifier, HOC) need no map:
    they are measured by `new` in `old`.

    What it orders wrongly: compatible is not good; two poor encoders can be compatible. `gain` explodes where both are
    equally good. CMC-1 depends on the size of the gallery. A map is of use only where features are kept.

    Attributes:
        queries: validation views that are queries at most.
        samples: training views that maps are fitted to at most.
        slack: of the nearly orthogonal map, see `relaxed_adapter`.
        steps: of its training.
        seed: draws queries, training views and the order of replacement.
        chunk: queries compared with the gallery at a time, with 32 bytes for each pair; changes memory alone.
    """

    queries: int = 1000
    samples: int = 20_000
    slack: float | None = None
    steps: int = 300
    seed: int = 0
    chunk: int = 256

    needs: ClassVar[tuple[str, ...]] = ("second",)
    headlines: ClassVar[tuple[str, ...]] = ("compatibility/cmc1/orthogonal/old", "compatibility/cmc1/old/old")
    has_targets: ClassVar[bool] = False

    @classmethod
    def quick(cls) -> "Compatibility":
        return cls(steps=30, queries=500)

    def run(self, encoded: Encoded) -> Iterator[Result]:
        assert encoded.second is not None
        tables = [[one.train.ordered(), one.validation.ordered()] for one in (encoded, encoded.second)]
        for own, other in zip(*tables, strict=True):
            same_views(own, other)
        (train, validation), (old_train, old_validation) = tables
        rows = validation.labelled_rows()
        if len(torch.unique(validation.known_labels())) < 2:
            yield Result("compatibility/cmc1/new/old", encoded.parts[0], None, detail="needs labels of two classes")
            return
        labels, objects = validation.known_labels(), validation.objects[rows]
        fitted = at_most(torch.arange(len(train)), self.samples, self.seed)
        for part, other in common_parts(encoded):
            new, old = validation.part(part)[rows], old_validation.part(other)[rows]
            spaces = self.spaces(new, old, train.part(part)[fitted], old_train.part(other)[fitted])
            yield from self._measure(spaces, labels, objects, part)

    def spaces(self, new: Tensor, old: Tensor, new_train: Tensor, old_train: Tensor) -> dict[str, Tensor]:
        """Validation features by every encoder and map, all of one width, from features `(M, D)` and `(M, D')` and
        those of the training rows `(N, D)` and `(N, D')`.
        """
        orthogonal = orthogonal_adapter(new_train, old_train)
        relaxed = relaxed_adapter(new_train, old_train, self.slack, steps=self.steps, device=self.device)
        forward = affine_adapter_of_scale(old_train, orthogonal(new_train))
        affine = affine_adapter_of_scale(new_train, same_width(new_train, old_train)[1])
        plain_new, plain_old = same_width(new, old)
        return {
            "old": plain_old,
            "new": plain_new,
            "orthogonal": orthogonal(new),
            "relaxed": relaxed(new),
            "affine": affine(new),
            "forward": forward(old),
        }

    def _measure(self, spaces: dict[str, Tensor], labels: Tensor, objects: Tensor, part: str) -> Iterator[Result]:
        asked = at_most(torch.arange(len(labels)), self.queries, self.seed)
        asked = asked[has_relevant(labels, objects)[asked]]
        if not len(asked):
            detail = "no class has validation views of two objects"
            yield Result("compatibility/cmc1/new/old", part, None, detail=detail)
            return
        found, chance = {}, float((torch.bincount(labels) / len(labels)).square().sum())
        detail = f"{len(asked)} queries, {len(labels)} in the gallery, chance {chance:.3f}"
        for query, gallery in _PAIRS:
            first, precision = retrieve(spaces[query], spaces[gallery], labels, objects, asked, self.chunk)
            found[query, gallery] = float(first.mean())
            for name, values in (("cmc1", first), ("map", precision)):
                error = self.bootstrap.mean_error(values, objects[asked])
                yield Result(f"compatibility/{name}/{query}/{gallery}", part, float(values.mean()), error, detail)
        for kind in ("new", "orthogonal"):
            rows = [[found["old", "old"], 0.0], [found[kind, "old"], found[kind, kind]]]
            matrix = torch.tensor(rows, dtype=torch.float64)
            yield Result(f"compatibility/ac/{kind}", part, average_compatibility(matrix), detail="1 if compatible")
            yield Result(f"compatibility/am/{kind}", part, average_accuracy(matrix), detail="mean with diagonal")
            gain = relative_gain(found[kind, "old"], found["old", "old"], found["new", "new"])
            equal = "" if gain is not None else "not defined: both encoders are equally good"
            yield Result(f"compatibility/gain/{kind}", part, gain, detail=equal or "of queries alone; 1 is all")
        yield self._backfill(spaces, labels, objects, asked, part)

    def _backfill(self, spaces: dict[str, Tensor], labels: Tensor, objects: Tensor, asked: Tensor, part: str) -> Result:
        order, curve = torch.from_numpy(permutation(self.seed, length=len(labels))), []
        for step in range(_BACKFILL):
            gallery, count = spaces["old"].clone(), round(len(labels) * step / (_BACKFILL - 1))
            gallery[order[:count]] = spaces["orthogonal"][order[:count]]
            curve.append(retrieve(spaces["orthogonal"], gallery, labels, objects, asked, self.chunk)[0])
        values = torch.stack(curve)
        # The area under the curve by trapezia.
        area = (values[1:] + values[:-1]).mean(dim=0) / 2
        printed = " ".join(f"{float(one):.3f}" for one in values.mean(dim=1))
        error = self.bootstrap.mean_error(area, objects[asked])
        return Result("compatibility/backfill", part, float(area.mean()), error, f"at 0 to 100 %: {printed}")


def has_relevant(labels: Tensor, objects: Tensor) -> Tensor:
    """Whether there is another object with the label of the row, `(M,)`, bool."""
    pairs = torch.unique(torch.stack((labels, objects), dim=1), dim=0)
    return torch.bincount(pairs[:, 0], minlength=int(labels.max()) + 1)[labels] > 1


def retrieve(
    queries: Tensor, gallery: Tensor, labels: Tensor, objects: Tensor, asked: Tensor, chunk: int = 256
) -> tuple[Tensor, Tensor]:
    """Whether the most similar row has the label of the query, and the average precision, `(Q,)` each, float64.

    Rows of the query's own object are no candidates. Of equal cosines the lower row comes first.

    Args:
        queries: `(M, D)`, the rows by the encoder of queries.
        gallery: `(M, D)`, the same rows by the encoder of the gallery.
        labels: `(M,)`.
        objects: `(M,)`.
        asked: `(Q,)`, rows that are queries; each must have a candidate of its label.
        chunk: queries compared at a time.
    """
    bank, first, precision = normalize(gallery.float(), dim=1), [], []
    ranks = torch.arange(1, len(bank) + 1, dtype=torch.float64)
    for rows in torch.split(asked, chunk):
        scores = normalize(queries[rows].float(), dim=1) @ bank.T
        own = objects[rows][:, None] == objects[None, :]
        order = scores.masked_fill_(own, -torch.inf).sort(dim=1, descending=True, stable=True).indices
        relevant = ((labels[rows][:, None] == labels[None, :]) & ~own).gather(1, order).double()
        first.append(relevant[:, 0])
        precision.append((relevant.cumsum(dim=1) * relevant / ranks).sum(dim=1) / relevant.sum(dim=1))
    return torch.cat(first), torch.cat(precision)


def average_compatibility(matrix: Tensor) -> float:
    """AC: the share of pairs k < t with M[t, k] > M[k, k], of `(T, T)` (Pernici, Biondi et al., iamcl2r)."""
    pairs = torch.ones_like(matrix).tril(-1).bool()
    return float((matrix > matrix.diagonal()[None, :])[pairs].double().mean())


def average_accuracy(matrix: Tensor) -> float:
    """AM: the mean of the lower triangle with diagonal, of `(T, T)`. The authors' code leaves out zeros first."""
    return float(matrix.double()[torch.ones_like(matrix).tril().bool()].mean())


def relative_gain(cross: float, old: float, new: float) -> float | None:
    """What of the new encoder's gain its queries have in the old gallery: (cross - old) / (new - old); None where there
    is no gain.
    """
    return (cross - old) / (new - old) if abs(new - old) > 1e-6 else None
