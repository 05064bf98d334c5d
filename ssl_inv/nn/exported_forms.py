"""The form that every entry of an exported network's config.json must have, before anything is made of it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

OWN_KEY = "ssl_inv"
"""The entry of config.json that only this package reads."""

CHECKSUM = "crc32"
"""The entry inside it that `ssl_inv.nn.exported.sealed` writes."""

MOST_PIXELS_OF_A_SIDE = 1 << 16

_LARGEST = 1e30
"""Single precision holds numbers and their inverses up to here."""

Form = tuple[Callable[[Any], bool], str]
"""Whether a value is what an entry may hold, and that in words."""


def is_number(value: Any) -> bool:
    """Whether a value is a number that single precision holds; a truth value is none."""
    # No NaN is less than anything, and a whole number of any length can be compared.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST


def is_whole(value: Any, least: int = 0, most: int = 2**31) -> bool:
    """Whether a value is a whole number from `least` to less than `most`."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < most


def _is_positive(value: Any) -> bool:
    return is_number(value) and value > 1 / _LARGEST


def _is_list(value: Any, of: Callable[[Any], bool], lengths: range = range(1, 1 << 16)) -> bool:
    return isinstance(value, list) and len(value) in lengths and all(map(of, value))


def _is_shape(value: Any) -> bool:
    return _is_list(value, lambda side: is_whole(side, 1, MOST_PIXELS_OF_A_SIDE), range(3, 4))


def _is_name(value: Any) -> bool:
    return value is None or isinstance(value, str) or (isinstance(value, list) and _is_list([*value, ""], _is_text))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict)


_MAPPING: Form = (_is_mapping, "a mapping")
_MAPPING_OR_NONE: Form = (lambda value: value is None or _is_mapping(value), "a mapping")
_TEXT: Form = (_is_text, "a text")
_TEXT_OR_NONE: Form = (lambda value: value is None or _is_text(value), "a text")
_COUNT: Form = (lambda value: value is None or is_whole(value), "a whole number from 0")
_SHAPE: Form = (_is_shape, f"[channels, height, width], each from 1 to {MOST_PIXELS_OF_A_SIDE - 1}")
_NAME: Form = (_is_name, "a name, or a list of names")

_WHOLE: Mapping[str, Form] = {
    "architecture": _TEXT,
    "num_classes": _COUNT,
    "num_features": _COUNT,
    "model_args": _MAPPING_OR_NONE,
    "pretrained_cfg": _MAPPING,
    OWN_KEY: _MAPPING_OR_NONE,
}
_PREPROCESSING: Mapping[str, Form] = {
    "mean": (lambda value: _is_list(value, is_number), "a list of numbers, one for each channel"),
    "std": (lambda value: _is_list(value, _is_positive), "a list of numbers above 0, one for each channel"),
    "input_size": _SHAPE,
    "min_input_size": (lambda value: value is None or _is_shape(value), _SHAPE[1]),
    "test_input_size": (lambda value: value is None or _is_shape(value), _SHAPE[1]),
    "interpolation": _TEXT,
    "crop_pct": (_is_positive, "a number above 0"),
    "crop_mode": _TEXT,
    "num_classes": _COUNT,
    "first_conv": _NAME,
    "classifier": _NAME,
    "fixed_input_size": (lambda value: value is None or isinstance(value, bool), "true or false"),
}
_OWN: Mapping[str, Form] = {
    "parts": _MAPPING,
    "module": _TEXT_OR_NONE,
    "reading": _MAPPING,
    CHECKSUM: _TEXT_OR_NONE,
}
"""The entries that are read: of the whole, of the preprocessing, where timm reads them too, and of this package."""


def require_forms(config: Any, file: Path) -> None:
    """Check type, length and range of every entry that is read, of those that are there.

    Raises:
        ValueError: naming the file and the key of the first that has another form.
    """
    if not isinstance(config, dict):
        raise ValueError(f"{file} describes no network: it holds a {type(config).__name__}, and no mapping")
    _require_form(config, "", _WHOLE, file)
    inside = config.get("pretrained_cfg", config)
    place = "pretrained_cfg." if inside is not config else ""
    _require_form(inside, place, _PREPROCESSING, file)
    _require_form(config.get(OWN_KEY) or {}, f"{OWN_KEY}.", _OWN, file)
    mean, std = inside.get("mean"), inside.get("std")
    if mean is not None and std is not None and len(mean) != len(std):
        raise ValueError(f"{file}: {place}mean has {len(mean)} number(s), and {place}std has {len(std)}")


def require_form(value: Any, form: Form, where: str) -> None:
    """Raise a `ValueError` unless a value has a form; `where` is its file and its key."""
    fits, wanted = form
    if not fits(value):
        told = repr(value)
        raise ValueError(f"{where} must be {wanted}, got {told if len(told) <= 80 else told[:77] + '...'}")


def _require_form(entries: Mapping[str, Any], place: str, forms: Mapping[str, Form], file: Path) -> None:
    for key, form in forms.items():
        if key in entries:
            require_form(entries[key], form, f"{file}: {place}{key}")
