"""Objectives whose random numbers depend on how far training is."""

from torch import nn


class CountsSteps(nn.Module):
    """Keeps the number of steps done, to be set by `after_step`, in the state dict.

    On the host, as reading it from a device would wait for the device.
    """

    _steps_done: int = 0

    def get_extra_state(self) -> int:
        """The number of steps done."""
        return self._steps_done

    def set_extra_state(self, state: int) -> None:
        """Continue after so many steps."""
        self._steps_done = state
