"""The protocols of the suite, one file and one class each. Their order is the order of rows in the table of results."""

PROTOCOLS = {
    "linear": "linear:LinearProbe",
    "knn": "knn:NearestNeighbours",
    "transforms_r2": "transforms_r2:TransformR2",
    "paths": "paths:PathIntegration",
    "retrieval": "retrieval:Retrieval",
    "spectrum": "spectrum:Spectrum",
    "geodesic": "geodesic:Geodesic",
    "group_action": "group_action:GroupAction",
    "leakage": "leakage:Leakage",
    "lie_derivative": "lie_derivative:LieDerivative",
    "shift_consistency": "shift_consistency:ShiftConsistency",
    "frames": "frames:Frames",
    "sensitivity": "sensitivity:Sensitivity",
}
"""Name -> "module:Class", relative to this package. A new protocol is a file here and a line in this table."""

STANDING = ("linear", "knn", "transforms_r2", "paths", "retrieval", "spectrum")
"""Protocols that every evaluation runs. The others run where they are asked for by name."""
