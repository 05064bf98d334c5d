"""Changes of values and of bytes, drawn from a generator, so every input can be made again."""

import copy
from random import Random
from typing import Any

ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 3, 2**31, 2**63, -(2**64), 10**400, 0.0, -0.5, 1e-300, 1e300),
    *(float("inf"), float("-inf"), float("nan")),
    *("", " ", "a", "none", "auto", "true", "1e999", "../../x", "/dev/zero", "hf-hub:a/b", "os.abort", "a.b.C", "."),
    *("\x1b[31mred\x1b[0m", "\u202eevil", "\ud800", "ß" * 300, "nul\x00", "line\nbreak", "name: [", "x" * 5000),
    *([], {}, [[]], [None], {"name": "simclr"}, {"name": None}, {"": ""}, [1, "a", {}], {"name": "os.abort"}),
]
"""Values that somebody may write in the place of any other."""


def deep(levels: int) -> Any:
    """A list in a list in a list."""
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


def changed(random: Random, value: Any, times: int) -> Any:
    """A copy of nested mappings and lists with some places changed: other values, names, copies, gaps."""
    value = copy.deepcopy(value)
    for _ in range(times):
        places = list(_places(value))
        if not places:
            return random.choice(ODD)
        holder, key = random.choice(places)
        _change(random, holder, key)
    return value


def _places(value: Any) -> Any:
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def _change(random: Random, holder: Any, key: Any) -> None:
    old, kind = holder[key], random.randrange(9)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        name = str(key)
        at = random.randrange(len(name) + 1)
        holder[name[:at] + random.choice(["", "x", "-", ".", "é", "\x1b"]) + name[at + 1 :]] = holder.pop(key)
    elif kind == 2 and isinstance(holder, list):
        holder.insert(key, copy.deepcopy(old))
    elif kind == 3:
        holder[key] = [old]
    elif kind == 4:
        holder[key] = {"name": old}
    elif kind == 5 and isinstance(old, int | float) and not isinstance(old, bool):
        half = old + 0.5 if abs(old) < 2**1000 else old  # No float is near a longer number.
        holder[key] = random.choice([-old, old * 10**6, half, str(old), old - 1])
    elif kind == 6 and random.random() < 0.2:
        holder[key] = deep(random.choice([5, 30, 60]))
    else:
        holder[key] = copy.deepcopy(random.choice(ODD))


def damaged(random: Random, content: bytes) -> bytes:
    """Bytes with some flipped, cut off, doubled, or replaced."""
    found = bytearray(content)
    for _ in range(random.choice([1, 1, 2, 4, 16])):
        at = random.randrange(len(found)) if found else 0
        kind = random.randrange(6)
        if kind <= 1 and found:
            found[at] ^= 1 << random.randrange(8)
        elif kind == 2 and found:
            found[at : at + 4] = random.choice([b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\x7f\xff\xff\xff"])
        elif kind == 3:
            del found[at:]
        elif kind == 4:
            found[at:at] = found[at : at + random.randrange(1, 64)]
        else:
            del found[at : at + random.randrange(1, 16)]
    return bytes(found)
