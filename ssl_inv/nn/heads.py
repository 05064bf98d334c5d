"""Networks between the backbone and the loss: projectors and predictors."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def projector(inputs: int, widths: Sequence[int]) -> nn.Sequential:
    """The projector of VICReg and SIE: Linear - BatchNorm - ReLU for every width but the last, then a linear map
    without bias.

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


def action_head(inputs: int, hidden: Sequence[int], outputs: int, normalised: bool = True) -> nn.Sequential:
    """A head that tells an action from two features: Linear - BatchNorm - ReLU for every hidden width, then Linear.

    Args:
        inputs: dimensions of both features together.
        hidden: widths of the hidden layers; without any, it is one affine map.
        outputs: dimensions of the action.
        normalised: whether the hidden layers have batch normalisation.
    """
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), *([nn.BatchNorm1d(width)] if normalised else []), nn.ReLU(inplace=True)]
        inputs = width
    # The last layer has a bias: the mean of a target need not be 0, and the mean of a rotation's w is not.
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


def _require_widths(widths: Sequence[int]) -> None:
    if not widths or min(widths) < 1:
        raise ValueError(f"a head needs layers of at least 1 output each, got {list(widths)}")


def normalised_mlp(inputs: int, widths: Sequence[int], last_norm: bool = True) -> nn.Sequential:
    """The heads of SimSiam and MoCo v3: Linear - BatchNorm - ReLU for every width but the last, then Linear - BatchNorm
    without scale and shift.

    No linear map has a bias, as the normalisation after it would remove it.

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
    """DINO's head (Caron et al., ICCV 2021, app. C), also iBOT's: an MLP to normalised embeddings, and their
    similarities with K prototypes.

    Args:
        inputs: dimensions of the features that come in.
        widths: of the MLP's layers; the last is the dimension D of embeddings and prototypes.
        prototypes: K.
        batch_norm: whether hidden layers are normalised over the batch.
        unit_norm: whether prototypes have length 1; otherwise their lengths are learnt.
    """

    def __init__(
        self, inputs: int, widths: Sequence[int], prototypes: int, batch_norm: bool = False, unit_norm: bool = True
    ) -> None:
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
        """The parameters of the prototypes."""
        return [self.directions] if self.lengths is None else [self.directions, self.lengths]

    def similarities(self, embeddings: Tensor) -> Tensor:
        """Logits `(..., K)` of normalised embeddings `(..., D)`, or of their means: the map is linear."""
        prototypes = nn.functional.normalize(self.directions, dim=1)
        if self.lengths is not None:
            prototypes = prototypes * self.lengths
        return nn.functional.linear(embeddings, prototypes)

    def forward(self, features: Tensor) -> Tensor:
        """Logits `(..., K)` of features `(..., C)`."""
        return self.similarities(self.embed(features))


class DynamicHead(nn.Module):
    """Predicts bags of words with a linear classifier that a network computes from the words (Gidaris et al., CVPR
    2021, sec. 3.3).

        W = l2(Linear(ReLU(BatchNorm(Linear(l2(V))))))

    row by row; the logits of a feature s are kappa W s. Words change all the time, and what is learnt for one also
    serves similar ones.

    Args:
        channels: dimensions of a word.
        features: dimensions of a feature; the hidden layer has twice as many.
        kappa: factor of the logits.
        learn_kappa: whether kappa is learnt, beginning at that value.
    """

    def __init__(self, channels: int, features: int, kappa: float, learn_kappa: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(channels, 2 * features, bias=False)
        self.norm = WordNorm(2 * features)
        self.last = nn.Linear(2 * features, features)
        self.kappa = nn.Parameter(torch.tensor(kappa), requires_grad=learn_kappa)

    def classifier(self, words: Tensor) -> Tensor:
        """W, `(K, features)`, of words `(K, channels)`."""
        hidden = F.relu(self.norm(self.first(F.normalize(words, dim=1))), inplace=True)
        return F.normalize(self.last(hidden).to(words.dtype), dim=1)

    def forward(self, features: Tensor, classifier: Tensor) -> Tensor:
        """Logits `(..., K)` of features `(..., features)`, in the classifier's precision."""
        with torch.autocast(features.device.type, enabled=False):
            return (self.kappa * features.to(classifier.dtype)) @ classifier.T


class WordNorm(nn.Module):
    """Batch normalisation over words, with the statistics of one process.

    Every process has all words, so statistics shared between processes would count each word several times. The engine
    makes torch's batch normalisation share them; this class is left alone.

    Args:
        features: dimensions of a word.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(features)), nn.Parameter(torch.zeros(features))
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))

    def forward(self, words: Tensor) -> Tensor:
        """Normalised words `(K, features)`."""
        return F.batch_norm(words, self.running_mean, self.running_var, self.weight, self.bias, self.training)
