"""MoCo v2: find the other view's key, made by a moving average of the network, among a long queue of earlier keys."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from ssl_inv.catalogue import require_above, require_at_least, require_between, require_widths
from ssl_inv.memories.progress import Progress
from ssl_inv.memories.queue import Queue
from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.heads import mlp
from ssl_inv.nn.teacher import Teacher
from ssl_inv.objectives.base import Losses, PairLoss, PairObjective, Term
from ssl_inv.transforms import Group, keyed_random
from ssl_inv.views import Pair, Views


class MoCoV2(Progress, PairObjective):
    """Momentum contrast with a queue (He et al., CVPR 2020, eq. 1), with MoCo v2's head and temperature (Chen et al.,
    arXiv 2003.04297).

    With q the query, the normalised projection of the first view, k the teacher's normalised projection of the second
    view, and n_1, ..., n_K the keys in the queue,

        L = -log (exp(q . k / T) / (exp(q . k / T) + sum_j exp(q . n_j / T))).

    The teacher is a moving average of backbone and projector. Keys have no gradient; the keys of all processes enter
    the queue after the step. The queue begins with random vectors, which are negatives like any other. The authors
    shuffle samples between processes before the teacher, so that statistics of small batches do not reveal which key
    belongs to which query. Here batch normalisation has the statistics of the global batch, equal for all samples, so
    shuffling is not needed.

    Feature transformation (Zhu et al., ICCV 2021, as in its published commands) makes the positive harder and the
    negatives more varied, with two numbers for each step, l = 1 + Beta(a, a) and v ~ Beta(b, b):

        q . k becomes (l q + (1 - l) k) . (l k + (1 - l) q), and n becomes v n + (1 - v) n[permutation].

    When:
        Contrastive training with small batches: negatives come from the queue, not from the batch. The usual baseline
        for transfer to detection. Not where the data set is hardly larger than the queue, since images are then
        negatives of themselves. Not where features must tell how an image was seen.

    Args:
        projector: widths of the projector's layers, with ReLU between them and no normalisation.
        queue: K, number of keys in the queue.
        queue_precision: of the stored keys.
        temperature: T, divides the cosine similarities.
        momentum: of the teacher, in every step; shorter training wants less.
        extrapolation: a, for the extrapolation of the positive pair; 2 in the paper's feature transformation, 0 for
            none.
        interpolation: b, for the mixing of negatives; 1.6 in the paper's feature transformation, 0 for none.
        renormalised: whether transformed features are normalised again, which the published commands do not do.
        seed: of l, v and the permutation, with the step.
    """

    has_teacher = True

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        projector: list[int] = [2048, 128],
        queue: int = 65536,
        queue_precision: Literal["fp32", "fp16"] = "fp32",
        temperature: float = 0.2,
        momentum: float = 0.999,
        extrapolation: float = 0.0,
        interpolation: float = 0.0,
        renormalised: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        require_widths(projector=projector)
        require_above(0, temperature=temperature)
        require_between(0, 1, momentum=momentum)
        require_at_least(0, extrapolation=extrapolation, interpolation=interpolation)
        self.temperature, self.momentum, self.renormalised, self.seed = temperature, momentum, renormalised, seed
        self.extrapolation, self.interpolation = extrapolation, interpolation
        self.projector = mlp((features, *projector))
        self.queue = Queue(queue, projector[-1], queue_precision)

    @property
    def plan(self) -> Pair:
        return Pair()

    def adopt(self, backbone: Backbone) -> None:
        self.teacher = Teacher(self._encoder(backbone))

    def _encoder(self, backbone: Backbone) -> nn.Module:
        return nn.Sequential(backbone, self.projector)

    def pair(self, views: Views, backbone: Backbone) -> PairLoss:
        keys = self.embed_by_teacher(views[1].pixels)
        queries = self.embed(views[0].pixels, backbone)
        return PairLoss(self.embedding_loss(queries.embeddings, keys.embeddings), queries, keys)

    def embedding_loss(self, queries: Tensor, keys: Tensor) -> Losses:
        """The loss from queries and keys `(B, D)`; the keys enter the queue after the step."""
        queries, keys = losses.unit_rows(queries), losses.unit_rows(keys.detach())
        self.queue.put(keys)
        with torch.autocast(queries.device.type, enabled=False):
            negatives = queries @ self._interpolated(self.queue.vectors.to(queries.dtype)).T
            positive = self._positive(queries, keys)
            return {"info_nce": Term(losses.contrast(positive, negatives, self.temperature))}

    def _positive(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Similarities of queries and their keys, `(B,)`, extrapolated away from each other if wished."""
        if self.extrapolation:
            weight = 1 + self._beta(self.extrapolation, 0)
            queries, keys = (
                self._normalised(one) for one in (torch.lerp(keys, queries, weight), torch.lerp(queries, keys, weight))
            )
        return (queries * keys).sum(dim=1)

    def _interpolated(self, vectors: Tensor) -> Tensor:
        """The queue `(K, D)`, each vector mixed with another one if wished."""
        if not self.interpolation:
            return vectors
        key = int(keyed_random.bits(self.seed, self.steps_done, 2, count=1)[0, 0] >> 1)
        order = torch.randperm(
            len(vectors), generator=torch.Generator(vectors.device).manual_seed(key), device=vectors.device
        )
        return self._normalised(torch.lerp(vectors[order], vectors, self._beta(self.interpolation, 1)))

    def _normalised(self, rows: Tensor) -> Tensor:
        return losses.unit_rows(rows) if self.renormalised else rows

    def _beta(self, concentration: float, number: int) -> float:
        """A number from Beta(concentration, concentration), the same on all processes."""
        seed = keyed_random.bits(self.seed, self.steps_done, number, count=1)[0, 0]
        return float(np.random.default_rng(seed).beta(concentration, concentration))

    def after_step(self, backbone: Backbone, step: int, steps: int) -> None:
        self.teacher.follow(self._encoder(backbone), self.momentum)
        self.queue.flush()
        self.advance(step, steps)
