"""Claims about names of files: what is asked of all of them at once is what python says of each."""

import pickle
import random

import numpy as np
import pytest

from ssl_inv.data import names as names_module
from ssl_inv.data.names import Names, packed


def drawn(count: int) -> list[bytes]:
    """Names of few letters, so that many share folders; some are not UTF-8."""
    source = random.Random(0)

    def part() -> bytes:
        return bytes(source.choice(b"ab.-J0\xff") for _ in range(source.randint(1, 3)))

    endings = [b"", b".jpg", b".JPEG", b".txt"]
    paths = {b"/".join(part() for _ in range(source.randint(1, 4))) + source.choice(endings) for _ in range(count)}
    return sorted(paths)


ALL = drawn(400)


@pytest.fixture(params=[(7, slice(None)), (1 << 19, slice(None)), (50, slice(0, None, 2)), (50, slice(3, 3))])
def both(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[Names, list[bytes]]:
    """Names, worked on in parts of some size, and the same as a list: all, every second one, or none."""
    size, which = request.param
    monkeypatch.setattr(names_module, "_CHUNK", size)
    return packed(ALL)[which], ALL[which]


def test_names_are_a_list(both: tuple[Names, list[bytes]]) -> None:
    names, expected = both
    assert list(names) == expected == [names[place] for place in range(len(expected))]
    assert list(pickle.loads(pickle.dumps(names))) == expected
    mask = np.arange(len(expected)) % 3 == 1
    assert list(names[mask]) == list(names[np.flatnonzero(mask)]) == expected[1::3]
    assert list(names[1:9][2:4]) == expected[3:5]
    with pytest.raises(IndexError):
        names[len(expected)]


def test_what_is_asked_of_all_names_at_once(both: tuple[Names, list[bytes]]) -> None:
    names, expected = both
    assert names.ending([".jpg", ".jpeg"]).tolist() == [one.lower().endswith((b".jpg", b".jpeg")) for one in expected]
    assert names.beginning(b"a").tolist() == [one.startswith(b"a") for one in expected]
    for depth in range(4):
        numbers, folders = names.folders(depth)
        parts = [one.split(b"/") for one in expected]
        assert [folders[number] for number in numbers] == [one[depth] if len(one) > depth + 1 else b"" for one in parts]
        assert folders == sorted({folders[number] for number in numbers})
    for folder in (b"a", b"a/b", b"\xff", b"nothing"):
        assert list(names.below(folder)) == [one for one in expected if one.startswith(folder + b"/")]
    assert list(names.with_slashes(1)) == [one for one in expected if one.count(b"/") == 1]


@pytest.mark.parametrize("times", [1, 3])
def test_names_are_found(both: tuple[Names, list[bytes]], times: int) -> None:
    names, expected = both
    places = {name: place for place, name in enumerate(expected)}
    wanted = [b"zz", *ALL[::3], b"", *ALL[::3]] * times
    assert names.find(packed(wanted)).tolist() == [places.get(name, -1) for name in wanted]
    assert [names.place(name) for name in wanted] == [places.get(name) for name in wanted]
    numbers, values = names.numbered()
    assert [values[int(number)].as_py() for number in numbers] == expected
    assert len(values) == len(set(expected))


def test_the_bytes_of_a_stamp_are_those_of_the_array_of_fixed_width_that_older_runs_have(
    both: tuple[Names, list[bytes]],
) -> None:
    names, expected = both
    assert b"".join(names.padded()) == np.array(expected or np.empty(0, "S1"), dtype=np.bytes_).tobytes()


def test_a_long_name_takes_its_own_length_alone() -> None:
    names = packed([b"x" * 1000, *(b"%d" % number for number in range(10_000))])
    assert len(pickle.dumps(names)) < 150_000
