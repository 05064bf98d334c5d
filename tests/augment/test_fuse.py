"""A fused sequence of kornia's augmentations makes the views that the sequence makes, from the same parameters."""

import re
from collections.abc import Callable
from pathlib import Path

import kornia.augmentation as K
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_inv.augment import fuse
from ssl_inv.augment.fusion import segments_of
from ssl_inv.augment.kornia_geometry import Route
from ssl_inv.catalogue import SettingError
from ssl_inv.testing.device import DEVICE, PretendedGPU

HEIGHT, WIDTH, SIZE = 48, 64, 40
PAGE = (Path(__file__).parents[2] / "docs" / "kornia.md").read_text(encoding="utf-8")

GEOMETRY: dict[str, Callable[[], nn.Module]] = {
    "crop and resize": lambda: K.RandomResizedCrop((32, SIZE)),
    "crop and resize, half pixels": lambda: K.RandomResizedCrop((32, SIZE), align_corners=False),
    "crop and resize, by a warp": lambda: K.RandomResizedCrop((32, SIZE), cropping_mode="resample"),
    "crop and resize, half pixels, by a warp": lambda: K.RandomResizedCrop(
        (32, SIZE), align_corners=False, cropping_mode="resample"
    ),
    "crop and resize, for whole batches": lambda: K.RandomResizedCrop((32, SIZE), p=0.5),
    "to one column": lambda: K.RandomResizedCrop((9, 1)),
    "crop": lambda: K.RandomCrop((20, 30)),
    "crop, padded": lambda: K.RandomCrop((HEIGHT, WIDTH), padding=6),
    "crop, padded on each side": lambda: K.RandomCrop((HEIGHT, WIDTH), padding=(1, 2, 3, 4)),
    "crop, padded if needed": lambda: K.RandomCrop((64, 70), pad_if_needed=True),
    "crop that is larger": lambda: K.RandomCrop((64, 70)),
    "centre crop": lambda: K.CenterCrop((21, 30)),
    "resize": lambda: K.Resize((30, 90)),
    "resize, half pixels": lambda: K.Resize(30, align_corners=False),
    "flip": lambda: K.RandomHorizontalFlip(p=0.5),
    "vertical flip": lambda: K.RandomVerticalFlip(p=0.5),
    "rotation": lambda: K.RandomRotation(40, p=0.7),
    "quarter turns": lambda: K.RandomRotation90((-1, 2), p=0.7),
    "affine": lambda: K.RandomAffine(30, (0.1, 0.2), (0.8, 1.2), (10, 10), p=0.7),
    "affine, corners": lambda: K.RandomAffine(30, align_corners=True, p=0.7),
    "translation": lambda: K.RandomTranslate((-0.2, 0.2), (-0.1, 0.3), p=0.7),
    "shear": lambda: K.RandomShear((-20, 20, -10, 10), p=0.7),
    "perspective": lambda: K.RandomPerspective(0.6, p=0.7),
}
COLOURS: dict[str, Callable[[], nn.Module]] = {
    "jitter": lambda: K.ColorJitter(0.8, 0.8, 0.8, 0.4, p=0.7),
    "jitter in some order": lambda: K.ColorJitter(0.8, 0.8, 0.8, 0.4, order=(3, 1)),
    "jitter alike": lambda: K.ColorJitter(0.8, 0.8, 0.8, 0.4, same_on_batch=True),
    "jiggle": lambda: K.ColorJiggle(0.8, 0.8, 0.8, 0.4, p=0.7),
    "brightness": lambda: K.RandomBrightness((0.5, 1.5), p=0.7),
    "brightness beyond white": lambda: K.RandomBrightness((0.5, 1.5), clip_output=False),
    "contrast": lambda: K.RandomContrast((0.5, 1.5)),
    "saturation": lambda: K.RandomSaturation((0.0, 2.0)),
    "hue": lambda: K.RandomHue((-0.5, 0.5)),
    "grey": lambda: K.RandomGrayscale(p=0.5),
    "grey by other weights": lambda: K.RandomGrayscale(torch.tensor([0.2, 0.3, 0.5]), p=0.5),
    "blur": lambda: K.RandomGaussianBlur((5, 5), (0.1, 2.0), p=0.7),
    "blur, an oblong": lambda: K.RandomGaussianBlur((3, 9), (0.1, 2.0), p=0.7),
    "blur, wide": lambda: K.RandomGaussianBlur(23, (0.1, 2.0)),
    "solarise": lambda: K.RandomSolarize(0.3, 0.2, p=0.7),
    "posterise": lambda: K.RandomPosterize((0, 8), p=0.7),
    "erasing": lambda: K.RandomErasing(value=0.3, p=0.7),
    "erasing alike": lambda: K.RandomErasing(p=0.7, same_on_batch=True),
    "noise": lambda: K.RandomGaussianNoise(0.0, 0.1, p=0.7),
    "noise alike": lambda: K.RandomGaussianNoise(0.0, 0.1, same_on_batch=True),
    "normalise": lambda: K.Normalize(torch.tensor([0.4, 0.5, 0.3]), torch.tensor([0.2, 0.3, 0.3])),
    "normalise by one number": lambda: K.Normalize(0.5, 0.5),
}


def simclr(size: int = SIZE) -> list[nn.Module]:
    blur = K.RandomGaussianBlur((5, 5), (0.1, 2.0), p=0.5)
    crop = K.RandomResizedCrop((size, size), scale=(0.08, 1.0))
    colours = K.ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8), K.RandomGrayscale(p=0.2), blur
    return [crop, K.RandomHorizontalFlip(p=0.5), *colours]


def byol() -> list[nn.Module]:
    return [*simclr(), K.RandomSolarize((0.5, 0.5), (0.0, 0.0), p=0.2), K.Normalize(0.45, 0.25)]


def cifar() -> list[nn.Module]:
    crop = K.RandomCrop((HEIGHT, WIDTH), padding=4)
    return [crop, K.RandomHorizontalFlip(p=0.5), K.ColorJiggle(0.2, 0.2, 0.2, 0.1), K.RandomErasing(p=0.5)]


def flipped_last() -> list[nn.Module]:
    return [simclr()[0], *simclr()[2:], K.RandomHorizontalFlip(p=0.5), K.RandomVerticalFlip(p=0.5)]


def warped() -> list[nn.Module]:
    warps = K.RandomAffine(30, (0.2, 0.2), (0.7, 1.2), p=0.8), K.RandomPerspective(0.6, p=0.5), K.RandomRotation(40)
    return [*warps, *simclr()]


def coloured_first() -> list[nn.Module]:
    first = K.ColorJitter(0.4, 0.4, 0.4, 0.1)
    return [first, K.RandomAffine(20, p=0.8), K.RandomGrayscale(p=0.5), K.RandomRotation(20)]


SEQUENCES = [simclr, byol, cifar, flipped_last, warped, coloured_first]


def images(count: int, detail: int = 16, seed: int = 0) -> Tensor:
    coarse = torch.rand(count, 3, detail, detail, generator=torch.Generator().manual_seed(seed + count))
    return F.interpolate(coarse, (HEIGHT, WIDTH), mode="bicubic", align_corners=False).clamp(0, 1)


def decibels(one: Tensor, other: Tensor) -> float:
    return float(-10 * (one - other).double().square().mean().clamp_min(1e-14).log10())


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("name", [*GEOMETRY, *COLOURS])
def test_each_augmentation_does_what_kornia_does(name: str, count: int) -> None:
    original = K.AugmentationSequential((GEOMETRY | COLOURS)[name]())
    fused = fuse(original)
    assert "kornia" not in repr(fused)
    for trial in range(6):
        torch.manual_seed(trial)
        pixels = images(count, seed=trial)
        wanted = original(pixels)
        made = fused(pixels, params=original._params)
        assert made.shape == wanted.shape
        assert made.is_contiguous()
        assert (made - wanted).abs().max() <= 2 / 255
        assert decibels(made, wanted) >= 60


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_whole_sequences_are_equal(sequence: Callable[[], list[nn.Module]]) -> None:
    original = K.AugmentationSequential(*sequence())
    fused = fuse(original, exact=True)
    for trial in range(12):
        torch.manual_seed(trial)
        wanted = original(images(5))
        torch.manual_seed(trial)
        made = fused(images(5))  # draws the same, with the original's modules
        assert (made - wanted).abs().max() <= 2 / 255
        assert decibels(made, wanted) >= 60


def test_several_interpolations_become_one() -> None:
    """On smooth images, where one interpolation more or less does not show, away from black borders."""
    original = K.AugmentationSequential(*warped()[:4], K.RandomHorizontalFlip(p=0.5))
    fused = fuse(original)
    assert repr(fused).count("resampled once") == 1
    assert repr(fuse(original, exact=True)).count("resampled once") == 4
    for trial in range(12):
        torch.manual_seed(trial)
        wanted = original(images(5, detail=4))
        made = fused(images(5, detail=4), params=original._params)
        ones = torch.ones(5, 3, HEIGHT, WIDTH)
        shown = original(ones, params=original._params), fused(ones, params=original._params)
        inner = (shown[0] > 0.999) & (shown[1] > 0.999)
        assert decibels(made[inner], wanted[inner]) >= 40
        assert decibels(*shown) >= 20


def test_content_that_left_a_canvas_does_not_come_back() -> None:
    away, back = K.RandomTranslate((0.25, 0.25), p=1.0), K.RandomTranslate((-0.25, -0.25), p=1.0)
    original = K.AugmentationSequential(away, back, K.RandomRotation(0.0, p=1.0))
    made = fuse(original)(images(2))
    torch.testing.assert_close(made, original(images(2)), rtol=0, atol=1e-3)
    assert made[..., -WIDTH // 4 + 1 :].abs().max() == 0


def test_the_order_of_the_sequence_counts() -> None:
    def items(*modules: nn.Module, exact: bool = False) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        return [(one.geometry, one.colours) for one in segments_of(modules, exact)]

    crop, flip, jitter, grey, _ = simclr()
    warp, erasing = K.RandomAffine(20), K.RandomErasing()
    assert items(crop, flip, jitter, grey) == [((0, 1), (2, 3))]
    assert items(jitter, crop, grey) == [((), (0,)), ((1,), (2,))]
    assert items(crop, jitter, flip, grey) == [((0, 2), (1, 3))]
    assert items(crop, erasing, flip) == [((0,), (1,)), ((2,), ())]
    assert items(warp, crop) == [((0, 1), ())]
    assert items(warp, crop, exact=True) == [((0,), ()), ((1,), ())]
    assert items(warp, flip, K.CenterCrop(8), exact=True) == [((0, 1, 2), ())]
    assert items(K.CenterCrop(8), crop, exact=True) == [((0, 1), ())]
    assert items(K.CenterCrop(8), warp, exact=True) == [((0,), ()), ((1,), ())]


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (K.RandomPlasmaShadow(p=1.0), "not standard"),
        (K.RandomAffine(20, padding_mode="border", p=1.0), "its padding_mode"),
        (K.RandomAffine(20, resample="nearest", p=1.0), "its resample"),
        (K.RandomAffine(20, padding_mode="fill", fill_value=0.5, p=1.0), "its fill_value"),
        (K.RandomResizedCrop((20, 20), resample="bicubic"), "its resample"),
        (K.RandomCrop((40, 40), padding=4, fill=0.5), "its fill"),
        (K.RandomCrop((40, 40), padding=4, padding_mode="reflect"), "its padding_mode"),
        (K.Resize((20, 20), antialias=True), "its antialias"),
        (K.RandomGaussianBlur(3, (0.1, 2.0), border_type="replicate", p=1.0), "its border_type"),
        (K.ImageSequential(K.RandomInvert(p=1.0)), "not standard"),
        (nn.Sigmoid(), "not standard"),
    ],
)
def test_what_is_not_standard_runs_in_kornia_in_its_place(module: nn.Module, reason: str) -> None:
    original = K.AugmentationSequential(K.RandomHorizontalFlip(p=1.0), module, K.RandomVerticalFlip(p=1.0))
    fused = fuse(original)
    assert re.findall(r"(?:kornia|resampled once): (\w+)", repr(fused)) == [type(one).__name__ for one in original]
    assert f"({reason})" in repr(fused)
    assert torch.equal(fused(images(3)), original(images(3), params=original._params))


def test_random_choices_of_the_container_hold() -> None:
    original = K.AugmentationSequential(*simclr(), K.RandomInvert(p=1.0), random_apply=3)
    fused, chosen = fuse(original), set()
    for trial in range(8):
        torch.manual_seed(trial)
        wanted = original(images(3))
        drawn = [item.name for item in original._params]
        torch.manual_seed(trial)
        assert decibels(fused(images(3)), wanted) >= 60
        assert [item.name for item in fused._params] == drawn
        chosen.add(tuple(drawn))
    assert len(chosen) > 4


def test_masks_boxes_and_points_are_the_original_s() -> None:
    original = K.AugmentationSequential(*warped(), data_keys=["input", "mask", "bbox_xyxy", "keypoints"])
    fused = fuse(original)
    boxes, points = torch.tensor([[[3.0, 4.0, 30.0, 20.0]]]).repeat(4, 1, 1), torch.rand(4, 6, 2) * 40
    values = [images(4), torch.randint(0, 5, (4, 1, HEIGHT, WIDTH)), boxes, points]
    torch.manual_seed(1)
    wanted = original(*values)
    torch.manual_seed(1)
    made = fused(*values)
    back = zip(fused.inverse(*made), original.inverse(*made, params=fused._params), strict=True)
    assert all(torch.equal(one, other) for one, other in [*zip(made[1:], wanted[1:], strict=True), *back])
    assert decibels(made[0], wanted[0]) > 20
    torch.testing.assert_close(fused.transform_matrix(images(4)), original.transform_matrix, rtol=1e-3, atol=1e-3)
    named = fuse(K.AugmentationSequential(*original.children(), data_keys=None))
    renamed = {"mask": values[1], "image-1": values[0], "keypoints": points, "name": "a"}
    found = named(renamed, params=fused._params)
    assert list(found) == list(renamed)
    assert found["name"] == "a"
    assert torch.equal(found["image-1"], made[0])
    assert torch.equal(found["mask"], made[1])


def test_a_view_depends_on_no_other_of_its_batch() -> None:
    original = K.AugmentationSequential(*warped(), K.RandomErasing(p=0.5))
    fused, pixels = fuse(original), images(6)
    views, drawn = fused(pixels), fused._params
    for rows in ([2], [4, 1], [0, 1, 2, 3, 5]):
        params = []
        for item in drawn:
            own = {name: value[rows] if len(value) == 6 else value for name, value in item.data.items()}
            params.append(item._replace(data=own))
        assert torch.equal(fused(pixels[rows], params=params), views[rows])


def test_what_it_cannot_do_the_original_does() -> None:
    original = K.AugmentationSequential(*simclr()[:3])
    fused = fuse(original)
    trained = images(2).requires_grad_()
    fused(trained).sum().backward()
    assert trained.grad is not None
    assert trained.grad.abs().sum() > 0
    for pixels in (images(2).double(), images(2)[0], images(2)[:0]):
        torch.manual_seed(0)
        wanted = original(pixels)
        torch.manual_seed(0)
        assert torch.equal(fused(pixels), wanted)
    grey = K.AugmentationSequential(*simclr()[:2])
    assert torch.equal(fuse(grey)(images(2)[:, :1]), grey(images(2)[:, :1], params=grey._params))
    with torch.no_grad():
        assert fused(trained).shape == (2, 3, SIZE, SIZE)
    with pytest.raises(ValueError, match="matching spatial dimensions"):
        fuse(K.AugmentationSequential(*simclr(), data_keys=["input", "mask"]))(images(2), torch.ones(2, 1, 5, 5))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype: torch.dtype) -> None:
    fused = fuse(K.AugmentationSequential(*simclr()))
    made = fused(images(3).to(dtype))
    assert made.dtype == dtype
    wanted = fused(images(3).to(dtype).float(), params=fused._params)
    assert torch.equal(made, wanted.to(dtype))


def test_on_a_gpu_nothing_is_left_on_the_host() -> None:
    gpu = PretendedGPU()
    pixels = gpu.tensor(images(3))
    with gpu:
        for sequence in (warped, cifar, byol):
            assert fuse(K.AugmentationSequential(*sequence()))(pixels).device == DEVICE


@pytest.mark.parametrize("name", ["crop and resize", "crop, padded", "to one column", "resize", "flip", "centre crop"])
def test_a_gpu_resamples_as_the_cpu_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU interpolates upright boxes one by one; here it makes them as a GPU does, all at once."""
    fused = fuse(K.AugmentationSequential(GEOMETRY[name](), K.RandomHorizontalFlip(p=0.5)))
    views = fused(images(5))
    boxes = Route._upright_boxes
    monkeypatch.setattr(Route, "_upright_boxes", lambda self: (boxes(self)[0], np.full(5, False)))
    assert decibels(fused(images(5), params=fused._params), views) > 100


def test_only_sequences_of_images_are_fused() -> None:
    with pytest.raises(
        SettingError, match="sequence: must be an AugmentationSequential or an ImageSequential, got a Seq"
    ):
        fuse(nn.Sequential(*simclr()))  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="sequence: has RandomTransplantation, which is no augmentation of images"):
        fuse(K.AugmentationSequential(K.RandomTransplantation(), data_keys=["input", "mask"]))
    assert fuse(K.ImageSequential(*simclr()))(images(2)).shape == (2, 3, SIZE, SIZE)


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
def test_the_code_of_the_page_runs(block: str) -> None:
    exec(compile(block, "kornia.md", "exec"), {"__name__": "page"})
