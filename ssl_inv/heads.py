"""Networks between the backbone and the loss: projectors and predictors."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ssl_inv.distributed import all_sum, world_size
from ssl_inv.precision import full_precision, in_full_precision
from ssl_inv.quaternions import quaternion_multiply


def projector(inputs: int, widths: Sequence[int]) -> nn.Sequential:
    """Linear - BatchNorm - ReLU for every width but the last, then a linear map without bias: the projector of VICReg and SIE.

    Args:
        inputs: dimensions of the features that come in.
        widths: output dimensions of the layers, at least one.
    """
    _require_widths(widths)
    layers: list[nn.Module] = []
    for width in widths[:-1]:
        layers += [nn.Linear(inputs, width), nn.BatchNorm1d(width), nn.ReLU(inplace=True)]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, widths[-1], bias=False))


def mlp(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers from `widths[0]` to `widths[-1]` dimensions, with ReLU between them and nothing after the last."""
    _require_widths(widths)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])


def _require_widths(widths: Sequence[int]) -> None:
    """Raise a `ValueError` if a layer would have no outputs."""
    if not widths or min(widths) < 1:
        raise ValueError(f"a head needs layers of at least 1 output each, got {list(widths)}")


class BilinearPredictor(nn.Module):
    """Applies to each embedding the matrix that a linear hypernetwork makes of its action: y = sum_k a_k W_k x.

    This is SIE's predictor (Garrido et al., "Self-supervised learning of split invariant equivariant representations", ICML 2023, sec. 3.2)
    with its default hypernetwork, one linear map without bias from the action to a D x D matrix. Applying every W_k to the batch and mixing
    the results by the action gives the same numbers as building B matrices, in B K D numbers of memory instead of B D^2.

    The prediction is linear and odd in the action, so it cannot be the identity for every action.

    Args:
        embedding: D, dimensions of an embedding.
        action: K, length of the action vector.
        quaternion: where in the action a quaternion q begins, scalar last, by which the predictor multiplies at first: every four
            dimensions of the embedding are a quaternion p, the prediction is p q, and numbers of the action beside q do nothing yet.
            Dimensions that are left over are multiplied by its scalar. None begins with random matrices.
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
    fours = quaternion_multiply(identity, identity[:, None]).mT.contiguous()  # of each basis quaternion, the matrix of multiplication by it
    every, left_over = torch.eye(dimensions // 4), dimensions % 4
    weights = torch.zeros(4, dimensions, dimensions)
    weights[:, : dimensions - left_over, : dimensions - left_over] = torch.stack([torch.kron(every, four) for four in fours])
    weights[3, dimensions - left_over :, dimensions - left_over :] = torch.eye(left_over)
    return weights


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


def normalised_mlp(inputs: int, widths: Sequence[int], last_norm: bool = True) -> nn.Sequential:
    """Linear - BatchNorm - ReLU for every width but the last, then Linear - BatchNorm without scale and shift: SimSiam's and MoCo v3's.

    No linear map has a bias, as the normalisation behind it would take it away.

    Args:
        inputs: dimensions of the features that come in.
        widths: output dimensions of the layers, at least one.
        last_norm: whether the last layer is normalised too.
    """
    _require_widths(widths)
    layers: list[nn.Module] = []
    for width in widths[:-1]:
        layers += [nn.Linear(inputs, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(inplace=True)]
        inputs = width
    layers.append(nn.Linear(inputs, widths[-1], bias=False))
    return nn.Sequential(*layers, *([nn.BatchNorm1d(widths[-1], affine=False)] if last_norm else []))


class PrototypeHead(nn.Module):
    """An MLP to normalised embeddings, and their similarities with K prototypes: DINO's head (Caron et al., ICCV 2021, app. C) and iBOT's.

    Args:
        inputs: dimensions of the features that come in.
        widths: of the MLP's layers; the last is the dimension D of embeddings and prototypes.
        prototypes: K.
        batch_norm: whether hidden layers are normalised over the batch.
        unit_norm: whether prototypes have length one; otherwise their lengths are learnt.
    """

    def __init__(self, inputs: int, widths: Sequence[int], prototypes: int, batch_norm: bool = False, unit_norm: bool = True) -> None:
        super().__init__()
        _require_widths(widths)
        layers: list[nn.Module] = []
        for width in widths[:-1]:
            layers += [nn.Linear(inputs, width), *([nn.BatchNorm1d(width)] if batch_norm else []), nn.GELU()]
            inputs = width
        self.layers = nn.Sequential(*layers, nn.Linear(inputs, widths[-1]))
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.directions = nn.Parameter(torch.empty(prototypes, widths[-1]).uniform_(-1, 1) / math.sqrt(widths[-1]))
        self.lengths = None if unit_norm else nn.Parameter(torch.ones(prototypes, 1))

    def embed(self, features: Tensor) -> Tensor:
        """Normalised embeddings `(..., D)` of features `(..., C)`."""
        return nn.functional.normalize(self.layers(features), dim=-1)

    def prototype_parameters(self) -> list[nn.Parameter]:
        """What the prototypes are made of."""
        return [self.directions] if self.lengths is None else [self.directions, self.lengths]

    def similarities(self, embeddings: Tensor) -> Tensor:
        """Logits `(..., K)` of embeddings `(..., D)`, which are normalised, or means of such: the map is linear."""
        prototypes = nn.functional.normalize(self.directions, dim=1)
        if self.lengths is not None:
            prototypes = prototypes * self.lengths
        return nn.functional.linear(embeddings, prototypes)

    def forward(self, features: Tensor) -> Tensor:
        """Logits `(..., K)` of features `(..., C)`."""
        return self.similarities(self.embed(features))


class CentredTargets(nn.Module):
    """What DINO's student shall predict: softmax((t - c) / temperature) of the teacher's logits t, with a moving average c of them.

    Centring keeps one prototype from taking everything, a low temperature keeps all from being alike (Caron et al., ICCV 2021, eq. 4).

    Args:
        prototypes: K, the number of logits.
        momentum: what the centre keeps of itself in an update.
        temperature: after the warm-up.
        first_temperature: at the first step.
        warmup: share of all steps in which the temperature goes from the first to the last linearly.

    Raises:
        ValueError: if a number is out of its range.
    """

    centre: Tensor
    temperature: Tensor

    def __init__(self, prototypes: int, momentum: float, temperature: float, first_temperature: float, warmup: float) -> None:
        super().__init__()
        if min(temperature, first_temperature) <= 0:
            raise ValueError(f"teacher_temperature and warmup_temperature must be above 0, got {temperature} and {first_temperature}")
        if not 0 <= momentum <= 1:
            raise ValueError(f"centre_momentum must lie between 0 and 1, got {momentum}")
        self.momentum, self.range, self.warmup = momentum, (first_temperature, temperature), warmup
        self.register_buffer("centre", torch.zeros(prototypes))
        self.register_buffer("temperature", torch.zeros(()))
        self._waiting: list[Tensor] = []
        self.register_load_state_dict_post_hook(_forget_waiting)  # type: ignore[no-untyped-call]
        self.warm_up(0.0)

    def forward(self, logits: Tensor) -> Tensor:
        """Probabilities `(..., K)` of logits `(..., K)`, in the centre's precision."""
        return ((logits.to(self.centre.dtype) - self.centre) / self.temperature).softmax(dim=-1)

    @torch.no_grad()
    def put(self, mean: Tensor) -> None:
        """Let the mean logits `(K,)` of a batch, which every process has of its own samples, wait for `flush`."""
        self._waiting.append(all_sum(mean.to(self.centre.dtype)) / world_size())

    @torch.no_grad()
    def flush(self) -> None:
        """Move the centre towards the mean of what waits: once a step, however many micro-batches it has."""
        if self._waiting:
            self.centre.lerp_(torch.stack(self._waiting).mean(dim=0), 1 - self.momentum)
            self._waiting.clear()

    def warm_up(self, progress: float) -> None:
        """Set the temperature of a time from 0, the first step, to 1, the last."""
        first, last = self.range
        self.temperature.fill_(first + (last - first) * (min(1.0, progress / self.warmup) if self.warmup else 1.0))


def _forget_waiting(targets: nn.Module, _: Any) -> None:
    assert isinstance(targets, CentredTargets)
    targets._waiting.clear()


class EmbeddedActionPredictor(nn.Module):
    """A network on the embedding and, beside it, the action: mapped linearly to E dimensions and batch-normalised without affine part.

    So EquiMod, conditional BYOL and seq-JEPA tell their predictors of the action. The normalisation makes the embedded dimensions alike,
    not the numbers of the action: of two on different scales, the larger one is heard.

    Args:
        action: K, length of the action vector.
        action_embedding: E.
        network: from `(B, D + E)`, the embedding first, to `(B, D)`.

    Raises:
        ValueError: if nothing would be told of the action.
    """

    def __init__(self, action: int, action_embedding: int, network: nn.Module) -> None:
        super().__init__()
        if action_embedding < 1:
            raise ValueError(f"action_embedding must be at least 1, got {action_embedding}")
        self.action = nn.Sequential(nn.Linear(action, action_embedding, bias=False), nn.BatchNorm1d(action_embedding, affine=False))
        self.network = network

    def forward(self, embedding: Tensor, action: Tensor) -> Tensor:
        """Predicted embeddings `(B, D)` from embeddings `(B, D)` and actions `(B, K)`."""
        return self.network(torch.cat((embedding, in_full_precision(self.action, action).to(embedding.dtype)), dim=1))  # type: ignore[no-any-return]


def action_predictor(kind: str, embedding: int, action: int, hidden: Sequence[int] = (), quaternion: int | None = None) -> nn.Module:
    """SIE's predictor, or one of its two alternatives, as recipes name them.

    Args:
        kind: `bilinear`, `hypernetwork` or `concatenation`.
        embedding: D, dimensions of an embedding.
        action: K, length of the action vector.
        hidden: widths of the hidden layers.
        quaternion: see `BilinearPredictor`.

    Raises:
        ValueError: if a bilinear predictor is to have hidden layers, or another one is to begin as multiplication by a quaternion.
    """
    if kind == "bilinear":
        if hidden:
            raise ValueError(f"predictor_hidden is {list(hidden)}, but a bilinear predictor has no hidden layers")
        return BilinearPredictor(embedding, action, quaternion)
    if quaternion is not None:
        raise ValueError(f"predictor_initialisation is 'quaternion', but predictor is {kind!r}; only a bilinear one is a multiplication")
    if kind == "hypernetwork":
        return HypernetworkPredictor((embedding, *hidden, embedding), action)
    return ConcatenationPredictor(embedding, action, hidden)
