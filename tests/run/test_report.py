"""The page says what it was given and nothing else, and needs nothing but itself."""

import base64
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from ssl_inv.run.pages.report_page import (
    Latent,
    Neighbour,
    NeighbourRow,
    ReportContent,
    ResultRow,
    ViewPairs,
    nearest_neighbours,
    render_report,
    write_report,
)

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 2, 16, 16, 3), dtype=np.uint8)
PEAR = Neighbour(PIXELS[1, 0], "pear", "rotated 12°", False)
FULL = ReportContent(
    title="a run",
    recipe="objective: sie",
    facts={"backbone": "resnet18"},
    warnings=["the features collapsed"],
    results=[
        ResultRow("rotation R²", "equivariant", 0.689, 0.006, 0.175, -0.011, 0.73, headline=True),
        ResultRow("rank", "all", 143.2),
    ],
    curves={"loss/variance": [(0, 1.0), (10, 0.5)], "score": [(0, 0.1)]},
    view_pairs=ViewPairs(PIXELS, ["rotated 37°"] * 4),
    neighbours=[NeighbourRow(PIXELS[0, 0], "apple", {"invariant": [PEAR]})],
    spectra={"all": {"trained": [3.0, 2.0, 0.0], "untrained": [1.0, 0.1, 0.01]}},
    command="ssl-inv pretrain demo",
    latents=[
        Latent("floor hue", {"equivariant": ResultRow("r2/relative/floor_hue", "equivariant", 0.504, None, 0.872)})
    ],
    angles={"rotation, all": {"trained": [("0-30", 12.0), ("30-60", 31.0)], "shuffled": [("0-30", 40.0)]}},
    downloads={"results.csv": "measure,part\nrank,all\n"},
)
SECTIONS = {name: name for name in ("recipe", "facts", "warnings", "results", "curves", "neighbours", "command")}
SECTIONS |= {"latents": "latents", "angles": "angles"}
SECTIONS |= {"view_pairs": "views", "spectra": "spectrum"}
ADDRESSES = ("src", "href", "xlink:href", "srcset", "data", "action")


class Page(HTMLParser):
    """What stands in a page: the ids of its elements, the addresses it refers to, its tags that are still open."""

    VOID = ("meta", "img")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.tags: set[str] = set()
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.addresses += [value or "" for name, value in attrs if name in ADDRESSES]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()


def test_the_page_is_complete_in_itself() -> None:
    html = render_report(FULL)
    page = Page(html)
    assert page.open == []
    assert set(SECTIONS.values()) <= set(page.ids)
    assert page.addresses
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert not page.tags & {"script", "link", "iframe", "object"}
    assert not re.search(r"@import|url\((?!#)", html)


@pytest.mark.parametrize(("attribute", "section"), SECTIONS.items())
def test_content_of_one_kind_gives_its_section_and_no_other(attribute: str, section: str) -> None:
    content = ReportContent(title="a run", **{attribute: getattr(FULL, attribute)})
    assert set(Page(render_report(content)).ids) & set(SECTIONS.values()) == {section}


def test_every_name_is_escaped() -> None:
    evil = "<em>&\"'"
    neighbours = {evil: [Neighbour(PIXELS[0, 0], evil, evil)]}
    content = ReportContent(
        **{"title": evil, "recipe": evil, "facts": {evil: evil}, "warnings": [evil]},
        results=[ResultRow(evil, evil, 0.5, headline=True)],
        curves={f"{evil}/{evil}": [(0, 1.0)]},
        view_pairs=ViewPairs(PIXELS[:1], [evil]),
        neighbours=[NeighbourRow(PIXELS[0, 0], evil, neighbours)],
        spectra={evil: {evil: [1.0, 0.5]}},
    )
    html = render_report(content)
    assert "<em>" not in html
    assert Page(html).open == []


def test_numbers_of_a_result_are_all_there_and_absent_columns_are_not() -> None:
    html = render_report(FULL)
    for number in ("0.689", "± 0.006", "0.175", "\N{MINUS SIGN}0.011", "0.730", "143.2"):
        assert number in html
    bare = render_report(ReportContent(title="a run", results=[ResultRow("rank", "all", 143.2)]))
    assert not re.search("untrained|shuffled|published", bare.split("<body>")[1])


def test_a_latent_that_training_has_made_worse_is_marked_and_one_that_nobody_knows_is_not() -> None:
    def latent(trained: float, untrained: float) -> str:
        row = ResultRow("r2/relative/hue", "all", trained, untrained=untrained)
        return render_report(ReportContent(title="a run", latents=[Latent("hue", {"all": row})])).split("<body>")[1]

    assert "(0.872) ▼" in latent(0.504, 0.872).replace("</small>", "")
    assert 'class="forgot"' in latent(0.504, 0.872)
    assert 'class="forgot"' not in latent(0.9, 0.872) + latent(-0.3, -0.2)


def test_results_are_downloaded_from_the_page_itself() -> None:
    html = render_report(FULL)
    (address,) = re.findall(r'<a download="results.csv" href="data:text/csv;charset=utf-8;base64,([^"]*)"', html)
    assert base64.b64decode(address).decode() == FULL.downloads["results.csv"]


def test_narrow_pages_have_every_number_of_a_result_below_its_name() -> None:
    html = render_report(FULL)
    narrow = html.split("@media (max-width: 640px) {")[1].split("@media print")[0]
    assert "content: attr(data-name)" in narrow
    shown = re.findall(r'data-name="(\w+)">([^<]*)', html)
    assert ("trained", "0.689 ") in shown
    assert ("untrained", "0.175") in shown


def test_a_diverged_run_still_gets_its_page() -> None:
    results, curves = [ResultRow("rank", "all", math.nan)], {"loss": [(0, 1.0), (1, math.nan)]}
    spectra = {"all": {"trained": [0.0, 0.0]}}
    assert "nan" in render_report(ReportContent(title="a run", results=results, curves=curves, spectra=spectra))


def test_the_same_content_gives_the_same_page(tmp_path: Path) -> None:
    path = write_report(FULL, tmp_path / "report.html")
    assert path.read_text(encoding="utf-8") == render_report(FULL)
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_pairs_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(n, 2, H, W, 3\)"):
        ViewPairs(PIXELS[:, 0], ["a"] * 4)
    with pytest.raises(ValueError, match="4 view pairs come with 1"):
        ViewPairs(PIXELS, ["a"])


def test_neighbours_are_those_of_largest_cosine_and_never_the_query() -> None:
    generator = torch.Generator().manual_seed(0)
    features, queries = torch.randn(40, 5, generator=generator), torch.tensor([3, 17])
    objects = torch.arange(40) // 4
    found = nearest_neighbours(features, queries, 6)
    for query, row in zip(queries, found, strict=True):
        cosines = torch.cosine_similarity(features[query], features, dim=-1)
        assert row.tolist() == cosines.argsort(descending=True)[1:7].tolist()
    others = nearest_neighbours(features, queries, 36, objects, exclude_same_object=True)
    assert not (objects[others] == objects[queries][:, None]).any()
    with pytest.raises(ValueError, match="between 1 and 36"):
        nearest_neighbours(features, queries, 37, objects, exclude_same_object=True)
    with pytest.raises(ValueError, match="give objects"):
        nearest_neighbours(features, queries, 3, exclude_same_object=True)
