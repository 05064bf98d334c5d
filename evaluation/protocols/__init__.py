"""The protocols of the suite, one file and one class each. Their order is the order of rows in the table of results."""

PROTOCOLS = {
    "linear": "linear:LinearProbe",
    "knn": "knn:NearestNeighbours",
    "transforms_r2": "transforms_r2:TransformR2",
    "paths": "paths:PathIntegration",
    "retrieval": "retrieval:Retrieval",
    "spectrum": "spectrum:Spectrum",
    "logistic": "logistic:LogisticRegression",
    "few_labels": "few_labels:FewLabels",
    "few_shot": "few_shot:FewShot",
    "worst_view": "worst_view:WorstView",
    "alignment": "alignment:AlignmentUniformity",
    "lidar": "lidar:LiDAR",
    "clid": "clid:CLID",
    "intrinsic_dimension": "intrinsic_dimension:IntrinsicDimension",
    "neural_collapse": "neural_collapse:NeuralCollapse",
    "cka": "cka:CKA",
    "stitching": "stitching:Stitching",
    "compatibility": "compatibility:Compatibility",
    "geodesic": "geodesic:Geodesic",
    "group_action": "group_action:GroupAction",
    "leakage": "leakage:Leakage",
    "lie_derivative": "lie_derivative:LieDerivative",
    "shift_consistency": "shift_consistency:ShiftConsistency",
    "frames": "frames:Frames",
    "unseen_classes": "unseen_classes:UnseenClasses",
    "sensitivity": "sensitivity:Sensitivity",
    "corruptions": "corruptions:Corruptions",
    "correspondence": "correspondence:Correspondence",
    "correspondence_3d": "correspondence_3d:Correspondence3D",
    "dense": "dense:Dense",
    "label_propagation": "label_propagation:LabelPropagation",
    "detection": "detection:Detection",
    "token_heads": "token_heads:TokenHeads",
    "fine_tuning": "fine_tuning:FineTuning",
}
"""Name -> "module:Class", relative to this package. A new protocol is a file here and a line in this table."""

STANDING = ("linear", "knn", "transforms_r2", "paths", "retrieval", "spectrum")
"""Protocols that every evaluation runs. The others run where they are asked for by name."""
