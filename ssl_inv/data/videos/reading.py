"""The videos of a folder: files, and folders of frames."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from numpy.typing import NDArray

from ssl_inv.data.archives import Files
from ssl_inv.data.decoding import UnreadableImageError, decode
from ssl_inv.data.images import IMAGE_SUFFIXES
from ssl_inv.data.names import unpacked

Frame = NDArray[np.uint8]
"""Pixels `(H, W, 3)`, RGB."""

VIDEO_SUFFIXES = frozenset((".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ogv", ".wmv"))

_CUT_SHORT = 0.9
"""A video with less than this share of the frames in its header is damaged; the header's number is an estimate."""


class BrokenVideoError(ValueError):
    """A video that cannot be read to its end; the message is the reason, without the name."""


@dataclass(frozen=True)
class Video:
    """One video.

    Attributes:
        name: path below the given folder; unique.
        frames: reads it from the beginning, frame by frame; raises `BrokenVideoError` if it cannot go on.
    """

    name: str
    frames: Callable[[], Iterator[Frame]]


def find_videos(path: str | Path, pattern: str = "*") -> list[Video]:
    """The videos of a folder, or of an archive with folders of frames, in the order of their names.

    Every video file is a video. All images of one folder are a video, in the order of the numbers in their names.

    Args:
        path: a video file, a folder of videos or frames at any depth, or a zip or tar archive of frames.
        pattern: which images are frames, by the file's name, such as `*.jpg` if there are masks in the same folder.

    Raises:
        FileNotFoundError: if there is nothing at `path`, or no video and no frame.
        ValueError: if the images of one folder have different suffixes, so that perhaps not all are frames, or an
            archive holds video files.
    """
    path = Path(path).expanduser()
    if path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES:
        return [Video(path.name, partial(_frames_of_file, path))]
    files = Files(path)
    names = map(unpacked, files.with_suffix(VIDEO_SUFFIXES))
    videos = [Video(name, partial(_frames_of_file, files.path / name)) for name in names]
    if videos and not path.is_dir():
        advice = "unpack it (folders of frames may stay packed)"
        raise ValueError(f"{path}: video files in an archive cannot be read; {advice}")
    folders: dict[str, list[str]] = {}
    for name in map(unpacked, files.with_suffix(IMAGE_SUFFIXES)):
        if fnmatch(PurePosixPath(name).name, pattern):
            folders.setdefault(str(PurePosixPath(name).parent), []).append(name)
    for folder, images in folders.items():
        suffixes = sorted({PurePosixPath(name).suffix for name in images})
        if len(suffixes) > 1:
            advice = f"say which are frames, such as --frames '*{suffixes[0]}'"
            raise ValueError(f"{path / folder}: images end with {' and '.join(suffixes)}; {advice}")
        read = partial(_frames_of_images, files, sorted(images, key=by_number))
        videos.append(Video(path.stem if folder == "." else folder, read))
    if not videos:
        raise FileNotFoundError(f"{path}: no video and no frame{'' if pattern == '*' else f' called {pattern}'}")
    return sorted(videos, key=lambda video: video.name)


def by_number(name: str) -> list[tuple[int, str]]:
    """A sort key that puts `frame2` before `frame10`."""
    return [(int(digits), "") if digits else (-1, letters) for digits, letters in re.findall(r"(\d+)|(\D+)", name)]


def _frames_of_file(path: Path) -> Iterator[Frame]:
    if not path.is_file():
        raise BrokenVideoError("it is no regular file")
    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            raise BrokenVideoError("not a video in a known format")
        expected, read = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0
        while (answer := capture.read())[0]:
            read += 1
            yield cv2.cvtColor(answer[1], cv2.COLOR_BGR2RGB)
        if read < max(_CUT_SHORT * expected, 1):
            raise BrokenVideoError(f"ends after {read} of {expected} frames")
    finally:
        capture.release()


def _frames_of_images(files: Files, names: Sequence[str]) -> Iterator[Frame]:
    shape = None
    for name in names:
        try:
            frame = decode(files.read(name), None)
        except (UnreadableImageError, OSError, ValueError) as error:
            raise BrokenVideoError(f"{PurePosixPath(name).name}: {error}") from error
        if shape not in (None, frame.shape):
            raise BrokenVideoError(f"{PurePosixPath(name).name} has another size than the frames before it")
        shape = frame.shape
        yield frame
