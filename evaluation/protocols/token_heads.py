"""Classification from all cells of frozen feature maps, by heads that learn how to pool them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from ssl_inv.evaluation.features import FeatureTable, Standardiser
from ssl_inv.evaluation.protocols.base import Encoded, Protocol
from ssl_inv.evaluation.protocols.chosen_images import labelled_images, mapped
from ssl_inv.evaluation.protocols.classification import class_count, in_top, without_training_rows
from ssl_inv.evaluation.protocols.pooling_heads import HEADS, initialised, trained_heads
from ssl_inv.evaluation.protocols.sampling import held_out_rows
from ssl_inv.evaluation.results import Result

_CHUNK = 256


@dataclass(frozen=True)
class TokenHeads(Protocol):
    """Top-1 accuracy of heads that see every cell of the feature map, and not its mean alone.

    What it measures: what a pooled vector loses. Some encoders, such as those that predict masked patches, keep the
    class in a few cells, or in how cells vary together.

    Definition: three heads are trained alike on standardised cells of images without augmentation.

    - `token_heads/mean/top1`: linear, of the mean of all cells; the others are to be compared with this one.
    - `token_heads/attentive/top1`: a learnt query attends to the cells.
    - `token_heads/moment/top1`: the mean, and the covariances of projected cells.

    AdamW, a grid of learning rates and weight decays whose heads are trained together. The best on held-out training
    objects is chosen, of equals the one with the lowest cross-entropy, and trained again on all. Class and register
    tokens are left out.

    Source: the attentive probe and its grid are those of Darcet et al., "Cluster and predict latent patches" (CAPI,
    2025), after Chen et al., "Context autoencoder" (IJCV 2023); moment probing is that of Gao et al. (ICCV 2023). Both
    are published with augmentation and, the second, with the class token.

    End points: shuffled labels give the chance level. With maps of one cell there is nothing to pool and no number.

    What it orders wrongly: these heads have far more parameters than a linear one, about D^2, so on small training sets
    they overfit and can stay below the mean. They gain most on encoders that were never pooled in training: a high
    number says that the class can be read with effort, not that it lies open.

    Attributes:
        images: of each split at most.
        learning_rates: of the grid.
        weight_decays: of the grid.
        steps: of AdamW.
        batch: images in a step.
        width: of the projection in moment probing.
        held_out: share of the training objects that a head is chosen on.
        seed: draws images, objects, initial weights and batches.
    """

    images: int = 10_000
    learning_rates: tuple[float, ...] = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2)
    weight_decays: tuple[float, ...] = (5e-4, 1e-3, 5e-2)
    steps: int = 12_500
    batch: int = 256
    width: int = 512
    held_out: float = 0.1
    seed: int = 0

    needs: ClassVar[tuple[str, ...]] = ("images", "maps")
    headlines: ClassVar[tuple[str, ...]] = ("token_heads/attentive/top1", "token_heads/moment/top1")

    @classmethod
    def quick(cls) -> "TokenHeads":
        """A grid of two heads, narrow covariances and few steps."""
        return cls(images=512, learning_rates=(1e-3, 1e-2), weight_decays=(1e-3,), steps=80, batch=64, width=64)

    def run(self, encoded: Encoded) -> Iterator[Result]:
        if reason := _lacking(encoded.train, encoded.validation):
            yield Result("token_heads/mean/top1", "all", None, detail=reason)
            return
        train, labels, objects = self._tokens(encoded, "train")
        queries, wanted, of = self._tokens(encoded, "validation")
        if train.shape[1] < 2:
            detail = "the feature map has one cell: there is nothing to pool"
            yield Result("token_heads/mean/top1", "all", None, detail=detail)
            return
        if min(len(torch.unique(one)) for one in (objects, labels)) < 2:
            yield Result("token_heads/mean/top1", "all", None, detail="the drawn images have one object or class only")
            return
        scale = Standardiser.fit(train.flatten(0, 1))
        train, queries = scale(train), scale(queries)
        classes = class_count(encoded.train, encoded.validation)
        for name in HEADS:
            scores, remark = self._scores(name, train, labels, objects, queries, classes)
            hits = in_top(scores, wanted, 1)
            remarks = [
                remark,
                f"{len(train)} training images of {train.shape[1]} cells",
                without_training_rows(encoded.train, encoded.validation),
            ]
            detail = "; ".join(filter(None, remarks))
            error = self.bootstrap.mean_error(hits, of)
            yield Result(f"token_heads/{name}/top1", "all", float(hits.mean()), error, detail)

    def _tokens(self, encoded: Encoded, split: str) -> tuple[Tensor, Tensor, Tensor]:
        """Cells `(M, N, D)` of labelled images, their labels and objects, `(M,)`."""
        assert encoded.maps is not None
        images, labels, objects = labelled_images(encoded, split, self.images, self.seed)
        return mapped(encoded.maps, images).float().flatten(2).transpose(1, 2), labels, objects

    def _scores(
        self, name: str, tokens: Tensor, labels: Tensor, objects: Tensor, queries: Tensor, classes: int
    ) -> tuple[Tensor, str]:
        """Logits `(M, classes)` of a head, and what was chosen."""
        with torch.random.fork_rng(devices=[]):
            head = initialised(HEADS[name](tokens.shape[-1], classes, self.width), self.seed)
        grid = [(rate, decay) for rate in self.learning_rates for decay in self.weight_decays]
        common = self.steps, self.batch, self.seed, self.device

        def logits(parameters: dict[str, Tensor], some: Tensor) -> Tensor:
            with torch.no_grad():
                return torch.cat([functional_call(head, parameters, (one,)) for one in torch.split(some, _CHUNK)])

        apart = held_out_rows(objects, self.held_out, self.seed)
        ranking = []
        for parameters in trained_heads(head, tokens[~apart], labels[~apart], grid, *common):
            scores, known = logits(parameters, tokens[apart]), labels[apart]
            ranking.append((float(in_top(scores, known, 1).mean()), -float(cross_entropy(scores, known))))
        rate, decay = chosen = grid[ranking.index(max(ranking))]
        (best,) = trained_heads(head, tokens, labels, [chosen], *common)
        ends = self.learning_rates[0], self.learning_rates[-1]
        edge = ", an end of the grid" if len(self.learning_rates) > 1 and rate in ends else ""
        return logits(best, queries), f"learning rate {rate:g}{edge}, weight decay {decay:g}"


def _lacking(train: FeatureTable, validation: FeatureTable) -> str:
    """Why nothing can be classified; empty if it can."""
    return (
        "" if len(torch.unique(train.known_labels())) > 1 and len(validation.labelled_rows()) else "needs two classes"
    )
