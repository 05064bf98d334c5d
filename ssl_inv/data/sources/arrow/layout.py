"""Which files of a folder are columns of one data set, and which split each of them is."""

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ssl_inv.data.archives import Files
from ssl_inv.data.names import unpacked
from ssl_inv.data.splits import split_of
from ssl_inv.plain import read_json

COLUMN_SUFFIXES = frozenset((".parquet", ".pq", ".arrow", ".feather", ".ipc"))
"""How names of files with columns end."""

_SAVED, _SAVED_SPLITS, _INFO = "state.json", "dataset_dict.json", "dataset_info.json"
"""Files beside a `Dataset` and a `DatasetDict` that were saved to disk."""

_NUMBERED = re.compile(r"(.+)-\d{5,}-of-\d{5,}(?:-[0-9a-f]+)?")
"""The name of one of several files of a split, such as `train-00000-of-00002`; the end can be a hash."""


@dataclass(frozen=True)
class ColumnFile:
    """A file with columns.

    Attributes:
        path: where it is.
        name: its name relative to the data's folder, for messages.
        split: the data's name of its split; empty if it has none.
    """

    path: Path
    name: str
    split: str = ""


@dataclass(frozen=True)
class Layout:
    """The files of a data set.

    Attributes:
        folder: what names are relative to.
        files: all of them, in the order of their rows.
        features: what `datasets` says of the columns beside them; empty if it says nothing there.
    """

    folder: Path
    files: tuple[ColumnFile, ...]
    features: dict[str, Any]


def is_saved_dataset(path: Path) -> bool:
    """Whether `datasets` saved a folder by `save_to_disk`."""
    return (path / _SAVED_SPLITS).is_file() or ((path / _SAVED).is_file() and (path / _INFO).is_file())


def is_column_file(path: Path) -> bool:
    """Whether a file has columns, by its name."""
    return path.suffix.lower() in COLUMN_SUFFIXES


def find_columns(path: str) -> Layout:
    """The files of a path: a file, a folder of files, or a folder that `datasets` saved.

    In a folder, the split of a file is named by the file, or by the innermost folder that names one. Folders around
    the folder or the file that names a split are a configuration.

    Raises:
        FileNotFoundError: if nothing is there, or a file that a saved dataset names is missing.
        ValueError: if there are no such files, or those of several configurations.
    """
    place = Path(path).expanduser()
    if not place.exists():
        raise FileNotFoundError(f"no such file or folder: {place}")
    if place.is_file():
        return Layout(place.parent, (ColumnFile(place, place.name),), _features(place.parent))
    if (place / _SAVED_SPLITS).is_file():
        names = _json(place / _SAVED_SPLITS).get("splits")
        if not isinstance(names, list) or not names:
            raise ValueError(f"{place / _SAVED_SPLITS} names no splits")
        files = tuple(one for name in names for one in _saved(place / str(name), f"{name}/", str(name)))
        return Layout(place, files, _features(place / str(names[0])))
    if (place / _SAVED).is_file():
        return Layout(place, tuple(_saved(place, "", "")), _features(place))
    found = [unpacked(name) for name in Files(place).with_suffix(COLUMN_SUFFIXES)]
    if not found:
        raise ValueError(f"{place} has no file that ends with one of {', '.join(sorted(COLUMN_SUFFIXES))}")
    told = {name: _split_and_configuration(name) for name in found}
    configurations = sorted({around for split, around in told.values() if split_of(split) is not None})
    if len(configurations) > 1:
        several = ", ".join(repr(one or ".") for one in configurations)
        raise ValueError(f"{place} has several configurations, {several}; give the folder or the file of one")
    return Layout(place, tuple(ColumnFile(place / name, name, told[name][0]) for name in found), _features(place))


def _split_and_configuration(name: str) -> tuple[str, str]:
    """The split that a file is named by, and the folders around what names it. A split in other words than the known
    ones is a name of a numbered file.
    """
    *folders, last = PurePosixPath(name).parts
    stem = PurePosixPath(last).stem
    numbered = _NUMBERED.fullmatch(stem)
    for depth in range(len(folders), -1, -1):
        part = stem if depth == len(folders) else folders[depth]
        meanings = {word: meaning for word in re.split(r"[^A-Za-z]+", part) if (meaning := split_of(word)) is not None}
        if len(set(meanings.values())) == 1:
            return next(iter(meanings)), "/".join(folders[:depth])
    return (numbered[1] if numbered else ""), ""


def _saved(folder: Path, prefix: str, split: str) -> list[ColumnFile]:
    """The files of a `Dataset` that was saved to disk."""
    state = _json(folder / _SAVED)
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise ValueError(f"{folder} has its rows in another order than its files; save it again with a new `datasets`")
    names = [one.get("filename") for one in state.get("_data_files") or [] if isinstance(one, dict)]
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{folder / _SAVED} names no data files")
    files = [ColumnFile(folder / str(name), f"{prefix}{name}", split) for name in names]
    if missing := [one.path for one in files if not one.path.is_file()]:
        raise FileNotFoundError(f"{folder / _SAVED} names {len(missing)} file(s) that are missing: {missing[0].name}")
    return files


def _features(folder: Path) -> dict[str, Any]:
    if not (path := folder / _INFO).is_file():
        return {}
    features = _json(path).get("features")
    return features if isinstance(features, dict) else {}


def _json(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing; `datasets` writes it when it saves to disk") from None
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from None
    return content if isinstance(content, dict) else {}
