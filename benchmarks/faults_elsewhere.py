"""The same faults here, in lightly with Lightning, and in stable-pretraining.

    python benchmarks/faults_elsewhere.py ours lightly
    python benchmarks/faults_elsewhere.py stable-pretraining --python venv/bin/python   # an environment that has it

A small SimCLR run on 64 images, with a checkpoint every 3 steps, is disturbed in six ways, and what comes of it is
printed. Each process is given two minutes. `--json FILE` keeps the answers, and prints those of all libraries in it as
a table. A full disk is a small file system in memory, which only root can mount. Needs Linux.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

_HERE = Path(__file__).parent
_LIMIT, _PATIENCE = 120.0, 60.0
_STEPS, _ENDLESS = 40, 100_000
_RECIPE = {
    "objective": {"name": "simclr", "projector": [64, 32]},
    "backbone": {"name": "test_resnet"},
    "augmentation": {"name": "simclr"},
    "optimizer": {"name": "sgd", "warmup": 0.0},
    "monitor": {"every": 0},
    "evaluation": {"protocol": "none"},
}


@dataclass
class Process:
    """A run that goes on.

    Attributes:
        handle: the first process, in a session of its own.
        said: where its output goes.
        begun: when it began.
    """

    handle: subprocess.Popen[bytes]
    said: Path
    begun: float = field(default_factory=time.monotonic)

    def end(self, seconds: float = _LIMIT) -> int | None:
        """The exit code; None if it has not ended in time, and then it is killed."""
        try:
            return self.handle.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return None

    def kill(self) -> None:
        """Kill all its processes."""
        os.killpg(self.handle.pid, signal.SIGKILL)
        self.handle.wait()

    def words(self) -> str:
        """The last line that it has printed, or the error in it."""
        lines = [one.strip() for one in self.said.read_text(errors="replace").splitlines() if one.strip()]
        errors = [one for one in lines if "error:" in one.lower() and "│" not in one]
        return (errors or lines or [""])[-1][:200]


class Library:
    """One of the libraries under trial.

    Args:
        name: `ours`, `lightly` or `stable-pretraining`.
        python: the interpreter of its environment.
        images: a folder of images.
    """

    def __init__(self, name: str, python: str, images: Path) -> None:
        self.name, self.python, self.images = name, python, images

    def start(
        self,
        output: Path,
        steps: int = _STEPS,
        lr: float = 0.01,
        devices: int = 1,
        resume: bool = False,
        **further: Any,
    ) -> Process:
        """Begin a run, or go on with the one in `output`."""
        images = further.get("images", self.images)
        if self.name == "ours":
            command = [self.python, "-m", "ssl_inv.run.cli", "pretrain"]
            trainer = {"steps": steps, "batch_size": 8, "checkpoint_every": 3, "log_every": 1, "devices": devices}
            trainer |= {"accelerator": "cpu", "workers": 0}
            data = {"name": "folder", "path": str(images), "size": 32, "validation_share": 0.05}
            recipe = {**_RECIPE, "data": data, "trainer": trainer}
            recipe["optimizer"] = {**_RECIPE["optimizer"], "lr": lr}
            file = output.with_suffix(".yaml")
            file.write_text(json.dumps(recipe))
            command += ["--resume", str(output)] if resume else [str(file), "--output", str(output)]
        else:
            command = [self.python, "-P", str(_HERE / "trained_elsewhere.py"), self.name, "--images", str(images)]
            command += ["--output", str(output), f"--steps={steps}", f"--lr={lr}", f"--devices={devices}"]
            command += ["--resume", str(self.last(output))] if resume else []
        said = output.with_suffix(".txt")
        # stable-pretraining keeps its checkpoints below the home folder.
        home = {"HOME": str(output / "home")} if self.name == "stable-pretraining" else {}
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", **home}
        with said.open("wb") as out:
            streams: dict[str, Any] = {"stdout": out, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
            return Process(subprocess.Popen(command, env=environment, start_new_session=True, **streams), said)

    def steps(self, output: Path) -> list[dict[str, Any]]:
        """The steps that a run has written, in the order of their writing: number, loss, and elsewhere the images."""
        file = output / ("metrics.jsonl" if self.name == "ours" else "steps.jsonl")
        lines = file.read_text().splitlines() if file.is_file() else []
        found = []
        for line in lines:
            try:
                one = json.loads(line)
            except json.JSONDecodeError:
                continue
            if "loss" in one:
                loss = one["loss"]
                found.append({**one, "loss": sum(loss.values()) if isinstance(loss, dict) else loss})
        return found

    def last(self, output: Path) -> Path | None:
        """The newest checkpoint of a run that is there to go on from."""
        found = sorted(output.rglob("last.ckpt"), key=lambda one: one.stat().st_mtime)
        return found[-1] if found else None

    def wait(self, process: Process, output: Path, step: int) -> None:
        """Wait until a run has come as far."""
        until = time.monotonic() + _LIMIT
        while not any(one["step"] >= step for one in self.steps(output)[-3:]):
            if process.handle.poll() is not None or time.monotonic() > until:
                process.kill() if process.handle.poll() is None else None
                raise RuntimeError(f"{self.name} did not come to step {step}: {process.words()}")
            time.sleep(0.01)


def saved(file: Path | None) -> dict[str, Any] | None:
    """A checkpoint; None if it cannot be read."""
    try:
        return None if file is None else torch.load(file, map_location="cpu", weights_only=False)  # type: ignore[no-any-return]
    except Exception:  # Whatever is wrong with it.
        return None


def step_of(checkpoint: dict[str, Any] | None) -> int | None:
    """The step of a checkpoint."""
    return None if checkpoint is None else int(checkpoint.get("global_step", checkpoint.get("step", -1)))


def flip(file: Path) -> None:
    """Flip one bit of the mantissa of a number in the middle of the largest tensor."""
    with zipfile.ZipFile(file) as archive:
        largest = max(archive.infolist(), key=lambda one: one.file_size)
    with file.open("r+b") as raw:
        raw.seek(largest.header_offset + 26)
        name, extra = (int.from_bytes(raw.read(2), "little") for _ in range(2))
        place = largest.header_offset + 30 + name + extra + largest.file_size // 8 * 4 + 2
        raw.seek(place)
        byte = raw.read(1)[0]
        raw.seek(place)
        raw.write(bytes([byte ^ 0x20]))


def rank_one(process: Process) -> int:
    """The process of rank 1, among those that the first one has started."""
    waiting = [process.handle.pid]
    while waiting:
        for task in Path(f"/proc/{waiting.pop()}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                if b"\0LOCAL_RANK=1\0" in b"\0" + Path(f"/proc/{child}/environ").read_bytes():
                    return child
                waiting.append(child)
    raise RuntimeError("there is no rank 1")


def undisturbed(library: Library, place: Path) -> Path:
    """The folder of a run that nothing has disturbed."""
    whole = place / "whole"
    if not whole.exists():
        library.start(whole).end()
    return whole


def killed(library: Library, place: Path) -> str:
    """SIGKILL in mid-epoch, then resume: the losses and images are compared with a run that nobody killed."""
    output = place / "killed"
    right = {one["step"]: one for one in library.steps(undisturbed(library, place))}
    process = library.start(output, steps=_ENDLESS if library.name != "ours" else _STEPS)
    library.wait(process, output, 13)
    process.kill()
    shutil.copytree(output, place / "copy", symlinks=True)
    before, at = len(library.steps(output)), step_of(saved(library.last(output)))
    code = library.start(output, resume=True).end()
    if code != 0:
        return f"does not resume (exit code {code})"
    after = library.steps(output) if library.name == "ours" else library.steps(output)[before:]
    compared = [(one, right[one["step"]]) for one in after if one["step"] > (at or 0) and one["step"] in right]
    same = sum(one["loss"] == other["loss"] for one, other in compared)
    (first, wanted) = compared[0]
    images = "images" in first and sum(one["images"] == other["images"] for one, other in compared)
    text = (
        f"resumed at step {at}; {same} of {len(compared)} losses equal (next {first['loss']:.6f}, {wanted['loss']:.6f})"
    )
    return text + (f", {images} batches of the same images" if "images" in first else "")


def flipped(library: Library, place: Path) -> str:
    """A bit of the weights in the last checkpoint is flipped; the run goes on from it."""
    output = place / "copy"
    file = library.last(output)
    assert file is not None
    flip(file.resolve())
    process = library.start(output, resume=True)
    code = process.end()
    words = ("damage", "corrupt", "checksum", "crc")
    lines = process.said.read_text(errors="replace").splitlines()
    said = [one for one in lines if any(word in one.lower() for word in words)]
    return f"exit code {code}; " + (f"said: {said[0].strip()[:200]}" if said else "loaded without a word")


def terminated(library: Library, place: Path) -> str:
    """SIGTERM to one of two ranks."""
    output = place / "terminated"
    process = library.start(output, steps=_ENDLESS, devices=2)
    library.wait(process, output, 7)
    os.kill(rank_one(process), signal.SIGTERM)
    begun, seen = time.monotonic(), library.steps(output)[-1]["step"]
    code = process.end(_PATIENCE)
    took, done = time.monotonic() - begun, library.steps(output)[-1]["step"]
    kept = step_of(saved(library.last(output)))
    fate = f"goes on without end ({_PATIENCE:.0f} s)" if code is None else f"ends after {took:.0f} s with {code}"
    return f"{fate}; signal at step {seen}, last step {done}, last checkpoint of step {kept}"


def full(library: Library, place: Path) -> str:
    """The disk is full while a checkpoint is saved; then it has room again."""
    size = Path(str(library.last(undisturbed(library, place)))).stat().st_size
    # Some keep a checkpoint twice, so that one is there before the next one fails.
    for share in (1.6, 2.6):
        disk = place / f"disk-{share}"
        disk.mkdir()
        mount = [str(shutil.which("mount")), "-t", "tmpfs", "-o", f"size={int(share * size)}", "tmpfs", str(disk)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            return "not tried: only root can mount a small file system"
        try:
            output = disk / "run"
            process = library.start(output)
            code, words = process.end(), process.words()
            if library.last(output) is None and share < 2:
                continue
            files = [one for one in output.rglob("*") if one.is_file() and one.stat().st_size > 100_000]
            broken = [one.name for one in files if saved(one) is None]
            kept = step_of(saved(library.last(output)))
            subprocess.run([mount[0], "-o", "remount,size=100m", str(disk)], check=True)
            again = library.start(output, resume=True).end() if library.last(output) is not None else None
            left = f", half files {', '.join(broken)}" if broken else ""
            return (
                f"exit code {code}: {words}; last checkpoint of step {kept}{left}; with room again, exit code {again}"
            )
        finally:
            subprocess.run([str(shutil.which("umount")), "-l", str(disk)], check=False)
    raise AssertionError


def truncated(library: Library, place: Path) -> str:
    """Half of a file of an image is missing."""
    images = place / "halves"
    shutil.copytree(library.images, images)
    for file in sorted(images.rglob("*.jpg"))[3:5]:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    output = place / "on-halves"
    process = library.start(output, steps=16, images=images)
    code = process.end()
    lines = process.said.read_text(errors="replace").splitlines()
    told = [one.strip()[:200] for one in lines if "truncated" in one or "cannot be read" in one]
    words = " / ".join(told[:2]) if told else "not said"
    return f"exit code {code} after {len(library.steps(output))} steps: {words}"


def diverged(library: Library, place: Path) -> str:
    """The loss becomes NaN, from a learning rate of 1e30."""
    output = place / "diverged"
    process = library.start(output, steps=16, lr=1e30)
    code, steps = process.end(), library.steps(output)
    wrong = sum(not np.isfinite(one["loss"]) for one in steps)
    state = saved(library.last(output))
    tensors = [] if state is None else list((state.get("state_dict") or state.get("backbone") or {}).values())
    bad = any(bool((~torch.isfinite(one)).any()) for one in tensors if one.is_floating_point())
    kept = "no checkpoint" if state is None else f"the last checkpoint has {'NaN' if bad else 'finite'} weights"
    return f"exit code {code} after {len(steps)} steps, {wrong} of them not finite: {process.words()}; {kept}"


TRIALS: dict[str, Callable[[Library, Path], str]] = {
    "SIGKILL in mid-epoch, then resume": killed,
    "a flipped bit in the weights of a checkpoint": flipped,
    "SIGTERM to one of two ranks": terminated,
    "a full disk while saving": full,
    "two truncated images": truncated,
    "a loss of NaN": diverged,
}


def main() -> None:
    """Try and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("libraries", nargs="*", choices=["ours", "lightly", "stable-pretraining"])
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has the libraries")
    parser.add_argument("--faults", nargs="+", choices=list(TRIALS), default=list(TRIALS))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    answers: dict[str, dict[str, str]] = {}
    if arguments.json is not None and arguments.json.is_file():
        answers = json.loads(arguments.json.read_text())
    for name in arguments.libraries:
        with tempfile.TemporaryDirectory() as top:
            images = Path(top, "images")
            for number in range(64):
                folder = images / "ab"[number % 2]
                folder.mkdir(parents=True, exist_ok=True)
                pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number:02}.jpg")
            library = Library(name, arguments.python, images)
            for fault in arguments.faults:
                begun = time.monotonic()
                try:
                    answer = TRIALS[fault](library, Path(top))
                except Exception as error:  # One trial that cannot be made is no reason to leave out the others.
                    answer = f"not tried: {error}"
                print(f"{name}: {fault}: {answer} [{time.monotonic() - begun:.0f} s]", flush=True)
                answers.setdefault(fault, {})[name] = answer
                if arguments.json is not None:
                    arguments.json.write_text(json.dumps(answers, indent=1) + "\n")
    names = list(dict.fromkeys(name for row in answers.values() for name in row))
    print(f"\n| fault | {' | '.join(names)} |\n|{'---|' * (len(names) + 1)}")
    for fault, row in answers.items():
        print(f"| {fault} | {' | '.join(row.get(name, '').replace('|', '/') for name in names)} |")


if __name__ == "__main__":
    main()
