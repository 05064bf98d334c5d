"""Small meshes that tests share; tests that use them are skipped without the extra `meshes`."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation as ScipyRotation

from ssl_inv.data.source import Subset
from ssl_inv.data.sources.meshes.source import RenderedMeshes, meshes
from ssl_inv.transforms import Transform

trimesh = pytest.importorskip("trimesh", reason="meshes need the extra `meshes`")
pytest.importorskip("embreex", reason="meshes need the extra `meshes`")

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)

NAN, HOLES = ("nan 0 0", "1 0 0", "0 1 0", "0 0 1"), ("0 0 0", "1 0 0", "0 1 0", "0 0 1")


def off(vertices: tuple[str, ...], faces: str) -> str:
    lines = faces.split("\n")
    return f"OFF\n{len(vertices)} {len(lines)} 0\n" + "\n".join((*vertices, *lines)) + "\n"


WHOLE = off(HOLES, "3 0 1 2\n3 0 1 3\n3 0 2 3\n3 1 2 3")
NON_MANIFOLD = off((*HOLES, "1 1 1"), "3 0 1 2\n3 0 1 3\n3 0 1 4\n3 2 1 0")


def arrays_of(*shapes: Any) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of an `.npz` of trimesh's shapes, with the colours of their faces."""
    counts = [[len(part) for part in parts] for parts in zip(*((s.vertices, s.faces) for s in shapes), strict=True)]
    return {
        "verts": np.concatenate([shape.vertices for shape in shapes]),
        "faces": np.concatenate([shape.faces for shape in shapes]),
        "face_rgb": np.concatenate([shape.visual.face_colors[:, :3] for shape in shapes]),
        "v_off": np.cumsum([0, *counts[0]]),
        "f_off": np.cumsum([0, *counts[1]]),
    }


def coloured(shape: Any, colours: Any) -> Any:
    shape.visual = trimesh.visual.ColorVisuals(shape, face_colors=colours)
    return shape


def box(extents: tuple[float, float, float] = (1.0, 0.6, 0.3)) -> Any:
    """A box, each pair of opposite sides in one colour: x red, y green, z blue."""
    shape = trimesh.creation.box(extents)
    axis = np.abs(shape.face_normals).argmax(1)
    return coloured(shape, np.array((RED, GREEN, BLUE), dtype=np.uint8)[axis])


def stored(path: Path, *shapes: Any, **more: Any) -> Path:
    np.savez(path, **arrays_of(*shapes), **more)
    return path


def rendered(path: Path, **settings: Any) -> RenderedMeshes:
    """The source of all meshes in a file, z up."""
    settings = {"up": "z", "views": 3, "size": 32, "samples": 1, "cache": False, **settings}
    train = meshes(path=str(path), **settings).train
    assert isinstance(train, Subset)
    assert isinstance(train.source, RenderedMeshes)
    return train.source


def scene(source: RenderedMeshes, rotation: ScipyRotation, **changes: float) -> Transform:
    """The first object's pose, with light from above."""
    values = {"floor_hue": 0.6, "light_theta": 0.3, "light_phi": 0.0, "light_hue": 0.0, **changes}
    quaternion = torch.from_numpy(np.atleast_2d(rotation.as_quat())).float()
    columns = {name: torch.full((len(quaternion),), value) for name, value in values.items()}
    return Transform({"rotation": quaternion, **columns}, source.groups)


def six_boxes(path: Path) -> Path:
    """Boxes that differ in one side."""
    return stored(path, *(box((1.0, 0.6, 0.2 + 0.1 * number)) for number in range(6)))
