"""What retrieval is told of objectives that predict embeddings from embeddings and actions."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ssl_inv.transforms import Action, Convention


@dataclass(frozen=True)
class ActionPrediction:
    """An objective's prediction, for `Objective.predictor`.

    Attributes:
        encode: from normalised pixels to embeddings `(B, D)` in the space in which predictions are made.
        move: from embeddings `(B, D)` and action vectors `(B, K)` to predicted embeddings `(B, D)`.
        parameters: what of an action its vector tells.
        convention: how.
    """

    encode: Callable[[Tensor], Tensor]
    move: Callable[[Tensor, Tensor], Tensor]
    parameters: list[str]
    convention: Convention

    def embed(self, pixels: Tensor) -> Tensor:
        return self.encode(pixels)

    def predict(self, embedding: Tensor, action: Action) -> Tensor:
        return self.move(embedding, action.as_vector(self.parameters, self.convention))
