"""The life cycle that all memories share."""

from typing import Any

import torch
from torch import Tensor, nn


class Memory(nn.Module):
    """State that an objective keeps between steps.

    Its buffers are persistent, so a checkpoint holds them. They are equal on all processes, because every process takes
    in the same rows: those of the global batch. New rows wait until the step is done, because the gradient still needs
    the old memory; so no loss has to copy it, and all micro-batches of a step read the same memory. Loading a state
    dict drops the rows that wait.

    A subclass has a method that gathers new rows and passes them to `_wait`, and it defines `_take_in`. If it caches
    what it computes from its buffers, it extends `forget`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._waiting: list[tuple[Tensor, ...]] = []
        # A function of the module and no bound method: a deep copy of the module would call that of the original.
        self.register_load_state_dict_post_hook(_forget)  # type: ignore[no-untyped-call]

    def _wait(self, *rows: Tensor) -> None:
        """Keep rows, which must be equal on all processes, until `flush`."""
        self._waiting.append(rows)

    @property
    def waits(self) -> bool:
        """Whether rows wait."""
        return bool(self._waiting)

    @torch.no_grad()
    def flush(self) -> Any:
        """Take in all rows that wait, in the order in which they came. Call it in `after_step`."""
        waiting, self._waiting = self._waiting, []
        return self._take_in(waiting) if waiting else ()

    def _take_in(self, waiting: list[tuple[Tensor, ...]]) -> Any:
        """Change the buffers by the rows that waited, one tuple for every call of `_wait`."""
        raise NotImplementedError(f"{type(self).__name__} has rows that wait, but no _take_in")

    def forget(self) -> None:
        """Drop the rows that wait, and all that was computed from the buffers. Loading a state dict calls it."""
        self._waiting = []


def _forget(memory: nn.Module, incompatible_keys: Any) -> None:
    assert isinstance(memory, Memory)
    memory.forget()
