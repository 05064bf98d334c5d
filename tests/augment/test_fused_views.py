"""A policy is a kornia augmentation: the same pixels and record as ours, and kornia's masks, boxes and key points."""

import io
import subprocess
import sys
from threading import Thread

import kornia.augmentation as K
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kornia.augmentation.container.params import ParamItem
from torch import Tensor, nn

from ssl_inv import augment
from ssl_inv.augment import FusedViews
from ssl_inv.augment.current_key import current_key, keyed
from ssl_inv.augment.policies import byol, custom, simclr
from ssl_inv.augment.policy import Augmentation
from ssl_inv.catalogue import SettingError
from ssl_inv.testing.device import DEVICE, PretendedGPU
from ssl_inv.transforms.keyed_random import Key

HEIGHT, WIDTH, SIZE = 40, 56, 32
MOVES = [{"name": "crop", "scale": [0.4, 1.0]}, {"name": "flip"}, {"name": "affine"}, {"name": "perspective"}]
FIELD = {"name": "random_field", "alpha": [0.1, 0.2], "probability": 1.0}
EVERYTHING = simclr(size=SIZE, extra=[{"name": "affine"}, {"name": "perspective"}, FIELD, {"name": "erasing"}])
MOVED = custom(operations=MOVES, size=SIZE)
FISHEYE = {"center_x": [-0.1, 0.1], "center_y": [-0.1, 0.1], "gamma": [0.9, 1.1]}
KEYS = ["input", "mask", "bbox_xyxy", "bbox_xywh", "bbox", "keypoints"]


def key(count: int, first: int = 0) -> Key:
    return Key(5, 2, np.arange(first, first + count) * 13, 0)


def images(count: int, detail: int = 7) -> Tensor:
    coarse = torch.rand(count, 3, detail, detail, generator=torch.Generator().manual_seed(count))
    return F.interpolate(coarse, (HEIGHT, WIDTH), mode="bicubic", align_corners=False).clamp(0, 1)


def things(count: int) -> list[Tensor]:
    """A mask, boxes in three forms, and key points, of images."""
    mask = torch.randint(0, 9, (count, 1, HEIGHT, WIDTH))
    xyxy = torch.tensor([[8.0, 9.0, 30.0, 25.0], [1.0, 2.0, 55.0, 39.0]]).repeat(count, 1, 1)
    left, top, right, bottom = xyxy.unbind(-1)
    corners = torch.stack((left, top, right, top, right, bottom, left, bottom), -1).view(count, 2, 4, 2)
    xywh = torch.stack((left, top, right - left + 1, bottom - top + 1), -1)  # kornia counts both outer pixels
    points = torch.rand(count, 6, 2) * torch.tensor([WIDTH - 1.0, HEIGHT - 1.0])
    return [mask, xyxy, xywh, corners, points]


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("whole_numbers", [False, True])
def test_with_a_key_pixels_and_record_are_the_policy_s_own(count: int, whole_numbers: bool) -> None:
    pixels, fused = images(count), FusedViews(EVERYTHING)
    pixels = (pixels * 255).byte() if whole_numbers else pixels
    before = torch.get_rng_state()
    with keyed(key(count)):
        views = fused(pixels)
    assert torch.equal(torch.get_rng_state(), before)
    record = EVERYTHING.draw(key(count), HEIGHT, WIDTH)
    assert torch.equal(views, EVERYTHING.policy(0).render(pixels, record))
    drawn = fused.record()
    assert drawn.names == record.names
    assert all(torch.equal(drawn[name], record[name]) for name in record.names)
    assert drawn.groups == record.groups
    assert torch.equal(fused(pixels, params=fused.draw(key(count), HEIGHT, WIDTH)), views)
    assert torch.equal(fused(pixels, params=fused.draw(record, HEIGHT, WIDTH)), views)


def test_a_view_depends_on_no_other_of_its_batch() -> None:
    pixels, fused = images(5), FusedViews(EVERYTHING)
    with keyed(key(5)):
        views = fused(pixels)
    with keyed(key(2, first=3)):
        assert torch.equal(fused(pixels[3:]), views[3:])


def test_each_view_of_an_augmentation_has_its_policy() -> None:
    augmentation = byol(size=SIZE)
    other = Key(5, 2, np.arange(4), 1)
    with keyed(other):
        views = FusedViews(augmentation, view=1)(images(4))
    assert torch.equal(views, augmentation(images(4), other)[0])
    with keyed(key(4)):
        plain = FusedViews(augmentation, view="plain")(images(4))
    policy = augmentation.policy("plain")
    record = augmentation.draw(key(4), HEIGHT, WIDTH, policy)
    assert not any(record[name].any() for name in ("flip", "grey", "blur"))
    assert torch.equal(plain, policy.render(images(4), record))


def test_without_a_key_torch_s_generator_decides() -> None:
    fused, pixels = FusedViews(EVERYTHING), images(4)
    torch.manual_seed(3)
    first, second = fused(pixels), fused(pixels)
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(fused(pixels), first)
    sequence = K.AugmentationSequential(FusedViews(EVERYTHING), same_on_batch=True)
    same = sequence(pixels[:1].repeat(4, 1, 1, 1))
    assert torch.equal(same, same[:1].repeat(4, 1, 1, 1))


def test_the_matrix_leads_to_where_things_are_in_the_view() -> None:
    """A bright spot in the source is found in the view."""
    places = torch.tensor([[27.0, 19.0], [24.0, 23.0], [32.0, 17.0], [29.0, 21.0], [25.0, 18.0]])
    x, y = torch.arange(WIDTH), torch.arange(HEIGHT)[:, None]
    apart = (x - places[:, 0, None, None]) ** 2 + (y - places[:, 1, None, None]) ** 2
    spots = torch.exp(-apart / (2 * 2.5**2))[:, None].repeat(1, 3, 1, 1)
    policy = custom(operations=[{"name": "crop", "scale": [0.8, 1.0]}, *MOVES[1:]], size=48, padding="zeros")
    fused = FusedViews(policy)
    with keyed(key(5)):
        views = fused(spots)[:, 0].double()
    weights = (views - 0.1).clamp_min(0)
    middle = torch.stack([(weights * torch.arange(48.0)).sum((1, 2)), (weights.mT * torch.arange(48.0)).sum((1, 2))], 1)
    middle /= weights.sum((1, 2))[:, None]
    found = fused.transform_matrix @ torch.cat((places, torch.ones(5, 1)), 1)[..., None]
    expected = (found[:, :2] / found[:, 2:])[..., 0]
    inside = ((expected > 6) & (expected < 41)).all(1)
    assert inside.sum() >= 3
    assert (middle - expected)[inside].abs().max() < 0.25


@pytest.mark.parametrize("count", [1, 2, 5])
def test_masks_boxes_and_points_follow_and_come_back(count: int) -> None:
    sequence = K.AugmentationSequential(FusedViews(MOVED), K.RandomHorizontalFlip(p=0.5), data_keys=KEYS)
    before = [images(count), *things(count)]
    with keyed(key(count)):
        after = sequence(*before)
    again = sequence(*before, params=sequence._params)
    assert all(torch.equal(one, other) for one, other in zip(after, again, strict=True))
    assert after[0].shape[-2:] == after[1].shape[-2:] == (SIZE, SIZE)
    assert after[1].dtype == before[1].dtype
    matrix = sequence.transform_matrix
    points = torch.cat((before[5], torch.ones(count, 6, 1)), 2) @ matrix.mT
    torch.testing.assert_close(after[5], points[..., :2] / points[..., 2:], rtol=1e-4, atol=1e-3)
    corners = torch.cat((before[4], torch.ones(count, 2, 4, 1)), 3) @ matrix[:, None].mT
    corners = corners[..., :2] / corners[..., 2:]
    low, high = corners.amin(2), corners.amax(2)
    torch.testing.assert_close(after[2], torch.cat((low, high), 2), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(after[3], torch.cat((low, high - low + 1), 2), rtol=1e-4, atol=1e-3)
    # The mask at a pixel of the view is that of the nearest pixel of the source, where there is one.
    grid = torch.cartesian_prod(torch.arange(SIZE), torch.arange(SIZE)).flip(1).double()
    back = torch.cat((grid, torch.ones(len(grid), 1)), 1) @ torch.linalg.inv(matrix.double()).mT
    x, y = (back[..., :2] / back[..., 2:]).unbind(-1)
    inside = (x > 0) & (x < WIDTH - 1) & (y > 0) & (y < HEIGHT - 1)
    clear = inside & ((x % 1 - 0.5).abs() > 1e-3) & ((y % 1 - 0.5).abs() > 1e-3)
    nearest = before[1][torch.arange(count)[:, None], 0, y.round().long() % HEIGHT, x.round().long() % WIDTH]
    assert clear.float().mean() > 0.5
    assert torch.equal(after[1].flatten(1)[clear], nearest[clear])
    returned = sequence.inverse(*after)
    torch.testing.assert_close(returned[5], before[5], rtol=0, atol=2e-3)


def test_inverse_brings_back_what_the_view_shows() -> None:
    sequence = K.AugmentationSequential(FusedViews(custom(operations=MOVES, size=80)), data_keys=["input", "mask"])
    pixels, ones = images(5), torch.ones(5, 1, HEIGHT, WIDTH)
    with keyed(key(5)):
        back, shown = sequence.inverse(*sequence(pixels, ones))
    assert back.shape == pixels.shape
    inner = -F.max_pool2d(-shown, 5, 1, 2).expand_as(pixels) > 0.5
    assert inner.float().mean() > 0.2
    assert (back - pixels)[inner].square().mean() < 1e-3
    assert back[(shown == 0).expand_as(back)].abs().mean() < 0.1
    upright = K.AugmentationSequential(
        FusedViews(custom(operations=MOVES[:2], size=80)), data_keys=["input", *KEYS[2:]]
    )
    boxes = things(5)[1:]
    with keyed(key(5)):
        after = upright(pixels, *boxes)
    for one, other in zip(upright.inverse(*after)[1:], boxes, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-3)


def test_a_mask_follows_a_random_field_and_is_not_coloured() -> None:
    blocks = F.interpolate(torch.randint(0, 9, (4, 1, 5, 7)).float(), (HEIGHT, WIDTH))
    moved = custom(operations=[*MOVES, FIELD], size=SIZE)
    coloured = custom(operations=[*MOVES, FIELD, {"name": "jitter"}, {"name": "erasing"}], size=SIZE)
    for policy in (moved, coloured):
        sequence = K.AugmentationSequential(FusedViews(policy), data_keys=["input", "mask"])
        with keyed(key(4)):
            views, masks = sequence((blocks / 8).repeat(1, 3, 1, 1), blocks)
        agrees = ((views[:, :1] * 8 - masks).abs() < 0.5).float().mean()
        assert agrees > 0.8 if policy is moved else agrees < 0.8
        assert set(masks.unique().tolist()) <= set(range(9))
        still = masks if policy is moved else still  # noqa: F821
        assert torch.equal(masks, still)


def test_augmentations_of_kornia_within_a_policy_move_masks_and_points_too() -> None:
    names = [{"name": "kornia.RandomAffine", "degrees": 30.0, "p": 0.8}, {"name": "kornia.RandomPerspective"}]
    policy = custom(operations=[*MOVES[:2], *names], size=80)
    blocks = F.interpolate(torch.randint(1, 9, (5, 1, 5, 7)).float(), (HEIGHT, WIDTH))
    sequence = K.AugmentationSequential(FusedViews(policy), data_keys=["input", "mask", "keypoints"])
    points = things(5)[-1]
    with keyed(key(5)):
        views, masks, moved = sequence((blocks / 8).repeat(1, 3, 1, 1), blocks, points)
    assert ((views[:, :1] * 8 - masks).abs() < 0.5).float().mean() > 0.85
    assert (masks == 0).any()  # beyond the view that kornia turns
    assert {"projective", "RandomAffine.angle"} <= set(sequence[0].record().names)
    torch.testing.assert_close(sequence.inverse(views, masks, moved)[2], points, rtol=0, atol=5e-3)
    assert "kornia.RandomAffine, kornia.RandomPerspective" in repr(sequence)
    bent = FusedViews(custom(operations=[{"name": "kornia.RandomFisheye", "p": 1.0, **FISHEYE}], size=SIZE))
    assert bent(images(2)).shape == (2, 3, SIZE, SIZE)
    with pytest.raises(SettingError, match="policy: has RandomFisheye, which masks cannot follow"):
        K.AugmentationSequential(bent, data_keys=["input", "mask"])(images(2), images(2)[:, :1])


def test_masks_may_be_interpolated() -> None:
    extra = {"mask": {"resample": "bilinear"}}
    soft = K.AugmentationSequential(
        FusedViews(MOVED),
        data_keys=["input", "mask"],
        extra_args={K.container.augment.DataKey.get(k): v for k, v in extra.items()},
    )
    mask = images(3)[:, :1]
    with keyed(key(3)):
        _, made = soft(images(3), mask)
    assert made.unique().numel() > 3 * SIZE * SIZE // 2
    assert (mask.amin() - 1e-6 <= made).all()
    assert (made <= mask.amax() + 1e-6).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_dtype_is_computed_in_single_precision(dtype: torch.dtype) -> None:
    fused, pixels = FusedViews(EVERYTHING), images(3).to(dtype)
    with keyed(key(3)):
        views, wanted = fused(pixels), fused(pixels.float())
    assert views.dtype == dtype
    assert torch.equal(views, wanted.to(dtype))
    fused = FusedViews(MOVED)
    sequence = K.AugmentationSequential(fused, data_keys=KEYS)
    with keyed(key(3)):
        after = sequence(pixels, *things(3))
        expected = K.AugmentationSequential(FusedViews(MOVED), data_keys=KEYS)(pixels.float(), *things(3))
    assert [one.dtype for one in after[1:]] == [one.dtype for one in expected[1:]]
    assert fused.inverse(after[0]).dtype == dtype
    with torch.autocast("cpu", dtype=torch.bfloat16), keyed(key(3)):
        assert torch.equal(fused(pixels.float()), expected[0])


def test_it_stands_alone_and_in_plain_sequences() -> None:
    plain = nn.Sequential(FusedViews(EVERYTHING, keepdim=True), K.Normalize(0.5, 0.5)).to("cpu")
    with keyed(key(1)):
        assert plain(images(1)).shape == (1, 3, SIZE, SIZE)
        assert plain(images(1)[0]).shape == (1, 3, SIZE, SIZE)
        assert plain[0](images(1)[0]).shape == (3, SIZE, SIZE)
    assert plain[0](images(2)[:0]).shape == (0, 3, SIZE, SIZE)
    kept = io.BytesIO()
    torch.save([ParamItem("one", plain[0].draw(key(2), HEIGHT, WIDTH))], kept)
    kept.seek(0)
    (item,) = torch.load(kept, weights_only=False)
    with keyed(key(2)):
        assert torch.equal(plain[0](images(2), params=item.data), plain[0](images(2)))
    words = repr(plain[0])
    assert words.startswith("FusedViews(crop, flip (p=0.5), jitter (p=0.8), grey (p=0.2)")
    assert "size=32" in words


def test_on_a_gpu_nothing_is_left_on_the_host() -> None:
    gpu = PretendedGPU()
    pixels, mask, points = gpu.tensor(images(3)), gpu.tensor(images(3)[:, :1]), gpu.tensor(torch.rand(3, 4, 2))
    sequence = K.AugmentationSequential(FusedViews(MOVED), data_keys=["input", "mask", "keypoints"])
    with gpu:
        for made in (FusedViews(EVERYTHING)(pixels), *sequence(pixels, mask, points), sequence.transform_matrix):
            assert made.device == DEVICE


def test_what_cannot_be_is_refused() -> None:
    field = K.AugmentationSequential(FusedViews(EVERYTHING), data_keys=["input", "keypoints"])
    with pytest.raises(SettingError, match="policy: moves pixels by a random field, which boxes, key points"):
        field(images(2), torch.rand(2, 3, 2))
    alone = FusedViews(EVERYTHING)
    with pytest.raises(SettingError, match="random field"):
        alone.inverse(alone(images(2)))
    with pytest.raises(SettingError, match="key: has 3 rows, but there are 2 images"), keyed(key(3)):
        FusedViews(MOVED)(images(2))
    with pytest.raises(SettingError, match=r"images.*needs red, green and blue"):
        FusedViews(custom(operations=[{"name": "grey"}]))(images(2)[:, :1])
    with pytest.raises(SettingError, match="policy: must be a Policy or an Augmentation, got a str"):
        FusedViews("simclr")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="params: have no crop, flip"):
        FusedViews(MOVED)(images(2), params={"batch_prob": torch.ones(2), "forward_input_shape": torch.ones(4)})
    with pytest.raises(SettingError, match="source: has no record of angle, perspective, shear, translation, zoom"):
        FusedViews(MOVED).draw(Augmentation(simclr().policies).draw(key(2), 8, 8), 8, 8)


def test_a_key_holds_where_it_was_set() -> None:
    seen: list[Key | None] = []
    with keyed(key(1)):
        with keyed(key(2)):
            seen.append(current_key())
        seen.append(current_key())
        thread = Thread(target=lambda: seen.append(current_key()))
        thread.start()
        thread.join()
    assert [one and len(one) for one in (*seen, current_key())] == [2, 1, None, None]


def test_the_tables_are_read_without_torch() -> None:
    code = "import sys, ssl_inv.augment; assert not {'torch', 'kornia'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="has no attribute 'FusedView'"):
        augment.FusedView  # noqa: B018
