"""Views cut out of whole photographs: boxes and pixels are torchvision's, photographs of any size stand in one batch,
every plan works, and a view depends on seed, epoch and sample alone.
"""

import io
import pickle
import tarfile
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms import v2

from ssl_inv.augment.geometry import draw_crops
from ssl_inv.augment.maps import framed, maps
from ssl_inv.augment.policies import byol, custom, none, simclr
from ssl_inv.augment.policy import Augmentation
from ssl_inv.data import images
from ssl_inv.data.batches import Batch, StepBatches, StepLoader
from ssl_inv.data.photographs import Photograph
from ssl_inv.data.source import Indices, Source
from ssl_inv.data.sources.folder import ImageFolder
from ssl_inv.data.sources.table import ViewTable
from ssl_inv.data.sources.torchvision import DatasetSource
from ssl_inv.transforms import Transform
from ssl_inv.views import (
    Crops,
    Linked,
    MultiCrop,
    Pair,
    Patches,
    Plan,
    QuarterTurns,
    Saccades,
    Several,
    TransformPath,
    ViewSequence,
)
from ssl_inv.views.maker import ViewMaker

SHAPES = [(96, 128), (128, 96), (75, 200), (110, 110), (60, 61), (140, 131)]
"""Height and width of the photographs; the smaller are smaller than some pieces."""

COUNT, SIZE = 12, 48


def scene(number: int, height: int, width: int, scale: int = 1) -> Image.Image:
    """A picture with soft and hard edges, as photographs have them; the scale makes it larger."""
    random, cell = np.random.default_rng(number), 6 * scale
    coarse = Image.fromarray(random.integers(0, 256, (height // cell + 2, width // cell + 2, 3), dtype=np.uint8))
    image = coarse.resize((width, height), Image.Resampling.BICUBIC)
    image.paste((250, 20, 10), (width // 3, height // 4, width // 2, height // 2))
    return image


def encoded(image: Image.Image, image_format: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def write(root: Path, count: int = COUNT, scale: int = 1) -> Path:
    root.mkdir()
    for number in range(count):
        height, width = SHAPES[number % len(SHAPES)]
        content = encoded(scene(number, scale * height, scale * width, scale), quality=92)
        (root / f"{number:02}.jpg").write_bytes(content)
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("photographs") / "small")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs that are decoded at a reduced size for views of 48 pixels."""
    return write(tmp_path_factory.mktemp("photographs") / "large", 6, scale=10)


def batches_of(source: Source, plan: Plan, augmentation: Augmentation, size: int = 6) -> tuple[ViewMaker, StepBatches]:
    maker = ViewMaker(plan, source, augmentation, (0.0,) * 3, (1.0,) * 3, seed=5)
    loaded = maker.loaded_views
    return maker, StepBatches(source, size, loaded, 5, linked=maker.plan.linked, framing=maker.frames)


def whole(path: Path, number: int) -> Tensor:
    with Image.open(path / f"{number:02}.jpg") as image:
        pixels = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1)


def decibels(one: Tensor, other: Tensor) -> float:
    return float(-10 * (one - other).square().mean().clamp_min(1e-12).log10())


def in_pixels(box: Tensor, height: int, width: int) -> tuple[int, int, int, int]:
    """Top, left, height and width of a crop in pixels."""
    x, y, w, h = (box.double() * torch.tensor([width, height, width, height])).tolist()
    return round(y - h / 2), round(x - w / 2), round(h), round(w)


# What is drawn.


def test_boxes_are_distributed_as_torchvisions_on_a_photograph_and_at_whole_pixels() -> None:
    height, width, count = 375, 500, 4000
    boxes = draw_crops(np.random.default_rng(0).random((count, 40)), (0.08, 1.0), (3 / 4, 4 / 3), height, width)
    torch.manual_seed(0)
    get = v2.RandomResizedCrop(224).make_params
    drawn = [get([torch.empty(3, height, width)]) for _ in range(count)]
    theirs = np.array([[one[name] for name in ("top", "left", "height", "width")] for one in drawn], float)
    w, h = boxes[:, 2] * width, boxes[:, 3] * height
    ours = np.stack((boxes[:, 1] * height - h / 2, boxes[:, 0] * width - w / 2, h, w), axis=1)
    np.testing.assert_allclose(ours, np.rint(ours), atol=1e-9)
    for mine, other in zip(ours.T, theirs.T, strict=True):
        both = np.sort(np.concatenate((mine, other)))
        shares = [np.searchsorted(np.sort(one), both, side="right") / count for one in (mine, other)]
        # Kolmogorov and Smirnov's statistic; two samples of one distribution exceed this once in a thousand times.
        assert np.abs(shares[0] - shares[1]).max() < 1.95 * np.sqrt(2 / count)
    areas = [(one[:, 2] * one[:, 3]).mean() / (height * width) for one in (ours, theirs)]
    assert abs(areas[0] - areas[1]) < 0.02


def test_boxes_of_rows_with_sides_of_their_own_are_those_of_each_alone_also_when_ten_attempts_fail() -> None:
    random = np.random.default_rng(1).random((len(SHAPES), 40))
    for scale, ratio in (((0.08, 1.0), (3 / 4, 4 / 3)), ((1.0, 1.0), (3 / 4, 4 / 3)), ((0.5, 1.0), (3.0, 4.0))):
        sides = np.array(SHAPES)
        every = draw_crops(random, scale, ratio, sides[:, 0], sides[:, 1])
        for row, (height, width) in enumerate(SHAPES):
            alone = draw_crops(random[row : row + 1], scale, ratio, height, width)
            assert np.array_equal(every[row], alone[0])
    # Half of a square is never three times as wide as high: the largest allowed crop in the middle takes its place.
    assert in_pixels(torch.from_numpy(every[3]), 110, 110) == (36, 0, 37, 110)


# Pixels.


@pytest.mark.parametrize("photographs", ["folder", "large"])
def test_crops_have_the_pixels_of_torchvisions_crop_of_the_whole_photograph(
    photographs: str, request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(photographs)
    operations = [{"name": "crop", "scale": [0.05, 1.0]}, {"name": "flip"}, {"name": "vertical_flip"}]
    source = ImageFolder(str(path), SIZE, cache=False)
    maker, batches = batches_of(source, Pair(4), custom(size=SIZE, operations=operations))
    batch = batches[0]
    for view in maker(batch).views:
        for row, number in enumerate(batch.index.tolist()):
            pixels, made = whole(path, number), view.transform.select(torch.tensor([row]))
            box = in_pixels(made["crop"][0], *pixels.shape[-2:])
            crop = v2.functional.resized_crop(pixels, *box, [SIZE, SIZE], antialias=True).float() / 255
            flips = [axis for axis, name in ((-1, "flip"), (-2, "vertical_flip")) if made[name][0]]
            found = decibels(view.pixels[row], crop.flip(flips))
            assert found > (60 if photographs == "folder" else 40), (number, box, found)


def test_large_photographs_are_decoded_at_a_reduced_size_and_small_crops_of_them_are_not(large: Path) -> None:
    photograph = Photograph((large / "00.jpg").read_bytes())
    height, width = photograph.sides
    assert (height, width) == tuple(10 * side for side in SHAPES[0])
    for most, reduced in ((1, 1), (2, 1), (4, 4), (8, 8)):
        pixels, found = photograph.pixels(most)
        assert found == reduced
        assert pixels.shape[:2] == (-(-height // reduced), -(-width // reduced))


def exact(pixels: Tensor, transform: Transform, size: int, over: int = 7) -> Tensor:
    """The view by its definition: a triangle one pixel of the view to each side, summed over many points."""
    matrices, _ = maps({name: value.numpy() for name, value in transform.values.items()}, 1)
    axis = (np.arange(size * over) + 0.5) / (size * over) * 2 - 1
    points = np.stack((*np.meshgrid(axis, axis), np.ones((size * over,) * 2)), axis=-1) @ matrices[0].T
    grid = torch.from_numpy((points[..., :2] / points[..., 2:]).astype(np.float32)).unsqueeze(0)
    fine = F.grid_sample(pixels[None].float() / 255, grid, padding_mode="reflection", align_corners=False)
    triangle = torch.from_numpy(1 - np.abs(np.arange(1 - over, over)) / over).float()
    weight = (triangle[:, None] * triangle / over**2).expand(3, 1, -1, -1)
    middle = over - 1 - over // 2
    return F.conv2d(F.pad(fine, (middle,) * 4, mode="replicate"), weight, stride=over, groups=3)[:, :, :size, :size]


@pytest.mark.parametrize("name", ["rotation", "affine", "perspective"])
@pytest.mark.parametrize("photographs", ["folder", "large"])
def test_turned_views_are_as_near_to_the_exact_view_as_those_of_the_whole_photograph(
    name: str, photographs: str, request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(photographs)
    size = 40
    augmentation = custom(size=size, operations=[{"name": "crop", "scale": [0.3, 1.0]}, {"name": name}])
    maker, batches = batches_of(ImageFolder(str(path), size, cache=False), Pair(), augmentation)
    batch, inner = batches[0], (..., slice(2, -2), slice(2, -2))
    for view in maker(batch).views:
        for row, number in enumerate(batch.index.tolist()):
            pixels, made = whole(path, number), view.transform.select(torch.tensor([row]))
            wanted = exact(pixels, made, size)[inner]
            direct = augmentation.policy(0).render(pixels[None], made)[inner]
            found, before = decibels(view.pixels[row : row + 1][inner], wanted), decibels(direct, wanted)
            assert found > min(40, before - 1), (number, found, before)


def test_beyond_the_border_a_view_shows_what_it_would_of_the_whole_photograph(folder: Path) -> None:
    # A magnified view of photographs that are smaller than their windows: nothing is resized before.
    for padding in ("reflection", "border", "zeros"):
        operations = [{"name": "affine", "degrees": 60, "translation": [0.4, 0.4], "scale": [0.6, 1.0]}]
        augmentation = custom(size=120, operations=operations, padding=padding)
        maker, batches = batches_of(ImageFolder(str(folder), 120, cache=False), Pair(), augmentation)
        batch = batches[0]
        for view in maker(batch).views:
            for row, number in enumerate(batch.index.tolist()):
                pixels = whole(folder, number)
                made = framed(view.transform.select(torch.tensor([row])), np.array([pixels.shape[-2:]]))
                direct = augmentation.policy(0).render(pixels[None], made)
                assert decibels(view.pixels[row], direct[0]) > 40, (padding, number)


# Every plan, any batch, any loader.


class Partners:
    """The next object is the partner."""

    def partners(self, objects: Indices, views: Indices, epoch: int) -> tuple[Indices, Indices]:
        return (objects + 1) % COUNT, views


TURN = custom(operations=[{"name": one} for one in ("crop", "rotation", "translation", "jitter", "blur")])
FIELD = custom(operations=[{"name": "crop"}, {"name": "random_field", "probability": 0.7}, {"name": "rotation"}])
CARE = custom(
    operations=[{"name": "shared", "samples": 2, "operations": [{"name": "crop"}, {"name": "jitter"}]}], size=40
)
MAPS = torch.rand(COUNT, 20, 20, generator=torch.Generator().manual_seed(1)) ** 8
TEACHER = MultiCrop((Crops(1, 40, centre=0.875),))
PLANS: dict[str, tuple[Plan, Augmentation]] = {
    "pair": (Pair(), byol()),
    "linked": (Linked(), simclr()),
    "sequence": (ViewSequence(3), byol()),
    "multi-crop": (MultiCrop((Crops(2, 40, (0.4, 1.0)), Crops(2, 16, (0.05, 0.4)))), simclr()),
    "about the centre": (TEACHER, simclr()),
    "path of a turn": (TransformPath(2, ("angle", "translation")), TURN),
    "path of a crop": (TransformPath(2, ("crop",), start=True), simclr()),
    "patches": (Patches(32, 12, 3, 4, 5), simclr()),
    "saccades": (Saccades(3, 11, "spectral_residual", radius=8), none()),
    "saccades of stored maps": (Saccades(3, 11, MAPS, radius=8, size=40), simclr()),
    "turns": (QuarterTurns(), simclr()),
    "several": (Several((TEACHER, MultiCrop((Crops(2, 32, (0.08, 0.6)),)), Patches(32, 12, 3, 4, 5))), simclr()),
    "random field": (Pair(), FIELD),
    "no crop": (Pair(), custom(operations=[{"name": "flip"}])),
}
every_plan = pytest.mark.parametrize("name", [*PLANS])


def found_by(source: Source, name: str, size: int, workers: int = 0) -> dict[int, list[tuple[Tensor, dict[str, Any]]]]:
    """The views of the first epoch, by their sample."""
    maker, batches = batches_of(source, *PLANS[name], size)
    batches.links = Partners() if maker.plan.linked else None
    found: dict[int, list[tuple[Tensor, dict[str, Any]]]] = {}
    for batch in StepLoader(batches, 0, COUNT // size, workers):
        views = maker(batch).views
        for row, number in enumerate(batch.index.tolist()):
            found[number] = [
                (view.pixels[row], {key: value[row] for key, value in view.transform.values.items()}) for view in views
            ]
    return found


@every_plan
def test_photographs_of_any_shape_stand_in_a_batch_and_views_depend_on_the_sample_alone(
    name: str, folder: Path
) -> None:
    source = ImageFolder(str(folder), SIZE, cache=False)
    views = found_by(source, name, COUNT)
    assert len(views) == COUNT
    for others in (found_by(ImageFolder(str(folder), SIZE), name, 4), found_by(source, name, 3, workers=2)):
        for number, made in views.items():
            for (pixels, record), (other, same) in zip(made, others[number], strict=True):
                assert pixels.isfinite().all()
                assert 0 <= pixels.min() <= pixels.max() <= 1
                assert torch.equal(pixels, other)
                assert all(torch.equal(value, same[key]) for key, value in record.items())


@every_plan
def test_a_view_of_photographs_is_made_again_from_its_record_and_the_loaders_part_is_small(
    name: str, folder: Path
) -> None:
    maker, batches = batches_of(ImageFolder(str(folder), SIZE), *PLANS[name])
    batches.links = Partners() if maker.plan.linked else None
    batch = batches[0].to(torch.device("cpu"))
    for number, view in enumerate(maker(batch).views):
        assert [*view.transform.names] == [*maker.groups]
        assert torch.equal(maker.render(batch.images, view.transform, number), view.pixels)
    assert len(pickle.dumps(maker.frames)) < 20_000
    for image in batch.images:
        assert image.pixels.numel() == 0
        assert all(piece.pixels.dtype == torch.uint8 for piece in image.pieces)


def test_equal_pieces_are_shipped_once(folder: Path) -> None:
    _, batches = batches_of(ImageFolder(str(folder), SIZE), *PLANS["path of a turn"])
    maker, colours = batches_of(ImageFolder(str(folder), SIZE), TransformPath(3, ("brightness",)), simclr())
    assert len({id(piece.pixels) for piece in batches[0].images[0].pieces}) == 4
    # The second view and the way to it differ in colour alone.
    batch = colours[0]
    assert len(batch.images[0].pieces) == maker.plan.count == 5
    assert len({id(piece.pixels) for piece in batch.images[0].pieces}) == 2


def test_a_view_without_a_crop_shows_the_centre_square(folder: Path) -> None:
    maker, batches = batches_of(ImageFolder(str(folder), SIZE), Pair(), custom(operations=[{"name": "flip"}]))
    batch = batches[0]
    view = maker(batch).views[0]
    for row, number in enumerate(batch.index.tolist()):
        pixels = whole(folder, number)
        square = v2.functional.center_crop(pixels, [min(pixels.shape[-2:])])
        wanted = v2.functional.resize(square, [SIZE, SIZE], antialias=True).float() / 255
        shown = view.pixels[row].flip(-1) if view.transform["flip"][row] else view.pixels[row]
        # Where the middle falls between two pixels, torchvision rounds to even and the squares here down.
        assert decibels(shown, wanted) > (60 if (max(pixels.shape[-2:]) - min(pixels.shape[-2:])) % 2 == 0 else 20)


# Files.


def test_a_broken_file_is_replaced_also_where_samples_share_a_draw(tmp_path: Path) -> None:
    path = write(tmp_path / "photographs")
    content = (path / "03.jpg").read_bytes()
    (path / "03.jpg").write_bytes(content[: len(content) // 8])  # the header is whole
    (path / "07.jpg").write_bytes(b"no image")
    for augmentation in (simclr(), CARE):
        maker, batches = batches_of(ImageFolder(str(path), SIZE, cache=False), Pair(), augmentation, COUNT)
        batch = batches[0]
        assert sorted(Path(one).name for one in set(batch.broken)) == ["03.jpg", "07.jpg"]
        assert not {3, 7} & {*batch.index.tolist()}
        (images,) = batch.images
        assert images.readable.all()
        # The pieces are those that a loader of these very samples would have cut.
        assert maker.frames is not None
        (wanted,) = maker.frames.regions(batch.index.numpy(), 0, [images.sides])
        for piece, regions in zip(images.pieces, wanted, strict=True):
            assert np.array_equal(piece.regions.corners, regions.corners)
        assert maker(batch)[0].pixels.flatten(1).std(dim=1).min() > 0.01


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_sides_and_pieces_are_those_of_the_upright_photograph(orientation: int, tmp_path: Path) -> None:
    note = Image.Exif()
    note[0x0112] = orientation
    (tmp_path / "00.jpg").write_bytes(encoded(scene(0, 90, 130), quality=95, exif=note))
    for number in range(1, 4):
        (tmp_path / f"{number:02}.jpg").write_bytes(encoded(scene(number, 90, 130)))
    maker, batches = batches_of(ImageFolder(str(tmp_path), SIZE), Pair(), custom(operations=[{"name": "crop"}]), 4)
    batch = batches[0]
    row = batch.index.tolist().index(0)
    pixels, view = whole(tmp_path, 0), maker(batch).views[0]
    assert batch.images[0].sides is not None
    assert tuple(batch.images[0].sides[row]) == pixels.shape[-2:]
    box = in_pixels(view.transform["crop"][row], *pixels.shape[-2:])
    crop = v2.functional.resized_crop(pixels, *box, [SIZE, SIZE], antialias=True).float() / 255
    assert decibels(view.pixels[row], crop) > 50


def test_pieces_of_every_mode_and_of_archives_and_datasets_are_those_of_the_folder(tmp_path: Path) -> None:
    content = [
        encoded(scene(0, 70, 90), "PNG"),
        encoded(scene(1, 70, 90).convert("L"), "PNG"),
        encoded(scene(2, 70, 90).convert("P"), "PNG"),
        encoded(scene(3, 70, 90).convert("CMYK")),
        encoded(scene(4, 70, 90).convert("RGBA"), "PNG"),
        encoded(Image.fromarray(np.asarray(scene(5, 70, 90).convert("L")).astype(np.uint16) * 257), "PNG"),
    ]
    root = tmp_path / "folder"
    root.mkdir()
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for number, one in enumerate(content):
            (root / f"{number}.png").write_bytes(one)
            archive.writestr(f"{number}.png", one)
    items = [Image.open(io.BytesIO(one)) for one in content]
    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        archive.add(root, ".")
    (root / "views.csv").write_text("path\n" + "".join(f"{number}.png\n" for number in range(len(content))))
    tables = [ViewTable(str(root), SIZE), ViewTable(str(root), SIZE, "views.csv")]
    folders = [ImageFolder(str(path), SIZE) for path in (root, tmp_path / "all.zip", tmp_path / "all.tar")]
    sources = [*folders, *tables, DatasetSource(items, SIZE)]
    found = []
    for source in sources:
        maker, batches = batches_of(source, Pair(), custom(operations=[{"name": "crop"}]))
        found.append(maker(batches[0])[0].pixels)
    assert all(torch.equal(one, found[0]) for one in found)
    assert Counter((one.flatten(1).std(dim=1) > 0.05).all().item() for one in found) == {True: 6}


def test_whole_photographs_stay_in_memory_if_they_all_fit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = ImageFolder(str(folder), SIZE)
    assert source.preferred_workers == 0
    maker, batches = batches_of(source, Pair(), simclr())
    first: Batch = batches[0]
    monkeypatch.setattr(Photograph, "__init__", lambda *_: pytest.fail("a file was read again"))
    again = batches[0]
    assert torch.equal(maker(first)[0].pixels, maker(again)[0].pixels)
    monkeypatch.undo()
    monkeypatch.setattr(images, "MAX_CACHE_BYTES", 200_000)
    assert ImageFolder(str(folder), SIZE).preferred_workers is None
