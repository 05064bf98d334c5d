"""The boxes of `ssl-inv tracks` against true boxes, for example of DAVIS 2016.

    python benchmarks/track_quality.py davis2016val_192px.zip

Three questions: How long do trackers that begin with the true box stay on the object? How often is the moving region
the object? Are tracks better that are found again backwards? The folder or zip has a `meta.csv` with the columns path,
sequence, x0, y0, x1, y1, and lists the frames of a sequence in their order.

The answers are docs/results/tracks.json, to the first question, and docs/results/moving-regions.json, to the others.
`make docs` shows both. Nothing is random.
"""

import argparse
import json
import shlex
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ssl_inv.atomic import write_text
from ssl_inv.data.archives import Files
from ssl_inv.data.decoding import decode
from ssl_inv.data.sheets import read_sheet
from ssl_inv.data.videos.boxes import Box, overlap
from ssl_inv.data.videos.flow import Clip, moving_regions
from ssl_inv.data.videos.followers import tracker
from ssl_inv.data.videos.mining import BACKWARD_STEP, agreement
from ssl_inv.data.videos.reading import Frame
from ssl_inv.run.environment import host_facts, versions

RESULTS = Path(__file__).parent.parent / "docs" / "results"
HIT = 0.5
"""Overlap from which a box is on the object."""

NAMES = {"flow": "`flow`, the default", "csrt": "`csrt`", "kcf": "`kcf`, the paper's choice as far as is known"}
STEPS = 5
"""Frames from one number of a tracker to the next."""


@dataclass
class Video:
    """Frames, and the true box in each of them, or None where the object is out of sight."""

    frames: list[Frame] = field(default_factory=list)
    boxes: list[Box | None] = field(default_factory=list)

    def clip(self, start: int, stop: int) -> tuple[Clip, int]:
        """The frames from `start` to before `stop` with one frame before them, if there is one; and the place of
        `start`.
        """
        first = max(start - 1, 0)
        return Clip(self.frames[first:stop]), start - first


def read(path: str) -> dict[str, Video]:
    """The videos by name."""
    files = Files(path)
    header, rows = read_sheet(files, "meta.csv")
    videos: dict[str, Video] = defaultdict(Video)
    for row in rows:
        cells = dict(zip(header, row, strict=True))
        video = videos[cells["sequence"]]
        video.frames.append(decode(files.read(cells["path"]), None))
        corners = [cells[name] for name in ("x0", "y0", "x1", "y1")]
        video.boxes.append(np.array(corners, dtype=np.float64) if all(corners) else None)
    return videos


def judge_tracker(name: str, videos: dict[str, Video], length: int) -> list[str]:
    """A row: the mean overlap with the true box after some frames, a lost track counting as 0; the share on the object
    at the end, the number of tracks, and the time.
    """
    follow, seconds, steps = tracker(name), 0.0, 0
    overlaps: dict[int, list[float]] = defaultdict(list)
    for video in videos.values():
        for start in range(0, len(video.frames) - length, length):
            begin = video.boxes[start]
            if begin is None:
                continue
            clip, first = video.clip(start, start + length + 1)
            began = time.process_time()
            boxes = follow(clip, range(first, len(clip)), begin * clip.scale)
            seconds, steps = seconds + time.process_time() - began, steps + len(boxes) - 1
            for place in range(STEPS, length + 1, STEPS):
                true = video.boxes[start + place]
                if true is not None:
                    overlaps[place].append(overlap(boxes[place] / clip.scale, true) if place < len(boxes) else 0.0)
    *early, last = [np.array(values) for values in overlaps.values()]
    error = last.std(ddof=1) / len(last) ** 0.5
    means = [f"{one.mean():.3f}" for one in early] + [f"{last.mean():.3f} ± {error:.3f}"]
    return [NAMES[name], *means, f"{np.mean(last > HIT):.2f}", str(len(last)), f"{1000 * seconds / steps:.1f}"]


def judge_regions(videos: dict[str, Video], every: int, most: int) -> list[list[str]]:
    """Rows: how often the moving region is the object."""
    frames = best = some = proposed = hits = 0
    for video in videos.values():
        for start in range(0, len(video.frames) - 1, every):
            true = video.boxes[start]
            if true is None:
                continue
            clip, first = video.clip(start, start + 2)
            overlaps = [overlap(box / clip.scale, true) for box in moving_regions(clip, first, most)]
            frames, proposed, hits = frames + 1, proposed + len(overlaps), hits + sum(one > HIT for one in overlaps)
            best, some = best + (overlaps[:1] > [HIT]), some + any(one > HIT for one in overlaps)
    return [
        ["frames whose strongest moving region is the object", f"{frames}", f"{best / frames:.2f}"],
        [f"frames with the object among the {most} strongest", f"{frames}", f"{some / frames:.2f}"],
        ["regions that are the object", f"{proposed}", f"{hits / proposed:.2f}"],
    ]


def judge_check(name: str, videos: dict[str, Video], length: int, most: int) -> list[list[str]]:
    """Rows: how many tracks that begin on the moving object still show it at their end: of all, and of those found
    backwards.
    """
    follow, ends, checks = tracker(name), list[float](), defaultdict[int, list[float]](list)
    for video in videos.values():
        for start in range(0, len(video.frames) - length, length):
            begin, end = video.boxes[start], video.boxes[start + length]
            if begin is None or end is None:
                continue
            clip, first = video.clip(start, start + length + 1)
            for box in moving_regions(clip, first, most):
                boxes = follow(clip, range(first, len(clip)), box)
                if overlap(box / clip.scale, begin) <= HIT or len(boxes) <= length:
                    continue
                ends.append(overlap(boxes[-1] / clip.scale, end))
                for step in (1, BACKWARD_STEP):
                    checks[step].append(agreement(clip, first, boxes, follow, step))
    last = np.array(ends)
    rows = [[f"tracks from such a region by `{name}` that end on it", str(len(last)), _share(last > HIT)]]
    for step, values in checks.items():
        for limit in (0.5, 0.7):
            kept = last[np.array(values) >= limit]
            what = f"of these, found back in steps of {step} with agreement from {limit}"
            rows.append([what, str(len(kept)), _share(kept > HIT)])
    return rows


def _share(hits: np.ndarray) -> str:
    return f"{hits.mean():.2f}" if len(hits) else ""


def keep(name: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a table and its facts."""
    found = versions()
    words = ["python", f"benchmarks/{Path(__file__).name}", *(Path(word).name for word in sys.argv[1:])]
    facts: dict[str, Any] = {
        "table": "plain",
        "seeds": "none: nothing is random",
        "commit": found.get("commit"),
        "machine": f"1 thread, {host_facts()['machine']}",
        "note": f"OpenCV {cv2.__version__}",
        "command": shlex.join(words),
        "head": head,
    }
    lines = [f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in facts.items()]
    cells = ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in rows)
    write_text(RESULTS / f"{name}.json", "{\n" + ",\n".join([*lines, f' "rows": [\n{cells}\n ]']) + "\n}\n")
    sys.stdout.write("\n".join("  ".join(row) for row in rows) + "\n")


def main() -> None:
    """Read the arguments and answer the questions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder or zip archive with meta.csv")
    parser.add_argument("--length", type=int, default=30, help="frames to follow for, a multiple of 5")
    parser.add_argument("--every", type=int, default=10, help="frames from one look for what moves to the next")
    parser.add_argument("--objects", type=int, default=2, help="most boxes in a frame")
    asked = parser.parse_args()
    if asked.length < STEPS or asked.length % STEPS:
        parser.error(f"--length: a multiple of {STEPS}, got {asked.length}")
    cv2.setNumThreads(1)
    videos = read(asked.data)
    after = [f"{place} frames" if place == STEPS else str(place) for place in range(STEPS, asked.length + 1, STEPS)]
    head = ["after", *after, f"above {HIT} at the end", "tracks", "ms a frame"]
    keep("tracks", head, [judge_tracker(name, videos, asked.length) for name in NAMES])
    rows = judge_regions(videos, asked.every, asked.objects)
    keep("moving-regions", ["", "of", "share"], rows + judge_check("flow", videos, asked.length, asked.objects))


if __name__ == "__main__":
    main()
