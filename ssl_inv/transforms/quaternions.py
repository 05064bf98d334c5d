"""Unit quaternions `(..., 4)`, scalar last (x, y, z, w), as in scipy."""

import torch
from torch import Tensor


def quaternion_multiply(a: Tensor, b: Tensor) -> Tensor:
    """Hamilton product `a b`: the rotation that applies `b` first, then `a`."""
    ax, ay, az, aw = a.unbind(-1)
    bx, by, bz, bw = b.unbind(-1)
    return torch.stack(
        (
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
            aw * bw - ax * bx - ay * by - az * bz,
        ),
        dim=-1,
    )


def quaternion_conjugate(q: Tensor) -> Tensor:
    """The inverse rotation of a unit quaternion."""
    return torch.cat((-q[..., :3], q[..., 3:]), dim=-1)


def quaternion_rotate(q: Tensor, vector: Tensor) -> Tensor:
    """Vectors `(..., 3)` turned by unit quaternions: `q v q^-1`."""
    pure = torch.cat((vector, torch.zeros_like(vector[..., :1])), dim=-1)
    return quaternion_multiply(quaternion_multiply(q, pure), quaternion_conjugate(q))[..., :3]


def quaternion_from_euler(angles: Tensor) -> Tensor:
    """Unit quaternions `(..., 4)` from extrinsic x, y, z Euler angles `(..., 3)`: R = Rz(c) Ry(b) Rx(a), scipy's
    `from_euler("xyz")`.
    """
    half = angles / 2
    (ca, cb, cc), (sa, sb, sc) = half.cos().unbind(-1), half.sin().unbind(-1)
    return torch.stack(
        (
            sa * cb * cc - ca * sb * sc,
            ca * sb * cc + sa * cb * sc,
            ca * cb * sc - sa * sb * cc,
            ca * cb * cc + sa * sb * sc,
        ),
        dim=-1,
    )


def quaternion_to_matrix(q: Tensor) -> Tensor:
    """Rotation matrices `(..., 3, 3)` from unit quaternions `(..., 4)`."""
    x, y, z, w = q.unbind(-1)
    rows = (
        torch.stack((1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)), dim=-1),
        torch.stack((2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)), dim=-1),
        torch.stack((2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)), dim=-1),
    )
    return torch.stack(rows, dim=-2)


def pose_to_matrix(pose: Tensor) -> Tensor:
    """Matrices `(..., 4, 4)` of rigid motions `(..., 7)`, a unit quaternion and a translation: [R | c; 0 1]."""
    upper = torch.cat((quaternion_to_matrix(pose[..., :4]), pose[..., 4:, None]), dim=-1)
    return torch.cat((upper, upper.new_tensor([0.0, 0.0, 0.0, 1.0]).expand_as(upper[..., :1, :])), dim=-2)


def canonical_sign(q: Tensor) -> Tensor:
    """`q` or `-q`, which are the same rotation: the one with w >= 0."""
    return torch.where(q[..., 3:] < 0, -q, q)
