"""Views and actions in English: "crop 43% of the image, flipped, brightness ×1.21"; "rotated 37°, floor hue +0.08"."""

from collections.abc import Callable, Sequence

from torch import Tensor

from ssl_inv.transforms import phrases
from ssl_inv.transforms.group import Group
from ssl_inv.transforms.groups import Box, Circle, Code, Flag, Real
from ssl_inv.transforms.kornia_words import (
    factor,
    hue,
    is_of_kornia,
    operations_words,
    sheared,
    shifted,
    short_name,
    turned,
)
from ssl_inv.transforms.projective import Projective
from ssl_inv.transforms.transform import Action, Transform


def describe_view(transform: Transform, row: int) -> str:
    """One row of a record in words: first what the data know of the view, then what was done to it, in this order.

    Neutral values, and values too small to be printed, are left out. An empty record gives no words. The whole map of
    a view is told where nothing else tells how the view was made.
    """
    order = {name: place for place, name in enumerate(_OWN)}
    own = [name for name in transform.names if not is_of_kornia(name)]
    maps = [name for name in own if isinstance(transform.groups[name], Projective)]
    names = sorted((name for name in own if name not in maps), key=lambda name: order.get(name, -1))
    said = [in_words(name, transform[name][row], transform.groups[name]) for name in names]
    following = [name for name in transform.names if is_of_kornia(name)]
    said += operations_words({name: (_numbers(transform[name][row]), transform.groups[name]) for name in following})
    words = phrases.joined(*said) or phrases.joined(
        *(in_words(name, transform[name][row], transform.groups[name]) for name in maps)
    )
    return words or ("unchanged" if transform.names else "")


def in_words(name: str, value: Tensor, group: Group) -> str:
    """One value, `()` or `(d,)`, of the parameter `name` in words; empty if it is neutral.

    Parameters that augmentations and plans record have words of their own. Others are called by their name.
    """
    numbers = _numbers(value)
    kind, length, phrase = _OWN.get(name, (None, 0, str))
    if type(group) is kind and len(numbers) == length:
        return phrase(*numbers)
    return group.words(_label(name), numbers)


def describe_action(action: Action, row: int) -> str:
    """One row of an action in words. Steps too small to be printed are left out."""
    found = []
    for name in action.names:
        step, target = (_numbers(part[name][row]) for part in (action.values, action.target))
        found.append(action.groups[name].step_words(_label(name), step, target))
    return phrases.joined(*found) or "unchanged"


def _numbers(value: Tensor) -> Sequence[float]:
    found: Sequence[float] = value.detach().cpu().double().flatten().tolist()
    return found


def _label(name: str) -> str:
    """What a parameter is called in words."""
    if name == "projective":
        return "map"
    return short_name(name) if is_of_kornia(name) else name.replace("_", " ")


def _of_box(label: str, digits: int, of: str) -> Callable[..., str]:
    def words(*box: float) -> str:
        return "" if box == (0.5, 0.5, 1.0, 1.0) else f"{label} {box[2] * box[3]:.{digits}%} of the {of}"

    return words


def _perspective(*shifts: float) -> str:
    largest = max(abs(shift) for shift in shifts)
    return f"perspective with corners up to {largest:.0%} inwards" if largest >= 0.005 else ""


def _turn(quarters: float) -> str:
    return f"turned {90 * quarters:.0f}° counter-clockwise" if quarters else ""


def _fixation(row: float, column: float) -> str:
    return f"fixation {column:.0%} right {row:.0%} down" if row or column else ""


def _strength(label: str) -> Callable[[float], str]:
    return lambda value: f"{label} {value:.2f}" if value >= 0.005 else ""


def _smoothness(gamma: float) -> str:
    return f"field gamma {gamma:.1f}" if gamma != 10 else ""


def _flag(label: str) -> Callable[[float], str]:
    return lambda value: label if value else ""


def _blur(value: float) -> str:
    return f"blur {value:.1f} px" if value >= 0.05 else ""


def _solarise(value: float) -> str:
    return f"solarised above {value:.2f}" if value <= 1 else ""


def _posterise(value: float) -> str:
    return f"posterised {phrases.bits(value)}" if value < 8 else ""


def _colour_dropping(value: float) -> str:
    return f"nothing but {('red', 'green', 'blue')[int(value) - 1]}" if value >= 1 else ""


def _erasing(left: float, top: float, width: float, height: float) -> str:
    return f"{width * height:.0%} erased" if width * height > 0 else ""


_OWN: dict[str, tuple[type[Group], int, Callable[..., str]]] = {
    "crop": (Box, 4, _of_box("crop", 0, "image")),
    "flip": (Flag, 1, _flag("flipped")),
    "vertical_flip": (Flag, 1, _flag("flipped upside down")),
    "angle": (Circle, 1, turned),
    "translation": (Real, 2, shifted),
    "zoom": (Real, 1, factor("scaled")),
    "shear": (Real, 2, sheared),
    "perspective": (Real, 8, _perspective),
    **{f"field_{name}": (Real, 1, _strength(f"field {name}")) for name in ("translate", "rotate", "scale", "shear")},
    **{f"field_{name}": (Real, 1, _strength(f"field {name}")) for name in ("hue", "saturation", "value")},
    "field_gamma": (Real, 1, _smoothness),
    "field_periodic": (Flag, 1, _flag("field periodic")),
    "brightness": (Real, 1, factor("brightness")),
    "contrast": (Real, 1, factor("contrast")),
    "saturation": (Real, 1, factor("saturation")),
    "hue": (Circle, 1, hue),
    "grey": (Flag, 1, _flag("grey")),
    "blur": (Real, 1, _blur),
    "solarise": (Real, 1, _solarise),
    "posterise": (Real, 1, _posterise),
    "noise": (Real, 1, _strength("noise")),
    "colour_dropping": (Code, 1, _colour_dropping),
    "erasing": (Real, 4, _erasing),
    "turn": (Circle, 1, _turn),
    "fixation": (Real, 2, _fixation),
    "patch": (Box, 4, _of_box("patch of", 1, "view")),
}
"""The parameters that augmentations and plans record: group, number of values, words. Their order is the order in which
operations are applied to a view.
"""
