"""From the frames of a video to reliable tracks: found by motion, followed, and checked by following them back."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from ssl_inv.catalogue import require, require_at_least, require_between
from ssl_inv.data.videos.boxes import Box, area, inside, overlap, square_around
from ssl_inv.data.videos.flow import Clip, moving_regions, without_doubles
from ssl_inv.data.videos.followers import Tracker, tracker
from ssl_inv.data.videos.reading import Frame

SAME_OBJECT = 0.5
"""Boxes with at least this overlap show one object: of two such tracks one is kept, and a track that begins where
another ends continues it."""

_LEAST_VISIBLE = 0.5
"""Share of a box that must lie in the frame."""

_LEAST_SIDE = 16
"""Pixels of a frame; a smaller box shows nothing to learn from."""

_CUT = 0.3
"""Share of the pixels that have another colour after a cut: at least 0.41 between videos of DAVIS, at most 0.14 between
frames of one."""

BACKWARD_STEP = 3
"""Frames per step on the way back. With step 1, the errors of optical flow cancel, and the check passes nearly
everything; see `benchmarks/track_quality.py`."""

_LEAST_CHANGE = 3.0
"""Least mean difference of the first and the last view, in levels of 255, at 32 pixels a side; noise of a good camera
is smaller."""


@dataclass(frozen=True)
class TrackSettings:
    """How tracks are found.

    Args:
        tracker: `flow`, `csrt` or `kcf`; see `ssl_inv.data.videos.followers`.
        length: frames for which a box is followed. The video is cut into pieces of this length; each begins with new
            boxes.
        step: frames from one view of an object to the next.
        objects: largest number of objects in one piece of a video.
        agreement: least overlap of the first box of a track with the box found by following it backwards; 0 for no such
            check.

    Raises:
        ValueError: if a number is out of range.
    """

    tracker: str = "flow"
    length: int = 30
    step: int = 5
    objects: int = 2
    agreement: float = 0.5

    def __post_init__(self) -> None:
        require_at_least(2, length=self.length)
        require_at_least(1, step=self.step, objects=self.objects)
        # A piece before a cut can be half as long, and one view is no track.
        most = self.length // 2
        require(self.step <= most, "step", f"must be at most half the length of a track, {most}, got {self.step}")
        require_between(0, 1, agreement=self.agreement)


@dataclass(frozen=True)
class Piece:
    """Consecutive frames of a video.

    Attributes:
        start: number of the first frame in the video.
        frames: the frames.
        before: the frame before them, which helps to find motion; None at the beginning.
    """

    start: int
    frames: list[Frame]
    before: Frame | None = None


@dataclass(frozen=True)
class Track:
    """One object in one piece of a video.

    Attributes:
        number: number of the object in the video; an object that continues from the piece before keeps its number.
        born: the frame of the video in which this object was first found.
        boxes: its box in every frame of the piece, in pixels of the frames.
        agreement: overlap of the first box with the box found by following the last one backwards; 1 if not checked.
    """

    number: int
    born: int
    boxes: list[Box]
    agreement: float


@dataclass
class Miner:
    """The tracks of one video, piece after piece, and the reasons for dropped tracks.

    Args:
        settings: how tracks are found.
    """

    settings: TrackSettings
    dropped: Counter[str] = field(default_factory=Counter)
    _open: list[Track] = field(default_factory=list)
    _objects: int = 0

    def tracks(self, piece: Piece) -> list[Track]:
        """The tracks of the next piece, the one with the most motion first."""
        # After a cut nothing continues, even in the same place.
        earlier = [] if piece.before is None else list(self._open)
        self._open = [
            self._named(track, piece.start, earlier) for track in _follow_all(piece, self.settings, self.dropped)
        ]
        return self._open

    def _named(self, track: Track, start: int, earlier: list[Track]) -> Track:
        for place, one in enumerate(earlier):
            if overlap(one.boxes[-1], track.boxes[0]) >= SAME_OBJECT:
                del earlier[place]
                return replace(track, number=one.number, born=one.born)
        self._objects += 1
        return replace(track, number=self._objects - 1, born=start)


def pieces(frames: Iterable[Frame], length: int) -> Iterator[Piece]:
    """A video cut into pieces of `length` steps, so `length + 1` frames; each begins with the last frame of the piece
    before.

    A piece ends early at a cut of the scene, and the next one begins after the cut. Pieces of less than half the length
    are left out.
    """
    held, before, start = list[Frame](), None, 0
    colours: NDArray[np.float32] = np.empty(0, dtype=np.float32)
    for number, frame in enumerate(frames):
        last, colours = colours, _colours(frame)
        if held and np.abs(colours - last).sum() / 2 > _CUT:
            yield from _long_enough(Piece(start, held, before), length)
            held, before, start = [], None, number
        held.append(frame)
        if len(held) == length + 1:
            yield Piece(start, held, before)
            held, before, start = [frame], held[-2], number
    yield from _long_enough(Piece(start, held, before), length)


def _long_enough(piece: Piece, length: int) -> Iterator[Piece]:
    if len(piece.frames) - 1 >= length / 2:
        yield piece


def _colours(frame: Frame) -> NDArray[np.float32]:
    """Share of the pixels in each of 8x8x8 boxes of the colour cube."""
    counts: NDArray[np.float32] = cv2.calcHist([frame], [0, 1, 2], None, [8, 8, 8], [0, 256] * 3)
    share: NDArray[np.float32] = counts / counts.sum()
    return share


def _follow_all(piece: Piece, settings: TrackSettings, dropped: Counter[str]) -> list[Track]:
    clip = Clip(piece.frames if piece.before is None else [piece.before, *piece.frames])
    first = len(clip) - len(piece.frames)
    follow, kept = tracker(settings.tracker), list[Track]()
    for box in without_doubles(moving_regions(clip, first, settings.objects), SAME_OBJECT):
        track = _follow(clip, first, box, follow, settings.agreement)
        fault = _fault(track, clip, len(piece.frames), settings.agreement)
        ends = [overlap(track.boxes[-1] / clip.scale, other.boxes[-1]) for other in kept]
        if fault is None and max(ends, default=0.0) >= SAME_OBJECT:
            fault = "ends on another track"
        if fault is None:
            kept.append(replace(track, boxes=[one / clip.scale for one in track.boxes]))
        else:
            dropped[fault] += 1
    return kept


def _follow(clip: Clip, first: int, box: Box, follow: Tracker, least_agreement: float) -> Track:
    """The track of a box at working size, not yet numbered, and its agreement backwards."""
    boxes = follow(clip, range(first, len(clip)), box)
    checked = least_agreement > 0 and len(boxes) == len(clip) - first
    return Track(0, 0, boxes, agreement(clip, first, boxes, follow) if checked else 1.0)


def agreement(clip: Clip, first: int, boxes: list[Box], follow: Tracker, step: int = BACKWARD_STEP) -> float:
    """Overlap of the first box of a track with the box found by following the last one backwards; 0 if that is lost.

    Args:
        clip: the frames.
        first: the frame of the first box.
        boxes: one for each frame from `first` on.
        follow: the tracker.
        step: frames per step.
    """
    back = [*range(first + len(boxes) - 1, first, -step), first]
    returned = follow(clip, back, boxes[-1])
    return overlap(returned[-1], boxes[0]) if len(returned) == len(back) else 0.0


def _fault(track: Track, clip: Clip, frames: int, agreement: float) -> str | None:
    """The reason to drop a track; None to keep it."""
    if len(track.boxes) < frames:
        return "lost"
    if any(area(inside(box, *clip.size)) < _LEAST_VISIBLE * area(box) for box in track.boxes):
        return "left the frame"
    if min(float(np.min(box[2:] - box[:2])) for box in track.boxes) < _LEAST_SIDE * clip.scale:
        return "too small"
    if track.agreement < agreement:
        return "not found again backwards"
    change = np.abs(_thumbnail(clip.colour[-frames], track.boxes[0]) - _thumbnail(clip.colour[-1], track.boxes[-1]))
    return "looks the same all the time" if change.mean() < _LEAST_CHANGE else None


def _thumbnail(frame: Frame, box: Box) -> NDArray[np.float32]:
    height, width = frame.shape[:2]
    left, top, side = square_around(box, 0.0, height, width)
    square = frame[top : top + side, left : left + side]
    small: NDArray[np.uint8] = cv2.resize(square, (32, 32), interpolation=cv2.INTER_AREA)
    return small.astype(np.float32)
