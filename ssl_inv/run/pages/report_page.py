"""The report of a run: one HTML file with everything inside, readable without network, scripts or this package."""

import base64
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
import numpy as np
import torch
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ssl_inv.atomic import write_text
from ssl_inv.plain import printable
from ssl_inv.transforms.phrases import minus

if TYPE_CHECKING:
    from matplotlib.figure import Figure


Pixels = NDArray[np.uint8]


_INK = "#010203"
"""Placeholder in figures for the text colour, which differs on a dark page."""


_TRAINED, _UNTRAINED = "#3b78c4", "#98a1ab"


_SPECTRUM_FLOOR = 1e-6


_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class ResultRow:
    """One line of the results table.

    Attributes:
        name: what was measured.
        part: the part of the features that was measured.
        trained: the value of the trained encoder.
        spread: standard error of `trained` over validation objects.
        untrained: the value of the same network with random weights.
        shuffled: the value with shuffled training targets.
        reference: the published value.
        headline: whether the page opens with it.
        folded: whether it is in the collapsed part of the table.
    """

    name: str
    part: str
    trained: float
    spread: float | None = None
    untrained: float | None = None
    shuffled: float | None = None
    reference: float | None = None
    headline: bool = False
    folded: bool = False


@dataclass(frozen=True)
class ViewPairs:
    """Pairs of views as the objective gets them.

    Attributes:
        pixels: `(n, 2, H, W, 3)`.
        words: the relative transform of each pair; see `ssl_inv.transforms.words.describe_action`.
    """

    pixels: Pixels
    words: Sequence[str]

    def __post_init__(self) -> None:
        if (
            self.pixels.ndim != 5
            or self.pixels.shape[1] != 2
            or self.pixels.shape[-1] != 3
            or self.pixels.dtype != np.uint8
        ):
            raise ValueError(
                f"view pairs must be uint8 of shape (n, 2, H, W, 3), got {self.pixels.dtype} of shape "
                f"{self.pixels.shape}"
            )
        if len(self.words) != len(self.pixels):
            raise ValueError(f"{len(self.pixels)} view pairs come with {len(self.words)} descriptions")


@dataclass(frozen=True)
class Neighbour:
    """A view whose features are near those of the query.

    Attributes:
        pixels: `(H, W, 3)`.
        label: its class or name.
        words: the action from the query to it: "rotated 12°".
        same_class: whether it has the query's class; None if classes are unknown.
    """

    pixels: Pixels
    label: str = ""
    words: str = ""
    same_class: bool | None = None


@dataclass(frozen=True)
class NeighbourRow:
    """A query and its nearest neighbours, nearest first, in each part of the features."""

    query: Pixels
    label: str
    parts: Mapping[str, Sequence[Neighbour]]


@dataclass(frozen=True)
class Latent:
    """How well one parameter of the views is predicted from each part of the features.

    Attributes:
        name: of the parameter.
        parts: its R2 by part.
    """

    name: str
    parts: Mapping[str, ResultRow]


@dataclass(frozen=True)
class ReportContent:
    """The content of a report. A section without content is left out.

    Attributes:
        title: the run's name.
        command: the command line that began the run.
        recipe: the resolved recipe as text.
        facts: short statements about the run by name: data, backbone, time, hardware.
        warnings: what the reader must know first, such as a collapse.
        results: the rows of the results table in their order; consecutive rows of one name are grouped.
        curves: (step, value) points by series; a series `group/name` is drawn under the heading of its group.
        view_pairs: pairs of training views.
        neighbours: retrieval examples.
        spectra: singular values in descending order, by part and there by encoder ("trained", "untrained").
        latents: every parameter of the views.
        angles: errors in degrees by true angle, by "parameter, part" and there by encoder ("trained", ..., "shuffled").
        downloads: texts by the name of the file that they are saved as.
    """

    title: str
    command: str = ""
    recipe: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    results: Sequence[ResultRow] = ()
    curves: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    view_pairs: ViewPairs | None = None
    neighbours: Sequence[NeighbourRow] = ()
    spectra: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    latents: Sequence[Latent] = ()
    angles: Mapping[str, Mapping[str, Sequence[tuple[str, float]]]] = field(default_factory=dict)
    downloads: Mapping[str, str] = field(default_factory=dict)


def write_report(content: ReportContent, path: Path | str) -> Path:
    """Write the page to `path`. An earlier page is replaced once the new one is complete."""
    write_text(Path(path), render_report(content))
    return Path(path)


def render_report(content: ReportContent) -> str:
    """The page as HTML text with its figures and images inside. Names are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    environment.filters["address"] = data_address
    environment.globals["image"] = image
    template = environment.get_template("report.html.j2")
    return template.render(
        content=content,
        headlines=[result for result in content.results if result.headline],
        columns=[
            name
            for name in ("untrained", "shuffled", "reference")
            if any(getattr(r, name) is not None for r in content.results)
        ],
        drawn=[result for result in content.results if _on_unit_scale(result)],
        curve_figures={group: _curves_figure(group, series) for group, series in _by_group(content.curves).items()},
        spectrum_figure=_spectrum_figure(content.spectra) if content.spectra else None,
        latent_parts=list(dict.fromkeys(part for latent in content.latents for part in latent.parts)),
        angles_figure=_angles_figure(content.angles) if content.angles else None,
    )


def nearest_neighbours(
    features: Tensor, query_rows: Tensor, k: int, objects: Tensor | None = None, exclude_same_object: bool = False
) -> Tensor:
    """The rows with the largest cosine similarity to each query, nearest first, without the query itself.

    Args:
        features: `(N, D)`.
        query_rows: `(Q,)`, rows of `features`.
        k: neighbours per query.
        objects: `(N,)`, the object of each row.
        exclude_same_object: whether other views of the query's object are left out.

    Returns:
        Row numbers `(Q, k)`.

    Raises:
        ValueError: if a query has fewer than `k` candidates, or `objects` is missing for `exclude_same_object`.
    """
    if exclude_same_object and objects is None:
        raise ValueError("exclude_same_object needs the object of each row; give objects")
    unit = torch.nn.functional.normalize(features, dim=-1)
    similarity = unit[query_rows] @ unit.T
    excluded = torch.arange(len(features), device=features.device) == query_rows[:, None]
    if exclude_same_object and objects is not None:
        excluded |= objects == objects[query_rows][:, None]
    fewest = len(features) - int(excluded.sum(dim=1).max())
    if not 1 <= k <= fewest:
        raise ValueError(f"k must lie between 1 and {fewest}, the candidates of the query that has fewest; got {k}")
    return similarity.masked_fill(excluded, -math.inf).topk(k, dim=1).indices


def _number(value: float | None) -> str:
    """Three decimals below 10, and about four significant digits above."""
    if value is None:
        return "\N{EN DASH}"
    size = abs(value)
    if not math.isfinite(value) or size >= 1e6 or 0 < size < 0.0005:
        return minus(f"{value:.2e}")
    digits = 3 if size < 10 else 2 if size < 100 else 1 if size < 1000 else 0
    return minus(f"{value:,.{digits}f}")


def _on_unit_scale(result: ResultRow) -> bool:
    """Whether a row can be drawn on a scale from 0 to 1. Values slightly below 0 are drawn at 0."""
    values = [result.trained, result.untrained, result.shuffled, result.reference]
    return all(-0.25 <= value <= 1 for value in values if value is not None)


def image(pixels: Pixels, width: int, description: str) -> Markup:
    """An `img` element, `width` CSS pixels wide, with the pixels inside. Small images are enlarged without blur."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    kind = "pixelated" if pixels.shape[1] < width else "smooth"
    source = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Markup('<img class="{}" width="{}" alt="{}" src="data:image/png;base64,{}">').format(
        kind, width, description, source
    )


def data_address(text: str, name: str) -> str:
    """An address that holds a text file itself."""
    kinds = {".csv": "text/csv", ".json": "application/json"}
    content = base64.b64encode(text.encode(errors="backslashreplace")).decode("ascii")
    return f"data:{kinds.get(Path(name).suffix, 'text/plain')};charset=utf-8;base64,{content}"


def _by_group(
    curves: Mapping[str, Sequence[tuple[float, float]]],
) -> dict[str, dict[str, Sequence[tuple[float, float]]]]:
    groups: dict[str, dict[str, Sequence[tuple[float, float]]]] = {}
    for series, points in curves.items():
        group, _, name = series.rpartition("/")
        if points:
            groups.setdefault(group, {})[name] = points
    return groups


def _figure(rows: int, row_height: float) -> "Figure":
    """An empty figure for rows of three plots. Its margins are in inches, so that plots of different figures align."""
    # Figure without pyplot changes no global state, such as the user's backend.
    from matplotlib.figure import Figure

    height = row_height * rows
    figure = Figure(figsize=(10.4, height))
    figure.subplots_adjust(
        left=0.045,
        right=0.995,
        bottom=0.28 / height,
        top=1 - 0.32 / height,
        wspace=0.2,
        hspace=0.62 / (row_height - 0.6),
    )
    return figure


def plain(name: str) -> str:
    """A name for matplotlib, which else reads what is between two `$` as a formula and breaks lines."""
    return printable(name).replace("$", r"\$")


def _quiet_axes(axes: object, title: str, value: str = "") -> None:
    from matplotlib.axes import Axes

    assert isinstance(axes, Axes)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set(color=_INK, alpha=0.35)
    axes.tick_params(colors=_INK, labelsize=8, length=3)
    axes.set_title(plain(title), loc="left", fontsize=10, color=_INK, pad=7)
    axes.set_title(plain(value), loc="right", fontsize=10, color=_TRAINED, pad=7)
    axes.grid(axis="y", color=_INK, alpha=0.08, linewidth=0.8)


def _curves_figure(group: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> Markup:
    """One small plot for each series, because loss terms and scores rarely share a scale."""
    rows = math.ceil(len(series) / 3)
    figure = _figure(rows, 1.95)
    for number, (name, points) in enumerate(series.items(), start=1):
        axes = figure.add_subplot(rows, 3, number)
        steps, values = zip(*points, strict=True)
        axes.plot(steps, values, color=_TRAINED, linewidth=1.4, marker="o" if len(points) < 3 else None, markersize=3)
        axes.locator_params(axis="x", nbins=4)
        axes.locator_params(axis="y", nbins=4)
        _quiet_axes(axes, name, _number(values[-1]))
    return _svg(figure, f"curves {group}")


def _spectrum_figure(spectra: Mapping[str, Mapping[str, Sequence[float]]]) -> Markup:
    """Singular values relative to the largest: one plot for each part, the trained encoder over the untrained one."""
    from matplotlib.ticker import NullLocator

    rows = math.ceil(len(spectra) / 3)
    figure = _figure(rows, 2.5)
    colours = {"trained": _TRAINED, "untrained": _UNTRAINED}
    for number, (part, encoders) in enumerate(spectra.items(), start=1):
        axes = figure.add_subplot(rows, 3, number)
        for encoder, values in encoders.items():
            relative = np.asarray(values, dtype=np.float64) / max(float(values[0]), np.finfo(np.float64).tiny)
            # A logarithmic scale has no zero; the floor shows a collapse.
            axes.semilogy(
                np.arange(1, len(relative) + 1),
                relative.clip(_SPECTRUM_FLOOR),
                label=encoder,
                color=colours.get(encoder),
                linewidth=1.6,
            )
        axes.set_ylim(_SPECTRUM_FLOOR / 1.5, 1.5)
        axes.yaxis.set_minor_locator(NullLocator())
        axes.legend(frameon=False, fontsize=8, labelcolor=_INK, loc="lower left")
        _quiet_axes(axes, part)
    return _svg(figure, "spectrum")


def _angles_figure(angles: Mapping[str, Mapping[str, Sequence[tuple[str, float]]]]) -> Markup:
    """Median errors by the true angle: one plot for each parameter and part."""
    rows = math.ceil(len(angles) / 3)
    figure = _figure(rows, 2.3)
    styles = {"trained": (_TRAINED, "-"), "untrained": (_UNTRAINED, "-"), "shuffled": (_UNTRAINED, ":")}
    for number, (name, encoders) in enumerate(angles.items(), start=1):
        axes = figure.add_subplot(rows, 3, number)
        for encoder, points in encoders.items():
            colour, line = styles[encoder]
            places = [sum(map(float, angle.split("-"))) / 2 for angle, _ in points]
            errors = [error for _, error in points]
            axes.plot(
                places, errors, color=colour, linestyle=line, linewidth=1.6, marker="o", markersize=3, label=encoder
            )
        axes.set_xlim(0, 180)
        axes.set_xticks(range(0, 181, 30))
        axes.set_ylim(0, 180)
        axes.set_yticks(range(0, 181, 60))
        axes.legend(frameon=False, fontsize=8, labelcolor=_INK, loc="upper left", ncols=3)
        _quiet_axes(axes, name)
    return _svg(figure, "angles")


def _svg(figure: "Figure", name: str) -> Markup:
    """A figure as an `svg` element with the font and the text colour of the page."""
    import matplotlib

    buffer = io.StringIO()
    # Points within half a pixel of the line are dropped: a long series stays small and keeps its spikes.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "path.simplify_threshold": 0.5}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" role="img">', text, count=1)
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font: \1 inherit; font-size: \1; font-family: inherit", text)
    # Group ids repeat in other figures. Only the hashed ids, of clips and markers, are referred to.
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    return Markup(text.replace(_INK, "currentColor"))  # noqa: S704 - matplotlib has escaped every name in it
