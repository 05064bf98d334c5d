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


class Caster:
    """A mesh, and the tree in which rays find its faces.

    Args:
        mesh: as `centred` gives it.

    Attributes:
        mesh: see `Args`.
        normals: `(F, 3)`, unit vectors across the faces, on the side from which the corners turn to the left.
        nbytes: memory, as far as it is known.
    """

    def __init__(self, mesh: Mesh) -> None:
        from embreex.mesh_construction import TriangleMesh
        from embreex.rtcore_scene import EmbreeScene

        self.mesh = mesh
        corners = mesh.vertices[mesh.faces]
        self._first = corners[:, 0]
        self._along, self._across = corners[:, 1] - self._first, corners[:, 2] - self._first
        across: Numbers = np.cross(self._along, self._across)
        self._areas = np.sqrt((across**2).sum(1))
        self.normals = across / self._areas[:, None]
        self._scene = EmbreeScene(_device(), robust=True)
        TriangleMesh(self._scene, np.ascontiguousarray(corners, dtype=np.float32))
        computed = (self._first, self._along, self._across, self._areas, self.normals)
        self.nbytes = mesh.nbytes + sum(array.nbytes for array in computed) + EMBREE_BYTES_PER_FACE * len(mesh.faces)

    def first(self, origin: Numbers, directions: Numbers) -> NDArray[np.int32]:
        """The face that each ray from `origin` `(3,)` along `directions` `(R, 3)` meets first, `(R,)`; -1: none."""
        origins = np.empty((len(directions), 3), dtype=np.float32)
        origins[:] = origin
        faces: NDArray[np.int32] = self._scene.run(origins, directions.astype(np.float32), query="INTERSECT")
        return faces

    def occluded(self, origins: Numbers, direction: Numbers) -> NDArray[np.bool_]:
        """Whether rays from `origins` `(R, 3)` along `direction` `(3,)` meet a face, `(R,)`."""
        if not len(origins):
            return np.zeros(0, dtype=np.bool_)
        directions = np.empty((len(origins), 3), dtype=np.float32)
        directions[:] = direction
        found: NDArray[np.bool_] = self._scene.run(origins.astype(np.float32), directions, query="OCCLUDED") == 0
        return found

    def distances(self, faces: NDArray[np.int32], origin: Numbers, directions: Numbers) -> Numbers:
        """How far along rays `(R, 3)` the planes of their faces `(R,)` are, in multiples of the directions, `(R,)`."""
        normals = self.normals[faces]
        towards = _dot(normals, directions)
        # A ray in the plane of its face meets it everywhere; Embree finds such faces by rounding only.
        towards = np.where(np.abs(towards) < 1e-9, np.where(towards < 0, -1e-9, 1e-9), towards)
        found: Numbers = _dot(normals, self._first[faces] - origin) / towards
        return found

    def weights(self, faces: NDArray[np.int32], points: Numbers) -> Numbers:
        """Barycentric coordinates `(R, 3)` of points in the planes of their faces, cut off at the edges."""
        normals, from_first = self.normals[faces], points - self._first[faces]
        areas = self._areas[faces]
        second = np.clip(_dot(np.cross(from_first, self._across[faces]), normals) / areas, 0, 1)
        third = np.clip(_dot(np.cross(self._along[faces], from_first), normals) / areas, 0, 1)
        return np.stack((np.clip(1 - second - third, 0, 1), second, third), axis=1)

    def shaded(self, points: Numbers, outward: Numbers, light: Numbers) -> NDArray[np.bool_]:
        """Whether the mesh keeps light `(3,)` from points on its surface `(R, 3)`; `outward` are normals `(R, 3)`."""
        return self.occluded(points + _OFF_SURFACE * outward, light)


def _dot(first: Numbers, second: Numbers) -> Numbers:
    """Scalar products `(R,)`, added in a fixed order."""
    added: Numbers = first[:, 0] * second[:, 0] + first[:, 1] * second[:, 1] + first[:, 2] * second[:, 2]
    return added
