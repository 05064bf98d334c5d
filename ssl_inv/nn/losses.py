"""Loss terms that several objectives share: pure functions of embeddings.

Every function takes the embeddings of one process and gathers the others itself, so its value and its gradient belong
to the global batch. Embeddings become float32 first, because squares of half-precision embeddings overflow.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_inv.nn.distributed import all_sum, gather, rank, world_size

Error = Literal["smooth-l1", "squared", "absolute"]
"""The error measure of `token_error`."""


def full_precision(tensor: Tensor) -> Tensor:
    """The tensor in at least float32: in half precision, squares overflow and long sums lose their digits."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def in_full_precision(layer: nn.Module, *parts: Tensor) -> Tensor:
    """A layer on concatenated parts, in the precision of its weights: bfloat16 would round a rotation to a fifth of a
    degree.
    """
    with torch.autocast(parts[0].device.type, enabled=False):
        dtype = next(layer.parameters()).dtype
        return layer(torch.cat([part.to(dtype) for part in parts], dim=-1))  # type: ignore[no-any-return]


def mean_squared_error(x: Tensor, y: Tensor) -> Tensor:
    """Mean over samples and dimensions of (x - y)^2; both `(B, D)`."""
    return F.mse_loss(gather(full_precision(x)), gather(full_precision(y)))


def variance(z: Tensor) -> Tensor:
    """Hinge that keeps the standard deviation of every dimension of `z`, `(B, D)`, above one.

        V(z) = mean_d max(0, 1 - sqrt(Var_d + 1e-4))

    with the unbiased variance (Bardes et al., "VICReg", ICLR 2022, eq. 1).
    """
    return F.relu(1 - (gather(full_precision(z)).var(dim=0) + 1e-4).sqrt()).mean()


def covariance(z: Tensor) -> Tensor:
    """Squared covariances between different dimensions of `z`, `(B, D)`, summed and divided by D.

        C(z) = (1 / D) sum_{i != j} Cov_ij^2

    (VICReg, eq. 3 and 4). Computed in float32 under autocast too.
    """
    z = gather(full_precision(z))
    with torch.autocast(z.device.type, enabled=False):
        z = z - z.mean(dim=0)
        matrix = z.T @ z / (len(z) - 1)
        return (matrix.square().sum() - matrix.diagonal().square().sum()) / z.shape[1]


def nt_xent(x: Tensor, y: Tensor, temperature: float, least: float | None = None) -> Tensor:
    """Normalised temperature-scaled cross entropy over the 2B rows of `x` and `y`, both `(B, D)`.

    Row b of `x` and row b of `y` are positives of each other. The other 2B - 2 rows of the global batch are negatives
    (Chen et al., "SimCLR", ICML 2020, eq. 1).

    Args:
        x: first embeddings.
        y: second embeddings.
        temperature: divides the cosines.
        least: smaller cosines count as this, and have no gradient; None leaves them as they are.
    """
    x, y = gather(full_precision(x)), gather(full_precision(y))
    with torch.autocast(x.device.type, enabled=False):
        z = F.normalize(torch.cat((x, y)), dim=1)
        cosines = z @ z.T
        logits = (cosines if least is None else cosines.clamp_min(least)) / temperature
        logits = logits.masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), float("-inf"))
        positives = torch.arange(len(z), device=z.device).roll(len(x))
        return F.cross_entropy(logits, positives)


def cosine_distance(x: Tensor, y: Tensor) -> Tensor:
    """1 - mean over samples of cos(x, y); both `(B, D)`."""
    return 1 - gather(F.cosine_similarity(full_precision(x), full_precision(y), dim=1)).mean()


def sample_mean(values: Tensor) -> Tensor:
    """Mean `(...)` of values `(B, ...)` over the samples of all processes; cheaper than a gather."""
    return all_sum(values.mean(dim=0)) / world_size()


def cosine_error(x: Tensor, y: Tensor) -> Tensor:
    """Mean over samples of 2 - 2 cos(x, y); both `(B, D)`. This is the squared distance of unit vectors, from 0 to 4.

    It is BYOL's loss for one direction (Grill et al., NeurIPS 2020, eq. 2).
    """
    return 2 * cosine_distance(x, y)


def cross_correlation(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Distance of the cross-correlation matrix of `x` and `y`, both `(B, D)`, from the identity.

    Each dimension is normalised over the global batch as in batch normalisation, with the biased variance plus 1e-5.
    With C = x^T y / B, this returns sum_i (1 - C_ii)^2 and sum_{i != j} C_ij^2 (Zbontar et al., "Barlow Twins", ICML
    2021, eq. 1 and 2).
    """
    x, y = gather(full_precision(x)), gather(full_precision(y))
    with torch.autocast(x.device.type, enabled=False):
        x, y = ((z - z.mean(dim=0)) / (z.var(dim=0, correction=0) + 1e-5).sqrt() for z in (x, y))
        samples, dimensions = x.shape
        diagonal = (x * y).mean(dim=0)
        # |x^T y|^2 is the inner product of x x^T and y y^T: smaller matrices if embeddings are wider than the batch.
        wide = 2 * samples < dimensions
        squares = ((x @ x.T) * (y @ y.T)).sum() / samples**2 if wide else (x.T @ y / samples).square().sum()
        return (1 - diagonal).square().sum(), squares - diagonal.square().sum()


def info_nce(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """Cross entropy of classifying each query as its own sample's key; both `(B, D)`.

    Classes are the keys of the global batch; logits are cosines divided by the temperature. Keys get no gradient (He et
    al., "MoCo", CVPR 2020, eq. 1).
    """
    with torch.autocast(queries.device.type, enabled=False):
        all_keys = gather(F.normalize(full_precision(keys.detach()), dim=1))
        logits = F.normalize(full_precision(queries), dim=1) @ all_keys.T / temperature
        own = torch.arange(len(logits), device=logits.device) + rank() * len(logits)
        return sample_mean(F.cross_entropy(logits, own, reduction="none"))


def distillation(student: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Cross entropy of each of S students' predictions with each of T teachers' targets, mean over samples: `(T, S)`.

    Args:
        student: logits `(S, B, K)`.
        targets: probabilities `(T, B, K)`.
        temperature: divides the logits before their softmax.
    """
    with torch.autocast(student.device.type, enabled=False):
        predicted = F.log_softmax(full_precision(student) / temperature, dim=-1)
        pairs = -torch.einsum("tbk,sbk->ts", targets.to(predicted.dtype), predicted) / student.shape[1]
        return all_sum(pairs) / world_size()


@torch.no_grad()
def sinkhorn(logits: Tensor, temperature: float | Tensor, iterations: int = 3) -> Tensor:
    """Assignments of samples to prototypes that use all prototypes equally: probabilities `(B, K)` of logits `(B, K)`.

    exp(logits / temperature) of the global batch is divided by its sums over samples, then by its sums over prototypes,
    `iterations` times (Caron et al., "SwAV", NeurIPS 2020, sec. 3.1; DINOv2, arXiv 2304.07193). All in logarithms, so
    nothing overflows or underflows. There is no gradient.
    """
    with torch.autocast(logits.device.type, enabled=False):
        log_q = full_precision(logits) / temperature
        for _ in range(iterations):
            log_q = log_q - gather(log_q.logsumexp(dim=0, keepdim=True)).logsumexp(dim=0)
            log_q = log_q.log_softmax(dim=1)
        return log_q.exp()


@torch.no_grad()
def positionwise_sinkhorn(logits: Tensor, temperature: float, iterations: int = 3) -> Tensor:
    """Assignments of patches to clusters that use all clusters equally at every position: `(B, N, K)` of logits
    `(B, N, K)`.

    As `sinkhorn`, over the samples of the global batch, but for each of the N positions on its own. 1e-8 is added to
    each sum before it divides (Darcet et al., "CAPI", TMLR 2025, and its code). There is no gradient.
    """
    with torch.autocast(logits.device.type, enabled=False):
        log_q = full_precision(logits) / temperature
        least = log_q.new_tensor(1e-8).log()
        log_q = log_q - gather(log_q.logsumexp(dim=0, keepdim=True)).logsumexp(dim=0)
        for number in range(iterations):
            if number:
                sums = gather(log_q.logsumexp(dim=0, keepdim=True)).logsumexp(dim=0)
                log_q = log_q - torch.logaddexp(sums, least)
            log_q = log_q - torch.logaddexp(log_q.logsumexp(dim=-1, keepdim=True), least)
        return log_q.exp()


def assignment_cross_entropy(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Mean over samples and patches of - sum_k target_k log softmax(logits / temperature)_k; both `(B, n, K)`."""
    with torch.autocast(logits.device.type, enabled=False):
        predicted = F.log_softmax(full_precision(logits) / temperature, dim=-1)
        return sample_mean(-(targets.to(predicted.dtype) * predicted).sum(dim=-1).mean(dim=1))


def koleo(x: Tensor) -> Tensor:
    """Minus the mean log distance of each normalised row of `x`, `(B, D)`, to its nearest row in the global batch.

    Up to constants, this is the Kozachenko-Leonenko estimate of entropy. It spreads features evenly (Sablayrolles et
    al., ICLR 2019, eq. 4). DINOv2's 1e-8 is added in the distance and in the logarithm.
    """
    z = gather(full_precision(x))
    with torch.autocast(z.device.type, enabled=False):
        z = F.normalize(z, dim=1, eps=1e-8)
        with torch.no_grad():
            nearest = (z @ z.T).fill_diagonal_(-2.0).argmax(dim=1)
        return -(F.pairwise_distance(z, z[nearest], eps=1e-8) + 1e-8).log().mean()


def binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy of `logits`, `(B, n)`, with targets of 0 and 1 of the same shape."""
    logits = gather(full_precision(logits))
    return F.binary_cross_entropy_with_logits(logits, gather(targets).to(logits.dtype))


def gram_difference(x: Tensor, y: Tensor, chunk: Tensor) -> Tensor:
    """Difference between the angles within a chunk of first views and the angles of their second views.

        L = (2 / B) sum_{i != j of one chunk} (x_i . x_j - y_i . y_j)^2

    with normalised rows. It is zero if and only if one orthogonal map per chunk takes its rows of x to its rows of y
    (Gupta et al., "Structuring representation geometry with rotationally equivariant contrastive learning", ICLR 2024,
    prop. 1). The paper's code has the same sum.

    Args:
        x: embeddings of the first views, `(B, D)`.
        y: embeddings of the second views, `(B, D)`.
        chunk: the number of each sample's chunk, `(B,)`.
    """
    x, y, chunk = (
        F.normalize(gather(full_precision(x)), dim=1),
        F.normalize(gather(full_precision(y)), dim=1),
        gather(chunk),
    )
    with torch.autocast(x.device.type, enabled=False):
        compared = (chunk[:, None] == chunk[None, :]).fill_diagonal_(False)
        return 2 * ((x @ x.T - y @ y.T).square() * compared).sum() / len(x)


def symmetric_info_nce(x: Tensor, y: Tensor, temperature: float) -> Tensor:
    """Cross entropy of classifying each row of `x` as its own row of `y`, and the reverse; both `(B, D)`.

    This is the mean of the two directions. Negatives come from the other view only; in `nt_xent` they come from both.
    Both sides get gradients.
    """
    x, y = gather(full_precision(x)), gather(full_precision(y))
    with torch.autocast(x.device.type, enabled=False):
        logits = F.normalize(x, dim=1) @ F.normalize(y, dim=1).T / temperature
        own = torch.arange(len(x), device=x.device)
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def classification(logits: Tensor, classes: Tensor) -> Tensor:
    """Mean cross entropy of `logits`, `(B, K)`, for `classes`, `(B,)`, integers below K."""
    return sample_mean(F.cross_entropy(full_precision(logits), classes, reduction="none"))


def known_classification(logits: Tensor, classes: Tensor) -> Tensor:
    """Mean cross entropy of `logits`, `(B, K)`, over the samples whose class is known; 0 if none is.

    Args:
        logits: `(B, K)`.
        classes: `(B,)`, integers below K, and -1 where the class is unknown.
    """
    each = F.cross_entropy(full_precision(logits), classes, reduction="none", ignore_index=-1)
    known = all_sum((classes >= 0).sum().to(each.dtype))
    return all_sum(each.sum()) / known.clamp_min(1)


def action_error(told: Tensor, action: Tensor, quaternion: bool = False) -> Tensor:
    """Mean over samples and dimensions of (told - action)^2, both `(B, D)`.

    Args:
        told: what a head says.
        action: the vectors of an action.
        quaternion: whether vectors begin with a unit quaternion. It and its negative are one rotation, so the nearer
            of the two counts.
    """
    told, action = full_precision(told), action.to(full_precision(told).dtype)
    if quaternion:
        nearer = torch.where((told[:, :4] * action[:, :4]).sum(1, keepdim=True) < 0, -1.0, 1.0)
        action = torch.cat((action[:, :4] * nearer.to(action.dtype), action[:, 4:]), dim=1)
    return sample_mean((told - action).square().mean(dim=1))


def distribution_cross_entropy(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean over samples of - sum_k target_k log predicted_k, for distributions `(B, K)`; both get gradients."""
    predicted, target = full_precision(predicted), full_precision(target)
    # A probability that underflows has a large cost, not an infinite one.
    logarithms = predicted.clamp_min(torch.finfo(predicted.dtype).tiny).log()
    return -sample_mean((target * logarithms).sum(dim=1))


def mean_entropy_gap(distributions: Tensor) -> Tensor:
    """Difference, in nats, between log K and the entropy of the mean of distributions `(B, K)`.

    It is 0 if all K are used equally on average, and log K if only one is used (Assran et al., "MSN", ECCV 2022, sec.
    3).
    """
    mean = sample_mean(full_precision(distributions))
    # An unused class adds nothing. But the gradient of entr is infinite there, and a softmax multiplies it by 0.
    return math.log(len(mean)) + (mean * mean.clamp_min(torch.finfo(mean.dtype).tiny).log()).sum()


def distance_from_mean_view(z: Tensor, centres: int | None = None) -> Tensor:
    """Mean over views, samples and dimensions of (z_v - c)^2, where c is the mean of a sample's views.

    Args:
        z: `(V, B, D)`.
        centres: c is the mean of the first `centres` views; None is all views.
    """
    z = full_precision(z)
    return sample_mean((z - z[:centres].mean(dim=0)).square().mean(dim=(0, 2)))


def reconstruction_error(made: Tensor, images: Tensor) -> Tensor:
    """Mean over samples, channels and pixels of (made - images)^2; both `(B, 3, H, W)`.

    Processes exchange only their means.
    """
    return all_sum(F.mse_loss(full_precision(made), full_precision(images))) / world_size()


def patch_distillation(student: Tensor, targets: Tensor, masked: Tensor, temperature: float) -> Tensor:
    """Cross entropy, mean over the masked patches of a sample, then over samples. A sample without any counts as 0.

    Args:
        student: logits of the M masked patches of all B samples, in order, `(M, K)`.
        targets: probabilities `(M, K)`.
        masked: marks the masked patches, `(B, N)`, bool.
        temperature: divides the logits before their softmax.
    """
    with torch.autocast(student.device.type, enabled=False):
        predicted = F.log_softmax(full_precision(student) / temperature, dim=-1)
        errors = -(targets.to(predicted.dtype) * predicted).sum(dim=-1)
        # The row sums of the mask tell each masked patch's sample. The output size is known, so the host does not wait
        # for the device.
        counts = masked.sum(dim=1)
        samples = torch.repeat_interleave(
            torch.arange(len(masked), device=masked.device), counts, output_size=len(errors)
        )
        weights = counts[samples].to(errors.dtype).reciprocal()
        return all_sum((errors * weights).sum() / len(masked)) / world_size()


def unit_rows(z: Tensor) -> Tensor:
    """The rows of `z`, `(..., D)`, scaled to length 1, at least in float32."""
    return F.normalize(full_precision(z), dim=-1)


def logarithmic_mean_entropy_gap(logarithms: Tensor) -> Tensor:
    """`mean_entropy_gap` of the logarithms `(B, K)` of distributions: its gradient is finite if a probability
    underflows.
    """
    samples, classes = logarithms.shape
    mean = gather(full_precision(logarithms).logsumexp(dim=0, keepdim=True)).logsumexp(dim=0) - math.log(
        samples * world_size()
    )
    return math.log(classes) + (mean.exp() * mean).sum()


def contrast(positive: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """Cross entropy of classifying each query as its positive among its negatives, mean over samples.

    Args:
        positive: similarity of each query with its positive, `(B,)`.
        negatives: similarities of each query with its M negatives, `(B, M)`.
        temperature: divides the similarities.
    """
    positive = positive / temperature
    # Not a softmax of one matrix: concatenation would copy the logits of a whole queue.
    return sample_mean(torch.logaddexp(positive, (negatives / temperature).logsumexp(dim=1)) - positive)


def find_own(queries: Tensor, candidates: Tensor, temperature: float) -> Tensor:
    """Cross entropy of classifying each query as its own sample's candidate in the global batch; both `(B, D)`.

    This is one direction of `symmetric_info_nce`, and `info_nce` with a gradient for both sides.
    """
    candidates = gather(unit_rows(candidates))
    with torch.autocast(queries.device.type, enabled=False):
        logits = unit_rows(queries) @ candidates.T / temperature
        own = torch.arange(len(logits), device=logits.device) + rank() * len(logits)
        return sample_mean(F.cross_entropy(logits, own, reduction="none"))


def token_error(predicted: Tensor, targets: Tensor, error: Error = "smooth-l1") -> Tensor:
    """Mean error of predicted tokens over samples, tokens and dimensions; both `(B, ..., C)`.

    With r = predicted - target, `smooth-l1` is r^2 / 2 where |r| < 1 and |r| - 1 / 2 elsewhere (I-JEPA's code),
    `squared` is r^2, and `absolute` is |r| (V-JEPA).
    """
    predicted, targets = full_precision(predicted), full_precision(targets)
    if error == "smooth-l1":
        value = F.smooth_l1_loss(predicted, targets)
    else:
        value = F.mse_loss(predicted, targets) if error == "squared" else F.l1_loss(predicted, targets)
    return all_sum(value) / world_size()
