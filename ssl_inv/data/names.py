"""Names of files as one text: millions of them take the memory of their letters, and processes share it."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Protocol, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ssl_inv.data.source import Indices

_CHUNK = 1 << 19
"""Names that are worked on at a time, so that what is made on the way stays small."""

_PADDED_BYTES = 1 << 24


class Origin(Protocol):
    """The file that names are mapped from."""

    def there(self) -> bool:
        """Whether the file has the same names still."""
        ...

    def names(self) -> "Names":
        """The names, mapped anew."""
        ...


class Names(Sequence[bytes]):
    """Names relative to the top of a folder or an archive, in UTF-8, with parts separated by `/`.

    An item is a `bytes`. A slice, an array of places or a mask chooses some names, which share the text.

    Args:
        text: the letters of all names, one behind the other, `(letters,)`, uint8.
        bounds: where each name begins, and the end of the last one, `(N + 1,)`, int64.
        rows: which of them are meant, in order; None means all.
        origin: the file that the text is mapped from. A pickled copy maps it again.
    """

    def __init__(
        self, text: NDArray[np.uint8], bounds: Indices, rows: Indices | None = None, origin: Origin | None = None
    ) -> None:
        self._text, self._bounds, self._rows, self.origin = text, bounds, rows, origin
        self._count = len(bounds) - 1 if rows is None else len(rows)
        # For access to single names, which numpy takes several times as long for.
        self._letters, self._edges = text.data, bounds.data

    def __reduce__(self) -> tuple[Any, ...]:
        if self.origin is not None and self.origin.there():
            return _from_origin, (self.origin, self._rows)
        return Names, (np.array(self._text), np.array(self._bounds), self._rows)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, which: int) -> bytes: ...

    @overload
    def __getitem__(self, which: slice | Indices | NDArray[np.bool_]) -> "Names": ...

    def __getitem__(self, which: Any) -> Any:
        if isinstance(which, slice) or isinstance(which, np.ndarray):  # noqa: SIM101  # a union takes longer
            if isinstance(which, np.ndarray) and which.dtype == np.bool_:
                if which.all():
                    return self
                which = np.flatnonzero(which)
            small = np.int32 if self._count <= np.iinfo(np.int32).max else np.int64
            if self._rows is not None:
                rows = self._rows[which]
            elif isinstance(which, slice):
                rows = np.arange(*which.indices(self._count), dtype=small)
            else:
                rows = which.astype(small)
            return Names(self._text, self._bounds, rows, self.origin)
        if not -self._count <= which < self._count:
            raise IndexError(f"there is no name {which} among {self._count}")
        place = which % self._count if self._rows is None else self._rows[which]
        return self._letters[self._edges[place] : self._edges[place + 1]].tobytes()

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks():
            bounds, text = _parts(chunk)
            letters, ends = text.tobytes(), bounds.tolist()
            for start, end in pairwise(ends):
                yield letters[start:end]

    def _chunks(self, size: int | None = None) -> Iterator[pa.LargeBinaryArray]:
        """The names in parts, without a copy of the text where all are meant."""
        buffers = [None, pa.py_buffer(self._bounds), pa.py_buffer(self._text)]
        whole = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(self._bounds) - 1, buffers)
        size = _CHUNK if size is None else size
        for first in range(0, len(self), size):
            yield whole.slice(first, size) if self._rows is None else whole.take(self._rows[first : first + size])

    def arrow(self) -> pa.LargeBinaryArray:
        """The names as one array of arrow."""
        return next(self._chunks(max(self._count, 1)), pa.array([], type=pa.large_binary()))

    def find(self, wanted: "Names") -> Indices:
        """The places of `wanted` among these names, -1 for a name that is not there, `(len(wanted),)`.

        The memory for it grows with the shorter of the two.
        """
        found = np.full(len(wanted), -1, dtype=np.int64)
        if len(wanted) > len(self):
            known = self.arrow()
            for first, chunk in wanted._numbered():
                places = pc.index_in(chunk, value_set=known).fill_null(-1)
                found[first : first + len(chunk)] = places.to_numpy()
            return found
        numbers, values = wanted.numbered()
        of_value = np.full(len(values), -1, dtype=np.int64)
        for first, chunk in self._numbered():
            which = pc.index_in(chunk, value_set=values).fill_null(-1).to_numpy()
            rows = np.flatnonzero(which >= 0)
            of_value[which[rows]] = first + rows
        return of_value[numbers]

    def _numbered(self) -> Iterator[tuple[int, pa.LargeBinaryArray]]:
        return zip(range(0, len(self), _CHUNK), self._chunks(), strict=True)

    def numbered(self) -> tuple[Indices, pa.LargeBinaryArray]:
        """A number for every name, `(N,)`, equal for equal names, and the name of every number."""
        encoded = pc.dictionary_encode(self.arrow())
        return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary

    def place(self, name: bytes) -> int | None:
        """Where a name stands among these, which must ascend; None if it is not there."""
        place = self._first_from(name)
        return place if place < len(self) and self[place] == name else None

    def _first_from(self, name: bytes) -> int:
        letters, edges, rows = self._letters, self._edges, self._rows
        low, high = 0, self._count
        while low < high:
            middle = (low + high) // 2
            place = middle if rows is None else rows[middle]
            if letters[edges[place] : edges[place + 1]].tobytes() < name:
                low = middle + 1
            else:
                high = middle
        return low

    def below(self, folder: bytes) -> "Names":
        """Those of these names, which must ascend, that begin with a folder; all of them if it is empty."""
        if not folder:
            return self
        # No other byte is between a slash and a zero.
        return self[self._first_from(folder + b"/") : self._first_from(folder + b"0")]

    def with_slashes(self, count: int) -> "Names":
        """The names that have so many slashes."""
        return self[self._mask(lambda chunk: pc.equal(pc.count_substring(chunk, pattern=b"/"), count))]

    def beginning(self, start: bytes) -> NDArray[np.bool_]:
        """Which names begin so, `(N,)`."""
        return self._mask(lambda chunk: pc.starts_with(chunk, pattern=start))

    def _mask(self, test: Any) -> NDArray[np.bool_]:
        masks = [np.asarray(test(chunk).to_numpy(zero_copy_only=False), dtype=bool) for chunk in self._chunks()]
        return np.concatenate(masks) if masks else np.zeros(0, dtype=bool)

    def ending(self, suffixes: Iterable[str]) -> NDArray[np.bool_]:
        """Which names end, in upper or lower case, with one of the suffixes of at most 8 bytes, `(N,)`."""
        codes: dict[int, list[int]] = {}
        for suffix in suffixes:
            ascii_end = suffix.lower().encode()
            codes.setdefault(len(ascii_end), []).append(int.from_bytes(ascii_end, "big"))
        lower = np.arange(256, dtype=np.uint64)
        lower[ord("A") : ord("Z") + 1] += np.uint64(ord("a") - ord("A"))
        masks = [np.zeros(0, dtype=bool)]
        for chunk in self._chunks():
            bounds, text = _parts(chunk)
            ends, lengths = bounds[1:], np.diff(bounds)
            mask, code = np.zeros(len(chunk), dtype=bool), np.zeros(len(chunk), dtype=np.uint64)
            for back in range(1, max(codes, default=0) + 1):
                long_enough = lengths >= back
                letters = text[np.where(long_enough, ends - back, 0)] if len(text) else np.zeros(len(chunk), np.uint8)
                code |= lower[letters] << np.uint64(8 * (back - 1))
                if back in codes:
                    mask |= long_enough & np.isin(code, np.array(codes[back], dtype=np.uint64))
            masks.append(mask)
        return np.concatenate(masks)

    def parents(self) -> tuple[NDArray[np.int32], list[bytes]]:
        """The path of the folder of every file: its number, `(N,)`, and the path of every number, ascending. It is
        empty for a file at the top.
        """
        return self._numbered_parts(_parents)

    def folders(self, depth: int) -> tuple[NDArray[np.int32], list[bytes]]:
        """The folder at a depth of every file: its number, `(N,)`, and the folder of every number, ascending. It is
        empty for a file that itself stands at that depth, or above.
        """

        def at_depth(text: NDArray[np.uint8], bounds: Indices) -> tuple[Indices, Indices]:
            starts, ends = bounds[:-1].copy(), bounds[1:]
            for level in range(depth + 1):
                slash = _slices(text, starts, ends, pc.find_substring, pattern=b"/")
                if level < depth:
                    starts = np.where(slash < 0, ends, starts + slash + 1)
            return starts, starts + np.maximum(slash, 0)

        return self._numbered_parts(at_depth)

    def _numbered_parts(
        self, part: Callable[[NDArray[np.uint8], Indices], tuple[Indices, Indices]]
    ) -> tuple[NDArray[np.int32], list[bytes]]:
        """A number for a part of every name, `(N,)`, and the part of every number, ascending. `part` gives the start
        and the end of each in the text of some names.
        """
        known: dict[bytes, int] = {}
        numbers = np.empty(len(self), dtype=np.int32)
        for first, chunk in self._numbered():
            bounds, text = _parts(chunk)
            encoded = _slices(text, *part(text, bounds), pc.dictionary_encode)
            own = [known.setdefault(value, len(known)) for value in encoded.dictionary.to_pylist()]
            numbers[first : first + len(chunk)] = np.array(own, dtype=np.int32)[encoded.indices.to_numpy()]
        found = list(known)
        order = sorted(range(len(found)), key=found.__getitem__)
        rank = np.empty(len(found), dtype=np.int32)
        rank[order] = np.arange(len(found), dtype=np.int32)
        return rank[numbers] if found else numbers, [found[one] for one in order]

    def padded(self) -> Iterator[bytes]:
        """The names in parts, each filled with zeros to the length of the longest, as numpy's `S` type holds them."""
        width = 1
        for chunk in self._chunks():
            width = max(width, int(np.diff(_parts(chunk)[0]).max()))
        for chunk in self._chunks(max(1, _PADDED_BYTES // width)):
            bounds, text = _parts(chunk)
            rows = np.zeros((len(chunk), width), dtype=np.uint8)
            rows[np.arange(width) < np.diff(bounds)[:, None]] = text
            yield rows.tobytes()


def _from_origin(origin: Origin, rows: Indices | None) -> Names:
    names = origin.names()
    return names if rows is None else names[rows]


def _parents(text: NDArray[np.uint8], bounds: Indices) -> tuple[Indices, Indices]:
    """Where the folders of some files begin and end in the text of their names."""
    starts, slashes = bounds[:-1], np.flatnonzero(text == ord("/"))
    last = np.searchsorted(slashes, bounds[1:]) - 1
    ends = np.where(last >= 0, slashes[last] if len(slashes) else 0, 0)
    return starts, np.maximum(starts, ends)


def _parts(chunk: pa.LargeBinaryArray) -> tuple[Indices, NDArray[np.uint8]]:
    """The bounds of some names, beginning with 0, and their text."""
    _, bounds, text = chunk.buffers()
    offsets = np.frombuffer(bounds, dtype=np.int64)[chunk.offset : chunk.offset + len(chunk) + 1]
    letters = np.frombuffer(text, dtype=np.uint8) if text is not None else np.zeros(0, dtype=np.uint8)
    return offsets - offsets[0], letters[offsets[0] : offsets[-1]]


def _slices(text: NDArray[np.uint8], starts: Indices, ends: Indices, function: Any, **options: object) -> Any:
    """A function of arrow on `text[start:end]` for each of some ascending slices; an array where it gives numbers."""
    bounds = np.stack((starts, ends), axis=1).ravel()
    buffers = [None, pa.py_buffer(bounds), pa.py_buffer(np.ascontiguousarray(text))]
    pieces = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(bounds) - 1, buffers)
    # Every second piece lies between two of the slices.
    found = function(pieces.take(np.arange(0, len(pieces), 2)), **options)
    return found if isinstance(found, pa.DictionaryArray) else found.to_numpy().astype(np.int64)


def packed(names: Iterable[str | bytes]) -> Names:
    """Names in their order. Surrogates in a str stand for bytes of a file name that are not UTF-8."""
    encoded = [os.fsencode(name) for name in names]
    return from_lengths([b"".join(encoded)], [np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))])


def from_lengths(texts: Sequence[bytes | NDArray[np.uint8]], lengths: Sequence[Indices]) -> Names:
    """Names from parts of their text, and how long each of them is."""
    parts = [np.frombuffer(one, dtype=np.uint8) if isinstance(one, bytes) else one for one in texts]
    bounds = np.zeros(sum(map(len, lengths)) + 1, dtype=np.int64)
    if lengths:
        np.cumsum(np.concatenate(lengths), out=bounds[1:])
    return Names(np.concatenate(parts) if parts else np.zeros(0, dtype=np.uint8), bounds)


def unpacked(name: bytes) -> str:
    """One name as text."""
    return os.fsdecode(bytes(name))


def utf8_name(name: bytes | str) -> str:
    """A name as text: a byte that is not UTF-8 is written as `udcff` behind a backslash.

    Control characters stay, for the name tells files apart; `ssl_inv.plain.printable` is for terminals.
    """
    return os.fsdecode(name).encode("utf-8", "backslashreplace").decode()
