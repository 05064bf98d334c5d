"""Trackers: they follow a box of one frame through the frames after it."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from ssl_inv.catalogue import suggest
from ssl_inv.data.videos.boxes import Box
from ssl_inv.data.videos.flow import Clip, Flow, Points, camera_motion

Tracker = Callable[[Clip, Sequence[int], Box], list[Box]]
"""Takes a clip, the frames to visit in order, and the box in the first of them, at working size. Returns the box in
each frame, or fewer boxes if it loses the object."""

_GRID = 16

_EDGE = 0.05

_CONSISTENT = 0.5
"""Allowed distance in pixels between a point and its place after the flow forwards and backwards."""

_LOST = 10.0
"""If half of the points are further away than this, in pixels, the box is lost, as in the paper."""

_FEWEST = 16

_MOVING = 0.5
"""A point moves on its own if its distance from the camera's motion is over this many pixels, and over this share of
the median distance in the box."""

_ENOUGH_MOVING = 0.25


def tracker(name: str) -> Tracker:
    """The tracker called `name`: `flow`, or OpenCV's `csrt` or `kcf`.

    Raises:
        ValueError: if there is none, or the installed OpenCV lacks it.
    """
    if name == "flow":
        return follow_flow
    if name not in _OPENCV:
        raise ValueError(f"there is no tracker {name!r}; {suggest(name, TRACKERS)}")
    if not hasattr(cv2, _OPENCV[name]):
        advice = "install opencv-contrib-python-headless, or use flow"
        raise ValueError(f"the installed OpenCV has no {name} tracker; {advice}")
    create: Callable[[], cv2.Tracker] = getattr(cv2, _OPENCV[name])
    return lambda clip, order, box: _follow_opencv(create(), clip, order, box)


_OPENCV = {"csrt": "TrackerCSRT_create", "kcf": "TrackerKCF_create"}

TRACKERS = ("flow", *_OPENCV)


def _follow_opencv(one: cv2.Tracker, clip: Clip, order: Sequence[int], box: Box) -> list[Box]:
    left, top, width, height = np.rint([*box[:2], *(box[2:] - box[:2])]).astype(int).tolist()
    one.init(clip.colour[order[0]], (left, top, width, height))
    boxes = [box]
    for frame in order[1:]:
        found, (left, top, width, height) = one.update(clip.colour[frame])
        if not found:
            break
        boxes.append(np.array([left, top, left + width, top + height], dtype=np.float64))
    return boxes


def follow_flow(clip: Clip, order: Sequence[int], box: Box) -> list[Box]:
    """Move and scale a box by the median motion of its points.

    This is Median Flow (Kalal, Mikolajczyk and Matas, "Forward-Backward Error", ICPR 2010) on dense flow, with one
    addition: points that move with the camera are background in the box. They are ignored if there are enough others.
    """
    boxes = [box]
    for first, second in pairwise(order):
        moved = _moved(clip.flow(first, second), clip.flow(second, first), boxes[-1])
        if moved is None:
            break
        boxes.append(moved)
    return boxes


def _moved(there: Flow, back: Flow, box: Box) -> Box | None:
    """The box after one step; None if too few of its points are in the image or agree."""
    height, width = there.shape[:2]
    source = _grid(box)
    source = source[((source >= 0) & (source <= [width - 1, height - 1])).all(axis=1)]
    if len(source) < _FEWEST:
        return None
    target = source + _at(there, source)
    error = np.linalg.norm(target + _at(back, target) - source, axis=1)
    if np.median(error) > _LOST:
        return None
    trusted = error <= max(float(np.median(error)), _CONSISTENT)
    camera = _camera_outside(there, box)
    if camera is not None:
        own = np.linalg.norm(target - cv2.perspectiveTransform(source[None], camera)[0], axis=1)
        moving = trusted & (own > _MOVING * max(1.0, float(np.median(own))))
        trusted = moving if moving.sum() >= _ENOUGH_MOVING * len(source) else trusted
    return _shifted_and_scaled(box, source[trusted], target[trusted])


def _grid(box: Box) -> Points:
    inset = _EDGE * (box[2:] - box[:2])
    x, y = np.linspace(box[:2] + inset, box[2:] - inset, _GRID, dtype=np.float32).T
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)


def _at(flow: Flow, points: Points) -> Points:
    """The flow between pixels, `(P, 2)`."""
    x, y = points.T[:, None]
    sampled: Points = cv2.remap(flow, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[0]
    return sampled


def _camera_outside(flow: Flow, box: Box) -> NDArray[np.float64] | None:
    """The camera's motion, from the points outside the box."""
    height, width = flow.shape[:2]
    grid = np.meshgrid(np.arange(0, width, 8), np.arange(0, height, 8))
    points = np.stack(grid, axis=-1).astype(np.float32).reshape(-1, 2)
    points = points[((points < box[:2]) | (points > box[2:])).any(axis=1)]
    if not len(points):
        return None  # the object fills the frame
    return camera_motion(points, points + _at(flow, points))


def _shifted_and_scaled(box: Box, source: Points, target: Points) -> Box | None:
    """The box, moved by the median motion of its points and scaled by the median change of their distances."""
    if len(source) < _FEWEST:
        return None
    first, second = np.triu_indices(len(source), k=1)
    before = np.linalg.norm(source[first] - source[second], axis=1)
    after = np.linalg.norm(target[first] - target[second], axis=1)
    scale = float(np.median(after / before))
    centre = (box[:2] + box[2:]) / 2 + np.median(target - source, axis=0)
    half = (box[2:] - box[:2]) / 2 * scale
    return np.concatenate((centre - half, centre + half)) if half.min() > 0 else None
