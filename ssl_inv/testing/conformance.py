"""The conformance suite for objectives.

Example::

    from ssl_inv.testing import check_objective

    def test_my_objective():
        check_objective("my_package.my_module.MyObjective", projector=[32, 32])
"""

import copy
import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real as RealNumber
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ssl_inv.nn.distributed import is_distributed, rank, world_size
from ssl_inv.nn.sync_batch_norm import synchronise_batch_norm
from ssl_inv.objectives.base import Losses, Objective, Term
from ssl_inv.testing.cases import (
    BATCH,
    GROUPS,
    STEPS,
    Case,
    before_epoch,
    losses_of,
    parts_of,
    require,
    step_of,
    total_of,
)
from ssl_inv.testing.device import DEVICE, PretendedGPU, all_tensors, left_on_host
from ssl_inv.testing.processes import on_processes
from ssl_inv.transforms import Group
from ssl_inv.views import View, Views

_PROCESSES = 2

_ROUNDING = 1e-9
"""Largest difference that rounding in float64 may explain, as a share of the largest value."""


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
    case = Case(objective, settings, groups, backbone)
    _check_loss(case)
    _check_reduced_precision(case)
    _check_small_batch(case)
    _check_gradients(case)
    _check_state(case)
    _check_representations(case)
    _check_device(case)
    _check_distributed(case)


def _check_terms(case: Case, losses: Losses, when: str) -> None:
    given = f"{case.name}: the loss is {type(losses).__name__}{when}"
    require(isinstance(losses, Mapping), f"{given}; it must be a mapping of names to Terms")
    require(bool(losses), f"{case.name}: the loss has no terms{when}")
    for name, term in losses.items():
        named = f"{case.name}: loss term '{name}'"
        require(isinstance(term, Term), f"{named} is no Term but {type(term).__name__}{when}")
        is_number = isinstance(term.weight, RealNumber | Tensor)
        require(is_number, f"{named} has the weight {term.weight!r:.60}, not a number{when}")
        is_tensor = isinstance(term.value, Tensor)
        require(is_tensor, f"{named} has a {type(term.value).__name__} as its value, not a tensor{when}")
        value = term.value.detach()
        require(value.dim() == 0, f"{named} is no scalar but has shape {tuple(value.shape)}{when}")
        require(value.dtype == torch.float32, f"{named} is {value.dtype}, not float32{when}")
        require(bool(value.isfinite()), f"{named} is {value.item()}{when}")
    graded = any(term.value.requires_grad for term in losses.values()) or not torch.is_grad_enabled()
    require(graded, f"{case.name}: the loss has no gradient{when}; its terms are detached, or made without one")


def _check_loss(case: Case) -> None:
    _check_terms(case, losses_of(case.build(), case.views(1)), "")


def _check_reduced_precision(case: Case) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _check_terms(case, losses_of(case.build(), case.views(1)), " under bfloat16 autocast")


def _check_small_batch(case: Case) -> None:
    """The smallest batches that an objective allows have a finite loss that moves something."""
    for batch in (1, 2, 3):
        networks = case.build()
        objective = parts_of(networks)[1]
        normalised = any(isinstance(one, nn.BatchNorm1d) for one in objective.modules())
        if batch < max(objective.least_batch, 2 if normalised else 1):
            continue
        before_epoch(networks)
        when = f" on a batch of {batch} sample(s), which `least_batch` allows"
        try:
            with warnings.catch_warnings(action="ignore"):  # A statistic of one sample is named below.
                losses = losses_of(networks, case.views(1, batch=batch))
        except ValueError as error:
            raise AssertionError(f"{case.name}: the loss fails{when}: {error}") from error
        _check_terms(case, losses, when)
        total_of(losses).backward()  # type: ignore[no-untyped-call]
        gradients = [one.grad for one in networks.parameters() if one.grad is not None]
        require(all(bool(one.isfinite().all()) for one in gradients), f"{case.name}: a gradient is not finite{when}")
        require(any(bool(one.any()) for one in gradients), f"{case.name}: the loss has no gradient{when}")


def _check_gradients(case: Case) -> None:
    networks = case.build()
    total_of(losses_of(networks, case.views(1))).backward()  # type: ignore[no-untyped-call]
    unreached = [name for name, one in networks.named_parameters() if one.requires_grad and one.grad is None]
    require(
        not unreached,
        f"{case.name}: the loss has no gradient for {', '.join(unreached)}; use them or set requires_grad to False",
    )


def _check_state(case: Case) -> None:
    """After a step, a saved and loaded network and a copy have the same losses as the original."""
    original, restored = case.build(seed=0), case.build(seed=1)
    before_epoch(original)
    step_of(original, case.views(1), 1)
    _load(restored, _through_file(case, original))
    copied = copy.deepcopy(original)
    for step in (2, 3):
        views = case.views(step)
        loss = step_of(original, views, step)
        for other, how in ((restored, "saved and loaded"), (copied, "copied")):
            same = torch.equal(loss, step_of(other, views, step))
            require(
                same,
                f"{case.name}: the loss differs after it is {how}; some state is no parameter and no persistent buffer",
            )


def _through_file(case: Case, networks: nn.ModuleDict) -> dict[str, Any]:
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


def _check_representations(case: Case) -> None:
    networks = case.build().eval()
    backbone, objective = parts_of(networks)
    pixels = case.views(1)[0].pixels
    with torch.no_grad():
        before = objective.representations(backbone)(pixels)
        require("all" in before, f"{case.name}: representations have no 'all', only {', '.join(before) or 'nothing'}")
        for name, value in before.items():
            fits = value.dim() == 2 and len(value) == len(pixels)
            require(
                fits, f"{case.name}: representation '{name}' has shape {tuple(value.shape)}, not ({len(pixels)}, D)"
            )
        for tensor in (*objective.parameters(), *objective.buffers()):
            if tensor.is_floating_point():
                tensor.add_(torch.ones_like(tensor))
        after = objective.representations(backbone)(pixels)
    changed = ", ".join(name for name in before if not torch.equal(before[name], after[name]))
    require(
        not changed,
        f"{case.name}: representation {changed} depends on weights of the objective, not on the backbone alone",
    )


def _check_device(case: Case) -> None:
    """Run a step and what evaluation calls on a pretended GPU."""
    gpu = PretendedGPU()
    networks, views = gpu.module(case.build()), gpu.views(case.views(1))
    backbone, objective = parts_of(networks)
    before = {name: one.device for name, one in all_tensors(networks)}

    def loss() -> None:
        total = total_of(objective.loss(views, backbone))
        require(total.device == DEVICE, f"{case.name}: the loss is on {total.device}, not on the device of the views")

    def predict() -> None:
        if (predictor := objective.predictor(backbone)) is not None:
            predictor.predict(predictor.embed(views[0].pixels), views[0].transform.relative(views[-1].transform))

    occasions = {
        "the loss": loss,
        "after_step": lambda: objective.after_step(backbone, 1, STEPS),
        "representations": lambda: objective.representations(backbone)(views[0].pixels),
        "predictor": predict,
    }
    for occasion, compute in occasions.items():
        with gpu, torch.no_grad():
            said = left_on_host(compute)
        require(said is None, f"{case.name}: on a GPU, {occasion} mixes tensors of the device and of the host: {said}")
    astray = [name for name, one in all_tensors(networks) if one.device != before[name]]
    require(not astray, f"{case.name}: on a GPU, {', '.join(astray)} changes its device")


@dataclass(frozen=True)
class _Trace:
    """The results of two steps of training."""

    losses: list[float]
    gradients: dict[str, Tensor]
    buffers: dict[str, Tensor]


def _trace(case: Case) -> _Trace:
    networks = case.build().double()
    if is_distributed():
        for part in parts_of(networks):
            synchronise_batch_norm(part, torch.device("cpu"))
    before_epoch(networks)
    share = BATCH // world_size()
    losses = []
    for step in (1, 2):
        views = case.views(step, dtype=torch.float64)
        rows = torch.arange(rank() * share, (rank() + 1) * share)
        mine = Views(
            tuple(View(view.pixels[rows], view.transform.select(rows)) for view in views.views),
            views.index[rows],
            None if views.shown is None else views.shown[:, rows],
            None if views.labels is None else views.labels[rows],
        )
        losses.append(float(step_of(networks, mine, step, _average if is_distributed() else None)))
    gradients = {name: one.grad for name, one in networks.named_parameters() if one.grad is not None}
    return _Trace(losses, gradients, dict(networks.named_buffers()))


def _average(gradient: Tensor) -> None:
    dist.all_reduce(gradient)
    gradient.div_(dist.get_world_size())


def _check_distributed(case: Case) -> None:
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
            require(equal, f"{case.name}: the loss is {numbers}; gather what the loss takes a statistic of")
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
