"""Losses of lightly: each has a call, the numbers of lightly's own class and the gradient of one process; mistakes are
named.
"""

import copy
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightly.loss
import pytest
import torch
import torch.nn.functional as F
from lightly.models.modules.heads import DINOProjectionHead
from lightly.utils.scheduler import cosine_schedule
from lightly_sizes import DINO_HEAD, EVERY, HEAD, VARIANTS
from ruamel.yaml import YAML
from small import total, vit
from torch import Tensor, nn

from ssl_inv.catalogue import SettingError
from ssl_inv.nn.backbones import Backbone, make_backbone
from ssl_inv.nn.lightly_parts import copyable, last_layer, losses
from ssl_inv.nn.lightly_table import KINDS, LEFT_OUT
from ssl_inv.objectives.lejepa import LeJEPA
from ssl_inv.objectives.lightly import Lightly
from ssl_inv.objectives.lightly_dense import positions, regions
from ssl_inv.objectives.vicreg import VICReg
from ssl_inv.testing import GROUPS, check_objective
from ssl_inv.testing.networks import SIDE, SmallNetwork, random_transform
from ssl_inv.transforms import Box, Circle, Flag, Transform
from ssl_inv.views import View, Views

PAGE = (Path(__file__).parents[2] / "docs" / "lightly.md").read_text(encoding="utf-8")
FAST = ("BarlowTwinsLoss", "TiCoLoss", "VISRegLoss", "NTXentLoss with a bank")
"""Other ways of calling are checked with the slow tests."""


def build(batch: int = 8, dtype: torch.dtype = torch.float64, **settings: Any) -> tuple[Lightly, Backbone, Views]:
    """An objective, a small network, and views of noise."""
    torch.manual_seed(0)
    network = settings.pop("backbone", None)
    backbone = make_backbone(**network) if network else Backbone(SmallNetwork(), "small")
    objective = Lightly(backbone.features, settings.pop("groups", GROUPS), **settings)
    objective.adopt(backbone)
    count = objective.plan.count
    views = [
        View(torch.randn(batch, 3, SIDE, SIDE, dtype=dtype), random_transform(GROUPS, batch, dtype))
        for _ in range(count)
    ]
    return objective.to(dtype).train(), backbone.to(dtype).train(), Views(tuple(views), torch.arange(batch))


def test_every_loss_of_the_installed_library_has_a_call_or_a_reason() -> None:
    modules = [
        importlib.import_module(f"lightly.loss.{one.name}") for one in pkgutil.iter_modules(lightly.loss.__path__)
    ]
    defined = {
        name
        for module in modules
        for name, one in vars(module).items()
        if inspect.isclass(one) and one.__module__ == module.__name__ and not module.__name__.endswith("memory_bank")
    }
    assert defined == {*KINDS, *LEFT_OUT}
    assert losses().keys() == KINDS.keys() == EVERY.keys()


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=[] if one in FAST else [pytest.mark.slow]) for one in {**EVERY, **VARIANTS}]
)
def test_every_loss_conforms(name: str) -> None:
    check_objective("lightly", **{**EVERY, **VARIANTS}[name])


@pytest.mark.parametrize(
    "name", ["BarlowTwinsLoss", "DCLWLoss", "HypersphereLoss", "MACLLoss", "NTXentLoss", "VICRegLoss"]
)
@pytest.mark.filterwarnings("ignore:To copy construct")
def test_a_loss_of_pairs_is_lightlys_on_the_head_of_the_features(name: str) -> None:
    objective, backbone, views = build(**EVERY[name])
    theirs = losses()[name]()(*(objective.head(backbone(view.pixels)) for view in views.views))
    found = total(objective.loss(views, backbone))
    torch.testing.assert_close(found, theirs)
    weights = [*objective.parameters(), *backbone.parameters()]
    for mine, other in zip(*(torch.autograd.grad(one, weights) for one in (found, theirs)), strict=True):
        torch.testing.assert_close(mine, other)


def test_the_crops_of_dino_are_called_as_in_lightlys_example() -> None:
    objective, backbone, views = build(**{**EVERY["DINOLoss"], "temperature_warmup": 0.0})
    student = [objective.head(backbone(view.pixels)) for view in views.views]
    assert objective.teacher is not None
    teacher = [objective.teacher(view.pixels) for view in views.views[:2]]
    theirs = lightly.loss.DINOLoss(output_dim=DINO_HEAD["output_dim"]).double()
    torch.testing.assert_close(total(objective.loss(views, backbone)), theirs(teacher, student))
    torch.testing.assert_close(objective.loss_function.center, theirs.center)


@pytest.mark.parametrize("normalize", [False, True])
def test_the_target_of_lewm_has_its_gradient_and_lightlys_has_none(normalize: bool) -> None:
    settings = {"sigreg_num_vectors": 16, "normalize": normalize}
    objective, _, _ = build(**{**EVERY["LeWMLoss"], "settings": settings})
    embedded = torch.randn(8, 4, 16, dtype=torch.float64, requires_grad=True)
    predicted = torch.randn(8, 3, 16, dtype=torch.float64)
    error = objective.world_model_terms(predicted, embedded)["prediction"].value
    theirs = lightly.loss.lewm_loss.latent_prediction_loss(
        predicted=predicted, target=embedded[:, 1:], normalize=normalize
    )
    torch.testing.assert_close(error, theirs)
    assert not theirs.requires_grad
    (gradient,) = torch.autograd.grad(error, embedded)
    assert (gradient[:, 1:].abs().amax(dim=(0, 2)) > 0).all()
    if not normalize:
        torch.testing.assert_close(gradient[:, 1:], 2 * (embedded - F.pad(predicted, (0, 0, 1, 0)))[:, 1:] / 384)


RANDOM = ("SIGReg", "VISRegLoss", "WMSELoss", "PatchKernelAlignmentLoss of 12 tokens", "MSNLoss")


@pytest.mark.parametrize("name", RANDOM)
def test_random_numbers_depend_on_seed_and_step_alone_and_the_global_generator_stands_still(name: str) -> None:
    objective, backbone, views = build(**{**EVERY, **VARIANTS}[name])
    values = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        values.append(total(objective.loss(views, backbone)).item())
        assert torch.equal(torch.get_rng_state(), before)
    assert values[0] == values[1]
    objective.advance(1, 10)
    assert total(objective.loss(views, backbone)).item() != values[0]


def test_the_teacher_follows_lightlys_schedule_and_its_temperature_warms_up() -> None:
    objective, backbone, _ = build(**EVERY["DINOLoss"])  # from 0.02 to 0.04 in half of all steps
    assert objective.teacher is not None
    temperatures = []
    for step in range(1, 5):
        temperatures.append(objective._teacher_temperature())
        old = [one.clone() for one in objective.teacher.network.get_submodule("0").parameters()]
        with torch.no_grad():
            for one in backbone.parameters():
                one.add_(1)
        objective.after_step(backbone, step, 4)
        momentum = cosine_schedule(step - 1, 4, 0.996, 1.0)
        new = objective.teacher.network.get_submodule("0").parameters()
        for mine, before, other in zip(new, old, backbone.parameters(), strict=True):
            torch.testing.assert_close(mine, momentum * before + (1 - momentum) * other)
    assert temperatures == pytest.approx([0.02, 0.03, 0.04, 0.04])


def test_the_bank_and_the_covariance_are_saved() -> None:
    bank = build(**VARIANTS["NTXentLoss with a bank"])[0].state_dict()
    assert bank["loss_function.memory_bank.bank"].shape == (12, 16)
    assert build(**EVERY["TiCoLoss"])[0].state_dict()["loss_function.C"].shape == (16, 16)


def test_prototypes_are_frozen_in_their_share_of_all_steps() -> None:
    dino = build(**VARIANTS["DINOLoss with frozen prototypes"])[0]  # 0.2
    assert [len(list(dino.held(step, 10))) for step in (1, 2, 3)] == [1, 1, 0]
    swav = build(**EVERY["SwaVLoss"], frozen_prototypes=0.1)[0]
    assert [len(list(swav.held(step, 10))) for step in (1, 2)] == [2, 0]


@pytest.mark.filterwarnings("ignore:.*weight_norm")
@pytest.mark.parametrize("fixed", [True, False])
def test_the_head_of_dino_can_be_copied_and_keeps_what_it_gives_and_what_it_trains(fixed: bool) -> None:
    torch.manual_seed(0)
    head = DINOProjectionHead(6, 8, 4, 10, norm_last_layer=fixed)
    head.last_layer.weight_g.data.uniform_(0.5, 2)
    x = torch.randn(3, 6)
    before, directions = head(x), head.last_layer.weight_v.clone()
    after = copy.deepcopy(copyable(head))
    torch.testing.assert_close(after(x), before)
    length, direction = last_layer(after)
    assert (length.requires_grad, direction.requires_grad) == (not fixed, True)
    torch.testing.assert_close(direction, directions)


def test_the_sums_of_vicreg_and_lejepa_are_those_of_the_objectives_of_their_names() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(2, 8, 5, dtype=torch.float64)
    own = VICReg(6, {}, projector=[5]).embedding_loss(x, y)
    torch.testing.assert_close(total(own).double(), lightly.loss.VICRegLoss()(x, y))
    z = torch.randn(3, 8, 5, dtype=torch.float64)
    lejepa = LeJEPA(6, {}, projector=[5], directions=16, weight=0.05)
    directions = lejepa.directions(z)
    theirs = lightly.loss.SIGReg(num_vectors=16).double()
    theirs._generate_unit_vectors = lambda *inputs: directions
    torch.testing.assert_close(lejepa.embedding_loss(z)["sigreg"].value, theirs(z), rtol=1e-6, atol=0)


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"loss": "NTXentLos"},
        "loss: lightly has no loss called 'NTXentLos' that can be used here; did you mean 'NTXentLoss'?",
    ),
    ({"loss": "PMSNCustomLoss"}, "loss: PMSNCustomLoss cannot be used: its target distribution is a function"),
    ({"loss": "VICRegLLoss", "groups": {"hue": Circle()}}, "loss: VICRegLLoss needs the crop of every view; this data"),
    (
        {"loss": "DetConSLoss", "groups": {"crop": Box(), "angle": Circle(360)}},
        "loss: DetConSLoss follows crops and mirror images, and the augmentation has 'angle'",
    ),
    (
        {"dense_head_settings": {"hidden_dim": 3}},
        "dense_head_settings: {'hidden_dim': 3}, but NTXentLoss has no head on",
    ),
    (
        {"settings": {"temprature": 1.0}},
        "settings.temprature: NTXentLoss has no such setting; did you mean 'temperature'?",
    ),
    ({"settings": {"temperature": "hot"}}, "settings.temperature: expected a number, got 'hot'"),
    ({"settings": {"temperature": True}}, "settings.temperature: expected a number, got True"),
    ({"settings": {"temperature": -0.1}}, "settings.temperature: must not be below 0, got -0.1"),
    ({"settings": {"temperature": 0.0}}, "settings: NTXentLoss: Illegal temperature"),
    ({"settings": {"gather_distributed": True}}, "settings.gather_distributed: is set here"),
    ({"settings": {"memory_bank_size": [12, 3]}}, "settings.memory_bank_size: must be a number of vectors, or that"),
    ({"settings": {"memory_bank_size": -1}}, "settings.memory_bank_size: must be a number of vectors, or that"),
    ({"head": "SimCLRHead"}, "head: lightly has no head called 'SimCLRHead'; did you mean 'SimCLRProjectionHead'?"),
    ({"head": "SwaVPrototypes"}, "head: lightly has no head called 'SwaVPrototypes'"),
    ({"head_settings": {"hiden_dim": 3}}, "head_settings.hiden_dim: SimCLRProjectionHead has no such setting"),
    ({"head_settings": {"hidden_dim": 2.5}}, "head_settings.hidden_dim: expected a whole number, got 2.5"),
    ({"head_settings": {"hidden_dim": -2}}, "head_settings: SimCLRProjectionHead: "),
    ({"head_settings": {"input_dim": 3}}, "head_settings.input_dim: follows from the backbone"),
    ({"head": "none", "head_settings": {"hidden_dim": 3}}, "head_settings: {'hidden_dim': 3}, but there is no head"),
    ({"loss": "IBOTPatchLoss", "head": "none"}, "head: none, but IBOTPatchLoss compares the logits of a head"),
    ({"predictor": "BYOLPredictionHead"}, "predictor: 'BYOLPredictionHead', but NTXentLoss has no predictor"),
    ({"momentum": 0.9}, "momentum: 0.9, but NTXentLoss has no teacher"),
    ({"local_crops": 2}, "local_crops: 2, but NTXentLoss takes no local crops"),
    ({"views": 3}, "views: must be 2 for NTXentLoss, got 3"),
    ({"masked": 0.5}, "masked: 0.5, but NTXentLoss hides no patches"),
    ({"queue": 8}, "queue: 8, but NTXentLoss has no queue here"),
    ({"frozen_prototypes": 0.1}, "frozen_prototypes: 0.1, but NTXentLoss has no prototypes here"),
    ({"temperature_warmup": 0.1}, "temperature_warmup: 0.1, but NTXentLoss has no teacher's temperature"),
    ({"actions": ["rotation"]}, "actions: ['rotation'], but the predictor of NTXentLoss is told none"),
    ({**EVERY["LeWMLoss"], "actions": []}, "actions: is empty"),
    (
        {**EVERY["LeWMLoss"], "actions": ["rotatoin"]},
        "actions: no view of this data records 'rotatoin'; did you mean 'rotation'?",
    ),
    (
        {**EVERY["IBOTPatchLoss"], "backbone": None},
        "loss: IBOTPatchLoss hides patches, and small has none; choose a vit as backbone",
    ),
    (
        {**EVERY["MSNLoss"], "backbone": None},
        "loss: MSNLoss hides patches, and small has none; choose a vit as backbone, or masked: 0",
    ),
    ({**EVERY["CAPILoss"], "backbone": vit()}, "arguments: CAPILoss trains patch tokens"),
    ({**EVERY["IBOTPatchLoss"], "settings": {"output_dim": 3}}, "settings.output_dim: follows from the head"),
    (
        {**EVERY["DINOLoss"], "settings": {"warmup_teacher_temp": 0.1}},
        "settings.warmup_teacher_temp: is set here by warmup",
    ),
    (
        {**EVERY["MSNLoss"], "settings": {"target_sharpen_temperature": "x"}},
        "settings.target_sharpen_temperature: expected",
    ),
    (
        {**EVERY["WMSELoss"], "settings": {}, "head_settings": HEAD},
        "settings.w_size: must divide the batch of 8 samples",
    ),
    ({**EVERY["VISRegLoss"], "local_crops": 0}, "local_crops: must be at least 1 for VISRegLoss, got 0"),
    ({"batch": 1, "loss": "DCLLoss", "head": "none"}, "loss: DCLLoss compares samples, and the batch has 1"),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED, ids=[message[:50] for _, message in REFUSED])
def test_what_cannot_be_used_is_named_in_one_line(settings: dict[str, Any], message: str) -> None:
    def run() -> None:
        objective, backbone, views = build(**settings)
        objective.loss(views, backbone)

    with pytest.raises(SettingError, match=f"^{re.escape(message)}") as caught:
        run()
    assert "\n" not in str(caught.value)


def test_a_loss_that_an_older_library_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(lightly.loss, "DCLLoss")
    with pytest.raises(SettingError, match=r"^loss: the installed lightly has no DCLLoss; a newer one has it$"):
        build(loss="DCLLoss")


def rows_of_the_page() -> dict[str, list[str]]:
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in PAGE.splitlines() if line.startswith("| `")]
    return {cells[0].strip("`"): cells[3:] for cells in lines if len(cells) == 9}


def test_the_page_has_every_loss_and_every_one_is_right_here() -> None:
    rows = rows_of_the_page()
    assert KINDS.keys() <= rows.keys()
    assert {tuple(cells[3:]) for cells in rows.values()} == {("1.0000", "1.0000", "yes")}
    assert all(f"- `{name}`: {reason}.\n" in PAGE for name, reason in LEFT_OUT.items())


def test_the_recipe_of_the_page_works() -> None:
    (block,) = re.findall(r"```yaml\nobjective:\n(.*?)```", PAGE, re.DOTALL)
    settings = YAML(typ="safe").load(block)
    assert settings.pop("name") == "lightly"
    objective, backbone, views = build(**settings)
    assert total(objective.loss(views, backbone)).isfinite()


@pytest.mark.slow
def test_the_numbers_of_the_page_are_those_of_its_command() -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "lightly_losses.py"
    command = [sys.executable, str(script), "FroSSLLoss", "TiCoLoss"]
    made = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for name in ("FroSSLLoss", "TiCoLoss"):
        line = next(line for line in made.splitlines() if line.startswith(f"| `{name}`"))
        assert [cell.strip() for cell in line.split("|")[4:-1]] == rows_of_the_page()[name]


@pytest.mark.slow
def test_help_and_a_refused_recipe_do_not_import_lightly() -> None:
    script = (
        "import sys, ssl_inv, ssl_inv.objectives, ssl_inv.nn.lightly_parts, ssl_inv.objectives.lightly\n"
        "from ssl_inv.run.cli import main\n"
        "assert main(['pretrain', 'lightly-rendered', '--objective.los', 'x']) == 2\n"
        "assert 'lightly' not in sys.modules, 'lightly is imported'\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)


def test_positions_of_a_map_lie_where_the_crop_and_the_mirror_image_put_them() -> None:
    box = torch.tensor([[0.5, 0.5, 1.0, 1.0], [0.25, 0.75, 0.5, 0.5]])
    record = Transform({"crop": box, "flip": torch.tensor([0.0, 1.0])}, {"crop": Box(), "flip": Flag()})
    found = positions(View(torch.zeros(2, 3, 8, 8), record), 2, 4)
    torch.testing.assert_close(found[0, 0], torch.tensor([[0.125, 0.25], [0.375, 0.25], [0.625, 0.25], [0.875, 0.25]]))
    x = torch.tensor([0.4375, 0.3125, 0.1875, 0.0625])
    torch.testing.assert_close(
        found[1], torch.stack((x.expand(2, 4), torch.tensor([[0.625], [0.875]]).expand(2, 4)), 2)
    )


def test_regions_are_drawn_from_those_that_a_view_shows_and_weigh_its_positions_equally() -> None:
    places = torch.tensor([[[0.1, 0.1], [0.2, 0.3], [0.9, 0.1], [1.0, 0.2]]])  # two positions in each of two regions
    numbers, weights = regions(places, 2, torch.tensor([[0.0, 0.49, 0.5, 0.99]]))
    assert numbers.tolist() == [[0, 0, 1, 1]]
    assert weights.tolist() == [[[0.5, 0.5, 0, 0]] * 2 + [[0, 0, 0.5, 0.5]] * 2]


class Same(nn.Module):
    """Two rows are equal, so the smallest singular value is zero."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.svd(torch.cat((x, x), dim=1))[1].sum()


def test_singular_values_of_zero_have_no_gradient() -> None:
    from ssl_inv.nn.lightly_parts import call

    x = torch.randn(4, 2, 7, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(call(Same(), 0, x), x)
    left, _, right = torch.linalg.svd(x, full_matrices=False)
    torch.testing.assert_close(
        gradient, 2**0.5 * left @ right
    )  # of the sum of singular values of one copy, times root 2
