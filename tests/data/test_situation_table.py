"""Every form of data that the documentation lists is read right, or refused with the right words."""

import re
from importlib.metadata import version

import pytest
from situations.cases import SITUATIONS, Situation, made, taken_away
from situations.page import PAGE, page, rows, runs
from situations.readers import ours, outcome

NAMES = [f"{one.group}: {one.name}" for one in SITUATIONS]


@pytest.mark.parametrize("situation", SITUATIONS, ids=NAMES)
def test_each_is_read_right(tmp_path, situation: Situation):
    if not runs(situation):
        pytest.skip(f"needs {situation.extra}")
    folder, said = tmp_path / "data", ""
    path = made(situation, folder)

    def read():
        nonlocal said
        try:
            found, said = ours(situation, path)
        except (ValueError, OSError) as error:
            said = str(error)
            assert "\n" not in said
            raise
        return found

    try:
        assert outcome(situation, read) == "right"
    finally:
        taken_away(folder)
    assert situation.said in said


def test_no_two_have_one_name():
    assert len(set(NAMES)) == len(NAMES)


def test_the_page_lists_all_of_them():
    listed = re.findall(r"^\| (.+?) \| ", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert [one for one in listed if one != "data"] == [one.name for one in SITUATIONS]


@pytest.mark.slow
def test_the_other_readers_do_what_the_page_says():
    text = PAGE.read_text(encoding="utf-8")
    if not all(f"{name} {version(name)}" in " ".join(text.split()) for name in ("torchvision", "timm", "lightly")):
        pytest.skip("the page was made with other versions")
    if not all(map(runs, SITUATIONS)):
        pytest.skip("an extra is missing")
    assert page(rows()) == text
