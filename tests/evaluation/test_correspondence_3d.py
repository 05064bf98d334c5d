"""Parts of an object are found by what describes them, hidden ones do not count, and depth is that of the renderer."""

import math

import numpy as np
import pytest
import torch
from small_data import solids

from ssl_inv.data.source import Subset
from ssl_inv.evaluation.features import EvaluationBatch, FeatureTable
from ssl_inv.evaluation.protocols.base import Encoded
from ssl_inv.evaluation.protocols.correspondence_3d import FINE, Correspondence3D, Seen
from ssl_inv.evaluation.results import Bootstrap
from ssl_inv.transforms.annotations import Surface
from ssl_inv.transforms.quaternions import quaternion_to_matrix

SIDE = 64
PROTOCOL = Correspondence3D(angles=(0, 60, 120, 180), bootstrap=Bootstrap(10))
SOURCE = solids(objects=6, views=4, size=SIDE, translation_range=0.1)
ALL = torch.arange(6).repeat_interleave(4), torch.arange(4).repeat(6)


def encoded(cells: int, kind: str) -> Encoded:
    """An encoder whose map has the places on the object, noise, or its own places."""
    step = FINE // cells
    points = SOURCE.surface(*ALL, FINE).points[:, step // 2 :: step, step // 2 :: step].movedim(-1, 1)
    # The cosine is the mean cosine of the differences of coordinates, so it is highest at the nearest point.
    kinds = {
        "points": torch.cat((points.sin(), points.cos()), dim=1),
        "noise": torch.randn(24, 64, cells, cells, generator=torch.Generator().manual_seed(0)),
        "places": torch.eye(cells**2).view(1, cells**2, cells, cells).repeat(24, 1, 1, 1) if cells < 64 else points,
    }
    maps = kinds[kind]
    pixels = torch.arange(24.0).view(-1, 1, 1, 1).expand(-1, 3, SIDE, SIDE)
    table = FeatureTable({"all": torch.zeros(24, 2)}, *ALL)

    def images(split: str):
        yield EvaluationBatch(pixels, *ALL)

    return Encoded(
        table,
        table,
        images=images,
        maps=lambda some: maps[some[:, 0, 0, 0].long()],
        surface=lambda split, objects, views, side: SOURCE.surface(objects, views, side),
    )


def measured(cells: int, kind: str) -> dict[str, object]:
    return {row.name.removeprefix("correspondence_3d/"): row for row in PROTOCOL.run(encoded(cells, kind))}


def level(row, words: str) -> float:
    return float(row.detail.split(f"{words} ")[1].split(",")[0])


def test_places_on_the_object_are_found_from_every_side():
    found = measured(64, "points")
    for place in ("0-60", "60-120", "120-180"):
        space = found[f"{place}/recall_space"]
        assert space.value == pytest.approx(level(space, "the best cell"), abs=1e-3)
        assert space.value > 0.995
        # Seen from aside, the nearest of some cells in space is not the nearest one in the image.
        assert found[f"{place}/recall_two"].value > 0.95
        assert found[f"{place}/recall"].value > 0.85 > 10 * level(found[f"{place}/recall"], "a random match")


def test_noise_finds_what_chance_finds_and_places_what_stays():
    found, stays = measured(16, "noise"), measured(16, "places")
    for place in ("60-120", "120-180"):
        for end in ("recall", "recall_two", "recall_space"):
            row = found[f"{place}/{end}"]
            assert row.value == pytest.approx(level(row, "a random match"), abs=4 * row.spread + 0.02)
    same = stays["0-60/recall"]
    # Where a cell of the same place shows the ground, an encoder of places alone finds any other.
    assert same.value == pytest.approx(level(same, "the same place"), abs=0.15)
    assert same.value > stays["120-180/recall"].value


def test_depth_and_points_are_those_of_the_renderer():
    surface = SOURCE.surface(*ALL, SIDE)
    shown = surface.depth < math.inf
    covered = SOURCE.masks(ALL[0].numpy(), ALL[1].numpy()).bool()
    assert torch.equal(shown, covered)
    places, depths = surface.project(surface.points.flatten(1, 2))
    middle = torch.arange(SIDE) + 0.5
    rows, columns = torch.meshgrid(middle, middle, indexing="ij")
    wanted = torch.stack((columns, rows), dim=-1).view(-1, 2).double()
    for view in range(24):
        some = shown[view].flatten()
        torch.testing.assert_close(places[view][some], wanted[some], atol=1e-9, rtol=0)
        torch.testing.assert_close(depths[view][some], surface.depth[view].flatten()[some], atol=1e-9, rtol=0)
    # All views of an object show one body: its points lie in one box whatever the view.
    assert float(surface.points[shown].norm(dim=-1).max()) < 0.8
    turns = quaternion_to_matrix(SOURCE.load(ALL[0].numpy(), ALL[1].numpy()).transform["rotation"].double())
    between = surface.turns()[0] @ surface.turns()[1].T
    assert float(between.trace()) == pytest.approx(float((turns[0] @ turns[1].T).trace()), abs=1e-6)


def test_points_of_a_sphere_have_its_depth():
    """The nearest pixel of a ball lies its radius before its centre."""
    from ssl_inv.data.sources.rendered.renderer import CAMERA_DISTANCE, Scenes, Solids
    from ssl_inv.data.sources.rendered.surfaces import surfaces

    eye = torch.eye(3, dtype=torch.float64)
    ball = Solids(
        torch.zeros(1, 1, dtype=torch.int64),
        torch.full((1, 1, 3), 0.5),
        torch.zeros(1, 1, 3),
        eye[None, None],
        torch.ones(1, 1, 3),
    )
    ball = ball.map(lambda value: value.double() if value.is_floating_point() else value)
    zero = torch.zeros(1, dtype=torch.float64)
    found = surfaces(
        ball, Scenes(torch.tensor([[0.0, 0.0, 0.0, 1.0]], dtype=torch.float64), zero, zero, zero, zero), 101
    )
    assert float(found.depth[0, 50, 50]) == pytest.approx(CAMERA_DISTANCE - 0.5, abs=1e-5)
    shown = found.depth[0] < math.inf
    assert found.points[0][shown].norm(dim=-1).numpy() == pytest.approx(0.5, abs=1e-4)


def test_the_centre_of_a_surface_has_the_same_points():
    surface = SOURCE.surface(ALL[0][:2], ALL[1][:2], 64)
    centre = surface.centre(0.5)
    assert torch.equal(centre.depth, surface.depth[:, 16:48, 16:48])
    points = torch.tensor([[[0.1, 0.2, 0.3]]] * 2, dtype=torch.float64)
    torch.testing.assert_close(centre.project(points)[0] + 16, surface.project(points)[0])
    torch.testing.assert_close(centre.turns(), surface.turns())


def test_what_is_hidden_does_not_count():
    """A far wall in the first view; in the second, a near one stands before a part of it."""
    side, camera = 8, torch.tensor([[8.0, 0, 4, 0], [0, 8, 4, 0], [0, 0, 1, 0]], dtype=torch.float64)
    middle = (torch.arange(side) + 0.5 - 4) / 8
    rows, columns = torch.meshgrid(middle, middle, indexing="ij")
    flat = torch.stack((columns, rows, torch.ones_like(rows)), dim=-1).double()
    depth = torch.full((2, side, side), 4.0, dtype=torch.float64)
    depth[1, :, :5] = 2.0
    surface = Surface(flat * depth[..., None], depth, camera.expand(2, 3, 4))
    seen = Seen.of(torch.rand(2, 3, 4, 4), surface, (side, side))
    assert seen.angle(0, 1) == pytest.approx(0, abs=1e-5)
    pair = seen.pair(0, 1, 0.1)
    assert pair["cells"] == 16
    assert pair["visible"] == 8
    assert pair["recall/same"] == pair["recall_half/best"] == 1
    back = seen.pair(1, 0, 0.1)
    assert back["visible"] == 8


def test_data_without_pairs_or_cells_give_reasons():
    one = encoded(1, "noise")
    (row,) = PROTOCOL.run(one)
    assert "nothing to choose from" in row.detail
    table = one.validation.select(torch.arange(0, 24, 4))
    (row,) = PROTOCOL.run(Encoded(table, table, images=one.images, maps=one.maps, surface=one.surface))
    assert row.detail == "no validation object has two views"
    assert (
        Subset(SOURCE, np.array([3]))
        .surface(torch.tensor([0]), torch.tensor([1]), 16)
        .depth.equal(SOURCE.surface(torch.tensor([3]), torch.tensor([1]), 16).depth)
    )
    assert FINE > SIDE


@pytest.mark.parametrize("settings", [{"angles": (0,)}, {"angles": (30, 0)}, {"objects": 0}, {"reach": 0}])
def test_bad_settings_are_refused(settings):
    with pytest.raises(ValueError, match=r"must be|and reach above"):
        Correspondence3D(**settings)
