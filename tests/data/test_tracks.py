"""What moves in a video is found, followed, checked, and becomes a table that pretraining reads."""

import csv
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_inv.run.cli import main

cv2 = pytest.importorskip("cv2", reason="tracks need OpenCV, the extra `video`")

from ssl_inv.data.source import Source  # noqa: E402
from ssl_inv.data.sources.table import table  # noqa: E402
from ssl_inv.data.videos.boxes import Box, overlap, square_around  # noqa: E402
from ssl_inv.data.videos.flow import Clip, moving_regions  # noqa: E402
from ssl_inv.data.videos.followers import TRACKERS, tracker  # noqa: E402
from ssl_inv.data.videos.mining import Miner, TrackSettings, pieces  # noqa: E402
from ssl_inv.data.videos.reading import BrokenVideoError, Frame, find_videos  # noqa: E402

HEIGHT, WIDTH, SIDE = 72, 128, 30


@pytest.fixture(autouse=True)
def one_thread() -> None:
    cv2.setNumThreads(1)


def _texture(height: int, width: int, seed: int) -> Frame:
    coarse = np.random.default_rng(seed).integers(0, 255, (height // 6 + 1, width // 6 + 1, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def _film(frames: int, pan: int = 0, speed: int = 2, seed: int = 0) -> tuple[list[Frame], list[Box]]:
    """A textured square that moves to the right over a textured wall, seen by a camera that pans to the left, and its
    boxes.
    """
    wall, square = _texture(HEIGHT, WIDTH + pan * frames, seed), _texture(SIDE, SIDE, seed + 1)
    film, boxes = [], []
    for number in range(frames):
        frame = wall[:, pan * (frames - number) :][:, :WIDTH].copy()
        left, top = 8 + speed * number, 20 + number // 4
        frame[top : top + SIDE, left : left + SIDE] = square
        film.append(frame)
        boxes.append(np.array([left, top, left + SIDE, top + SIDE], dtype=np.float64))
    return film, boxes


def _write_frames(folder: Path, film: list[Frame]) -> None:
    folder.mkdir(parents=True)
    for number, frame in enumerate(film):
        # Not padded with zeros: frame 10 comes after frame 9.
        Image.fromarray(frame).save(folder / f"frame{number}.png")


def _write_video(path: Path, film: list[Frame]) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (WIDTH, HEIGHT))
    for frame in film:
        writer.write(frame[..., ::-1])
    writer.release()


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of either kind, one too short, one cut off in its middle, and one that is none."""
    folder = tmp_path_factory.mktemp("videos")
    for name, film in (("frames", _film(41)), ("short", _film(3)), ("damaged", _film(24, seed=4))):
        _write_frames(folder / name, film[0])
    _write_video(folder / "film.avi", _film(21, seed=2)[0])
    (folder / "damaged" / "frame22.png").write_bytes(b"nothing")
    (folder / "text.mp4").write_text("nothing")
    return folder


def _tracks(videos: Path, output: Path, *options: str) -> int:
    return main(["tracks", str(videos), "--output", str(output), "--length", "20", "--size", "48", *options])


@pytest.fixture(scope="module")
def written(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("tracks") / "out"
    assert _tracks(videos, output) == 0
    return output


def _rows(output: Path) -> list[dict[str, str]]:
    with (output / "tracks.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("pan", [0, 4, 5])
def test_what_moves_on_its_own_is_found_however_the_camera_pans(pan):
    film, boxes = _film(3, pan=pan)
    found = moving_regions(Clip(film), 1, most=2)
    assert len(found) == 1
    assert overlap(found[0], boxes[1]) > 0.7


def test_a_camera_that_pans_over_a_still_scene_finds_nothing():
    wall = _texture(HEIGHT, WIDTH + 20, seed=0)
    assert moving_regions(Clip([wall[:, 3 * number :][:, :WIDTH] for number in range(3)]), 1, most=2) == []


@pytest.mark.parametrize("name", TRACKERS)
def test_trackers_stay_on_the_object(name):
    if name != "flow" and not hasattr(cv2, f"Tracker{name.upper()}_create"):
        pytest.skip(f"the installed OpenCV has no {name} tracker")
    film, boxes = _film(16)
    found = tracker(name)(Clip(film), range(16), boxes[0])
    assert len(found) == 16
    assert min(overlap(one, true) for one, true in zip(found, boxes, strict=True)) > 0.7


def test_flow_follows_what_grows():
    wall, square = _texture(HEIGHT, WIDTH, 0), _texture(SIDE, SIDE, 1)
    film, boxes = [], []
    for number in range(11):
        side, frame = SIDE + 2 * number, wall.copy()
        frame[10 : 10 + side, 40 : 40 + side] = cv2.resize(square, (side, side))
        film.append(frame)
        boxes.append(np.array([40, 10, 40 + side, 10 + side], dtype=np.float64))
    assert overlap(tracker("flow")(Clip(film), range(11), boxes[0])[-1], boxes[-1]) > 0.8


def test_no_piece_spans_a_cut():
    film = _film(8)[0] + [255 - frame // 2 for frame in _film(14, seed=10)[0]] + _film(3)[0]
    found = list(pieces(film, 10))
    assert [(piece.start, len(piece.frames), piece.before is None) for piece in found] == [(0, 8, True), (8, 11, True)]


def test_what_goes_on_in_the_next_piece_is_the_same_object():
    film, boxes = _film(41)
    miner = Miner(TrackSettings(length=20))
    tracks = [miner.tracks(piece) for piece in pieces(film, 20)]
    assert [[(track.number, track.born) for track in piece] for piece in tracks] == [[(0, 0)], [(0, 0)]]
    assert overlap(tracks[1][0].boxes[-1], boxes[40]) > 0.6


def test_what_moves_behind_a_cut_is_another_object_though_it_begins_where_the_last_one_ended():
    film, _ = _film(11)
    behind = [255 - frame // 2 for frame in _film(11, seed=10)[0]]
    mined = Miner(TrackSettings(length=10, step=2))
    frames = [*film, *(np.roll(frame, 20, axis=1) for frame in behind)]
    (before,), (after,) = (mined.tracks(piece) for piece in pieces(frames, 10))
    assert overlap(before.boxes[-1], after.boxes[0]) >= 0.5
    assert [(track.number, track.born) for track in (before, after)] == [(0, 0), (1, 11)]


@pytest.mark.parametrize(("frames", "starts"), [(4, []), (6, [0]), (11, [0]), (15, [0]), (16, [0, 10]), (21, [0, 10])])
def test_pieces_share_a_frame_and_none_is_shorter_than_half(frames, starts):
    film = [np.full((2, 2, 3), number, dtype=np.uint8) for number in range(frames)]
    found = list(pieces(film, 10))
    assert [piece.start for piece in found] == starts
    for piece in found:
        assert [frame[0, 0, 0] for frame in piece.frames] == list(range(piece.start, min(piece.start + 11, frames)))
        assert (None if piece.before is None else piece.before[0, 0, 0]) == (piece.start - 1 if piece.start else None)


@pytest.mark.parametrize(
    "box", [(0, 0, 10, 10), (120, 60, 128, 72), (-20, 40, 30, 60), (0, 0, 128, 72), (70, 30, 71, 31)]
)
def test_views_are_squares_within_the_frame(box):
    left, top, side = square_around(np.array(box, dtype=np.float64), 0.2, HEIGHT, WIDTH)
    assert side >= 1
    assert 0 <= left <= WIDTH - side
    assert 0 <= top <= HEIGHT - side


def test_the_table_says_where_every_view_was_seen(written, videos):
    rows = _rows(written)
    assert {row["video"] for row in rows} == {"frames", "film.avi", "damaged"}
    frames = list(next(video for video in find_videos(videos) if video.name == "frames").frames())
    same = [row for row in rows if row["object"] == "frames/0000"]
    for row in same:
        side = round(float(np.exp(float(row["log_side[real scale=0.3]"]))) * HEIGHT)
        left = round(float(row["x[real scale=0.1]"]) * WIDTH - side / 2)
        top = round(float(row["y[real scale=0.1]"]) * HEIGHT - side / 2)
        part = Image.fromarray(frames[int(row["frame"])][top : top + side, left : left + side])
        expected = np.asarray(part.resize((48, 48), Image.Resampling.BICUBIC), dtype=np.float64)
        assert np.abs(np.asarray(Image.open(written / row["path"])) - expected).mean() < 8
    for column in ("frame", "time[real scale=30]"):
        assert [int(row[column]) for row in same] == list(range(0, 41, 5))


def test_the_table_is_read_as_it_is_and_whole_videos_are_held_out(written):
    data = table(path=str(written), size=48)
    assert isinstance(data.train, Source)
    assert set(data.train.groups) == {"time", "x", "y", "log_side"}
    assert min(len(data.train), len(data.validation)) > 0
    images = data.train.load(np.array([0, 0]), np.array([0, 2]))
    assert images.transform.relative(images.transform).as_vector().abs().max() == 0
    assert float(images.transform["time"][1]) == 10
    splits = {row["video"]: row["split"] for row in _rows(written)}
    assert {(row["video"], row["split"]) for row in _rows(written)} == splits.items()
    assert sorted(splits.values()) == ["train", "train", "val"]


def test_broken_videos_are_named_and_what_came_before_is_kept(written):
    record = json.loads((written / "tracks.json").read_text())
    assert set(record["found"]["broken"]) == {"text.mp4", "damaged"}
    assert record["found"]["broken"]["damaged"].startswith("frame22.png")
    assert record["found"]["empty"] == ["short"]
    assert any(row["video"] == "damaged" for row in _rows(written))
    assert (written / "tracks.png").is_file()


def test_an_interrupted_call_goes_on_to_the_same_table(written, videos, tmp_path, monkeypatch, capsys):
    from ssl_inv.data.videos import writing

    write = writing._write_video

    def interrupted(video, *rest):
        if video.name == "frames":
            raise KeyboardInterrupt
        write(video, *rest)

    output = tmp_path / "out"
    monkeypatch.setattr(writing, "_write_video", interrupted)
    assert _tracks(videos, output) == 130
    assert not (output / "tracks.csv").exists()
    monkeypatch.setattr(writing, "_write_video", write)
    assert _tracks(videos, output) == 0
    assert (output / "tracks.csv").read_bytes() == (written / "tracks.csv").read_bytes()
    assert _tracks(videos, output, "--margin", "0.5") == 2
    assert "another margin, 0.2" in capsys.readouterr().err


def test_zips_of_frames_are_read_and_other_images_must_be_told_apart(tmp_path, capsys):
    film = _film(4)[0]
    with zipfile.ZipFile(tmp_path / "films.zip", "w") as archive:
        for number, frame in enumerate(film):
            for suffix in ("jpg", "png"):
                Image.fromarray(frame).save(tmp_path / f"one.{suffix}")
                archive.write(tmp_path / f"one.{suffix}", f"a/b/{number}.{suffix}")
        archive.write(tmp_path / "one.png", "c/0.png")
    assert _tracks(tmp_path / "films.zip", tmp_path / "out") == 2
    assert "images end with .jpg and .png; say which are frames, such as --frames '*.jpg'" in capsys.readouterr().err
    videos = find_videos(tmp_path / "films.zip", "*.png")
    assert [(video.name, len(list(video.frames()))) for video in videos] == [("a/b", 4), ("c", 1)]


def test_a_pipe_is_no_video_and_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "film.mp4")
    with pytest.raises(BrokenVideoError, match="it is no regular file"):
        next(find_videos(tmp_path)[0].frames())


def test_a_video_that_ends_too_early_is_broken(tmp_path):
    _write_video(tmp_path / "film.avi", _film(20)[0])
    content = (tmp_path / "film.avi").read_bytes()
    (tmp_path / "film.avi").write_bytes(content[: len(content) // 3])
    with pytest.raises(BrokenVideoError):
        list(find_videos(tmp_path)[0].frames())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--length", "1"], "length: must be at least 2, got 1"),
        (["--step", "21"], "step: must be at most half the length of a track, 10, got 21"),
        (["--agreement", "2"], "agreement: must lie between 0 and 1, got 2.0"),
        (["--agreement", "half"], "--agreement: expected a number, got 'half'"),
        (["--tracker", "crst"], "--tracker: there is no 'crst'; did you mean 'csrt'?"),
        (["--size", "0"], "--size: must be at least 1, got 0"),
        (["--margin=-1"], "--margin: must lie between 0 and 10, got -1"),
        (["--frames", "*.gif"], "no video and no frame called *.gif"),
        (["--data.size", "64"], "--data.size: no such option; tracks are found without a recipe"),
    ],
)
def test_mistakes_are_answered_with_one_line_and_nothing_is_written(tmp_path, capsys, options, message):
    _write_frames(tmp_path / "videos", _film(2)[0])
    assert _tracks(tmp_path / "videos", tmp_path / "out", *options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()
