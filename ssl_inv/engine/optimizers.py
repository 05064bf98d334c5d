"""Optimisers, and the schedules of learning rate and weight decay for every group of parameters."""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from timm.optim._optim_factory import get_optimizer_class, get_optimizer_info
from timm.optim._param_groups import param_groups_layer_decay
from torch import nn

from ssl_inv.catalogue import (
    SettingError,
    foreign_member,
    require,
    require_above,
    require_at_least,
    suggest,
)
from ssl_inv.engine.optimizer_names import LIBRARIES, OPTIMIZERS, OWN, check_names
from ssl_inv.engine.schedules import Course, Shape
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.sharding import Shards


def make_optimizer(
    modules: Iterable[nn.Module],
    *,
    name: str = "adamw",
    lr: float = 1e-3,
    norm_and_bias_lr: float | None = None,
    weight_decay: float = 0.05,
    final_weight_decay: float | None = None,
    decay_norm_and_bias: bool = False,
    momentum: float = 0.9,
    betas: list[float] = [0.9, 0.999],
    schedule: str = "cosine",
    warmup: float = 0.05,
    warmup_lr: float = 0.0,
    final_lr: float = 0.0,
    constant_lr: list[str] = [],
    arguments: dict[str, Any] = {},
    layer_decay: float | None = None,
    schedule_arguments: dict[str, Any] = {},
) -> "Optimization":
    """An optimiser for all parameters of some modules, with its schedule.

    Args:
        modules: what is trained.
        name: `adamw`; `adam`, which adds the weight decay to the gradient; `sgd`; `lars`, for batches of thousands,
            which scales the update of every parameter that decays by the parameter's norm; any other name of timm's
            registry, such as `adamp`, `lamb`, `muon`, `adan` or `lion`; or the dotted path of a
            `torch.optim.Optimizer` of your own, such as `mine.Signum`.
        lr: highest learning rate. It is never scaled by the batch size.
        norm_and_bias_lr: highest learning rate of biases and normalisation parameters; their whole schedule is scaled
            by the ratio to `lr`, as in Barlow Twins; None is `lr`.
        weight_decay: strength of the weight decay.
        final_weight_decay: strength after the last step, reached along half a cosine, as in DINO; None keeps
            `weight_decay`.
        decay_norm_and_bias: whether biases and normalisation parameters decay too; False is usual, True is SIE's
            setting.
        momentum: for `sgd` and `lars`; others take theirs in `arguments`.
        betas: for `adamw` and `adam`; others take theirs in `arguments`.
        schedule: `cosine` falls from `lr` to `final_lr` after the warm-up; `constant` stays; `tanh`, `poly`, `step`,
            `multistep` and `wsd` (warm-up, stable, decay) are timm's.
        warmup: share of all steps in which the learning rate rises linearly from `warmup_lr`.
        warmup_lr: learning rate one warm-up step before the first step; SwAV's is 0.3.
        final_lr: learning rate after the last step of `cosine`.
        constant_lr: parts of backbone or objective whose learning rate stays at `lr` after the warm-up, such as
            `prediction` for SimSiam's predictor: the start of their parameters' names, or a pattern with `*`.
        arguments: of the optimiser's class, by name, such as `{nesterov: true}` or `{betas: [0.9, 0.99]}`.
        layer_decay: factor of the learning rate from each layer of the backbone to the layer before it, as in BEiT;
            layers are those of timm's `param_groups_layer_decay`. The objective has the full rate. None is 1.
        schedule_arguments: of timm's class of the schedule, by name, such as `{decay_t: 0.2}` for `wsd`, or
            `{t_initial: 0.25, cycle_limit: 4}` for four cosines. Times are steps, and below 1 shares of the steps after
            the warm-up.

    Raises:
        SettingError: if a name is unknown, a number is out of its range, an optimiser refuses its arguments, no
            parameter has a name that `constant_lr` asks for, or the backbone does not tell its layers.
    """
    check_names(name, schedule)
    require_above(0, lr=lr, norm_and_bias_lr=lr if norm_and_bias_lr is None else norm_and_bias_lr)
    require(0 <= warmup < 1, "warmup", f"must be a share of all steps from 0 to below 1, got {warmup}")
    for setting, rate in (("warmup_lr", warmup_lr), ("final_lr", final_lr)):
        require(0 <= rate <= lr, setting, f"must lie between 0 and lr, {lr}, got {rate}")
    require(not warmup_lr or warmup > 0, "warmup_lr", f"{warmup_lr}, but warmup is 0: the learning rate never rises")
    require(
        len(betas) == 2 and all(0 <= beta < 1 for beta in betas),
        "betas",
        f"must be two numbers from 0 to below 1, got {list(betas)}",
    )
    require(0 <= momentum < 1, "momentum", f"must be at least 0 and below 1, got {momentum}")
    by_betas, other = name in ("adamw", "adam"), "takes its own in `arguments`"
    instead = "has betas instead" if by_betas else other
    require(name in ("sgd", "lars") or momentum == 0.9, "momentum", f"{momentum}, but {name} {instead}")
    usual, instead = list(betas) == [0.9, 0.999], "has momentum instead" if name in OWN else other
    require(by_betas or usual, "betas", f"{list(betas)}, but {name} {instead}")
    require(
        layer_decay is None or 0 < layer_decay <= 1, "layer_decay", f"must be above 0 and up to 1, got {layer_decay}"
    )
    final_decay = weight_decay if final_weight_decay is None else final_weight_decay
    require_at_least(0, weight_decay=weight_decay, final_weight_decay=final_decay)
    falls, modules = schedule != "constant", list(modules)
    require(falls or not schedule_arguments, "schedule_arguments", "a constant schedule has none")
    timms = falls and (schedule != "cosine" or bool(schedule_arguments))
    shape = Shape(schedule, _as_items(schedule_arguments)) if timms else None
    ends = shape.falls_to_an_end if shape else falls
    reason = "falls by its decay_rate" if falls else "does not fall"
    require(ends or not final_lr, "final_lr", f"{final_lr}, but a {schedule} schedule {reason}")
    require(
        falls or not constant_lr, "constant_lr", f"{constant_lr}, but no learning rate of a constant schedule falls"
    )
    course = Course(lr, warmup, warmup_lr, final_lr if falls else lr, weight_decay, final_decay, shape=shape)
    scales = {} if layer_decay is None else layer_scales(modules, layer_decay)
    parts = parameter_groups(modules, course, norm_and_bias_lr, decay_norm_and_bias, constant_lr, scales)
    made = _make(name, parts, lr, momentum, betas, arguments)
    return Optimization(made, course, [one for _, one in parts])


def _as_items(arguments: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple((key, _as_tuples(value)) for key, value in arguments.items())


def layer_scales(modules: Iterable[nn.Module], layer_decay: float) -> dict[nn.Parameter, float]:
    """The factor of the learning rate of every parameter of the backbones among some modules.

    Raises:
        SettingError: if there is no backbone, or its model does not tell its layers.
    """
    models = [module.model for module in modules if isinstance(module, Backbone)]
    told = bool(models) and all(hasattr(model, "group_matcher") for model in models)
    require(told, "layer_decay", f"{layer_decay}, but the backbone does not tell its layers: it has no `group_matcher`")
    groups = [group for model in models for group in param_groups_layer_decay(model, layer_decay=layer_decay)]
    return {parameter: group["lr_scale"] for group in groups for parameter in group["params"]}


def _make(
    name: str,
    parts: "Sequence[tuple[list[nn.Parameter], Course]]",
    lr: float,
    momentum: float,
    betas: Sequence[float],
    arguments: Mapping[str, Any],
) -> torch.optim.Optimizer:
    kind, own = _kind_of(name)
    if name in ("adamw", "adam"):
        own = {"betas": (betas[0], betas[1]), "fused": True}
    elif name in ("sgd", "lars"):
        # Fused SGD fails if only some parameters of a group have momentum yet, as after a step that held the others.
        own = {"momentum": momentum}
    known = [one for one in inspect.signature(kind).parameters if one != "params"]
    for key in arguments:
        way = f"arguments.{key}"
        elsewhere = key in ("lr", "weight_decay") or (name in OWN and key in ("betas", "momentum"))
        require(not elsewhere, way, f"optimizer.{key} says it")
        require(key in known, way, f"{name} has no such argument; {suggest(key, known)}")
    decays = "weight_decay" in known or all(not course.weight_decay for _, course in parts)
    require(decays, "weight_decay", f"{name} has none; set it to 0")
    groups = [_group(parameters, course, known, arguments) for parameters, course in parts]
    given = {**own, **{key: _as_tuples(value) for key, value in arguments.items()}}
    try:
        if name not in OPTIMIZERS:
            _require_steps(kind, {"lr": lr, **given})
        optimizer: torch.optim.Optimizer = kind(groups, lr=lr, **given)
    except Exception as error:  # Somebody else's class can raise anything.
        problem = " ".join(str(error).split())
        raise SettingError("arguments", f"{name} cannot train with its arguments: {problem}") from error
    return optimizer


def _group(
    parameters: list[nn.Parameter], course: Course, known: Sequence[str], arguments: Mapping[str, Any]
) -> dict[str, Any]:
    group: dict[str, Any] = {"params": parameters, "weight_decay": course.weight_decay}
    if "always_adapt" in known and "always_adapt" not in arguments:
        # By default, timm's LARS and LAMB scale by norms only if the weight decay is not 0.
        group["always_adapt"] = course.decays
    if "corrected_weight_decay" in known:
        group["max_lr_snapshot"] = course.lr
    return group


def _kind_of(name: str) -> tuple[Any, dict[str, Any]]:
    """The class of an optimiser, and the arguments that timm gives it under this name."""
    if name in OPTIMIZERS:
        info = get_optimizer_info(name)
        usual = {"momentum": 0.9} if info.has_momentum else {}
        return get_optimizer_class(name, bind_defaults=False), {**usual, **(info.defaults or {})}
    kind = foreign_member("optimizer", name, "torch.optim:Optimizer", LIBRARIES).load()
    require(inspect.isclass(kind), "name", f"{name!r} does not derive from torch.optim.Optimizer")
    return kind, {}


def _require_steps(kind: Any, arguments: Mapping[str, Any]) -> None:
    """Let an optimiser that nobody has tried take one step, as training asks for it: without a loss to evaluate."""
    parameter = nn.Parameter(torch.ones(2, 2))
    parameter.grad = torch.ones(2, 2)
    # Two groups, because weights and biases have their own.
    other = nn.Parameter(torch.ones(2))
    other.grad = torch.ones(2)
    kind([{"params": [parameter]}, {"params": [other]}], **arguments).step()


def _as_tuples(value: Any) -> Any:
    return tuple(_as_tuples(one) for one in value) if isinstance(value, list) else value


def parameter_groups(
    modules: Iterable[nn.Module],
    course: Course,
    norm_and_bias_lr: float | None,
    decay_norm_and_bias: bool,
    constant_lr: Sequence[str],
    scales: Mapping[nn.Parameter, float],
) -> list[tuple[list[nn.Parameter], Course]]:
    """All trainable parameters in groups of one schedule each. The group of `course` itself comes first.

    Biases and normalisation parameters are the parameters with at most one dimension. `scales` are factors of the
    learning rate. The other arguments are those of `make_optimizer`.

    Raises:
        SettingError: if a pattern of `constant_lr` matches no name.
    """
    parameters = [both for module in modules for both in module.named_parameters() if both[1].requires_grad]
    names = [name for name, _ in parameters]
    for pattern in constant_lr:
        if not any(_matches(name, pattern) for name in names):
            parts = dict.fromkeys(".".join(name.split(".")[:depth]) for depth in (1, 2, 3, 4) for name in names)
            what = f"no trained parameter's name begins with {pattern!r}"
            raise SettingError("constant_lr", f"{what}; {suggest(pattern, parts)}")
    groups: dict[Course, list[nn.Parameter]] = {course: []}
    for name, parameter in parameters:
        own = course
        if parameter.dim() <= 1:
            own = own if norm_and_bias_lr is None else own.scaled(norm_and_bias_lr / course.lr)
            own = own if decay_norm_and_bias else own.without_decay()
        if any(_matches(name, pattern) for pattern in constant_lr):
            own = own.without_fall()
        if parameter in scales:
            own = own.scaled(scales[parameter])
        groups.setdefault(own, []).append(parameter)
    return [(some, own) for own, some in groups.items() if some]


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


class Optimization:
    """An optimiser and the schedules of its groups of parameters.

    Args:
        optimizer: has one group of parameters for each of `courses`.
        course: the schedule of ordinary parameters.
        courses: the schedules of the groups.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, course: Course, courses: Sequence[Course]) -> None:
        self.optimizer, self.course, self.courses = optimizer, course, courses
        self._shards: Shards | None = None
        self._wholes: list[tuple[nn.Parameter, nn.Parameter]] = []
        """What the optimiser trains in place of a whole parameter, and that parameter."""

    def shard(self, shards: Shards) -> None:
        """Train shards in place of whole parameters, and keep of the optimiser's state what is about them."""
        self._shards, state = shards, self.optimizer.state
        for group in self.optimizer.param_groups:
            trained = []
            for parameter in group["params"]:
                instead = shards.of(parameter)
                if parameter in state:
                    state[instead] = shards.state_of(instead, state.pop(parameter))
                if (given := shards.given(parameter)) is not instead:
                    self._wholes.append((instead, given))
                trained.append(instead)
            group["params"] = trained

    def take_gradients(self) -> None:
        """Give the optimiser the gradients of a step."""
        for instead, given in self._wholes:
            assert self._shards is not None
            instead.grad = None if given.grad is None else self._shards.as_whole(given.grad)

    def forget_gradients(self) -> None:
        """Remove all gradients."""
        self.optimizer.zero_grad(set_to_none=True)
        for _, given in self._wholes:
            given.grad = None

    def load(self, state: dict[str, Any]) -> None:
        """Take up the optimiser's state of a checkpoint."""
        self.optimizer.load_state_dict(state)
        for parameter, own in self.optimizer.state.items():
            for name, value in own.items():
                alike = isinstance(value, torch.Tensor) and value.shape == parameter.shape
                if alike and value.stride() != parameter.stride():
                    # Shards are kept without channels last, and fused optimisers read the memory as it lies.
                    own[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)

    def rate(self, step: int, total: int) -> float:
        """The learning rate of ordinary parameters in step `step`, counted from 0, of `total`."""
        return self.course.rate(step, total)

    def set_rate(self, step: int, total: int) -> None:
        """Set learning rate and weight decay of step `step` of `total` in every group."""
        for group, course in zip(self.optimizer.param_groups, self.courses, strict=True):
            group["lr"], group["weight_decay"] = course.rate(step, total), course.decay(step, total)
