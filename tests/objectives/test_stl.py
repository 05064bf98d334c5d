"""Claims about STL: couples are seen alike, and a prediction uses the step of the partner."""

import re
from typing import Any

import numpy as np
import pytest
import torch
from small import build
from torch import Tensor

from ssl_inv.augment.policies import custom, none, simclr
from ssl_inv.data.batches import StepBatches
from ssl_inv.data.source import Subset
from ssl_inv.data.sources.rendered.source import RenderedSolids
from ssl_inv.engine.preflight import require_batch
from ssl_inv.objectives.stl import STL
from ssl_inv.transforms import Code
from ssl_inv.views import Alike, Crops, MultiCrop, Pair, Several, Views
from ssl_inv.views.maker import ViewMaker

MEAN = STD = (0.5, 0.5, 0.5)


def solids() -> Subset:
    return Subset(RenderedSolids(classes=4, objects=40, views=3, size=16), np.arange(3, 35))


def made(plan: Any, augmentation: Any, batch: int = 12) -> Views:
    source = solids()
    maker = ViewMaker(plan, source, augmentation, MEAN, STD, 0)
    batches = StepBatches(source, batch, maker.loaded_views, 0, way=maker.plan.way, framing=maker.frames)
    return maker(batches[1])


def steps(views: Views, name: str) -> Tensor:
    first, second = (view.transform for view in views.views[:2])
    return first.relative(second).as_vector([name])


@pytest.mark.parametrize("samples", [2, 4])
def test_rendered_objects_of_a_group_make_the_same_step_from_poses_of_their_own(samples: int) -> None:
    views = made(Alike(samples, ("rotation",)), none())
    rotations = steps(views, "rotation").unflatten(0, (-1, samples))
    torch.testing.assert_close(rotations, rotations[:, :1].expand_as(rotations), atol=1e-5, rtol=0)
    assert (rotations[0] - rotations[1]).abs().max() > 0.05
    starts = views[0].transform["rotation"]
    assert all((starts[row] - starts[row + 1]).abs().max() > 0.01 for row in range(0, 12, 2))
    hues = steps(views, "light_hue")
    assert (hues[0] - hues[1]).abs().max() > 0.01, "what is not named is not alike"


def test_what_is_rendered_is_what_is_recorded() -> None:
    source, views = solids(), made(Alike(2, ("rotation",)), none())
    again = source.render(views.index.numpy(), views[1].transform)
    seen = views[1].pixels * 0.5 + 0.5
    torch.testing.assert_close(seen, again.pixels.float() / 255, atol=1e-6, rtol=0)


def test_photographs_and_images_have_steps_of_the_shared_operation() -> None:
    inner = [{"name": "crop", "scale": [0.2, 1.0]}, {"name": "jitter", "probability": 1.0}]
    policy = custom(operations=[{"name": "shared", "samples": 2, "operations": inner}, {"name": "flip"}])
    views = made(Alike(2), policy)
    for name in ("crop", "hue"):
        found = steps(views, name).unflatten(0, (-1, 2))
        assert torch.equal(found[:, 0], found[:, 1]), name
    assert not torch.equal(*steps(views, "flip").unflatten(0, (-1, 2)).unbind(1))
    assert torch.equal(views[0].transform["rotation"], views[1].transform["rotation"]), "both views are of one image"


@pytest.mark.parametrize(
    ("plan", "augmentation", "message"),
    [
        (Alike(2), simclr(), "the same augmentation for 2 consecutive samples: one operation `shared` with samples: 2"),
        (
            Several((MultiCrop((Crops(2),)), Alike(4)), (0, 0)),
            custom(operations=[{"name": "shared", "samples": 2, "operations": [{"name": "crop"}]}]),
            "with samples: 4 in every policy; there is one for 2",
        ),
        (Alike(2, ("crop",)), simclr(), "the same step in 'crop' for 2 samples is wanted, which this data does not"),
    ],
)
def test_steps_that_nothing_makes_alike_are_refused(plan: Any, augmentation: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        ViewMaker(plan, solids(), augmentation, MEAN, STD, 0)


def test_groups_do_not_stand_on_two_processes() -> None:
    objective = build("stl")[1]
    require_batch(6, objective, none(), processes=1)
    message = r"batch_size: must be a multiple of 2 samples with the same step times 3 process\(es\), 6; got 8"
    with pytest.raises(ValueError, match=message):
        require_batch(8, objective, none(), processes=3)
    assert Several((Pair(), Alike(4, ("rotation",)))).alike == 4


def test_a_prediction_depends_on_the_step_of_the_partner_alone() -> None:
    torch.manual_seed(0)
    objective = STL(6, {"chunk": Code()}, projector=[8, 5], invariance=0.0, transformation=0.0).eval()
    objective.transformation.requires_grad_(False)
    x, y = torch.randn(8, 6), torch.randn(8, 6)
    read: list[Tensor] = []
    objective.action_matrices.register_forward_pre_hook(lambda _, given: read.append(given[1]))
    objective.embedding_loss(x, y)
    changed = x.clone()
    changed[2] += 1
    objective.embedding_loss(changed, y)
    for before, after in zip(read[:2], read[2:], strict=True):
        assert [bool((before[row] != after[row]).any()) for row in range(8)] == [row == 3 for row in range(8)]
