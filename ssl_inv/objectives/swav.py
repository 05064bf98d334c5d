"""SwAV: predict from one crop of an image the prototypes of another crop, with all prototypes used equally."""

from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_inv.catalogue import require_above, require_at_least, require_widths
from ssl_inv.memories.progress import Progress
from ssl_inv.memories.queue import Queue
from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.distributed import rank, world_size
from ssl_inv.nn.heads import projector as make_projector
from ssl_inv.objectives.base import Embedded, Losses, PairLoss, PairObjective, Term
from ssl_inv.objectives.multi_crop import (
    by_crop,
    encode_by_size,
    global_and_local,
    mean_of_different_crops,
    require_shares_of_steps,
)
from ssl_inv.transforms import Group
from ssl_inv.views import MultiCrop, Views


class SwAV(Progress, PairObjective):
    """Swapping assignments between views (Caron et al., NeurIPS 2020, eq. 1 to 5), as the authors' code computes it.

    With z the normalised projection of a crop, c_1, ..., c_K the prototypes, of length one, and q_t the assignment of
    one of the two global crops t, which Sinkhorn's algorithm makes from z_t . c / sinkhorn_temperature,

        L = mean over pairs of different crops t, s of CE(q_t, softmax(z_s . c / temperature)).

    Assignments are made for the global batch and have no gradient. For small batches, a queue of earlier projections of
    each global crop takes part in them as soon as it is full. Crops of one size go through the backbone together, and
    all crops through the projector, so batch normalisation sees all of them at once, as in the authors' code.
    Prototypes are normalised after every step. Schedules advance by the step; the authors' advance by the epoch.
    Sinkhorn's algorithm runs in logarithms; the authors' may overflow.

    When:
        Features for classes from ResNets on plain images, also with small batches if there is a queue; many crops make
        short training good. Not where data has far fewer kinds of things than prototypes, or is far from balanced,
        since all prototypes must be used equally. Not where features must tell how an image was seen.

    Args:
        local_crops: number of small crops of a sample, besides two global ones of the augmentation's size and scale.
        local_size: side of local crops in pixels.
        local_scale: smallest and largest share of the image's area that a local crop takes.
        projector: widths of the projector's layers; the last is the dimension of the prototypes.
        prototypes: K; the authors' 3,000 are for ImageNet.
        frozen_prototypes: share of all steps in which the prototypes are frozen; the authors' first epoch, here of 800.
        temperature: divides the similarities of predictions.
        sinkhorn_temperature: divides the similarities of assignments; epsilon in the paper.
        sinkhorn_iterations: number of normalisations over samples and prototypes.
        queue: number of projections of each global crop in the queue; 0 for none. The authors have 3,840 for batches of
            256, none for 4,096.
        queue_start: share of all steps after which the queue begins to fill; 15 of 200 epochs in the authors' code.
    """

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        local_crops: int = 6,
        local_size: int = 96,
        local_scale: list[float] = [0.05, 0.14],
        projector: list[int] = [2048, 128],
        prototypes: int = 3000,
        frozen_prototypes: float = 0.00125,
        temperature: float = 0.1,
        sinkhorn_temperature: float = 0.05,
        sinkhorn_iterations: int = 3,
        queue: int = 0,
        queue_start: float = 0.075,
    ) -> None:
        super().__init__()
        require_widths(projector=projector)
        require_at_least(2, prototypes=prototypes)
        require_above(0, temperature=temperature, sinkhorn_temperature=sinkhorn_temperature)
        require_at_least(1, sinkhorn_iterations=sinkhorn_iterations)
        require_at_least(0, queue=queue)
        require_shares_of_steps(frozen_prototypes=frozen_prototypes, queue_start=queue_start)
        self.crops = global_and_local(local_crops, local_size, local_scale)
        self.sinkhorn_temperature, self.sinkhorn_iterations = sinkhorn_temperature, sinkhorn_iterations
        self.temperature = temperature
        self.frozen_prototypes, self.queue_start = frozen_prototypes, queue_start
        self.projector = make_projector(features, projector)
        self.prototypes = nn.Parameter(F.normalize(torch.empty(prototypes, projector[-1]).uniform_(-1, 1), dim=1))
        self.queues = nn.ModuleList(Queue(queue, projector[-1]) for _ in range(2 if queue else 0))

    @property
    def plan(self) -> MultiCrop:
        return self.crops

    def pair(self, views: Views, backbone: Backbone) -> PairLoss:
        features = encode_by_size(backbone, views.views)
        z = Embedded(features, self.projector(features))
        terms = self.embedding_loss(by_crop(losses.unit_rows(z.embeddings), len(views)))
        first, *_, last = z.by_view(len(views))
        return PairLoss(terms, first, last)

    def embedding_loss(self, z: Tensor) -> Losses:
        """The loss from normalised projections `(V, B, D)` of V crops; the two global crops come first."""
        with torch.autocast(z.device.type, enabled=False):
            logits = F.linear(z, self.prototypes)
            targets = torch.stack([self._assignments(logits[crop], crop) for crop in range(2)])
            pairs = losses.distillation(logits, targets, self.temperature)
        if self.share_done >= self.queue_start:
            for queue, projections in zip(self._global_queues(), z, strict=False):
                queue.put(projections)
        return {"swapped": Term(mean_of_different_crops(pairs))}

    @torch.no_grad()
    def _assignments(self, logits: Tensor, crop: int) -> Tensor:
        """Probabilities `(B, K)` from a global crop's logits, together with its queue's."""
        together = torch.cat((logits, *(self._queued(queue) for queue in self._global_queues()[crop : crop + 1])))
        return losses.sinkhorn(together, self.sinkhorn_temperature, self.sinkhorn_iterations)[: len(logits)]

    def _queued(self, queue: Queue) -> Tensor:
        """The logits of this process's share of a full queue; all processes together have each entry once. Empty until
        the queue is full.
        """
        entries = queue.entries() if queue.filled == queue.size else queue.vectors[:0]
        return F.linear(entries.tensor_split(world_size())[rank()], self.prototypes)

    def _global_queues(self) -> list[Queue]:
        return [queue for queue in self.queues if isinstance(queue, Queue)]

    def held(self, step: int, steps: int) -> Iterable[nn.Parameter]:
        return [self.prototypes] if (step - 1) / steps < self.frozen_prototypes else ()

    @torch.no_grad()
    def after_step(self, backbone: Backbone, step: int, steps: int) -> None:
        self.prototypes.copy_(F.normalize(self.prototypes, dim=1))
        self.advance(step, steps)
        for queue in self._global_queues():
            queue.flush()
