"""What features know: classes, transforms, spectrum. Works on any encoder that maps pixels to vectors."""

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
