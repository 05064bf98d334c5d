"""Whether a prediction stays the same when the camera moves by a few pixels, with and without a choice of the crop."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, cosine_similarity, interpolate, pad

from ssl_inv.evaluation.features import Standardiser
from ssl_inv.evaluation.protocols.base import Encoded, Protocol
from ssl_inv.evaluation.protocols.chosen_images import parts_of, some_images
from ssl_inv.evaluation.protocols.linear_maps import chosen_ridge
from ssl_inv.evaluation.protocols.motions import displacements
from ssl_inv.evaluation.results import Result
from ssl_inv.transforms.keyed_random import permutation, uniform

_LAPLACE = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])[None, None]


@dataclass(frozen=True)
class ShiftConsistency(Protocol):
    """Whether the features, and a class that is read from them, survive a shift of the window by a few pixels.

    What it measures: the window of the encoder moves over a larger image, so that new content enters, as when a camera
    moves. Cyclic shifts, which some networks are built to ignore, do not occur outside of tests.

    Definition: each image is enlarged once, bilinearly, by a margin; the encoder sees windows of its own size in it. A
    shift of m means a random displacement within -m..m pixels along both axes, other than none; for m = 1 all eight are
    tried if there are as many draws.

    - `shift/m/consistency`: the share of shifts that leave the predicted class as it was. The class is that of ridge
      regression on the training features of plain images, its penalty chosen on held-out training objects.
    - `shift/m/robust`: the share of images whose class none of the shifts changed.
    - `shift/m/cosine`: the mean cosine between the features before and after, both centred on training features; it
      needs no labels.
    - `shift_chosen/m/...`: the same where the window is chosen in the image at hand (RICS): of all windows the one
      whose own pixels have the largest score, a fixed random pattern times the edges of the image. The same window wins
      again after a shift unless the best one left the image, or a better one entered it.
    - `shift_chosen/m/same`: the share of shifts after which the chosen window shows the same content. With K windows
      along an axis and a shift by D along it, it is about (K - D) / (K + D).
    - `shift/accuracy`, `shift_chosen/accuracy`: of the class in the images that were not shifted.

    Source: Shifman and Weiss, "Lost in translation: modern neural networks still struggle with small realistic image
    transformations" (ECCV 2024). They leave the score of the crop open; this one is our own.

    End points: a constant classifier is consistent always, so accuracy stands beside; the remark has the agreement of
    independent predictions with the same frequencies.

    What it orders wrongly: a classifier with few and far classes is hardly ever changed, so consistency rises with the
    gap between classes and not with the encoder. An encoder that is constant on all images wins. With more shifts,
    fewer images are robust: compare at equal draws. Enlarged images are smoother than those of training.

    Attributes:
        images: validation images that are shifted, at most.
        shifts: largest displacements, in pixels.
        draws: displacements of each image for each of `shifts`.
        windows: windows along an axis to choose from; 0 takes a seventh of the image's side, and one.
        seed: draws images, displacements and the pattern.
    """

    images: int = 256
    shifts: tuple[int, ...] = (1, 2, 4, 8)
    draws: int = 8
    windows: int = 0
    seed: int = 0

    needs: ClassVar[tuple[str, ...]] = ("encode", "images")
    headlines: ClassVar[tuple[str, ...]] = ("shift/1/consistency", "shift/8/consistency", "shift_chosen/1/consistency")
    has_targets: ClassVar[bool] = False

    @classmethod
    def quick(cls) -> "ShiftConsistency":
        """Fewer images and draws."""
        return cls(images=64, draws=4)

    def run(self, encoded: Encoded) -> Iterator[Result]:
        pixels, objects, rows = some_images(encoded, "validation", self.images, self.seed)
        validation = encoded.validation.ordered()
        height, width = pixels.shape[-2:]
        windows = self.windows or max(height, width) // 7 + 1
        margin = max(self.shifts)
        larger = interpolate(
            pixels, (height + windows - 1 + 2 * margin, width + windows - 1 + 2 * margin), mode="bilinear"
        )
        scores = window_scores(larger, (height, width), self.seed)
        labels = None if validation.labels is None else validation.labels[rows]
        if labels is not None and validation.labelled is not None:
            labels = torch.where(validation.labelled[rows], labels, -1)
        probes = {part: _probe(encoded, part, self.seed) for part in encoded.parts}
        for name, chosen in (("shift", False), ("shift_chosen", True)):

            def seen(move: Tensor, chosen: bool = chosen) -> tuple[dict[str, Tensor], Tensor]:
                """The parts of the features after the window was moved by `(M, 2)`, and where the window stands."""
                corner = move + margin
                place = corner + (best_window(scores, corner, windows) if chosen else windows // 2)
                found = torch.stack(
                    [
                        image[:, y : y + height, x : x + width]
                        for image, (y, x) in zip(larger, place.tolist(), strict=True)
                    ]
                )
                assert encoded.encode is not None
                return parts_of(encoded.encode, found, encoded.parts), place

            yield from self._measured(name, seen, probes, labels, objects)

    def _measured(
        self,
        name: str,
        seen: Callable[[Tensor], tuple[dict[str, Tensor], Tensor]],
        probes: Mapping[str, "_Probe"],
        labels: Tensor | None,
        objects: Tensor,
    ) -> Iterator[Result]:
        still, place = seen(torch.zeros(len(objects), 2, dtype=torch.int64))
        kinds = {part: probes[part].classes(value) for part, value in still.items()}
        for part, found in kinds.items():
            if found is None:
                yield Result(f"{name}/accuracy", part, None, detail="there are no labels of two classes in train")
            elif labels is None or not (labels >= 0).any():
                yield Result(f"{name}/accuracy", part, None, detail="the validation images have no labels")
            else:
                known = labels >= 0
                hits = (found == labels)[known].double()
                spread = self.bootstrap.mean_error(hits, objects[known])
                yield Result(f"{name}/accuracy", part, float(hits.mean()), spread)
        for most in self.shifts:
            moves = displacements(len(objects), most, self.draws, self.seed)
            after = [seen(move) for move in moves.unbind(1)]
            detail = f"{moves.shape[1]} shifts of each image"
            if name == "shift_chosen":
                same = torch.stack([(there == place).all(dim=1) for _, there in after], dim=1).double().mean(dim=1)
                yield self._mean(f"{name}/{most}/same", "all", same, objects, detail)
            for part in still:
                one = probes[part].centred(still[part])
                cosines = torch.stack(
                    [cosine_similarity(probes[part].centred(parts[part]), one, dim=1) for parts, _ in after], dim=1
                )
                yield self._mean(f"{name}/{most}/cosine", part, cosines.mean(dim=1), objects, detail)
                before = kinds[part]
                again = [kind for parts, _ in after if (kind := probes[part].classes(parts[part])) is not None]
                if before is None:
                    continue
                equal = torch.stack([kind == before for kind in again], dim=1).double()
                shares = torch.bincount(before).double() / len(before)
                level = f"{detail}; independent predictions agree in {float(shares.square().sum()):.2f}"
                yield self._mean(f"{name}/{most}/consistency", part, equal.mean(dim=1), objects, level)
                yield self._mean(f"{name}/{most}/robust", part, equal.amin(dim=1), objects, level)

    def _mean(self, name: str, part: str, values: Tensor, objects: Tensor, detail: str) -> Result:
        return Result(name, part, float(values.mean()), self.bootstrap.mean_error(values, objects), detail)


def window_scores(images: Tensor, window: tuple[int, int], seed: int = 0) -> Tensor:
    """The score of every window `(h, w)` of images `(M, C, H, W)`: `(M, H - h + 1, W - w + 1)`, a function of the
    window's own pixels.

    It is the inner product of the window's edges, the Laplacian of its mean colour, with a fixed pattern of random
    signs. Neighbouring windows have nearly independent scores, so that the largest one is seldom at the border.
    """
    height, width = window
    edges = conv2d(images.cpu().mean(dim=1, keepdim=True), _LAPLACE)
    signs = np.sign(uniform(seed, count=(height - 2) * (width - 2)) - 0.5).reshape(1, 1, height - 2, width - 2)
    pattern = torch.from_numpy(signs)
    return _correlated(edges, pattern)[:, 0]


def _correlated(images: Tensor, pattern: Tensor) -> Tensor:
    """`conv2d` of large patterns, through the Fourier transform."""
    height, width = images.shape[-2:]
    rows, columns = pattern.shape[-2:]
    spectrum = torch.fft.rfft2(pad(pattern.double(), (0, width - columns, 0, height - rows)))
    product: Tensor = torch.fft.irfft2(torch.fft.rfft2(images.double()) * spectrum.conj(), s=(height, width))
    return product[..., : height - rows + 1, : width - columns + 1]


def best_window(scores: Tensor, corner: Tensor, windows: int) -> Tensor:
    """Where the best of `windows` x `windows` windows stands, `(M, 2)`, counted from `corner` `(M, 2)`."""
    places = [
        int(one[y : y + windows, x : x + windows].flatten().argmax())
        for one, (y, x) in zip(scores, corner.tolist(), strict=True)
    ]
    found = torch.tensor(places)
    return torch.stack((found // windows, found % windows), dim=1)


@dataclass(frozen=True)
class _Probe:
    """A classifier of features, fitted to training features; none without two classes."""

    scale: Standardiser
    known: Tensor
    head: tuple[Tensor, Tensor] | None

    def centred(self, features: Tensor) -> Tensor:
        return features - self.scale.mean.double()

    def classes(self, features: Tensor) -> Tensor | None:
        if self.head is None:
            return None
        weights, constant = self.head
        scores = self.scale(features.to(self.scale.mean.dtype)).double() @ weights.T + constant
        return self.known[scores.argmax(dim=1)]


def _probe(encoded: Encoded, part: str, seed: int) -> _Probe:
    train = encoded.train.ordered()
    rows, features = train.labelled_rows(), train.part(part)
    scale, known = Standardiser.fit(features), torch.unique(train.known_labels())
    if len(known) < 2:
        return _Probe(scale, known, None)
    rows = rows[torch.from_numpy(permutation(seed, 4, length=len(rows))[:_MOST])].sort().values
    targets = (train.labels[rows, None] == known).double()  # type: ignore[index]
    return _Probe(scale, known, chosen_ridge(scale(features[rows]), targets, train.objects[rows], seed))


_MOST = 50_000
"""Training views that the classifier is fitted to."""
