"""Features of images in columns, for engines that spread rows over processes and machines."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ssl_inv.atomic import written_aside
from ssl_inv.catalogue import RecipeError, suggest
from ssl_inv.data.decoding import UnreadableImageError
from ssl_inv.nn.modes import frozen
from ssl_inv.run.encoders import best_device
from ssl_inv.run.python.loaded import LoadedEncoder, Picture

if TYPE_CHECKING:
    import pandas

_ROWS = 1024
"""Rows of a Parquet file that are in memory at a time."""


class Embedder:
    """Gives every row of a batch the features of its image.

    It is a callable class as Ray Data's `map_batches` takes it, and its method `frames` is a function as Spark's
    `mapInPandas` takes it. A pickled copy holds the name of the encoder, which is loaded where the first batch arrives.

    Each part of the features is a column `embedding` (the part `all`) or `embedding_PART`, float32, `(N, D)`. Rows keep
    their order and their number. An image that cannot be read has features of NaN, and its reason in the column
    `embedding_error`, which is empty elsewhere.

    Args:
        encoder: a run folder, an exported folder, or `timm:NAME`; all machines need to see it at this path.
        column: of the images: encoded bytes, Hugging Face's `{"bytes": ..., "path": ...}`, paths of files, or pixels
            `(H, W, 3)` of uint8 or of floats in [0, 1].
        parts: of the features; None takes `all`.
        keep_images: whether the column of images is in the result.
        images_at_once: of one pass through the encoder.
        pretrained: whether to load timm's weights of `timm:NAME`. This may download them.
        device: where to encode; None takes a GPU if the process sees one.

    Raises:
        RecipeError: in one line, if the encoder, a part or the column does not exist.
    """

    def __init__(
        self,
        encoder: str | os.PathLike[str],
        column: str = "image",
        parts: Sequence[str] | None = None,
        *,
        keep_images: bool = False,
        images_at_once: int = 128,
        pretrained: bool = False,
        device: str | torch.device | None = None,
    ) -> None:
        if images_at_once < 1:
            raise RecipeError(f"images_at_once: must be at least 1, got {images_at_once}")
        # Engines start their workers in other folders.
        name = os.fspath(encoder)
        self.encoder = str(Path(name).expanduser().resolve()) if Path(name).expanduser().exists() else name
        self.column, self.keep_images, self.images_at_once = column, keep_images, images_at_once
        self.parts = ("all",) if parts is None else tuple(parts)
        self.pretrained, self.device = pretrained, device
        self._loaded: LoadedEncoder | None = None
        # A wrong name is told here, and not by a worker on another machine.
        self._widths = self._checked(self._load().parts)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_loaded": None}

    def _load(self) -> LoadedEncoder:
        if self._loaded is None:
            from ssl_inv.run.python.interface import load

            self._loaded = load(self.encoder, pretrained=self.pretrained).to(self.device or best_device())
        return self._loaded

    def _checked(self, known: Mapping[str, int]) -> dict[str, int]:
        if unknown := [part for part in self.parts if part not in known]:
            raise RecipeError(f"parts: {self.encoder} has no part {unknown[0]!r}; {suggest(unknown[0], known)}")
        return {part: known[part] for part in self.parts}

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The batch with its features.

        Args:
            batch: columns of equal length.

        Raises:
            RecipeError: if there is no column of images.
            ValueError: if a column has images of a kind that cannot be read, such as floats outside [0, 1].
        """
        if self.column not in batch:
            raise RecipeError(f"column: there is no column {self.column!r}; {suggest(self.column, batch)}")
        images = batch[self.column]
        features, errors = self._features(images)
        kept = {name: values for name, values in batch.items() if self.keep_images or name != self.column}
        named = {"embedding" if part == "all" else f"embedding_{part}": value for part, value in features.items()}
        return {**kept, **named, "embedding_error": np.array(errors, dtype=object)}

    def frames(self, frames: "Iterator[pandas.DataFrame]") -> "Iterator[pandas.DataFrame]":
        """The same for pandas frames, one after the other, with features as lists; for Spark's `mapInPandas`."""
        import pandas

        for frame in frames:
            found = self({str(name): frame[name].tolist() for name in frame.columns})
            columns = {name: list(value) if isinstance(value, np.ndarray) else value for name, value in found.items()}
            yield pandas.DataFrame(columns, index=frame.index)

    def file(self, source: str | os.PathLike[str], target: str | os.PathLike[str]) -> int:
        """Write the features of the images of one Parquet file to another, unless that is there already.

        The file appears when it is complete. So a job over many files, in any engine, is killed and started again
        without doing one twice.

        Returns:
            The number of rows.
        """
        import pyarrow
        import pyarrow.parquet

        goal = Path(target)
        if goal.is_file():
            return int(pyarrow.parquet.read_metadata(goal).num_rows)
        goal.parent.mkdir(parents=True, exist_ok=True)
        rows = 0
        with pyarrow.parquet.ParquetFile(source) as file, written_aside(goal) as aside:
            writer = None
            for piece in file.iter_batches(_ROWS):
                table = self._columns(pyarrow.Table.from_batches([piece]))
                writer = writer or pyarrow.parquet.ParquetWriter(aside, table.schema)
                writer.write_table(table)
                rows += len(table)
            if writer is None:
                empty = self._columns(file.schema_arrow.empty_table())
                writer = pyarrow.parquet.ParquetWriter(aside, empty.schema)
            writer.close()
        return rows

    def _columns(self, table: Any) -> Any:
        """An Arrow table with the columns of its features."""
        import pyarrow

        if self.column not in table.column_names:
            raise RecipeError(f"column: there is no column {self.column!r}; {suggest(self.column, table.column_names)}")
        features, errors = self._features(table.column(self.column).to_pylist())
        for part, value in features.items():
            flat = pyarrow.array(value.reshape(-1), pyarrow.float32())
            listed = pyarrow.FixedSizeListArray.from_arrays(flat, self._widths[part])
            table = table.append_column("embedding" if part == "all" else f"embedding_{part}", listed)
        table = table.append_column("embedding_error", pyarrow.array(errors, pyarrow.string()))
        return table if self.keep_images else table.drop_columns([self.column])

    def _features(self, images: Sequence[Any]) -> tuple[dict[str, NDArray[np.float32]], list[str]]:
        encoder, errors = self._load(), [""] * len(images)
        found = {part: np.full((len(images), width), np.nan, dtype=np.float32) for part, width in self._widths.items()}
        for start in range(0, len(images), self.images_at_once):
            rows, pixels = [], []
            for row in range(start, min(start + self.images_at_once, len(images))):
                try:
                    pixels.append(encoder.prepare([_opened(images[row])]))
                    rows.append(row)
                except (UnreadableImageError, OSError) as error:
                    errors[row] = str(error) or type(error).__name__
            if not rows:
                continue
            with frozen(encoder), torch.no_grad():
                parts = encoder.encode(torch.cat(pixels))
            for part, value in found.items():
                value[rows] = parts[part].float().cpu().numpy()
        return found, errors


def _opened(value: Any) -> Picture:
    """An image of a cell. A list of numbers is an array that went through Arrow."""
    if isinstance(value, Mapping) and {"bytes", "path"} & set(value):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if isinstance(value, bytes | str | os.PathLike | np.ndarray | Image.Image):
        return value
    if isinstance(value, list):
        array = np.array(value)
        return array.astype(np.uint8) if array.dtype.kind == "i" and array.min() >= 0 and array.max() <= 255 else array
    if value is None:
        raise UnreadableImageError("there is no image")
    raise ValueError(f"an image must be bytes, a path, pixels or a picture of Pillow, got {type(value).__name__}")
