"""What tests share."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

GOLDEN = Path(__file__).parent / "golden" / "data"
REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _two_threads() -> None:
    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, Any]]:
    """Facts computed by running the authors' code, by file name."""

    def read(name: str) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text())
        return facts

    return read


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets, or a skip where there is none."""
    folder = Path(os.environ.get("SSL_INV_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set SSL_INV_TEST_DATA to a folder that has it")
    return folder
