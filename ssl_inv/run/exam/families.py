"""What results are about, and what no information would score: how a table of many measurements is read."""

import re
from collections.abc import Mapping

from ssl_inv.run.exam.examining import Examined

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "What is in an image": (
        "linear",
        "logistic",
        "knn",
        "few_labels",
        "few_shot",
        "token_heads",
        "fine_tuning",
        *("dense", "label_propagation", "detection"),
    ),
    "How an image was seen": (
        *("r2", "r2_pooled", "geodesic", "group", "leakage", "retrieval", "aggregation"),
        *("path", "leak", "frames", "ood", "unseen", "correspondence_3d"),
    ),
    "What a change of the image does": (
        *("lee", "eq_t", "eq_t_whole", "eq_r", "eq_r90", "aliasing"),
        *("shift", "shift_chosen", "sensitivity", "worst_view", "corruptions", "correspondence"),
    ),
    "The features themselves, without labels": (
        *("spectrum", "alignment", "uniformity", "clid", "lidar", "dimension", "collapse", "cka", "cka_biased"),
    ),
    "Beside the first encoder": ("stitching", "compatibility"),
}
"""The first words of names of results, by what they are about. Others are `FURTHER`."""

FURTHER = "Further measurements"

_TOP = re.compile(r"^(?:linear|knn|logistic)/top(\d+)$")


def family_of(name: str) -> str:
    """What a result is about."""
    first = name.partition("/")[0]
    return next((family for family, words in FAMILIES.items() if first in words), FURTHER)


def level_of(found: Mapping[str, Examined], key: tuple[str, str]) -> float | None:
    """What a result is without information: of accuracies the best constant prediction, else what the first encoder
    that has such a result scores with shuffled targets; None if nothing is known.
    """
    classes = next((one.remarks.classes for one in found.values() if one.remarks.classes is not None), None)
    if (match := _TOP.match(key[0])) is not None and classes is not None:
        return classes.level(int(match[1]))
    rows = (row for one in found.values() for row in one.table if (row.trained.name, row.trained.part) == key)
    values = (row.shuffled.value for row in rows if row.shuffled is not None)
    return next((float(value) for value in values if value is not None), None)
