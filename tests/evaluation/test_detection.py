"""Average precision follows its definition, a detector finds what the map shows, and VOC folders are read with care."""

from dataclasses import replace

import pytest
import torch
from imaged import encoded_by
from small_voc import annotation, write_voc
from torch import Tensor, nn
from torchvision.ops import box_iou

from ssl_inv.catalogue import SettingError
from ssl_inv.data.sources.voc import VOC, voc
from ssl_inv.evaluation.protocols.base import Encoded
from ssl_inv.evaluation.protocols.box_measures import Found, average_precision, judged, overlaps, together
from ssl_inv.evaluation.protocols.detection import Detection
from ssl_inv.evaluation.results import Bootstrap
from ssl_inv.transforms.annotations import Boxes

NO = torch.zeros(0, dtype=torch.bool)


def boxes(*given: tuple[float, float, float, float]) -> Tensor:
    return torch.tensor(given, dtype=torch.float32).view(-1, 4)


def precision(found: Found, weights: Tensor | None = None) -> float:
    weights = torch.ones(1, len(found.wanted)) if weights is None else weights
    return float(average_precision(found, weights)[0])


def test_overlaps_are_those_of_torchvision():
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.rand(n, 4, generator=generator) for n in (5, 7))
    one[:, 2:], other[:, 2:] = one[:, :2] + one[:, 2:], other[:, :2] + other[:, 2:]
    torch.testing.assert_close(overlaps(one, other), box_iou(one, other))


def test_each_object_is_found_once_by_the_best_score_and_difficult_ones_do_not_count():
    truth = boxes((0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10))
    given = boxes((0, 0, 10, 8), (0, 0, 10, 10), (20, 0, 30, 4), (40, 0, 50, 10), (0, 1, 10, 10))
    scores = torch.tensor([0.5, 0.9, 0.8, 0.7, 0.95])
    kept, hits = judged(given, scores, truth, torch.tensor([False, False, True]), 0.5)
    assert kept.tolist() == pytest.approx([0.95, 0.9, 0.8, 0.5])
    assert hits.tolist() == [True, False, False, False]
    assert judged(given, scores, boxes(), NO, 0.5)[1].tolist() == [False] * 5
    assert judged(boxes(), torch.zeros(0), truth, torch.zeros(3, dtype=torch.bool), 0.5)[1].tolist() == []


def test_average_precision_is_the_area_under_the_raised_curve():
    wanted = torch.tensor([2, 1, 1])
    parts = [
        (torch.tensor([0.9, 0.5]), torch.tensor([True, False])),
        (torch.tensor([0.8]), torch.tensor([False])),
        (torch.tensor([0.7, 0.1]), torch.tensor([True, True])),
    ]
    found = together(parts, wanted)
    # Right, wrong, right, wrong, right: precisions 1, 1/2, 2/3, 1/2, 3/5; raised 1, 2/3, 2/3, 3/5, 3/5; four objects.
    assert precision(found) == pytest.approx((1 + 2 / 3 + 3 / 5) / 4)
    twice = together([*parts, *parts], torch.cat((wanted, wanted)))
    weights = torch.tensor([[2.0, 2.0, 2.0]])
    assert precision(found, weights) == pytest.approx(precision(found))
    assert precision(twice, torch.tensor([[1.0, 1, 1, 0, 0, 0]])) == pytest.approx(precision(found))
    assert torch.isnan(average_precision(found, torch.zeros(1, 3))).all()
    perfect = together([(torch.ones(1), torch.ones(1, dtype=torch.bool))] * 2, torch.tensor([1, 1]))
    assert precision(perfect) == 1
    assert precision(together([(torch.zeros(0), NO)], torch.tensor([3]))) == 0


# The protocol.

SIDE = 32


def scenes(count: int, seed: int) -> list[Boxes]:
    """Images with a red and a green rectangle."""
    generator, found = torch.Generator().manual_seed(seed), []
    for _ in range(count):
        pixels, places = torch.zeros(3, SIDE, SIDE), []
        for kind in range(2):
            left, top = (int(one) for one in torch.randint(0, SIDE // 2, (2,), generator=generator))
            pixels[kind, top : top + 12, left : left + 12] = 1
            places.append((left, top, left + 12, top + 12))
        found.append(
            Boxes(pixels, boxes(*places), torch.tensor([0, 1]), torch.zeros(2, dtype=torch.bool), ("red", "green"))
        )
    return found


SCENES = {"train": scenes(24, 0), "validation": scenes(12, 1)}


class Pooled(nn.Module):
    """Cells of four pixels that show their colours, or nothing."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, pixels: Tensor) -> Tensor:
        cells = nn.functional.avg_pool2d(pixels, 4)
        return torch.cat((self.factor * cells, 1 - self.factor * cells), dim=1)


def given(factor: float) -> Encoded:
    network = Pooled(factor).requires_grad_(False)
    pixels = torch.zeros(24, 3, SIDE, SIDE)
    one = encoded_by(lambda some: {"all": some.mean(dim=(2, 3))}, network, pixels, views=1)
    return replace(
        one,
        validation=one.validation.select(torch.arange(12)),
        boxes=lambda split, objects: iter([SCENES[split][number] for number in objects.tolist()]),
        mapper=lambda: Pooled(factor),
    )


PROTOCOL = replace(Detection.quick(), steps=60, width=16, hidden=32, learning_rate=5e-3, bootstrap=Bootstrap(20))


def measured(protocol: Detection, one: Encoded) -> dict[str, object]:
    return {row.name.removeprefix("detection/"): row for row in protocol.run(one)}


@pytest.mark.slow
def test_a_map_that_shows_objects_is_read_and_an_empty_one_is_not():
    state = torch.random.get_rng_state()
    shown, empty = measured(PROTOCOL, given(1.0)), measured(PROTOCOL, given(0.0))
    assert shown["ap50"].value > 0.5 > 0.1 > empty["ap50"].value
    assert shown["ap50"].value == pytest.approx((shown["red/ap50"].value + shown["green/ap50"].value) / 2)
    assert 0 < shown["ap50"].spread < 0.3
    assert torch.equal(torch.random.get_rng_state(), state)
    assert "24 objects of 2 classes in 12 images; the whole image 0.0" in shown["ap50"].detail


def test_the_encoder_is_trained_where_it_is_asked_for():
    short = replace(PROTOCOL, steps=2, tuned=True)
    found = list(short.run(given(1.0)))
    assert "the encoder is trained too" in found[0].detail
    assert list(short.run(given(1.0))) == found
    (row,) = short.run(replace(given(1.0), mapper=None))
    assert row.detail == "there is no network that could be trained on"


def test_images_without_objects_give_a_reason():
    bare = [replace(one, difficult=torch.ones(2, dtype=torch.bool)) for one in SCENES["validation"]]
    one = replace(
        given(1.0), boxes=lambda split, objects: iter((bare if split == "validation" else SCENES[split])[:12])
    )
    (row,) = PROTOCOL.run(one)
    assert row.detail == "no drawn validation image has an object to find"


@pytest.mark.parametrize("settings", [{"steps": 0}, {"images": 0}, {"learning_rate": 0.0}, {"width": 0}])
def test_bad_settings_are_refused(settings):
    with pytest.raises(ValueError, match="must be"):
        Detection(**settings)


# Folders.


def test_a_folder_is_read_with_its_sets_and_boxes(tmp_path):
    write_voc(tmp_path / "VOCdevkit" / "VOC2012")
    data = voc(path=str(tmp_path), size=16)
    assert (len(data.train), len(data.validation)) == (9, 3)
    assert "the data's own train and validation splits" in data.notes["split"]
    one = data.validation.boxes(2)
    assert one.names == ("bar", "square")
    assert one.pixels.shape == (3, 48, 64)
    assert one.classes.tolist() == [1, 0]
    assert one.difficult.tolist() == [False, True]
    left, top, right, bottom = one.boxes[0].int().tolist()
    assert (right - left, bottom - top) == (16, 16)
    # The box holds all red pixels and no others.
    assert (one.pixels[0, top:bottom, left:right] == 230).float().mean() > 0.7
    assert int((one.pixels[0] == 230).sum()) == int((one.pixels[0, top:bottom, left:right] == 230).sum())
    assert data.train.load(*([0], [0])).pixels.shape == (1, 3, 16, 16)
    swapped = voc(path=str(tmp_path), size=16, sets={"train": "val", "validation": "train"})
    assert (len(swapped.train), len(swapped.validation)) == (3, 9)


def test_without_sets_images_are_held_out(tmp_path):
    write_voc(tmp_path, 10, sets=False)
    data = voc(path=str(tmp_path), size=16, validation_share=0.2)
    assert (len(data.train), len(data.validation)) == (8, 2)


def bad(name: str, content: str | None):
    def change(root):
        path = root / name
        path.unlink() if content is None else path.write_text(content)

    return change


@pytest.mark.parametrize(
    ("change", "settings", "words"),
    [
        (bad("Annotations/003.xml", None), {}, "there is no Annotations/003, which belongs to the data"),
        (bad("JPEGImages/002.png", None), {}, "there is no JPEGImages/002, which belongs to the data"),
        (bad("Annotations/003.xml", "<annotation>"), {}, "Annotations/003.xml is no annotation of Pascal VOC"),
        (
            bad("Annotations/003.xml", annotation(("a", (9, 2, 5, 8), False))),
            {},
            "the box of 'a' is empty or lies outside",
        ),
        (bad("Annotations/003.xml", annotation(("", (1, 2, 5, 8), False))), {}, "an object has no name"),
        (bad("Annotations/003.xml", "<a><object><name>b</name></object></a>"), {}, "a box has no xmin"),
        (bad("Annotations/003.xml", "<!DOCTYPE a><a/>"), {}, "it defines entities"),
        (bad("ImageSets/Main/val.txt", "000\n"), {}, "train.txt and val.txt share 1 image"),
        (bad("ImageSets/Main/val.txt", "\n"), {}, "val.txt names no image"),
        (lambda root: None, {"sets": {"train": "trian"}}, r"has no trian.txt; did you mean 'train'\?"),
        (lambda root: None, {"sets": {"training": "train"}}, "must be of train and validation, got 'training'"),
        (lambda root: None, {"sets": {"validation": "val"}}, "names no set to train on"),
    ],
)
def test_bad_folders_are_one_clear_line(change, settings, words, tmp_path):
    write_voc(tmp_path)
    change(tmp_path)
    with pytest.raises(ValueError, match=words) as caught:
        VOC(str(tmp_path), 16, **settings)
    assert "\n" not in str(caught.value)


def test_a_folder_of_another_layout_is_refused(tmp_path):
    write_voc(tmp_path / "one")
    write_voc(tmp_path / "two")
    with pytest.raises(SettingError, match="holds several data sets; give the path of one of one, two"):
        voc(path=str(tmp_path))
    with pytest.raises(SettingError, match="no folder JPEGImages"):
        voc(path=str(tmp_path / "one" / "JPEGImages"))
