"""`push` sends the files of an export and nothing else, only when asked, and every failure is one line."""

import base64
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ssl_inv.run.cli import main

FILES = {"README.md", "config.json", "model.safetensors"}


class Hub(ThreadingHTTPServer):
    """A hub on this machine that keeps what it is sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.asked: list[tuple[str, Any, str | None]] = []
        self.status = 200
        self.url = f"http://127.0.0.1:{self.server_port}"

    def sent(self) -> dict[str, bytes]:
        """The files of the one commit."""
        (commit,) = [body for path, body, _ in self.asked if path.endswith("/commit/main")]
        values = [line["value"] for line in commit if line["key"] == "file"]
        return {value["path"]: base64.b64decode(value["content"]) for value in values}


class Answers(BaseHTTPRequestHandler):
    """As much of a hub's API as one commit needs."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        body = [json.loads(line) for line in text.splitlines()] if "commit/" in self.path else json.loads(text)
        self.server.asked.append((self.path, body, self.headers["Authorization"]))
        url = f"{self.server.url}/ann/solids"
        answer: dict[str, Any] = {"url": url, "commitUrl": f"{url}/commit/1", "commitOid": "1", "success": True}
        if self.path.endswith("/preupload/main"):
            modes = {"uploadMode": "regular", "shouldIgnore": False}
            answer = {"files": [{"path": one["path"], **modes} for one in body["files"]]}
        content = json.dumps(answer if self.server.status == 200 else {"error": "no"}).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_run, tmp_path / "run")
    (tmp_path / "run" / "export" / ".hidden").write_text("private")
    return tmp_path / "run"


@pytest.mark.parametrize("given", ["run", "export"])
def test_the_files_of_the_export_become_one_commit(given: str, run: Path, hub: Hub, monkeypatch, capsys) -> None:
    monkeypatch.setenv("MY_TOKEN", "hf_other")
    source = run if given == "run" else run / "export"
    arguments = ["--private", "--license", "mit", "--token-env", "MY_TOKEN"]
    assert main(["push", str(source), "ann/solids", *arguments]) == 0
    created, sent = hub.asked[0], hub.sent()
    assert created[0] == "/api/repos/create"
    assert (created[1]["name"], created[1]["organization"]) == ("solids", "ann")
    assert created[1].get("private") is True or created[1].get("visibility") == "private"
    assert {token for *_, token in hub.asked} == {"Bearer hf_other"}
    assert set(sent) == FILES
    for name in FILES - {"README.md"}:
        assert sent[name] == (run / "export" / name).read_bytes()
    card = sent["README.md"].decode()
    assert "license: mit\n" in card
    assert '"hf-hub:ann/solids"' in card
    assert "FOLDER" in (run / "export" / "README.md").read_text(), "the export itself stays as it is"
    assert capsys.readouterr().out.endswith("/ann/solids\n")


def test_a_dry_run_lists_the_files_and_asks_nobody(run: Path, hub: Hub, capsys) -> None:
    assert main(["push", str(run), "ann/solids", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert hub.asked == []
    assert all(f"  {name}  " in out for name in FILES)
    assert ".hidden" not in out
    assert "names no licence" in out


@pytest.mark.parametrize(
    ("status", "reason"),
    [(401, "token is not valid"), (403, "may not write there"), (500, "HTTP 500"), (400, "HTTP 400")],
)
def test_a_refusal_of_the_hub_is_one_line_without_the_token(status, reason, run: Path, hub: Hub, capsys) -> None:
    hub.status = status
    assert main(["push", str(run), "ann/solids", "--license", "mit"]) == 2
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1
    assert "hf_secret" not in error


def test_offline_is_one_line(run: Path, hub: Hub, monkeypatch, capsys) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert main(["push", str(run), "ann/solids"]) == 2
    error = capsys.readouterr().err
    assert "are you offline?" in error
    assert error.count("\n") == 1


MISTAKES = {
    "no token": ("run ann/solids", "there is no access token: set HF_TOKEN"),
    "no such variable": ("run ann/solids --token-env NONE", "--token-env NONE: this environment variable is not set"),
    "two slashes": ("run models/ann/solids", "repository 'models/ann/solids' is not OWNER/NAME"),
    "no folder": ("gone ann/solids", "there is no folder 'gone'"),
    "no export": ("images ann/solids", "'images' is neither a run with an export nor an exported folder"),
    "no card": ("old ann/solids", "'old' has no model card README.md"),
    "a broken card": ("spoilt ann/solids", "spoilt/README.md cannot be read"),
    "a broken configuration": ("torn ann/solids", "torn/config.json cannot be read"),
    "a setting": ("run ann/solids --trainer.steps 2", "an export is sent as it is"),
    "a licence": ("run ann/solids --license Mine!", "expected a short name such as apache-2.0"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(mistake: str, run: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    Path("images").mkdir()
    shutil.copytree(run / "export", "old")
    Path("old/README.md").unlink()
    for folder, file, text in (("spoilt", "README.md", "---\na: [\n---\n"), ("torn", "config.json", "{")):
        shutil.copytree(run / "export", folder)
        Path(folder, file).write_text(text)
    arguments, message = MISTAKES[mistake]
    assert main(["push", *arguments.split()]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_an_export_that_transformers_cannot_load_is_not_sent(run: Path, hub: Hub, capsys) -> None:
    config = json.loads((run / "export" / "config.json").read_text())
    config["model_args"]["num_classes"] = 0
    del config["ssl_inv"]["crc32"]
    (run / "export" / "config.json").write_text(json.dumps(config))
    assert main(["push", str(run), "ann/solids"]) == 2
    assert "is of an earlier version; export the run again" in capsys.readouterr().err
    assert hub.asked == []
