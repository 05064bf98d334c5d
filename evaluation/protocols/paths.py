"""Path integration: does what an encoder makes of a sequence of views know where the sequence led, and what it was told
on the way?

Every sequence is M observed views of one object and one more, with the actions from each to the next. Two regressions
start from one vector of the observed views, the mean of their features or the aggregate that the encoder's own network
makes of them and of their M - 1 actions:

- `path`: with the last action beside it, to the action that leads straight from the first view to the last one (Ghaemi
et al., "seq-JEPA",
  NeurIPS 2025). The M actions composed are the answer, so with one observed view it stands among the inputs, and a
  mean, which was told the last action only, has to see the rest. What an aggregate owes to the images and what to the
  actions shows where it goes without either.
- `leak`: from the vector alone, to the last action that the aggregate was told. Features of a whole object that are
said to be invariant
  should not know it.

The heads are those of `ssl_inv.evaluation.protocols.transforms_r2`, on a fixed draw of sequences; the actions are
canonical.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ssl_inv.evaluation.features import FeatureTable
from ssl_inv.evaluation.protocols.aggregation import Aggregate, aggregate_of, aggregates, mean_of
from ssl_inv.evaluation.protocols.transforms_r2 import VALIDATION_EPOCH, Draws, TransformR2Settings, transform_r2
from ssl_inv.evaluation.results import DEFAULT_BOOTSTRAP, Bootstrap, Result
from ssl_inv.transforms import Action, Real, Transform, require
from ssl_inv.transforms.keyed_random import permutation


@dataclass(frozen=True)
class PathSettings:
    """Which sequences are drawn.

    Attributes:
        observed: numbers of observed views M, each measured on its own; empty for none.
        sequences: random sequences of every object, the same in all epochs of the regression.
    """

    observed: tuple[int, ...] = ()
    sequences: int = 8


def path_integration(
    train: FeatureTable,
    validation: FeatureTable,
    aggregate: Aggregate | None,
    paths: PathSettings,
    regression: TransformR2Settings,
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
    shuffled: int | None = None,
) -> list[Result]:
    """R2 of both regressions for every number of observed views; `path/rotation` and `leak/rotation` where rotations
    are recorded.

    Args:
        train: sequences that the heads are fitted to; its part "all" is read.
        validation: sequences of other objects.
        aggregate: the encoder's own network; without one there is the mean alone.
        paths: which sequences.
        regression: the heads, and of which parameters; its `kinds` and `convention` have no meaning here.
        bootstrap: how standard errors are estimated.
        shuffled: seed by which training targets are exchanged between sequences; None leaves them where they belong.
    """
    train, validation = train.ordered(), validation.ordered()
    names = [require(name, train.transform.values) for name in regression.parameters or train.transform.names]
    if not names:
        return [Result("path", "all", None, detail="the data record no transform")] if paths.observed else []
    head, results = replace(regression, kinds=("absolute",), parameters=None), []
    for observed in paths.observed:
        of_both = (train, 0), (validation, VALIDATION_EPOCH)
        drawn = [
            _Drawn(table, _sequences(table, observed, paths.sequences, regression.seed, epoch), names)
            for table, epoch in of_both
        ]
        if not all(len(one.rows) for one in drawn):
            results.append(Result("path", mean_of(observed), None, detail=f"no object has {observed + 1} views"))
            continue
        for measure in ("path", "leak") if observed > 1 else ("path",):
            fitted, judged = (
                one.path(aggregate, shuffled is None) if measure == "path" else one.leak(aggregate) for one in drawn
            )
            fitted = fitted if shuffled is None else _exchanged(fitted, shuffled)
            for part in fitted.features:
                results += _named(transform_r2(fitted, judged, part, head, bootstrap), measure)
    return results


def _sequences(table: FeatureTable, observed: int, count: int, seed: int, epoch: int) -> Tensor:
    """Rows `(S, observed + 1)` of an ordered table: `count` sequences of different views of every object that has so
    many.
    """
    return Draws(table, observed + 1, count, seed).epoch(epoch)


def _named(results: list[Result], measure: str) -> Iterator[Result]:
    """The headline numbers under the name of the measurement; the pooled form has no published counterpart here."""
    for result in results:
        if result.name.startswith(prefix := "r2/absolute/"):
            yield replace(result, name=f"{measure}/{result.name.removeprefix(prefix)}")


def _exchanged(table: FeatureTable, seed: int) -> FeatureTable:
    order = torch.from_numpy(permutation(seed, length=len(table)))
    return replace(table, transform=table.transform.select(order))


@dataclass(frozen=True)
class _Drawn:
    """Random sequences of views.

    Attributes:
        table: where the views stand.
        rows: of the table, `(S, M + 1)`.
        names: parameters that are regressed.
    """

    table: FeatureTable
    rows: Tensor
    names: list[str]

    @property
    def observed(self) -> int:
        return self.rows.shape[1] - 1

    def path(self, aggregate: Aggregate | None, without: bool) -> FeatureTable:
        """Vectors of the observed views beside the last action, and where the whole way leads.

        Args:
            aggregate: the encoder's own network.
            without: whether it is also asked without images and without actions.
        """
        last = self._action(-2, -1).as_vector(self.names)
        parts = {mean_of(self.observed): torch.cat((self._mean(), last), dim=1)}
        if aggregate is not None:
            name = aggregate_of(self.observed)
            parts[name] = torch.cat((self._aggregates(aggregate), last), dim=1)
            if without:
                parts[f"{name}, no images"] = torch.cat((self._aggregates(aggregate, images=False), last), dim=1)
                parts[f"{name}, no actions"] = self._aggregates(aggregate, actions=False)
        return self._with_targets(parts, self._action(0, -1))

    def leak(self, aggregate: Aggregate | None) -> FeatureTable:
        """Vectors of the observed views, and the last action among these."""
        parts = {mean_of(self.observed): self._mean()}
        if aggregate is not None:
            parts[aggregate_of(self.observed)] = self._aggregates(aggregate)
        return self._with_targets(parts, self._action(-3, -2))

    def _with_targets(self, parts: dict[str, Tensor], action: Action) -> FeatureTable:
        targets = {name: action.as_vector([name]) for name in self.names}
        groups = {name: Real(dimensions=target.shape[1]) for name, target in targets.items()}
        return FeatureTable(
            parts,
            self.table.objects[self.rows[:, 0]],
            torch.arange(len(self.rows)),
            transform=Transform(targets, groups),
        )

    def _action(self, start: int, end: int) -> Action:
        first, second = (self.table.transform.select(self.rows[:, view]) for view in (start, end))
        return first.relative(second)

    def _mean(self) -> Tensor:
        features = self.table.part("all")
        return torch.stack([features[view] for view in self.rows[:, :-1].T]).mean(dim=0)

    def _aggregates(self, aggregate: Aggregate, images: bool = True, actions: bool = True) -> Tensor:
        return aggregates(self.table, self.rows[:, :-1], aggregate, images, actions)
