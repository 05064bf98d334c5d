"""Passes through a vision transformer that mask or drop patches, and the token predictor of I-JEPA and IWM."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.patch_embed import PatchEmbed
from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed
from timm.models import named_apply
from timm.models.vision_transformer import Block, VisionTransformer, init_weights_vit_timm
from torch import Tensor, nn

from ssl_inv.catalogue import SettingError, require_at_least, require_between
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.heads import mlp
from ssl_inv.nn.losses import in_full_precision
from ssl_inv.nn.parts import Part
from ssl_inv.nn.teacher import Teacher


def encode_tokens(
    backbone: Backbone, pixels: Tensor, masked: Tensor | None = None, token: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Pooled features `(B, D)` and patch tokens `(B, N, D)` from one pass through a vision transformer.

    Args:
        backbone: the transformer.
        pixels: `(B, 3, H, W)`.
        masked: marks the patch embeddings to replace, `(B, N)`, before positions are added; None replaces none.
        token: the replacement, `(D,)`.
    """

    def replace(module: nn.Module, inputs: Any, embedded: Tensor) -> Tensor:
        assert masked is not None
        assert token is not None
        return torch.where(masked.view(*embedded.shape[:-1], 1), token.to(embedded.dtype), embedded)

    model: Any = backbone.model
    features = backbone.encode(pixels, None if masked is None else (model.patch_embed, replace))
    return features.pooled, features.map


def grid_of_patches(backbone: Backbone, pixels: Tensor) -> tuple[int, int]:
    """Patches along height and width."""
    embed: Any = backbone.model.patch_embed
    (height, width), (patch_height, patch_width) = pixels.shape[-2:], embed.patch_size
    return height // patch_height, width // patch_width


Grid = tuple[int, int]
"""Number of patches along height and width. Patches are numbered row by row."""


def require_patch_tokens(backbone: Backbone, objective: str) -> None:
    """Raise a `SettingError` unless the backbone is a ViT that can drop patches and pools them by their mean."""
    model: Any = backbone.model
    if isinstance(backbone, Part):
        raise SettingError("base", f"{objective} predicts whole tokens and cannot work on some of their channels only")
    if not isinstance(model, VisionTransformer) or not isinstance(model.patch_embed, PatchEmbed):
        raise SettingError(
            "name", f"{objective} drops patches, which {backbone.architecture} cannot; choose one of timm's vit models"
        )
    if not isinstance(model.patch_drop, nn.Identity):
        raise SettingError(
            "arguments",
            f"{objective} drops patches, and {backbone.architecture} drops some itself; leave patch_drop_rate at 0",
        )
    if model.global_pool != "avg" or not isinstance(model.fc_norm, nn.Identity):
        wanted = "give the model {class_token: false, global_pool: avg, fc_norm: false}"
        raise SettingError(
            "arguments",
            f"{objective} trains patch tokens; features of {backbone.architecture} are not their mean; {wanted}",
        )


def patch_grid(backbone: Backbone, pixels: Tensor) -> Grid:
    """The grid of patches into which the backbone cuts images `(B, 3, H, W)`."""
    model: Any = backbone.model
    rows, columns = model.patch_embed.dynamic_feat_size(tuple(pixels.shape[-2:]))
    return int(rows), int(columns)


def grid_of_size(backbone: Backbone, size: int) -> Grid:
    """The grid of patches into which the backbone cuts images of `size` pixels."""
    return patch_grid(backbone, torch.zeros(1, backbone.in_channels, size, size, device="meta"))


def take(tokens: Tensor, patches: Tensor) -> Tensor:
    """The tokens `(B, ..., C)` of some patches `(B, ...)`, from the tokens of all patches `(B, N, C)`."""
    rows = patches.flatten(1).unsqueeze(-1).expand(-1, -1, tokens.shape[-1])
    return tokens.gather(1, rows).view(*patches.shape, tokens.shape[-1])


def encode_visible(backbone: Backbone, pixels: Tensor, patches: Tensor) -> Tensor:
    """Tokens `(B, n, C)` of the visible patches; the transformer has no other input.

    All other patches are dropped after positions are added and before the first block. Class and register tokens stay
    in the input, but not in the result.

    Args:
        backbone: a transformer that `require_patch_tokens` accepts.
        pixels: `(B, 3, H, W)`.
        patches: numbers of the visible patches, `(B, n)`.
    """
    model: Any = backbone.model
    prefix = int(model.num_prefix_tokens)

    def keep(module: nn.Module, inputs: Any, tokens: Tensor) -> Tensor:
        return torch.cat((tokens[:, :prefix], take(tokens[:, prefix:], patches)), dim=1)

    return backbone.encode(pixels, (model.patch_drop, keep)).map


def normalised(tokens: Tensor) -> Tensor:
    """Tokens `(..., C)`, each with mean 0 and variance 1 over its dimensions, at least in float32."""
    return F.layer_norm(tokens.to(torch.promote_types(tokens.dtype, torch.float32)), tokens.shape[-1:])


class TokenPredictor(nn.Module):
    """A narrow vision transformer that predicts the tokens of hidden patches from visible ones.

    As in I-JEPA (sec. 3, "Prediction"), visible tokens are mapped to the predictor's width. One learnt mask token
    stands for every hidden patch. Both get the fixed sine-cosine position of their patch. Each block of hidden patches
    is predicted separately, in a sequence with all visible patches. An action is concatenated to every mask token, and
    three linear layers with ReLU mix the two: the "feature conditioning" of Image World Models.

    Args:
        tokens: C, dimensions of the encoder's tokens.
        width: of the predictor, a multiple of 4 and of `heads`.
        depth: number of transformer blocks.
        heads: of attention.
        action: K, length of the action vector; 0 for a predictor without actions.

    Raises:
        SettingError: if the width does not fit, or there is no block.
    """

    def __init__(self, tokens: int, width: int, depth: int, heads: int, action: int = 0) -> None:
        super().__init__()
        if width < 4 or width % 4 or width % heads:
            raise SettingError(
                "predictor_width", f"must be a multiple of 4 and of the {heads} attention heads, got {width}"
            )
        require_at_least(1, predictor_depth=depth)
        self.width = width
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.enter = nn.Linear(tokens, width)
        self.mask_token = nn.Parameter(torch.empty(width))
        self.conditioning = mlp((width + action, width, width, width)) if action else None
        blocks = (Block(width, heads, qkv_bias=True, norm_layer=norm) for _ in range(depth))  # type: ignore[arg-type]
        self.blocks = nn.Sequential(*blocks)
        self.norm = norm(width)
        self.leave = nn.Linear(width, tokens)
        named_apply(init_weights_vit_timm, self)
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        for layer in self.conditioning or ():
            if isinstance(layer, nn.Linear):
                # After three layers without shortcuts, a transformer's small weights would leave nothing of position
                # and action.
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(
        self, seen: Tensor, context: Tensor, targets: Tensor, grid: Grid, action: Tensor | None = None
    ) -> Tensor:
        """Predicted tokens `(B, M, m, C)`.

        Args:
            seen: tokens of the context, `(B, n, C)`.
            context: numbers of the context's patches, `(B, n)`.
            targets: numbers of the patches to predict, `(B, M, m)`.
            grid: of the patches.
            action: `(B, K)`, if the predictor has actions.
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
    """Raise a `SettingError` if a setting that I-JEPA and image world models share is out of its range."""
    require_at_least(0, predictor_heads=predictor_heads)
    require_between(0, 1, momentum=momentum)


def make_predictor(backbone: Backbone, width: int, depth: int, heads: int, action: int = 0) -> TokenPredictor:
    """A predictor of the backbone's tokens; with `heads` 0, it has as many as the backbone."""
    model: Any = backbone.model
    return TokenPredictor(int(model.embed_dim), width, depth, heads or int(model.blocks[0].attn.num_heads), action)


@torch.no_grad()
def teacher_tokens(teacher: Teacher, pixels: Tensor) -> Tensor:
    """All patch tokens `(B, N, C)`, without gradient."""
    network = teacher.network
    assert isinstance(network, Backbone)
    return network.tokens(pixels)
