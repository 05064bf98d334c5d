"""The boxes of `ssl-inv tracks` against true boxes, for example of DAVIS 2016.

    python benchmarks/track_quality.py davis2016val_192px.zip

Three questions: How long do trackers that begin with the true box stay on the object? How often is the moving region
the object? Are tracks better that are found again backwards? The folder or zip has a `meta.csv` with the columns path,
sequence, x0, y0, x1, y1, and lists the frames of a sequence in their order.
"""

import argparse
import time
from collections import defaultdict
from dataclasses import dataclass, field

import cv2
import numpy as np

from ssl_inv.data.archives import Files
from ssl_inv.data.decoding import decode
from ssl_inv.data.videos.boxes import Box, overlap
from ssl_inv.data.videos.flow import Clip, moving_regions
from ssl_inv.data.videos.followers import TRACKERS, tracker
from ssl_inv.data.videos.mining import BACKWARD_STEP, agreement
from ssl_inv.data.videos.reading import Frame

HIT = 0.5


@dataclass
class Sequence:
    """Frames, and the true box in each of them, or None where the object is out of sight."""

    frames: list[Frame] = field(default_factory=list)
    boxes: list[Box | None] = field(default_factory=list)

    def clip(self, start: int, stop: int) -> tuple[Clip, int]:
        """The frames from `start` to before `stop` with one frame before them, if there is one; and the place of
        `start`.
        """
        first = max(start - 1, 0)
        return Clip(self.frames[first:stop]), start - first


def read(path: str) -> dict[str, Sequence]:
    """The sequences by name."""
    files = Files(path)
    header, rows = files.read_csv("meta.csv")
    sequences: dict[str, Sequence] = defaultdict(Sequence)
    for row in rows:
        cells = dict(zip(header, row, strict=True))
        sequence = sequences[cells["sequence"]]
        sequence.frames.append(decode(files.read(cells["path"]), None))
        corners = [cells[name] for name in ("x0", "y0", "x1", "y1")]
        sequence.boxes.append(np.array(corners, dtype=np.float64) if all(corners) else None)
    return sequences


def judge_tracker(name: str, sequences: dict[str, Sequence], length: int) -> None:
    """Print the mean overlap with the true box after 0, 5, 10, ... frames; a lost track counts as 0."""
    follow, seconds, steps = tracker(name), 0.0, 0
    overlaps: dict[int, list[float]] = defaultdict(list)
    for sequence in sequences.values():
        for start in range(0, len(sequence.frames) - length, length):
            begin = sequence.boxes[start]
            if begin is None:
                continue
            clip, first = sequence.clip(start, start + length + 1)
            began = time.perf_counter()
            boxes = follow(clip, range(first, len(clip)), begin * clip.scale)
            seconds, steps = seconds + time.perf_counter() - began, steps + len(boxes) - 1
            for place in range(0, length + 1, 5):
                true = sequence.boxes[start + place]
                if true is not None:
                    overlaps[place].append(overlap(boxes[place] / clip.scale, true) if place < len(boxes) else 0.0)
    means = "  ".join(f"{place}: {np.mean(values):.3f}" for place, values in overlaps.items())
    last = np.array(overlaps[length // 5 * 5])
    error, hit = last.std(ddof=1) / len(last) ** 0.5, np.mean(last > HIT)
    speed = f"{1000 * seconds / steps:.1f} ms a frame"
    print(f"{name:5} {len(last)} tracks  {means} +- {error:.3f}  above {HIT} at the end {hit:.2f}  {speed}")


def judge_regions(sequences: dict[str, Sequence], every: int, most: int) -> None:
    """Print how often the moving region is the object."""
    frames = best = some = proposed = hits = 0
    for sequence in sequences.values():
        for start in range(0, len(sequence.frames) - 1, every):
            true = sequence.boxes[start]
            if true is None:
                continue
            clip, first = sequence.clip(start, start + 2)
            overlaps = [overlap(box / clip.scale, true) for box in moving_regions(clip, first, most)]
            frames, proposed, hits = frames + 1, proposed + len(overlaps), hits + sum(one > HIT for one in overlaps)
            best, some = best + (overlaps[:1] > [HIT]), some + any(one > HIT for one in overlaps)
    print(f"{frames} frames: the object is the first box in {best / frames:.2f}, one of {most} in {some / frames:.2f}")
    print(f"{proposed} boxes: {hits / proposed:.2f} are the object")


def judge_check(name: str, sequences: dict[str, Sequence], length: int, most: int) -> None:
    """Print how many tracks that begin on the moving object still show it at their end: of all, and of those found
    backwards.
    """
    follow, ends, checks = tracker(name), list[float](), defaultdict[int, list[float]](list)
    for sequence in sequences.values():
        for start in range(0, len(sequence.frames) - length, length):
            begin, end = sequence.boxes[start], sequence.boxes[start + length]
            if begin is None or end is None:
                continue
            clip, first = sequence.clip(start, start + length + 1)
            for box in moving_regions(clip, first, most):
                boxes = follow(clip, range(first, len(clip)), box)
                if overlap(box / clip.scale, begin) <= HIT or len(boxes) <= length:
                    continue
                ends.append(overlap(boxes[-1] / clip.scale, end))
                for step in (1, BACKWARD_STEP):
                    checks[step].append(agreement(clip, first, boxes, follow, step))
    last = np.array(ends)
    print(
        f"{name:5} {len(last)} tracks of the object: on it at the end {np.mean(last > HIT):.2f}, "
        f"overlap {last.mean():.3f}"
    )
    for step, values in checks.items():
        for limit in (0.5, 0.7):
            kept = np.array(values) >= limit
            quality = (
                f"on it {np.mean(last[kept] > HIT):.2f}, overlap {last[kept].mean():.3f}" if kept.any() else "none"
            )
            print(f"      back in steps of {step}, agreement from {limit}: {kept.mean():.2f} kept, {quality}")


def main() -> None:
    """Read the arguments and answer the questions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder or zip archive with meta.csv")
    parser.add_argument("--trackers", nargs="+", choices=TRACKERS, default=TRACKERS)
    parser.add_argument("--length", type=int, default=30, help="frames to follow for")
    parser.add_argument("--every", type=int, default=10, help="frames from one look for what moves to the next")
    parser.add_argument("--objects", type=int, default=2, help="most boxes in a frame")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    sequences = read(arguments.data)
    judge_regions(sequences, arguments.every, arguments.objects)
    for name in arguments.trackers:
        judge_tracker(name, sequences, arguments.length)
        judge_check(name, sequences, arguments.length, arguments.objects)


if __name__ == "__main__":
    main()
