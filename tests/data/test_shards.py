"""Claims about tar shards: what samples hold is what is read, wherever the shards are, and what is broken is said."""

import importlib.util
import io
import json
import math
import pickle
import tarfile
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_data import files_of, load_all, png

from ssl_inv.data.batches import StepBatches, StepLoader
from ssl_inv.data.decoding import UnreadableImageError
from ssl_inv.data.images import BrokenImagesError
from ssl_inv.data.shards import index, remote, store
from ssl_inv.data.shards.addresses import expanded
from ssl_inv.data.shards.index import read_index
from ssl_inv.data.shards.remote import Copies, remote_stamp
from ssl_inv.data.source import Data, Source
from ssl_inv.data.sources.folder import folder
from ssl_inv.data.sources.shards import shards
from ssl_inv.transforms import Circle, Real, Rotation

Members = dict[str, bytes]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SSL_INV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "WAITS", (0.0, 0.0))
    return tmp_path / "cache"


def tar(path: Path, members: Members) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    return path


def said(**values: Any) -> bytes:
    return json.dumps(values).encode()


def samples(first: int, count: int, side: int = 8) -> Members:
    """Samples whose red is their number."""
    return {f"{number:03}.png": png(number, (side, side)) for number in range(first, first + count)}


def three(top: Path, each: int = 10) -> Path:
    for number, name in enumerate(("train-000", "train-001", "val-000")):
        tar(top / f"{name}.tar", samples(number * each, each))
    return top


def reds(source: Source) -> list[int]:
    return sorted(load_all(source).pixels[:, 0, 0, 0].tolist())


def both(data: Data) -> tuple[list[int], list[int]]:
    return reds(data.train), reds(data.validation)


# Classes.


def test_validation_shards_without_classes_are_told(tmp_path, caplog):
    with_classes = {**samples(0, 4), **{f"{number:03}.cls": b"cat" for number in range(3)}}
    train, plain = tar(tmp_path / "a.tar", with_classes), tar(tmp_path / "b.tar", samples(4, 2))
    data = shards(path=str(train), validation=str(plain))
    assert "1 of 4 objects have none" in data.notes["classes"]
    assert data.notes["classes in validation"].startswith(f"none: no sample of {plain} has a .cls")
    (line,) = caplog.messages
    assert line == (
        f"{plain}: no sample to judge by has a .cls, or a class in its .json, so nothing is judged by classes"
    )
    caplog.clear()
    split = tar(tmp_path / "c" / "train-0.tar", with_classes).parent
    tar(split / "val-0.tar", samples(4, 2))
    shards(path=str(split))
    assert "nothing is judged by classes" in caplog.text
    caplog.clear()
    assert "classes" not in shards(path=str(train), labels="none", validation=str(plain), split="none").notes
    shards(path=str(plain), validation_share=0.5)
    assert not caplog.messages


# Where shards are.


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("{top}", (20, 10)),
        ("{top}/*-000.tar", (10, 10)),
        ("{top}/{{train-{{000..001}},val-000}}.tar", (20, 10)),
        ("{top}/train-{{000..001}}.tar", (18, 2)),
        ("{top}/train-001.tar", (9, 1)),
        ("file://{top}", (20, 10)),
    ],
)
def test_every_form_of_a_path_is_read(tmp_path, path, expected):
    path = path.format(top=three(tmp_path / "data"))
    data = shards(path=path)
    assert (len(data.train), len(data.validation)) == expected
    assert all(name.split("/")[0].endswith(".tar") for name in files_of(data.train))


def test_braces_stand_for_ranges_and_lists():
    assert list(expanded("{a,b}-{08..10}.tar")) == [f"{one}-{n}.tar" for one in "ab" for n in ("08", "09", "10")]
    assert list(expanded("{8..10}")) == ["8", "9", "10"]
    assert list(expanded("plain.tar")) == ["plain.tar"]


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("{3..1}.tar", "goes from 3 down to 1"),
        ("{a}.tar", "neither a range"),
        ("{1..2.tar", "without its partner"),
        ("{0..100000}.tar", "more than 100,000 files"),
        ("nothing/here", "no such folder or tar file: nothing/here"),
        ("nothing/*.tar", "has no tar files"),
        ("nowhere://bucket/x.tar", "^path: 'nowhere://bucket/x.tar' cannot be read: .*nowhere"),
        ("memory://nowhere-at-all", "memory://nowhere-at-all cannot be listed .FileNotFoundError"),
    ],
)
def test_what_is_no_path_is_one_line(pattern, problem):
    with pytest.raises((ValueError, FileNotFoundError), match=problem) as refusal:
        shards(path=pattern)
    assert "\n" not in str(refusal.value)


def test_the_package_that_an_address_needs_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^path: an address s3://... needs s3fs: pip install 'ssl-inv\[s3\]'$"):
        shards(path="s3://bucket/train-{000..001}.tar")


def test_packed_tars_and_empty_folders_are_said(tmp_path):
    (tmp_path / "train-000.tar.gz").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"no tar files; train-000.tar.gz is compressed.*: unpack it$"):
        shards(path=str(tmp_path))


# Samples.


def test_a_sample_is_everything_of_one_name_and_other_members_are_said(tmp_path):
    members = {"a/0.x.png": png(0), "a/0.cls": b"7\n", "a/0.txt": b"x", "b/1.cls": b"10", "b/1.JPG": png(1)}
    members |= {"c/2.png": png(2), "c/2.cls": b"-1", "d/3.txt": b"", ".hidden.png": png(9), "__meta__": b""}
    data = shards(path=str(tar(tmp_path / "s.tar", members)), validation_share=0.4)
    assert files_of(data.train) | files_of(data.validation) == {"s.tar/a/0.x.png", "s.tar/b/1.JPG", "s.tar/c/2.png"}
    labels = data.train.source.labels
    assert labels.names == ("7", "10")
    assert labels.known.tolist() == [True, True, False]
    assert labels.classes[:2].tolist() == [0, 1]
    assert data.notes["not used"] == (
        "2 member(s) with other endings (2 .txt); 1 sample(s) without an image, the first s.tar/d/3"
    )


def test_names_in_json_are_in_the_order_of_their_numbers(tmp_path):
    members = {}
    for number, name in enumerate(["zebra", "ant", "zebra", "cow"]):
        members |= {f"{number}.png": png(number), f"{number}.json": said(**{"class": name})}
        members[f"{number}.cls"] = str({"zebra": 0, "ant": 3, "cow": 1}[name]).encode()
    data = shards(path=str(tar(tmp_path / "s.tar", members)))
    assert data.train.source.labels.names == ("zebra", "cow", "ant")
    members["0.cls"] = b"5"
    data = shards(path=str(tar(tmp_path / "other.tar", members)))
    assert data.train.source.labels.names == ("ant", "cow", "zebra")
    assert shards(path=str(tmp_path / "other.tar"), labels="none").train.labels is None


def test_samples_of_one_object_are_its_views_with_their_latents(tmp_path):
    def view(number: int, thing: object) -> Members:
        latents = {"azimuth[deg]": 90 * number, "zoom[real scale=2]": number, "qx": 0, "qy": 0, "qz": 0, "qw": 1}
        return {f"{number}.png": png(number), f"{number}.json": said(object=thing, size=3, **latents)}

    tar(tmp_path / "s-0.tar", view(0, "mug") | view(1, "mug") | view(2, 5))
    tar(tmp_path / "s-1.tar", view(3, "mug") | view(4, 5) | view(5, "cup"))
    source = shards(path=str(tmp_path)).train.source
    assert source.view_counts.tolist() == [3, 2, 1]
    assert load_all(source).pixels[:, 0, 0, 0].tolist() == [0, 1, 3, 2, 4, 5]
    assert source.blocks.tolist() == [0, 0, 1]
    assert source.groups == {"azimuth": Circle(2 * np.pi), "zoom": Real(2.0), "rotation": Rotation()}
    assert torch.allclose(load_all(source).transform["azimuth"], torch.tensor([0, 1, 3, 2, 4, 5]) * torch.pi / 2)
    data = shards(path=str(tmp_path), latents={"size": "real"})
    assert list(data.train.groups) == ["size"]
    assert "without a unit: size; for a latent, write size[real]" in shards(path=str(tmp_path)).notes["not used"]


def test_several_images_of_a_sample_are_views_if_somebody_says_so(tmp_path):
    members = {"0.left.png": png(1), "0.right.png": png(2), "0.seg.png": png(3)}
    path = str(tar(tmp_path / "s.tar", members | {"1.left.png": png(4)}))
    with pytest.raises(ValueError, match=r"s.tar/0 has several images, left.png, .*`members: \[left.png\]`"):
        shards(path=path)
    source = shards(path=path, members=["right.png", ".left.png"], validation_share=0.4).train.source
    assert source.view_counts.tolist() == [2, 1]
    assert load_all(source).pixels[:, 0, 0, 0].tolist() == [2, 1, 4]


def test_views_that_json_lists_are_of_one_object(tmp_path):
    members: Members = {}
    for number in range(3):
        members |= {f"{number}.left.png": png(2 * number), f"{number}.right.png": png(2 * number + 1)}
        members[f"{number}.json"] = said(views=["right.png", "left.png"], **{"angle[deg]": [0, 180], "time[real]": 3})
    source = shards(path=str(tar(tmp_path / "s.tar", members))).train.source
    assert source.view_counts.tolist() == [2, 2, 2]
    images = load_all(source)
    assert images.pixels[:, 0, 0, 0].tolist() == [1, 0, 3, 2, 5, 4]
    assert torch.allclose(images.transform["angle"], torch.tensor([0, torch.pi] * 3))
    assert images.transform["time"].tolist() == [3] * 6


@pytest.mark.parametrize(
    ("text", "settings", "problem"),
    [
        (b"{", {}, "1.json is no JSON"),
        (b"[]", {}, "1.json is no JSON object"),
        (b"\xff", {}, "1.json is not UTF-8"),
        (said(views="png"), {}, "1.json: views must list"),
        (said(views=["jpg"]), {}, "there is no 'jpg' for views"),
        (b"{}", {}, r"1.png: its json has no number 'a\[deg\]'"),
        (said(**{"a[deg]": "x"}), {}, r"1.png: its json has no number 'a\[deg\]'"),
        (said(**{"a[deg]": 1}), {"latents": {"b": "real"}}, "no json has a number 'b'"),
        (
            said(**{"a[deg]": 1, "object": "x", "class": "dog", "split": "train"}),
            {},
            "show one object but differ in their class",
        ),
        (said(**{"a[deg]": 1, "split": "trian"}), {"split": "json"}, "'trian' is not a split"),
        (said(**{"a[deg]": 1}), {"split": "shards"}, "split: is 'shards', but no name of a shard"),
        (said(**{"a[deg]": 1}), {"labels": "smaples"}, "labels: must be samples or none"),
        (said(**{"a[deg]": 1}), {"split": "folders"}, "split: must be shards, json, none"),
        (said(**{"a[deg]": 1}), {"cache_gb": -1}, "cache_gb: must be at least 0"),
        (said(**{"a[deg]": 1}), {"max_broken_shards": 2}, "max_broken_shards: must be a share"),
    ],
)
def test_what_a_sample_cannot_say_is_one_line(tmp_path, text, settings, problem):
    first = said(**{"a[deg]": 1, "object": "x", "class": "cat", "split": "train"})
    path = tar(tmp_path / "s.tar", {"0.png": png(0), "0.json": first, "1.png": png(1), "1.json": text})
    with pytest.raises(ValueError, match=problem) as refusal:
        shards(path=str(path), **settings)
    assert "\n" not in str(refusal.value)


# Splits.


@pytest.mark.parametrize(
    "names", [("train-0", "val-0"), ("train/0", "testing/0"), ("in1k-train-0", "in1k-validation-0")]
)
def test_names_of_shards_are_the_split(tmp_path, names):
    for number, name in enumerate(names):
        tar(tmp_path / f"{name}.tar", samples(10 * number, 4))
    assert both(shards(path=str(tmp_path))) == ([0, 1, 2, 3], [10, 11, 12, 13])
    assert "at random" in shards(path=str(tmp_path), split="none").notes["split"]
    tar(tmp_path / "more.tar", samples(20, 2))
    with pytest.raises(ValueError, match=r"^path: some shards are called after a split .*, but not more.tar; name"):
        shards(path=str(tmp_path))


def test_the_split_in_json_and_other_shards_to_judge_by(tmp_path):
    parts = {number: "valid" if number > 2 else "training" for number in range(5)}
    members = {f"{number}.json": said(split=part) for number, part in parts.items()}
    path = str(tar(tmp_path / "s.tar", {f"{number}.png": png(number) for number in parts} | members))
    assert both(shards(path=path)) == ([0, 1, 2], [3, 4])
    other = str(tar(tmp_path / "other" / "val.tar", samples(7, 2)))
    assert both(shards(path=path, validation=other)) == ([0, 1, 2], [7, 8])
    with pytest.raises(ValueError, match=r"^validation: .*s.tar' is a shard of `path` too"):
        shards(path=path, validation=str(tmp_path / "*.tar"))


# The index.


def test_a_shard_is_indexed_once_and_again_when_it_has_changed(tmp_path, monkeypatch, caplog):
    top = three(tmp_path / "data")
    before, made = both(shards(path=str(top))), []
    really = store.make_index
    monkeypatch.setattr(store, "make_index", lambda *some: made.append(1) or really(*some))
    again = shards(path=str(top))
    assert both(again) == before
    assert not made
    assert isinstance(again.train.source.store.shards[0].index.members.base, np.memmap)
    tar(top / "train-001.tar", samples(40, 3))
    assert both(shards(path=str(top)))[0] == [*range(10), 40, 41, 42]
    assert len(made) == 1
    assert "shard train-001.tar has changed since it was indexed, and is indexed again" in caplog.text
    (top / "train-000.tar.index").write_bytes((top / "train-000.tar.index").read_bytes()[:-20])
    assert len(shards(path=str(top)).train) == 13, "a damaged index is made again"


def test_an_index_that_cannot_lie_beside_its_tar_lies_in_the_cache(tmp_path, own_cache, monkeypatch):
    really = store.write_index

    def only_cache(made: index.Index, path: Path) -> None:
        if own_cache not in path.parents:
            raise PermissionError
        really(made, path)

    monkeypatch.setattr(store, "write_index", only_cache)
    path = str(three(tmp_path / "data"))
    before = both(shards(path=path))
    assert not list(tmp_path.glob("data/*.index"))
    assert len(list(own_cache.glob("indices/*"))) == 3
    monkeypatch.setattr(store, "make_index", None)
    assert both(shards(path=path)) == before


def test_the_form_of_an_index_is_what_is_documented(tmp_path):
    shards(path=str(tar(tmp_path / "s.tar", {"0.png": png(0), "0.cls": b"3", "1.png": png(1), "1.cls": b"12"})))
    with (tmp_path / "s.tar.index").open("rb") as file:
        stamp, members, texts, cut = (np.load(file) for _ in range(4))
    found = (tmp_path / "s.tar").stat()
    assert str(stamp) == f"1 {found.st_size} {found.st_mtime_ns}"
    assert (texts.tobytes(), str(cut)) == (b"312", "")
    whole = (tmp_path / "s.tar").read_bytes()
    contents = {name: whole[offset : offset + size] for name, offset, size in members.tolist()}
    assert contents == {b"0.png": png(0), b"0.cls": b"3", b"1.png": png(1), b"1.cls": b"12"}


# What is broken.


def test_a_cut_shard_keeps_its_whole_members_wherever_it_is_cut(tmp_path, caplog):
    whole = tar(tmp_path / "whole.tar", samples(0, 4)).read_bytes()
    places = read_index(tmp_path / "whole.tar.index") or index.make_index(io.BytesIO(whole), f"1 {len(whole)} 0")
    ends = (places.members["offset"] + places.members["size"]).tolist()
    lengths = {*range(1100, ends[-1] + 512, 211), ends[1] // 512 * 512 + 512, ends[2] // 512 * 512 + 512}
    for length in lengths:
        found = index.make_index(io.BytesIO(whole[:length]), f"1 {length} 0")
        assert len(found.members) == sum(end <= length for end in ends)
        assert found.cut
    (tmp_path / "whole.tar").write_bytes(whole[: ends[2] + 600])
    with pytest.raises(ValueError, match=r"1 of 1 shards cannot be used, .* it ends .*; raise `max_broken_shards`"):
        shards(path=str(tmp_path / "whole.tar"))
    data = shards(path=str(tmp_path / "whole.tar"), max_broken_shards=1.0, validation_share=0.4)
    assert sorted(one for part in both(data) for one in part) == [0, 1, 2]
    assert data.notes["broken shards"].startswith("1, the first whole.tar: it ends")


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "there is no such file"), (b"\x00x" * 900, "not an uncompressed")]
)
def test_missing_and_foreign_shards_are_skipped_up_to_a_share(tmp_path, content, reason):
    top, pattern = three(tmp_path), str(tmp_path / "train-{000..002}.tar")
    if content is not None:
        (top / "train-002.tar").write_bytes(content)
    with pytest.raises(ValueError, match=rf"1 of 3 shards cannot be used, the first train-002.tar: {reason}"):
        shards(path=pattern)
    data = shards(path=pattern, max_broken_shards=0.4)
    assert len(data.train) + len(data.validation) == 20
    assert data.notes["broken shards"].startswith(f"1, the first train-002.tar: {reason}")


def test_samples_of_a_shard_that_was_indexed_and_is_gone_count_as_broken_images(tmp_path):
    top, pattern = three(tmp_path, 30), str(tmp_path / "train-{000..001}.tar")
    shards(path=pattern)
    (top / "train-001.tar").unlink()
    data = shards(path=pattern, max_broken_shards=0.5, max_broken=0.5)
    assert len(data.train) + len(data.validation) == 60, "the order of training stays"
    assert sum(int((~load_all(one).readable).sum()) for one in (data.train, data.validation)) == 30
    with pytest.raises(BrokenImagesError, match="more than 10 of 60 images"):
        load_all(shards(path=pattern, max_broken_shards=0.5).train)


def test_a_shard_that_changes_while_it_is_read_gives_no_wrong_pixels(tmp_path):
    path = tar(tmp_path / "s.tar", samples(0, 30))
    source = shards(path=str(path), cache=False).train.source
    tar(path, samples(100, 31))
    copy = pickle.loads(pickle.dumps(source))
    with pytest.raises(UnreadableImageError, match="the shard has changed since it was indexed"):
        copy.original(0, 0)


# Behind an address.

fsspec = pytest.importorskip("fsspec")


class Files(BaseHTTPRequestHandler):
    """Files with ranges and tags. The first `failures` times that something is asked fail, whoever asks beside."""

    content: dict[str, bytes] = {}
    requests: list[tuple[str, str]] = []
    asked: Counter[tuple[str, str, str]] = Counter()
    lock = threading.Lock()
    failures, ranges, tag = 0.0, True, "1"

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        kind = type(self)
        wanted = self.headers.get("Range", "") if kind.ranges else ""
        kind.requests.append((self.path, wanted))
        content = kind.content.get(self.path)
        if content is None:
            self.send_error(404)
            return
        with kind.lock:
            kind.asked[question := (self.command, self.path, wanted)] += 1
            failing = kind.asked[question] <= kind.failures
        if failing:
            self.send_error(503)
            return
        self.send_response(206 if wanted else 200)
        if wanted:
            first, last = (int(one) for one in wanted.removeprefix("bytes=").split("-"))
            content = content[first : last + 1]
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{kind.tag}"')
        self.send_header("Accept-Ranges", "bytes" if kind.ranges else "none")
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *some: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, type[Files]]]:
    pytest.importorskip("aiohttp")
    handler = type("Handler", (Files,), {"requests": [], "asked": Counter()})
    handler.content = {f"/{one.name}": one.read_bytes() for one in sorted(three(tmp_path / "up").glob("*.tar"))}
    served = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{served.server_port}/{{train-000,train-001,val-000}}.tar", handler
    served.shutdown()
    served.server_close()


@pytest.mark.parametrize("cache_gb", [0, 1.0])
def test_shards_behind_http_are_read_although_requests_fail(server, tmp_path, cache_gb):
    path, handler = server
    handler.failures = 1
    found = shards(path=path, cache=False, cache_gb=cache_gb)
    assert both(found) == both(shards(path=str(tmp_path / "up")))
    assert sum(one.startswith("/train-000") for one, _ in handler.requests) > 3
    handler.requests.clear()
    again = shards(path=path, cache=False, cache_gb=cache_gb)
    assert all(name.endswith(".tar") for name, _ in handler.requests), "the index was kept"
    assert load_all(again.train).readable.all()


def test_a_server_that_fails_three_times_or_knows_no_ranges_is_told(server):
    path, handler = server
    source = shards(path=path, cache=False, cache_gb=0).train
    handler.failures = math.inf
    assert not source.load(np.array([0]), np.array([0])).readable.any()
    assert "after 3 tries" in next(iter(source.source.broken.values()))
    handler.failures, handler.ranges = 0, False
    assert not source.load(np.array([1]), np.array([0])).readable.any()
    assert "does not give ranges" in list(source.source.broken.values())[-1]


def test_a_remote_shard_that_has_changed_is_indexed_again(server, tmp_path, caplog):
    path, handler = server
    shards(path=path)
    handler.content["/train-001.tar"] = tar(tmp_path / "new.tar", samples(50, 10)).read_bytes()
    handler.tag = "2"
    assert both(shards(path=path))[0] == [*range(10), *range(50, 60)]
    assert "train-001.tar has changed" in caplog.text


def test_an_index_beside_a_remote_shard_spares_reading_it(server, tmp_path):
    path, handler = server
    shards(path=str(tmp_path / "up"))
    for one in (tmp_path / "up").glob("*.index"):
        handler.content[f"/{one.name}"] = one.read_bytes()
    found = shards(path=path, cache=False, cache_gb=0)
    spans = [
        span.removeprefix("bytes=").split("-") for name, span in handler.requests if span and name.endswith(".tar")
    ]
    assert 0 < sum(int(last) - int(first) + 1 for first, last in spans) < 10_000, "some headers, and the first image"
    assert len(found.train) == 20
    # The index of another tar of the same size is not believed.
    handler.tag = "2"
    name = next(iter(handler.content))
    handler.content[name] = bytes(len(handler.content[name]))
    with pytest.raises(ValueError, match=r"the first train-000.tar: there is nothing in it"):
        shards(path=path)


def test_a_folder_in_memory_is_listed_and_read():
    memory = fsspec.filesystem("memory")
    for name, first in (("train/0.tar", 0), ("val/0.tar", 10)):
        with io.BytesIO() as content:
            with tarfile.open(fileobj=content, mode="w") as archive:
                for member, data in samples(first, 5).items():
                    header = tarfile.TarInfo(member)
                    header.size = len(data)
                    archive.addfile(header, io.BytesIO(data))
            memory.pipe(f"/shards-test/{name}", content.getvalue())
    data = shards(path="memory://shards-test", cache=False)
    assert both(data) == ([0, 1, 2, 3, 4], [10, 11, 12, 13, 14])
    assert files_of(data.validation) == {f"val/0.tar/{number:03}.png" for number in range(10, 15)}
    memory.rm("/shards-test", recursive=True)


def test_copies_are_bounded_atomic_and_made_once(server, tmp_path):
    path, handler = server
    places = [path.split("{")[0] + f"{name}.tar" for name in ("train-000", "train-001", "val-000")]
    stamps = [remote_stamp(place) for place in places]
    sizes = [len(handler.content[f"/{place.rsplit('/', 1)[1]}"]) for place in places]
    copies = Copies(tmp_path / "copies", sizes[0] + sizes[1])
    handler.requests.clear()
    with ThreadPoolExecutor(8) as pool:
        made = [*pool.map(lambda _: Copies(copies.folder, copies.most).fetch(places[0], stamps[0]), range(8))]
    assert len(set(made)) == 1
    assert sum("bytes=" in span for _, span in handler.requests) == 1, "eight asked, one copied"
    assert made[0].read_bytes() == handler.content["/train-000.tar"]
    for place, stamp in zip(places, stamps, strict=True):
        assert copies.fetch(place, stamp) is not None
        held = [one for one in copies.folder.iterdir() if one.suffix != ".lock"]
        assert sum(one.stat().st_size for one in held) <= copies.most
        assert {one.suffix for one in held} == {".tar"}
    assert not made[0].exists(), "the oldest went first"
    assert Copies(tmp_path / "small", 10).fetch(places[0], stamps[0]) is None
    # A part that a killed process left takes no room for ever.
    (copies.folder / "left.part").write_bytes(bytes(copies.most))
    for one in copies.folder.glob("*.tar"):
        one.unlink()
    assert copies.fetch(places[0], stamps[0]) is not None


def test_a_copy_is_worth_it_only_after_some_images(server, tmp_path, own_cache):
    path, _ = server
    source = shards(path=path.replace("train-001,val-000", "train-000"), cache=False, split="none").train.source
    held = own_cache / "shards"
    for file in held.glob("*.tar"):
        file.unlink()
    for number in range(remote._WORTH_A_COPY + 1):
        assert bool(list(held.glob("*.tar"))) == (number >= remote._WORTH_A_COPY)
        assert source.load(np.array([number % 10]), np.array([0])).readable.all()


def test_copies_that_cannot_hold_what_training_reads_are_not_made(server, caplog):
    path, _ = server
    assert shards(path=path, cache_gb=1e-5).train.source.store.copies is None
    assert "is read without copies: cache_gb is 1e-05, less than" in caplog.text


# Training.


def test_batches_are_the_same_for_any_processes_and_workers_and_go_on_in_the_middle_of_an_epoch(tmp_path):
    for number in range(40):
        tar(tmp_path / f"{number:02}.tar", samples(6 * number, 6, 2))

    def batches(rank: int = 0, processes: int = 1) -> StepBatches:
        data = shards(path=str(tmp_path), cache=False, validation_share=0.1)
        return StepBatches(data.train, 8, 1, 3, rank, processes)

    whole = [batch.images[0].pixels for batch in StepLoader(batches(), 0, 40)]
    for processes in (2, 4):
        shared = [batches(rank, processes) for rank in range(processes)]
        for step in (0, 13, 30):
            assert torch.equal(torch.cat([one[step].images[0].pixels for one in shared]), whole[step])
    resumed = [batch.images[0].pixels for batch in StepLoader(batches(), 17, 29, workers=2)]
    assert all(torch.equal(one, other) for one, other in zip(resumed, whole[17:29], strict=True))


def test_photographs_in_shards_are_cut_as_those_in_a_folder(tmp_path):
    random = np.random.default_rng(0)
    contents = {}
    for number in range(6):
        buffer = io.BytesIO()
        sides = (20 + number, 31 - number, 3)
        Image.fromarray(random.integers(0, 256, sides, dtype=np.uint8)).save(buffer, "JPEG")
        contents[f"{number}.jpg"] = buffer.getvalue()
        (tmp_path / "folder").mkdir(exist_ok=True)
        (tmp_path / "folder" / f"{number}.jpg").write_bytes(contents[f"{number}.jpg"])
    options = {"size": 16, "cache": False, "validation_share": 0.2}
    one = folder(path=str(tmp_path / "folder"), **options).train.source
    other = shards(path=str(tar(tmp_path / "s.tar", contents)), **options).train.source
    assert one.photographs
    assert other.photographs
    assert torch.equal(load_all(one).pixels, load_all(other).pixels)
    assert [one.sides_of(n) for n in range(6)] == [other.sides_of(n) for n in range(6)]
