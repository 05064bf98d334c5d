"""`--layers` takes runs with our own stems, and exports; the page draws scores over depth."""

import json
import re
import shlex
from pathlib import Path

import pytest

from ssl_inv.run.cli import main

SMALL = (
    "--data.classes 2 --data.objects 24 --data.views 2 --data.size 32 --trainer.steps 1 --trainer.batch_size 8 "
    "--trainer.workers 0 --trainer.accelerator cpu --monitor.every 0 --evaluation.protocol none --quiet"
)
NETWORKS = {
    "resnet": "sie-rendered --backbone.name resnet18 --backbone.stem 3x3-stride1 "
    "--backbone.arguments '{channels: [8, 8, 8, 8]}'",
    "vit": "simclr-rendered --backbone.name test_vit --backbone.arguments '{img_size: 32}'",
}


@pytest.mark.slow
def test_every_layer_of_runs_and_exports_is_measured_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, network in NETWORKS.items():
        assert main(shlex.split(f"pretrain {network} {SMALL} --output {name}")) == 0
    models = "resnet resnet/export vit --data resnet/recipe.yaml"
    assert main(shlex.split(f"evaluate {models} --layers --protocols knn --output exam")) == 0
    values = {
        name: {
            row["trained"]["part"]: row["trained"]["value"]
            for row in json.loads(Path("exam", name, "results.json").read_text())
            if row["trained"]["name"] == "knn/top1"
        }
        for name in ("resnet", "resnet-export", "vit")
    }
    assert list(values["resnet"]) == ["all", *(f"layer {number:02d}" for number in range(5))]
    assert values["resnet-export"] == values["resnet"]
    assert {"all", "layer 00 patches", "layer 00 class", "layer 05 class"} <= set(values["vit"])
    titles = re.findall(r"<h3>(knn.*?)</h3>", Path("exam/exam.html").read_text())
    assert {"knn/top1, all", "knn/top1, patches", "knn/top1, class"} <= {re.sub("<.*?>", "", one) for one in titles}
