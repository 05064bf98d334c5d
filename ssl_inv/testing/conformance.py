"""The conformance suite for objectives.

Example::

    from ssl_inv.testing import check_objective

    def test_my_objective():
        check_objective("my_package.my_module.MyObjective", projector=[32, 32])
"""

import copy
import io
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Real as RealNumber
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ssl_inv.augment.policies import simclr
from ssl_inv.catalogue import OBJECTIVES
from ssl_inv.memories.gallery import Gallery
from ssl_inv.nn.backbones import Backbone, make_backbone
from ssl_inv.nn.distributed import is_distributed, rank, world_size
from ssl_inv.nn.sync_batch_norm import synchronise_batch_norm
from ssl_inv.objectives.base import Losses, Objective, Term
from ssl_inv.testing.device import DEVICE, PretendedGPU, all_tensors, left_on_host
from ssl_inv.testing.networks import OBJECTS, SIDE, Noise, SmallNetwork, random_transform
from ssl_inv.testing.processes import on_processes
from ssl_inv.transforms import Circle, Group, Real, Rotation
from ssl_inv.trust import allowing
from ssl_inv.views import Plan, View, Views

GROUPS: Mapping[str, Group] = {
    "rotation": Rotation(),
    "floor_hue": Circle(),
    "light_theta": Real(scale=0.8),
    "light_phi": Circle(2 * torch.pi),
    "light_hue": Circle(),
    **simclr().groups,
}
"""The transforms of rendered solids and SimCLR's augmentation together."""

_BATCH, _PROCESSES, _STEPS = 8, 2, 10

_ROUNDING = 1e-9
"""Largest difference that rounding in float64 may explain, as a share of the largest value."""


@dataclass(frozen=True)
class _Case:
    """An objective under test. Every check and every process builds it anew from this description."""

    objective: type[Objective] | str
    settings: dict[str, Any]
    groups: Mapping[str, Group] = field(default_factory=lambda: GROUPS)
    backbone: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        return self.objective if isinstance(self.objective, str) else self.objective.__name__

    def _constructor(self) -> Any:
        if not isinstance(self.objective, str):
            return self.objective
        # Who tests an objective by its path names it oneself.
        with allowing([self.objective.rpartition(".")[0]] if "." in self.objective else []):
            return OBJECTIVES.find(self.objective).load()

    def build(self, seed: int = 0) -> nn.ModuleDict:
        """Backbone and objective with the initial weights of `seed`, in training mode."""
        constructor = self._constructor()
        with _seeded(seed):
            backbone = (
                make_backbone(**self.backbone)
                if self.backbone
                else Backbone(SmallNetwork(), "network of the conformance suite")
            )
            objective = constructor(backbone.features, self.groups, **self.settings)
            objective.adopt(backbone)
            objective.allocate(OBJECTS, OBJECTS)
        return nn.ModuleDict({"backbone": backbone, "objective": objective}).train()

    @cached_property
    def plan(self) -> Plan:
        return _parts(self.build())[1].plan

    def views(self, seed: int, batch: int = _BATCH, dtype: torch.dtype = torch.float32) -> Views:
        """Views with random pixels and transforms."""
        plan = self.plan
        with _seeded(seed):
            pixels = [torch.randn(batch, 3, SIDE, SIDE, dtype=dtype) for _ in range(plan.count)]
            transforms = [random_transform({**self.groups, **plan.groups}, batch, dtype) for _ in range(plan.count)]
        index = torch.arange(batch)
        shown = torch.stack((index, torch.zeros_like(index)), dim=1).expand(plan.sources, -1, -1)
        return Views(tuple(View(*both) for both in zip(pixels, transforms, strict=True)), index, shown)


def check_objective(
    objective: type[Objective] | str,
    groups: Mapping[str, Group] = GROUPS,
    backbone: dict[str, Any] | None = None,
    **settings: Any,
) -> None:
    """Check what the engine, resuming, evaluation and several processes rely on.

    - The loss is a mapping of finite float32 scalars, also under bfloat16 autocast, and has a gradient for every
      parameter.
    - So has it with the smallest batches that `least_batch` allows.
    - The state dict holds everything that training depends on.
    - Evaluation probes the backbone and nothing that the objective adds.
    - On a GPU, which need not be there, nothing is left on the host.
    - Two processes with half the batch each have the loss and the gradients of one process with the whole batch, up to
      rounding in float64.

    Images are noise of 12 x 12 pixels.

    Args:
        objective: a name in recipes, the dotted path of a class, or a class at the top level of a module.
        groups: the group of every parameter of the views' transforms, by name.
        backbone: the settings of `ssl_inv.nn.backbones.make_backbone`; None is a small convolutional network.
        settings: of the objective; small networks make the check fast.

    Raises:
        AssertionError: with one sentence about the first fault.
    """
    case = _Case(objective, settings, groups, backbone)
    _check_loss(case)
    _check_reduced_precision(case)
    _check_small_batch(case)
    _check_gradients(case)
    _check_state(case)
    _check_representations(case)
    _check_device(case)
    _check_distributed(case)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _parts(networks: nn.ModuleDict) -> tuple[Backbone, Objective]:
    backbone, objective = networks["backbone"], networks["objective"]
    assert isinstance(backbone, Backbone)
    assert isinstance(objective, Objective), (
        f"{type(objective).__name__} is no subclass of ssl_inv.objectives.base.Objective"
    )
    return backbone, objective


def _losses(networks: nn.ModuleDict, views: Views, seed: int = 0) -> Losses:
    backbone, objective = _parts(networks)
    with _seeded(seed):
        return objective.loss(views, backbone)


def _total(losses: Losses) -> Tensor:
    return torch.stack([term.weight * term.value for term in losses.values()]).sum()


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise AssertionError(sentence)


def _check_terms(case: _Case, losses: Losses, when: str) -> None:
    given = f"{case.name}: the loss is {type(losses).__name__}{when}"
    _require(isinstance(losses, Mapping), f"{given}; it must be a mapping of names to Terms")
    _require(bool(losses), f"{case.name}: the loss has no terms{when}")
    for name, term in losses.items():
        named = f"{case.name}: loss term '{name}'"
        _require(isinstance(term, Term), f"{named} is no Term but {type(term).__name__}{when}")
        is_number = isinstance(term.weight, RealNumber | Tensor)
        _require(is_number, f"{named} has the weight {term.weight!r:.60}, not a number{when}")
        is_tensor = isinstance(term.value, Tensor)
        _require(is_tensor, f"{named} has a {type(term.value).__name__} as its value, not a tensor{when}")
        value = term.value.detach()
        _require(value.dim() == 0, f"{named} is no scalar but has shape {tuple(value.shape)}{when}")
        _require(value.dtype == torch.float32, f"{named} is {value.dtype}, not float32{when}")
        _require(bool(value.isfinite()), f"{named} is {value.item()}{when}")
    graded = any(term.value.requires_grad for term in losses.values()) or not torch.is_grad_enabled()
    _require(graded, f"{case.name}: the loss has no gradient{when}; its terms are detached, or made without one")


def _check_loss(case: _Case) -> None:
    _check_terms(case, _losses(case.build(), case.views(1)), "")


def _check_reduced_precision(case: _Case) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _check_terms(case, _losses(case.build(), case.views(1)), " under bfloat16 autocast")


def _check_small_batch(case: _Case) -> None:
    """The smallest batches that an objective allows have a finite loss that moves something."""
    for batch in (1, 2, 3):
        networks = case.build()
        objective = _parts(networks)[1]
        normalised = any(isinstance(one, nn.BatchNorm1d) for one in objective.modules())
        if batch < max(objective.least_batch, 2 if normalised else 1):
            continue
        _between_epochs(networks)
        when = f" on a batch of {batch} sample(s), which `least_batch` allows"
        try:
            with warnings.catch_warnings(action="ignore"):  # A statistic of one sample is named below.
                losses = _losses(networks, case.views(1, batch=batch))
        except ValueError as error:
            raise AssertionError(f"{case.name}: the loss fails{when}: {error}") from error
        _check_terms(case, losses, when)
        _total(losses).backward()  # type: ignore[no-untyped-call]
        gradients = [one.grad for one in networks.parameters() if one.grad is not None]
        _require(all(bool(one.isfinite().all()) for one in gradients), f"{case.name}: a gradient is not finite{when}")
        _require(any(bool(one.any()) for one in gradients), f"{case.name}: the loss has no gradient{when}")


def _check_gradients(case: _Case) -> None:
    networks = case.build()
    _total(_losses(networks, case.views(1))).backward()  # type: ignore[no-untyped-call]
    unreached = [name for name, one in networks.named_parameters() if one.requires_grad and one.grad is None]
    _require(
        not unreached,
        f"{case.name}: the loss has no gradient for {', '.join(unreached)}; use them or set requires_grad to False",
    )


def _step(networks: nn.ModuleDict, views: Views, step: int, average: Callable[[Tensor], None] | None = None) -> Tensor:
    """One step of gradient descent; returns the loss before it. `average` averages gradients over processes."""
    loss = _total(_losses(networks, views, seed=step))
    networks.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for one in networks.parameters():
            if one.grad is not None:
                if average is not None:
                    average(one.grad)
                one.sub_(one.grad, alpha=0.01)
    with _seeded(step):
        backbone, objective = _parts(networks)
        objective.after_step(backbone, step, _STEPS)
    return loss.detach()


def _between_epochs(networks: nn.ModuleDict) -> None:
    """What the engine does before the first epoch."""
    backbone, objective = _parts(networks)
    if objective.looks_between_epochs:
        dtype = next(backbone.parameters()).dtype
        gallery = Gallery(Noise(), lambda pixels: 2 * pixels.to(dtype) - 1, "cpu", batch_size=OBJECTS // 4)
        with torch.no_grad(), _seeded(0):
            objective.between_epochs(backbone, 0, gallery)


def _check_state(case: _Case) -> None:
    """After a step, a saved and loaded network and a copy have the same losses as the original."""
    original, restored = case.build(seed=0), case.build(seed=1)
    _between_epochs(original)
    _step(original, case.views(1), 1)
    _load(restored, _through_file(case, original))
    copied = copy.deepcopy(original)
    for step in (2, 3):
        views = case.views(step)
        loss = _step(original, views, step)
        for other, how in ((restored, "saved and loaded"), (copied, "copied")):
            same = torch.equal(loss, _step(other, views, step))
            _require(
                same,
                f"{case.name}: the loss differs after it is {how}; some state is no parameter and no persistent buffer",
            )


def _through_file(case: _Case, networks: nn.ModuleDict) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(networks.state_dict(), file)
    file.seek(0)
    try:
        state: dict[str, Any] = torch.load(file, weights_only=True)
    except Exception as error:
        raise AssertionError(f"{case.name}: the state dict holds more than tensors, numbers and strings") from error
    return state


def _load(networks: nn.ModuleDict, state: dict[str, Any]) -> None:
    try:
        networks.load_state_dict(state)
    except RuntimeError as error:
        raise AssertionError(f"the state dict of a trained network does not fit a new one: {error}") from None


def _check_representations(case: _Case) -> None:
    networks = case.build().eval()
    backbone, objective = _parts(networks)
    pixels = case.views(1)[0].pixels
    with torch.no_grad():
        before = objective.representations(backbone)(pixels)
        _require("all" in before, f"{case.name}: representations have no 'all', only {', '.join(before) or 'nothing'}")
        for name, value in before.items():
            fits = value.dim() == 2 and len(value) == len(pixels)
            _require(
                fits, f"{case.name}: representation '{name}' has shape {tuple(value.shape)}, not ({len(pixels)}, D)"
            )
        for tensor in (*objective.parameters(), *objective.buffers()):
            if tensor.is_floating_point():
                tensor.add_(torch.ones_like(tensor))
        after = objective.representations(backbone)(pixels)
    changed = ", ".join(name for name in before if not torch.equal(before[name], after[name]))
    _require(
        not changed,
        f"{case.name}: representation {changed} depends on weights of the objective, not on the backbone alone",
    )


def _check_device(case: _Case) -> None:
    """Run a step and what evaluation calls on a pretended GPU."""
    gpu = PretendedGPU()
    networks, views = gpu.module(case.build()), gpu.views(case.views(1))
    backbone, objective = _parts(networks)
    before = {name: one.device for name, one in all_tensors(networks)}

    def loss() -> None:
        total = _total(objective.loss(views, backbone))
        _require(total.device == DEVICE, f"{case.name}: the loss is on {total.device}, not on the device of the views")

    def predict() -> None:
        if (predictor := objective.predictor(backbone)) is not None:
            predictor.predict(predictor.embed(views[0].pixels), views[0].transform.relative(views[-1].transform))

    occasions = {
        "the loss": loss,
        "after_step": lambda: objective.after_step(backbone, 1, _STEPS),
        "representations": lambda: objective.representations(backbone)(views[0].pixels),
        "predictor": predict,
    }
    for occasion, compute in occasions.items():
        with gpu, torch.no_grad():
            said = left_on_host(compute)
        _require(said is None, f"{case.name}: on a GPU, {occasion} mixes tensors of the device and of the host: {said}")
    astray = [name for name, one in all_tensors(networks) if one.device != before[name]]
    _require(not astray, f"{case.name}: on a GPU, {', '.join(astray)} changes its device")


@dataclass(frozen=True)
class _Trace:
    """The results of two steps of training."""

    losses: list[float]
    gradients: dict[str, Tensor]
    buffers: dict[str, Tensor]


def _trace(case: _Case) -> _Trace:
    networks = case.build().double()
    if is_distributed():
        for part in _parts(networks):
            synchronise_batch_norm(part, torch.device("cpu"))
    _between_epochs(networks)
    share = _BATCH // world_size()
    losses = []
    for step in (1, 2):
        views = case.views(step, dtype=torch.float64)
        rows = torch.arange(rank() * share, (rank() + 1) * share)
        mine = Views(
            tuple(View(view.pixels[rows], view.transform.select(rows)) for view in views.views),
            views.index[rows],
            None if views.shown is None else views.shown[:, rows],
        )
        losses.append(float(_step(networks, mine, step, _average if is_distributed() else None)))
    gradients = {name: one.grad for name, one in networks.named_parameters() if one.grad is not None}
    return _Trace(losses, gradients, dict(networks.named_buffers()))


def _average(gradient: Tensor) -> None:
    dist.all_reduce(gradient)
    gradient.div_(dist.get_world_size())


def _check_distributed(case: _Case) -> None:
    alone = _trace(case)
    try:
        traces = on_processes(_PROCESSES, _trace, case)
    except AssertionError as error:
        raise AssertionError(f"{case.name}: fails on {_PROCESSES} processes: {error}") from None
    for process, shared in enumerate(traces):
        for step, (one, all_of_them) in enumerate(zip(alone.losses, shared.losses, strict=True), start=1):
            equal = abs(one - all_of_them) <= _ROUNDING * max(abs(one), 1e-3)
            numbers = (
                f"{all_of_them:.12g} on process {process} of {_PROCESSES} and {one:.12g} on one process, in step {step}"
            )
            _require(equal, f"{case.name}: the loss is {numbers}; gather what the loss takes a statistic of")
        for what in ("gradients", "buffers"):
            if (worst := _first_difference(getattr(alone, what), getattr(shared, what))) is not None:
                raise AssertionError(
                    f"{case.name}: the {what[:-1]} {worst} on {_PROCESSES} processes is not that of one process"
                )


def _first_difference(expected: dict[str, Tensor], found: dict[str, Tensor]) -> str | None:
    if expected.keys() != found.keys():
        return f"of {', '.join(sorted(expected.keys() ^ found.keys()))}"
    # The scale is the largest value of all tensors: a gradient that should be zero is only rounding noise.
    scale = max(
        (float(one.abs().max()) for one in expected.values() if one.is_floating_point() and one.numel()), default=1.0
    )
    for name, one in expected.items():
        if not torch.allclose(one.double(), found[name].double(), rtol=_ROUNDING, atol=_ROUNDING * scale):
            return f"of {name}"
    return None
