"""A folder of embeddings, as `ssl-inv embed` writes it: its manifest, and its shards in their order."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_inv.atomic import DamagedFileError, checksum, write_text
from ssl_inv.catalogue import RecipeError
from ssl_inv.plain import read_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MANIFEST, _OLD_MANIFEST = "_manifest.json", "manifest.json"
"""Arrow does not read files whose names begin with `_`. Folders of earlier versions have the other name."""

_BLOCK = 8192


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder.

    Raises:
        OSError: if there is none.
        ValueError: if it is no JSON object.
    """
    path = folder / _MANIFEST
    content = read_json(path if path.is_file() else folder / _OLD_MANIFEST)
    if not isinstance(content, dict) or "shards" not in content:
        raise ValueError(f"{path} does not describe embeddings")
    return content


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Write the manifest, also in place of one with the old name."""
    write_text(folder / _MANIFEST, json.dumps(content, indent=2) + "\n")
    (folder / _OLD_MANIFEST).unlink(missing_ok=True)


@dataclass(frozen=True)
class Shards:
    """The shards of a folder, one after the other as one table.

    Attributes:
        folder: where they are.
        manifest: what its manifest says.
    """

    folder: Path
    manifest: dict[str, Any]
    _checked: set[Path] = field(default_factory=set, compare=False, repr=False)

    @cached_property
    def paths(self) -> list[Path]:
        """The shards that are there, in their order."""
        return sorted(self.folder.glob(f"part-*.{self.manifest['format']}"))

    @cached_property
    def counts(self) -> list[int]:
        """Rows of each shard."""
        import numpy as np
        import pyarrow.parquet

        return [
            len(np.load(path, mmap_mode="r"))
            if path.suffix == ".npy"
            else int(pyarrow.parquet.read_metadata(path).num_rows)
            for path in self.paths
        ]

    @property
    def rows(self) -> int:
        """Rows of all shards."""
        return sum(self.counts)

    @cached_property
    def width(self) -> int:
        """Numbers in an embedding."""
        return next((block.shape[1] for block in self.blocks()), 0)

    def _sound_paths(self) -> Iterator[Path]:
        for path in self.paths:
            if path not in self._checked:
                try:
                    require_sound_shard(path, self.manifest)
                except DamagedFileError as error:
                    raise RecipeError(f"{error}; `ssl-inv embed` with the same words writes it again") from None
                self._checked.add(path)
            yield path

    def blocks(self) -> "Iterator[NDArray[np.float32]]":
        """All embeddings in their order, some thousand `(n, D)` at a time."""
        for path in self._sound_paths():
            yield from _blocks(path)

    def chosen(self, rows: "NDArray[np.int64]") -> "NDArray[np.float32]":
        """The embeddings of some rows `(n,)`, ascending. Shards without any of them are not read."""
        import numpy as np

        found, start = [], 0
        for path, count in zip(self._sound_paths(), self.counts, strict=True):
            here = rows[(rows >= start) & (rows < start + count)] - start
            start += count
            first = 0
            for block in _blocks(path) if len(here) else ():
                found.append(block[here[(here >= first) & (here < first + len(block))] - first])
                first += len(block)
        return np.concatenate(found)

    def columns(self, names: list[str]) -> dict[str, list[Any]]:
        """What the shards say of every row besides its embedding; a column that is nowhere is left out."""
        import pyarrow.parquet

        found: dict[str, list[Any]] = {name: [] for name in names}
        for path, count in zip(self._sound_paths(), self.counts, strict=True):
            if path.suffix == ".npy":
                content = read_json(path.with_suffix(".json"))
            else:
                known = [name for name in names if name in pyarrow.parquet.read_schema(path).names]
                content = pyarrow.parquet.ParquetFile(path).read(columns=known).to_pydict()
            for name in names:
                found[name] += content.get(name, [None] * count)
        return {name: values for name, values in found.items() if any(one is not None for one in values)}


def require_sound_shard(path: Path, manifest: dict[str, Any]) -> None:
    """Check a shard against its checksums: of the pages of parquet, and of whole files in the manifest.

    Raises:
        DamagedFileError: if it is not what was written. Shards without checksums pass.
    """
    import pyarrow
    import pyarrow.parquet

    if path.suffix == ".parquet":
        try:
            with pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as file:
                for _ in file.iter_batches(_BLOCK):
                    pass
        except (OSError, pyarrow.ArrowException) as error:
            raise DamagedFileError(f"{path} is damaged: {' '.join(str(error).split())[:200]}") from None
        return
    for one in (path, path.with_suffix(".json")):
        written = manifest.get("checksums", {}).get(one.name)
        if written is not None and (not one.is_file() or written != checksum(one)):
            raise DamagedFileError(f"{one} is damaged: it does not fit its checksum in {_MANIFEST}")


def _blocks(path: Path) -> "Iterator[NDArray[np.float32]]":
    import numpy as np
    import pyarrow.parquet

    if path.suffix == ".npy":
        whole = np.load(path, mmap_mode="r")
        for start in range(0, len(whole), _BLOCK):
            yield np.array(whole[start : start + _BLOCK])
        return
    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(_BLOCK, columns=["embedding"]):
            yield batch.column(0).flatten().to_numpy().reshape(len(batch), -1)
