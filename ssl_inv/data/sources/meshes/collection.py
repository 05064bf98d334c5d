"""Sets of meshes: their names, classes, groups and splits, and one mesh at a time."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_inv.catalogue import SettingError, closest, suggest
from ssl_inv.data.array_files import StoredArray, stored_arrays
from ssl_inv.data.layout import Choice, LabelsFrom, Layout
from ssl_inv.data.names import utf8_name
from ssl_inv.data.roots import open_files
from ssl_inv.data.sheets import read_sheet
from ssl_inv.data.source import Indices
from ssl_inv.data.sources.meshes.casting import require_libraries
from ssl_inv.data.sources.meshes.mesh import PLAIN, BrokenMeshError, Mesh, parts_by_colour, upright
from ssl_inv.data.sources.meshes.reading import MESH_SUFFIXES, NEEDED, Up, read_mesh
from ssl_inv.data.splits import SPLIT_NAMES, split_of, splits_of

_COLUMNS = ("path", "class", "group", "split")


class Collection(ABC):
    """A set of meshes. It can be pickled.

    Attributes:
        where: the folder, archive or file.
        names: of the meshes, `(N,)`.
        classes: the class of every mesh, empty where it is unknown, `(N,)`.
        groups: meshes of one group show one thing, such as a model in several colours, `(N,)`.
        splits: the meshes of every split by its name; empty if there is none.
        keys: what stands for every mesh in the key of its views, `(N,)`: the views of a mesh stay the same when others
            are added.
        usual: which meshes are taken where no classes are chosen, `(N,)`.
        notes: facts for the run's record.
        remarks: what its owner may not have meant, in words.
    """

    where: str
    names: Sequence[str]
    classes: NDArray[np.str_]
    groups: NDArray[np.str_]
    splits: dict[str, Indices]
    keys: Indices
    usual: NDArray[np.bool_]
    notes: dict[str, str]
    remarks: Sequence[str] = ()

    @abstractmethod
    def read(self, number: int) -> Mesh:
        """A mesh, not yet centred, or a `BrokenMeshError`."""

    @property
    @abstractmethod
    def stamp(self) -> str:
        """See `Source.stamp`."""


def open_collection(
    path: str, csv_file: str | None, labels: LabelsFrom | None, label_level: int, exclude: Sequence[str], up: Up
) -> Collection:
    """The meshes of a folder, an archive or an `.npz`; see `meshes`.

    Raises:
        SettingError: if a setting does not fit the data, or a library is missing.
        FileNotFoundError: if nothing is there.
        ValueError: if there are no meshes, or tables do not fit together.
    """
    if up not in ("auto", "y", "z"):
        raise SettingError("up", f"must be 'auto', 'y' or 'z', got {up!r}")
    if label_level < 1:
        raise SettingError("label_level", f"must be at least 1, got {label_level}")
    place = Path(path).expanduser()
    if place.suffix.lower() in (".npz", ".npy") and place.is_file():
        if csv_file is not None or labels is not None or exclude:
            given = "csv_file" if csv_file is not None else "labels" if labels is not None else "exclude"
            raise SettingError(given, f"is for folders and archives; {place.name} has its own classes")
        require_libraries("embreex")
        return StoredMeshes(place, up)
    if place.suffix.lower() in MESH_SUFFIXES and place.is_file():
        raise SettingError("path", f"{path} is one mesh; give the folder that it lies in, {place.parent}")
    require_libraries("trimesh", "embreex")
    return MeshFiles(path, csv_file, Choice(labels, label_level, None, tuple(exclude), what="meshes"), up)


class MeshFiles(Collection):
    """The meshes of a folder or an archive, one a file, in the order of their names.

    Args:
        path: the folder or archive.
        csv_file: a table of meshes in it; None takes all, and classes by folders.
        choice: what folders mean.
        up: see `read_mesh`.
    """

    def __init__(self, path: str, csv_file: str | None, choice: Choice, up: Up) -> None:
        self._files, self._up = open_files(path, choice.exclude), up
        self.where = str(self._files)
        self._names = self._files.with_suffix(MESH_SUFFIXES)
        if not len(self._names):
            endings = ", ".join(sorted(MESH_SUFFIXES))
            packed = self._files.with_suffix(frozenset({".npz"}))
            hint = f"; for the meshes of its {utf8_name(packed[0])} give the path of that file" if len(packed) else ""
            raise ValueError(f"{self.where} has no meshes; files end with one of {endings}{hint}")
        others, unlisted = len(self._files.names) - len(self._names), ""
        self.notes = {}
        if csv_file is None:
            layout = Layout(self._files, self._names, choice)
            self.splits = layout.splits
            found = layout.labels(None)[1]
            self.classes = np.full(len(self._names), "", dtype=np.str_)
            if found is not None:
                named = np.array(found.names, dtype=np.str_)[found.classes.numpy()]
                self.classes = np.where(found.known.numpy(), named, "")
            self.groups = np.arange(len(self._names)).astype(np.str_)
        else:
            if choice.labels is not None:
                raise SettingError("labels", "says what folders mean, but csv_file gives the classes; leave one out")
            others -= 1
            unlisted = self._follow(csv_file)
        self.names = [utf8_name(name) for name in self._names]
        self.keys = np.array([_key(name) for name in self.names], dtype=np.int64)
        self.usual = np.ones(len(self.names), dtype=np.bool_)
        left = [unlisted, f"{others} file(s) with other endings, such as textures" if others > 0 else ""]
        if any(left):
            self.notes["not used"] = "; ".join(filter(None, left))

    def _follow(self, csv_file: str) -> str:
        """Take meshes, classes, groups and splits from a table. Returns which meshes it does not list, in words."""
        where = f"{self.where}: {csv_file}"
        if csv_file not in self._files:
            raise SettingError("csv_file", f"there is no {csv_file!r} in {self.where}")
        header, rows = read_sheet(self._files, csv_file)
        lacking = [name for name in _COLUMNS if name not in header]

        def hinted(column: str) -> str:
            near = closest(column.casefold(), lacking)
            return f"{column} (did you mean {near!r}?)" if near else column

        if "path" not in header:
            raise ValueError(f"{where} has no column 'path'; {suggest('path', header)}")
        if unknown := [column for column in header if column not in _COLUMNS]:
            self.notes["columns not used"] = ", ".join(map(hinted, unknown))
        if not rows:
            raise ValueError(f"{where} lists no meshes")
        column = {name: [row[header.index(name)] for row in rows] for name in _COLUMNS if name in header}
        place = {utf8_name(name): number for number, name in enumerate(self._names)}
        if missing := [name for name in column["path"] if name not in place]:
            raise ValueError(f"{where}: no mesh {missing[0]!r}; {suggest(missing[0], place)}")
        if twice := [name for name in column["path"] if column["path"].count(name) > 1]:
            raise ValueError(f"{where} lists {twice[0]!r} twice")
        listed = set(column["path"])
        unlisted = [name for name in place if name not in listed]
        left = f"{len(unlisted)} mesh(es) that are not in {csv_file}, the first {unlisted[0]}" if unlisted else ""
        slips = [hinted(name) for name in unknown if hinted(name) != name]
        self.remarks = [
            *([f"{left}: not used"] if left else []),
            *(f"the column {name} of {csv_file} is not used" for name in slips),
        ]
        self._names = self._names[np.array([place[name] for name in column["path"]], dtype=np.int64)]
        empty = [""] * len(rows)
        self.classes = np.array(column.get("class", empty), dtype=np.str_)
        alone = [f"{number} alone" for number in range(len(rows))]
        groups = zip(column.get("group", empty), alone, strict=True)
        self.groups = np.array([group or other for group, other in groups], dtype=np.str_)
        self.splits = {}
        if "split" in column:
            told = [split_of(name) or "" for name in column["split"]]
            if "" in told:
                row = told.index("")
                raise ValueError(f"{where}, row {row + 1}: {column['split'][row]!r} is no split; {SPLIT_NAMES} are")
            self.splits = splits_of(np.array(told, dtype=np.str_))
        return left

    def read(self, number: int) -> Mesh:
        return read_mesh(self._files, self._names[number], self._up)

    @property
    def stamp(self) -> str:
        return self._files.stamp


def _key(name: str) -> int:
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


_DTYPES = {"verts": "iuf", "faces": "iu", "v_off": "iu", "f_off": "iu", "face_rgb": "u", "label": "iu"}
"""Arrays of numbers in an `.npz` of meshes, and the kinds of their types."""


class StoredMeshes(Collection):
    """The meshes of an `.npz`.

    Its arrays are `verts` `(V, 3)`, integers that are divided by the largest one of their type, or floats; `faces`
    `(F, 3)`, indices into the vertices of the own mesh; `v_off` and `f_off` `(N + 1,)`, where vertices and faces of
    every mesh begin; and, as far as they are there, `face_rgb` `(F, 3)`, uint8; `label` `(N,)`, -1 for no class;
    `class_names`; `is_object_class`, False for classes that are taken by name only; `name` and `group` `(N,)`.

    Args:
        path: the file.
        up: the axis that points up; `auto`: y.
    """

    def __init__(self, path: Path, up: Up) -> None:
        self.where, self._path, self._up = str(path), path, "y" if up == "auto" else up
        stored = {one.name: one for one in stored_arrays(path)}
        if missing := [name for name in NEEDED if name not in stored]:
            raise ValueError(
                f"{path} is no file of meshes: it has no array {missing[0]!r}; {suggest(missing[0], stored)}"
            )
        self._open(stored)
        self._check()
        count = len(self._v_off) - 1
        labels = self._column(stored, "label", count, np.full(count, -1))
        class_names = [str(name) for name in self._column(stored, "class_names", None, np.empty(0, dtype=np.str_))]
        if labels.size and labels.max() >= len(class_names):
            raise ValueError(f"{path}: label has {labels.max()}, but class_names {len(class_names)} name(s)")
        self.classes = np.array([class_names[label] if label >= 0 else "" for label in labels], dtype=np.str_)
        usual = self._column(stored, "is_object_class", len(class_names), np.ones(len(class_names)))
        self.usual = np.array([not class_names or (label >= 0 and bool(usual[label])) for label in labels])
        names = self._column(stored, "name", count, np.arange(count))
        self.names = [
            f"{number} {name}" if str(name) != str(number) else str(number) for number, name in enumerate(names)
        ]
        self.groups = self._column(stored, "group", count, np.arange(count)).astype(np.str_)
        self.splits, self.keys = {}, np.arange(count, dtype=np.int64)
        self.notes = {}

    def _open(self, stored: dict[str, StoredArray]) -> None:
        self._verts, self._faces, self._v_off, self._f_off = (self._array(stored[name]) for name in NEEDED)
        self._rgb = self._array(stored["face_rgb"]) if "face_rgb" in stored else None

    def _array(self, stored: StoredArray) -> NDArray[Any]:
        if stored.dtype.kind not in _DTYPES[stored.name]:
            raise ValueError(f"{self._path}: {stored.name} has the type {stored.dtype}, which does not fit")
        return stored.read()

    def _check(self) -> None:
        for name, array in (("verts", self._verts), ("faces", self._faces), ("face_rgb", self._rgb)):
            if array is not None and (array.ndim != 2 or array.shape[1] != 3):
                raise ValueError(f"{self._path}: {name} has the shape {array.shape}, expected (n, 3)")
        if self._rgb is not None and len(self._rgb) != len(self._faces):
            raise ValueError(f"{self._path}: face_rgb has {len(self._rgb)} rows for {len(self._faces)} faces")
        if len(self._v_off) < 2 or len(self._v_off) != len(self._f_off):
            lengths = f"{len(self._v_off)} and {len(self._f_off)} numbers"
            raise ValueError(f"{self._path}: v_off and f_off have {lengths}, expected one more than meshes")
        for name, offsets, there in (("v_off", self._v_off, self._verts), ("f_off", self._f_off, self._faces)):
            steps = np.diff(offsets.astype(np.int64))
            if offsets[0] != 0 or offsets[-1] != len(there) or steps.min() < 0:
                raise ValueError(
                    f"{self._path}: {name} must rise from 0 to {len(there)}, the number of rows it divides"
                )

    def _column(
        self, stored: dict[str, StoredArray], name: str, count: int | None, default: NDArray[Any]
    ) -> NDArray[Any]:
        if name not in stored:
            return default
        values = np.asarray(stored[name].read())
        if values.ndim != 1 or (count is not None and len(values) != count):
            raise ValueError(f"{self._path}: {name} has the shape {values.shape}, expected ({count or 'n'},)")
        return values

    def __getstate__(self) -> dict[str, object]:
        arrays = ("_verts", "_faces", "_v_off", "_f_off", "_rgb")
        return {name: value for name, value in vars(self).items() if name not in arrays}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._open({one.name: one for one in stored_arrays(self._path)})

    def read(self, number: int) -> Mesh:
        first, last = (int(self._v_off[number + step]) for step in (0, 1))
        vertices = np.asarray(self._verts[first:last], dtype=np.float64)
        if self._verts.dtype.kind in "iu":
            vertices /= np.iinfo(self._verts.dtype).max
        first, last = (int(self._f_off[number + step]) for step in (0, 1))
        faces = np.asarray(self._faces[first:last], dtype=np.int64)
        if len(faces) and (faces.max() >= len(vertices) or faces.min() < 0):
            raise BrokenMeshError(f"a face has a corner that is none of its {len(vertices):,} vertices")
        grey = np.full((len(faces), 3), PLAIN, dtype=np.uint8)
        colours = grey if self._rgb is None else np.array(self._rgb[first:last], dtype=np.uint8)
        parts = parts_by_colour(colours) if len(faces) else np.empty(0, dtype=np.uint8)
        return Mesh(upright(vertices, self._up), faces.astype(np.int32), colours, parts)

    @property
    def stamp(self) -> str:
        there = self._path.stat()
        return f"{self._path} {there.st_size} {there.st_mtime_ns}"
