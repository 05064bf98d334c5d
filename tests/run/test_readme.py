"""The README and the pages of docs are true: commands run, recipes and links exist, Python runs."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_inv.run.cli import main, parse
from ssl_inv.run.recipe import shipped_recipes

REPOSITORY = Path(__file__).parents[2]
TOP = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "llms.txt")
FILES = [*(REPOSITORY / name for name in TOP), *REPOSITORY.glob("docs/*.md")]
PAGES = {path.name: path.read_text(encoding="utf-8") for path in FILES}
BLOCKS = {name: re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL) for name, text in PAGES.items()}
COMMANDS = {
    name: [line.split(" #")[0].strip() for kind, text in blocks if kind == "sh" for line in text.splitlines()]
    for name, blocks in BLOCKS.items()
}
SNIPPETS = [text for kind, text in BLOCKS["README.md"] if kind == "python"]

SMALL = {
    "pretrain": "--trainer.steps 2 --trainer.batch_size 4 --trainer.workers 0 --trainer.accelerator cpu "
    '--monitor.every 0 --evaluation.protocol none --backbone.arguments "{channels: [8, 8, 8, 8]}"',
    "sweep": "--trainer.steps 2 --trainer.batch_size 4 --trainer.workers 0 --trainer.accelerator cpu "
    '--monitor.every 0 --evaluation.objects 8 --evaluation.views 2 --backbone.arguments "{channels: [8, 8, 8, 8]}"',
    "check": '--trainer.batch_size 4 --trainer.accelerator cpu --backbone.arguments "{channels: [8, 8, 8, 8]}"',
    "views": "--images 2",
    "evaluate": "--evaluation.protocol quick --evaluation.objects 8",
    "render": "--data.classes 2 --data.objects 4 --data.views 2 --data.size 32",
    "tracks": "--length 20 --size 48",
}
"""What makes a command of the README short enough for a test."""


def test_there_is_something_to_check():
    assert len(COMMANDS["README.md"]) > 12
    assert len(SNIPPETS) >= 3


@pytest.mark.parametrize("command", [one for name in COMMANDS if name != "CONTRIBUTING.md" for one in COMMANDS[name]])
def test_commands_are_well_formed(command):
    words = shlex.split(command)
    if words[:3] != ["pip", "install", "."]:
        assert words[0] == "ssl-inv"
        parsed = parse(words[1:])
        if parsed.command == "pretrain" and parsed.recipe is not None:
            assert parsed.recipe in shipped_recipes() or parsed.recipe.endswith(".yaml")


def texture(side: tuple[int, int], seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 255, (side[1] // 6, side[0] // 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(side, Image.Resampling.BICUBIC)


def make_data(folder: Path) -> None:
    """Small data at the paths that the README names."""
    for name in ("photos", "turntable", *(f"videos/{seed}" for seed in range(8))):
        (folder / name).mkdir(parents=True)
    for number in range(12):
        texture((40, 40), number).save(folder / "photos" / f"{number}.png")
        texture((64, 64), number).save(folder / "turntable" / f"{number}.png")
    rows = [f"{number}.png,{number // 2},{number * 30}\n" for number in range(12)]
    (folder / "turntable" / "views.csv").write_text("path,object,azimuth[deg]\n" + "".join(rows))
    for seed in range(8):
        wall, square = texture((128, 72), 2 * seed), texture((30, 30), 2 * seed + 1)
        for number in range(21):
            frame = wall.copy()
            frame.paste(square, (8 + 2 * number, 20 + number // 4))
            frame.save(folder / "videos" / str(seed) / f"{number:02}.png")


@pytest.mark.slow
def test_the_commands_of_the_readme_run_in_their_order(tmp_path, monkeypatch):
    pytest.importorskip("cv2", reason="tracks need OpenCV, the extra `video`")
    pytest.importorskip("onnxscript", reason="the export needs the extra `onnx`")
    make_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    for command in COMMANDS["README.md"][1:]:  # tests/run/test_packaging.py installs the package
        words = shlex.split(command)[1:]
        small = [] if "--resume" in words else shlex.split(SMALL.get(words[0], ""))
        if "demo" in words:
            small += ["--data.classes", "2", "--data.objects", "20", "--data.size", "32"]
        assert main([*words, *small]) == 0, command
    for snippet in SNIPPETS:
        exec(compile(snippet, "README.md", "exec"), {})


@pytest.mark.parametrize(
    "target", sorted({one for name in TOP for one in re.findall(r"(?:^|`)make (\w+)", PAGES[name], re.MULTILINE)})
)
def test_make_targets_exist(target):
    assert re.search(rf"^{target}:", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page):
    folder = REPOSITORY if page in TOP else REPOSITORY / "docs"
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", PAGES[page]):
        place, _, anchor = target.partition("#")
        assert (folder / place).exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", PAGES[Path(place).name or page], re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, target


def test_scripts_and_tests_that_the_pages_name_exist():
    for page, text in PAGES.items():
        for script in re.findall(r"\b((?:benchmarks|tests)/[\w/]+\.py)", text):
            assert (REPOSITORY / script).is_file(), f"{page}: {script}"
