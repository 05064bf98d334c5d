"""Plans of pieces of one larger view, and of quarter turns of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from ssl_inv.transforms import Box, Circle, Group, Real
from ssl_inv.views.plan import Plan, check_plan, require_share


@dataclass(frozen=True)
class Patches(Plan):
    """Some cells of a loose grid on one large view, which share its colours: the small crops of OBoW.

    Every cell is shifted by 0 to `jitter` pixels down and right. Records `patch`, a box in fractions of the large view.
    The defaults are OBoW's.

    Attributes:
        view: side of the large view in pixels.
        patch: side of the patches in pixels.
        grid: cells along each side.
        jitter: largest shift in pixels.
        keep: how many cells are kept, at random.
        scale: smallest and largest share of the image's area that the large view takes; None is that of the
            augmentation.
        middle_first: whether the cell in the middle is always kept, as the first; the grid must be odd.
    """

    view: int = 256
    patch: int = 96
    grid: int = 3
    jitter: int = 24
    keep: int = 5
    scale: tuple[float, float] | None = (0.6, 1.0)
    middle_first: bool = False

    def __post_init__(self) -> None:
        check_plan(min(self.patch, self.grid, self.keep) >= 1, "Patches: patch, grid and keep are at least 1")
        check_plan(self.keep <= self.grid**2, f"Patches: keep is at most grid * grid = {self.grid**2}, got {self.keep}")
        check_plan(
            not self.middle_first or self.grid % 2 == 1, f"Patches: a grid of {self.grid} has no cell in the middle"
        )
        check_plan(self.jitter >= 0, f"Patches: jitter is at least 0, got {self.jitter}")
        needed = self.patch + self.jitter
        check_plan(
            needed <= self.view, f"Patches: patch + jitter = {needed} pixels do not fit into a view of {self.view}"
        )
        require_share("Patches", self.scale)

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
    """Saliency maps made beforehand, by the number of the sample: an array `(N, h, w)`, a list, or an object that reads
    files.
    """

    def __getitem__(self, index: int, /) -> Tensor: ...


Saliency = Literal["uniform", "spectral_residual"] | Callable[[Tensor], Tensor] | StoredMaps
"""Where a saccade may go.

`uniform`: everywhere alike. `spectral_residual`: Hou and Zhang, CVPR 2007, from the image itself. A function gets the
whole views `(B, 3, H, W)` in [0, 1] and gives maps `(B, h, w)`. Stored maps belong to the images as the data has them;
they are cropped and moved like the views.
"""


Inhibition = Literal["disc", "square", "none"]


Cutting = Literal["upright", "official"]


@dataclass(frozen=True)
class Saccades(Plan):
    """Small patches about fixations on one view, of which the last is to be predicted: the plan of seq-JEPA's
    predictive learning across saccades.

    Fixations are pixels, drawn with probabilities proportional to a saliency map. After each draw its surroundings are
    inhibited. Beyond the border of the view, patches are black. Records `fixation`, (row, column) in fractions of the
    view, and `patch`, a box in fractions of the view.

    Attributes:
        observed: patches before the target.
        patch: side of the patches in pixels.
        saliency: the map.
        inhibition: of a `disc` (the paper), a `square` (the authors' code) or `none`.
        radius: of the disc, or half the side of the square, in pixels; its rim is inhibited too.
        cutting: `upright` patches begin `patch // 2` pixels before the fixation and are copies. `official` patches are
            cut as in the authors' code: at the fixation with row and column exchanged, `patch` points on `patch` + 1
            pixels, cut off to 8 bits.
        size: side of the whole view in pixels; None is that of the augmentation.
    """

    observed: int = 4
    patch: int = 32
    saliency: Saliency = "uniform"
    inhibition: Inhibition = "disc"
    radius: int = 16
    cutting: Cutting = "upright"
    size: int | None = None

    def __post_init__(self) -> None:
        check_plan(self.observed >= 1, f"Saccades: observed is at least 1, got {self.observed}")
        check_plan(self.patch >= 2, f"Saccades: patch is at least 2 pixels, got {self.patch}")
        check_plan(self.radius >= 0, f"Saccades: radius is at least 0 pixels, got {self.radius}")
        check_plan(self.size is None or self.size >= 1, f"Saccades: size is at least 1 pixel, got {self.size}")
        choices = {"inhibition": ("disc", "square", "none"), "cutting": ("upright", "official")}
        if isinstance(self.saliency, str):
            choices["saliency"] = ("uniform", "spectral_residual")
        for name, known in choices.items():
            value = getattr(self, name)
            check_plan(value in known, f"Saccades: {name} is one of {', '.join(known)}, got {value!r}")

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
class QuarterTurns(Plan):
    """One view in its four upright positions: the plan of RotNet. View i is turned by i quarters counter-clockwise.
    Records `turn`, i.

    Attributes:
        size: side of the views in pixels; None is that of the augmentation.
        scale: smallest and largest share of the image's area that the view takes; None is that of the augmentation.
    """

    size: int | None = None
    scale: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        check_plan(self.size is None or self.size >= 1, f"QuarterTurns: size is at least 1 pixel, got {self.size}")
        require_share("QuarterTurns", self.scale)

    @property
    def count(self) -> int:
        return 4

    @property
    def groups(self) -> dict[str, Group]:
        return {"turn": Circle(period=4.0)}

    @property
    def sizes(self) -> tuple[int, ...]:
        return () if self.size is None else (self.size,)
