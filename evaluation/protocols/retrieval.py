"""Whether a predictor finds the view that an action leads to: MRR and hit rates in an object, error among all views.

The protocol is SIE's (Garrido, Najman, LeCun, ICML 2023). From the embedding of an object's view 0 the predictor makes
the embedding of every view of the object, view 0 included. The source is not normalised; predictions and candidates
are. Chance, with V views that all are candidates: MRR H_V / V, where H_V is the harmonic number, and H@k k / V.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ssl_inv.evaluation.features import FeatureTable
from ssl_inv.evaluation.protocols.base import Encoded, Protocol, shuffle_targets
from ssl_inv.evaluation.results import Result
from ssl_inv.transforms import Action, Rotation, Transform

HIT_RANKS = (1, 2, 5, 10)


@dataclass(frozen=True)
class Retrieval(Protocol):
    """Whether the encoder's own predictor finds the view that an action leads to.

    What it orders wrongly: the encoder decides how far apart candidates are, so that features in which the views of an
    object differ in nothing but the told parameters are found easily; what the predictor was not told is an error that
    nobody can avoid. With few views chance is high. Encoders without a predictor have no number.

    Attributes:
        splits: among `train-train`, `val-val` and `val-all`: queries before the dash, candidates after it. MRR and hit
            rates have a meaning within an object only, so `val-all` has none.
        normalise: whether predictions and candidates are divided by their norm.
        chunk: queries compared at a time; changes memory alone.
    """

    splits: tuple[str, ...] = ("train-train", "val-val", "val-all")
    normalise: bool = True
    chunk: int = 2048

    needs: ClassVar[tuple[str, ...]] = ("predictor",)
    headlines: ClassVar[tuple[str, ...]] = ("retrieval/val-val/mrr", "retrieval/val-val/hit@1")

    def __post_init__(self) -> None:
        if unknown := set(self.splits) - {"train-train", "val-val", "val-all"}:
            raise ValueError(
                f"no retrieval split is called {min(unknown)!r}; there are train-train, val-val and val-all"
            )

    @classmethod
    def quick(cls) -> "Retrieval":
        return cls(splits=("val-val",))

    def run(self, encoded: Encoded) -> Iterator[Result]:
        assert encoded.predictor is not None
        part, predict = encoded.predictor.part, encoded.predictor.predict
        tables = {"train": encoded.train, "val": encoded.validation}
        sets = {name: RetrievalSet.of(table, part) for name, table in tables.items()}
        if not encoded.train.transform.names or any(one.embeddings.shape[1] < 2 for one in sets.values()):
            detail = "needs a recorded transform and two views of most objects"
            yield Result("retrieval", part, None, detail=detail)
            return
        predicted: dict[str, Tensor] = {}
        for split in self.splits:
            queried, among = split.split("-")
            queries = sets[queried]
            if queried not in predicted:
                predicted[queried] = predicted_views(queries, predict, self.chunk)
            if among != "all":
                ranks = view_ranks(predicted[queried], queries.embeddings, self.normalise, self.chunk)
                yield from self._ranks(split, part, ranks)
            candidates = list(sets.values()) if among == "all" else [queries]
            yield self._error(split, part, predicted[queried], queries, candidates)

    def shuffled(self, encoded: Encoded, seed: int) -> Iterator[Result]:
        """The same with shuffled actions, because nothing is fitted here."""
        train, validation = (shuffle_targets(table, seed) for table in (encoded.train, encoded.validation))
        return self.run(replace(encoded, train=train, validation=validation))

    def _ranks(self, split: str, part: str, ranks: Tensor) -> Iterator[Result]:
        views = ranks.shape[1]
        harmonic = float((1 / torch.arange(1, views + 1)).sum())
        rows = {"mrr": ((1 / ranks.double()), harmonic / views)}
        rows |= {f"hit@{k}": ((ranks <= k).double(), k / views) for k in HIT_RANKS if k < views}
        objects = torch.arange(len(ranks)).repeat_interleave(views)
        for name, (value, chance) in rows.items():
            error = self.bootstrap.mean_error(value.flatten(), objects)
            detail = f"chance {chance:.3f}, {len(ranks)} objects of {views} views"
            yield Result(f"retrieval/{split}/{name}", part, float(value.mean()), error, detail)

    def _error(
        self, split: str, part: str, predicted: Tensor, queries: "RetrievalSet", candidates: "list[RetrievalSet]"
    ) -> Result:
        name, rotations = f"retrieval/{split}/pre", queries.rotations()
        known = [found for one in candidates if (found := one.rotations()) is not None]
        if rotations is None or len(known) < len(candidates):
            return Result(name, part, None, detail="needs data that record one rotation")
        bank = torch.cat([one.embeddings.flatten(0, 1) for one in candidates])
        errors = retrieval_errors(
            predicted.flatten(0, 1), rotations, bank, torch.cat(known), self.normalise, self.chunk
        )
        objects = torch.arange(len(predicted)).repeat_interleave(predicted.shape[1])
        return Result(name, part, float(errors.mean()), self.bootstrap.mean_error(errors, objects), "lower is better")


@dataclass(frozen=True)
class RetrievalSet:
    """The same number of views of each of some objects.

    Attributes:
        embeddings: `(N, V, D)`.
        transform: N * V rows, all views of the first object first.
    """

    embeddings: Tensor
    transform: Transform

    @classmethod
    def of(cls, table: FeatureTable, part: str) -> "RetrievalSet":
        """The first V views of every object that has so many, with the V that keeps the most views in all."""
        table = table.ordered()
        counts = torch.unique_consecutive(table.objects, return_counts=True)[1]
        views = max(sorted(set(counts.tolist())), key=lambda number: number * int((counts >= number).sum()))
        position = torch.arange(len(table)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
        kept = table.select(((position < views) & (counts >= views).repeat_interleave(counts)).nonzero()[:, 0])
        return cls(kept.part(part).view(-1, views, kept.part(part).shape[1]), kept.transform)

    def rotations(self) -> Tensor | None:
        """The absolute rotation of every view as quaternions `(N * V, 4)`; None unless exactly one is recorded."""
        names = [name for name, group in self.transform.groups.items() if isinstance(group, Rotation)]
        return self.transform[names[0]] if len(names) == 1 else None


def _spans(length: int, chunk: int) -> Iterator[slice]:
    return (slice(start, min(start + chunk, length)) for start in range(0, length, chunk))


@torch.no_grad()
def predicted_views(views_of: RetrievalSet, predict: Callable[[Tensor, Action], Tensor], chunk: int = 2048) -> Tensor:
    """Every view as predicted from view 0 of its object, `(N, V, D)`, not normalised."""
    objects, views, _ = views_of.embeddings.shape
    pieces = []
    for span in _spans(objects * views, chunk):
        target = torch.arange(span.start, span.stop)
        source = target // views * views
        action = views_of.transform.select(source).relative(views_of.transform.select(target))
        pieces.append(predict(views_of.embeddings[source // views, 0], action))
    return torch.cat(pieces).view(objects, views, -1)


def view_ranks(predicted: Tensor, embeddings: Tensor, normalise: bool = True, chunk: int = 2048) -> Tensor:
    """The rank of the true view among the views of its object, by dot product with the prediction, `(N, V)`; 1 is best.

    A view with the same score as the true one counts as better, so an encoder that maps all views to one point is not
    rewarded. So does every view where a score is not a number.

    Args:
        predicted: `(N, V, D)`.
        embeddings: `(N, V, D)`, the candidates.
        normalise: whether both are divided by their norm.
        chunk: about how many predictions are compared at a time.
    """
    ranks = []
    for span in _spans(len(predicted), max(chunk // predicted.shape[1], 1)):
        queries, candidates = predicted[span], embeddings[span]
        if normalise:
            queries, candidates = normalize(queries, dim=-1), normalize(candidates, dim=-1)
        scores = queries @ candidates.mT
        ranks.append((~(scores < scores.diagonal(dim1=1, dim2=2)[..., None])).sum(dim=-1))
    return torch.cat(ranks)


def _nearest(queries: Tensor, candidates: Tensor, chunk: int) -> Tensor:
    """The candidate with the highest dot product for every query, `(M,)`; of equal ones the first."""
    nearest = []
    for span in _spans(len(queries), chunk):
        best = queries.new_full((span.stop - span.start,), -torch.inf)
        index = torch.zeros(len(best), dtype=torch.int64)
        for block in _spans(len(candidates), 16 * chunk):
            score, position = (queries[span] @ candidates[block].T).max(dim=1)
            index = torch.where(score > best, position + block.start, index)
            best = torch.maximum(best, score)
        nearest.append(index)
    return torch.cat(nearest)


def retrieval_errors(
    predicted: Tensor,
    rotations: Tensor,
    candidates: Tensor,
    candidate_rotations: Tensor,
    normalise: bool = True,
    chunk: int = 2048,
) -> Tensor:
    """1 - <q, q'>^2 between the true view's rotation q and that of the prediction's nearest candidate q', `(M,)`.

    0.63 by chance when the three angles lie within 90 degrees.

    Args:
        predicted: `(M, D)`.
        rotations: `(M, 4)`, absolute rotation of the predicted view.
        candidates: `(K, D)`.
        candidate_rotations: `(K, 4)`.
        normalise: whether predictions and candidates are divided by their norm.
        chunk: predictions compared at a time, with 16 times as many candidates.
    """
    if normalise:
        predicted, candidates = normalize(predicted, dim=-1), normalize(candidates, dim=-1)
    nearest = _nearest(predicted, candidates, chunk)
    return 1 - (rotations * candidate_rotations[nearest]).sum(dim=-1).square()
