"""A data set as training sees it: objects are evaluated on augmented views, or on patches of saccades."""

import hashlib
from dataclasses import replace

import numpy as np
import torch

from ssl_inv.augment.maps import PROJECTIVE
from ssl_inv.augment.policy import Augmentation
from ssl_inv.augment.shared import Shared
from ssl_inv.catalogue import SettingError
from ssl_inv.data.batches import Batch
from ssl_inv.data.source import Images, Indices, Labels, Source
from ssl_inv.transforms import Group, Transform
from ssl_inv.views import Pair, Plan, Saccades
from ssl_inv.views.maker import ViewMaker

_EPOCH = 2**32
"""The epoch in the key of these views; training never reaches it."""


class TrainingViews(Source):
    """The objects of another source in views like an objective's. A view is the same whenever it is loaded.

    Patches of saccades are made as the plan says, one saccade after the other. With any other plan, the first policy of
    the augmentation makes every view; in seq-JEPA this is the policy of the observed views. If objects have several
    views of their own, these are augmented, at most as many as the object with the fewest views has. Pixels are rounded
    to 8 bits; in training they are not.

    Args:
        source: where the images come from.
        plan: the objective's.
        augmentation: the run's.
        views: largest number of views of every object.
        seed: decides how views are made.
        device: where views are made.

    Raises:
        ValueError: as `ViewMaker`; for example if objects have one image and no augmentation makes views of it.
    """

    def __init__(
        self,
        source: Source,
        plan: Plan,
        augmentation: Augmentation,
        views: int,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.source, self.device = source, torch.device(device)
        if not isinstance(plan, Saccades) and (fewest := int(source.view_counts.min())) > 1:
            views = min(views, fewest)
        self.views = views
        made = replace(plan, observed=max(views - 1, 1)) if isinstance(plan, Saccades) else Pair(max(views, 2))
        self._first = Augmentation(augmentation.policies[:1])
        if any(isinstance(one, Shared) for one in self._first.policies[0].operations):
            raise SettingError(
                "views_of",
                "'training' is impossible if views depend on their batch, as with shared augmentations",
            )
        zero, one = [0.0] * source.channels, [1.0] * source.channels
        self._maker = ViewMaker(made, source, self._first, zero, one, seed).to(self.device)
        self._size = (*made.sizes, self._first.policies[0].size or source.image_size)[0]

    @property
    def view_counts(self) -> Indices:
        return np.full(len(self.source), self.views)

    @property
    def groups(self) -> dict[str, Group]:
        return self._maker.groups

    @property
    def labels(self) -> Labels | None:
        return self.source.labels

    @property
    def image_size(self) -> int:
        return self._size

    @property
    def channels(self) -> int:
        return self.source.channels

    @property
    def tolerated_images(self) -> int | None:
        return self.source.tolerated_images

    @property
    def stamp(self) -> str:
        # The pixels of some views stand for everything that makes them: plan, augmentation and seed.
        shown = self.load(np.zeros(self.views, dtype=np.int64), np.arange(self.views)).pixels
        return f"{self.source.stamp} {hashlib.sha256(shown.cpu().numpy().tobytes()).hexdigest()}"

    @property
    def turned(self) -> bool:
        return "angle" in self._first.groups or PROJECTIVE in self._first.groups

    def describe(self, object_index: int, view: int) -> str:
        return f"{self.source.describe(object_index, 0)}, made view {view}"

    def load(self, objects: Indices, views: Indices) -> Images:
        wanted, row = np.unique(objects, return_inverse=True)
        own = [self.source.load(wanted, np.full_like(wanted, number)) for number in range(self._maker.loaded_views)]
        made = self._maker(Batch(tuple(own), torch.from_numpy(wanted), _EPOCH, ()).to(self.device)).views
        pixels = torch.stack([view.pixels for view in made])[views, row].mul(255).round().clamp(0, 255).byte()
        every = Transform.concatenate([view.transform.to("cpu") for view in made])
        readable = torch.stack([one.readable for one in own]).all(dim=0)
        return Images(
            pixels, every.select(torch.from_numpy(views * len(wanted) + row)), readable[torch.from_numpy(row)]
        )
