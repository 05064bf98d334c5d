"""NNCLR: the positive of a view is the other view's nearest neighbour in a queue of earlier projections."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from ssl_inv.catalogue import require_above, require_widths
from ssl_inv.memories.queue import Queue
from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.heads import projector as make_projector
from ssl_inv.objectives.base import Losses, PairLoss, PairObjective, Term
from ssl_inv.transforms import Group
from ssl_inv.views import Pair, Views


class NNCLR(PairObjective):
    """Nearest neighbours as positives (Dwibedi et al., "With a little help from my friends", ICCV 2021, eq. 3 and
    algorithm 1).

    With z the projection of a view, p its prediction, and NN(z) the vector most similar to z in a queue of earlier
    projections,

        L = 1/2 CE(cos(NN(z^x), p^y of all samples) / T) + 1/2 CE(cos(NN(z^y), p^x of all samples) / T),

    where the correct class of each row is its own sample. Negatives are the other samples' predictions from the other
    view only. Some codes put the neighbours in place of a view in SimCLR's loss, which adds negatives of the same view:
    that is another loss. Neighbours have no gradient. Projections of the first view enter the queue after the step; the
    queue begins with random vectors.

    When:
        Features for classes on plain images: a positive from another image of the same kind is worth more than one more
        augmentation, so less augmentation is needed. Not on data with few images of each kind, where nearest neighbours
        are of other kinds. Not where features must tell how an image was seen.

    Args:
        projector: widths of the projector's layers, all with normalisation.
        predictor: widths of the predictor's hidden layers.
        queue: number of projections in the queue.
        queue_precision: of the stored projections.
        temperature: T, divides the cosine similarities.
    """

    least_batch = 2

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        projector: list[int] = [2048, 2048, 256],
        predictor: list[int] = [4096],
        queue: int = 98304,
        queue_precision: Literal["fp32", "fp16"] = "fp32",
        temperature: float = 0.1,
    ) -> None:
        super().__init__()
        require_widths(projector=projector)
        require_above(0, temperature=temperature)
        self.temperature = temperature
        self.projector = nn.Sequential(*make_projector(features, projector), nn.BatchNorm1d(projector[-1]))
        self.prediction = make_projector(projector[-1], [*predictor, projector[-1]])
        self.queue = Queue(queue, projector[-1], queue_precision)

    @property
    def plan(self) -> Pair:
        return Pair()

    def pair(self, views: Views, backbone: Backbone) -> PairLoss:
        queries, keys = (self.embed(view.pixels, backbone) for view in views.views)
        x, y = queries.embeddings, keys.embeddings
        predicted = self.prediction(x)
        return PairLoss(self.embedding_loss(x, y, predicted, self.prediction(y)), queries, keys, predicted)

    def embedding_loss(self, x: Tensor, y: Tensor, predicted_x: Tensor, predicted_y: Tensor) -> Losses:
        """The loss from projections and predictions `(B, D)` of both views; the first view's projections enter the
        queue after the step.
        """
        pairs = ((self.neighbours(x), predicted_y), (self.neighbours(y), predicted_x))
        self.queue.put(losses.unit_rows(x))
        first, second = (losses.find_own(neighbours, predicted, self.temperature) for neighbours, predicted in pairs)
        return {"info_nce": Term((first + second) / 2)}

    @torch.no_grad()
    def neighbours(self, projections: Tensor) -> Tensor:
        """The vector of the queue that is most similar to each projection, `(B, D)`."""
        vectors = self.queue.vectors
        with torch.autocast(vectors.device.type, enabled=False):
            # In the queue's own precision, which is enough to find neighbours: a copy in another one would be larger
            # than anything else here.
            return vectors[(losses.unit_rows(projections).to(vectors.dtype) @ vectors.T).argmax(dim=1)]

    def after_step(self, backbone: Backbone, step: int, steps: int) -> None:
        self.queue.flush()
