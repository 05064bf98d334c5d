"""Answers torch's random functions from seeds, one for each row of a batch, in place of torch's generators.

kornia draws whole batches from torch's global generator, so what it draws for a sample depends on the batch. Inside
`KeyedDraws` the numbers of row b depend on seed b alone, and no generator is read or moved.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ssl_inv.transforms.keyed_random import bits, random_bits

Kind: TypeAlias = Literal["rows", "batch", "position"]
"""What a draw is for: numbers of each row; numbers that the batch shares; a place in the batch, which must not matter.
"""

Arguments: TypeAlias = Mapping[str, Any]

_STRIDE = 0x632BE5AB
"""Between the keys of one draw and the next."""

_POOLED = 64
"""A draw of at most this many numbers for each row takes them from one pool, because a small draw costs as much as a
large one."""


VARIABLE = -1
"""The count of a draw that differs from batch to batch."""


class UnknownDrawError(ValueError):
    """A random function that cannot be answered from seeds."""


@dataclass(frozen=True)
class Draw:
    """One draw of an augmentation.

    Attributes:
        kind: what it is for.
        count: numbers for each row, or for the batch; or `VARIABLE`.
        arguments: what else the function was asked for, such as the bounds of whole numbers.
    """

    kind: Kind
    count: int
    arguments: tuple[Any, ...] = ()


class KeyedDraws(TorchFunctionMode):
    """While it is active, random numbers come from seeds.

    Args:
        seeds: int64, `(B,)`.
        plan: the draws to come, in their order. Behind its end, shapes are asked: a first length that is a multiple of
            B is one of rows.
        constant: in place of random numbers, the same number from 0 to 1 everywhere: the ends of ranges are found so.

    Attributes:
        draws: those so far.
    """

    def __init__(self, seeds: Tensor, plan: Sequence[Draw] = (), constant: float | None = None) -> None:
        super().__init__()
        self.seeds, self.plan, self.constant = seeds, plan, constant
        self.draws: list[Draw] = []
        self._ends: list[int] = []
        for draw in plan:
            pooled = draw.count if draw.kind == "rows" and 0 < draw.count <= _POOLED else 0
            self._ends.append((self._ends[-1] if self._ends else 0) + pooled)
        self._pools: dict[tuple[int, torch.device], Tensor] = {}

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Arguments | None = None
    ) -> Any:
        answer = _ANSWERS.get(function)
        return function(*args, **kwargs or {}) if answer is None else answer(self, args, kwargs or {})

    def uniform(self, shape: Sequence[int], dtype: Any, device: Any, arguments: tuple[Any, ...] = ()) -> Tensor:
        """Numbers from [0, 1), for the next draw."""
        shape, number, rows = tuple(shape), len(self.draws), len(self.seeds)
        dtype, device = dtype or torch.get_default_dtype(), torch.device(device or "cpu")
        total = math.prod(shape)
        kind: Kind = "rows" if shape and shape[0] and shape[0] % rows == 0 else "batch"
        kind = self.plan[number].kind if number < len(self.plan) else kind
        count = total // rows if kind == "rows" else total
        self.draws.append(Draw(kind, count, arguments))
        if self.constant is not None or kind == "position" or not total:
            return torch.full(shape, self.constant or 0.0, dtype=dtype, device=device)
        digits = 53 if dtype == torch.float64 else 24
        if number < len(self.plan) and kind == "rows" and self.plan[number].count == count <= _POOLED:
            end = self._ends[number]
            return self._pool(digits, device)[:, end - count : end].reshape(shape).to(dtype)
        seeds = (self.seeds if kind == "rows" else self.seeds[:1]).to(device)
        return unit_numbers(seeds, number, count, digits).view(shape).to(dtype)

    def _pool(self, digits: int, device: torch.device) -> Tensor:
        if (digits, device) not in self._pools:
            self._pools[digits, device] = unit_numbers(self.seeds.to(device), -1, self._ends[-1], digits)
        return self._pools[digits, device]


class NoOtherDraws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is active, a draw from a generator of torch is an `UnknownDrawError`."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Arguments | None = None
    ) -> Any:
        if torch.Tag.nondeterministic_seeded in function.tags:
            raise UnknownDrawError(f"it draws by {function}, which cannot be answered from a key")
        return function(*args, **kwargs or {})


def unit_numbers(seeds: Tensor, number: int, count: int, digits: int = 53) -> Tensor:
    """The numbers from [0, 1) that `count` numbers for each seed are in the draw of this number, `(n, count)`."""
    keys = seeds + (number + 1) * _STRIDE
    if keys.device.type == "cpu":
        # The same numbers as below. For few of them, numpy's calls cost a third of torch's.
        high = bits(keys.numpy(), count=count) >> np.uint64(64 - digits)
        numbers: Tensor = torch.from_numpy(high.astype(np.float64 if digits == 53 else np.float32))
        return numbers.mul_(2.0**-digits)
    whole = (random_bits(keys, count) >> (64 - digits)) & (2**digits - 1)
    unit: Tensor = whole.to(torch.float64 if digits == 53 else torch.float32).mul_(2.0**-digits)
    return unit


def _shape(args: Sequence[Any], kwargs: Arguments) -> Sequence[int]:
    size: Any = kwargs.get("size", args)
    return size[0] if size and isinstance(size[0], Sequence | torch.Size) else size


def _like(mode: KeyedDraws, tensor: Tensor, dtype: Any = None) -> Tensor:
    return mode.uniform(tensor.shape, dtype or tensor.dtype, tensor.device)


def _normal_numbers(unit: Tensor, dtype: Any) -> Tensor:
    """Standard normal numbers: the inverse of their distribution function at uniform ones."""
    numbers: Tensor = torch.special.ndtri(unit.clamp(2.0**-25, 1 - 2.0**-25)).to(dtype)
    return numbers


def _two_of(args: Sequence[Any], kwargs: Arguments) -> tuple[Any, Any]:
    """The two numbers of a distribution, behind the tensor to be filled; they are 0 and 1 where not given."""
    given = [*args[1:], *kwargs.values()]
    low, high = (*given, *(0.0, 1.0)[len(given) :])[:2]
    return low, high


def _rand(mode: KeyedDraws, args: Sequence[Any], kwargs: Arguments) -> Tensor:
    return mode.uniform(_shape(args, kwargs), kwargs.get("dtype"), kwargs.get("device"))


def _rand_like(mode: KeyedDraws, args: Sequence[Any], kwargs: Arguments) -> Tensor:
    dtype, device = kwargs.get("dtype") or args[0].dtype, kwargs.get("device") or args[0].device
    return mode.uniform(args[0].shape, dtype, device)


def _uniform(mode: KeyedDraws, args: Sequence[Any], kwargs: Arguments) -> Tensor:
    low, high = _two_of(args, kwargs)
    filled: Tensor = args[0].copy_(low + (high - low) * _like(mode, args[0]))
    return filled


def _randn(mode: KeyedDraws, args: Sequence[Any], kwargs: Arguments) -> Tensor:
    unit = mode.uniform(_shape(args, kwargs), torch.float64, kwargs.get("device"))
    return _normal_numbers(unit, kwargs.get("dtype") or torch.get_default_dtype())


def _randn_like(mode: KeyedDraws, args: Sequence[Any], kwargs: Arguments) -> Tensor:
    return _normal_numbers(_like(mode, args[0], torch.float64), kwargs.get("dtype") or args[0].dtype)


def _normal_in_place(mode: KeyedDraws, args: Sequence[Any], kwargs: Arguments) -> Tensor:
    mean, deviation = _two_of(args, kwargs)
    drawn = _normal_numbers(_like(mode, args[0], torch.float64), args[0].dtype)
    filled: Tensor = args[0].copy_(mean + deviation * drawn)
    return filled


def _normal(mode: KeyedDraws, args: Sequence[Any], kwargs: Arguments) -> Tensor:
    mean, deviation = (*args, *(0.0, 1.0)[len(args) :])[:2]
    whole = torch.as_tensor(mean) + torch.as_tensor(deviation)
    shape = kwargs.get("size", whole.shape)
    unit = mode.uniform(shape, torch.float64, whole.device)
    drawn: Tensor = mean + deviation * _normal_numbers(unit, whole.dtype)
    return drawn


def _bernoulli(mode: KeyedDraws, args: Sequence[Any], kwargs: Arguments) -> Tensor:
    happens: Tensor = (_like(mode, args[0], torch.float64) < args[0]).to(args[0].dtype)
    return happens


def _bernoulli_in_place(mode: KeyedDraws, args: Sequence[Any], kwargs: Arguments) -> Tensor:
    probability = args[1] if len(args) > 1 else kwargs.get("p", 0.5)
    filled: Tensor = args[0].copy_(_like(mode, args[0], torch.float64) < probability)
    return filled


def _randint(mode: KeyedDraws, args: Sequence[Any], kwargs: Arguments) -> Tensor:
    *ends, size = (*args, kwargs["size"]) if "size" in kwargs else args
    low, high = (*ends, kwargs["high"]) if "high" in kwargs else (0, *ends)[-2:]
    unit = mode.uniform(size, torch.float64, kwargs.get("device"), (low, high))
    whole = low + (unit * (high - low)).floor().clamp_max(high - low - 1)
    found: Tensor = whole.to(kwargs.get("dtype") or torch.int64)
    return found


def _randperm(mode: KeyedDraws, args: Sequence[Any], kwargs: Arguments) -> Tensor:
    unit = mode.uniform((args[0] if args else kwargs["n"],), torch.float64, kwargs.get("device"), ("permutation",))
    return unit.argsort(stable=True)


def _multinomial(mode: KeyedDraws, args: Sequence[Any], kwargs: Arguments) -> Tensor:
    """Without replacement: the largest log(u) / weight (Efraimidis and Spirakis, 2006)."""
    names = ("input", "num_samples", "replacement")
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    weights, count = given["input"], given["num_samples"]
    if given.get("replacement", False):
        share = weights.double().cumsum(-1) / weights.double().sum(-1, keepdim=True)
        unit = mode.uniform((*weights.shape[:-1], count), torch.float64, weights.device)
        return torch.searchsorted(share, unit, right=True).clamp_max(weights.shape[-1] - 1)
    unit = _like(mode, weights, torch.float64).clamp_min(2.0**-54)
    order = torch.where(weights > 0, unit.log() / weights.double().clamp_min(1e-300), -math.inf)
    return order.topk(count, dim=-1).indices


_ANSWERS: dict[Any, Callable[[KeyedDraws, Sequence[Any], Arguments], Tensor]] = {
    torch.rand: _rand,
    torch.rand_like: _rand_like,
    torch.Tensor.uniform_: _uniform,
    torch.randn: _randn,
    torch.randn_like: _randn_like,
    torch.Tensor.normal_: _normal_in_place,
    torch.normal: _normal,
    torch.bernoulli: _bernoulli,
    torch.Tensor.bernoulli: _bernoulli,
    torch.Tensor.bernoulli_: _bernoulli_in_place,
    torch.randint: _randint,
    torch.randperm: _randperm,
    torch.multinomial: _multinomial,
    torch.Tensor.multinomial: _multinomial,
}
