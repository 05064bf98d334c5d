"""Writes tracks: views as images, a table for `--data.name table`, and an overview picture."""

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from ssl_inv.atomic import write_text, written_aside
from ssl_inv.data.videos.boxes import Box, square_around
from ssl_inv.data.videos.mining import Miner, Piece, Track, TrackSettings, pieces
from ssl_inv.data.videos.reading import BrokenVideoError, Frame, Video
from ssl_inv.plain import read_json
from ssl_inv.transforms.keyed_random import permutation

TABLE, SHEET, RECORD = "tracks.csv", "tracks.png", "tracks.json"

_FORMAT = 1

_QUALITY = 95

_VALIDATION_SHARE = 0.1

_OVERVIEW_SIDE = 256

_SHEET_TRACKS, _SHEET_VIEWS, _SHEET_SIDE = 24, 7, 96

HEADER = (
    "path",
    "object",
    "split",
    "video",
    "frame",
    "time[real scale=30]",
    "x[real scale=0.1]",
    "y[real scale=0.1]",
    "log_side[real scale=0.3]",
    "left",
    "top",
    "right",
    "bottom",
    "agreement",
)
"""`time`: frames since the object was first found. `x`, `y`: the centre of the image, in widths and heights of the
frame. `log_side`: the logarithm of its side, as a share of the frame's shorter side. `left` to `bottom`: the object's
box in pixels of the frame. The scales are about the root mean square differences of two views of one object in DAVIS.
"""


@dataclass(frozen=True)
class Summary:
    """The counts of a call.

    Attributes:
        videos: number of videos, with broken ones.
        objects: number of objects with a track.
        views: number of written images.
        dropped: number of dropped tracks, by the reason.
        broken: the videos that could not be read to their end, with the reason; earlier tracks of them are kept.
        empty: the videos without a track.
    """

    videos: int
    objects: int
    views: int
    dropped: dict[str, int]
    broken: dict[str, str]
    empty: list[str]


def write_tracks(
    videos: list[Video],
    output: Path,
    settings: TrackSettings,
    size: int,
    margin: float,
    progress: Callable[[str], None],
) -> Summary:
    """Find the tracks of all videos and write them. After an interruption, a new call continues with the first video
    that is not complete.

    `output` then holds `tracks.csv`, a table of views; the views in `images/`; in `overviews/` the first frame of each
    object with its box; `tracks.png`, some tracks side by side; `tracks.json`, the settings and the counts; and in
    `videos/` the tracks of each video.

    Args:
        videos: the videos.
        output: the folder.
        settings: how tracks are found.
        size: side of the views in pixels.
        margin: margin around the box in a view, as a share of the box's longer side.
        progress: called with a line about the current step.

    Raises:
        ValueError: if the folder holds something else, or tracks of other videos or settings.
    """
    # Each thread computes the flow of one stripe, so the flow would depend on the number of threads.
    cv2.setNumThreads(1)
    names = [video.name for video in videos]
    asked = {"format": _FORMAT, "videos": names, "size": size, "margin": margin, **asdict(settings)}
    _refuse_other(output, asked)
    (output / "videos").mkdir(parents=True, exist_ok=True)
    write_text(output / RECORD, json.dumps({**asked, "complete": False}, indent=2) + "\n")
    for number, video in enumerate(videos):
        if not _record_of(output, video.name).is_file():
            where = f"video {number + 1:,} of {len(videos):,}, {video.name}"
            _write_video(video, output, settings, size, margin, partial(_report, progress, where))
    records = {video.name: read_json(_record_of(output, video.name)) for video in videos}
    summary = _summary(records)
    _write_table(output, records)
    _write_sheet(output, records)
    write_text(output / RECORD, json.dumps({**asked, "complete": True, "found": asdict(summary)}, indent=2) + "\n")
    return summary


def _report(progress: Callable[[str], None], where: str, frame: int) -> None:
    progress(f"{where}: frame {frame:,}")


def _refuse_other(output: Path, asked: dict[str, Any]) -> None:
    if not output.exists() or not any(output.iterdir()):
        return
    try:
        known = read_json(output / RECORD)
    except (OSError, ValueError):
        raise ValueError(f"{str(output)!r} holds something else; choose an empty folder") from None
    if other := [key for key, value in asked.items() if known.get(key) != value]:
        what = "other videos" if other[0] == "videos" else f"another {other[0]}, {known.get(other[0])}"
        raise ValueError(f"{str(output)!r} was begun with {what}; choose an empty folder")


def _record_of(output: Path, name: str) -> Path:
    return output / "videos" / f"{name}.json"


def _write_video(
    video: Video, output: Path, settings: TrackSettings, size: int, margin: float, progress: Callable[[int], None]
) -> None:
    miner, rows, broken = Miner(settings), list[dict[str, Any]](), None
    for folder in ("images", "overviews"):
        (output / folder / video.name).mkdir(parents=True, exist_ok=True)
    try:
        for piece in pieces(video.frames(), settings.length):
            progress(piece.start)
            for track in miner.tracks(piece):
                rows += _write_track(video.name, piece, track, output, settings.step, size, margin)
    except BrokenVideoError as error:
        broken = str(error)
    record = _record_of(output, video.name)
    record.parent.mkdir(parents=True, exist_ok=True)
    write_text(record, json.dumps({"broken": broken, "dropped": miner.dropped, "views": rows}, indent=1) + "\n")


def _write_track(
    name: str, piece: Piece, track: Track, output: Path, step: int, size: int, margin: float
) -> list[dict[str, Any]]:
    """Write the views of a track in one piece of its video; returns the cells of their rows by column."""
    rows = []
    for place in range(0, len(piece.frames), step):
        frame, box = piece.frames[place], track.boxes[place]
        if place == 0 and track.born < piece.start:
            continue  # It is the last frame of the piece before.
        path = f"images/{name}/{track.number:04d}-{piece.start + place:06d}.jpg"
        _save(_view(frame, box, size, margin), output / path)
        rows.append(
            {
                "path": path,
                "object": f"{name}/{track.number:04d}",
                "video": name,
                "frame": piece.start + place,
                "time": piece.start + place - track.born,
                **_seen(box, margin, *frame.shape[:2]),
                **dict(zip(("left", "top", "right", "bottom"), box.round(2).tolist(), strict=True)),
                "agreement": round(track.agreement, 4),
            }
        )
    if track.born == piece.start:
        _save(_overview(piece.frames[0], track.boxes[0]), output / f"overviews/{name}/{track.number:04d}.jpg")
    return rows


def _view(frame: Frame, box: Box, size: int, margin: float) -> Frame:
    left, top, side = square_around(box, margin, *frame.shape[:2])
    how = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
    view: Frame = cv2.resize(frame[top : top + side, left : left + side], (size, size), interpolation=how)
    return view


def _seen(box: Box, margin: float, height: int, width: int) -> dict[str, float]:
    left, top, side = square_around(box, margin, height, width)
    x, y, share = (left + side / 2) / width, (top + side / 2) / height, side / min(height, width)
    return {"x": round(x, 5), "y": round(y, 5), "log_side": round(math.log(share), 5)}


def _overview(frame: Frame, box: Box) -> Frame:
    """The frame at a side of 256 pixels, with the box."""
    scale = _OVERVIEW_SIDE / max(frame.shape[:2])
    small = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    left, top, right, bottom = np.rint(box * scale).astype(int).tolist()
    drawn: Frame = cv2.rectangle(small, (left, top), (right - 1, bottom - 1), (255, 220, 0), 2)
    return drawn


def _save(pixels: Frame, path: Path) -> None:
    Image.fromarray(pixels).save(path, quality=_QUALITY)


def _summary(records: dict[str, Any]) -> Summary:
    views = [view for record in records.values() for view in record["views"]]
    dropped: Counter[str] = sum((Counter(record["dropped"]) for record in records.values()), Counter())
    return Summary(
        videos=len(records),
        objects=len({view["object"] for view in views}),
        views=len(views),
        dropped=dict(dropped.most_common()),
        broken={name: record["broken"] for name, record in records.items() if record["broken"]},
        empty=[name for name, record in records.items() if not record["views"] and not record["broken"]],
    )


def _write_table(output: Path, records: dict[str, Any]) -> None:
    """One row per view. Whole videos are held out, because two tracks of one video can show the same object."""
    with_views = sorted(name for name, record in records.items() if record["views"])
    header = [column for column in HEADER if column != "split" or len(with_views) > 1]
    held_out = max(round(_VALIDATION_SHARE * len(with_views)), 1)
    validation = {with_views[place] for place in permutation(0, length=len(with_views))[:held_out]}
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(header)
    for name in with_views:
        for view in records[name]["views"]:
            cells = {**view, "split": "val" if name in validation else "train"}
            table.writerow([cells[column.partition("[")[0]] for column in header])
    write_text(output / TABLE, text.getvalue())


def _write_sheet(output: Path, records: dict[str, Any]) -> None:
    """One row per track, evenly chosen among all: its first frame with its box, then views in order."""
    tracks: dict[str, list[str]] = {}
    for record in records.values():
        for view in record["views"]:
            tracks.setdefault(view["object"], []).append(view["path"])
    if not tracks:
        return
    names = list(tracks)
    places = np.linspace(0, len(names) - 1, min(_SHEET_TRACKS, len(names))).round().astype(int)
    chosen = [names[place] for place in places]
    frame_width = 2 * _SHEET_SIDE
    sheet = Image.new("RGB", (frame_width + _SHEET_VIEWS * _SHEET_SIDE, len(chosen) * _SHEET_SIDE), "white")
    for row, name in enumerate(chosen):
        _paste(sheet, output / f"overviews/{name}.jpg", (0, row * _SHEET_SIDE), (frame_width, _SHEET_SIDE))
        views = tracks[name]
        places = np.linspace(0, len(views) - 1, min(_SHEET_VIEWS, len(views))).round().astype(int)
        for column, place in enumerate(places.tolist()):
            corner = frame_width + column * _SHEET_SIDE, row * _SHEET_SIDE
            _paste(sheet, output / views[place], corner, (_SHEET_SIDE, _SHEET_SIDE))
    with written_aside(output / SHEET) as aside:
        sheet.save(aside, format="png")


def _paste(sheet: Image.Image, path: Path, corner: tuple[int, int], most: tuple[int, int]) -> None:
    with Image.open(path) as image:
        image.thumbnail(most)
        sheet.paste(image, corner)
