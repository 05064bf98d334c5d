"""Random directions that all processes agree on, new ones for every optimiser step."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_inv.catalogue import require_at_least
from ssl_inv.nn.distributed import all_sum, world_size
from ssl_inv.nn.precision import full_precision
from ssl_inv.transforms import keyed_random


class RandomDirections(nn.Module):
    """Unit vectors that depend on a seed and the number of the step alone, so that processes have the same without a
    message.

    An objective that has some calls `advance` in `after_step`. The step is saved with the objective; the micro-batches
    of one step share their directions. CPU and GPU draw different ones.

    Args:
        count: how many.
        seed: decides them.

    Raises:
        ValueError: if `count` is below 1.
    """

    step: Tensor

    def __init__(self, count: int, seed: int = 0) -> None:
        super().__init__()
        require_at_least(1, directions=count)
        self.count, self.seed = count, seed
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        # The same on the host: reading the buffer would wait for all that the device still has to do.
        self._host_step: int | None = 0
        self.register_load_state_dict_post_hook(_read_step_again)  # type: ignore[no-untyped-call]

    def advance(self, step: int) -> None:
        """Draw for optimiser step `step` + 1 from now on, the first step being 1."""
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
    """How far embeddings are from standard normal ones: sketched isotropic Gaussian regularisation, an anti-collapse
    term.

    Along every direction s the characteristic function of the N embeddings of the global batch, phi_s(t) = mean_n exp(i
    t s . z_n), is compared with that of the normal distribution (the test of Epps and Pulley, 1983):

        SIGReg(z) = mean_s N integral |phi_s(t) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) dt,

    by the trapezoid rule on [0, reach], doubled as the integrand is even (Balestriero, LeCun, "LeJEPA", 2025, arXiv
    2511.08544). It has a gradient everywhere, however small the batch. The values of B x S x nodes cosines and sines
    exist at once.

    Args:
        z: `(B, D)`, or several such `(V, B, D)`, each of which is a sample of its own; the mean over these is given.
        directions: unit vectors `(D, S)`, the same on all processes, and others in every step.
        nodes: points of the trapezoid rule.
        reach: the largest t.
        scale_by_batch: whether N stands before the integral, as in the paper. Normal embeddings then give the same
            value whatever N, and the same distance from normality weighs N times as much; without, a weight means the
            same for every batch size.
    """
    z = full_precision(z)
    with torch.autocast(z.device.type, enabled=False):
        # At t = 0 all characteristic functions are one: the first node adds nothing.
        t = torch.linspace(0, reach, nodes, dtype=z.dtype, device=z.device)[1:]
        angles = (z @ directions).unsqueeze(-1) * t
        count = z.shape[-2] * world_size()
        real, imaginary = all_sum(torch.stack((angles.cos().sum(dim=-3), angles.sin().sum(dim=-3)))) / count
        normal = (-t.square() / 2).exp()
        weights = torch.full_like(t, 2 * reach / (nodes - 1))
        weights[-1] /= 2
        distances: Tensor = ((real - normal).square() + imaginary.square()) @ (weights * normal)
        return distances.mean() * (count if scale_by_batch else 1)
