"""The losses and heads of lightly, with checked settings, saved state, and random numbers from a key."""

import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_type_hints

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ssl_inv.catalogue import SettingError, require, suggest
from ssl_inv.nn.lightly_table import KINDS, Kind

_WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
_SET_HERE = {
    "gather_distributed": "is set here, so that the loss is that of the global batch",
    "sinkhorn_gather_distributed": "is set here, so that the loss is that of the global batch",
    "input_dim": "follows from the backbone",
    "num_samples": "follows from views",
    "warmup_teacher_temp": "is set here by warmup_temperature",
    "warmup_teacher_temp_epochs": "is set here by temperature_warmup, a share of all steps",
}


def losses() -> dict[str, type[nn.Module]]:
    """The classes of all losses that recipes can name; lightly 1.6 exports all but one from `lightly.loss`."""
    import lightly.loss
    from lightly.loss.hypersphere_loss import HypersphereLoss

    every = {**vars(lightly.loss), "HypersphereLoss": HypersphereLoss}
    return {name: every[name] for name in KINDS if name in every}


def heads() -> dict[str, type[nn.Module]]:
    """The projection and prediction heads of lightly by name."""
    from lightly.models.modules import heads as module

    found: dict[str, type[nn.Module]] = {name: one for name, one in vars(module).items() if name.endswith("Head")}
    return {name: one for name, one in found.items() if "input_dim" in inspect.signature(one).parameters}


def loss_arguments(name: str, kind: Kind, settings: Mapping[str, Any], width: int) -> dict[str, Any]:
    """All arguments of a loss's constructor; see `make_loss`."""
    given = {**settings, **dict.fromkeys(kind.follows, width), **kind.fixed}
    if bank := settings.get("memory_bank_size"):
        wide = min(width, settings.get("loss_dim", 64)) if name == "DirectCLRLoss" else width
        size = bank[0] if isinstance(bank, list) and bank[1:] in ([], [wide]) else bank
        require(
            type(size) is int and size > 0,
            "settings.memory_bank_size",
            f"must be a number of vectors, or that number and the head's width {wide}, got {bank!r}",
        )
        given["memory_bank_size"] = [size, wide]
    return given


def make_loss(name: str, kind: Kind, settings: Mapping[str, Any], width: int) -> nn.Module:
    """A loss of lightly.

    Its memory bank, its centre and its covariance are persistent buffers, so checkpoints hold them. In lightly, a bank
    is left out of state dicts, and TiCo's covariance is no buffer.

    Args:
        name: of the class.
        kind: how it is called.
        settings: of its constructor.
        width: of what it is given.

    Raises:
        SettingError: if it refuses a setting.
    """
    for setting, value in settings.items():
        if setting.endswith(("temperature", "temp")) and isinstance(value, int | float):
            require(value >= 0, f"settings.{setting}", f"must not be below 0, got {value}")
    own = {**dict.fromkeys(kind.follows, "follows from the head"), **_SET_HERE}
    made = _made(losses()[name], "settings", settings, loss_arguments(name, kind, settings, width), own)
    for module in made.modules():
        unused = getattr(module, "size", None) == (0,)  # a bank for no vectors, whose pointer is uninitialised memory
        for buffer, value in [*module.named_buffers(recurse=False)]:
            module.register_buffer(buffer, torch.zeros_like(value) if unused else value)  # again, as a persistent one
    if name == "TiCoLoss":
        del made.C
        made.register_buffer("C", torch.zeros(width, width))
    return made


def make_head(name: str, setting: str, settings: Mapping[str, Any], inputs: int, **fixed: Any) -> nn.Module:
    """A head of lightly.

    Args:
        name: of its class.
        setting: the setting that names it.
        settings: of its constructor.
        inputs: dimensions of what comes in.
        fixed: arguments of its constructor that follow from something else.

    Raises:
        SettingError: if there is no such head, it refuses a setting, or it cannot be run.
    """
    if name not in (known := heads()):
        raise SettingError(setting, f"lightly has no head called {name!r}; {suggest(name, known)}")
    return make_module(known[name], f"{setting}_settings", settings, {**fixed, "input_dim": inputs})


def make_module(
    made_of: type[nn.Module], setting: str, settings: Mapping[str, Any], fixed: Mapping[str, Any]
) -> nn.Module:
    """A module of lightly whose `settings` come from the setting of that name; `fixed` follow from something else."""
    own = dict.fromkeys(fixed, "follows from the rest of the recipe") | _SET_HERE
    return copyable(_made(made_of, setting, settings, {**settings, **fixed}, own))


def _made(
    made_of: type[nn.Module],
    setting: str,
    settings: Mapping[str, Any],
    given: Mapping[str, Any],
    own: Mapping[str, str],
) -> nn.Module:
    parameters = inspect.signature(made_of).parameters
    for name, value in settings.items():
        if name in own and name in parameters:
            raise SettingError(f"{setting}.{name}", own[name])
        if name not in parameters:
            others = [one for one in parameters if one not in own]
            raise SettingError(f"{setting}.{name}", f"{made_of.__name__} has no such setting; {suggest(name, others)}")
        _require_type(f"{setting}.{name}", value, get_type_hints(made_of.__init__).get(name, Any))
    with _few_warnings():
        try:
            return made_of(**given)
        except (ArithmeticError, AssertionError, RuntimeError, TypeError, ValueError) as error:
            raise SettingError(setting, f"{made_of.__name__}: {' '.join(str(error).split())}") from None


def _require_type(setting: str, value: Any, annotation: Any) -> None:
    """Raise a `SettingError` unless a value has the type that lightly's annotation asks for."""
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    config = ConfigDict(strict=True, arbitrary_types_allowed=True, allow_inf_nan=False)
    try:
        TypeAdapter(annotation, config=config).validate_python(value)
    except ValidationError:
        words = _WORDS.get(annotation, str(annotation).replace("typing.", ""))
        raise SettingError(setting, f"expected {words}, got {value!r}") from None


def width_of(head: nn.Module, inputs: int, setting: str) -> int:
    """Dimensions of what a head gives for `inputs` numbers.

    Raises:
        SettingError: for the setting that names it, if it cannot be run.
    """
    was, training = torch.zeros(2, inputs), head.training
    try:
        with torch.no_grad():
            return int(head.eval()(was).shape[-1])
    except (RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise SettingError(setting, f"{type(head).__name__} cannot be used on {inputs} features: {reason}") from None
    finally:
        head.train(training)


def copyable(module: nn.Module) -> nn.Module:
    """The module with torch's new weight normalisation in place of the old one, which cannot be copied to a teacher.

    Both parts keep their values, and what is trained.
    """
    for one in [*module.modules()]:
        if not hasattr(one, "weight_g"):
            continue
        length, direction = one.weight_g, one.weight_v
        with _few_warnings():
            nn.utils.remove_weight_norm(one)
        nn.utils.parametrizations.weight_norm(one)
        parts: Any = one.parametrizations["weight"]  # type: ignore[index]
        for part, old in ((parts.original0, length), (parts.original1, direction)):
            part.data.copy_(old.data)
            part.requires_grad_(old.requires_grad)
    return module


def last_layer(head: nn.Module) -> Iterable[nn.Parameter]:
    """The parameters of DINO's last layer, the prototypes; nothing for other heads."""
    return getattr(head, "last_layer", nn.Identity()).parameters()


class Keyed(TorchFunctionMode):
    """Within this, torch's random numbers come from a key, not from the global generator, which does not move.

    Singular values that are zero up to rounding have no gradient: their directions are arbitrary, so processes would
    disagree. MMCRLoss has such values as long as the teacher is equal to the network.

    Args:
        key: a number that all processes share.
    """

    def __init__(self, key: int) -> None:
        super().__init__()
        self._key = key
        self._generators: dict[torch.device, torch.Generator] = {}

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if function in (torch.randn, torch.rand, torch.randperm, torch.randint):
            device = torch.device(kwargs.get("device") or "cpu")
            if device not in self._generators:
                self._generators[device] = torch.Generator(device).manual_seed(self._key)
            kwargs = {**kwargs, "generator": self._generators[device]}
        made = function(*args, **kwargs)
        if function is torch.linalg.svd:
            left, values, right = made
            rounding = 8 * max(args[0].shape[-2:]) * torch.finfo(values.dtype).eps
            is_zero = values <= rounding * values.amax(dim=-1, keepdim=True)
            return left, values.masked_fill(is_zero, 0), right
        return made


def call(loss: nn.Module, key: int, *inputs: Any, **named: Any) -> Tensor:
    """The value of a loss, a scalar, in full precision and with random numbers from a key.

    Raises:
        SettingError: if the loss refuses what it is given.
    """
    device = next(iter(_tensors((inputs, named)))).device
    with _few_warnings(), torch.autocast(device.type, enabled=False), Keyed(key):
        try:
            value: Tensor = loss(*inputs, **named)
        except (AssertionError, ValueError, torch.linalg.LinAlgError) as error:  # type: ignore[attr-defined]
            raise SettingError("settings", f"{type(loss).__name__}: {' '.join(str(error).split())}") from None
    return value.reshape(())


def _tensors(values: Any) -> Iterable[Tensor]:
    """All tensors in lists, tuples and mappings."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, Mapping):
        yield from _tensors(list(values.values()))
    elif isinstance(values, list | tuple):
        for one in values:
            yield from _tensors(one)


class _few_warnings(warnings.catch_warnings):  # noqa: N801 - a context manager, named like the one that it is
    """Within this, lightly's own habits raise no warnings: old weight normalisation, tensors copied by `tensor`."""

    def __enter__(self) -> Any:
        entered = super().__enter__()
        warnings.filterwarnings("ignore", message="To copy construct from a tensor")
        warnings.filterwarnings("ignore", message=".*weight_norm", category=FutureWarning)
        return entered
