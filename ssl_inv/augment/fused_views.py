"""A policy as a kornia augmentation.

kornia counts pixels: (0, 0) is the centre of the top left one, (W - 1, H - 1) that of the bottom right one, and its
matrices lead from the source to the view. Maps of this package lead from the view to the source, between -1 and 1 at
the outer edges of the outer pixels. With N the change from pixels to the latter, x -> (2 x + 1) / W - 1, kornia's
matrix is N_view^-1 M^-1 N_source. That is exact, because both describe the same continuous map.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

import kornia.augmentation as K
import numpy as np
import torch
import torch.nn.functional as F
from kornia.constants import Resample
from numpy.typing import NDArray
from torch import Tensor

from ssl_inv import augment
from ssl_inv.augment.current_key import current_key
from ssl_inv.augment.keyed import Keyed
from ssl_inv.augment.local import GEOMETRIC, RandomField
from ssl_inv.augment.maps import maps
from ssl_inv.augment.policy import Augmentation, Policy
from ssl_inv.augment.warp import changed
from ssl_inv.catalogue import OPERATIONS, require, within
from ssl_inv.transforms import Transform
from ssl_inv.transforms.keyed_random import Key

Params = dict[str, Tensor]

_CURVED = (K.RandomElasticTransform, K.RandomFisheye, K.RandomThinPlateSpline, K.RandomJigsaw)


class FusedViews(K.GeometricAugmentationBase2D):
    """Views of a policy as one kornia augmentation, always applied: alone, in `nn.Sequential`, or in
    `AugmentationSequential` with masks, boxes and key points.

    Inside `with ssl_inv.augment.current_key.keyed(key):` views depend on the key alone, and are those of
    `Policy.render`, bit for bit. Otherwise each call takes one number from torch's global generator, so
    `torch.manual_seed` decides as it does for kornia's own augmentations.

    Images are `(B, C, H, W)` or `(C, H, W)`, float in [0, 1], or uint8. Views are `(B, C, size, size)` with the dtype
    of the images, computed in single precision; those of uint8 images are float32 in [0, 1]. No gradient reaches the
    images.

    Masks follow the geometry alone, by the nearest pixel (or bilinear, with kornia's `extra_args`), and show beyond the
    border what the view shows. Boxes and key points follow `transform_matrix`. They cannot follow a random field, nor
    augmentations of kornia that bend images, which masks cannot follow either: a policy with one refuses them.
    `inverse` undoes the geometry of images, masks, boxes and key points, not the colours; what a view does not show
    comes back as zero.

    Args:
        policy: a policy, or an augmentation.
        view: which view's policy an augmentation applies.
        same_on_batch: whether the whole batch is made as its first image.
        keepdim: whether a view of a `(C, H, W)` image has three dimensions.
    """

    def __init__(
        self,
        policy: Policy | Augmentation,
        *,
        view: int | Literal["plain"] = 0,
        same_on_batch: bool = False,
        keepdim: bool = False,
    ) -> None:
        super().__init__(p=1.0, same_on_batch=same_on_batch, keepdim=keepdim)
        known = isinstance(policy, (Policy, Augmentation))
        require(known, "policy", f"must be a Policy or an Augmentation, got a {type(policy).__name__}")
        self.augmentation = policy if isinstance(policy, Augmentation) else Augmentation((policy,))
        self.policy = self.augmentation.policy(view)
        size = self.policy.size
        self.flags = {"resample": Resample.BILINEAR, "size": size and (size, size)}

    def __repr__(self) -> str:
        parts = [_described(one) for one in self.policy.operations]
        parts += [f"size={self.policy.size}"] if self.policy.size else []
        parts += [f"padding={self.policy.style.padding}", f"same_on_batch={self.same_on_batch}"]
        return f"{type(self).__name__}({', '.join(parts)})"

    # What is drawn, and its record.

    def draw(self, source: Key | Transform, height: int, width: int) -> Params:
        """What `forward` takes as `params`.

        Args:
            source: a key to draw from, or the record of views to make again; one row for each image.
            height: of the images, in pixels.
            width: of the images, in pixels.
        """
        drawn = self.augmentation.draw(source, height, width, self.policy) if isinstance(source, Key) else source
        missing = sorted(set(self.augmentation.groups) - set(drawn.names))
        require(not missing, "source", f"has no record of {', '.join(missing)}, which this policy draws")
        count, size = len(source), self._size(height, width)
        return {
            **{name: drawn[name] for name in self.augmentation.groups},
            "output_size": torch.tensor([[size, size]]).expand(count, 2),
            "batch_prob": torch.ones(count),
            # Of the channels, nothing is drawn.
            "forward_input_shape": torch.tensor([count, 3, height, width]),
        }

    def record(self, params: Mapping[str, Tensor] | None = None) -> Transform:
        """How views were made, by name and group.

        Args:
            params: of the views, for instance the data of a `ParamItem`; None is those of the last call.
        """
        params, groups = self._params if params is None else params, self.augmentation.groups
        missing = [name for name in groups if name not in params]
        require(not missing, "params", f"have no {', '.join(missing)}; give those of `FusedViews.draw`")
        return Transform({name: params[name] for name in groups}, groups)

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> Params:
        """Draws from the key of `keyed`, or from one number of torch's global generator."""
        count, _, height, width = batch_shape
        key = current_key()
        if key is None:
            seed = int(torch.randint(2**62, ()))
            key = Key(seed, 0, np.arange(count), 0)
        require(len(key) == count, "key", f"has {len(key)} rows, but there are {count} images")
        if self.same_on_batch and count:
            epoch = key.epoch if isinstance(key.epoch, int) else key.epoch[:1].repeat(count)
            key = replace(key, index=key.index[:1].repeat(count), epoch=epoch)
        return self.draw(key, height, width)

    # Pixels.

    def transform_tensor(self, images: Tensor, **kwargs: Any) -> Tensor:  # type: ignore[override]
        """`(B, C, H, W)`, of kornia's dtypes or uint8."""
        if images.dtype != torch.uint8:
            tensor: Tensor = super().transform_tensor(images, **kwargs)
            return tensor
        return images if images.dim() == 4 else super().transform_tensor(images.float(), **kwargs).to(torch.uint8)

    def validate_tensor(self, images: Tensor) -> None:
        """Refuse what is no batch of images, with kornia's errors."""
        if images.dtype != torch.uint8:
            super().validate_tensor(images)

    def apply_transform(
        self, images: Tensor, params: Params, flags: dict[str, Any], transform: Tensor | None = None
    ) -> Tensor:
        """The views."""
        channels = int(images.shape[1])
        if channels != 3:
            with within("images"):
                self.policy.check(self._size(*images.shape[-2:]), channels)
        if not len(images):
            return images.new_empty(0, channels, *[self._size(*images.shape[-2:])] * 2)
        pixels = images if images.dtype == torch.uint8 else images.float()
        with torch.autocast(images.device.type, enabled=False):
            views = self.policy.render(pixels.detach(), self.record(params))
        return views if images.dtype == torch.uint8 else views.to(images.dtype)

    def apply_transform_mask(
        self, masks: Tensor, params: Params, flags: dict[str, Any], transform: Tensor | None = None
    ) -> Tensor:
        """The masks of the views."""
        if not len(masks):
            return masks.new_empty(0, masks.shape[1], *[self._size(*masks.shape[-2:])] * 2)
        require(not self._curved, "policy", f"has {self._curved}, which masks cannot follow; give images alone")
        places, shown = self._places(params, *masks.shape[-2:])
        made = _sampled(masks, places, flags, self.policy.style.padding)
        return made if shown.all() else made * torch.from_numpy(shown[:, None]).to(made.device)

    def inverse_transform(
        self,
        views: Tensor,
        flags: dict[str, Any],
        transform: Tensor | None = None,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """Views on the canvas of their sources, `size`; `transform` leads there from the pixels of the views."""
        assert transform is not None
        assert size is not None
        back = np.linalg.inv(transform.detach().double().cpu().numpy())
        height, width = size
        matrices = _to_unit(*views.shape[-2:]) @ back
        x, y = np.meshgrid(np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64))
        return _sampled(views, _mapped(matrices, x[None], y[None]), flags, "zeros")

    def _places(self, params: Params, height: int, width: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """The point of the source that each pixel of the views shows, `(B, size, size, 2)`, from -1 to 1, and whether
        it shows any: augmentations of kornia show zero beyond the view that they change.
        """
        record = {name: value.cpu().numpy() for name, value in self.record(params).values.items()}
        count, size = len(params["batch_prob"]), self._size(height, width)
        line = (2 * np.arange(size) + 1) / size - 1
        x, y = (np.tile(one, (count, 1, 1)) for one in np.meshgrid(line, line))
        shown = np.full(x.shape, True)
        for operation in reversed(self.policy.following):
            if operation.projective:
                x, y = np.moveaxis(_mapped(operation.maps(record, count, size, size), x, y), -1, 0)
                shown &= (np.abs(x) <= 1) & (np.abs(y) <= 1)
        if len(moved := np.flatnonzero(changed(record, count, RandomField.still))):
            turned = any(one.projective for one in self.policy.following)
            problem = "moves pixels by a random field and by kornia, which masks cannot follow; give images alone"
            require(not turned, "policy", problem)
            record |= RandomField.modes(record, count, size)
            some = {name: value[moved] for name, value in record.items()}
            x[moved], y[moved] = (one.numpy() for one in RandomField.points(some, size, torch.device("cpu")))
        return _mapped(maps(record, count, self.policy.operations)[0], x, y), shown

    def _size(self, height: int, width: int) -> int:
        return self.policy.size or min(height, width)

    # Matrices.

    def compute_transformation(self, images: Tensor, params: Params, flags: dict[str, Any]) -> Tensor:
        """From the pixels of the sources to those of the views, `(B, 3, 3)`, in single precision at least."""
        shape = params["forward_input_shape"].tolist() if "forward_input_shape" in params else images.shape
        height, width = shape[-2:]
        size, record = self._size(height, width), self.record(params)
        values = {name: value.cpu().numpy() for name, value in record.values.items()}
        count = len(params["batch_prob"])
        back = maps(values, count, self.policy.operations)[0] if count else np.empty((0, 3, 3))
        for operation in self.policy.following if count else ():
            back = back @ operation.maps(values, count, size, size)
        matrices = np.linalg.inv(_to_unit(size, size)) @ np.linalg.inv(back) @ _to_unit(height, width)
        dtype = torch.promote_types(images.dtype, torch.float32) if images.is_floating_point() else torch.float32
        return torch.from_numpy(matrices / matrices[:, 2:, 2:]).to(images.device, dtype)

    def get_transformation_matrix(
        self, images: Tensor, params: Params | None = None, flags: dict[str, Any] | None = None
    ) -> Tensor:
        """The matrices of some parameters, by default of the last call; never in half precision."""
        return self.compute_transformation(images, self._params if params is None else params, flags or self.flags)

    def apply_transform_box(self, boxes: Any, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Boxes of the views."""
        self._require_matrix()
        return super().apply_transform_box(boxes.clone(), *args, **kwargs)

    def apply_transform_keypoint(self, points: Any, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Key points of the views."""
        self._require_matrix()
        return super().apply_transform_keypoint(points.clone(), *args, **kwargs)

    def compute_inverse_transformation(self, transform: Tensor) -> Tensor:
        """From the pixels of the views to those of the sources."""
        self._require_matrix()
        inverse: Tensor = torch.linalg.inv(transform.double()).to(transform.dtype)
        return inverse

    def _require_matrix(self) -> None:
        moving = any(f"field_{name}" in self.policy.groups for name in GEOMETRIC)
        cause = "a random field" if moving else self._curved
        problem = f"moves pixels by {cause}, which boxes, key points and `inverse` cannot follow"
        require(not cause, "policy", f"{problem}; give images alone, or leave it out")

    @cached_property
    def _curved(self) -> str:
        """The first augmentation of kornia in the policy that moves pixels, but not by a homography."""
        following = [one.augmentation for one in self.policy.following if isinstance(one, Keyed)]
        every = [inner for one in following for inner in one.modules()]
        return next((type(one).__name__ for one in every if isinstance(one, _CURVED)), "")


def _described(operation: Any) -> str:
    """The name of an operation in recipes, and its probability if that is below 1."""
    classes = {OPERATIONS.find(name).load(): name for name in augment.OPERATIONS}
    if isinstance(operation, Keyed):
        return f"kornia.{operation.label}"
    name = getattr(operation, "purpose", classes.get(type(operation), type(operation).__name__))
    return name if operation.probability == 1 else f"{name} (p={operation.probability:g})"


def _to_unit(height: int, width: int) -> NDArray[np.float64]:
    """From pixels, with whole numbers at their centres, to -1 and 1 at the outer edges."""
    return np.array([[2 / width, 0, 1 / width - 1], [0, 2 / height, 1 / height - 1], [0, 0, 1]])


def _mapped(matrices: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """The points (x, y) under homographies `(B, 3, 3)`, `(B, H, W, 2)`."""
    m = matrices.reshape(-1, 9, 1, 1)
    first, second, third = (m[:, i] * x + m[:, i + 1] * y + m[:, i + 2] for i in (0, 3, 6))
    return np.stack((first / third, second / third), axis=-1)


def _sampled(images: Tensor, places: NDArray[np.float64], flags: dict[str, Any], padding: str) -> Tensor:
    """What stands at some places, `(B, H, W, 2)`, from -1 to 1, with the dtype of the images."""
    grid = torch.from_numpy(places.astype(np.float32)).to(images.device)
    pixels = images if images.dtype in (torch.float32, torch.float64) else images.float()
    mode = flags["resample"].name.lower()
    with torch.autocast(images.device.type, enabled=False):
        made = F.grid_sample(pixels, grid.to(pixels.dtype), mode=mode, padding_mode=padding, align_corners=False)
    return made.round().to(images.dtype) if images.dtype == torch.uint8 else made.to(images.dtype)
