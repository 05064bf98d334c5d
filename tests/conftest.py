"""What tests share."""

import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ssl_inv.evaluation.suite import QUICK

GOLDEN = Path(__file__).parent / "golden" / "data"
REPOSITORY = Path(__file__).parent.parent


def pytest_sessionstart() -> None:
    # Fixtures of a module are made before those of a test, and the number of threads changes the last bits.
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _one_thread_each() -> None:
    # On a shared machine, threads that wait for each other are slower than one thread.
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _trust(monkeypatch: pytest.MonkeyPatch) -> None:
    # What a test allows ends with it. Tests name what these modules have by its path.
    monkeypatch.setenv("SSL_INV_TRUST", "misbehaving,mine,tests,torch.nn,torchvision.datasets")


@pytest.fixture
def short_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The quick protocols with heads that are hardly trained, for tests of what is done with their results."""
    monkeypatch.setitem(QUICK, "linear", replace(QUICK["linear"], steps=10))
    monkeypatch.setitem(QUICK, "transforms_r2", replace(QUICK["transforms_r2"], epochs=1, minimum_steps=1))


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
