"""How the classes of `torchvision.datasets` are called, and where they keep the classes of their images."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_inv.catalogue import SettingError, suggest
from ssl_inv.trust import is_allowed

_STEREO, _FLOW = "gives pairs of images for stereo matching", "gives pairs of frames for optical flow"
_VIDEOS = "gives videos; `ssl-inv tracks` finds views of objects in video files"
_PAIRS, _NO_DATA = "gives pairs of images", "is no data set by itself"

REFUSED: Mapping[str, str] = {
    **dict.fromkeys(("CREStereo", "CarlaStereo", "ETH3DStereo", "FallingThingsStereo", "InStereo2k"), _STEREO),
    **dict.fromkeys(("Kitti2012Stereo", "Kitti2015Stereo", "Middlebury2014Stereo", "SceneFlowStereo"), _STEREO),
    "SintelStereo": _STEREO,
    **dict.fromkeys(("FlyingChairs", "FlyingThings3D", "HD1K", "KittiFlow", "Sintel"), _FLOW),
    **dict.fromkeys(("HMDB51", "Kinetics", "MovingMNIST", "UCF101"), _VIDEOS),
    **dict.fromkeys(("LFWPairs", "PhotoTour"), _PAIRS),
    **dict.fromkeys(("DatasetFolder", "VisionDataset", "wrap_dataset_for_transforms_v2"), _NO_DATA),
}
"""Members of `torchvision.datasets` whose items are no single images, and what they are."""

_UNPICKLES, _PERMISSION = ("LSUN", "LSUNClass"), "torchvision.datasets"
"""Classes that run code from a file of the current folder, and the module that allows it. The others with pickles,
CIFAR10 and CIFAR100, compare them with the checksums of the published files first.
"""

_PARAMETERS = ("what", "train", "split", "image_set", "version", "classes")
"""Parameters that choose the part of a data set, the first that a class has."""

_ONLY_OF = {"what": "QMNIST", "version": "INaturalist", "classes": "LSUN"}

_DEFAULTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "INaturalist": ("2021_train", ("2021_valid",)),
    "OxfordIIITPet": ("trainval", ("test",)),
    "Places365": ("train-standard", ("val",)),
    "QMNIST": ("train", ("test",)),
}
"""The parts to train on and to judge by, of classes that have other names for them."""

_USUAL = "train", ("val", "valid", "test")

_PARTS_IN: Mapping[str, frozenset[str]] = {
    "trainval": frozenset({"train", "val"}),
    **dict.fromkeys(("train_noval", "train-standard", "train-challenge", "2021_train_mini"), frozenset({"train"})),
    **dict.fromkeys(("2021_train",), frozenset({"train"})),
    **dict.fromkeys(("test10k", "test50k"), frozenset({"test"})),
}
"""What parts hold, where their names do not say so with a plus; see `_shared`."""

_OWN = {
    "root": "is the setting `root`",
    "download": "is the setting `download`",
    **dict.fromkeys(("transform", "target_transform", "transforms"), "is not taken: views are made here"),
    **dict.fromkeys(("loader", "is_valid_file"), "is a function, and settings hold numbers and texts"),
}
"""Parameters that are no arguments here, and why."""


@dataclass(frozen=True)
class Part:
    """How one part of a data set is made: `make(**arguments)`, and the setting that chose it."""

    make: Callable[..., Any]
    arguments: Mapping[str, Any]
    setting: str

    def __call__(self) -> Any:
        return self.make(**self.arguments)


def parts_of(
    name: str,
    root: str,
    download: bool = False,
    arguments: Mapping[str, Any] | None = None,
    train_split: str | None = None,
    validation_split: str | None = None,
) -> tuple[Part, list[Part]]:
    """The part to train on, and those to judge by, of which the first that the class has is taken; none if the data set
    has no parts, or a share of the training part is wanted. Nothing is read.

    Args:
        name: of a class in `torchvision.datasets`.
        root: see `torchvision_dataset`.
        download: see `torchvision_dataset`.
        arguments: see `torchvision_dataset`.
        train_split: see `torchvision_dataset`.
        validation_split: see `torchvision_dataset`.

    Raises:
        SettingError: for whatever the class does not take, with the closest that it does.
    """
    import torchvision  # Takes a second, only for runs on such a dataset.

    readable = [one for one in torchvision.datasets.__all__ if one not in REFUSED]
    if name in REFUSED:
        raise SettingError("dataset", f"torchvision's {name} {REFUSED[name]}")
    if name not in readable:
        raise SettingError("dataset", f"torchvision has no dataset {name!r}; {suggest(name, readable)}")
    if name in _UNPICKLES and not is_allowed(_PERMISSION):
        what = f"torchvision's {name} keeps a pickled list in the current folder, and unpickling runs code"
        raise SettingError("dataset", f"{what}: --trust {_PERMISSION}, or in Python trust=[{_PERMISSION!r}]")
    make, given = getattr(torchvision.datasets, name), dict(arguments or {})
    known = parameters_of(make)
    chooser = next((one for one in _PARAMETERS if one in known and _ONLY_OF.get(one, name) == name), None)
    for argument in given:
        if argument in _OWN:
            raise SettingError("arguments", f"{argument!r} {_OWN[argument]}")
        if argument in (chooser, "train"):
            raise SettingError("arguments", f"{argument!r} is given by `train_split` and `validation_split`")
        if argument not in known:
            free = [one for one in known if one not in _OWN and one != chooser]
            close = suggest(argument, free) if free else f"{name} takes none"
            raise SettingError("arguments", f"torchvision's {name} has no {argument!r}; {close}")
    for one, parameter in known.items():
        if parameter.default is parameter.empty and one not in ("root", chooser, *given):
            choices = f"; {suggest('', getattr(make, 'splits', ()))}" if hasattr(make, "splits") else ""
            raise SettingError("arguments", f"torchvision's {name} needs {one!r}: `arguments: {{{one}: ...}}`{choices}")
    if "root" in known:
        given["root"] = str(Path(root).expanduser())
    if "download" in known:
        given["download"] = download
    elif download:
        raise SettingError(
            "download", f"torchvision cannot download {name}; fetch it yourself and leave `download` out"
        )
    if chooser is None:
        for setting, value in (("train_split", train_split), ("validation_split", validation_split)):
            if value not in (None, "none"):
                raise SettingError(setting, f"torchvision's {name} has one part only; a share of it is held out")
        return Part(make, given, "train_split"), []
    usual, held_out = _DEFAULTS.get(name, _USUAL)
    chosen = usual if train_split is None else train_split
    judged = tuple(one for one in held_out if not _shared(chosen, one))
    if chooser == "train":
        judged = ("test" if _truth(chosen, "train_split") else "train",)
    if validation_split is not None:
        judged = () if validation_split == "none" else (validation_split,)
    if judged and _shared(chosen, judged[0]):
        raise SettingError("validation_split", f"{judged[0]!r} has images of {chosen!r}, the part to train on")

    def part(value: str, setting: str) -> Part:
        meant = _truth(value, setting) if chooser == "train" else value
        return Part(make, {**given, chooser: meant}, setting)

    return part(chosen, "train_split"), [part(one, "validation_split") for one in judged]


def _shared(first: str, second: str) -> bool:
    """Whether two parts have images in common, by their names."""
    one, other = (
        set[str]().union(*(_PARTS_IN.get(word, frozenset({word})) for word in name.split("+")))
        for name in (first, second)
    )
    return bool(one & other) or "all" in one | other


def _truth(value: str, setting: str) -> bool:
    if value not in (known := ("train", "test")):
        raise SettingError(setting, f"there is no part {value!r}; {suggest(value, known)}")
    return value == "train"


def parameters_of(make: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters of a class by name, with those that it hands on to the classes that it is made from."""
    found: dict[str, inspect.Parameter] = {}
    for kind in make.__mro__ if inspect.isclass(make) and not hasattr(make, "__signature__") else (make,):
        if kind in (object, Any):
            break
        signature = inspect.signature(kind)
        found = {**signature.parameters, **found}
        if not any(one.kind is one.VAR_KEYWORD for one in signature.parameters.values()):
            break
    return {name: one for name, one in found.items() if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)}


def refusal(part: Part, name: str, root: str, download: bool, error: Exception) -> Exception:
    """What a class of torchvision raised, in one line that names the setting."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    if isinstance(error, ImportError) or "install" in reason:
        return SettingError("dataset", f"torchvision's {name} needs another package: {reason}")
    if isinstance(error, RuntimeError | OSError):
        advice = "" if download else " (`download: true` downloads or unpacks it)"
        return FileNotFoundError(f"torchvision {name} cannot be read from {root}: {reason}{advice}")
    if (
        match := re.fullmatch(r"Unknown value '(.*)' for argument (\w+)\. Valid values are \{(.*)\}\.", reason)
    ) is None:
        return SettingError("arguments", f"torchvision's {name} refuses {dict(part.arguments)}: {reason}")
    value, argument, words = match.groups()
    chosen = part.setting if argument in _PARAMETERS and argument not in ("train",) else "arguments"
    if name == "EMNIST":
        chosen = "arguments"
    what = f"{argument}: " if chosen == "arguments" else ""
    valid = re.findall("'([^']*)'", words)
    return SettingError(chosen, f"{what}{name} has no {value!r}; {suggest(value, valid)}")


def stored_classes(dataset: Any) -> Sequence[Any] | None:
    """The class of every item of a torchvision dataset that keeps them where others do not; None of any other."""
    find = _CLASSES.get(type(dataset).__name__) if type(dataset).__module__.startswith("torchvision.") else None
    try:
        return None if find is None else find(dataset)
    except (AttributeError, KeyError, TypeError):  # Another version of torchvision keeps them elsewhere.
        return None


def _second(attribute: str) -> Callable[[Any], Sequence[Any]]:
    return lambda dataset: [pair[1] for pair in getattr(dataset, attribute)]


def _when(attribute: str, kinds: list[str], find: Callable[[Any], Sequence[Any]]) -> Callable[[Any], Any]:
    return lambda dataset: find(dataset) if getattr(dataset, attribute) == kinds else None


_CLASSES: Mapping[str, Callable[[Any], Sequence[Any] | None]] = {
    "Caltech101": _when("target_type", ["category"], lambda one: one.y),
    "Caltech256": lambda one: one.y,
    "CelebA": _when("target_type", ["identity"], lambda one: one.identity[:, 0]),
    "FER2013": _second("_samples"),
    "GTSRB": _second("_samples"),
    "INaturalist": lambda one: [
        kind if one.target_type == ["full"] else one.categories_map[kind][one.target_type[0]] for kind, _ in one.index
    ],
    "Imagenette": _second("_samples"),
    "Omniglot": _second("_flat_character_images"),
    "OxfordIIITPet": lambda one: one._bin_labels if one._target_types == ["binary-category"] else one._labels,
    "RenderedSST2": _second("_samples"),
    "StanfordCars": _second("_samples"),
}


def class_names(dataset: Any) -> Sequence[Any]:
    """The names of the classes of a dataset in index order; empty if it has none."""
    if getattr(dataset, "_target_types", None) == ["binary-category"]:
        return list(dataset.bin_classes)
    if getattr(dataset, "target_type", ["full"]) not in (["full"], ["category"]):
        return ()
    names = ("classes", "categories", "all_categories", "_characters")
    return next((found for name in names if (found := getattr(dataset, name, None))), ())
