"""The networks of seq-JEPA, which make one vector of several views and the actions between them."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_inv.catalogue import SettingError
from ssl_inv.nn.losses import full_precision, in_full_precision

ActionStatistics = Literal["joint", "padded", "repeated"]
"""The batches over which the actions of one training step are normalised; `ActionEncoder` explains them."""


Initialisation = Literal["independent", "copies"]


class ActionEncoder(nn.Module):
    """Embeds actions by a linear map without bias, then batch normalisation without scale and shift: e = BN(W a).

    In a training step, a sample has M actions: those between its M observed views, and as the last one the action to
    the target. `joint` normalises all of them as one batch of B M rows. The authors' code has two batches with
    different scales: the B last actions, and B M rows of the other actions and one more per sample, which is discarded
    afterwards. The additional action is zero (`padded`, their code for augmentations and saccades; for saccades the two
    batches come in the other order, which changes only the running statistics) or the last action again (`repeated`,
    their code for 3DIEBench). In evaluation mode the three are equal.

    Args:
        action: K, length of the action vector.
        width: dimensions of an embedded action.
        statistics: the batches over which actions are normalised.
    """

    def __init__(self, action: int, width: int, statistics: ActionStatistics = "joint") -> None:
        super().__init__()
        self.width, self.statistics = width, statistics
        self.linear = nn.Linear(action, width, bias=False)
        self.norm = nn.BatchNorm1d(width, affine=False)

    def forward(self, actions: Tensor) -> Tensor:
        """Embedded actions `(B, M, A)` of a training step's actions `(B, M, K)`; the last one leads to the target."""
        if self.statistics == "joint":
            return self.embed(actions)
        observed, last = actions[:, :-1], actions[:, -1:]
        discarded = last if self.statistics == "repeated" else torch.zeros_like(last)
        target = self.embed(last)
        return torch.cat((self.embed(torch.cat((observed, discarded), dim=1))[:, :-1], target), dim=1)

    def embed(self, actions: Tensor) -> Tensor:
        """Embedded actions `(B, M, A)` of actions `(B, M, K)`, normalised as one batch."""
        embedded = self.norm(in_full_precision(self.linear, actions.flatten(0, 1)))
        return embedded.view(len(actions), actions.shape[1], self.width)  # type: ignore[no-any-return]


class RawActions(nn.Module):
    """Actions padded with zeros.

    Args:
        action: K, length of the action vector.
        features: dimensions of the features that an action is concatenated with.
        multiple: features and action together are padded to a multiple of this.
    """

    def __init__(self, action: int, features: int = 0, multiple: int = 1) -> None:
        super().__init__()
        self.padding = -(features + action) % multiple
        self.width = action + self.padding

    def forward(self, actions: Tensor) -> Tensor:
        """Padded actions `(B, M, A)` of actions `(B, M, K)`."""
        return F.pad(actions, (0, self.padding))

    def embed(self, actions: Tensor) -> Tensor:
        """The same."""
        return self(actions)  # type: ignore[no-any-return]


class PredictionSpace(nn.Module):
    """The space of the predictions: a view's features, or the features standardised over the batch.

    The pooled outputs of a ReLU all lie in one quadrant. Before any training, one constant is within 1 - cos of 0.16 to
    0.39 of the features of all images, and a predictor finds it first. Standardised features have no such constant.

    Args:
        features: D, dimensions of the features.
        standardised: whether batch normalisation without scale and shift standardises each dimension.
    """

    def __init__(self, features: int, standardised: bool) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(features, affine=False) if standardised else None

    def forward(self, features: Tensor) -> Tensor:
        """Embeddings `(B, D)` of features `(B, D)`."""
        if self.norm is None:
            return features
        # In half precision, the common part of all features would use up the digits that tell images apart.
        with torch.autocast(features.device.type, enabled=False):
            return self.norm(full_precision(features))  # type: ignore[no-any-return]

    def features(self, embeddings: Tensor) -> Tensor:
        """The features from which evaluation mode computed embeddings `(B, D)`."""
        if self.norm is None:
            return embeddings
        mean, variance = self.norm.running_mean, self.norm.running_var
        assert mean is not None
        assert variance is not None
        return embeddings * (variance + self.norm.eps).sqrt() + mean


class Aggregator(nn.Module):
    """A transformer that makes one vector, z_AGG, of views and the actions between them (seq-JEPA, Ghaemi et al.,
    NeurIPS 2025).

        z_AGG = LayerNorm(layers([AGG], (z_1; e_1), ..., (z_{M-1}; e_{M-1}), (z_M; 0)))[AGG]

    Layers are post-norm with ReLU and hidden layers of 4 D. The token [AGG] is learnt and initially zero. There are no
    positions and no mask, so the pairs (z_i; e_i) are a set: only which view is last matters. M may differ from call to
    call.

    Args:
        features: dimensions of a view's features.
        action: dimensions of an embedded action; 0 to aggregate views without actions.
        layers: their number.
        heads: of attention; must divide D = features + action.
        dropout: in every layer.
        initialisation: `independent` layers, or `copies` of one, as in torch's `TransformerEncoder` and so in the
            authors' code.

    Raises:
        SettingError: if the heads do not divide D.
    """

    def __init__(
        self,
        features: int,
        action: int,
        layers: int,
        heads: int,
        dropout: float,
        initialisation: Initialisation = "independent",
    ) -> None:
        super().__init__()
        width = features + action
        if heads < 1 or width % heads:
            raise SettingError(
                "heads", f"{heads}, which does not divide the {features} + {action} dimensions of a view and an action"
            )
        self.action = action
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        made = [nn.TransformerEncoderLayer(width, heads, 4 * width, dropout, batch_first=True) for _ in range(layers)]
        for layer in made[1:] if initialisation == "copies" else ():
            layer.load_state_dict(made[0].state_dict())
        self.layers = nn.ModuleList(made)
        self.norm = nn.LayerNorm(width)

    def tokens(self, features: Tensor, actions: Tensor) -> Tensor:
        """The input of the layers, `(B, M + 1, D)`; see `forward`."""
        if self.action:
            features = torch.cat((features, F.pad(actions, (0, 0, 0, 1)).to(features.dtype)), dim=2)
        return torch.cat((self.token.expand(len(features), -1, -1).to(features.dtype), features), dim=1)

    def forward(self, features: Tensor, actions: Tensor) -> Tensor:
        """One vector `(B, D)` for each sample.

        Args:
            features: of M views, `(B, M, features)`.
            actions: embedded, from each view to the next, `(B, M - 1, action)`; ignored if `action` is 0.
        """
        tokens = self.tokens(features, actions)
        for layer in self.layers:
            tokens = layer(tokens)
        return self.norm(tokens[:, 0])  # type: ignore[no-any-return]
