"""What stands beside the numbers of every evaluation: the balance of classes, masks, and warnings of data that stand on
both sides.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ssl_inv.data.source import Data, Source, Subset
from ssl_inv.evaluation.both_sides import THUMBNAIL, ClassBalance, class_balance, twins
from ssl_inv.evaluation.features import FeatureTable

_DISK = (
    "images are masked to a disk: augmentation turns them in their plane, and the filled corners would show the angle"
)


SPLITS = {
    "objects": "split: new objects, none of which is in training",
    "views": "split: new views of known objects, which training sees in other views",
}
"""What a run is scored on, by `Data.held_out`; of other evaluations, see `known_split`."""


@dataclass(frozen=True)
class Remarks:
    """What a reader must know of the data of an evaluation.

    Attributes:
        facts: sentences.
        warnings: sentences on what makes the numbers too good.
        classes: of the validation views, where they have labels.
    """

    facts: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    classes: ClassBalance | None = None


def remarks(train: FeatureTable, validation: FeatureTable, data: Data | None = None) -> Remarks:
    """The remarks on the features of both splits.

    Args:
        train: features of training views.
        validation: features of validation views.
        data: where the views are from; None if there are features only, whose numbers of objects then mean the same
            object in both tables.
    """
    classes = class_balance(train, validation)
    facts = [] if classes is None else [_balance(classes)]
    if data is not None:
        facts.insert(0, SPLITS[data.held_out])
    if data is not None and data.validation.turned:
        facts.append(_DISK)
    found = _objects(train, validation) if data is None else _files(train, validation, data)
    return Remarks(tuple(facts), (*found, *_twins(train, validation, data)), classes)


def _balance(classes: ClassBalance) -> str:
    count, shares = len(classes.shares), classes.shares
    if count == 1:
        return f"all {classes.views:,} labelled validation views are of class {classes.names[0]!r}"
    if shares[0] == shares[-1]:
        sizes = f"equally many views of each of {count} classes"
    else:
        ends = [f"{classes.names[at]} has {100 * shares[at]:.1f} %" for at in (-1, 0)]
        sizes = f"{count} classes; of {classes.views:,} labelled validation views {ends[0]} and {ends[1]}"
    text = f"class balance: {sizes}; to name always the largest class scores {shares[0]:.3f}"
    few = ", ".join(classes.unseen[:3]) + (", ..." if len(classes.unseen) > 3 else "")
    return text + (f"; no training view has {few}" if classes.unseen else "")


def _objects(train: FeatureTable, validation: FeatureTable) -> list[str]:
    known = set(train.objects.tolist())
    ours = set(validation.objects.tolist())
    if not (both := known & ours):
        return []
    told = f"{len(both):,} of {len(ours):,} validation objects have the number of a training object"
    return [f"{told}, such as {min(both)}: probes have seen them, or their numbers are not their own"]


def _files(train: FeatureTable, validation: FeatureTable, data: Data) -> list[str]:
    """A warning of files in both parts; files are known by their names within one source."""
    whole = _whole(data.train)
    if whole is not _whole(data.validation) or type(whole).describe is Source.describe:
        return []
    names = [
        {one.describe(int(row), int(view)) for row, view in zip(table.objects, table.views, strict=True)}
        for one, table in ((data.train, train), (data.validation, validation))
    ]
    if not (both := names[0] & names[1]):
        return []
    return [f"{len(both):,} of {len(names[1]):,} validation files are training files too, such as {min(both)}"]


def _whole(source: Source) -> Source:
    return _whole(source.source) if isinstance(source, Subset) else source


def _twins(train: FeatureTable, validation: FeatureTable, data: Data | None) -> list[str]:
    pictures = THUMBNAIL in train.features and THUMBNAIL in validation.features
    part = THUMBNAIL if pictures else next(iter(train.features))
    found = twins(train, validation, part)
    if found.pair is None:
        return []
    sources = (None, None) if data is None else (data.validation, data.train)
    pair = [
        _named(source, int(table.objects[row]), int(table.views[row]))
        for source, table, row in zip(sources, (validation, train), found.pair, strict=True)
    ]
    example = f"such as {pair[0]} of validation and {pair[1]} of train"
    total = f"of {found.compared:,} validation views that were compared"
    warnings = []
    if found.equal:
        what = "show the image of a training view" if pictures else "have the features of a training view"
        warnings.append(f"{found.equal:,} {total} {what}{'' if found.near and pictures else f', {example}'}")
    # Features near each other may be meant: an encoder that knows classes gives views of one class the same features.
    if found.near and pictures:
        warnings.append(
            f"{found.near:,} {total} are near duplicates of a training view by their {THUMBNAIL}, {example}"
        )
    return warnings


def _named(source: Source | None, row: int, view: int) -> str:
    return f"object {row}, view {view}" if source is None else source.describe(row, view)


def told_once(remarks_by_name: Sequence[Remarks]) -> list[str]:
    """The warnings of several evaluations, each once."""
    return list(dict.fromkeys(warning for one in remarks_by_name for warning in one.warnings))
