"""What rays meet first in a mesh: Embree, the ray caster of Intel, by its Python binding embreex.

Embree says which face a ray meets. Where it does, is computed here in double precision, so depths and colours do not
depend on the precision of Embree. Each ray is cast alone, so its answer does not depend on the others.
"""

import os
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_inv.catalogue import SettingError
from ssl_inv.data.sources.meshes.mesh import Mesh, Numbers

EXTRA = "pip install 'ssl-inv[meshes]'"

EMBREE_BYTES_PER_FACE = 130
"""Of its tree, measured on meshes of 1,000 to 20,000 faces: 86 to 130."""

_OFF_SURFACE = 1e-4
"""How far from its surface a shadow ray starts. Single precision resolves 1e-7 here."""

_FLATTEST = 1e-9
"""Smallest cosine between a ray and the normal of a face that it meets."""

_devices: dict[int, Any] = {}
"""Of each process: a forked one must not use the device of its parent."""


def require_libraries(*names: str) -> None:
    """Raise a `SettingError` if a library is missing."""
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise SettingError("name", f"'meshes' needs {' and '.join(missing)}: {EXTRA}")


def _device() -> Any:
    from embreex.rtcore import EmbreeDevice

    if (process := os.getpid()) not in _devices:
        _devices[process] = EmbreeDevice()
    return _devices[process]


Vectors = tuple[Numbers, Numbers, Numbers]
"""The x, y and z components of vectors, `(R,)` each: faster here than one array `(R, 3)`."""


class Caster:
    """A mesh, and the tree in which rays find its faces.

    Args:
        mesh: as `centred` gives it.

    Attributes:
        mesh: see `Args`.
        points: the vertices.
        nbytes: memory, as far as it is known.
    """

    def __init__(self, mesh: Mesh) -> None:
        from embreex.mesh_construction import TriangleMesh
        from embreex.rtcore_scene import EmbreeScene

        self.mesh, self.points = mesh, split(mesh.vertices)
        corners = mesh.vertices[mesh.faces]
        across: Numbers = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        normals = across / np.sqrt((across**2).sum(1, keepdims=True))
        self._normals, self._heights = split(normals), (normals * corners[:, 0]).sum(1)
        # Robust: no ray slips through between two faces.
        self._scene = EmbreeScene(_device(), robust=True)
        TriangleMesh(self._scene, np.ascontiguousarray(corners, dtype=np.float32))
        computed = 8 * (3 * len(mesh.vertices) + 4 * len(mesh.faces))
        self.nbytes = mesh.nbytes + computed + EMBREE_BYTES_PER_FACE * len(mesh.faces)

    def first(self, origin: Numbers, directions: NDArray[np.float32]) -> NDArray[np.int32]:
        """The face that each ray from `origin` `(3,)` along `directions` `(R, 3)` meets first, `(R,)`; -1: none."""
        origins = np.empty(directions.shape, dtype=np.float32)
        origins[:] = origin
        faces: NDArray[np.int32] = self._scene.run(origins, directions, query="INTERSECT")
        return faces

    def occluded(self, origins: Vectors, direction: Numbers) -> NDArray[np.bool_]:
        """Whether rays from `origins` along `direction` `(3,)` meet a face, `(R,)`."""
        starts = np.empty((len(origins[0]), 3), dtype=np.float32)
        if not len(starts):
            return np.zeros(0, dtype=np.bool_)
        for axis in range(3):
            starts[:, axis] = origins[axis]
        directions = np.empty(starts.shape, dtype=np.float32)
        directions[:] = direction
        found: NDArray[np.bool_] = self._scene.run(starts, directions, query="OCCLUDED") == 0
        return found

    def distances(self, faces: NDArray[np.int32], origin: Numbers, directions: Vectors) -> tuple[Numbers, Vectors]:
        """Where rays meet the planes of their faces.

        Returns:
            How far along its direction each ray does, `(R,)`.
            Unit vectors across the faces, on the side that the ray comes from.
        """
        x, y, z = (axis[faces] for axis in self._normals)
        away = x * directions[0] + y * directions[1] + z * directions[2]
        height = self._heights[faces] - (x * origin[0] + y * origin[1] + z * origin[2])
        facing = np.where(away > 0, -1.0, 1.0)
        # A ray in the plane of its face meets it everywhere; Embree finds such faces by rounding only.
        steep = np.minimum(-np.abs(away), -_FLATTEST)
        return height * facing / steep, (x * facing, y * facing, z * facing)

    def weights(self, faces: NDArray[np.int32], points: Vectors) -> Numbers:
        """Barycentric coordinates `(R, 3)` of points in the planes of their faces, cut off at the edges."""
        corners = self.mesh.vertices[self.mesh.faces[faces]]
        first = corners[:, 0]
        along, across = corners[:, 1] - first, corners[:, 2] - first
        offset, normals = np.stack(points, axis=1) - first, np.cross(along, across)
        areas = _dot(normals, normals)
        second = np.clip(_dot(np.cross(offset, across), normals) / areas, 0, 1)
        third = np.clip(_dot(np.cross(along, offset), normals) / areas, 0, 1)
        return np.stack((np.clip(1 - second - third, 0, 1), second, third), axis=1)

    def shaded(self, points: Vectors, outward: Vectors, light: Numbers) -> NDArray[np.bool_]:
        """Whether the mesh keeps light `(3,)` from points on its surface; `outward` are unit vectors across it."""
        x, y, z = (point + _OFF_SURFACE * normal for point, normal in zip(points, outward, strict=True))
        return self.occluded((x, y, z), light)


def split(vectors: Numbers) -> Vectors:
    """Vectors `(R, 3)` by components."""
    x, y, z = (np.ascontiguousarray(axis) for axis in vectors.T)
    return x, y, z


def _dot(first: Numbers, second: Numbers) -> Numbers:
    """Scalar products `(R,)`, added in a fixed order."""
    added: Numbers = first[:, 0] * second[:, 0] + first[:, 1] * second[:, 1] + first[:, 2] * second[:, 2]
    return added
