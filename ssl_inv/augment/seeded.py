"""Any transform of one image as an operation: drawn from a key, recorded, made again.

    views, record = Seeded(torchvision.transforms.v2.RandomPosterize(4))(pixels, key)

Such transforms draw from the global generators of torch, numpy and Python. Here these are set from the key before every
sample, and put back behind the last one: pixels of a sample are the same bits in every batch, order and process. The
transform changes the pixels, on the host.
"""

import math
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import product
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from ssl_inv.augment.operation import Draws, Following, Side
from ssl_inv.augment.warp import Record, as_float
from ssl_inv.catalogue import SettingError, require, suggest
from ssl_inv.transforms import Circle, Code, Flag, Group, Real, Transform
from ssl_inv.transforms.keyed_random import Key

Form = Literal["float", "bytes", "picture"]
"""What a transform takes: a tensor in [0, 1], a tensor of bytes, or a picture of PIL."""

TRIED_SIDES = (256, 1024)
"""Sides in pixels of the images on which a transform is tried, the second only where the first is too small for it."""

_TRIED_DRAWS, _TRIED_RUNS, _MOST_NUMBERS = 32, 2, 16

_LENGTHS = ("top", "left", "height", "width", "i", "j", "h", "w", "translate")
"""Parameters of torchvision that are pixels; they are recorded as fractions of the image's side."""

_ANGLES: Mapping[tuple[str, str], float] = {
    ("RandomRotation", "angle"): math.pi / 180,
    ("RandomAffine", "angle"): -math.pi / 180,
}
"""Angles in degrees, and their factor to radians, counter-clockwise. `RandomAffine` turns clockwise."""

_ONE = ("brightness_factor", "contrast_factor", "saturation_factor", "sharpness_factor", "scale")
"""Parameters that leave an image as it is at 1."""


@contextmanager
def kept_generators() -> Iterator[Callable[[int], None]]:
    """Gives a function that sets all global generators of the host from a seed, and puts them back at the end.

    Libraries' warnings about their own future are left out meanwhile.
    """
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(lightly|torch|torchvision)\.")
            yield _set_generators
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


def _set_generators(seed: int) -> None:
    torch.default_generator.manual_seed(seed)
    np.random.seed([seed & 0xFFFFFFFF, seed >> 32])  # not a new generator, for transforms draw from this one
    random.seed(seed)


class Seeded(Following):
    """A transform of one image, drawn sample by sample from a key.

    Records `LABEL.seed`, from which every view is made again. Of transforms of `torchvision.transforms.v2` that draw
    their parameters beforehand, also these as `LABEL.parameter`, and `LABEL.applied` where it is not always applied: a
    record with other values makes the view of these values. Angles are radians, counter-clockwise; lengths are
    fractions of the image's side; all others are as in torchvision.

    Args:
        transform: takes one image, and gives one.
        label: its name in records; None is the name of its class. Two transforms of one policy need two names.
        groups: groups of recorded parameters by their name, in place of those that they would have.
        form: what it takes; None tries.
        parameters: whether parameters are recorded beside the seed.

    Raises:
        ValueError: if it does not give one image with the channels that it was given.
    """

    def __init__(
        self,
        transform: Callable[[Any], Any],
        label: str | None = None,
        groups: Mapping[str, Group] | None = None,
        form: Form | None = None,
        parameters: bool = True,
    ) -> None:
        self.label = label or type(transform).__name__
        require("." not in self.label, "label", f"must be a name without dots, got {label!r}")
        self.transform: Any = transform
        self.form: Form = "float"
        self.tried_side = TRIED_SIDES[0]
        self._find_form(form)
        forward = getattr(type(transform), "forward", None)
        self.gated = forward is v2.RandomHorizontalFlip.forward
        self._plain = (
            parameters and isinstance(transform, v2.Transform) and (self.gated or forward is v2.Transform.forward)
        )
        self._examples: dict[str, Any] = {}
        self.groups: dict[str, Group] = {f"{self.label}.seed": Code()}
        if self._plain:
            self._find_parameters()
        for name, group in (groups or {}).items():
            known = [one.removeprefix(f"{self.label}.") for one in self.groups]
            advice = f"{self.label} records no such parameter; {suggest(name, known)}"
            require(name in known, f"groups.{name}", advice)
            own = self.groups[f"{self.label}.{name}"].neutral(1)
            fits = isinstance(group, Group) and group.neutral(1).shape == own.shape
            require(fits, f"groups.{name}", f"does not fit values of shape {tuple(own.shape[1:])}, got {group!r}")
            self.groups[f"{self.label}.{name}"] = group
        super().__init__(1.0)

    @cached_property
    def moves(self) -> bool:  # type: ignore[override]
        """Whether it may move pixels: only torchvision's changes of colour are known not to."""
        return not (isinstance(self.transform, v2.Transform) and type(self.transform).__module__.endswith("_color"))

    def _find_form(self, form: Form | None) -> None:
        """Find what the transform takes, and an image that is large enough for it."""
        usual: tuple[Form, ...] = (
            ("float", "bytes") if isinstance(self.transform, v2.Transform) else ("picture", "bytes")
        )
        problems = []
        for self.form, self.tried_side in product([form] if form else usual, TRIED_SIDES):
            try:
                with kept_generators() as start:
                    for seed in range(_TRIED_RUNS):
                        start(seed)
                        self._as_view(self.transform(self._as_given(tried_image(self.tried_side))))
                return
            except Exception as error:  # Somebody else's class can raise anything.
                problems.append(" ".join(str(error).split()))
        raise SettingError("transform", f"{self.label} cannot change an image: {problems[0]}")

    def _find_parameters(self) -> None:
        """Find what is recorded: parameters that are numbers, always as many, and not always the same."""
        found: dict[str, list[list[float]]] = {}
        unfit = set()
        with kept_generators() as start:
            for seed in range(_TRIED_DRAWS):
                start(seed)
                for name, value in self._drawn(self.tried_side, self.tried_side)[1].items():
                    numbers = self._numbers(name, value, self.tried_side)
                    if numbers is None and value is not None:
                        unfit.add(name)
                    elif numbers is not None:
                        found.setdefault(name, []).append(numbers)
                        self._examples.setdefault(name, value)
                if not found:  # some draw a number for every pixel, which takes long
                    break
        for name, draws in found.items():
            columns = [*zip(*draws, strict=False)]
            reach = max(max(one) - min(one) for one in columns) / 2
            if name in unfit or len({*map(len, draws)}) > 1 or not reach:
                del self._examples[name]
            else:
                self.groups[f"{self.label}.{name}"] = self._group(name, self._examples[name], len(columns), reach)
        if self.gated and 0 < self.transform.p < 1:
            self.groups[f"{self.label}.applied"] = Flag()

    def _group(self, name: str, example: Any, count: int, reach: float) -> Group:
        if (type(self.transform).__name__, name) in _ANGLES:
            return Circle(2 * math.pi)
        if isinstance(example, bool):
            return Flag()
        if isinstance(example, Tensor) and not example.is_floating_point():
            return Code(count)  # an order
        return Real(reach, 1.0 if name in _ONE else 0.0, 0 if isinstance(example, int | float) else count)

    def _numbers(self, name: str, value: Any, side: int) -> list[float] | None:
        """A parameter as it is recorded; None if it is no number or few numbers."""
        if isinstance(value, Tensor):
            value = value.tolist() if value.numel() <= _MOST_NUMBERS else None
        values = _flat(value)
        if values is None or not 0 < len(values) <= _MOST_NUMBERS:
            return None
        return [one * self._unit(name, side) for one in values]

    def _unit(self, name: str, side: int) -> float:
        angle = _ANGLES.get((type(self.transform).__name__, name))
        return angle if angle is not None else 1 / side if name in _LENGTHS else 1.0

    def _drawn(self, height: int, width: int) -> tuple[bool, dict[str, Any]]:
        """Whether it is applied, and its parameters, from the generators as they are: torchvision's own draws."""
        applied = not self.gated or bool(torch.rand(1) < self.transform.p)
        return applied, self.transform.make_params([torch.zeros(()).expand(3, height, width)])

    def draw(self, key: Key, height: Side, width: Side) -> dict[str, Draws]:
        seeds = key.for_purpose(self.label).seeds()
        drawn: dict[str, Draws] = {name: _wide(group.neutral(len(key)).numpy()) for name, group in self.groups.items()}
        drawn[f"{self.label}.seed"] = seeds
        if len(self.groups) == 1:
            return drawn
        with kept_generators() as start:
            for row, seed in enumerate(seeds.tolist()):
                start(seed)
                applied, parameters = self._drawn(int(height), int(width))
                if f"{self.label}.applied" in drawn:
                    drawn[f"{self.label}.applied"][row] = applied
                for name in self._examples if applied else ():
                    numbers = self._numbers(name, parameters.get(name), int(height))
                    if numbers is not None:
                        values = drawn[f"{self.label}.{name}"]
                        values[row] = numbers if values.ndim > 1 else numbers[0]
        return drawn

    def follow(self, views: Tensor, record: Record) -> Tensor:
        if not len(views) or not all(name in record for name in self.groups):
            return views
        host = views.cpu()
        with kept_generators() as start:
            made = [self.of_row(one, record, row, start) for row, one in enumerate(host)]
        return stacked(made, self.label).to(views.device)

    def of_row(self, image: Tensor, record: Record, row: int, start: Callable[[int], None]) -> Tensor:
        """One changed image.

        Args:
            image: `(C, H, W)`, float in [0, 1], on the host.
            record: of all rows.
            row: its place in the record.
            start: sets the generators from a seed.
        """
        applied = record.get(f"{self.label}.applied")
        if applied is not None and not applied[row]:
            return image
        start(int(record[f"{self.label}.seed"][row]))
        given = self._as_given(image)
        if not self._plain:
            return self._as_view(self.transform(given), len(image))
        drawn, parameters = self._drawn(*image.shape[-2:])
        if self.gated and applied is None and not drawn:
            return image
        for name in self._examples:
            recorded = np.atleast_1d(np.asarray(record[f"{self.label}.{name}"][row], np.float64))
            parameters[name] = self._as_recorded(name, parameters.get(name), recorded, image.shape[-1])
        return self._as_view(self.transform.transform(given, parameters), len(image))

    def _as_recorded(self, name: str, value: Any, recorded: NDArray[np.float64], side: int) -> Any:
        """A parameter with the recorded numbers, and the drawn one itself where they are those of the record."""
        numbers = self._numbers(name, value, side)
        usual = self.groups[f"{self.label}.{name}"].neutral(1).numpy().reshape(-1) if numbers is None else numbers
        if np.array_equal(np.asarray(usual, np.float32), recorded.astype(np.float32)):
            return value
        given = iter((recorded / self._unit(name, side)).tolist())
        return _filled(self._examples[name] if value is None else value, given)

    def _as_given(self, image: Tensor) -> Any:
        if self.form == "float":
            return image
        data = as_bytes(image)
        return functional.to_pil_image(data) if self.form == "picture" else data

    def _as_view(self, made: Any, channels: int = 3) -> Tensor:
        made = made[0] if isinstance(made, list | tuple) and len(made) == 1 else made
        if not isinstance(made, Tensor) and hasattr(made, "getbands"):
            made = functional.pil_to_tensor(made)
        fits = isinstance(made, Tensor) and made.dim() == 3 and len(made) == channels and not made.is_complex()
        if not fits:
            what = f"a tensor of shape {tuple(made.shape)}" if isinstance(made, Tensor) else f"a {type(made).__name__}"
            wanted = "three" if channels == 3 else str(channels)
            raise ValueError(f"it makes {what}, and a view is one image with {wanted} channels")
        return as_float(made.as_subclass(Tensor))

    def tried(self, views: Tensor) -> Tensor:
        try:
            with kept_generators() as start:
                made = []
                for row, one in enumerate(views.cpu()):
                    start(row)
                    made.append(self.certainly(one))
            return stacked(made, self.label).to(views.device)
        except Exception as error:  # Somebody else's class can raise anything.
            problem, channels = " ".join(str(error).split()), views.shape[1]
            kind = f"{views.shape[-1]} pixels" + (f" and {channels} channel(s)" if channels != 3 else "")
            raise ValueError(f"{self.label} fails on views of {kind}: {problem}") from error

    def certainly(self, image: Tensor) -> Tensor:
        """The image changed, also where it is not always applied."""
        given = self._as_given(image)
        if self._plain:
            parameters = self._drawn(*image.shape[-2:])[1]
            return self._as_view(self.transform.transform(given, parameters), len(image))
        return self._as_view(self.transform(given), len(image))

    def __call__(self, pixels: Tensor, key: Key) -> tuple[Tensor, Transform]:
        """One view of every image, and how it was made.

        Args:
            pixels: `(B, C, H, W)`, uint8, or float in [0, 1].
            key: of the B images.

        Returns:
            Views `(B, C, H', W')` as the transform makes them, and the record on the host.
        """
        require(len(key) == len(pixels), "key", f"has {len(key)} rows for {len(pixels)} images")
        drawn = self.draw(key, *pixels.shape[-2:])
        values = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in drawn.items()}
        values = {name: value.float() if value.is_floating_point() else value for name, value in values.items()}
        record = Transform(values, self.groups)
        return self.replay(pixels, record), record

    def replay(self, pixels: Tensor, record: Transform) -> Tensor:
        """The views of a record again.

        Args:
            pixels: the images that they were made of.
            record: how they were made; parameters of other origin are ignored.

        Raises:
            ValueError: if a parameter is missing.
        """
        return self.follow(as_float(pixels), {name: record[name].cpu().numpy() for name in self.groups})

    def __repr__(self) -> str:
        return f"Seeded({self.transform!r})"


def _wide(values: NDArray[Any]) -> Draws:
    if np.issubdtype(values.dtype, np.floating):
        return np.asarray(values, dtype=np.float64)
    return np.asarray(values, dtype=np.int64)


def tried_image(side: int, channels: int = 3) -> Tensor:
    """An image on which transforms are tried, `(C, side, side)` in [0, 1]."""
    return torch.linspace(0, 1, channels * side * side).view(channels, side, side)


def as_bytes(image: Tensor) -> Tensor:
    """Pixels in [0, 1] as whole numbers from 0 to 255."""
    return image if image.dtype == torch.uint8 else (image * 255).round_().clamp_(0, 255).to(torch.uint8)


def stacked(made: Sequence[Tensor], label: str) -> Tensor:
    """Images of one size as a batch."""
    sizes = {tuple(one.shape[-2:]) for one in made}
    if len(sizes) > 1:
        raise ValueError(f"{label} makes views of different sizes, such as {sorted(sizes)[0]} and {sorted(sizes)[-1]}")
    return torch.stack([*made])


def _flat(value: Any) -> list[float] | None:
    if isinstance(value, bool | int | float):
        return [float(value)]
    if not isinstance(value, list | tuple):
        return None
    parts = [_flat(one) for one in value]
    return None if any(one is None for one in parts) else [number for one in parts for number in one or ()]


def _filled(example: Any, numbers: Iterator[float]) -> Any:
    """The numbers in the form of an example."""
    if isinstance(example, Tensor):
        return torch.tensor([next(numbers) for _ in range(example.numel())], dtype=example.dtype).view_as(example)
    if isinstance(example, list | tuple):
        return type(example)(_filled(one, numbers) for one in example)
    number = next(numbers)
    return number if isinstance(example, float) else type(example)(round(number))
