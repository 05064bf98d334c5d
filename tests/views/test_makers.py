"""Every plan: views follow from seed, epoch and sample, can be made again from their record, and cost one decoding."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from ssl_inv.augment.policies import byol, custom, dino, none, simclr
from ssl_inv.augment.policy import Augmentation
from ssl_inv.data.batches import Batch, StepBatches
from ssl_inv.data.source import Images, Indices, Source
from ssl_inv.transforms import Circle, Code, Flag, Real, Transform, transform
from ssl_inv.transforms.keyed_random import Key
from ssl_inv.views import Crops, MultiCrop, Pair, Patches, QuarterTurns, Saccades, Several, TransformPath, ViewSequence
from ssl_inv.views.maker import ViewMaker
from ssl_inv.views.saccades import draw_fixations, spectral_residual

SIZE = 48
INDEX = [4, 8, 15, 16, 23, 42]


class Noise(Source):
    """Smooth noise, another one for every view; counts what is decoded."""

    view_counts, groups, labels, image_size = None, {"azimuth": Circle()}, None, SIZE

    def __init__(self, objects: int = 64, views: int = 1) -> None:
        self.view_counts, self.decoded = np.full(objects, views), 0

    def load(self, objects: Indices, views: Indices) -> Images:
        self.decoded += len(objects)
        made = [torch.rand(3, 7, 7, generator=torch.Generator().manual_seed(int(seed))) for seed in 8 * objects + views]
        pixels = torch.nn.functional.interpolate(torch.stack(made), (SIZE, SIZE), mode="bicubic").clamp(0, 1)
        transform = Transform({"azimuth": torch.from_numpy(views / 8).float()}, self.groups)
        return Images((pixels * 255).byte(), transform, torch.ones(len(objects), dtype=torch.bool))


def alone(*names):
    """An augmentation of operations by name."""
    return custom(operations=[{"name": name} for name in names])


TURN = alone("crop", "rotation", "translation", "jitter", "blur")
MAPS = torch.rand(64, 20, 20, generator=torch.Generator().manual_seed(1)) ** 8
OBOW = Several(
    (MultiCrop((Crops(1, 40, centre=0.875),)), MultiCrop((Crops(2, 32, (0.08, 0.6)),)), Patches(32, 12, 3, 4, 5))
)


TEACHER_WITHOUT_COLOURS = Augmentation((*alone("flip").policies, *simclr().policies))
COLOURS = ("brightness", "contrast", "saturation", "hue", "blur")
PLANS = {
    "pair": (Pair(), byol()),
    "multi-crop": (MultiCrop((Crops(2, 32, (0.4, 1.0)), Crops(3, 16, (0.05, 0.4)))), dino()),
    "sequence": (ViewSequence(3), byol()),
    "path of a turn": (TransformPath(2, ("angle", "translation")), TURN),
    "path of colours": (TransformPath(3, COLOURS, start=True, on_first=True), simclr()),
    "patches": (Patches(32, 12, 3, 4, 5), simclr()),
    "saccades": (Saccades(3, patch=11, radius=8), none()),
    "saccades of stored maps": (Saccades(3, patch=11, radius=8, saliency=MAPS, size=40), simclr()),
    "official saccades": (Saccades(3, 12, "spectral_residual", "square", 6, "official"), simclr()),
    "turns": (QuarterTurns(), simclr()),
    "several": (OBOW, TEACHER_WITHOUT_COLOURS),
}
every_plan = pytest.mark.parametrize("name", [*PLANS])


def maker_and_batch(plan, augmentation, source=None, index=INDEX, seed=3, epoch=2):
    source = source or Noise()
    maker = ViewMaker(plan, source, augmentation, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), seed)
    objects = np.array(index)
    images = tuple(source.load(objects, objects * 0 + view) for view in range(maker.loaded_views))
    return maker, Batch(images, torch.tensor(index), epoch, ())


def views_of(plan, augmentation, source=None, **batch):
    maker, images = maker_and_batch(plan, augmentation, source, **batch)
    return maker(images)


def raw(view):
    """Pixels in [0, 1]."""
    return view.pixels * torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1) + torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)


@every_plan
def test_views_depend_on_seed_epoch_and_sample_alone(name):
    views = views_of(*PLANS[name])
    for rows in ([3], [5, 0]):
        others = views_of(*PLANS[name], index=[INDEX[row] for row in rows])
        for view, other in zip(views.views, others.views, strict=True):
            torch.testing.assert_close(other.pixels, view.pixels[rows], rtol=0, atol=1e-5)
            for parameter in view.transform.names:
                assert torch.equal(other.transform[parameter], view.transform[parameter][rows]), parameter
    for changed in (views_of(*PLANS[name], seed=4), views_of(*PLANS[name], epoch=3)):
        for one, other in zip(views.views, changed.views, strict=True):
            assert not torch.equal(one.pixels, other.pixels)


@pytest.mark.parametrize(
    ("parameter", "operations"),
    [
        ("crop", [{"name": "crop", "probability": 0.5}]),
        ("zoom", [{"name": "scale"}, {"name": "rotation", "probability": 0.3}]),
    ],
)
def test_views_along_a_path_do_not_depend_on_their_neighbours(parameter, operations):
    way = TransformPath(2, (parameter,)), custom(operations=operations)
    whole = views_of(*way)
    for row in range(len(INDEX)):
        for view, alone in zip(whole.views, views_of(*way, index=[INDEX[row]]).views, strict=True):
            assert torch.equal(view.pixels[row], alone.pixels[0])


@every_plan
def test_every_view_can_be_made_again_from_its_record_and_actions_lead_from_view_to_view(name):
    maker, batch = maker_and_batch(*PLANS[name])
    views = maker(batch)
    assert len(views) == maker.plan.count
    for number, view in enumerate(views.views):
        assert [*view.transform.names] == [*maker.groups]
        assert torch.equal(maker.render(batch.images, view.transform, number), view.pixels), number
    for (here, there), action in zip(pairwise(views.views), views.actions(), strict=True):
        arrived = here.transform.compose(action)
        for parameter, group in there.transform.groups.items():
            assert group.distance(arrived[parameter], there.transform[parameter]).max() < 1e-5, parameter


@every_plan
def test_an_image_is_decoded_once(name):
    plan, augmentation = PLANS[name]
    for source, expected in ((Noise(), 1), (Noise(views=6), plan.own_views)):
        maker = ViewMaker(plan, source, augmentation, (0.0,) * 3, (1.0,) * 3, seed=0)
        views = maker(StepBatches(source, 8, maker.loaded_views, seed=0)[0])
        assert (len(views), source.decoded) == (plan.count, 8 * expected)


@pytest.mark.parametrize("plan", [Pair(), ViewSequence(2)], ids=str)
def test_pairs_and_sequences_are_served_from_the_data_where_it_has_enough(plan):
    own = views_of(plan, none(), Noise(views=3))
    assert [float(view.transform["azimuth"][0]) for view in own.views] == [number / 8 for number in range(plan.count)]
    made = views_of(plan, simclr(), Noise(views=1))
    assert not any(view.transform["azimuth"].any() for view in made.views)


def test_each_view_is_made_by_its_policy():
    for plan in (Pair(), ViewSequence(3)):
        *observed, target = views_of(plan, byol(), index=[*range(40)]).views
        for view in observed:
            assert (view.transform["blur"] > 0).all()
            assert (view.transform["solarise"] > 1).all()
        assert 1 <= (target.transform["blur"] > 0).sum() <= 12
        assert 1 <= (target.transform["solarise"] < 1).sum() <= 20


def test_crops_have_the_sizes_and_areas_of_the_plan():
    views = views_of(*PLANS["multi-crop"], index=[*range(40)])
    assert [view.pixels.shape[-1] for view in views.views] == [32, 32, 16, 16, 16]
    for view, (low, high) in zip(views.views, [(0.4, 1.0)] * 2 + [(0.05, 0.4)] * 3, strict=True):
        area = view.transform["crop"][:, 2:].prod(dim=1)
        assert low - 0.02 <= area.min() < low + 0.15
        assert high - 0.15 < area.max() <= high + 0.02
    blurred = [float((view.transform["blur"] > 0).float().mean()) for view in views.views]
    assert blurred[0] == 1
    assert blurred[1] < 0.3 < min(blurred[2:])


def test_a_path_leads_from_the_neutral_value_to_the_drawn_one_and_changes_nothing_else():
    plan, augmentation = PLANS["path of a turn"]
    maker, batch = maker_and_batch(plan, augmentation)
    first, end, *way = maker(batch).views
    drawn = augmentation.draw(Key(3, np.full(6, 2), np.array(INDEX), 1), SIZE, SIZE)
    direct = augmentation.policy(1).render(batch.images[0].pixels, drawn)
    torch.testing.assert_close(raw(end), direct)
    assert not first.transform["angle"].any()
    assert not first.transform["translation"].any()
    assert end.transform["angle"].all()
    turn = torch.remainder(drawn["angle"] + torch.pi, 2 * torch.pi) - torch.pi
    for k, view in enumerate(way, start=1):
        part = {"angle": torch.remainder(turn * k / 3, 2 * torch.pi), "translation": drawn["translation"] * k / 3}
        torch.testing.assert_close(view.transform["angle"], part["angle"])
        between = Transform({**drawn.values, **part}, drawn.groups)
        assert (raw(view) - augmentation.policy(1).render(batch.images[0].pixels, between)).abs().max() < 1e-4
        for name in {*drawn.names} - {*part}:
            assert torch.equal(view.transform[name], drawn[name]), name


def test_a_path_of_colours_begins_without_them_and_keeps_their_order():
    _, end, start, *way = views_of(*PLANS["path of colours"]).views
    assert torch.equal(start.transform["blur"], torch.zeros(6))
    assert torch.equal(start.transform["contrast"], torch.ones(6))
    for k, view in enumerate(way, start=1):
        torch.testing.assert_close(view.transform["blur"], end.transform["blur"] * k / 4)
        for name in ("jitter_order", "grey", "flip", "crop"):
            assert torch.equal(view.transform[name], end.transform[name]), name


def test_patches_are_cells_of_one_view():
    plan, augmentation = PLANS["patches"]
    maker, batch = maker_and_batch(plan, augmentation)
    views = maker(batch).views
    whole = augmentation.policy(0).with_crop(32, (0.6, 1.0)).render(batch.images[0].pixels, views[0].transform)
    for row in range(len(INDEX)):
        cells = set()
        for view in views:
            left, top = (view.transform["patch"][row, :2] * 32 - 6).round().int().tolist()
            cells.add((top // plan.step, left // plan.step))
            torch.testing.assert_close(raw(view)[row], whole[row, :, top : top + 12, left : left + 12])
        assert len(cells) == 5, "no cell stands in twice"


def test_the_middle_stands_first_and_the_other_cells_in_every_order():
    plan, crop = Patches(32, 9, 3, 2, 3, middle_first=True), none(extra=[{"name": "crop"}])
    views = views_of(plan, crop, index=[*range(60)]).views
    corners = torch.stack([view.transform["patch"][:, :2] for view in views]) * 32 - 4.5
    cells = (corners.round().int() // 10 @ torch.tensor([1, 3], dtype=torch.int32)).tolist()
    assert set(cells[0]) == {4}
    assert set(cells[1]) == set(cells[2]) == {0, 1, 2, 3, 5, 6, 7, 8}
    assert all(one != other for one, other in zip(*cells[1:], strict=True))


def test_turns_are_exact():
    views = views_of(*PLANS["turns"]).views
    for turn, view in enumerate(views):
        assert torch.equal(view.pixels, torch.rot90(views[0].pixels, turn, (2, 3)))
        assert torch.equal(view.transform["turn"], torch.full((6,), float(turn)))


def test_views_of_several_kinds_stand_in_one_sample():
    views = views_of(OBOW, TEACHER_WITHOUT_COLOURS)
    teacher, crops, patches = OBOW.parts(views)
    assert [view.pixels.shape[-1] for view in views.views] == [40, 32, 32, *[12] * 5]
    assert (len(teacher), len(crops), len(patches)) == (1, 2, 5)
    assert torch.equal(teacher[0].transform["crop"], torch.tensor([0.5, 0.5, 0.875, 0.875]).repeat(6, 1))
    assert torch.equal(teacher[0].transform["brightness"], torch.ones(6))
    assert not torch.equal(crops[0].transform["brightness"], crops[1].transform["brightness"])
    assert torch.equal(patches[0].transform["brightness"], patches[1].transform["brightness"])
    assert torch.equal(crops[0].transform["patch"], torch.tensor([0.5, 0.5, 1.0, 1.0]).repeat(6, 1))


def test_saccades_go_where_the_map_is_and_come_back_only_when_they_may():
    maps = np.zeros((500, 30, 30))
    maps[:, 3, 4], maps[:, 20, 25] = 3.0, 1.0
    random = np.random.default_rng(0).random((500, 2))
    fixations = draw_fixations(maps, random, "disc", 5)
    first = (fixations[:, 0] == (3, 4)).all(axis=1)
    assert abs(first.mean() - 0.75) < 0.06
    assert (fixations[first, 1] == (20, 25)).all()
    assert (fixations[~first, 1] == (3, 4)).all()
    again = draw_fixations(maps, random, "none", 5)
    assert 0.4 < (again[:, 0] == again[:, 1]).all(axis=1).mean() < 0.8


@pytest.mark.parametrize("shape", ["disc", "square"])
def test_what_is_inhibited_is_not_seen_again(shape):
    plan = Saccades(observed=4, patch=9, inhibition=shape, radius=10)
    views = views_of(plan, none(), index=[*range(30)]).views
    places = torch.stack([view.transform["fixation"] for view in views]) * SIZE
    apart = (places[:, None] - places[None]).abs()
    distance = apart.norm(dim=-1) if shape == "disc" else apart.amax(dim=-1)
    assert distance[~torch.eye(5, dtype=torch.bool)].min() > 10


def test_a_patch_is_cut_about_its_fixation_and_black_beyond_the_border():
    maker, batch = maker_and_batch(Saccades(observed=6, patch=16, inhibition="none"), none())
    padded = torch.nn.functional.pad(batch.images[0].pixels, (16,) * 4) / 255
    for view in maker(batch).views:
        for row, (top, left) in enumerate((view.transform["fixation"] * SIZE).round().int().tolist()):
            cut = padded[row, :, top + 8 : top + 24, left + 8 : left + 24]
            torch.testing.assert_close(raw(view)[row], cut, atol=1e-6, rtol=0)
        torch.testing.assert_close(view.transform["patch"][:, :2], view.transform["fixation"].flip(1))


def test_stored_maps_move_as_their_images_do():
    maps = np.zeros((64, SIZE, SIZE), dtype=np.float32)
    maps[:, 5, 30] = 7.0
    flip = custom(operations=[{"name": "flip", "probability": 1.0}, {"name": "jitter"}])
    views = views_of(Saccades(observed=1, patch=8, inhibition="none", saliency=maps), flip)
    assert torch.equal((views[0].transform["fixation"] * SIZE).round(), torch.tensor([5.0, SIZE - 1 - 30]).repeat(6, 1))


def test_what_breaks_a_pattern_stands_out():
    x = torch.linspace(0, 16 * torch.pi, 64)
    image = (0.5 + 0.4 * x.sin()[None, :] * x.sin()[:, None]).repeat(2, 3, 1, 1)
    image[0, :, 40:46, 12:18] = 0.9
    image[1] = 0
    maps = spectral_residual(image)
    assert divmod(int(maps[0].argmax()), 64) == pytest.approx((43, 15), abs=4)
    assert not maps[1].any(), "nothing stands out of a black image, and nothing is not a number"


REFUSED = {
    "does not crop": lambda: maker_and_batch(Patches(32, 12, 3, 4, 5), none()),
    r"draws 'angel'; (there are|did you mean 'angle')": lambda: maker_and_batch(TransformPath(2, ("angel",)), TURN),
    "'jitter_order' names something": lambda: maker_and_batch(TransformPath(2, ("jitter_order",)), TURN),
    r"1 view\(s\) and 4 are needed; choose an augmentation": lambda: maker_and_batch(ViewSequence(3), none()),
    r"1 view\(s\) and 3 are needed": lambda: maker_and_batch(MultiCrop((Crops(3, 16),)), none()),
    "rename the data's": lambda: maker_and_batch(Pair(), simclr(), source=Coloured()),
    "negative or not finite": lambda: views_of(Saccades(saliency=lambda views: -views[:, 0]), none()),
    r"have the shape \(6, h, w\), not": lambda: views_of(Saccades(saliency=lambda views: views), none()),
    "keep is at most grid": lambda: Patches(keep=10),
    "a grid of 2 has no cell in the middle": lambda: Patches(grid=2, keep=2, middle_first=True),
    "patch \\+ jitter = 120 pixels do not fit into a view of 100": lambda: Patches(view=100),
    "Crops: scale is": lambda: Crops(1, 16, (0.5, 0.2)),
    "not both": lambda: Crops(1, 16, (0.2, 0.5), centre=0.9),
    "inhibition is one of disc, square, none, got 'round'": lambda: Saccades(inhibition="round"),
    "saliency is one of": lambda: Saccades(saliency="deepgaze"),
    "policies needs a number": lambda: Several((Pair(), QuarterTurns()), (0,)),
    "one stands within another": lambda: Several((Several((Pair(),)),)),
}


class Coloured(Noise):
    groups = {"hue": Circle()}


@pytest.mark.parametrize("message", [*REFUSED])
def test_what_cannot_be_made_is_refused_in_one_line(message):
    with pytest.raises(ValueError, match=message) as refusal:
        REFUSED[message]()
    assert "\n" not in str(refusal.value)


def test_half_precision_is_not_for_views():
    maker, batch = maker_and_batch(*PLANS["path of a turn"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = maker(batch)
    assert all(torch.equal(one.pixels, other.pixels) for one, other in zip(half.views, maker(batch).views, strict=True))


def test_a_transform_moves_to_a_device_as_it_is(monkeypatch):
    values = {"a": torch.rand(5), "b": torch.rand(5, 4), "c": torch.arange(5) + 2**40, "d": torch.rand(5).double()}
    groups = {"a": Real(), "b": Real(dimensions=4), "c": Code(), "d": Flag()}
    record = Transform(values, groups)
    assert all(record.to("cpu")[name] is value for name, value in values.items()), "what is there already stays"
    monkeypatch.setattr(transform, "_is_on", lambda value, device: False)
    moved = record.to("cpu")
    assert moved.names == record.names
    for name, value in values.items():
        assert moved[name].dtype == value.dtype
        assert torch.equal(moved[name], value), name
    assert all(value.is_meta for value in record.to("meta").values.values())
    assert Transform.empty().to("cpu").names == []
