"""A GPU that is not there: code runs on it without numbers, and a tensor that was left on the host is found."""

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode

from ssl_inv.views import View, Views

_Module = TypeVar("_Module", bound=nn.Module)


DEVICE = torch.device("cuda", 0)


class NeedsNumbersError(Exception):
    """What comes next depends on values of tensors, which on a device that is not there have none."""


class PretendedGPU(TorchFunctionMode):
    """Tensors that have shapes, types and a device, and no values, while everything on the host is computed as ever.

    Within it, whatever is moved to or made on `cuda` is such a tensor. Where one of them meets a tensor of the host,
    torch raises what it would raise on a GPU. Where the host waits for a value, which on a GPU it may, this ends with a
    `NeedsNumbersError` or with torch's own `DataDependentOutputException`. There is no backward pass: its tensors are
    where those of the forward pass were.
    """

    def __init__(self) -> None:
        super().__init__()
        self._without_values = FakeTensorMode(allow_non_fake_inputs=True)

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if function is Tensor.pin_memory:
            return args[0]
        if not any(_is_away(one) for one in (*args, *kwargs.values())):
            return function(*args, **kwargs)
        if function is Tensor.numpy:
            if args[0].device.type == "cpu":
                raise NeedsNumbersError("numpy")
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        moving = function in (Tensor.to, Tensor.cuda)
        with self._without_values:
            return function(*(self._bare(one) if moving and isinstance(one, Tensor) else one for one in args), **kwargs)

    def _bare(self, tensor: Tensor) -> Tensor:
        if isinstance(tensor, FakeTensor):
            return tensor
        return self._without_values.from_tensor(tensor.detach())

    def tensor(self, tensor: Tensor) -> Tensor:
        """The tensor on the device."""
        with self:
            return tensor.to(DEVICE)

    def module(self, module: _Module) -> _Module:
        """The module, changed in place, with all that `module.to(device)` moves on the device."""
        away = dict(all_tensors(copy.deepcopy(module).to("meta")))
        moved: dict[int, Tensor] = {}

        def move(one: Tensor) -> Tensor:
            if id(one) not in moved:
                bare = self.tensor(one)
                moved[id(one)] = nn.Parameter(bare, one.requires_grad) if isinstance(one, nn.Parameter) else bare
            return moved[id(one)]

        for prefix, part in module.named_modules():
            for tensors in (part._parameters, part._buffers):
                for name, one in tensors.items():
                    if one is not None and away[f"{prefix}.{name}"].device.type == "meta":
                        tensors[name] = move(one)
        return module

    def views(self, views: Views) -> Views:
        """Views as the engine hands them over: pixels and transforms on the device, what names the samples on the host."""
        return Views(
            tuple(View(self.tensor(one.pixels), one.transform.map(self.tensor)) for one in views.views),
            views.index,
            views.shown,
        )


def all_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """All parameters and buffers, those too that stand in several places or are not saved."""
    for prefix, part in module.named_modules():
        for name, one in (*part._parameters.items(), *part._buffers.items()):
            if one is not None:
                yield f"{prefix}.{name}", one


def _is_away(one: Any) -> bool:
    return isinstance(one, FakeTensor) or (isinstance(one, torch.device | str) and str(one).startswith("cuda"))


def left_on_host(compute: Callable[[], object]) -> str | None:
    """Run something in a `PretendedGPU`; what torch says if tensors of two devices meet, or None.

    It ends early where values are needed, and where only a real device can help, as a generator of random numbers
    there.
    """
    with suppress(NeedsNumbersError, DataDependentOutputException):
        try:
            compute()
        except (RuntimeError, TypeError) as error:
            said = str(error)
            if "on the same device" in said or "device type tensor to numpy" in said:
                return said.splitlines()[0]
            if "CUDA" not in said and "NVIDIA" not in said:
                raise
    return None
