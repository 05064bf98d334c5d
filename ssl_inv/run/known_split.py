"""Whether what a model is judged on is known to be new to it: only what a run has held out itself is."""

from dataclasses import asdict, replace

from ssl_inv.data.reading import SETTINGS_OF_VALUES
from ssl_inv.data.source import with_enough_views
from ssl_inv.engine.module import extent
from ssl_inv.objectives.base import Objective
from ssl_inv.run.continuing import worded
from ssl_inv.run.encoders import LoadedModel
from ssl_inv.run.recipe import changes
from ssl_inv.run.remarks import SPLITS, Remarks
from ssl_inv.run.saved_run import SavedRun

_OF_PROBES = {
    "objects": "split: objects that no probe has seen",
    "views": "split: new views of objects, which probes see in other views",
}
"""What is known of every model, by `Data.held_out`."""

_READING = (
    *SETTINGS_OF_VALUES,
    *("size", "cache", "cache_gb", "memory_gb", "max_broken", "max_broken_shards", "photographs", "latents", "masks"),
)
"""Settings of data that change how images are read, and not which they are."""

_POSES = (
    *("views", "angle_range", "angle_from", "hue_range", "samples"),
    *("translation_range", "translation_frame", "pose"),
)
"""Settings of rendered data that change how objects are seen, and not which objects there are."""

_PLACES = ("name", "path", "images", "dataset", "root", "csv_file")
"""Settings that say which data these are."""


def with_known_split(known: Remarks, loaded: LoadedModel, objective: Objective | None) -> Remarks:
    """Remarks on an evaluation, whose sentence on the split says no more than is known of the model.

    Args:
        known: the remarks on the data alone.
        loaded: the model and the data that it is judged on.
        objective: of the model, if it is from a run.
    """
    sentence = SPLITS[loaded.data.held_out]
    said, run, warnings = _OF_PROBES[loaded.data.held_out], loaded.model.run, list(known.warnings)
    if run is None:
        said += "; what the encoder was trained on is not known here"
    elif other := _other_data(run, loaded):
        said += f"; the run was trained on other data, by its recipe: {other}"
    elif doubt := _doubt(run, loaded, objective):
        said += ", but the run may have been trained on them: the split is not its own"
        warnings.insert(0, f"what is judged may have been trained on, as the split is not that of the run: {doubt}")
    else:
        said = sentence
    facts = (said if one == sentence else one for one in known.facts)
    return replace(known, facts=tuple(facts), warnings=tuple(warnings))


def _differences(run: SavedRun, loaded: LoadedModel) -> dict[str, tuple[object, object]]:
    """The settings of the data that differ from the run's, by their names within the section."""
    every = changes(run.recipe, loaded.recipe)
    found = {key.removeprefix("data."): both for key, both in every.items() if key.startswith("data.")}
    # A recipe writes the usual split as no setting.
    before, after = (asdict(one.data.held_out) for one in (run.recipe, loaded.recipe))
    return {key: (before[key], after[key]) if key in before else both for key, both in found.items()}


def _other_data(run: SavedRun, loaded: LoadedModel) -> str:
    """In which settings these data are others than the run's; empty if they are the same files, wherever they lie."""
    different = {key: both for key, both in _differences(run, loaded).items() if key in _PLACES}
    same_files = "name" not in different and bool(run.state["stamp"]) and _stamp(loaded) == run.state["stamp"]
    return "" if same_files else "; ".join(worded({f"data.{key}": both for key, both in different.items()}))


def _doubt(run: SavedRun, loaded: LoadedModel, objective: Objective | None) -> str:
    """Why the split may not be that of the run; empty if it is."""
    different = {key: both for key, both in _differences(run, loaded).items() if key not in (*_READING, *_PLACES)}
    by_objects = loaded.data.held_out == run.recipe.data.held_out.held_out == "objects"
    if by_objects:
        # How objects are posed says nothing of which they are, and no views are shared out.
        deciding = {key: both for key, both in different.items() if key not in (*_POSES, "held_out_share")}
    else:
        deciding = different
    if deciding:
        return "; ".join(worded({f"data.{key}": both for key, both in deciding.items()}))
    if not different and objective is not None:
        plan = objective.plan
        try:
            now = extent(with_enough_views(loaded.data.train, 1 if plan.linked else plan.own_views))
        except ValueError:
            now = extent(loaded.data.train)
        if (before := tuple(run.state["extent"])) != now:
            counts = "{} objects in {} images".format
            return f"it began with {counts(*before)}, and there are {counts(*now)} to train on now"
    return "" if _stamp(loaded) == run.state["stamp"] else "files have changed since it began"


def _stamp(loaded: LoadedModel) -> str:
    return loaded.data.train.stamp
