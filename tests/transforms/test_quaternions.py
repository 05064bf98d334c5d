"""Quaternions are kornia's, which has the real part first."""

import torch
from kornia.geometry.conversions import euler_from_quaternion, quaternion_to_rotation_matrix
from kornia.geometry.quaternion import Quaternion
from torch import Tensor

from ssl_inv.transforms.quaternions import (
    quaternion_conjugate,
    quaternion_from_euler,
    quaternion_multiply,
    quaternion_rotate,
    quaternion_to_matrix,
)

COUNT = 1000


def random(count: int = COUNT, seed: int = 0) -> Tensor:
    drawn = torch.randn(count, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return drawn / drawn.norm(dim=-1, keepdim=True)


def theirs(q: Tensor) -> Quaternion:
    return Quaternion(q.roll(1, -1))


def ours(q: Quaternion) -> Tensor:
    return q.data.roll(-1, -1)


def test_products_and_conjugates_are_kornia_s():
    a, b = random(), random(seed=1)
    torch.testing.assert_close(quaternion_multiply(a, b), ours(theirs(a) * theirs(b)), rtol=0, atol=1e-14)
    torch.testing.assert_close(quaternion_conjugate(a), ours(theirs(a).conj()), rtol=0, atol=0)


def test_matrices_and_turned_vectors_are_kornia_s():
    q, vector = random(), torch.randn(COUNT, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    matrices = quaternion_to_rotation_matrix(q.roll(1, -1))
    torch.testing.assert_close(quaternion_to_matrix(q), matrices, rtol=0, atol=1e-14)
    turned = (matrices @ vector.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(quaternion_rotate(q, vector), turned, rtol=0, atol=1e-13)


def test_angles_are_kornia_s():
    unit = torch.rand(COUNT, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    angles = (unit - 0.5) * torch.tensor([6.2, 3.1, 6.2])
    x, y, z, w = quaternion_from_euler(angles).unbind(-1)
    found = torch.stack(euler_from_quaternion(w, x, y, z), dim=-1)
    torch.testing.assert_close(found, angles, rtol=0, atol=1e-9)
