"""What the operations of a policy do to a record of views, in the order in which they are applied: how pixels move."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from ssl_inv import augment
from ssl_inv.augment.geometry import Crop, centre_squares
from ssl_inv.augment.local import RandomField
from ssl_inv.augment.operation import Following, Geometric, Operation, Photometric
from ssl_inv.augment.warp import Record, changed
from ssl_inv.catalogue import OPERATIONS
from ssl_inv.transforms import Transform

_TABLE = [OPERATIONS.find(name).load() for name in augment.OPERATIONS]
Kind = TypeVar("Kind", bound=Operation)

PROJECTIVE = "projective"
"""The name of the map from a view to its source."""


def in_order(kind: type[Kind], operations: Sequence[Operation] = ()) -> list[type[Kind]]:
    """The operations of one kind, in the order in which they are applied.

    They are the table's, and behind them classes of other packages that a policy uses. A class that derives from one of
    the table takes its place.

    Args:
        kind: `Geometric` or `Photometric`.
        operations: of the policy.
    """
    used = dict.fromkeys(type(inner) for one in operations for inner in (one, *one.operations))
    foreign = [one for one in used if issubclass(one, kind) and one not in _TABLE]
    own = [one for one in _TABLE if isinstance(one, type) and issubclass(one, kind)]
    found = [next((other for other in foreign if issubclass(other, one)), one) for one in own]
    return [*found, *(other for other in foreign if other not in found)]


def maps(
    record: Record, rows: int, operations: Sequence[Operation] = ()
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The map from view to source of every row, without random fields.

    Args:
        record: the parameters of the views; those that are not geometric are ignored.
        rows: how many views there are.
        operations: of the policy, if it has some of other packages.

    Returns:
        Homographies `(B, 3, 3)` on (x, y, 1), and which rows are only cropped and flipped, `(B,)`.
    """
    matrices, upright = np.tile(np.eye(3), (rows, 1, 1)), np.full(rows, True)
    for operation in in_order(Geometric, operations):  # type: ignore[type-abstract]
        if len(some := np.flatnonzero(changed(record, rows, operation.neutral))):
            own = {name: record[name][some] for name in operation.groups if name in record}
            matrices[some] = matrices[some] @ operation.matrices(own)
            upright[some] &= operation.upright
    return matrices, upright


def framed(transform: Transform, sides: NDArray[np.int64]) -> Transform:
    """A record with a crop: views of photographs that record none show the centre square.

    Args:
        transform: how the views are made, on the host.
        sides: height and width of the photographs in pixels, `(B, 2)`.
    """
    if "crop" in transform.values:
        return transform
    boxes = torch.from_numpy(centre_squares(sides[:, 0], sides[:, 1], len(sides))).float()
    return Transform({**transform.values, "crop": boxes}, {**transform.groups, **Crop.groups})


def moving(transform: Transform, operations: Sequence[Operation]) -> Transform:
    """The part of a record that says how pixels are moved, without changes of colour, of a policy's operations."""
    photometric = in_order(Photometric, operations)  # type: ignore[type-abstract]
    colours = {name for operation in photometric for name in operation.groups} - {*RandomField.groups}
    return transform.only([name for name in transform.names if name not in {*colours, *RandomField.neutral}])


def applied(operations: Sequence[Operation]) -> set[str]:
    """The parameters that are applied to views, by the operations of this package and by some others."""
    kinds = (Geometric, Photometric, Following)
    used = [one for one in operations if isinstance(one, kinds)]
    known = [one for one in _TABLE if isinstance(one, type) and issubclass(one, kinds)]
    return {name for one in (*used, *known) for name in one.groups}
