"""Features of every image, as shards for other tools."""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ssl_inv.atomic import DamagedFileError, checksum, write_text, written_aside
from ssl_inv.catalogue import RecipeError, within
from ssl_inv.data.source import Indices, Source
from ssl_inv.engine.features import feature_table, fingerprint, unread
from ssl_inv.engine.launch import say
from ssl_inv.engine.team import ALONE, Team
from ssl_inv.evaluation.features import FeatureTable, NoViewsError
from ssl_inv.run.encoders import LoadedModel, best_device
from ssl_inv.run.shards import Shards, read_manifest, require_sound_shard, write_manifest

_ALL_VIEWS = 2**31

_PATIENCE = 90.0
"""Seconds until all machines see a file that one of them has written: NFS remembers for a minute what was not there."""

_OWN = "id", "split", "object", "view", "label", "embedding"
"""The columns of every shard. A transform's number with one of these names gets the prefix `transform_`."""


def write_shards(
    model: LoadedModel,
    folder: Path,
    file_format: str,
    shard_size: int,
    progress: Callable[[int, int], None],
    team: Team = ALONE,
) -> int:
    """Write `part-00000.parquet` (or `.npy`), ... and `_manifest.json`, shard by shard.

    Arrow and pandas leave out names that begin with `_`, so they read the folder as one table.

    A shard holds whole objects with about `shard_size` views, without images that cannot be read. Its columns are `id`
    (the name of the file if there is one), `split`, `object`, `view`, `label`, one column for each number of the
    transform, and `embedding` (float32). With npy, `part-00000.npy` has the embeddings and `part-00000.json` the rest.
    After an interruption, a second call writes the shards that are missing.

    Args:
        model: the encoder and its data.
        folder: where to write.
        file_format: `parquet` or `npy`.
        shard_size: views per shard, about.
        progress: called with the number of views done and of all.
        team: the processes that share the work. Each writes every W-th shard, the first one the manifest.

    Returns:
        The number of rows in all shards; 0 on all processes but the first.

    Raises:
        RecipeError: if the folder holds anything but shards of this model and these data.
    """
    backbone = model.model.backbone.to(best_device())
    plan = [(split, source, objects) for split, source in _splits(model) for objects in _shards(source, shard_size)]
    manifest = {
        "model": model.description,
        "weights": fingerprint(backbone),
        **{section: model.recipe.sections()[section] for section in ("data", "normalization")},
        "files": [source.stamp for _, source in _splits(model)],
        "format": file_format,
        "shard_size": shard_size,
        "shards": len(plan),
    }
    if team.first:
        known = _known(folder, manifest)
        folder.mkdir(parents=True, exist_ok=True)
        sums = dict(known.get("checksums", {}))
        manifest = {**known, **manifest, "encoder": encoder_facts(model), "checksums": sums}
        write_manifest(folder, {**manifest, "complete": False})
        team.wait("begun")
    else:
        team.wait("begun")
        sums = _shared_manifest(folder, manifest)["checksums"]
        manifest = {**manifest, "checksums": sums}
    done, total = 0, sum(int(source.view_counts.sum()) for _, source in _splits(model))
    own_sums, unreadable = dict[str, str](), list[tuple[str, int, int]]()
    own = team.of(len(plan))
    for number, (split, source, objects) in enumerate(plan):
        path = folder / f"part-{number:05d}.{file_format}"
        if number in own and not _is_sound(path, manifest):
            table = _write_shard(path, model, split, source, objects)
            if not team.first:
                unreadable += [(split, *view) for view in unread(source, objects, table)]
        if number in own and file_format == "npy" and path.is_file():  # parquet has checksums of its own
            own_sums.update({one.name: checksum(one) for one in (path, path.with_suffix(".json"))})
            if team.first and not own_sums.items() <= sums.items():
                sums.update(own_sums)
                write_manifest(folder, {**manifest, "complete": False})
        done += int(source.view_counts[objects].sum())
        progress(done, total)
    said = team.collected(json.dumps([own_sums, unreadable]).encode())
    if not team.first:
        return 0
    for theirs, views in map(json.loads, said[1:]):
        sums.update(theirs)
        _meet(model, views)
    manifest["checksums"] = dict(sorted(sums.items()))
    rows = Shards(folder, manifest).rows
    write_manifest(folder, {**manifest, "complete": True, "rows": rows})
    return rows


def _write_shard(path: Path, model: LoadedModel, split: str, source: Source, objects: Indices) -> FeatureTable | None:
    """Write a shard; one without a readable image has no file."""
    backbone = model.model.backbone
    with within("data"), suppress(NoViewsError):
        table = feature_table(backbone, backbone, source, objects, _ALL_VIEWS, model.whole, best_device())
        write = _write_npy if path.suffix == ".npy" else _write_parquet
        write(path, _columns(split, source, table), table.part("all").numpy())
        return table
    return None


def _shared_manifest(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest that the first process has written, which a network's file system may show later."""
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            known = read_manifest(folder)
            if all(known.get(key) == value for key, value in manifest.items()):
                return known
        except (OSError, ValueError):
            pass
        if time.monotonic() > end:
            reason = "processes on several machines need a folder, a model and data that they share"
            raise RecipeError(f"output {str(folder)!r} has not what the first process has begun there: {reason}")
        time.sleep(0.5)


def _meet(model: LoadedModel, unreadable: list[tuple[str, int, int]]) -> None:
    """Meet the images that other processes could not read: to name them, and to stop if there are too many."""
    for split, source in _splits(model):
        views = [view for name, *view in unreadable if name == split]
        if views:
            with within("data"):
                source.load(*np.array(views, dtype=np.int64).T)


def _is_sound(path: Path, manifest: dict[str, Any]) -> bool:
    """Whether a shard is there; one that is damaged is told, and written again."""
    if not path.is_file():
        return False
    try:
        require_sound_shard(path, manifest)
    except DamagedFileError as error:
        say(f"{error}; it is written again")
        return False
    return True


def encoder_facts(model: LoadedModel) -> dict[str, Any]:
    """How other images are encoded as these were: the encoder and its place, and the preparation of its input."""
    normalization = model.recipe.normalization
    return {
        "name": model.model.name,
        "pretrained": model.model.pretrained,
        "image_size": model.data.train.image_size,
        "crop_share": model.crop_share,
        "mean": list(normalization.mean),
        "std": list(normalization.std),
        "disk": model.data.train.turned,
        "folder": str(Path.cwd()),
    }


def _splits(model: LoadedModel) -> list[tuple[str, Source]]:
    return [("train", model.data.train), ("validation", model.data.validation)]


def _shards(source: Source, shard_size: int) -> list[Indices]:
    """Consecutive objects whose views add up to about `shard_size`."""
    number = (np.cumsum(source.view_counts) - 1) // shard_size
    return np.split(np.arange(len(source)), np.flatnonzero(np.diff(number)) + 1)


def _known(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """What the folder's manifest says beside, such as its index; nothing for a new folder."""
    if not folder.exists() or not any(folder.iterdir()):
        return {}
    try:
        known = read_manifest(folder)
    except (OSError, ValueError):
        raise RecipeError(f"output {str(folder)!r} holds something else; choose an empty folder") from None
    if other := [key for key, value in manifest.items() if known.get(key) != value]:
        raise RecipeError(
            f"output {str(folder)!r} was begun with another {other[0]}: {known.get(other[0])}; choose an empty folder"
        )
    return known


def _columns(split: str, source: Source, table: FeatureTable) -> dict[str, list[Any]]:
    objects, views = table.objects.tolist(), table.views.tolist()
    columns: dict[str, list[Any]] = {
        "id": [source.describe(one, view) for one, view in zip(objects, views, strict=True)],
        "split": [split] * len(objects),
        "object": objects,
        "view": views,
    }
    if table.labels is not None:
        known = [True] * len(objects) if table.labelled is None else table.labelled.tolist()
        names = table.class_names
        columns["label"] = [
            names[label] if is_known else None for label, is_known in zip(table.labels.tolist(), known, strict=True)
        ]
    for name, value in table.transform.values.items():
        numbers = value.reshape(len(value), -1)
        for place in range(numbers.shape[1]):
            column = name if numbers.shape[1] == 1 else f"{name}_{place}"
            columns[f"transform_{column}" if column in (*_OWN, *columns) else column] = numbers[:, place].tolist()
    return columns


def _write_parquet(path: Path, columns: dict[str, list[Any]], embedding: np.ndarray[Any, Any]) -> None:
    import pyarrow
    import pyarrow.parquet

    flat = pyarrow.array(embedding.reshape(-1))
    table = pyarrow.table({**columns, "embedding": pyarrow.FixedSizeListArray.from_arrays(flat, embedding.shape[1])})
    with written_aside(path) as aside:
        pyarrow.parquet.write_table(table, aside, write_page_checksum=True)


def _write_npy(path: Path, columns: dict[str, list[Any]], embedding: np.ndarray[Any, Any]) -> None:
    write_text(path.with_suffix(".json"), json.dumps(columns) + "\n")
    with written_aside(path) as aside, aside.open("wb") as file:
        np.save(file, embedding)
