"""A true representation of the group passes every test, an invariant encoder only those that any would, noise none."""

import math

import pytest
import torch
from posed import matrices, noise, rotated, turntable

from ssl_inv.evaluation.protocols.action_maps import Grid, Polynomial, different, fit_maps
from ssl_inv.evaluation.protocols.base import ViewPredictor
from ssl_inv.evaluation.protocols.group_action import GroupAction
from ssl_inv.evaluation.results import Bootstrap
from ssl_inv.transforms import Circle, Rotation, Transform
from ssl_inv.transforms.quaternions import quaternion_to_matrix

TEST = GroupAction(triples=4, bootstrap=Bootstrap(20))


def steerable(angles, kinds):
    """Frequencies 1 and 2 of the angle, times what is seen, in another basis."""
    parts = [
        (k * angles[:, None] + phase).cos() * size for k in (1, 2) for phase in (0, -math.pi / 2) for size in (1.0,)
    ]
    content = 1 + kinds[:, None].float()
    basis = torch.linalg.qr(noise(4, 4)).Q
    return {"all": (torch.cat(parts, 1) * content) @ basis}


def values(encoded, **settings):
    rows = GroupAction(triples=4, bootstrap=Bootstrap(20), **settings).run(encoded)
    return {row.name.removeprefix("group/"): row for row in rows}


def test_on_a_turntable_a_representation_has_no_error_with_one_matrix_per_action():
    found = values(turntable(steerable, turns=2))
    for name in ("linear", "orthogonal"):
        assert found[f"{name}/r2"].value > 0.999
        for measure in ("identity", "inverse", "composition", "closure", "orthogonality"):
            assert found[f"{name}/{measure}"].value < 1e-3, (name, measure)
        assert found[f"{name}/spread"].value > 0.5
    assert "one matrix per action" in found["linear/inverse"].detail
    assert "copying scores -" in found["linear/r2"].detail


def test_where_no_two_views_have_the_same_pose_identity_is_not_measured():
    assert values(turntable(steerable))["linear/identity"].value is None


def test_from_random_rotations_a_representation_is_found_as_a_polynomial_of_the_action():
    def encoder(turns, kinds):
        vectors = noise(3, 3)[kinds]  # of each object, seen in the frame of the view
        return {"all": torch.einsum("nij,ni->nj", quaternion_to_matrix(turns), vectors)}

    found = values(rotated(encoder))
    assert found["linear/r2"].value > 0.99
    for measure in ("identity", "inverse", "composition", "closure", "orthogonality"):
        assert found[f"linear/{measure}"].value < 0.02, measure
    assert "polynomial" in found["linear/inverse"].detail
    assert found["linear/spread"].value > 0.5


def test_an_invariant_encoder_passes_with_maps_that_do_nothing_and_copying_is_as_good():
    found = values(turntable(lambda angles, kinds: {"all": noise(3, 6)[kinds]}))
    assert found["linear/composition"].value < 1e-3
    assert found["linear/spread"].value < 0.01
    assert "copying scores 1.00" in found["linear/r2"].detail
    assert found["blind/r2"].value == pytest.approx(found["linear/r2"].value, abs=0.01)


def test_noise_has_no_group():
    found = values(rotated(lambda turns, kinds: {"all": noise(len(turns), 6)}))
    assert found["linear/r2"].value < 0.05
    assert found["orthogonal/closure"].value > 1


def test_the_objectives_own_predictor_is_tested_on_the_part_that_it_reads():
    circle = Circle(2 * math.pi)

    def predict(z, action):
        cos, sin = circle.step_vector(action["azimuth"]).unbind(1)
        return torch.stack((cos * z[:, 0] - sin * z[:, 1], sin * z[:, 0] + cos * z[:, 1]), 1)

    encoded = turntable(lambda angles, kinds: {"all": noise(len(angles), 3), "own": circle.value_vector(angles)})
    object.__setattr__(encoded, "predictor", ViewPredictor("own", predict))
    found = values(encoded)
    assert found["predictor/r2"].value > 0.999
    assert found["predictor/r2"].part == "own"
    for measure in ("identity", "inverse", "composition", "closure"):
        assert found[f"predictor/{measure}"].value < 1e-5
    names = {row.name for row in TEST.shuffled(encoded, seed=0)}
    assert "group/linear/r2" in names
    assert "group/predictor/r2" not in names, "it is fitted to nothing that could be shuffled"


def test_data_with_two_views_or_without_a_record_say_so():
    (row,) = TEST.run(turntable(steerable, views=2))
    assert row.detail == "no object has three views"


def test_maps_are_one_for_each_action_where_few_differ_and_a_polynomial_elsewhere():
    groups = {"rotation": Rotation()}
    turns = torch.nn.functional.normalize(noise(600, 4), dim=1)
    few = turns[:3].repeat(200, 1)
    for given, kind in ((turns, Polynomial), (few, Grid)):
        action = Transform({"rotation": Rotation().neutral(600)}, groups).relative(
            Transform({"rotation": given}, groups)
        )
        z = noise(600, 2).double()
        maps = fit_maps(z, z, action, ["rotation"], torch.arange(600) % 20)
        assert type(maps) is kind
        torch.testing.assert_close(maps(z, action), z, atol=1e-3, rtol=1e-3)
    assert len(different(few.double())) == 3
    assert matrices(turns).shape == (600, 9)
    assert pytest.approx(1) == float(turns.norm(dim=1).mean())
