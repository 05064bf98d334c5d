"""The page on exports is true: its commands and its code run in the order of the page."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

from ssl_inv.run.cli import main
from ssl_inv.run.exports.export import export_torchvision

PAGE = Path(__file__).parents[2] / "docs" / "export.md"
BLOCKS = re.findall(r"^```(python|sh)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_every_block_runs_and_every_library_gives_the_same_features(tiny_run, tmp_path, monkeypatch, capsys) -> None:
    for name in ("transformers", "onnxruntime", "onnxscript"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_run, "runs/demo")
    Path("runs/plain").mkdir()
    export_torchvision(timm.create_model("resnet18", num_classes=0), "resnet18", "runs/plain/torchvision.pth")
    Image.effect_noise((80, 60), 90).convert("RGB").save("photo.jpg")
    names, wanted = {}, None
    for kind, text in BLOCKS:
        if kind == "sh":
            assert main(shlex.split(text)[1:]) == 0, text
            continue
        exec(compile(text, str(PAGE), "exec"), names)
        if wanted is None and "features" in names:
            wanted = names["features"]
        if wanted is not None:
            torch.testing.assert_close(torch.as_tensor(names["features"]), wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(names["output"].pooler_output, wanted, atol=1e-4, rtol=1e-4)
    assert torch.equal(names["last"], names["stages"][-1])
    assert torch.equal(torch.cat((names["invariant"], names["equivariant"]), dim=1), wanted)
    assert {kind for kind, _ in BLOCKS} == {"sh", "python"}
    assert "model.safetensors" in capsys.readouterr().out
