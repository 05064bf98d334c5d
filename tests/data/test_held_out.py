"""Views of known objects can be held out of any data: no view is in both parts, and every object is in both."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_data import every_view, files_of, load_all, solids

from ssl_inv.catalogue import RecipeError
from ssl_inv.data.shards.writing import originals
from ssl_inv.data.source import Data, Subset
from ssl_inv.data.sources.rendered.source import RenderedSolids
from ssl_inv.data.sources.threediebench_writing import write_threediebench
from ssl_inv.data.splits import SubsetOfViews, hold_out_views
from ssl_inv.run.build import build_data
from ssl_inv.run.recipe import resolve, resolve_judged

VIEWS = {"held_out": "views"}


def _rendered(folder: Path) -> dict[str, Any]:
    return {"name": "rendered", "classes": 2, "objects": 12, "views": 8, "size": 16}


def _threediebench(folder: Path) -> dict[str, Any]:
    write_threediebench(folder, RenderedSolids(2, 6, 8, size=16), None, (np.arange(4), np.arange(4, 6)))
    return {"name": "threediebench", "path": str(folder), "size": None}


def _turntable(folder: Path) -> dict[str, Any]:
    """A table of 4 objects of 8 views; two of the views of a fifth object are lost, and six of those of the sixth."""
    rows = [(thing, view) for thing in range(6) for view in range({4: 6, 5: 2}.get(thing, 8))]
    with (folder / "views.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "object", "class", "azimuth[deg]"])
        for thing, view in rows:
            pixels = np.random.default_rng([thing, view]).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{thing}-{view}.png")
            table.writerow([f"{thing}-{view}.png", thing, "even" if thing % 2 == 0 else "odd", 45 * view])
    return {"name": "table", "path": str(folder), "validation_share": 0.2}


@pytest.mark.parametrize("section", [_rendered, _threediebench, _turntable])
def test_views_are_held_out_of_every_object(section: Any, tmp_path: Path) -> None:
    chosen = section(tmp_path)
    by_object = build_data(resolve_judged({"data": chosen}, []))
    data = build_data(resolve_judged({"data": {**chosen, **VIEWS}}, []))
    assert (by_object.held_out, data.held_out) == ("objects", "views")
    names = [files_of(one) for one in (data.train, data.validation, by_object.train)]
    many = by_object.train.view_counts >= 4
    assert not names[0] & names[1]
    assert names[0] | names[1] == {
        name
        for item in np.flatnonzero(many)
        for name in (by_object.train.describe(int(item), view) for view in range(by_object.train.view_counts[item]))
    }
    assert np.array_equal(data.train.view_counts + data.validation.view_counts, by_object.train.view_counts[many])
    assert min(data.train.view_counts.min(), data.validation.view_counts.min()) >= 2
    assert "new views of known objects" in data.notes["split"]
    assert ("left out" in data.notes["split"]) == (not many.all())
    labels = by_object.train.labels
    assert labels is not None
    assert data.validation.labels is not None
    assert torch.equal(data.validation.labels.classes, labels.classes[torch.from_numpy(many)])


def test_a_view_has_the_pixels_transform_and_file_that_it_has_without_a_split(tmp_path: Path) -> None:
    source = Subset(solids(), np.array([7, 2]))
    chosen = SubsetOfViews(source, np.array([1, 0]), [np.array([4, 0]), np.array([3])])
    mine, whole = load_all(chosen), source.load(np.array([1, 1, 0]), np.array([4, 0, 3]))
    assert torch.equal(mine.pixels, whole.pixels)
    assert torch.equal(mine.transform["rotation"], whole.transform["rotation"])
    assert chosen.describe(1, 0) == "object 7, view 3"
    masks = chosen.masks(*every_view(chosen))
    expected = source.masks(np.array([1, 1, 0]), np.array([4, 0, 3]))
    assert masks is not None
    assert expected is not None
    assert torch.equal(masks, expected)
    stored = [view for _, views in originals(chosen, np.array([0, 1])) for view in views]
    assert all(np.array_equal(view[0], one.permute(1, 2, 0)) for view, one in zip(stored, mine.pixels, strict=True))


def test_the_split_depends_on_seed_and_object_alone() -> None:
    both, fewer = solids(), solids(objects=8)

    def held(source: RenderedSolids, seed: int) -> set[str]:
        return files_of(hold_out_views(Data(source, source), 0.4, seed).validation)

    assert held(both, 1) == held(both, 1) != held(both, 2)
    assert held(fewer, 1) == {name for name in held(both, 1) if int(name.split()[1].strip(",")) < 8}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"views": 3},
            "data.held_out: views, which needs objects of at least 4 views.* no training object has more than 3",
        ),
        ({"held_out_share": 1.0}, "data.held_out_share: must be above 0 and below 1, got 1.0"),
        ({"held_out": "view"}, "data.held_out: expected one of objects, views, got 'view'; did you mean 'views'"),
        ({"held_uot": "views"}, "data.held_uot: no such setting; did you mean 'held_out'"),
    ],
)
def test_what_cannot_be_held_out_is_refused(settings: dict[str, Any], sentence: str) -> None:
    chosen = {"name": "rendered", "classes": 2, "objects": 12, "size": 16, **VIEWS, **settings}
    with pytest.raises(RecipeError, match=sentence):
        build_data(resolve_judged({"data": chosen}, []))


def test_recipes_of_a_split_by_object_stay_as_they_are() -> None:
    content: dict[str, Any] = {"objective": {"name": "simclr"}, "data": {"name": "rendered"}, "trainer": {"steps": 1}}
    assert "held_out" not in resolve(content).sections()["data"]
    assert "held_out" not in resolve({**content, "data": {"name": "rendered", "held_out": "objects"}}).dump()
    held = resolve({**content, "data": {"name": "rendered", **VIEWS}})
    assert held.sections()["data"]["held_out"] == "views"
    assert resolve(held.sections()) == held
