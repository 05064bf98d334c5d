"""Layers are measured at one width, and the sentences on their depth follow from the numbers."""

import torch
from torch import Tensor

from ssl_inv.evaluation.features import FeatureTable
from ssl_inv.evaluation.protocols.base import Encoded
from ssl_inv.evaluation.results import Comparison, Result, StandardError
from ssl_inv.run.by_layer import in_common_width
from ssl_inv.run.exam.depth import depth_sentences
from ssl_inv.run.exam.examining import Examined


def table(rows: Tensor) -> FeatureTable:
    count = len(rows)
    parts = {"all": rows, "layer 00": rows[:, :2] + 5, "layer 01": rows}
    return FeatureTable(parts, torch.arange(count) // 2, torch.arange(count) % 2)


def test_wider_layers_are_brought_to_the_width_of_the_narrowest_by_components_of_the_training_views() -> None:
    generator = torch.Generator().manual_seed(0)
    # Two directions of 7 hold nearly all variance in train; in validation it is another one, which must not matter.
    scale = torch.tensor([0.01, 3.0, 0.01, 2.0, 0.01, 0.01, 0.01])
    train, validation = (torch.randn(60, 7, generator=generator) * one for one in (scale, scale.flip(0)))
    encoded = Encoded(
        table(train), table(validation), encode=lambda pixels: table(pixels).features, images=lambda split: iter(())
    )
    found, fact = in_common_width(encoded)
    for split, rows in (("train", train), ("validation", validation)):
        features = getattr(found, split).features
        assert torch.equal(features["all"], rows)
        assert torch.equal(features["layer 00"], rows[:, :2] + 5)
        apart = [torch.cdist(one, one) for one in (features["layer 01"], rows[:, [1, 3]])]
        torch.testing.assert_close(*apart, atol=0.2, rtol=0)
    assert found.encode is not None
    again = found.encode(train)
    assert not isinstance(again, Tensor)
    torch.testing.assert_close(again["layer 01"], found.train.features["layer 01"])
    assert "2 features" in fact
    assert "layer 01 100.0 %" in fact
    plain = Encoded(
        FeatureTable({"all": train}, *[torch.arange(60)] * 2), FeatureTable({"all": train}, *[torch.arange(60)] * 2)
    )
    assert in_common_width(plain) == (plain, "")


def curve(name: str, values: dict[str, float], noise: float = 0.01) -> Examined:
    common = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = []
    for number, (part, value) in enumerate(values.items()):
        own = torch.randn(400, generator=torch.Generator().manual_seed(1 + number), dtype=torch.float64)
        # Resamples of the objects move all layers together; what tells layers apart is the rest.
        draws = value + 0.2 * common + noise * own
        rows.append(Comparison(Result(name, part, value, StandardError(float(draws.std()), draws, 50))))
    return Examined("an encoder", rows)


def test_the_depth_at_which_the_pose_goes_is_said_from_the_numbers() -> None:
    values = {"layer 00": 0.3, "layer 01": 0.71, "layer 02": 0.70, "layer 03": 0.5, "layer 04": 0.4, "all": 0.4}
    rotation = {f"{part} patches" if part != "all" else part: value for part, value in values.items()}
    error = {part: 90 * (1 - value) for part, value in values.items()}
    found = {
        "a": curve("r2/relative/rotation", rotation),
        "b": curve("geodesic/linear/relative/rotation/median", error),
        "c": curve("knn/top1", {"layer 00": 0.1, "layer 01": 0.2, "layer 02": 0.9}),
        "d": curve("r2/relative/hue", {"layer 00": 0.402, "layer 01": 0.4}, noise=0.1),
        "e": curve("spectrum/rankme", {"layer 00": 9.0, "layer 01": 4.0}),
    }
    said = {name: sentences[0] for name, sentences in depth_sentences(found).items()}
    assert set(said) == set("abcd")
    assert said["a"].startswith("r2/relative/rotation, mean over patches: best at layer 1 (0.710 ± 0.")
    assert said["a"].endswith("at the last, layer 4. Worse by more than chance from layer 3 on.")
    assert "best at layer 1 (26.100" in said["b"]
    assert said["b"].endswith("from layer 3 on.") or said["b"].endswith("from layer 2 on.")
    assert "best at layer 2 (0.900 ± " in said["c"]
    assert ", the last; 0.100" in said["c"]
    assert said["d"].endswith("The last is not worse by more than chance.")
