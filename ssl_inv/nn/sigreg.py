"""SIGReg: the distance of embeddings from a normal distribution, along random directions."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_inv.catalogue import require_at_least
from ssl_inv.nn.distributed import all_sum, world_size
from ssl_inv.nn.precision import full_precision
from ssl_inv.transforms import keyed_random


class RandomDirections(nn.Module):
    """Unit vectors that depend only on a seed and the step, so processes agree without communication.

    The objective calls `advance` in `after_step`. The step is saved with the objective. All micro-batches of a step use
    the same directions. CPU and GPU draw different ones.

    Args:
        count: number of directions.
        seed: decides the directions.

    Raises:
        SettingError: if `count` is below 1.
    """

    step: Tensor

    def __init__(self, count: int, seed: int = 0) -> None:
        super().__init__()
        require_at_least(1, directions=count)
        self.count, self.seed = count, seed
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        # A copy on the host: reading the buffer would wait for the device.
        self._host_step: int | None = 0
        self.register_load_state_dict_post_hook(_read_step_again)  # type: ignore[no-untyped-call]

    def advance(self, step: int) -> None:
        """Use the directions of optimiser step `step` + 1 from now on; the first step is 1."""
        self.step.fill_(step)
        self._host_step = step

    def forward(self, embeddings: Tensor) -> Tensor:
        """Directions `(D, count)` for embeddings `(..., D)`, at least float32."""
        if self._host_step is None:
            self._host_step = int(self.step)
        dtype = torch.float64 if embeddings.dtype == torch.float64 else torch.float32
        key = int(keyed_random.bits(self.seed, self._host_step, count=1)[0, 0] >> 1)
        generator = torch.Generator(embeddings.device).manual_seed(key)
        shape = embeddings.shape[-1], self.count
        return F.normalize(torch.randn(shape, generator=generator, dtype=dtype, device=embeddings.device), dim=0)


def _read_step_again(module: RandomDirections, incompatible: Any) -> None:
    module._host_step = None


def sigreg(z: Tensor, directions: Tensor, nodes: int = 17, reach: float = 3.0, scale_by_batch: bool = True) -> Tensor:
    """Sketched isotropic Gaussian regularisation, an anti-collapse term: the distance of embeddings from a standard
    normal distribution.

    Along every direction s, it compares the characteristic function of the N embeddings of the global batch,
    phi_s(t) = mean_n exp(i t s . z_n), with that of the normal distribution (the test of Epps and Pulley, 1983):

        SIGReg(z) = mean_s N integral |phi_s(t) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) dt,

    by the trapezoid rule on [0, reach], doubled because the integrand is even (Balestriero, LeCun, "LeJEPA", 2025,
    arXiv 2511.08544). It has a gradient everywhere, however small the batch. B x S x nodes cosines and sines exist at
    once.

    Args:
        z: `(B, D)`; or `(V, B, D)`, V separate samples, whose mean is returned.
        directions: unit vectors `(D, S)`, equal on all processes and new in every step.
        nodes: points of the trapezoid rule.
        reach: the largest t.
        scale_by_batch: whether to multiply by N, as the paper does. Normal embeddings then have the same value for any
            N, but an equal distance from normality counts N times as much. Without it, a weight means the same for any
            batch size.
    """
    z = full_precision(z)
    with torch.autocast(z.device.type, enabled=False):
        # At t = 0 all characteristic functions are 1, so the first node adds nothing.
        t = torch.linspace(0, reach, nodes, dtype=z.dtype, device=z.device)[1:]
        angles = (z @ directions).unsqueeze(-1) * t
        count = z.shape[-2] * world_size()
        real, imaginary = all_sum(torch.stack((angles.cos().sum(dim=-3), angles.sin().sum(dim=-3)))) / count
        normal = (-t.square() / 2).exp()
        weights = torch.full_like(t, 2 * reach / (nodes - 1))
        weights[-1] /= 2
        distances: Tensor = ((real - normal).square() + imaginary.square()) @ (weights * normal)
        return distances.mean() * (count if scale_by_batch else 1)
