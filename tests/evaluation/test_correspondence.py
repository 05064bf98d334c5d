"""Content is found again by what describes it, positions by what stays, and chance by what knows nothing."""

import math

import pytest
import torch
from imaged import encoded_by
from torch import Tensor

from ssl_inv.evaluation.protocols.correspondence import Correspondence, cell_centres, moved_points, warped
from ssl_inv.evaluation.results import Bootstrap

SIDE, CELL = 64, 8
PROTOCOL = Correspondence(draws=1, angles=(0, 30, 90, 180), bootstrap=Bootstrap(10))


def fields(count: int = 6) -> Tensor:
    """Colours that tell the place: no two places look alike."""
    place = torch.linspace(0, 1, SIDE)
    one = torch.stack((place.expand(SIDE, SIDE), place[:, None].expand(SIDE, SIDE), torch.zeros(SIDE, SIDE)))
    return one + 0.1 * torch.arange(count).view(-1, 1, 1, 1)


def colours(pixels: Tensor) -> Tensor:
    means = torch.nn.functional.avg_pool2d(pixels, CELL)
    # Each colour as two angles: the cosine then grows with the likeness of the colours themselves.
    return torch.cat((means.sin(), means.cos()), dim=1)


def places(pixels: Tensor) -> Tensor:
    """Features of the cell's place alone."""
    cells = SIDE // CELL
    return torch.eye(cells**2).view(1, cells**2, cells, cells).repeat(len(pixels), 1, 1, 1)


def noise(pixels: Tensor) -> Tensor:
    cells = SIDE // CELL
    seed = int(pixels.double().abs().sum() * 1e6) % 2**31
    return torch.randn(len(pixels), 32, cells, cells, generator=torch.Generator().manual_seed(seed))


def measured(maps, pixels: Tensor | None = None) -> dict[str, object]:
    pixels = fields() if pixels is None else pixels
    encoded = encoded_by(lambda one: {"all": one.mean(dim=(2, 3))}, maps, pixels)
    return {row.name.removeprefix("correspondence/"): row for row in PROTOCOL.run(encoded)}


def level(row, words: str) -> float:
    return float(row.detail.split(f"{words} ")[1].split(",")[0])


def test_content_is_found_by_what_describes_it():
    found = measured(colours)
    for change in ("rotation/0-30", "rotation/90-180", "crop/0.5-0.7", "crop/0.7-0.9", "flip", "homography"):
        recall = found[f"{change}/recall"]
        assert recall.value > 0.9, change
        assert recall.value > 4 * level(recall, "a random match")
        assert found[f"{change}/recall_half"].value <= recall.value <= found[f"{change}/recall_two"].value
        assert found[f"{change}/mutual"].value >= recall.value - 0.02
    assert found["flip/recall_half"].value == 1 == level(found["flip/recall_half"], "the best cell")


def test_positions_are_found_where_they_stay():
    found = measured(places)
    for name, row in found.items():
        if name.endswith("recall"):
            assert row.value == pytest.approx(level(row, "the same place"), abs=6e-4)
    assert found["rotation/0-30/recall"].value > 2 * found["rotation/90-180/recall"].value


def test_noise_finds_what_chance_finds():
    found = measured(noise, fields(24))
    for end in ("recall_half", "recall", "recall_two"):
        row = found[f"homography/{end}"]
        assert row.value == pytest.approx(level(row, "a random match"), abs=4 * row.spread + 0.01)


def test_a_map_of_one_cell_has_nothing_to_choose_from():
    found = measured(lambda one: one.mean(dim=(2, 3), keepdim=True))
    assert list(found) == ["correspondence"]
    assert "1 x 1 cells" in found["correspondence"].detail


def test_images_move_as_their_points_do():
    pixels = fields(2)
    turn = torch.tensor([[0.0, -1, SIDE], [1, 0, 0], [0, 0, 1]], dtype=torch.float64).expand(2, 3, 3)
    torch.testing.assert_close(warped(pixels, turn), pixels.rot90(-1, (2, 3)), atol=1e-5, rtol=0)
    centres, cell = cell_centres((2, 4), (64, 64))
    assert (centres[0].tolist(), centres[5].tolist(), cell) == ([8, 16], [24, 48], 32)
    assert moved_points(turn[0], centres[:1]).tolist() == [[SIDE - 16, 8]]
    angles, share = PROTOCOL._changes()["rotation/30-90"], PROTOCOL._changes()["crop/0.3-0.5"]
    numbers = torch.rand(50, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64).numpy()
    matrices = angles(numbers, (64, 48))
    degrees = torch.atan2(matrices[:, 1, 0], matrices[:, 0, 0]).abs() * 180 / math.pi
    assert 30 <= float(degrees.min()) < 40 < 80 < float(degrees.max()) < 90
    centre = torch.tensor([[24.0, 32.0]], dtype=torch.float64)
    assert all(torch.allclose(moved_points(one, centre), centre) for one in matrices)
    corners = torch.tensor([[0.0, 0.0], [48.0, 64.0]], dtype=torch.float64)
    for one in share(numbers, (64, 48)):
        left, right = moved_points(one.inverse(), corners)
        assert (left >= 0).all()
        assert (right <= corners[1] + 1e-9).all()
