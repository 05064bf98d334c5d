"""Blocks of networks that are kept in shards: every process has a part of their weights (FSDP2).

What is sharded is the blocks of every backbone, and of every teacher's copy of one, in the same way. A teacher's update
therefore needs no exchange. All other parameters are on every process as ever: stems, norms, heads and memories, whose
weights objectives read without a call of `forward`, which alone brings the shards together.
"""

import copy
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor

from ssl_inv.nn.backbones import Backbone

Result = TypeVar("Result")

_CONTAINER = re.compile(r"blocks|layers|stages|layer\d+")
"""Names of the lists of blocks in timm's models."""

_Place = tuple[nn.Module, str]
"""A list of blocks, and the name of a block in it."""


def blocks(model: nn.Module) -> list[_Place]:
    """Where the blocks of a timm model are: those of a transformer, the residual blocks of a ResNet's layers."""
    found: list[_Place] = []
    for name, child in model.named_children():
        if not (isinstance(child, nn.Sequential | nn.ModuleList) and _CONTAINER.fullmatch(name)):
            found += blocks(child)
            continue
        for number, element in child.named_children():
            if any(True for _ in element.parameters()):
                found += blocks(element) or [(child, number)]
    return found


def sharded_blocks(networks: Iterable[nn.Module]) -> list[_Place]:
    """The blocks of all backbones in some networks, each once, those of copies too."""
    models = dict.fromkeys(
        module.model for network in networks for module in network.modules() if isinstance(module, Backbone)
    )
    return list(dict.fromkeys(place for model in models for place in blocks(model)))


def shared_weight(model: nn.Module) -> str | None:
    """The name of a weight of a block that another block or layer has too; None if there is none."""
    owners: dict[nn.Parameter, int] = {}
    for _, module in model.named_modules(remove_duplicate=False):
        for one in module.parameters(recurse=False):
            owners[one] = owners.get(one, 0) + 1
    inside = {one for parent, name in blocks(model) for one in getattr(parent, name).parameters()}
    return next((name for name, one in model.named_parameters() if one in inside and owners[one] > 1), None)


class _Root(nn.Module):
    """All blocks. Within a call of their root, each gathers its weights while the one before computes."""

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, function: Callable[[], Any]) -> None:
        # Nothing is returned, because FSDP2 would hook itself to its gradient.
        function()


def _with_own_memory(module: nn.Module, inputs: Any, output: Any) -> Any:
    """Copy an output that is a view, as that of Swin's blocks: what is done to it in place would undo FSDP2's hooks."""
    return output.clone() if isinstance(output, Tensor) and output._is_view() else output


class Shards:
    """The blocks of some networks, each in shards over the processes of a group.

    In each network, a copy in shards takes the place of a block. The block itself keeps its modules and gives up its
    weights until `restore`.

    Args:
        networks: changed in place. Their weights must be equal on all processes.
        device: of this process; the shards are moved there.
    """

    def __init__(self, networks: Sequence[nn.Module], device: torch.device) -> None:
        group = dist.group.WORLD
        assert group is not None
        self.mesh = DeviceMesh.from_group(group, device.type)
        self.replaced: dict[nn.Parameter, nn.Parameter] = {}
        """The parameter in shards that stands for one of the networks before."""
        self._originals: list[tuple[nn.Module, str, nn.Module]] = []
        copies = []
        for parent, name in sharded_blocks(networks):
            original = getattr(parent, name)
            copies.append(self._sharded(original))
            self._originals.append((parent, name, original))
            setattr(parent, name, copies[-1])
        self._root = _Root(copies)
        fully_shard(self._root, mesh=self.mesh, reshard_after_forward=False)
        # From the first call on, it is known that this is the root.
        self._root(lambda: None)

    def _sharded(self, original: nn.Module) -> nn.Module:
        block = copy.deepcopy(original)
        # A scalar cannot be in shards, nor can weights with channels last.
        scalars = {one for one in block.parameters() if one.dim() == 0}
        for one in block.parameters():
            one.data = one.data.contiguous()
        block.register_forward_hook(_with_own_memory)
        fully_shard(block, mesh=self.mesh, reshard_after_forward=True, ignored_params=scalars)
        for old, new in zip(original.parameters(), block.parameters(), strict=True):
            self.replaced[old] = new
            old.data.untyped_storage().resize_(0)
        return block

    def during(self, function: Callable[[], Result]) -> Result:
        """Call a function that uses the networks with gradient. They can be used elsewhere too, but more slowly."""
        results: list[Result] = []
        self._root(lambda: results.append(function()))
        return results[0]

    @torch.no_grad()
    def restore(self) -> None:
        """Put the blocks back in the networks, with all of their weights on every process, on the host."""
        for (parent, name, original), block in zip(self._originals, self._root.blocks, strict=True):
            for old, new in zip(original.parameters(), block.parameters(), strict=True):
                old.data.untyped_storage().resize_(old.numel() * old.element_size())
                old.copy_(whole(new))
            for statistic, now in zip(original.buffers(), block.buffers(), strict=True):
                statistic.copy_(now)
            for past, present in zip(original.modules(), block.modules(), strict=True):
                past.training = present.training
            setattr(parent, name, original)

    def of(self, parameter: nn.Parameter) -> nn.Parameter:
        """What an optimiser trains in place of a parameter: its shard, or the whole, as a tensor of the same kind."""
        new = self.given(parameter)
        if not in_shards(new):
            return nn.Parameter(self.as_whole(new.detach()), new.requires_grad)
        return new

    def given(self, parameter: nn.Parameter) -> nn.Parameter:
        """What the networks have in place of a parameter."""
        return self.replaced.get(parameter, parameter)

    def as_whole(self, tensor: Tensor) -> DTensor:
        """A tensor that every process has, of the kind that shards are. It shares the memory."""
        return DTensor.from_local(tensor, self.mesh, [Replicate()], run_check=False)

    def state_of(self, parameter: nn.Parameter, state: Mapping[str, Any]) -> dict[str, Any]:
        """The part of an optimiser's state about a parameter that this process keeps.

        Args:
            parameter: by `of`.
            state: about the whole parameter.
        """
        assert isinstance(parameter, DTensor)

        def kept(name: str, value: Any) -> Any:
            if not isinstance(value, Tensor) or value.shape != parameter.shape or name == "step":
                return value
            value = value.to(parameter.device)
            if not in_shards(parameter):
                return self.as_whole(value)
            return distribute_tensor(value.contiguous(), self.mesh, parameter.placements, src_data_rank=None)

        return {name: kept(name, value) for name, value in state.items()}


def whole(state: Any, kept: bool = True) -> Any:
    """Nested state with whole tensors on the host in place of shards. All processes must ask for it.

    Args:
        state: nested mappings, lists and tuples of tensors and plain values.
        kept: whether this process keeps the tensors; another one only takes part.
    """
    if isinstance(state, DTensor):
        # A parameter has the methods of a DTensor, which only its class does not tell.
        full: Tensor = cast(Any, state).detach().full_tensor()
        return full.cpu() if kept else None
    if isinstance(state, Mapping):
        return {key: whole(value, kept) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(whole(value, kept) for value in state)
    return state


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process has."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def in_shards(tensor: Tensor) -> bool:
    """Whether this process has only a part of a tensor."""
    return isinstance(tensor, DTensor) and any(place.is_shard() for place in tensor.placements)


@torch.no_grad()
def clip_gradients(parameters: Sequence[nn.Parameter], limit: float, each: bool) -> None:
    """Scale the gradients down so that their norm, or that of each, is at most `limit`; some may be in shards."""
    gradients = [one.grad for one in parameters if one.grad is not None]
    if not any(isinstance(one, DTensor) for one in gradients):
        for some in [[one] for one in parameters] if each else [parameters]:
            nn.utils.clip_grad_norm_(some, limit)
        return
    parts = [local(one) for one in gradients]
    squared = torch.stack(torch._foreach_norm(parts)).square()
    spread = torch.tensor([in_shards(one) for one in gradients], device=squared.device)
    sums = squared * spread
    dist.all_reduce(sums)
    squared = torch.where(spread, sums, squared)
    norms = (squared if each else squared.sum().expand_as(squared)).sqrt()
    factors = (limit / (norms + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_(parts, list(factors.to(parts[0].dtype).unbind()))
