"""Encoders side by side: the same data, the same resamples, what differs, what is kept, and what is refused."""

import html
import json
import mmap
import shutil
import subprocess
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ssl_inv.evaluation.features import FeatureTable
from ssl_inv.evaluation.protocols.knn import NearestNeighbours
from ssl_inv.evaluation.results import Comparison, Result, StandardError
from ssl_inv.nn.layer_features import LayerFeatures, depth_of
from ssl_inv.nn.torchvision_models import torchvision_backbone
from ssl_inv.run.cli import main
from ssl_inv.run.exam.differences import differences
from ssl_inv.run.exam.examining import Examined
from ssl_inv.run.exam.page import charts
from ssl_inv.run.kept_measurements import costing
from ssl_inv.transforms import Rotation, Transform

OBJECTS, VIEWS, CLASSES = 40, 3, 4


def table(seed: int, knows: float, objects: int = OBJECTS, first: int = 0) -> FeatureTable:
    """Features that know the class as well as `knows` says, 0 not at all, of objects numbered from `first` on."""
    generator = torch.Generator().manual_seed(seed)
    rows = objects * VIEWS
    ids = torch.arange(objects).repeat_interleave(VIEWS)
    labels = ids % CLASSES
    noise = torch.randn(rows, 8, generator=generator)
    features = noise + knows * torch.nn.functional.one_hot(labels, 8).float()
    turns = torch.nn.functional.normalize(torch.randn(rows, 4, generator=torch.Generator().manual_seed(9)), dim=1)
    transform = Transform({"rotation": turns}, {"rotation": Rotation()})
    names = tuple(f"class {number}" for number in range(CLASSES))
    views = torch.arange(VIEWS).repeat(objects)
    return FeatureTable({"all": features}, ids + first, views, labels, class_names=names, transform=transform)


def write_features(folder: Path, seed: int, knows: float, objects: int = OBJECTS) -> Path:
    for number, split in enumerate(("train", "validation")):
        table(2 * seed + number, knows, objects, number * objects).save(folder / f"{split}.safetensors")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exam")
    write_features(folder / "blind", 1, 0.0)
    write_features(folder / "sharp", 2, 6.0)
    write_features(folder / "keen", 3, 6.0)
    write_features(folder / "elsewhere", 4, 6.0, 32)
    return folder


@pytest.fixture(scope="module")
def output(place: Path) -> Path:
    names = [str(place / name) for name in ("blind", "sharp", "keen", "elsewhere")]
    asked = ["--protocols", "knn", "spectrum", "cka", "geodesic", "--output", str(place / "out")]
    assert main(["evaluate", *names, *asked]) == 0
    return place / "out"


def test_a_difference_is_told_where_there_is_one_and_with_its_interval(output: Path) -> None:
    record = json.loads((output / "exam.json").read_text())
    found = {one["encoder"]: one for one in record["differences"] if one["name"] == "knn/top1"}
    assert set(found) == {"sharp", "keen"}, "what was measured on other objects is not compared"
    assert record["measured on other objects"] == ["elsewhere"]
    for one in found.values():
        assert one["other"] == "blind"
        assert 0.4 < one["low"] < one["difference"] < one["high"]
        assert one["adjusted"] < 0.05


def test_two_that_know_the_same_do_not_differ(place: Path) -> None:
    names = [str(place / name) for name in ("sharp", "keen")]
    assert main(["evaluate", *names, "--protocols", "knn", "--output", str(place / "equal")]) == 0
    record = json.loads((place / "equal" / "exam.json").read_text())
    assert [one for one in record["differences"] if one["adjusted"] < 0.05] == []


def test_the_interval_is_that_of_the_difference_and_not_of_its_ends() -> None:
    draws = torch.randn(4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ends = {"a": 0.0, "b": 0.1}
    tables = {
        name: [Comparison(Result("m", "all", at, StandardError(1.0, draws + at, 50)))] for name, at in ends.items()
    }
    (one,) = differences(tables, "a", ["m"])
    assert (one.difference, one.low, one.high) == pytest.approx((0.1, 0.1, 0.1))
    assert one.p == pytest.approx(2 / 4001)
    assert differences({**tables, "b": [Comparison(Result("m", "all", 0.1, 1.0))]}, "a", ["m"]) == []


def test_what_was_measured_is_not_measured_again_unless_it_changed(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, run = place / "again", NearestNeighbours.run
    write_features(folder, 7, 2.0)
    ran: list[int] = []
    monkeypatch.setattr(NearestNeighbours, "run", lambda self, encoded: ran.append(self.k) or run(self, encoded))
    ask = ["evaluate", str(folder), "--protocols", "knn", "--output", str(place / "kept")]
    assert main(ask) == 0
    first, rounds = capsys.readouterr().out, len(ran)
    (place / "kept" / "features").mkdir(exist_ok=True)
    assert main(ask) == 0
    assert (capsys.readouterr().out, len(ran)) == (first, rounds)
    # A flipped bit, other settings, other features: measured again.
    file = place / "kept" / "measurements" / "knn.json"
    file.write_text(file.read_text().replace("0.", "1.", 1))
    assert main(ask) == 0
    assert (capsys.readouterr().out, len(ran)) == (first, 2 * rounds)
    assert main([*ask, "--evaluation.neighbours", "3"]) == 0
    assert len(ran) == 3 * rounds
    write_features(folder, 8, 2.0)
    assert main([*ask, "--evaluation.neighbours", "3"]) == 0
    assert len(ran) == 4 * rounds


def test_runs_exports_models_of_libraries_and_features_stand_in_one_table(
    tiny_run: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, export = place / "run", place / "run" / "export"
    shutil.copytree(tiny_run, run)
    ask = [str(run), str(export), "timm:test_resnet", str(place / "blind"), "--data", str(run / "recipe.yaml")]
    asked = ["--protocols", "knn", "--evaluation.views", "2", "--output", str(place / "all")]
    assert main(["evaluate", *ask, *asked]) == 0
    head = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("measure"))
    assert head.split()[2:] == ["run", "run-export", "timm:test_resnet", "blind", "no", "information"]
    assert {path.name for path in (place / "all").iterdir() if path.is_dir()} == {
        "run",
        "run-export",
        "timm-test_resnet",
        "blind",
    }
    # The same weights on the same pixels.
    rows = {name: json.loads((place / "all" / name / "results.json").read_text()) for name in ("run", "run-export")}
    values = {
        name: {(r["trained"]["name"], r["trained"]["part"]): r["trained"]["value"] for r in ones}
        for name, ones in rows.items()
    }
    assert values["run"]["knn/top1", "all"] == values["run-export"]["knn/top1", "all"]


def test_the_page_holds_all_and_needs_no_network(output: Path) -> None:
    page = (output / "exam.html").read_text()
    assert not [word for word in ("http://", "https://", 'src="/') if word in page.replace("http://www.w3.org", "")]
    for text in ("knn/top1", "sharp", "Differences", "What was measured", "Time and memory"):
        assert text in page
    maps = json.loads(page.partition('id="points">')[2].partition("</script>")[0])
    assert list(maps) == ["blind", "sharp", "keen", "elsewhere"]
    assert len(maps["sharp"]["parts"]["all"]) == OBJECTS * VIEWS
    assert maps["sharp"]["colours"]["class"]["names"] == [f"class {number}" for number in range(CLASSES)]
    assert "rotation [0]" in maps["sharp"]["colours"]
    assert (output / "exam.tex").read_text().startswith(r"\begin{tabular}")
    head, *rows = (output / "exam.csv").read_text().splitlines()
    assert head == "encoder,measure,part,value,standard error,untrained,shuffled,remark"
    assert {row.partition(",")[0] for row in rows} == {"blind", "sharp", "keen", "elsewhere"}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="Chromium is not installed")
def test_a_browser_draws_the_page_as_wide_as_a_phone(output: Path, tmp_path: Path) -> None:
    script = (
        "<script>addEventListener('load', () => { const pen = document.querySelector('canvas').getContext('2d');"
        "document.querySelectorAll('table.results th button')[2].click();"
        "const drawn = pen.getImageData(0, 0, 640, 640).data.some(one => one > 0);"
        "let svg = ''; painted(document.querySelector('.cards svg'), address => {"
        "svg = address.slice(0, 21) + ' ' + /var\\(/.test(drawing(document.querySelector('.cards svg')));"
        "parent.document.title = [innerWidth, drawn, document.documentElement.scrollWidth <= innerWidth,"
        "document.querySelector('th[aria-sort]').getAttribute('aria-sort'), svg].join(' '); }); });</script></body>"
    )
    inside = html.escape((output / "exam.html").read_text().replace("</body>", script))
    page = tmp_path / "page.html"
    # A window of Chromium is 500 pixels wide at least.
    page.write_text(f'<iframe srcdoc="{inside}" style="width: 390px; height: 900px; border: 0"></iframe>')
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=500,900", "--virtual-time-budget=2000"]
    ask = ["chromium", *quiet, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()]
    done = subprocess.run(ask, capture_output=True, text=True, check=True, timeout=120)
    assert "<title>390 true true ascending data:image/png;base64 false</title>" in done.stdout


@pytest.mark.slow
def test_a_map_by_umap_is_drawn_in_the_place_of_the_components(place: Path) -> None:
    pytest.importorskip("umap")
    names = [str(place / name) for name in ("blind", "sharp")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numba's and umap's own
        assert main(["evaluate", *names, "--protocols", "knn", "--map", "umap", "--output", str(place / "umap")]) == 0
    text = (place / "umap" / "exam.html").read_text()
    assert "two dimensions of UMAP" in text
    maps = json.loads(text.partition('id="points">')[2].partition("</script>")[0])
    for one in maps.values():
        points = torch.tensor(one["parts"]["all"])
        assert points.shape == (OBJECTS * VIEWS, 2)
        assert points.amin(dim=0).tolist() == [0, 0]
        assert points.amax(dim=0).tolist() == [1, 1]
    # Four classes that are far apart are four clusters: the nearest point is of the same class.
    labels = torch.tensor(maps["sharp"]["colours"]["class"]["values"])
    points = torch.tensor(maps["sharp"]["parts"]["all"])
    nearest = (torch.cdist(points, points) + 9 * torch.eye(len(points))).argmin(dim=1)
    assert float((labels[nearest] == labels).float().mean()) > 0.95


def test_curves_are_drawn_over_the_numbers_in_names() -> None:
    def named(name: str, value: float, part: str = "all", errors: tuple[tuple[str, float], ...] = ()) -> Comparison:
        return Comparison(Result(name, part, value, errors=errors))

    rows = [named(f"shift/{pixels} pixels", 1 - pixels / 10) for pixels in (1, 2, 4)]
    rows += [named("knn/top1", layer / 4, f"layer {layer:02d} patches") for layer in (0, 1, 2)]
    rows += [named(f"shift_chosen/{pixels}/consistency", 1 - pixels / 20) for pixels in (1, 2, 4)]
    rows += [named("linear/top1", 0.5), named("linear/top5", 0.7)]
    rows += [named(f"few/{share}%/knn", share / 100) for share in (1, 5, 10)]
    rows += [named("r2/relative/rotation", 0.5, errors=(("0-30", 10.0), ("30-60", 20.0), ("60-90", 30.0)))]
    found = {one.title: one for one in charts({"a": Examined("a", rows)})}
    assert set(found) == {
        "shift, all",
        "shift_chosen/consistency, all",
        "few/knn, all",
        "knn/top1, patches",
        "median error of r2/relative/rotation, all, in degrees",
    }
    assert found["shift, all"].curves["a"] == [(1, 0.9), (2, 0.8), (4, 0.6)]
    assert found["shift_chosen/consistency, all"].axis == "shift, in pixels"
    assert (found["shift, all"].axis, found["knn/top1, patches"].axis) == ("pixels", "layer")
    assert found["knn/top1, patches"].curves["a"] == [(0, 0.0), (1, 0.25), (2, 0.5)]


@pytest.mark.parametrize(
    ("name", "tokens"), [("test_vit", ("patches", "class")), ("test_resnet", ("all",)), ("test_convnext", ("all",))]
)
def test_every_layer_is_a_part_and_the_last_is_the_network(name: str, tokens: tuple[str, ...]) -> None:
    import timm

    network = timm.create_model(name, num_classes=0).eval()
    size = network.pretrained_cfg["input_size"][-1]
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        parts = LayerFeatures(network)(pixels)
        torch.testing.assert_close(parts["all"], network(pixels))
    depths = [depth_of(part) for part in parts if part != "all"]
    assert {one[0] for one in depths if one} == set(tokens)
    layers = 1 + max(one[1] for one in depths if one)
    assert len(depths) == layers * len(tokens)
    assert all(part.ndim == 2 and len(part) == 2 for part in parts.values())


def test_a_network_of_torchvision_gives_what_its_last_layer_reads() -> None:
    from torchvision import models

    backbone, mean, _, size = torchvision_backbone("resnet18", pretrained=False, seed=3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        whole = models.resnet18().eval()
    read: list[Tensor] = []
    whole.fc.register_forward_pre_hook(lambda module, given: read.append(given[0]))
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        found = backbone(pixels)
        whole(pixels)
    assert torch.equal(found, read[0])
    assert (mean, size) == ((0.485, 0.456, 0.406), 224)


def test_the_memory_of_a_measurement_is_what_it_needs_above_what_was_held() -> None:
    with mmap.mmap(-1, 1 << 26) as held, costing("cpu") as cost:
        held.write(bytes(1 << 26))
        with mmap.mmap(-1, 1 << 26) as needed:  # pages that nobody had before
            needed.write(bytes([1]) * (1 << 26))
    assert cost.memory is None or 1.2e8 < cost.memory < 2.7e8
    assert cost.seconds > 0


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("--data.views=2", "one and two have different data (views: 3 and 2); give --data for all"),
        (
            "--evaluation.views=2",
            "one and two are evaluated differently (views: 8 and 2); give --evaluation.views for all",
        ),
    ],
)
def test_runs_of_different_data_or_settings_are_not_compared_in_silence(
    setting: str, problem: str, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    shutil.copytree(tiny_run, one)
    assert main(["pretrain", str(one / "recipe.yaml"), setting, "--output", str(two), "--quiet"]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(one), str(two)]) == 2
    assert problem in capsys.readouterr().err
