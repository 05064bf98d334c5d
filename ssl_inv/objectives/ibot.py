"""iBOT: DINO, with the same prediction for patches that the student does not see."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ssl_inv.catalogue import SettingError, require, require_at_least, require_between
from ssl_inv.memories.centring import CentredTargets
from ssl_inv.memories.progress import Progress
from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.heads import PrototypeHead
from ssl_inv.nn.teacher import Teacher, cosine_momentum
from ssl_inv.nn.tokens import encode_tokens, grid_of_patches
from ssl_inv.objectives.base import Losses, Objective, Term
from ssl_inv.objectives.multi_crop import (
    by_crop,
    encode_by_size,
    global_and_local,
    mean_of_different_crops,
    require_distillation_settings,
    require_shares_of_steps,
)
from ssl_inv.transforms import Group, keyed_random
from ssl_inv.views import MultiCrop, Views

Masks = NDArray[np.bool_]


class IBOT(Progress, Objective):
    """Image BERT pretraining with an online tokeniser (Zhou et al., ICLR 2022, eq. 2 and 3), as the authors' code
    computes it.

    A learnt token replaces blocks of patches in the student's two global crops. DINO's loss compares the pooled
    features of different crops. In addition, the student predicts for every masked patch of a global crop the teacher's
    output for it; the teacher sees the patch:

        L = image_weight L_DINO + patch_weight mean over global crops and samples of the mean over masked patches of
            CE(softmax((t_patch - c_patch) / teacher_temperature), softmax(s_patch / student_temperature)).

    A sample without masked patches counts with 0. The centre c_patch is the moving average over all patches. The
    teacher is a moving average of backbone and heads, without dropout and stochastic depth. The backbone is a vision
    transformer, with the argument `dynamic_img_size: true` for local crops. Schedules advance by the step; the authors'
    advance by the epoch. After the last step the teacher is kept and judged, as in the paper; until then monitors read
    the student.

    When:
        Dense features and classes from a vision transformer on plain images: patches are trained, not only the pooled
        vector. Not for convolutional networks, which have no masked patches. Not on small budgets, where DINO alone is
        cheaper. Not where features must tell how an image was seen.

    Args:
        local_crops: number of small crops of a sample, besides two global ones of the augmentation's size and scale.
        local_size: side of local crops in pixels.
        local_scale: smallest and largest share of the image's area that a local crop takes.
        projector: widths of the heads' MLP; the last is the dimension of the prototypes.
        prototypes: number of prototypes.
        shared_head: whether one head serves images and patches.
        unit_norm: whether all prototypes have length one.
        frozen_prototypes: share of all steps in which the prototypes are frozen; in the paper, its first epoch of 800.
        mask_probability: share of the global crops that are masked.
        mask_share: smallest and largest share of the patches that are masked in such a crop; the paper has 0.3 plus or
            minus 0.2.
        mask_seed: seed of the masks; each mask also depends on step, sample and crop.
        student_temperature: divides the student's logits.
        teacher_temperature: divides the teacher's logits after the warm-up.
        warmup_temperature: divides the teacher's logits in the first step.
        temperature_warmup: share of all steps in which the teacher's temperature changes linearly from the first to the
            second; 30 epochs of 800 in the paper.
        centre_momentum: of the centres, in each step.
        momentum: of the teacher in the first step; it rises to 1 along half a cosine.
        image_weight: of the loss on pooled features.
        patch_weight: of the loss on masked patches.
        keep: which network's weights become the backbone's after the last step.
    """

    backbone_teacher: Teacher
    head_teacher: Teacher

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        local_crops: int = 10,
        local_size: int = 96,
        local_scale: list[float] = [0.05, 0.4],
        projector: list[int] = [2048, 2048, 256],
        prototypes: int = 8192,
        shared_head: bool = True,
        unit_norm: bool = True,
        frozen_prototypes: float = 0.00125,
        mask_probability: float = 0.5,
        mask_share: list[float] = [0.1, 0.5],
        mask_seed: int = 0,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.07,
        warmup_temperature: float = 0.04,
        temperature_warmup: float = 0.0375,
        centre_momentum: float = 0.9,
        momentum: float = 0.996,
        image_weight: float = 1.0,
        patch_weight: float = 1.0,
        keep: Literal["teacher", "student"] = "teacher",
    ) -> None:
        super().__init__()
        require_at_least(0, image_weight=image_weight, patch_weight=patch_weight)
        require_distillation_settings(projector, prototypes, student_temperature, momentum)
        require_shares_of_steps(frozen_prototypes=frozen_prototypes, temperature_warmup=temperature_warmup)
        require_between(0, 1, mask_probability=mask_probability)
        in_order = len(mask_share) == 2 and 0 <= mask_share[0] <= mask_share[1] < 1
        require(in_order, "mask_share", f"must be a smallest and a largest share from 0 to below 1, got {mask_share}")
        self.crops = global_and_local(local_crops, local_size, local_scale)
        self.mask_probability, self.mask_seed = mask_probability, mask_seed
        self.mask_share = (mask_share[0], mask_share[1])
        self.student_temperature, self.momentum = student_temperature, momentum
        self.frozen_prototypes, self.keep = frozen_prototypes, keep
        self.weights = (image_weight, patch_weight)
        self.mask_token = nn.Parameter(torch.zeros(features))
        heads = (
            PrototypeHead(features, projector, prototypes, unit_norm=unit_norm) for _ in range(1 if shared_head else 2)
        )
        self.heads = nn.ModuleList(heads)
        schedule = (centre_momentum, teacher_temperature, warmup_temperature, temperature_warmup)
        self.image_targets = CentredTargets(prototypes, *schedule)
        self.patch_targets = CentredTargets(prototypes, *schedule)

    @property
    def plan(self) -> MultiCrop:
        return self.crops

    def adopt(self, backbone: Backbone) -> None:
        if not hasattr(backbone.model, "num_prefix_tokens") or not hasattr(backbone.model, "patch_embed"):
            raise SettingError(
                "name", f"ibot masks patch tokens, but {backbone.architecture} has none; choose a vision transformer"
            )
        if not isinstance(getattr(backbone.model, "patch_drop", nn.Identity()), nn.Identity):
            raise ValueError(
                f"ibot masks patches, but {backbone.architecture} drops some itself; leave patch_drop_rate at 0"
            )
        # Tokens may be wider than the features, where this objective has a part of the channels.
        self.mask_token = nn.Parameter(torch.zeros(int(backbone.model.embed_dim)))  # type: ignore[arg-type]
        self.backbone_teacher, self.head_teacher = Teacher(backbone), Teacher(self.heads)

    def loss(self, views: Views, backbone: Backbone) -> Losses:
        pixels = torch.cat([view.pixels for view in views.views[:2]])
        masks = self._masks(views.index.cpu().numpy(), grid_of_patches(backbone, pixels))
        where = torch.from_numpy(masks).to(pixels.device, non_blocking=True)
        masked = torch.from_numpy(np.flatnonzero(masks)).to(pixels.device, non_blocking=True)
        image_targets, patch_targets = self._targets(pixels, masked)
        pooled, patches = encode_tokens(backbone, pixels, where, self.mask_token)
        if len(views) > 2:
            pooled = torch.cat((pooled, encode_by_size(backbone, views.views[2:])))
        logits = by_crop(self.heads[0](pooled), len(views))
        predicted = self.heads[-1](patches.flatten(0, 1).index_select(0, masked))
        image, patch = self.weights
        pairs = losses.distillation(logits, image_targets, self.student_temperature)
        return {
            "image": Term(mean_of_different_crops(pairs), image),
            "patch": Term(losses.patch_distillation(predicted, patch_targets, where, self.student_temperature), patch),
        }

    @torch.no_grad()
    def _targets(self, pixels: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
        """The teacher's probabilities for both crops `(2, B, K)` and for the masked patches `(M, K)`."""
        teacher, heads = self.backbone_teacher.network, self.head_teacher.network
        assert isinstance(teacher, Backbone)
        assert isinstance(heads, nn.ModuleList)
        pooled, patches = encode_tokens(teacher, pixels)
        image_logits = heads[0](pooled)
        head: Any = heads[-1]
        embedded = head.embed(patches).flatten(0, 1)
        image_targets = self.image_targets(image_logits)
        patch_targets = self.patch_targets(head.similarities(embedded[masked]))
        self.image_targets.put(image_logits.mean(dim=0, dtype=self.image_targets.centre.dtype))
        # Logits are linear in embeddings, so their mean over all patches is the logits of the mean embedding.
        mean = embedded.mean(dim=0, dtype=self.mask_token.dtype)
        with torch.autocast(mean.device.type, enabled=False):
            self.patch_targets.put(head.similarities(mean))
        return by_crop(image_targets, 2), patch_targets

    def _masks(self, index: NDArray[np.int64], grid: tuple[int, int]) -> Masks:
        """Which patches of both global crops are masked, `(2 B, N)`."""
        crop = np.repeat(np.arange(2), len(index))
        key = (self.mask_seed, self.steps_done, np.tile(index, 2), crop)
        chance, share = keyed_random.uniform(*key, 0, count=2).T
        low, high = self.mask_share
        counts = (grid[0] * grid[1] * (low + (high - low) * share)).astype(np.int64)
        return block_masks(np.where(chance < self.mask_probability, counts, 0), grid, (*key, 1)).reshape(len(crop), -1)

    def visible_patches(self, views: Views, backbone: Backbone) -> Mapping[int, Tensor]:
        grid = grid_of_patches(backbone, views[0].pixels)
        masks = torch.from_numpy(self._masks(views.index.cpu().numpy(), grid)).view(2, -1, *grid)
        return dict(enumerate(~masks))

    def held(self, step: int, steps: int) -> Iterable[nn.Parameter]:
        heads = [head for head in self.heads if isinstance(head, PrototypeHead)]
        frozen = (step - 1) / steps < self.frozen_prototypes
        return [parameter for head in heads for parameter in head.prototype_parameters()] if frozen else ()

    def after_step(self, backbone: Backbone, step: int, steps: int) -> None:
        momentum = cosine_momentum(self.momentum, step, steps)
        self.backbone_teacher.follow(backbone, momentum)
        self.head_teacher.follow(self.heads, momentum)
        for targets in (self.image_targets, self.patch_targets):
            targets.flush()
            targets.warm_up(step / steps)
        self.advance(step, steps)
        if step == steps and self.keep == "teacher":
            backbone.load_state_dict(self.backbone_teacher.network.state_dict())


_ATTEMPTS, _ROUNDS = 10, 60


def block_masks(counts: NDArray[np.int64], grid: tuple[int, int], key: tuple[Any, ...]) -> Masks:
    """Masks of at most `counts[b]` patches each, in blocks, `(B, height, width)`.

    The area of a block is uniform from (shorter side // 3)^2 to the number of patches still wanted; the logarithm of
    its aspect ratio is uniform between those of 0.3 and 1 / 0.3. A block is taken if it is smaller than the image in
    both directions, masks a new patch, and does not mask too many. A mask is complete when it has its count or when ten
    blocks in a row were not taken (BEiT, ICLR 2022, algorithm 1; iBOT's code).

    Args:
        counts: `(B,)`.
        grid: patches along height and width.
        key: of the random numbers; holds arrays of length B.
    """
    height, width = grid
    draws = keyed_random.uniform(*key, count=4 * _ROUNDS).reshape(len(counts), _ROUNDS, 4)
    masks = np.zeros((len(counts), height, width), dtype=np.bool_)
    rows, columns = np.arange(height)[:, None], np.arange(width)
    failures, smallest = np.zeros_like(counts), (min(grid) // 3) ** 2
    for area, ratio, down, right in draws.transpose(1, 2, 0):
        wanted = counts - masks.sum(axis=(1, 2))
        if not ((wanted > 0) & (failures < _ATTEMPTS)).any():
            break
        area = smallest + (wanted - smallest) * area
        aspect = np.exp((2 * ratio - 1) * math.log(1 / 0.3))
        tall, wide = (np.rint(np.sqrt(np.maximum(area, 0) * one)).astype(np.int64) for one in (aspect, 1 / aspect))
        top, left = (
            (free * (space - side + 1)).astype(np.int64)
            for free, space, side in ((down, height, tall), (right, width, wide))
        )
        top, left, bottom, far = (one[:, None, None] for one in (top, left, top + tall, left + wide))
        blocks = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < far) & ~masks
        new = blocks.sum(axis=(1, 2))
        taken = (tall < height) & (wide < width) & (new > 0) & (new <= wanted) & (failures < _ATTEMPTS)
        masks |= blocks & taken[:, None, None]
        failures = np.where(taken, 0, failures + 1)
    return masks
