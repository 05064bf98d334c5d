"""An objective that is told of what its views do not show is refused, or warned of where only some views are known."""

import re
from pathlib import Path
from typing import Any

import pytest
from small_data import png

from ssl_inv.catalogue import SettingError
from ssl_inv.engine.module import losses_of
from ssl_inv.objectives.base import Objective
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


def masked(objective: dict[str, Any], backbone: dict[str, Any]) -> Recipe:
    """A recipe of an objective that hides places of solids of 16 pixels."""
    sections = told_of(["rotation"], SOLIDS, WHOLE).sections()
    return resolve({**sections, "objective": objective, "backbone": backbone})


CONV_JEPA = {"name": "conv-jepa", "least_context": 1, "block_scale": [0.1, 0.15]}
SMALL_STEM = {"name": "resnet18", "stem": "3x3-stride1", "arguments": {"layers": [1, 1, 1, 1], "channels": [4] * 4}}


@pytest.mark.parametrize(
    ("objective", "backbone", "line"),
    [
        # One step of ten hides single places: without the check, the run would end at a random step.
        ({"hidden_share": 1.0, "multi_block": 0.9}, SMALL_STEM, r"^objective\.hidden_share: 1\.0 hides 4 of 2 x 2 "),
        (
            {"block_scale": [0.9, 1.0]},
            SMALL_STEM,
            r"^objective\.block_scale: \[0\.9, 1\.0\] makes blocks that hide all",
        ),
        ({}, {**SMALL_STEM, "stem": "default"}, r"^backbone\.stem: the last map of these images has one place"),
    ],
)
def test_masks_that_any_step_would_refuse_are_refused_before_the_first(objective, backbone, line):
    with pytest.raises(RecipeError, match=line):
        build(masked({**CONV_JEPA, **objective}, backbone))


@pytest.mark.parametrize(("side", "line"), [(7, "a margin of 2 would be lost; choose 8, or images of 14"), (8, None)])
def test_patches_that_leave_a_margin_of_the_images_are_refused(side, line):
    arguments = {"img_size": 16, "patch_size": side, "embed_dim": 12, "depth": 1, "num_heads": 2}
    recipe = masked({"name": "vicreg", "projector": [8]}, {"name": "vit_tiny_patch16_224", "arguments": arguments})
    if line is None:
        build(recipe)
        return
    with pytest.raises(
        RecipeError, match=rf"^backbone\.arguments\.patch_size: 7 does not divide images of 16 .*{line}"
    ):
        build(recipe)


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ("hidden_share", "objective.hidden_share"),
        ("base.blocks", "objective.base.blocks"),
        ("batch_size", "trainer.batch_size"),
        ("backbone.stem", "backbone.stem"),
    ],
)
def test_a_setting_that_only_a_step_refuses_is_named_with_its_section(setting, key):
    class Refusing(Objective):
        plan = None  # type: ignore[assignment]

        def loss(self, views, backbone):
            raise SettingError(setting, "cannot be used")

    with pytest.raises(SettingError, match=rf"^{re.escape(key)}: cannot be used$"):
        losses_of(Refusing(), None, None)  # type: ignore[arg-type]


def with_years(folder: Path, years: list[float], ranges: dict[str, Any], sign: str) -> Recipe:
    """A recipe of FINO on a table with a year of each object."""
    rows = ["path,object,year"]
    for number in range(32):
        (folder / f"{number}.png").write_bytes(png(7 * number))
        rows.append(f"{number}.png,{number // 2},{years[number % len(years)]}")
    (folder / "views.csv").write_text("\n".join(rows))
    sections = told_of(["rotation"], SOLIDS, {**WHOLE, "scale": [0.3, 1.0]}).sections()
    base = {"name": "vicreg", "projector": [8, 8]}
    objective = {"name": "fino", "base": base, sign: ["year"], "ranges": ranges}
    latents = {"year": "real"}
    data = {"name": "table", "path": str(folder), "size": 16, "validation_share": 0.25, "latents": latents}
    return resolve({**sections, "objective": objective, "data": data})


@pytest.mark.parametrize("sign", ["attract", "repel"])
@pytest.mark.parametrize(
    ("years", "ranges", "line"),
    [
        ([2000, 2001, 2003], {}, r"ranges: has none of 'year', .* 2000 to 2003: .*; give \{year: \[2000, 2003\]\}$"),
        ([2000], {}, r"ranges: has none of 'year', .*; all are the same, so leave the column out$"),
        ([2000, 2003], {"year": [0, 1]}, r"ranges: of 'year' is 0 to 1, but .*; give \{year: \[2000, 2003\]\}$"),
        ([0.5, 0.1], {"year": [0.1, 0.2]}, r"ranges: of 'year' is 0\.1 to 0\.2, but .* give \{year: \[0\.1, 0\.5\]\}$"),
        ([2000, 2003], {"year": [2000, 2003]}, None),
        ([1999.99, 2003.01], {"year": [2000, 2003]}, None),
        ([0.5, -3], {}, None),
    ],
)
def test_a_column_whose_error_would_hide_every_other_term_is_refused(years, ranges, line, sign, tmp_path):
    recipe = with_years(tmp_path, years, ranges, sign)
    if line is None:
        build(recipe)
        return
    with pytest.raises(RecipeError, match=rf"^objective\.{line}"):
        build(recipe)
    # A run that has begun goes on.
    build(recipe, begins=False)


def needing(objective: dict[str, Any], data: dict[str, Any]) -> Recipe:
    sections = told_of(["rotation"], SOLIDS, {**WHOLE, "scale": [0.3, 1.0]}).sections()
    return resolve({**sections, "objective": objective, "data": data})


@pytest.mark.parametrize("held_out", [{}, {"held_out": "views", "held_out_share": 0.4}], ids=["objects", "views"])
def test_too_few_views_are_told_with_how_many_there_are(held_out):
    recipe = needing({"name": "lewm", "observed": 8}, {**SOLIDS, "views": 5, **held_out})
    most = 3 if held_out else 5
    line = rf"^data\.views: the objective needs 9 views of an object, and no training object has over {most}$"
    with pytest.raises(RecipeError, match=line):
        build(recipe)


def test_too_few_views_of_files_are_told_by_their_section(tmp_path):
    recipe = needing({"name": "lewm", "parameters": ["azimuth"], "observed": 8}, turntable(tmp_path, [0, 40, 80]))
    line = r"^data: the objective needs 9 views of an object, and no training object has over 3$"
    with pytest.raises(RecipeError, match=line):
        build(recipe)


def test_steps_that_only_rendered_data_can_make_alike_are_told_so(tmp_path):
    recipe = needing({"name": "stl", "alike": ["azimuth"]}, turntable(tmp_path, [0, 40, 80]))
    line = r"images are wanted in which 'azimuth' changes alike for 2 samples, but this data is stored images"
    with pytest.raises(RecipeError, match=line):
        build(recipe)


@pytest.mark.parametrize(
    ("changed", "warns"),
    [
        ({}, True),
        ({"evaluation": {"protocol": "quick", "views": 2}}, False),
        ({"evaluation": {"protocol": "none", "views": 1}}, False),
        ({"objective": {"name": "vicreg", "projector": [8]}}, False),
        ({"data": {**SOLIDS, "views": 1}, "objective": {"name": "vicreg", "projector": [8]}}, False),
    ],
    ids=str,
)
def test_an_evaluation_of_one_view_of_each_object_is_warned_of(changed, warns):
    sections = told_of(["rotation"], SOLIDS, {**WHOLE, "scale": [0.3, 1.0]}).sections()
    run = build(resolve({**sections, "evaluation": {"protocol": "quick", "views": 1}, **changed}))
    assert any(one.startswith("evaluation.views: with 1, relative R2") for one in run.start.advice) == warns
