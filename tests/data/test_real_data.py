"""Real data sets are read whole: CIFAR-10, fruits on a turntable and FashionMNIST."""

import numpy as np
import torch

from ssl_inv.data.source import Data
from ssl_inv.data.sources.folder import folder
from ssl_inv.data.sources.table import table
from ssl_inv.data.sources.torchvision import torchvision_dataset


def counts(data: Data) -> tuple[int, int]:
    return len(data.train), len(data.validation)


def test_cifar10_zip(real_data):
    data = folder(path=str(real_data / "cifar10_jpeg.zip"))
    assert counts(data) == (50_000, 10_000)
    assert data.train.labels.classes.bincount().tolist() == [5_000] * 10
    assert data.train.load(np.arange(0, 50_000, 500), np.zeros(100, dtype=np.int64)).readable.all()


def test_turntable_zip(real_data):
    latents = {"azimuth_deg": "circle deg"}
    data = table(path=str(real_data / "fruits360_turntable_64px.zip"), latents=latents, object_column="object+axis")
    assert counts(data) == (99, 36)
    assert set(data.train.view_counts) == {36}
    images = data.train.load(np.zeros(36, dtype=np.int64), np.arange(36))
    step = images.transform.select(torch.arange(35)).relative(images.transform.select(torch.arange(1, 36)))
    assert step["azimuth_deg"].rad2deg().sub(10).abs().max() < 2


def test_fashion_mnist(real_data, tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for packed in (real_data / "FashionMNIST" / "raw").iterdir():
        (raw / packed.name).symlink_to(packed.resolve())
    data = torchvision_dataset(dataset="FashionMNIST", root=str(tmp_path), download=True)
    assert counts(data) == (60_000, 10_000)
    assert data.validation.labels.names[0] == "T-shirt/top"
    assert data.validation.load(np.arange(64), np.zeros(64, dtype=np.int64)).pixels.shape == (64, 3, 28, 28)
