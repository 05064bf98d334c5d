"""Predictors that are conditioned on an action."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ssl_inv.catalogue import SettingError, require_at_least
from ssl_inv.nn.heads import mlp
from ssl_inv.nn.hypernetworks import magnitude_invariant_hypernetwork
from ssl_inv.nn.losses import full_precision, in_full_precision
from ssl_inv.nn.representations import multiplications_by_quaternions


class BilinearPredictor(nn.Module):
    """Applies to each embedding a matrix that is linear in its action: y = sum_k a_k W_k x.

    This is SIE's predictor (Garrido et al., "Self-supervised learning of split invariant equivariant representations",
    ICML 2023, sec. 3.2) with its default hypernetwork, one linear map without bias from the action to a D x D matrix.
    Here every W_k is applied to the batch, and the action mixes the results. That gives the same values as B matrices,
    with B K D numbers in memory instead of B D^2.

    The prediction is linear and odd in the action, so it cannot be the identity for every action.

    Args:
        embedding: D, dimensions of an embedding.
        action: K, length of the action vector.
        quaternion: position in the action of a quaternion q, scalar last. The initial prediction is then p q for every
            four dimensions p of the embedding, remaining dimensions are multiplied by the scalar of q, and the other
            numbers of the action do nothing yet. None initialises with random matrices.
        initial: the initial W `(K, D, D)`, in place of random matrices.
    """

    def __init__(
        self, embedding: int, action: int, quaternion: int | None = None, initial: Tensor | None = None
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(action, embedding, embedding))
        # As torch initialises a linear layer from K to D^2 numbers: uniform within 1 / sqrt(K).
        nn.init.uniform_(self.weight, -1 / math.sqrt(action), 1 / math.sqrt(action))
        if quaternion is not None:
            with torch.no_grad():
                self.weight.zero_()[quaternion : quaternion + 4] = _multiplication_by_quaternion(embedding)
        if initial is not None:
            with torch.no_grad():
                self.weight.copy_(initial)

    def forward(self, embedding: Tensor, action: Tensor) -> Tensor:
        """Predicted embeddings `(B, D)` from embeddings `(B, D)` and actions `(B, K)`."""
        actions, dimensions, _ = self.weight.shape
        moved = embedding @ self.weight.reshape(actions * dimensions, dimensions).T
        moved = full_precision(moved)
        return (moved.view(-1, actions, dimensions) * action.to(moved.dtype).unsqueeze(2)).sum(dim=1)


def _multiplication_by_quaternion(dimensions: int) -> Tensor:
    """W `(4, D, D)`: sum_k q_k W_k x multiplies every four dimensions of x by the quaternion q from the right."""
    fours = multiplications_by_quaternions()
    every, left_over = torch.eye(dimensions // 4), dimensions % 4
    weights = torch.zeros(4, dimensions, dimensions)
    weights[:, : dimensions - left_over, : dimensions - left_over] = torch.stack(
        [torch.kron(every, four) for four in fours]
    )
    weights[3, dimensions - left_over :, dimensions - left_over :] = torch.eye(left_over)
    return weights


class HypernetworkPredictor(nn.Module):
    """SIE's deep hypernetwork: an MLP on the embedding, whose weights another MLP computes from each sample's action.

    The hypernetwork is K - K - K - P with ReLU, where P is the number of weights of the predictor. They are ordered
    layer by layer: the matrix row by row, then the bias. B x P numbers exist at once, so keep the predictor small.

    Args:
        widths: dimensions of the predictor from its input to its output, `(D, ..., D)`.
        action: K, length of the action vector.
        bias: whether the predictor's layers have biases.
        magnitude_invariant: whether the hypernetwork is a `magnitude_invariant_hypernetwork`, 2K - 2K - 2K - P.
    """

    def __init__(
        self, widths: Sequence[int], action: int, bias: bool = True, magnitude_invariant: bool = False
    ) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.bias = bias
        layers = [[(outputs, inputs), (outputs,)][: 1 + bias] for inputs, outputs in pairwise(self.widths)]
        shapes = [shape for layer in layers for shape in layer]
        if magnitude_invariant:
            self.hypernetwork = magnitude_invariant_hypernetwork((2 * action,) * 3, shapes)
        else:
            self.hypernetwork = mlp((action, action, action, sum(map(math.prod, shapes))))

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
    """An MLP on the action and the embedding, concatenated in this order.

    Args:
        embedding: D, dimensions of an embedding.
        action: K, length of the action vector.
        hidden: widths of the hidden layers; without any, it is one affine map, SIE's `mlp` predictor.
    """

    def __init__(self, embedding: int, action: int, hidden: Sequence[int] = ()) -> None:
        super().__init__()
        self.layers = mlp((action + embedding, *hidden, embedding))

    def forward(self, embedding: Tensor, action: Tensor) -> Tensor:
        """Predicted embeddings `(B, D)` from embeddings `(B, D)` and actions `(B, K)`."""
        return self.layers[1:](in_full_precision(self.layers[0], action, embedding))  # type: ignore[no-any-return]


class EmbeddedActionPredictor(nn.Module):
    """A network on the embedding, concatenated with an embedded action: a linear map to E dimensions, then batch
    normalisation without scale and shift.

    EquiMod, conditional BYOL and seq-JEPA condition their predictors like this. The normalisation gives all E
    dimensions the same scale, but not the numbers of the action: a number on a larger scale dominates.

    Args:
        action: K, length of the action vector.
        action_embedding: E.
        network: from `(B, D + E)`, the embedding first, to `(B, D)`.

    Raises:
        SettingError: if E is below 1.
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
        embedded = in_full_precision(self.action, action).to(embedding.dtype)
        return self.network(torch.cat((embedding, embedded), dim=1))  # type: ignore[no-any-return]


def action_predictor(
    kind: str, embedding: int, action: int, hidden: Sequence[int] = (), quaternion: int | None = None
) -> nn.Module:
    """SIE's predictor, or one of its alternatives, as recipes name them.

    Args:
        kind: `bilinear`, `hypernetwork`, `magnitude-invariant` or `concatenation`.
        embedding: D, dimensions of an embedding.
        action: K, length of the action vector.
        hidden: widths of the hidden layers.
        quaternion: see `BilinearPredictor`.

    Raises:
        SettingError: if a bilinear predictor has hidden layers, or another one a quaternion.
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
    if kind in ("hypernetwork", "magnitude-invariant"):
        widths = (embedding, *hidden, embedding)
        return HypernetworkPredictor(widths, action, magnitude_invariant=kind == "magnitude-invariant")
    return ConcatenationPredictor(embedding, action, hidden)
