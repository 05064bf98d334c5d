"""Measurements of protocols in a folder: what an evaluation that was interrupted, or is asked for more, measures not
again.
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_inv.atomic import write_text
from ssl_inv.evaluation.features import FeatureTable
from ssl_inv.evaluation.protocols.base import Encoded, Protocol
from ssl_inv.evaluation.results import Comparison, Result, StandardError
from ssl_inv.plain import read_json

_CHUNK = 256


@dataclass
class Cost:
    """What a measurement took, with its baselines.

    Attributes:
        seconds: of wall-clock time.
        memory: bytes that the process held at its peak above what it held before; on a GPU, of its memory. What the
            process had freed and kept for later counts as held before. None where the system does not tell.
    """

    seconds: float = 0.0
    memory: int | None = None


@contextlib.contextmanager
def costing(device: str) -> Iterator[Cost]:
    """The cost of what is done within."""
    cost, cuda = Cost(), device.startswith("cuda")
    before = torch.cuda.memory_allocated(device) if cuda else _restarted_peak()
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    begun = time.perf_counter()
    yield cost
    cost.seconds = time.perf_counter() - begun
    peak = torch.cuda.max_memory_allocated(device) if cuda else _status("VmHWM")
    cost.memory = None if before is None or peak is None else max(peak - before, 0)


def _restarted_peak() -> int | None:
    """The memory that the process holds now, from which its peak counts from here on."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _status("VmRSS")


def _status(name: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)


class KeptMeasurements:
    """One file a protocol, which is used as long as nothing that it depends on has changed.

    Args:
        folder: where the files are.
        facts: what the measurements depend on besides features, protocol and seed: networks, data; plain values.
    """

    def __init__(self, folder: Path, facts: Any) -> None:
        self.folder, self._facts = folder, facts
        self._digests: dict[int, tuple[Encoded, str]] = {}
        self._masks: dict[int, tuple[Any, str]] = {}

    def read(
        self, name: str, protocol: Protocol, trained: Encoded, untrained: Encoded | None, seed: int
    ) -> tuple[list[Comparison], Cost] | None:
        """What was measured; None if nothing was, or of something else, or if the file is damaged."""
        try:
            content = read_json(self.folder / f"{name}.json")
            known = content["of"] == self._key(protocol, trained, untrained, seed)
            if not known or content["checksum"] != _checksum(content["rows"], content["cost"]):
                return None
            return [_comparison(row) for row in content["rows"]], Cost(**content["cost"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def write(
        self,
        name: str,
        protocol: Protocol,
        trained: Encoded,
        untrained: Encoded | None,
        seed: int,
        rows: list[Comparison],
        cost: Cost,
    ) -> None:
        """Keep what was measured."""
        key = self._key(protocol, trained, untrained, seed)
        content: dict[str, Any] = {"of": key, "cost": asdict(cost), "rows": [_plain(row) for row in rows]}
        content["checksum"] = _checksum(content["rows"], content["cost"])
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / f"{name}.json", json.dumps(content) + "\n")

    def _key(self, protocol: Protocol, trained: Encoded, untrained: Encoded | None, seed: int) -> str:
        # Where networks of a protocol are trained does not belong to what is measured.
        settings = [f"{one.name}={getattr(protocol, one.name)!r}" for one in fields(protocol) if one.name != "device"]
        settings += [f"revision={protocol.revision}"] if protocol.revision else []
        kind = f"{type(protocol).__module__}.{type(protocol).__qualname__}"
        encoded = [None if one is None else self._digest(one) for one in (trained, untrained, trained.second)]
        encoded.append(self._regions(trained) if "masks" in protocol.needs else None)
        facts = [version("ssl-inv"), kind, settings, encoded, trained.told, trained.probed, seed, self._facts]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def _digest(self, encoded: Encoded) -> str:
        if id(encoded) not in self._digests:
            digest = hashlib.sha256()
            for table in (encoded.train, encoded.validation):
                _add(digest, table)
            self._digests[id(encoded)] = encoded, digest.hexdigest()
        return self._digests[id(encoded)][1]

    def _regions(self, encoded: Encoded) -> str | None:
        """Of the masks of both tables; asked for once."""
        if encoded.masks is None:
            return None
        if id(encoded.masks) not in self._masks:
            digest = hashlib.sha256()
            for split, table in (("train", encoded.train), ("validation", encoded.validation)):
                for rows in torch.split(torch.arange(len(table)), _CHUNK):
                    found = encoded.masks(split, table.objects[rows], table.views[rows]).cpu()
                    digest.update(np.ascontiguousarray(found.to(torch.uint8).numpy()).data)
            self._masks[id(encoded.masks)] = encoded.masks, digest.hexdigest()
        return self._masks[id(encoded.masks)][1]


def _checksum(rows: Any, cost: Any) -> str:
    return hashlib.sha256(json.dumps([rows, cost]).encode()).hexdigest()


def _add(digest: Any, table: FeatureTable) -> None:
    groups = {name: group.record() for name, group in table.transform.groups.items()}
    digest.update(json.dumps([list(table.features), table.class_names, groups]).encode())
    columns = [*table.features.values(), table.objects, table.views, table.labels, table.labelled]
    for column in [*columns, *(table.transform[name] for name in groups)]:
        digest.update(b"none" if column is None else np.ascontiguousarray(column.numpy()).data)


def _plain(row: Comparison) -> dict[str, Any]:
    results = {name: getattr(row, name) for name in ("trained", "untrained", "shuffled")}
    return {
        "reference": row.reference,
        **{name: None if one is None else _plain_result(one) for name, one in results.items()},
    }


def _plain_result(one: Result) -> dict[str, Any]:
    plain = {each.name: _lists(getattr(one, each.name)) for each in fields(one)}
    if isinstance(one.spread, StandardError):
        plain["draws"], plain["objects"] = one.spread.draws.tolist(), one.spread.objects
    return plain


def _lists(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist()
    return float(value) if isinstance(value, float) else value


def _comparison(row: dict[str, Any]) -> Comparison:
    untrained, shuffled = (None if row[name] is None else _result(row[name]) for name in ("untrained", "shuffled"))
    return Comparison(_result(row["trained"]), untrained, shuffled, row["reference"])


def _result(plain: dict[str, Any]) -> Result:
    draws, objects = plain.pop("draws", None), plain.pop("objects", 0)
    one = {name: _tuples(value) for name, value in plain.items()}
    if draws is not None:
        one["spread"] = StandardError(one["spread"], torch.tensor(draws, dtype=torch.float64), objects)
    return Result(**one)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
