"""Meshes from files, by trimesh: vertices, faces and colours of everything in a file, in the axes of the world."""

import json
import posixpath
import re
import struct
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssl_inv.data.archives import Files
from ssl_inv.data.names import unpacked
from ssl_inv.data.sources.meshes.mesh import (
    MOST_PARTS,
    PLAIN,
    BrokenMeshError,
    Colours,
    Faces,
    Mesh,
    Numbers,
    parts_by_colour,
    upright,
)

MESH_SUFFIXES = frozenset((".glb", ".gltf", ".obj", ".stl", ".ply", ".off"))

NEEDED = ("verts", "faces", "v_off", "f_off")
"""Arrays that every `.npz` of meshes has."""

MOST_BYTES = 2**28
"""Of one file: parsing takes many times the memory of a text."""

MOST_TEXTURE = 512
"""Larger textures are averaged down to so many pixels a side: views are seldom larger."""

Up = Literal["auto", "y", "z"]

_Y_UP = (".glb", ".gltf", ".obj")
"""glTF defines y as up, and most tools that write OBJ agree. STL, PLY and OFF come from scanners and construction,
where z is up.
"""

_LINEAR = (".glb", ".gltf")
"""Formats whose colours, apart from textures, are amounts of light and not sRGB."""


@dataclass(frozen=True)
class _Piece:
    """One geometry of a file; fields as in `Mesh`, without parts, with places in its own texture."""

    vertices: Numbers
    faces: Faces
    colours: Colours
    corners: NDArray[np.float32] | None
    texture: Colours | None


def read_mesh(files: Files, name: bytes, up: Up) -> Mesh:
    """The mesh in a file, not yet centred.

    Parts are the geometries of a file; of a file with one, the faces of each colour.

    Args:
        files: a folder or an archive.
        name: of the file. Materials and textures are looked for beside it.
        up: the axis that points up in the file; `auto` goes by its ending.

    Without a texture or material that it asks for, a mesh has the plain colours that are left.

    Raises:
        BrokenMeshError: if the file cannot be read or has no triangles.
    """
    suffix = PurePosixPath(unpacked(name)).suffix.lower()
    try:
        content = files.read(name)
    except Exception as error:  # A damaged archive gives zlib.error, struct.error and others.
        raise BrokenMeshError(_one_line(error)) from error
    if len(content) > MOST_BYTES:
        raise BrokenMeshError(f"its file has {len(content) / 2**20:,.0f} MiB, more than {MOST_BYTES // 2**20}")
    if not content.strip():
        raise BrokenMeshError("its file is empty")
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            beside = _Beside(files, posixpath.dirname(unpacked(name)))
            pieces = _pieces(content, suffix, beside)
        except BrokenMeshError:
            raise
        except Exception as error:  # trimesh raises whatever a parser of its many formats meets.
            raise BrokenMeshError(_what_is_wrong(error, content, suffix, beside.missing)) from error
    if not pieces:
        raise BrokenMeshError(_cut_or_other(content, suffix) or "it has no faces")
    axis = up if up != "auto" else "y" if suffix in _Y_UP else "z"
    return replace(_joined(pieces, axis), missing=tuple(dict.fromkeys(beside.missing)))


def _one_line(error: Exception) -> str:
    words = " ".join(str(error).split())[:200]
    return f"it cannot be read: {words or type(error).__name__}"


_OFF = re.compile(rb"(\s|#[^\n]*\n)*[a-z0-9]*off", re.IGNORECASE)
"""How an OFF file begins: comments, and `OFF`, `COFF`, `STOFF` or the like."""

_GLB_HEADER, _STL_HEADER, _STL_FACE = struct.Struct("<4s2I"), struct.Struct("<80xI"), 50


def _cut_or_other(content: bytes, suffix: str) -> str | None:
    """Whether a file that gave no mesh is cut off, or no file of its kind, as far as its first bytes tell."""
    length = 0
    if suffix == ".glb":
        if not b"glTF".startswith(content[:4]):
            return "it is no GLB file"
        whole = len(content) >= _GLB_HEADER.size
        length = _GLB_HEADER.unpack_from(content)[2] if whole else _GLB_HEADER.size
    elif suffix == ".ply" and not content.startswith(b"ply"):
        return "it is no PLY file"
    elif suffix == ".off" and not _OFF.match(content):
        return "it is no OFF file"
    elif suffix == ".stl" and len(content) >= _STL_HEADER.size and b"\0" in content[: _STL_HEADER.size]:
        length = _STL_HEADER.size + _STL_FACE * _STL_HEADER.unpack_from(content)[0]
    if len(content) < length:
        return f"its file is cut off: it has {len(content):,} of {length:,} bytes"
    return None


def _what_is_wrong(error: Exception, content: bytes, suffix: str, missing: Sequence[str]) -> str:
    """What a library's error means, as far as it can be known."""
    if (known := _cut_or_other(content, suffix)) is not None:
        return known
    if suffix == ".gltf":
        # trimesh then looks for another file, and says that it is not there.
        try:
            json.loads(content)
        except ValueError as other:
            return f"its JSON is damaged or cut off ({other})"
    if missing and suffix in _LINEAR:
        return f"it needs {missing[0]}, which cannot be read"
    if suffix == ".obj" and isinstance(error, IndexError) and (corner := _missing_corner(content)):
        return corner
    words = " ".join(str(error).split())[:200]
    return f"it is damaged ({words or type(error).__name__})"


def _missing_corner(content: bytes) -> str | None:
    """The first vertex that a face of an OBJ names and that is not there, in words."""
    counts = {b"v": 0, b"vt": 0, b"vn": 0}
    names = dict(zip(counts, ("vertex", "texture coordinate", "normal"), strict=True))
    lines = [line.split() for line in content.splitlines()]
    for line in lines:
        if line and line[0] in counts:
            counts[line[0]] += 1
    for corner in (corner for line in lines if line and line[0] == b"f" for corner in line[1:]):
        for kind, number in zip(counts, corner.split(b"/"), strict=False):
            if number.lstrip(b"-").isdigit() and not 1 <= abs(int(number)) <= counts[kind]:
                return f"a face names {names[kind]} {int(number)}, but there are {counts[kind]}"
    return None


class _Beside:
    """The files beside a mesh, as trimesh asks for them: textures, materials and buffers."""

    def __init__(self, files: Files, folder: str) -> None:
        self._files, self._folder = files, folder
        self.missing: list[str] = []

    def get(self, name: str) -> bytes:
        """The content of a file, by a path relative to the mesh, or any error."""
        try:
            return self._read(name)
        except Exception:
            self.missing.append(name)
            raise

    def _read(self, name: str) -> bytes:
        path = posixpath.normpath(posixpath.join(self._folder, name.strip().replace("\\", "/")))
        if path.startswith(("../", "/")):
            raise ValueError(f"{name!r} lies outside the data")
        return self._files.read(path)


def _pieces(content: bytes, suffix: str, beside: _Beside) -> list[_Piece]:
    import trimesh
    from trimesh.resolvers import Resolver

    class Beside(Resolver):
        """`_Beside` as trimesh's own class."""

        def __init__(self) -> None:
            pass

        def get(self, key: str) -> bytes:
            return beside.get(key)

        def write(self, name: str, data: Any) -> None:
            raise NotImplementedError

        def namespaced(self, namespace: str) -> Any:
            return self

        def keys(self) -> Any:
            return ()

    scene = trimesh.load_scene(BytesIO(content), file_type=suffix[1:], resolver=Beside(), process=False)
    found = []
    # A set of names has another order in every process.
    for node in sorted(scene.graph.nodes_geometry):
        matrix, name = scene.graph[node]
        geometry = scene.geometry[name]
        if isinstance(geometry, trimesh.Trimesh) and len(geometry.faces):
            found.append(_piece(geometry, np.asarray(matrix, dtype=np.float64), suffix in _LINEAR))
    return found


def _piece(geometry: Any, matrix: Numbers, linear: bool) -> _Piece:
    vertices = np.asarray(geometry.vertices, dtype=np.float64)
    vertices = vertices @ matrix[:3, :3].T + matrix[:3, 3]
    faces = np.asarray(geometry.faces).astype(np.int32)
    visual = geometry.visual
    colours, corners, texture = np.full((len(faces), 3), PLAIN, dtype=np.uint8), None, None
    if visual.kind == "face":
        colours = _srgb(visual.face_colors[:, :3], linear)
    elif visual.kind == "vertex":
        colours = _srgb(visual.vertex_colors[:, :3], linear)[faces]
    elif visual.kind == "texture":
        colours, corners, texture = _material(visual, faces, linear)
    return _Piece(vertices, faces, colours, corners, texture)


def _material(visual: Any, faces: Faces, linear: bool) -> tuple[Colours, NDArray[np.float32] | None, Colours | None]:
    """Colours and texture of a geometry with a material."""
    material = visual.material
    if hasattr(material, "materials"):
        raise BrokenMeshError("it has several materials in one geometry, which cannot be told apart")
    image = getattr(material, "baseColorTexture", None)
    image = getattr(material, "image", None) if image is None else image
    uv = visual.uv
    textured = image is not None and uv is not None and len(uv) > faces.max()
    physical = hasattr(material, "baseColorFactor")
    colour = np.array((PLAIN,) * 3, dtype=np.uint8)
    if physical:
        factor = material.baseColorFactor
        colour = np.full(3, 255, dtype=np.uint8) if factor is None else _srgb(np.asarray(factor)[None, :3], linear)[0]
    elif textured:
        # In OBJ, a diffuse colour beside a texture is as often left at black as meant.
        colour = np.full(3, 255, dtype=np.uint8)
    elif getattr(material, "diffuse", None) is not None:
        colour = np.asarray(material.diffuse)[:3].astype(np.uint8)
    colours = np.tile(colour, (len(faces), 1))
    per_vertex = visual.vertex_attributes.get("color") if hasattr(visual, "vertex_attributes") else None
    if per_vertex is not None and len(per_vertex) > faces.max():
        own = _srgb(np.asarray(per_vertex)[:, :3], linear)[faces]
        colours = (own.astype(np.float64) * colours[:, None] / 255 + 0.5).astype(np.uint8)
    if not textured or image is None:
        return colours, None, None
    corners = np.asarray(uv, dtype=np.float64)[:, :2][faces]
    if not np.isfinite(corners).all():
        raise BrokenMeshError("its texture coordinates are not finite numbers")
    # The texture repeats, so whole periods can be taken off before precision is lost.
    corners = corners - np.floor(corners[:, :1])
    return colours, corners.astype(np.float32), _texture(image)


def _texture(image: Image.Image) -> Colours:
    rgb = image.convert("RGB")
    sides = [min(side, MOST_TEXTURE) for side in rgb.size]
    if tuple(sides) != rgb.size:
        rgb = rgb.resize((sides[0], sides[1]), Image.Resampling.BOX)
    return np.asarray(rgb, dtype=np.uint8).copy()


def _srgb(colours: NDArray[Any], linear: bool) -> Colours:
    """Colours `(N, 3)` as uint8 sRGB (IEC 61966-2-1), from uint8, uint16 or floats in [0, 1]."""
    values = np.asarray(colours)
    most = np.iinfo(values.dtype).max if values.dtype.kind in "iu" else 1.0
    amounts = np.clip(np.nan_to_num(values.astype(np.float64) / most), 0, 1)
    if linear:
        amounts = np.where(amounts <= 0.0031308, 12.92 * amounts, 1.055 * amounts ** (1 / 2.4) - 0.055)
    return (amounts * 255 + 0.5).astype(np.uint8)


def _joined(pieces: list[_Piece], up: str) -> Mesh:
    counts = [len(piece.faces) for piece in pieces]
    starts = np.cumsum([0, *[len(piece.vertices) for piece in pieces]])
    faces = np.concatenate([piece.faces + start for piece, start in zip(pieces, starts, strict=False)])
    colours = [piece.colours for piece in pieces]
    if len({one.ndim for one in colours}) > 1:
        colours = [np.repeat(one[:, None], 3, axis=1) if one.ndim == 2 else one for one in colours]
    joined = np.concatenate(colours)
    if len(pieces) > 1:
        parts = np.repeat(np.minimum(np.arange(1, len(pieces) + 1), MOST_PARTS), counts).astype(np.uint8)
    else:
        parts = parts_by_colour(joined if joined.ndim == 2 else joined[:, 0])
    textures = [piece.texture for piece in pieces if piece.texture is not None]
    corners = texture = None
    if textures:
        none = [np.zeros((count, 3, 2), dtype=np.float32) for count in counts]
        of_piece = [each if piece.corners is None else piece.corners for piece, each in zip(pieces, none, strict=True)]
        corners = np.concatenate(of_piece)
        has = np.array([piece.texture is not None for piece in pieces])
        texture = np.repeat(np.where(has, np.cumsum(has) - 1, -1), counts).astype(np.int16)
    vertices = upright(np.concatenate([piece.vertices for piece in pieces]), up)
    return Mesh(vertices, faces.astype(np.int32), joined, parts, corners, texture, tuple(textures))
