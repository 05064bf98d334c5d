"""LiDAR counts the directions in which objects differ."""

import pytest
import torch
from constructed import normal, same_on_both, values, views_of

from ssl_inv.evaluation.protocols.lidar import LiDAR, lidar, lidar_above_noise


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


def test_noise_counts_as_directions_in_lidar_and_not_above_the_noise():
    content = torch.cat((normal(4, 500, 10), torch.zeros(500, 54)), dim=1)[:, None]
    found = {
        size: values(LiDAR(), same_on_both(views_of(content + size * normal(5, 500, 4, 64)))) for size in (0.1, 1.0)
    }
    assert found[1.0]["lidar"] > 3 * found[0.1]["lidar"]
    for one in found.values():
        assert one["lidar/above_noise"] == pytest.approx(10, abs=0.7)
    noise = same_on_both(views_of(normal(6, 500, 4, 64)))
    assert values(LiDAR(), noise)["lidar/above_noise"] is None
    # What nothing tells apart scores as much as exchanged views do.
    (level, _) = LiDAR().shuffled(same_on_both(views_of(content + normal(5, 500, 4, 64))), 0)
    assert level.value == pytest.approx(values(LiDAR(), noise)["lidar"], rel=0.05)
    views = content + normal(5, 500, 4, 64)
    assert lidar_above_noise(1e-4 * views) == pytest.approx(lidar_above_noise(views), rel=1e-4)
