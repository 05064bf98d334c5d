"""Networks between the backbone and the loss: projectors and predictors."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


def projector(inputs: int, widths: Sequence[int]) -> nn.Sequential:
    """Linear - BatchNorm - ReLU for every width but the last, then a linear map without bias: the projector of VICReg and SIE.

    Args:
        inputs: dimensions of the features that come in.
        widths: output dimensions of the layers, at least one.
    """
    layers: list[nn.Module] = []
    for width in widths[:-1]:
        layers += [nn.Linear(inputs, width), nn.BatchNorm1d(width), nn.ReLU(inplace=True)]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, widths[-1], bias=False))


def mlp(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers from `widths[0]` to `widths[-1]` dimensions, with ReLU between them and nothing after the last."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])


class BilinearPredictor(nn.Module):
    """Applies to each embedding the matrix that a linear hypernetwork makes of its action: y = sum_k a_k W_k x.

    This is SIE's predictor (Garrido et al., "Self-supervised learning of split invariant equivariant representations", ICML 2023, sec. 3.2)
    with its default hypernetwork, one linear map without bias from the action to a D x D matrix. Applying every W_k to the batch and mixing
    the results by the action gives the same numbers as building B matrices, in B K D numbers of memory instead of B D^2.

    The prediction is linear and odd in the action, so it cannot be the identity for every action.

    Args:
        embedding: D, dimensions of an embedding.
        action: K, length of the action vector.
    """

    def __init__(self, embedding: int, action: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(action, embedding, embedding))
        # The initialisation of the linear layer from K to D^2 numbers that this is: uniform within 1 / sqrt(K).
        nn.init.uniform_(self.weight, -1 / math.sqrt(action), 1 / math.sqrt(action))

    def forward(self, embedding: Tensor, action: Tensor) -> Tensor:
        """Predicted embeddings `(B, D)` from embeddings `(B, D)` and actions `(B, K)`."""
        actions, dimensions, _ = self.weight.shape
        moved = embedding @ self.weight.reshape(actions * dimensions, dimensions).T
        return (moved.view(-1, actions, dimensions) * action.to(moved.dtype).unsqueeze(2)).sum(dim=1)


class HypernetworkPredictor(nn.Module):
    """An MLP on the embedding whose weights are written, sample by sample, by an MLP on the action: SIE's deep hypernetwork.

    The hypernetwork is K - K - K - P with ReLU, P being the number of weights of the predictor; they are laid out layer by layer, each
    layer's matrix row by row and then its bias. B x P numbers exist at once: keep the predictor small.

    Args:
        widths: dimensions of the predictor from its input to its output, `(D, ..., D)`.
        action: K, length of the action vector.
        bias: whether the predictor's layers have biases.
    """

    def __init__(self, widths: Sequence[int], action: int, bias: bool = True) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.bias = bias
        count = sum(outputs * (inputs + bias) for inputs, outputs in pairwise(self.widths))
        self.hypernetwork = mlp((action, action, action, count))

    def forward(self, embedding: Tensor, action: Tensor) -> Tensor:
        """Predicted embeddings `(B, D)` from embeddings `(B, D)` and actions `(B, K)`."""
        weights = self.hypernetwork(action)
        start = 0
        for number, (inputs, outputs) in enumerate(pairwise(self.widths)):
            matrix = weights[:, start : start + outputs * inputs].view(-1, outputs, inputs)
            start += outputs * inputs
            embedding = torch.bmm(matrix, embedding.unsqueeze(2)).squeeze(2)
            if self.bias:
                embedding = embedding + weights[:, start : start + outputs]
                start += outputs
            if number < len(self.widths) - 2:
                embedding = torch.relu(embedding)
        return embedding


class ConcatenationPredictor(nn.Module):
    """An MLP on the action and the embedding side by side, the action first.

    Args:
        embedding: D, dimensions of an embedding.
        action: K, length of the action vector.
        hidden: widths of the hidden layers; none makes it one affine map, SIE's `mlp` predictor.
    """

    def __init__(self, embedding: int, action: int, hidden: Sequence[int] = ()) -> None:
        super().__init__()
        self.layers = mlp((action + embedding, *hidden, embedding))

    def forward(self, embedding: Tensor, action: Tensor) -> Tensor:
        """Predicted embeddings `(B, D)` from embeddings `(B, D)` and actions `(B, K)`."""
        return self.layers(torch.cat((action.to(embedding.dtype), embedding), dim=1))  # type: ignore[no-any-return]
