"""Views of a batch of samples, and the plans by which objectives ask for them.

A plan says which views, never how they are made: that is for `ssl_inv.augment.plans`. Whatever the plan, each image is decoded once.
`Pair` and `Sequence` are served from the data's own views (video frames, renderings of one object) where every object has enough, and so is
a `Path` along parameters that the data records; all other plans make their views of one image.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ssl_inv.transforms import Action, Box, Circle, Group, Real, Transform


@dataclass(frozen=True)
class View:
    """One view of every sample of a batch.

    Attributes:
        pixels: `(B, 3, H, W)`, normalised.
        transform: how each of the B views was made.
    """

    pixels: Tensor
    transform: Transform


@dataclass(frozen=True)
class Views:
    """All views of a batch.

    Attributes:
        views: as many as the plan asked for, of one size or of several; row b of each shows the same sample.
        index: `(B,)`, int64, the number of the sample in the data set.
        shown: `(V, B, 2)`, int64, the object and which of its views each of the V images was that the views were made of; None where views
            were made of no data.
    """

    views: tuple[View, ...]
    index: Tensor
    shown: Tensor | None = None

    def __getitem__(self, number: int) -> View:
        return self.views[number]

    def __len__(self) -> int:
        return len(self.views)

    def actions(self) -> list[Action]:
        """What leads from each view to the next, one fewer than there are views."""
        return [here.transform.relative(there.transform) for here, there in pairwise(self.views)]


@dataclass(frozen=True)
class Way:
    """Where images lie that the data shall render between its own views 0 and 1 of an object.

    Attributes:
        parameters: what changes on the way from view 0 to view 1; everything else is as in view 1.
        fractions: how far along the images are.
    """

    parameters: tuple[str, ...]
    fractions: tuple[float, ...]

    def between(self, start: Transform, end: Transform) -> list[Transform]:
        """The transforms of the images on the way from the views that `start` tells of to those of `end`."""
        names = list(self.parameters)
        steps = [start.only(names).path(end.only(names), fraction) for fraction in self.fractions]
        return [Transform({**end.values, **step.values}, end.groups) for step in steps]


class Plan(ABC):
    """The views that an objective needs of every sample."""

    @property
    @abstractmethod
    def count(self) -> int:
        """Views of a sample in all."""

    @property
    def own_views(self) -> int:
        """How many of the data's own views serve the plan where every object has as many; 1 makes all of one image."""
        return 1

    @property
    def way(self) -> Way | None:
        """The images between views 0 and 1 of the data that the plan needs besides `own_views`; None for no such images."""
        return None

    @property
    def linked(self) -> bool:
        """Whether the objective says which other image, of the same object or another one, stands beside each image."""
        return False

    @property
    def sources(self) -> int:
        """How many images of an object the views are made of: its own views, and those on the way."""
        return self.own_views + (0 if self.way is None else len(self.way.fractions))

    def over(self, groups: Mapping[str, Group]) -> "Plan":
        """The plan for data that records these parameters of its own views, by name."""
        return self

    @property
    def groups(self) -> dict[str, Group]:
        """Parameters that the plan adds to the transform of every view, by name."""
        return {}

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sides, in pixels, of the views whose size the plan decides; all others are as large as the augmentation makes them."""
        return ()


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise ValueError(sentence)


def _require_share(name: str, scale: tuple[float, float] | None) -> None:
    fits = scale is None or (len(scale) == 2 and 0 < scale[0] <= scale[1] <= 1)
    _require(fits, f"{name}: scale is the smallest and the largest share of the image's area, above 0 and up to 1, got {scale}")


@dataclass(frozen=True)
class Pair(Plan):
    """Two views of every sample, or more of the same kind: the plan of SIE, SimCLR and VICReg. View i is made by the i-th policy.

    Attributes:
        count: how many views.
    """

    count: int = 2

    def __post_init__(self) -> None:
        _require(self.count >= 2, f"Pair: count is at least 2, got {self.count}")

    @property
    def own_views(self) -> int:
        return self.count


class Links(Protocol):
    """Which image stands beside which; handed to loader processes, so it can be pickled."""

    def partners(self, objects: NDArray[np.int64], views: NDArray[np.int64], epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The object and the view number of the image beside view `views[b]` of object `objects[b]`, for every b.

        A function of its arguments and of the state of the objective when the epoch began.
        """
        ...


@dataclass(frozen=True)
class Linked(Plan):
    """An image of every sample, and beside it the image that the objective links it with: the plan of transitive invariance.

    View i is made by the i-th policy, of an image of its own.
    """

    @property
    def count(self) -> int:
        return 2

    @property
    def own_views(self) -> int:
        return 2

    @property
    def linked(self) -> bool:
        return True


@dataclass(frozen=True)
class Sequence(Plan):
    """Views that are observed one after the other, and last the one that is to be predicted: the plan of seq-JEPA.

    The first policy of the augmentation makes the observed views and the last one the target, as in BYOL.

    Attributes:
        observed: views before the target.
    """

    observed: int = 3

    def __post_init__(self) -> None:
        _require(self.observed >= 1, f"Sequence: observed is at least 1, got {self.observed}")

    @property
    def count(self) -> int:
        return self.observed + 1

    @property
    def own_views(self) -> int:
        return self.count


@dataclass(frozen=True)
class Crops:
    """Some crops of one kind.

    Attributes:
        count: how many.
        size: their side in pixels; none is that of the augmentation.
        scale: smallest and largest share of the image's area; none is that of the augmentation.
        centre: instead of `scale`, the share of the image's sides that an upright crop about its centre takes.
    """

    count: int
    size: int | None = None
    scale: tuple[float, float] | None = None
    centre: float | None = None

    def __post_init__(self) -> None:
        _require(self.count >= 1, f"Crops: count is at least 1, got {self.count}")
        _require(self.size is None or self.size >= 1, f"Crops: size is at least 1 pixel, got {self.size}")
        _require_share("Crops", self.scale)
        _require(self.centre is None or 0 < self.centre <= 1, f"Crops: centre is a share above 0 and up to 1, got {self.centre}")
        _require(self.centre is None or self.scale is None, "Crops: a crop has a random scale or a share about the centre, not both")


@dataclass(frozen=True)
class MultiCrop(Plan):
    """Crops of several sizes of one image: the plan of SwAV and DINO. View i is made by the i-th policy.

    Attributes:
        crops: kinds of crops, in the order of the views. DINO's are `Crops(2, 224, (0.4, 1))` and `Crops(8, 96, (0.05, 0.4))`.
    """

    crops: tuple[Crops, ...]

    def __post_init__(self) -> None:
        _require(len(self.crops) > 0, "MultiCrop: crops has no kind of crop, at least one is needed")

    @property
    def count(self) -> int:
        return sum(kind.count for kind in self.crops)

    @property
    def groups(self) -> dict[str, Group]:
        return {"crop": Box()} if any(kind.centre is not None for kind in self.crops) else {}

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(kind.size for kind in self.crops if kind.size is not None)


@dataclass(frozen=True)
class Path(Plan):
    """Two branches, and images along the way that a transform leads on the second one: the plan of EC-reconstruction.

    View 0 is A1(I). The second branch is u = A2(I) and view 1 is g_theta(u); then come u itself, if wished, and u_k, which lies k / (K + 1)
    of the way from u to view 1, for k = 1 .. K. All of the second branch share one draw, and each view is one resampling of the image.
    Rotations and hues go along the shorter arc, all other parameters straight, from the value that leaves an image as it is.

    What the data itself records, such as the rotation of a rendered object, goes from its value in one of the object's own views to its
    value in another: view 0 is A1 of the first, view 1 is A2 of the second, and u_k is A2 of an image rendered between the two.

    Attributes:
        between: K, how many images along the way.
        parameters: what g changes; operations of the second branch's policy draw it. `("angle",)` is a rotation, `("angle", "translation")`
            is SE(2), `("brightness", "contrast", "saturation", "hue")` colour jitter, `("blur",)` a blur.
        start: whether u is a view too.
        on_first: whether view 0 has values of its own of these parameters; they leave it as it is otherwise.
        size: side of the views in pixels; none is that of the augmentation.
        scale: smallest and largest share of the image's area that both branches' crops take; none is that of the augmentation.
        own: which of the parameters the data records; `over` finds them.
    """

    between: int = 2
    parameters: tuple[str, ...] = ("angle",)
    start: bool = False
    on_first: bool = False
    size: int | None = None
    scale: tuple[float, float] | None = None
    own: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require(self.between >= 0, f"Path: between is at least 0, got {self.between}")
        _require(len(self.parameters) > 0, "Path: parameters names nothing that changes along the way")
        _require(self.size is None or self.size >= 1, f"Path: size is at least 1 pixel, got {self.size}")
        _require_share("Path", self.scale)

    @property
    def count(self) -> int:
        return 2 + len(self.fractions)

    @property
    def own_views(self) -> int:
        return 2 if self.own else 1

    @property
    def way(self) -> Way | None:
        return Way(self.own, self.fractions) if self.own else None

    @property
    def sizes(self) -> tuple[int, ...]:
        return () if self.size is None else (self.size,)

    def over(self, groups: Mapping[str, Group]) -> "Path":
        return replace(self, own=tuple(name for name in self.parameters if name in groups))

    @property
    def fractions(self) -> tuple[float, ...]:
        """How far along the way the views after the first two are."""
        return tuple(k / (self.between + 1) for k in range(0 if self.start else 1, self.between + 1))


@dataclass(frozen=True)
class Patches(Plan):
    """Some cells of a loose grid on one large view, which share its colours: the small crops of OBoW.

    Every cell is shifted by 0 to `jitter` pixels down and right. Records `patch`, a box in fractions of the large view. The defaults are
    OBoW's.

    Attributes:
        view: side of the large view in pixels.
        patch: side of the patches in pixels.
        grid: cells along each side.
        jitter: largest shift in pixels.
        keep: how many cells are kept, at random.
        scale: smallest and largest share of the image's area that the large view takes; none is that of the augmentation.
    """

    view: int = 256
    patch: int = 96
    grid: int = 3
    jitter: int = 24
    keep: int = 5
    scale: tuple[float, float] | None = (0.6, 1.0)

    def __post_init__(self) -> None:
        _require(min(self.patch, self.grid, self.keep) >= 1, "Patches: patch, grid and keep are at least 1")
        _require(self.keep <= self.grid**2, f"Patches: keep is at most grid * grid = {self.grid**2}, got {self.keep}")
        _require(self.jitter >= 0, f"Patches: jitter is at least 0, got {self.jitter}")
        needed = self.patch + self.jitter
        _require(needed <= self.view, f"Patches: patch + jitter = {needed} pixels do not fit into a view of {self.view}")
        _require_share("Patches", self.scale)

    @property
    def step(self) -> int:
        """Pixels from one cell to the next, before they are shifted."""
        return (self.view - self.patch - self.jitter) // max(self.grid - 1, 1)

    @property
    def count(self) -> int:
        return self.keep

    @property
    def groups(self) -> dict[str, Group]:
        return {"patch": Box()}

    @property
    def sizes(self) -> tuple[int, ...]:
        return (self.patch,)


class StoredMaps(Protocol):
    """Saliency maps made beforehand, by the number of the sample: an array `(N, h, w)`, a list, or what reads them from files."""

    def __getitem__(self, index: int, /) -> Tensor: ...


Saliency = Literal["uniform", "spectral_residual"] | Callable[[Tensor], Tensor] | StoredMaps
"""Where a saccade may go.

`uniform`: everywhere alike. `spectral_residual`: Hou and Zhang, CVPR 2007, from the image itself. A function gets the whole views
`(B, 3, H, W)` in [0, 1] and gives maps `(B, h, w)`. Stored maps are those of the images as the data has them; they are moved as the views.
"""

Inhibition = Literal["disc", "square", "none"]
Cutting = Literal["upright", "official"]


@dataclass(frozen=True)
class Saccades(Plan):
    """Small patches about fixations on one view; the last is to be predicted: the plan of seq-JEPA's predictive learning across saccades.

    Fixations are pixels drawn with probabilities proportional to a saliency map; after each, its surroundings are inhibited. Beyond the
    border of the view patches are black. Records `fixation`, (row, column) in fractions of the view, and `patch`, a box in the same.

    Attributes:
        observed: patches before the target.
        patch: side of the patches in pixels.
        saliency: the map.
        inhibition: of a `disc` (the paper), a `square` (the authors' code) or `none`.
        radius: of the disc, or half the side of the square, in pixels; its rim is inhibited too.
        cutting: `upright` patches begin `patch // 2` pixels before the fixation and are copies. `official` ones are what the authors' code
            cuts: at the fixation with row and column exchanged, `patch` points on `patch` + 1 pixels, cut off to 8 bits.
        size: side of the whole view in pixels; none is that of the augmentation.
    """

    observed: int = 4
    patch: int = 32
    saliency: Saliency = "uniform"
    inhibition: Inhibition = "disc"
    radius: int = 16
    cutting: Cutting = "upright"
    size: int | None = None

    def __post_init__(self) -> None:
        _require(self.observed >= 1, f"Saccades: observed is at least 1, got {self.observed}")
        _require(self.patch >= 2, f"Saccades: patch is at least 2 pixels, got {self.patch}")
        _require(self.radius >= 0, f"Saccades: radius is at least 0 pixels, got {self.radius}")
        _require(self.size is None or self.size >= 1, f"Saccades: size is at least 1 pixel, got {self.size}")
        choices = {"inhibition": ("disc", "square", "none"), "cutting": ("upright", "official")}
        if isinstance(self.saliency, str):
            choices["saliency"] = ("uniform", "spectral_residual")
        for name, known in choices.items():
            value = getattr(self, name)
            _require(value in known, f"Saccades: {name} is one of {', '.join(known)}, got {value!r}")

    @property
    def count(self) -> int:
        return self.observed + 1

    @property
    def groups(self) -> dict[str, Group]:
        return {"fixation": Real(dimensions=2), "patch": Box()}

    @property
    def sizes(self) -> tuple[int, ...]:
        return (self.patch,)


@dataclass(frozen=True)
class Turns(Plan):
    """One view in its four upright positions: the plan of RotNet. View i is turned by i quarters counter-clockwise; records `turn`, i.

    Attributes:
        size: side of the views in pixels; none is that of the augmentation.
        scale: smallest and largest share of the image's area that the view takes; none is that of the augmentation.
    """

    size: int | None = None
    scale: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        _require(self.size is None or self.size >= 1, f"Turns: size is at least 1 pixel, got {self.size}")
        _require_share("Turns", self.scale)

    @property
    def count(self) -> int:
        return 4

    @property
    def groups(self) -> dict[str, Group]:
        return {"turn": Circle(period=4.0)}

    @property
    def sizes(self) -> tuple[int, ...]:
        return () if self.size is None else (self.size,)


@dataclass(frozen=True)
class Several(Plan):
    """Views of several kinds, one plan's after the other's.

    OBoW's teacher view, crops and patches are
    `Several((MultiCrop((Crops(1, 224, centre=0.875),)), MultiCrop((Crops(2, 160, (0.08, 0.6)),)), Patches()))`.

    Attributes:
        plans: one or more, none of them `Several`.
        policies: for each plan, the number of the augmentation's policy that makes all its views, or None for those that the plan would
            have alone; empty is 0, 1, 2, ... in the order of the plans.
    """

    plans: tuple[Plan, ...]
    policies: tuple[int | None, ...] = ()

    def __post_init__(self) -> None:
        _require(len(self.plans) > 0, "Several: plans is empty, at least one is needed")
        _require(not any(isinstance(plan, Several) for plan in self.plans), "Several: stands within itself; list all plans in one")
        fits = len(self.policies) in (0, len(self.plans)) and all(number is None or number >= 0 for number in self.policies)
        _require(fits, f"Several: policies has a number of at least 0 for each of the {len(self.plans)} plans, got {self.policies}")
        ways = [plan.way for plan in self.plans if plan.way is not None]
        _require(len(ways) <= 1, "Several: only one of the plans leads along the data's own parameters")
        _require(not ways or self.own_views == 2, "Several: beside a path between two of the data's own views, no plan is served by more")

    @property
    def count(self) -> int:
        return sum(plan.count for plan in self.plans)

    @property
    def own_views(self) -> int:
        return max(plan.own_views for plan in self.plans)

    @property
    def way(self) -> Way | None:
        return next((plan.way for plan in self.plans if plan.way is not None), None)

    def over(self, groups: Mapping[str, Group]) -> "Several":
        return replace(self, plans=tuple(plan.over(groups) for plan in self.plans))

    @property
    def groups(self) -> dict[str, Group]:
        return {name: group for plan in self.plans for name, group in plan.groups.items()}

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(size for plan in self.plans for size in plan.sizes)

    def parts(self, views: Views) -> tuple[Views, ...]:
        """The views of each plan."""
        found, first = [], 0
        for plan in self.plans:
            found.append(Views(views.views[first : first + plan.count], views.index))
            first += plan.count
        return tuple(found)
