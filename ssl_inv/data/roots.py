"""What a setting `path` can name: a folder, an archive, a text file of paths, or several of these."""

import hashlib
import itertools
import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PureWindowsPath
from typing import Literal

from ssl_inv.catalogue import SettingError, suggest
from ssl_inv.data.archives import Files
from ssl_inv.data.exclusion import kept, leaves_out
from ssl_inv.data.images import IMAGE_SUFFIXES
from ssl_inv.data.named_files import relative
from ssl_inv.data.names import Names, packed, unpacked, utf8_name

Links = Literal["follow", "refuse"]

LIST_SUFFIXES = (".txt", ".lst", ".list")
"""How the names of text files of paths end."""

_ENDINGS = "|".join(re.escape(suffix) for suffix in sorted(IMAGE_SUFFIXES))

_LINE = re.compile(rf"(?P<path>.*(?:{_ENDINGS}))(?:(?P<between>\s*\t\s*|\s*,\s*| +)(?P<told>\S.*))?", re.IGNORECASE)
"""A path ends where the last ending of an image stands, so that blanks and commas in it do no harm."""


def is_list(path: str | Path) -> bool:
    """Whether a name is one of a text file of paths, by its ending."""
    return str(path).lower().endswith(LIST_SUFFIXES)


def open_files(
    path: str | Sequence[str], exclude: Sequence[str] = (), outside: bool = False, setting: str = "path"
) -> Files:
    """The files of what a setting names.

    Args:
        path: a folder, an archive or a text file of paths; or several, which are read as if they were one folder.
        exclude: see `Files`.
        outside: whether a text file may name files outside its folder.
        setting: the name of the setting, for messages.

    Raises:
        FileNotFoundError: if nothing is there.
        SettingError: if several are none, or one of them is inside another.
        ValueError: if one of them cannot be read.
    """
    if not isinstance(path, str):
        return SeveralFiles(path, exclude, outside, setting)
    place = Path(path).expanduser()
    if is_list(place) and place.is_file():
        return ListedFiles(place, exclude, outside)
    return Files(place, exclude)


class ListedFiles(Files):
    """The images that a text file lists, one path a line, relative to the folder of the file.

    Empty lines, and lines that begin with `#`, are passed over. A class can follow each path, after a comma, a tab or
    blanks, as in the lists of ImageNet and Places365: what stands behind the ending of the image. All lines have a
    class, or none. A path that begins with `/` and is found below the folder, as in those of Places365, is that file.

    Args:
        path: the text file, UTF-8.
        exclude: see `Files`.
        outside: whether files may lie outside the folder of the text file.

    Attributes:
        classes: the class of every file by its name; None if the list gives none.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if the text file is none of paths, a file lies outside although it may not, or has two classes.
    """

    def __init__(self, path: Path, exclude: Sequence[str] = (), outside: bool = False) -> None:
        self.list = path
        super().__init__(path.parent, exclude, outside)
        found: dict[str, str] = {}
        again = 0
        for number, name, told in _lines(path):
            name = self._placed(name, number, outside)
            again += name in found
            if found.setdefault(name, told) != told:
                raise ValueError(f"{path}, line {number}: {name!r} has the class {told!r}, and {found[name]!r} before")
        missing = [name for name in found if not (self.path / name).is_file()]
        if missing:
            folder = posixpath.dirname(missing[0])
            close = f"there is no folder {folder!r}"
            if (self.path / folder).is_dir():
                beside = (posixpath.join(folder, one) for one in Files(self.path, outside=True).inside(folder))
                close = suggest(missing[0], filter(_of_image, beside))
            raise FileNotFoundError(f"{path}: no file {missing[0]!r} ({len(missing)} of {len(found)} missing); {close}")
        listed = packed(sorted(found, key=os.fsencode))
        mask, self.left_out = kept(listed, self._exclude)
        self._names = listed[mask]
        self.left_out += [f"{again} line(s) that name a file again"] if again else []
        self.classes = found if any(found.values()) else None
        leads_out = any(name.startswith("../") for name in found)
        self._common = os.path.commonpath([_real(self.path / name).parent for name in found]) if leads_out else None

    def __str__(self) -> str:
        return str(self.list)

    def _placed(self, name: str, number: int, outside: bool) -> str:
        """A path as it is named here."""
        if PureWindowsPath(name).drive:
            problem = f"{name!r} is a path of Windows; paths begin at the folder of the list"
            raise ValueError(f"{self.list}, line {number}: {problem}")
        there = "\\" in name and (self.path / name).is_file()
        plain = posixpath.normpath(name if there else name.replace("\\", "/"))
        if not plain.startswith(("/", "../")):
            return plain
        if plain.startswith("/") and not Path(plain).is_file() and (self.path / plain.lstrip("/")).is_file():
            return plain.lstrip("/")
        plain = relative(plain, str(self.path))
        if plain.startswith("../") and not outside:
            problem = f"{name!r} leads out of the folder of the list; `outside: true` allows it"
            raise ValueError(f"{self.list}, line {number}: {problem}")
        return plain

    def below(self, names: Names) -> Names:
        """See `Files.below`; if files lie outside, from the folder on that all files have in common."""
        if self._common is None:
            return names
        return packed(os.path.relpath(_real(self.path / unpacked(name)), self._common) for name in names)

    def class_of(self, name: bytes) -> str | None:
        """See `Files.class_of`."""
        return None if self.classes is None else self.classes[unpacked(name)]

    @property
    def stamp(self) -> str:
        """See `Files.stamp`; also of the classes."""
        told = sorted((self.classes or {}).items())
        return hashlib.sha256(repr((super().stamp, told)).encode("utf-8", "surrogateescape")).hexdigest()


def _real(path: Path) -> Path:
    """A path without `..` and without links in its folders; the file itself may be a link."""
    return Path(os.path.realpath(path.parent), path.name)


def _of_image(name: str) -> bool:
    return name.lower().endswith(tuple(IMAGE_SUFFIXES))


def _lines(path: Path) -> Iterator[tuple[int, str, str]]:
    """Number, path and class of every line of a text file of paths; without classes, the latter are empty."""
    try:
        text = Files(path.parent).read(path.name).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start + 1}); save it as UTF-8") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    first: tuple[int, str] | None = None
    advice = "more columns are read from a table with a header: a .csv file, `data.name: table`"
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if (match := _LINE.fullmatch(line)) is None:
            problem = f"{line!r} is neither the path of an image nor such a path and a class"
            raise ValueError(f"{path}, line {number}: {problem}; {advice}")
        told, between = match["told"] or "", (match["between"] or "").strip(" ") or (match["between"] or "")[:1]
        if re.search(r"[,;\t|]" if between in (",", "\t") else r"[\s,;|]", told):
            raise ValueError(f"{path}, line {number}: {told!r} behind the path is no class; {advice}")
        if first is None:
            first = number, between
        if between != first[1]:
            words = {"": "no class", ",": "a class after a comma", "\t": "a class after a tab"}
            one, other = (words.get(each, "a class after a blank") for each in (between, first[1]))
            raise ValueError(f"{path}, line {number} has {one}, but line {first[0]} {other}; {advice}")
        yield number, match["path"].rstrip(), told
    if first is None:
        raise ValueError(f"{path} lists no images")


class SeveralFiles(Files):
    """Several folders, archives and text files of paths, as if they were one folder.

    A name begins with the last part of the path that it was found in, or with as many parts as tell the paths apart. A
    file that two of them reach, by a link, is read once, under the first name.

    Args:
        paths: see `open_files`.
        exclude: see `Files`.
        outside: see `open_files`.
        setting: see `open_files`.

    Raises:
        SettingError: if there are none, or one of them is inside another.
    """

    def __init__(
        self, paths: Sequence[str], exclude: Sequence[str] = (), outside: bool = False, setting: str = "path"
    ) -> None:
        if not paths:
            raise SettingError(setting, "is an empty list; name a folder or an archive")
        _require_apart([Path(one).expanduser() for one in paths], setting)
        self.roots = [open_files(one, exclude, outside, setting) for one in paths]
        self.path = Path(os.path.commonpath([os.path.abspath(one.path) for one in self.roots]))
        self._places, self._exclude, self.outside = None, tuple(exclude), outside
        self._of = dict(zip(_told_apart(paths), self.roots, strict=True))
        self._depth = next(iter(self._of)).count("/") + 1
        names, seen, again = [], set[tuple[int, int]](), 0
        for root, files in self._of.items():
            here = []
            for name in files.names:
                key = _identity(files.path_of(name)) if len(self.roots) > 1 else None
                if key is not None and key in seen:
                    again += 1
                    continue
                here += [key] if key is not None else []
                names.append(os.fsencode(f"{root}/") + name)
            # Two names of one file in one folder are two files, as they are without another folder.
            seen.update(here)
        self._names = packed(names)
        self.left_out = [f"{root}: {one}" for root, files in self._of.items() for one in files.left_out]
        self.left_out += [f"{again} file(s) that another path has already"] if again else []

    def __str__(self) -> str:
        return ", ".join(map(str, self.roots))

    def _open(self) -> None:
        """Each of the roots opens itself."""

    def _split(self, name: str | bytes) -> tuple[Files, bytes]:
        *root, rest = os.fsencode(name).split(b"/", self._depth)
        files = self._of.get(os.fsdecode(b"/".join(root)))
        if files is None:
            raise FileNotFoundError(f"no file {os.fsdecode(name)!r} in {self}")
        return files, rest

    def read(self, name: str | bytes) -> bytes:
        """See `Files.read`."""
        files, rest = self._split(name)
        return files.read(rest)

    def path_of(self, name: str | bytes) -> Path | None:
        """See `Files.path_of`."""
        files, rest = self._split(name)
        return files.path_of(rest)

    def __contains__(self, name: str) -> bool:
        return os.fsencode(name) in set(self.names)

    def inside(self, folder: str) -> Iterator[str]:
        """See `Files.inside`."""
        prefix = f"{folder.strip('/')}/".lstrip("/")
        tails = (unpacked(one).removeprefix(prefix) for one in self.names if unpacked(one).startswith(prefix))
        yield from (tail for tail in tails if "/" not in tail)

    def below(self, names: Names) -> Names:
        """See `Files.below`; each from its own folder or archive on."""
        below: list[bytes] = []
        for files, some in itertools.groupby(map(self._split, names), key=lambda pair: pair[0]):
            below.extend(map(bytes, files.below(packed(rest for _, rest in some))))
        return packed(below)

    def class_of(self, name: bytes) -> str | None:
        """See `Files.class_of`."""
        files, rest = self._split(name)
        return files.class_of(rest)

    @property
    def stamp(self) -> str:
        """See `Files.stamp`."""
        return hashlib.sha256(" ".join(files.stamp for files in self.roots).encode()).hexdigest()


def _identity(path: Path | None) -> tuple[int, int] | None:
    """What two paths of one file have in common; None in an archive, and of a link that leads nowhere."""
    try:
        found = None if path is None else path.stat()
    except OSError:
        return None
    return None if found is None else (found.st_dev, found.st_ino)


def _require_apart(paths: Sequence[Path], setting: str) -> None:
    """Refuse a path that stands twice, or inside another."""
    reals = [path.resolve() for path in paths]
    for number, real in enumerate(reals):
        for other in range(len(paths)):
            if number == other or is_list(real) or is_list(reals[other]):
                continue
            if real == reals[other]:
                raise SettingError(setting, f"{str(paths[number])!r} stands in the list twice")
            if real in reals[other].parents:
                inside = f"{str(paths[other])!r} lies inside {str(paths[number])!r}, which has its images too"
                raise SettingError(setting, f"{inside}; leave one of them out")


def _told_apart(paths: Sequence[str]) -> list[str]:
    """The last parts of paths, as few as tell them apart."""
    whole = [Path(os.path.abspath(Path(one).expanduser())).parts[1:] for one in paths]
    for depth in range(1, max(map(len, whole)) + 1):
        names = ["/".join(parts[-depth:]) for parts in whole]
        if len(set(names)) == len(names) and len({name.count("/") for name in names}) == 1:
            return names
    return [str(number) for number in range(1, len(paths) + 1)]


def require_other_files(train: Files, validation: str | Sequence[str]) -> None:
    """Refuse to judge by the images that are trained on.

    Raises:
        SettingError: for `validation`, if one of its folders or archives is one of the training images, or lies inside.
    """
    roots = train.roots if isinstance(train, SeveralFiles) else [train]
    for files, one in itertools.product(roots, [validation] if isinstance(validation, str) else validation):
        first = (files.list if isinstance(files, ListedFiles) else files.path).resolve()
        second = Path(one).expanduser().resolve()
        if first == second:
            problem = f"{one!r} is the training data itself"
            raise SettingError("validation", f"{problem}; leave it out, and a share is held out")
        if first in second.parents and len(files.names.below(os.fsencode(second.relative_to(first).as_posix()))):
            problem = f"{one!r} lies inside the training data, which has its images too"
            raise SettingError("validation", f"{problem}; move it, or name it in `exclude`")


def require_no_shared_file(train: Files, validation: Files) -> None:
    """Refuse an image that is both to train on and to judge by, where paths alone do not show it: in text files of
    paths, several folders, and a folder around that of the training images.

    Raises:
        SettingError: for `validation`, naming the image.
    """
    around = validation.path.resolve() in train.path.resolve().parents
    if not around and not any(isinstance(one, ListedFiles | SeveralFiles) for one in (train, validation)):
        return
    known = {_identity(train.path_of(name)) for name in train.names} - {None}
    for name in validation.names:
        if _identity(validation.path_of(name)) in known:
            both = f"{utf8_name(name)!r} of {validation} is a file of the training data too"
            raise SettingError("validation", f"{both}; leave it out of one of them")


def refuse_links(files: Files, exclude: Sequence[str] = ()) -> None:
    """Refuse data with symbolic links. In archives, none is followed.

    Raises:
        SettingError: naming the first link.
    """
    if isinstance(files, SeveralFiles):
        for one in files.roots:
            refuse_links(one, exclude)
    elif isinstance(files, ListedFiles):
        refuse_links_to(files, files.names)
    elif files.path.is_dir():
        for link in _links_below(files.path, "", exclude):
            raise _refused(f"{files.path}/{link}")


def refuse_links_to(files: Files, names: Names) -> None:
    """Refuse files of a folder that are reached by symbolic links; see `refuse_links`."""
    plain: set[Path] = set()
    for name in names if files.path.is_dir() else ():
        way = files.path
        for part in Path(unpacked(name)).parts:
            way /= part
            if part != ".." and way not in plain and way.is_symlink():
                raise _refused(str(way))
            plain.add(way)


def _refused(link: str) -> SettingError:
    return SettingError("links", f"{utf8_name(link)!r} is a symbolic link; set `links: follow`, or take it away")


def _links_below(top: Path, prefix: str, exclude: Sequence[str]) -> Iterator[str]:
    try:
        entries = sorted(os.scandir(top / prefix), key=lambda one: os.fsencode(one.name))
    except OSError:
        return
    for entry in entries:
        name = prefix + entry.name
        if leaves_out(name, exclude):
            continue
        if entry.is_symlink():
            yield name
        elif entry.is_dir(follow_symlinks=False):
            yield from _links_below(top, f"{name}/", exclude)
