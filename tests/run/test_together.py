"""Work that processes share gives the bits that one process gives, and ends for all of them if one fails."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from launching import Launcher
from PIL import Image

from ssl_inv.evaluation.features import FeatureTable
from ssl_inv.run.folder import RunFolder

SMALL: dict[str, Any] = {
    "objective": {"name": "simclr", "projector": [16, 16]},
    "backbone": {"name": "test_resnet"},
    "augmentation": {"name": "simclr"},
    "data": {"name": "folder", "path": "images", "size": 16},
    "trainer": {"steps": 2, "batch_size": 8, "accelerator": "cpu", "devices": 2, "workers": 0},
    "monitor": {"every": 0},
    "evaluation": {"protocol": "quick", "views": 1},
}
# Few images are many batches, one protocol is enough, and a process that sends features says so.
SHARES = """
from ssl_inv.engine import features
from ssl_inv.engine.team import Team
from ssl_inv.run import judging
features._CHUNK = 16
judging.QUICK = {"knn": judging.QUICK["knn"]}
once = Team.tell
def tell(self, key, content):
    once(self, key, content)
    if len(content) > 500:
        print("told")
Team.tell = tell
"""


def write_images(folder: Path) -> None:
    """111 images of three classes: they divide neither by 2 nor by 4, and two of them are broken."""
    draw = np.random.default_rng(0)
    for number in range(111):
        path = folder / "abc"[number % 3] / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    for number in (40, 77):
        (folder / "abc"[number % 3] / f"{number:03}.png").write_bytes(b"broken")


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    one = Launcher(tmp_path_factory.mktemp("together"))
    write_images(one.folder / "images")
    yield one
    one.close()


@pytest.fixture(autouse=True)
def _new_logs(launcher: Launcher) -> None:
    forget_logs(launcher)


@pytest.fixture(scope="module")
def run(launcher: Launcher) -> Path:
    """A run of two processes, which also share its evaluation."""
    (launcher.folder / "small.yaml").write_text(yaml.safe_dump(SMALL))
    words = ["pretrain", str(launcher.folder / "small.yaml"), "--quiet", "--output", "run"]
    together(launcher, 2, *words)
    assert launcher.said(1).split() == ["told"] * launcher.said(1).count("told") != [], "the second process encodes too"
    return launcher.folder / "run"


def together(launcher: Launcher, count: int, *words: str, before: str = SHARES) -> None:
    """Run a command on some processes; with one, without a launcher."""
    if count == 1:
        started = [launcher.start(*words, before=before, log="rank0.txt")]
    else:
        start = launcher.torchrun if count == 2 else launcher.srun
        started = start(1, count, *words, before=dict.fromkeys(range(count), before))
    assert launcher.ends(started) == [0] * count, launcher.logs()


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def forget_logs(launcher: Launcher) -> None:
    for file in launcher.folder.glob("*.txt"):
        file.unlink()


def test_an_evaluation_gives_the_results_of_one_process(launcher: Launcher, run: Path) -> None:
    for count in (1, 2, 4):
        forget_logs(launcher)
        together(launcher, count, "evaluate", "run", "--output", f"of-{count}")
        assert launcher.said(0).count("cannot read") == 2, "the first process names the images that others met"
        assert all(set(launcher.said(rank).split()) == {"told"} for rank in range(1, count)), launcher.logs()
        there = launcher.folder / f"of-{count}"
        assert (there / "results.json").read_bytes() == (launcher.folder / "of-1" / "results.json").read_bytes()
        for path in (launcher.folder / "of-1" / "features").iterdir():
            one, other = FeatureTable.load(path), FeatureTable.load(there / "features" / path.name)
            torch.testing.assert_close(one.features, other.features, rtol=0, atol=0)
            assert torch.equal(one.objects, other.objects)
    assert (run / "results.json").read_bytes() == (launcher.folder / "of-1" / "results.json").read_bytes()
    # What is kept is not encoded again, by nobody.
    forget_logs(launcher)
    together(launcher, 2, "evaluate", "run", "--output", "of-1")
    assert launcher.said(1) == ""


@pytest.mark.parametrize("form", ["parquet", "npy"])
def test_embeddings_are_those_of_one_process_and_go_on_with_another_number(
    launcher: Launcher, run: Path, form: str
) -> None:
    words = ["embed", "run", "--format", form, "--shard-size", "16", "--output"]
    for count in (1, 2, 4):
        together(launcher, count, *words, f"{form}-{count}")
    whole = files(launcher.folder / f"{form}-1")
    assert len([name for name in whole if name.endswith(form)]) == 8
    for count in (2, 4):
        assert files(launcher.folder / f"{form}-{count}") == whole
    # As if it had been killed.
    there = launcher.folder / f"{form}-4"
    for number in (0, 2, 3):
        (there / f"part-{number:05d}.{form}").unlink()
    manifest = json.loads((there / "_manifest.json").read_text())
    (there / "_manifest.json").write_text(json.dumps({**manifest, "complete": False, "checksums": {}}))
    before = (there / f"part-00001.{form}").stat().st_mtime_ns
    together(launcher, 2, *words, f"{form}-4")
    assert files(there) == whole
    assert (there / f"part-00001.{form}").stat().st_mtime_ns == before, "what is there stays"


def test_rendered_data_are_those_of_one_process(launcher: Launcher) -> None:
    words = ["--data.classes", "3", "--data.objects", "7", "--data.views", "2", "--data.size", "16"]
    for count in (1, 2, 4):
        together(launcher, count, "render", f"solids-{count}", *words)
    whole = files(launcher.folder / "solids-1")
    assert len([name for name in whole if name.endswith(".jpg")]) == 14
    assert files(launcher.folder / "solids-2") == files(launcher.folder / "solids-4") == whole


FAILS = (
    SHARES
    + """
from ssl_inv.engine import features as of
once_more = of.extract
def extract(*given, **named):
    raise ValueError("this encoder is bad")
of.extract = extract
"""
)
OTHER_WEIGHTS = (
    SHARES
    + """
from ssl_inv.engine import features as of
of.fingerprint = lambda module: "other"
"""
)


@pytest.mark.parametrize("command", ["evaluate", "embed"])
def test_a_process_that_fails_ends_all_with_its_reason(launcher: Launcher, run: Path, command: str) -> None:
    words = [command, "run", "--output", f"failed-{command}"]
    started = launcher.srun(
        1, 2, *words, *(["--shard-size", "16"] * (command == "embed")), before={0: SHARES, 1: FAILS}
    )
    assert 0 not in launcher.ends(started, timeout=60), launcher.logs()
    assert "error: rank 1 on " in launcher.said(0)
    assert "this encoder is bad" in launcher.said(0)
    assert not (launcher.folder / f"failed-{command}" / "results.json").exists()


def test_a_process_with_other_weights_does_not_help(launcher: Launcher, run: Path) -> None:
    started = launcher.srun(1, 2, "evaluate", "run", "--output", "other", before={0: SHARES, 1: OTHER_WEIGHTS})
    assert launcher.ends(started) == [0, 0], launcher.logs()
    assert "the first one encodes alone" in launcher.said(0)
    assert launcher.said(1) == ""
    assert (launcher.folder / "other" / "results.json").read_bytes() == (run / "results.json").read_bytes()


def test_mistakes_are_said_once_and_commands_that_are_not_shared_refused(launcher: Launcher, run: Path) -> None:
    for words, what in (
        (["evaluate", "run", "--data", "nothing"], "nothing"),
        (["shard", "images", "shards"], "srun has started 2 processes, but only pretrain"),
        (["render", "solids", "--data.classes", "0"], "classes"),
    ):
        forget_logs(launcher)
        assert launcher.ends(launcher.srun(1, 2, *words), timeout=60) == [2, 2], launcher.logs()
        assert what in launcher.said(0)
        assert launcher.said(0).count("\n") == 1
        assert launcher.said(1) == ""


def test_a_run_that_has_trained_is_judged_by_the_first_process_alone(launcher: Launcher, run: Path) -> None:
    before = (run / "results.json").read_bytes()
    RunFolder(run).update(state="interrupted")
    together(launcher, 2, "pretrain", "--resume", "run", "--quiet")
    assert launcher.said(1) == ""
    assert RunFolder(run).record()["state"] == "complete"
    assert (run / "results.json").read_bytes() == before
