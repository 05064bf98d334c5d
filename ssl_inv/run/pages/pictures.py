"""The pictures of a report as arrays, for loggers."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from ssl_inv.run.pages.report_page import NeighbourRow, ReportContent, ViewPairs, plain

Pixels = NDArray[np.uint8]
_SIDE, _GAP = 96, 4


def pictures_of(content: ReportContent) -> dict[str, Pixels]:
    """Pairs of views, nearest neighbours by part, and the spectrum, each `(H, W, 3)`, as far as the report has them."""
    found = {}
    if content.view_pairs is not None:
        found["views"] = _views(content.view_pairs)
    for part in content.neighbours[0].parts if content.neighbours else {}:
        found[f"neighbours/{part}"] = _neighbours(content.neighbours, part)
    if content.spectra:
        found["spectrum"] = _spectrum(content.spectra)
    return found


def _views(pairs: ViewPairs) -> Pixels:
    """One pair a row."""
    return _grid([list(pair) for pair in pairs.pixels])


def _neighbours(rows: Sequence[NeighbourRow], part: str) -> Pixels:
    """One query a row, followed by its neighbours."""
    return _grid([[row.query, *(one.pixels for one in row.parts[part])] for row in rows])


def _grid(rows: Sequence[Sequence[Pixels]]) -> Pixels:
    """Images of any size as squares, with white gaps."""
    columns = max(map(len, rows))
    cell = _SIDE + _GAP
    sheet = np.full((len(rows) * cell - _GAP, columns * cell - _GAP, 3), 255, dtype=np.uint8)
    for row, images in enumerate(rows):
        for column, image in enumerate(images):
            pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
            square = F.interpolate(pixels, (_SIDE, _SIDE), mode="bilinear", antialias=True)
            place = sheet[row * cell : row * cell + _SIDE, column * cell : column * cell + _SIDE]
            place[:] = square[0].permute(1, 2, 0).clamp(0, 255).round().byte().numpy()
    return sheet


def _spectrum(spectra: Mapping[str, Mapping[str, Sequence[float]]]) -> Pixels:
    """Singular values by part, relative to the largest, of the trained and the untrained encoder."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(spectra), 3), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for number, (part, encoders) in enumerate(spectra.items()):
        axes = figure.add_subplot(1, len(spectra), number + 1)
        for name, values in encoders.items():
            relative = np.maximum(np.asarray(values) / max(max(values, default=0), 1e-12), 1e-6)
            axes.semilogy(np.arange(1, len(relative) + 1), relative, label=name)
        axes.set_title(plain(part))
        axes.set_xlabel("singular value")
    figure.axes[0].legend()
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]
