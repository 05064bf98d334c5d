"""Path integration: whether a vector of several views and the actions between them tells where the sequence led.

A sequence is M observed views of one object and one more view, with the actions from each to the next. Two regressions
start from one vector of the observed views. The vector is the mean of their features, or the aggregate that the
encoder's own network computes from them and from their M - 1 actions.

- `path`: from the vector and the last action to the action that leads straight from the first view to the last one
  (Ghaemi et al., "seq-JEPA", NeurIPS 2025). The M actions composed are the answer. So with one observed view the answer
  is among the inputs, and a mean, which is given the last action only, has to find the rest in the features. The parts
  "no images" and "no actions" show what an aggregate owes to either.
- `leak`: from the vector alone to the last action that the aggregate was given. Features of a whole object that are
  said to be invariant should not know it.

The heads are those of `ssl_inv.evaluation.protocols.transforms_r2`, on a fixed draw of sequences. The actions are
canonical.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from ssl_inv.evaluation.aggregation import Aggregate, aggregate_of, aggregates, mean_of
from ssl_inv.evaluation.features import FeatureTable
from ssl_inv.evaluation.protocols.base import Encoded, Protocol, shuffle_targets
from ssl_inv.evaluation.protocols.transforms_r2 import VALIDATION_EPOCH, Draws, TransformR2
from ssl_inv.evaluation.results import Result
from ssl_inv.transforms import Action, Real, Transform, require


@dataclass(frozen=True)
class PathIntegration(Protocol):
    """Whether a vector of several views and the last action tell where a sequence of views led; and what leaks.

    What it orders wrongly: with one observed view the answer is among the inputs. An encoder without a network for
    several views is measured by the mean of its features, which was never trained to hold a path.

    Attributes:
        observed: numbers of observed views M, each measured on its own; empty measures nothing.
        sequences: random sequences of every object, the same in all epochs of the regression.
        heads: the regression heads, and the parameters to regress; None there means the parameters in `Encoded.told`.
            Its `kinds` and `convention` have no meaning here.
    """

    observed: tuple[int, ...] = ()
    sequences: int = 8
    heads: TransformR2 = field(default_factory=TransformR2)

    recipe: ClassVar[Mapping[str, str]] = {"paths": "observed"}

    @classmethod
    def quick(cls) -> "PathIntegration":
        return cls(sequences=2, heads=TransformR2.quick())

    def run(self, encoded: Encoded) -> Iterator[Result]:
        return self._measure(encoded, None)

    def shuffled(self, encoded: Encoded, seed: int) -> Iterator[Result]:
        """The same with training targets exchanged between sequences; aggregates keep their own actions."""
        return self._measure(encoded, seed)

    def _measure(self, encoded: Encoded, seed: int | None) -> Iterator[Result]:
        if not self.observed:
            return
        aggregate, tables = encoded.aggregate, (encoded.train.ordered(), encoded.validation.ordered())
        recorded = tables[0].transform
        names = [require(name, recorded.values) for name in self.heads.parameters or encoded.told or recorded.names]
        if not names:
            yield Result("path", "all", None, detail="the data record no transform")
            return
        head = replace(self.heads, kinds=("absolute",), parameters=None, bootstrap=self.bootstrap, device=self.device)
        for observed in self.observed:
            drawn = [
                _Drawn(table, Draws(table, observed + 1, self.sequences, self.heads.seed).epoch(epoch), names)
                for table, epoch in zip(tables, (0, VALIDATION_EPOCH), strict=True)
            ]
            if not all(len(one.rows) for one in drawn):
                yield Result("path", mean_of(observed), None, detail=f"no object has {observed + 1} views")
                continue
            for measure in ("path", "leak") if observed > 1 else ("path",):
                fitted, scored = (
                    one.path(aggregate, seed is None) if measure == "path" else one.leak(aggregate) for one in drawn
                )
                fitted = fitted if seed is None else shuffle_targets(fitted, seed)
                for part in fitted.features:
                    for result in head.measure(fitted, scored, part):
                        # The pooled form has no published counterpart here.
                        if result.name.startswith(prefix := "r2/absolute/"):
                            yield replace(result, name=f"{measure}/{result.name.removeprefix(prefix)}")


@dataclass(frozen=True)
class _Drawn:
    """Random sequences of views.

    Attributes:
        table: the views.
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
        """Vectors of the observed views and the last action; the target is the action from the first to the last view.

        Args:
            aggregate: the encoder's own network.
            without: whether to add its outputs without images and without actions.
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
        """Vectors of the observed views; the target is the last action between two of them."""
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
