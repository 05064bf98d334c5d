"""What features know: classes, transforms, spectrum. Works on any encoder that maps pixels to vectors.

The public names are those of `__all__`; each loads what it needs when it is first used, so that the names of protocols
are known without torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssl_inv.evaluation.aggregation import Aggregate, aggregated
    from ssl_inv.evaluation.features import Encoder, EvaluationBatch, FeatureTable, disk_mask, extract
    from ssl_inv.evaluation.protocols.base import Encoded, Protocol, ViewPredictor, shuffle_targets
    from ssl_inv.evaluation.protocols.knn import NearestNeighbours
    from ssl_inv.evaluation.protocols.linear import LinearProbe
    from ssl_inv.evaluation.protocols.paths import PathIntegration
    from ssl_inv.evaluation.protocols.retrieval import Retrieval
    from ssl_inv.evaluation.protocols.spectrum import Spectrum, alpha_req, rankme
    from ssl_inv.evaluation.protocols.transforms_r2 import TransformR2, r2_mean, r2_per_dimension, r2_pooled
    from ssl_inv.evaluation.results import Bootstrap, Comparison, Result, format_table, to_json
    from ssl_inv.evaluation.suite import FULL, QUICK, Protocols, evaluate, evaluate_with_baselines, skipped

__all__ = [
    "FULL",
    "QUICK",
    "Aggregate",
    "Bootstrap",
    "Comparison",
    "Encoded",
    "Encoder",
    "EvaluationBatch",
    "FeatureTable",
    "LinearProbe",
    "NearestNeighbours",
    "PathIntegration",
    "Protocol",
    "Protocols",
    "Result",
    "Retrieval",
    "Spectrum",
    "TransformR2",
    "ViewPredictor",
    "aggregated",
    "alpha_req",
    "disk_mask",
    "evaluate",
    "evaluate_with_baselines",
    "extract",
    "format_table",
    "r2_mean",
    "r2_per_dimension",
    "r2_pooled",
    "rankme",
    "shuffle_targets",
    "skipped",
    "to_json",
]

_PLACES = {
    "Aggregate": "ssl_inv.evaluation.aggregation",
    "aggregated": "ssl_inv.evaluation.aggregation",
    "alpha_req": "ssl_inv.evaluation.protocols.spectrum",
    "Bootstrap": "ssl_inv.evaluation.results",
    "Comparison": "ssl_inv.evaluation.results",
    "disk_mask": "ssl_inv.evaluation.features",
    "Encoded": "ssl_inv.evaluation.protocols.base",
    "Encoder": "ssl_inv.evaluation.features",
    "evaluate": "ssl_inv.evaluation.suite",
    "evaluate_with_baselines": "ssl_inv.evaluation.suite",
    "EvaluationBatch": "ssl_inv.evaluation.features",
    "extract": "ssl_inv.evaluation.features",
    "FeatureTable": "ssl_inv.evaluation.features",
    "format_table": "ssl_inv.evaluation.results",
    "FULL": "ssl_inv.evaluation.suite",
    "LinearProbe": "ssl_inv.evaluation.protocols.linear",
    "NearestNeighbours": "ssl_inv.evaluation.protocols.knn",
    "PathIntegration": "ssl_inv.evaluation.protocols.paths",
    "Protocol": "ssl_inv.evaluation.protocols.base",
    "Protocols": "ssl_inv.evaluation.suite",
    "QUICK": "ssl_inv.evaluation.suite",
    "r2_mean": "ssl_inv.evaluation.protocols.transforms_r2",
    "r2_per_dimension": "ssl_inv.evaluation.protocols.transforms_r2",
    "r2_pooled": "ssl_inv.evaluation.protocols.transforms_r2",
    "rankme": "ssl_inv.evaluation.protocols.spectrum",
    "Result": "ssl_inv.evaluation.results",
    "Retrieval": "ssl_inv.evaluation.protocols.retrieval",
    "shuffle_targets": "ssl_inv.evaluation.protocols.base",
    "skipped": "ssl_inv.evaluation.suite",
    "Spectrum": "ssl_inv.evaluation.protocols.spectrum",
    "to_json": "ssl_inv.evaluation.results",
    "TransformR2": "ssl_inv.evaluation.protocols.transforms_r2",
    "ViewPredictor": "ssl_inv.evaluation.protocols.base",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; public are {', '.join(__all__)}")
    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
