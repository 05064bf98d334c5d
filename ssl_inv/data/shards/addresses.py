"""Which tar files a path means: a folder, one tar, a pattern such as `train-{000..146}.tar`, or an address."""

import glob
import importlib.util
import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_inv.catalogue import SettingError

_BRACES = re.compile(r"\{([^{}]*)\}")

_RANGE = re.compile(r"(\d+)\.\.(\d+)")

_PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")

_NEEDED = {"http": ("aiohttp", "remote"), "https": ("aiohttp", "remote"), "s3": ("s3fs", "s3")}
"""Kinds of addresses, the package that reads them, and the extra that brings it."""

MOST_SHARDS = 100_000


@dataclass(frozen=True)
class Address:
    """One shard.

    Attributes:
        place: path of a file, or an address with `://`.
        name: what stands for it in names of images, such as `train/000.tar`: its place below the folder, or below
            everything that the shards have in common.
    """

    place: str
    name: str

    @property
    def remote(self) -> bool:
        """Whether it is read through fsspec."""
        return is_address(self.place)


def is_address(path: str) -> bool:
    """Whether a path is an address such as `s3://bucket/train.tar`."""
    return "://" in path and not path.startswith("file://")


def is_pattern(path: str) -> bool:
    """Whether a path stands for several files: by braces, as in `train-{000..146}.tar`, or by `*`."""
    return _BRACES.search(path) is not None or "*" in path


def find_shards(path: str) -> list[Address]:
    """The shards of a path, in ascending order. Those of a pattern with braces are in its order, and may be missing.

    Raises:
        FileNotFoundError: if there is no such folder or file, or it has no tar file.
        SettingError: for `path`, if a pattern cannot be understood, or a package is missing.
    """
    if is_address(path):
        require_reader(path)
    else:
        path = str(Path(path.removeprefix("file://")).expanduser())
        # A name that exists is no pattern, whatever letters it has.
        if Path(path).exists():
            return _named(_local(path), path if Path(path).is_dir() else None, path)
    # Braces inside braces give some names several times.
    places = list(dict.fromkeys(itertools.islice(expanded(path), MOST_SHARDS + 1)))
    if len(places) > MOST_SHARDS:
        raise SettingError("path", f"{path!r} stands for more than {MOST_SHARDS:,} files")
    if is_address(path):
        filesystem(places[0])
    if is_address(path) and len(places) == 1 and "*" not in path and not _is_tar(path):
        return _named(*_listed(path), path)
    found = list(dict.fromkeys(one for place in places for one in (_matches(place) if "*" in place else [place])))
    if len(found) == 1 and not is_address(path) and not Path(found[0]).exists():
        raise FileNotFoundError(f"no such folder or tar file: {path}")
    return _named(found, None, path)


def require_reader(path: str) -> None:
    """Raise a `SettingError` for `path` if the package is missing that reads such an address."""
    kind = path.partition("://")[0]
    package, extra = _NEEDED.get(kind, ("fsspec", "remote"))
    if importlib.util.find_spec("fsspec") is None or importlib.util.find_spec(package) is None:
        raise SettingError("path", f"an address {kind}://... needs {package}: pip install 'ssl-inv[{extra}]'")


def filesystem(place: str) -> tuple[Any, str]:
    """The file system of an address, and the path there. It is made anew in a forked process.

    Raises:
        SettingError: for `path`, if there is no such kind of address or a package is missing.
    """
    from fsspec.core import url_to_fs

    try:
        found: tuple[Any, str] = url_to_fs(place)
    except (ValueError, ImportError) as error:
        raise SettingError("path", f"{place!r} cannot be read: {error}") from None
    return found


def expanded(pattern: str) -> Iterator[str]:
    """The names that a pattern with braces stands for: `{000..146}` with its zeros, and `{a,b}`.

    Raises:
        SettingError: for `path`, if what is in the braces is neither.
    """
    match = _BRACES.search(pattern)
    if match is None:
        if "{" in pattern or "}" in pattern:
            raise SettingError("path", f"{pattern!r} has a brace without its partner")
        yield pattern
        return
    before, inside, after = pattern[: match.start()], match[1], pattern[match.end() :]
    if (span := _RANGE.fullmatch(inside)) is not None:
        first, last, width = int(span[1]), int(span[2]), len(span[1]) if span[1].startswith("0") else 0
        if last < first:
            raise SettingError("path", f"{{{inside}}} in {pattern!r} goes from {first} down to {last}")
        options = (f"{number:0{width}}" for number in range(first, last + 1))
    elif "," in inside:
        options = (one.strip() for one in inside.split(","))
    else:
        raise SettingError("path", f"{{{inside}}} in {pattern!r} is neither a range, {{000..146}}, nor a list, {{a,b}}")
    for one in options:
        yield from expanded(f"{before}{one}{after}")


def _is_tar(place: str) -> bool:
    return place.partition("?")[0].endswith(".tar")


def _local(path: str) -> list[str]:
    if Path(path).is_file():
        return [path]
    found = sorted(one for one in Path(path).rglob("*.tar") if one.is_file())
    return [str(one) for one in found if not any(part.startswith(".") for part in one.relative_to(path).parts)]


def _matches(pattern: str) -> list[str]:
    """The files that a pattern with `*` stands for."""
    if not is_address(pattern):
        return sorted(one for one in glob.glob(pattern, recursive=True) if Path(one).is_file())
    files, inside = filesystem(pattern)
    with _listing(pattern):
        return [str(files.unstrip_protocol(name)) for name in sorted(files.glob(inside))]


def _listed(folder: str) -> tuple[list[str], str]:
    """The tar files below the address of a folder, and the address as these begin."""
    files, inside = filesystem(folder)
    with _listing(folder):
        names = [str(name) for name in sorted(files.find(inside)) if _is_tar(name)]
        if not names:
            # A search goes on over errors; this raises them.
            files.ls(inside)
    return [str(files.unstrip_protocol(name)) for name in names], str(files.unstrip_protocol(inside))


@contextmanager
def _listing(place: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # Every protocol has errors of its own.
        reason = f"{type(error).__name__}: {error}"
        raise FileNotFoundError(f"{place} cannot be listed ({reason}); name its files by a pattern") from error


def _named(places: list[str], top: str | None, path: str) -> list[Address]:
    """The shards with their names below a folder; below the one that they have in common if it is None."""
    if not places:
        raise FileNotFoundError(f"{path} has no tar files{_packed_instead(path)}")
    parts = [place.split("/")[:-1] for place in places]
    common = 0 if top in (".", None) else len(str(top).rstrip("/").split("/"))
    while top is None and all(len(one) > common and one[common] == parts[0][common] for one in parts):
        common += 1
    return [Address(place, "/".join(place.partition("?")[0].split("/")[common:])) for place in places]


def _packed_instead(path: str) -> str:
    if is_address(path) or not Path(path).is_dir():
        return ""
    found = next((one.name for one in sorted(Path(path).rglob("*")) if one.name.endswith(_PACKED)), None)
    return "" if found is None else f"; {found} is compressed, and its samples have no place of their own: unpack it"
