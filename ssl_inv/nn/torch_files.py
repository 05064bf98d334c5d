"""Files of `torch.save`, read as tensors and plain values. No code in a file is run."""

import zipfile
from pathlib import Path
from typing import Any

import torch

from ssl_inv.atomic import require_sound
from ssl_inv.plain import require_file


def write_torch(content: Any, path: Path) -> None:
    """Write an archive of `torch.save`. Python opens the file: it knows why a disk refuses, and torch does not say."""
    with path.open("wb") as file:
        torch.save(content, file)


def read_torch(path: Path) -> Any:
    """The content of a file of `torch.save`, on the CPU.

    Raises:
        DamagedFileError: if a part of it does not fit its checksum.
        ValueError: if it is no regular file, or would be larger in memory than it is.
        Exception: whatever torch meets first in a file that it did not write.
    """
    require_stored(path)
    require_sound(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def require_stored(path: Path) -> None:
    """Raise a `ValueError` if a file is an archive whose parts are larger than itself.

    torch compresses nothing, so such an archive is not torch's, and may fill the memory.
    """
    require_file(path)
    if not zipfile.is_zipfile(path):
        return  # torch's format before version 1.6, or something else, which torch refuses
    with zipfile.ZipFile(path) as archive:
        whole = sum(one.file_size for one in archive.infolist())
    if whole > (size := path.stat().st_size):
        raise ValueError(f"it has {size:,} bytes, and its parts claim {whole:,}; torch.save compresses nothing")
