"""The networks of a latent world model: embeddings of views, and the next embedding predicted from past ones and
actions.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_inv.catalogue import require, require_at_least, require_widths
from ssl_inv.nn.losses import full_precision

_ACTION_FACTORS = (10, 4)
"""Width of an action's first layer, and the width of its hidden layer over that of an embedding (the authors' code)."""


def gelu_projector(inputs: int, widths: Sequence[int]) -> nn.Sequential:
    """Linear - BatchNorm - GELU for every width but the last, then a linear map; all linear maps have biases."""
    layers: list[nn.Module] = []
    for width in widths[:-1]:
        layers += [nn.Linear(inputs, width), nn.BatchNorm1d(width), nn.GELU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, widths[-1]))


class ActionEmbedding(nn.Module):
    """Embeds actions by a linear map to 10 numbers, then Linear - SiLU - Linear with a hidden layer of 4 D.

    It computes in the precision of its weights, because bfloat16 would round a rotation to a fifth of a degree.

    Args:
        action: K, length of the action vector.
        width: D.
    """

    def __init__(self, action: int, width: int) -> None:
        super().__init__()
        first, factor = _ACTION_FACTORS
        self.first = nn.Linear(action, first)
        self.layers = nn.Sequential(nn.Linear(first, factor * width), nn.SiLU(), nn.Linear(factor * width, width))

    def forward(self, actions: Tensor) -> Tensor:
        """Embedded actions `(..., D)` of actions `(..., K)`."""
        with torch.autocast(actions.device.type, enabled=False):
            return self.layers(self.first(actions.to(self.first.weight.dtype)))  # type: ignore[no-any-return]


class ConditionalBlock(nn.Module):
    """A causal transformer block that an embedded action modulates (AdaLN-zero; Peebles, Xie, "DiT", ICCV 2023).

    With the action's six vectors (shift, scale, gate) for attention and for the MLP,

        x <- x + gate Attention(LN'(LN(x) (1 + scale) + shift)),  then the same with the MLP.

    LN has no affine part. LN' has one: the authors' attention and MLP begin with a norm of their own, behind the
    modulation. At the start all six vectors are zero, and the block is the identity.

    Args:
        width: of the tokens.
        heads: of attention.
        head_width: dimensions of a head; heads need not fill the width.
        hidden: width of the MLP's hidden layer.
        dropout: behind both layers of the MLP, in attention, and behind it.
    """

    def __init__(self, width: int, heads: int, head_width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout, inner = heads, dropout, heads * head_width
        self.before_attention = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attention_norm = nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * inner, bias=False)
        self.leave = nn.Sequential(nn.Linear(inner, width), nn.Dropout(dropout))
        self.before_mlp = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, width),
            nn.Dropout(dropout),
        )
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, tokens: Tensor, actions: Tensor) -> Tensor:
        """Tokens `(B, T, D)` of tokens and embedded actions, both `(B, T, D)`."""
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.modulation(F.silu(actions)).chunk(6, dim=-1)
        tokens = tokens + gate * self._attend(self.before_attention(tokens) * (1 + scale) + shift)
        return tokens + mlp_gate * self.mlp(self.before_mlp(tokens) * (1 + mlp_scale) + mlp_shift)  # type: ignore[no-any-return]

    def _attend(self, tokens: Tensor) -> Tensor:
        made = self.queries_keys_values(self.attention_norm(tokens))
        queries, keys, values = made.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        seen = F.scaled_dot_product_attention(queries, keys, values, dropout_p=dropout, is_causal=True)
        return self.leave(seen.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class WorldModel(nn.Module):
    """LeWM's networks behind the encoder (Maes et al., 2026, arXiv 2603.19312; stable-worldmodel).

    Args:
        features: dimensions of the encoder's features.
        action: K, length of the action vector.
        history: the most views that a prediction reads.
        projector: widths of the projector; the last is D, the width of embeddings. Predictions pass a second network
            with the same hidden widths.
        layers: transformer blocks of the predictor.
        heads: of attention.
        head_width: dimensions of a head.
        hidden: width of the blocks' MLPs.
        dropout: in the blocks.

    Attributes:
        standardise: actions `(rows, K)` to mean 0 and variance 1 over the batch in training, and over all batches so
            far in evaluation mode.
    """

    def __init__(
        self,
        features: int,
        action: int,
        history: int,
        *,
        projector: Sequence[int],
        layers: int,
        heads: int,
        head_width: int,
        hidden: int,
        dropout: float,
    ) -> None:
        super().__init__()
        require_widths(projector=projector)
        require_at_least(1, layers=layers, heads=heads, head_width=head_width, hidden=hidden)
        require(0 <= dropout < 1, "dropout", f"must be at least 0 and below 1, got {dropout}")
        width = projector[-1]
        self.projector = gelu_projector(features, projector)
        # The mean over all batches: an average of the last ones would make a prediction depend on when training ended.
        self.standardise = nn.BatchNorm1d(action, affine=False, momentum=None)
        self.action_embedding = ActionEmbedding(action, width)
        self.positions = nn.Parameter(torch.randn(history, width))
        self.blocks = nn.ModuleList(ConditionalBlock(width, heads, head_width, hidden, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.prediction = gelu_projector(width, [*projector[:-1], width])

    def standardised(self, actions: Tensor) -> Tensor:
        """Actions `(B, T, K)`, every number standardised."""
        with torch.autocast(actions.device.type, enabled=False):
            return self.standardise(full_precision(actions).flatten(0, 1)).view(actions.shape)  # type: ignore[no-any-return]

    def predict(self, embeddings: Tensor, actions: Tensor) -> Tensor:
        """The embedding after each view, `(B, T, D)`, from the views up to it.

        Args:
            embeddings: of T views, at most `history`, `(B, T, D)`.
            actions: standardised, from each view to the next, `(B, T, K)`.
        """
        conditions = self.action_embedding(actions)
        tokens = embeddings + self.positions[: embeddings.shape[1]].to(embeddings.dtype)
        for block in self.blocks:
            tokens = block(tokens, conditions.to(tokens.dtype))
        return self.prediction(self.norm(tokens).flatten(0, 1)).view(embeddings.shape)  # type: ignore[no-any-return]
