"""What docs/loggers.md tells a reader to type does what the page says."""

import re
import shlex
from pathlib import Path

import pytest

from ssl_inv.run.cli import main
from ssl_inv.run.folder import RunFolder

PAGE = (Path(__file__).parents[2] / "docs" / "loggers.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Lightning's advice
def test_every_block_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kinds = [kind for kind, _ in BLOCKS]
    assert (kinds.count("yaml"), kinds.count("bash"), kinds.count("python")) == (1, 6, 1)
    for kind, text in BLOCKS:
        if kind == "yaml":
            Path("small.yaml").write_text(text)
        elif kind == "python":
            exec(compile(text, "docs/loggers.md", "exec"), {})
        else:
            for line in text.splitlines():
                program, *arguments = shlex.split(line)
                assert program == "ssl-inv"
                quiet = ["--quiet"] if arguments[0] == "pretrain" else []
                assert main([*arguments, *quiet]) == 0, line
    assert Path("logged/csv/metrics.csv").is_file()
    assert set(RunFolder(Path("kept")).checkpoints()) == {"best", "last", "step-4", "step-6"}
    assert RunFolder(Path("logged")).record()["continued"][0]["changes"]["trainer.steps"] == [6, 8]
    assert all(RunFolder(Path(one)).record()["state"] == "complete" for one in ("logged", "kept", "stopped", "timed"))
    assert list(Path("own").rglob("*.ckpt"))
