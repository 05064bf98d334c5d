"""What features know: classes, transforms, spectrum. Works on any encoder that maps pixels to vectors."""

from ssl_inv.evaluation.features import Encoder, EvaluationBatch, FeatureTable, disk_mask, extract
from ssl_inv.evaluation.protocols.aggregation import Aggregate, aggregated
from ssl_inv.evaluation.protocols.knn import NearestNeighbourSettings, nearest_neighbours
from ssl_inv.evaluation.protocols.linear import LinearSettings, linear_probe
from ssl_inv.evaluation.protocols.paths import PathSettings, path_integration
from ssl_inv.evaluation.protocols.retrieval import RetrievalSettings, ViewPredictor, retrieval
from ssl_inv.evaluation.protocols.spectrum import alpha_req, rankme, spectrum
from ssl_inv.evaluation.protocols.transforms_r2 import (
    TransformR2Settings,
    r2_mean,
    r2_per_dimension,
    r2_pooled,
    transform_r2,
)
from ssl_inv.evaluation.results import Bootstrap, Comparison, Result, format_table, to_json
from ssl_inv.evaluation.suite import FULL, QUICK, Encoded, Protocol, evaluate, evaluate_with_baselines, shuffle_targets

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
    "LinearSettings",
    "NearestNeighbourSettings",
    "PathSettings",
    "Protocol",
    "Result",
    "RetrievalSettings",
    "TransformR2Settings",
    "ViewPredictor",
    "aggregated",
    "alpha_req",
    "disk_mask",
    "evaluate",
    "evaluate_with_baselines",
    "extract",
    "format_table",
    "linear_probe",
    "nearest_neighbours",
    "path_integration",
    "r2_mean",
    "r2_per_dimension",
    "r2_pooled",
    "rankme",
    "retrieval",
    "shuffle_targets",
    "spectrum",
    "to_json",
    "transform_r2",
]
