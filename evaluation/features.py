"""Features of all views of a data set, extracted once for all protocols."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save, save_file
from torch import Tensor, nn

from ssl_inv.atomic import SEAL, DamagedFileError, require_sound, seal, written_aside
from ssl_inv.transforms import Group, Transform

Encoder = Callable[[Tensor], Mapping[str, Tensor] | Tensor]
"""Maps pixels `(B, 3, H, W)` to named parts `(B, D)`; a single tensor counts as the part `all`."""


_COLUMNS = 64


class NoViewsError(ValueError):
    """There is no view, or none that can be read."""


class NonFiniteFeaturesError(ValueError):
    """An encoder's output is infinite or not a number."""


@dataclass(frozen=True)
class EvaluationBatch:
    """A batch of views.

    Attributes:
        pixels: `(B, 3, H, W)`, float, normalised as the encoder expects.
        objects: `(B,)`, int64, the object in each view.
        views: `(B,)`, int64, the number of each view within its object.
        labels: `(B,)`, int64, classes; None if the data have none.
        labelled: `(B,)`, bool, False where the label has no meaning; None if every row has a label.
        transform: how each view was made, B rows; no parameters if nothing is known.
    """

    pixels: Tensor
    objects: Tensor
    views: Tensor
    labels: Tensor | None = None
    labelled: Tensor | None = None
    transform: Transform = field(default_factory=Transform.empty)


@dataclass(frozen=True)
class FeatureTable:
    """Features and targets of N views, one row each, on the CPU.

    Attributes:
        features: part name (`all`, `invariant`, `equivariant`, ...) to `(N, D)`.
        objects: `(N,)`, int64.
        views: `(N,)`, int64; unique within an object.
        labels: `(N,)`, int64, or None without labels.
        labelled: `(N,)`, bool, False where the label has no meaning; None if every row has a label.
        class_names: names in index order; empty if unknown.
        transform: N rows, or no parameters.

    Raises:
        ValueError: if the fields have different lengths, or a label is not in `class_names`.
    """

    features: dict[str, Tensor]
    objects: Tensor
    views: Tensor
    labels: Tensor | None = None
    labelled: Tensor | None = None
    class_names: tuple[str, ...] = ()
    transform: Transform = field(default_factory=Transform.empty)

    def __post_init__(self) -> None:
        if not self.features:
            raise ValueError("a feature table needs at least one part")
        per_row = {**{f"features[{part!r}]": value for part, value in self.features.items()}, "views": self.views}
        per_row |= {name: value for name in ("labels", "labelled") if (value := getattr(self, name)) is not None}
        for name, value in {
            **per_row,
            **{f"transform[{name!r}]": self.transform[name] for name in self.transform.names},
        }.items():
            if len(value) != len(self):
                raise ValueError(f"{name} has {len(value)} rows, but objects has {len(self)}")
        known = self.known_labels()
        if self.class_names and len(known) and not 0 <= int(known.min()) <= int(known.max()) < len(self.class_names):
            raise ValueError(
                f"labels lie in {int(known.min())} .. {int(known.max())}, but there are "
                f"{len(self.class_names)} class names"
            )

    def __len__(self) -> int:
        return len(self.objects)

    def part(self, name: str) -> Tensor:
        """The features of one part.

        Raises:
            ValueError: if the table has no such part.
        """
        if name not in self.features:
            raise ValueError(f"no part of the features is called {name!r}; there are {', '.join(self.features)}")
        return self.features[name]

    def labelled_rows(self) -> Tensor:
        """Indices of the rows whose label has a meaning; empty without labels."""
        if self.labels is None:
            return torch.zeros(0, dtype=torch.int64)
        return torch.arange(len(self)) if self.labelled is None else self.labelled.nonzero()[:, 0]

    def known_labels(self) -> Tensor:
        """The labels of `labelled_rows`."""
        return torch.zeros(0, dtype=torch.int64) if self.labels is None else self.labels[self.labelled_rows()]

    def select(self, rows: Tensor) -> "FeatureTable":
        """The table of some rows, in the order of `rows`."""
        return FeatureTable(
            {part: value[rows] for part, value in self.features.items()},
            self.objects[rows],
            self.views[rows],
            None if self.labels is None else self.labels[rows],
            None if self.labelled is None else self.labelled[rows],
            self.class_names,
            self.transform.select(rows),
        )

    def ordered(self) -> "FeatureTable":
        """The table sorted by object, then by view: what is computed from it doesn't depend on the order in which a
        loader came.

        Raises:
            ValueError: if one view of one object stands in the table twice, as a padded distributed sampler leaves it.
        """
        by_view = torch.argsort(self.views, stable=True)
        rows = by_view[torch.argsort(self.objects[by_view], stable=True)]
        objects, views = self.objects[rows], self.views[rows]
        if len(twice := ((objects[1:] == objects[:-1]) & (views[1:] == views[:-1])).nonzero()):
            first = int(twice[0])
            raise ValueError(f"view {int(views[first])} of object {int(objects[first])} stands in the features twice")
        return self if torch.equal(rows, torch.arange(len(self))) else self.select(rows)

    def has_views_of(self, other: "FeatureTable") -> bool:
        """Whether two tables have the same views of the same objects, in any order."""
        here, there = self.ordered(), other.ordered()
        return torch.equal(here.objects, there.objects) and torch.equal(here.views, there.views)

    def save(self, path: Path) -> None:
        """Write a safetensors file, whole or not at all."""
        tensors, metadata = self._content()
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(path) as aside:
            save_file(tensors, aside, metadata=metadata | SEAL)
            seal(aside)

    def to_bytes(self) -> bytes:
        """The content of a file, for another process."""
        tensors, metadata = self._content()
        content: bytes = save(tensors, metadata=metadata)
        return content

    def _content(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        tensors = {"objects": self.objects, "views": self.views}
        tensors |= {name: value for name in ("labels", "labelled") if (value := getattr(self, name)) is not None}
        tensors |= {f"features/{part}": value for part, value in self.features.items()}
        tensors |= {f"transform/{name}": self.transform[name] for name in self.transform.names}
        groups = {name: group.record() for name, group in self.transform.groups.items()}
        facts = {"parts": list(self.features), "class_names": self.class_names, "groups": groups}
        plain = {name: value.contiguous() for name, value in tensors.items()}
        return plain, {name: json.dumps(value) for name, value in facts.items()}

    @classmethod
    def load(cls, path: Path) -> "FeatureTable":
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is not a feature table, or is damaged.
        """
        if not path.is_file():
            raise FileNotFoundError(f"no feature table at {path}")
        require_sound(path)
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise DamagedFileError(f"{path} is damaged: {error}") from None
        if not {"parts", "class_names", "groups"} <= metadata.keys():
            raise ValueError(f"{path} is a safetensors file, but not a feature table")
        return cls._of(tensors, metadata)

    @classmethod
    def from_bytes(cls, content: bytes) -> "FeatureTable":
        """Reads what `to_bytes` gave."""
        header = content[8 : 8 + int.from_bytes(content[:8], "little")]
        return cls._of(load(content), json.loads(header)["__metadata__"])

    @classmethod
    def _of(cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> "FeatureTable":
        groups = {name: Group.from_record(record) for name, record in json.loads(metadata["groups"]).items()}
        return cls(
            {part: tensors[f"features/{part}"] for part in json.loads(metadata["parts"])},
            tensors["objects"],
            tensors["views"],
            tensors.get("labels"),
            tensors.get("labelled"),
            tuple(json.loads(metadata["class_names"])),
            Transform({name: tensors[f"transform/{name}"] for name in groups}, groups),
        )

    @classmethod
    def concatenate(cls, tables: Sequence["FeatureTable"]) -> "FeatureTable":
        """The rows of several tables, one after the other.

        Raises:
            NoViewsError: if there is no table.
            ValueError: if some tables have labels and others have not.
        """
        if not tables:
            raise NoViewsError("there are no views to extract features from")
        return cls(
            {part: torch.cat([table.features[part] for table in tables]) for part in tables[0].features},
            torch.cat([table.objects for table in tables]),
            torch.cat([table.views for table in tables]),
            _joined([table.labels for table in tables], "labels"),
            _joined([table.labelled for table in tables], "labelled flags"),
            tables[0].class_names,
            Transform.concatenate([table.transform for table in tables]),
        )


@dataclass(frozen=True)
class Standardiser:
    """Subtracts a mean and divides by a standard deviation, both `(D,)` and from training rows."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def fit(cls, rows: Tensor) -> "Standardiser":
        """From the rows `(N, D)`. A dimension that varies by rounding error alone is centred and not scaled."""
        # In blocks of columns, because all rows in double precision need twice their memory.
        blocks = [torch.std_mean(block.double(), dim=0, correction=0) for block in torch.split(rows, _COLUMNS, dim=1)]
        deviation, mean = (torch.cat(parts) for parts in zip(*blocks, strict=True))
        dead = deviation <= 1e-6 * mean.abs()
        return cls(mean.to(rows.dtype), deviation.masked_fill(dead, 1.0).to(rows.dtype))

    def __call__(self, rows: Tensor) -> Tensor:
        return (rows - self.mean) / self.deviation

    def undo(self, rows: Tensor) -> Tensor:
        return rows * self.deviation + self.mean


def disk_mask(size: int) -> Tensor:
    """The disk within a square image, `(size, size)`, float, 1 inside.

    The filled corners of an image that is turned in its plane give its angle away, whatever the encoder knows. The disk
    has no corners. It ends half a pixel before the sides, where interpolation has mixed the image with the filling.
    """
    offset = torch.arange(size) - (size - 1) / 2
    return (offset[:, None] ** 2 + offset[None, :] ** 2 <= ((size - 1) / 2) ** 2).float()


@contextmanager
def frozen(module: nn.Module | None) -> Iterator[None]:
    """Put every submodule into evaluation mode, and afterwards back into its own mode."""
    modes = {} if module is None else {part: part.training for part in module.modules()}
    if module is not None:
        module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


def _encode(encoder: Encoder, batch: EvaluationBatch, device: torch.device, disk: bool) -> dict[str, Tensor]:
    pixels = batch.pixels.to(device, torch.float32)
    if disk:
        if pixels.shape[-1] != pixels.shape[-2]:
            raise ValueError(f"a disk needs square images, got {tuple(pixels.shape[-2:])}")
        pixels = pixels * disk_mask(pixels.shape[-1]).to(device)
    encoded = encoder(pixels)
    parts = {"all": encoded} if isinstance(encoded, Tensor) else dict(encoded)
    for part, value in parts.items():
        if value.ndim != 2 or len(value) != len(pixels):
            raise ValueError(
                f"the encoder's part {part!r} has shape {tuple(value.shape)} for {len(pixels)} images; "
                f"it must be (B, D)"
            )
        if not value.isfinite().all():
            row = int((~value.isfinite()).any(dim=1).nonzero()[0])
            raise NonFiniteFeaturesError(
                f"the encoder's part {part!r} is not finite for object {int(batch.objects[row])}, "
                f"view {int(batch.views[row])}"
            )
    return {part: value.float().cpu() for part, value in parts.items()}


def _joined(pieces: list[Tensor | None], name: str) -> Tensor | None:
    known = [piece.cpu() for piece in pieces if piece is not None]
    if known and len(known) < len(pieces):
        raise ValueError(f"{name} are given for {len(known)} of {len(pieces)} batches; give them for all or for none")
    return torch.cat(known) if known else None


def kept_table(cache: Path | None) -> FeatureTable | None:
    """The table in a file; None if there is no file, or, with a warning, if it is damaged."""
    if cache is None or not cache.is_file():
        return None
    try:
        return FeatureTable.load(cache)
    except ValueError as error:
        logging.getLogger("ssl_inv").warning(f"warning: {error}; the features are computed again")
        return None


def extract(
    encoder: Encoder,
    batches: Iterable[EvaluationBatch],
    device: torch.device | str = "cpu",
    *,
    module: nn.Module | None = None,
    class_names: tuple[str, ...] = (),
    disk: bool = False,
    cache: Path | None = None,
) -> FeatureTable:
    """Features of all views in `batches`, without gradient, in float32 and in evaluation mode.

    Autocast is off: bfloat16 rounds away the small differences between the features of an untrained network, which is
    the baseline of every measurement.

    Args:
        encoder: maps pixels to features; already on `device`.
        batches: the views.
        device: where the encoder is.
        module: the network behind an encoder that is a plain function, for evaluation mode. If the encoder is a module
            or a method of one, it is found without this argument.
        class_names: names of the classes in index order.
        disk: whether to mask pixels to the inscribed disk, for a measurement of in-plane rotation; see `disk_mask`.
        cache: a file that is read if it exists, and written otherwise, or if it is damaged. Its name must identify all
            other arguments.

    Raises:
        ValueError: if there are no views, or the encoder's output is not finite or not of shape `(B, D)`.
    """
    if (known := kept_table(cache)) is not None:
        return known
    device = torch.device(device)
    behind = next(
        (owner for owner in (module, encoder, getattr(encoder, "__self__", None)) if isinstance(owner, nn.Module)), None
    )
    encoded, read = [], []
    with frozen(behind), torch.no_grad(), torch.autocast(device.type, enabled=False):
        for batch in batches:
            encoded.append(_encode(encoder, batch, device, disk))
            read.append(
                replace(batch, pixels=batch.pixels[:0].clone())
            )  # the pixels of all images do not fit into memory
    if not read:
        raise NoViewsError("there are no views to extract features from")
    table = FeatureTable(
        {part: torch.cat([parts[part] for parts in encoded]) for part in encoded[0]},
        torch.cat([batch.objects.cpu() for batch in read]),
        torch.cat([batch.views.cpu() for batch in read]),
        _joined([batch.labels for batch in read], "labels"),
        _joined([batch.labelled for batch in read], "labelled flags"),
        class_names,
        Transform.concatenate([batch.transform.to("cpu") for batch in read]),
    )
    if cache is not None:
        table.save(cache)
    return table
