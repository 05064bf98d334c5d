"""The page on weights is true: its commands and its Python run on a checkpoint of torchvision."""

import re
import shlex
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image

from ssl_inv.run.cli import main
from ssl_inv.run.folder import RunFolder

PAGE = (Path(__file__).parents[2] / "docs" / "weights.md").read_text(encoding="utf-8")
SMALL = "--trainer.batch_size 4 --trainer.workers 0 --trainer.accelerator cpu"
SHORT = "--trainer.steps 1 --monitor.every 0 --evaluation.protocol none --quiet"


def test_the_commands_and_the_python_of_the_page_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    torch.save(torchvision.models.resnet18().state_dict(), "resnet18.pth")
    blocks = dict(re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL))
    for command in blocks["sh"].splitlines():
        words = [*shlex.split(command)[1:], *shlex.split(SMALL)]
        assert main([*words, *shlex.split(SHORT if words[0] == "pretrain" else "")]) == 0, command
    told = [RunFolder.open(Path(name)).record()["start"] for name in ("first", "second")]
    assert (told[0]["loaded"], told[0]["heads_left_out"]) == (120, ["fc"])
    assert told[1]["everything"] is True
    capsys.readouterr()
    exec(compile(blocks["python"], "docs/weights.md", "exec"), {})
    assert capsys.readouterr().out == " 120 ['fc'] []\n"
