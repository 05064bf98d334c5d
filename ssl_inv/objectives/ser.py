"""SER: beside any objective, early tokens are equivariant to turns, mirrors and sizes, token by token."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_inv.catalogue import SettingError, require, require_above, require_at_least, require_widths
from ssl_inv.memories.progress import Progress
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.distributed import gather, rank, world_size
from ssl_inv.nn.losses import full_precision
from ssl_inv.nn.teacher import Teacher
from ssl_inv.nn.token_moves import Grid, Move, carried
from ssl_inv.objectives.around import Around, base_objective, beside
from ssl_inv.objectives.base import Losses, Objective, Term
from ssl_inv.transforms import Group, keyed_random
from ssl_inv.views import Plan, SameCrop, Several, View, Views

_AREAS, _ASPECTS = (0.1, 4.0), (0.25, 4.0)
"""From which to which value `area` and `aspect` may go."""


class SER(Progress, Around):
    """Soft equivariance regularisation of an early layer (arXiv 2603.06693, ICLR 2026).

    For a share of the samples, two more views show one crop of the image in different colours. View 0 is moved by g_0
    and view 1 by g_1: half-turns, mirrors, sizes and quarter turns. F is the map of an early layer, behind a head that
    works token by token. The step from g_0 to g_1 is known and acts on maps exactly, up to the size:

        L = L_base + weight (l(g_1 g_0^-1 F'_0, F_1) + l(g_0 g_1^-1 F'_1, F_0)) / 2,
        l(T, S) = mean_s -log(exp(cos(s, t_s) / tau) / (exp(cos(s, t_s) / tau) + sum_t exp(cos(s, t) / tau))),

    where t_s is the token of T at the place of s, and the sum is over the tokens of all other samples of the global
    batch. F' is the map of the base's teacher, behind the same head. If the base has no teacher, F' is F and the loss
    is l(g_1 g_0^-1 F_0, F_1), as the authors have it for Barlow Twins.

    Half-turns and mirrors are drawn for each sample, sizes and quarter turns for a step. View 1 has the half-turns and
    mirrors that view 0 has not, so one step holds for all samples.

    Departures: in the authors' code the base objective is given the moved views in place of the usual ones of these
    samples; here it keeps its own views of all samples. Their transformer joins its class token behind the early
    blocks; use a transformer without class token for that. In their released code no gradient of the second term
    arrives (their processes gather tokens without it), so it is open how much of the published gain is the term's;
    compare with `weight: 0`.

    When:
        An invariant objective should lose none of its classes and become somewhat more equivariant and robust to moves
        in the plane. Neither records of the views nor a predictor are needed, and a step costs little more, since a
        small share of the samples passes a few layers. Not for rotations in space, colours or anything but turns,
        mirrors and sizes. Not if the last features are to tell how an image was seen: a later layer tells more about it
        and less about classes.

    Args:
        base: the objective, a mapping with its `name` and settings.
        layer: the number of the transformer's block, or of the convolutional network's stage as timm lists them with
            the stem of a ResNet as the first; the paper has block 3 of 12.
        token_head: widths of the head's linear maps, behind a layer normalisation; GELU between them, no bias.
        weight: of the second term; 0 leaves the base alone, for comparison. The authors have 1 with MoCo v3 and Barlow
            Twins, 0.3 with DINO.
        temperature: tau; the authors have 0.5 with MoCo v3, 0.4 with DINO and Barlow Twins in their run script, and
            0.3, 0.5 and 0.3 in the paper.
        share: of the samples that have the moved views; at least two samples have them.
        area: smallest and largest number of cells of a moved view's map, as a share of the usual one's, from 0.1 to 4.
        aspect: smallest and largest height over width of a moved view, from 0.25 to 4.
        seed: decides the moves.
    """

    base: Objective

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        base: Annotated[dict[str, Any], "objective"],
        layer: int = 3,
        token_head: list[int] = [512, 512],
        weight: float = 1.0,
        temperature: float = 0.5,
        share: float = 0.01,
        area: list[float] = [0.7, 1.3],
        aspect: list[float] = [0.75, 1.3333],
        seed: int = 0,
    ) -> None:
        require_at_least(1, layer=layer)
        require_widths(token_head=token_head)
        require_at_least(0, weight=weight)
        require_above(0, temperature=temperature)
        require(0 < share <= 1, "share", f"must be a share of the samples, above 0 and at most 1, got {share}")
        # A step costs as many times as much as a view has cells, and a thin view has no shape to tell.
        for name, ends, least, most in (("area", area, *_AREAS), ("aspect", aspect, *_ASPECTS)):
            fits = len(ends) == 2 and least <= ends[0] <= ends[1] <= most
            require(fits, name, f"must be the smallest and the largest, from {least:g} to {most:g}, got {ends}")
        super().__init__(base=base_objective(features, groups, **base))
        self.layer, self.widths, self.weight, self.temperature = layer, token_head, weight, temperature
        self.share, self.area, self.aspect, self.seed = share, area, aspect, seed
        self.least_batch = max(self.least_batch, 2)
        self.cell = 1

    @property
    def plan(self) -> Plan:
        base = self.base.plan
        if isinstance(base, Several):
            return Several((*base.plans, SameCrop()), (*base.choices, None))
        return Several((base, SameCrop()), (None, None))

    def adopt(self, backbone: Backbone) -> None:
        super().adopt(backbone)
        layers = getattr(backbone.model, "feature_info", ())
        usable = bool(len(layers)) and hasattr(backbone.model, "forward_intermediates")
        if not usable:
            raise SettingError("layer", f"{self.layer}, but {backbone.architecture} shows no maps of its layers")
        require(self.layer <= len(layers), "layer", f"{self.layer}, but {backbone.architecture} has {len(layers)}")
        patches: Any = getattr(backbone.model, "patch_embed", None)
        if getattr(patches, "strict_img_size", False) and not self.area[0] == self.area[1] == 1 == self.aspect[0]:
            wanted = "give the network {dynamic_img_size: true}, or area and aspect [1, 1]"
            raise SettingError("area", f"makes views of several sizes, and {backbone.architecture} takes one; {wanted}")
        found = layers[self.layer - 1]
        self.cell = int(found["reduction"])
        self.token_head = _token_head(int(found["num_chs"]), self.widths)

    def require_size(self, backbone: Backbone, size: int) -> None:
        super().require_size(backbone, size)
        self._cells((size, size))

    def loss(self, views: Views, backbone: Backbone) -> Losses:
        terms = self.base.loss(self._views_of_base(views), backbone)
        own = views.views[-2:]
        return beside(terms, {"token_equivariance": Term(self._token_loss(own, views.index, backbone), self.weight)})

    def _views_of_base(self, views: Views) -> Views:
        return replace(views, views=views.views[:-2])

    def visible_patches(self, views: Views, backbone: Backbone) -> Mapping[int, Tensor]:
        return super().visible_patches(self._views_of_base(views), backbone)

    def _token_loss(self, views: tuple[View, ...], index: Tensor, backbone: Backbone) -> Tensor:
        mine, kept = shared_rows(len(index), self.share)
        moves = self.moves(index[mine], (views[0].pixels.shape[2], views[0].pixels.shape[3]), views[0].pixels.device)
        moved = [move.images(view.pixels[mine], self.cell) for move, view in zip(moves, views, strict=True)]

        def together(maps: Tensor) -> Tensor:
            return gather(full_precision(self.tokens(maps)))[kept]

        students = [together(backbone.early_map(pixels, self.layer)) for pixels in moved]
        if (teacher := self._teacher()) is None:
            return token_contrast(carried(students[0], *moves), students[1], self.temperature)
        with torch.no_grad():
            maps = [teacher.early_map(pixels, self.layer) for pixels in moved]
        targets = [together(one) for one in maps]
        first = token_contrast(carried(targets[0], *moves), students[1], self.temperature)
        second = token_contrast(carried(targets[1], *moves[::-1]), students[0], self.temperature)
        return (first + second) / 2

    def tokens(self, maps: Tensor) -> Tensor:
        """What the head makes of maps `(B, C, h, w)`, each token alone: `(B, D, h, w)`."""
        return self.token_head(maps.movedim(1, -1)).movedim(-1, 1)  # type: ignore[no-any-return]

    def _teacher(self) -> Backbone | None:
        """The backbone of the base's teacher, if there is one."""
        teachers = (one for one in self.base.modules() if isinstance(one, Teacher))
        inside = (one for teacher in teachers for one in teacher.modules() if isinstance(one, Backbone))
        return next(inside, None)

    def moves(self, index: Tensor, sides: Grid, device: torch.device) -> tuple[Move, Move]:
        """The moves of both views in this step.

        Args:
            index: numbers of the samples, `(B,)`, on the host.
            sides: height and width of the views in pixels.
            device: where the bits of the samples are.
        """
        bits = keyed_random.bits(self.seed, self.steps_done, index.numpy(), count=2) >> 63
        half_turns, mirrors = torch.from_numpy(bits.astype(bool)).to(device, non_blocking=True).unbind(1)
        drawn = keyed_random.uniform(self.seed, self.steps_done, 0x5E2, count=6)[0]
        cells = self._cells(sides)
        grids, quarters = [], []
        for area, aspect, turn in drawn.reshape(2, 3):
            count = cells * (self.area[0] + (self.area[1] - self.area[0]) * area)
            ratio = self.aspect[0] * (self.aspect[1] / self.aspect[0]) ** aspect
            grids.append((max(1, round(math.sqrt(count * ratio))), max(1, round(math.sqrt(count / ratio)))))
            quarters.append(int(4 * turn))
        first = Move(half_turns, mirrors, grids[0], quarters[0])
        return first, first.opposite(grids[1], quarters[1])

    def _cells(self, sides: Grid) -> int:
        """How many cells the usual view's map has."""
        cells = (sides[0] // self.cell) * (sides[1] // self.cell)
        problem = f"{self.layer}, whose cells of {self.cell} pixels are larger than views of {min(sides)}"
        require(cells > 0, "layer", problem)
        return cells

    def after_step(self, backbone: Backbone, step: int, steps: int) -> None:
        super().after_step(backbone, step, steps)
        self.advance(step, steps)


def _token_head(channels: int, widths: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = [nn.LayerNorm(channels)]
    for width in widths:
        layers += [nn.Linear(channels, width, bias=False), nn.GELU()]
        channels = width
    return nn.Sequential(*layers[:-1])


def shared_rows(batch: int, share: float) -> tuple[list[int], list[int]]:
    """Some rows of the global batch, evenly spaced, the same on any number of processes.

    Args:
        batch: rows of this process.
        share: of all rows; there are at least two, if the batch has them.

    Returns:
        The rows of this process, as many on each: a process with fewer repeats one. And which rows count once all are
        gathered.
    """
    every = batch * world_size()
    count = min(max(2, round(share * every)), every)
    owned: list[list[int]] = [[] for _ in range(world_size())]
    for number in range(count):
        process, row = divmod(number * every // count, batch)
        owned[process].append(row)
    most = max(map(len, owned))
    kept = [process * most + place for process, rows in enumerate(owned) for place in range(len(rows))]
    mine = owned[rank()]
    return mine + [mine[-1] if mine else 0] * (most - len(mine)), kept


def token_contrast(targets: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """Cross entropy of finding each token's target among the targets of all other samples, mean over tokens.

    Other targets of the same sample do not count.

    Args:
        targets: `(B, C, h, w)`.
        tokens: of the same shape.
        temperature: divides cosine similarities.
    """
    with torch.autocast(tokens.device.type, enabled=False):
        t, s = (F.normalize(one.flatten(2).transpose(1, 2), dim=2) for one in (targets, tokens))
        batch, places, _ = s.shape
        logits = (s.flatten(0, 1) @ t.flatten(0, 1).T / temperature).view(batch, places, batch, places)
        same = torch.eye(batch, dtype=torch.bool, device=s.device)[:, None, :, None]
        here = torch.eye(places, dtype=torch.bool, device=s.device)[None, :, None, :]
        logits = logits.masked_fill(same & ~here, float("-inf")).view(batch * places, -1)
        return F.cross_entropy(logits, torch.arange(len(logits), device=s.device))
