"""Views of a batch of samples, and the plans by which objectives ask for them."""

from dataclasses import dataclass

from torch import Tensor

from ssl_inv.transforms import Transform


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
        views: as many as the plan asked for; row b of each shows the same sample.
        index: `(B,)`, int64, the number of the sample in the data set.
    """

    views: tuple[View, ...]
    index: Tensor

    def __getitem__(self, number: int) -> View:
        return self.views[number]

    def __len__(self) -> int:
        return len(self.views)


@dataclass(frozen=True)
class Pair:
    """Two views of every sample: the plan of SIE, SimCLR and VICReg."""

    count: int = 2


Plan = Pair
"""Everything an objective may ask for."""
