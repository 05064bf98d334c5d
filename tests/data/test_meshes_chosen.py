"""Claims about which meshes are taken: classes, groups, splits and tables, and mistakes in saying so."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_meshes import WHOLE, box, six_boxes, stored

from ssl_inv.data.looks import require_rendered
from ssl_inv.data.sources.meshes.source import meshes
from ssl_inv.data.sources.rendered import renderer as solids

RADIUS = solids.BOUNDING_RADIUS


@pytest.fixture
def boxes(tmp_path: Path) -> Path:
    return six_boxes(tmp_path / "boxes.npz")


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """24 boxes: classes cat, dog and wall, and two of each group; walls are no objects."""
    numbers = np.arange(24)
    more = {
        "label": np.append(numbers[:-1] // 2 % 3, -1),
        "class_names": np.array(("cat", "dog", "wall")),
        "is_object_class": np.array((True, True, False)),
        "group": (numbers // 2).astype(str),
        "name": np.array([f"box{number}" for number in numbers]),
    }
    return stored(tmp_path / "library.npz", *(box((1, 0.6, 0.2 + 0.02 * number)) for number in numbers), **more)


def test_classes_are_chosen_by_name_and_groups_stay_on_one_side(library):
    data = meshes(path=str(library), cache=False, validation_share=0.25)
    assert data.notes["objects"] == f"16 meshes of 2 classes from {library}"
    assert data.notes["split"] == (
        "4 of 16 objects held out at random by group (2 of 8 groups, the same share of every class), seed 0"
    )
    whole = data.train.source
    sides = [
        {int(whole.name_of(item).split()[0]) // 2 for item in part.objects} for part in (data.train, data.validation)
    ]
    assert not sides[0] & sides[1]
    assert data.train.labels.names == data.validation.labels.names == ("cat", "dog")
    assert data.validation.labels.classes.unique().tolist() == [0, 1]
    walls = meshes(path=str(library), classes=["wall", "cat"], cache=False)
    assert walls.train.labels.names == ("cat", "wall")
    alike = meshes(path=str(library), classes=["cat"], cache=False).train.source
    both = [one.latents(np.array([0]), np.array([1])) for one in (whole, alike)]
    assert whole.name_of(0) == alike.name_of(0)
    assert np.array_equal(*both), "the views of a mesh do not depend on which others are chosen"


def test_fewer_objects_to_train_on_are_some_of_more_and_the_others_stay(library):
    def names(part: Any) -> list[str]:
        return [part.source.name_of(int(item)) for item in part.objects]

    made = [meshes(path=str(library), cache=False, train_objects=count) for count in (4, 8, None)]
    assert names(made[0].validation) == names(made[1].validation) == names(made[2].validation)
    few, more, every = (set(names(one.train)) for one in made)
    assert few < more < every
    assert torch.bincount(made[0].train.labels.classes).tolist() == [2, 2]
    total = meshes(path=str(library), cache=False, objects=6)
    assert len(total.train) + len(total.validation) == 6


def test_a_table_gives_classes_groups_and_a_split(tmp_path):
    rows = ["path,class,group,split,maker"]
    for number in range(8):
        (tmp_path / f"{number}.off").write_text(WHOLE)
        rows.append(f"{number}.off,{'ab'[number % 2]},{number // 2},{'val' if number > 5 else 'train'},me")
    (tmp_path / "meshes.csv").write_text("\n".join(rows))
    data = meshes(path=str(tmp_path), csv_file="meshes.csv", cache=False)
    assert (len(data.train), len(data.validation)) == (6, 2)
    assert data.train.labels.names == ("a", "b")
    assert data.notes["split"] == "the data's own train and validation splits"
    assert data.notes["columns not used"] == "maker"
    (tmp_path / "meshes.csv").write_text("\n".join(rows).replace("5.off,b,2", "5.off,b,3"))
    with pytest.raises(ValueError, match="has meshes of the group '3' in train and in validation"):
        meshes(path=str(tmp_path), csv_file="meshes.csv")


def test_class_folders_and_folders_of_a_split(tmp_path):
    for number in range(12):
        place = tmp_path / ("train", "val")[number % 3 == 0] / ("cat", "dog")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.off").write_text(WHOLE)
    (tmp_path / "notes.txt").write_text("not a mesh")
    data = meshes(path=str(tmp_path), cache=False)
    assert (len(data.train), len(data.validation)) == (8, 4)
    assert data.train.labels.names == ("cat", "dog")
    assert data.notes["not used"].startswith("1 file(s)")


def replaced(path: Path, **changes: Any) -> str:
    """The path of an `.npz` with other arrays; None takes one away."""
    with np.load(path) as found:
        arrays = {**found, **changes}
    np.savez(path.parent / "changed.npz", **{name: value for name, value in arrays.items() if value is not None})
    return str(path.parent / "changed.npz")


MISUSE: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no class": ({}, {"classes": ["cta"]}, "classes: no mesh has the class 'cta'; did you mean 'cat'?"),
    "class twice": ({}, {"classes": ["cat", "cat"]}, "classes: 'cat' is named twice"),
    "one object": ({}, {"objects": 1}, "objects: must be at least 2"),
    "no training": ({}, {"train_objects": 0}, "train_objects: must be at least 1, got 0"),
    "no views": ({}, {"views": 0}, "views: must be at least 1, got 0"),
    "tiny": ({}, {"size": 4}, "size: must be at least 8, got 4"),
    "no rays": ({}, {"samples": 0}, "samples: must be at least 1, got 0"),
    "too many rays": ({}, {"samples": 1000}, "samples: 1,000 rays along each of 64 pixels are 64,000, more than 4,096"),
    "too large": ({}, {"size": 100_000}, "size: must be at most 4,096, got 100,000"),
    "too many views": ({}, {"views": 10**8}, "views: must be at most 100,000, got 100,000,000"),
    "too large to keep": (
        {},
        {"size": 4096, "samples": 1, "views": 1000, "cache": True},
        "cache: all 16,000 views take 805 GB, and",
    ),
    "angles": ({}, {"angle_range": 200.0}, "angle_range: must lie between 0 and 180, got 200"),
    "no angles left": ({}, {"angle_from": 95.0}, "angle_from: must be at least 0 and below angle_range, 90, got 95"),
    "hues": ({}, {"hue_range": 2.0}, "hue_range: must lie between 0 and 1, got 2"),
    "far": ({}, {"translation_range": 0.5}, "translation_range: must lie between 0 and 0.3, got 0.5"),
    "pose of still objects": ({}, {"pose": True}, "objects of this data are not shifted; set pose to false"),
    "no memory": ({}, {"memory_gb": 0.0}, "memory_gb: must be above 0, got 0.0"),
    "no faces allowed": ({}, {"max_faces": 0}, "max_faces: must be at least 1, got 0"),
    "broken share": ({}, {"max_broken": 1.5}, "max_broken: must lie between 0 and 1, got 1.5"),
    "share": ({}, {"validation_share": 1.0}, "validation_share: must be above 0 and below 1, got 1.0"),
    "axis": ({}, {"up": "x"}, "up: must be 'auto', 'y' or 'z', got 'x'"),
    "level": ({}, {"label_level": 0}, "label_level: must be at least 1, got 0"),
    "table of an npz": ({}, {"csv_file": "a.csv"}, "csv_file: is for folders and archives"),
    "labels of an npz": ({}, {"labels": "folders"}, "labels: is for folders and archives"),
    "no vertices": ({"verts": None}, {}, "is no file of meshes: it has no array 'verts'"),
    "flat vertices": ({"verts": np.zeros((5, 2))}, {}, r"verts has the shape \(5, 2\), expected \(n, 3\)"),
    "words for faces": ({"faces": np.array((("a", "b", "c"),))}, {}, "faces has the type <U1, which does not fit"),
    "colours of others": ({"face_rgb": np.zeros((5, 3), np.uint8)}, {}, "face_rgb has 5 rows for 288 faces"),
    "offsets": ({"v_off": np.arange(25)}, {}, "v_off must rise from 0 to 192"),
    "offsets of others": ({"f_off": np.arange(5)}, {}, "v_off and f_off have 25 and 5 numbers"),
    "labels of others": ({"label": np.zeros(3, np.int64)}, {}, r"label has the shape \(3,\), expected \(24,\)"),
    "labels without names": ({"label": np.full(24, 7)}, {}, r"label has 7, but class_names 3 name\(s\)"),
    "pickles": ({"name": np.array([object()] * 24)}, {}, "pickled"),
    "one group": ({"group": np.zeros(24)}, {}, "of one group cannot be split"),
}


@pytest.mark.parametrize("case", MISUSE)
def test_a_mistake_is_one_line_that_names_it(case, library):
    arrays, settings, message = MISUSE[case]
    path = replaced(library, **arrays) if arrays else str(library)
    with pytest.raises(ValueError, match=message) as caught:
        meshes(path=path, **settings)
    assert "\n" not in str(caught.value)


FOLDERS = {
    "beside a split": (
        ["train/a", "val/a", "box"],
        {},
        "but meshes lie in 'box' too; move or rename it, or name it in",
    ),
    "a split inside": (
        ["in/train", "in/val", "box"],
        {},
        "but meshes lie outside it too; take it alone, `path: .*/in`, rename these folders, or name the others in",
    ),
    "not so deep": (["a", "b"], {"label_level": 3}, "label_level: no mesh of .* lies 3 folders deep"),
    "no class folder": (["."], {"labels": "folders"}, "labels is 'folders', but no mesh lies in a class folder"),
    "one": (
        ["a"],
        {},
        "path: .*: 1 mesh.* cannot be split into train and validation; add a mesh; .* lay a copy of its",
    ),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_what_is_wrong_with_folders_of_meshes_names_no_setting_that_they_lack(case, tmp_path):
    folders, settings, message = FOLDERS[case]
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "0.off").write_text(WHOLE)
    with pytest.raises(ValueError, match=message) as caught:
        meshes(path=str(tmp_path), **settings)
    assert not {"image", "images", "split: none"} & set(str(caught.value).replace("`", " ").split())
    assert "split: none" not in str(caught.value)


def test_meshes_and_columns_that_a_table_leaves_out_are_told(tmp_path, caplog):
    for number in range(5):
        (tmp_path / f"a{number}.off").write_text(WHOLE)
    (tmp_path / "meshes.csv").write_text("path,clas,maker\na1.off,cat,me\na3.off,dog,me\n")
    (tmp_path / "notes.txt").write_text("not a mesh")
    data = meshes(path=str(tmp_path), csv_file="meshes.csv", cache=False)
    left = "3 mesh(es) that are not in meshes.csv, the first a0.off"
    assert data.notes["not used"] == f"{left}; 1 file(s) with other endings, such as textures"
    assert data.notes["columns not used"] == "clas (did you mean 'class'?), maker"
    require_rendered(data)
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}: {left}: not used",
        f"{tmp_path}: the column clas (did you mean 'class'?) of meshes.csv is not used",
    ]


def test_a_table_of_all_meshes_is_told_nothing_of(tmp_path, caplog):
    for number in range(2):
        (tmp_path / f"a{number}.off").write_text(WHOLE)
    (tmp_path / "meshes.csv").write_text("path,class\na0.off,cat\na1.off,dog\n")
    data = meshes(path=str(tmp_path), csv_file="meshes.csv", cache=False)
    require_rendered(data)
    assert not {"not used", "columns not used"} & data.notes.keys()
    assert not caplog.records


TABLES = {
    "no path": ("name,class\na.off,cat\n", "has no column 'path'"),
    "no such mesh": ("path\nb.off\n", "no mesh 'b.off'; there are a0.off"),
    "twice": ("path\na1.off\na1.off\n", "lists 'a1.off' twice"),
    "no split": ("path,split\na1.off,trian\n", "row 1: 'trian' is no split"),
    "nothing": ("path\n", "lists no meshes"),
    "one": ("path\na1.off\n", "cannot be split into train and validation"),
}


@pytest.mark.parametrize("case", TABLES)
def test_a_table_that_does_not_fit_is_refused(case, tmp_path):
    content, message = TABLES[case]
    for number in range(3):
        (tmp_path / f"a{number}.off").write_text(WHOLE)
    (tmp_path / "meshes.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        meshes(path=str(tmp_path), csv_file="meshes.csv")
    for settings, problem in (({"csv_file": "x.csv"}, "csv_file: there is no"), ({"exclude": ["*.off"]}, "no meshes")):
        with pytest.raises(ValueError, match=problem):
            meshes(path=str(tmp_path), **settings)


@pytest.mark.parametrize("missing", ["trimesh", "embreex"])
def test_a_missing_library_is_one_line_with_its_extra(missing, tmp_path, monkeypatch):
    (tmp_path / "a.off").write_text(WHOLE)
    from ssl_inv.data.sources.meshes import casting

    found = casting.find_spec
    monkeypatch.setattr(casting, "find_spec", lambda name: None if name == missing else found(name))
    with pytest.raises(ValueError, match=rf"name: 'meshes' needs {missing}: pip install 'ssl-inv\[meshes\]'"):
        meshes(path=str(tmp_path))
