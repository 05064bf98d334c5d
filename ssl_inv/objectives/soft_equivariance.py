"""Soft equivariance: beside any objective, feature maps learn the symmetries that the data have."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from ssl_inv.catalogue import SettingError, require, require_above, require_at_least, within
from ssl_inv.memories.progress import Progress
from ssl_inv.nn.backbones import Backbone, Cached
from ssl_inv.nn.distributed import all_sum, rank, world_size
from ssl_inv.nn.losses import full_precision
from ssl_inv.nn.parts import Part, require_pooled_channels
from ssl_inv.nn.symmetries import SYMMETRIES, Shifts, Symmetry, permute_back, require_symmetries
from ssl_inv.objectives.around import Around, base_objective, beside
from ssl_inv.objectives.base import Losses, Objective, Term
from ssl_inv.transforms import Group, keyed_random
from ssl_inv.views import Views


class SoftEquivariance(Progress, Around):
    """Any objective with the projection-based equivariance regulariser (Kim, Lee, Yang, Lee, ICML 2023, 2306.00356),
    adapted to image encoders.

    Let f be the backbone's last feature map of the base objective's first view x, and rho_i(g) the action on maps of an
    element g of the i-th candidate group. Then

        L = L_base + sum_i lambda_i R_i,  R_i = E_{x, g} |f(x) - rho_i(g)^-1 f(g x)|^2 / (2 Var f),

    where Var f is the sum of the variances of the map's numbers; each channel's variance is taken over images and
    positions. R_i is 0 if f is equivariant, and 1 if f(g x) is unrelated to f(x). Once, in step T,

        lambda_i <- lambda_i / (r_i / min_j r_j)^power,

    with r_i the smallest R_i of all steps between the warm-up and T. If the base objective needs to break a symmetry,
    or the images do not have it, R_i stays high and the group's weight falls.

    The paper penalises weights, |W - P_i W|^2 / 2, where P_i is the projection onto equivariant maps. Here the function
    f takes the place of W: P_i f = mean_g rho_i(g)^-1 f(g x). For linear f and white images, R_i is |W - P_i W|^2 /
    |W|^2 times n / (n - 1), where n is the order of the group and g is any element but the identity. A penalty on
    weights does not suit image encoders: normalisation makes their scale meaningless, a strided layer on an even number
    of pixels commutes with no turn whatever its weights, and the patches of a transformer have entirely different
    layers. The division by the variance keeps f from shrinking. R_i comes from the steps' batches, so r_i is the
    smallest of noisy values; the paper's has no noise.

    In each step, every group has an equal share of the batch and one element. Together, one more image per sample
    passes the backbone, in a separate batch, so the running statistics of batch normalisation include it.

    When:
        It is unknown which symmetries the images have, and one run should try several: textures, microscopy and aerial
        images have turns, photographs have flips. It needs no record of how views were made and goes with any
        objective. Not for a symmetry that is known to hold, for which augmentation or an equivariant network is
        simpler; nor for one whose elements the features must tell apart, unless channels are `regular`.

    Args:
        base: the objective, a mapping with its `name` and settings. If it drops patches, whole images pass the backbone
            in addition. For `ibot`, whose masked patches keep their positions, maps of masked images are compared with
            maps of whole ones.
        symmetries: the candidate groups. `turns` by quarters; `flips` of left and right; `hues` permutes red, green and
            blue cyclically; `shifts` by whole cells of the map, cyclic.
        channels: the action of groups on channels, besides moving positions of the map. `trivial` is none: pooled
            features become invariant. `regular` permutes channels within blocks of one channel for each element:
            pooled features are permuted too and tell elements apart; shifts stay trivial. Turns and flips then act
            together as the symmetries of a square. Hues do not commute with either on the same channels, and no
            features can have both: name hues alone.
        strength: lambda of every group at the start.
        power: how strongly the strengths separate; the paper has 2, and 5 in one case.
        warmup: share of all steps that r_i ignores at the start; the paper's is 50 steps.
        adapt_at: T as a share of all steps; at 1, strengths stay equal during training. The paper has 100 to 2,500
            epochs.
        seed: decides the elements.
    """

    base: Objective
    strengths: Tensor
    penalties: Tensor
    least: Tensor

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        base: Annotated[dict[str, Any], "objective"],
        symmetries: list[str] = ["turns", "flips", "hues"],
        channels: Literal["trivial", "regular"] = "trivial",
        strength: float = 1.0,
        power: float = 2.0,
        warmup: float = 0.05,
        adapt_at: float = 0.25,
        seed: int = 0,
    ) -> None:
        require_symmetries(symmetries)
        require_above(0, strength=strength)
        require_at_least(0, power=power)
        if not 0 <= warmup < adapt_at <= 1:
            raise ValueError(
                f"warmup and adapt_at are shares of all steps, 0 <= warmup < adapt_at <= 1, got {warmup} and {adapt_at}"
            )
        super().__init__(base=base_objective(features, groups, **base))
        self.symmetries = {name: SYMMETRIES[name] for name in symmetries}
        self.regular, self.power, self.seed = channels == "regular", power, seed
        self.warmup, self.adapt_at = warmup, adapt_at
        self.register_buffer("strengths", torch.full((len(symmetries),), strength))
        self.register_buffer("penalties", torch.zeros(len(symmetries)))
        self.register_buffer("least", torch.zeros(len(symmetries)))
        self.least_batch = max(self.least_batch, len(symmetries))
        self._batches = 0

    def require_size(self, backbone: Backbone, size: int) -> None:
        super().require_size(backbone, size)
        sides = backbone.places(size)
        for number, one in enumerate(self.symmetries.values()):
            element = self._element(number, one, sides)
            with within("symmetries"):
                one.move(torch.zeros(1, backbone.in_channels, size, size), element, sides)

    def loss(self, views: Views, backbone: Backbone) -> Losses:
        cached = Cached(backbone)
        # A part with all channels: gradients then add up in the same order as in earlier versions.
        terms = self.base.loss(views, Part(cached, backbone.channels))
        penalties = self.symmetry_penalties(views[0].pixels, cached)
        # The mean over all micro-batches of a step.
        self._batches += 1
        self.penalties.lerp_(penalties.detach(), 1 / self._batches)
        weighted = zip(self.symmetries, (self.strengths * penalties).unbind(), strict=True)
        told = {
            f"strength_of_{name}": Term(value, 0.0)
            for name, value in zip(self.symmetries, self.strengths.clone(), strict=True)
        }
        return beside(terms, {**{f"equivariance_to_{name}": Term(value) for name, value in weighted}, **told})

    def symmetry_penalties(self, pixels: Tensor, backbone: Cached) -> Tensor:
        """R of every group on the global batch, for one element that this step draws.

        Args:
            pixels: `(B, 3, H, W)`.
            backbone: the images may have passed it already.
        """
        maps = full_precision(backbone.whole_map(pixels))
        sides = (maps.shape[2], maps.shape[3])
        count, batch = len(self.symmetries), world_size() * len(pixels)
        if batch < count:
            raise SettingError("batch_size", f"{batch}, but each of the {count} symmetries needs an image of its own")
        rows = [slice((number - rank() * len(pixels)) % count, None, count) for number in range(count)]
        elements = [self._element(number, one, sides) for number, one in enumerate(self.symmetries.values())]
        parts = [
            one.move(pixels[some], g, sides)
            for one, g, some in zip(self.symmetries.values(), elements, rows, strict=True)
        ]
        moved = torch.split(full_precision(backbone.whole_map(torch.cat(parts))), [len(part) for part in parts])
        errors = [
            (maps[some] - self._back(one, other, g)).square().sum() / len(range(number, batch, count))
            for number, (one, other, g, some) in enumerate(
                zip(self.symmetries.values(), moved, elements, rows, strict=True)
            )
        ]
        return all_sum(torch.stack(errors)) / (2 * _summed_variance(maps))

    def _element(self, number: int, symmetry: Symmetry, sides: tuple[int, int]) -> int:
        """Any element but the identity, the same on all processes."""
        if (others := symmetry.order(sides) - 1) < 1:
            raise SettingError("symmetries", "a feature map of one cell has no shifts; leave `shifts` out")
        return 1 + int(keyed_random.bits(self.seed, self.steps_done, number, count=1)[0, 0] % others)

    def _back(self, symmetry: Symmetry, maps: Tensor, element: int) -> Tensor:
        """rho(g)^-1 of maps."""
        maps = symmetry.move_back(maps, element)
        if not self.regular or isinstance(symmetry, Shifts):
            return maps
        return permute_back(maps, element, symmetry.order((maps.shape[2], maps.shape[3])))

    def after_step(self, backbone: Backbone, step: int, steps: int) -> None:
        super().after_step(backbone, step, steps)
        self.advance(step, steps)
        self._batches = 0
        first = int(self.warmup * steps) + 1
        last = max(first, round(self.adapt_at * steps))
        if first <= step <= last:
            self.least.copy_(self.penalties if step == first else torch.minimum(self.least, self.penalties))
        if step == last:
            # If one penalty is zero, all other strengths become zero; the quotient of two zeros is one.
            least = self.least.clamp_min(torch.finfo(self.least.dtype).tiny)
            self.strengths.div_((least / least.min()) ** self.power)

    def adopt(self, backbone: Backbone) -> None:
        require_pooled_channels(backbone)
        colours = backbone.in_channels == 3 or "hues" not in self.symmetries
        found = f"`hues` permutes red, green and blue, and images have {backbone.in_channels} channel(s); leave it out"
        require(colours, "symmetries", found)
        super().adopt(backbone)


def _summed_variance(maps: Tensor) -> Tensor:
    """The variance of each channel over images and positions of the global batch, summed over the map; above 0."""
    count = world_size() * len(maps) * maps.shape[2] * maps.shape[3]
    centred = maps - all_sum(maps.sum(dim=(0, 2, 3), keepdim=True)) / count
    variance = all_sum(centred.square().sum()) / (world_size() * len(maps))
    return variance.clamp_min(torch.finfo(variance.dtype).tiny)
