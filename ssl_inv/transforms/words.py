"""How a view was made, in words: "crop 43% of the image, flipped, brightness ×1.21"."""

import math
from collections.abc import Callable

from torch import Tensor

from ssl_inv.transforms import Box, Circle, Code, Flag, Group, Pose, Real, Rotation, Transform


def describe_view(transform: Transform, row: int) -> str:
    """One row of a record in words: what the data knows of it, then what was done to it, in the order in which it is
    done.

    What is neutral, or too little to be printed, is left out; an empty record gives no words.
    """
    order = {name: place for place, name in enumerate(_OWN)}
    names = sorted(transform.names, key=lambda name: order.get(name, -1))
    phrases = [in_words(name, transform[name][row], transform.groups[name]) for name in names]
    return ", ".join(phrase for phrase in phrases if phrase) or ("unchanged" if names else "")


def in_words(name: str, value: Tensor, group: Group) -> str:
    """One parameter of one view in words, empty where it is neutral.

    Args:
        name: of the parameter; those that augmentations and plans record have words of their own, others are called by
        their name.
        value: `()` or `(d,)`.
        group: of the parameter.

    Raises:
        ValueError: if the group is none of this package.
    """
    numbers = value.detach().cpu().double().flatten().tolist()
    kind, length, phrase = _OWN.get(name, (Group, 0, _nothing))
    if isinstance(group, kind) and len(numbers) == length:
        return phrase(*numbers)
    label = name.replace("_", " ")
    if isinstance(group, Rotation):
        return _rotation("rotated" if name == "rotation" else f"{label} rotated", *numbers)
    if isinstance(group, Pose):
        words = (_rotation(f"{label} rotated", *numbers[:4]), _real(f"{label} shifted", numbers[4:], 0.0))
        return ", ".join(part for part in words if part)
    if isinstance(group, Circle):
        return _on_circle(label, numbers[0], group.period)
    if isinstance(group, Box):
        x, y, width, height = numbers
        return "" if numbers == [0.5, 0.5, 1.0, 1.0] else f"{label} {width * height:.0%} at ({x:.2f}, {y:.2f})"
    if isinstance(group, Flag):
        return label if numbers[0] else ""
    if isinstance(group, Real):
        return _real(label, numbers, group.neutral_value)
    if isinstance(group, Code):
        return ""
    raise ValueError(f"no words are known for values of the group {type(group).__name__}, which {name!r} belongs to")


# By group.


def _rotation(label: str, x: float, y: float, z: float, w: float) -> str:
    sine, sign = math.hypot(x, y, z), math.copysign(1, w)
    degrees = math.degrees(2 * math.atan2(sine, abs(w)))
    if degrees < 0.5:
        return ""
    # Adding 0 turns -0.0 into 0.0.
    axis = ", ".join(_minus(f"{round(sign * part / sine, 1) + 0:.1f}") for part in (x, y, z))
    return f"{label} {degrees:.0f}° about ({axis})"


def _on_circle(label: str, value: float, period: float) -> str:
    if math.isclose(period, 2 * math.pi, rel_tol=1e-6):
        degrees = math.degrees(math.remainder(value, period))
        return f"{label} {_signed(degrees, 0)}°" if abs(degrees) >= 0.5 else ""
    return f"{label} {value:.2f}" if value else ""


def _real(label: str, numbers: list[float], neutral: float) -> str:
    # The neutral value stands in the code, the recorded one has passed through single precision.
    if all(math.isclose(number, neutral, rel_tol=1e-6, abs_tol=1e-12) for number in numbers):
        return ""
    words = ", ".join(_minus(f"{number:.3g}") for number in numbers)
    return f"{label} {words}" if len(numbers) == 1 else f"{label} ({words})"


# By name: what augmentations and plans record.


def _nothing(*_: float) -> str:
    return ""


def _crop(x: float, y: float, width: float, height: float) -> str:
    return "" if (x, y, width, height) == (0.5, 0.5, 1.0, 1.0) else f"crop {width * height:.0%} of the image"


def _angle(value: float) -> str:
    degrees = math.degrees(math.remainder(value, 2 * math.pi))
    return f"turned {abs(degrees):.0f}° {'counter-' if degrees > 0 else ''}clockwise" if abs(degrees) >= 0.5 else ""


def _translation(x: float, y: float) -> str:
    shifts = [(x, "right" if x > 0 else "left"), (y, "down" if y > 0 else "up")]
    words = [f"{abs(shift):.0%} {direction}" for shift, direction in shifts if abs(shift) >= 0.005]
    return f"shifted {' '.join(words)}" if words else ""


def _shear(x: float, y: float) -> str:
    parts = [(math.degrees(x), "x"), (math.degrees(y), "y")]
    words = [f"{_signed(degrees, 0)}° in {axis}" for degrees, axis in parts if abs(degrees) >= 0.5]
    return f"sheared {' '.join(words)}" if words else ""


def _perspective(*shifts: float) -> str:
    largest = max(abs(shift) for shift in shifts)
    return f"perspective with corners up to {largest:.0%} inwards" if largest >= 0.005 else ""


def _turn(quarters: float) -> str:
    return f"turned {90 * quarters:.0f}° counter-clockwise" if quarters else ""


def _patch(x: float, y: float, width: float, height: float) -> str:
    return "" if (x, y, width, height) == (0.5, 0.5, 1.0, 1.0) else f"patch of {width * height:.1%} of the view"


def _fixation(row: float, column: float) -> str:
    return f"fixation {column:.0%} right {row:.0%} down" if row or column else ""


def _strength(label: str) -> Callable[[float], str]:
    return lambda value: f"{label} {value:.2f}" if value >= 0.005 else ""


def _smoothness(gamma: float) -> str:
    return f"field gamma {gamma:.1f}" if gamma != 10 else ""


def _factor(label: str) -> Callable[[float], str]:
    return lambda value: f"{label} \N{MULTIPLICATION SIGN}{value:.2f}" if abs(value - 1) >= 0.005 else ""


def _flag(label: str) -> Callable[[float], str]:
    return lambda value: label if value else ""


def _hue(value: float) -> str:
    turns = math.remainder(value, 1.0)
    return f"hue {_signed(turns, 2)} turns" if abs(turns) >= 0.005 else ""


def _blur(value: float) -> str:
    return f"blur {value:.1f} px" if value >= 0.05 else ""


def _solarise(value: float) -> str:
    return f"solarised above {value:.2f}" if value <= 1 else ""


def _posterise(value: float) -> str:
    return f"posterised to {value:.0f} bits" if value < 8 else ""


def _noise(value: float) -> str:
    return f"noise {value:.2f}" if value >= 0.005 else ""


def _colour_dropping(value: float) -> str:
    return f"nothing but {('red', 'green', 'blue')[int(value) - 1]}" if value >= 1 else ""


def _erasing(left: float, top: float, width: float, height: float) -> str:
    return f"{width * height:.0%} erased" if width * height > 0 else ""


_OWN: dict[str, tuple[type[Group], int, Callable[..., str]]] = {
    "crop": (Box, 4, _crop),
    "flip": (Flag, 1, _flag("flipped")),
    "vertical_flip": (Flag, 1, _flag("flipped upside down")),
    "angle": (Circle, 1, _angle),
    "translation": (Real, 2, _translation),
    "zoom": (Real, 1, _factor("scaled")),
    "shear": (Real, 2, _shear),
    "perspective": (Real, 8, _perspective),
    **{f"field_{name}": (Real, 1, _strength(f"field {name}")) for name in ("translate", "rotate", "scale", "shear")},
    **{f"field_{name}": (Real, 1, _strength(f"field {name}")) for name in ("hue", "saturation", "value")},
    "field_gamma": (Real, 1, _smoothness),
    "field_periodic": (Flag, 1, _flag("field periodic")),
    "brightness": (Real, 1, _factor("brightness")),
    "contrast": (Real, 1, _factor("contrast")),
    "saturation": (Real, 1, _factor("saturation")),
    "hue": (Circle, 1, _hue),
    "grey": (Flag, 1, _flag("grey")),
    "blur": (Real, 1, _blur),
    "solarise": (Real, 1, _solarise),
    "posterise": (Real, 1, _posterise),
    "noise": (Real, 1, _noise),
    "colour_dropping": (Code, 1, _colour_dropping),
    "erasing": (Real, 4, _erasing),
    "turn": (Circle, 1, _turn),
    "fixation": (Real, 2, _fixation),
    "patch": (Box, 4, _patch),
}
"""Group, how many numbers, and the words for them, in the order in which things are done to a view."""


def _signed(value: float, decimals: int) -> str:
    return _minus(f"{value:+.{decimals}f}")


def _minus(number: str) -> str:
    return number.replace("-", "\N{MINUS SIGN}")
