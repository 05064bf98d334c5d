"""All training images, once each: what banks, clusters and graphs are made from."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ssl_inv.data.source import Images, Indices, Source
from ssl_inv.nn.distributed import gather, rank, world_size
from ssl_inv.nn.modes import frozen


class GalleryFeatures(NamedTuple):
    """Features of some images, gathered from all processes.

    Attributes:
        objects: `(n,)`, int64, the number of the object that each image shows, on the host.
        views: `(n,)`, int64, the number of the image among the views of its object, on the host.
        features: `(n, D)`, without gradient, on the encoder's device; zero for an image that cannot be read.
        readable: `(n,)`, bool, on the host.
    """

    objects: Tensor
    views: Tensor
    features: Tensor
    readable: Tensor


class Gallery:
    """The whole training images without augmentation, as evaluation sees them.

    Args:
        source: of the images.
        normalise: from pixels in [0, 1] to an encoder's input.
        device: of the encoders.
        batch_size: images that one process encodes at a time.
        workers: loader processes; 0 loads in this process.
    """

    def __init__(
        self,
        source: Source,
        normalise: Callable[[Tensor], Tensor],
        device: torch.device | str,
        batch_size: int = 256,
        workers: int = 0,
    ) -> None:
        self.source, self.normalise, self.device = source, normalise, torch.device(device)
        self.batch_size, self.workers = batch_size, workers

    @property
    def view_counts(self) -> Indices:
        """The number of images of every object, `(N,)`."""
        return self.source.view_counts

    def features(self, encoder: nn.Module, every_view: bool = False) -> Iterator[GalleryFeatures]:
        """The features of all images, in the order of the data; every process gets all of them.

        Args:
            encoder: from normalised pixels `(b, 3, H, W)` to features `(b, D)`; it is in evaluation mode meanwhile.
            every_view: all views of an object, or only the first.
        """
        counts = self.view_counts if every_view else np.ones_like(self.view_counts)
        objects = np.repeat(np.arange(len(counts)), counts)
        views = np.arange(len(objects)) - np.repeat(np.cumsum(counts) - counts, counts)
        # All processes gather batches of one size, so the last batch repeats the last image. The size is that of one
        # process: in batches of other sizes, features are rounded otherwise.
        share = min(self.batch_size, len(objects))
        extra: dict[str, Any] = {"prefetch_factor": 2} if self.workers else {}
        pieces = _Pieces(self.source, objects, views, share, rank(), world_size())
        with torch.no_grad(), frozen(encoder):
            for start, images in enumerate(DataLoader(pieces, batch_size=None, num_workers=self.workers, **extra)):
                rows = slice(start * share * world_size(), (start + 1) * share * world_size())
                found, readable = self._encoded(encoder, images)
                known = len(objects[rows])
                yield GalleryFeatures(
                    torch.from_numpy(objects[rows]), torch.from_numpy(views[rows]), found[:known], readable[:known]
                )

    def _encoded(self, encoder: nn.Module, images: Images) -> tuple[Tensor, Tensor]:
        readable = images.readable.to(self.device)
        found = encoder(self.normalise(images.pixels.to(self.device).float() / 255))
        return gather(torch.where(readable.unsqueeze(1), found, 0.0)), gather(readable).cpu()


class _Pieces(Dataset[Images]):
    """A list of images in batches of all processes; each item is one process's share of a batch."""

    def __init__(
        self, source: Source, objects: Indices, views: Indices, share: int, number: int, processes: int
    ) -> None:
        self.source, self.objects, self.views = source, objects, views
        self.share, self.number, self.processes = share, number, processes

    def __len__(self) -> int:
        return -(-len(self.objects) // (self.share * self.processes))

    def __getitem__(self, piece: int) -> Images:
        if piece >= len(self):
            raise IndexError(piece)
        start = (piece * self.processes + self.number) * self.share
        rows = np.minimum(np.arange(start, start + self.share), len(self.objects) - 1)
        return self.source.load(self.objects[rows], self.views[rows])
