"""Masks follow what cells show, contours and regions are measured as DAVIS does, videos are read with their masks."""

import io
import math
import zipfile

import numpy as np
import pytest
import torch
from imaged import encoded_by
from PIL import Image
from torch import Tensor

from ssl_inv.catalogue import SettingError
from ssl_inv.data.sources.masked_videos import MaskedVideos, instances, masked_videos
from ssl_inv.evaluation.protocols.label_propagation import LabelPropagation, measures, propagated, segmented
from ssl_inv.evaluation.protocols.mask_measures import contour_accuracy, contours, region_similarity
from ssl_inv.evaluation.results import Bootstrap

SIDE, CELL, FRAMES = 64, 4, 12


def moving(step: int = 4) -> tuple[Tensor, Tensor]:
    """A video of two squares of one colour each that move by a cell in every frame, and its masks `(T, H, W)`."""
    masks = torch.zeros(FRAMES, SIDE, SIDE, dtype=torch.int64)
    for frame in range(FRAMES):
        masks[frame, 8:24, step * frame : step * frame + 16] = 3
        masks[frame, 40:56, SIDE - 16 - step * frame : SIDE - step * frame] = 7
    colours = torch.zeros(8, 3)
    colours[0], colours[3], colours[7] = torch.eye(3)
    return colours[masks].movedim(-1, 1), masks


def colours(pixels: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(pixels, CELL)


def places(pixels: Tensor) -> Tensor:
    cells = SIDE // CELL
    return torch.eye(cells**2).view(1, cells**2, cells, cells).repeat(len(pixels), 1, 1, 1)


def measured(maps, video: tuple[Tensor, Tensor] | None = None, count: int = 2) -> dict[str, object]:
    frames, masks = moving() if video is None else video
    one = encoded_by(
        lambda pixels: {"all": pixels.mean(dim=(2, 3))},
        maps,
        frames[:2],
        videos=lambda: iter([(number, frames, masks) for number in range(count)]),
    )
    return {row.name.rpartition("/")[2]: row for row in LabelPropagation(bootstrap=Bootstrap(10)).run(one)}


def level(row, words: str) -> float:
    return float(row.detail.split(f"{words} ")[1].split(",")[0])


def test_colours_carry_masks_and_places_copy_the_first_one():
    found, copied = measured(colours), measured(places)
    for name in ("j", "f"):
        assert found[name].value == pytest.approx(level(found[name], "cells"), abs=1e-3)
        assert found[name].value > 0.98
        assert copied[name].value == pytest.approx(level(copied[name], "the first mask"), abs=0.02)
        assert copied[name].value < 0.5 < level(copied[name], "cells")
        assert found[name].spread == pytest.approx(0, abs=1e-12)  # both videos are the same
    assert found["jf"].value == pytest.approx((found["j"].value + found["f"].value) / 2)
    assert "2 videos, 4 instances, 20 frames" in found["j"].detail


def test_a_cell_takes_the_mean_of_its_nearest_cells_within_reach():
    maps = torch.zeros(3, 4, 1, 4)
    maps[0, :, 0] = torch.eye(4)
    maps[1, 0, 0], maps[2, 3, 0] = 1, 1  # like the first cell, then like the last one
    shares = torch.tensor([[0.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0]])[:, None]
    far = propagated(maps, shares, 1, 1, 0.1, radius=3)
    assert far[1, 1, 0].tolist() == [1, 1, 1, 1]
    assert far[2, 0, 0].tolist() == [1, 1, 1, 1]
    near = propagated(maps, shares, 1, 1, 0.1, radius=1)
    assert near[1, 1, 0, :2].tolist() == [1, 1]  # the last cells do not see the first one
    three = propagated(maps[:2], shares, 1, 4, 0.5, radius=3)[1, 1, 0]
    assert three.tolist() == pytest.approx([math.exp(2) / (math.exp(2) + 3)] * 4)


def test_rescaling_lets_a_faint_instance_stand_where_it_is_strongest():
    shares = torch.tensor([[0.7, 0.9, 0.9], [0.3, 0.1, 0.1], [0.0, 0.0, 0.0]]).view(1, 3, 1, 3)
    assert segmented(shares, (1, 3)).flatten().tolist() == [1, 0, 0]


def test_regions_and_contours_of_squares():
    truth, shifted, none = (torch.zeros(1, 100, 100, dtype=torch.bool) for _ in range(3))
    truth[0, 20:40, 20:40] = True
    shifted[0, 20:40, 22:42] = True
    assert region_similarity(truth, shifted).item() == pytest.approx(18 / 22)
    assert region_similarity(none, none).item() == contour_accuracy(none, none).item() == 1
    assert region_similarity(truth, none).item() == contour_accuracy(truth, none).item() == 0
    # A contour runs at the pixels before the first and at the last ones: a square of 21 pixels a side.
    assert int(contours(truth).sum()) == 80
    assert contour_accuracy(truth, shifted).item() == 1  # the tolerance is two pixels here
    exact = contour_accuracy(truth, shifted, tolerance=0).item()
    assert exact == pytest.approx(2 * 19 / 80)
    left_out = truth.long() + 254 * (torch.arange(100) >= 38)
    assert measures(truth[:, :, :].long() * (torch.arange(100) < 38), left_out, torch.tensor([1])).tolist() == [[1, 1]]


@pytest.mark.parametrize(
    ("video", "words"),
    [
        ((torch.zeros(2, 3, 8, 8), torch.ones(2, 8, 8, dtype=torch.int64)), "no video has an instance"),
        ((torch.zeros(4, 3, 8, 8), torch.zeros(4, 8, 8, dtype=torch.int64)), "no video has an instance"),
    ],
)
def test_a_video_that_allows_no_number_is_told(video, words):
    (row,) = measured(colours, video).values()
    assert row.value is None
    assert words in row.detail


@pytest.mark.parametrize("settings", [{"context": 0}, {"neighbours": 0}, {"temperature": 0}, {"radius": -1}])
def test_bad_settings_are_refused(settings):
    with pytest.raises(ValueError, match="must be"):
        LabelPropagation(**settings)


# Files.


def picture(values: np.ndarray, mode: str | None = None) -> bytes:
    file, image = io.BytesIO(), Image.fromarray(values, mode) if mode is None else Image.fromarray(values)
    if mode == "P":
        image = image.convert("P")
        image.putdata(values.flatten().tolist())
        image.putpalette([value for number in range(256) for value in (number, 0, 255 - number)])
    image.save(file, "PNG")
    return file.getvalue()


def files(davis: bool, videos: int = 3, frames: int = 11) -> dict[str, bytes]:
    found = {}
    for video in range(videos):
        for frame in range(frames):
            pixels = np.full((6, 10, 3), 10 * video + frame, dtype=np.uint8)
            mask = np.zeros((6, 10), dtype=np.uint8)
            mask[2:4, frame % 8 : frame % 8 + 2] = 5
            # Frame 10 comes after frame 9, and not after frame 1.
            names = f"v{video}/{frame}.png", f"v{video}/{frame}_mask.png"
            if davis:
                names = f"JPEGImages/480p/v{video}/{frame}.png", f"Annotations/480p/v{video}/{frame}.png"
            found |= {names[0]: picture(pixels), names[1]: picture(mask, "P" if davis else None)}
    return found


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("davis", [False, True])
def test_videos_are_read_in_both_layouts(davis, packed, tmp_path):
    path = tmp_path / "data"
    if packed:
        path = tmp_path / "data.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files(davis).items():
                archive.writestr(name, content)
    else:
        for name, content in files(davis).items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
    source = MaskedVideos(str(path), size=8)
    assert source.view_counts.tolist() == [11] * 3
    video = source.video(1)
    assert video.frames.shape == (11, 3, 6, 10)
    assert video.frames[:, 0, 0, 0].tolist() == [10 + frame for frame in range(11)]
    assert video.masks[4, 2].tolist() == [0] * 4 + [5] * 2 + [0] * 4
    masks = source.masks(np.array([1]), np.array([4]))
    assert masks.shape == (1, 8, 8)
    assert set(masks.unique().tolist()) == {0, 5}
    data = masked_videos(path=str(path), size=8, validation_share=0.34)
    assert len(data.validation) == 1
    number = int(data.validation.objects[0])
    assert torch.equal(data.validation.video(0).frames, source.video(number).frames)


def test_grey_masks_of_black_and_white_have_one_instance():
    values = np.array([[0, 255], [255, 0]], dtype=np.uint8)
    assert instances(picture(values)).tolist() == [[0, 1], [1, 0]]
    values[0, 0] = 2
    assert instances(picture(values)).tolist() == [[2, 255], [255, 0]]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"v0/3_mask.png": None}, SettingError, "1 of 22 frames have no mask: v0/3.png"),
        ({"v0/3_mask.png": b"no image"}, ValueError, "the mask v0/3_mask.png cannot be read"),
        ({"v0/3_mask.png": picture(np.zeros((6, 10, 3), dtype=np.uint8))}, ValueError, "has the mode RGB"),
        ({"v0/3_mask.png": picture(np.zeros((6, 9), dtype=np.uint8))}, ValueError, "its mask v0/3.png has 9x6 pixels"),
        ({"v0/3.png": picture(np.zeros((5, 10, 3), dtype=np.uint8))}, ValueError, "the frame v0/3.png has 10x5 pixels"),
    ],
)
def test_bad_files_are_named(change, error, words, tmp_path):
    for name, content in {**files(False, 2), **change}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        if content is not None:
            (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=words) as caught:
        MaskedVideos(str(tmp_path), size=8).video(0)
    assert "\n" not in str(caught.value)


def test_frames_without_masks_are_refused(tmp_path):
    (tmp_path / "v").mkdir()
    (tmp_path / "v/0.png").write_bytes(picture(np.zeros((6, 6, 3), dtype=np.uint8)))
    with pytest.raises(SettingError, match=r"has no masks called \*_mask.png beside frames"):
        masked_videos(path=str(tmp_path))
