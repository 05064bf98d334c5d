"""Detection of objects by a detector on an encoder's feature map."""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ssl_inv.evaluation.protocols.base import Encoded, Protocol
from ssl_inv.evaluation.protocols.box_measures import Found, average_precision, judged, together
from ssl_inv.evaluation.protocols.chosen_images import mapped
from ssl_inv.evaluation.protocols.pooling_heads import warmed_cosine
from ssl_inv.evaluation.protocols.sampling import random_batches
from ssl_inv.evaluation.results import Result
from ssl_inv.transforms.annotations import Boxes
from ssl_inv.transforms.keyed_random import permutation, uniform

_CHUNK = 16


@dataclass(frozen=True)
class Detection(Protocol):
    """AP50 of a Faster R-CNN on an encoder's feature map.

    What it measures: whether cells say what object they are part of, and where it ends; several objects in one image.

    Definition: torchvision's Faster R-CNN reads the map, projected to `width` channels. It is trained by AdamW on the
    training images and their mirror images; the learning rate rises over a tenth of the steps and falls to zero along a
    cosine. The encoder is frozen, or trained with a tenth of the learning rate if `tuned`. A detection of a validation
    image is right if it overlaps an object of its class by an intersection over union of at least 0.5 that no better
    detection has found; difficult objects count for nothing.

    - `detection/ap50`: the area under the curve of precision over recall, the mean over classes with an object in
      validation;
    - `detection/CLASS/ap50`: of each class.

    Source: Ren et al., "Faster R-CNN" (NeurIPS 2015); average precision as Pascal VOC defines it since 2010 (Everingham
    et al., IJCV 2015). Published numbers of self-supervised encoders are of images of 480 to 800 rows and a trained
    encoder. Here images are squashed to the square that the encoder takes, which leaves overlaps as they are. The
    settings are ours, so numbers compare encoders with each other alone.

    End points, in the remark: a box around the whole image, for every class.

    What it orders wrongly: a larger map finds smaller objects, and small images have few cells: compare at equal maps.
    The detector has far more parameters than a linear probe, so it can learn what the encoder lacks where there are
    many images, and is noisy where there are few. Few steps favour encoders whose features have a suitable scale.

    Attributes:
        images: of each split at most.
        tuned: whether the encoder is trained too.
        learning_rate: of the detector.
        weight_decay: of everything trained.
        steps: of AdamW.
        batch: images in a step.
        width: channels that the detector reads.
        hidden: units of its last layers.
        seed: draws images, batches, mirror images and the first weights.

    Raises:
        ValueError: if a number is below 1, or the learning rate is not above 0.
    """

    images: int = 20_000
    tuned: bool = False
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    steps: int = 6000
    batch: int = 16
    width: int = 256
    hidden: int = 1024
    seed: int = 0

    needs: ClassVar[tuple[str, ...]] = ("boxes", "maps")
    headlines: ClassVar[tuple[str, ...]] = ("detection/ap50",)
    has_targets: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name in ("images", "steps", "batch", "width", "hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")

    @classmethod
    def quick(cls) -> "Detection":
        """Few images and steps, and a narrow detector."""
        return cls(images=128, steps=60, batch=8, width=64, hidden=128)

    def run(self, encoded: Encoded) -> Iterator[Result]:
        assert encoded.maps is not None
        if self.tuned and encoded.mapper is None:
            yield Result("detection/ap50", "all", None, detail="there is no network that could be trained on")
            return
        train, validation = (self._images(encoded, split) for split in ("train", "validation"))
        known = torch.cat([one.classes[~one.difficult] for one in train])
        wanted = torch.cat([one.classes[~one.difficult] for one in validation])
        if not len(known) or not len(wanted):
            split = "validation" if len(known) else "training"
            yield Result("detection/ap50", "all", None, detail=f"no drawn {split} image has an object to find")
            return
        classes = int(torch.cat((known, wanted)).max()) + 1
        found = self._detected(encoded, train, validation, classes)
        whole = [_around(one) for one in validation]
        numbers = torch.unique(wanted).tolist()
        by_class = {one: (_found(found, validation, one), _found(whole, validation, one)) for one in numbers}
        weights = torch.eye(len(validation), dtype=torch.float64)

        def mean(at: int) -> Any:
            def of(totals: Tensor) -> Tensor:
                return torch.stack([average_precision(pair[at], totals) for pair in by_class.values()]).nanmean(dim=0)

            return of

        once = torch.ones(1, len(validation), dtype=torch.float64)
        trained = "the encoder is trained too" if self.tuned else "the encoder is frozen"
        detail = f"{len(train)} training images, {self.steps} steps, {trained}; {len(wanted)} objects of "
        detail += f"{len(numbers)} classes in {len(validation)} images; the whole image {float(mean(1)(once)):.3f}"
        error = self.bootstrap.standard_error(weights, mean(0))
        yield Result("detection/ap50", "all", float(mean(0)(once)), error, detail)
        names = validation[0].names
        for number, (one, level) in by_class.items():
            value, low = (float(average_precision(each, once)) for each in (one, level))
            remark = f"{int(one.wanted.sum())} objects; the whole image {low:.3f}"
            yield Result(f"detection/{names[number] if names else number}/ap50", "all", value, None, remark)

    def _images(self, encoded: Encoded, split: str) -> list[Boxes]:
        assert encoded.boxes is not None
        ids = torch.unique((encoded.train if split == "train" else encoded.validation).objects)
        some = permutation(self.seed, length=len(ids))[: self.images]
        return list(encoded.boxes(split, ids[torch.from_numpy(np.sort(some))]))

    def _detected(
        self, encoded: Encoded, train: list[Boxes], validation: list[Boxes], classes: int
    ) -> list[dict[str, Tensor]]:
        """The detections in the validation images."""
        device = torch.device(self.device)
        # torchvision draws first weights and proposals from the global generators.
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.enable_grad():
            torch.manual_seed(self.seed)
            body = encoded.mapper().requires_grad_() if self.tuned and encoded.mapper is not None else None
            pixels = torch.stack([one.pixels for one in train]).float()
            straight, mirrored = (self._inputs(encoded, some) for some in (pixels, pixels.flip(3)))
            model = _detector(_shape(encoded, pixels[:1]), pixels.shape[-1], classes, self.width, self.hidden, body).to(
                device
            )
            self._train(model, train, (straight, mirrored), device)
            model.eval()
            with torch.no_grad():
                queries = torch.stack([one.pixels for one in validation]).float()
                inputs = self._inputs(encoded, queries)
                return [
                    {name: value.cpu() for name, value in one.items()}
                    for start in range(0, len(queries), _CHUNK)
                    for one in _called(model, inputs[start : start + _CHUNK], queries[start : start + _CHUNK], device)
                ]

    def _inputs(self, encoded: Encoded, pixels: Tensor) -> Tensor:
        """What the detector reads of images: their maps, or the images themselves if the encoder is trained."""
        if self.tuned:
            return pixels
        assert encoded.maps is not None
        return mapped(encoded.maps, pixels).float()

    def _train(self, model: Any, train: list[Boxes], inputs: tuple[Tensor, Tensor], device: torch.device) -> None:
        body = [] if model.backbone.body is None else list(model.backbone.body.parameters())
        apart = {id(one) for one in body}
        others = [one for one in model.parameters() if id(one) not in apart]
        groups: list[dict[str, Any]] = [{"params": others, "lr": self.learning_rate}]
        groups += [{"params": body, "lr": self.learning_rate / 10}] if body else []
        optimizer = torch.optim.AdamW(groups, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warmed_cosine(step, self.steps))
        model.train()
        for step, rows in enumerate(random_batches(len(train), self.batch, self.steps, self.seed)):
            turned = torch.from_numpy(uniform(self.seed, step, rows.numpy(), count=1)[:, 0] < 0.5)
            given = torch.stack([inputs[int(over)][row] for row, over in zip(rows.tolist(), turned, strict=True)])
            chosen = [train[row] for row in rows.tolist()]
            images = torch.stack([one.pixels for one in chosen])
            targets = [_target(one, bool(over), device) for one, over in zip(chosen, turned, strict=True)]
            losses = _called(model, given, images, device, targets)
            loss = sum(losses.values())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_([one for group in groups for one in group["params"]], 10.0)
            optimizer.step()
            schedule.step()


class _Trunk(nn.Module):
    """What stands before a detector: it reads maps that are set, or those of a network that is trained.

    Args:
        channels: of the map.
        width: of what it gives.
        body: the network; None: `given` holds maps.
    """

    def __init__(self, channels: int, width: int, body: nn.Module | None) -> None:
        super().__init__()
        self.body, self.out_channels = body, width
        # Encoders have features of very different scales.
        self.scale = nn.GroupNorm(1, channels)
        self.projection = nn.Conv2d(channels, width, 1)
        self.given = torch.empty(0)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        found = self.given if self.body is None else self.body(self.given)
        return OrderedDict({"0": self.projection(self.scale(found))})


def _called(
    model: Any, given: Tensor, images: Tensor, device: torch.device, targets: list[dict[str, Tensor]] | None = None
) -> Any:
    """The losses, or without targets the detections, of a detector whose trunk reads `given`."""
    model.backbone.given = given.to(device)
    return model(list(images.float().to(device)), targets)


def _detector(
    shape: tuple[int, int], side: int, classes: int, width: int, hidden: int, body: nn.Module | None
) -> nn.Module:
    """Faster R-CNN on one map.

    Args:
        shape: channels and rows of the map.
        side: of the images in pixels.
        classes: how many there are.
        width: channels that it reads.
        hidden: units of the last layers.
        body: a network that is trained with it; None: maps are set.
    """
    # It takes a second to load, and few ask for it.
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.ops import MultiScaleRoIAlign

    pool = 7 if shape[1] >= 7 else 3
    sizes = tuple(max(side // part, 1) for part in (8, 4, 2, 1))
    detector: nn.Module = FasterRCNN(
        _Trunk(shape[0], width, body),
        min_size=side,
        max_size=side,
        image_mean=[0.0, 0.0, 0.0],
        image_std=[1.0, 1.0, 1.0],
        size_divisible=1,
        rpn_anchor_generator=AnchorGenerator((sizes,), ((0.5, 1.0, 2.0),)),
        rpn_pre_nms_top_n_train=500,
        rpn_pre_nms_top_n_test=300,
        rpn_post_nms_top_n_train=200,
        rpn_post_nms_top_n_test=100,
        rpn_batch_size_per_image=64,
        box_batch_size_per_image=64,
        box_roi_pool=MultiScaleRoIAlign(["0"], pool, 2),
        box_head=TwoMLPHead(width * pool**2, hidden),
        box_predictor=FastRCNNPredictor(hidden, classes + 1),
        box_score_thresh=0.01,
    )
    return detector


def _shape(encoded: Encoded, pixels: Tensor) -> tuple[int, int]:
    assert encoded.maps is not None
    maps = mapped(encoded.maps, pixels)
    return maps.shape[1], maps.shape[2]


def _target(one: Boxes, mirrored: bool, device: torch.device) -> dict[str, Tensor]:
    boxes = one.boxes[~one.difficult]
    if mirrored:
        side = one.pixels.shape[-1]
        boxes = torch.stack((side - boxes[:, 2], boxes[:, 1], side - boxes[:, 0], boxes[:, 3]), dim=1)
    return {"boxes": boxes.to(device), "labels": (one.classes[~one.difficult] + 1).to(device)}


def _around(one: Boxes) -> dict[str, Tensor]:
    """A box around the whole image for every class in it or not; see `_found`."""
    height, width = one.pixels.shape[-2:]
    return {"boxes": torch.tensor([[0.0, 0.0, width, height]]), "scores": torch.ones(1), "labels": torch.full((1,), -1)}


def _found(detections: list[dict[str, Tensor]], truth: list[Boxes], number: int) -> Found:
    """The detections of one class; those with a label below 0 are of every class."""
    parts, wanted = [], []
    for one, given in zip(detections, truth, strict=True):
        own, mine = (one["labels"] == number + 1) | (one["labels"] < 0), given.classes == number
        boxes, hard = given.boxes[mine], given.difficult[mine]
        parts.append(judged(one["boxes"][own], one["scores"][own], boxes, hard, 0.5))
        wanted.append(int((~hard).sum()))
    return together(parts, torch.tensor(wanted))
