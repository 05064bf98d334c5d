"""What I-JEPA and image world models share: masks of blocks, an encoder of the patches between them, a predictor of those within them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from timm.layers.patch_embed import PatchEmbed
from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed
from timm.models import named_apply
from timm.models.vision_transformer import Block, VisionTransformer, init_weights_vit_timm
from torch import Tensor, nn

from ssl_inv import keyed_random
from ssl_inv.backbones import Backbone
from ssl_inv.distributed import gather, is_distributed
from ssl_inv.heads import mlp
from ssl_inv.precision import in_full_precision
from ssl_inv.some_channels import SomeChannels
from ssl_inv.teacher import Teacher

Grid = tuple[int, int]
"""Patches along height and width; patches are numbered row by row."""

_ATTEMPTS = 20


@dataclass(frozen=True)
class Masks:
    """Which patches of every sample the context encoder sees, and which are predicted.

    Attributes:
        context: `(B, n)`, int64, ascending.
        targets: `(B, M, m)`, int64: M blocks, which may overlap each other but not the context.
    """

    context: Tensor
    targets: Tensor


class BlockMasking(nn.Module):
    """I-JEPA's multi-block masks (Assran et al., CVPR 2023, sec. 3 and appendix A), of keyed random numbers.

    In each step one shape is drawn for all target blocks and one for all contexts, and for every sample where its blocks lie. Its context
    is what the target blocks leave of a block of its own. Contexts with more patches than the smallest of the global batch lose the surplus
    at random, so that all have as many. Where a sample's blocks lie depends on seed, step and sample alone.

    Args:
        blocks: M, target blocks of a sample.
        scale: smallest and largest share of the patches in a target block.
        aspect: smallest and largest height over width of a target block.
        context_scale: smallest and largest share of the patches in the square that the context is taken from.
        least_context: patches; a sample with fewer is drawn anew, up to twenty times, and the draw that leaves most counts.
        seed: decides all masks, with the number of the step and of the sample.

    Attributes:
        steps_done: the number of optimiser steps done. On the host, as reading it from a device would wait for the device.

    Raises:
        ValueError: if a setting is out of its range.
    """

    def __init__(
        self, blocks: int, scale: Sequence[float], aspect: Sequence[float], context_scale: Sequence[float], least_context: int, seed: int
    ) -> None:
        super().__init__()
        for name, value in (("blocks", blocks), ("least_context", least_context)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        for name, share in (("block_scale", scale), ("context_scale", context_scale)):
            if len(share) != 2 or not 0 < share[0] <= share[1] <= 1:
                raise ValueError(f"{name} is a smallest and a largest share of the patches, above 0 and up to 1, got {list(share)}")
        if len(aspect) != 2 or not 0 < aspect[0] <= aspect[1]:
            raise ValueError(f"block_aspect is a smallest and a largest height over width, above 0, got {list(aspect)}")
        self.blocks, self.least_context, self.seed = blocks, least_context, seed
        self.scale, self.aspect, self.context_scale = tuple(scale), tuple(aspect), tuple(context_scale)
        self.steps_done = 0

    def get_extra_state(self) -> int:
        """The number of steps done."""
        return self.steps_done

    def set_extra_state(self, state: int) -> None:
        """Continue after so many steps."""
        self.steps_done = state

    def forward(self, index: Tensor, grid: Grid, device: torch.device) -> Masks:
        """Masks for this step.

        Args:
            index: `(B,)`, the samples' numbers in the data set.
            grid: of the images.
            device: where the masks shall be.

        Raises:
            ValueError: if the target blocks leave some sample no context.
        """
        samples = index.cpu().numpy()
        targets, visible = self.draw(samples, grid)
        smallest = visible.sum(axis=1).min()
        if is_distributed():
            smallest = int(gather(torch.tensor([smallest], device=device)).min())
        if smallest == 0:
            rows, columns = grid
            raise ValueError(f"blocks: {self.blocks} of them can hide all {rows} x {columns} patches of an image; make block_scale smaller")
        surplus_last = np.where(visible, keyed_random.uniform(*self._key(samples, _ATTEMPTS), count=visible.shape[1]), 2.0)
        context = np.sort(surplus_last.argsort(axis=1)[:, :smallest], axis=1)
        return Masks(*(torch.from_numpy(one).to(device, non_blocking=True) for one in (context, targets)))

    def visible(self, index: Tensor, grid: Grid) -> Tensor:
        """The context of every sample before it loses any surplus, `(B, rows, columns)`."""
        return torch.from_numpy(self.draw(index.cpu().numpy(), grid)[1]).view(-1, *grid)

    def predicted(self, index: Tensor, grid: Grid) -> Tensor:
        """The patches of all target blocks together, `(B, rows, columns)`."""
        targets = torch.from_numpy(self.draw(index.cpu().numpy(), grid)[0]).flatten(1)
        return torch.zeros(len(targets), grid[0] * grid[1], dtype=torch.bool).scatter_(1, targets, True).view(-1, *grid)

    def draw(self, samples: NDArray[np.int64], grid: Grid) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The target blocks `(B, M, m)`, and which patches are in the context `(B, N)`; not equally many in all samples.

        Args:
            samples: their numbers in the data set, `(B,)`.
            grid: of the images.
        """
        units = keyed_random.uniform(self.seed, self.steps_done, count=4)[0]
        shapes = block_shape(grid, self.scale, self.aspect, units[:2]), block_shape(grid, self.context_scale, (1.0, 1.0), units[2:])
        targets, visible = self._placed(samples, grid, shapes, 0)
        for attempt in range(1, _ATTEMPTS):
            count = visible.sum(axis=1)
            if (count >= self.least_context).all():
                break
            other_targets, other_visible = self._placed(samples, grid, shapes, attempt)
            better = (count < self.least_context) & (other_visible.sum(axis=1) > count)
            targets[better], visible[better] = other_targets[better], other_visible[better]
        return targets, visible

    def _placed(
        self, samples: NDArray[np.int64], grid: Grid, shapes: tuple[Grid, Grid], attempt: int
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        units = keyed_random.uniform(*self._key(samples, attempt), count=2 * (self.blocks + 1)).reshape(len(samples), -1, 2)
        targets, context = place_blocks(grid, shapes[0], units[:, 1:]), place_blocks(grid, shapes[1], units[:, :1])
        visible = np.zeros((len(samples), grid[0] * grid[1]), dtype=np.bool_)
        np.put_along_axis(visible, context[:, 0], True, axis=1)
        np.put_along_axis(visible, targets.reshape(len(samples), -1), False, axis=1)
        return targets, visible

    def _key(self, samples: NDArray[np.int64], attempt: int) -> tuple[int, int, NDArray[np.int64], int]:
        return self.seed, self.steps_done, samples, attempt


def block_shape(grid: Grid, scale: Sequence[float], aspect: Sequence[float], units: NDArray[np.float64]) -> Grid:
    """Height and width of a block, in patches, no larger than the grid.

    Args:
        grid: of the image.
        scale: smallest and largest share of the patches.
        aspect: smallest and largest height over width.
        units: numbers from [0, 1) for the share and the aspect.
    """
    area = grid[0] * grid[1] * (scale[0] + (scale[1] - scale[0]) * units[0])
    ratio = aspect[0] + (aspect[1] - aspect[0]) * units[1]
    height, width = round(float(np.sqrt(area * ratio))), round(float(np.sqrt(area / ratio)))
    return min(max(height, 1), grid[0]), min(max(width, 1), grid[1])


def place_blocks(grid: Grid, shape: Grid, units: NDArray[np.float64]) -> NDArray[np.int64]:
    """The patches of blocks of one shape, row by row, `(B, M, m)`; `units` are numbers from [0, 1) for top and left, `(B, M, 2)`."""
    top, left = ((units[..., axis] * (grid[axis] - shape[axis] + 1)).astype(np.int64) for axis in (0, 1))
    inside = np.arange(shape[0])[:, None] * grid[1] + np.arange(shape[1])
    return (top * grid[1] + left)[..., None] + inside.ravel()


def require_patch_tokens(backbone: Backbone, objective: str) -> None:
    """Raise a `ValueError` unless the backbone is a vision transformer whose patches can be dropped and whose features are their mean."""
    model: Any = backbone.model
    if isinstance(model, SomeChannels):
        raise ValueError(f"base: {objective} predicts whole tokens, and cannot have some of their channels alone")
    if not isinstance(model, VisionTransformer) or not isinstance(model.patch_embed, PatchEmbed):
        raise ValueError(f"name: {objective} drops patches, which {backbone.architecture} cannot; choose one of timm's vit models")
    if not isinstance(model.patch_drop, nn.Identity):
        raise ValueError(f"arguments: {objective} drops patches, and {backbone.architecture} drops some itself; leave patch_drop_rate at 0")
    if model.global_pool != "avg" or not isinstance(model.fc_norm, nn.Identity):
        wanted = "give the model {class_token: false, global_pool: avg, fc_norm: false}"
        raise ValueError(f"arguments: {objective} trains patch tokens; features of {backbone.architecture} are not their mean; {wanted}")


def patch_grid(backbone: Backbone, pixels: Tensor) -> Grid:
    """Into how many patches the backbone cuts images `(B, 3, H, W)`."""
    model: Any = backbone.model
    rows, columns = model.patch_embed.dynamic_feat_size(tuple(pixels.shape[-2:]))
    return int(rows), int(columns)


def take(tokens: Tensor, patches: Tensor) -> Tensor:
    """The tokens `(B, ..., C)` of some patches `(B, ...)`, out of those of all, `(B, N, C)`."""
    rows = patches.flatten(1).unsqueeze(-1).expand(-1, -1, tokens.shape[-1])
    return tokens.gather(1, rows).view(*patches.shape, tokens.shape[-1])


def encode_visible(backbone: Backbone, pixels: Tensor, patches: Tensor) -> Tensor:
    """Tokens `(B, n, C)` of some patches, by a transformer that is given no others.

    The others are dropped before the first block, after positions were added, so that nothing is computed of them. Class and register
    tokens stay, and are left out of the result.

    Args:
        backbone: a transformer that `require_patch_tokens` accepts.
        pixels: `(B, 3, H, W)`.
        patches: which are seen, `(B, n)`.
    """
    model: Any = backbone.model
    prefix = int(model.num_prefix_tokens)

    def keep(module: nn.Module, inputs: Any, tokens: Tensor) -> Tensor:
        return torch.cat((tokens[:, :prefix], take(tokens[:, prefix:], patches)), dim=1)

    with model.patch_drop.register_forward_hook(keep):
        encoded: Tensor = model.forward_features(pixels)
    return encoded[:, prefix:]


def normalised(tokens: Tensor) -> Tensor:
    """Each token `(..., C)` with mean 0 and variance 1 over its dimensions, at least in float32."""
    return F.layer_norm(tokens.to(torch.promote_types(tokens.dtype, torch.float32)), tokens.shape[-1:])


class TokenPredictor(nn.Module):
    """A narrow vision transformer that makes the tokens of unseen patches of those of seen ones (I-JEPA, sec. 3, "Prediction").

    Seen tokens are mapped to the predictor's width; every unseen patch is asked for by one learnt token. Both have the fixed sine-cosine
    position of their patch added. Each block of unseen patches is predicted on its own, as a sequence with all seen patches. An action is
    put beside every asking token, and three linear layers with ReLU mix the two, the "feature conditioning" of Image World Models.

    Args:
        tokens: C, dimensions of the encoder's tokens.
        width: of the predictor, a multiple of 4 and of `heads`.
        depth: blocks of the transformer.
        heads: of its attention.
        action: K, length of the action vector; 0 for a predictor that is told none.

    Raises:
        ValueError: if the width does not fit, or there is no block.
    """

    def __init__(self, tokens: int, width: int, depth: int, heads: int, action: int = 0) -> None:
        super().__init__()
        if width < 4 or width % 4 or width % heads:
            raise ValueError(f"predictor_width must be a multiple of 4 and of the {heads} attention heads, got {width}")
        if depth < 1:
            raise ValueError(f"predictor_depth must be at least 1, got {depth}")
        self.width = width
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.enter = nn.Linear(tokens, width)
        self.mask_token = nn.Parameter(torch.empty(width))
        self.conditioning = mlp((width + action, width, width, width)) if action else None
        self.blocks = nn.Sequential(*(Block(width, heads, qkv_bias=True, norm_layer=norm) for _ in range(depth)))  # type: ignore[arg-type]
        self.norm = norm(width)
        self.leave = nn.Linear(width, tokens)
        named_apply(init_weights_vit_timm, self)
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        for layer in self.conditioning or ():
            if isinstance(layer, nn.Linear):
                # A transformer's small weights would leave nothing of place and action after three layers without shortcuts.
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, seen: Tensor, context: Tensor, targets: Tensor, grid: Grid, action: Tensor | None = None) -> Tensor:
        """Predicted tokens `(B, M, m, C)`.

        Args:
            seen: tokens of the context, `(B, n, C)`.
            context: their patches, `(B, n)`.
            targets: the patches to predict, `(B, M, m)`.
            grid: that both are numbered in.
            action: `(B, K)`, if the predictor is told any.
        """
        positions = build_sincos2d_pos_embed(list(grid), self.width, device=seen.device, dtype=self.mask_token.dtype)
        asking = self.mask_token + positions[targets]
        if self.conditioning is not None:
            assert action is not None
            action = action[:, None, None].expand(*targets.shape, -1)
            asking = self.conditioning[1:](in_full_precision(self.conditioning[0], asking, action))
        known = (self.enter(seen) + positions[context]).unsqueeze(1).expand(-1, targets.shape[1], -1, -1)
        sequences = torch.cat((known, asking.to(known.dtype)), dim=2).flatten(0, 1)
        made = self.norm(self.blocks(sequences)[:, context.shape[1] :])
        return self.leave(made).unflatten(0, targets.shape[:2])  # type: ignore[no-any-return]


def require_token_settings(predictor_heads: int, momentum: float) -> None:
    """Raise a `ValueError` if a setting that I-JEPA and image world models share is out of its range."""
    if predictor_heads < 0:
        raise ValueError(f"predictor_heads must be at least 0, got {predictor_heads}")
    if not 0 <= momentum <= 1:
        raise ValueError(f"momentum must lie between 0 and 1, got {momentum}")


def make_predictor(backbone: Backbone, width: int, depth: int, heads: int, action: int = 0) -> TokenPredictor:
    """A predictor of the backbone's tokens; `heads` 0 takes as many as the backbone has."""
    model: Any = backbone.model
    return TokenPredictor(int(model.embed_dim), width, depth, heads or int(model.blocks[0].attn.num_heads), action)


@torch.no_grad()
def teacher_tokens(teacher: Teacher, pixels: Tensor) -> Tensor:
    """All patch tokens `(B, N, C)`, without gradient."""
    network = teacher.network
    assert isinstance(network, Backbone)
    return network.tokens(pixels)


def linear_momentum(start: float, step: int, steps: int) -> float:
    """A momentum that rises from `start` at step 0 to 1 at step `steps` along a straight line."""
    return start + (1 - start) * step / steps
