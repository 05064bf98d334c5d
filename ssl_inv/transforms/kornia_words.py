"""What kornia's augmentations did, in English: "plasma shadow: shade intensity −0.4", "affine turned 12° clockwise".

A record has their parameters as `LABEL.parameter`, with the name of the class as label. A member of a container or of
RandAugment has the label of the whole before its own.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence

from ssl_inv.transforms import phrases
from ssl_inv.transforms.group import Group
from ssl_inv.transforms.groups import Code, Flag

_Value = tuple[Sequence[float], Group]
"""The numbers of a parameter, and its group."""

_MOST_NUMBERS = 4
"""Parameters of more numbers have words of their own or none."""

_WORD = re.compile(r"[A-Z]{2,}(?![a-z])|[A-Z]?[a-z]+|[0-9]+")

_SPELT = {
    "clahe": "CLAHE",
    "color": "colour",
    "equalize": "equalised",
    "grayscale": "grey",
    "invert": "inverted",
    "planckian": "Planckian",
    "posterize": "posterised",
    "solarize": "solarised",
}

_TITLES = {"RandomRGBShift": "RGB shift", "RandomRotation90": "rotation", "SolarizeAdd": "solarised"}

_SAID_BY_PHRASES = ("rotat", "shear", "translate")
"""Beginnings of names that say no more than the phrases "turned", "sheared" and "shifted" do."""

_SPLINE = ((-1, -1), (-1, 1), (1, -1), (1, 1), (0, 0))
"""Where the points that a thin plate spline moves are at first, from -1 to 1."""


def is_of_kornia(name: str) -> bool:
    """Whether a parameter has the name of an augmentation before its own."""
    return "." in name


def title(label: str) -> str:
    """The name of an augmentation in words: "plasma shadow" for `RandomPlasmaShadow`."""
    own = re.sub(r"_[0-9]+$", "", label.rpartition(".")[2])
    if own in _TITLES:
        return _TITLES[own]
    words = _WORD.findall(re.sub(r"^Random(?=[A-Z])", "", own))
    plain = [word if len(word) > 1 and word.isupper() else word.lower() for word in words]
    return " ".join(_SPELT.get(word, word) for word in plain) or own


def short_name(name: str) -> str:
    """A parameter with its augmentation in words: "affine angle" for `RandomAffine.angle`."""
    label, _, parameter = name.rpartition(".")
    return title(label) if parameter == "applied" else f"{title(label)} {_plain(parameter)}"


def operations_words(values: Mapping[str, _Value]) -> list[str]:
    """What each augmentation did to a view, in the order of the record; those that were not applied say nothing.

    Args:
        values: their parameters by name.
    """
    by_label: dict[str, dict[str, _Value]] = {}
    for name, value in values.items():
        label, _, parameter = name.rpartition(".")
        by_label.setdefault(label, {})[parameter] = value
    found = {label: _operation_words(label, own) for label, own in by_label.items()}
    for label in by_label:
        members = [other for other in by_label if other.startswith(f"{label}.")]
        if members:
            # A container says nothing but what its members do, as far as these record anything.
            silent = not any(found[other] for other in members)
            chosen = any(by_label[label]["choice"][0]) if "choice" in by_label[label] else False
            found[label] = title(label) if silent and chosen else ""
    return list(found.values())


def _operation_words(label: str, values: Mapping[str, _Value]) -> str:
    """What one augmentation did; empty if it was not applied.

    One that is a member of another, and has no flag that tells whether it was applied, has neutral values otherwise.
    """
    if "applied" in values:
        applied = bool(values["applied"][0][0])
    else:
        applied = "." not in label or not all(_at_neutral(*value) for value in values.values())
    if not applied:
        return ""
    found, name = [words for words in _all_phrases(label, values) if words], title(label)
    if not found:
        # Either there is no number to be told, or all numbers are too small to be printed.
        told = any(not isinstance(group, Code | Flag) for _, group in values.values())
        return "" if told else name
    if found[0].startswith(f"{name} ") or name.startswith(_SAID_BY_PHRASES):
        return ", ".join(found)
    colon = "" if found[0].split()[0] in _VERBS else ":"
    return f"{name}{colon} {', '.join(found)}"


_VERBS = frozenset(("turned", "shifted", "scaled", "sheared", "to", "above", "at"))
"""Phrases that begin with these words follow a name without a colon."""


def _all_phrases(label: str, values: Mapping[str, _Value]) -> list[str]:
    found = []
    seen: set[str] = set()
    for parameter, (numbers, group) in values.items():
        if parameter in seen or isinstance(group, Code | Flag):
            continue
        partners, phrase = _TOGETHER.get(parameter, ((parameter,), None))
        seen.update(partners)
        if phrase is not None:
            found.append(phrase(*(values[one][0][0] if one in values else 0.0 for one in partners)))
        elif parameter == "angle" and "Blur" in label:
            found.append(f"at {phrases.minus(f'{math.degrees(_signed_angle(*numbers)):.0f}')}°")
        elif parameter == "brightness_factor":
            found.append(_brightness(label, *numbers))
        elif own := _ALONE.get((parameter, len(numbers))):
            found.append(own(*numbers))
        elif len(numbers) <= _MOST_NUMBERS:
            found.append(group.words(_plain(parameter), numbers))
    return found


def _at_neutral(numbers: Sequence[float], group: Group) -> bool:
    """Whether a member that a sample did not choose has these values."""
    return numbers == group.neutral(1).double().flatten().tolist()


def _plain(parameter: str) -> str:
    return parameter.removesuffix("_factor").replace("_", " ")


# What the parameters mean; see `ssl_inv.augment.kornia_units`.


def _signed_angle(radians: float) -> float:
    return math.remainder(radians, 2 * math.pi)


def turned(radians: float) -> str:
    """An angle, counter-clockwise if it is positive: "turned 12° counter-clockwise"."""
    degrees = math.degrees(_signed_angle(radians))
    return f"turned {abs(degrees):.0f}° {'counter-' if degrees > 0 else ''}clockwise" if abs(degrees) >= 0.5 else ""


def shifted(x: float, y: float) -> str:
    """A shift in fractions of a view: "shifted 5% right 3% up"."""
    words = phrases.directions(x, y)
    return f"shifted {' '.join(words)}" if words else ""


def sheared(x: float, y: float) -> str:
    """Two angles in radians: "sheared +5° in x"."""
    parts = [(math.degrees(x), "x"), (math.degrees(y), "y")]
    words = [f"{phrases.signed(degrees, 0)}° in {axis}" for degrees, axis in parts if abs(degrees) >= 0.5]
    return f"sheared {' '.join(words)}" if words else ""


def hue(turns: float) -> str:
    """A turn of the hue: "hue −0.04 turns"."""
    step = math.remainder(turns, 1.0)
    return f"hue {phrases.signed(step, 2)} turns" if abs(step) >= 0.005 else ""


def factor(label: str) -> Callable[[float], str]:
    """Words for a factor, which 1 leaves out."""
    return lambda value: phrases.factor(label, value) if abs(value - 1) >= 0.005 else ""


def _scaled(x: float, y: float) -> str:
    if abs(x - y) < 0.005:
        return factor("scaled")(x)
    return f"scaled \N{MULTIPLICATION SIGN}{x:.2f} in x \N{MULTIPLICATION SIGN}{y:.2f} in y"


def _brightness(label: str, value: float) -> str:
    """A factor of `ColorJitter`; elsewhere kornia adds to all pixels what it exceeds 1 by."""
    own = label.rpartition(".")[2]
    if own.startswith("ColorJitter"):
        return factor("brightness")(value)
    if not own.startswith(("RandomBrightness", "ColorJiggle", "Brightness")):
        return f"brightness factor {value:.2f}"
    return _step("brightness")(value - 1)


def _step(label: str) -> Callable[[float], str]:
    return lambda value: f"{label} {phrases.signed(value, 2)}" if abs(value) >= 0.005 else ""


def _corners(*shifts: float) -> str:
    largest = max(math.hypot(*shifts[start : start + 2]) for start in range(0, 8, 2))
    return f"a corner moved by {largest:.0%}" if largest >= 0.005 else ""


def _spline(*points: float) -> str:
    moved = [(points[2 * number], points[2 * number + 1]) for number in range(len(_SPLINE))]
    largest = max(math.dist(one, still) for one, still in zip(moved, _SPLINE, strict=True)) / 2
    return f"a point moved by {largest:.0%}" if largest >= 0.005 else ""


def _crop(x: float, y: float, width: float, height: float) -> str:
    return "" if (x, y, width, height) == (0.5, 0.5, 1.0, 1.0) else f"{width * height:.0%} of the view"


_TOGETHER: dict[str, tuple[tuple[str, ...], Callable[..., str]]] = {
    name: (names, phrase)
    for names, phrase in (
        (("translate_x", "translate_y"), shifted),
        (("shear_x", "shear_y"), sheared),
        (("widths", "heights"), lambda width, height: f"{width * height:.0%} of the view"),
        (("xs", "ys"), lambda left, top: ""),
        (("center_x", "center_y"), lambda x, y: phrases.minus(f"centre ({x:.2f}, {y:.2f})")),
    )
    for name in names
}
"""Parameters that are said together."""

_ALONE: dict[tuple[str, int], Callable[..., str]] = {
    ("angle", 1): turned,
    ("translation", 2): shifted,
    ("scale", 2): _scaled,
    ("corners", 8): _corners,
    ("crop", 4): _crop,
    ("dst", 2 * len(_SPLINE)): _spline,
    ("hue_factor", 1): hue,
    **{(f"{name}_factor", 1): factor(name) for name in ("contrast", "saturation")},
    ("bits_factor", 1): phrases.bits,
    ("thresholds", 1): lambda value: f"above {value:.2f}",
    ("additions", 1): _step("added"),
    ("sigma", 1): lambda value: f"{value:.1f} px",
    ("jpeg_quality", 1): lambda value: f"quality {value:.0f}",
    ("direction_factor", 1): _step("direction"),
    ("ksize_factor", 1): lambda value: f"{value:.0f} px",
    ("number_of_drops_factor", 1): lambda value: f"{value:.0f} drops",
    ("drop_height_factor", 1): lambda value: f"{value:.0f} px long",
    ("drop_width_factor", 1): lambda value: phrases.minus(f"slanted by {value:.0f} px") if value else "",
    ("salt_and_pepper_factor", 1): lambda value: f"{value:.0%} of it salt",
    ("amount_factor", 1): lambda value: f"{value:.1%} of the pixels",
    **{(f"{name[0]}_shift", 1): _step(name) for name in ("red", "green", "blue")},
}
"""Words of a parameter by its name and how many numbers it has. Others are called by their name."""
