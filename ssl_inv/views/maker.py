"""From a batch of raw images to the normalised views that an objective asked for."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_inv.augment.operation import Normalisation
from ssl_inv.augment.policy import Augmentation, Policy
from ssl_inv.augment.shared import Shared
from ssl_inv.catalogue import within
from ssl_inv.data.batches import Batch
from ssl_inv.data.source import Images, Source
from ssl_inv.data.wanted import Framing, SharedStep
from ssl_inv.transforms import Group, Transform
from ssl_inv.transforms.keyed_random import Key
from ssl_inv.views.makers import Frames, maker_of
from ssl_inv.views.plan import Plan, View, Views
from ssl_inv.views.plans import Linked, MultiCrop, Pair, Several, ViewSequence
from ssl_inv.views.renderings import Extent


class ViewMaker(nn.Module):
    """Makes views on the device that the batch is on.

    Data whose objects have as many views as a `Pair` or a `ViewSequence` needs serves the plan with them, augmented on
    top if wished; so does data that can render the images of a `TransformPath`. In all other cases the augmentation
    makes the views of a plan from one image.

    Args:
        plan: the views that are wanted.
        source: the data, for what it records of its views.
        augmentation: makes views, with random numbers that depend on seed, epoch and sample alone.
        mean: per channel, subtracted from pixels in [0, 1].
        std: per channel, divides afterwards.
        seed: decides the augmentation's random numbers.

    Raises:
        ValueError: if the data has fewer views an object than the plan needs and the augmentation makes none, if the
            augmentation does not do what the plan builds on, if the data cannot render what it should, or if the data
            and the augmentation record parameters of the same name.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        plan: Plan,
        source: Source,
        augmentation: Augmentation,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
    ) -> None:
        super().__init__()
        plan = plan.over(source.groups)
        if source.photographs:
            augmentation = augmentation.sized(source.image_size)
        self.plan, self.augmentation, self.seed = plan, augmentation, seed
        fewest = int(source.view_counts.min())
        self.loaded_views = plan.own_views if plan.linked or fewest >= plan.own_views else 1
        """How many of the data's own views of each object a batch must have."""
        _require_different_views(plan, augmentation, fewest, self.loaded_views)
        _require_images_between(plan, source, fewest)
        _require_shared(plan, augmentation)
        self._maker, self._photographs = maker_of(plan, augmentation), source.photographs
        policies = [policy for _, policy in self._maker.origins(1)]
        _require_fitting_operations(policies, source.image_size, source.channels)
        self._made_groups: dict[str, Group] = {**augmentation.groups, **plan.groups}
        if both := sorted(set(source.groups) & set(self._made_groups)):
            raise ValueError(
                f"the data records {both[0]!r} of its views, and so does the augmentation or the plan; "
                "rename the data's parameter"
            )
        self.groups: dict[str, Group] = {**source.groups, **self._made_groups}
        self._crop_share = augmentation.view_size(source.image_size) / source.image_size
        self.normalisation = Normalisation(tuple(mean), tuple(std))
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, batch: Batch) -> Views:
        """The views of a batch whose tensors are on this module's device."""
        index = batch.index.numpy()
        key = Key(self.seed, np.full_like(index, batch.epoch), index, 0)
        views = []
        # Half precision is for networks; views must not depend on it.
        with torch.autocast(self.mean.device.type, enabled=False):
            for pixels, drawn, source in self._maker.make(batch.images, key, self.normalisation):
                values, groups = dict(batch.images[source].transform.values), batch.images[source].transform.groups
                # All views of a sample have the same parameters, neutral where a view has no part in one.
                for name, group in self._made_groups.items():
                    values[name] = drawn.values[name] if name in drawn.values else group.neutral(len(index))
                record = Transform(values, {**groups, **self._made_groups}).to(pixels.device)
                views.append(View(pixels, record))
        return Views(tuple(views), batch.index, batch.shown, batch.labels)

    def render(self, images: Sequence[Images], transform: Transform, number: int) -> Tensor:
        """The pixels of a view again, from its record.

        Args:
            images: what the view was made of: `Batch.images`, or some of its rows.
            transform: how the view was made.
            number: which view of the plan it is.
        """
        with torch.autocast(self.mean.device.type, enabled=False):
            return self._maker.render(images, transform, number, self.normalisation)

    def drawn(self, count: int, size: int) -> list[Transform]:
        """How the views of some samples would be made, without an image: one record for each rendering of the plan.

        Args:
            count: how many samples.
            size: side of the images in pixels; photographs are taken to be as high, or half as high again, as wide.
        """
        key = Key(self.seed, np.zeros(count, dtype=np.int64), np.arange(count), 0)
        side = np.full(count, size)
        shorter, longer = side, np.where(np.arange(count) % 2, side, side * 3 // 2)
        extent: Extent = (longer, shorter) if self._photographs else (size, size)
        return self._maker.transforms(key, [extent] * self.plan.sources)

    @property
    def frames(self) -> Framing | None:
        """Which regions of photographs the views need; None where they are made of images of one size."""
        return Frames(self._maker.host_part(), self.seed) if self._photographs else None

    def normalise(self, pixels: Tensor) -> Tensor:
        """Subtract the mean and divide by the standard deviation; with channels last, as convolutions prefer."""
        return ((pixels - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def whole(self, pixels: Tensor) -> Tensor:
        """Whole images of the data, pixels in [0, 1], as networks see them where no views are made: evaluation, banks,
        graphs.

        Views may have another size than the data's images, so this is the centre of the image, in the size of views.
        """
        return self.normalise(central(pixels, self._crop_share))


def central(pixels: Tensor, share: float) -> Tensor:
    """The centre of square images `(B, C, S, S)`, `share` of their sides; with a share above 1 the images enlarged."""
    whole, side = pixels.shape[-1], round(pixels.shape[-1] * share)
    if side > whole:
        return F.interpolate(pixels, (side, side), mode="bicubic").clamp(0, 1)
    # To the even number where the middle falls between two pixels, as in torchvision and timm.
    start = round((whole - side) / 2)
    return pixels[..., start : start + side, start : start + side]


def _require_fitting_operations(policies: Sequence[Policy], size: int, channels: int) -> None:
    for policy in dict.fromkeys(policies):
        with within("augmentation"):
            policy.check(size, channels)


def _require_different_views(plan: Plan, augmentation: Augmentation, fewest: int, loaded: int) -> None:
    parts = zip(plan.plans, plan.choices, strict=True) if isinstance(plan, Several) else [(plan, None)]
    for part, policy in parts:
        alike = isinstance(part, Pair | ViewSequence | MultiCrop) and part.count > loaded
        # An image may stand beside another view of its object.
        alike = alike or (isinstance(part, Linked) and part.count > fewest)
        if alike and (policy == "plain" or not augmentation.groups):
            needed = f"objects of this data have {fewest} view(s) and {part.count} are needed"
            advice = "other data" if policy == "plain" else "an augmentation that makes them"
            raise ValueError(f"{needed}; choose {advice}")


def _require_shared(plan: Plan, augmentation: Augmentation) -> None:
    """Refuse an augmentation that draws for every sample alone where a plan has groups of samples."""
    if plan.alike == 1 or plan.way is not None:
        return
    for policy in augmentation.policies:
        found = [one.samples for one in policy.operations if isinstance(one, Shared)]
        if found != [plan.alike]:
            wanted = f"the objective needs the same augmentation for {plan.alike} consecutive samples: one operation"
            has = (
                f"there {'is one' if len(found) == 1 else f'are {len(found)}'} for {found[0]}"
                if found
                else "there is none"
            )
            raise ValueError(f"{wanted} `shared` with samples: {plan.alike} in every policy; {has}")


def _require_images_between(plan: Plan, source: Source, fewest: int) -> None:
    if plan.way is None:
        return
    name = plan.way.parameters[0]
    wanted = f"images on the way from one view to another along {name!r} are wanted"
    if isinstance(plan.way, SharedStep):
        wanted = f"images are wanted in which {name!r} changes alike for {plan.way.samples} samples"
    if not source.renders:
        raise ValueError(
            f"{wanted}, but this data is stored images; choose rendered data, or parameters that an augmentation draws"
        )
    if fewest < 2:
        raise ValueError(f"{wanted}, but objects of this data have {fewest} view; 2 are needed")
