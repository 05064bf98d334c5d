"""NPID: tell every image from all others by their stored vectors in a bank."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from ssl_inv.catalogue import require_above, require_at_least, require_widths
from ssl_inv.memories.bank import Bank
from ssl_inv.memories.draws import spread
from ssl_inv.memories.progress import Progress
from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.heads import mlp
from ssl_inv.objectives.base import Losses, PairLoss, PairObjective, Term
from ssl_inv.transforms import Group
from ssl_inv.transforms.keyed_random import sample_keys
from ssl_inv.views import Crops, MultiCrop, Views


class NPID(Progress, PairObjective):
    """Non-parametric instance discrimination (Wu, Xiong, Yu, Lin, CVPR 2018, eq. 2).

    With z the normalised projection of the one view of image i, and v_1, ..., v_N the bank's vectors of all images,

        L = -log (exp(z . v_i / T) / (exp(z . v_i / T) + sum over M others j of exp(z . v_j / T))).

    The paper estimates the sum over all N by noise-contrastive estimation with a proximal term. Here, as in later
    codes, only the M others stand in the softmax. After the step the bank is updated: v_i becomes (1 - m) v_i + m z, at
    length one. It begins with random vectors.

    When:
        An instance-discrimination baseline that needs one view, one network and no large batch; and a base for
        InterCLR. Not where accuracy matters most: entries are as old as an epoch, and two views with a teacher (MoCo
        v2) do better at twice the cost of a step.

    Args:
        projector: widths of the projector's layers, with ReLU between them and no normalisation.
        negatives: M, drawn from the bank for each image; all others where there are fewer.
        temperature: T, divides the cosine similarities.
        bank_renewal: m, the share of a stored vector that a step renews.
        bank_precision: of the stored vectors.
        bank_place: `host` keeps the bank out of the GPU's memory.
        seed: of the drawn negatives, with the step and the image.
    """

    bank: Bank

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        projector: list[int] = [128],
        negatives: int = 65536,
        temperature: float = 0.07,
        bank_renewal: float = 0.5,
        bank_precision: Literal["fp32", "fp16"] = "fp32",
        bank_place: Literal["device", "host"] = "device",
        seed: int = 0,
    ) -> None:
        super().__init__()
        require_widths(projector=projector)
        require_at_least(1, negatives=negatives)
        require_above(0, temperature=temperature)
        self.projector = mlp((features, *projector))
        self.dimensions, self.negatives, self.temperature, self.seed = projector[-1], negatives, temperature, seed
        self.bank_renewal, self.bank_precision, self.bank_place = bank_renewal, bank_precision, bank_place

    @property
    def plan(self) -> MultiCrop:
        return MultiCrop((Crops(1),))

    def allocate(self, objects: int, images: int) -> None:
        self.bank = Bank(objects, self.dimensions, self.bank_renewal, self.bank_precision, self.bank_place)

    def pair(self, views: Views, backbone: Backbone) -> PairLoss:
        z = self.embed(views[0].pixels, backbone)
        return PairLoss(self.embedding_loss(z.embeddings, views.index), z, z)

    def embedding_loss(self, z: Tensor, index: Tensor) -> Losses:
        """The loss from projections `(B, D)` of the images `index`, `(B,)`; the projections enter the bank after the
        step.
        """
        z, own = losses.unit_rows(z), index.to(z.device, non_blocking=True).unsqueeze(1)
        self.bank.put(index, z.detach())
        with torch.autocast(z.device.type, enabled=False):
            similarity = self.bank.similarity(z, torch.cat((own, self._others(index, own)), dim=1))
            return {"instance": Term(losses.contrast(similarity[:, 0], similarity[:, 1:], self.temperature))}

    def _others(self, index: Tensor, own: Tensor) -> Tensor:
        others = len(self.bank) - 1
        keys = sample_keys(index, own.device, self.seed, self.steps_done)
        drawn = spread(keys, torch.full_like(keys, others), min(self.negatives, others))
        return drawn + (drawn >= own).long()

    def after_step(self, backbone: Backbone, step: int, steps: int) -> None:
        self.bank.flush()
        self.advance(step, steps)
