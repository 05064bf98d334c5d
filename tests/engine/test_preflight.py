"""An objective that is told of what its views do not show is refused, or warned of where only some views are known."""

from pathlib import Path
from typing import Any

import pytest
from small_data import png

from ssl_inv.run.build import build
from ssl_inv.run.cli import main
from ssl_inv.run.recipe import Recipe, RecipeError, resolve

WHOLE = {"name": "crop", "scale": [1.0, 1.0], "ratio": [1.0, 1.0]}
SOMETIMES = {"name": "flip", "probability": 0.002}
SOLIDS = {"name": "rendered", "classes": 4, "objects": 24, "views": 3, "size": 16}
ALIKE = "but no two views of a sample differ in"


def told_of(parameters: list[str], data: dict[str, Any], *operations: dict[str, Any]) -> Recipe:
    """A recipe of SIE that is told of some parameters."""
    return resolve(
        {
            "objective": {"name": "sie", "parameters": parameters, "projector": [16, 16], "convention": "canonical"},
            "backbone": {"name": "test_resnet"},
            "augmentation": {"name": "custom", "operations": list(operations)},
            "data": data,
            "trainer": {"steps": 2, "batch_size": 4, "accelerator": "cpu"},
            "monitor": {"every": 0},
            "evaluation": {"protocol": "none"},
        }
    )


def turntable(folder: Path, turns: list[int], sides: tuple[int, int] = (16, 16)) -> dict[str, Any]:
    """Data of eight objects on a turntable, each with a view at every turn, in degrees."""
    rows = ["path,object,azimuth[deg]"]
    for item in range(8):
        for number, turn in enumerate(turns):
            (folder / f"{item}-{number}.png").write_bytes(png(30 * item + 9 * number, sides))
            rows.append(f"{item}-{number}.png,{item},{turn}")
    (folder / "views.csv").write_text("\n".join(rows))
    return {"name": "table", "path": str(folder), "size": 16, "validation_share": 0.25}


@pytest.mark.parametrize(
    ("told", "operations", "dull"),
    [
        (
            ["crop"],
            [WHOLE],
            "'crop', .* 'crop': the augmentation never changes it; leave it out, or choose among rotation, ",
        ),
        (["rotation", "brightness", "flip"], [{"name": "jitter", "probability": 0.0}, SOMETIMES], "'brightness', "),
        (["crop"], [{**WHOLE, "scale": [0.2, 1.0]}], None),
        (["flip"], [SOMETIMES], None),
        (["rotation"], [], None),
    ],
)
def test_what_the_augmentation_never_changes_cannot_be_told(told, operations, dull):
    recipe = told_of(told, SOLIDS, *operations)
    if dull is None:
        build(recipe)
        return
    with pytest.raises(RecipeError, match=rf"^objective: is conditioned on {dull}") as refusal:
        build(recipe)
    assert ALIKE in str(refusal.value)
    # A run that has begun goes on.
    build(recipe, begins=False)


def test_whole_photographs_of_any_shape_have_one_crop_of_all(tmp_path):
    data = {**turntable(tmp_path, [0], (16, 24)), "latents": {}}
    build(told_of(["crop"], data, {**WHOLE, "scale": [0.3, 1.0]}))
    with pytest.raises(RecipeError, match=ALIKE):
        build(told_of(["crop"], data, WHOLE))


def test_views_of_one_image_have_one_pose(tmp_path):
    data = turntable(tmp_path, [40])
    with pytest.raises(RecipeError, match=rf"^objective: .*'azimuth', {ALIKE} 'azimuth': all of them are made of one"):
        build(told_of(["azimuth"], data, {"name": "crop"}))


@pytest.mark.parametrize(("turns", "warned"), [([40, 40, 40], True), ([0, 90, 180], False)])
def test_poses_that_do_not_differ_are_warned_of(turns, warned, tmp_path, caplog):
    recipe = told_of(["azimuth"], turntable(tmp_path, turns))
    (tmp_path / "recipe.yaml").write_text(recipe.dump())
    assert main(["check", str(tmp_path / "recipe.yaml")]) in (0, None)
    sentence = "on 'azimuth', but the views of 6 objects looked at do not differ in it"
    assert (sentence in caplog.text) is warned
