"""What tests share."""

import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from numpy.random import RandomState
from torch import Tensor, nn

from ssl_inv.catalogue import OBJECTIVES
from ssl_inv.memories.bank import Bank
from ssl_inv.memories.clusters import Clusters
from ssl_inv.memories.draws import Drawn, Kind, Negatives
from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone, make_backbone
from ssl_inv.objectives.interclr import InterCLR
from ssl_inv.objectives.seq_jepa import SeqJEPA
from ssl_inv.testing import GROUPS, random_transform
from ssl_inv.transforms import Group, Real
from ssl_inv.views import View, Views

GOLDEN = Path(__file__).parent / "golden" / "data"
REPOSITORY = Path(__file__).parent.parent
PLACE = {"place": Real(dimensions=3)}


@pytest.fixture(autouse=True)
def _one_thread_each() -> None:
    # Threads that wait for each other on a shared machine take longer than one thread alone.
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, Any]]:
    """Facts computed by running the authors' code, by file name."""

    def read(name: str) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text())
        return facts

    return read


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets, or a skip where there is none."""
    folder = Path(os.environ.get("SSL_INV_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set SSL_INV_TEST_DATA to a folder that has it")
    return folder


@pytest.fixture(scope="session")
def write() -> Callable[..., str]:
    """Writes files as a folder, a tar, or a zip archive with or without compression, perhaps inside one folder of the
    archive.
    """

    def written(root: Path, contents: Mapping[str, bytes], form: str = "folder") -> str:
        if form == "folder":
            for name, content in contents.items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_bytes(content)
            return str(root)
        if form == "tar":
            with tarfile.open(root.with_suffix(".tar"), "w") as tar:
                for name, content in {**contents, "__MACOSX/._a.png": b"not an image"}.items():
                    member = tarfile.TarInfo(f"./{name}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
            return str(root.with_suffix(".tar"))
        path = root.with_suffix(".zip")
        method = zipfile.ZIP_DEFLATED if form == "deflated" else zipfile.ZIP_STORED
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, content in contents.items():
                archive.writestr(f"photos/{name}" if form == "nested" else name, content)
            archive.writestr("__MACOSX/._a.png", b"not an image")
        return str(path)

    return written


@pytest.fixture
def backbone() -> Backbone:
    """One linear layer from 6 numbers to 6 features."""

    class Network(nn.Module):
        num_features = 6

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, pixels: Tensor) -> Tensor:
            return self.layer(pixels)

    torch.manual_seed(0)
    return Backbone(Network(), "one linear layer")


@pytest.fixture(scope="session")
def seq_jepa() -> Callable[..., tuple[SeqJEPA, nn.Module]]:
    """Small seq-JEPA and its encoder, which is one linear layer: that of the recorded forward passes."""

    class Stub(nn.Module):
        features = 8

        def __init__(self) -> None:
            super().__init__()
            self.lin = nn.Linear(8, 8, bias=False)

        def forward(self, pixels: Tensor) -> Tensor:
            return self.lin(pixels.flatten(1))

    def make(groups: Mapping[str, Group] = PLACE, **settings: Any) -> tuple[SeqJEPA, nn.Module]:
        torch.manual_seed(0)
        backbone = Stub()
        small = {"action_dimensions": 4, "layers": 2, "heads": 2, "predictor": 10, "dropout": 0.0}
        objective = SeqJEPA(8, groups, **{"parameters": list(groups), **small, **settings})
        objective.adopt(backbone)
        return objective, backbone

    return make


def normal(seed: int, *shape: int) -> Tensor:
    """What the facts are computed from."""
    return torch.tensor(RandomState(seed).randn(*shape))


@pytest.fixture(scope="session")
def bank_and_clusters() -> Callable[..., tuple[Bank, Clusters]]:
    """Those of the facts of InterCLR: 60 vectors of 5 dimensions in 6 clusters, the first of which has 19."""

    def make(renewal: float = 1.0, smallest: int = 0) -> tuple[Bank, Clusters]:
        bank, clusters = Bank(60, 5, renewal).double(), Clusters(60, 6, 5, smallest).double()
        bank.vectors.copy_(F.normalize(normal(0, 60, 5), dim=1))
        clusters.labels[50:] = 0
        clusters.recentre(bank)
        return bank, clusters

    return make


@pytest.fixture(scope="session")
def drawn_negatives(bank_and_clusters: Callable[..., tuple[Bank, Clusters]]) -> Callable[..., tuple[Drawn, Clusters]]:
    """Negatives for objects 0, 13, 28 and 51 of that bank, and the clusters."""

    def draw(kind: Kind, count: int = 10, pool: int = 24, seed: int = 0) -> tuple[Drawn, Clusters]:
        bank, clusters = bank_and_clusters()
        labels, keys = clusters.labels[torch.tensor([0, 13, 28, 51])].long(), torch.arange(4) + 4 * seed
        queries = losses.unit_rows(normal(2, 4, 5))
        return Negatives(kind, count, pool).draw(
            queries, labels, bank, clusters.labels, clusters.members, keys
        ), clusters

    return draw


@pytest.fixture(scope="session")
def interclr(bank_and_clusters: Callable[..., tuple[Bank, Clusters]]) -> Callable[..., InterCLR]:
    """InterCLR with MoCo v2 and that bank, on a small transformer with 8 features."""

    def make(**settings: Any) -> InterCLR:
        torch.manual_seed(0)
        base = {"name": "moco-v2", "projector": [16, 5], "queue": 16}
        small = {"clusters": 6, "smallest_cluster": 0, "negative_count": 10, "pool": 24}
        made = InterCLR(8, {}, base={**base, **settings.pop("base", {})}, **{**small, **settings})
        arguments = {"img_size": 12, "patch_size": 3, "embed_dim": 8, "depth": 1, "num_heads": 2}
        made.adopt(make_backbone(name="vit_tiny_patch16_224", arguments=arguments))
        made.allocate(60, 60)
        made.bank, made.clusters = bank_and_clusters()
        return made.double()

    return make


TINY_RECIPE = """\
# A run of seconds
#
# command: ssl-inv pretrain tiny.yaml
objective: {name: sie, projector: [8, 8]}
backbone: {name: test_resnet}
data: {name: rendered, classes: 4, objects: 40, views: 3, size: 32}
trainer: {steps: 2, batch_size: 8, accelerator: cpu}
monitor: {every: 0}
evaluation: {protocol: none}
"""


@pytest.fixture(scope="session")
def tiny_recipe() -> str:
    """A recipe that trains the smallest network for two steps and judges nothing."""
    return TINY_RECIPE


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of `tiny_recipe`, made by the command line; to be read and copied, not changed."""
    from ssl_inv.run.cli import main

    folder = tmp_path_factory.mktemp("runs")
    (folder / "tiny.yaml").write_text(TINY_RECIPE)
    assert main(["pretrain", str(folder / "tiny.yaml"), "--output", str(folder / "run"), "--quiet"]) == 0
    return folder / "run"


@pytest.fixture
def some_views():
    """Views of six numbers each, which the fixture `backbone` takes for pixels."""

    def views(count: int, seed: int = 1, batch: int = 8) -> Views:
        torch.manual_seed(seed)
        return Views(
            tuple(View(torch.randn(batch, 6), random_transform(GROUPS, batch)) for _ in range(count)),
            torch.arange(batch),
        )

    return views


@pytest.fixture
def build():
    """Objectives on six features, with small projectors."""

    def objective(name: str, backbone: Backbone, **settings):
        torch.manual_seed(2)
        made = OBJECTIVES.find(name).load()(6, GROUPS, projector=[8, 5], **settings)
        made.adopt(backbone)
        return made

    return objective
