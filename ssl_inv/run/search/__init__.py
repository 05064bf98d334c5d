"""Search in a folder of embeddings: nearest pictures in each part of the features, and near duplicates.

    index = Index.open("photos-index")
    for found in index.neighbours(["query.jpg"], k=5):
        print(found.query, found.parts["all"][0].path)

torch and faiss are loaded at the first search.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_inv.atomic import checksum
from ssl_inv.catalogue import RecipeError, suggest
from ssl_inv.run.shards import Shards, read_manifest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from ssl_inv.run.search.duplicates import Duplicates
    from ssl_inv.run.search.pictures import Pictures

    Vectors = NDArray[np.float32]

Image = Any
"""What can be asked for: the path of a file, folder or archive; the number or id of a row; or the pixels, a PIL image
or `(H, W, 3)` uint8."""


@dataclass(frozen=True)
class Neighbour:
    """An image near to a query.

    Attributes:
        row: its number in the index.
        id: its name in the data.
        path: its file, if it is one that is there.
        score: the cosine of the two vectors, at most 1.
        label: its class, if known.
    """

    row: int
    id: str
    path: str | None
    score: float
    label: str | None


@dataclass(frozen=True)
class Found:
    """The answer to one query.

    Attributes:
        query: its name.
        row: its number, if it is in the index; it is then not its own neighbour.
        pixels: of a query that is not in the index, `(H, W, 3)`, uint8, the square that was encoded.
        parts: its neighbours, the nearest first, by part of the features.
    """

    query: str
    row: int | None
    pixels: "NDArray[np.uint8] | None"
    parts: dict[str, list[Neighbour]]

    def to_json(self) -> dict[str, Any]:
        """Plain values, without pixels."""
        near = {part: [dict(vars(one)) for one in found] for part, found in self.parts.items()}
        return {"query": self.query, "row": self.row, "neighbours": near}


@dataclass(frozen=True)
class _Query:
    name: str
    row: int | None = None
    pixels: "NDArray[np.uint8] | None" = None


class Index:
    """The index of a folder of embeddings; `open` makes one.

    Args:
        folder: of the embeddings.
        manifest: what its manifest says.
        encoder: where the encoder is by now, or the encoder itself, as `ssl_inv.embed` takes it; None is where it was.
        overrides: settings of the data as on a command line, such as `--data.path=...` after the pictures were moved.
        warn: told about queries that cannot be read, and other things that a reader should know.

    Attributes:
        rows: number of images.
        kind: `exact` or `ivf-pq`.
        parts: where the parts of the features lie within all of them.
    """

    def __init__(
        self,
        folder: Path,
        manifest: dict[str, Any],
        encoder: Any = None,
        overrides: Sequence[str] = (),
        warn: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.folder, self.manifest, self.overrides, self.warn = folder, manifest, list(overrides), warn
        self.shards = Shards(folder, manifest)
        facts = manifest["index"]
        self.rows: int = facts["rows"]
        self.kind: str = facts["kind"]
        self.parts: dict[str, slice] = {name: slice(*ends) for name, ends in facts["parts"].items()}
        self.facts: dict[str, dict[str, Any]] = facts["files"]
        self._encoder_now = encoder
        self._opened: dict[str, Any] = {}

    @classmethod
    def open(
        cls,
        path: str | Path,
        encoder: Any = None,
        overrides: Sequence[str] = (),
        warn: Callable[[str], None] = lambda _: None,
    ) -> "Index":
        """The index of a folder that `ssl-inv embed --index` has written.

        Raises:
            RecipeError: if the folder has none, or not all of one.
        """
        folder, again = Path(path), "`ssl-inv embed MODEL --output FOLDER --index auto` writes one"
        if not folder.is_dir():
            raise RecipeError(f"there is no folder {str(path)!r}; {again}")
        try:
            manifest = read_manifest(folder)
        except (OSError, ValueError):
            raise RecipeError(f"{str(path)!r} is no folder of embeddings; {again}") from None
        facts = manifest.get("index")
        if not facts:
            raise RecipeError(f"{str(path)!r} has embeddings and no index; {again} beside them")
        missing = [name for name in facts["parts"] if name not in facts["files"] or not _file(folder, name).is_file()]
        if missing:
            raise RecipeError(f"{str(path)!r}: the index of {missing[0]!r} is missing; {again}")
        index = cls(folder, manifest, encoder, overrides, warn)
        if index.shards.rows != index.rows:
            counts = f"{index.shards.rows:,} rows in the shards and {index.rows:,} in the index"
            raise RecipeError(f"{str(path)!r}: {counts}; {again}")
        return index

    def __len__(self) -> int:
        return self.rows

    @property
    def shown_parts(self) -> list[str]:
        """The parts that a search takes by default: invariant and equivariant where there are both, else all."""
        both: list[str] = [name for name in ("invariant", "equivariant") if name in self.parts]
        return both if len(both) == 2 else ["all"]

    def chosen_parts(self, part: str | None) -> list[str]:
        """One part by its name, or the default ones.

        Raises:
            RecipeError: if there is no such part.
        """
        if part is None:
            return self.shown_parts
        if part not in self.parts:
            raise RecipeError(f"part: the index has no {part!r}; {suggest(part, list(self.parts))}")
        return [part]

    @cached_property
    def columns(self) -> dict[str, list[Any]]:
        """What is known of every row: `id`, `split`, `object`, `view`, and `label` if there are classes."""
        return self.shards.columns(["id", "split", "object", "view", "label"])

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {name: row for row, name in reversed(list(enumerate(self.columns["id"])))}

    @cached_property
    def pictures(self) -> "Pictures":
        """The pictures of the rows."""
        from ssl_inv.run.search.pictures import Pictures

        return Pictures(self.manifest, self.columns, self.overrides)

    # The search.

    def neighbours(self, images: Iterable[Image] | Image, k: int = 10, part: str | None = None) -> list[Found]:
        """The images nearest to each query.

        Args:
            images: one or several queries; of a folder or archive every image is one.
            k: neighbours of each query.
            part: `invariant`, `equivariant` or `all`; None takes the first two where the encoder has them.

        Raises:
            RecipeError: if a query is neither an image nor a row, or the encoder has other weights than the index.
        """
        if k < 1:
            raise RecipeError(f"k: must be at least 1, got {k}")
        parts = self.chosen_parts(part)
        given = images if isinstance(images, Iterable) and not _is_single(images) else [images]
        queries = [query for one in given for query in self._asked(one)]
        if not queries:
            raise RecipeError("there is nothing to ask for: no image that can be read")
        features = self._features(queries)
        near = {name: self._nearest(name, features, queries, k) for name in parts}
        return [
            Found(query.name, query.row, query.pixels, {name: near[name][place] for name in parts})
            for place, query in enumerate(queries)
        ]

    def duplicates(
        self, threshold: float = 0.98, part: str | None = None, progress: Callable[[int, int], None] | None = None
    ) -> "Duplicates":
        """Groups of images that are near duplicates; see `search_duplicates.find_duplicates`."""
        from ssl_inv.run.search.duplicates import find_duplicates

        return find_duplicates(self, threshold, self.chosen_parts(part or "all")[0], progress)

    def vectors(self, rows: "NDArray[np.int64]", part: str) -> "Vectors":
        """The unit vectors of some rows `(n,)` in a part of the features, `(n, D)`."""
        import numpy as np

        from ssl_inv.memories.indices import unit

        if self.kind == "exact":
            found: Vectors = self.faiss(part).reconstruct_batch(np.ascontiguousarray(rows, dtype=np.int64))
            return found
        return unit(np.asarray(self._kept[rows][:, self.parts[part]], dtype=np.float32))

    @cached_property
    def _kept(self) -> "NDArray[np.float16]":
        import numpy as np

        for facts in self.facts.values():
            _require_sound(self.vectors_file, facts.get("vectors_crc32"))
        kept: NDArray[np.float16] = np.load(self.vectors_file, mmap_mode="r")
        return kept

    @property
    def vectors_file(self) -> Path:
        """The vectors beside a compressed index."""
        return self.folder / "_index" / "vectors.npy"

    def faiss(self, part: str) -> Any:
        """The faiss index of a part; it is read at the first use."""
        from ssl_inv.memories.indices import read_index

        if part not in self._opened:
            _require_sound(_file(self.folder, part), self.facts[part].get("crc32"))
            try:
                self._opened[part] = read_index(_file(self.folder, part))
            except ValueError as error:
                raise RecipeError(f"{error}; remove it and embed again") from None
        return self._opened[part]

    def _nearest(self, part: str, features: "Vectors", queries: list[_Query], count: int) -> list[list[Neighbour]]:
        import numpy as np

        own = np.array([[-1 if query.row is None else query.row] for query in queries])
        rows, cosines = self.search(features[:, self.parts[part]], part, count + 1)
        kept = [
            [(row, score) for row, score in zip(*line, strict=True) if row not in (-1, mine)][:count]
            for *line, mine in zip(rows.tolist(), cosines.tolist(), own[:, 0].tolist(), strict=True)
        ]
        return [[self._neighbour(row, score) for row, score in line] for line in kept]

    def search(self, vectors: "Vectors", part: str, count: int) -> "tuple[NDArray[np.int64], Vectors]":
        """The rows nearest to vectors of a part, and their cosines, `(Q, count)`; rows of -1 are none."""
        from ssl_inv.memories.indices import search
        from ssl_inv.run.search.writing import candidates, ranked

        if self.kind == "exact":
            return search(self.faiss(part), vectors, count)
        near, _ = search(self.faiss(part), vectors, candidates(count), self.facts[part]["probes"])
        return ranked(self.vectors_file, self.parts[part], vectors, near, count)

    def _neighbour(self, row: int, score: float) -> Neighbour:
        label = self.columns["label"][row] if "label" in self.columns else None
        return Neighbour(row, self.columns["id"][row], self.pictures.path(row), round(score, 4), label)

    # The queries.

    def _asked(self, one: Image) -> list[_Query]:
        """The queries that a user means: a row by its number or id, else a file, folder or archive, else pixels."""
        import numpy as np

        if isinstance(one, int | np.integer):
            if not 0 <= int(one) < self.rows:
                raise RecipeError(f"there is no row {one}; the index has rows 0 to {self.rows - 1}")
            return [_Query(self.columns["id"][int(one)], int(one))]
        if not isinstance(one, str | Path):
            from ssl_inv.run.search.pictures import square_of

            return [_Query("image", None, square_of(one, self._encoder["image_size"]))]
        name = str(one)
        if name in self._row_of:
            return [_Query(name, self._row_of[name])]
        if Path(name).expanduser().exists():
            return self._files(Path(name).expanduser())
        if name.isdecimal():
            return self._asked(int(name))
        close = suggest(Path(name).name, self.columns["id"]) if self.rows <= 20_000 else ""
        close = f"; {close}" if close.startswith("did you mean") else ""
        raise RecipeError(f"{name!r} is neither a file, nor the id or number of a row of the index{close}")

    def _files(self, path: Path) -> list[_Query]:
        from ssl_inv.run.search.pictures import squares_at

        found, broken = squares_at(path, self._encoder["image_size"])
        for name, reason in broken.items():
            self.warn(f"{name} cannot be read: {reason}")
        if not found and broken:
            raise RecipeError(f"{str(path)!r} cannot be read: {next(iter(broken.values()))}")
        return [_Query(name, None, pixels) for name, pixels in found.items()]

    @property
    def _encoder(self) -> dict[str, Any]:
        if "encoder" not in self.manifest:
            raise RecipeError(f"{str(self.folder)!r} does not say which encoder made it; embed again into a new folder")
        facts: dict[str, Any] = self.manifest["encoder"]
        return facts

    @cached_property
    def _backbone(self) -> "nn.Module":
        """The encoder, with the weights that the index was made with."""
        from ssl_inv.engine.features import fingerprint
        from ssl_inv.run.encoders import best_device
        from ssl_inv.run.evaluating import model_of

        encoder = self._encoder["name"] if self._encoder_now is None else self._encoder_now
        name = encoder if isinstance(encoder, str) else type(encoder).__name__
        if not name:
            made = "the index was made with a module or function, which no file names"
            raise RecipeError(f"{made}; Index.open(FOLDER, encoder) takes it, and rows of the index need none")
        try:
            backbone = model_of(encoder, bool(self._encoder["pretrained"]) and name.startswith("timm:")).backbone
        except (RecipeError, OSError) as error:
            raise RecipeError(f"the encoder of the index: {error}; --encoder names the place where it is now") from None
        if (weights := fingerprint(backbone)) != self.manifest["weights"]:
            made = f"the index was made with {self.manifest['weights']}"
            raise RecipeError(f"encoder {name!r} has other weights ({weights}); {made}, so queries cannot be compared")
        return backbone.to(best_device())

    def _features(self, queries: list[_Query]) -> "Vectors":
        import numpy as np

        from ssl_inv.run.search.pictures import encode

        places = [place for place, query in enumerate(queries) if query.row is None]
        features = np.zeros((len(queries), self.parts["all"].stop), dtype=np.float32)
        if places:
            pixels = [queries[place].pixels for place in places]
            features[places] = encode(self._backbone, np.stack(pixels), self._encoder)  # type: ignore[arg-type]
        if len(places) < len(queries):
            rows = np.array([query.row for query in queries if query.row is not None], dtype=np.int64)
            unique, where = np.unique(rows, return_inverse=True)
            features[[place for place, query in enumerate(queries) if query.row is not None]] = self.shards.chosen(
                unique
            )[where]
        return features


def _require_sound(file: Path, written: str | None) -> None:
    """Raise a `RecipeError` unless a file is as it was written, where its checksum is known."""
    if written is not None and (not file.is_file() or checksum(file) != written):
        raise RecipeError(f"{file} is damaged: it does not fit its checksum in the manifest; remove it and embed again")


def _file(folder: Path, part: str) -> Path:
    return folder / "_index" / f"{part}.faiss"


def _is_single(value: Any) -> bool:
    """Whether something that can be looped over is one query: a path, pixels, or a PIL image."""
    return isinstance(value, str | Path) or hasattr(value, "shape") or hasattr(value, "getpixel")
