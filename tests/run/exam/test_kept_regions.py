"""What was measured with masks is not used for other masks of the same images."""

from dataclasses import replace
from pathlib import Path

import torch

from ssl_inv.evaluation.features import FeatureTable
from ssl_inv.evaluation.protocols.base import Encoded
from ssl_inv.evaluation.protocols.dense import Dense
from ssl_inv.evaluation.protocols.knn import NearestNeighbours
from ssl_inv.evaluation.results import Comparison, Result
from ssl_inv.run.kept_measurements import Cost, KeptMeasurements


def encoded(shift: int = 0) -> Encoded:
    """Features that are always the same, and masks that are shifted in one view of one object."""
    table = FeatureTable({"all": torch.eye(6)}, torch.arange(6) // 2, torch.arange(6) % 2, torch.arange(6) // 2)

    def masks(split: str, objects: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
        bars = (torch.arange(8) < 3).long().expand(len(objects), 8, 8).clone()
        odd = (objects == 2) & (views == 1) & (split == "validation")
        bars[odd] = bars[odd].roll(shift, 2)
        return bars

    return Encoded(table, table, masks=masks)


def test_other_masks_are_other_data_for_protocols_that_read_them_alone(tmp_path: Path) -> None:
    kept = KeptMeasurements(tmp_path, "facts")
    for name, protocol in {"dense": Dense(), "knn": NearestNeighbours()}.items():
        kept.write(name, protocol, encoded(), None, 0, [Comparison(Result("m", "all", 1.0))], Cost(1.0, 0))
    again = KeptMeasurements(tmp_path, "facts")
    for name, protocol, known in (("dense", Dense(), False), ("knn", NearestNeighbours(), True)):
        assert again.read(name, protocol, encoded(), None, 0) is not None
        assert (again.read(name, protocol, encoded(1), None, 0) is not None) == known
    assert again.read("dense", Dense(), replace(encoded(), masks=None), None, 0) is None
