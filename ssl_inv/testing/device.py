"""A pretended GPU: code runs on it without numbers, and a tensor left on the host by mistake is found.

It is the only proof on a machine without a GPU that training leaves nothing on the host. torch's meta device is no
replacement: a matrix product there takes a tensor of the host without an error. torch's fake tensors have the shapes,
types and device rules of a GPU. Their class is private to torch, and only this file uses it.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.overrides import TorchFunctionMode

from ssl_inv.views import View, Views

_Module = TypeVar("_Module", bound=nn.Module)

DEVICE = torch.device("cuda", 0)


class NeedsNumbersError(Exception):
    """The next line depends on the values of tensors, which a pretended GPU does not have."""


class PretendedGPU(TorchFunctionMode):
    """Tensors on `cuda` have shapes, types and a device, but no values. Tensors of the host are computed as ever.

    If a tensor of the device meets one of the host, torch raises what it raises on a GPU. If the host asks for a value,
    or a shape that depends on values, which is allowed on a GPU, a `NeedsNumbersError` or torch's exception for it ends
    the code. There is no backward pass: its tensors are on the device of the forward pass.
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
        if function in (Tensor.to, Tensor.cuda):
            args = tuple(self._bare(one) for one in args)
        with self._without_values:
            return function(*args, **kwargs)

    def _bare(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or isinstance(value, FakeTensor):
            return value
        return self._without_values.from_tensor(value.detach())

    def tensor(self, tensor: Tensor) -> Tensor:
        """The tensor on the device."""
        with self:
            return tensor.to(DEVICE)

    def module(self, module: _Module) -> _Module:
        """The module, changed in place, with everything on the device that `module.to(device)` moves there."""
        return module._apply(self.tensor)  # type: ignore[no-untyped-call, no-any-return]

    def views(self, views: Views) -> Views:
        """Views as the engine passes them on: pixels and transforms on the device, sample numbers on the host."""
        return Views(
            tuple(View(self.tensor(one.pixels), one.transform.map(self.tensor)) for one in views.views),
            views.index,
            views.shown,
            None if views.labels is None else self.tensor(views.labels),
        )


def all_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """All parameters and buffers, also shared ones and those that are not saved."""
    for prefix, part in module.named_modules():
        for name, one in (*part._parameters.items(), *part._buffers.items()):
            if one is not None:
                yield f"{prefix}.{name}", one


def _is_away(one: Any) -> bool:
    return isinstance(one, FakeTensor) or (isinstance(one, torch.device | str) and str(one).startswith("cuda"))


def left_on_host(compute: Callable[[], object]) -> str | None:
    """Run something in a `PretendedGPU`.

    It ends early if values are needed, or a real device, as for a generator of random numbers there.

    Returns:
        What torch says if tensors of two devices meet, or None.
    """
    with suppress(NeedsNumbersError, DataDependentOutputException, DynamicOutputShapeException):
        try:
            compute()
        except (RuntimeError, TypeError) as error:
            said = str(error)
            if "on the same device" in said or "device type tensor to numpy" in said:
                return said.splitlines()[0]
            if "CUDA" not in said and "NVIDIA" not in said:
                raise
    return None
