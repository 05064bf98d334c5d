"""Classifiers of sets of tokens, as small networks: their mean, an attentive probe, and moment probing."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.functional import cross_entropy, gelu, layer_norm, normalize

from ssl_inv.evaluation.protocols.sampling import random_batches

_DEVIATION = 0.02
"""Of the initial weights, which are normal and cut at two."""


class MeanHead(nn.Module):
    """Linear logits `(B, classes)` of the mean of tokens `(B, N, D)`."""

    def __init__(self, channels: int, classes: int, width: int) -> None:
        super().__init__()
        self.logits = nn.Linear(channels, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.logits(tokens.mean(dim=1))
        return logits


class AttentiveHead(nn.Module):
    """Logits of tokens that a learnt query attends to.

    The query is used as it is, keys and values are linear, and nothing follows the attention but the logits, as in CAPI
    (Darcet et al., 2025). Keys have no bias: it would add the same to all tokens. As the query is the same for all
    images, tokens are pooled before they are projected; the result is the same.

    Args:
        channels: D. Attention heads have 64 channels each; there is one if D is not a multiple of it.
        classes: of the logits.
        width: has no meaning here.
    """

    def __init__(self, channels: int, classes: int, width: int, heads: int | None = None) -> None:
        super().__init__()
        self.heads = heads or (channels // 64 if channels % 64 == 0 else 1)
        self.query = nn.Parameter(torch.empty(channels))
        self.keys = nn.Parameter(torch.empty(channels, channels))
        self.values = nn.Linear(channels, channels)
        self.logits = nn.Linear(channels, classes)

    def attention(self, tokens: Tensor) -> Tensor:
        """The weight of each token, `(B, heads, N)`."""
        width = len(self.query) // self.heads
        asked = (self.query[:, None] * self.keys).view(self.heads, width, -1).sum(dim=1)
        return (asked @ tokens.transpose(1, 2) / math.sqrt(width)).softmax(dim=-1)

    def forward(self, tokens: Tensor) -> Tensor:
        pooled = self.attention(tokens) @ tokens
        values = self.values.weight.view(self.heads, -1, tokens.shape[-1])
        found = torch.einsum("bhd,hwd->bhw", pooled, values).flatten(1) + self.values.bias
        logits: Tensor = self.logits(found)
        return logits


class MomentHead(nn.Module):
    """Logits of the first and second moments of tokens: the mean of a linear classifier of their mean, and of one of
    the cross-covariances of their projections.

    Gao et al., "Tuning pre-trained model via moment probing" (ICCV 2023), who take the class token in place of the
    mean: tokens are projected, split into four parts, and the covariances of neighbouring parts pass two convolutions
    of stride two.

    Args:
        channels: D.
        classes: of the logits.
        width: of the projection; a multiple of 4, at least 28.

    Raises:
        ValueError: for another width.
    """

    def __init__(self, channels: int, classes: int, width: int) -> None:
        super().__init__()
        if width % 4 or width < 28:
            raise ValueError(f"the width of moment probing must be a multiple of 4 and at least 28, got {width}")
        self.first = nn.Linear(channels, classes)
        self.projection = nn.Linear(channels, width)
        self.convolutions = nn.ModuleList(nn.Conv2d(3, 3, 3, stride=2, bias=False) for _ in range(2))
        side = ((width // 4 - 3) // 2 + 1 - 3) // 2 + 1
        self.second = nn.Linear(3 * side**2, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        moments = cross_covariances(self.projection(tokens), 4)
        for convolution in self.convolutions:
            moments = gelu(convolution(moments))
        logits: Tensor = (self.first(tokens.mean(dim=1)) + self.second(moments.flatten(1))) / 2
        return logits


def cross_covariances(tokens: Tensor, parts: int) -> Tensor:
    """The covariances of neighbouring parts of tokens `(B, N, D)` over the tokens: `(B, parts - 1, D / parts, D /
    parts)`, with rows of length 1.

    Every part of a token is normalised to mean 0 and variance 1 first.
    """
    batch, count, channels = tokens.shape
    split = layer_norm(tokens.view(batch, count, parts, -1), (channels // parts,))
    centred = (split - split.mean(dim=1, keepdim=True)).movedim(1, -1)
    return normalize(centred[:, :-1] @ centred[:, 1:].transpose(-1, -2) / count, dim=-1)


def warmed_cosine(step: int, steps: int) -> float:
    """The factor of a learning rate that rises over a tenth of the steps and then falls to zero along a cosine."""
    rising = max(steps // 10, 1)
    if step < rising:
        return (step + 1) / rising
    return (1 + math.cos(math.pi * (step - rising) / max(steps - rising, 1))) / 2


HEADS: dict[str, type[MeanHead] | type[AttentiveHead] | type[MomentHead]] = {
    "mean": MeanHead,
    "attentive": AttentiveHead,
    "moment": MomentHead,
}
"""By name. Each is made from channels, classes and a width."""


def initialised(head: nn.Module, seed: int) -> nn.Module:
    """The head with weights from a seed, the same wherever it is made; convolutions keep the scale of their input."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for one in head.parameters():
            if one.dim() == 4:
                one.copy_(torch.randn(one.shape, generator=generator) / math.sqrt(one[0].numel()))
            elif one.dim() == 2 or (isinstance(head, AttentiveHead) and one is head.query):
                nn.init.trunc_normal_(one, std=_DEVIATION, a=-2 * _DEVIATION, b=2 * _DEVIATION, generator=generator)
            else:
                one.zero_()
    return head


def trained_heads(
    head: nn.Module,
    tokens: Tensor,
    labels: Tensor,
    grid: Sequence[tuple[float, float]],
    steps: int,
    batch: int,
    seed: int,
    device: str = "cpu",
) -> list[dict[str, Tensor]]:
    """Parameters of copies of a head, trained together by AdamW with betas 0.9 and 0.95, on the same batches.

    The learning rate rises over a tenth of the steps and falls to zero along a cosine. Vectors have no weight decay.

    Args:
        head: where all begin.
        tokens: `(M, N, D)`.
        labels: `(M,)`.
        grid: the learning rate and the weight decay of each copy.
        steps: of each.
        batch: images in a step.
        seed: of the order of images.
        device: where they are trained.
    """
    copies = [
        {name: one.detach().to(device).clone().requires_grad_() for name, one in head.named_parameters()} for _ in grid
    ]
    groups = [
        {
            "params": [one for one in copy.values() if (one.dim() > 1) == decayed],
            "lr": rate,
            "weight_decay": decay if decayed else 0.0,
        }
        for copy, (rate, decay) in zip(copies, grid, strict=True)
        for decayed in (True, False)
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warmed_cosine(step, steps))

    def logits(parameters: Mapping[str, Tensor], some: Tensor) -> Tensor:
        found: Tensor = functional_call(head, dict(parameters), (some,))
        return found

    together = vmap(logits, in_dims=(0, None))
    for rows in random_batches(len(tokens), batch, steps, seed):
        stacked = {name: torch.stack([copy[name] for copy in copies]) for name in copies[0]}
        found = together(stacked, tokens[rows].to(device))
        wanted = labels[rows].to(device).repeat(len(copies))
        # A sum over copies, so that each has the gradient it would have alone.
        loss = cross_entropy(found.flatten(0, 1), wanted) * len(copies)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return [{name: one.detach().cpu() for name, one in copy.items()} for copy in copies]
