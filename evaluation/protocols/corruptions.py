"""How well a classifier of clean features reads corrupted images, in the manner of ImageNet-C."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from ssl_inv.evaluation.protocols.base import Encoded, Protocol
from ssl_inv.evaluation.protocols.chosen_images import parts_of, some_images
from ssl_inv.evaluation.protocols.classification import class_count
from ssl_inv.evaluation.protocols.corruption_parts import Keys
from ssl_inv.evaluation.protocols.image_corruptions import BENCHMARK, CORRUPTIONS, corrupted
from ssl_inv.evaluation.protocols.knn import NearestNeighbours
from ssl_inv.evaluation.protocols.logistic import LogisticRegression
from ssl_inv.evaluation.results import Result, object_sums
from ssl_inv.transforms.keyed_random import bits

CLEAN = "clean"
"""The name of the error without corruption in `Corruptions.baseline`."""

_CHUNK = 64


@dataclass(frozen=True)
class Corruptions(Protocol):
    """The top-1 error on corrupted validation images of a head that was fitted to clean training features.

    What it measures: what noise, blur, weather and compression, which no probe has seen, take from the features.

    Definition: with E(c, s) the error under corruption c at severity s,

    - `corruptions/clean`: the error on the same images without corruption;
    - `corruptions/c/error`: the mean of E(c, s) over severities; the remark has each;
    - `corruptions/severity/s`: the mean of E(c, s) over corruptions;
    - `corruptions/error`: the mean over both; `corruptions/relative`: that mean less the clean error;
    - with a baseline B: `corruptions/c/ce`, sum E(c, s) / sum B(c, s), in percent; `corruptions/mce`, its mean over
      corruptions; `corruptions/relative_mce`, the same with the clean errors subtracted above and below. A mean of
      quotients is not the quotient of the means.

    Noise depends on the image, the corruption and the severity alone, so all encoders see the same. Images are
    corrupted before normalisation. Lengths in pixels grow with the image, and are published for 224.

    Source: Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations"
    (ICLR 2019). The mean is over its fifteen corruptions. Frost there is a photograph laid over the image; here it is
    drawn by noise. The images are our own rendering and are not stored as JPEG, which makes them easier; so numbers
    must not be compared with those of ImageNet-C, nor be divided by the errors of AlexNet there. Give the errors of a
    baseline on the same data.

    End points: the clean error is the best that can be expected; a constant prediction has the error in the remark.

    What it orders wrongly: an encoder with a bad clean error has little to lose, so `relative` favours it. Nearest
    neighbours need a training set that is dense, and a far corrupted image can still have the right neighbour. An
    encoder that was trained with such corruptions is at an advantage; blur and noise are common augmentations.

    Attributes:
        images: validation images that are corrupted, at most.
        severities: from 1 to 5.
        corruptions: names, of which the mean is taken; see `ssl_inv.evaluation.protocols.image_corruptions`.
        head: the classifier.
        baseline: the mean error over severities of another encoder, as a fraction, under each of the corruptions, and
            its error on clean images under the name `clean`; empty leaves quotients out.
        seed: draws images and noise.

    Raises:
        ValueError: if there is no corruption of a name, a severity is not from 1 to 5, or the baseline lacks an error.
    """

    images: int = 1000
    severities: tuple[int, ...] = (1, 2, 3, 4, 5)
    corruptions: tuple[str, ...] = BENCHMARK
    head: NearestNeighbours | LogisticRegression = field(default_factory=NearestNeighbours)
    baseline: tuple[tuple[str, float], ...] = ()
    seed: int = 0

    needs: ClassVar[tuple[str, ...]] = ("encode", "images")
    headlines: ClassVar[tuple[str, ...]] = ("corruptions/clean", "corruptions/error")
    has_targets: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name in self.corruptions:
            if name not in CORRUPTIONS:
                raise ValueError(f"no corruption is called {name!r}; there are {', '.join(CORRUPTIONS)}")
        if not self.corruptions or not self.severities or not set(self.severities) <= {1, 2, 3, 4, 5}:
            raise ValueError(
                f"needs a corruption, and severities from 1 to 5: got {self.corruptions} and {self.severities}"
            )
        known = dict(self.baseline)
        if known and (missing := [name for name in (CLEAN, *self.corruptions) if name not in known]):
            raise ValueError(f"the baseline has no error of {', '.join(missing)}")
        if bad := [name for name in self.corruptions if known and not known[name] > 0]:
            raise ValueError(f"the baseline has no error above 0 of {', '.join(bad)}")

    @classmethod
    def quick(cls) -> "Corruptions":
        """Fewer images, and three severities."""
        return cls(images=64, severities=(1, 3, 5))

    def run(self, encoded: Encoded) -> Iterator[Result]:
        if encoded.colours is None:
            yield Result("corruptions/clean", "all", None, detail="it is not known how colours were normalised")
            return
        if len(torch.unique(encoded.train.known_labels())) < 2 or not len(encoded.validation.labelled_rows()):
            yield Result("corruptions/clean", "all", None, detail="needs labels of two classes")
            return
        labelled = encoded.validation.select(encoded.validation.labelled_rows()).ordered()
        pixels, objects, rows = some_images(replace(encoded, validation=labelled), "validation", self.images, self.seed)
        assert labelled.labels is not None
        labels, views = labelled.labels[rows], labelled.views[rows]
        heads = {part: self._fitted(encoded, part) for part in encoded.parts}
        mean, deviation = (one.to(pixels).view(1, 3, 1, 1) for one in encoded.colours)
        colours = (pixels * deviation + mean).clamp(0, 1)

        def errors(name: str | None, severity: int) -> dict[str, Tensor]:
            """Whether each image is wrong, `(M,)`, by part."""
            assert encoded.encode is not None
            found: dict[str, list[Tensor]] = {}
            for some in torch.split(torch.arange(len(colours)), _CHUNK):
                images = colours[some.to(colours.device)]
                if name is not None:
                    keys = _keys(self.seed, name, severity, objects[some], views[some])
                    images = corrupted(images, name, severity, keys)
                for part, features in parts_of(encoded.encode, (images - mean) / deviation, encoded.parts).items():
                    wrong = heads[part](features.float()).argmax(dim=1) != labels[some]
                    found.setdefault(part, []).append(wrong.double())
            return {part: torch.cat(pieces) for part, pieces in found.items()}

        clean = errors(None, 0)
        hits = {part: [clean[part]] for part in clean}
        for name in self.corruptions:
            for severity in self.severities:
                for part, wrong in errors(name, severity).items():
                    hits[part].append(wrong)
        most = float(torch.bincount(labels).max()) / len(labels)
        for part, columns in hits.items():
            yield from self._results(part, torch.stack(columns, dim=1), objects, 1 - most)

    def _fitted(self, encoded: Encoded, part: str) -> Callable[[Tensor], Tensor]:
        """Scores `(M, C)` of features `(M, D)` by the head, fitted to the training features of one part."""
        train = encoded.train.ordered()
        rows, labels, classes = train.labelled_rows(), train.known_labels(), class_count(train, encoded.validation)
        features = train.part(part)[rows]
        if isinstance(self.head, NearestNeighbours):
            nearest = self.head
            return lambda queries: nearest.votes(features, labels, queries, classes)
        regression = replace(self.head, device=self.device)
        strength = regression.choose_strength(features, labels, train.objects[rows])
        linear = regression.fit(features, labels, strength)
        return lambda queries: linear.scores(queries, classes)

    def _results(self, part: str, wrong: Tensor, objects: Tensor, constant: float) -> Iterator[Result]:
        """Every number of one part, from errors `(M, 1 + corruptions x severities)` that begin with the clean one."""
        shape = len(self.corruptions), len(self.severities)
        sums = object_sums(torch.cat((wrong, torch.ones_like(wrong[:, :1])), dim=1), objects)
        errors = wrong[:, 1:].mean(dim=0).view(shape)

        def result(name: str, statistic: Callable[[Tensor, Tensor], Tensor], detail: str = "") -> Result:
            """From the clean error `(R,)` and the errors `(R, corruptions, severities)` of R resamples, to one number
            for each.
            """

            def of(totals: Tensor) -> Tensor:
                means = totals[:, :-1] / totals[:, -1:]
                return statistic(means[:, 0], means[:, 1:].reshape(-1, *shape))

            value = float(of(sums.sum(dim=0, keepdim=True))[0])
            return Result(f"corruptions/{name}", part, value, self.bootstrap.standard_error(sums, of), detail)

        level = f"{len(wrong)} images, {self._head_name()}; a constant prediction has {constant:.3f}"
        yield result("clean", lambda clean, _: clean, level)
        yield result("error", lambda _, all_errors: all_errors.mean(dim=(1, 2)), f"{self._extent()}; {level}")
        yield result("relative", lambda clean, all_errors: all_errors.mean(dim=(1, 2)) - clean, self._extent())
        for place, severity in enumerate(self.severities):
            yield result(f"severity/{severity}", _mean_of(place, along=2))
        for place, name in enumerate(self.corruptions):
            each = ", ".join(f"{value:.3f}" for value in errors[place].tolist())
            remark = f"at severities {', '.join(map(str, self.severities))}: {each}"
            yield result(f"{name}/error", _mean_of(place, along=1), remark)
        if not self.baseline:
            return
        known = dict(self.baseline)
        below = torch.tensor([known[name] for name in self.corruptions], dtype=torch.float64)
        for place, name in enumerate(self.corruptions):
            yield result(
                f"{name}/ce",
                lambda _, all_errors, at=place: corruption_errors(all_errors, below)[:, at],  # type: ignore[misc]
                "percent of the baseline",
            )
        yield result("mce", lambda _, all_errors: corruption_errors(all_errors, below).mean(dim=1), self._extent())
        if not bool(((below - known[CLEAN]).abs() > 1e-12).all()):
            reason = "the baseline loses nothing under one of the corruptions"
            yield Result("corruptions/relative_mce", part, None, detail=reason)
            return

        def relative(clean: Tensor, all_errors: Tensor) -> Tensor:
            return corruption_errors(all_errors - clean[:, None, None], below - known[CLEAN]).mean(dim=1)

        yield result("relative_mce", relative, self._extent())

    def _head_name(self) -> str:
        return "nearest neighbours" if isinstance(self.head, NearestNeighbours) else "logistic regression"

    def _extent(self) -> str:
        return f"{len(self.corruptions)} corruptions, severities {', '.join(map(str, self.severities))}"


def _keys(seed: int, name: str, severity: int, objects: Tensor, views: Tensor) -> Keys:
    number = tuple(CORRUPTIONS).index(name)
    keys: Keys = bits(seed, number, severity, objects.numpy(), views.numpy(), count=1)[:, 0]
    return keys


def corruption_errors(errors: Tensor, baseline: Tensor) -> Tensor:
    """CE of every corruption in percent, `(..., C)`.

    With the clean errors subtracted from both, it is the relative CE.

    Args:
        errors: at S severities, `(..., C, S)`.
        baseline: mean errors of the baseline, `(C,)`.
    """
    return 100 * errors.mean(dim=-1) / baseline


def _mean_of(place: int, along: int) -> Callable[[Tensor, Tensor], Tensor]:
    """The mean error of one corruption, with `along` 1, or of one severity, with 2."""
    return lambda _, errors: errors.select(along, place).mean(dim=1)
