"""SIGReg: the distance of embeddings from a normal distribution, along random directions."""

import torch
from torch import Tensor

from ssl_inv.nn.distributed import all_sum, world_size
from ssl_inv.nn.losses import full_precision


def sigreg(
    z: Tensor,
    directions: Tensor,
    nodes: int = 17,
    reach: float = 3.0,
    scale_by_batch: bool = True,
    symmetric: bool = False,
) -> Tensor:
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
        symmetric: whether the nodes are on [-reach, reach], as in EB-JEPA's variant BCS, which has 10 of them and no N
            (arXiv 2602.03604). An odd number of them is the same as half as many, rounded up, on [0, reach].
    """
    z = full_precision(z)
    with torch.autocast(z.device.type, enabled=False):
        # At t = 0 all characteristic functions are 1, so the first node adds nothing.
        low, negative = (-reach, nodes - nodes // 2) if symmetric else (0.0, 1)
        t = torch.linspace(low, reach, nodes, dtype=z.dtype, device=z.device)[negative:]
        angles = (z @ directions).unsqueeze(-1) * t
        count = z.shape[-2] * world_size()
        real, imaginary = all_sum(torch.stack((angles.cos().sum(dim=-3), angles.sin().sum(dim=-3)))) / count
        normal = (-t.square() / 2).exp()
        weights = torch.full_like(t, 2 * (reach - low) / (nodes - 1))
        weights[-1] /= 2
        distances: Tensor = ((real - normal).square() + imaginary.square()) @ (weights * normal)
        return distances.mean() * (count if scale_by_batch else 1)
