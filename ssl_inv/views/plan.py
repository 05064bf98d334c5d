"""Views of a batch of samples, and what a plan of views is."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from ssl_inv.data.wanted import Growth, Way
from ssl_inv.transforms import Action, Group, Transform


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
        shown: `(V, B, 2)`, int64, of each of the V images that the views were made of: its object, and which view of
            the object it was; None for views that were not made of data.
        labels: `(B,)`, int64, the class of each sample, -1 where it is unknown; None unless the objective needs labels.
    """

    views: tuple[View, ...]
    index: Tensor
    shown: Tensor | None = None
    labels: Tensor | None = None

    def __getitem__(self, number: int) -> View:
        return self.views[number]

    def __len__(self) -> int:
        return len(self.views)

    def actions(self) -> list[Action]:
        """What leads from each view to the next, one fewer than there are views."""
        return [here.transform.relative(there.transform) for here, there in pairwise(self.views)]


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
        """The images between the data's views 0 and 1 that the plan needs besides `own_views`; None for none."""
        return None

    @property
    def growth(self) -> Growth | None:
        """How the data's own views are chosen while training begins; None draws any views from the first step on."""
        return None

    @property
    def linked(self) -> bool:
        """Whether the objective chooses a second image for each image, of the same object or of another one."""
        return False

    @property
    def alike(self) -> int:
        """How many consecutive samples of a batch have the same step from one view to the next; 1 for none."""
        return 1

    @property
    def sources(self) -> int:
        """How many images of an object the views are made of: its own views, and the images between them."""
        return self.own_views + (0 if self.way is None else len(self.way.fractions))

    def over(self, groups: Mapping[str, Group]) -> "Plan":
        """The plan for data that records these parameters of its own views."""
        return self

    @property
    def groups(self) -> dict[str, Group]:
        """Parameters that the plan adds to the transform of every view, by name."""
        return {}

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sides, in pixels, of the views whose size the plan decides; the augmentation decides all others."""
        return ()


def check_plan(condition: bool, sentence: str) -> None:
    """Raise a `ValueError` with the sentence unless the condition holds."""
    if not condition:
        raise ValueError(sentence)


def require_share(name: str, scale: tuple[float, float] | None) -> None:
    """Raise a `ValueError` unless `scale`, of a plan called `name`, is None or two shares of an area in order."""
    fits = scale is None or (len(scale) == 2 and 0 < scale[0] <= scale[1] <= 1)
    check_plan(
        fits,
        f"{name}: scale is the smallest and the largest share of the image's area, above 0 and up to 1, got {scale}",
    )
