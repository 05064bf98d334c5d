"""What lacks masks, boxes or depth is skipped with its reason, and bad folders end a command in one line."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_voc import write_voc

from ssl_inv.run.cli import main

ENCODER = "timm:test_resnet"


def frames(root: Path, masks: bool = True) -> Path:
    for video in range(4):
        (root / f"v{video}").mkdir(parents=True, exist_ok=True)
        for frame in range(4):
            random = np.random.default_rng(10 * video + frame)
            pixels = random.integers(0, 60, (24, 32, 3), dtype=np.uint8)
            mask = np.zeros((24, 32), dtype=np.uint8)
            mask[6:18, 4 * frame : 4 * frame + 12] = 255
            pixels[mask > 0] = (220, 200, 40)
            Image.fromarray(pixels).save(root / f"v{video}" / f"{frame}.png")
            if masks:
                Image.fromarray(mask).save(root / f"v{video}" / f"{frame}_mask.png")
    return root


@pytest.mark.slow
def test_videos_and_boxes_are_measured_by_one_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    videos = str(frames(tmp_path / "videos"))
    ask = ["--data.name", "masked_videos", "--data.size", "96", "--protocols", "label_propagation", "detection"]
    assert main(["evaluate", ENCODER, "--data", videos, *ask]) == 0
    out = capsys.readouterr().out
    assert "label_propagation/jf" in out
    assert "not measured: detection, the data have no boxes, as those of `voc` have" in out
    write_voc(tmp_path / "voc", 8)
    ask = ["--data.name", "voc", "--data.size", "64", "--protocols", "label_propagation", "correspondence_3d"]
    assert main(["evaluate", ENCODER, "--data", str(tmp_path / "voc"), *ask]) == 0
    out = capsys.readouterr().out
    assert "not measured: label_propagation, the data are no videos with masks" in out
    assert "not measured: correspondence_3d, the data do not know depth" in out


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("masked_videos", "data.masks: "),
        ("voc", "data.path: "),
        ("maskedvideos", "did you mean 'masked_videos'?"),
        ("vok", "did you mean 'voc'?"),
    ],
)
def test_data_of_another_kind_end_in_one_line(
    name: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, output = frames(tmp_path / "plain", masks=False), tmp_path / "output"
    ask = ["--data", str(root), "--data.name", name, "--protocols", "detection", "--output", str(output)]
    assert main(["evaluate", ENCODER, *ask]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert not output.exists()
