"""The contact sheet has every operation, from weak to strong, and says what was done and what is refused."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from ssl_inv.augment import OPERATIONS, kornia_names
from ssl_inv.run.cli import main
from ssl_inv.run.pages import operations_page
from ssl_inv.run.pages.operations_page import available, contact_sheet, write_operations
from ssl_inv.run.pages.sheet import Look, Page, Strip, Tile

FEW = [
    "flip",
    "rotation",
    "kornia.RandomRotation",
    "kornia.RandomHorizontalFlip",
    "kornia.CenterCrop",
    "kornia.RandomHue",
]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations_page, "available", lambda: FEW)


def picture(side: int) -> Tensor:
    ramp = (torch.arange(side) + 0.5) / side
    return torch.stack((ramp.expand(side, side), ramp[:, None].expand(side, side), (1 - ramp).expand(side, side)))


@pytest.mark.slow
def test_every_operation_has_tiles_and_every_refusal_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations_page, "_DRAWS", 3)
    page = contact_sheet(picture(48))
    assert [strip.name for strip in page.strips[1:]] == available()
    assert {*OPERATIONS, *(f"kornia.{name}" for name in kornia_names.names())} == {*available()}
    assert all(1 <= len(strip.tiles) <= 3 for strip in page.strips)
    foot = "\n".join(page.foot)
    assert "Not shown" not in foot
    assert all(f"kornia.{name}" in foot and reason in foot for name, reason in kornia_names.REFUSED.items())


def test_strengths_grow_from_left_to_right(few: None) -> None:
    side = operations_page.SIDE
    strips = {strip.name: strip for strip in contact_sheet(picture(side)).strips}
    assert [len(strips[name].tiles) for name in FEW] == [1, 3, 3, 1, 1, 3]
    for name in ("rotation", "kornia.RandomRotation"):
        angles = [int(tile.words.removeprefix("turned ").partition("°")[0]) for tile in strips[name].tiles]
        assert angles == sorted(angles)
        assert angles[0] < angles[2]
    assert strips["kornia.CenterCrop"].words == "size: 96"
    assert strips["kornia.CenterCrop"].tiles[0].words == "96\N{MULTIPLICATION SIGN}96 px"


def test_the_picture_is_the_recipes_or_a_built_in_one(
    few: None, tmp_path: Path, tiny_recipe: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.yaml").write_text(tiny_recipe)
    monkeypatch.chdir(tmp_path)
    assert main(["views", "--operations"]) == main(["views", "--operations", "tiny.yaml"]) == 0
    assert main(["views", "--operations", "tiny.yaml", "--output=a.html"]) == 0
    assert capsys.readouterr().out == "operations.png\noperations-2.png\na.html\n"
    assert Path("operations.png").read_bytes() != Path("operations-2.png").read_bytes()
    page = Path("a.html").read_text(encoding="utf-8")
    assert "kornia.RandomRotation" in page
    assert "degrees: 45.0" in page
    write_operations(None, Path("again.png"))
    assert Path("operations.png").read_bytes() == Path("again.png").read_bytes()


def test_words_stay_within_their_column() -> None:
    tile = Image.new("RGB", (60, 60))
    words = ("a\N{NO-BREAK SPACE}phrase\N{NO-BREAK SPACE}too\N{NO-BREAK SPACE}long", "Unbreakable" * 5, "a b c " * 20)
    strips = [Strip("a/long/path/" * 5, [Tile(tile, one)], words=one) for one in words]
    made = Page("", "", strips, 1, look=Look(side=60, gap=20, apart=20, text=12)).picture()
    width = 60 + 20
    for number in range(len(strips)):
        gap = made.crop((24 + number * width + 61, 90, 24 + (number + 1) * width, made.height))
        assert gap.getextrema() == ((255, 255),) * 3
