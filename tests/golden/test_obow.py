"""Words, heads and losses of OBoW give the numbers of the authors' code, on one process and on several."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from numpy.random import RandomState
from small import normal
from torch import Tensor, nn

from ssl_inv.engine.optimizers import make_optimizer
from ssl_inv.memories.vocabulary import Comparison, VisualWords
from ssl_inv.nn import losses
from ssl_inv.nn.heads import DynamicHead
from ssl_inv.nn.teacher import cosine_momentum
from ssl_inv.objectives.obow import divergence, spread
from ssl_inv.testing.processes import on_processes

FACTS = "obow"
Facts = dict[str, Any]


def assert_equal(found: Tensor, expected: object, rtol: float = 1e-9) -> None:
    np.testing.assert_allclose(found.detach().numpy(), np.array(expected), rtol=rtol, atol=1e-11)


def assert_checked(found: Tensor, check: Facts) -> None:
    """Equal in shape, sum, sum of squares, and the values at both ends."""
    assert list(found.shape) == check["shape"]
    ends = torch.cat((found.flatten()[:3], found.flatten()[-1:]))
    assert_equal(ends, [*check["first3"], check["last"]])
    assert_equal(torch.stack((found.sum(), found.square().sum())), [check["sum"], check["sum_of_squares"]])


# Functions for every one of several processes; each has its share of the images, by rank.


def share(tensor: Tensor) -> Tensor:
    return tensor.chunk(dist.get_world_size())[dist.get_rank()] if dist.is_initialized() else tensor


def golden_words(making: str = "local_average", **settings: Any) -> VisualWords:
    words = VisualWords(6, 12, making=making, **settings).double()  # type: ignore[arg-type]
    words.words.copy_(normal(1, 12, 6).clamp_min(0))
    return words


def bags_of_words(inverse_delta: float | None, pooling: str, training: bool) -> Facts:
    words = golden_words(inverse_delta=inverse_delta, pooling=pooling).train(training)
    before = words.words.clone()
    maps = share(normal(0, 3, 6, 7, 7).clamp_min(0))
    bags = words(maps, torch.zeros(len(maps)))
    words.flush()
    return {"bags": bags, "distance": words.distance, "kept": torch.equal(words.words, before)}


def renewed_words(making: str, locations: list[list[int]]) -> Facts:
    """The words that each of five steps writes, and the words at the end."""
    words, written = golden_words(making), []
    places = {"local_average": 9, "no_averaging": 25, "global_average": 1}[making]
    for step, some in enumerate(locations):
        oldest = int(words.oldest)
        words(share(normal(100 + step, 3, 6, 7, 7).clamp_min(0)), share((torch.tensor(some) + 0.5) / places))
        words.flush()
        written.append(words.words[oldest : oldest + 3].clone())
    return {"written": written, "words": words.words, "oldest": int(words.oldest)}


def golden_head(level: int) -> DynamicHead:
    head, rng = DynamicHead((4, 6)[level], 8, 8.0).double(), RandomState(10 + level)
    parameters = (head.first.weight, head.norm.weight, head.norm.bias, head.last.weight, head.last.bias)
    for parameter, mean, deviation in zip(parameters, (0, 1, 0, 0, 0), (0.5, 0.1, 0.1, 0.25, 0.1), strict=True):
        parameter.data = mean + deviation * torch.tensor(rng.randn(*parameter.shape))
    return head


def golden_dictionary(level: int) -> Tensor:
    words = normal(20 + level, 10 + 2 * level, 4 + 2 * level).clamp_min(0)
    if level == 0:
        words[3] = torch.tensor([0.2, 0.1, 0.3, 0.4], dtype=words.dtype)
    return words


def golden_targets(level: int) -> Tensor:
    targets = F.normalize(torch.tensor(RandomState(40 + level).rand(2, 10 + 2 * level)), p=1, dim=1)
    if level == 0:
        targets[0, :4] = 0
        targets[0] /= targets[0].sum()
    return targets


def predictions() -> Facts:
    """Loss, gradients and statistics of one pass of both levels over crops of two kinds."""
    heads = [golden_head(level) for level in (0, 1)]
    classifiers = [head.classifier(golden_dictionary(level)) for level, head in enumerate(heads)]
    # From (image, crop) to (crop, image).
    kinds = (("160", 30, 2), ("96", 31, 3))
    features = {kind: normal(seed, 2, n, 8).transpose(0, 1).requires_grad_() for kind, seed, n in kinds}
    found: Facts = {"classifiers": classifiers, "loss": {}, "logits": {}}
    for kind, some in features.items():
        mine = share(some.transpose(0, 1)).transpose(0, 1)
        logits = [head(mine, classifier) for head, classifier in zip(heads, classifiers, strict=True)]
        errors = [divergence(logits[level], share(golden_targets(level))) for level in (0, 1)]
        found["loss"][kind], found["logits"][kind] = torch.stack(errors).mean(), logits
    found["total"] = sum(found["loss"].values())
    found["total"].backward()
    gradients = [features["160"].grad, heads[0].first.weight.grad, heads[1].last.weight.grad]
    if dist.is_initialized():
        for gradient in gradients:
            assert gradient is not None
            # Every process has the gradient of the sum of all processes' losses; DDP takes the average.
            dist.all_reduce(gradient)
            gradient.div_(dist.get_world_size())
    found["gradients"] = gradients
    found["statistics"] = [heads[0].norm.running_mean, heads[0].norm.running_var]
    found["evaluated"] = heads[0](features["160"], heads[0].eval().classifier(golden_dictionary(0)))
    return found


def results(work: list[tuple[Callable[..., Facts], dict[str, Any]]]) -> list[Facts]:
    return [function(**arguments) for function, arguments in work]


BAGS = [
    ("soft15_max_eval_bow", 15.0, "max", False),
    ("soft2_max_eval_bow", 2.0, "max", False),
    ("soft2_avg_eval_bow", 2.0, "mean", False),
    ("hard_max_eval_bow", None, "max", False),
    ("hard_avg_eval_bow", None, "mean", False),
    ("soft15_max_train_bow", 15.0, "max", True),
    ("soft2_max_train_bow", 2.0, "max", True),
]


@pytest.mark.parametrize("processes", [1, 3])
def test_targets_and_vocabulary(processes: int, facts: Facts) -> None:
    makings = facts["B_vocabulary_update"]["expected"]
    steps = range(5)
    locations = {
        "local_average": [[s % 9, (2 * s + 4) % 9, (8 - s) % 9] for s in steps],
        "no_averaging": [[3 * s % 25, (7 * s + 12) % 25, (24 - s) % 25] for s in steps],
        "global_average": [[0, 0, 0] for _ in steps],
    }
    keys = ("inverse_delta", "pooling", "training")
    work: list[tuple[Callable[..., Facts], dict[str, Any]]] = []
    work += [(bags_of_words, dict(zip(keys, settings, strict=True))) for _, *settings in BAGS]
    work += [(renewed_words, {"making": one, "locations": locations[one]}) for one in makings]
    found = [*zip(*on_processes(processes, results, work), strict=True)]
    expected = facts["A_bow_targets"]["expected"]
    for (name, *_, training), shares in zip(BAGS, found, strict=False):
        assert_equal(torch.cat([one["bags"] for one in shares]), expected[name])
        for one in shares:
            assert one["kept"] != training
            assert_equal(one["distance"], expected[name.replace("bow", "min_distance_mean_after")] if training else 0.5)
    for values, shares in zip(makings.values(), found[len(BAGS) :], strict=True):
        for one in shares:
            for step, written in zip(values["steps"], one["written"], strict=True):
                assert_equal(written, step["rows_written"])
            assert_checked(one["words"], values["final_vocabulary_check"])
            assert one["oldest"] == values["steps"][-1]["pointer_after"]


def test_assignments(facts: Facts) -> None:
    expected, words = facts["A_bow_targets"]["expected"], golden_words().words
    maps = normal(0, 3, 6, 7, 7).clamp_min(0)[:, :, 1:-1, 1:-1]
    distances, nearest = Comparison(maps, words).nearest()
    assert_equal(distances.mean(), expected["mu_min_distance"])
    assert nearest[0].tolist() == expected["nearest_word_of_image0_rowmajor_25_locations"]
    positions = maps.permute(0, 2, 3, 1).reshape(75, 6, 1, 1)
    codes = Comparison(positions, words).soft_bags(torch.tensor(2 / 0.5), "max")
    assert_equal(codes[0], expected["soft2_codes_image0_location_0_0_of_the_5x5_grid"])
    assert_equal(codes[-1], expected["soft2_codes_image2_location_4_4_of_the_5x5_grid"])


@pytest.mark.parametrize("processes", [1, 2])
def test_head_and_loss(processes: int, facts: Facts) -> None:
    expected = facts["C_dynamic_head_and_loss"]["expected"]
    shares = on_processes(processes, predictions)
    for one in shares:
        assert_equal(one["classifiers"][0], expected["train_generated_weights_level0 (10x8)"])
        assert_equal(one["classifiers"][1], expected["train_generated_weights_level1 (12x8)"])
        assert_equal(one["loss"]["160"], expected["loss_crops160"])
        assert_equal(one["loss"]["96"], expected["loss_crops96"])
        assert_equal(one["total"], expected["total"])
        features, first, last = one["gradients"]
        assert_equal(features.transpose(0, 1).reshape(4, 8), expected["grad_total_wrt_features_crops160 (4x8)"])
        assert_checked(first, expected["grad_total_wrt_level0_fc_weight_check"])
        assert_checked(last, expected["grad_total_wrt_level1_last_weight_check"])
        statistics = [values for name, values in expected.items() if name.startswith("bn_running")]
        for running, value in zip(one["statistics"], statistics, strict=True):
            assert_equal(running, value)
        evaluated = one["evaluated"].transpose(0, 1).reshape(4, 10)
        assert_equal(evaluated, expected["eval_logits_crops160_level0_after_that_pass"])
    both = {kind: [one["logits"][kind] for one in shares] for kind in ("160", "96")}
    logits = {kind: [torch.cat(level, dim=1) for level in zip(*some, strict=True)] for kind, some in both.items()}
    assert_equal(logits["160"][0].transpose(0, 1).reshape(4, 10), expected["train_logits_crops160_level0 (4x10)"])
    assert_equal(logits["96"][1].transpose(0, 1).reshape(6, 12), expected["train_logits_crops96_level1 (6x12)"])
    crossed = [losses.distillation(logits["160"][i], golden_targets(i)[None], 1.0).mean() for i in (0, 1)]
    recorded = expected["cross_entropy_form_crops160 (KL + target entropy, mean over levels)"]
    assert_equal(torch.stack(crossed).mean(), recorded)


def test_perplexities_and_schedules(facts: Facts) -> None:
    terms = [spread(golden_targets(level)) for level in (0, 1)]
    expected = facts["D_perplexity"]["expected"]
    assert_equal(torch.stack([one["words_per_image"].value for one in terms]), expected["image"])
    assert_equal(torch.stack([one["words_per_batch"].value for one in terms]), expected["batch"])
    expected = facts["E_schedules"]["expected"]
    for step, value in expected["alpha_base0.99_T100_at_t"].items():
        assert cosine_momentum(0.99, int(step), 100) == pytest.approx(value, rel=1e-11)
    full = make_optimizer([nn.Linear(1, 1)], name="sgd", lr=0.03, final_lr=3e-5, warmup=0.05)
    small = make_optimizer([nn.Linear(1, 1)], name="sgd", lr=0.05, warmup=0)
    per_epoch = 7
    for epoch, value in expected["lr_epoch (start 0.03, end 3e-5, 200 epochs, 10 warm-up)"].items():
        # In the warm-up, the authors' rate of an epoch is our rate one step earlier.
        step = int(epoch) * per_epoch - (int(epoch) <= 10)
        assert full.rate(step, 200 * per_epoch) == pytest.approx(value, rel=1e-11)
    for epoch, value in expected["lr_imagenet20 (start 0.05, end 0, 80 epochs, no warm-up)"].items():
        assert small.rate(int(epoch) * per_epoch, 80 * per_epoch) == pytest.approx(value, rel=1e-11)
