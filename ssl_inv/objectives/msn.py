"""MSN: predict from masked views and small crops the prototypes that an EMA of the network finds in a full view."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ssl_inv.catalogue import require, require_above, require_at_least, require_between, require_widths
from ssl_inv.memories.progress import Progress
from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.heads import PrototypeHead
from ssl_inv.nn.teacher import Teacher
from ssl_inv.nn.tokens import grid_of_patches
from ssl_inv.objectives.base import Losses, Objective, Term
from ssl_inv.objectives.multi_crop import area_range, by_crop, encode_by_size
from ssl_inv.transforms import Group, keyed_random
from ssl_inv.views import Crops, MultiCrop, Views


class MSN(Progress, Objective):
    """Masked siamese networks (Assran et al., ECCV 2022, eq. 1 and sec. 3), as the authors' code computes it.

    The target is one view by the augmentation. Anchors are further such views with some patches dropped, and small
    crops. With z the normalised embedding of an anchor, z+ the teacher's of the target, and c the prototypes, of length
    one,

        p = softmax(z . c / T),  p+ = sinkhorn(softmax(z+ . c / (T sharpening))),

        L = mean CE(p+, p) + mean_entropy (log K - H(mean p)) + entropy mean H(p),

    where H is the entropy, and means are over anchors and samples.

    Sinkhorn's algorithm and the mean are over the global batch. Everything is computed in logarithms, where small
    probabilities stay finite. The teacher is a moving average of backbone and head, without dropout and stochastic
    depth; the prototypes are the student's. Each sample has its own dropped patches; in the authors' code all samples
    share them. The backbone is a vision transformer, with the argument `dynamic_img_size: true` for small crops. After
    the last step the teacher is kept and judged, as in the paper; until then monitors read the student.

    When:
        Vision transformers on plain images, above all where few labels will be available later; dropped patches make
        steps cheap. Not for convolutional networks. Not where classes are far from equally frequent, since all
        prototypes must be used equally. Not where features must tell how an image was seen.

    Args:
        random_views: number of anchors as large as the target, with patches dropped.
        patch_drop: share of their patches that is dropped.
        focal_views: number of anchors that are small crops.
        focal_size: side of these crops in pixels.
        focal_scale: smallest and largest share of the image's area that a small crop takes.
        projector: widths of the head's MLP; the last is the dimension of the prototypes.
        batch_norm: whether the head's hidden layers have batch normalisation.
        prototypes: K.
        temperature: T, divides the cosine similarities.
        sharpening: multiplies the temperature of the targets.
        sinkhorn_iterations: number of normalisations of the targets over samples and prototypes; 0 leaves targets as
            they are.
        mean_entropy: weight of the term that makes all prototypes equally used.
        entropy: weight of the term that makes each anchor choose one prototype; the authors' code has it, their
            settings leave it out.
        momentum: of the teacher in the first step; it rises to 1 linearly.
        keep: which network's weights become the backbone's after the last step.
        seed: of the dropped patches, with the step, the sample and the view.
    """

    teacher: Teacher

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        random_views: int = 1,
        patch_drop: float = 0.15,
        focal_views: int = 10,
        focal_size: int = 96,
        focal_scale: list[float] = [0.05, 0.3],
        projector: list[int] = [2048, 2048, 256],
        batch_norm: bool = True,
        prototypes: int = 1024,
        temperature: float = 0.1,
        sharpening: float = 0.25,
        sinkhorn_iterations: int = 3,
        mean_entropy: float = 1.0,
        entropy: float = 0.0,
        momentum: float = 0.996,
        keep: Literal["teacher", "student"] = "teacher",
        seed: int = 0,
    ) -> None:
        super().__init__()
        require_at_least(0, mean_entropy=mean_entropy, entropy=entropy)
        require_widths(projector=projector)
        require_at_least(2, prototypes=prototypes)
        require_above(0, temperature=temperature, sharpening=sharpening)
        require_at_least(0, sinkhorn_iterations=sinkhorn_iterations)
        problem = f"must be a share of the patches from 0 to below 1, got {patch_drop}"
        require(0 <= patch_drop < 1, "patch_drop", problem)
        require_between(0, 1, momentum=momentum)
        self._plan = _plan(random_views, focal_views, focal_size, focal_scale)
        self.random_views, self.patch_drop, self.seed = random_views, patch_drop, seed
        self.temperature, self.sharpening, self.sinkhorn_iterations = temperature, sharpening, sinkhorn_iterations
        self.mean_entropy, self.entropy, self.momentum, self.keep = mean_entropy, entropy, momentum, keep
        self.head = PrototypeHead(features, projector, prototypes, batch_norm)

    @property
    def plan(self) -> MultiCrop:
        return self._plan

    def adopt(self, backbone: Backbone) -> None:
        needed = ("num_prefix_tokens", "patch_embed", "patch_drop")
        has_patches = all(getattr(backbone.model, name, None) is not None for name in needed)
        problem = f"msn drops patch tokens, but {backbone.architecture} has none; choose a vision transformer"
        require(has_patches, "name", problem)
        if not isinstance(backbone.model.patch_drop, nn.Identity):
            raise ValueError(
                f"msn drops patches, but {backbone.architecture} drops some itself; leave patch_drop_rate at 0"
            )
        self.teacher = Teacher(self._embedding(backbone))

    def _embedding(self, backbone: Backbone) -> nn.Module:
        return nn.Sequential(backbone, self.head.layers)

    def loss(self, views: Views, backbone: Backbone) -> Losses:
        targets = self.teacher(views[0].pixels)
        anchors = views.views[1:]
        features = []
        if self.random_views:
            pixels = torch.cat([view.pixels for view in anchors[: self.random_views]])
            features.append(encode_some(backbone, pixels, self._kept(views.index.cpu().numpy(), backbone, pixels)))
        if small := anchors[self.random_views :]:
            features.append(encode_by_size(backbone, small))
        return self.embedding_loss(by_crop(self.head.layers(torch.cat(features)), len(anchors)), targets)

    def embedding_loss(self, anchors: Tensor, targets: Tensor) -> Losses:
        """The terms of the loss from embeddings of the anchors `(V, B, D)` and of the target `(B, D)`."""
        with torch.autocast(anchors.device.type, enabled=False):
            logits = self.head.similarities(losses.unit_rows(anchors))
            pairs = losses.distillation(logits, self._assignments(targets)[None], self.temperature)
            terms = {"prediction": Term(pairs.mean())}
            logarithms = (logits / self.temperature).log_softmax(dim=-1).flatten(0, 1)
            if self.mean_entropy:
                terms["mean_entropy"] = Term(losses.logarithmic_mean_entropy_gap(logarithms), self.mean_entropy)
            if self.entropy:
                terms["entropy"] = Term(-losses.sample_mean((logarithms.exp() * logarithms).sum(dim=1)), self.entropy)
        return terms

    @torch.no_grad()
    def _assignments(self, targets: Tensor) -> Tensor:
        """Probabilities `(B, K)` of the target's embeddings."""
        logits = self.head.similarities(losses.unit_rows(targets)) / (self.temperature * self.sharpening)
        # The algorithm begins with probabilities: it divides first by sums over samples, then by sums over prototypes.
        return losses.sinkhorn(logits.log_softmax(dim=1), 1.0, self.sinkhorn_iterations)

    def _kept(self, index: NDArray[np.int64], backbone: Backbone, pixels: Tensor) -> Tensor | None:
        """The numbers of the patches that each view keeps, `(V B, N')`; None if all are kept."""
        if not self.patch_drop:
            return None
        height, width = grid_of_patches(backbone, pixels)
        view = np.repeat(np.arange(self.random_views), len(index))
        key = (self.seed, self.steps_done, np.tile(index, self.random_views), view)
        kept = keyed_random.bits(*key, count=height * width).argsort(axis=1)[
            :, : max(1, int(height * width * (1 - self.patch_drop)))
        ]
        return torch.from_numpy(np.ascontiguousarray(kept)).to(pixels.device, non_blocking=True)

    def visible_patches(self, views: Views, backbone: Backbone) -> Mapping[int, Tensor]:
        pixels = views[0].pixels
        kept = self._kept(views.index.cpu().numpy(), backbone, pixels)
        if kept is None:
            return {}
        height, width = grid_of_patches(backbone, pixels)
        visible = torch.zeros(len(kept), height * width, dtype=torch.bool).scatter_(1, kept.cpu(), True)
        return dict(enumerate(visible.view(self.random_views, -1, height, width), start=1))

    def after_step(self, backbone: Backbone, step: int, steps: int) -> None:
        self.teacher.follow(self._embedding(backbone), self.momentum + (1 - self.momentum) * step / steps)
        self.advance(step, steps)
        if step == steps and self.keep == "teacher":
            backbone.load_state_dict(self.teacher.network.get_submodule("0").state_dict())


def _plan(random_views: int, focal_views: int, size: int, scale: list[float]) -> MultiCrop:
    if min(random_views, focal_views) < 0 or random_views + focal_views == 0:
        raise ValueError(f"random_views and focal_views must make one or more, got {random_views} and {focal_views}")
    shares = area_range("focal_scale", scale)
    require_at_least(1, focal_size=size)
    full = Crops(1 + random_views)
    return MultiCrop((full, Crops(focal_views, size, shares)) if focal_views else (full,))


def encode_some(backbone: Backbone, pixels: Tensor, kept: Tensor | None) -> Tensor:
    """Pooled features `(B, D)` of a vision transformer that sees some of the patches.

    Args:
        backbone: the transformer, which must not drop patches itself.
        pixels: `(B, 3, H, W)`.
        kept: numbers of the patches that it sees, `(B, N')`; they keep their positions. None for all.
    """

    def keep(module: nn.Module, inputs: Any, tokens: Tensor) -> Tensor:
        assert kept is not None
        prefix: Any = backbone.model.num_prefix_tokens
        chosen = tokens[:, prefix:].gather(1, kept[:, :, None].expand(-1, -1, tokens.shape[2]))
        return torch.cat((tokens[:, :prefix], chosen), dim=1)

    if kept is None:
        return backbone(pixels)  # type: ignore[no-any-return]
    place: Any = backbone.model.patch_drop
    return backbone.encode(pixels, (place, keep)).pooled
