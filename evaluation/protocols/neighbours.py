"""Nearest rows of a set of features, exact, in chunks."""

import torch
from torch import Tensor

_SPARE = 8
"""Further candidates, because single precision can confuse distances that are nearly equal."""


def nearest_rows(
    features: Tensor, k: int, groups: Tensor | None = None, chunk: int = 512, device: str = "cpu"
) -> tuple[Tensor, Tensor]:
    """The k nearest other rows of each row, by Euclidean distance.

    Candidates are found in single precision; their distances are computed again in double precision, and of equal
    distances the lower row comes first. It needs memory for `chunk` x N distances at a time.

    Args:
        features: `(N, D)`.
        k: neighbours; there must be as many for each row.
        groups: `(N,)`, rows of one group are not neighbours of each other; None: a row is not its own neighbour.
        chunk: rows that are compared with all others at a time; changes memory alone.
        device: where distances are computed.

    Returns:
        Distances, float64, ascending, and row numbers, both `(N, k)` and on the CPU.

    Raises:
        ValueError: if a row has fewer than k neighbours.
    """
    if groups is None:
        groups = torch.arange(len(features))
    largest = int(torch.unique(groups, return_counts=True)[1].max()) if len(features) else 0
    if k < 1 or len(features) - largest < k:
        raise ValueError(f"{k} neighbours of each row need more rows: there are {len(features) - largest} candidates")
    exact = (features.double() - features.double().mean(dim=0)).to(device)
    rough, groups = exact.float(), groups.to(device)
    squares = rough.square().sum(dim=1)
    candidates = min(k + _SPARE, len(features) - largest)
    distances, neighbours = [], []
    for rows in torch.split(torch.arange(len(features), device=device), chunk):
        scores = torch.addmm(squares[None, :], rough[rows], rough.T, alpha=-2)
        scores.masked_fill_(groups[rows][:, None] == groups[None, :], torch.inf)
        found = scores.topk(candidates, dim=1, largest=False).indices.sort(dim=1).values
        apart = (exact[rows][:, None] - exact[found]).square().sum(dim=2)
        apart, order = apart.sort(dim=1, stable=True)
        distances.append(apart[:, :k].sqrt().cpu())
        neighbours.append(found.gather(1, order[:, :k]).cpu())
    return torch.cat(distances), torch.cat(neighbours)


def without_duplicates(features: Tensor) -> tuple[Tensor, int]:
    """The rows `(N, D)` without repetitions, in the order of their first appearance, and how many were left out."""
    unique, inverse = torch.unique(features, dim=0, return_inverse=True)
    first = torch.full((len(unique),), len(features)).scatter_reduce_(
        0, inverse, torch.arange(len(features)), reduce="amin"
    )
    return features[first.sort().values], len(features) - len(unique)
