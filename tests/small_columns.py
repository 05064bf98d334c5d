"""Images in columns that tests share, and the forms of files that hold them."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from PIL import Image
from pyarrow import feather, ipc, parquet

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
STRUCT = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
FEATURES = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["dog", "cat", "cow"]}}


def encoded(pixels: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


PNGS = [encoded(one) for one in PIXELS]
BESIDE = {
    "object": [f"thing {number % 6}" for number in range(12)],
    "label": [number % 2 for number in range(12)],
    "azimuth[deg]": [30.0 * number for number in range(12)],
}


def structs(contents: list[bytes | None], paths: list[str | None] | None = None) -> pyarrow.Array:
    paths = [None] * len(contents) if paths is None else paths
    rows = [{"bytes": content, "path": path} for content, path in zip(contents, paths, strict=True)]
    return pyarrow.array(rows, STRUCT)


def columns(image: Any = None, features: dict[str, Any] | None = FEATURES, **others: Any) -> pyarrow.Table:
    made = pyarrow.table({"image": structs(PNGS) if image is None else image, **BESIDE, **others})
    return (
        made
        if features is None
        else made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    )


def write_stream(rows: pyarrow.Table, path: Path, batch: int = 5, compression: str | None = None) -> None:
    with ipc.new_stream(path, rows.schema, options=ipc.IpcWriteOptions(compression=compression)) as stream:
        stream.write_table(rows, max_chunksize=batch)


def save_to_disk(rows: pyarrow.Table, folder: Path) -> None:
    """What `Dataset.save_to_disk` writes, in two files."""
    folder.mkdir(parents=True)
    names = [f"data-0000{number}-of-00002.arrow" for number in range(2)]
    write_stream(rows.slice(0, 7), folder / names[0])
    write_stream(rows.slice(7), folder / names[1])
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": FEATURES}))


def one_parquet(root: Path, rows: pyarrow.Table) -> Path:
    parquet.write_table(rows, root / "views.parquet", row_group_size=5)
    return root / "views.parquet"


def hub(root: Path, rows: pyarrow.Table) -> Path:
    (root / "hub" / "data").mkdir(parents=True)
    for number, part in enumerate((rows.slice(0, 7), rows.slice(7))):
        parquet.write_table(part, root / "hub" / "data" / f"train-0000{number}-of-00002.parquet", row_group_size=3)
    return root / "hub"


def saved(root: Path, rows: pyarrow.Table) -> Path:
    save_to_disk(rows, root / "saved")
    return root / "saved"


def stream(root: Path, rows: pyarrow.Table) -> Path:
    write_stream(rows, root / "views.arrow")
    return root / "views.arrow"


def mapped_feather(root: Path, rows: pyarrow.Table) -> Path:
    feather.write_feather(rows, root / "views.feather", compression="uncompressed", chunksize=5)
    return root / "views.feather"


def packed_feather(root: Path, rows: pyarrow.Table) -> Path:
    feather.write_feather(rows, root / "packed.feather", compression="zstd", chunksize=5)
    return root / "packed.feather"


FORMS = [one_parquet, hub, saved, stream, mapped_feather, packed_feather]
