"""TODO."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ssl_inv.catalogue import SettingError, require_at_least
from ssl_inv.nn.heads import mlp
from ssl_inv.nn.precision import full_precision, in_full_precision
from ssl_inv.transforms.quaternions import quaternion_multiply


class BilinearPredictor(nn.Module):
    """Applies to each embedding the matrix that a linear hypernetwork makes of its action: y = sum_k a_k W_k x.

    This is SIE's predictor (Garrido et al., "Self-supervised learning of split invariant equivariant representations",
    ICML 2023, sec. 3.2) with its default hypernetwork, one linear map without bias from the action to a D x D matrix.
    Applying every W_k to the batch and mixing the results by the action gives the same numbers as building B matrices,
    in B K D numbers of memory instead of B D^2.

    The prediction is linear and odd in the action, so it cannot be the identity for every action.

    Args:
        embedding: D, dimensions of an embedding.
        action: K, length of the action vector.
        quaternion: where in the action a quaternion q begins, scalar last, by which the predictor multiplies at first:
            every four dimensions of the embedding are a quaternion p, the prediction is p q, and numbers of the action
            beside q do nothing yet. Dimensions that are left over are multiplied by its scalar. None begins with random
            matrices.
    """

    def __init__(self, embedding: int, action: int, quaternion: int | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(action, embedding, embedding))
        # The initialisation of the linear layer from K to D^2 numbers that this is: uniform within 1 / sqrt(K).
        nn.init.uniform_(self.weight, -1 / math.sqrt(action), 1 / math.sqrt(action))
        if quaternion is not None:
            with torch.no_grad():
                self.weight.zero_()[quaternion : quaternion + 4] = _multiplication_by_quaternion(embedding)

    def forward(self, embedding: Tensor, action: Tensor) -> Tensor:
        """Predicted embeddings `(B, D)` from embeddings `(B, D)` and actions `(B, K)`."""
        actions, dimensions, _ = self.weight.shape
        moved = embedding @ self.weight.reshape(actions * dimensions, dimensions).T
        moved = full_precision(moved)
        return (moved.view(-1, actions, dimensions) * action.to(moved.dtype).unsqueeze(2)).sum(dim=1)


def _multiplication_by_quaternion(dimensions: int) -> Tensor:
    """W `(4, D, D)` of which sum_k q_k W_k x multiplies every four dimensions of x by the quaternion q from the right."""
    identity = torch.eye(4)
    fours = quaternion_multiply(
        identity, identity[:, None]
    ).mT.contiguous()  # of each basis quaternion, the matrix of multiplication by it
    every, left_over = torch.eye(dimensions // 4), dimensions % 4
    weights = torch.zeros(4, dimensions, dimensions)
    weights[:, : dimensions - left_over, : dimensions - left_over] = torch.stack(
        [torch.kron(every, four) for four in fours]
    )
    weights[3, dimensions - left_over :, dimensions - left_over :] = torch.eye(left_over)
    return weights


class HypernetworkPredictor(nn.Module):
    """An MLP on the embedding whose weights are written, sample by sample, by an MLP on the action: SIE's deep
    hypernetwork.

    The hypernetwork is K - K - K - P with ReLU, P being the number of weights of the predictor; they are laid out layer
    by layer, each layer's matrix row by row and then its bias. B x P numbers exist at once: keep the predictor small.

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
        weights = in_full_precision(self.hypernetwork, action)
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
        return self.layers[1:](in_full_precision(self.layers[0], action, embedding))  # type: ignore[no-any-return]


class EmbeddedActionPredictor(nn.Module):
    """A network on the embedding and, beside it, the action: mapped linearly to E dimensions and batch-normalised
    without affine part.

    So EquiMod, conditional BYOL and seq-JEPA tell their predictors of the action. The normalisation makes the embedded
    dimensions alike, not the numbers of the action: of two on different scales, the larger one is heard.

    Args:
        action: K, length of the action vector.
        action_embedding: E.
        network: from `(B, D + E)`, the embedding first, to `(B, D)`.

    Raises:
        ValueError: if nothing would be told of the action.
    """

    def __init__(self, action: int, action_embedding: int, network: nn.Module) -> None:
        super().__init__()
        require_at_least(1, action_embedding=action_embedding)
        self.action = nn.Sequential(
            nn.Linear(action, action_embedding, bias=False), nn.BatchNorm1d(action_embedding, affine=False)
        )
        self.network = network

    def forward(self, embedding: Tensor, action: Tensor) -> Tensor:
        """Predicted embeddings `(B, D)` from embeddings `(B, D)` and actions `(B, K)`."""
        return self.network(torch.cat((embedding, in_full_precision(self.action, action).to(embedding.dtype)), dim=1))  # type: ignore[no-any-return]


def action_predictor(
    kind: str, embedding: int, action: int, hidden: Sequence[int] = (), quaternion: int | None = None
) -> nn.Module:
    """SIE's predictor, or one of its two alternatives, as recipes name them.

    Args:
        kind: `bilinear`, `hypernetwork` or `concatenation`.
        embedding: D, dimensions of an embedding.
        action: K, length of the action vector.
        hidden: widths of the hidden layers.
        quaternion: see `BilinearPredictor`.

    Raises:
        ValueError: if a bilinear predictor is to have hidden layers, or another one is to begin as multiplication by a
            quaternion.
    """
    if kind == "bilinear":
        if hidden:
            raise SettingError("predictor_hidden", f"{list(hidden)}, but a bilinear predictor has no hidden layers")
        return BilinearPredictor(embedding, action, quaternion)
    if quaternion is not None:
        raise SettingError(
            "predictor_initialisation",
            f"'quaternion', but predictor is {kind!r}; only a bilinear one is a multiplication",
        )
    if kind == "hypernetwork":
        return HypernetworkPredictor((embedding, *hidden, embedding), action)
    return ConcatenationPredictor(embedding, action, hidden)
