"""What ssl-inv, torchvision, timm and lightly read of a situation."""

import gc
import signal
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from situations.cases import Colour, Found, Situation
from ssl_inv.catalogue import DATA
from ssl_inv.data.source import Source

_NEAR = 4
"""Levels by which a colour may be off, because some formats lose a little."""

_LONGEST = 5.0
"""Seconds after which a reader is said to hang."""


class HangingError(BaseException):
    """A reader waits for ever. It is no `Exception`, so that nobody takes it for a broken file."""


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise HangingError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _looked(image: Any) -> Colour:
    """The colour of an image a little left and above of its middle."""
    array = np.asarray(image)
    height, width = array.shape[:2]
    value = array[height // 2 - 2, width // 2 - 2]
    red, green, blue = (int(one) for one in np.broadcast_to(value, 3))
    return red, green, blue


def ours(situation: Situation, path: str) -> tuple[list[Found], str]:
    """The images and the notes of ssl-inv; an error is raised."""
    data = DATA.find(situation.data).load()(path=path, **{"validation_share": 0.5, **situation.settings})
    found = []
    for part in (data.train, data.validation):
        found += [one for item in range(len(part)) for one in _views(part, item)]
    return found, "; ".join(data.notes.values())


def _views(source: Source, item: int) -> Iterable[Found]:
    count, labels = int(source.view_counts[item]), source.labels
    known = labels is not None and bool(labels.known[item])
    name = labels.names[int(labels.classes[item])] if known and labels is not None else None
    images = source.load(np.full(count, item), np.arange(count))
    for pixels, readable in zip(images.pixels, images.readable, strict=True):
        if readable:
            yield _looked(pixels.permute(1, 2, 0).numpy()), name


def torchvision_folder(path: str) -> list[Found]:
    from torchvision.datasets import ImageFolder

    dataset = ImageFolder(path)
    return [
        (_looked(image), dataset.classes[number]) for image, number in map(dataset.__getitem__, range(len(dataset)))
    ]


def timm_reader(path: str) -> list[Found]:
    from timm.data import create_dataset

    found = []
    for split in ("train", "validation") if Path(path, "train").is_dir() else ("train",):
        dataset = create_dataset("", path, split=split)
        names = {number: name for name, number in dataset.reader.class_to_idx.items()}
        for number in range(len(dataset)):
            image, label = dataset[number]
            found.append((_looked(image), names.get(label)))
    return found


def lightly_dataset(path: str) -> list[Found]:
    from lightly.data import LightlyDataset

    dataset = LightlyDataset(path)
    names = getattr(dataset.dataset, "classes", None)
    found = []
    for number in range(len(dataset)):
        image, label, _ = dataset[number]
        found.append((_looked(image), names[label] if names else None))
    return found


PEERS: dict[str, Callable[[str], list[Found]]] = {
    "torchvision": torchvision_folder,
    "timm": timm_reader,
    "lightly": lightly_dataset,
}


@contextmanager
def files_left_open() -> Iterator[None]:
    """Say nothing of files that other libraries leave open, and close them before the block ends.

    A file in a circle of references, such as one that a traceback holds, is closed only when garbage is collected.
    Without this, that is later, in code that is not to blame.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            yield
        finally:
            gc.collect()


def outcome(situation: Situation, read: Callable[[], list[Found]]) -> str:
    """What a reader makes of a situation, in a few words; `right` if it is right."""
    try:
        with warnings.catch_warnings(), redirect_stderr(StringIO()), redirect_stdout(StringIO()), _at_most(_LONGEST):
            warnings.simplefilter("ignore")
            found = read()
    except HangingError:
        return "hangs"
    except Exception as error:  # whatever a reader raises
        return "right" if situation.right is None else f"stops: {type(error).__name__}"
    if situation.right is None:
        return f"reads {len(found)} image{'s' * (len(found) != 1)}"
    return _difference(list(situation.right), found)


def _difference(right: list[Found], found: list[Found]) -> str:
    if len(found) != len(right):
        return f"{len(found)} images for {len(right)}"
    colours, wanted = _matched([one for one, _ in found], [one for one, _ in right])
    if colours:
        return f"{_words(colours[0])} for {_words(wanted[0])}"
    snapped = Counter((_nearest(colour, right), name) for colour, name in found)
    return "right" if snapped == Counter(right) else "other classes"


def _matched(found: list[Colour], right: list[Colour]) -> tuple[list[Colour], list[Colour]]:
    """The colours without a partner in the other list."""
    left, lost = list(found), []
    for wanted in right:
        near = next((one for one in left if _near(one, wanted)), None)
        if near is None:
            lost.append(wanted)
        else:
            left.remove(near)
    return left, lost


def _near(one: Colour, other: Colour) -> bool:
    return all(abs(a - b) <= _NEAR for a, b in zip(one, other, strict=True))


def _nearest(colour: Colour, right: list[Found]) -> Colour:
    return next((wanted for wanted, _ in right if _near(colour, wanted)), colour)


def _words(colour: Colour) -> str:
    return "/".join(map(str, colour)) if len(set(colour)) > 1 else str(colour[0])
