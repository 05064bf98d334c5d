"""Few-shot episodes: classes known from a few objects each, by the nearest prototype."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ssl_inv.evaluation.features import FeatureTable
from ssl_inv.evaluation.protocols.base import Encoded, Protocol, shuffle_targets
from ssl_inv.evaluation.protocols.sampling import one_view_each
from ssl_inv.evaluation.results import Result
from ssl_inv.transforms.keyed_random import bits, distinct

_SUPPORT = 2
"""Separates the draws of objects from those of classes."""


@dataclass(frozen=True)
class FewShot(Protocol):
    """Accuracy of the nearest prototype in episodes on validation objects, whose classes nothing was fitted to.

    An episode draws classes, and of each some support objects and other query objects, one random view each. The
    prototype of a class is the mean of its support features of length 1, again with length 1; a query belongs to the
    prototype of the highest cosine (OBoW, Gidaris et al., CVPR 2021; 50 classes, 1 query). The paper has 200 episodes;
    600 give a narrower interval.

    What it orders wrongly: episodes share objects, so the deviation over episodes is too small an error; the error here
    is over query objects. Accuracy falls with the number of classes: compare equal ones. It favours features whose
    classes are round.

    Attributes:
        ways: classes in an episode; cut to the classes with enough objects.
        shots: support objects of a class; one result for each.
        queries: query objects of a class.
        episodes: number of episodes.
        seed: draws them.
    """

    ways: int = 50
    shots: tuple[int, ...] = (1, 5)
    queries: int = 1
    episodes: int = 600
    seed: int = 0

    headlines: ClassVar[tuple[str, ...]] = ("few_shot/1-shot", "few_shot/5-shot")

    def run(self, encoded: Encoded) -> Iterator[Result]:
        validation = encoded.validation
        labelled = one_view_each(validation.select(validation.labelled_rows()), seed=self.seed)
        for part in encoded.parts:
            for shots in self.shots:
                yield self._measure(labelled, part, shots)

    def shuffled(self, encoded: Encoded, seed: int) -> Iterator[Result]:
        """The same with the labels of validation objects exchanged, because nothing is fitted to training objects."""
        return self.run(replace(encoded, validation=shuffle_targets(encoded.validation, seed)))

    def _measure(self, table: FeatureTable, part: str, shots: int) -> Result:
        name = f"few_shot/{shots}-shot"
        if not len(table) or table.labels is None:
            return Result(name, part, None, detail="the data have no labels")
        counts = torch.unique(table.labels, return_counts=True)[1]
        if (enough := int((counts >= shots + self.queries).sum())) < 2:
            detail = f"needs two classes with {shots + self.queries} validation objects, got {enough}"
            return Result(name, part, None, detail=detail)
        support, queries = self.draw(table.labels, shots)
        features, ways = table.part(part), support.shape[1]
        size = max((1 << 24) // (ways * (shots + self.queries) * features.shape[1]), 1)
        chunks = zip(torch.split(support, size), torch.split(queries, size), strict=True)
        hits = torch.cat([prototype_hits(features[known], features[asked]) for known, asked in chunks])
        error = self.bootstrap.mean_error(hits.flatten(), table.objects[queries].flatten())
        of_episode = hits.double().mean(dim=(1, 2))
        narrow = 1.96 * float(of_episode.std()) / len(hits) ** 0.5 if len(hits) > 1 else 0.0
        cut = f", cut from {self.ways}" if ways < self.ways else ""
        detail = f"{ways}-way{cut}, chance {1 / ways:.3f}, {len(hits)} episodes, {narrow:.3f} = 1.96 s / root of them"
        return Result(name, part, float(hits.double().mean()), error, detail)

    def draw(self, labels: Tensor, shots: int) -> tuple[Tensor, Tensor]:
        """Row numbers of support `(episodes, ways, shots)` and queries `(episodes, ways, queries)` among rows of
        different objects with these labels, `(N,)`.
        """
        order = torch.argsort(labels, stable=True)
        counts = torch.unique(labels, return_counts=True)[1]
        starts, usable = counts.cumsum(0) - counts, (counts >= shots + self.queries).nonzero()[:, 0].numpy()
        episodes = np.arange(self.episodes)
        ways = min(self.ways, len(usable))
        chosen = usable[np.argsort(bits(self.seed, episodes, count=len(usable)), axis=1, kind="stable")[:, :ways]]
        key = np.repeat(episodes, ways), chosen.flatten()
        population = counts.numpy()[key[1]]
        drawn = distinct(self.seed, _SUPPORT, shots, *key, population=population, count=shots + self.queries)
        rows = order[starts[torch.from_numpy(key[1])][:, None] + torch.from_numpy(drawn)]
        rows = rows.view(self.episodes, ways, shots + self.queries)
        return rows[..., :shots], rows[..., shots:]


def prototype_hits(support: Tensor, queries: Tensor) -> Tensor:
    """Whether the prototype of the own class has the highest cosine, of equal ones the first: `(E, W, Q)`, bool.

    Args:
        support: `(E, W, S, D)`, S rows of W classes in E episodes.
        queries: `(E, W, Q, D)`.
    """
    prototypes = normalize(normalize(support, dim=-1).mean(dim=2), dim=-1)
    episodes, ways, each, width = queries.shape
    scores = normalize(queries, dim=-1).view(episodes, ways * each, width) @ prototypes.mT
    return scores.argmax(dim=2).view(episodes, ways, each) == torch.arange(ways)[None, :, None]
