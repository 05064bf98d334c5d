"""An installed package is complete: it has the suite and the recipes as files, and no user's folder shadows them."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def unpacked_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `pip install .` would put into site-packages."""
    folder = tmp_path_factory.mktemp("wheel")
    # Built from a copy, because setuptools would add leftovers of an earlier build to the wheel.
    source = folder / "source"
    for name in ("ssl_inv", "evaluation", "recipes"):
        shutil.copytree(REPOSITORY / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff"):
        shutil.copy(REPOSITORY / name, source)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    command = [sys.executable, "-m", "pip", "wheel", *options, str(source)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    target = folder / "site-packages"
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(target)
    return target


def test_wheel_holds_suite_templates_and_recipes(unpacked_wheel: Path):
    templates = ("run/pages/templates/report.html.j2", "run/pages/templates/views.html.j2")
    for name in ("evaluation/suite.py", "py.typed", *templates):
        assert (unpacked_wheel / "ssl_inv" / name).is_file()
    shipped = {path.name for path in (REPOSITORY / "recipes").glob("*.yaml")}
    assert {path.name for path in (unpacked_wheel / "ssl_inv" / "recipes").glob("*.yaml")} == shipped
    assert not (unpacked_wheel / "evaluation").exists()


def test_wheel_works_beside_a_foreign_folder_called_evaluation(unpacked_wheel: Path, tmp_path: Path):
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "__init__.py").write_text("raise ImportError('the wrong evaluation')")
    (tmp_path / "recipes").mkdir()
    script = (
        "from ssl_inv.evaluation import rankme\n"
        "import ssl_inv, ssl_inv.evaluation.suite as suite\n"
        "from ssl_inv.run.cli import main\n"
        f"assert suite.__file__.startswith({str(unpacked_wheel)!r}), suite.__file__\n"
        "raise SystemExit(main(['recipes']))\n"
    )
    environment = {"PYTHONPATH": str(unpacked_wheel), "PATH": "/usr/bin:/bin"}
    command, captured = [sys.executable, "-c", script], {"capture_output": True, "text": True, "check": False}
    result = subprocess.run(command, cwd=tmp_path, env=environment, **captured)
    assert result.returncode == 0, result.stderr
    assert "demo" in result.stdout


@pytest.mark.slow
def test_a_wheel_from_the_source_archive_is_the_wheel_from_a_clone(unpacked_wheel: Path, tmp_path: Path):
    source = unpacked_wheel.parent / "source"
    build = "import sys, setuptools.build_meta as backend; print(getattr(backend, sys.argv[1])(sys.argv[2]))"

    def built(kind: str, folder: Path) -> Path:
        command = [sys.executable, "-W", "ignore", "-c", build, kind, str(tmp_path)]
        done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
        return tmp_path / done.stdout.splitlines()[-1]

    shutil.rmtree(source / "build", ignore_errors=True)
    with tarfile.open(built("build_sdist", source)) as archive:
        archive.extractall(tmp_path / "archive", filter="data")
    (inside,) = (tmp_path / "archive").iterdir()
    assert {"CHANGELOG.md", "CITATION.cff", "LICENSE", "README.md"} <= {path.name for path in inside.iterdir()}
    with zipfile.ZipFile(built("build_wheel", inside)) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    ours = {path.relative_to(unpacked_wheel).as_posix() for path in unpacked_wheel.rglob("*") if path.is_file()}
    assert names == {name for name in ours if ".dist-info/" not in name and "__pycache__" not in name}
