"""Numbers in English phrases. A phrase is empty where its numbers are too small to be printed."""

import math
from collections.abc import Sequence


def minus(number: str) -> str:
    """A printed number with a minus sign in place of the hyphen."""
    return number.replace("-", "\N{MINUS SIGN}")


def signed(value: float, decimals: int) -> str:
    """A number with its sign, also if it is positive."""
    return minus(f"{value:+.{decimals}f}")


def factor(label: str, value: float) -> str:
    """A label and a factor: "width ×2.00"."""
    return f"{label} \N{MULTIPLICATION SIGN}{value:.2f}"


def numbers(label: str, printed: Sequence[str]) -> str:
    """A label and one number, or several in brackets."""
    return f"{label} {printed[0]}" if len(printed) == 1 else f"{label} ({', '.join(printed)})"


def shift(label: str, step: Sequence[float]) -> str:
    """A label and how far each number moves."""
    moves = max(map(abs, step)) >= 0.005
    return numbers(label, [signed(value, 2) for value in step]) if moves else ""


def degrees(label: str, radians: float) -> str:
    """A label and a signed angle."""
    value = math.degrees(radians)
    return f"{label} {signed(value, 0)}°" if abs(value) >= 0.5 else ""


def rotated(label: str, quaternion: Sequence[float], axis: bool = False) -> str:
    """A label, the angle of a rotation, and its axis if that is wanted."""
    *vector, w = quaternion
    sine = math.hypot(*vector)
    angle = math.degrees(2 * math.atan2(sine, abs(w)))
    if angle < 0.5:
        return ""
    # Adding 0 turns -0.0 into 0.0.
    printed = [minus(f"{round(math.copysign(1, w) * part / sine, 1) + 0:.1f}") for part in vector]
    return f"{label} {angle:.0f}°" + (f" about ({', '.join(printed)})" if axis else "")


def directions(x: float, y: float) -> list[str]:
    """A shift in fractions of an image: "10% right", "5% up"."""
    shifts = [(x, "right" if x > 0 else "left"), (y, "down" if y > 0 else "up")]
    return [f"{abs(length):.0%} {direction}" for length, direction in shifts if abs(length) >= 0.005]


def share(value: float) -> str:
    """A share of a whole: "10%"."""
    return f"{value:.0%}"


def bits(value: float) -> str:
    """How many bits a value keeps: "to 4 bits"."""
    return f"to {value:.0f} bit{'' if round(value) == 1 else 's'}"


def joined(*phrases: str, between: str = ", ") -> str:
    """The phrases that are not empty, one after the other."""
    return between.join(phrase for phrase in phrases if phrase)
