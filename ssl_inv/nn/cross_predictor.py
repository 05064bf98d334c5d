"""CAPI's networks behind the encoder: a predictor that only looks at visible patches, and heads of prototypes."""

import math

import torch
import torch.nn.functional as F
from timm.layers.pos_embed_sincos import apply_rot_embed
from torch import Tensor, nn

from ssl_inv.catalogue import require, require_at_least
from ssl_inv.nn.losses import full_precision
from ssl_inv.nn.tokens import Grid

_FREQUENCIES = (7.0, 7e-4)
"""The highest and the lowest rotary frequency, in turns over the image (the authors' code)."""


class RotaryPlaces(nn.Module):
    """Rotary positions in two dimensions: half of the pairs of channels turn with the row, half with the column.

    Places lie between 0 and 1 along each side of the image. Frequencies fall geometrically from 7 turns to 0.0007.

    Args:
        width: of a head, a multiple of 4.
    """

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        highest, lowest = _FREQUENCIES
        turns = torch.logspace(math.log10(highest), math.log10(lowest), width // 4)
        self.register_buffer("frequencies", 2 * math.pi * turns, persistent=False)

    def angles(self, patches: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        """Sines and cosines `(B, 1, n, width)` for patches `(B, n)` of a grid."""
        rows, columns = (max(1, side - 1) for side in grid)
        places = torch.stack((patches // grid[1] / rows, patches % grid[1] / columns), dim=-1)
        angles = (places.unsqueeze(-1).to(self.frequencies) * self.frequencies).flatten(-2)
        angles = angles.repeat_interleave(2, dim=-1).unsqueeze(1)
        return angles.sin(), angles.cos()


class CrossBlock(nn.Module):
    """Tokens ask visible patches, then pass an MLP; they do not look at each other. No linear map has a bias.

    Args:
        width: of all tokens.
        heads: of attention.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.mlp_norm = nn.RMSNorm(width, eps=1e-5), nn.RMSNorm(width, eps=1e-5)
        self.queries = nn.Linear(width, width, bias=False)
        self.keys_values = nn.Linear(width, 2 * width, bias=False)
        self.leave = nn.Linear(width, width, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width, bias=False), nn.GELU(), nn.Linear(4 * width, width, bias=False)
        )

    def forward(
        self, tokens: Tensor, seen: Tensor, asked: tuple[Tensor, Tensor], known: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Tokens `(B, m, C)`, from tokens, visible patches `(B, n, C)`, and the angles of both."""
        queries = self.queries(self.norm(tokens)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        keys, values = self.keys_values(seen).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        queries, keys = apply_rot_embed(queries, *asked), apply_rot_embed(keys, *known)
        found = F.scaled_dot_product_attention(queries, keys, values)
        tokens = tokens + self.leave(found.transpose(1, 2).flatten(2))
        return tokens + self.mlp(self.mlp_norm(tokens))  # type: ignore[no-any-return]


class CrossPredictor(nn.Module):
    """CAPI's predictor (Darcet et al., TMLR 2025): a learnt token asks the visible patches of an image, block by block.

    Its output is normalised to a root mean square of 1, without weights.

    Args:
        width: of the encoder's tokens, and its own.
        depth: number of blocks.
        heads: of attention.

    Raises:
        SettingError: if the heads do not fit, or there is no block.
    """

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        require_at_least(1, predictor_depth=depth)
        fits = width % heads == 0 and width // heads % 4 == 0
        problem = f"{heads} heads do not share {width} dimensions in multiples of 4, which rotary positions need"
        require(fits, "predictor_heads", problem)
        self.mask_token = nn.Parameter(torch.empty(width))
        self.places = RotaryPlaces(width // heads)
        self.blocks = nn.ModuleList(CrossBlock(width, heads) for _ in range(depth))
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, seen: Tensor, context: Tensor, targets: Tensor, grid: Grid) -> Tensor:
        """Predicted tokens `(B, m, C)`.

        Args:
            seen: tokens of the visible patches, `(B, n, C)`.
            context: numbers of the visible patches, `(B, n)`.
            targets: numbers of the patches to predict, `(B, m)`.
            grid: of the patches.
        """
        asked, known = self.places.angles(targets, grid), self.places.angles(context, grid)
        tokens = self.mask_token.to(seen.dtype).expand(*targets.shape, -1)
        for block in self.blocks:
            tokens = block(tokens, seen, asked, known)
        return F.rms_norm(full_precision(tokens), tokens.shape[-1:], eps=1e-5)


class ClusterHead(nn.Module):
    """CAPI's clusters of patches: a linear map with bias of normalised tokens to the logits of K clusters.

    Args:
        width: of the tokens.
        clusters: K.
    """

    def __init__(self, width: int, clusters: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, clusters)
        nn.init.normal_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits `(..., K)` of tokens `(..., C)`."""
        return self.linear(F.normalize(full_precision(tokens), dim=-1, eps=1e-7))  # type: ignore[no-any-return]


class DirectionHead(nn.Module):
    """Logits of K directions, each with a learnt length that begins at 1, for normalised tokens.

    Args:
        width: of the tokens.
        clusters: K.
    """

    def __init__(self, width: int, clusters: int) -> None:
        super().__init__()
        self.directions = nn.Parameter(nn.init.trunc_normal_(torch.empty(clusters, width), std=0.02))
        self.lengths = nn.Parameter(torch.ones(clusters, 1))

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits `(..., K)` of tokens `(..., C)`."""
        directions = F.normalize(self.directions, dim=1) * self.lengths
        return F.linear(F.normalize(full_precision(tokens), dim=-1), directions)
