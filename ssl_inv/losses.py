"""Loss terms that several objectives share: pure functions of embeddings.

Every function takes the embeddings of one process and gathers them itself, so its value and its gradient are those of the global batch.
Embeddings are brought to float32 first: squares of half-precision embeddings overflow.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_inv.distributed import gather


def _full(embedding: Tensor) -> Tensor:
    """At least float32, whatever autocast made of it."""
    return embedding.float() if embedding.dtype in (torch.float16, torch.bfloat16) else embedding


def mean_squared_error(x: Tensor, y: Tensor) -> Tensor:
    """Mean over samples and dimensions of (x - y)^2, for `x` and `y` of shape `(B, D)`."""
    return F.mse_loss(gather(_full(x)), gather(_full(y)))


def variance(z: Tensor) -> Tensor:
    """Hinge that keeps the standard deviation of every dimension of `z`, `(B, D)`, above one.

    V(z) = mean_d max(0, 1 - sqrt(Var_d + 1e-4)), unbiased variance (Bardes et al., "VICReg", ICLR 2022, eq. 1).
    """
    return F.relu(1 - (gather(_full(z)).var(dim=0) + 1e-4).sqrt()).mean()


def covariance(z: Tensor) -> Tensor:
    """Mean per dimension of the squared covariances between different dimensions of `z`, `(B, D)`.

    C(z) = (1 / D) sum_{i != j} Cov_ij^2 (VICReg, eq. 3 and 4). Computed in float32 under autocast too.
    """
    z = gather(_full(z))
    with torch.autocast(z.device.type, enabled=False):
        z = z - z.mean(dim=0)
        matrix = z.T @ z / (len(z) - 1)
        return (matrix.square().sum() - matrix.diagonal().square().sum()) / z.shape[1]


def nt_xent(x: Tensor, y: Tensor, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross entropy over the 2B rows of `x` and `y`, both `(B, D)`.

    Row b of `x` and row b of `y` are each other's positive; the other 2B - 2 rows of the global batch are negatives (Chen et al., "SimCLR",
    ICML 2020, eq. 1).
    """
    x, y = gather(_full(x)), gather(_full(y))
    with torch.autocast(x.device.type, enabled=False):
        z = F.normalize(torch.cat((x, y)), dim=1)
        logits = z @ z.T / temperature
        logits = logits.masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), float("-inf"))
        positives = torch.arange(len(z), device=z.device).roll(len(x))
        return F.cross_entropy(logits, positives)
