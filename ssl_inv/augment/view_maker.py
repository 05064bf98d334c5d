"""From a batch of raw images to the normalised views that an objective asked for."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ssl_inv.augment.pipeline import Augmentation, Key
from ssl_inv.data.base import Source
from ssl_inv.data.loading import Batch
from ssl_inv.transforms import Group
from ssl_inv.views import Plan, View, Views


class ViewMaker(nn.Module):
    """Makes views on the device that the batch is on.

    Data whose objects have several views serves the plan from these, augmented on top if wished; from data with one view an object, all
    views of a plan are made from that one by the augmentation.

    Args:
        plan: the views that are wanted.
        source: the data, for what it records of its views.
        augmentation: applied to every view, with independent random numbers.
        mean: per channel, subtracted from pixels in [0, 1].
        std: per channel, divides afterwards.
        seed: decides the augmentation's random numbers.

    Raises:
        ValueError: if the data has fewer views an object than the plan needs and the augmentation makes none.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, plan: Plan, source: Source, augmentation: Augmentation, mean: Sequence[float], std: Sequence[float], seed: int
    ) -> None:
        super().__init__()
        self.plan, self.augmentation, self.seed = plan, augmentation, seed
        fewest = int(source.view_counts.min())
        self.loaded_views = plan.count if fewest >= plan.count else 1
        if self.loaded_views < plan.count and not augmentation.groups:
            needed = f"objects of this data have {fewest} view(s) and {plan.count} are needed"
            raise ValueError(f"{needed}; choose an augmentation that makes them")
        self.groups: dict[str, Group] = {**source.groups, **augmentation.groups}
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, batch: Batch) -> Views:
        """The views of a batch whose tensors are on this module's device."""
        index = batch.index.numpy()
        epoch = np.full_like(index, batch.epoch)
        views = []
        for number in range(self.plan.count):
            images = batch.images[number % len(batch.images)]
            pixels, transform = self.augmentation(images.pixels.float() / 255, Key(self.seed, epoch, index, number))
            views.append(View(self.normalise(pixels), images.transform.merge(transform.to(pixels.device))))
        return Views(tuple(views), batch.index)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Subtract the mean and divide by the standard deviation; channels last, as convolutions like it."""
        return ((pixels - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
