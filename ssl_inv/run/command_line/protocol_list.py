"""The list of protocols in the help of `evaluate`: by what they are about, with a few words each."""

import argparse
import textwrap

from ssl_inv.catalogue import PROTOCOLS

FAMILIES = {
    "What is in an image": {
        "linear": "softmax regression by SGD, a grid of learning rates",
        "logistic": "L2 logistic regression, to convergence",
        "knn": "vote of the nearest training views",
        "few_labels": "the same with 1 % and 10 % of the labels",
        "few_shot": "nearest prototype with 1 and 5 images a class",
        "dense": "segmentation by nearest patches and a linear head",
        "token_heads": "attentive probe and moment probing",
        "fine_tuning": "all weights trained, with layer decay",
    },
    "How an image was seen": {
        "transforms_r2": "R2 of every recorded parameter, as in papers",
        "geodesic": "errors of rotations and angles, in degrees",
        "frames": "translations in two frames; poses unlike training's",
        "unseen_classes": "pose and retrieval of classes nothing was fitted to",
        "group_action": "does each action have one map, and do maps compose",
        "leakage": "what the parts of the features know of each other",
        "retrieval": "views found by the objective's own predictor",
        "paths": "where a sequence of known steps ends",
    },
    "What a change of the image does": {
        "lie_derivative": "error under small motions, EQ-T, EQ-R, aliasing",
        "shift_consistency": "same class after shifts by 1 to 8 pixels",
        "sensitivity": "change by each of 18 transforms",
        "worst_view": "accuracy in the worst of all views of an object",
        "corruptions": "errors under noise, blur and others, five severities",
        "correspondence": "patches found again after a known change",
    },
    "The features themselves, without labels": {
        "spectrum": "RankMe and alpha-ReQ",
        "lidar": "effective rank of what tells objects apart",
        "alignment": "alignment of views, uniformity on the sphere",
        "clid": "learnability of clusters, and dimension",
        "intrinsic_dimension": "TwoNN and nearest neighbours, of content and of pose",
        "neural_collapse": "NC1 to NC4, of classes and of objects",
        "cka": "likeness of two parts, or of two encoders",
    },
    "Beside the first encoder": {
        "stitching": "its classifier on another's relative features",
        "compatibility": "another's gallery, with adapters",
    },
}
"""The protocols by what they are about. Others of this package come last, without words."""

_COLUMN = 22


class ListedHelp(argparse.HelpFormatter):
    """Help that keeps the lines of a text, and wraps those that are too long under their second column."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" not in text:
            return super()._fill_text(text, width, indent)
        lines = []
        for line in text.splitlines():
            hanging = " " * _COLUMN if line.startswith("  ") else ""
            lines += textwrap.wrap(line, width - len(indent), subsequent_indent=hanging) or [""]
        return "\n".join(f"{indent}{line}".rstrip() for line in lines)


def listed() -> str:
    """A heading for each family, and a line for each protocol."""
    lines: list[str] = []
    told = {name for family in FAMILIES.values() for name in family}
    others = {name: "" for name in PROTOCOLS.members if name not in told}
    for family, protocols in {**FAMILIES, "Others": others}.items():
        known = {name: words for name, words in protocols.items() if name in PROTOCOLS.members}
        if known:
            lines += [f"{family}:", *(f"  {name:<{_COLUMN - 2}}{words}" for name, words in known.items())]
    return "\n".join(lines)
