"""Claims about images in numpy's files: every layout holds the same images, arrays beside them say what they mean, and
what does not fit is one line.
"""

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_data import load_all

from ssl_inv.catalogue import SettingError
from ssl_inv.data import archives
from ssl_inv.data.listings import Columns
from ssl_inv.data.reading import Reading
from ssl_inv.data.sources.arrays import ImageArrays, arrays
from ssl_inv.transforms import Circle, Real, Rotation
from ssl_inv.transforms.quaternions import quaternion_from_euler

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
CLASSES = np.arange(12) % 3
GREY = PIXELS[..., 0]


def saved(path: Path, **made: Any) -> str:
    np.savez(path, **made)
    return str(path)


def pixels_of(images: ImageArrays) -> np.ndarray[Any, Any]:
    return load_all(images).pixels.permute(0, 2, 3, 1).numpy()


def grey(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.repeat(values[..., None], 3, axis=3)


@pytest.mark.parametrize(
    ("stored", "settings", "expected"),
    [
        (PIXELS, {}, PIXELS),
        (np.moveaxis(PIXELS, 3, 1), {}, PIXELS),
        (np.asfortranarray(PIXELS), {}, PIXELS),
        (GREY, {}, grey(GREY)),
        (GREY[..., None], {}, grey(GREY)),
        (GREY[:, None], {}, grey(GREY)),
        (PIXELS.astype(np.float32) / 255, {}, PIXELS),
        (PIXELS.astype(">f8") / 255, {}, PIXELS),
        (PIXELS.astype(np.float32), {"white": 255.0}, PIXELS),
        (PIXELS.astype(np.uint16) * 257, {}, PIXELS),
        (PIXELS.astype(np.uint16) * 16, {"white": 255.0 * 16}, PIXELS),
        (PIXELS.astype(np.int64), {"white": 255.0}, PIXELS),
        (GREY // 128, {"white": 1.0}, grey(GREY // 128 * np.uint8(255))),
        (GREY >= 128, {}, grey((GREY >= 128) * np.uint8(255))),
        (np.concatenate((PIXELS, 0 * PIXELS[..., :1]), 3), {"background": "white"}, 0 * PIXELS + np.uint8(255)),
        (np.concatenate((PIXELS, PIXELS), 3), {"bands": (4, 5, 6)}, PIXELS),
    ],
)
@pytest.mark.parametrize("form", ["npy", "npz", "compressed"])
def test_every_layout_and_type_gives_the_same_pixels(tmp_path, stored, settings, expected, form):
    path = tmp_path / ("a.npy" if form == "npy" else "a.npz")
    {"npy": np.save, "npz": np.savez, "compressed": np.savez_compressed}[form](path, stored)
    images = ImageArrays(str(path), reading=Reading(**settings))
    assert (pixels_of(images) == expected).all()
    open_files = images._open
    assert open_files is not None
    assert isinstance(open_files[0], np.memmap) == (form != "compressed")
    assert images.preferred_workers == 0


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (("x_train", "x_test", "y_train", "y_test"), CLASSES),
        (("train_images", "test_images", "train_labels", "test_labels"), CLASSES[:, None]),
        (("X-train", "X-val", "Y-train", "Y-val"), CLASSES.astype(np.uint8)),
    ],
)
@pytest.mark.parametrize("form", ["npz", "folder"])
def test_names_of_arrays_say_what_they_are(tmp_path, names, classes, form):
    made = dict(zip(names, (PIXELS[:8], PIXELS[8:], classes[:8], classes[8:]), strict=True))
    if form == "npz":
        np.savez_compressed(tmp_path / "a.npz", **made)
    for name, one in made.items() if form == "folder" else ():
        np.save(tmp_path / f"{name}.npy", one)
    data = arrays(path=str(tmp_path / "a.npz" if form == "npz" else tmp_path))
    for part, rows in ((data.train, slice(0, 8)), (data.validation, slice(8, 12))):
        assert (load_all(part).pixels.permute(0, 2, 3, 1).numpy() == PIXELS[rows]).all()
        assert part.labels.classes.tolist() == CLASSES[rows].tolist()
        assert part.labels.names == ("0", "1", "2")
    assert data.validation.describe(3, 0) == f"{names[1]}[3]"
    assert data.notes["split"].startswith("the data's own train and ")
    one = arrays(path=str(tmp_path / "a.npz" if form == "npz" else tmp_path), images=names[1], validation_share=0.5)
    assert (len(one.train), len(one.validation)) == (2, 2)
    assert one.train.labels is not None


@pytest.mark.parametrize(
    ("labels", "setting", "names", "known"),
    [
        ([10, 9, -1] * 4, None, ("9", "10"), 8),
        (["b", "a", ""] * 4, None, ("a", "b"), 8),
        (np.array([b"b", b"a"] * 6), None, ("a", "b"), 12),
        ([0] * 12, "none", None, 0),
        (np.eye(12, 3), None, None, 0),
        (np.eye(12, 3, dtype=int), "labels.1", ("0", "1"), 12),
    ],
)
def test_classes_are_numbers_or_names(tmp_path, labels, setting, names, known):
    found = ImageArrays(
        saved(tmp_path / "a.npz", images=PIXELS, labels=labels), columns=Columns(classes=setting)
    ).labels
    assert (None if found is None else found.names) == names
    assert (0 if found is None else int(found.known.sum())) == known


def test_arrays_beside_the_images_are_objects_latents_and_splits(tmp_path):
    angles = torch.rand(12, 3, dtype=torch.float64)
    turned = quaternion_from_euler(angles).float()
    path = saved(
        tmp_path / "a.npz",
        imgs=PIXELS,
        object=np.arange(12) % 4,
        values=np.stack((np.arange(12), 30.0 * np.arange(12)), 1),
        split=["train", "train", "train", "test"] * 3,
        rotation=turned.numpy(),
        metadata=np.array([{}], dtype=object),
        **{"zoom[real]": np.ones(12)},
    )
    plain = arrays(path=path)
    assert plain.train.groups == {"zoom": Real()}
    assert "arrays of other lengths or shapes: metadata" in plain.notes["not used"]
    assert [len(plain.train), *plain.train.view_counts] == [3, 3, 3, 3]
    latents = {"values.1": "circle deg", "rotation": "rotation quaternion"}
    data = arrays(path=path, latents=latents)
    assert data.train.groups == {"values_1": Circle(2 * np.pi), "rotation": Rotation()}
    rows = torch.tensor([0, 4, 8, 1, 5, 9, 2, 6, 10])
    record = load_all(data.train).transform
    torch.testing.assert_close(record["values_1"], (30.0 * rows).deg2rad().remainder(2 * np.pi), check_dtype=False)
    torch.testing.assert_close(record["rotation"], turned[rows])
    joined = arrays(path=path, objects="object+values.0", split="none")
    assert len(joined.train) + len(joined.validation) == 12


@pytest.mark.parametrize("compressed", [False, True])
def test_a_copy_is_small_and_opens_the_file_again(tmp_path, compressed):
    large = np.repeat(np.repeat(PIXELS, 16, 1), 16, 2)
    (np.savez_compressed if compressed else np.savez)(tmp_path / "a.npz", x=large)
    images = ImageArrays(str(tmp_path / "a.npz"), size=8)
    expected = load_all(images).pixels
    copy = pickle.dumps(images)
    assert len(copy) < 2**12
    assert torch.equal(load_all(pickle.loads(copy)).pixels, expected)


def test_a_stamp_changes_with_the_images(tmp_path):
    path = saved(tmp_path / "a.npz", x=PIXELS)
    before = ImageArrays(path).stamp
    assert ImageArrays(path).stamp == before
    saved(tmp_path / "a.npz", x=PIXELS[:11])
    assert ImageArrays(path).stamp != before


def cut(path: Path) -> Path:
    np.save(path, PIXELS)
    path.write_bytes(path.read_bytes()[:-100])
    return path


def npz(**made: Any) -> Callable[[Path], str]:
    return lambda root: saved(root / "a.npz", **made)


def content(text: bytes, name: str = "a.npz") -> Callable[[Path], Path]:
    def write(root: Path) -> Path:
        (root / name).write_bytes(text)
        return root / name

    return write


@pytest.mark.parametrize(
    ("make", "settings", "problem"),
    [
        (lambda root: root / "gone.npz", {}, "no such file or folder: .*gone.npz"),
        (lambda root: root, {}, "has no arrays in numpy's format"),
        (content(b"PK\3\4 and no more"), {}, "a.npz is no array in numpy's format"),
        (content(b"\x93NUMPY\1\0", "a.npy"), {}, "a.npy is no array in numpy's format"),
        (lambda root: cut(root / "a.npy"), {}, "a.npy: a cannot be read: its header says 2,304 bytes"),
        (npz(x=np.array([{}] * 3, dtype=object)), {"images": "x"}, "a.npz: x has shape"),
        (npz(x=np.array([[[{}]]] * 3, dtype=object)), {}, "a.npz: x holds pickled Python objects, which are not read"),
        (npz(x=PIXELS, y=np.array([{}] * 12, dtype=object)), {}, "a.npz: y holds pickled Python objects"),
        (npz(x=PIXELS + 1j), {}, "x holds complex128, and images are real numbers"),
        (
            npz(x=PIXELS.astype(np.float32)),
            {},
            r"x\[0\]: floats must lie in \[0, 1\], got 0 to 2..; name what they span",
        ),
        (npz(x=PIXELS / 255 - 0.5), {}, r"floats must lie in \[0, 1\], got -0.5 to"),
        (npz(x=PIXELS / np.float32(np.nan)), {}, r"floats must lie in \[0, 1\], got nan to nan"),
        (npz(x=PIXELS.astype(np.int32)), {}, r"x\[0\]: numbers of int32 have no known white"),
        (npz(x=PIXELS[0]), {}, r"x is one image, \(8, 8, 3\); several have one axis more"),
        (npz(a=PIXELS, b=PIXELS), {}, "images: .* several arrays that can be images, a, b; name one"),
        (npz(a=CLASSES, b=CLASSES), {}, r"images: .* has no array \(N, H, W\).*; it has a \(12,\), b \(12,\)"),
        (npz(x=PIXELS, y=CLASSES), {"images": "z"}, "images: .* has no array 'z'"),
        (npz(x=PIXELS, y=CLASSES), {"labels": "label"}, "no column 'label'"),
        (npz(x=PIXELS[:, :, :4]), {}, r"x\[0\] has 4x8 pixels; images that are not square need a `size`"),
        (npz(x_train=PIXELS, x_training=PIXELS), {}, "x_train and x_training are both the train part of 'x'"),
        (npz(x_test=PIXELS, y_test=CLASSES), {}, "has a split called test but nothing to train on"),
        (npz(x=PIXELS[:0]), {}, "no images"),
        (npz(x=PIXELS), {"bands": [9]}, "there is no band 9: the image has 3"),
        (npz(x=PIXELS, a=CLASSES), {"latents": {"b": "real"}}, "no column 'b'"),
        (npz(x=PIXELS, split=["?"] * 12), {}, r"x\[0\]: '\?' is not a split"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path, make, settings, problem):
    with pytest.raises((ValueError, FileNotFoundError), match=problem) as refusal:
        arrays(path=str(make(tmp_path)), **settings)
    assert "\n" not in str(refusal.value)


def test_training_images_are_no_validation_images(tmp_path):
    path = saved(tmp_path / "a.npz", x=PIXELS, y=CLASSES)
    with pytest.raises(SettingError, match=r"^validation: .* is the training data itself"):
        arrays(path=path, validation=path)
    other = saved(tmp_path / "b.npz", x=PIXELS[:5], y=CLASSES[:5])
    assert len(arrays(path=path, validation=other).validation) == 5


def test_arrays_that_grow_beyond_bounds_are_refused(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "x.npz", x=np.zeros((8, 512, 512), dtype=np.uint8))
    assert len(arrays(path=f"{tmp_path}/x.npz").train) == 7
    monkeypatch.setattr(archives, "ALWAYS_BYTES", 2**20)
    with pytest.raises(
        ValueError, match=r"x.npz: x cannot be read: [\d,]+ bytes in the archive would grow to 2,097,280"
    ):
        arrays(path=f"{tmp_path}/x.npz")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_header_that_lies_takes_no_memory(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "x.npz", "w", method) as archive, archive.open("x.npy", "w") as file:
        said = {"descr": "|u1", "fortran_order": False, "shape": (10**12, 8, 8, 3)}
        np.lib.format.write_array_header_1_0(file, said)
        file.write(PIXELS.tobytes())
    with pytest.raises(ValueError, match=r"x.npz: x cannot be read: its header says 192,000,000,000,000 bytes"):
        arrays(path=f"{tmp_path}/x.npz")


def test_every_array_of_a_folder_is_part_of_the_stamp(tmp_path):
    for name, array in (("x", PIXELS), ("y", CLASSES)):
        np.save(tmp_path / f"{name}.npy", array)
    before = ImageArrays(str(tmp_path)).stamp
    os.utime(tmp_path / "y.npy", (1, 1))
    assert ImageArrays(str(tmp_path)).stamp != before


@pytest.mark.parametrize("header", [b"{'descr': '|u1', 'fortran_order': F12)}", b"\0" * 40, b"{" * 40, b"'shape"])
def test_a_damaged_header_is_one_line(tmp_path, header):
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.npy is no array in numpy's format: its header") as error:
        arrays(path=str(tmp_path / "x.npy"))
    assert "\n" not in str(error.value)
