"""Claims about 3DIEBench: its files are read and written as published, whole or not at all."""

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_data import load_all

from ssl_inv.data.source import Images, Indices, Labels, Source, Subset
from ssl_inv.data.sources.threediebench import GROUPS, ThreeDIEBench, threediebench, transform_of
from ssl_inv.data.sources.threediebench_writing import write_threediebench
from ssl_inv.transforms.quaternions import quaternion_from_euler


class Solid(Source):
    """Six objects with three views, grey squares with known latents in the groups of 3DIEBench."""

    view_counts, groups, image_size = np.full(6, 3), GROUPS, 16
    labels = Labels(torch.arange(6) % 2, torch.ones(6, dtype=torch.bool), ("zebra", "ant"))
    span, low = [math.pi] * 3 + [1, math.pi / 4, 2 * math.pi, 1], [math.pi / 2] * 3 + [0] * 4
    latents = np.random.default_rng(0).random((6, 3, 7)) * span - low

    def load(self, objects: Indices, views: Indices) -> Images:
        pixels = torch.from_numpy(10 * objects + views).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 16, 16)
        return Images(pixels, transform_of(self.latents[objects, views]), torch.ones(len(objects), dtype=torch.bool))


class Unlabelled(Solid):
    labels = None


SPLIT = (np.array([0, 2, 3, 5]), np.array([4, 1]))


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """The data set in its files, with the tables of latents."""
    write_threediebench(tmp_path / "data", Solid(), Solid.latents, SPLIT)
    return tmp_path / "data"


@pytest.mark.parametrize("tables", [True, False])
@pytest.mark.parametrize("solid", [Solid(), Unlabelled()], ids=["labelled", "unlabelled"])
def test_threediebench_round_trip(tmp_path, tables, solid):
    done: list[tuple[int, int]] = []
    write_threediebench(tmp_path / "data", solid, solid.latents, SPLIT, progress=lambda *step: done.append(step))
    assert done == [(n, 6) for n in range(1, 7)]
    if not tables:
        for name in ("train", "val"):
            (tmp_path / "data" / f"all_latents_{name}.npy").unlink()
    data = threediebench(path=str(tmp_path / "data"), size=None)
    for source, objects in zip((data.train, data.validation), SPLIT, strict=True):
        assert isinstance(source, ThreeDIEBench)
        np.testing.assert_array_equal(source.latents, solid.latents[objects])
        images, expected = load_all(source), load_all(Subset(solid, objects))
        assert (images.pixels.int() - expected.pixels.int()).abs().max() <= 1
        for name in GROUPS:
            assert torch.equal(images.transform[name], expected.transform[name])
        names = source.labels and [source.labels.names[label] for label in source.labels.classes]
        assert names == (solid.labels and [("zebra", "ant")[item % 2] for item in objects])
        assert solid.labels is None or source.labels.names == ("ant", "zebra")


def test_threediebench_files_are_as_published(written):
    images, labels = (np.load(written / f"val_{name}.npy") for name in ("images", "labels"))
    assert images.tolist() == ["/zebra/000004/", "/ant/000001/"]
    assert images.dtype.kind == "U"
    assert (labels.dtype, labels.tolist()) == (np.int64, [1, 0])
    latent = np.load(written / "ant" / "000001" / "latent_2.npy")
    assert latent.dtype == np.float64
    np.testing.assert_array_equal(latent, Solid.latents[1, 2])
    with Image.open(written / "ant" / "000001" / "image_2.jpg") as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (16, 16))
    assert np.load(written / "all_latents_train.npy").shape == (4 * 3, 7)
    assert np.load(written / "all_objects.npy").tolist()[1] == ["ant", "000001"]


def test_latents_from_recorded_transforms_are_the_same_views(tmp_path):
    write_threediebench(tmp_path / "data", Solid(), None, SPLIT)
    source = ThreeDIEBench(str(tmp_path / "data"))
    np.testing.assert_allclose(source.latents, Solid.latents[SPLIT[0]], atol=1e-5)


def test_threediebench_in_a_zip(tmp_path, written, write):
    contents = {path.relative_to(written).as_posix(): path.read_bytes() for path in written.rglob("*.*")}
    source = ThreeDIEBench(write(tmp_path / "packed", contents, "stored"), "val", size=8)
    assert load_all(source).pixels.shape == (6, 3, 8, 8)


def test_writing_is_refused_or_recognisably_interrupted(tmp_path):
    solid, root = Solid(), tmp_path / "data"

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_threediebench(root, solid, None, SPLIT, progress=stop)
    assert not root.exists()
    with pytest.raises(FileNotFoundError, match="written last"):
        ThreeDIEBench(f"{root}.partial")
    with pytest.raises(ValueError, match="left by an interrupted write"):
        write_threediebench(root, solid, None, SPLIT)
    with pytest.raises(ValueError, match="not an empty folder"):
        write_threediebench(tmp_path, solid, None, SPLIT)
    with pytest.raises(ValueError, match="none in both"):
        write_threediebench(tmp_path / "new", solid, None, (np.array([0]), np.array([0])))


def test_latent_table_of_another_order_is_refused(written):
    path = written / "all_latents_train.npy"
    np.save(path, np.load(path)[::-1])
    with pytest.raises(ValueError, match="disagrees with"):
        ThreeDIEBench(str(written))


def test_transform_of_stored_latents_is_the_papers():
    transform = transform_of(np.array([[0.1, -0.2, 0.3, 0.4, 0.5, 0.6, 0.7]]))
    torch.testing.assert_close(transform["rotation"], quaternion_from_euler(torch.tensor([[0.1, -0.2, 0.3]])))
    names = ("floor_hue", "light_theta", "light_phi", "light_hue")
    assert [round(transform[name].item(), 4) for name in names] == [0.4, 0.5, 0.6, 0.7]


@pytest.mark.parametrize(
    ("shape", "problem"),
    [
        ((10**15,), "its header says 8,000,000,000,000,000 bytes of numbers, and there are 8"),
        ((-1,), r"its header has the shape \(-1,\)"),
    ],
)
def test_a_header_that_lies_takes_no_memory(written, shape, problem):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": shape})
    (written / "all_latents_train.npy").write_bytes(file.getvalue() + bytes(8))
    with pytest.raises(ValueError, match=f"all_latents_train.npy is no array of numbers: {problem}"):
        threediebench(path=str(written))
