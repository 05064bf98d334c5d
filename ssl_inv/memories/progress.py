"""How far training is."""

from typing import Any

from torch import nn


class Progress(nn.Module):
    """Counts the optimiser steps, and keeps the count in the state dict.

    A base class for modules whose random numbers or schedules depend on the step; they call `advance` in `after_step`.
    The counts are on the host, because reading them from a device would wait for the device.

    Attributes:
        steps_done: the number of steps done.
        share_done: the share of all steps that is done, from 0 to 1.
    """

    steps_done: int = 0
    share_done: float = 0.0

    def advance(self, step: int, steps: int) -> None:
        """Note that step `step` of `steps` is done; the first is 1."""
        self.steps_done, self.share_done = step, step / steps

    def get_extra_state(self) -> Any:
        """Both counts."""
        return {"steps": self.steps_done, "progress": self.share_done}

    def set_extra_state(self, state: Any) -> None:
        """Continue from these counts. Older checkpoints hold only one: an int is the steps, a float the share."""
        if isinstance(state, dict):
            self.steps_done, self.share_done = int(state["steps"]), state["progress"]
        elif isinstance(state, float):
            self.share_done = state
        else:
            self.steps_done = state
