"""CAPI: predict from some patches of an image the clusters in which a teacher puts the hidden ones."""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from ssl_inv.catalogue import require, require_above, require_at_least, require_between
from ssl_inv.memories.rolled_masking import RolledMasking
from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.cross_predictor import ClusterHead, CrossPredictor, DirectionHead
from ssl_inv.nn.teacher import Teacher
from ssl_inv.nn.tokens import encode_visible, grid_of_size, patch_grid, require_patch_tokens, take, teacher_tokens
from ssl_inv.objectives.base import Losses, Objective, Term
from ssl_inv.transforms import Group
from ssl_inv.views import Crops, MultiCrop, Views


class CAPI(Objective):
    """Cluster and predict latent patches (Darcet, Baldassarre, Oquab, Mairal, Bojanowski, TMLR 2025, arXiv 2502.08769),
    as the authors' code computes it.

    The teacher f', a moving average of the encoder f, sees the whole image x, and a linear map c gives every patch j
    logits of K clusters. Sinkhorn's algorithm over the samples of the batch makes assignments A_j of them, at each
    position on its own, so that clusters cannot stand for positions. The student sees the patches V, and the predictor
    p asks them, by attention across, about some hidden patches M; d is a linear map of normalised rows:

        A_j = sinkhorn(c(f'(x)_j) / target_temperature),
        L = mean over j of CE(A_j, softmax(c(f'(x)_j) / cluster_temperature))
            + mean over j in M of CE(A_j, softmax(d(p(f(x_V), j)) / student_temperature)).

    The first term trains only c, the second f, p and d. Views are crops with a flip. The backbone is a vision
    transformer of timm whose features are the mean of its patch tokens: `{class_token: false, global_pool: avg,
    fc_norm: false}`; the authors' has rotary positions and 16 registers, which the predictor asks too. The authors
    train c by an optimiser of its own, with half the learning rate; here all have one. After the last step the teacher
    is kept and judged; until then monitors read the student.

    When:
        Features of patches from a vision transformer on plain images, for segmentation and neighbours of patches, in
        long training and large batches. No augmentation of colour. Not for convolutional networks. Not for small
        batches: with far fewer samples than clusters, assignments name the sample and not its content, so take about as
        many clusters as samples of a batch. Not where features must tell how an image was seen.

    Args:
        clusters: K; the paper has 16,384, its batch size.
        hidden_share: share of the patches that the student does not see.
        predicted_share: share of the hidden patches that are predicted; 0.05 in the authors' code, 8 of 166.
        mask_seed: seed of the masks; each mask also depends on step and sample.
        predictor_depth: number of the predictor's blocks.
        predictor_heads: of the predictor's attention; 0 takes the backbone's number.
        target_temperature: divides the teacher's logits before Sinkhorn's algorithm.
        cluster_temperature: divides the teacher's logits in the first term.
        student_temperature: divides the student's logits.
        sinkhorn_iterations: number of normalisations over samples and clusters.
        momentum: of the moving average after its warm-up; it rises to 1 along half a cosine.
        momentum_warmup: share of all steps in which the momentum falls linearly from 1; 0 for none.
        keep: which network's weights become the backbone's after the last step.
    """

    least_batch = 2
    teacher: Teacher
    token_predictor: CrossPredictor

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        clusters: int = 16384,
        hidden_share: float = 0.65,
        predicted_share: float = 0.05,
        mask_seed: int = 0,
        predictor_depth: int = 12,
        predictor_heads: int = 0,
        target_temperature: float = 0.06,
        cluster_temperature: float = 0.12,
        student_temperature: float = 0.12,
        sinkhorn_iterations: int = 3,
        momentum: float = 0.999,
        momentum_warmup: float = 0.1,
        keep: Literal["teacher", "student"] = "teacher",
    ) -> None:
        super().__init__()
        require_at_least(2, clusters=clusters)
        require_at_least(1, sinkhorn_iterations=sinkhorn_iterations)
        require_at_least(0, predictor_heads=predictor_heads)
        require_above(0, target_temperature=target_temperature, cluster_temperature=cluster_temperature)
        require_above(0, student_temperature=student_temperature)
        require_between(0, 1, momentum=momentum)
        problem = f"must be a share of all steps from 0 to below 1, got {momentum_warmup}"
        require(0 <= momentum_warmup < 1, "momentum_warmup", problem)
        self.masking = RolledMasking(hidden_share, predicted_share, mask_seed)
        self.predictor_shape = (predictor_depth, predictor_heads)
        self.target_temperature, self.sinkhorn_iterations = target_temperature, sinkhorn_iterations
        self.cluster_temperature, self.student_temperature = cluster_temperature, student_temperature
        self.momentum, self.momentum_warmup, self.keep = momentum, momentum_warmup, keep
        self.cluster_head, self.head = ClusterHead(features, clusters), DirectionHead(features, clusters)

    @property
    def plan(self) -> MultiCrop:
        return MultiCrop((Crops(1),))

    def adopt(self, backbone: Backbone) -> None:
        require_patch_tokens(backbone, "capi")
        depth, heads = self.predictor_shape
        self.token_predictor = CrossPredictor(
            backbone.features,
            depth,
            heads or int(backbone.model.blocks[0].attn.num_heads),  # type: ignore[index, union-attr]
        )
        self.teacher = Teacher(backbone)

    def require_size(self, backbone: Backbone, size: int) -> None:
        self.masking.seen(grid_of_size(backbone, size))

    def loss(self, views: Views, backbone: Backbone) -> Losses:
        pixels = views[0].pixels
        grid = patch_grid(backbone, pixels)
        masks = self.masking(views.index, grid, pixels.device)
        hidden = masks.targets[:, 0]
        seen = encode_visible(backbone, pixels, masks.context)
        predicted = self.token_predictor(seen, masks.context, hidden, grid)
        return self.token_loss(teacher_tokens(self.teacher, pixels), predicted, hidden)

    def token_loss(self, tokens: Tensor, predicted: Tensor, patches: Tensor) -> Losses:
        """The terms of the loss.

        Args:
            tokens: the teacher's, of all patches, `(B, N, C)`.
            predicted: tokens of some patches, `(B, m, C)`.
            patches: their numbers, `(B, m)`.
        """
        with torch.autocast(tokens.device.type, enabled=False):
            logits = self.cluster_head(tokens)
            guessed = self.head(predicted)
        assigned = losses.positionwise_sinkhorn(logits, self.target_temperature, self.sinkhorn_iterations)
        wanted = take(assigned, patches)
        return {
            "clustering": Term(losses.assignment_cross_entropy(logits, assigned, self.cluster_temperature)),
            "prediction": Term(losses.assignment_cross_entropy(guessed, wanted, self.student_temperature)),
        }

    def visible_patches(self, views: Views, backbone: Backbone) -> Mapping[int, Tensor]:
        grid = patch_grid(backbone, views[0].pixels)
        return {0: self.masking.visible(views.index, grid)}

    def after_step(self, backbone: Backbone, step: int, steps: int) -> None:
        self.teacher.follow(backbone, warmed_momentum(self.momentum, self.momentum_warmup, (step - 1) / steps))
        self.masking.advance(step, steps)
        if step == steps and self.keep == "teacher":
            backbone.load_state_dict(self.teacher.network.state_dict())


def warmed_momentum(momentum: float, warmup: float, share: float) -> float:
    """A momentum that falls linearly from 1 to `momentum` in the warm-up, then rises to 1 along half a cosine.

    Args:
        momentum: the smallest.
        warmup: share of all steps.
        share: of all steps that are done.
    """
    if share < warmup:
        return 1 - (1 - momentum) * share / warmup
    return 1 - (1 - momentum) * (1 + math.cos(math.pi * (share - warmup) / (1 - warmup))) / 2
