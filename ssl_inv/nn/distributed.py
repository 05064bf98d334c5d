"""Collectives with gradients: gathered embeddings, summed statistics.

The loss and the gradient on W processes with B/W samples each equal those of one process with B samples. Through a
collective with a gradient, every process differentiates the sum of all W losses. Each process has the whole loss, so
that sum is W times the loss. DDP averages the gradients over processes, which removes the factor W.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


def is_distributed() -> bool:
    """Whether a process group of more than one process is running."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def world_size() -> int:
    """The number of processes; 1 without a process group."""
    return dist.get_world_size() if is_distributed() else 1


def rank() -> int:
    """The number of this process; 0 without a process group."""
    return dist.get_rank() if is_distributed() else 0


def processes_here() -> int:
    """The number of processes on this machine, as far as their launcher says."""
    return min(world_size(), int(os.environ.get("LOCAL_WORLD_SIZE", world_size())))


_hosts: tuple[Any, Any] = (None, None)
"""The process group, and the one of its hosts."""


def _host_group() -> Any:
    """A group over all processes that exchanges host memory, whatever the device. All of them must ask for it."""
    global _hosts
    if _hosts[0] is not dist.group.WORLD:
        _hosts = dist.group.WORLD, dist.new_group(backend="gloo", timeout=timedelta(days=1))
    return _hosts[1]


def wait_for_first() -> None:
    """Wait until rank 0 comes here too, and the others.

    Rank 0 clusters millions of images for hours, which no collective of ten minutes can wait for. Without this, a
    collective on a device would begin its time limit when the other ranks ask for it.
    """
    if is_distributed():
        dist.barrier(group=_host_group())


def from_first(state: Any) -> Any:
    """The nested state of rank 0 on all processes, through the hosts, one tensor at a time.

    Args:
        state: nested mappings, lists and tuples of tensors and plain values; only that of rank 0 counts.
    """
    if not is_distributed():
        return state
    tensors: list[Tensor] = []
    told = [_outline(state, tensors) if rank() == 0 else None]
    dist.broadcast_object_list(told, src=0, group=_host_group())
    return _filled(told[0], iter(tensors) if rank() == 0 else None)


class _Outlined(NamedTuple):
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


def _outline(state: Any, tensors: list[Tensor]) -> Any:
    """The state with descriptions in place of its tensors, which are put into a list in order."""
    if isinstance(state, Tensor):
        # What is not dense, such as an expanded tensor, has no memory of its own to fill.
        kept = state.detach().cpu()
        tensors.append(kept if _is_dense(kept) else kept.contiguous())
        return _Outlined(tuple(tensors[-1].shape), tensors[-1].stride(), state.dtype)
    if isinstance(state, Mapping):
        return {key: _outline(value, tensors) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(_outline(value, tensors) for value in state)
    return state


def _is_dense(tensor: Tensor) -> bool:
    return torch.empty_like(tensor).stride() == tensor.stride()


def _filled(outline: Any, tensors: Iterator[Tensor] | None) -> Any:
    if isinstance(outline, _Outlined):
        shape, stride, dtype = outline
        tensor = torch.empty_strided(shape, stride, dtype=dtype) if tensors is None else next(tensors)
        memory = tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8)
        if len(memory):
            dist.broadcast(memory, src=0, group=_host_group())
        return tensor
    if isinstance(outline, Mapping):
        return {key: _filled(value, tensors) for key, value in outline.items()}
    if isinstance(outline, list | tuple):
        return type(outline)(_filled(value, tensors) for value in outline)
    return outline


def smallest(values: Tensor) -> Tensor:
    """The smallest that any process has of each value, which may be bool."""
    if not is_distributed():
        return values
    found = values.to(torch.int32) if values.dtype == torch.bool else values.clone()
    dist.all_reduce(found, dist.ReduceOp.MIN)
    return found.to(values.dtype)


class Agreement:
    """The largest number that any process has, known to all at the same step.

    It is asked for once a step, on all processes, and tells what they had at the step before. So nobody waits for the
    exchange, and it waits for no device.
    """

    def __init__(self) -> None:
        self._pending: tuple[Tensor, Any] | None = None

    def exchange(self, own: int) -> int:
        """Tell the others a number; returns the largest of the step before, 0 at the first step."""
        if not is_distributed():
            return own
        found = self.last()
        value = torch.tensor([own])
        self._pending = value, dist.all_reduce(value, dist.ReduceOp.MAX, group=_host_group(), async_op=True)
        return found

    def last(self) -> int:
        """Wait for the last exchange, and give its number."""
        if self._pending is None:
            return 0
        value, work = self._pending
        work.wait()
        self._pending = None
        return int(value)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # A copy: the same tensor may be the gradient of something else too.
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone().contiguous()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone().contiguous()
        dist.all_reduce(total)
        return total


def gather(tensor: Tensor) -> Tensor:
    """The rows of all processes in rank order, `(W B, ...)` from `(B, ...)`, with gradient. B is equal on all
    processes.
    """
    return _Gather.apply(tensor) if is_distributed() else tensor


def all_names(names: Iterable[str]) -> list[str]:
    """The names from all processes, each once, in rank order. Slow; the result is equal on all processes."""
    if not is_distributed():
        return list(names)
    found: list[list[str] | None] = [None] * world_size()
    dist.all_gather_object(found, list(names))
    return list(dict.fromkeys(name for some in found for name in some or ()))


def all_sum(tensor: Tensor) -> Tensor:
    """The sum over processes, with gradient."""
    return _Sum.apply(tensor) if is_distributed() else tensor
