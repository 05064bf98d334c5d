"""Nothing is chosen on the reported split, and an evaluation says what makes its numbers too good."""

import html
import json
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from ssl_inv.data.sources.rendered.source import RenderedSolids
from ssl_inv.evaluation.both_sides import THUMBNAIL, class_balance, thumbnail, twins
from ssl_inv.evaluation.features import EvaluationBatch, FeatureTable
from ssl_inv.evaluation.protocols import linear_maps
from ssl_inv.evaluation.protocols.base import Encoded, Protocol
from ssl_inv.evaluation.protocols.linear import LinearProbe
from ssl_inv.evaluation.protocols.logistic import LogisticRegression
from ssl_inv.evaluation.protocols.transforms_r2 import TransformR2
from ssl_inv.evaluation.results import Bootstrap
from ssl_inv.evaluation.suite import KINDS
from ssl_inv.run.cli import main
from ssl_inv.transforms import Circle, Rotation, Transform

OBJECTS, VIEWS, CLASSES, SIZE = 24, 4, 3, 16
CHOOSERS = ((LinearProbe, "choose_learning_rate"), (LogisticRegression, "choose_strength"), (linear_maps, "ridge"))
"""What chooses a hyper-parameter, or gets the chosen one."""

WITH_CHOICES = {"linear", "logistic", "few_labels", "worst_view", "geodesic", "group_action", "leakage", "frames"}


def random_table(seed: int, first: int) -> FeatureTable:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.arange(OBJECTS).repeat_interleave(VIEWS)
    labels = ids % CLASSES
    features = torch.randn(len(ids), 6, generator=generator) + torch.nn.functional.one_hot(labels, 6)
    parts = {"all": features, "invariant": features[:, :3], "equivariant": features[:, 3:]}
    turns = torch.nn.functional.normalize(torch.randn(len(ids), 4, generator=generator), dim=1)
    values = {"rotation": turns, "hue": torch.rand(len(ids), generator=generator)}
    transform = Transform(values, {"rotation": Rotation(), "hue": Circle()})
    views = torch.arange(VIEWS).repeat(OBJECTS)
    return FeatureTable(parts, ids + first, views, labels, class_names=("a", "b", "c"), transform=transform)


def encode(pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    whole = torch.nn.functional.adaptive_avg_pool2d(pixels, (1, 2)).flatten(1)
    return {"all": whole, "invariant": whole[:, :3], "equivariant": whole[:, 3:]}


def encoded(garbage: bool) -> Encoded:
    train, validation = random_table(0, 0), random_table(1, OBJECTS)
    if garbage:
        other = random_table(2, OBJECTS)
        assert validation.labels is not None
        labels = (validation.labels + validation.objects // CLASSES) % CLASSES
        validation = replace(validation, labels=labels, transform=other.transform)

    def images(split: str) -> Iterator[EvaluationBatch]:
        table = train if split == "train" else validation
        pixels = torch.rand(len(table), 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3))
        yield EvaluationBatch(pixels, table.objects, table.views, table.labels, None, table.transform)

    second = Encoded(random_table(4, 0), random_table(5, OBJECTS))
    return Encoded(
        train, validation, encode=encode, images=images, second=second, colours=(torch.zeros(3), torch.ones(3))
    )


@pytest.mark.parametrize("name", KINDS)
def test_what_is_chosen_does_not_depend_on_the_targets_of_validation(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[Any] = []

    def watched(choose: Callable[..., Any]) -> Callable[..., Any]:
        def choosing(*given: Any, **named: Any) -> Any:
            found = choose(*given, **named)
            chosen.append([one.tolist() for one in found] if isinstance(found, tuple) else found)
            return found

        return choosing

    for place, function in CHOOSERS:
        monkeypatch.setattr(place, function, watched(getattr(place, function)))
    protocol = small(KINDS[name].quick())
    if (lacking := protocol.lacks(encoded(garbage=False))) is not None:
        pytest.skip(f"not measured on these features: {lacking}")
    rounds = []
    for garbage in (False, True):
        chosen.clear()
        assert list(protocol.run(encoded(garbage)))
        rounds.append(list(chosen))
    assert rounds[0] == rounds[1]
    assert bool(rounds[0]) >= (name in WITH_CHOICES)


def small(protocol: Protocol) -> Protocol:
    """The protocol with few steps and images: what is chosen matters here, and not how well."""
    less: dict[str, Any] = {
        "steps": 20,
        "images": 8,
        "samples": 50,
        "draws": 1,
        "episodes": 5,
        "observed": (2,),
        "bootstrap": Bootstrap(20),
    }
    heads = TransformR2(hidden=8, epochs=1, minimum_steps=4, joint=True)
    kept = {one.name for one in fields(protocol)}
    less |= {"heads": heads, "linear": LinearProbe(steps=20, batch=32)}
    if isinstance(protocol, TransformR2):
        less |= {"hidden": 8, "epochs": 1, "minimum_steps": 4}
    return replace(protocol, **{key: value for key, value in less.items() if key in kept})


def test_copies_are_found_by_small_pictures_and_other_views_of_the_same_kind_are_not() -> None:
    rows = np.repeat(np.arange(80), 3), np.tile(np.arange(3), 80)
    pixels = RenderedSolids(classes=4, objects=80, views=3, size=32).load(*rows).pixels.float() / 255
    train, validation = pixels[:120], pixels[120:]
    darker = (train[:10] * 0.97).round(decimals=2)
    smaller = interpolate(interpolate(train[10:20], scale_factor=0.75, mode="bilinear"), size=32, mode="bilinear")

    def seen(images: Tensor) -> FeatureTable:
        return FeatureTable({THUMBNAIL: thumbnail(images)}, torch.arange(len(images)), torch.zeros(len(images)).long())

    assert twins(seen(train), seen(validation), THUMBNAIL).pair is None
    found = twins(seen(train), seen(torch.cat([validation, train[30:35], darker, smaller])), THUMBNAIL)
    assert found.equal == 5
    assert 15 <= found.near <= 20
    generator = torch.Generator().manual_seed(0)
    # Skies of one colour in which different things stand are different images.
    skies = [0.02 * torch.rand(one.shape, generator=generator) for one in (train, validation)]
    blue = torch.tensor([0.1, 0.2, 0.9]).view(3, 1, 1)
    assert twins(seen(torch.cat([train, blue + skies[0]])), seen(blue + skies[1]), THUMBNAIL).pair is None
    assert twins(seen(train[:1].expand(9, -1, -1, -1)), seen(train[:3]), THUMBNAIL).pair is None, "nothing varies"


def test_the_balance_of_classes_is_that_of_labelled_validation_views() -> None:
    train, validation = random_table(0, 0), random_table(1, OBJECTS)
    assert validation.labels is not None
    labels = torch.where(validation.labels == 2, 0, validation.labels)
    uneven = replace(validation, labels=labels, labelled=torch.arange(len(labels)) > 0)
    found = class_balance(replace(train, labels=torch.zeros_like(labels)), uneven)
    assert found is not None
    assert (found.names, found.unseen, found.views) == (("a", "b"), ("b",), len(labels) - 1)
    assert found.level(1) == pytest.approx(63 / 95)
    assert found.level(5) == 1
    assert class_balance(train, replace(validation, labels=None)) is None


def test_an_evaluation_warns_of_a_picture_on_both_sides(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(24):
        pixels = np.random.default_rng(number % 20).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        place = tmp_path / "photos" / ("train" if number < 20 else "validation") / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number}.png")
    models = ["timm:test_resnet", "timm:test_convnext", "--data", "photos", "--data.size", "32"]
    assert main(["evaluate", *models, "--protocols", "knn", "--output", "exam"]) == 0
    (warning,) = [line for line in caplog.messages if line.startswith("warning: ")]
    assert "4 of 4 validation views that were compared show the image of a training view, such as" in warning
    assert "class balance: equally many views of each of 2 classes" in capsys.readouterr().out
    record = json.loads(Path("exam/exam.json").read_text())["encoders"]["timm:test_resnet"]
    assert f"warning: {record['warnings'][0]}" == warning
    assert record["classes"]["shares"] == [0.5, 0.5]
    assert record["warnings"][0] in html.unescape(Path("exam/exam.html").read_text())
