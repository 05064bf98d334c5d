"""A mesh as it is rendered: triangles with colours, in the middle of a ball."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Faces = NDArray[np.int32]
Colours = NDArray[np.uint8]

PLAIN = 190
"""Red, green and blue of faces without a colour."""

MOST_PARTS = 255
"""Parts beyond have the number of the last: numbers of parts are stored in 8 bits, and 0 is the floor."""

_FLAT = 1e-12
"""A triangle whose area is smaller, in units of the squared radius of the mesh, is left out."""


class BrokenMeshError(ValueError):
    """A mesh that cannot be rendered. The message is one line without the name of the mesh."""


class TooManyFacesError(BrokenMeshError):
    """A mesh with more faces than a setting allows.

    Args:
        faces: how many it has.
        most: how many it may have.
    """

    def __init__(self, faces: int, most: int) -> None:
        super().__init__(f"it has {faces:,} faces, more than max_faces, {most:,}")
        self.faces, self.most = faces, most

    def __reduce__(self) -> tuple[type["TooManyFacesError"], tuple[int, int]]:
        return TooManyFacesError, (self.faces, self.most)


@dataclass(frozen=True)
class Mesh:
    """Triangles, seen from both sides, with colours.

    Attributes:
        vertices: `(V, 3)`, float64. In the world, z points up; the camera stands at positive y.
        faces: `(F, 3)`, int32, indices into `vertices`.
        colours: uint8 sRGB, `(F, 3)`, one for each face, or `(F, 3, 3)`, one for each of its corners.
        parts: `(F,)`, uint8, the part of every face, from 1 on.
        corners: `(F, 3, 2)`, float32, places of the corners in a texture: from the left and from the bottom, one period
            each. None without textures.
        texture: `(F,)`, int16, an index into `textures`; -1: none. None without textures.
        textures: images `(H, W, 3)`, uint8 sRGB. They multiply the colours.
        missing: names of files that the mesh asks for and that are not there, such as textures.
    """

    vertices: Numbers
    faces: Faces
    colours: Colours
    parts: NDArray[np.uint8]
    corners: NDArray[np.float32] | None = None
    texture: NDArray[np.int16] | None = None
    textures: Sequence[Colours] = field(default=())
    missing: Sequence[str] = ()

    @property
    def nbytes(self) -> int:
        """Memory of all arrays."""
        arrays = (self.vertices, self.faces, self.colours, self.parts, self.corners, self.texture, *self.textures)
        return sum(array.nbytes for array in arrays if array is not None)


def centred(mesh: Mesh, radius: float, most_faces: int) -> Mesh:
    """The mesh with the middle of its bounding box at the origin, as in 3DIEBench, and its farthest vertex at `radius`.

    Faces without an area and faces with the corners of another are left out. Holes, edges of three faces and faces that
    look inwards do no harm, because faces are seen from both sides.

    Args:
        mesh: in any unit.
        radius: of the ball that holds it.
        most_faces: a mesh with more is broken.

    Raises:
        BrokenMeshError: if the mesh has no face with an area, too many faces, numbers that are not finite, or faces
            with corners that do not exist.
    """
    vertices, faces = mesh.vertices, mesh.faces
    if not len(faces):
        raise BrokenMeshError("it has no faces")
    if len(faces) > most_faces:
        raise TooManyFacesError(len(faces), most_faces)
    if faces.min() < 0 or faces.max() >= len(vertices):
        wrong = int(faces.min() if faces.min() < 0 else faces.max())
        raise BrokenMeshError(f"a face has the corner {wrong}, but there are {len(vertices):,} vertices")
    used = np.unique(faces)
    if not np.isfinite(vertices[used]).all():
        raise BrokenMeshError("it has vertices that are not finite numbers")
    low, high = vertices[used].min(0), vertices[used].max(0)
    with np.errstate(over="ignore"):
        size = float((high - low).max())
    if not np.isfinite(size) or size <= 0:
        raise BrokenMeshError("all of its vertices are one point" if size == 0 else "it is too large for its numbers")
    # Scaled first: squares of very small or large numbers would be lost.
    moved = (vertices - (low / 2 + high / 2)) / size
    moved *= radius / np.sqrt((moved[used] ** 2).sum(1).max())
    keep = _with_area(moved, faces, radius) & _first_of_its_corners(faces)
    if not keep.any():
        raise BrokenMeshError("none of its faces has an area")
    kept = np.unique(faces[keep])
    renamed = np.zeros(len(vertices), dtype=np.int32)
    renamed[kept] = np.arange(len(kept))
    corners, texture = mesh.corners, mesh.texture
    return Mesh(
        moved[kept],
        renamed[faces[keep]],
        mesh.colours[keep],
        mesh.parts[keep],
        None if corners is None else corners[keep],
        None if texture is None else texture[keep],
        mesh.textures,
        mesh.missing,
    )


def _with_area(vertices: Numbers, faces: Faces, radius: float) -> NDArray[np.bool_]:
    first, second, third = (vertices[faces[:, corner]] for corner in range(3))
    doubled: Numbers = np.cross(second - first, third - first)
    wide: NDArray[np.bool_] = (doubled**2).sum(1) > (2 * _FLAT * radius**2) ** 2
    return wide


def _first_of_its_corners(faces: Faces) -> NDArray[np.bool_]:
    """Which faces have other corners than all faces before: of two faces at one place, either could be seen."""
    _, first = np.unique(np.sort(faces, axis=1), axis=0, return_index=True)
    keep = np.zeros(len(faces), dtype=np.bool_)
    keep[first] = True
    return keep


def parts_by_colour(colours: Colours) -> NDArray[np.uint8]:
    """Parts of a mesh whose makers named none: faces `(F, 3)` of one colour; one part if there are too many colours."""
    packed = colours.astype(np.int64) @ np.array((65536, 256, 1))
    found, parts = np.unique(packed, return_inverse=True)
    if len(found) > MOST_PARTS:
        return np.ones(len(colours), dtype=np.uint8)
    return (parts.reshape(-1) + 1).astype(np.uint8)


def upright(vertices: Numbers, up: str) -> Numbers:
    """Vertices in the axes of the world, whose z points up.

    Args:
        vertices: `(V, 3)`.
        up: `z` leaves them; `y`: glTF's axes, y up and the front at positive z. The camera then sees the front.
    """
    return vertices if up == "z" else vertices[:, (0, 2, 1)] * np.array((-1.0, 1.0, 1.0))
