"""Claims about 3DIEBench: its files are read and written as published, whole or not at all."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_inv.data.source import Images, Indices, Labels, Source
from ssl_inv.data.sources.threediebench import GROUPS, ThreeDIEBench, threediebench, transform_of, write_threediebench
from ssl_inv.transforms import Group, Transform
from ssl_inv.transforms.quaternions import quaternion_from_euler


class Solid(Source):
    """Grey squares with known latents, in the groups of 3DIEBench."""

    def __init__(self, objects: int, views: int, labelled: bool = True) -> None:
        span = np.array([math.pi] * 3 + [1, math.pi / 4, 2 * math.pi, 1])
        self.latents = np.random.default_rng(0).random((objects, views, 7)) * span - np.array(
            [math.pi / 2] * 3 + [0] * 4
        )
        self.labelled = labelled

    @property
    def view_counts(self) -> Indices:
        return np.full(len(self.latents), self.latents.shape[1], dtype=np.int64)

    @property
    def groups(self) -> dict[str, Group]:
        return GROUPS

    @property
    def labels(self) -> Labels | None:
        count = len(self.latents)
        return (
            Labels(torch.arange(count) % 2, torch.ones(count, dtype=torch.bool), ("zebra", "ant"))
            if self.labelled
            else None
        )

    @property
    def image_size(self) -> int:
        return 16

    def load(self, objects: Indices, views: Indices) -> Images:
        pixels = torch.from_numpy(10 * objects + views).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 16, 16)
        return Images(pixels, transform_of(self.latents[objects, views]), torch.ones(len(objects), dtype=torch.bool))


SPLIT = (np.array([0, 2, 3, 5]), np.array([4, 1]))


@pytest.mark.parametrize("tables", [True, False])
@pytest.mark.parametrize("labelled", [True, False])
def test_threediebench_round_trip(tmp_path, tables, labelled, load_all):
    solid = Solid(6, 3, labelled)
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
        images, expected = load_all(source), solid.load(np.repeat(objects, 3), np.tile(np.arange(3), len(objects)))
        assert (images.pixels.int() - expected.pixels.int()).abs().max() <= 1
        for name in GROUPS:
            assert torch.equal(images.transform[name], expected.transform[name])
        if labelled:
            assert source.labels is not None
            assert source.labels.names == ("ant", "zebra")
            assert [source.labels.names[label] for label in source.labels.classes] == [
                ("zebra", "ant")[item % 2] for item in objects
            ]
        else:
            assert source.labels is None


def test_threediebench_files_are_as_published(tmp_path):
    solid = Solid(6, 3)
    write_threediebench(tmp_path / "data", solid, solid.latents, SPLIT)
    images, labels = (np.load(tmp_path / "data" / f"val_{name}.npy") for name in ("images", "labels"))
    assert images.tolist() == ["/zebra/000004/", "/ant/000001/"]
    assert images.dtype.kind == "U"
    assert (labels.dtype, labels.tolist()) == (np.int64, [1, 0])
    latent = np.load(tmp_path / "data" / "ant" / "000001" / "latent_2.npy")
    assert latent.dtype == np.float64
    np.testing.assert_array_equal(latent, solid.latents[1, 2])
    with Image.open(tmp_path / "data" / "ant" / "000001" / "image_2.jpg") as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (16, 16))
    assert np.load(tmp_path / "data" / "all_latents_train.npy").shape == (4 * 3, 7)
    assert np.load(tmp_path / "data" / "all_objects.npy").tolist()[1] == ["ant", "000001"]


def test_latents_from_recorded_transforms_are_the_same_views(tmp_path):
    solid = Solid(6, 3)
    write_threediebench(tmp_path / "data", solid, None, SPLIT)
    source = ThreeDIEBench(str(tmp_path / "data"))
    np.testing.assert_allclose(source.latents, solid.latents[SPLIT[0]], atol=1e-5)


def test_threediebench_in_a_zip(tmp_path, write, load_all):
    solid = Solid(6, 3)
    write_threediebench(tmp_path / "data", solid, solid.latents, SPLIT)
    contents = {
        path.relative_to(tmp_path / "data").as_posix(): path.read_bytes() for path in (tmp_path / "data").rglob("*.*")
    }
    source = ThreeDIEBench(write(tmp_path / "packed", contents, "stored"), "val", size=8)
    assert load_all(source).pixels.shape == (6, 3, 8, 8)


def test_writing_is_refused_or_recognisably_interrupted(tmp_path):
    solid, root = Solid(6, 3), tmp_path / "data"

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_threediebench(root, solid, None, SPLIT, progress=stop)
    assert not root.exists()
    with pytest.raises(FileNotFoundError, match="written last"):
        ThreeDIEBench(f"{root}.partial")
    with pytest.raises(ValueError, match="left by an interrupted write"):
        write_threediebench(root, solid, None, SPLIT)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(ValueError, match="not an empty folder"):
        write_threediebench(tmp_path / "full", solid, None, SPLIT)
    with pytest.raises(ValueError, match="none in both"):
        write_threediebench(tmp_path / "new", solid, None, (np.array([0]), np.array([0])))


def test_latent_table_of_another_order_is_refused(tmp_path):
    solid = Solid(6, 3)
    write_threediebench(tmp_path / "data", solid, solid.latents, SPLIT)
    path = tmp_path / "data" / "all_latents_train.npy"
    np.save(path, np.load(path)[::-1])
    with pytest.raises(ValueError, match="disagrees with"):
        ThreeDIEBench(str(tmp_path / "data"))


def test_transform_of_stored_latents_is_the_papers():
    stored = np.array([[0.1, -0.2, 0.3, 0.4, 0.5, 0.6, 0.7]])
    transform = transform_of(stored)
    assert isinstance(transform, Transform)
    torch.testing.assert_close(transform["rotation"], quaternion_from_euler(torch.tensor([[0.1, -0.2, 0.3]])))
    assert [round(transform[name].item(), 4) for name in ("floor_hue", "light_theta", "light_phi", "light_hue")] == [
        0.4,
        0.5,
        0.6,
        0.7,
    ]
