"""Claims about files of meshes: every format with its colours, and what is broken is left out by name."""

import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation as ScipyRotation
from small_data import load_all
from small_meshes import (
    GREEN,
    HOLES,
    NAN,
    NON_MANIFOLD,
    RED,
    WHOLE,
    box,
    coloured,
    off,
    rendered,
    scene,
    six_boxes,
    stored,
    trimesh,
)

from ssl_inv.catalogue import SettingError
from ssl_inv.data.looks import require_rendered
from ssl_inv.data.sources.meshes import source as source_of_meshes
from ssl_inv.data.sources.meshes.mesh import BrokenMeshError, Mesh, centred
from ssl_inv.data.sources.meshes.source import meshes
from ssl_inv.data.sources.rendered import renderer as solids

RADIUS = solids.BOUNDING_RADIUS


@pytest.fixture
def boxes(tmp_path: Path) -> Path:
    return six_boxes(tmp_path / "boxes.npz")


# Files.


def pattern() -> Image.Image:
    """Red on the left, green on the right."""
    picture = Image.new("RGB", (8, 8), RED)
    picture.paste(GREEN, (4, 0, 8, 8))
    return picture


def plate(material: Any) -> Any:
    """A square in the plane of x and y that faces +z, with a texture over all of it."""
    vertices = np.array(((-1, -1, 0), (1, -1, 0), (1, 1, 0), (-1, 1, 0)), dtype=float)
    uv = (vertices[:, :2] + 1) / 2
    visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    return trimesh.Trimesh(vertices, [(0, 1, 2), (0, 2, 3)], visual=visual, process=False)


def per_vertex() -> Any:
    shape = trimesh.creation.box((1, 0.6, 0.3))
    shape.visual = trimesh.visual.ColorVisuals(shape, vertex_colors=np.tile((*RED, 255), (8, 1)))
    return shape


def solid_red() -> Any:
    return coloured(trimesh.creation.box((1, 0.6, 0.3)), np.tile((*RED, 255), (12, 1)))


@pytest.mark.parametrize("ending", ["glb", "gltf", "obj", "stl", "ply", "off"])
def test_every_format_is_read_with_its_colours(tmp_path, ending):
    for number in range(2):
        folder = tmp_path / "cups" / str(number)
        folder.mkdir(parents=True)
        shape = per_vertex() if ending in ("glb", "gltf", "obj", "ply") else solid_red()
        if ending == "gltf":
            for name, content in trimesh.Scene([shape]).export(file_type="gltf").items():
                (folder / name).write_bytes(content)
        else:
            shape.export(folder / f"cup.{ending}")
    source = rendered(tmp_path / "cups", up="z", labels="none")
    image = source.render(np.array([0]), scene(source, ScipyRotation.identity(), light_hue=0.0)).pixels[0].float()
    red, green, blue = image[:, 14:18, 14:18].mean((1, 2)).tolist()
    if ending in ("stl", "off"):
        assert red == pytest.approx(blue, rel=0.5), "these have no colours here: grey"
    else:
        assert red > 100
        assert max(green, blue) < 1
    assert source.masks(np.array([0]), np.array([0])).any()


@pytest.mark.parametrize("kind", ["glb", "obj", "zip"])
def test_textures_lie_where_their_coordinates_say(tmp_path, kind):
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=pattern())
    if kind != "glb":
        material = trimesh.visual.material.SimpleMaterial(image=pattern())
    root = tmp_path / "plates"
    for number in range(2):
        (root / str(number)).mkdir(parents=True)
        plate(material).export(root / str(number) / ("plate.glb" if kind == "glb" else "plate.obj"))
    place = root
    if kind == "zip":
        place = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", root))
    source = rendered(place, up="z", labels="none")
    # Towards the camera, whose right is -x: u grows to the left of the picture.
    image = source.render(np.array([0]), scene(source, ScipyRotation.from_euler("x", -math.pi / 4))).pixels[0]
    left, right = image[:, 16, 11].int(), image[:, 16, 21].int()
    assert (left.argmax(), right.argmax()) == (1, 0)
    assert left.min() == right.min() == 0


def test_a_texture_that_is_missing_is_said_once(tmp_path, caplog):
    for number in range(2):
        (tmp_path / f"{number}.obj").write_text(
            "mtllib m.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nusemtl red\nf 1/1 2/1 3/1\n"
        )
    (tmp_path / "m.mtl").write_text("newmtl red\nKd 1 0 0\nmap_Kd gone.png\n")
    source = rendered(tmp_path, labels="none", memory_gb=1e-9)
    for _ in range(2):
        assert load_all(source).readable.all()
    assert [record.getMessage() for record in caplog.records if record.name == "ssl_inv.data"] == [
        f"{tmp_path}: {number}.obj lacks gone.png; plain colours take its place" for number in range(2)
    ]
    assert source._caster(0).mesh.colours.tolist() == [[255, 0, 0]]


def test_the_front_and_the_top_of_gltf_axes_are_seen(tmp_path):
    """In glTF y points up and the front is at +z: green above, blue in front."""
    path = stored(tmp_path / "boxes.npz", box((1, 1, 1)), box())
    source = rendered(path, up="auto", size=64)
    image = source.render(np.array([0]), scene(source, ScipyRotation.identity())).pixels[0]
    assert image[:, 20, 32].argmax() == 1
    assert image[:, 44, 32].argmax() == 2
    turned = rendered(path, up="z", size=64)
    image = turned.render(np.array([0]), scene(turned, ScipyRotation.identity())).pixels[0]
    assert (image[:, 20, 32].argmax(), image[:, 44, 32].argmax()) == (2, 1)


def test_parts_are_the_geometries_of_a_file_or_its_colours(tmp_path, boxes):
    for number in range(2):
        top = solid_red()
        top.apply_translation((0, 0, 1))
        trimesh.Scene({"bottom": solid_red(), "top": top}).export(tmp_path / f"{number}.glb")
    source = rendered(tmp_path, up="z", labels="none", exclude=["*.npz"])
    parts = source.surfaces(np.array([0]), np.array([0]))[2]
    assert set(parts.unique().tolist()) == {0, 1, 2}
    assert len(rendered(boxes).surfaces(np.array([0]), np.array([0]))[2].unique()) in (3, 4)


# Broken meshes.

BUFFER = '{"asset": {"version": "2.0"}, "buffers": [{"uri": "gone.bin", "byteLength": 9}]}'
CORNERS = "v 0 0 0\nv 1 0 0\nv 0 1 0\n"
BROKEN = {
    "no mesh": ("a.glb", "no mesh", "^it is no GLB file$"),
    "empty": ("a.obj", "", "^its file is empty$"),
    "empty glb": ("a.glb", "", "^its file is empty$"),
    "cut glb": ("a.glb", "glTF\x02\0\0\0\x7f\0\0\0{}", "^its file is cut off: it has 14 of 127 bytes$"),
    "cut glb header": ("a.glb", "glTF", "^its file is cut off: it has 4 of 12 bytes$"),
    "cut stl": ("a.stl", "\0" * 80 + "\x02\0\0\0" + "\0" * 60, "^its file is cut off: it has 144 of 184 bytes$"),
    "cut json": ("a.gltf", '{"asset": {"vers', r"^its JSON is damaged or cut off \(Unterminated string"),
    "no buffer": ("a.gltf", BUFFER, "^it needs gone.bin, which cannot be read$"),
    "cut": ("a.ply", "ply\nformat ascii 1.0\nelement vertex 4", r"^it is damaged \("),
    "no ply": ("a.ply", "text", "^it is no PLY file$"),
    "missing vertex": ("a.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 99\n", "^a face names vertex 99, but there are 3$"),
    "no off": ("a.off", "# a comment\nno mesh", "^it is no OFF file$"),
    "no faces": ("a.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\n", "it has no faces"),
    "not finite": ("a.off", off(NAN, "3 0 1 2"), "not finite"),
    "one point": ("a.off", off(("1 1 1",) * 3, "3 0 1 2"), "it has no faces|one point|none of its faces"),
    "no area": ("a.off", off(("0 0 0", "1 0 0", "2 0 0"), "3 0 1 2"), "none of its faces has an area"),
    "missing corner": ("a.off", off(HOLES, "3 0 1 9"), "a face has the corner 9|a face index outside the range"),
    "too large a number": ("a.off", off(("1e308 0 0", "-1e308 0 0", "0 1e308 0"), "3 0 1 2"), "too large"),
    "too many faces": ("a.off", off(HOLES, "\n".join(["3 0 1 2"] * 12)), "12 faces, more than max_faces, 10"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_mesh_is_named_with_its_reason_and_the_others_are_rendered(tmp_path, caplog, case):
    name, content, reason = BROKEN[case]
    (tmp_path / name).write_text(content)
    for number in range(3):
        (tmp_path / f"whole{number}.off").write_text(WHOLE)
    source = rendered(tmp_path, max_faces=10, seed=2)
    images = load_all(source)
    assert images.readable.tolist() == [False] * 3 + [True] * 9
    assert not images.pixels[:3].any()
    assert list(source.broken) == [name]
    assert source.describe(0, 2) == name
    assert source.describe(1, 2) == "whole0.off, view 2"
    assert re.search(reason, source.broken[name])
    (line,) = [record.getMessage() for record in caplog.records if record.name == "ssl_inv.data"]
    assert line == f"{tmp_path}: {name} is left out: {source.broken[name]}"
    assert "\n" not in line


def test_open_edges_doubled_faces_and_faces_that_look_inwards_are_rendered(tmp_path):
    doubled = off(HOLES, "3 0 1 2\n3 0 2 1\n3 0 1 3\n3 0 2 3\n3 1 2 3\n3 3 2 1")
    for name, content in (("a", WHOLE), ("b", doubled), ("c", NON_MANIFOLD)):
        (tmp_path / f"{name}.off").write_text(content)
    source = rendered(tmp_path)
    pixels = [source.render(np.array([item]), scene(source, ScipyRotation.identity())).pixels for item in range(3)]
    assert torch.equal(pixels[0], pixels[1])
    assert not torch.equal(pixels[0], pixels[2])
    assert not source.broken


def test_too_many_broken_meshes_stop_at_once_and_more_can_be_allowed(tmp_path, caplog):
    for number in range(30):
        (tmp_path / f"{number:02}.off").write_text("no mesh" if number % 2 else WHOLE)
    with pytest.raises(SettingError) as caught:
        rendered(tmp_path, views=1)
    assert caught.value.setting == "max_broken"
    named = ", ".join(f"{number:02}.off" for number in range(1, 21, 2))
    what = f"15 of 30 meshes of {tmp_path} cannot be rendered, more than 10: {named} and 5 more; the first: "
    assert caught.value.problem.startswith(what)
    assert caught.value.problem.endswith("; raise it to go on without them")
    assert not caplog.records, "one line says it all"
    source = rendered(tmp_path, views=1, max_broken=0.5)
    assert len(source.broken) == source.tolerated_images == 15
    for _ in range(2):
        assert load_all(source).readable.sum() == 15
    assert len(caplog.records) == 15, "each is named once"


def test_a_limit_of_faces_is_blamed_where_files_are_whole(tmp_path):
    for number in range(4):
        (tmp_path / f"{number}.off").write_text("no mesh" if number == 0 else WHOLE)
    with pytest.raises(SettingError) as caught:
        rendered(tmp_path, max_faces=1)
    where = f"max_faces: 3 of 4 meshes of {tmp_path} have more faces than 1: 1.off, 2.off, 3.off"
    assert str(caught.value) == f"{where}; the largest has 4; raise it"


def test_a_set_in_which_nothing_can_be_rendered_is_refused(tmp_path):
    for number in range(2):
        (tmp_path / f"{number}.off").write_text("no mesh")
    with pytest.raises(SettingError, match=r"path: no mesh of .* can be rendered: 0.off, 1.off; the first: it is no"):
        rendered(tmp_path, max_broken=1.0)


@pytest.mark.parametrize(("broken", "part"), [("train", "to train on"), ("val", "of the validation split")])
def test_a_part_of_the_data_that_cannot_be_rendered_is_refused(tmp_path, caplog, broken, part):
    for name in ("train", "val"):
        for number in range(4 if name != broken else 1):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / f"{number}.off").write_text("no mesh" if name == broken else WHOLE)
    data = meshes(path=str(tmp_path), cache=False)
    with pytest.raises(SettingError, match=rf"path: no mesh {part} can be rendered \({broken}/0.off\); the first: it"):
        require_rendered(data)
    assert not caplog.records, "one line says it all"


def test_of_very_many_meshes_some_are_read_first_and_the_others_count_when_they_are_met(tmp_path, monkeypatch):
    for number in range(30):
        (tmp_path / f"{number:02}.off").write_text("no mesh" if number % 2 else WHOLE)
    monkeypatch.setattr(source_of_meshes, "_MOST_READ_FIRST", 3)
    source = rendered(tmp_path, views=1)
    assert list(source.broken) == ["29.off"]
    with pytest.raises(SettingError, match="max_broken: 11 of 30 meshes"):
        load_all(source)


@pytest.mark.parametrize("factor", [1e-30, 1.0, 1e30])
def test_size_and_place_of_a_mesh_do_not_matter(factor):
    shape = box()
    colours, parts = np.zeros((12, 3), dtype=np.uint8), np.ones(12, dtype=np.uint8)
    expected = centred(Mesh(shape.vertices.view(np.ndarray), shape.faces, colours, parts), RADIUS, 99).vertices
    moved = Mesh((shape.vertices.view(np.ndarray) + 7) * factor, shape.faces, colours, parts)
    assert np.allclose(centred(moved, RADIUS, 99).vertices, expected, atol=1e-9)
    assert np.linalg.norm(expected, axis=1).max() == pytest.approx(RADIUS)
    with pytest.raises(BrokenMeshError, match="12 faces, more than max_faces, 11"):
        centred(moved, RADIUS, 11)
