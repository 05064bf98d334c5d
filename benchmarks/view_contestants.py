"""Images for `views.py`, and what it compares: SimCLR's policy here and in other libraries, and the least possible
work.
"""

import importlib
import io
import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchvision.transforms.v2 as v2
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from ssl_inv.augment.geometry import draw_crops
from ssl_inv.augment.policies import simclr
from ssl_inv.data.batches import Batch
from ssl_inv.data.source import Images, Indices, Labels, Source
from ssl_inv.transforms import Group, Transform
from ssl_inv.views import Pair, Views
from ssl_inv.views.maker import ViewMaker

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_SHIFT = [-mean / std for mean, std in zip(MEAN, STD, strict=True)]
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


# Images.


def photographs(count: int, side: int, seed: int = 0) -> Tensor:
    """Images with the spectrum and the edges of photographs: noise of amplitude 1 / f behind half planes and discs of
    other colours.

    Returns:
        `(count, 3, side, side)`, uint8.
    """
    return torch.from_numpy(
        np.stack([_photograph(np.random.default_rng([seed, number]), side) for number in range(count)])
    )


def _photograph(random: np.random.Generator, side: int) -> NDArray[np.uint8]:
    fine = 2 * side
    frequency = np.hypot(np.fft.fftfreq(fine)[:, None], np.fft.rfftfreq(fine))
    frequency[0, 0] = np.inf
    noise = np.fft.irfft2(np.fft.rfft2(random.normal(size=(4, fine, fine))) / frequency, s=(fine, fine))
    noise /= noise.std(axis=(1, 2), keepdims=True)
    image = 0.5 + 0.15 * noise[:1] + 0.06 * noise[1:]
    y, x = np.mgrid[:fine, :fine] / fine
    for number in range(6):
        right, down, radius, angle = (
            x - random.random(),
            y - random.random(),
            random.random() / 3,
            2 * np.pi * random.random(),
        )
        inside = np.hypot(right, down) < radius if number % 2 else right * np.cos(angle) + down * np.sin(angle) > 0
        image += inside * random.uniform(-0.25, 0.25, (3, 1, 1))
    # Two by two pixels make one, so that edges are as soft as a lens leaves them.
    image = image.reshape(3, side, 2, side, 2).mean(axis=(2, 4))
    rounded: NDArray[np.uint8] = np.rint(255 * image.clip(0, 1)).astype(np.uint8)
    return rounded


def read_images(path: Path, count: int, side: int) -> Tensor:
    """The first images of a folder or a zip as squares, `(count, 3, side, side)`, uint8; repeated if there are fewer.

    Raises:
        FileNotFoundError: if there is no such folder or file.
        ValueError: if there is no image in it.
    """
    if not path.exists():
        raise FileNotFoundError(f"--images: there is no folder or zip at {path}")
    if path.is_dir():
        files = [one for one in sorted(path.rglob("*")) if one.suffix.lower() in _SUFFIXES][:count]
        encoded = [one.read_bytes() for one in files]
    else:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in sorted(archive.namelist()) if name.lower().endswith(_SUFFIXES)][:count]
            encoded = [archive.read(name) for name in names]
    if not encoded:
        raise ValueError(f"--images: {path} has no file that ends with {', '.join(_SUFFIXES)}")
    squares = np.stack([_square(Image.open(io.BytesIO(one)), side) for one in encoded])
    return torch.from_numpy(squares[np.arange(count) % len(squares)]).permute(0, 3, 1, 2).contiguous()


def _square(image: Image.Image, side: int) -> NDArray[np.uint8]:
    shorter = min(image.size)
    left, top = (image.width - shorter) // 2, (image.height - shorter) // 2
    return np.asarray(
        image.convert("RGB")
        .crop((left, top, left + shorter, top + shorter))
        .resize((side, side), Image.Resampling.LANCZOS)
    )


# Contestants.


@dataclass(frozen=True)
class Contestant:
    """One way of making views.

    Attributes:
        name: in the table.
        make: makes views of all images, `(n, 3, size, size)`, normalised; it need not wait for a GPU.
        views: the number of views per image that one call makes.
    """

    name: str
    make: Callable[[], Tensor]
    views: int = 1


class InMemory(Source):
    """Images in memory, one view per object."""

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels

    @property
    def view_counts(self) -> Indices:
        return np.ones(len(self.pixels), dtype=np.int64)

    @property
    def groups(self) -> dict[str, Group]:
        return {}

    @property
    def labels(self) -> Labels | None:
        return None

    @property
    def image_size(self) -> int:
        return self.pixels.shape[-1]

    def load(self, objects: Indices, views: Indices) -> Images:
        rows = torch.from_numpy(objects).to(self.pixels.device)
        return Images(self.pixels[rows], Transform.empty(), torch.ones(len(objects), dtype=torch.bool))


def ours(name: str, pixels: Tensor, size: int, **settings: Any) -> Contestant:
    """What `pretrain` does to a batch: a pair of views, normalised, channels last, with their record."""
    # As images come from our decoders.
    source = InMemory(pixels.contiguous(memory_format=torch.channels_last))
    maker = ViewMaker(Pair(), source, simclr(size=size, **settings), MEAN, STD, seed=0).to(pixels.device)
    index = np.arange(len(pixels))
    images, epochs = source.load(index, 0 * index), iter(range(2**62))

    def make() -> Tensor:
        views: Views = maker(Batch((images,), torch.from_numpy(index), next(epochs), ()))
        return views[0].pixels

    return Contestant(name, make, views=2)


def one_by_one(transform: Callable[[Any], Tensor], images: list[Any]) -> Callable[[], Tensor]:
    """What a data loader does with a transform of single images."""
    return lambda: torch.stack([transform(one) for one in images])


def odd_tenth(size: int) -> int:
    """The kernel of SimCLR's blur: a tenth of the view, and odd."""
    return max(3, size // 10 // 2 * 2 + 1)


def torchvision_transform(size: int) -> v2.Compose:
    """SimCLR's policy with torchvision's transforms, for tensors and PIL images."""
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(0.08, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(odd_tenth(size), (0.1, 2.0))], p=0.5),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )


def kornia_views(pixels: Tensor, size: int, compiled: bool = False) -> Callable[[], Tensor]:
    """SimCLR's policy with kornia, on a batch of floats that is ready before the clock starts."""
    kornia = importlib.import_module("kornia.augmentation")
    # The first is twice as fast on a CPU, and one image after the other on a GPU.
    cropping = "slice" if pixels.device.type == "cpu" else "resample"
    policy = kornia.AugmentationSequential(
        kornia.RandomResizedCrop((size, size), scale=(0.08, 1.0), cropping_mode=cropping),
        kornia.RandomHorizontalFlip(),
        kornia.ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8),
        kornia.RandomGrayscale(p=0.2),
        kornia.RandomGaussianBlur((odd_tenth(size),) * 2, (0.1, 2.0), p=0.5),
        kornia.Normalize(torch.tensor(MEAN), torch.tensor(STD)),
    ).to(pixels.device)
    floats, make = pixels.float() / 255, torch.compile(policy) if compiled else policy
    return lambda: make(floats)


def lightly_views(images: list[Image.Image], size: int) -> Callable[[], Tensor]:
    """A pair of views of every image by lightly's SimCLRTransform, which blurs with PIL."""
    transform = importlib.import_module("lightly.transforms").SimCLRTransform(input_size=size)
    return lambda: torch.stack([view for one in images for view in transform(one)])


def albumentations_views(images: list[NDArray[np.uint8]], size: int) -> Callable[[], Tensor]:
    """SimCLR's policy with albumentations, on arrays of bytes with channels last."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    library = importlib.import_module("albumentations")
    importlib.import_module("cv2").setNumThreads(torch.get_num_threads())
    policy = library.Compose(
        [
            library.RandomResizedCrop((size, size), scale=(0.08, 1.0)),
            library.HorizontalFlip(p=0.5),
            library.ColorJitter((0.2, 1.8), (0.2, 1.8), (0.2, 1.8), (-0.2, 0.2), p=0.8),
            library.ToGray(p=0.2),
            library.GaussianBlur((odd_tenth(size),) * 2, (0.1, 2.0), p=0.5),
            library.Normalize(MEAN, STD),
            library.ToTensorV2(),
        ]
    )
    return one_by_one(lambda one: policy(image=one)["image"], images)


def dali_views(pixels: Tensor, size: int) -> Callable[[], Tensor]:
    """SimCLR's policy with NVIDIA DALI, which reads the images on the GPU, or in memory."""
    dali, fn = importlib.import_module("nvidia.dali"), importlib.import_module("nvidia.dali.fn")
    types, on_gpu = dali.types, pixels.device.type == "cuda"
    images = list(
        pixels.permute(0, 2, 3, 1).contiguous() if on_gpu else pixels.permute(0, 2, 3, 1).contiguous().numpy()
    )

    @dali.pipeline_def(  # type: ignore[untyped-decorator]
        batch_size=len(images),
        num_threads=torch.get_num_threads(),
        device_id=pixels.device.index or 0 if on_gpu else None,
        seed=0,
    )
    def pipeline() -> Any:
        def often(probability: float) -> Any:
            return fn.cast(fn.random.coin_flip(probability=probability), dtype=types.FLOAT)

        def factor(jittered: Any) -> Any:
            return 1 + jittered * fn.random.uniform(range=[-0.8, 0.8])

        views = fn.external_source(source=lambda: images, device="gpu" if on_gpu else "cpu", layout="HWC")
        views = fn.random_resized_crop(views, size=[size, size], random_area=[0.08, 1.0], antialias=True)
        jittered = often(0.8)
        hue = jittered * fn.random.uniform(range=[-72.0, 72.0])
        views = fn.color_twist(
            views, brightness=factor(jittered), contrast=factor(jittered), saturation=factor(jittered), hue=hue
        )
        views = fn.saturation(views, saturation=1 - often(0.2))
        # A Gaussian of a fiftieth of a pixel leaves an image as it is.
        sigma = 0.02 + often(0.5) * (fn.random.uniform(range=[0.1, 2.0]) - 0.02)
        views = fn.gaussian_blur(views, window_size=odd_tenth(size), sigma=sigma)
        mean, std = ([255 * one for one in values] for values in (MEAN, STD))
        mirror = fn.random.coin_flip(probability=0.5)
        return fn.crop_mirror_normalize(
            views, mirror=mirror, mean=mean, std=std, dtype=types.FLOAT, output_layout="CHW"
        )

    built = pipeline()
    built.build()

    def make() -> Tensor:
        (views,) = built.run()
        return from_dlpack(views.as_tensor()) if on_gpu else torch.from_numpy(views.as_array())

    return make


def crops_only(pixels: Tensor, size: int) -> Callable[[], Tensor]:
    """The least work for SimCLR's policy on a CPU: read every crop once, resample it, write normalised floats once."""
    side = pixels.shape[-1]
    boxes = (
        draw_crops(np.random.default_rng(0).random((len(pixels), 40)), (0.08, 1.0), (3 / 4, 4 / 3), side, side) * side
    )
    low = np.rint(boxes[:, :2] - boxes[:, 2:] / 2).astype(int)
    corners = np.concatenate((low, low + np.rint(boxes[:, 2:]).astype(int)), axis=1).tolist()
    scale, shift = (
        torch.tensor(values, device=pixels.device).view(-1, 1, 1) for values in ([1 / (255 * s) for s in STD], _SHIFT)
    )

    def make() -> Tensor:
        views = torch.empty(len(pixels), 3, size, size, device=pixels.device)
        for view, one, (left, top, right, bottom) in zip(views, pixels, corners, strict=True):
            crop = one[None, :, top:bottom, left:right]
            crop = crop if pixels.device.type == "cpu" else crop.float()
            torch.addcmul(shift, F.interpolate(crop, (size, size), mode="bilinear", antialias=True)[0], scale, out=view)
        return views

    return make


def affine_and_colours(pixels: Tensor, size: int) -> Callable[[], Tensor]:
    """The least work for a whole batch: one bilinear resampling by an affine map, and one colour matrix that also
    normalises.
    """
    count, device = len(pixels), pixels.device
    random = torch.Generator().manual_seed(0)
    maps = torch.eye(2, 3).repeat(count, 1, 1) * torch.empty(count, 1, 1).uniform_(0.3, 1, generator=random)
    colours = (torch.eye(3) / torch.tensor(STD)).repeat(count, 1, 1) * torch.empty(count, 1, 1).uniform_(
        0.2, 1.8, generator=random
    )
    maps, colours, shift = maps.to(device), colours.to(device), torch.tensor(_SHIFT, device=device).view(1, 3, 1)

    def make() -> Tensor:
        grid = F.affine_grid(maps, [count, 3, size, size], align_corners=False)
        views = F.grid_sample(pixels.float().div_(255), grid, padding_mode="border", align_corners=False)
        return torch.baddbmm(shift, colours, views.flatten(2)).view_as(views)

    return make


def contestants(pixels: Tensor, size: int) -> Iterator[Contestant | str]:
    """Everything that is compared with ours, or the reason why it is missing."""
    on_gpu = pixels.device.type == "cuda"
    yield Contestant("kornia AugmentationSequential", kornia_views(pixels, size))
    if on_gpu:
        yield Contestant("kornia, compiled", kornia_views(pixels, size, compiled=True))
        yield optional("NVIDIA DALI", "nvidia.dali", lambda: dali_views(pixels, size))
    else:
        arrays = list(pixels.permute(0, 2, 3, 1).contiguous().numpy())
        photos = [Image.fromarray(one) for one in arrays]
        transform = torchvision_transform(size)
        yield Contestant("torchvision v2, tensors", one_by_one(transform, list(pixels)))
        yield Contestant("torchvision v2, PIL", one_by_one(transform, photos))
        yield optional("lightly SimCLRTransform", "lightly", lambda: lightly_views(photos, size), views=2)
        yield optional("albumentations", "albumentations", lambda: albumentations_views(arrays, size))
    yield ours("ours, linear hue", pixels, size, hue="linear")
    yield ours("ours with random_field", pixels, size, extra=[{"name": "random_field"}])
    yield Contestant("floor: crop, resize, normalise", crops_only(pixels, size))
    yield Contestant("floor: affine map, 3 x 3 colours", affine_and_colours(pixels, size))


def optional(name: str, module: str, make: Callable[[], Callable[[], Tensor]], views: int = 1) -> Contestant | str:
    """A contestant whose library may be missing."""
    try:
        importlib.import_module(module)
    except ImportError:
        return f"{name}: not installed"
    return Contestant(name, make(), views)
