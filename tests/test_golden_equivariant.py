"""Objectives that are told how views differ, or are asked for it: the numbers of the authors' code, and what the objectives claim."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.random import RandomState
from torch import Tensor, nn

from ssl_inv import losses
from ssl_inv.augment.equimod import equimod
from ssl_inv.augment.operations.base import Key, operations_of
from ssl_inv.augment.policies import custom, simclr
from ssl_inv.backbones import Backbone
from ssl_inv.heads import BilinearPredictor, mlp
from ssl_inv.objectives.augself import AugSelf
from ssl_inv.objectives.base import Losses
from ssl_inv.objectives.care import CARE
from ssl_inv.objectives.conditional_byol import ConditionalBYOL
from ssl_inv.objectives.equimod import EquiMod
from ssl_inv.objectives.sen import SEN
from ssl_inv.objectives.sie import SIE
from ssl_inv.objectives.vicreg import VICReg
from ssl_inv.objectives.vicreg_trajectory import VICRegTrajectory, centre_of
from ssl_inv.registry import OBJECTIVES
from ssl_inv.testing import GROUPS, random_transform
from ssl_inv.transforms import Code, Rotation, Transform
from ssl_inv.views import View, Views

ROTATION = {"rotation": Rotation()}


def tensors(**arrays: np.ndarray) -> dict[str, Tensor]:
    return {name: torch.tensor(array) for name, array in arrays.items()}


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    """The inputs of the recorded comparisons: embeddings x and y, quaternions q, and the weights of their networks."""
    rng = RandomState(0)
    x0, y0, z = rng.randn(16, 14), rng.randn(16, 14), rng.randn(16, 4)
    scale = np.linspace(0.3, 1.7, 14)
    x, rng = x0 * scale, RandomState(5)
    arrays = {"x": x, "y": 0.6 * x + 0.8 * y0 * scale, "q": z / np.linalg.norm(z, axis=1, keepdims=True)}
    arrays |= {"W14": 0.3 * rng.randn(196, 4), "Pi": rng.randn(14, 14) / np.sqrt(14), "Pe": rng.randn(14, 14) / np.sqrt(14)}
    for number, rows in ((1, 28), (2, 28), (3, 4)):
        arrays[f"H{number}"], arrays[f"hb{number}"] = rng.randn(rows, 28) / np.sqrt(28), 0.1 * rng.randn(rows)
    return tensors(**arrays)


def linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data = weight
    return layer


def bilinear(weight: Tensor) -> BilinearPredictor:
    """The predictor with the weight of the hypernetwork's linear layer, rows (out, in), columns the action."""
    size = math.isqrt(len(weight))
    predictor = BilinearPredictor(size, weight.shape[1]).double()
    predictor.weight.data = weight.view(size, size, -1).permute(2, 0, 1).clone()
    return predictor


def total(terms: Losses) -> Tensor:
    return sum((term.weight * term.value for term in terms.values()), start=torch.zeros(()))


def turned(x: Tensor, y: Tensor, q: Tensor) -> Views:
    """Two views whose pixels are x and y and whose relative rotation is q."""
    identity = ROTATION["rotation"].neutral(len(x)).to(q.dtype)
    views = (View(x, Transform({"rotation": identity}, ROTATION)), View(y, Transform({"rotation": q}, ROTATION)))
    return Views(views, torch.arange(len(x)))


def sen_of_sie(inputs: dict[str, Tensor]) -> SEN:
    objective = SEN(14, ROTATION, projector=[14], temperature=0.1, predictor="bilinear", convention="sie").double()
    objective.projector, objective.action_predictor = nn.Identity(), bilinear(inputs["W14"])
    return objective


def equimod_of_sie(inputs: dict[str, Tensor]) -> EquiMod:
    settings = {"source": "pair", "temperature": 0.1, "equivariant_temperature": 0.1, "convention": "sie"}
    objective = EquiMod(14, ROTATION, parameters=["rotation"], projector=[14], **settings).double()
    objective.invariant_projector, objective.equivariant_projector = linear(inputs["Pi"]), linear(inputs["Pe"])
    objective.action_predictor = bilinear(inputs["W14"])
    return objective


def augself_of_sie(inputs: dict[str, Tensor]) -> AugSelf:
    heads = {"hidden": [28, 28], "normalised_heads": False, "bounded": False, "symmetric": False}
    objective = AugSelf(14, ROTATION, parameters=["rotation"], projector=[14], temperature=0.1, convention="sie", **heads).double()
    objective.projector = nn.Identity()
    names = [name for number in (1, 2, 3) for name in (f"H{number}", f"hb{number}")]
    objective.heads[0].load_state_dict(dict(zip(mlp((28, 28, 28, 4)).state_dict(), (inputs[name] for name in names), strict=True)))
    return objective


def partly_invariant_vicreg(inputs: dict[str, Tensor]) -> VICReg:
    objective = VICReg(14, ROTATION, projector=[14], invariance=10.0, variance=10.0, invariant_share=8 / 14).double()
    objective.projector = nn.Identity()
    return objective


@pytest.mark.parametrize(
    ("case", "objective"),
    [
        ("E4_SimCLROnlyEqui", sen_of_sie),
        ("E5_SimCLREquiMod", equimod_of_sie),
        ("E7_SimCLRAugSelf", augself_of_sie),
        ("E8_VICRegPartInv", partly_invariant_vicreg),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_comparisons_of_sie(golden, inputs, case, objective):
    """From the views on: the action is read off the transforms."""
    values = golden("sie")[case]["values"]
    x, y = inputs["x"].requires_grad_(), inputs["y"].requires_grad_()
    value = total(objective(inputs).loss(turned(x, y, inputs["q"]), nn.Identity()))
    assert value.item() == pytest.approx(values["loss"], rel=1e-10)
    value.backward()
    assert x.grad.norm().item() == pytest.approx(values["grad_x_norm"], rel=1e-9)
    assert y.grad.norm().item() == pytest.approx(values["grad_y_norm"], rel=1e-9)


class Given(nn.Module):
    """Stands for a network: gives what was recorded, one tensor a call."""

    def __init__(self, *outputs: Tensor) -> None:
        super().__init__()
        self.outputs = list(outputs)

    def forward(self, *_: Tensor) -> Tensor:
        return self.outputs.pop(0)


def test_equimod(golden):
    values, rng = golden("equivariant_extra")["EquiMod_SimCLR"]["values"], RandomState(23)
    z1 = rng.randn(8, 5)
    z2 = 0.7 * z1 + 0.7 * rng.randn(8, 5)
    y1, y2 = rng.randn(8, 5), rng.randn(8, 5)
    predicted = [0.8 * y + 0.5 * rng.randn(8, 5) for y in (y1, y2)]
    objective = EquiMod(3, ROTATION, parameters=["rotation"], temperature=0.5)
    objective.invariant_projector = Given(*map(torch.tensor, (z1, z2)))
    objective.equivariant_projector = Given(torch.zeros(8, 5), *map(torch.tensor, (y1, y2)))
    objective.action_predictor = Given(*map(torch.tensor, predicted))
    terms = objective.embedding_loss([torch.zeros(8, 3)] * 3, [torch.zeros(8, 4)] * 2)
    assert terms["invariance"].value.item() == pytest.approx(values["L_inv"], rel=1e-10)
    assert terms["equivariance"].value.item() == pytest.approx(values["L_eq"], rel=1e-10)
    assert total(terms).item() == pytest.approx(values["total"], rel=1e-10)


def test_care(golden):
    values, rng = golden("equivariant_extra")["CARE"]["values"], RandomState(25)

    def unit(rows: np.ndarray) -> np.ndarray:
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    c1 = unit(rng.randn(12, 5))
    c2 = unit(0.8 * c1 + 0.4 * rng.randn(12, 5))
    o1 = unit(rng.randn(12, 5))
    o2 = unit(0.8 * o1 + 0.4 * rng.randn(12, 5))
    c1, c2, o1, o2 = map(torch.tensor, (c1, c2, o1, o2))
    assert losses.gram_difference(c1, c2, torch.arange(12) // 4).item() == pytest.approx(values["L_equi"], rel=1e-10)
    assert losses.nt_xent(o1, o2, 0.5).item() == pytest.approx(values["infonce"], rel=1e-10)
    assert values["infonce"] + 0.01 * values["L_equi"] == pytest.approx(values["total_lambda_0.01"], rel=1e-10)


# What the objectives claim.


@pytest.fixture
def backbone() -> Backbone:
    class Network(nn.Module):
        num_features = 6

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, pixels: Tensor) -> Tensor:
            return self.layer(pixels)

    torch.manual_seed(0)
    return Backbone(Network(), "one linear layer")


def some_views(count: int, seed: int = 1, batch: int = 8) -> Views:
    torch.manual_seed(seed)
    views = tuple(View(torch.randn(batch, 6), random_transform(GROUPS, batch)) for _ in range(count))
    return Views(views, torch.arange(batch))


def build(name: str, backbone: Backbone, **settings):
    torch.manual_seed(2)
    objective = OBJECTIVES.find(name).load()(6, GROUPS, projector=[8, 5], **settings)
    objective.adopt(backbone)
    return objective


PREDICTING = ["sie", "equimod", "sen", "conditional-byol"]


@pytest.mark.parametrize("name", PREDICTING)
def test_predictions_depend_on_the_parameters_that_are_named_and_no_others(name, backbone):
    objective = build(name, backbone, parameters=["rotation"]).eval()
    first, second, third = some_views(3).views
    predictor = objective.predictor(backbone)
    embedding = predictor.embed(first.pixels)
    told = predictor.predict(embedding, first.transform.relative(second.transform))
    assert told.shape == embedding.shape
    assert not torch.allclose(told, predictor.predict(embedding, first.transform.relative(third.transform)))
    turned_alike = Transform({**third.transform.values, "rotation": second.transform["rotation"]}, GROUPS)
    torch.testing.assert_close(told, predictor.predict(embedding, first.transform.relative(turned_alike)))


@pytest.mark.parametrize("name", [*PREDICTING, "augself", "vicreg-trajectory"])
def test_parameters_that_are_not_recorded_are_named(name, backbone):
    with pytest.raises(ValueError, match=r"^parameters: no view of this data records 'rotatoin'; did you mean 'rotation'\?$"):
        build(name, backbone, parameters=["rotatoin"])


def test_sie_with_nothing_invariant_is_prediction_held_up(backbone):
    objective = build("sie", backbone, equivariant_share=1.0)
    x, y = (torch.randn(8, 6) for _ in range(2))
    action = torch.randn(8, 4)
    terms = objective.embedding_loss(x, y, action)
    z_x, z_y = objective.equivariant_projector(x), objective.equivariant_projector(y)
    predicted = objective.action_predictor(z_x, action)
    expected = 4.5 * nn.functional.mse_loss(predicted, z_y) + 5 * sum(losses.variance(z) for z in (z_x, z_y, predicted))
    torch.testing.assert_close(total(terms), expected + losses.covariance(z_x) + losses.covariance(z_y))
    assert "invariance" not in terms
    assert not [name for name, _ in objective.named_parameters() if name.startswith("invariant")]
    assert objective.representations(backbone)(torch.randn(2, 6)).keys() == {"all"}


def test_equimod_of_images_predicts_from_the_image_itself():
    augmentation, pixels = equimod(size=16), torch.rand(4, 3, 16, 16)
    key = Key(0, 0, np.arange(4), 0)
    views = [augmentation(pixels, replace(key, view=number)) for number in range(3)]
    torch.testing.assert_close(views[2][0], pixels)
    assert all(torch.equal(value, augmentation.groups[name].neutral(4)) for name, value in views[2][1].values.items())
    assert not torch.equal(views[0][1]["crop"], views[1][1]["crop"])


def test_equimod_predicts_both_views_from_the_third_and_asks_no_invariance_of_it(backbone):
    objective = build("equimod", backbone)
    views = some_views(3)
    pixels = [view.pixels.requires_grad_() for view in views.views]
    terms = objective.loss(views, backbone)
    terms["invariance"].value.backward()
    assert [one.grad is not None for one in pixels] == [True, True, False]
    objective.loss(views, backbone)["equivariance"].value.backward()
    assert all(one.grad is not None and bool(one.grad.any()) for one in pixels)


def test_conditional_byol_is_symmetric_and_one_direction_is_half_of_it(backbone):
    both, one = (build("conditional-byol", backbone, symmetric=symmetric) for symmetric in (True, False))
    views = some_views(2)
    exchanged = Views(views.views[::-1], views.index)
    terms, swapped = both.loss(views, backbone), both.loss(exchanged, backbone)
    torch.testing.assert_close(terms["forward"].value, swapped["backward"].value)
    torch.testing.assert_close(total(terms), total(swapped))
    alone = one.loss(views, backbone)
    assert alone.keys() == {"forward"}
    torch.testing.assert_close(alone["forward"].value, terms["forward"].value)


def test_the_teacher_of_conditional_byol_follows_and_learns_nothing(backbone):
    objective = build("conditional-byol", backbone, momentum=0.9, symmetric=False)
    first, second = some_views(2).views
    second.pixels.requires_grad_()
    total(objective.loss(Views((first, second), torch.arange(8)), backbone)).backward()
    assert second.pixels.grad is None
    assert all(one.grad is None for one in objective.teacher.parameters())
    teacher, student = objective.teacher.network[0].model.layer.weight, backbone.model.layer.weight
    before = teacher.clone()
    with torch.no_grad():
        student.add_(1.0)
    objective.after_step(backbone, 5, 10)
    torch.testing.assert_close(teacher, before + 0.05)


def test_augself_tells_the_crop_in_the_frame_of_the_view_that_one_sees():
    objective = AugSelf(6, GROUPS, parameters=["crop"])
    transforms = [random_transform(GROUPS, 1) for _ in range(2)]
    boxes = [[0.2, 0.4, 0.4, 0.5], [0.3, 0.6, 0.2, 0.9]]
    for flips, difference in (((0, 0), 0.1), ((1, 1), -0.1), ((0, 1), 0.5), ((1, 0), -0.5)):
        first, second = (
            Transform({**one.values, "crop": torch.tensor([box]), "flip": torch.tensor([float(flip)])}, GROUPS)
            for one, box, flip in zip(transforms, boxes, flips, strict=True)
        )
        torch.testing.assert_close(objective.targets[0](first.relative(second)), torch.tensor([[difference, 0.2, -0.2, 0.4]]))


def test_augself_tells_colours_between_minus_one_and_one():
    policy = simclr().policy(0)
    first, second = (policy.draw(Key(0, 0, np.arange(4096), view), 32, 32) for view in (0, 1))
    told = AugSelf(6, GROUPS).targets[1](first.relative(second))
    assert told.shape == (4096, 4)
    assert 0.8 < told.abs().max() <= 1
    torch.testing.assert_close(told[:, 0], (second["brightness"] - first["brightness"]) / 1.6)


@pytest.mark.parametrize("parameters", [["crop", "colour"], ["rotation", "flip", "blur"]], ids=str)
def test_augself_does_not_depend_on_the_order_of_views_and_leaves_the_projector_alone(parameters, backbone):
    objective = build("augself", backbone, parameters=parameters, hidden=[8])
    views = some_views(2)
    terms = objective.loss(views, backbone)
    for name, term in objective.loss(Views(views.views[::-1], views.index), backbone).items():
        torch.testing.assert_close(term.value, terms[name].value)
    terms[parameters[0]].value.backward()
    assert all(one.grad is None for one in objective.projector.parameters())
    assert all(one.grad is not None for one in backbone.parameters())


def test_augself_refuses_what_measures_nothing():
    with pytest.raises(ValueError, match=r"^parameters: 'jitter_order' names something and measures nothing that could be told$"):
        AugSelf(6, GROUPS, parameters=["jitter_order"])


def on_sphere(*shape: int) -> Tensor:
    return nn.functional.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1)


def test_care_asks_for_one_orthogonal_map_a_chunk():
    torch.manual_seed(0)
    x, chunk = on_sphere(12, 5), torch.arange(12) // 4
    maps = torch.linalg.qr(torch.randn(3, 5, 5, dtype=torch.float64))[0]
    moved = torch.einsum("bij,bj->bi", maps[chunk], x)
    assert losses.gram_difference(3 * x, moved, chunk) < 1e-20
    assert losses.gram_difference(x, moved, torch.zeros(12)) > 1e-3
    assert losses.gram_difference(x, on_sphere(12, 5), torch.arange(12)) == 0


NAME = "ssl_inv.augment.operations.shared.Shared"
SHARED = [{"name": NAME, "samples": 4, "operations": [{"name": "crop"}, {"name": "jitter"}]}]


def test_samples_of_a_chunk_are_augmented_alike():
    augmentation = custom(operations=SHARED)
    index = np.array([7, 3, 9, 1, 4, 0, 2, 8])
    drawn = [augmentation.draw(Key(0, np.zeros_like(index), index, view), 32, 32) for view in (0, 1)]
    for name, value in drawn[0].values.items():
        rows = value.reshape(2, 4, -1)
        assert (rows == rows[:, :1]).all(), name
    assert drawn[0]["chunk"].tolist() == [7] * 4 + [4] * 4
    assert not torch.equal(drawn[0]["crop"][:4], drawn[0]["crop"][4:])
    assert not torch.equal(drawn[0]["crop"], drawn[1]["crop"])
    second_process = augmentation.draw(Key(0, 0, index[4:], 0), 32, 32)
    assert all(torch.equal(value, drawn[0][name][4:]) for name, value in second_process.values.items())


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"samples": 1, "operations": [{"name": "crop"}]}, "samples is at least 2, got 1"),
        ({"samples": 4, "operations": []}, "operations is empty, at least one is needed"),
        ({"samples": 4, "operations": [{"name": "crop"}, {"name": "crop"}]}, "two operations draw 'crop'; a view has one value of it"),
        ({"samples": 4, "operations": [{"name": "corp"}]}, "operation 'corp': name: no operation is called 'corp'; did you mean 'crop'?"),
    ],
    ids=str,
)
def test_shared_operations_refuse(settings, sentence):
    with pytest.raises(ValueError, match=re.escape(f"operation {NAME!r}: {sentence}") + "$"):
        operations_of([{"name": NAME, **settings}])


def test_care_needs_augmentations_that_are_shared():
    with pytest.raises(
        ValueError, match=r"^chunk: no view of this data records 'chunk'; the operation ssl_inv.augment.operations.shared.Shared does$"
    ):
        CARE(6, GROUPS)
    assert CARE(6, {"chunk": Code()}).plan.own_views == 1


@pytest.fixture
def trajectory() -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings of some lengths: two ends, and one on the great circle through them."""
    torch.manual_seed(0)
    left, right = (torch.randn(8, 5, dtype=torch.float64) for _ in range(2))
    return left, 0.3 * left + 0.4 * right, right


def test_a_view_on_the_way_has_no_deviation(trajectory):
    left, centre, right = trajectory
    assert losses.geodesic_deviation(left, centre, right) < 1e-20
    assert losses.bend(left, (left + 2 * right) / 3, right) < 1e-12
    assert losses.bend(left, left - right, right) > 1


def test_deviation_is_the_squared_sine_of_the_angle_to_the_plane(trajectory):
    left, centre, right = trajectory
    normal = torch.linalg.svd(torch.stack((left, right), dim=1))[2][:, 2]
    tilted = nn.functional.normalize(centre, dim=1) * math.cos(0.3) + normal * math.sin(0.3)
    expected = torch.tensor(math.sin(0.3) ** 2, dtype=torch.float64)
    torch.testing.assert_close(losses.geodesic_deviation(left, 7 * tilted, right), expected)
    torch.testing.assert_close(losses.geodesic_deviation(left, 7 * tilted, right, normalised=False), 49 * expected)


def test_deviation_has_a_gradient_where_the_ends_meet(trajectory):
    left, centre, _ = (one.requires_grad_() for one in trajectory)
    losses.geodesic_deviation(left, centre, left.clone()).backward()
    assert left.grad.isfinite().all()
    assert centre.grad.isfinite().all()


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
def test_the_view_between_the_others_is_the_centre(order, backbone):
    views = some_views(3)
    rotations = [torch.tensor([[0.0, 0.0, math.sin(a / 2), math.cos(a / 2)]]).repeat(8, 1) for a in (0.1, 0.5, 1.2)]
    turned = [
        View(view.pixels, Transform({**view.transform.values, "rotation": q}, GROUPS))
        for view, q in zip(views.views, rotations, strict=True)
    ]
    shuffled = Views(tuple(turned[number] for number in order), views.index)
    assert centre_of(tuple(view.transform for view in shuffled.views), ["rotation"]).tolist() == [order.index(1)] * 8
    by_rotation, as_it_comes = (build("vicreg-trajectory", backbone, parameters=names) for names in (["rotation"], []))
    torch.testing.assert_close(
        total(by_rotation.loss(shuffled, backbone)), total(as_it_comes.loss(Views(tuple(turned), views.index), backbone))
    )


def test_three_equal_views_have_the_terms_of_two_equal_views():
    x = torch.randn(8, 5)
    terms = VICRegTrajectory(6, GROUPS, projector=[5]).embedding_loss(x, x, x)
    expected = VICReg(6, GROUPS, projector=[5], invariance=10.0, variance=10.0).embedding_loss(x, x)
    for name, term in expected.items():
        torch.testing.assert_close(terms[name].value, term.value)
        assert terms[name].weight == term.weight


def test_sie_refuses_an_empty_equivariant_part():
    with pytest.raises(ValueError, match="equivariant_share must be above 0 and at most 1, got 0"):
        SIE(6, GROUPS, equivariant_share=0)


def test_one_direction_needs_no_teacher_of_the_source(backbone):
    objective = ConditionalBYOL(6, GROUPS, projector=[8, 5], symmetric=False)
    objective.adopt(backbone)
    seen = []
    objective.teacher.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    views = some_views(2)
    objective.loss(views, backbone)
    assert len(seen) == 1
    assert seen[0] is views[1].pixels
