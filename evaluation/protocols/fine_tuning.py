"""Classification after the encoder itself was trained on the labels, with slower steps for earlier layers."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from timm.optim._param_groups import param_groups_layer_decay
from torch import Tensor, nn
from torch.nn.functional import affine_grid, cross_entropy, grid_sample

from ssl_inv.evaluation.protocols.base import Encoded, Protocol
from ssl_inv.evaluation.protocols.chosen_images import labelled_images
from ssl_inv.evaluation.protocols.classification import class_count, in_top, without_training_rows
from ssl_inv.evaluation.protocols.pooling_heads import warmed_cosine
from ssl_inv.evaluation.protocols.sampling import held_out_rows, random_batches
from ssl_inv.evaluation.results import Result
from ssl_inv.transforms.keyed_random import uniform

_CHUNK = 64
_SMALLEST = 0.35
"""Smallest area of a crop, as a share of the image's."""


@dataclass(frozen=True)
class FineTuning(Protocol):
    """Top-1 accuracy after all weights were trained on the labels of the training objects.

    What it measures: how good a start the encoder is, and not what its features hold as they are.

    Definition: a linear head, zero at the start, stands on the pooled vectors; both are trained by AdamW with smoothed
    labels on crops of at least 0.35 of the area and mirror images. The learning rate of a layer is the head's times
    d^(L + 1 - l), with d the layer decay, l the number of the layer and L that of the last one; the last norm of a
    vision transformer belongs to its last block. Vectors and positional embeddings have no weight decay. The learning
    rate is chosen on held-out training objects, of equals the one with the lowest cross-entropy, and the encoder is
    trained again, from where it was, on all.

    Source: layer decay as in BEiT (Bao et al., ICLR 2022) and MAE (He et al., CVPR 2022), by timm's groups, which give
    the last norm the rate of the last block where MAE gives it the rate of the head. MAE trains for 50 to 100 epochs
    with mixup, cutmix, random augmentation and drop path; here is none of them.

    End points: the untrained network beside is the same training from random weights, which is what labels alone give;
    a constant prediction has the accuracy in the remark.

    What it orders wrongly: with few steps the head is far from its end, and a linear probe of frozen features can be
    higher: the quick form compares encoders, not protocols. With many labels and steps every start ends alike, so it
    separates encoders less than frozen probes do. One layer decay does not suit all: features that must change a lot
    are held back by it. Crops and mirror images are wrong where the class depends on place or side.

    Attributes:
        images: of each split at most; all are held in memory.
        learning_rates: of the head.
        layer_decay: d; 1 trains all layers alike.
        weight_decay: of matrices.
        steps: of AdamW.
        batch: images in a step.
        smoothing: of the labels.
        held_out: share of the training objects that the learning rate is chosen on.
        seed: draws images, objects, batches and crops.
    """

    images: int = 10_000
    learning_rates: tuple[float, ...] = (2e-4, 5e-4, 1e-3, 2e-3)
    layer_decay: float = 0.65
    weight_decay: float = 0.05
    steps: int = 3000
    batch: int = 128
    smoothing: float = 0.1
    held_out: float = 0.1
    seed: int = 0

    needs: ClassVar[tuple[str, ...]] = ("images", "network")
    headlines: ClassVar[tuple[str, ...]] = ("fine_tuning/top1",)
    has_targets: ClassVar[bool] = False

    @classmethod
    def quick(cls) -> "FineTuning":
        """One learning rate and few steps."""
        return cls(images=256, learning_rates=(5e-3,), steps=30, batch=32)

    def run(self, encoded: Encoded) -> Iterator[Result]:
        assert encoded.network is not None
        if len(torch.unique(encoded.train.known_labels())) < 2 or not len(encoded.validation.labelled_rows()):
            yield Result("fine_tuning/top1", "all", None, detail="needs labels of two classes")
            return
        pixels, labels, objects = labelled_images(encoded, "train", self.images, self.seed)
        queries, wanted, of = labelled_images(encoded, "validation", self.images, self.seed)
        if min(len(torch.unique(one)) for one in (objects, labels)) < 2:
            yield Result("fine_tuning/top1", "all", None, detail="the drawn images have one object or class only")
            return
        classes, rate, edge = class_count(encoded.train, encoded.validation), self.learning_rates[0], ""
        if len(self.learning_rates) > 1:
            apart = held_out_rows(objects, self.held_out, self.seed)
            ranking = []
            for one in self.learning_rates:
                tuned = self._tuned(encoded.network, pixels, labels, (~apart).nonzero()[:, 0], classes, one)
                scores, known = tuned(pixels[apart.to(pixels.device)]), labels[apart]
                ranking.append((float(in_top(scores, known, 1).mean()), -float(cross_entropy(scores, known))))
            rate = self.learning_rates[ranking.index(max(ranking))]
            edge = ", an end of the grid" if rate in (self.learning_rates[0], self.learning_rates[-1]) else ""
        tuned = self._tuned(encoded.network, pixels, labels, torch.arange(len(pixels)), classes, rate)
        hits = in_top(tuned(queries), wanted, 1)
        most = float(torch.bincount(wanted).max()) / len(wanted)
        layers = "" if _named_layers(encoded.network()) is not None else "the network names no layers: all are one"
        remarks = [
            f"learning rate {rate:g}{edge}, {self.steps} steps on {len(pixels)} images",
            f"a constant prediction has {most:.3f}",
            layers,
            without_training_rows(encoded.train, encoded.validation),
        ]
        detail = "; ".join(filter(None, remarks))
        yield Result("fine_tuning/top1", "all", float(hits.mean()), self.bootstrap.mean_error(hits, of), detail)

    def _tuned(
        self,
        network: Callable[[], nn.Module],
        pixels: Tensor,
        labels: Tensor,
        rows: Tensor,
        classes: int,
        rate: float,
    ) -> Callable[[Tensor], Tensor]:
        """A copy of the network with a head, trained on some of the images: from pixels to logits."""
        body = network().requires_grad_().to(pixels.device)
        with torch.no_grad():
            width = body.eval()(pixels[:1]).shape[1]
        with torch.random.fork_rng(devices=[]):
            head = nn.Linear(width, classes).to(pixels.device)
        for one in head.parameters():
            nn.init.zeros_(one)
        model = nn.Sequential(body, head)
        groups = layer_groups(body, head, rate, self.layer_decay, self.weight_decay)
        optimizer = torch.optim.AdamW(groups)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warmed_cosine(step, self.steps))
        # Layers such as dropout draw from the global generators.
        with torch.random.fork_rng(devices=[pixels.device] if pixels.is_cuda else []), torch.enable_grad():
            torch.manual_seed(self.seed)
            model.train()
            for step, batch in enumerate(random_batches(len(rows), self.batch, self.steps, self.seed)):
                some = rows[batch]
                views = cropped(pixels[some.to(pixels.device)], uniform(self.seed, step, some.numpy(), count=4))
                loss = cross_entropy(model(views), labels[some].to(pixels.device), label_smoothing=self.smoothing)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
        model.eval()

        def logits(images: Tensor) -> Tensor:
            with torch.no_grad():
                return torch.cat([model(one).float().cpu() for one in torch.split(images, _CHUNK)])

        return logits


def layer_groups(
    body: nn.Module, head: nn.Module, rate: float, layer_decay: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Groups of parameters for an optimizer, with their learning rate and weight decay.

    The head has the rate, and each layer below it `layer_decay` times that of the next one. A network whose layers are
    not known counts as one layer.
    """
    model, least = _named_layers(body), 1.0
    known: list[dict[str, Any]] = []
    if model is not None:
        spared: Any = getattr(model, "no_weight_decay", tuple)
        known = param_groups_layer_decay(
            model, weight_decay=weight_decay, no_weight_decay_list=spared(), layer_decay=layer_decay
        )
        least = min(group["lr_scale"] for group in known)
    placed = {id(one) for group in known for one in group["params"]}
    # Parameters around the model whose layers are known, such as those of a stem, learn as its first layer does.
    others = [one for one in body.parameters() if id(one) not in placed]
    for decay, some in (
        (weight_decay, [one for one in others if one.dim() > 1]),
        (0.0, [one for one in others if one.dim() <= 1]),
    ):
        known.append({"params": some, "lr_scale": least, "weight_decay": decay})
    groups = [
        {"params": group["params"], "lr": rate * layer_decay * group["lr_scale"], "weight_decay": group["weight_decay"]}
        for group in known
        if group["params"]
    ]
    groups += [
        {"params": [one], "lr": rate, "weight_decay": weight_decay if one.dim() > 1 else 0.0}
        for one in head.parameters()
    ]
    return groups


def _named_layers(body: nn.Module) -> nn.Module | None:
    """The model within a network that says which parameters belong to which layer, as timm's do."""
    return next((one for one in body.modules() if hasattr(one, "group_matcher")), None)


def cropped(pixels: Tensor, numbers: np.ndarray[Any, np.dtype[np.float64]]) -> Tensor:
    """A random part of each image `(B, C, H, W)`, at its own shape, enlarged to the whole size, and mirrored for half
    of the images; `(B, 4)` numbers from [0, 1) decide.
    """
    area, left, top, mirrored = torch.from_numpy(numbers).unbind(1)
    share = (_SMALLEST + (1 - _SMALLEST) * area).sqrt()
    x, y = ((2 * where - 1) * (1 - share) for where in (left, top))
    none = torch.zeros_like(share)
    side = torch.where(mirrored < 0.5, -1.0, 1.0) * share
    theta = torch.stack((side, none, x, none, share, y), dim=1).view(-1, 2, 3).to(pixels)
    grid = affine_grid(theta, list(pixels.shape), align_corners=False)
    return grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)
