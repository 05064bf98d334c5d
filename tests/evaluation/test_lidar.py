"""LiDAR counts the directions in which objects differ."""

import pytest
import torch
from constructed import normal, same_on_both, values, views_of

from ssl_inv.evaluation.protocols.lidar import LiDAR, lidar


@pytest.mark.parametrize("directions", [1, 5, 12])
@pytest.mark.parametrize("ratio", [0.05, 0.02])
def test_it_is_the_number_of_equal_directions_whatever_the_ratio(directions, ratio):
    objects = torch.cat((normal(0, 800, directions), torch.zeros(800, 16 - directions)), dim=1)
    table = views_of(objects[:, None] + ratio * normal(1, 800, 10, 16))
    assert values(LiDAR(), same_on_both(table))["lidar"] == pytest.approx(directions, rel=0.05)


def test_rotation_and_few_objects_and_one_view():
    views, turn = normal(2, 30, 4, 40), torch.linalg.qr(normal(3, 40, 40))[0]
    assert lidar(views @ turn) == pytest.approx(lidar(views), rel=1e-6)
    assert lidar(views) <= 29 + 1e-3
    with pytest.raises(ValueError, match="two objects with two views"):
        lidar(views[:, :1])
    assert values(LiDAR(), same_on_both(views_of(views[:, :1]))) == {"lidar": None}
