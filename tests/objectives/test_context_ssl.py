"""Claims about ContextSSL: what outputs see, what an environment leaves out, and how the predictor goes on."""

from itertools import combinations
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small import views_of
from torch import Tensor, nn

from ssl_inv.nn.backbones import Backbone
from ssl_inv.objectives.context_ssl import ContextSSL, visible_tokens
from ssl_inv.testing import GROUPS, random_transform
from ssl_inv.transforms import Transform
from ssl_inv.views import Views

SMALL: dict[str, Any] = {"context": 4, "masked": 0.0, "width": 12, "layers": 2, "heads": 2, "latent_hidden": [10]}
FEATURES = 6


class Flat(nn.Module):
    """The six pixels of an image as its features."""

    num_features = FEATURES

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.flatten(1)


def backbone() -> Backbone:
    return Backbone(Flat(), "flat")


def objective(**settings: Any) -> ContextSSL:
    torch.manual_seed(0)
    return ContextSSL(FEATURES, GROUPS, **{**SMALL, **settings})


def views(batch: int = 8, seed: int = 0) -> Views:
    torch.manual_seed(seed)
    return views_of(torch.randn(2, batch, 3, 1, 2), [random_transform(GROUPS, batch) for _ in range(2)])


def actions(one: ContextSSL, seen: Views) -> Tensor:
    action = seen[0].transform.relative(seen[1].transform)
    return action.as_vector(one.parameters_used, one.convention) * one.told[one.environment]


def outputs(one: ContextSSL, x: Tensor, y: Tensor, action: Tensor) -> Tensor:
    return one._outputs(torch.stack([F.layer_norm(z, (FEATURES,)) for z in (x, y)], dim=1), action, len(x))


def in_environment(one: ContextSSL, number: int) -> ContextSSL:
    steps = (step for step in range(100) if one.set_extra_state([step, 0]) is None and one.environment == number)
    one.steps_done = next(steps)
    return one


@pytest.mark.parametrize("positions", ["learned", "none"])
def test_an_output_sees_pairs_before_it_and_not_its_other_half(positions: str) -> None:
    one, action = objective(positions=positions), torch.randn(8, 8)
    x, y = torch.randn(8, FEATURES, requires_grad=True), torch.randn(8, FEATURES, requires_grad=True)
    made = outputs(one, x, y, action)
    for pair in (2, 6):
        before = range(pair // 4 * 4, pair)
        for half in (0, 1):
            of_x, of_y = torch.autograd.grad(made[pair, half].square().sum(), (x, y), retain_graph=True)
            assert {row for row in range(8) if of_x[row].any()} == {*before, *([] if half else [pair])}
            assert {row for row in range(8) if of_y[row].any()} == {*before, *([pair] if half else [])}


def test_the_context_is_hidden_whole_pair_by_pair_and_otherwise_for_the_two_halves() -> None:
    one = objective(context=64, masked=0.9)
    shown = one._shown(0, 128, 64)
    assert float(shown.float().mean()) == pytest.approx(0.1, abs=0.01)
    assert float((shown[:, ::2] & shown[:, 1::2]).float().mean()) == pytest.approx(0.01, abs=0.003)
    visible = visible_tokens(shown)
    assert torch.equal(visible[:, 100, :100:2], visible[:, 100, 1:100:2])
    before = shown.clone()
    one.after_step(backbone(), 1, 10)
    assert not torch.equal(one._shown(0, 128, 64), before)


def test_nothing_of_the_context_is_left_if_all_is_hidden() -> None:
    one = objective(masked=1.0, positions="none")
    x, y, action = torch.randn(8, FEATURES), torch.randn(8, FEATURES), torch.randn(8, 8)
    order = torch.tensor([5, 2, 7, 0, 1, 3, 6, 4])
    torch.testing.assert_close(outputs(one, x, y, action)[order], outputs(one, x[order], y[order], action[order]))


def test_a_context_without_positions_is_a_set_of_pairs() -> None:
    query, order = torch.tensor([3]), torch.tensor([2, 0, 1, 3])
    x, y, action = torch.randn(4, FEATURES), torch.randn(4, FEATURES), torch.randn(4, 8)
    for positions, alike in (("none", True), ("learned", False)):
        one = objective(positions=positions)
        # One layer only: in later layers, earlier tokens have seen each other, which depends on their order.
        one.transformer.layers = one.transformer.layers[:1]
        made, other = outputs(one, x, y, action)[query], outputs(one, x[order], y[order], action[order])[query]
        assert torch.allclose(made, other, atol=1e-5) == alike


@pytest.mark.parametrize(("number", "told"), [(0, ["rotation"]), (1, ["floor_hue", "light_hue"])])
def test_an_environment_leaves_out_all_other_parameters(number: int, told: list[str]) -> None:
    one, seen = in_environment(objective(), number), views()
    other = views(seed=1)
    pixels, drawn = [view.pixels for view in seen.views], [view.transform for view in other.views]
    mixed = [
        Transform({name: (view.transform if name in told else new)[name] for name in GROUPS}, GROUPS)
        for view, new in zip(seen.views, drawn, strict=True)
    ]
    losses = one.loss(seen, backbone())
    same, different = (one.loss(views_of(pixels, transforms), backbone()) for transforms in (mixed, drawn))
    for name, term in losses.items():
        assert torch.equal(term.value, same[name].value)
        assert not torch.equal(term.value, different[name].value)


def test_both_environments_come_up() -> None:
    one = objective()
    drawn = []
    for step in range(200):
        one.after_step(backbone(), step, 200)
        drawn.append(one.environment)
    assert 70 < sum(drawn) < 130


def test_the_weights_of_terms_are_the_paper_s() -> None:
    assert [term.weight for term in objective().loss(views(), backbone()).values()] == [1.0, 5.0]


@pytest.mark.parametrize("positions", ["learned", "none"])
def test_the_predictor_continues_the_sequence_of_the_last_training_pairs(positions: str) -> None:
    one, seen = in_environment(objective(positions=positions), 0), views(4)
    x, y = (view.pixels.flatten(1) for view in seen.views)
    action = actions(one, seen)
    expected = F.normalize(outputs(one, x, y, action)[3], dim=1)
    one._remember(torch.stack([F.layer_norm(z, (FEATURES,)) for z in (x, y)], dim=1)[:3], action[:3])
    predictor = one.predictor(backbone())
    step = seen[0].transform.relative(seen[1].transform)
    predicted = predictor.predict(predictor.embed(seen[0].pixels), step)
    found = predictor.embed(seen[1].pixels)
    torch.testing.assert_close(predicted[3, :12], expected[0])
    torch.testing.assert_close(found[3, :12], expected[1])
    # All candidates have one length and only outputs count, so cosines rank as the outputs' do.
    assert not predicted[:, 12:].any()
    assert float(found.detach().norm(dim=1).std()) < 1e-4


def test_a_predictor_without_training_has_no_context_and_training_gives_it_one_of_its_environment() -> None:
    one, seen = objective(), views(8)
    before = one.predictor(backbone()).embed(seen[0].pixels)
    in_environment(one, 1).loss(seen, backbone())
    assert torch.equal(one.predictor(backbone()).embed(seen[0].pixels), before)
    in_environment(one, 0).loss(seen, backbone())
    assert one.get_extra_state()[1] == 3
    torch.testing.assert_close(one.memory_actions, actions(one, seen)[-3:])
    assert not torch.equal(one.predictor(backbone()).embed(seen[0].pixels), before)


def turned(angle: Tensor) -> Tensor:
    """The look of a thing after a turn, `(B, 6)` of `(B, 1)`."""
    return torch.cat([f(number * angle) for f in (torch.cos, torch.sin) for number in (1, 2, 3)], dim=1)


def test_what_actions_do_is_read_off_the_context() -> None:
    """In half of the sequences actions turn things forwards, in the others backwards, which only the pairs before can
    tell.
    """
    torch.manual_seed(0)
    settings = {**SMALL, "context": 8, "masked": 0.5, "width": 24, "positions": "none"}
    one = ContextSSL(FEATURES, GROUPS, environments=[["light_theta"]], **settings)
    optimiser = torch.optim.Adam(one.parameters(), lr=3e-3)
    for step in range(1, 102):
        action = torch.rand(128, 1) * 2.5 + 0.3
        forwards = torch.randn(16).sign().repeat_interleave(8).unsqueeze(1)
        x, y = turned(0 * action), turned(forwards * action)
        optimiser.zero_grad()
        one.feature_loss(x, y, action, action)["nt_xent"].value.backward()
        optimiser.step()
        one.after_step(backbone(), step, 200)
    one.masked = 0.0
    with torch.no_grad():
        right = {}
        for place in (0, 7):
            rows, other = torch.arange(place, 128, 8), y.clone()
            other[rows] = turned(-forwards * action)[rows]
            made = outputs(one, x, y, action)[rows].unbind(1)
            wrong = outputs(one, x, other, action)[rows, 1]
            found = F.cosine_similarity(*made, dim=1) > F.cosine_similarity(made[0], wrong, dim=1)
            right[place] = float(found.float().mean())
    assert right[7] >= 0.9
    assert right[0] <= 0.8


def test_positions_that_no_batch_reaches_are_refused() -> None:
    message = "context: 4, but a batch has 3 pairs and trains no later positions; make it 3"
    with pytest.raises(ValueError, match=message):
        objective().loss(views(3), backbone())
    objective(positions="none").loss(views(3), backbone())


@pytest.mark.parametrize("environment", [0, 1])
def test_latents_of_the_step_s_environment_alone_are_counted(environment: int) -> None:
    seen = views()
    x, y = torch.randn(2, 8, FEATURES)
    latent = seen[1].transform.as_vector(["rotation", "floor_hue", "light_hue"])
    names = [slice(0, 4), slice(4, None)]
    for settings, columns in ({"latents_of": "environment"}, names[environment]), ({"latents_of": "all"}, slice(None)):
        one = in_environment(objective(**settings), environment)
        told = one.latent_head(F.normalize(outputs(one, x, y, actions(one, seen))[:, 0], dim=1))
        target = torch.zeros_like(latent)
        target[:, names[environment]] = latent[:, names[environment]]
        action = seen[0].transform.relative(seen[1].transform).as_vector(one.parameters_used, one.convention)
        found = one.feature_loss(x, y, action, latent)["latents"].value
        torch.testing.assert_close(found, (told - target)[:, columns].square().mean())


def test_each_batch_of_a_step_hides_other_pairs_and_so_does_the_next_step() -> None:
    one, hidden = objective(masked=0.5), []
    one.train()
    for step in (1, 2):
        for _ in range(2):
            hidden.append(one._shown(0, 8, 4))
            one.loss(views(), backbone())
        one.after_step(backbone(), step, 10)
    assert not any(torch.equal(first, second) for first, second in combinations(hidden, 2))
