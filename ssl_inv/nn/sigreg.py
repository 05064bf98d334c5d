"""Sketched isotropic Gaussian regularisation (SIGReg), an anti-collapse loss."""

import torch
from torch import Tensor

from ssl_inv.nn.distributed import all_sum, world_size
from ssl_inv.nn.precision import full_precision


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
