"""OBoW gives the numbers that the authors' code gave, on one process and on several, and does what it claims."""

import multiprocessing
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from numpy.random import RandomState
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ssl_inv import keyed_random, losses, visual_words
from ssl_inv.augment.policies import obow
from ssl_inv.backbones import Backbone, make_backbone
from ssl_inv.data.rendered import rendered
from ssl_inv.objectives.obow import OBoW, divergence, spread
from ssl_inv.optimization import make_optimizer
from ssl_inv.teacher import cosine_momentum
from ssl_inv.testing import check_objective
from ssl_inv.transforms import Transform
from ssl_inv.views import View, Views
from ssl_inv.visual_words import Comparison, DynamicHead, SmallMapError, VisualWords

Facts = dict[str, Any]
NETWORK = {"name": "resnet18", "stem": "3x3-stride1", "arguments": {"layers": [1, 1, 1, 1], "channels": [4, 4, 6, 8]}}
TINY: Facts = {"vocabulary": 20, "border": 0, "window": 2}


@pytest.fixture(scope="module")
def facts(golden: Callable[[str], Facts]) -> Facts:
    return golden("obow")


def normal(seed: int, *shape: int) -> Tensor:
    return torch.tensor(RandomState(seed).randn(*shape))


def assert_equal(found: Tensor, expected: object, rtol: float = 1e-9) -> None:
    np.testing.assert_allclose(found.detach().numpy(), np.array(expected), rtol=rtol, atol=1e-11)


def assert_checked(found: Tensor, check: Facts) -> None:
    """Equal in shape, sum, sum of squares, and the values at both ends."""
    assert list(found.shape) == check["shape"]
    ends = torch.cat((found.flatten()[:3], found.flatten()[-1:]))
    assert_equal(ends, [*check["first3"], check["last"]])
    assert_equal(torch.stack((found.sum(), found.square().sum())), [check["sum"], check["sum_of_squares"]])


# The authors' numbers, by functions that run on any process of several: each has its share of the images, in the order of their ranks.


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
    """The words that each of five steps writes, and those of the end."""
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
    norm = head.norm
    drawn = ((head.first.weight, 0, 0.5), (norm.weight, 1, 0.1), (norm.bias, 0, 0.1), (head.last.weight, 0, 0.25), (head.last.bias, 0, 0.1))
    for parameter, mean, deviation in drawn:
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
    features = {kind: normal(seed, 2, count, 8).transpose(0, 1).requires_grad_() for kind, seed, count in (("160", 30, 2), ("96", 31, 3))}
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
            # Every process differentiates the sum of all processes' losses; DDP takes the average.
            dist.all_reduce(gradient)
            gradient.div_(dist.get_world_size())
    found["gradients"] = gradients
    found["statistics"] = [heads[0].norm.running_mean, heads[0].norm.running_var]
    found["evaluated"] = heads[0](features["160"], heads[0].eval().classifier(golden_dictionary(0)))
    return found


def _on_process(work: list[tuple[Callable[..., Facts], dict[str, Any]]], rank: int, processes: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store = (folder / "store").as_uri()
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=processes, timeout=timedelta(seconds=60))
    torch.save([function(**arguments) for function, arguments in work], folder / f"found-{rank}")
    dist.destroy_process_group()


@pytest.fixture
def on_processes(tmp_path: Path) -> Callable[..., list[list[Facts]]]:
    """Calls functions on some processes: for each of these the results in the order of the ranks."""

    def run(processes: int, work: list[tuple[Callable[..., Facts], dict[str, Any]]]) -> list[list[Facts]]:
        if processes == 1:
            return [[function(**arguments)] for function, arguments in work]
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["ssl_inv.testing", "pytest"])
        workers = [context.Process(target=_on_process, args=(work, rank, processes, tmp_path)) for rank in range(processes)]
        for one in workers:
            one.start()
        for one in workers:
            one.join()
        found = [torch.load(tmp_path / f"found-{rank}", weights_only=False) for rank in range(processes)]
        return [list(of_all) for of_all in zip(*found, strict=True)]

    return run


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
def test_targets_and_vocabulary(processes: int, facts: Facts, on_processes: Callable[..., list[list[Facts]]]) -> None:
    makings = facts["B_vocabulary_update"]["expected"]
    steps = range(5)
    locations = {
        "local_average": [[s % 9, (2 * s + 4) % 9, (8 - s) % 9] for s in steps],
        "no_averaging": [[3 * s % 25, (7 * s + 12) % 25, (24 - s) % 25] for s in steps],
        "global_average": [[0, 0, 0] for _ in steps],
    }
    keys = ("inverse_delta", "pooling", "training")
    work = [(bags_of_words, dict(zip(keys, settings, strict=True))) for _, *settings in BAGS]
    found = on_processes(processes, [*work, *((renewed_words, {"making": one, "locations": locations[one]}) for one in makings)])
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
def test_head_and_loss(processes: int, facts: Facts, on_processes: Callable[..., list[list[Facts]]]) -> None:
    expected = facts["C_dynamic_head_and_loss"]["expected"]
    (shares,) = on_processes(processes, [(predictions, {})])
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
    logits = {kind: [torch.cat([one["logits"][kind][level] for one in shares], dim=1) for level in (0, 1)] for kind in ("160", "96")}
    assert_equal(logits["160"][0].transpose(0, 1).reshape(4, 10), expected["train_logits_crops160_level0 (4x10)"])
    assert_equal(logits["96"][1].transpose(0, 1).reshape(6, 12), expected["train_logits_crops96_level1 (6x12)"])
    crossed = torch.stack([losses.distillation(logits["160"][i], golden_targets(i)[None], 1.0).mean() for i in (0, 1)]).mean()
    assert_equal(crossed, expected["cross_entropy_form_crops160 (KL + target entropy, mean over levels)"])


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
        # The rate of a warm-up's epoch is that of its end here, and the one behind it the authors'.
        step = int(epoch) * per_epoch - (int(epoch) <= 10)
        assert full.rate(step, 200 * per_epoch) == pytest.approx(value, rel=1e-11)
    for epoch, value in expected["lr_imagenet20 (start 0.05, end 0, 80 epochs, no warm-up)"].items():
        assert small.rate(int(epoch) * per_epoch, 80 * per_epoch) == pytest.approx(value, rel=1e-11)


# Claims of the vocabulary.


class LargestTensor(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes how many numbers the largest tensor has that any operation gives."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.largest = max([self.largest, *(one.numel() for one in tree_leaves(made) if isinstance(one, Tensor))])
        return made


@pytest.mark.parametrize("inverse_delta", [15.0, None])
def test_chunks_give_the_same_and_hold_little(inverse_delta: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    maps, draws = normal(5, 12, 6, 9, 9).clamp_min(0), torch.rand(12)
    bags = []
    for at_once in (2**30, 5 * 49 * 40):
        torch.manual_seed(0)
        words = VisualWords(6, 40, inverse_delta).double()
        monkeypatch.setattr(visual_words, "_AT_ONCE", at_once)
        with LargestTensor() as seen:  # type: ignore[no-untyped-call]
            bags.append(words(maps, draws))
    assert seen.largest == max(5 * 49 * 40, maps.numel())
    torch.testing.assert_close(*bags, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("images", "words"), [(4, 10), (10, 10), (7, 3)])
def test_the_newest_words_stay_whatever_the_batch(images: int, words: int) -> None:
    module = VisualWords(2, words, border=0, window=1)
    pixels = torch.arange(3.0 * images)[:, None, None, None].expand(-1, 2, 1, 1)
    for batch in torch.split(pixels, images):
        module(batch, torch.zeros(images))
        module.flush()
    assert sorted(module.words[:, 0].tolist()) == list(range(3 * images - words, 3 * images))


def test_a_word_is_every_position_s_alike_and_of_the_inside() -> None:
    maps = torch.arange(49.0).view(1, 1, 7, 7).repeat(1000, 1, 1, 1)
    module = VisualWords(1, 1000)
    module(maps, torch.linspace(0, 1, 1001)[:-1])
    module.flush()
    found, counts = torch.unique(module.words, return_counts=True)
    centres = [float(7 * row + column) for row in (2, 3, 4) for column in (2, 3, 4)]
    assert found.tolist() == centres
    assert (counts.max() - counts.min()).item() <= 1
    module(maps[:1], torch.tensor([np.nextafter(np.float32(1), np.float32(0))]))
    module.flush()
    assert module.words[0].item() == centres[-1]


def test_a_warm_start_takes_as_many_words_of_every_image_and_different_ones() -> None:
    maps = torch.arange(4 * 49.0).view(4, 1, 7, 7)
    module = VisualWords(1, 20, first_distance=None)
    module.fill(maps, torch.rand(4))
    assert len(torch.unique(module.words)) == 20
    assert torch.bincount((module.words[:, 0] / 49).long()).tolist() == [5, 5, 5, 5]


@pytest.mark.parametrize(("making", "count"), [("local_average", 100), ("global_average", 30)])
def test_a_warm_start_has_no_word_twice_where_words_outnumber_positions(making: str, count: int) -> None:
    module = VisualWords(3, count, making=making)  # type: ignore[arg-type]
    maps = torch.rand(4, 3, 7, 7)
    module.fill(maps, torch.rand(4))
    assert len(torch.unique(module.words, dim=0)) == count
    assert module.words.min() >= maps.min()
    assert module.words.max() <= maps.max()


def test_the_mean_distance_begins_with_that_of_the_first_batches() -> None:
    module, means = VisualWords(3, 8, first_distance=None, border=0).double(), []
    for step in range(4):
        maps = 100 * normal(step, 5, 3, 4, 4)
        means.append(Comparison(maps, module.words).nearest()[0].mean())
        module(maps, torch.rand(5))
        module.flush()
        torch.testing.assert_close(module.distance, torch.stack(means).mean())
    module.batches.fill_(1000)
    before = module.distance.clone()
    module(torch.zeros(5, 3, 4, 4, dtype=torch.float64), torch.rand(5))
    module.flush()
    assert 0.989 < (module.distance / before).item() < 1


def test_codes_do_not_depend_on_the_scale_of_features() -> None:
    bags = []
    for scale in (1.0, 1000.0):
        module = VisualWords(3, 8, first_distance=None).double()
        module.words.copy_(scale * normal(1, 8, 3))
        bags.append(module(scale * normal(0, 5, 3, 6, 6), torch.zeros(5)))
    torch.testing.assert_close(*bags)


def test_maps_that_are_all_alike_give_finite_bags() -> None:
    module = VisualWords(3, 8, first_distance=None)
    module.words.fill_(1.0)
    torch.testing.assert_close(module(torch.ones(2, 3, 7, 7), torch.zeros(2)), torch.full((2, 8), 1 / 8))


# Claims of the objective.


def build(**settings: Any) -> tuple[Backbone, OBoW]:
    torch.manual_seed(0)
    backbone = make_backbone(**NETWORK)  # type: ignore[arg-type]
    objective = OBoW(backbone.features, {}, **{**TINY, **settings})
    objective.adopt(backbone)
    return backbone.train(), objective.train()


def noise(objective: OBoW, batch: int = 6, side: int = 16) -> Views:
    views = (View(torch.randn(batch, 3, side, side), Transform.empty()) for _ in range(objective.plan.count))
    return Views(tuple(views), torch.arange(batch))


@pytest.mark.parametrize(
    "settings",
    [
        {"levels": 2, "border": 0, "window": 1, "crops": 1, "patches": 1, "warm_start": True, "backbone": NETWORK},
        {"levels": 1, "assignment": "hard", "words": "no_averaging", "learn_kappa": True, "first_distance": None, "patches": 0},
        {"levels": 1, "pooling": "mean", "words": "global_average", "crops": 0, "vocabulary": 7},
    ],
    ids=str,
)
def test_variants_conform(settings: dict[str, Any]) -> None:
    check_objective("obow", **{**TINY, **settings})


def test_the_student_learns_and_the_teacher_follows() -> None:
    backbone, objective = build()
    terms = objective.loss(noise(objective), backbone)
    assert [term.weight for term in terms.values()] == [1, 1, 0, 0]
    (terms["crops"].value + terms["patches"].value).backward()  # type: ignore[no-untyped-call]
    assert all(one.grad is not None for one in backbone.parameters())
    with_gradient = {name.split(".")[0] for name, one in objective.named_parameters() if one.grad is not None}
    assert with_gradient == {"heads"}
    before = [one.clone() for one in objective.teacher.parameters()]
    assert all(torch.equal(one, other) for one, other in zip(before, backbone.parameters(), strict=True))
    with torch.no_grad():
        for one in backbone.parameters():
            one.add_(1)
    objective.after_step(backbone, 50, 100)
    for old, new in zip(before, objective.teacher.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.005)


def test_predictions_and_targets_use_the_words_of_before() -> None:
    _, objective = build(first_distance=1.0)
    before = [words.words.clone() for words in objective.words]  # type: ignore[operator]
    views = noise(objective)
    maps = objective.teacher(views[0].pixels)
    classifiers, bags = objective._targets(maps, views.index)
    for level, words in enumerate(objective.words):
        assert isinstance(words, VisualWords)
        torch.testing.assert_close(classifiers[level], objective.heads[level].classifier(before[level]))  # type: ignore[operator]
        assert torch.equal(words.words, before[level])
        words.flush()
        expected = Comparison(maps[level], before[level]).soft_bags(15 / words.distance, "max")
        torch.testing.assert_close(bags[level], expected)
        assert not torch.equal(words.words, before[level])


def test_micro_batches_of_one_step_see_the_same_words_and_come_in_together() -> None:
    _, objective = build(warm_start=True, first_distance=None)
    maps = [torch.rand(10, channels, 4, 4) for channels in (6, 8)]
    seen = []
    for part in (slice(0, 5), slice(5, 10)):
        objective._targets([one[part] for one in maps], torch.arange(10)[part])
        seen.append([words.words.clone() for words in objective.words])  # type: ignore[operator]
    for words, (first, second) in zip(objective.words, zip(*seen, strict=True), strict=True):
        assert isinstance(words, VisualWords)
        assert torch.equal(first, second)
        words.flush()
        assert torch.equal(words.words[10:], first[10:])
        assert not (words.words[5:10] == first[5:10]).all(dim=1).any()
        assert (int(words.oldest), int(words.batches)) == (10, 1)


def test_positions_depend_on_step_sample_and_level_alone() -> None:
    _, objective = build()
    seen: list[Tensor] = []
    for words in objective.words:
        words.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    maps = [torch.rand(5, channels, 4, 4) for channels in (6, 8)]
    index = torch.tensor([9, 4, 7, 0, 2])
    objective._targets(maps, index)
    objective._targets([one[2:3] for one in maps], index[2:3])
    objective.set_extra_state(1)
    objective._targets(maps, index)
    assert seen[0][2] == seen[2][0]
    assert len(torch.unique(torch.cat((seen[0], seen[1], seen[4])))) == 15
    drawn = keyed_random.uniform(0, 0, index.numpy(), 0, count=1)[:, 0].astype(np.float32)
    np.testing.assert_array_equal(seen[0].numpy(), drawn)


def test_only_the_first_step_starts_warm() -> None:
    backbone, objective = build(warm_start=True)
    maps = [torch.rand(5, channels, 4, 4) + 10 for channels in (6, 8)]
    objective._targets(maps, torch.arange(5))
    assert all(words.words.min() > 9 for words in objective.words)  # type: ignore[operator]
    objective.after_step(backbone, 1, 10)
    objective._targets([one + 10 for one in maps], torch.arange(5))
    assert all((words.words < 19).any() for words in objective.words)  # type: ignore[operator]


def test_views_are_the_papers() -> None:
    from ssl_inv.augment.operations.base import Key
    from ssl_inv.augment.plans import maker_of

    source = rendered(classes=2, objects=8, views=1, size=40).train
    plan = OBoW(8, {}, crop_size=24, patch_size=12, patch_view=36, patch_jitter=4).plan
    key = Key(0, 0, np.arange(4), 0)
    pixels = source.load(np.arange(4), np.zeros(4, dtype=np.int64)).pixels
    made = maker_of(plan, obow(size=32)).make([pixels], key, lambda views: views)
    assert [one.pixels.shape[-1] for one in made] == [32, 24, 24, *[12] * 5]
    teacher, *students = (one.transform for one in made)
    torch.testing.assert_close(teacher["crop"], torch.tensor([[0.5, 0.5, 0.875, 0.875]]).expand(4, -1))
    for name in ("brightness", "hue", "grey", "blur"):
        torch.testing.assert_close(teacher[name], teacher.groups[name].neutral(4))
    areas = [one["crop"][:, 2:].prod(dim=1) for one in students]
    assert all(area.min() > 0.03 and area.max() < 0.65 for area in areas[:2])
    assert all(area.min() > 0.5 for area in areas[2:])
    assert all(torch.equal(one["hue"], students[2]["hue"]) for one in students[2:])
    assert not any(one["blur"].any() for one in students[2:])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"levels": 0}, "levels must be at least 1"),
        ({"levels": 9}, "levels is 9, but resnet18_stem3x3s1 gives the feature maps of 5"),
        ({"kappa": 0.0}, "kappa must be above 0"),
        ({"momentum": 1.5}, "momentum must lie between 0 and 1"),
        ({"crops": 0, "patches": 0}, "at least one crop or patch"),
        ({"crop_scale": [0.5]}, "crop_scale is the smallest and the largest share"),
        ({"vocabulary": 1}, "vocabulary is at least 2"),
        ({"inverse_delta": 0.0}, "inverse_delta must be above 0"),
        ({"distance_momentum": 1.0}, "distance_momentum must lie between"),
        ({"first_distance": 0.0}, "first_distance must be above 0"),
        ({"window": 0}, "window at least 1"),
    ],
    ids=str,
)
def test_settings_out_of_range(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build(**settings)


def test_a_transformer_has_no_map_of_its_last_stage_alone() -> None:
    backbone = make_backbone(name="vit_tiny_patch16_224", arguments={"img_size": 16, "patch_size": 4, "depth": 2, "embed_dim": 12})
    with pytest.raises(ValueError, match="levels is 1, but vit_tiny_patch16_224 gives tokens"):
        OBoW(backbone.features, {}, levels=1).adopt(backbone)


def test_maps_that_are_too_small_are_refused() -> None:
    backbone, objective = build(border=1, window=3)
    with pytest.raises(SmallMapError, match="border 1 and window 3 need feature maps of 5 pixels a side, these are 4x4"):
        objective.loss(noise(objective, side=32), backbone)
