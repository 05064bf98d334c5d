"""Regions that move on their own: dense optical flow minus the motion of the camera."""

from collections.abc import Sequence
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from ssl_inv.data.videos.boxes import Box, area, overlap
from ssl_inv.data.videos.reading import Frame

Flow = NDArray[np.float32]
"""The motion of every pixel from one frame to another, `(H, W, 2)`, pixels to the right and down."""

Points = NDArray[np.float32]
"""Points `(P, 2)`, x and y in pixels."""

WORKING_SIDE = 256
"""Longest side, in pixels, of the frames on which motion is measured: details help less than they cost."""

_GRID = 4
"""The camera's motion is fitted to every fourth pixel along each axis."""

_CAMERA_TOLERANCE = 1.0
"""Largest distance in pixels of a point from the camera's motion. With 3, slow objects pass for background."""

_SMOOTHING = 1.5

_LEAST_MOTION = 0.3
"""Pixels per frame; slower motion is noise of the flow."""

_RELATIVE_MOTION = 0.3
"""A pixel moves if it has this share of the speed of the fastest hundredth of the frame."""

_LEAST_AREA = 0.01
"""Smallest moving region to propose, as a share of the frame."""

_CLOSING, _OPENING = 5, 3
"""Pixels: the width of gaps to close in moving regions, and of thin parts to remove."""

_FEWEST_POINTS = 30
"""A homography has 8 unknowns; with fewer points than this it fits anything."""


class Clip:
    """Consecutive frames of one video at working size. The motion between them is computed once, at the first use.

    Args:
        frames: at least one, all of one size.

    Attributes:
        scale: working pixels per pixel of the frames.
    """

    def __init__(self, frames: Sequence[Frame]) -> None:
        height, width = frames[0].shape[:2]
        self.scale = min(WORKING_SIDE / max(height, width), 1.0)
        size = max(round(width * self.scale), 1), max(round(height * self.scale), 1)
        if self.scale < 1:
            frames = [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames]
        # OpenCV's trackers expect this order of colours.
        self.colour = [cv2.cvtColor(frame, cv2.COLOR_RGB2BGR) for frame in frames]
        self._flows: dict[tuple[int, int], Flow] = {}

    def __len__(self) -> int:
        return len(self.colour)

    @cached_property
    def _grey(self) -> list[NDArray[np.uint8]]:
        return [cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in self.colour]

    @cached_property
    def _estimator(self) -> cv2.DISOpticalFlow:
        estimator = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        # The presets stop at half or a quarter of the resolution and lose the outlines of objects.
        estimator.setFinestScale(0)
        return estimator

    @property
    def size(self) -> tuple[int, int]:
        """Height and width at working size."""
        height, width = self.colour[0].shape[:2]
        return height, width

    def flow(self, first: int, second: int) -> Flow:
        """The optical flow from one frame to another (Kroeger et al., "Fast Optical Flow using Dense Inverse Search",
        ECCV 2016).
        """
        if (first, second) not in self._flows:
            self._flows[first, second] = self._estimator.calc(self._grey[first], self._grey[second], None)
        return self._flows[first, second]


def own_motion(flow: Flow) -> NDArray[np.float32]:
    """The distance of each pixel from its place under the motion of the camera alone, `(H, W)` pixels; NaN if unknown.

    A still scene moves by a homography if the camera only rotates, and so does a plane under any camera. RANSAC ignores
    everything else.
    """
    height, width = flow.shape[:2]
    places = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float32)
    sparse = places[::_GRID, ::_GRID].reshape(-1, 2)
    camera = camera_motion(sparse, sparse + flow[::_GRID, ::_GRID].reshape(-1, 2))
    if camera is None:
        return np.full((height, width), np.nan, dtype=np.float32)
    expected = cv2.perspectiveTransform(places.reshape(1, -1, 2), camera).reshape(places.shape)
    # A pixel that leaves the frame has no match in the other frame, and its flow is random.
    stays = ((expected >= 0) & (expected <= [width - 1, height - 1])).all(axis=-1)
    return np.where(stays, np.linalg.norm(places + flow - expected, axis=-1), np.nan).astype(np.float32)


def camera_motion(source: Points, target: Points) -> NDArray[np.float64] | None:
    """The homography `(3, 3)` of most of the points; None if there are too few points."""
    if len(source) < _FEWEST_POINTS:
        return None
    # OpenCV's RANSAC draws the same points at every call.
    homography: NDArray[np.float64] | None = cv2.findHomography(source, target, cv2.RANSAC, _CAMERA_TOLERANCE)[0]
    return homography


def moving_regions(clip: Clip, frame: int, most: int) -> list[Box]:
    """Boxes around regions that move on their own in one frame, at working size, the most motion first.

    The motion is the mean over the flows to the frame before and the frame after: a pixel that is hidden in one of them
    is mostly visible in the other.

    Args:
        clip: the frames.
        frame: number of the frame.
        most: largest number of boxes.
    """
    neighbours = [other for other in (frame - 1, frame + 1) if 0 <= other < len(clip)]
    motions = np.stack([own_motion(clip.flow(frame, other)) for other in neighbours])
    known = np.isfinite(motions)
    motion = np.where(known, motions, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    motion = cv2.GaussianBlur(motion.astype(np.float32), (0, 0), _SMOOTHING)
    moving = (motion > max(_LEAST_MOTION, _RELATIVE_MOTION * float(np.percentile(motion, 99)))).astype(np.uint8)
    for change, width in ((cv2.MORPH_CLOSE, _CLOSING), (cv2.MORPH_OPEN, _OPENING)):
        moving = cv2.morphologyEx(moving, change, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width)))
    count, regions, facts, _ = cv2.connectedComponentsWithStats(moving)
    strength = np.bincount(regions.ravel(), weights=motion.ravel(), minlength=count)
    strength[0] = 0
    strength[facts[:, cv2.CC_STAT_AREA] < _LEAST_AREA * moving.size] = 0
    best = [region for region in np.argsort(-strength, kind="stable") if strength[region] > 0][:most]
    return [_box_of(facts[region]) for region in best]


def _box_of(facts: NDArray[np.int32]) -> Box:
    left, top, width, height = facts[: cv2.CC_STAT_AREA].astype(np.float64)
    return np.array([left, top, left + width, top + height])


def without_doubles(boxes: Sequence[Box], limit: float = 0.5) -> list[Box]:
    """The boxes with an area that overlap every kept box before them by less than `limit`."""
    kept: list[Box] = []
    for box in boxes:
        if area(box) > 0 and all(overlap(box, other) < limit for other in kept):
            kept.append(box)
    return kept
